//! The atomics of the library, by one seam, so that a proof can come between.
//!
//! | Build | here | in [`plain`] |
//! |---|---|---|
//! | as it ships | the core's | the core's |
//! | `--cfg loom` | loom's, which explores all orders that the language allows | the core's |
//! | `--cfg interleave` | the core's, with a step before each access | the same |
//!
//! Loom's atomics are larger than a word and cannot lie in cleared frames, so what
//! lies there is plain: CPUs, descriptors, entries of tables. A *step* is where a
//! scheduler may let another CPU go on ([`interleave`]).

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

/// Atomics of what lies in frames, and of what loom need not explore.
pub(crate) mod plain {
    #[cfg(not(target_has_atomic = "64"))]
    pub(crate) use super::AtomicU64;
    #[cfg(interleave)]
    pub(crate) use super::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
    #[cfg(all(not(interleave), target_has_atomic = "64"))]
    pub(crate) use core::sync::atomic::AtomicU64;
    #[cfg(not(interleave))]
    pub(crate) use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering};
}

/// Between an access that is `SeqCst` and another one. The language orders them
/// anyway; loom takes them for acquire and release, and has to be told.
#[inline(always)]
pub(crate) fn between_seqcst() {
    #[cfg(loom)]
    fence(Ordering::SeqCst);
}

/// Frames become free memory: a proof looks whether a CPU still reaches them.
#[inline(always)]
pub(crate) fn pooled(_frames: &[crate::units::Pfn]) {
    #[cfg(interleave)]
    interleave::pooled(_frames);
}

/// Whether the library is to break a rule, so that a proof is seen to notice. False
/// where it ships.
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
