//! A ring whose bytes lie side by side wherever it begins: its frames are mapped twice, one view behind the
//! other.
//!
//! ```text
//!   frames       0 1 2
//!   the mapping  0 1 2 0 1 2
//!                    └─┴─┘     what is in it: one slice, though it has passed the end
//! ```
//!
//! # Rules
//! - **R1** `start` is below the capacity, and `len` is not above it. So all of it lies in the mapping.
//! - **R2** The `len` elements from `start` on were written, and have not been taken out since.
//! - **R3** An element lies in whole in each view: the capacity is a whole number of pages and of elements.

use crate::machine::Hosted;
use std::fmt;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::ptr::NonNull;
use std::slice::{from_raw_parts, from_raw_parts_mut};
use std::sync::Arc;
use vmalloc::units::{PAGE_SIZE, Pfn};
use vmalloc::{AllocError, Caller, FreeError, Gfp, Req, Vmalloc};

/// A queue of `T`, first in and first out, that is one slice at any time. `T` is `Copy`, so that nothing
/// has to be dropped; its size is not 0.
///
/// ```
/// use std::sync::Arc;
/// use vmalloc_hosted::Ring;
///
/// let vm = Arc::new(vmalloc_hosted::builder().build()?);
/// let mut ring: Ring<u8> = Ring::new(&vm, 4096)?;
/// ring.extend_from_slice(&[0; 4090]);
/// ring.consume(4090);
/// assert_eq!(ring.extend_from_slice(b"past the end"), 12);
/// assert_eq!(&ring[..], b"past the end");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// What has to be dropped cannot be in it, so that nothing is dropped twice:
///
/// ```compile_fail,E0277
/// fn names(ring: vmalloc_hosted::Ring<String>) {}
/// ```
pub struct Ring<T: Copy> {
    vm: Arc<Vmalloc<Hosted>>,
    frames: Vec<Pfn>,
    view: NonNull<T>,
    capacity: usize,
    start: usize,
    len: usize,
    owns: PhantomData<T>,
}

// SAFETY: what is mapped is its own, and the instance may be shared.
unsafe impl<T: Copy + Send> Send for Ring<T> {}
// SAFETY: as above; shared access only reads.
unsafe impl<T: Copy + Sync> Sync for Ring<T> {}

impl<T: Copy> Ring<T> {
    /// A ring for `least` elements and more: as many as fill whole pages.
    ///
    /// # Errors
    /// [`AllocError::TooLarge`], and those of [`Vmalloc::alloc_frame`] and [`Vmalloc::vmap`].
    #[track_caller]
    pub fn new(vm: &Arc<Vmalloc<Hosted>>, least: usize) -> Result<Ring<T>, AllocError> {
        const { assert!(size_of::<T>() > 0 && align_of::<T>() <= PAGE_SIZE) };
        let caller = Caller::here();
        let bytes =
            whole::<T>(least.max(1)).ok_or(AllocError::TooLarge { bytes: usize::MAX, limit: vm.machine().ram() })?;
        if bytes > vm.machine().ram() {
            return Err(AllocError::TooLarge { bytes, limit: vm.machine().ram() });
        }
        // What is not finished gives back what it has.
        let (capacity, view) = (bytes / size_of::<T>(), NonNull::dangling());
        let mut ring =
            Ring { vm: Arc::clone(vm), frames: Vec::new(), view, capacity: 0, start: 0, len: 0, owns: PhantomData };
        for _ in 0..bytes / PAGE_SIZE {
            ring.frames.push(vm.alloc_frame(Gfp::KERNEL, None)?);
        }
        let twice: Vec<Pfn> = ring.frames.iter().chain(&ring.frames).copied().collect();
        // SAFETY: P1: the ring holds them until the mapping has ended.
        ring.view = unsafe { vm.vmap(&twice, Req::bytes(0).caller(caller)) }?.cast();
        ring.capacity = capacity;
        Ok(ring)
    }

    /// The most elements that it holds.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// What there is no room for comes back.
    ///
    /// # Errors
    /// The element, if the ring is full.
    pub fn push(&mut self, element: T) -> Result<(), T> {
        if self.extend_from_slice(&[element]) == 1 { Ok(()) } else { Err(element) }
    }

    /// Adds as many of the elements as there is room for, from the first on, and returns how many.
    pub fn extend_from_slice(&mut self, elements: &[T]) -> usize {
        let count = elements.len().min(self.capacity - self.len);
        let spare = self.spare_mut();
        spare.iter_mut().zip(&elements[..count]).for_each(|(place, &element)| _ = place.write(element));
        self.len += count;
        count
    }

    /// The room that is left, as one slice. What is written there is added by [`Ring::commit`].
    pub fn spare_mut(&mut self) -> &mut [MaybeUninit<T>] {
        // SAFETY: R1: at most the capacity behind an element of the first view. Nobody else has it.
        unsafe { from_raw_parts_mut(self.view.add(self.start + self.len).cast().as_ptr(), self.capacity - self.len) }
    }

    /// Adds the first `count` elements of the room.
    ///
    /// # Panics
    /// If there is no such room.
    ///
    /// # Safety
    /// They have been written.
    pub unsafe fn commit(&mut self, count: usize) {
        assert!(count <= self.capacity - self.len, "{count} elements in a room of {}", self.capacity - self.len);
        self.len += count;
    }

    /// The first element, which is taken out.
    pub fn pop(&mut self) -> Option<T> {
        let first = self.first().copied()?;
        self.consume(1);
        Some(first)
    }

    /// Takes the first `count` elements out, or all if there are fewer, and returns how many.
    pub fn consume(&mut self, count: usize) -> usize {
        let count = count.min(self.len);
        self.len -= count;
        self.start = (self.start + count) % self.capacity;
        count
    }
}

/// The bytes of as few pages as hold `least` elements in whole (R3).
fn whole<T>(least: usize) -> Option<usize> {
    let (mut a, mut b) = (PAGE_SIZE, size_of::<T>());
    while b > 0 {
        (a, b) = (b, a % b);
    }
    let step = (PAGE_SIZE / a).checked_mul(size_of::<T>())?;
    least.checked_mul(size_of::<T>())?.checked_next_multiple_of(step).filter(|&bytes| bytes <= isize::MAX as usize / 2)
}

impl<T: Copy> Deref for Ring<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: R1, R2.
        unsafe { from_raw_parts(self.view.add(self.start).as_ptr(), self.len) }
    }
}

impl<T: Copy> Drop for Ring<T> {
    fn drop(&mut self) {
        if self.capacity > 0 {
            // SAFETY: V1: nobody has it any more.
            let unmapped = unsafe { self.vm.vunmap(self.view.cast()) };
            debug_assert!(matches!(unmapped, Ok(()) | Err(FreeError::NotInitialised)), "{unmapped:?}");
        }
        // SAFETY: P3: the ring took them, and maps them no more.
        self.frames.drain(..).for_each(|frame| unsafe { self.vm.free_frame(frame) });
    }
}

impl<T: Copy + fmt::Debug> fmt::Debug for Ring<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
