//! Addresses of which the lowest part is open.
//!
//! ```text
//!   start          boundary                                     end
//!   │ read, write  │ no access, no memory                       │
//! ```
//!
//! Each reservation is two mappings of the process, however much of it is open: opening moves the
//! boundary between them. What is not open costs nothing, also where all memory is locked.

use crate::lock::Lock;
use crate::os;
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::*};
use vmalloc::units::{PAGE_SHIFT, PAGE_SIZE, PageRange, VirtAddr};

/// Addresses that this process gave to us, until the drop.
#[derive(Debug)]
pub struct Reservation {
    start: NonNull<u8>,
    bytes: AtomicUsize,
    /// Bytes below the boundary.
    open: AtomicUsize,
    /// Held while the boundary moves.
    opening: Lock<()>,
    /// The boundary is a multiple of it.
    piece: usize,
}

// SAFETY: it is a piece of address space; the pointer is what we got it as.
unsafe impl Send for Reservation {}
// SAFETY: as above; nothing is reached through a `&Reservation` itself.
unsafe impl Sync for Reservation {}

impl Reservation {
    /// At least `bytes` of addresses that will be opened in pieces of `piece` bytes, a power of two.
    pub fn new(bytes: usize, piece: usize) -> Result<Reservation, i32> {
        let bytes = bytes.max(1).checked_next_multiple_of(piece).ok_or(libc::ENOMEM)?;
        let start = os::reserve(bytes, piece)?;
        Ok(Reservation {
            start,
            bytes: AtomicUsize::new(bytes),
            open: AtomicUsize::new(0),
            opening: Lock::new(()),
            piece,
        })
    }

    /// The byte at `offset`.
    #[inline]
    pub fn at(&self, offset: usize) -> NonNull<u8> {
        debug_assert!(offset < self.bytes(), "{offset:#x} of {:#x}", self.bytes());
        // SAFETY: the callers stay inside.
        unsafe { self.start.add(offset) }
    }

    /// All of its pages.
    #[inline]
    pub fn range(&self) -> PageRange {
        PageRange::new(VirtAddr(self.start.addr().get()), self.bytes() >> PAGE_SHIFT)
    }

    /// The length.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// Ends behind what is open, and not before `bytes`. Returns the pages behind the new end, which are
    /// mapped still, and the caller's.
    pub fn cut(&self, bytes: usize) -> PageRange {
        let _alone = self.opening.lock();
        let was = self.bytes();
        let end = self.open().max(bytes.min(was)).next_multiple_of(self.piece);
        self.bytes.store(end, Relaxed);
        PageRange::new(VirtAddr(self.start.addr().get() + end), (was - end) >> PAGE_SHIFT)
    }

    /// Bytes that are open.
    #[inline]
    pub fn open(&self) -> usize {
        self.open.load(Acquire)
    }

    /// Held by a fork, so that no other thread is in the middle of an opening.
    pub fn opening(&self) -> &Lock<()> {
        &self.opening
    }

    /// Opens the first `bytes` for reading and writing.
    pub fn open_to(&self, bytes: usize) -> Result<(), i32> {
        // SAFETY: O1: the pages are this reservation's.
        self.open_with(bytes, |pages| unsafe { os::protect(pages, os::OPEN) })
    }

    /// Opens the first `bytes` by `open`, which gets the pages that are not open yet.
    #[inline]
    pub fn open_with(&self, bytes: usize, open: impl FnOnce(PageRange) -> Result<(), i32>) -> Result<(), i32> {
        if bytes <= self.open() { Ok(()) } else { self.move_boundary(bytes, open) }
    }

    #[cold]
    fn move_boundary(&self, bytes: usize, open: impl FnOnce(PageRange) -> Result<(), i32>) -> Result<(), i32> {
        let _alone = self.opening.lock();
        let from = self.open();
        if bytes <= from {
            return Ok(());
        }
        let to = bytes.checked_next_multiple_of(self.piece).filter(|&to| to <= self.bytes()).ok_or(libc::ENOMEM)?;
        open(PageRange::new(self.range().start.add_pages(from / PAGE_SIZE), (to - from) / PAGE_SIZE))?;
        self.open.store(to, Release);
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: ours, and the owner of the last pointer into it is gone.
        unsafe { os::release(self.start, self.bytes()) }
    }
}

/// Values that are all bytes 0 at first.
///
/// # Safety
/// All bytes 0 is a value, and there is nothing to drop.
pub unsafe trait Clear: Sync {}

// SAFETY: a number.
unsafe impl Clear for AtomicU64 {}

/// Values in a reservation: those from the first on that were opened.
#[derive(Debug)]
pub struct Table<T> {
    memory: Reservation,
    values: PhantomData<T>,
}

impl<T: Clear> Table<T> {
    /// Bytes that are opened at a time.
    const PIECE: usize = 1 << 16;

    /// Room for `count` values.
    pub fn new(count: usize) -> Result<Table<T>, i32> {
        Ok(Table { memory: Reservation::new(count * size_of::<T>(), Self::PIECE)?, values: PhantomData })
    }

    /// There are `count` values at least.
    pub fn open_to(&self, count: usize) -> Result<(), i32> {
        self.memory.open_to(count * size_of::<T>())
    }

    /// The value `n`, which was opened.
    #[inline]
    pub fn at(&self, n: usize) -> &T {
        let at = self.memory.at(n * size_of::<T>()).cast();
        // SAFETY: the reservation's, open by the caller's word, cleared by Linux, and aligned: it starts a page.
        unsafe { at.as_ref() }
    }

    /// Where they lie.
    pub fn memory(&self) -> &Reservation {
        &self.memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boundary_moves_by_pieces_and_ends_with_the_reservation() {
        let all = Reservation::new(3 << 16, 1 << 16).expect("addresses");
        assert_eq!((all.bytes(), all.range().start.0 % (1 << 16), all.open()), (3 << 16, 0, 0));
        all.open_to(1).expect("memory");
        assert_eq!(all.open(), 1 << 16);
        // SAFETY: it is open, and ours.
        unsafe { all.at(0xffff).write(7) };
        all.open_with(5, |_| Err(1)).expect("open already");
        assert_eq!(all.open_with((1 << 16) + 1, |_| Err(1)), Err(1));
        assert_eq!((all.open(), all.open_to((3 << 16) + 1)), (1 << 16, Err(libc::ENOMEM)));
    }

    #[test]
    fn what_is_cut_off_is_not_opened_again() {
        let all = Reservation::new(8 << 16, 1 << 16).expect("addresses");
        all.open_to(1 << 16).expect("memory");
        assert_eq!((all.cut(3 << 16).pages, all.bytes()), (5 << 4, 3 << 16));
        all.open_to(3 << 16).expect("memory");
        assert_eq!((all.open_to((3 << 16) + 1), all.cut(0).pages, all.bytes()), (Err(libc::ENOMEM), 0, 3 << 16));
        assert_eq!((all.cut(usize::MAX).pages, all.bytes()), (0, 3 << 16), "no more than there was");
    }
}
