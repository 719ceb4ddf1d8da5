//! The frames of the bookkeeping: pages of a reservation of their own.
//!
//! The window's pages are their own frames, and none of them can hold a table or a header: nobody
//! may reach a page of the window that belongs to no area. So bookkeeping has memory elsewhere. A
//! frame's number is the number of its page, and the list of free frames goes through their first
//! words.

use crate::lock::{Held, Lock};
use crate::reserve::Reservation;
use core::ptr::{NonNull, with_exposed_provenance_mut};
use core::sync::atomic::{AtomicUsize, Ordering::*};
use vmalloc::machine::frames::{Frames, Want};
use vmalloc::units::{PAGE_SIZE, PageRange, Pfn, VirtAddr};

/// Bytes that are opened at a time.
const PIECE: usize = 1 << 20;

/// What is free.
#[derive(Debug, Default)]
struct Free {
    /// The address of the first frame that was freed; its first word names the next. 0 = none.
    head: usize,
}

/// Where bookkeeping frames come from.
#[derive(Debug)]
pub struct Source {
    memory: Reservation,
    free: Lock<Free>,
    /// Frames on the list of free ones. Like the next, it changes under the lock; a signal handler reads both
    /// without: it may have interrupted who holds it.
    listed: AtomicUsize,
    /// Bytes from the start that were ever handed out.
    used: AtomicUsize,
}

/// The address of a frame's bytes.
#[inline]
pub fn bytes_of(frame: Pfn) -> NonNull<u8> {
    let at = with_exposed_provenance_mut::<u8>(frame.phys() as usize);
    debug_assert!(!at.is_null());
    // SAFETY: no page of a reservation lies at 0.
    unsafe { NonNull::new_unchecked(at) }
}

impl Source {
    /// Up to `bytes` of frames.
    pub(crate) fn new(bytes: usize) -> Result<Source, i32> {
        Ok(Source {
            memory: Reservation::new(bytes, PIECE)?,
            free: Lock::default(),
            listed: AtomicUsize::new(0),
            used: AtomicUsize::new(0),
        })
    }

    /// There are at most `bytes` of frames from now on, or as many as there were. Returns the pages behind them.
    pub(crate) fn cut(&self, bytes: usize) -> PageRange {
        self.memory.cut(bytes)
    }

    /// Frames that were ever handed out, and those of them that are free.
    pub(crate) fn used(&self) -> (usize, usize) {
        // In this order there are never more free ones than there are.
        let listed = self.listed.load(Acquire);
        (self.used.load(Relaxed) / PAGE_SIZE, listed)
    }

    /// Calls `f` with each of its locks, in order.
    pub(crate) fn each_lock(&self, f: &mut dyn FnMut(&dyn Held)) {
        f(&self.free);
        f(self.memory.opening());
    }

    fn holds(&self, frame: Pfn) -> bool {
        self.memory.range().contains(VirtAddr(frame.phys() as usize))
    }

    /// A frame that nobody had yet.
    fn fresh(&self) -> Option<NonNull<u8>> {
        let used = self.used.load(Relaxed);
        self.memory.open_to(used + PAGE_SIZE).ok()?;
        self.used.store(used + PAGE_SIZE, Relaxed);
        Some(self.memory.at(used))
    }

    /// A frame that somebody has given back.
    fn listed(&self, free: &mut Free) -> Option<NonNull<u8>> {
        let at = free.pop()?;
        self.listed.fetch_sub(1, Release);
        Some(at)
    }
}

impl Free {
    fn pop(&mut self) -> Option<NonNull<u8>> {
        let at = NonNull::new(with_exposed_provenance_mut::<u8>(self.head))?;
        // SAFETY: F1: a free frame is the list's, and `push` wrote the word.
        self.head = unsafe { at.cast::<usize>().read() };
        Some(at)
    }

    fn push(&mut self, at: NonNull<u8>) {
        // SAFETY: F1: the frame was given up, and is the list's from here on.
        unsafe { at.cast::<usize>().write(self.head) };
        self.head = at.addr().get();
    }
}

// SAFETY: F1, F2, F4: a page is handed out from the boundary once, then from the list; blocks are
// single frames, and a larger free is one of its frames. F3: the locks are this source's own. F5,
// F6: there are no descriptors and no zones.
unsafe impl Frames for Source {
    fn total(&self) -> usize {
        self.memory.bytes() / PAGE_SIZE
    }
    fn free_now(&self) -> usize {
        let (used, listed) = self.used();
        self.total() - used + listed
    }
    fn is_ram(&self, frame: Pfn) -> bool {
        self.holds(frame)
    }
    fn alloc(&self, want: Want) -> Option<Pfn> {
        if want.order > 0 {
            return None;
        }
        let mut free = self.free.lock();
        let at = self.listed(&mut free).or_else(|| self.fresh())?;
        Some(Pfn::containing(at.as_ptr().expose_provenance() as u64))
    }
    unsafe fn free(&self, first: Pfn, order: u8) {
        let mut free = self.free.lock();
        (0..1u64 << order).for_each(|n| free.push(bytes_of(first.offset(n))));
        self.listed.fetch_add(1 << order, Release);
    }
    fn free_for(&self, _: Want) -> Option<usize> {
        Some(self.free_now())
    }
    fn is_out(&self, frame: Pfn) -> bool {
        self.holds(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmalloc::units::Node;

    #[test]
    fn frames_are_handed_out_once_until_they_are_freed() {
        let source = Source::new(PIECE).expect("addresses");
        let want = Want::bookkeeping(Node(0));
        assert_eq!(source.alloc(want.order(1)), None);
        let all: Vec<Pfn> = core::iter::from_fn(|| source.alloc(want)).collect();
        assert_eq!((all.len(), source.free_now()), (source.total(), 0));
        // SAFETY: it is ours, and open.
        all.iter().for_each(|&frame| unsafe { bytes_of(frame).as_ptr().write_bytes(0xff, PAGE_SIZE) });
        // SAFETY: F4: four of ours.
        unsafe { source.free(all[4], 2) };
        let mut again: Vec<Pfn> = core::iter::from_fn(|| source.alloc(want)).collect();
        again.sort();
        assert_eq!(again, all[4..8]);
    }
}
