//! What the tests of the machine share.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::HashSet;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use vmalloc::machine::Run;
use vmalloc::machine::format::Prot;
use vmalloc::units::{PageRange, Pfn, VirtAddr};
use vmalloc::{Gfp, Vmalloc};
use vmalloc_hosted::Hosted;
use vmalloc_process::{assert_no_area_is_left, frames_in_all};

/// Frames for the `n`-th run of a test: far from those of all others.
pub fn frame(n: usize) -> u64 {
    200 + 150 * n as u64
}

/// Pages from page `at` of region 0, bound to the frames from `first` on.
pub fn run(machine: &Hosted, at: usize, pages: usize, first: u64) -> Run {
    run_at(machine, 0, at, pages, first)
}

pub fn run_at(machine: &Hosted, region: usize, at: usize, pages: usize, first: u64) -> Run {
    let start = VirtAddr(machine.regions().nth(region).unwrap().start).add_pages(at);
    Run { pages: PageRange::new(start, pages), first: Pfn(first), prot: Prot::RW }
}

/// The first byte of page `n` of `range`.
pub fn page(range: PageRange, n: usize) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(range.start.add_pages(n).0)
}

/// Whether the byte can be written; it becomes 0xee if so.
pub fn is_writable(at: *mut u8) -> bool {
    // SAFETY: the kernel checks the address; the file is ours.
    unsafe {
        let file = OwnedFd::from_raw_fd(libc::memfd_create(c"probe".as_ptr(), libc::MFD_CLOEXEC));
        assert_eq!(libc::pwrite(file.as_raw_fd(), [0xeeu8].as_ptr().cast(), 1, 0), 1);
        libc::pread(file.as_raw_fd(), at.cast(), 1, 0) == 1
    }
}

/// The lines of /proc/self/maps.
pub fn maps() -> Vec<String> {
    std::fs::read_to_string("/proc/self/maps").unwrap().lines().map(String::from).collect()
}

/// Mappings that lie in `range`, in part at least: Linux may have merged the
/// outer ones with what is beside them.
pub fn maps_in(range: Range<usize>) -> usize {
    let address = |text: &str| usize::from_str_radix(text, 16).unwrap();
    let meets = |line: &String| {
        let (start, rest) = line.split_once('-').unwrap();
        address(start) < range.end && address(rest.split_once(' ').unwrap().0) > range.start
    };
    maps().iter().filter(|line| meets(line)).count()
}

/// Everybody has stopped: no claim is left, no area, no page and no alias, and every
/// frame is in exactly one place; there are as many as there were.
pub fn assert_nothing_is_left(vm: &Vmalloc<Hosted>, frames: usize) {
    assert!(vm.unmap_aliases());
    assert_no_area_is_left(vm, frames);
    let all: Vec<Pfn> = std::iter::from_fn(|| vm.alloc_frame(Gfp::ATOMIC | Gfp::NOWARN, None).ok()).collect();
    let (distinct, stats): (HashSet<Pfn>, _) = (all.iter().copied().collect(), vm.stats());
    assert_eq!(distinct.len(), all.len(), "a frame is in two places");
    assert_eq!(all.len() + frames_in_all(vm), frames, "{stats:?}");
    // SAFETY: P3: taken just now.
    all.iter().for_each(|&frame| unsafe { vm.free_frame(frame) });
}
