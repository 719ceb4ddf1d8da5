//! The parts of an instance, and the context that every internal call carries.
//!
//! # Rules
//! - **I2** The frames of CPUs and of their chunks belong to the instance from `init`
//!   until drop.

use crate::area::{Caller, Kind, Placement, Policy, RegionId};
use crate::flush::{CpuEpoch, FlushEpochs};
use crate::frames::Depot;
use crate::machine::format::{Entry, Format};
use crate::machine::frames::Frames;
use crate::machine::prealloc::Prealloc;
use crate::machine::{Level, Machine, Pinned};
use crate::space::bins::CpuChunks;
use crate::space::chunk::ChunkRef;
use crate::space::slot::Slot;
use crate::state::config::{Config, InitError, MAX_REGIONS};
use crate::state::cpu::{PerCpu, WORK};
use crate::state::freed::LastFrees;
use crate::state::quiet::Quiet;
use crate::state::region::Region;
use crate::sync::plain::{AtomicU8, AtomicU64, AtomicUsize, Ordering::*};
use crate::table::{Foreign, Walker, Word};
use crate::units::{MAX_CPUS, Node, PAGE_SIZE, PageRange, Pfn, VirtAddr};
use arrayvec::ArrayVec;
use core::ptr::NonNull;
use lock_api::Mutex;

/// The most nodes of one instance.
pub const MAX_NODES: usize = crate::frames::MAX_NODES;

/// Everything that an instance owns except the machine.
pub(crate) struct Core<M: Machine> {
    pub(crate) regions: ArrayVec<Region<M::Lock>, MAX_REGIONS>,
    pub(crate) flush_epochs: FlushEpochs,
    /// The directory: a frame of pointers to the CPUs.
    cpus: NonNull<NonNull<PerCpu>>,
    directory: Pfn,
    cpu_count: u32,
    depots: [Depot<M::Lock>; MAX_NODES],
    pub(crate) reserve: Mutex<M::Lock, Prealloc>,
    pub(crate) reserve_frames: usize,
    pub(crate) policy: AtomicU8,
    /// The number of the first policy that caches slots: one above them all where none does.
    pub(crate) caches_from: u8,
    /// The pages that each CPU may cache.
    pub(crate) budget: usize,
    /// The pages that waited for flushes when a CPU looked last (G4).
    pub(crate) waiting: AtomicUsize,
    /// The pages that may.
    pub(crate) waiting_pages: usize,
    /// The pages of a full batch.
    pub(crate) batch_pages: usize,
    /// A round begins when this number of pages is unflushed.
    pub(crate) round_pages: usize,
    /// The number of rounds so far.
    pub(crate) round: AtomicU64,
    /// The pages that had been freed when the last one began.
    pub(crate) freed: AtomicU64,
    pub(crate) tables: AtomicUsize,
    pub(crate) bookkeeping: AtomicUsize,
    pub(crate) init_frames: usize,
    pub(crate) init_bookkeeping: usize,
    last_frees: NonNull<LastFrees>,
    /// Limits the lines about failures.
    pub(crate) warned: Quiet,
    /// The pages that areas may still have in place ([`Machine::ALIASES`]).
    pub(crate) in_place: AtomicUsize,
}

/// An initialised instance: its machine and its core. Internal functions are methods of it.
pub(crate) struct Ctx<'v, M: Machine> {
    pub(crate) machine: &'v M,
    pub(crate) core: &'v Core<M>,
}

impl<M: Machine> Clone for Ctx<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: Machine> Copy for Ctx<'_, M> {}

