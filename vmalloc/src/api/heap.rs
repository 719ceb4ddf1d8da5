//! A heap for Rust's own containers: areas for what is large, another allocator for the rest
//! (`kvmalloc`'s shape).
//!
//! ```text
//!   alloc     at least `from` bytes, or so aligned, and served ─▶ an area, else ─▶ the other one
//!   dealloc   inside a region of the instance ─▶ its area,                 else ─▶ the other one
//!   realloc   an area ─▶ shrinks or grows in place ─ no room ─▶ a new block, a copy
//! ```

use crate::api::instance::Vmalloc;
use crate::area::{Caller, RegionId, Req};
use crate::machine::{Addressable, Machine};
use crate::sync::plain::{AtomicPtr, Ordering::*};
use crate::units::{PAGE_SIZE, pages_for};
use core::alloc::{GlobalAlloc, Layout};
use core::fmt;
use core::ptr::{NonNull, null_mut};

/// An allocator for `#[global_allocator]`: blocks of at least so many bytes are areas, smaller
/// ones come from the allocator `A` below, and so do all of them until [`Heap::serve`] and
/// [`Vmalloc::init`]. What comes from below lies outside of the instance's regions.
///
/// A request that is refused is null, and nothing has changed then. A block grows
/// and shrinks in place as far as [`Vmalloc::grow`] and [`Vmalloc::shrink`] do; one that shrinks
/// stays an area. All contexts may allocate that may call [`Vmalloc::alloc`], and `A`.
///
/// The instance is a static of the kernel, and what is below is its small heap. Where
/// `MyMachine` and `SmallHeap` are the kernel's own, it is
/// `#[global_allocator] static HEAP: Heap<MyMachine, SmallHeap>`.
///
/// ```
/// use std::alloc::GlobalAlloc;
/// use vmalloc::machine::{Addressable, Machine};
/// use vmalloc::{Heap, Vmalloc};
///
/// fn over<M: Addressable, A: GlobalAlloc>(vm: &'static Vmalloc<M>, small: A) -> Heap<M, A> {
///     let heap = Heap::new(small, 64 << 10);
///     heap.serve(vm);
///     heap
/// }
/// ```
pub struct Heap<M: Machine + 'static, A> {
    vm: AtomicPtr<Vmalloc<M>>,
    below: A,
    from: usize,
    caller: Option<fn() -> Caller>,
}

impl<M: Machine, A> Heap<M, A> {
    /// Blocks of `from` bytes and more will be areas, all others those of `below`.
    pub const fn new(below: A, from: usize) -> Heap<M, A> {
        Heap { vm: AtomicPtr::new(null_mut()), below, from, caller: None }
    }

    /// Asks `caller` who allocates, grows or frees an area. Otherwise all are this file, because `GlobalAlloc` hides
    /// them: with frame pointers a return address is known (`vmalloc_x86_64::caller`).
    pub const fn with_caller(mut self, caller: fn() -> Caller) -> Heap<M, A> {
        self.caller = Some(caller);
        self
    }

    /// Large blocks are areas of `vm` from now on. The first instance stays: another one is ignored.
    pub fn serve(&self, vm: &'static Vmalloc<M>) {
        let _ = self.vm.compare_exchange(null_mut(), core::ptr::from_ref(vm).cast_mut(), Release, Relaxed);
    }

    /// The allocator below.
    pub fn below(&self) -> &A {
        &self.below
    }

    /// The instance, if it serves.
    fn vm(&self) -> Option<&'static Vmalloc<M>> {
        // SAFETY: `serve` has put it there, and it lives for ever.
        unsafe { self.vm.load(Acquire).as_ref() }.filter(|vm| vm.region_bounds(RegionId(0)).is_some())
    }

    /// The instance, for a block that is to be an area.
    fn for_large(&self, layout: Layout) -> Option<&'static Vmalloc<M>> {
        if layout.size().max(layout.align()) < self.from { None } else { self.vm() }
    }

    #[inline(always)]
    fn caller(&self) -> Caller {
        self.caller.map_or(Caller::here(), |caller| caller())
    }

    #[inline(always)]
    fn request(&self, layout: Layout) -> Req {
        Req::bytes(layout.size()).align(layout.align().max(PAGE_SIZE)).caller(self.caller())
    }

    /// The instance, for a block that is an area.
    fn owner(&self, at: *mut u8) -> Option<&'static Vmalloc<M>> {
        self.vm().filter(|vm| vm.contains(at.addr()))
    }
}

// SAFETY: a block is an area of its own, or one of the allocator below. What tells the two apart
// is its address, which does not change.
unsafe impl<M: Addressable, A: GlobalAlloc> GlobalAlloc for Heap<M, A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match self.for_large(layout) {
            Some(vm) => place(vm, self.request(layout)),
            // SAFETY: the caller's promise, handed on.
            None => unsafe { self.below.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match self.for_large(layout) {
            Some(vm) => place(vm, self.request(layout).zeroed()),
            // SAFETY: as above.
            None => unsafe { self.below.alloc_zeroed(layout) },
        }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        match (self.owner(at), NonNull::new(at)) {
            // SAFETY: V1: the caller gives it up. A refusal has been reported.
            (Some(vm), Some(at)) => _ = unsafe { vm.free_by(at, self.caller()) },
            // SAFETY: as above: no area, so it came from below.
            _ => unsafe { self.below.dealloc(at, layout) },
        }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: the caller's promise: `bytes`, rounded up to the alignment, is no overflow.
        let like = unsafe { Layout::from_size_align_unchecked(bytes, layout.align()) };
        let owner = self.owner(at);
        if owner.is_none() && self.for_large(like).is_none() {
            // SAFETY: the block is one from below, and stays one.
            return unsafe { self.below.realloc(at, layout, bytes) };
        }
        if owner.is_some_and(|vm| resize(vm, at, self.request(like))) {
            return at;
        }
        // SAFETY: as above. Two blocks do not overlap, and each has as many bytes.
        unsafe {
            let new = self.alloc(like);
            if !new.is_null() {
                new.copy_from_nonoverlapping(at, bytes.min(layout.size()));
                self.dealloc(at, layout);
            }
            new
        }
    }
}

impl<M: Machine, A> fmt::Debug for Heap<M, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heap").field("serves", &self.vm().is_some()).field("from", &self.from).finish_non_exhaustive()
    }
}

fn place<M: Machine>(vm: &Vmalloc<M>, req: Req) -> *mut u8 {
    vm.alloc(req).map_or(null_mut(), NonNull::as_ptr)
}

/// Makes an area as large as `like` says, where it is; false = there is no room.
fn resize<M: Machine>(vm: &Vmalloc<M>, at: *mut u8, like: Req) -> bool {
    let Some((at, area)) = NonNull::new(at).zip(vm.find(at.addr())) else { return false };
    if pages_for(like.bytes).is_some_and(|pages| pages <= area.pages) {
        // SAFETY: V1: the caller gives the rest up. If nothing can be given back, it stays.
        _ = unsafe { vm.shrink(at, like.bytes) };
        return true;
    }
    // SAFETY: V1: nobody has what lies behind the area.
    unsafe { vm.grow(at, like) }.is_ok()
}
