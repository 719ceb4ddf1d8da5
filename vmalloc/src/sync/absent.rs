//! Stands for an atomic of 64 bits on a target that has none.
//!
//! With it, one error names what is missing, and not one error for each use. It never runs: a build
//! that contains it has failed.

use core::sync::atomic::Ordering;

compile_error!(
    "vmalloc needs atomic accesses of 64 bits, which this target does not have: the masks of a chunk's slots and the \
     epochs of flushes are 64 bits wide"
);

/// It has the methods that the library calls.
#[repr(C, align(8))]
#[derive(Debug, Default)]
pub(crate) struct AtomicU64(u64);

macro_rules! absent {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        $(pub(crate) fn $name(&self, $($argument: $type),*) -> $result {
            let _ = (self.0, $($argument),*);
            unreachable!()
        })*
    };
}

impl AtomicU64 {
    pub(crate) const fn new(value: u64) -> AtomicU64 {
        AtomicU64(value)
    }

    /// # Safety
    /// As in `core`; nobody calls it.
    pub(crate) const unsafe fn from_ptr<'a>(at: *mut u64) -> &'a AtomicU64 {
        let _ = at;
        unreachable!()
    }

    pub(crate) fn get_mut(&mut self) -> &mut u64 {
        &mut self.0
    }

    absent! {
        fetch_update(set: Ordering, fetch: Ordering, value: impl FnMut(u64) -> Option<u64>) -> Result<u64, u64>;
        load(order: Ordering) -> u64;
        store(value: u64, order: Ordering) -> ();
        swap(value: u64, order: Ordering) -> u64;
        fetch_add(value: u64, order: Ordering) -> u64;
        fetch_sub(value: u64, order: Ordering) -> u64;
        fetch_and(value: u64, order: Ordering) -> u64;
        fetch_or(value: u64, order: Ordering) -> u64;
        fetch_max(value: u64, order: Ordering) -> u64;
        compare_exchange(old: u64, new: u64, order: Ordering, failed: Ordering) -> Result<u64, u64>;
        compare_exchange_weak(old: u64, new: u64, order: Ordering, failed: Ordering) -> Result<u64, u64>;
    }
}
