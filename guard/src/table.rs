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
//! - **T2** What is open stays open, at its place, as long as the table.

use crate::os;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering::*};
use vmalloc_window::RawLock;

/// The boundary moves by at least this number of bytes.
const PIECE: usize = 1 << 18;

/// Entries that may be shared by all threads.
pub struct Table<T> {
    at: NonNull<u8>,
    /// Bytes of addresses.
    bytes: AtomicUsize,
    /// Bytes that are open.
    open: AtomicUsize,
    /// Held while either changes.
    changing: lock_api::Mutex<RawLock, ()>,
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
        Some(Table {
            at: os::reserve(bytes)?,
            bytes: AtomicUsize::new(bytes),
            open: AtomicUsize::new(0),
            changing: lock_api::Mutex::new(()),
            of: PhantomData,
        })
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
        let changing = self.changing.lock();
        // SAFETY: the addresses are this table's, as long as nobody cuts it.
        if to > self.bytes.load(Relaxed) || !unsafe { os::open(self.at, to) } {
            return None;
        }
        self.open.fetch_max(to, AcqRel);
        drop(changing);
        self.get(n)
    }

    /// There are `most` entries from now on, or as many as are open: addresses for others are given back.
    pub fn cut(&self, most: usize) {
        let _changing = self.changing.lock();
        let (wanted, was) = ((most * size_of::<T>()).next_multiple_of(PIECE), self.bytes.load(Relaxed));
        let end = self.open.load(Relaxed).max(wanted).min(was);
        self.bytes.store(end, Relaxed);
        let start = self.at.as_ptr().expose_provenance();
        // SAFETY: the table's, and nobody has used them.
        unsafe { os::release(start + end..start + was) };
    }

    /// Before a fork: nobody is in the middle of a change.
    pub fn hold(&self) {
        core::mem::forget(self.changing.lock());
    }

    /// After a fork.
    ///
    /// # Safety
    /// The thread has called [`Table::hold`].
    pub unsafe fn give_up(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.changing.force_unlock() }
    }
}

impl<T> Drop for Table<T> {
    fn drop(&mut self) {
        let start = self.at.as_ptr().expose_provenance();
        // SAFETY: T2 ends with the table, which nobody uses any more.
        unsafe { os::release(start..start + self.bytes.load(Relaxed)) };
    }
}
