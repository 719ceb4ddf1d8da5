//! Regions: addresses and the tables under them, given and taken in runs.
//!
//! A region is a range of addresses, its arena and its unit table. What is cut
//! from it is a **run** of grains: a chunk (Classes), or one area that has a
//! run of its own (larger than a slot, confined to a sub-range, or under the
//! placement Lowest).
//!
//! # Rules
//! - G6: The page below a stack is its own: a slot of a class has one (K7), and a
//!   run has a grain more, before the area, which points at nobody. So what else
//!   is in the region, or beside it, does not matter. A region's first page is in
//!   no grain.
//! - **R3** A run's table pages are linked before anything is bound in it, and
//!   its grains point at its chunk before anybody can ask. They are linked slice
//!   by slice, where an area is the first to reach there.
//! - T1: A leaf table stays linked while any grain under it is outside the
//!   arena. When a run goes back, each leaf table with nothing left under it is
//!   unlinked, and its grains stay out of the arena until the batch that holds
//!   the table page is expired: a paging-structure cache may still point at it. Tables
//!   of two levels keep theirs: other roots have copied the links (M1).
//!
//! # Locks
//! `shared` guards the arena, writes to the unit table, and unlinking. What a
//! run needs is stocked before it is taken, so the middle cannot fail.

use crate::area::RegionId;
use crate::batch::HeldTable;
use crate::config::RegionConfig;
use crate::cpu::{CpuGuard, SLICE};
use crate::error::Shortage;
use crate::fill::Refusal;
use crate::machine::Machine;
use crate::machine::format::{Format, entries};
use crate::machine::frames::Frames;
use crate::plan::guards_below;
use crate::space::arena::{Arena, Fit};
use crate::space::chunk::ChunkRef;
use crate::space::class::Class;
use crate::space::slot::slots_of;
use crate::space::units::UnitTable;
use crate::stats::count;
use crate::sync::{AtomicBool, Ordering::Relaxed};
use crate::table::{PteRange, Walker};
use crate::units::{PAGE_SHIFT, PAGE_SIZE, PageRange, Pfn, VirtAddr};
use lock_api::Mutex;

/// What an entry of the unit table says: where the header is and, in the low
/// bits of its address, the slot whose run this is, or all ones for a class chunk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct UnitEntry(pub(crate) u64);

const NO_SLOT: u32 = 0xff;

impl UnitEntry {
    fn new(chunk: ChunkRef, slot: Option<u32>) -> UnitEntry {
        UnitEntry(chunk.as_ptr().expose_provenance() as u64 | slot.unwrap_or(NO_SLOT) as u64)
    }

    /// The header; `None` where the entry says nothing.
    #[inline]
    pub(crate) fn chunk(self) -> Option<ChunkRef> {
        let at = self.0 as usize & !(PAGE_SIZE - 1);
        // SAFETY: H2: `new` wrote what `as_ptr` gave; a header is a frame.
        unsafe { ChunkRef::from_ptr(core::ptr::with_exposed_provenance_mut(at)) }
    }

    /// The header of a class chunk.
    #[inline(always)]
    pub(crate) fn chunk_of_class(self) -> Option<ChunkRef> {
        let at = self.0 as usize ^ NO_SLOT as usize;
        // SAFETY: H2, as in `chunk`: only with the mark of a class chunk is this
        // the start of a frame, and no header is at address 0.
        let chunk = || unsafe { ChunkRef::from_ptr(core::ptr::with_exposed_provenance_mut(at)).unwrap_unchecked() };
        at.is_multiple_of(PAGE_SIZE).then(chunk)
    }

    /// The slot, where the run is one area.
    #[inline]
    pub(crate) fn slot(self) -> Option<u32> {
        let low = self.0 as u32 & NO_SLOT;
        (low != NO_SLOT).then_some(low)
    }
}

/// Leaf tables that are unlinked in one section.
const PRUNED: usize = 4;
/// Frames that a CPU keeps in stock for the next run.
const KEEP: usize = 16;

/// What the region's lock guards.
pub(crate) struct Shared {
    pub(crate) arena: Arena,
    /// Headers without a chunk, chained by their `next`.
    headers: Option<ChunkRef>,
    sweep: Sweep,
}

