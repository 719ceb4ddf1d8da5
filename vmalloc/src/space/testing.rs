//! A machine for tests of single structures: its frames are pages of the host,
//! counted, and it has neither CPUs to speak of nor page tables.

extern crate std;

use crate::machine::frames::{Frames, Want};
use crate::machine::testing::NoTables;
use crate::machine::{Context, Flush, Machine, Pinned};
use crate::sync::plain::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use crate::units::{CpuSet, PAGE_SIZE, Pfn};
use core::ptr::{NonNull, with_exposed_provenance_mut};
use std::alloc::{Layout, alloc, dealloc};

const PAGE: Layout = match Layout::from_size_align(PAGE_SIZE, PAGE_SIZE) {
    Ok(layout) => layout,
    Err(_) => panic!("a page is aligned to its size"),
};

/// Pages of the host. A frame's number is its address.
#[derive(Default)]
pub struct HostPages {
    out: AtomicUsize,
}

impl HostPages {
    /// Frames that were given out and have not come back.
    pub fn out(&self) -> usize {
        self.out.load(SeqCst)
    }
}

// SAFETY: F1, F2: the host's allocator gives out aligned pages, each once;
// F5: there are no descriptors.
unsafe impl Frames for HostPages {
    fn total(&self) -> usize {
        usize::MAX
    }
    fn free_now(&self) -> usize {
        usize::MAX
    }
    fn alloc(&self, want: Want) -> Option<Pfn> {
        assert_eq!(want.order, 0, "bookkeeping frames are single");
        // SAFETY: a page is not empty.
        let page = NonNull::new(unsafe { alloc(PAGE) })?;
        // What nobody clears is not zero.
        // SAFETY: the page has just been allocated.
        unsafe { page.as_ptr().write_bytes(0xa5, PAGE_SIZE) };
        self.out.fetch_add(1, SeqCst);
        Some(Pfn::containing(page.as_ptr().expose_provenance() as u64))
    }
    unsafe fn free(&self, first: Pfn, _order: u8) {
        self.out.fetch_sub(1, SeqCst);
        // SAFETY: the caller's frame came from `alloc`.
        unsafe { dealloc(with_exposed_provenance_mut(first.phys() as usize), PAGE) }
    }
}

/// The machine.
#[derive(Default)]
pub struct TestMachine {
    frames: HostPages,
}

impl TestMachine {
    /// Takes back a frame that was in a stock once.
    pub fn take_back(&self, frame: Pfn) {
        // SAFETY: stocks are filled from `alloc`; the test gives it up.
        unsafe { self.frames.free(frame, 0) }
    }
}

// SAFETY: M2: frames are host pages that live until they are freed. The rest is
// promised of CPUs and tables, which are not there.
unsafe impl Machine for TestMachine {
    type Table = NoTables;
    type Frames = HostPages;
    type Lock = Spin;

    fn frames(&self) -> &HostPages {
        &self.frames
    }
    fn root(&self) -> Pfn {
        unimplemented!("no page tables")
    }
    fn virt(&self, f: Pfn) -> NonNull<u8> {
        NonNull::new(with_exposed_provenance_mut(f.phys() as usize)).expect("frame 0 is nobody's")
    }
    fn cpus(&self) -> u32 {
        1
    }
    fn pin(&self) -> Pinned {
        Pinned { cpu: 0, saved: 0 }
    }
    unsafe fn unpin(&self, _was: Pinned) {}
    fn context(&self) -> Context {
        Context::Task
    }
    fn flush(&self, _what: Flush<'_>) {}
    fn kick(&self, _cpus: &CpuSet) {}
}

/// A lock that spins.
pub struct Spin(AtomicBool);

// SAFETY: only one caller can change false to true.
unsafe impl lock_api::RawMutex for Spin {
    #[allow(clippy::declare_interior_mutable_const, reason = "the trait asks for it")]
    const INIT: Spin = Spin(AtomicBool::new(false));
    type GuardMarker = lock_api::GuardNoSend;
    fn lock(&self) {
        while !self.try_lock() {
            core::hint::spin_loop();
        }
    }
    fn try_lock(&self) -> bool {
        !self.0.swap(true, SeqCst)
    }
    unsafe fn unlock(&self) {
        self.0.store(false, SeqCst);
    }
}
