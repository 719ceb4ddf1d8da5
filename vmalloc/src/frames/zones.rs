//! [`Zones`]: the library's own source of frames.
//!
//! ```text
//!   Zones ── node 0 (lock) ── DMA      below 16 MiB     ── lists of orders 0..=10
//!        │                 ├─ DMA32    below 4 GiB      ── …
//!        │                 ├─ Normal   the rest
//!        │                 └─ HighMem  from `highmem_from` on
//!        └─ node 1 (lock) ── …
//! ```
//!
//! A request goes to the node that it names. There it asks the zone that it names and then the
//! lower ones. If the node has nothing and the request allows it, it goes to the other nodes, in
//! ascending order from the named one and around. So not all nodes fall back to node 0.
//!
//! A request that names a higher zone must leave the reserve of a lower one: 1/256 of the node's
//! frames above that zone, but at most a quarter of the zone. Old devices can then still get the
//! few frames that they can reach.
//!
//! Every operation is O(orders). A free of many blocks as one block is O(blocks).
//!
//! # Refusals
//! A bad free only increments [`Zones::bad_frees`] and changes nothing else. That is a double free,
//! a free of a frame that is no RAM, and a free of a block that is not aligned.
//!
//! # Rules (checked by [`Zones::check`])
//! - **B1 tiles.** Every frame of RAM is in exactly one block, and a block has one home.
//! - **B2 merged.** There are no two free buddies of one order and home, except of the largest
//!   order.
//! - **B3 lists.** A list links all free blocks of its order and zone and nothing else, and `prev`
//!   inverts `next`.
//! - **B4 counts.** The counters of a zone equal what its descriptors say.
//! - **B5 holders.** A free frame has no extra holders.
//!
//! # Contract
//! The caller of [`Zones::init`] promises:
//! - **Z1** The storage has [`Zones::storage_for`] bytes, is aligned to [`STORAGE_ALIGN`] and
//!   writable, and nobody else uses it while the zones live.
//! - **Z2** The frames of the map are RAM that nobody else uses. The storage does not lie in them.
//! - **Z3** No two calls of `init` run at once.
//!
//! # Locks
//! One for each node. It guards the node's zones, and the state and the links of its frames'
//! descriptors. No caller holds two of them.

use super::buddy::{Buddy, ORDERS};
use super::descriptor::{Descriptor, Descriptors, State};
use super::map::{self, BadMap, MAX_NODES, MemoryRange, Span};
use super::node::NodeZones;
use crate::gfp::ZoneKind;
use crate::machine::frames::{Frames, MAX_ORDER, Page, Want};
use crate::sync::plain::Ordering::{Acquire, Relaxed, Release};
use crate::sync::plain::{AtomicBool, AtomicUsize};
use crate::units::{Node, Pfn};
use core::cell::UnsafeCell;
use core::ptr::NonNull;
use core::slice;
use lock_api::{Mutex, RawMutex};

/// The alignment of the storage of the descriptors.
pub const STORAGE_ALIGN: usize = align_of::<Descriptor>();

/// The result of `init`. It never changes afterwards.
#[derive(Debug)]
struct Layout {
    base: Pfn,
    table: NonNull<Descriptor>,
    span: usize,
    total: usize,
    nodes: usize,
    highest: ZoneKind,
}

struct PerNode<L> {
    zones: Mutex<L, NodeZones>,
    /// The number of free frames when the lock was last released.
    free: AtomicUsize,
}

/// Frames in nodes, zones and buddy lists. `L` is the lock of a node.
///
/// There are no frames before [`Zones::init`].
pub struct Zones<L> {
    ready: AtomicBool,
    layout: UnsafeCell<Layout>,
    nodes: [PerNode<L>; MAX_NODES],
    bad: AtomicUsize,
}

// SAFETY: `layout` is written before `ready` is set (Z3) and only read after that. The table that
// it points to consists of atomics.
unsafe impl<L: Sync> Sync for Zones<L> {}
// SAFETY: no field belongs to a thread, and the table belongs to the zones (Z1).
unsafe impl<L: Send> Send for Zones<L> {}

/// The numbers of one zone of one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ZoneStats {
    /// The node.
    pub node: Node,
    /// The zone.
    pub zone: ZoneKind,
    /// The number of frames.
    pub total: usize,
    /// The number of free frames.
    pub free: usize,
    /// The free frames that a request for a higher zone must leave here.
    pub reserve: usize,
    /// The number of free blocks of each order.
    pub blocks: [usize; ORDERS],
}

