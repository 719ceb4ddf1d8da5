//! Backtraces by number: each is kept once, however many allocations it made.
//!
//! A hash leads to a bucket, which has the number of an entry. Entries are written before their
//! number is published and never change, so they are read without a lock. A full depot keeps
//! what it has, and new backtraces get the number 0.

use crate::table::{Entry, Table};
use crate::trace::{DEPTH, Trace};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering::*};

/// Programs of a million lines have some ten thousand places that allocate, by several ways each.
const BUCKETS: usize = 1 << 20;
const MOST: usize = BUCKETS / 2;
/// Buckets that are tried.
const TRIES: usize = 32;

#[derive(Debug)]
#[repr(transparent)]
struct Bucket(AtomicU32);

#[derive(Debug)]
#[repr(C)]
struct Kept {
    len: AtomicUsize,
    frames: [AtomicUsize; DEPTH],
}

// SAFETY: clear bytes are the number 0; it is an atomic.
unsafe impl Entry for Bucket {}
// SAFETY: clear bytes are a trace of no frames; it is made of atomics.
unsafe impl Entry for Kept {}

/// All backtraces.
pub struct Depot {
    buckets: Table<Bucket>,
    kept: Table<Kept>,
    /// Entries that were used. The first is nobody's, so that 0 is no number.
    used: AtomicU32,
}

impl Depot {
    /// Nothing is kept.
    pub fn new() -> Option<Depot> {
        let buckets = Table::new(BUCKETS)?;
        buckets.open(BUCKETS - 1)?;
        Some(Depot { buckets, kept: Table::new(MOST)?, used: AtomicU32::new(1) })
    }

    /// There is room for so many from now on, or for as many as there have been.
    pub fn cut(&self, most: usize) {
        self.kept.cut(most);
    }

    /// Before a fork: nobody is in the middle of a change.
    pub fn hold(&self) {
        self.kept.hold();
    }

    /// After a fork.
    ///
    /// # Safety
    /// The thread has called [`Depot::hold`].
    pub unsafe fn give_up(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.kept.give_up() }
    }

    /// All numbers are below it.
    pub fn most(&self) -> usize {
        (self.used.load(Relaxed) as usize).min(MOST)
    }

    /// The number of a trace.
    pub fn number(&self, trace: &Trace) -> u32 {
        let first = hash(trace) as usize;
        let mut made = None;
        for n in 0..TRIES {
            let Some(bucket) = self.buckets.get((first + n) % BUCKETS) else { break };
            let mut number = bucket.0.load(Acquire);
            if number == 0 {
                let Some(new) = made.or_else(|| self.keep(trace)) else { break };
                made = Some(new);
                match bucket.0.compare_exchange(0, new, AcqRel, Acquire) {
                    Ok(_) => return new,
                    Err(theirs) => number = theirs,
                }
            }
            if self.trace(number) == *trace {
                return number;
            }
        }
        0
    }

    fn keep(&self, trace: &Trace) -> Option<u32> {
        if self.used.load(Relaxed) as usize >= MOST {
            return None;
        }
        let number = self.used.fetch_add(1, Relaxed);
        let kept = self.kept.open(number as usize)?;
        kept.frames.iter().zip(trace.frames()).for_each(|(to, &frame)| to.store(frame, Relaxed));
        kept.len.store(trace.len, Release);
        Some(number)
    }

    /// The trace with this number.
    pub fn trace(&self, number: u32) -> Trace {
        let Some(kept) = self.kept.get(number as usize).filter(|_| number != 0) else { return Trace::EMPTY };
        let len = kept.len.load(Acquire).min(DEPTH);
        let mut trace = Trace { len, ..Trace::EMPTY };
        trace.frames.iter_mut().zip(&kept.frames).take(len).for_each(|(to, frame)| *to = frame.load(Relaxed));
        trace
    }
}

fn hash(trace: &Trace) -> u64 {
    let step = |hash: u64, &frame: &usize| (hash.rotate_left(5) ^ frame as u64).wrapping_mul(0x517c_c1b7_2722_0a95);
    trace.frames().iter().fold(0, step) >> 20
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_trace_has_the_same_number() {
        let depot = Depot::new().expect("addresses");
        let of =
            |n: usize| Trace { frames: core::array::from_fn(|i| if i < 3 + n % 3 { n } else { 0 }), len: 3 + n % 3 };
        let trace = |n| depot.trace(depot.number(&of(n)));
        let numbers: Vec<u32> = (1..1000).map(|n| depot.number(&of(n))).collect();
        assert!(numbers.iter().enumerate().all(|(n, &number)| number == n as u32 + 1));
        assert_eq!(depot.number(&of(7)), numbers[6]);
        assert_eq!((trace(7).len, trace(7).frames()[2], depot.trace(0)), (4, 7, Trace::EMPTY));
    }
}
