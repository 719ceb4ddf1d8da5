//! The slot cache: one CPU's cached slots of one region, by class.
//!
//! A cached slot has been freed and still has its frames in its entries. The cached slots of a
//! class form one list, newest first. The links are stored in the slots themselves, in fields that
//! a cached slot does not use otherwise. The newest slot's link to a newer one is stale.
//!
//! ```text
//!   list of a class:  newest ⇄ older ⇄ … ⇄ oldest       low: its shortest length since the last tick
//! ```
//!
//! # Rules
//! - **K5** A slot is on the list of its class, once, if and only if it is cached. The one
//!   exception is a slot that is being evicted.
//! - **K6** An allocation reuses the newest slot that fits. Two kinds of slot are evicted: the
//!   oldest of the class that was used the longest ago, and the surplus of a class, which are the
//!   slots that it did not need between two ticks.
//!
//! # Locks
//! None. Only a caller inside the owner's CPU uses its cache.

use super::chunk::{Chunk, ChunkRef};
use super::class::{CLASSES, Class, MAX_SLOTS};
use super::slot::Slot;
use crate::error::Broken;
use crate::sync::Ordering::Relaxed;
use core::ptr::with_exposed_provenance_mut;

/// The most pages that one CPU may cache. A list then has at most twice as many slots, which fits
/// its count.
pub const MAX_CACHED_PAGES: usize = i16::MAX as usize;

/// How many slots of a list a search for the right size looks at.
const SCAN_LIMIT: usize = 16;

/// A slot as one word: the address of the header, plus the number of the slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Link(usize);

const NONE: Link = Link(0);

const _: () = assert!(align_of::<Chunk>() >= MAX_SLOTS, "a slot's number fits below a header's address");

impl Link {
    fn new(chunk: ChunkRef, slot: u32) -> Link {
        Link(chunk.as_ptr().expose_provenance() | slot as usize)
    }

    #[inline]
    fn get(self) -> Option<(ChunkRef, u32)> {
        let header = with_exposed_provenance_mut(self.0 & !(MAX_SLOTS - 1));
        // SAFETY: H2: `new` exposed what `as_ptr` returned.
        let chunk = unsafe { ChunkRef::from_ptr(header) }?;
        Some((chunk, (self.0 % MAX_SLOTS) as u32))
    }

    #[inline]
    fn older(self) -> Link {
        self.get().map_or(NONE, |(chunk, slot)| Link(chunk.slot(slot).neighbours().0.load(Relaxed) as usize))
    }

    #[inline]
    fn newer(self) -> Link {
        self.get().map_or(NONE, |(chunk, slot)| Link(chunk.slot(slot).neighbours().1.load(Relaxed) as usize))
    }

    #[inline]
    fn set_older(self, to: Link) {
        if let Some((chunk, slot)) = self.get() {
            chunk.slot(slot).neighbours().0.store(to.0 as u64, Relaxed);
        }
    }

    #[inline]
    fn set_newer(self, to: Link) {
        if let Some((chunk, slot)) = self.get() {
            chunk.slot(slot).neighbours().1.store(to.0 as u64, Relaxed);
        }
    }
}

/// The cached slots of one class.
#[derive(Clone, Copy, Debug)]
struct List {
    newest: Link,
    oldest: Link,
    /// The time of its last use.
    used: u32,
    slots: u16,
    /// Its neighbours in the order of use: the class used before it, and the class used after it.
    before: u8,
    after: u8,
}

/// No class. A list outside the order of use names itself instead.
const NOBODY: u8 = u8::MAX;

/// One CPU's cached slots of one region.
#[derive(Debug)]
pub struct SlotCache {
    lists: [List; CLASSES],
    /// The shortest length of each list since the last call of `surplus` (K6).
    lows: [u16; CLASSES],
    /// The ends of the order of use: the class used last, and the class used the longest ago. An
    /// empty list leaves the order when it comes to the end.
    latest: u8,
    idlest: u8,
}

