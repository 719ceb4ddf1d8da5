//! What a CPU remembers of the tables: a few entries, replaced at random.
//!
//! One shape serves both caches. A TLB holds entries of level 1: page number
//! to frame. A paging-structure cache holds entries of level 2 and up: the
//! address bits that select the entry, to the frame of the table below. What
//! is in here leaves by a flush, or by chance, and by nothing else: that the
//! tables have changed is not noticed.

use crate::rng::Rng;
use vmalloc::machine::format::Prot;
use vmalloc::units::Pfn;

/// How a CPU came to look at an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// A program loaded or stored.
    Access,
    /// The CPU guessed that it might be needed.
    Speculation,
}

/// An entry as the CPU found it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cached {
    pub(crate) level: u8,
    /// The address, shifted so that the entry's own index bits are the lowest.
    pub(crate) prefix: usize,
    /// The frame of the page, or of the table below.
    pub(crate) frame: Pfn,
    pub(crate) prot: Prot,
    /// The event at which it was picked up.
    pub(crate) since: u64,
    pub(crate) how: How,
}

#[derive(Debug)]
pub(crate) struct Cache {
    slots: Vec<Option<Cached>>,
    /// What each slot is for, beside it: they are looked through at every access.
    keys: Vec<u64>,
}

/// The key of an empty slot.
const EMPTY: u64 = 0;

/// Level and prefix in one word: no prefix has more than 52 bits, and no level is 0.
fn key(level: u8, prefix: usize) -> u64 {
    (prefix as u64) << 3 | level as u64
}

impl Cache {
    pub(crate) fn new(slots: usize) -> Cache {
        let slots = slots.max(1);
        Cache { slots: vec![None; slots], keys: vec![EMPTY; slots] }
    }

    pub(crate) fn find(&self, level: u8, prefix: usize) -> Option<Cached> {
        self.position(key(level, prefix)).and_then(|at| self.slots[at])
    }

    fn position(&self, key: u64) -> Option<usize> {
        self.keys.iter().position(|&other| other == key)
    }

    /// Keeps `entry`: over one for the same address, else in an empty slot,
    /// else over any. Returns what it replaced.
    pub(crate) fn insert(&mut self, entry: Cached, rng: &mut Rng) -> Option<Cached> {
        let key = key(entry.level, entry.prefix);
        let at = self.position(key).or_else(|| self.position(EMPTY));
        let at = at.unwrap_or_else(|| rng.below(self.slots.len() as u64) as usize);
        self.keys[at] = key;
        self.slots[at].replace(entry)
    }

    /// Forgets the entries that `which` picks, and tells `gone` of each.
    pub(crate) fn forget(&mut self, mut which: impl FnMut(&Cached) -> bool, mut gone: impl FnMut(Cached)) {
        for (slot, key) in self.slots.iter_mut().zip(&mut self.keys) {
            if let Some(entry) = slot.take_if(|c| which(c)) {
                *key = EMPTY;
                gone(entry);
            }
        }
    }

    /// Forgets the entry in a slot chosen at random, if there is one.
    pub(crate) fn evict(&mut self, rng: &mut Rng) -> Option<Cached> {
        let at = rng.below(self.slots.len() as u64) as usize;
        self.keys[at] = EMPTY;
        self.slots[at].take()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Cached> + '_ {
        self.slots.iter().flatten().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(prefix: usize, frame: u64) -> Cached {
        Cached { level: 1, prefix, frame: Pfn(frame), prot: Prot::RW, since: 0, how: How::Access }
    }

    #[test]
    fn the_same_address_is_replaced_and_a_full_cache_drops_one() {
        let (mut cache, mut rng) = (Cache::new(2), Rng::new(1));
        assert!(cache.insert(entry(1, 10), &mut rng).is_none());
        assert_eq!(cache.insert(entry(1, 11), &mut rng).map(|c| c.frame), Some(Pfn(10)));
        assert!(cache.insert(entry(2, 20), &mut rng).is_none());
        let lost = cache.insert(entry(3, 30), &mut rng).expect("one had to go");
        assert!(cache.find(1, lost.prefix).is_none());
        assert_eq!(cache.iter().count(), 2);
    }

    #[test]
    fn levels_are_told_apart_and_forgetting_is_exact() {
        let (mut cache, mut rng) = (Cache::new(4), Rng::new(1));
        cache.insert(entry(7, 1), &mut rng);
        cache.insert(Cached { level: 2, ..entry(7, 2) }, &mut rng);
        assert_eq!(cache.find(2, 7).map(|c| c.frame), Some(Pfn(2)));
        let mut gone = Vec::new();
        cache.forget(|c| c.level == 1, |c| gone.push(c.frame));
        assert_eq!((gone, cache.iter().count()), (vec![Pfn(1)], 1));
    }
}
