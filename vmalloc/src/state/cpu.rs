//! CPUs: the state of each CPU, and the rules for entering one.
//!
//! A [`PerCpu`] is one bookkeeping frame. It holds the CPU's epoch for flushes, its remote frees,
//! its counters, and a [`CpuLocal`], which only the caller inside may touch, through a
//! [`CpuGuard`](crate::state::enter::CpuGuard): magazine, prealloc, lists of chunks and batches.
//!
//! # Rules
//! - **L1** A caller inside a CPU excludes all others: one compare-and-swap takes `holder`. A call
//!   enters its own CPU while pinned (interrupts off), so tasks, softirqs and hard interrupts use
//!   the same path. A caller may *visit* another CPU (for a purge, or for the chunks of an idle or
//!   offline CPU), but never from inside one.
//! - **L2** Lock order: a CPU, then a region; or a CPU, then a node's depot or the reserve. A
//!   caller holds nothing while it waits for a flush.
//! - **L4** A call that holds anything of the instance also holds its own CPU. A visitor takes both
//!   CPUs, the lower index first, and keeps neither while it waits. Depots and the reserve are
//!   locked only from inside a CPU. So an NMI that interrupts such a call finds its own CPU held,
//!   and is refused. It is also refused if another caller is inside its CPU, because it must not
//!   wait. On a machine of threads the index proves nothing, so the machine marks the thread
//!   ([`Machine::is_nested`]), and a signal handler in the middle of a call is refused in the same
//!   way.
//! - **L3** A section inside a CPU maps or parks at most [`SLICE`] pages, and reclaims at most
//!   twice as many.

use crate::area::RegionId;
use crate::flush::{CpuEpoch, Looks, Pending};
use crate::frames::{DeferredFrames, MAX_BULK, Magazine};
use crate::machine::Machine;
use crate::machine::prealloc::Prealloc;
use crate::space::bins::CpuChunks;
use crate::space::chunk::BATCHES;
use crate::space::remote::{Drained, RemoteFrees};
use crate::space::units::Near;
use crate::state::batch::{Batch, Tables};
use crate::state::cached::{CacheSize, Eviction};
use crate::state::config::MAX_REGIONS;
use crate::state::deferred::Deferred;
use crate::state::stats::Counters;
use crate::sync::plain::{AtomicU32, AtomicU64, AtomicUsize, Ordering::*};
use crate::units::{Node, PAGE_SIZE, Pfn};
use arrayvec::ArrayVec;
use core::cell::UnsafeCell;
use core::ptr::NonNull;

/// The most pages that are mapped or parked in one section inside a CPU (L3).
pub(crate) const SLICE: usize = 128;
/// The pages of work that reclaiming does at a time, where nothing larger was added.
pub(crate) const WORK: usize = SLICE / 2;

const _: () = assert!(SLICE <= MAX_BULK, "a slice of frames comes and goes at once");

/// One CPU's frame.
#[repr(C)]
pub(crate) struct PerCpu {
    pub(crate) epoch: CpuEpoch,
    /// Chunks in which other CPUs have freed slots (R1).
    pub(crate) remote_frees: RemoteFrees,
    /// Frames that were given up by callers that could not enter the CPU.
    pub(crate) deferred_frames: DeferredFrames,
    /// The caller inside: its own CPU's index + 1, or 0 (L1).
    holder: AtomicU32,
    /// The looks at entries that are under way: see
    /// [`Ctx::looking`](crate::state::core::Ctx::looking).
    pub(crate) looks: Looks,
    pub(crate) counters: Counters,
    /// The pages in its batches, as of its last step (G4).
    pub(crate) waits: AtomicUsize,
    /// Those of them that a flush would help: the pages in the open batch and in the sealed one.
    pub(crate) unflushed: AtomicUsize,
    /// The cached slots of this CPU, in numbers.
    pub(crate) cache_size: CacheSize,
    /// The calls that it had served when it went offline (M9).
    pub(crate) served: AtomicU64,
    pub(super) own: UnsafeCell<CpuLocal>,
}

const _: () = assert!(cfg!(loom) || size_of::<PerCpu>() <= PAGE_SIZE, "a CPU is one frame");

// SAFETY: `own` is reached through `CpuGuard` alone, which L1 makes exclusive; the
// rest is atomics.
unsafe impl Sync for PerCpu {}

