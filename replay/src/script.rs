//! The script: what is done, area by area, step by step.
//!
//! A script says nothing about addresses, so that it can be played at other
//! ones and by several CPUs at once; each step names its area by number.
//!
//! # Handing it over
//! Another machine gets a script as 64-bit words: [`WORDS_AN_AREA`] for each
//! area, [`WORDS_A_STEP`] for each step. Words that no script has are refused,
//! because they come from elsewhere.

use vmalloc::units::PAGE_SIZE;

const PAGE: u64 = PAGE_SIZE as u64;
/// Words that an area takes when it is handed over.
pub const WORDS_AN_AREA: usize = 6;
/// Words that a step takes when it is handed over.
pub const WORDS_A_STEP: usize = 1;

/// The number of an area: areas are numbered in the order of the trace.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AreaId(pub u32);

/// What is to be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Area {
    /// What kind of thing.
    pub make: Make,
    /// Bytes asked for, without the guard; of a chunk, those of each part.
    pub bytes: u64,
    /// Whether a guard page follows.
    pub guard: bool,
    /// Its alignment: a power of two, at least a page.
    pub align: u64,
    /// Whether cleared memory is asked for.
    pub zeroed: bool,
    /// Where it has to lie.
    pub place: Place,
    /// Who asks: a number, which somebody can name.
    pub caller: u32,
}

/// Where an area has to lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The region's number (while a trace is read: the range's).
    pub region: u32,
    /// Bytes from the region's start to the range's start and end, where the
    /// range is not the whole region.
    pub within: Option<(u64, u64)>,
}

/// How an area is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Make {
    /// Memory of its own.
    Vmalloc,
    /// Frames of ours, mapped.
    Vmap,
    /// A device.
    Ioremap,
    /// Addresses alone.
    Reserve,
    /// Frames of ours, mapped for a short time.
    MapRam,
    /// So many areas at fixed distances.
    Pcpu(u32),
}

/// One thing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// The CPU that it was done on.
    pub cpu: u32,
    /// What.
    pub act: Act,
}

/// What is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    /// The area is made.
    Make(AreaId),
    /// The area is given back.
    Free(AreaId),
    /// The area is given back from interrupt context.
    Defer(AreaId),
    /// The free that was deferred; it has been done by then.
    Settled(AreaId),
    /// Freed addresses are made usable again.
    Purge,
    /// The workload entered a phase: its number.
    Mark(u32),
    /// An allocation failed on the recorded machine: nothing to do.
    Fail,
}

/// A script, as it is played.
#[derive(Clone, Copy, Debug)]
pub struct Script<'a> {
    /// All areas, by [`AreaId`].
    pub areas: &'a [Area],
    /// What is to be done, in order.
    pub steps: &'a [Step],
}

impl Place {
    /// The whole of the largest region.
    pub const ANYWHERE: Place = Place { region: u32::MAX, within: None };
}

impl Make {
    /// What it is called.
    pub fn word(self) -> &'static str {
        match self {
            Make::Vmalloc => "vmalloc",
            Make::Vmap => "vmap",
            Make::Ioremap => "ioremap",
            Make::Reserve => "reserve",
            Make::MapRam => "map_ram",
            Make::Pcpu(_) => "per-CPU chunk",
        }
    }

    fn number(self) -> u64 {
        match self {
            Make::Vmalloc => 0,
            Make::Vmap => 1,
            Make::Ioremap => 2,
            Make::Reserve => 3,
            Make::MapRam => 4,
            Make::Pcpu(_) => 5,
        }
    }

    fn of(number: u64, parts: u32) -> Option<Make> {
        let all = [Make::Vmalloc, Make::Vmap, Make::Ioremap, Make::Reserve, Make::MapRam, Make::Pcpu(parts)];
        all.get(number as usize).copied()
    }
}

impl Area {
    /// Its pages (those of each part), without guards.
    pub fn page_count(&self) -> usize {
        self.bytes.div_ceil(PAGE) as usize
    }

    /// Its parts: more than one has a chunk only.
    pub fn parts(&self) -> usize {
        if let Make::Pcpu(parts) = self.make { parts as usize } else { 1 }
    }

    /// Pages of address space, with the guard; of a chunk, those of all parts.
    pub fn pages(&self) -> u64 {
        (self.bytes.div_ceil(PAGE) + u64::from(self.guard)) * self.parts() as u64
    }

    /// Frames that are somebody's and mapped there.
    pub fn frames(&self) -> usize {
        if matches!(self.make, Make::Vmap | Make::MapRam) { self.page_count() } else { 0 }
    }

