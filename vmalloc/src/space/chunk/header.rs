//! References to headers, which are valid while the instance lives (C1).

use super::{Chunk, RUNS};
use crate::machine::Machine;
use crate::sync::AtomicU8;
use crate::units::Pfn;
use core::ops::Deref;
use core::ptr::NonNull;

/// A reference to a header. It is valid while the instance lives (C1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkRef(NonNull<Chunk>);

// SAFETY: all fields of a chunk are atomics.
unsafe impl Send for ChunkRef {}
// SAFETY: as above.
unsafe impl Sync for ChunkRef {}

impl ChunkRef {
    /// Turns the frame `header` into a header, in place: no kernel stack has room for one.
    ///
    /// # Safety
    /// - H1. The frame belongs to the instance for ever (C1), it is cleared, and nobody uses it
    ///   yet.
    pub unsafe fn create<M: Machine>(machine: &M, header: Pfn) -> ChunkRef {
        let at = machine.virt(header).cast::<Chunk>();
        // SAFETY: H1 and M2: the frame is large and aligned enough. All other fields of a new
        // header are zero.
        unsafe {
            (&raw mut (*at.as_ptr()).frame).write(header.0);
            (&raw mut (*at.as_ptr()).class).write(AtomicU8::new(RUNS));
        }
        ChunkRef(at)
    }

    /// The header at a pointer that [`ChunkRef::as_ptr`] returned; `None` for null.
    ///
    /// # Safety
    /// - H2. The pointer is null or came from [`ChunkRef::as_ptr`] in this instance.
    #[inline]
    pub unsafe fn from_ptr(at: *mut Chunk) -> Option<ChunkRef> {
        NonNull::new(at).map(ChunkRef)
    }

    /// The header as a pointer, for links.
    #[inline]
    pub fn as_ptr(self) -> *mut Chunk {
        self.0.as_ptr()
    }
}

impl Deref for ChunkRef {
    type Target = Chunk;

    #[inline]
    fn deref(&self) -> &Chunk {
        // SAFETY: C1: it was a header when the reference was made.
        unsafe { self.0.as_ref() }
    }
}
