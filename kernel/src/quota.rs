//! Quotas: how many pages the areas of a group may have together.
//!
//! A quota hangs on the events of the machine: its `note` names the group of the current
//! task and hands the event on to [`Quotas::note`]. Nothing is asked on the way of an allocation
//! where no machine does so, and of a group without a quota nothing is counted.
//!
//! ```text
//!   publish, grow ──▶ is it over? ── yes ──▶ refused (EDQUOT), and nothing is charged
//!                        └── no ──▶ charged, and the area's group is noted ──▶ claim, shrink: given back
//! ```
//!
//! Whoever frees an area need not be of its group: the group is found by the area's address, in a
//! table that the embedder lends. Where it has no room, an area is refused as one over the quota.
//! Frames that are somebody else's, and addresses alone, are not charged.
//!
//! An area that [`vrealloc`](crate::Kernel::vrealloc) moves is charged at both places until the old one
//! is freed, though most frames are the same: for that moment there are two areas, and until the end it
//! can be refused. So it may be refused where its new size alone would fit; a quota has room for the
//! largest area that grows, twice. One that grows where it is needs its gain alone.

use crate::sync::{AtomicUsize, Ordering::Relaxed};
use vmalloc::machine::event::Event;
use vmalloc::units::PAGE_SIZE;

/// The error number with which an area over its group's quota is refused (EDQUOT).
pub const OVER_QUOTA: i32 = 122;

/// A group that has no quota.
const UNLIMITED: usize = usize::MAX;
/// Groups at most: their number lies where an area's address has only zeros.
const MAX_GROUPS: usize = PAGE_SIZE - 1;

/// An area that is charged: its address, and its group's number in the low bits. 0 = none.
#[derive(Debug, Default)]
pub struct Charge(AtomicUsize);

impl Charge {
    /// No area: what a table of charges is filled with at first.
    pub const fn none() -> Charge {
        Charge(AtomicUsize::new(0))
    }
}

/// The quota of one group.
#[derive(Debug)]
pub struct Group {
    limit: AtomicUsize,
    used: AtomicUsize,
    refused: AtomicUsize,
}

impl Group {
    /// A group without a quota.
    pub const fn unlimited() -> Group {
        Group { limit: AtomicUsize::new(UNLIMITED), used: AtomicUsize::new(0), refused: AtomicUsize::new(0) }
    }

    /// The quota is so many pages from here on; `None` = there is none. What is charged stays so.
    pub fn set(&self, pages: Option<usize>) {
        self.limit.store(pages.unwrap_or(UNLIMITED), Relaxed);
    }

    /// Pages that are charged.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Areas, and more pages of areas, that were refused.
    pub fn refused(&self) -> usize {
        self.refused.load(Relaxed)
    }

    /// Charges `pages` if the quota allows it.
    fn charge(&self, pages: usize) -> bool {
        let limit = self.limit.load(Relaxed);
        let within = |used: usize| used.checked_add(pages).filter(|&sum| sum <= limit);
        self.used.fetch_update(Relaxed, Relaxed, within).is_ok()
    }

    fn give_back(&self, pages: usize) {
        self.used.fetch_sub(pages, Relaxed);
    }

    fn refuse(&self) -> Result<(), i32> {
        self.refused.fetch_add(1, Relaxed);
        Err(OVER_QUOTA)
    }
}

/// The quotas of groups.
#[derive(Debug)]
pub struct Quotas<'t> {
    groups: &'t [Group],
    table: &'t [Charge],
}

impl<'t> Quotas<'t> {
    /// Quotas of these groups, of whose areas as many as `table` has room for can live at a time.
    ///
    /// # Panics
    /// For 4,095 groups and more.
    pub const fn new(groups: &'t [Group], table: &'t [Charge]) -> Quotas<'t> {
        assert!(groups.len() < MAX_GROUPS);
        Quotas { groups, table }
    }

    /// The groups.
    pub const fn groups(&self) -> &'t [Group] {
        self.groups
    }

    /// Hears of an event, on behalf of the group with the number `group`; a number that is none
    /// has no quota. For [`Machine::note`](vmalloc::machine::Machine::note): from any context, by
    /// atomics alone.
    ///
    /// # Errors
    /// [`OVER_QUOTA`] for an area, or for more pages of one, that the group may not have.
    ///
    /// # Cost
    /// O(1) on average while half of the table is free; nothing where no group has a quota.
    pub fn note(&self, group: usize, event: &Event) -> Result<(), i32> {
        match *event {
            Event::Publish { start, pages, kind, .. } if kind.owns() => self.publish(group, start.0, pages),
            Event::Claim { start, pages, .. } => {
                if let Some(group) = self.forget(start.0) {
                    group.give_back(pages);
                }
                Ok(())
            }
            Event::Resize { start, from, to } => self.resize(start.0, from, to),
            _ => Ok(()),
        }
    }

    fn publish(&self, number: usize, start: usize, pages: usize) -> Result<(), i32> {
        let Some(group) = self.groups.get(number) else { return Ok(()) };
        if group.limit.load(Relaxed) == UNLIMITED {
            return Ok(());
        }
        if !group.charge(pages) {
            return group.refuse();
        }
        if !self.keep(start, number) {
            group.give_back(pages);
            return group.refuse();
        }
        Ok(())
    }

    fn resize(&self, start: usize, from: usize, to: usize) -> Result<(), i32> {
        let charged = |(_, number): (&Charge, usize)| self.groups.get(number);
        let Some(group) = self.find(start).and_then(charged) else { return Ok(()) };
        match to.checked_sub(from) {
            Some(more) if !group.charge(more) => return group.refuse(),
            Some(_) => (),
            None => group.give_back(from - to),
        }
        Ok(())
    }

    /// Notes the group of an area; false = there is no room.
    fn keep(&self, start: usize, number: usize) -> bool {
        let word = start | (number + 1);
        self.places(start).any(|place| place.0.compare_exchange(0, word, Relaxed, Relaxed).is_ok())
    }

    /// Two frees of one area may both be told: one of them finds it.
    fn forget(&self, start: usize) -> Option<&Group> {
        let (place, number) = self.find(start)?;
        let word = start | (number + 1);
        place.0.compare_exchange(word, 0, Relaxed, Relaxed).ok()?;
        self.groups.get(number)
    }

    /// Where an area is noted, and its group's number. An area that is not charged is looked for in
    /// the whole table.
    fn find(&self, start: usize) -> Option<(&Charge, usize)> {
        if self.groups.iter().all(|group| group.used() == 0) {
            return None;
        }
        self.places(start).find_map(|place| {
            let word = place.0.load(Relaxed);
            (word != 0 && word & !(PAGE_SIZE - 1) == start).then(|| (place, (word & (PAGE_SIZE - 1)) - 1))
        })
    }

    /// The whole table, from a place on that goes by the address.
    fn places(&self, start: usize) -> impl Iterator<Item = &Charge> {
        let first = (start / PAGE_SIZE).wrapping_mul(0x9e37_79b1).checked_rem(self.table.len()).unwrap_or(0);
        self.table[first..].iter().chain(&self.table[..first])
    }
}
