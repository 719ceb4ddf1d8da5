//! What is known of a guarded allocation: where it lies, who made it, who freed it.
//!
//! ```text
//!   SPARE ─▶ LIVE ──free──▶ CLOSING ─▶ CLOSED ──the quarantine is full──▶ GONE ─▶ LIVE …
//! ```
//!
//! - LIVE: its pages may be used.
//! - CLOSING: it has been freed, and somebody is about to close its pages. Only one of two that free it
//!   gets here from LIVE.
//! - CLOSED: every access faults. The addresses are in quarantine.
//! - GONE: the addresses are the window's again. Until the slot or the addresses serve another one, a
//!   fault there is still told as what it was.
//!
//! Everything is atomic, so that a report can look at anything at any time: what it sees of a slot that
//! changes meanwhile may be wrong, which is better than nothing.

use crate::place::Place;
use crate::table::Entry;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::*};

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum State {
    /// Never used.
    Spare = 0,
    /// Its pages may be used.
    Live = 1,
    /// Freed a moment ago.
    Closing = 2,
    /// In quarantine.
    Closed = 3,
    /// Its addresses are free.
    Gone = 4,
}

/// Who did something, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// The thread's number.
    pub thread: u32,
    /// The number of the backtrace.
    pub trace: u32,
    /// Milliseconds.
    pub when: u64,
}

#[derive(Debug)]
#[repr(C)]
struct Told {
    when: AtomicU64,
    thread: AtomicU32,
    trace: AtomicU32,
}

impl Told {
    fn set(&self, event: Event) {
        self.when.store(event.when, Relaxed);
        self.thread.store(event.thread, Relaxed);
        self.trace.store(event.trace, Relaxed);
    }

    fn get(&self) -> Event {
        Event { thread: self.thread.load(Relaxed), trace: self.trace.load(Relaxed), when: self.when.load(Relaxed) }
    }
}

/// What is known of one allocation.
#[derive(Debug)]
#[repr(C)]
pub struct Slot {
    start: AtomicUsize,
    size: AtomicUsize,
    area: AtomicUsize,
    pages: AtomicU32,
    state: AtomicU32,
    made: Told,
    freed: Told,
    /// The next slot of the list that this one is in.
    pub next: AtomicU32,
}

// SAFETY: clear bytes are a spare slot; it is made of atomics.
unsafe impl Entry for Slot {}

impl Slot {
    /// An allocation begins.
    pub fn begin(&self, place: Place, made: Event) {
        self.start.store(place.start, Relaxed);
        self.size.store(place.size, Relaxed);
        self.area.store(place.area, Relaxed);
        self.pages.store(place.pages as u32, Relaxed);
        self.made.set(made);
        self.freed.set(Event { thread: 0, trace: 0, when: 0 });
        self.state.store(State::Live as u32, Release);
    }

    /// The first that frees it gets true.
    pub fn close(&self) -> bool {
        let (live, closing) = (State::Live as u32, State::Closing as u32);
        self.state.compare_exchange(live, closing, AcqRel, Relaxed).is_ok()
    }

    /// Who freed it. For the one that closed it.
    pub fn freed_by(&self, freed: Event) {
        self.freed.set(freed);
    }

    /// It was freed, and is `state` now.
    pub fn become_(&self, state: State) {
        self.state.store(state as u32, Release);
    }

    /// Its state.
    pub fn state(&self) -> State {
        match self.state.load(Acquire) {
            1 => State::Live,
            2 => State::Closing,
            3 => State::Closed,
            4 => State::Gone,
            _ => State::Spare,
        }
    }

    /// Where it lies.
    pub fn place(&self) -> Place {
        Place {
            start: self.start.load(Relaxed),
            size: self.size.load(Relaxed),
            area: self.area.load(Relaxed),
            pages: self.pages.load(Relaxed) as usize,
        }
    }

    /// Who made it.
    pub fn made(&self) -> Event {
        self.made.get()
    }

    /// Who freed it, if somebody has and it is known: another thread may be about to tell.
    pub fn freed(&self) -> Option<Event> {
        let is_freed = matches!(self.state(), State::Closed | State::Gone | State::Closing);
        Some(self.freed.get()).filter(|freed| is_freed && freed.thread != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_freed_a_slot_in_an_earlier_life_is_not_told() {
        let clear = || Told { when: AtomicU64::new(0), thread: AtomicU32::new(0), trace: AtomicU32::new(0) };
        let number = || AtomicUsize::new(0);
        let slot = Slot {
            start: number(),
            size: number(),
            area: number(),
            pages: AtomicU32::new(0),
            state: AtomicU32::new(0),
            made: clear(),
            freed: clear(),
            next: AtomicU32::new(0),
        };
        let (place, event) = (slot.place(), |thread| Event { thread, trace: thread, when: 7 });
        slot.begin(place, event(1));
        assert!(slot.close() && slot.freed().is_none());
        slot.freed_by(event(2));
        assert_eq!(slot.freed(), Some(event(2)));
        slot.begin(place, event(3));
        assert_eq!((slot.close(), slot.close(), slot.freed()), (true, false, None));
    }
}
