//! The atomics of the library. All come through this module, so that a proof can replace them.
//!
//! | Build | here | in [`plain`] |
//! |---|---|---|
//! | as it ships | those of `core` | those of `core` |
//! | `--cfg loom` | loom's, which explores all orders that the language allows | those of `core` |
//! | `--cfg interleave` | those of `core`, with a step before each access | the same |
//!
//! Loom's atomics are larger than a word and cannot lie in cleared frames. So CPUs, descriptors and
//! the entries of tables use the plain ones. A *step* is a point at which a scheduler may switch to
//! another CPU ([`interleave`]).

#[cfg(not(target_has_atomic = "64"))]
mod absent;
#[cfg(interleave)]
pub mod interleave;

#[cfg(not(target_has_atomic = "64"))]
pub(crate) use absent::AtomicU64;
#[cfg(all(not(any(loom, interleave)), target_has_atomic = "64"))]
pub(crate) use core::sync::atomic::AtomicU64;
#[cfg(not(any(loom, interleave)))]
pub(crate) use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicUsize, Ordering, fence,
};
#[cfg(interleave)]
pub(crate) use interleave::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};

/// Atomics for data that lies in frames, and for data that loom need not explore.
pub(crate) mod plain {
    #[cfg(not(target_has_atomic = "64"))]
    pub(crate) use super::AtomicU64;
    #[cfg(interleave)]
    pub(crate) use super::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
    /// Without steps: it is set once.
    pub(crate) use core::sync::atomic::AtomicPtr;
    #[cfg(all(not(interleave), target_has_atomic = "64"))]
    pub(crate) use core::sync::atomic::AtomicU64;
    #[cfg(not(interleave))]
    pub(crate) use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering};
}

/// Stands between two `SeqCst` accesses. The language orders them anyway. Loom treats them as
/// acquire and release, and needs the fence.
#[inline(always)]
pub(crate) fn between_seqcst() {
    #[cfg(loom)]
    fence(Ordering::SeqCst);
}

/// Frames become free memory here: a proof tests whether a CPU can still reach them.
#[inline(always)]
pub(crate) fn pooled(_frames: &[crate::units::Pfn]) {
    #[cfg(interleave)]
    interleave::pooled(_frames);
}

/// Whether the library must break this rule, so that a proof shows that it notices. Always false in
/// a shipped build.
#[cfg(not(interleave))]
macro_rules! breaks {
    ($rule:ident) => {
        false
    };
}
#[cfg(interleave)]
macro_rules! breaks {
    ($rule:ident) => {
        $crate::sync::interleave::breaks($crate::sync::interleave::Rule::$rule)
    };
}
pub(crate) use breaks;
