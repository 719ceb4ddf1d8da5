//! What is known of the areas that live, by all CPUs.

use std::collections::{HashMap, HashSet, VecDeque};
use vmalloc::units::Pfn;

/// Dead addresses that are remembered.
const DEAD: usize = 16;

/// What an area is, and what its maker still holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// Memory of its own; its pages are stamped with this.
    Own(u64),
    /// Addresses alone.
    Bare,
    /// Frames of somebody else's.
    Device,
    /// A mapping, over frames that count it.
    Map(Vec<Pfn>),
    /// A mapping for a short time, whose frames are held for it.
    Short(Vec<Pfn>),
}

/// Frees of an address.
#[derive(Clone, Copy, Default, Debug)]
struct Contest {
    /// Those under way.
    frees: usize,
    /// When the last one came back.
    last: u64,
    /// One of them was not its owner's.
    stolen: bool,
}

/// An area that lives.
#[derive(Clone, Debug)]
pub struct Live {
    pub at: usize,
    pub pages: usize,
    pub what: What,
}

#[derive(Default)]
pub struct World {
    pub live: Vec<Live>,
    /// Areas that live, and that one CPU is changing.
    pub busy: Vec<usize>,
    dead: VecDeque<usize>,
    /// Addresses that are or were freed.
    contested: HashMap<usize, Contest>,
    /// Frees that have come back.
    settled: u64,
    /// Live areas whose free was refused while their address was contested.
    pub refused: Vec<Live>,
    /// Frames that are held for themselves.
    pub held: Vec<Pfn>,
    stamps: u64,
}

impl World {
    /// A number that was never given out before.
    pub fn stamp(&mut self) -> u64 {
        self.stamps += 1;
        self.stamps << 20
    }

    /// Whether nothing lives, and nothing is held.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty() && self.held.is_empty()
    }

    /// `at` is about to be freed by its owner. If somebody else frees it too, what the
    /// owner frees may be what is there next.
    pub fn dies(&mut self, at: usize) {
        self.contested.entry(at).or_default().frees += 1;
        if self.dead.len() == DEAD {
            self.dead.pop_front();
        }
        self.dead.push_back(at);
    }

    /// The dead address, `n` back, unless an area that is known lives there.
    pub fn dead(&self, n: usize) -> Option<usize> {
        let &at = self.dead.iter().rev().nth(n % DEAD)?;
        (self.live.iter().all(|area| area.at != at) && !self.busy.contains(&at)).then_some(at)
    }

    /// Somebody frees `at`, which is nobody's.
    pub fn contest(&mut self, at: usize) {
        let contest = self.contested.entry(at).or_default();
        (contest.frees, contest.stolen) = (contest.frees + 1, true);
    }

    /// That free has come back.
    pub fn settle(&mut self, at: usize) {
        self.settled += 1;
        if let Some(contest) = self.contested.get_mut(&at) {
            (contest.frees, contest.last) = (contest.frees - 1, self.settled);
        }
    }

    /// A moment, to be asked about later.
    pub fn now(&self) -> u64 {
        self.settled
    }

    /// Whether somebody has freed `at` since, or does.
    pub fn is_contested(&self, at: usize, since: u64) -> bool {
        self.contested.get(&at).is_some_and(|contest| contest.frees > 0 || contest.last > since)
    }

    /// Whether somebody has who is not its owner: a free of the owner's may meet that.
    pub fn was_contested(&self, at: usize) -> bool {
        self.contested.get(&at).is_some_and(|contest| contest.stolen)
    }

    /// Frames that nobody may be given.
    pub fn taken(&self) -> HashSet<Pfn> {
        let lent = self.live.iter().filter_map(|area| match &area.what {
            What::Short(frames) => Some(frames),
            _ => None,
        });
        lent.flatten().chain(&self.held).copied().collect()
    }
}
