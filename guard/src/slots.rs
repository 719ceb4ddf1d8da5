//! All slots: the quarantine, and which slot an address belongs to.
//!
//! Slots are numbered from 1; 0 is none. For each page of the window there is the number of the slot
//! that had it last. So an address leads to its slot by one load, and to its neighbours by a few.
//!
//! # Lists
//! - **quarantine**: closed slots, the oldest first.
//! - **spare**: slots whose addresses are free, the oldest first: each remembers for as long as it can.
//! - **late**: slots freed in the middle of a call of this thread, by a signal handler. The next call of
//!   any thread closes them. It is a stack without a lock.
//!
//! # Locks
//! `lists`, for a few loads and stores, then those of the tables. A thread that is inside does not come here again (`here.rs`).

use crate::os::PAGE;
use crate::place::Place;
use crate::slot::{Slot, State};
use crate::table::{Entry, Table};
use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering::*};
use vmalloc_window::RawLock;

/// Slots that remember before one is used again.
const REMEMBERED: usize = 1 << 12;
/// Pages that are looked at on either side of a page that nobody has.
const NEAR: usize = 256;

#[derive(Debug)]
#[repr(transparent)]
struct Owner(AtomicU32);

// SAFETY: clear bytes are the number 0; it is an atomic.
unsafe impl Entry for Owner {}

/// The number of a slot.
pub type Number = u32;

#[derive(Debug, Default)]
struct Fifo {
    first: Number,
    last: Number,
    len: usize,
}

#[derive(Debug)]
struct Lists {
    quarantine: Fifo,
    /// Pages of the quarantine.
    pages: usize,
    spare: Fifo,
    /// Slots that were ever used.
    used: Number,
}

/// All slots.
pub struct Slots {
    window: Range<usize>,
    slots: Table<Slot>,
    owners: Table<Owner>,
    lists: lock_api::Mutex<RawLock, Lists>,
    late: AtomicU32,
}

/// Slots for a window of so many pages: an allocation has one and a guard at least.
fn most(pages: usize) -> usize {
    pages / 2 + 2 * REMEMBERED
}

impl Slots {
    /// For the allocations of a window.
    pub fn new(window: Range<usize>) -> Option<Slots> {
        let none = || Fifo { first: 0, last: 0, len: 0 };
        let lists = Lists { quarantine: none(), pages: 0, spare: none(), used: 0 };
        Some(Slots {
            owners: Table::new(window.len() / PAGE)?,
            slots: Table::new(most(window.len() / PAGE))?,
            window,
            lists: lock_api::Mutex::new(lists),
            late: AtomicU32::new(0),
        })
    }

    /// The slot with this number.
    pub fn get(&self, number: Number) -> Option<&Slot> {
        self.slots.get(number as usize).filter(|_| number != 0)
    }

    /// A slot for a new allocation: the one that has remembered longest, or one that was never used.
    pub fn take(&self) -> Option<Number> {
        let mut lists = self.lists.lock();
        if lists.spare.len > REMEMBERED {
            return self.pop(&mut lists.spare);
        }
        let number = lists.used + 1;
        self.slots.open(number as usize)?;
        lists.used = number;
        Some(number)
    }

    /// Gives a slot back that has nothing to remember, or nothing more than it has.
    pub fn give_back(&self, number: Number) {
        self.push(&mut self.lists.lock().spare, number);
    }

    /// The pages of `place` belong to this slot. False where there is no memory for that.
    pub fn own(&self, place: &Place, number: Number) -> bool {
        let first = (place.area - self.window.start) / PAGE;
        if self.owners.open(first + place.pages - 1).is_none() {
            return false;
        }
        let owners = (first..first + place.pages).filter_map(|page| self.owners.get(page));
        owners.for_each(|owner| owner.0.store(number, Release));
        true
    }

    /// A closed slot goes into quarantine.
    pub fn quarantine(&self, number: Number, pages: usize) {
        let mut lists = self.lists.lock();
        self.push(&mut lists.quarantine, number);
        lists.pages += pages;
    }

    /// The oldest slot of a quarantine of more than `most` pages leaves it.
    pub fn leave(&self, most: usize) -> Option<(Number, &Slot)> {
        let mut lists = self.lists.lock();
        if lists.pages <= most {
            return None;
        }
        let number = self.pop(&mut lists.quarantine)?;
        let slot = self.get(number)?;
        lists.pages -= slot.place().pages;
        Some((number, slot))
    }

    fn push(&self, list: &mut Fifo, number: Number) {
        self.get(number).into_iter().for_each(|slot| slot.next.store(0, Relaxed));
        match self.get(list.last) {
            Some(last) => last.next.store(number, Relaxed),
            None => list.first = number,
        }
        list.last = number;
        list.len += 1;
    }

    fn pop(&self, list: &mut Fifo) -> Option<Number> {
        let number = list.first;
        list.first = self.get(number)?.next.load(Relaxed);
        list.last = if list.first == 0 { 0 } else { list.last };
        list.len -= 1;
        Some(number)
    }

    /// A slot is to be closed by a later call.
    pub fn close_later(&self, number: Number) {
        let Some(slot) = self.get(number) else { return };
        let push = |first| {
            slot.next.store(first, Relaxed);
            Some(number)
        };
        // It always succeeds in the end.
        let _ = self.late.fetch_update(AcqRel, Acquire, push);
    }

    /// Calls `f` with each slot that is to be closed.
    pub fn late(&self, mut f: impl FnMut(Number, &Slot)) {
        if self.late.load(Relaxed) == 0 {
            return;
        }
        let mut number = self.late.swap(0, AcqRel);
        while let Some(slot) = self.get(number) {
            let next = slot.next.load(Relaxed);
            f(number, slot);
            number = next;
        }
    }

    /// The slot of the page that holds `at`, if it had it last.
    pub fn at(&self, at: usize) -> Option<(Number, &Slot)> {
        let page = at.checked_sub(self.window.start)? / PAGE;
        let number = self.owners.get(page)?.0.load(Acquire);
        let slot = self.get(number)?;
        (slot.state() != State::Spare && slot.place().all().contains(&at)).then_some((number, slot))
    }

    /// The nearest slots below and above a page that nobody has.
    pub fn beside(&self, at: usize) -> [Option<&Slot>; 2] {
        let below = (1..=NEAR).find_map(|n| self.at(at.saturating_sub(n * PAGE)));
        let above = (1..=NEAR).find_map(|n| self.at(at + n * PAGE));
        [below, above].map(|found| found.map(|(_, slot)| slot))
    }

    /// All slots that were ever used.
    pub fn all(&self) -> impl Iterator<Item = &Slot> {
        (1..).map_while(|number| self.get(number)).filter(|slot| slot.state() != State::Spare)
    }

    /// The window has this number of pages from now on.
    pub fn cut(&self, pages: usize) {
        self.slots.cut(most(pages));
        self.owners.cut(pages);
    }

    /// Before a fork: nobody is in the middle of a change.
    pub fn hold(&self) {
        core::mem::forget(self.lists.lock());
        self.slots.hold();
        self.owners.hold();
    }

    /// After a fork.
    ///
    /// # Safety
    /// The thread has called [`Slots::hold`].
    pub unsafe fn give_up(&self) {
        // SAFETY: the caller's promise.
        unsafe {
            self.owners.give_up();
            self.slots.give_up();
            self.lists.force_unlock();
        }
    }
}