impl<M: Machine> Ctx<'_, M> {
    /// Calls `f` with the index of the calling CPU, pinned to it, without entering it. For callers
    /// that need frames before any CPU can be entered, and for what concerns a single CPU (F3).
    /// Takes none of the instance's locks (L4).
    pub(crate) fn pinned<R>(self, f: impl FnOnce(u32) -> R) -> R {
        let pinned = self.machine.pin();
        let result = f(pinned.cpu);
        // SAFETY: our own pin, the youngest.
        unsafe { self.machine.unpin(pinned) }
        result
    }

    /// As [`Ctx::pinned`], for an `f` that takes locks of the machine. `None` in a signal handler
    /// in the middle of a call, which may hold them (L4).
    pub(crate) fn pinned_anew<R>(self, f: impl FnOnce(u32) -> R) -> Option<R> {
        self.pinned(|cpu| if M::THREADS && self.machine.is_nested() { None } else { Some(f(cpu)) })
    }

    /// Reports an entry of a slot that is not what it should be (T2). An area that is undone
    /// because of such an entry has reported it already, and a page of a sparse area is mapped or not.
    #[cold]
    pub(crate) fn report_bad_entry(self, slot: &Slot, at: VirtAddr, word: Word<M>) {
        let is_undone = word == <M::Table as Format>::ABSENT && slot.is_reported() && slot.is_building();
        let is_sparse = slot.kind() == Kind::Sparse && <M::Table as Format>::decode(word, 1) != Entry::Bad;
        if is_undone || is_sparse {
            return;
        }
        slot.mark_reported();
        let by = slot.snapshot().map_or(Caller::Return(0), |copy| copy.info(at, RegionId(0)).caller);
        self.machine.log(Level::Error, format_args!("bad entry at level 1 for {at}: {word:#x}, in an area by {by:?}"))
    }

    /// As [`Ctx::report_bad_entry`], for entries that a free parks or clears. If two CPUs free a
    /// slot at the same moment (R4), one finds what the other has left, and that is not reported.
    #[cold]
    pub(crate) fn report_bad_entry_once(self, (chunk, slot): (ChunkRef, u32), at: VirtAddr, word: Word<M>) {
        let is_left = matches!(<M::Table as Format>::decode(word, 1), Entry::Parked(_) | Entry::Absent);
        if !(is_left && chunk.is_freed_twice(slot)) {
            self.report_bad_entry(chunk.slot(slot), at, word);
        }
    }

    /// As [`Ctx::report_bad_entry`], for the last look at the entries of a slot. An entry that is
    /// absent because a bad one was reported and cleared there is not reported again.
    #[cold]
    pub(crate) fn report_bad_entry_again(self, slot: &Slot, at: VirtAddr, word: Word<M>) {
        if word != <M::Table as Format>::ABSENT || !slot.is_reported() {
            self.report_bad_entry(slot, at, word);
        }
    }
}

