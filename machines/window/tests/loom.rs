//! Every interleaving of a binding, a free and a flush over neighbouring pages: the shipped
//! `closing.rs` and `marks.rs`, on atomics whose turns are chosen by a model.

#![allow(dead_code, reason = "the models use a part of what ships")]

#[path = "../src/closing.rs"]
mod closing;
#[path = "../src/marks.rs"]
mod marks;

use closing::Closing;
use loom::model::Builder;
use loom::sync::atomic::{AtomicBool, Ordering::SeqCst};
use loom::sync::{Arc, Mutex};
use loom::thread;
use marks::Group;
use std::ops::Range;

mod cpu {
    pub use loom::thread::yield_now;
}

/// The model takes SeqCst for AcqRel but in fences, so each access that must not pass another has one.
mod sync {
    pub use core::sync::atomic::Ordering;
    use loom::sync::atomic::fence;

    #[derive(Debug, Default)]
    pub struct AtomicU64(loom::sync::atomic::AtomicU64);

    impl AtomicU64 {
        pub fn new(value: u64) -> AtomicU64 {
            AtomicU64(loom::sync::atomic::AtomicU64::new(value))
        }
        pub fn load(&self, order: Ordering) -> u64 {
            fence(Ordering::SeqCst);
            self.0.load(order)
        }
        pub fn store(&self, value: u64, order: Ordering) {
            self.0.store(value, order);
            fence(Ordering::SeqCst);
        }
        pub fn swap(&self, value: u64, order: Ordering) -> u64 {
            self.0.swap(value, order)
        }
        pub fn fetch_or(&self, bits: u64, order: Ordering) -> u64 {
            self.0.fetch_or(bits, order)
        }
        pub fn fetch_and(&self, bits: u64, order: Ordering) -> u64 {
            self.0.fetch_and(bits, order)
        }
        pub fn compare_exchange(&self, was: u64, new: u64, done: Ordering, not: Ordering) -> Result<u64, u64> {
            self.0.compare_exchange(was, new, done, not)
        }
        pub fn fetch_update(
            &self,
            set: Ordering,
            get: Ordering,
            f: impl FnMut(u64) -> Option<u64>,
        ) -> Result<u64, u64> {
            self.0.fetch_update(set, get, f)
        }
    }
}

/// Tables in the heap of the model.
mod reserve {
    use crate::sync::AtomicU64;

    #[derive(Debug)]
    pub struct Reservation;

    #[derive(Debug)]
    pub struct Table<T>(Vec<T>);

    /// # Safety
    /// None is lost.
    pub unsafe trait Clear: Default {}

    // SAFETY: a number.
    unsafe impl Clear for AtomicU64 {}

    impl<T: Clear> Table<T> {
        pub fn new(count: usize) -> Result<Table<T>, i32> {
            Ok(Table((0..count).map(|_| T::default()).collect()))
        }
        pub fn open_to(&self, _count: usize) -> Result<(), i32> {
            Ok(())
        }
        pub fn at(&self, n: usize) -> &T {
            &self.0[n]
        }
        pub fn memory(&self) -> &Reservation {
            &Reservation
        }
    }
}

/// Some pages, each of which can be reached or not, in two groups.
struct Pages {
    closing: Closing,
    open: [AtomicBool; 4],
    draining: Mutex<()>,
}

impl Pages {
    fn new(bound: &[usize]) -> Arc<Pages> {
        let (closing, open) = (Closing::new(128).expect("room"), Default::default());
        let pages = Pages { closing, open, draining: Mutex::new(()) };
        bound.iter().for_each(|&page| pages.bind(page));
        Arc::new(pages)
    }

    fn bind(&self, page: usize) {
        self.closing.bind(&(page..page + 1));
        self.open(page).store(true, SeqCst);
    }

    fn unbind(&self, pages: &[usize]) {
        pages.iter().for_each(|&page| self.closing.unbind(page..page + 1));
    }

    /// Unbinds these pages, and flushes: none of them can be reached then (H2).
    fn take_away(&self, pages: &[usize]) {
        self.unbind(pages);
        self.drain();
        assert!(pages.iter().all(|&page| !self.is_open(page)));
    }

    fn drain(&self) {
        let _alone = self.draining.lock().unwrap();
        assert!(self.closing.drain(|pages| {
            pages.clone().for_each(|page| self.open(page).store(false, SeqCst));
            true
        }));
    }

    /// A flush that Linux refuses after some pages, whichever it is asked for first.
    fn drain_in_part(&self) {
        let _alone = self.draining.lock().unwrap();
        let mut refused = false;
        let all = self.closing.drain(|pages| {
            let is_first = !std::mem::replace(&mut refused, true);
            let closed = if is_first { pages.start..pages.start + pages.len() / 2 } else { pages.clone() };
            closed.for_each(|page| self.open(page).store(false, SeqCst));
            !is_first
        });
        assert!(!all || !refused);
    }

