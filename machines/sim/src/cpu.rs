//! The CPUs, and everything else that changes while the machine runs.

use crate::cache::{Cache, Cached};
use crate::history::History;
use crate::rng::Rng;
use crate::section::Sections;
use crate::told::Told;
use crate::window::Window;
use crate::{Counters, Rates};
use core::fmt;
use std::collections::HashSet;
use std::sync::Arc;
use vmalloc::error::Shortage;
use vmalloc::gfp::Gfp;
use vmalloc::machine::{Context, Level};
use vmalloc::units::{PAGE_SHIFT, VirtAddr};

/// Entries of a paging-structure cache.
const TABLE_SLOTS: usize = 16;
/// Pages that the CPUs may guess from.
const RECENT: usize = 64;

/// Whether a CPU runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Power {
    /// Does nothing, not even speculate. What it holds is judged when it is
    /// back online.
    Offline,
    /// Runs programs.
    Awake,
    /// Runs no program, but speculates: a stale translation harms nobody
    /// until it wakes up, a stale table would be walked.
    Idle,
}

impl Power {
    /// Whether a cached entry of `level` could do harm on such a CPU.
    pub(crate) fn reaches(self, level: u8) -> bool {
        match self {
            Power::Offline => false,
            Power::Awake => true,
            Power::Idle => level > 1,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Cpu {
    pub(crate) tlb: Cache,
    pub(crate) tables: Cache,
    pub(crate) power: Power,
    /// Pins that have not been ended.
    pub(crate) pins: usize,
    /// Interrupts that it is in.
    pub(crate) interrupts: u32,
    /// Interrupts are off on the way into and out of idleness.
    pub(crate) masked: bool,
    pub(crate) kicked: bool,
    /// It is in an NMI.
    pub(crate) in_nmi: bool,
    pub(crate) sections: Sections,
}

impl Cpu {
    pub(crate) fn new(slots: usize) -> Cpu {
        Cpu {
            tlb: Cache::new(slots),
            tables: Cache::new(TABLE_SLOTS),
            power: Power::Offline,
            pins: 0,
            interrupts: 0,
            masked: false,
            kicked: false,
            in_nmi: false,
            sections: Sections::default(),
        }
    }

    pub(crate) fn cache(&mut self, level: u8) -> &mut Cache {
        if level == 1 { &mut self.tlb } else { &mut self.tables }
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = Cached> + '_ {
        self.tlb.iter().chain(self.tables.iter())
    }

    /// Whether an interrupt can come in.
    pub(crate) fn listens(&self) -> bool {
        self.pins == 0 && !self.masked && self.power != Power::Offline
    }
}

/// Something that the driver of the machine wants to be called for.
pub(crate) type Hook = Arc<dyn Fn(u32) + Send + Sync>;
/// What is asked when something has run short; true = try again.
pub(crate) type Appeal = Arc<dyn Fn(Shortage, Gfp) -> bool + Send + Sync>;
/// How return addresses are printed.
pub(crate) type Symbolizer = Arc<dyn Fn(usize, &mut fmt::Formatter<'_>) -> fmt::Result + Send + Sync>;

pub(crate) struct State {
    pub(crate) cpus: Vec<Cpu>,
    pub(crate) rng: Rng,
    pub(crate) rates: Rates,
    pub(crate) history: History,
    pub(crate) counters: Counters,
    #[cfg(interleave)]
    pub(crate) sabotage: Option<crate::Sabotage>,
    pub(crate) context: Context,
    pub(crate) clock: u64,
    /// Turns of waiting loops since the driver's last step.
    pub(crate) turns: u64,
    pub(crate) log: Vec<(Level, String)>,
    pub(crate) noted: crate::Noted,
    pub(crate) on_interrupt: Option<Hook>,
    pub(crate) on_kick: Option<Hook>,
    pub(crate) on_nmi: Option<Hook>,
    pub(crate) on_shortage: Option<Appeal>,
    pub(crate) symbolizer: Option<Symbolizer>,
    /// Pages that were unmapped with nothing left in their entries.
    pub(crate) cleared: HashSet<usize>,
    /// Pages whose protection is being changed.
    pub(crate) protecting: HashSet<usize>,
    /// The direct mapping of frames of which somebody has changed it.
    pub(crate) directs: crate::direct::Directs,
    /// How long a section is, is not judged.
    pub(crate) unbounded: bool,
    /// The pages that the machine was told of.
    pub(crate) told: Told,
    /// What pages that are their own frames have in them.
    pub(crate) window: Window,
    recent: [usize; RECENT],
    recents: usize,
}

impl State {
    pub(crate) fn new(cpus: u32, slots: usize, seed: u64, rates: Rates) -> State {
        State {
            cpus: (0..cpus).map(|_| Cpu::new(slots)).collect(),
            rng: Rng::new(seed),
            rates,
            history: History::default(),
            counters: Counters::default(),
            #[cfg(interleave)]
            sabotage: None,
            context: Context::Task,
            clock: 0,
            turns: 0,
            log: Vec::new(),
            noted: crate::Noted::default(),
            on_interrupt: None,
            on_kick: None,
            on_nmi: None,
            on_shortage: None,
            symbolizer: None,
            cleared: HashSet::new(),
            protecting: HashSet::new(),
            directs: Default::default(),
            unbounded: false,
            told: Told::default(),
            window: Window::default(),
            recent: [0; RECENT],
            recents: 0,
        }
    }

    pub(crate) fn cpu(&mut self, cpu: u32) -> &mut Cpu {
        &mut self.cpus[cpu as usize]
    }

    /// Remembers a page that is worth a guess.
    pub(crate) fn used(&mut self, at: VirtAddr) {
        self.recent[self.recents % RECENT] = at.0 >> PAGE_SHIFT;
        self.recents += 1;
    }

    /// A page that a CPU may guess to be needed: one that was used lately, or
    /// one near it.
    pub(crate) fn guess(&mut self) -> Option<VirtAddr> {
        let known = self.recents.min(RECENT) as u64;
        let page = *self.recent[..known as usize].get(self.rng.below(known) as usize)?;
        let step = match self.rng.below(8) {
            0..4 => 0,
            4 | 5 => 1,
            6 => self.rng.below(16),
            _ => self.rng.below(1024),
        } as usize;
        let page = if self.rng.one_in(2) { page.wrapping_add(step) } else { page.wrapping_sub(step) };
        Some(VirtAddr(page << PAGE_SHIFT))
    }
}