impl<M: Machine> Core<M> {
    /// Takes all frames first, and then builds everything from them.
    pub(crate) fn new(machine: &M, config: &Config) -> Result<Core<M>, InitError> {
        let (cpus, total) = (machine.cpus(), machine.page_limit());
        let depots = [const { Depot::new() }; MAX_NODES];
        let (batch_pages, waiting_pages) = (config.batch(total, cpus), config.waiting(total));
        let nodes = machine.frames().nodes().min(MAX_NODES);
        let stacks = Depot::<M::Lock>::stacks_for(machine, waiting_pages);
        let regions = config.regions.iter().enumerate().map(|(id, region)| Region::new(id, region, total));
        let regions: ArrayVec<Region<M::Lock>, MAX_REGIONS> = regions.collect();
        // SAFETY: T1: nothing is mapped in the regions yet (N1).
        let walker = unsafe { Walker::new(machine) };
        regions.iter().try_for_each(|region| left_alone(&walker, region.all_pages()))?;
        let roots: usize = regions.iter().map(|region| walker.missing_in_root(region.pages())).sum();
        let kept = 1 + cpus as usize * (1 + config.regions.len() + 2) + nodes * stacks;
        let wanted = (kept + roots).saturating_add(config.atomic_reserve);
        let (mut prealloc, pinned) = populate(machine, wanted)?;
        let directory = take(machine, &mut prealloc);
        let (table, last_frees) = open_directory(machine, directory);
        for index in 0..cpus {
            let cpu = new_cpu(machine, &mut prealloc, index, config.regions.len());
            // SAFETY: I2: the directory is a frame of ours with room for
            // MAX_CPUS pointers.
            unsafe { table.add(index as usize).write(cpu) };
        }
        for depot in &depots[..nodes] {
            // SAFETY: Q6: the machine is the instance's for ever.
            unsafe { depot.open(machine, &mut prealloc, stacks) };
        }
        // Regions that share an entry of the root were counted twice.
        regions.iter().for_each(|region| walker.link_root_tables(region.pages(), &mut prealloc));
        let tables = config.atomic_reserve + roots - prealloc.len();
        prealloc.trim(machine, config.atomic_reserve);
        // SAFETY: our own pin, the youngest.
        unsafe { machine.unpin(pinned) }
        Ok(Core {
            regions,
            flush_epochs: FlushEpochs::default(),
            cpus: table,
            directory,
            cpu_count: cpus,
            depots,
            reserve: Mutex::new(prealloc),
            reserve_frames: config.atomic_reserve,
            policy: AtomicU8::new(config.policy as u8),
            caches_from: caches_from(machine, config),
            budget: config.budget(total, cpus),
            waiting: AtomicUsize::new(0),
            waiting_pages,
            batch_pages,
            round_pages: round_pages(batch_pages, cpus, waiting_pages),
            round: AtomicU64::new(0),
            freed: AtomicU64::new(0),
            tables: AtomicUsize::new(tables),
            bookkeeping: AtomicUsize::new(kept),
            init_frames: kept + config.atomic_reserve + tables,
            init_bookkeeping: kept,
            last_frees,
            warned: Quiet::new(),
            in_place: AtomicUsize::new(total),
        })
    }

