//! A simulated machine whose TLBs go stale, to prove vmalloc right.
//!
//! Real tables in simulated physical memory, and CPUs that remember what they
//! have seen of them, as long as nobody makes them forget. Whatever a CPU may
//! do, this one does, by a seed:
//!
//! | Word | Meaning |
//! |---|---|
//! | TLB | a CPU's memory of pages: page → frame and protection |
//! | paging-structure cache | a CPU's memory of tables: address bits → the next table |
//! | to speculate | to pick up any present entry, at any moment, unasked |
//! | fresh, stale | what a CPU remembers is what the tables say, or not any more |
//! | awake, idle, offline | runs programs; only speculates; does nothing |
//! | step, turn | what the driver, and what a waiting loop, lets pass |
//!
//! # What it proves
//! A run panics, and tells both sides (who picked the entry up, when, how; what
//! the tables say now; the latest events of the page and of the frames), when
//! - a CPU uses a page that was bound anew, or collected, behind its back (G2);
//! - a frame changes hands while a CPU can reach it, as a page or as a table
//!   (G3), or is walked as a table when it is none any more (T1);
//! - a direct mapping is asked of a frame that nobody holds (M2), frames are
//!   asked for without being pinned (F3), given back twice (F1), or leaked;
//! - a lock is taken twice, a pin is ended out of order (M4), or a loop waits
//!   for ever;
//! - two locks are held at once, or one where somebody waits or where frames are
//!   asked for (L2, F3); or a section is longer than its bound, or clears a page
//!   (L3).
//!
//! A page that was bound without a word to the machine (`sync`) faults. Not-present entries are never cached. Nothing is dropped but by a flush,
//! or by chance. Frames are dirty when they are handed out.
//!
//! What idle CPUs remember of pages is not judged until they wake up, for
//! they use none; what they remember of tables is, for they walk. Offline CPUs
//! are judged when they come online.
//!
//! # Without aliases
//! A machine may have a window ([`Builder::windows`]), whose pages are their own frames: an instance on
//! `Sim<F, false>` ([`Sim::for_instance`]) maps no frame twice. What was stored in a page is there until
//! some CPU flushes after the page was unmapped. The next time that it is mapped it is clear.
//!
//! # Roots
//! A machine may have several roots ([`Builder::roots`]): CPUs walk them by turns, as
//! CPUs that run different programs do. The library knows the first. The others get
//! its entries as an embedder's do: all at once ([`Core::copy_root`]), or one by one
//! when a program faults. What was copied stays until the instance is dropped.
//!
//! # The driver
//! One host thread drives all CPUs: it says which runs ([`Core::on`]) and lets
//! time pass ([`Core::step`]). An operation of the library runs on one CPU from
//! its start to its end; interrupts come in between where nothing is pinned;
//! other CPUs serve kicks when somebody waits; and all of them speculate
//! whenever the library touches the machine. The driver runs the instance's
//! `cpu_online`, `idle_enter` and so on inside [`Core::online`], [`Core::sleep`]
//! and so on.
//!
//! # Locks
//! One mutex around what changes, held by no one who calls out.

mod access;
mod booted;
mod builder;
mod cache;
mod cpu;
mod direct;
mod drive;
mod frames;
mod history;
mod judge;
mod lock;
mod machine;
mod memory;
mod noted;
mod order;
mod rng;
#[cfg(interleave)]
mod sabotage;
mod section;
mod told;
pub mod turn;
mod walk;
mod watched;
mod window;

pub use booted::Booted;
pub use builder::{Builder, Rates};
pub use cpu::Power;
pub use direct::Direct;
pub use frames::DIRT;
pub use lock::SoloLock;
pub use memory::Bank;
pub use noted::{Noted, OVER_QUOTA};
#[cfg(interleave)]
pub use sabotage::Sabotage;
pub use section::{BOUNDS, REACHED_UNDER_LOCK, STEPS, STEPS_UNDER_LOCK, What, Work};
pub use watched::{Watched, WatchedWord};

use core::fmt;
use core::marker::PhantomData;
use core::ops::Deref;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use cpu::State;
use history::Event;
use memory::Memory;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vmalloc::frames::Zones;
use vmalloc::machine::format::Format;
use vmalloc::units::{Pfn, VirtAddr};

/// One thread drives the machine: no order between threads is asked for.
const ORDER: Ordering = Ordering::Relaxed;

/// A machine, shared by its clones: one for the instance, one for the driver. Without `ALIASES` a
/// page of the window is its own frame, and the driver has the same machine with them.
pub struct Sim<F: Format, const ALIASES: bool = true>(Arc<Core<F>>);