/// The part of a CPU that only the caller inside may touch.
pub(crate) struct CpuLocal {
    pub(crate) index: u32,
    pub(crate) node: Node,
    pub(crate) magazine: Magazine,
    pub(crate) prealloc: Prealloc,
    pub(crate) open: Batch,
    pub(crate) sealed: Option<Pending<Batch>>,
    pub(crate) expired: Option<Batch>,
    pub(crate) tables: [Tables; BATCHES],
    /// Remote frees that were taken off the list and not handled yet.
    pub(crate) drained: Drained,
    /// Slots among them whose entries are left to this CPU (R6).
    pub(crate) deferred: Option<Deferred>,
    pub(crate) ticked_ns: u64,
    /// The last round that it has sealed a batch in.
    pub(crate) round: u64,
    /// The pages that it has posted to other CPUs since it looked whether these sleep.
    pub(crate) posted: usize,
    pub(crate) cached: Eviction,
    /// The place where the last lookup in each region ended.
    pub(crate) near: [Near; MAX_REGIONS],
    frame: Pfn,
    shelves: Shelves,
}

/// A CPU's lists of chunks, one [`CpuChunks`] for each region, each in a frame.
pub(crate) type Shelves = ArrayVec<(Pfn, NonNull<CpuChunks>), MAX_REGIONS>;

impl PerCpu {
    /// Makes a CPU, offline and empty, that will be stored in `frame`.
    pub(crate) fn new(index: u32, node: Node, frame: Pfn, shelves: Shelves) -> PerCpu {
        let own = CpuLocal {
            index,
            node,
            frame,
            magazine: Magazine::new(),
            prealloc: Prealloc::new(),
            open: Batch::new(0),
            sealed: None,
            expired: None,
            tables: [const { Tables::new_const() }; BATCHES],
            drained: Drained::default(),
            deferred: None,
            ticked_ns: 0,
            round: 0,
            posted: 0,
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
            waits: AtomicUsize::new(0),
            unflushed: AtomicUsize::new(0),
            cache_size: CacheSize::default(),
            served: AtomicU64::new(0),
            own: UnsafeCell::new(own),
        }
    }

    /// Takes the CPU for `holder`, a caller's index + 1 (L1).
    ///
    /// # Errors
    /// The holder, if it is taken.
    #[inline(always)]
    pub(super) fn take(&self, holder: u32) -> Result<u32, u32> {
        self.holder.compare_exchange(0, holder, Acquire, Relaxed)
    }

    /// Releases the CPU.
    #[inline(always)]
    pub(super) fn release(&self) {
        self.holder.store(0, Release)
    }

    /// The part inside, for a caller that owns the CPU exclusively.
    pub(crate) fn own(&mut self) -> &mut CpuLocal {
        self.own.get_mut()
    }
}

impl CpuLocal {
    /// The CPU's chunks for a region.
    #[inline]
    pub(crate) fn cpu_chunks(&mut self, region: RegionId) -> &mut CpuChunks {
        // SAFETY: `init` made the frame a CPU's chunks, and it belongs to this CPU alone. `&mut
        // self` proves that the caller is inside (L1).
        unsafe { self.shelves[region.0 as usize].1.as_mut() }
    }

    /// Opens the magazine, with frames that `init` took.
    pub(crate) fn open<M: Machine>(&mut self, machine: &M, prealloc: &mut Prealloc) {
        // SAFETY: Q6: the machine is the instance's for ever.
        let opened = unsafe { self.magazine.open(machine, prealloc, self.node) };
        debug_assert!(opened, "I2: populated by Core::new");
    }

    /// The batches of this CPU.
    pub(crate) fn batches(&self) -> impl Iterator<Item = &Batch> {
        let sealed = self.sealed.as_ref().map(Pending::peek);
        [Some(&self.open), sealed, self.expired.as_ref()].into_iter().flatten()
    }

    /// The pages that wait for a flush, or to be drained.
    pub(crate) fn waiting(&self) -> usize {
        self.batches().map(|batch| batch.pages - batch.gone).sum()
    }

    /// Whether there are remote frees that were taken off the list and not handled yet.
    pub(crate) fn has_drained(&self) -> bool {
        self.deferred.is_some() || !self.drained.is_empty()
    }

    /// Whether no batch holds anything.
    pub(crate) fn is_drained(&self) -> bool {
        let held = self.tables.iter().any(|tables| !tables.is_empty());
        !(held || self.has_drained() || self.open.waits() || self.sealed.is_some() || self.expired.is_some())
    }

    /// Gives everything back, including its own frame. No area is live any more.
    pub(crate) fn seal<M: Machine>(&mut self, machine: &M, give: &mut impl FnMut(Pfn)) {
        self.magazine.close(machine);
        self.prealloc.trim(machine, 0);
        for region in 0..self.shelves.len() {
            while let Some(header) = self.cpu_chunks(RegionId(region as u8)).take_empty(None, true) {
                give(header.frame());
            }
            give(self.shelves[region].0);
        }
        give(self.frame);
    }
}