    /// Takes pages that are their own frames. Returns false if there are too few.
    pub(crate) fn charge(&self, pages: usize) -> bool {
        self.in_place.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(pages)).is_ok()
    }

    /// The CPU with this index.
    #[inline]
    pub(crate) fn cpu(&self, index: u32) -> &PerCpu {
        debug_assert!(index < self.cpu_count, "M3");
        // SAFETY: I2: the directory holds `cpu_count` pointers to CPUs that
        // live as long as the core, and M3 bounds every index.
        unsafe { self.cpus.add(index as usize).read().as_ref() }
    }

    /// The number of CPUs.
    pub(crate) fn cpus(&self) -> u32 {
        self.cpu_count
    }

    /// The pages reclaimed so far, by all CPUs.
    pub(crate) fn reclaimed_pages(&self) -> usize {
        let pages = |index| self.cpu(index).counters.reclaimed_pages.load(Relaxed) as usize;
        (0..self.cpus()).map(pages).fold(0, usize::wrapping_add)
    }

    /// Adds up the pages that wait for flushes, on all CPUs (G4).
    pub(crate) fn look(&self) -> Waiting {
        let (mut batches, mut unflushed, mut posted, mut freed, mut live) = (0, 0, 0_u64, 0_u64, 0_u64);
        for cpu in (0..self.cpus()).map(|index| self.cpu(index)) {
            live = live.wrapping_add(cpu.counters.live_pages());
            freed = freed.wrapping_add(cpu.counters.free_pages.load(Relaxed));
            batches += cpu.waits.load(Relaxed);
            unflushed += cpu.unflushed.load(Relaxed);
            let posted_here = cpu.counters.remote_pages.load(Relaxed);
            posted = posted.wrapping_add(posted_here).wrapping_sub(cpu.counters.received_pages.load(Relaxed));
        }
        // A CPU may be ahead of what was seen of another one.
        let all = batches + (posted as i64).max(0) as usize;
        self.waiting.store(all, Relaxed);
        Waiting { all, unflushed, freed, live: (live as i64).max(0) as usize }
    }

    /// The frames that the depots may keep: with the pages that wait, no more than may wait (G4).
    pub(crate) fn depot_share(&self) -> usize {
        self.waiting_pages.saturating_sub(self.look().all)
    }

    /// Whether enough pages are unflushed for a round. CPUs that have not taken a step since the
    /// last round began still publish what it flushed, so half of the pages must be newer.
    pub(crate) fn is_round_due(&self) -> bool {
        let Waiting { unflushed, freed, live, .. } = self.look();
        let batches = (self.batch_pages * self.cpus() as usize).min(self.round_pages);
        let due = self.round_pages.min(share_of_live(batches, live) / 2 * 3);
        let newer = freed.wrapping_sub(self.freed.load(Relaxed));
        unflushed >= due && newer >= due as u64 / 2
    }

    /// The epochs of all CPUs, by index.
    pub(crate) fn epochs(&self) -> impl Iterator<Item = &CpuEpoch> {
        (0..self.cpu_count).map(|index| &self.cpu(index).epoch)
    }

    #[inline]
    pub(crate) fn policy(&self) -> Policy {
        Policy::from_u8(self.policy.load(Relaxed))
    }

    /// The ring of the last frees.
    pub(crate) fn last_frees(&self) -> &LastFrees {
        // SAFETY: I2: `open_directory` wrote it.
        unsafe { self.last_frees.as_ref() }
    }

    /// Whether a free flushes at once.
    #[inline(always)]
    pub(crate) fn is_strict(&self) -> bool {
        self.policy.load(Relaxed) == Policy::Strict as u8
    }

    /// The depot of a node.
    #[inline]
    pub(crate) fn depot(&self, node: Node) -> &Depot<M::Lock> {
        &self.depots[node.0 as usize % MAX_NODES]
    }

    /// The sum of `f` over all depots.
    pub(crate) fn depots(&self, f: impl FnMut(&Depot<M::Lock>) -> usize) -> usize {
        self.depots.iter().map(f).sum()
    }

    /// Gives every frame back.
    pub(crate) fn destroy(self, machine: &M) {
        let mut give = |frame: Pfn| {
            // SAFETY: it was taken from the source as a single frame, and nothing uses it any more.
            unsafe { machine.frames().free(frame, 0) }
        };
        for index in 0..self.cpu_count {
            // SAFETY: I2, and nobody is inside any more: the CPU is moved out
            // of its frame.
            let mut cpu = unsafe { self.cpus.add(index as usize).read().read() };
            cpu.own().seal(machine, &mut give);
        }
        self.depots(|depot| depot.destroy(machine));
        self.reserve.into_inner().trim(machine, 0);
        give(self.directory);
        for mut region in self.regions {
            region.destroy(machine, &mut give);
        }
    }
}

/// The pages that wait for flushes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    /// In the batches of all CPUs, and posted to CPUs that have not drained them yet.
    pub(crate) all: usize,
    /// In batches that have not had grace.
    pub(crate) unflushed: usize,
    /// All that was ever freed.
    pub(crate) freed: u64,
    /// In live areas.
    pub(crate) live: usize,
}

/// The pages that may wait for a flush where `live` pages are live, at most `most`: a sixteenth
/// of those beyond 2,048, so that what waits does not spread the areas over many more addresses.
/// Where fewer are live than fill a batch there is little to spread.
pub(crate) fn share_of_live(most: usize, live: usize) -> usize {
    match live {
        _ if live < most => most,
        _ => (live / 16).saturating_sub(128).max(256).min(most),
    }
}

/// The unflushed pages at which a round begins. Where CPUs share a flush, a batch that one of them
/// has sealed waits for the next round, so half as many pages again may wait as in full batches; but
/// never so many that callers would have to wait (G4).
fn round_pages(batch_pages: usize, cpus: u32, waiting_pages: usize) -> usize {
    match cpus as usize {
        1 => batch_pages,
        cpus => (batch_pages.saturating_mul(cpus) / 2 * 3).min((waiting_pages / 4 * 3).max(batch_pages)),
    }
}

