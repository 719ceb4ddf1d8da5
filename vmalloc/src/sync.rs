//! The atomics that chunks, slots, mail and flushes use: the core's, or loom's
//! when a test explores their interleavings (`--cfg loom`).

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};

/// Between an access that is `SeqCst` and another one. The language orders them
/// anyway; loom takes them for acquire and release, and has to be told.
#[inline(always)]
pub(crate) fn between_seqcst() {
    #[cfg(loom)]
    fence(Ordering::SeqCst);
}
