//! What the tests of the machine share.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::ops::Range;
use std::ptr::NonNull;
use vmalloc::machine::Machine;
use vmalloc::units::PAGE_SIZE;
use vmalloc::{Policy, Vmalloc};
use vmalloc_process::{assert_no_area_is_left, in_child};
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

/// Whether a child was killed by a fault.
pub fn has_faulted(status: i32) -> bool {
    libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV
}

/// Whether a load from `at` faults.
pub fn load_faults(at: *const u8) -> bool {
    // SAFETY: in the child it faults, or reads a byte.
    has_faulted(in_child(|| unsafe { at.read_volatile() } & 1))
}

/// Everybody has stopped: no claim is left, no area and no page, every frame is in exactly one place,
/// and the whole window is one mapping and what was never opened.
pub fn assert_nothing_is_left(vm: &Vmalloc<Window>, frames: usize) {
    assert_no_area_is_left(vm, frames);
    let all = vm.alloc(vmalloc::Req::pages(vm.machine().page_limit())).expect("all pages were given back");
    // SAFETY: V1: nobody uses it.
    unsafe { vm.free(all) }.unwrap();
    vm.purge();
}
