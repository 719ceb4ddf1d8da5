//! Sections: what a CPU does between a pin and the end of it, with interrupts
//! off (L3).
//!
//! The library tells of nothing: its work is counted where the machine sees it, and
//! a section is the difference between its end and its beginning. Each simulated
//! CPU has its own tally ([`order`]), so that several may be inside at once.
//!
//! # Rules, judged
//! - **L3** A section does no more of anything than its bound: [`BOUNDS`]. All of its work together
//!   takes at most [`STEPS`]. What is done under one lock has bounds of its own.
//!   Pages are cleared in none.
//! - **L2** Nobody waits in a section in which he has done something: then he
//!   is inside of some CPU. Only who waits to come in, or to visit, is pinned.

use crate::cpu::Cpu;
use crate::judge::accuse;
use crate::order;
use core::fmt;

/// What a section does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// Entries of page tables read.
    Read,
    /// Entries of page tables written.
    Written,
    /// Frames asked for by their direct mapping: bookkeeping, tables, and what is
    /// cleared there.
    Reached,
    /// Calls to the source of frames.
    Asked,
    /// Frames that came from the source or went back.
    Moved,
    /// Locks taken.
    Locked,
}

/// How many of them there are.
const KINDS: usize = 6;
const NAMES: [&str; KINDS] = ["read", "written", "reached", "asked", "moved", "locked"];

/// Pages that the library maps or parks in one go (L3).
const SLICE: u64 = 128;
/// Slots, or units of addresses, that it does in one go.
const WORK: u64 = 64;

/// The most that one section may do of each, in the order of [`What`].
///
/// - Read: up to eight leaf tables are looked through, before each is unlinked; and a few entries of
///   others.
/// - Written: a free reclaims one and a half slices, and half of one more; or a policy's end parks some
///   pages before that.
/// - Reached: an arena is searched as often as one lock allows; or a dozen runs are given up, at the
///   price of some twenty frames each.
/// - Asked, moved: what is reclaimed, one by one; or a few batches.
/// - Locked: runs are given up, at the price of two locks each.
pub const BOUNDS: Work = Work([10 * 512, 3 * SLICE + WORK, 24 * WORK, 2 * SLICE + WORK, 2 * SLICE + WORK, 2 * WORK]);

/// The most steps of a page that one section may take, all its work together.
///
/// To map or to reclaim one page touches four things: its entry twice, its frame, and the frame's
/// descriptor. So a step is four touches, of anything in [`What`]. Only entries that are read count by
/// the cache line, which holds eight.
pub const STEPS: u64 = 384;
const STEP: u64 = 4;
const LINE: u64 = 8;

/// The most frames that are reached under one lock of the library's: an arena is searched 34 times,
/// and a search goes down the four levels of its tree twice. Where an arena has several windows, a
/// search downwards begins anew in each of them; and parts at fixed distances are searched for one by one.
pub const REACHED_UNDER_LOCK: u64 = 1400;
/// The most steps that are taken under one: four leaf tables are looked through, and what is free
/// around each is searched for.
pub const STEPS_UNDER_LOCK: u64 = 350;

/// Work, by kind.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Work([u64; KINDS]);

/// All that a CPU has ever done.
pub(crate) type Tally = Work;

impl Work {
    /// How much of `what`.
    pub fn of(&self, what: What) -> u64 {
        self.0[what as usize]
    }

    #[inline]
    pub(crate) fn tell(&mut self, what: What, more: u64) {
        self.0[what as usize] += more;
    }

    pub(crate) fn since(&self, begin: &Work) -> Work {
        Work(core::array::from_fn(|n| self.0[n] - begin.0[n]))
    }

    /// The most of each kind.
    pub fn most(&self, other: &Work) -> Work {
        Work(core::array::from_fn(|n| self.0[n].max(other.0[n])))
    }