    /// A binding that Linux refuses: the pages go at once, and again as its area is taken back.
    fn bind_refused(&self, page: usize) {
        self.closing.bind(&(page..page + 1));
        self.unbind(&[page]);
        self.drain();
        self.unbind(&[page]);
        self.drain();
        assert!(!self.is_open(page));
    }

    /// Whether the page can be reached; 64 and those behind it come again at 0.
    fn open(&self, page: usize) -> &AtomicBool {
        &self.open[page % 64]
    }

    fn is_open(&self, page: usize) -> bool {
        self.open(page).load(SeqCst)
    }

    fn is_live(&self, page: usize) -> bool {
        self.closing.marks().has(page, Group::live)
    }

    fn has_bits(&self, pages: Range<usize>) -> bool {
        let bits = |group: &Group| group.bound.load(sync::Ordering::SeqCst) | group.going.load(sync::Ordering::SeqCst);
        self.closing.marks().any(pages, bits)
    }
}

/// All interleavings with up to three switches away from a thread that could go on.
fn model(f: impl Fn() + Sync + Send + 'static) {
    let mut all = Builder::new();
    all.preemption_bound = Some(3);
    all.check(f);
}

/// Runs two threads to their ends.
fn both(pages: &Arc<Pages>, a: fn(&Pages), b: fn(&Pages)) {
    let theirs = pages.clone();
    let thread = thread::spawn(move || a(&theirs));
    b(pages);
    thread.join().unwrap();
}

#[test]
fn h3_a_page_that_is_bound_between_runs_that_are_joined_stays_open_and_live() {
    model(|| {
        let pages = Pages::new(&[1, 3]);
        pages.unbind(&[1, 3]);
        both(&pages, |pages| pages.bind(2), |pages| pages.drain());
        assert!(pages.is_open(2) && pages.is_live(2));
        assert!(!pages.is_open(1) && !pages.is_open(3) && !pages.has_bits(0..2) && !pages.has_bits(3..128));
    });
}

#[test]
fn h3_the_same_over_two_flushes() {
    model(|| {
        let pages = Pages::new(&[1, 3]);
        pages.unbind(&[1, 3]);
        let twice = |pages: &Pages| {
            pages.drain();
            [1, 3].into_iter().for_each(|page| pages.bind(page));
            pages.unbind(&[1, 3]);
            pages.drain();
        };
        both(&pages, |pages| pages.bind(2), twice);
        assert!(pages.is_open(2) && pages.is_live(2));
    });
}

#[test]
fn h2_what_was_unbound_before_a_flush_is_shut_when_it_returns() {
    model(|| {
        let pages = Pages::new(&[1, 2, 3]);
        both(&pages, |pages| pages.take_away(&[2]), |pages| pages.take_away(&[1, 3]));
        assert!(!pages.has_bits(0..128), "nothing is bound, and nothing goes");
    });
}

#[test]
fn h2_a_page_that_comes_back_at_once_is_not_shut_by_the_flush_that_freed_it() {
    model(|| {
        let pages = Pages::new(&[1, 2]);
        let comes_back = |pages: &Pages| {
            pages.take_away(&[2]);
            pages.bind(2);
        };
        both(&pages, comes_back, |pages| pages.take_away(&[1]));
        assert!(pages.is_open(2) && pages.is_live(2) && !pages.is_open(1));
    });
}

#[test]
fn h2_holds_for_pages_of_groups_that_are_queued_one_by_one() {
    model(|| {
        let pages = Pages::new(&[2, 3, 65]);
        both(&pages, |pages| pages.take_away(&[2, 65]), |pages| pages.take_away(&[3]));
        assert!(!pages.has_bits(0..128), "nothing is bound, and nothing goes");
    });
}

#[test]
fn h2_what_a_refused_flush_left_goes_with_the_next_and_what_lies_between_stays() {
    model(|| {
        let pages = Pages::new(&[1, 3]);
        pages.unbind(&[1, 3]);
        let refused_once = |pages: &Pages| {
            pages.drain_in_part();
            pages.drain();
            assert!(!pages.is_open(1) && !pages.is_open(3));
        };
        both(&pages, |pages| pages.bind(2), refused_once);
        assert!(pages.is_open(2) && pages.is_live(2) && !pages.has_bits(0..2) && !pages.has_bits(3..128));
    });
}

#[test]
fn h1_a_page_whose_binding_was_refused_is_bound_by_the_next_beside_flushes_around_it() {
    model(|| {
        let pages = Pages::new(&[1, 3]);
        let again = |pages: &Pages| {
            pages.bind_refused(2);
            pages.bind(2);
        };
        both(&pages, again, |pages| pages.take_away(&[1, 3]));
        pages.drain();
        assert!(pages.is_open(2) && pages.is_live(2) && !pages.has_bits(0..2) && !pages.has_bits(3..128));
    });
}
