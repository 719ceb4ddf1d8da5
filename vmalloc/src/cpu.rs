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
use crate::batch::{Batch, Tables};
use crate::cache::{Bound, Warm};
use crate::config::MAX_REGIONS;
use crate::deferred::Deferred;
use crate::flush::{CpuEpoch, Looks, Pending};
use crate::frames::{DeferredFrames, Magazine};
use crate::instance::{Core, Vmalloc};
use crate::machine::prealloc::Prealloc;
use crate::machine::{Context, Machine, Pinned};
use crate::space::bins::CpuChunks;
use crate::space::chunk::BATCHES;
use crate::space::remote::{Drained, RemoteFrees};
use crate::space::units::Near;
use crate::stats::Counters;
use crate::sync::plain::{AtomicU32, Ordering::*};
use crate::units::{Node, PAGE_SIZE, Pfn};
use arrayvec::ArrayVec;
use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

mod visit;

pub(crate) use visit::Visit;

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
    /// Looks at entries that are under way: see [`Vmalloc::looking`].
    pub(crate) looks: Looks,
    pub(crate) counters: Counters,
    /// What is bound here though it was freed.
    pub(crate) bound: Bound,
    own: UnsafeCell<CpuLocal>,
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
    pub(crate) cached: Warm,
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
            cached: Warm::default(),
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
    fn take(&self, holder: u32) -> Result<u32, u32> {
        self.holder.compare_exchange(0, holder, Acquire, Relaxed)
    }

    /// Lets go of it.
    #[inline(always)]
    fn release(&self) {
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

/// Being inside a CPU (L1). Leaving is dropping.
pub(crate) struct CpuGuard<'v, M: Machine> {
    pub(crate) vm: &'v Vmalloc<M>,
    pub(crate) core: &'v Core<M>,
    pub(crate) cpu: &'v PerCpu,
    pinned: Option<Pinned>,
}

impl<'v, M: Machine> CpuGuard<'v, M> {
    /// Enters the calling CPU.
    ///
    /// # Errors
    /// The context, where the caller interrupted a call that holds anything
    /// (L4).
    #[inline(always)]
    pub(crate) fn enter(vm: &'v Vmalloc<M>, core: &'v Core<M>) -> Result<CpuGuard<'v, M>, Context> {
        let pinned = vm.machine().pin();
        if M::THREADS && vm.machine().is_nested() {
            return Err(refuse(vm, pinned));
        }
        let cpu = core.cpu(pinned.cpu);
        let (cpu, pinned) = match cpu.take(pinned.cpu + 1) {
            Ok(_) => (cpu, pinned),
            Err(_) => wait(vm, core, pinned)?,
        };
        Ok(CpuGuard { vm, core, cpu, pinned: Some(pinned) })
    }

    /// Leaves, calls `f` from outside of all CPUs, and enters again: perhaps
    /// another one.
    pub(crate) fn outside<R>(&mut self, f: impl FnOnce() -> R) -> R {
        self.leave();
        let result = f();
        self.enter_again(self.vm.machine().pin());
        result
    }

    /// Lets interrupts come in (L3).
    #[inline]
    pub(crate) fn preempt_point(&mut self) {
        self.leave();
        let pinned = self.vm.machine().pin();
        let cpu = self.core.cpu(pinned.cpu);
        match cpu.take(pinned.cpu + 1) {
            Ok(_) => (self.cpu, self.pinned) = (cpu, Some(pinned)),
            Err(_) => self.enter_again(pinned),
        }
    }

    #[cold]
    #[inline(never)]
    fn enter_again(&mut self, mut pinned: Pinned) {
        loop {
            // An NMI that was inside once is refused while somebody visits its
            // CPU, and asks again: the visitor's section is short (L3).
            if let Ok((cpu, pinned)) = wait(self.vm, self.core, pinned) {
                (self.cpu, self.pinned) = (cpu, Some(pinned));
                return;
            }
            self.vm.machine().relax();
            pinned = self.vm.machine().pin();
        }
    }

    #[inline]
    fn leave(&mut self) {
        if let Some(pinned) = self.pinned.take() {
            self.cpu.release();
            // SAFETY: our own pin; `CpuGuard`s do not nest (L1).
            unsafe { self.vm.machine().unpin(pinned) }
        }
    }
}

impl<M: Machine> Vmalloc<M> {
    /// Calls `look`, which may walk to entries of whatever area lives when it
    /// looks: while it does no table page becomes free memory (T1 looks).
    pub(crate) fn looking<R>(&self, core: &Core<M>, look: impl FnOnce() -> R) -> R {
        self.pinned(|index| {
            let cpu = core.cpu(index);
            let result = cpu.looks.during(look);
            // An NMI may have put it off; a signal handler leaves it to others (L4).
            if cpu.epoch.is_asked() && !(M::THREADS && self.machine().is_nested()) {
                self.catch_up(core, cpu);
            }
            result
        })
    }

    /// Whether everybody who began to look before this call has ended.
    pub(crate) fn nobody_looks(&self, core: &Core<M>) -> bool {
        let all = (0..core.cpus()).map(|cpu| &core.cpu(cpu).looks);
        Looks::are_over(all, || self.machine().relax())
    }
}

/// Takes the calling CPU, and waits for whoever is inside: a visitor, or another
/// thread.
#[cold]
#[inline(never)]
fn wait<'v, M: Machine>(
    vm: &'v Vmalloc<M>,
    core: &'v Core<M>,
    mut pinned: Pinned,
) -> Result<(&'v PerCpu, Pinned), Context> {
    loop {
        let cpu = core.cpu(pinned.cpu);
        match cpu.take(pinned.cpu + 1) {
            Ok(_) => return Ok((cpu, pinned)),
            Err(holder) if must_not_wait(vm, &pinned, holder) => return Err(refuse(vm, pinned)),
            Err(_) => vm.machine().relax(),
        }
        pinned = vm.machine().busy(pinned);
    }
}

/// Whether whoever found a CPU held by `holder` interrupted that very call, or
/// must not wait in any case (L4).
fn must_not_wait<M: Machine>(vm: &Vmalloc<M>, pinned: &Pinned, holder: u32) -> bool {
    !M::THREADS && (holder == pinned.cpu + 1 || vm.machine().context() == Context::Nmi)
}

/// A caller that interrupted a call is refused: says where it runs.
#[cold]
fn refuse<M: Machine>(vm: &Vmalloc<M>, pinned: Pinned) -> Context {
    let context = if M::THREADS { Context::Nmi } else { vm.machine().context() };
    // SAFETY: our own pin, the youngest.
    unsafe { vm.machine().unpin(pinned) };
    context
}

impl<M: Machine> Drop for CpuGuard<'_, M> {
    #[inline]
    fn drop(&mut self) {
        self.leave()
    }
}

impl<M: Machine> Deref for CpuGuard<'_, M> {
    type Target = CpuLocal;

    #[inline]
    fn deref(&self) -> &CpuLocal {
        // SAFETY: we are inside, so nobody else is (L1).
        unsafe { &*self.cpu.own.get() }
    }
}

impl<M: Machine> DerefMut for CpuGuard<'_, M> {
    #[inline]
    fn deref_mut(&mut self) -> &mut CpuLocal {
        // SAFETY: we are inside, so nobody else is (L1).
        unsafe { &mut *self.cpu.own.get() }
    }
}
