//! Leaf tables: linked when an area first reaches them, unlinked when no area is left under them.
//!
//! # Rules
//! - T1: A leaf table stays linked while any grain under it is outside the arena. When a run goes
//!   back and nothing is left under a leaf table, the table is unlinked. Its grains stay out of the
//!   arena until the batch that holds the table page has expired, because a paging-structure cache
//!   may still point at the page. Two-level formats keep their leaf tables, because other roots
//!   have copied the links (M1).

use crate::area::RegionId;
use crate::error::Shortage;
use crate::machine::Machine;
use crate::machine::frames::Frames;
use crate::space::chunk::ChunkRef;
use crate::space::slot::slots_of;
use crate::state::batch::HeldTable;
use crate::state::cpu::WORK;
use crate::state::enter::CpuGuard;
use crate::state::region::{NOWHERE, Region, Shared, leaf_shift};
use crate::state::stats::count;
use crate::sync::Ordering::Relaxed;
use crate::table::{Foreign, PteRange};
use crate::units::{PageRange, Pfn, VirtAddr};

/// Bookkeeping frames that a CPU keeps for the next run and its tables.
pub(super) const KEEP: usize = 16;
/// The most leaf tables that are unlinked in one section.
pub(super) const PRUNED: usize = 4;

/// The work that looking through a leaf table for an entry in use counts as: its entries fill 64 cache
/// lines.
const LOOK: usize = WORK / 2;

/// Why tables could not be linked.
pub(crate) enum Unlinked {
    /// There is no memory for them.
    Short(Shortage),
    /// An entry of the embedder is in the place of a table (T2).
    InTheWay(Foreign),
}

/// Where the `index`-th leaf table under a class chunk begins.
fn leaf_of<M: Machine>(chunk: ChunkRef, index: usize) -> VirtAddr {
    let first = chunk.address(0).0 >> leaf_shift::<M>();
    VirtAddr((first + index) << leaf_shift::<M>())
}

impl<'v, M: Machine> CpuGuard<'v, M> {
    /// Links the tables over pages of a chunk (R3). Entries of the embedder are not touched (T2).
    ///
    /// # Errors
    /// There is no memory for them, or an entry of the embedder is in the way.
    pub(crate) fn link(&mut self, chunk: ChunkRef, slice: PageRange) -> Result<(), Unlinked> {
        if let Some(foreign) = self.ctx().walker().foreign(slice) {
            return Err(Unlinked::InTheWay(foreign));
        }
        self.populate(self.ctx().walker().tables_needed(slice.pages)).map_err(Unlinked::Short)?;
        let before = self.prealloc.len();
        self.ctx().walker().link_tables(slice, &mut self.prealloc);
        self.core.tables.fetch_add(before - self.prealloc.len(), Relaxed);
        if !chunk.is_runs() {
            self.cache_leaves(chunk, slice);
        }
        Ok(())
    }

    /// Stores the leaf tables of a class chunk in its header. They stay linked while the chunk
    /// exists (T1).
    fn cache_leaves(&self, chunk: ChunkRef, range: PageRange) {
        let shift = leaf_shift::<M>();
        let first = chunk.address(0).0 >> shift;
        for leaf in range.start.0 >> shift..=(range.end().0 - 1) >> shift {
            if let Some((frame, table)) = self.ctx().walker().leaf(VirtAddr(leaf << shift)) {
                chunk.cache_leaf(leaf - first, table.into_raw(), frame);
            }
        }
        let whole = self.region(chunk.region()).pages_of(0, chunk.units()).pages;
        let whole = PageRange::new(chunk.address(0), whole);
        if first == (whole.end().0 - 1) >> shift
            && let Some((_, table)) = self.ctx().walker().leaf(whole.start)
        {
            chunk.cache_entries(PteRange::new(table, whole.start, whole.pages).into_raw());
        }
    }

    /// Checks that the leaf tables in the chunk's header are still linked. If an entry above one
    /// was overwritten, the table is linked again, or forgotten if the entry is the embedder's
    /// (T2). Returns the number of tables checked.
    #[inline]
    pub(crate) fn check_leaves(&mut self, chunk: ChunkRef) -> usize {
        let mut looked_at = 0;
        for (index, frame) in chunk.leaves() {
            looked_at += 1;
            let at = leaf_of::<M>(chunk, index);
            if self.ctx().walker().leaf(at).is_none_or(|(linked, _)| linked != frame) {
                self.mend(chunk, index, at, frame);
            }
        }
        looked_at
    }