impl<L: RawMutex> Zones<L> {
    /// Zones without frames.
    pub const fn new() -> Zones<L> {
        const fn node<L: RawMutex>(node: u8) -> PerNode<L> {
            PerNode { zones: Mutex::const_new(L::INIT, NodeZones::new(Node(node))), free: AtomicUsize::new(0) }
        }
        let layout =
            Layout { base: Pfn(0), table: NonNull::dangling(), span: 0, total: 0, nodes: 1, highest: ZoneKind::Dma };
        Zones {
            ready: AtomicBool::new(false),
            layout: UnsafeCell::new(layout),
            nodes: [node(0), node(1), node(2), node(3), node(4), node(5), node(6), node(7)],
            bad: AtomicUsize::new(0),
        }
    }

    /// The bytes of storage that [`Zones::init`] needs for `map`: 16 for each frame from the first
    /// to the last, including holes.
    pub fn storage_for(map: &[MemoryRange]) -> usize {
        Span::of(map).bytes()
    }

    /// Takes over the frames of `map`. The frames from `highmem_from` on have no direct mapping; a
    /// border inside a block of the largest order is moved down to the block's start.
    ///
    /// # Errors
    /// The map is not valid, or this is the second call. Nothing changes.
    ///
    /// # Cost
    /// O(frames from the first to the last).
    ///
    /// # Safety
    /// Z1, Z2 and Z3.
    pub unsafe fn init(
        &self,
        map: &[MemoryRange],
        highmem_from: Option<Pfn>,
        storage: NonNull<u8>,
    ) -> Result<(), BadMap> {
        if self.layout().is_some() {
            return Err(BadMap::Twice);
        }
        let span = Span::checked(map)?;
        let table = storage.cast::<Descriptor>();
        // SAFETY: Z1. A descriptor of zeros is a hole.
        let all = unsafe {
            table.write_bytes(0, span.frames);
            slice::from_raw_parts(table.as_ptr(), span.frames)
        };
        self.populate(Descriptors { base: span.base, all }, map, highmem_from);
        let layout = Layout {
            base: span.base,
            table,
            span: span.frames,
            total: map.iter().map(|range| range.frames).sum(),
            nodes: map.iter().filter(|r| r.frames > 0).map(|r| r.node.0 as usize + 1).max().unwrap_or(1),
            highest: self.stats().map(|zone| zone.zone).max().unwrap_or(ZoneKind::Normal),
        };
        // SAFETY: Z3, and `ready` is not set, so nobody else reads it.
        unsafe { *self.layout.get() = layout }
        self.ready.store(true, Release);
        Ok(())
    }

    fn populate(&self, d: Descriptors, map: &[MemoryRange], highmem_from: Option<Pfn>) {
        for range in map {
            self.with(range.node.0 as usize, |zones| map::seed(zones, d, range, highmem_from));
        }
        (0..MAX_NODES).for_each(|node| self.with(node, NodeZones::set_reserves));
    }

    /// The number of frees that were refused: bugs of the callers.
    pub fn bad_frees(&self) -> usize {
        self.bad.load(Relaxed)
    }

    /// The zones that have frames, by node and zone. The caller is pinned.
    pub fn stats(&self) -> impl Iterator<Item = ZoneStats> + '_ {
        let of_node = |node| self.with(node, |zones| zones.zones.each_ref().map(ZoneStats::of));
        (0..MAX_NODES).flat_map(of_node).filter(|zone| zone.total > 0)
    }

    fn layout(&self) -> Option<&Layout> {
        // SAFETY: nobody writes it once `ready` is set.
        self.ready.load(Acquire).then(|| unsafe { &*self.layout.get() })
    }

    pub(super) fn descriptors(&self) -> Option<Descriptors<'_>> {
        self.layout().map(Layout::descriptors)
    }

    /// Runs `f` under the lock of `node`.
    pub(super) fn with<R>(&self, node: usize, f: impl FnOnce(&mut NodeZones) -> R) -> R {
        let node = &self.nodes[node];
        let mut zones = node.zones.lock();
        let result = f(&mut zones);
        node.free.store(zones.free(), Relaxed);
        result
    }

    /// The nodes to ask, in order. Skips nodes that look empty.
    fn nodes_for(&self, want: Want, nodes: usize) -> impl Iterator<Item = usize> {
        let named = want.node.0 as usize;
        let asked = if want.this_node { (named < nodes) as usize } else { nodes };
        let order = (0..asked).map(move |step| (named + step) % nodes);
        order.filter(|&node| self.nodes[node].free.load(Relaxed) > 0)
    }

    fn count_bad(&self, given: bool) {
        self.bad.fetch_add(!given as usize, Relaxed);
    }

    /// The index of the block's head, if a block of `order` may start there.
    fn block_at(&self, first: Pfn, order: u8) -> Option<(Descriptors<'_>, u32)> {
        let d = self.descriptors()?;
        let index = d.index(first)?;
        let sound = order <= MAX_ORDER
            && d.aligned(index, order)
            && index as usize + (1 << order) <= d.all.len()
            && d.at(index).state() != State::Hole;
        sound.then_some((d, index))
    }
}

