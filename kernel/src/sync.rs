//! Atomics, and rules that a proof breaks on purpose: in a build with `--cfg interleave`, where
//! another CPU may run before each access of an atomic.

#[cfg(not(interleave))]
pub(crate) use core::sync::atomic::{AtomicUsize, Ordering};
#[cfg(interleave)]
pub(crate) use vmalloc::internals::interleave::atomic::{AtomicUsize, Ordering};

/// Whether this rule has to be broken, so that a proof shows that it notices. Always false in a
/// shipped build.
#[cfg(not(interleave))]
macro_rules! breaks {
    ($rule:ident) => {
        false
    };
}
#[cfg(interleave)]
macro_rules! breaks {
    ($rule:ident) => {
        vmalloc::internals::interleave::breaks(vmalloc::internals::interleave::Rule::$rule)
    };
}
pub(crate) use breaks;
