//! CPUs: what each has for itself, and how a call enters one.
//!
//! A [`PerCpu`] is one bookkeeping frame: its epoch for flushes, its remote frees of posted
//! chunks, its counters, and, behind the guard [`CpuGuard`], what only the one who
//! is inside may touch: magazine, stock, shelves and batches.
//!
//! # Rules
//! - **L1** Being inside excludes everybody else: `holder` is taken by one
//!   swap. A call enters its own CPU while pinned (interrupts off), so task,
//!   softirq and hard irq use one path. Somebody may *visit* another CPU (a
//!   purge, an idle or offline CPU's chunks), but never from inside one.
//! - **L2** Lock order: inside a CPU → region; inside a CPU → node depot or
//!   the reserve. Nothing is held while waiting for a flush.
//! - **L4** A call that holds anything of the instance holds its own CPU too: a
//!   visitor takes both, the lower index first, and keeps neither while it
//!   waits; the depots and the reserve are locked from inside alone. So an NMI
//!   that interrupts such a call finds its own CPU held by itself, and is
//!   refused; and rather than wait it is refused as well where somebody else is in
//!   its CPU. On a machine of threads the machine
//!   marks the thread instead ([`Machine::is_nested`]), for its index says
//!   nothing: a signal handler in the middle of a call is refused alike.
//! - **L3** Sections inside are bounded by [`SLICE`] pages of work.

use crate::area::RegionId;
use crate::flush::{CpuEpoch, Looks, Pending};
use crate::frames::{DeferredFrames, Magazine};
use crate::machine::Machine;
use crate::machine::prealloc::Prealloc;
use crate::space::bins::CpuChunks;
use crate::space::chunk::BATCHES;
use crate::space::remote::{Drained, RemoteFrees};
use crate::space::units::Near;
use crate::state::batch::{Batch, Tables};
use crate::state::cached::{Bound, Eviction};
use crate::state::config::MAX_REGIONS;
use crate::state::deferred::Deferred;
use crate::state::stats::Counters;
use crate::sync::plain::{AtomicU32, Ordering::*};
use crate::units::{Node, PAGE_SIZE, Pfn};
use arrayvec::ArrayVec;
use core::cell::UnsafeCell;
use core::ptr::NonNull;

/// Pages of work in one section inside a CPU (L3).
pub(crate) const SLICE: usize = 64;

/// One CPU's frame.
#[repr(C)]
pub(crate) struct PerCpu {
    pub(crate) epoch: CpuEpoch,
    /// Chunks in which other CPUs have freed slots (R1).
    pub(crate) remote_frees: RemoteFrees,
    /// Frames that were given up where nobody could enter.
    pub(crate) deferred_frames: DeferredFrames,
    /// Who is inside: the visitor's index + 1, or 0 (L1).
    holder: AtomicU32,
    /// Looks at entries that are under way: see [`Ctx::looking`].
    pub(crate) looks: Looks,
    pub(crate) counters: Counters,
    /// What is bound here though it was freed.
    pub(crate) bound: Bound,
    pub(super) own: UnsafeCell<CpuLocal>,
}

const _: () = assert!(cfg!(loom) || size_of::<PerCpu>() <= PAGE_SIZE, "a CPU is one frame");

// SAFETY: `own` is reached through `CpuGuard` alone, which L1 makes exclusive; the
// rest is atomics.
unsafe impl Sync for PerCpu {}

/// What only the one inside may touch.
pub(crate) struct CpuLocal {
    pub(crate) index: u32,
    pub(crate) node: Node,
    pub(crate) magazine: Magazine,
    pub(crate) stock: Prealloc,
    pub(crate) open: Batch,
    pub(crate) sealed: Option<Pending<Batch>>,
    pub(crate) expired: Option<Batch>,
    pub(crate) tables: [Tables; BATCHES],
    /// Of its remote frees what was taken out and not yet looked at.
    pub(crate) drained: Drained,
    /// Of these, slots whose entries are left to this CPU (R6).
    pub(crate) deferred: Option<Deferred>,
    pub(crate) ticked_ns: u64,
    pub(crate) cached: Eviction,
    /// Where the last look-up in each region ended.
    pub(crate) near: [Near; MAX_REGIONS],
    frame: Pfn,
    shelves: Shelves,
}