impl Layout {
    fn descriptors(&self) -> Descriptors<'_> {
        // SAFETY: Z1, and `init` wrote all of it.
        let all = unsafe { slice::from_raw_parts(self.table.as_ptr(), self.span) };
        Descriptors { base: self.base, all }
    }
}

impl ZoneStats {
    fn of(zone: &Buddy) -> ZoneStats {
        let &Buddy { home, blocks, free, total, reserve, .. } = zone;
        ZoneStats { node: home.node, zone: home.zone, total, free, reserve, blocks }
    }
}

impl<L: RawMutex> Default for Zones<L> {
    fn default() -> Zones<L> {
        Zones::new()
    }
}

// SAFETY: F1: a block is free or out (B1). F2: blocks are cut at multiples of their size. F4:
// `NodeZones::give`. F5: the table stays where it is (Z1). F6: `NodeZones::candidates` and
// `continuation`.
unsafe impl<L: RawMutex + Sync> Frames for Zones<L> {
    fn total(&self) -> usize {
        self.layout().map_or(0, |layout| layout.total)
    }

    fn free_now(&self) -> usize {
        self.nodes.iter().map(|node| node.free.load(Relaxed)).sum()
    }

    fn is_ram(&self, frame: Pfn) -> bool {
        self.page(frame).is_some()
    }

    fn free_for(&self, want: Want) -> Option<usize> {
        let nodes = self.nodes_for(want, self.nodes());
        Some(nodes.map(|node| self.with(node, |zones| zones.free_for(want))).sum())
    }

    fn alloc(&self, want: Want) -> Option<Pfn> {
        let layout = self.layout().filter(|_| want.order <= MAX_ORDER)?;
        let d = layout.descriptors();
        let mut nodes = self.nodes_for(want, layout.nodes);
        nodes.find_map(|node| self.with(node, |zones| zones.take(d, want))).map(|index| d.frame(index))
    }

    unsafe fn free(&self, first: Pfn, order: u8) {
        let given = self.block_at(first, order).is_some_and(|(d, index)| {
            let node = d.at(index).tag().home().node;
            self.with(node.0 as usize, |zones| zones.give(d, index, order))
        });
        self.count_bad(given);
    }

    fn alloc_bulk(&self, want: Want, into: &mut [Pfn]) -> usize {
        let Some(layout) = self.layout() else { return 0 };
        let d = layout.descriptors();
        self.nodes_for(want, layout.nodes).fold(0, |got, node| match &mut into[got..] {
            [] => got,
            rest => got + self.with(node, |zones| zones.take_many(d, want, rest)),
        })
    }

    unsafe fn free_bulk(&self, frames: &[Pfn]) {
        let Some(d) = self.descriptors() else { return };
        let alone = self.nodes() == 1;
        for group in frames.chunk_by(|&a, &b| alone || self.node_of(a) == self.node_of(b)) {
            self.with(self.node_of(group[0]).0 as usize, |zones| {
                for &frame in group {
                    self.count_bad(d.index(frame).is_some_and(|index| zones.give(d, index, 0)));
                }
            });
        }
    }

    fn nodes(&self) -> usize {
        self.layout().map_or(1, |layout| layout.nodes)
    }

    fn highest_zone(&self) -> ZoneKind {
        self.layout().map_or(ZoneKind::Normal, |layout| layout.highest)
    }

    fn end(&self) -> Pfn {
        self.descriptors().map_or(Pfn(0), |d| d.base.offset(d.all.len() as u64))
    }

    fn is_out(&self, frame: Pfn) -> bool {
        let Some((d, index)) = self.descriptors().and_then(|d| Some((d, d.index(frame)?))) else { return false };
        // A block that is being split has no head for a moment. It is then being allocated.
        d.covering(index).map_or(d.page(frame).is_some(), |block| !block.free)
    }

    fn node_of(&self, frame: Pfn) -> Node {
        let home = self.descriptors().and_then(|d| Some(d.at(d.index(frame)?).tag().home()));
        home.map_or(Node(0), |home| home.node)
    }

    fn page(&self, frame: Pfn) -> Option<&Page> {
        self.descriptors()?.page(frame)
    }

    #[inline]
    fn each_page(&self, frames: &[Pfn], mut f: impl FnMut(usize, Option<&Page>)) {
        let Some(d) = self.descriptors() else { return };
        frames.iter().enumerate().for_each(|(n, &frame)| f(n, d.page(frame)));
    }
}

#[cfg(test)]
mod tests;
