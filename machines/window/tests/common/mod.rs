//! What the tests of the machine share.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::ops::Range;
use std::ptr::NonNull;
use std::time::Duration;
use vmalloc::machine::Machine;
use vmalloc::machine::frames::Frames;
use vmalloc::units::PAGE_SIZE;
use vmalloc::{Policy, Vmalloc};
use vmalloc_window::{Window, builder};

/// An instance of `mib` MiB of memory.
pub fn instance(mib: usize, policy: Policy) -> Vmalloc<Window> {
    builder().window(1 << 30).memory(mib << 20).policy(policy).build().expect("a process has room")
}

/// The word at the start of a page of an area.
pub fn word(at: NonNull<u8>, page: usize) -> *mut u64 {
    at.as_ptr().wrapping_add(page * PAGE_SIZE).cast()
}

/// The byte at an address, without touching it.
pub fn byte(at: usize) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(at)
}

/// Whether a byte can be read, without reading it: a call that is handed the address fails with
/// EFAULT where a load would have faulted.
pub fn is_readable(at: *const u8) -> bool {
    let mut pipe = [0; 2];
    // SAFETY: Linux checks the address.
    unsafe {
        assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
        let wrote = libc::write(pipe[1], at.cast(), 1);
        pipe.iter().for_each(|&end| _ = libc::close(end));
        wrote == 1
    }
}

/// Whether a line of /proc/self/maps, or of smaps, names a mapping that lies in `range`, in part at least.
fn meets(line: &str, range: &Range<usize>) -> Option<bool> {
    let address = |text: &str| usize::from_str_radix(text, 16).ok();
    let (start, end) = line.split_once(' ')?.0.split_once('-')?;
    Some(address(start)? < range.end && address(end)? > range.start)
}

/// The mappings of the process that lie in `range`.
pub fn maps_in(range: Range<usize>) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| meets(line, &range) == Some(true)).count()
}

/// The bytes of memory that the mappings in `range` have.
pub fn resident_in(range: Range<usize>) -> usize {
    let (mut inside, mut kib) = (false, 0);
    for line in std::fs::read_to_string("/proc/self/smaps").unwrap().lines() {
        inside = meets(line, &range).unwrap_or(inside);
        if inside && line.starts_with("Rss:") {
            kib += line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap();
        }
    }
    kib << 10
}

/// Runs `f` in a child process and returns its wait status.
pub fn in_child(f: impl FnOnce() -> u8) -> i32 {
    // SAFETY: the child calls `f`, and exits.
    unsafe {
        let child = libc::fork();
        assert!(child >= 0);
        if child == 0 {
            libc::_exit(f().into());
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
        status
    }
}

/// Whether a child was killed by a fault.
pub fn has_faulted(status: i32) -> bool {
    libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV
}

/// Whether a load from `at` faults.
pub fn load_faults(at: *const u8) -> bool {
    // SAFETY: in the child it faults, or reads a byte.
    has_faulted(in_child(|| unsafe { at.read_volatile() } & 1))
}

/// How long a test of threads runs: HOSTED_SECONDS, or 2 seconds.
pub fn seconds() -> Duration {
    let told = std::env::var("HOSTED_SECONDS").ok();
    Duration::from_secs_f64(told.map_or(2.0, |text| text.parse().expect("HOSTED_SECONDS is a number")))
}

/// All frames of the bookkeeping, wherever they are, while no area lives and nothing waits.
pub fn frames_in_all(vm: &Vmalloc<Window>) -> usize {
    let stats = vm.stats();
    let held = stats.table_frames + stats.bookkeeping_frames + stats.reserve_frames + stats.pooled_frames;
    vm.machine().frames().free_now() + held
}

/// Everybody has stopped: no claim is left, no area and no page, every frame is in exactly one place,
/// and the whole window is one mapping and what was never opened.
pub fn assert_nothing_is_left(vm: &Vmalloc<Window>, frames: usize) {
    vm.purge();
    assert_eq!(vm.check(), Ok(()));
    let stats = vm.stats();
    assert_eq!((stats.areas, stats.pages, stats.waiting_pages, stats.cached_pages), (0, 0, 0, 0));
    let mut list = String::new();
    vm.list(&mut list).unwrap();
    assert_eq!(list, "", "a slot with a claim is listed as unpurged");
    assert_eq!(stats.reserved_pages, 0, "a slot with a claim keeps its chunk");
    assert_eq!(frames_in_all(vm), frames);
    let all = vm.alloc(vmalloc::Req::pages(vm.machine().page_limit())).expect("all pages were given back");
    // SAFETY: V1: nobody uses it.
    unsafe { vm.free(all) }.unwrap();
    vm.purge();
}