impl Default for SlotCache {
    fn default() -> SlotCache {
        let list =
            |class| List { newest: NONE, oldest: NONE, used: 0, slots: 0, before: class as u8, after: class as u8 };
        SlotCache { lists: core::array::from_fn(list), lows: [0; CLASSES], latest: NOBODY, idlest: NOBODY }
    }
}

impl SlotCache {
    /// Adds a cached slot of `class` at time `now`.
    #[inline(always)]
    pub fn push(&mut self, class: Class, chunk: ChunkRef, slot: u32, now: u32) {
        let link = Link::new(chunk, slot);
        let list = &mut self.lists[class.index()];
        chunk.slot(slot).neighbours().0.store(list.newest.0 as u64, Relaxed);
        if list.newest == NONE {
            list.oldest = link
        } else {
            list.newest.set_newer(link)
        }
        (list.newest, list.used) = (link, now);
        list.slots += 1;
        self.touch(class);
    }

    /// The newest slot of `class`, and whether it `fits`: then it is taken, at time `now`.
    #[inline(always)]
    pub fn take_newest(
        &mut self,
        class: Class,
        now: u32,
        fits: impl FnOnce(&Slot) -> bool,
    ) -> Option<((ChunkRef, u32), bool)> {
        let (chunk, slot) = self.lists[class.index()].newest.get()?;
        let taken = fits(chunk.slot(slot));
        if taken {
            self.remove_newest(class, chunk.slot(slot), now);
        }
        Some(((chunk, slot), taken))
    }

    #[inline(always)]
    fn remove_newest(&mut self, class: Class, newest: &Slot, now: u32) {
        let list = &mut self.lists[class.index()];
        list.used = now;
        list.newest = Link(newest.neighbours().0.load(Relaxed) as usize);
        if list.newest == NONE {
            list.oldest = NONE;
        }
        self.took_one(class);
        self.touch(class);
    }

    /// The newest slot of `class` that `fits`.
    ///
    /// # Cost
    /// O(1): looks at a few slots.
    pub fn find(&self, class: Class, fits: impl Fn(&Slot) -> bool) -> Option<(ChunkRef, u32)> {
        let mut link = self.lists[class.index()].newest;
        for _ in 0..SCAN_LIMIT {
            let (chunk, slot) = link.get()?;
            if fits(chunk.slot(slot)) {
                return Some((chunk, slot));
            }
            link = link.older();
        }
        None
    }

    /// Takes a slot of `class` that was found, at time `now`.
    #[inline(always)]
    pub fn take(&mut self, class: Class, (chunk, slot): (ChunkRef, u32), now: u32) {
        let link = Link::new(chunk, slot);
        if self.lists[class.index()].newest == link {
            return self.remove_newest(class, chunk.slot(slot), now);
        }
        self.lists[class.index()].used = now;
        self.unlink(class, link);
        self.touch(class);
    }

    /// Takes the oldest slot of `class`.
    pub fn take_oldest(&mut self, class: Class) -> Option<(ChunkRef, u32)> {
        let link = self.lists[class.index()].oldest;
        let place = link.get()?;
        self.unlink(class, link);
        Some(place)
    }

    /// The class that was used the longest ago and has slots, and the time since its last use (K6).
    pub fn idlest(&mut self, now: u32) -> Option<(u32, Class)> {
        while self.idlest != NOBODY {
            let (class, list) = (self.idlest, &self.lists[self.idlest as usize]);
            if list.slots > 0 {
                return Some((now.wrapping_sub(list.used), Class::from_index(class as usize)));
            }
            self.leave(class);
        }
        None
    }

    /// Moves `class` to the recent end of the order of use.
    #[inline]
    fn touch(&mut self, class: Class) {
        if self.latest != class.index() as u8 {
            self.lead(class.index() as u8);
        }
    }