/// Where frames come from. Where debug assertions are compiled in, they are refused on
/// request.
#[cfg(debug_assertions)]
type Source = vmalloc::machine::faulty::FaultyFrames<Zones<SoloLock>>;
#[cfg(not(debug_assertions))]
type Source = Zones<SoloLock>;

/// What the clones share; to the library, the frames.
pub struct Core<F: Format> {
    memory: Memory,
    /// Pages that areas may have together, where pages are their own frames.
    window_limit: usize,
    root: Pfn,
    /// The roots that CPUs walk, by turns; the first is `root`, the library's.
    roots: Box<[Pfn]>,
    levels: u8,
    cpus: u32,
    nodes: u32,
    /// The CPU that runs.
    current: AtomicU32,
    zones: Source,
    /// The storage of `zones`.
    _descriptors: Box<[AtomicU64]>,
    /// Whether the library sees them.
    described: bool,
    /// Things that the library does until some CPU speculates.
    fuse: AtomicU64,
    /// Things that the library does until an NMI comes; 0 = none is due.
    nmi: AtomicU64,
    state: Mutex<State>,
    format: PhantomData<fn() -> F>,
}

/// Why an access did not go through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The address.
    pub at: VirtAddr,
    /// What was wrong with it.
    pub why: Why,
}

/// What is wrong with an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// The entry at this level is not present.
    NotPresent {
        /// The level.
        level: u8,
    },
    /// The page is bound, but the machine was never told of it (`sync`).
    Untold,
    /// A store to a page that may only be read.
    ReadOnly,
    /// The address is wider than the tables translate.
    NotCanonical,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.why {
            Why::NotPresent { level } => write!(f, "fault at {}: not present at level {level}", self.at),
            Why::Untold => write!(f, "fault at {}: bound, but the machine was not told (sync)", self.at),
            Why::ReadOnly => write!(f, "fault at {}: read only", self.at),
            Why::NotCanonical => write!(f, "fault at {}: not canonical", self.at),
        }
    }
}

impl core::error::Error for Fault {}

/// What happened, in numbers: a run that never met a stale entry proves little.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Pages that programs loaded from or stored to.
    pub accesses: u64,
    /// Translations found in a TLB.
    pub hits: u64,
    /// Translations looked for in the tables.
    pub walks: u64,
    /// Accesses through an entry that waits for grace.
    pub used_after_free: u64,
    /// Guesses.
    pub speculations: u64,
    /// Calls of `flush`.
    pub flushes: u64,
    /// Interrupts, kicks that were served among them.
    pub interrupts: u64,
}

impl<F: Format> Sim<F> {
    /// What a machine is to be made of: one CPU and 64 MiB, unless told.
    pub const fn builder() -> Builder<F> {
        Builder::new()
    }
}

impl<F: Format, const ALIASES: bool> Sim<F, ALIASES> {
    /// The same machine, for an instance that it is with aliases to, or without.
    pub fn for_instance<const OTHER: bool>(&self) -> Sim<F, OTHER> {
        Sim(Arc::clone(&self.0))
    }
}

impl<F: Format> Core<F> {
    /// What changes. Not to be held where anybody is called.
    fn state(&self) -> MutexGuard<'_, State> {
        // A run that has panicked is being taken down: what it left is read
        // once more for the story, no more.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The CPU that runs.
    pub(crate) fn running(&self) -> u32 {
        self.current.load(ORDER)
    }

    /// Another CPU runs; returns the one that did.
    pub(crate) fn run_on(&self, cpu: u32) -> u32 {
        order::on(cpu);
        self.current.swap(cpu, ORDER)
    }

    /// Notes that the running CPU did `event`.
    pub(crate) fn record(&self, s: &mut State, event: Event) -> u64 {
        s.history.note(self.running(), event)
    }
}

impl<F: Format, const ALIASES: bool> Clone for Sim<F, ALIASES> {
    fn clone(&self) -> Self {
        Sim(Arc::clone(&self.0))
    }
}

impl<F: Format, const ALIASES: bool> Deref for Sim<F, ALIASES> {
    type Target = Core<F>;

    fn deref(&self) -> &Core<F> {
        &self.0
    }
}

impl<F: Format, const ALIASES: bool> fmt::Debug for Sim<F, ALIASES> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Core { root, levels, cpus, nodes, .. } = &**self;
        write!(f, "Sim({}, {cpus} CPUs, {nodes} nodes, {levels} levels, root {root:?})", F::NAME)
    }
}