/// A CPU's shelves, by region, each in a frame.
pub(crate) type Shelves = ArrayVec<(Pfn, NonNull<CpuChunks>), MAX_REGIONS>;

impl PerCpu {
    /// Makes a CPU, offline, with nothing in it, to be put into `frame`.
    pub(crate) fn new(index: u32, node: Node, frame: Pfn, shelves: Shelves) -> PerCpu {
        let own = CpuLocal {
            index,
            node,
            frame,
            magazine: Magazine::new(),
            stock: Prealloc::new(),
            open: Batch::new(0),
            sealed: None,
            expired: None,
            tables: [const { Tables::new_const() }; BATCHES],
            drained: Drained::default(),
            deferred: None,
            ticked_ns: 0,
            cached: Eviction::default(),
            near: Default::default(),
            shelves,
        };
        PerCpu {
            epoch: CpuEpoch::default(),
            remote_frees: RemoteFrees::default(),
            deferred_frames: DeferredFrames::default(),
            holder: AtomicU32::new(0),
            looks: Looks::default(),
            counters: Counters::default(),
            bound: Bound::default(),
            own: UnsafeCell::new(own),
        }
    }

    /// Takes it for `holder`, a caller's index + 1 (L1).
    ///
    /// # Errors
    /// Who has it.
    #[inline(always)]
    pub(super) fn take(&self, holder: u32) -> Result<u32, u32> {
        self.holder.compare_exchange(0, holder, Acquire, Relaxed)
    }

    /// Lets go of it.
    #[inline(always)]
    pub(super) fn release(&self) {
        self.holder.store(0, Release)
    }

    /// What is inside, by whoever has the CPU alone.
    pub(crate) fn own(&mut self) -> &mut CpuLocal {
        self.own.get_mut()
    }
}

impl CpuLocal {
    /// The CPU's chunks for a region.
    #[inline]
    pub(crate) fn cpu_chunks(&mut self, region: RegionId) -> &mut CpuChunks {
        // SAFETY: the frame was made a CPU's chunks at `init` and belongs to this CPU
        // alone; `&mut self` says that we are the one inside (L1).
        unsafe { self.shelves[region.0 as usize].1.as_mut() }
    }

    /// Opens the magazine, with frames that `init` laid in.
    pub(crate) fn open<M: Machine>(&mut self, machine: &M, stock: &mut Prealloc) {
        // SAFETY: Q6: the machine is the instance's for ever.
        let opened = unsafe { self.magazine.open(machine, stock, self.node) };
        debug_assert!(opened, "I2: laid in by Core::new");
    }

    /// Its batches.
    pub(crate) fn batches(&self) -> impl Iterator<Item = &Batch> {
        let sealed = self.sealed.as_ref().map(Pending::peek);
        [Some(&self.open), sealed, self.expired.as_ref()].into_iter().flatten()
    }

    /// Pages that wait for a flush, or to be collected.
    pub(crate) fn waiting(&self) -> usize {
        self.batches().map(|batch| batch.pages - batch.gone).sum()
    }

    /// Whether there are remote frees that was taken out and not yet looked at.
    pub(crate) fn has_drained(&self) -> bool {
        self.deferred.is_some() || !self.drained.is_empty()
    }

    /// Whether no batch holds anything.
    pub(crate) fn is_drained(&self) -> bool {
        let held = self.tables.iter().any(|tables| !tables.is_empty());
        !(held || self.has_drained() || self.open.waits() || self.sealed.is_some() || self.expired.is_some())
    }

    /// Gives everything back, its own frame included: nothing lives any more.
    pub(crate) fn seal<M: Machine>(&mut self, machine: &M, give: &mut impl FnMut(Pfn)) {
        self.magazine.close(machine);
        self.stock.trim(machine, 0);
        for region in 0..self.shelves.len() {
            while let Some(header) = self.cpu_chunks(RegionId(region as u8)).take_empty(None, true) {
                give(header.frame());
            }
            give(self.shelves[region].0);
        }
        give(self.frame);
    }
}