    fn lead(&mut self, class: u8) {
        if self.lists[class as usize].after != class {
            self.leave(class);
        }
        let latest = core::mem::replace(&mut self.latest, class);
        (self.lists[class as usize].before, self.lists[class as usize].after) = (latest, NOBODY);
        match self.lists.get_mut(latest as usize) {
            Some(next) => next.after = class,
            None => self.idlest = class,
        }
    }

    /// Removes a class from the order of use.
    fn leave(&mut self, class: u8) {
        let List { before, after, .. } = self.lists[class as usize];
        match self.lists.get_mut(before as usize) {
            Some(older) => older.after = after,
            None => self.idlest = after,
        }
        match self.lists.get_mut(after as usize) {
            Some(newer) => newer.before = before,
            None => self.latest = before,
        }
        (self.lists[class as usize].before, self.lists[class as usize].after) = (class, class);
    }

    /// The number of slots that the class has not needed since the last call (K6).
    pub fn surplus(&mut self, class: Class) -> u32 {
        core::mem::replace(&mut self.lows[class.index()], self.lists[class.index()].slots) as u32
    }

    fn unlink(&mut self, class: Class, link: Link) {
        let list = &mut self.lists[class.index()];
        let older = link.older();
        let newer = if link == list.newest { NONE } else { link.newer() };
        if newer == NONE {
            list.newest = older
        } else {
            newer.set_older(older)
        }
        if older == NONE {
            list.oldest = newer
        } else {
            older.set_newer(newer)
        }
        self.took_one(class);
    }

    #[inline(always)]
    fn took_one(&mut self, class: Class) {
        let (list, low) = (&mut self.lists[class.index()], &mut self.lows[class.index()]);
        list.slots -= 1;
        *low = (*low).min(list.slots);
    }