/// How far the search for empty leaf tables has come (T1).
struct Sweep {
    /// No run has reached beyond: there are none.
    end: VirtAddr,
    /// One is on its way: where it goes on.
    at: Option<VirtAddr>,
    /// There may be some behind it: another one is due.
    again: bool,
}

/// A range of addresses that areas are carved from.
pub(crate) struct Region<L: lock_api::RawMutex> {
    pub(crate) id: RegionId,
    /// The first grain's address: the region itself may begin below it.
    pub(crate) base: VirtAddr,
    pub(crate) start: usize,
    pub(crate) bytes: usize,
    pub(crate) grain_shift: u32,
    /// log2 of a grain's bytes.
    shift: u32,
    /// Bytes of all grains: a last one that is not whole is nobody's.
    whole: usize,
    /// Pages of the largest area that may go straight: none under Lowest.
    pub(crate) straight: usize,
    arena_stock: usize,
    pub(crate) units: UnitTable,
    pub(crate) shared: Mutex<L, Shared>,
    /// Empty leaf tables may be linked: nobody has had the time, or the room in
    /// a batch.
    unswept: AtomicBool,
}

/// A run of grains that a call has taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunFit {
    /// Pages needed, guard included.
    pub(crate) pages: usize,
    /// Grains before them that nobody binds (G6).
    pub(crate) below: u32,
    /// Alignment, in pages.
    pub(crate) align: usize,
    /// Grains that will do.
    pub(crate) within: (u32, u32),
}

impl<L: lock_api::RawMutex> Region<L> {
    pub(crate) fn new(id: usize, config: &RegionConfig, frames: usize) -> Region<L> {
        let grain_shift = config.grain_shift();
        let base = config.first_grain();
        let grains = ((config.end - base) >> PAGE_SHIFT >> grain_shift) as u32;
        let arena = Arena::new(grains);
        Region {
            id: RegionId(id as u8),
            base: VirtAddr(base),
            start: config.start,
            bytes: config.end - base,
            grain_shift,
            shift: PAGE_SHIFT + grain_shift,
            whole: (grains as usize) << (PAGE_SHIFT + grain_shift),
            straight: if grain_shift == 0 { 0 } else { SLICE.min(frames).min(grains as usize) },
            arena_stock: arena.frames_needed(),
            units: UnitTable::new(grains),
            shared: Mutex::new(Shared {
                arena,
                headers: None,
                sweep: Sweep { end: VirtAddr(base), at: None, again: false },
            }),
            unswept: AtomicBool::new(false),
        }
    }

    /// The grain that holds `at`, if the region does.
    #[inline]
    pub(crate) fn grain_of(&self, at: VirtAddr) -> Option<u32> {
        let offset = at.0.wrapping_sub(self.base.0);
        (offset < self.whole).then_some((offset >> self.shift) as u32)
    }

    /// Whether `at` is one of its addresses, be it one that nobody gets.
    pub(crate) fn holds(&self, at: VirtAddr) -> bool {
        at.0.wrapping_sub(self.start) < self.base.0 - self.start + self.whole
    }

    /// The grains under the leaf table from `leaf` on: the first, and how many.
    /// `None` where the table reaches beyond the region: it is not ours alone.
    fn under(&self, leaf: VirtAddr, leaf_shift: u32) -> Option<(u32, u32)> {
        let last = self.grain_of(VirtAddr(leaf.0 | ((1 << leaf_shift) - 1)))?;
        let first = if leaf.0 < self.base.0 { 0 } else { self.grain_of(leaf)? };
        (self.start <= leaf.0).then_some((first, last - first + 1))
    }

    /// The address of a grain.
    #[inline]
    pub(crate) fn address(&self, grain: u32) -> VirtAddr {
        self.base.add_pages((grain as usize) << self.grain_shift)
    }

    pub(crate) fn grains(&self) -> u32 {
        (self.bytes >> PAGE_SHIFT >> self.grain_shift) as u32
    }

    /// Its pages, those that nobody gets too.
    pub(crate) fn all_pages(&self) -> PageRange {
        PageRange::new(VirtAddr(self.start), (self.base.0 - self.start + self.bytes) >> PAGE_SHIFT)
    }