/// Takes this number of frames, or none, and then a pin. Interrupts come in meanwhile (L3).
fn populate<M: Machine>(machine: &M, wanted: usize) -> Result<(Prealloc, Pinned), InitError> {
    let mut prealloc = Prealloc::new();
    if wanted > machine.frames().total() {
        return Err(InitError::NoMemory { wanted, got: None });
    }
    while prealloc.len() < wanted {
        let more = (prealloc.len() + WORK).min(wanted);
        let pinned = machine.pin();
        let filled = prealloc.fill(machine, Node(0), more).inspect_err(|_| prealloc.trim(machine, 0));
        // SAFETY: our own pin, the youngest.
        unsafe { machine.unpin(pinned) }
        filled.map_err(|got| InitError::NoMemory { wanted, got: Some(got) })?;
    }
    Ok((prealloc, machine.pin()))
}

/// Checks that no entry of the embedder is in the way above the leaf tables of a region (T2).
fn left_alone<M: Machine>(walker: &Walker<'_, M>, pages: PageRange) -> Result<(), InitError> {
    match walker.foreign(pages) {
        None => Ok(()),
        Some(Foreign { at, level, restricts: true }) => Err(InitError::Restricted { at, level }),
        Some(Foreign { at, level, .. }) => Err(InitError::InUse { at, level }),
    }
}

/// Whether Park differs from Unmap. It needs entries that hide frames: half of the frame numbers
/// that an entry can hold must name no memory.
fn parks<M: Machine>(machine: &M) -> bool {
    let hides = <M::Table as Format>::HIDES && machine.frames().end().0 <= <M::Table as Format>::MAX_PFN / 2;
    hides && !M::MIRRORED
}

/// See [`Core::caches_from`]. Only slots of a class are cached.
fn caches_from<M: Machine>(machine: &M, config: &Config) -> u8 {
    match config.regions.iter().any(|region| region.placement == Placement::Classes) {
        true if parks(machine) => Policy::Park as u8,
        true => Policy::Keep as u8,
        false => Policy::Keep as u8 + 1,
    }
}

fn take<M: Machine>(machine: &M, prealloc: &mut Prealloc) -> Pfn {
    prealloc.take(machine).expect("I2: populated by Core::new")
}

/// Makes the directory of CPUs, and behind it the ring of the last frees.
fn open_directory<M: Machine>(machine: &M, frame: Pfn) -> (NonNull<NonNull<PerCpu>>, NonNull<LastFrees>) {
    const CPUS: usize = MAX_CPUS * size_of::<usize>();
    const { assert!(CPUS + size_of::<LastFrees>() <= PAGE_SIZE, "the directory is one frame") };
    let table = machine.virt(frame);
    // SAFETY: I2: a fresh frame, and both fit it.
    let last_frees = unsafe { table.add(CPUS) }.cast::<LastFrees>();
    // SAFETY: as above.
    unsafe { last_frees.write(LastFrees::default()) };
    (table.cast(), last_frees)
}

/// Makes a CPU and its lists of chunks, each in a frame of its own.
fn new_cpu<M: Machine>(machine: &M, prealloc: &mut Prealloc, index: u32, regions: usize) -> NonNull<PerCpu> {
    let shelves = (0..regions).map(|_| {
        let frame = take(machine, prealloc);
        let cpu_chunks = machine.virt(frame).cast::<CpuChunks>();
        // SAFETY: I2: a fresh frame, large and aligned enough.
        unsafe { cpu_chunks.write(CpuChunks::default()) };
        (frame, cpu_chunks)
    });
    let shelves = shelves.collect();
    let frame = take(machine, prealloc);
    let mut cpu = PerCpu::new(index, machine.node_of(index), frame, shelves);
    cpu.own().open(machine, prealloc);
    let at = machine.virt(frame).cast::<PerCpu>();
    // SAFETY: I2: a fresh frame, and a CPU fits one.
    unsafe { at.write(cpu) };
    at
}