    /// Checks K5 and returns the number of slots.
    ///
    /// # Errors
    /// The broken rule, and the address of the header.
    pub fn check(&self) -> Result<usize, Broken> {
        let mut all = 0;
        for class in Class::all() {
            let list = &self.lists[class.index()];
            let (mut link, mut newer, mut slots) = (list.newest, NONE, 0);
            while let Some((chunk, slot)) = link.get() {
                let cached = chunk.cached_slots() >> slot & 1 != 0 && chunk.class() == Some(class);
                let linked = newer == NONE || link.newer() == newer;
                if !cached || !linked || slots == list.slots {
                    return Err(Broken { rule: "K5", at: link.0 });
                }
                (newer, link, slots) = (link, link.older(), slots + 1);
            }
            let ordered = list.after != class.index() as u8;
            let low = self.lows[class.index()];
            if list.oldest != newer || slots != list.slots || (slots > 0 && !ordered) || low > slots {
                return Err(Broken { rule: "K5", at: class.index() });
            }
            all += slots as usize;
        }
        Ok(all)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::area::RegionId;
    use crate::units::{Pfn, VirtAddr};
    extern crate std;
    use std::boxed::Box;
    use std::vec::Vec;

    const CLASS: usize = 30;

    /// A chunk whose slots are all cached. Slot n has n pages. The chunk is leaked.
    fn cached_chunk() -> ChunkRef {
        let chunk = Box::leak(Box::new(Chunk::new(Pfn(0))));
        let class = Class::of(CLASS, 1).unwrap();
        chunk.become_class(class, 64, VirtAddr(0x4000_0000), RegionId(0), 0);
        while let Some(slot) = chunk.take() {
            chunk.make_live(slot);
            chunk.slot(slot).truncate(slot as usize);
            assert!(chunk.cache(slot));
        }
        // SAFETY: H2: it was leaked.
        unsafe { ChunkRef::from_ptr(chunk) }.unwrap()
    }

    fn slot_cache(slots: &[u32]) -> (SlotCache, ChunkRef, Class) {
        let (mut slot_cache, chunk, class) = (SlotCache::default(), cached_chunk(), Class::of(CLASS, 1).unwrap());
        slots.iter().for_each(|&slot| slot_cache.push(class, chunk, slot, slot));
        assert_eq!(slot_cache.check(), Ok(slots.len()));
        (slot_cache, chunk, class)
    }

    fn take(slot_cache: &mut SlotCache, class: Class, now: u32, fits: impl Fn(usize) -> bool) -> Option<u32> {
        // If the newest slot fits, both ways of taking it must return it.
        if now.is_multiple_of(2)
            && let Some(((_, slot), true)) = slot_cache.take_newest(class, now, |slot| fits(slot.pages()))
        {
            return Some(slot);
        }
        let found = slot_cache.find(class, |slot| fits(slot.pages()))?;
        slot_cache.take(class, found, now);
        Some(found.1)
    }

    #[test]
    fn the_newest_that_fits_is_taken_and_the_oldest_is_given_up() {
        let (mut slot_cache, _, class) = slot_cache(&[1, 2, 3, 4, 5]);
        let mut take = |odd| take(&mut slot_cache, class, 9, |pages| pages % 2 == odd);
        assert_eq!([take(0), take(1)], [Some(4), Some(5)], "K6");
        assert_eq!(slot_cache.check(), Ok(3));
        let oldest: Vec<u32> = core::iter::from_fn(|| slot_cache.take_oldest(class)).map(|place| place.1).collect();
        assert_eq!(oldest, [1, 2, 3], "K6");
        assert_eq!((slot_cache.check(), slot_cache.idlest(9)), (Ok(0), None));
    }

    #[test]
    fn only_a_few_are_looked_at() {
        let slots: Vec<u32> = (0..=SCAN_LIMIT as u32).collect();
        let (mut slot_cache, ..) = slot_cache(&slots);
        let class = Class::of(CLASS, 1).unwrap();
        assert_eq!(take(&mut slot_cache, class, 0, |pages| pages == 0), None);
        assert_eq!(take(&mut slot_cache, class, 0, |pages| pages == 1), Some(1));
    }

    #[test]
    fn the_class_that_was_not_used_for_longest_is_the_idlest() {
        let (mut slot_cache, ..) = slot_cache(&[1, 2]);
        let other = Class::of(1, 1).unwrap();
        let class = Class::of(CLASS, 1).unwrap();
        assert_eq!(slot_cache.idlest(5), Some((3, class)));
        let chunk = Box::leak(Box::new(Chunk::new(Pfn(1))));
        chunk.become_class(other, 4, VirtAddr(0x8000_0000), RegionId(0), 0);
        assert!(chunk.take() == Some(0) && chunk.cache(0));
        // SAFETY: H2: it was leaked.
        slot_cache.push(other, unsafe { ChunkRef::from_ptr(chunk) }.unwrap(), 0, 4);
        assert_eq!(slot_cache.idlest(5), Some((3, class)));
        take(&mut slot_cache, class, 6, |_| true);
        assert_eq!(slot_cache.idlest(u32::MAX.wrapping_add(8)), Some((3, other)));
        assert_eq!(slot_cache.check(), Ok(2));
    }

    #[test]
    fn the_surplus_is_what_was_never_needed_since_the_last_look() {
        let (mut slot_cache, chunk, class) = slot_cache(&[1, 2, 3, 4]);
        assert_eq!(slot_cache.surplus(class), 0, "there were none before");
        for _ in 0..3 {
            let slot = take(&mut slot_cache, class, 0, |_| true).unwrap();
            slot_cache.push(class, chunk, slot, 0);
        }
        assert_eq!((slot_cache.surplus(class), slot_cache.surplus(class)), (3, 4), "one was in use, then none");
    }

    #[test]
    fn a_slot_on_a_list_that_is_not_cached_is_seen() {
        let (slot_cache, chunk, _) = slot_cache(&[1, 2]);
        chunk.uncache(2);
        assert!(matches!(slot_cache.check(), Err(Broken { rule: "K5", .. })));
    }
}