    /// All its pages.
    pub(crate) fn pages(&self) -> PageRange {
        PageRange::new(self.base, self.bytes >> PAGE_SHIFT)
    }

    /// The pages of a run of grains.
    pub(crate) fn pages_of(&self, start: u32, grains: u32) -> PageRange {
        PageRange::new(self.address(start), (grains as usize) << self.grain_shift)
    }

    /// Grains that lie wholly inside `range`; `None` where it leaves the region.
    pub(crate) fn grains_within(&self, range: (usize, usize)) -> Option<(u32, u32)> {
        let shift = PAGE_SHIFT + self.grain_shift;
        let offset = |at: usize| at.saturating_sub(self.base.0);
        let whole = (offset(range.0).div_ceil(1 << shift) as u32, (offset(range.1) >> shift) as u32);
        let inside = self.start <= range.0 && range.0 < range.1 && offset(range.1) <= self.bytes;
        inside.then_some(whole)
    }

    /// Grains from address 0 to the region's first one.
    fn phase(&self) -> u64 {
        (self.base.0 >> PAGE_SHIFT >> self.grain_shift) as u64
    }

    /// Leaves empty leaf tables to a sweep.
    fn leave(&self, shared: &mut Shared) {
        shared.sweep.again = true;
        self.unswept.store(true, Relaxed);
    }

    fn fit(&self, run: &RunFit) -> Fit {
        let grains = run.pages.div_ceil(1 << self.grain_shift);
        Fit {
            grains: u32::try_from(grains).unwrap_or(u32::MAX).saturating_add(run.below),
            align: (run.align >> self.grain_shift).max(1) as u32,
            phase: (self.phase() as u32).wrapping_add(run.below),
            within: run.within.0..run.within.1,
        }
    }
}

/// Address bits below a leaf table's.
pub(crate) const fn leaf_shift<M: Machine>() -> u32 {
    PAGE_SHIFT + <M::Table as Format>::INDEX_BITS
}

impl<L: lock_api::RawMutex> Region<L> {
    /// Gives all bookkeeping back: nothing is outside the arena any more.
    pub(crate) fn destroy<M: Machine>(&mut self, machine: &M, give: &mut impl FnMut(Pfn)) {
        let shared = self.shared.get_mut();
        while let Some(header) = shared.headers {
            shared.headers = header.unchain();
            give(header.frame());
        }
        shared.arena.destroy(machine, &mut *give);
        self.units.destroy(machine, give);
    }
}

/// Where the `index`-th leaf table under a class chunk begins.
fn leaf_of<M: Machine>(chunk: ChunkRef, index: usize) -> VirtAddr {
    let first = chunk.address(0).0 >> leaf_shift::<M>();
    VirtAddr((first + index) << leaf_shift::<M>())
}

/// Whom a run is taken for.
enum For {
    /// A new chunk of so many slots.
    Chunk(Class, usize),
    /// One area: a slot of a run chunk.
    Area(ChunkRef, u32),
}

/// Whether a slice, `done` pages into its area, has its tables: class chunks
/// keep them at hand; in a run of its own it has, unless it is the first to
/// reach into a leaf table.
fn is_linked<M: Machine>(chunk: ChunkRef, slice: PageRange, done: usize) -> bool {
    if chunk.is_runs() {
        let first = (slice.start.0 >> PAGE_SHIFT) & (entries::<M::Table>() - 1);
        return done > 0 && first > 0 && first + slice.pages <= entries::<M::Table>();
    }
    let last = VirtAddr(slice.end().0 - 1);
    [slice.start, last].into_iter().all(|at| chunk.leaf(at, leaf_shift::<M>()) != 0)
}