    /// As it is handed over.
    pub fn words(&self) -> [u64; WORDS_AN_AREA] {
        let parts = if let Make::Pcpu(parts) = self.make { parts } else { 0 };
        let flags = u64::from(self.guard) | u64::from(self.zeroed) << 1 | u64::from(self.place.within.is_some()) << 2;
        let (start, end) = self.place.within.unwrap_or_default();
        [
            self.make.number() | flags << 8 | u64::from(self.caller) << 32,
            self.bytes,
            u64::from(self.align.trailing_zeros()) | u64::from(parts) << 32,
            u64::from(self.place.region),
            start,
            end,
        ]
    }

    /// What was handed over as `words`.
    pub fn of(words: [u64; WORDS_AN_AREA]) -> Option<Area> {
        let [kind, bytes, shape, region, start, end] = words;
        let flag = |bit: u32| kind >> (8 + bit) & 1 != 0;
        Some(Area {
            make: Make::of(kind & 0xff, (shape >> 32) as u32)?,
            bytes,
            guard: flag(0),
            align: 1u64.checked_shl(shape as u32)?,
            zeroed: flag(1),
            place: Place { region: region as u32, within: flag(2).then_some((start, end)) },
            caller: (kind >> 32) as u32,
        })
    }
}

impl Step {
    /// As it is handed over.
    pub fn word(&self) -> u64 {
        let (act, number) = match self.act {
            Act::Make(id) => (0, id.0),
            Act::Free(id) => (1, id.0),
            Act::Defer(id) => (2, id.0),
            Act::Settled(id) => (3, id.0),
            Act::Purge => (4, 0),
            Act::Mark(number) => (5, number),
            Act::Fail => (6, 0),
        };
        act | u64::from(self.cpu) << 16 | u64::from(number) << 32
    }

    /// What was handed over as `word`, if a script of `areas` areas can have
    /// it.
    pub fn of(word: u64, areas: usize) -> Option<Step> {
        let number = (word >> 32) as u32;
        let id = AreaId(number);
        let act = match word & 0xffff {
            0 => Act::Make(id),
            1 => Act::Free(id),
            2 => Act::Defer(id),
            3 => Act::Settled(id),
            4 => Act::Purge,
            5 => Act::Mark(number),
            6 => Act::Fail,
            _ => return None,
        };
        let known = act.area().is_none_or(|id| (id.0 as usize) < areas);
        known.then_some(Step { cpu: (word >> 16) as u32 & 0xffff, act })
    }
}

impl Act {
    /// The area that it is about.
    pub fn area(self) -> Option<AreaId> {
        match self {
            Act::Make(id) | Act::Free(id) | Act::Defer(id) | Act::Settled(id) => Some(id),
            Act::Purge | Act::Mark(_) | Act::Fail => None,
        }
    }
}

impl<'a> Script<'a> {
    /// The area `id`.
    pub fn area(&self, id: AreaId) -> &'a Area {
        &self.areas[id.0 as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    const PLAIN: Area = Area {
        make: Make::Vmalloc,
        bytes: 5000,
        guard: true,
        align: PAGE,
        zeroed: false,
        place: Place { region: 0, within: None },
        caller: 7,
    };

    #[test]
    fn what_is_handed_over_arrives() {
        let within = Place { region: 1, within: Some((0, u64::MAX)) };
        let areas = [
            PLAIN,
            Area { make: Make::Pcpu(4), align: 1 << 21, zeroed: true, ..PLAIN },
            Area { make: Make::MapRam, guard: false, place: within, caller: u32::MAX, bytes: u64::MAX, ..PLAIN },
        ];
        areas.iter().for_each(|area| assert_eq!(Area::of(area.words()), Some(*area)));
        let id = AreaId(2);
        let acts =
            [Act::Make(id), Act::Free(id), Act::Defer(id), Act::Settled(id), Act::Purge, Act::Mark(9), Act::Fail];
        for act in acts {
            let step = Step { cpu: 255, act };
            assert_eq!(Step::of(step.word(), 3), Some(step));
        }
    }

    #[test]
    fn words_that_no_script_has_are_refused() {
        let mut words = PLAIN.words();
        words[0] |= 0xff;
        assert_eq!(Area::of(words), None);
        assert_eq!(Area::of([0, 1, 64, 0, 0, 0]), None, "an alignment of 2 to the 64");
        assert_eq!(Step::of(7, 1), None);
        assert_eq!(Step::of(Step { cpu: 0, act: Act::Free(AreaId(3)) }.word(), 3), None, "no such area");
    }

    #[test]
    fn pages_count_guards_and_parts() {
        let pages: Vec<u64> =
            [PLAIN, Area { guard: false, ..PLAIN }, Area { make: Make::Pcpu(3), guard: false, ..PLAIN }]
                .iter()
                .map(Area::pages)
                .collect();
        assert_eq!(pages, [3, 2, 6]);
        assert_eq!((PLAIN.frames(), Area { make: Make::Vmap, ..PLAIN }.frames()), (0, 2));
    }
}
