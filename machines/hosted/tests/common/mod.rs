//! What the tests of the machine share.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use vmalloc::machine::Run;
use vmalloc::machine::format::Prot;
use vmalloc::units::{PageRange, Pfn, VirtAddr};
use vmalloc_hosted::Hosted;

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

/// Runs `f` in a child process and returns its wait status. The child must
/// neither allocate nor print: other threads' locks are held for ever there.
pub fn in_child(f: impl FnOnce() -> u8) -> i32 {
    // SAFETY: the child makes system calls only, and exits.
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
