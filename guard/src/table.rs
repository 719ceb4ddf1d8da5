//! A table at a fixed place, opened from below.
//!
//! ```text
//!   0              open                         most
//!   │ entries, clear at first │ no access, no memory │
//! ```
//!
//! A table costs addresses, and memory for the entries that were ever used: also where a program
//! locks all of its memory, which fills what is open and leaves what is closed alone.
//!
//! # Rules
//! - **T1** An entry's bytes are clear when it opens, and that is a value of its type.
//! - **T2** What is open stays open, at its place, until the process ends.

use crate::os;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering::*};

/// The boundary moves by at least this number of bytes.
const PIECE: usize = 1 << 18;

/// Entries that may be shared by all threads.
pub struct Table<T> {
    at: NonNull<u8>,
    most: usize,
    /// Bytes that are open.
    open: AtomicUsize,
    of: PhantomData<T>,
}

/// A type whose entries may begin as clear bytes.
///
/// # Safety
/// Clear bytes are a value of it (T1), and it is made of atomics: it may be shared.
pub unsafe trait Entry {}

// SAFETY: the entries may be shared, and the table is a place that never changes.
unsafe impl<T: Entry> Sync for Table<T> {}
// SAFETY: as above.
unsafe impl<T: Entry> Send for Table<T> {}

impl<T: Entry> Table<T> {
    /// Addresses for `most` entries, of which none is open.
    pub fn new(most: usize) -> Option<Table<T>> {
        let bytes = (most * size_of::<T>()).next_multiple_of(PIECE);
        Some(Table { at: os::reserve(bytes)?, most, open: AtomicUsize::new(0), of: PhantomData })
    }

    /// The entry `n`; `None` if it is not open.
    #[inline]
    pub fn get(&self, n: usize) -> Option<&T> {
        let end = (n + 1) * size_of::<T>();
        // SAFETY: it is open, so it has a value (T1), which stays (T2).
        (end <= self.open.load(Acquire)).then(|| unsafe { self.at.cast::<T>().add(n).as_ref() })
    }

    /// The entry `n`, opened if need be; `None` beyond the last, or where Linux has no memory.
    #[inline]
    pub fn open(&self, n: usize) -> Option<&T> {
        self.get(n).or_else(|| self.open_to(n))
    }

    #[cold]
    fn open_to(&self, n: usize) -> Option<&T> {
        let to = ((n + 1) * size_of::<T>()).next_multiple_of(PIECE);
        // Opening twice does no harm, so no lock is needed.
        // SAFETY: the addresses are this table's, as many as `most` entries have.
        if n >= self.most || !unsafe { os::open(self.at, to) } {
            return None;
        }
        self.open.fetch_max(to, AcqRel);
        self.get(n)
    }
}