    #[cold]
    #[inline(never)]
    fn mend(&mut self, chunk: ChunkRef, index: usize, at: VirtAddr, frame: Pfn) {
        let levels = self.machine.levels() as usize;
        if self.populate(levels).is_ok() {
            let before = self.prealloc.len();
            self.ctx().walker().relink(at, frame, &mut self.prealloc);
            self.core.tables.fetch_add(before - self.prealloc.len(), Relaxed);
        } else {
            // Without memory it is only reported.
            let _ = self.ctx().walker().piece(PageRange::new(at, 1));
        }
        if self.ctx().walker().leaf(at).is_none_or(|(linked, _)| linked != frame) {
            chunk.forget_leaf(index);
            // The parked frames under it are lost, and that was just reported.
            slots_of(chunk.stale(0) | chunk.stale(1)).for_each(|slot| chunk.slot(slot).mark_reported());
        }
    }

    /// Unlinks the leaf table over the grains `at..at + span`, if all of them are free (T1). Returns
    /// the work done.
    pub(super) fn prune(&mut self, region: &Region<M::Lock>, shared: &mut Shared, at: usize, span: usize) -> usize {
        let machine = self.machine;
        let batch = self.open.index;
        if !shared.arena.is_free(machine, at, span) {
            return 0;
        }
        // Taking the grains out of the arena may need frames. Without frames, or without room in
        // the batch, the empty table stays linked until `sweep` finds it.
        if self.prealloc.len() < region.arena_frames || self.tables[batch].is_full() {
            region.leave(shared, region.pages_of(at, span));
            return 0;
        }
        let Some(table) = self.ctx().walker().unlink(region.address(at)) else { return LOOK };
        let before = self.prealloc.len();
        let held = shared.arena.take_at(machine, &mut self.prealloc, at, span);
        self.core.bookkeeping.fetch_add(before - self.prealloc.len(), Relaxed);
        debug_assert!(held, "T1: the grains were free a moment ago");
        self.tables[batch].push(HeldTable { table, region: region.id.0, start: at, grains: span as u32 });
        count(&self.cpu.counters.tables_pruned, 1);
        LOOK
    }

    /// Unlinks empty leaf tables that `prune` had to leave (T1), a few at a time (L3), while the
    /// open batch has room. Returns whether there may be more.
    pub(crate) fn sweep(&mut self, id: RegionId) -> bool {
        let region = self.region(id);
        if !region.unswept.load(Relaxed) || self.populate(region.arena_frames).is_err() {
            return false;
        }
        let (mut shared, mut work) = (region.shared.lock(), 0);
        while work < PRUNED * LOOK {
            if self.tables[self.open.index].is_full() {
                return false;
            }
            let (from, end) = shared.unswept;
            let (leaf, next) = self.ctx().walker().next_leaf(from, end);
            shared.unswept = next.map_or(NOWHERE, |at| (at, end));
            region.unswept.store(next.is_some(), Relaxed);
            work += LOOK;
            if let Some((at, span)) = leaf.and_then(|leaf| region.under(leaf, leaf_shift::<M>())) {
                work += self.prune(region, &mut shared, at, span);
            }
            if next.is_none() {
                return false;
            }
        }
        true
    }

    /// After grace: the table page is cleared memory for the next table or header, or is freed; its
    /// grains go back to the arena.
    pub(crate) fn reclaim_table(&mut self, held: HeldTable) {
        let (machine, region) = (self.machine, self.region(RegionId(held.region)));
        region.shared.lock().arena.free(machine, held.start, held.grains as usize);
        self.core.tables.fetch_sub(1, Relaxed);
        if self.prealloc.len() < KEEP {
            return self.prealloc.put(machine, held.table);
        }
        // SAFETY: `link` took it from the bookkeeping frames, `unlink` took it out of the tree, and
        // no CPU can walk into it any more (G3).
        unsafe { machine.frames().free(held.table, 0) }
    }
}