impl<'v, M: Machine> CpuGuard<'v, M> {
    fn region(&self, id: RegionId) -> &'v Region<M::Lock> {
        &self.core.regions[id.0 as usize]
    }

    fn walker(&self) -> Walker<'v, M> {
        // SAFETY: T1: whoever is inside walks only under runs that are outside
        // the arena for as long as the walk takes, or holds the region's lock.
        unsafe { Walker::new(self.vm.machine()) }
    }

    /// Makes a chunk of `class` and puts it on the CPU's chunks (R3).
    pub(crate) fn grow(&mut self, id: RegionId, class: Class) -> Result<(), Shortage> {
        let slots = class.slots_after(self.cpu_chunks(id).chunks(class));
        let run = RunFit {
            pages: class.units(slots) << self.region(id).grain_shift,
            below: 0,
            align: class.align(),
            within: (0, self.region(id).grains()),
        };
        let chunk = self.take_run(id, &run, For::Chunk(class, slots))?;
        self.cpu_chunks(id).add(chunk);
        count(&self.cpu.counters.chunks_made, 1);
        Ok(())
    }

    /// Gives the slot `slot` of the run chunk `chunk` a run of its own.
    pub(crate) fn take_run_for(&mut self, id: RegionId, place: (ChunkRef, u32), run: &RunFit) -> Result<(), Shortage> {
        self.take_run(id, run, For::Area(place.0, place.1)).map(drop)
    }

    /// Puts a chunk of slots for runs on the CPU's chunks.
    pub(crate) fn grow_runs(&mut self, id: RegionId) -> Result<(), Shortage> {
        self.populate(1)?;
        let before = self.stock.len();
        let header = self.take_header(&mut self.region(id).shared.lock());
        self.core.bookkeeping.fetch_add(before - self.stock.len(), Relaxed);
        header.become_runs(id, self.index);
        self.cpu_chunks(id).add(header);
        Ok(())
    }

    /// Lays in frames before a lock is taken.
    fn populate(&mut self, frames: usize) -> Result<(), Shortage> {
        let (machine, node) = (self.vm.machine(), self.node);
        let filled = self.stock.fill(machine, node, frames);
        filled.map_err(|_| {
            self.stock.trim(machine, KEEP);
            Shortage::Tables(frames)
        })
    }

    /// A header: one that was given up, or a new one from the stock.
    fn take_header(&mut self, shared: &mut Shared) -> ChunkRef {
        if let Some(header) = shared.headers {
            shared.headers = header.unchain();
            return header;
        }
        let machine = self.vm.machine();
        let frame = self.stock.take(machine).expect("R3: laid in before");
        // SAFETY: H1: fresh from the stock, and never given back (C1).
        unsafe { ChunkRef::create(machine, frame) }
    }

    /// Takes a run: grains and unit entries (R3).
    fn take_run(&mut self, id: RegionId, run: &RunFit, whom: For) -> Result<ChunkRef, Shortage> {
        let (machine, region) = (self.vm.machine(), self.region(id));
        let fit = region.fit(run);
        self.populate(1 + region.arena_stock + region.units.frames_needed(fit.grains))?;

        let before = self.stock.len();
        let mut shared = region.shared.lock();
        let start = match shared.arena.take(machine, &mut self.stock, &fit) {
            Ok(start) => start,
            Err(widest) => {
                drop(shared);
                return Err(self.too_narrow(region, run, widest));
            }
        };
        let (start, grains) = (start + run.below, fit.grains - run.below);
        let range = region.pages_of(start, grains);
        shared.sweep.end = shared.sweep.end.max(range.end());
        let (chunk, slot) = self.label(&mut shared, region, range, whom);
        let entry = UnitEntry::new(chunk, slot);
        region.units.set(machine, &mut self.stock, start, grains, entry.0);
        drop(shared);

        self.core.bookkeeping.fetch_add(before - self.stock.len(), Relaxed);
        self.stock.trim(machine, KEEP);
        Ok(chunk)
    }

    /// Links the tables for a slice, `done` pages into its area, if they may be
    /// missing (R3). What the embedder has there is not touched (T2).
    pub(crate) fn link(&mut self, chunk: ChunkRef, slice: PageRange, done: usize) -> Result<(), Refusal> {
        if is_linked::<M>(chunk, slice, done) {
            return Ok(());
        }
        if let Some(foreign) = self.walker().foreign(slice) {
            return Err(foreign.into());
        }
        self.populate(self.walker().tables_needed(slice.pages)).map_err(Refusal::Short)?;
        let before = self.stock.len();
        self.walker().link_tables(slice, &mut self.stock);
        self.core.tables.fetch_add(before - self.stock.len(), Relaxed);
        if !chunk.is_runs() {
            self.cache_leaves(chunk, slice);
        }
        Ok(())
    }

    #[cold]
    fn too_narrow(&mut self, region: &Region<M::Lock>, run: &RunFit, widest: u32) -> Shortage {
        let machine = self.vm.machine();
        self.stock.trim(machine, KEEP);
        let pages = run.pages + ((run.below as usize) << region.grain_shift);
        Shortage::Addresses { pages, widest: (widest as usize) << region.grain_shift }
    }

    /// Says whose the run is, before its grains point there.
    fn label(
        &mut self,
        shared: &mut Shared,
        region: &Region<M::Lock>,
        range: PageRange,
        whom: For,
    ) -> (ChunkRef, Option<u32>) {
        match whom {
            For::Chunk(class, slots) => {
                let chunk = self.take_header(shared);
                chunk.become_class(class, slots, range.start, region.id, self.index);
                (chunk, None)
            }
            For::Area(chunk, slot) => {
                let grains = (range.pages >> region.grain_shift) as u32;
                chunk.slot(slot).place(region.grain_of(range.start).unwrap_or(0), grains);
                (chunk, Some(slot))
            }
        }
    }

    /// Keeps leaf tables of a class chunk at hand: they stay linked while it is
    /// one (T1).
    fn cache_leaves(&self, chunk: ChunkRef, range: PageRange) {
        let shift = leaf_shift::<M>();
        let first = chunk.address(0).0 >> shift;
        for leaf in range.start.0 >> shift..=(range.end().0 - 1) >> shift {
            if let Some((frame, table)) = self.walker().leaf(VirtAddr(leaf << shift)) {
                chunk.cache_leaf(leaf - first, table.into_raw(), frame);
            }
        }
        let whole = self.region(chunk.region()).pages_of(0, chunk.units()).pages;
        let whole = PageRange::new(chunk.address(0), whole);
        if first == (whole.end().0 - 1) >> shift
            && let Some(table) = self.walker().leaf_table(whole.start)
        {
            chunk.cache_entries(PteRange::new(table, whole.start, whole.pages).into_raw());
        }
    }

    /// Looks whether the leaf tables that the chunk keeps at hand are linked. One
    /// that is not, since somebody has written over an entry above it, is linked
    /// again; where the entry is the embedder's, it is forgotten (T2). Says how many
    /// it has looked at.
    #[inline]
    pub(crate) fn check_leaves(&mut self, chunk: ChunkRef) -> usize {
        let mut looked_at = 0;
        for (index, frame) in chunk.leaves() {
            looked_at += 1;
            let at = leaf_of::<M>(chunk, index);
            if self.walker().leaf(at).is_none_or(|(linked, _)| linked != frame) {
                self.mend(chunk, index, at, frame);
            }
        }
        looked_at
    }

    #[cold]
    #[inline(never)]
    fn mend(&mut self, chunk: ChunkRef, index: usize, at: VirtAddr, frame: Pfn) {
        let levels = self.vm.machine().levels() as usize;
        if self.populate(levels).is_ok() {
            let before = self.stock.len();
            self.walker().relink(at, frame, &mut self.stock);
            self.core.tables.fetch_add(before - self.stock.len(), Relaxed);
        } else {
            // Without memory it is reported only.
            let _ = self.walker().piece(PageRange::new(at, 1));
        }
        if self.walker().leaf(at).is_none_or(|(linked, _)| linked != frame) {
            chunk.forget_leaf(index);
            // What waits under it is lost, and that was just told.
            slots_of(chunk.stale(0) | chunk.stale(1)).for_each(|slot| chunk.slot(slot).mark_reported());
        }
    }

    /// Gives up an empty chunk, off its CPU's chunks.
    pub(crate) fn release_chunk(&mut self, chunk: ChunkRef) {
        let region = self.region(chunk.region());
        let Some(start) = region.grain_of(chunk.address(0)) else { return };
        chunk.retire_header();
        self.release_run(region.id, (start, chunk.units()), 0);
        let mut shared = region.shared.lock();
        chunk.chain(shared.headers);
        shared.headers = Some(chunk);
        drop(shared);
        count(&self.cpu.counters.chunks_released, 1);
    }

    /// Gives the run of the slot `slot` of the run chunk `chunk` back.
    pub(crate) fn release_run_of(&mut self, chunk: ChunkRef, slot: u32) {
        let area = chunk.slot(slot);
        self.release_run(chunk.region(), area.run(), guards_below(area.kind()));
    }

    /// Gives a run back to the arena, all of its entries absent, and the grains
    /// `below` it. Leaf tables with nothing left under them join the open batch (T1).
    fn release_run(&mut self, id: RegionId, (start, grains): (u32, u32), below: u32) {
        let (machine, region) = (self.vm.machine(), self.region(id));
        // For `prune`; it can do without.
        let _ = self.populate(region.arena_stock);
        let mut shared = region.shared.lock();
        region.units.clear(machine, start, grains);
        let (start, grains) = (start - below, grains + below);
        shared.arena.free(machine, start, grains);
        if self.walker().keeps_leaf_tables() {
            return;
        }
        let (shift, range) = (leaf_shift::<M>(), region.pages_of(start, grains));
        let leaves = range.start.0 >> shift..=(range.end().0 - 1) >> shift;
        if leaves.end() - leaves.start() >= PRUNED {
            return region.leave(&mut shared);
        }
        for leaf in leaves {
            if let Some((at, span)) = region.under(VirtAddr(leaf << shift), shift) {
                self.prune(region, &mut shared, at, span);
            }
        }
    }

    /// Unlinks the leaf table over the grains `at..at + span`, if they are all
    /// free (T1).
    fn prune(&mut self, region: &Region<M::Lock>, shared: &mut Shared, at: u32, span: u32) {
        let machine = self.vm.machine();
        let batch = self.open.index;
        if !shared.arena.is_free(machine, at, span) {
            return;
        }
        // Keeping the grains out may need frames. Without any, or without room
        // in the batch, the table stays linked, empty, until it is swept.
        if self.stock.len() < region.arena_stock || self.tables[batch].is_full() {
            return region.leave(shared);
        }
        let Some(table) = self.walker().unlink(region.address(at)) else { return };
        let before = self.stock.len();
        let held = shared.arena.take_at(machine, &mut self.stock, at, span);
        self.core.bookkeeping.fetch_add(before - self.stock.len(), Relaxed);
        debug_assert!(held, "T1: the grains were free a moment ago");
        self.tables[batch].push(HeldTable { table, region: region.id.0, grains: (at, span) });
        count(&self.cpu.counters.tables_pruned, 1);
    }

    /// Unlinks empty leaf tables that nobody had the time or the room for before
    /// (T1), a few at a time (L3) as long as the open batch has room. True = there
    /// may be more.
    pub(crate) fn sweep(&mut self, id: RegionId) -> bool {
        let region = self.region(id);
        if !region.unswept.load(Relaxed) || self.populate(region.arena_stock).is_err() {
            return false;
        }
        let mut shared = region.shared.lock();
        for _ in 0..PRUNED {
            if self.tables[self.open.index].is_full() {
                return false;
            }
            let (more, leaf) = self.next_unswept(region, &mut shared);
            if let Some((at, span)) = leaf.and_then(|leaf| region.under(leaf, leaf_shift::<M>())) {
                self.prune(region, &mut shared, at, span);
            }
            if !more {
                return false;
            }
        }
        true
    }

    /// The next leaf table of the sweep that is on its way, or due, if there is
    /// one nearby; and whether there may be more.
    fn next_unswept(&self, region: &Region<M::Lock>, shared: &mut Shared) -> (bool, Option<VirtAddr>) {
        let sweep = &mut shared.sweep;
        if sweep.at.is_none() {
            sweep.again = false;
        }
        let from = sweep.at.unwrap_or(region.base);
        let (leaf, next) = self.walker().next_leaf(from, sweep.end);
        sweep.at = next;
        region.unswept.store(next.is_some() || sweep.again, Relaxed);
        (next.is_some(), leaf)
    }

    /// After grace: the table page is free memory, its grains free addresses.
    pub(crate) fn reclaim_table(&mut self, held: HeldTable) {
        let (machine, region) = (self.vm.machine(), self.region(RegionId(held.region)));
        region.shared.lock().arena.free(machine, held.grains.0, held.grains.1);
        self.core.tables.fetch_sub(1, Relaxed);
        // SAFETY: `prepare` took it from the stock, `unlink` took it out of the
        // tree, and no CPU can walk into it any more (G3).
        unsafe { machine.frames().free(held.table, 0) }
    }
}
