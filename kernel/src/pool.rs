//! A pool of records of one type, in frames of their own.
//!
//! ```text
//!   frame: [ header: the frame before ][ record ][ record ] …     free records are chained
//! ```
//!
//! A frame that was given stays until the pool is taken apart.
//!
//! # Contract
//! - **X2** Frames given to the pool are the pool's, and reached by the direct mapping.

use core::mem::{ManuallyDrop, size_of};
use core::ptr::{NonNull, null_mut};
use vmalloc::machine::Machine;
use vmalloc::units::{PAGE_SIZE, Pfn};

/// A record, or the link to the next free one.
union Record<T> {
    next: *mut Record<T>,
    value: ManuallyDrop<T>,
}

/// The pool.
pub(crate) struct Pool<T> {
    free: *mut Record<T>,
    /// The frame that was given last; each frame's first word names the one before.
    frames: Option<Pfn>,
}

impl<T> Pool<T> {
    /// Records in a frame; the place of the first is the header's.
    const IN_FRAME: usize = PAGE_SIZE / size_of::<Record<T>>();

    pub(crate) const fn new() -> Pool<T> {
        const { assert!(size_of::<Record<T>>() >= size_of::<Option<Pfn>>() && Self::IN_FRAME > 1) };
        Pool { free: null_mut(), frames: None }
    }

    /// Whether a frame has to be given before a record can be taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.free.is_null()
    }

    /// Gives the pool a frame (X2).
    pub(crate) fn give<M: Machine>(&mut self, machine: &M, frame: Pfn) {
        let header = machine.virt(frame).cast::<Option<Pfn>>();
        // SAFETY: X2, and the header has the place of a record.
        unsafe { header.write(self.frames.replace(frame)) };
        for n in 1..Self::IN_FRAME {
            // SAFETY: X2: the record lies in the frame.
            unsafe {
                let record = machine.virt(frame).cast::<Record<T>>().add(n);
                record.write(Record { next: self.free });
                self.free = record.as_ptr();
            }
        }
    }

    /// A record with this value, if there is a free one.
    pub(crate) fn take(&mut self, value: T) -> Option<NonNull<T>> {
        let record = NonNull::new(self.free)?;
        // SAFETY: what is chained is a free record of ours, whose link was written.
        unsafe {
            self.free = record.read().next;
            record.write(Record { value: ManuallyDrop::new(value) });
        }
        Some(record.cast())
    }

    /// Takes the value out of a record, which is free then.
    ///
    /// # Safety
    /// - X3. `take` returned the record, and nobody uses it any more.
    pub(crate) unsafe fn put(&mut self, record: NonNull<T>) -> T {
        let record = record.cast::<Record<T>>();
        // SAFETY: X3: the record holds a value.
        let value = unsafe { ManuallyDrop::into_inner(record.read().value) };
        // SAFETY: X3: the record is ours again.
        unsafe { record.write(Record { next: self.free }) };
        self.free = record.as_ptr();
        value
    }

    /// Takes the pool apart: calls `give` for each of its frames. Its records are
    /// nobody's then.
    pub(crate) fn take_apart<M: Machine>(&mut self, machine: &M, give: &mut dyn FnMut(Pfn)) {
        self.free = null_mut();
        while let Some(frame) = self.frames {
            // SAFETY: X2: `give` has written the header.
            self.frames = unsafe { machine.virt(frame).cast::<Option<Pfn>>().read() };
            give(frame);
        }
    }
}
