//! What is wrong: the judgement of an address that faulted, or that was freed.
//!
//! | where | told as |
//! |---|---|
//! | on a page that nobody has, after an allocation | an overrun |
//! | on a page that nobody has, before an allocation | an underrun |
//! | on a page of a freed allocation | a use after free |
//! | freed, and freed before | a double free |
//! | freed, and not the start of an allocation | an invalid free |
//! | freed, with bytes beside it that are not what they were | an overwritten canary |
//!
//! Between two allocations the nearer one is meant, and one that lives rather than one that was freed.
//! A fault that belongs to no allocation is not ours.

use crate::engine::Engine;
use crate::here;
use crate::os;
use crate::place::{Overwritten, Place};
use crate::slot::{Event, Slot, State};
use crate::trace::{Mark, Registers, Spot, Trace};

/// What was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Past the end.
    Overrun,
    /// Before the start.
    Underrun,
    /// Of a freed allocation.
    UseAfterFree,
    /// Freed twice.
    DoubleFree,
    /// Freed, but not a start.
    InvalidFree,
    /// Bytes beside an allocation were written.
    Canary,
}

impl Kind {
    /// The name in reports for programs.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Overrun => "overrun",
            Kind::Underrun => "underrun",
            Kind::UseAfterFree => "use-after-free",
            Kind::DoubleFree => "double-free",
            Kind::InvalidFree => "invalid-free",
            Kind::Canary => "canary",
        }
    }

    /// The name in reports for people.
    pub fn words(self) -> &'static str {
        match self {
            Kind::Overrun => "overrun",
            Kind::Underrun => "underrun",
            Kind::UseAfterFree => "use after free",
            Kind::DoubleFree => "double free",
            Kind::InvalidFree => "invalid free",
            Kind::Canary => "canary overwritten",
        }
    }
}

/// How an address was reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// By a load.
    Read,
    /// By a store.
    Write,
    /// Nobody told.
    Unknown,
}

impl Access {
    /// The name.
    pub fn word(self) -> &'static str {
        match self {
            Access::Read => "read",
            Access::Write => "write",
            Access::Unknown => "unknown",
        }
    }
}

/// An allocation, as a report tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// Where it lies.
    pub place: Place,
    /// Who made it.
    pub made: Event,
    /// Who freed it.
    pub freed: Option<Event>,
}

impl Record {
    fn of(slot: &Slot) -> Record {
        Record { place: slot.place(), made: slot.made(), freed: slot.freed() }
    }

    /// As it was before this call frees it.
    fn unfreed(slot: &Slot) -> Record {
        Record { freed: None, ..Record::of(slot) }
    }
}

/// What is wrong, and everything that is known of it.
#[derive(Clone, Copy, Debug)]
pub struct Finding {
    /// What was done.
    pub kind: Kind,
    /// How far past the end or before the start, or from the start; or how many bytes were overwritten.
    pub bytes: usize,
    /// The address.
    pub address: usize,
    /// How it was reached.
    pub access: Access,
    /// The allocation, if one is known.
    pub record: Option<Record>,
    /// The present thread.
    pub thread: u32,
    /// Where it is.
    pub here: Spot,
    /// Now, in milliseconds.
    pub now: u64,
}

impl Finding {
    fn new(kind: Kind, bytes: usize, address: usize, record: Option<Record>, here: Spot) -> Finding {
        let (thread, now) = (here::thread(), os::now_ms());
        Finding { kind, bytes, address, access: Access::Unknown, record, thread, here, now }
    }

    /// The canary of `slot`, which is being freed.
    pub fn canary(slot: &Slot, found: Overwritten, mark: Mark) -> Finding {
        let finding = Finding::new(
            Kind::Canary,
            found.bytes,
            found.first,
            Some(Record::unfreed(slot)),
            Spot::Called(Trace::here(mark)),
        );
        Finding { access: Access::Write, ..finding }
    }

    /// The free of an address that cannot be freed.
    pub fn free(engine: &Engine, at: usize, mark: Mark) -> Finding {
        let here = Spot::Called(Trace::here(mark));
        let Some((_, slot)) = engine.slots.at(at) else {
            let near = engine.slots.beside(at);
            return Finding::new(Kind::InvalidFree, 0, at, judge(at, near).map(|(_, _, slot)| Record::of(slot)), here);
        };
        let record = Record::of(slot);
        let bytes = at.abs_diff(record.place.start);
        let kind = if bytes == 0 { Kind::DoubleFree } else { Kind::InvalidFree };
        Finding::new(kind, bytes, at, Some(record), here)
    }

    /// A fault at an owned address. `None` if it belongs to no allocation.
    pub fn fault(engine: &Engine, at: usize, access: Access, by: Registers) -> Option<Finding> {
        let (kind, bytes, slot) = match engine.slots.at(at) {
            Some((_, slot)) if slot.state() == State::Live => return None,
            Some((_, slot)) => (Kind::UseAfterFree, at.abs_diff(slot.place().start), slot),
            None => judge(at, engine.slots.beside(at))?,
        };
        let finding = Finding::new(kind, bytes, at, Some(Record::of(slot)), Spot::Interrupted(by));
        Some(Finding { access, ..finding })
    }
}

/// Which of two neighbours is meant, what was done to it, and how far away.
fn judge(at: usize, [below, above]: [Option<&Slot>; 2]) -> Option<(Kind, usize, &Slot)> {
    let past = below.map(|slot| (Kind::Overrun, at + 1 - slot.place().end(), slot));
    let short = above.map(|slot| (Kind::Underrun, slot.place().start - at, slot));
    let far = |(_, bytes, slot): &(Kind, usize, &Slot)| (slot.state() != State::Live, *bytes);
    past.into_iter().chain(short).min_by_key(far)
}