    /// All of it, in steps of a page: see [`STEPS`].
    pub fn steps(&self) -> u64 {
        let touched = self.of(What::Read).div_ceil(LINE) + self.0[What::Written as usize..].iter().sum::<u64>();
        touched.div_ceil(STEP)
    }

    fn exceeds(&self, bounds: &Work) -> bool {
        self.0.iter().zip(&bounds.0).any(|(work, bound)| work > bound)
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told = f.debug_map();
        NAMES.iter().zip(self.0).for_each(|(name, work)| _ = told.entry(&format_args!("{name}"), &work));
        told.finish()
    }
}

/// The sections of one CPU.
#[derive(Debug, Default)]
pub(crate) struct Sections {
    /// What the tally said when the one that is open began.
    began: Tally,
    /// The most of each kind that one has done.
    pub(crate) longest: Work,
    /// The one that touched most.
    pub(crate) busiest: Work,
    /// The most of each kind that was done under one lock.
    pub(crate) longest_hold: Work,
}

/// What a CPU was at when an NMI came.
pub(crate) struct Interrupted {
    pins: usize,
    masked: bool,
    began: Tally,
    driven: order::Driven,
}

impl Cpu {
    /// A pin: the first one begins a section.
    pub(crate) fn begin_section(&mut self, cpu: u32) {
        order::on(cpu);
        if self.pins == 0 {
            self.sections.began = order::tally(cpu);
        }
    }

    /// A pin has ended: the last one ends the section.
    pub(crate) fn end_section(&mut self, cpu: u32, unbounded: bool) {
        if self.pins > 0 {
            return;
        }
        order::nothing_is_held(cpu, "ends its section");
        let hold = order::longest_hold(cpu);
        if unbounded {
            return;
        }
        self.sections.longest_hold = self.sections.longest_hold.most(&hold);
        if hold.of(What::Reached) > REACHED_UNDER_LOCK || hold.steps() > STEPS_UNDER_LOCK {
            accuse(&format!("L3: CPU {cpu} took {} steps under one lock: {hold:?}", hold.steps()));
        }
        let work = order::tally(cpu).since(&self.sections.began);
        self.sections.longest = self.sections.longest.most(&work);
        if work.steps() > self.sections.busiest.steps() {
            self.sections.busiest = work;
        }
        if work.exceeds(&BOUNDS) {
            accuse(&format!("L3: a section on CPU {cpu} did {work:?}; the bounds are {BOUNDS:?}"));
        }
        if work.steps() > STEPS {
            accuse(&format!("L3: a section on CPU {cpu} took {} steps of a page, by {work:?}", work.steps()));
        }
    }

    /// An NMI comes: it is in no section, and has its own.
    pub(crate) fn interrupt(&mut self, cpu: u32) -> Interrupted {
        let pins = core::mem::replace(&mut self.pins, 0);
        let masked = core::mem::replace(&mut self.masked, true);
        Interrupted { pins, masked, began: self.sections.began, driven: order::interrupt(cpu) }
    }

    /// It has ended, and what it interrupted goes on.
    pub(crate) fn resume(&mut self, cpu: u32, before: Interrupted) {
        if self.pins != 0 {
            accuse(&format!("M4: an NMI on CPU {cpu} left it pinned"));
        }
        order::nothing_is_held(cpu, "ends an NMI");
        (self.pins, self.masked, self.sections.began) = (before.pins, before.masked, before.began);
        order::resume(cpu, before.driven);
    }

    /// The CPU waits for others.
    pub(crate) fn waits(&self, cpu: u32, why: &str) {
        order::nothing_is_held(cpu, why);
        let work = order::tally(cpu).since(&self.sections.began);
        if self.pins > 0 && work != Work::default() {
            accuse(&format!("L2: CPU {cpu} {why} in a section that has done {work:?}"));
        }
    }

    /// The CPU clears a page.
    pub(crate) fn clears(&self, cpu: u32) {
        if self.pins > 0 {
            accuse(&format!("L3: CPU {cpu} clears a page with interrupts off"));
        }
    }
}
