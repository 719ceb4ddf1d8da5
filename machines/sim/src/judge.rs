//! Judging what a CPU remembers against what the tables say.
//!
//! | Cached | The tables say | Verdict |
//! |---|---|---|
//! | page → frame | the same, with the same protection | fresh |
//! | page → frame | the same, with another protection, while that is being changed | fresh |
//! | page → frame | waiting, the same frame | a use after free, before grace: legal |
//! | page → frame | nothing since it was unmapped | the same, for a frame that is somebody's: legal |
//! | page → frame | another frame, another protection, or nothing | **stale**: reused before grace (G2, G3) |
//! | table at a place | the same table there | fresh |
//! | table at a place | nothing there | legal while all entries of that table are not present |
//! | table at a place | another table, or a leaf | **stale** (G3, T1) |
//!
//! An entry goes from waiting to absent only after grace, so at no moment may
//! a CPU that is awake remember a page whose entry says nothing, but for one that
//! went from its frame to nothing at once, and has not been written since. What
//! becomes of that frame is judged when it changes hands. Where CPUs interleave such
//! a page is seen before the machine is told of it, so there each is taken for one.

use crate::cache::Cached;
use crate::cpu::State;
use crate::walk::{Place, covered};
use crate::{Core, turn};
use core::ops::Range;
use vmalloc::machine::format::{Entry, Format, entries};
use vmalloc::units::{PAGE_SHIFT, Pfn, VirtAddr};

/// Ends the run with `story`, unless it is ending already.
pub(crate) fn accuse(story: &str) {
    if std::thread::panicking() {
        eprintln!("{story}");
    } else {
        panic!("{story}");
    }
}

impl<F: Format> Core<F> {
    /// Judges one entry that `cpu` remembers: true where it is stale but
    /// legal. Panics, with the story, where it is not.
    pub(crate) fn judge(&self, s: &State, cpu: u32, cached: &Cached) -> bool {
        let at = covered::<F>(cached.level, cached.prefix).start;
        let (place, now) = self.truth(at, cached.level);
        let verdict = match cached.level {
            1 => self.judge_page(s, cached, place, now),
            _ => self.judge_table(cached, now),
        };
        verdict.unwrap_or_else(|why| {
            accuse(&self.story(s, cpu, cached, (place, now), why));
            true
        })
    }

    fn judge_page(&self, s: &State, cached: &Cached, place: Place, now: Entry) -> Result<bool, &'static str> {
        let inside = cached.prefix & (covered::<F>(place.level, 0).pages - 1);
        let is_same = |frame: Pfn| frame.offset(inside as u64) == cached.frame;
        match now {
            Entry::Leaf { frame, prot } if is_same(frame) && prot == cached.prot => Ok(false),
            Entry::Leaf { frame, .. } if is_same(frame) && s.protecting.contains(&cached.prefix) => Ok(false),
            Entry::Leaf { frame, .. } if is_same(frame) => Err("the protection was changed without a flush"),
            Entry::Leaf { .. } => Err("the page was bound to another frame before grace"),
            Entry::Parked(frame) if is_same(frame) => Ok(true),
            Entry::Parked(_) => Err("the page was bound to another frame, and freed, before grace"),
            Entry::Absent if place.level == 1 && (turn::is_racing() || s.cleared.contains(&cached.prefix)) => Ok(true),
            Entry::Absent => Err("the entry was collected before grace"),
            Entry::Table(_) | Entry::Foreign | Entry::Restricted | Entry::Bad => {
                Err("the entry is none that the CPU could have seen")
            }
        }
    }

    fn judge_table(&self, cached: &Cached, now: Entry) -> Result<bool, &'static str> {
        match now {
            Entry::Table(frame) if frame == cached.frame => Ok(false),
            Entry::Absent if self.is_barren(Place { table: cached.frame, level: cached.level - 1 }) => Ok(true),
            Entry::Absent => Err("the table page was reused while it could be walked"),
            _ => Err("another table was linked before grace"),
        }
    }

    /// Whether no entry of a table is present.
    fn is_barren(&self, place: Place) -> bool {
        let step = covered::<F>(place.level, 0).bytes();
        (0..entries::<F>()).all(|index| {
            // A waiting entry is not present at any level: that is how a prealloc
            // links the tables that it holds.
            let word = self.word(place, VirtAddr(index * step));
            matches!(word.map(|word| F::decode(word, 1)), Some(Entry::Absent | Entry::Parked(_)))
        })
    }

    /// Both sides: who picked it up, when and how, and what the tables say.
    fn story(&self, s: &State, cpu: u32, cached: &Cached, (place, now): (Place, Entry), why: &str) -> String {
        let at = covered::<F>(cached.level, cached.prefix).start;
        let frames = match now {
            Entry::Leaf { frame, .. } | Entry::Table(frame) | Entry::Parked(frame) => [cached.frame, frame],
            Entry::Absent | Entry::Foreign | Entry::Restricted | Entry::Bad => [cached.frame; 2],
        };
        let Cached { level, frame, prot, since, how, .. } = *cached;
        let held = match level {
            1 => format!("translation {at} -> {frame:?} {prot:?}"),
            _ => format!("link from {at} at level {level} to the table in {frame:?}"),
        };
        format!(
            "stale: CPU {cpu} reaches {frame:?} through a {held}: {why}\n  \
             CPU {cpu} ({:?}) picked it up at event #{since}, by {how:?}; now is event #{}\n  \
             the tables say, at level {} in {:?}: {now:?}\n  events of the page and of the frames:\n{}",
            s.cpus[cpu as usize].power,
            s.history.now(),
            place.level,
            place.table,
            s.history.story(at, &frames),
        )
    }

    /// Judges everything that any CPU could use now.
    pub(crate) fn judge_all(&self, s: &State) {
        for cpu in 0..s.cpus.len() as u32 {
            self.judge_cpu(s, cpu);
        }
    }

    /// Judges what any CPU could use now of the pages with these numbers.
    pub(crate) fn judge_pages(&self, s: &State, pages: Range<usize>) {
        for (cpu, state) in s.cpus.iter().enumerate() {
            let of_these = |c: &Cached| c.level == 1 && pages.contains(&c.prefix) && state.power.reaches(1);
            state.entries().filter(of_these).for_each(|cached| _ = self.judge(s, cpu as u32, &cached));
        }
    }

    pub(crate) fn judge_cpu(&self, s: &State, cpu: u32) {
        let power = s.cpus[cpu as usize].power;
        for cached in s.cpus[cpu as usize].entries().filter(|c| power.reaches(c.level)) {
            self.judge(s, cpu, &cached);
        }
    }

    /// Panics if a CPU reaches `frame`, which was `what`, through anything but
    /// `page`.
    pub(crate) fn judge_frame(&self, s: &State, frame: Pfn, page: Option<VirtAddr>, what: &str) {
        let known = |c: &Cached| c.level == 1 && page.is_some_and(|page| page.0 >> PAGE_SHIFT == c.prefix);
        for (cpu, state) in s.cpus.iter().enumerate() {
            let power = state.power;
            if let Some(held) = state.entries().find(|c| c.frame == frame && power.reaches(c.level) && !known(c)) {
                let found = self.truth(covered::<F>(held.level, held.prefix).start, held.level);
                accuse(&self.story(s, cpu as u32, &held, found, &format!("the frame was {what}")));
            }
        }
    }
}
