//! Sections: what a CPU does between a pin and the end of it, with interrupts
//! off (L3).
//!
//! The library tells of nothing: its work is counted where the machine sees it, and
//! a section is the difference between its end and its beginning. Each simulated
//! CPU has its own tally ([`order`]), so that several may be inside at once.
//!
//! # Rules, judged
//! - **L3** A section does no more of anything than its bound: [`BOUNDS`].
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
/// - Read: a slice of units is given up, and each was the last under a leaf table,
///   which is looked through; and a few tables more.
/// - Written: a free parks a slice, and reclaims up to two and a half, of which the last area
///   may be a whole one; or an allocation drains and reclaims, maps a slice, and links a table.
/// - Reached: a slice of units is given up, at the price of some twenty frames each.
/// - Asked, moved: what is reclaimed, two and a half slices, one by one; or a few batches.
/// - Locked: a slice of units is given up, at the price of two locks each.
pub const BOUNDS: Work = Work([72 * 512, 5 * SLICE, 24 * WORK, 3 * SLICE, 4 * SLICE, 2 * WORK + 32]);

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

    fn since(&self, begin: &Work) -> Work {
        Work(core::array::from_fn(|n| self.0[n] - begin.0[n]))
    }

    /// The most of each kind.
    pub fn most(&self, other: &Work) -> Work {
        Work(core::array::from_fn(|n| self.0[n].max(other.0[n])))
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
        if unbounded {
            return;
        }
        let work = order::tally(cpu).since(&self.sections.began);
        self.sections.longest = self.sections.longest.most(&work);
        if work.exceeds(&BOUNDS) {
            accuse(&format!("L3: a section on CPU {cpu} did {work:?}; the bounds are {BOUNDS:?}"));
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
