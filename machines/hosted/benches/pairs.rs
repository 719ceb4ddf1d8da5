//! An area made, touched and freed, beside what a process would do otherwise.
//!
//! Each turn makes a block of pages, writes to each of its pages, and gives it
//! back. *Strict* flushes after each free, so that every turn asks Linux for the
//! mapping and gives it back; *Unmap* leaves flushing to the library, which does
//! it for many areas at once; *Keep* keeps what it was given and hands it out
//! again mapped, as `malloc` does: a use after free is not caught until then.
//! *Untouched* leaves the writing out: what the calls cost.

use criterion::{BenchmarkId, Criterion, Throughput};
use std::alloc::{Layout, alloc, dealloc};
use std::hint::black_box;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::null_mut;
use vmalloc::units::PAGE_SIZE;
use vmalloc::{Policy, Req, Vmalloc};
use vmalloc_hosted::{Hosted, builder};

const SIZES: [usize; 3] = [1, 16, 256];

/// Writes to each page.
///
/// # Safety
/// There are so many pages, writable.
unsafe fn touch(start: *mut u8, pages: usize) {
    for page in 0..pages {
        // SAFETY: the caller's promise.
        unsafe { start.add(page * PAGE_SIZE).write_volatile(1) }
    }
}

fn pair(vm: &Vmalloc<Hosted>, pages: usize) {
    let area = vm.alloc(Req::pages(pages)).expect("memory");
    // SAFETY: allocated just now, and freed once.
    unsafe {
        touch(area.as_ptr(), pages);
        vm.free(area).expect("ours");
    }
}

fn untouched_pair(vm: &Vmalloc<Hosted>, pages: usize) {
    let area = black_box(vm.alloc(Req::pages(pages)).expect("memory"));
    // SAFETY: allocated just now, and freed once.
    unsafe { vm.free(area) }.expect("ours");
}

fn map_pair(fd: Option<&OwnedFd>, pages: usize) {
    let kind = if fd.is_some() { libc::MAP_SHARED } else { libc::MAP_PRIVATE | libc::MAP_ANONYMOUS };
    let fd = fd.map_or(-1, OwnedFd::as_raw_fd);
    let bytes = pages * PAGE_SIZE;
    // SAFETY: new addresses, used here only.
    unsafe {
        let start = libc::mmap(null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, kind, fd, 0);
        assert_ne!(start, libc::MAP_FAILED);
        touch(start.cast(), pages);
        libc::munmap(start, bytes);
    }
}

fn malloc_pair(pages: usize) {
    let layout = Layout::from_size_align(pages * PAGE_SIZE, 16).expect("a small size");
    // SAFETY: of nonzero size, and freed with the same layout.
    unsafe {
        let start = alloc(layout);
        assert!(!start.is_null());
        touch(start, pages);
        dealloc(start, layout);
    }
}

fn memory_file(bytes: usize) -> OwnedFd {
    // SAFETY: the name is a C string; the descriptor is new.
    unsafe {
        let file = OwnedFd::from_raw_fd(libc::memfd_create(c"bench".as_ptr(), libc::MFD_CLOEXEC));
        assert_eq!(libc::ftruncate(file.as_raw_fd(), bytes as i64), 0);
        file
    }
}

fn pairs(c: &mut Criterion) {
    let instance = |policy| builder().policy(policy).build().expect("an instance");
    let [strict, unmap, keep] = [Policy::Strict, Policy::Unmap, Policy::Keep].map(instance);
    let file = memory_file(SIZES[2] * PAGE_SIZE);
    let mut group = c.benchmark_group("pair");
    for pages in SIZES {
        group.throughput(Throughput::Elements(pages as u64));
        let mut add = |name, turn: &dyn Fn()| {
            group.bench_function(BenchmarkId::new(name, pages), |b| b.iter(turn));
        };
        add("vmalloc strict", &|| pair(&strict, pages));
        add("vmalloc unmap", &|| pair(&unmap, pages));
        add("vmalloc keep", &|| pair(&keep, pages));
        add("vmalloc keep untouched", &|| untouched_pair(&keep, pages));
        add("mmap memfd", &|| map_pair(Some(&file), pages));
        add("mmap anonymous", &|| map_pair(None, pages));
        add("malloc", &|| malloc_pair(pages));
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    pairs(&mut criterion);
    criterion.final_summary();
}
