//! The magazine: one CPU's free single frames.
//!
//! A magazine has two stacks. Frames come from `loaded` and go back to it; `spare` stands behind
//! it. When the calls alternate around a border, the magazine swaps its two stacks and asks nobody
//! else.
//!
//! ```text
//!   pop, commit   loaded ◀── swap ── spare ◀── full ── depot ── … ◀── bulk ── source
//!   push          loaded ── swap ──▶ spare ── full ──▶ depot ── … ── bulk ──▶ source
//! ```
//!
//! How many: a stack counts as full at clamp(frames/64/CPUs, 8..=445). The magazine returns half a
//! stack at a time to the source, but at most 64 frames. It takes as many, unless the caller needs
//! more at once: of its own node, and what is then missing of any, so it asks at most twice. So a CPU holds a few frames on a small
//! memory, and at most 3.5 MiB on a large one.
//!
//! Which: single frames of the CPU's own node, from any zone of the source. Frames of other nodes
//! come in only if the own node has too few, and never come back. A request for a lower zone or for
//! one particular node therefore goes to the source; see [`Magazine::serves`].
//!
//! # Rules
//! - **Q7** A frame is in one place: the source, the depot, a magazine, or the caller's hands.
//! - **Q8** `pop`, `top`, `commit` and `push` cannot fail. They take no lock, except for a `push`
//!   that finds both stacks full.

use super::depot::Depot;
use super::stack::{CAPACITY, Held};
use crate::gfp::ZoneKind;
use crate::machine::Machine;
use crate::machine::frames::{Frames, Want};
use crate::machine::prealloc::Prealloc;
use crate::sync::pooled;
use crate::units::{Node, Pfn};
use core::mem::{swap, take};
use lock_api::RawMutex;

/// The most frames to reserve or accept at once, and to exchange with the source at once.
pub(crate) const MAX_BULK: usize = 128;
/// The frames that come from the source, or go back, at a time, if a call needs no more.
pub(super) const BATCH: usize = 64;

/// One CPU's free frames. Closed until [`Magazine::open`]. Dropping an open magazine leaks its
/// frames.
pub struct Magazine {
    stacks: Option<Stacks>,
    node: Node,
    /// The highest zone of the source.
    zone: ZoneKind,
    /// Whether there are frames of other nodes.
    mixed: bool,
    /// The number of frames at which a stack is full.
    full: usize,
    /// Whether the next call that needs frames gets no more than it needs, because it has done
    /// other long work.
    pub(crate) few: bool,
}

struct Stacks {
    loaded: Held,
    spare: Held,
}

/// The number of frames at which a stack is full. It leaves room for [`MAX_BULK`] more.
pub(super) fn full_at(total: usize, cpus: u32) -> usize {
    (total / 64 / cpus.max(1) as usize).clamp(8, CAPACITY - MAX_BULK)
}

impl Magazine {
    /// A closed magazine.
    pub const fn new() -> Magazine {
        Magazine { stacks: None, node: Node(0), zone: ZoneKind::Normal, mixed: false, full: 0, few: false }
    }

    /// Opens an empty magazine for a CPU of `node`, with two frames of the prealloc. Returns false,
    /// and changes nothing, if the prealloc has fewer. Does nothing if the magazine is open.
    ///
    /// # Safety
    /// The machine outlives the magazine, and all further calls use the same machine (Q6).
    pub unsafe fn open<M: Machine>(&mut self, machine: &M, prealloc: &mut Prealloc, node: Node) -> bool {
        if self.stacks.is_some() {
            return true;
        }
        if prealloc.len() < 2 {
            return false;
        }
        // SAFETY: Q6, passed on to the caller.
        let (loaded, spare) = unsafe { (Held::adopt(machine, prealloc), Held::adopt(machine, prealloc)) };
        let source = machine.frames();
        *self = Magazine {
            stacks: loaded.zip(spare).map(|(loaded, spare)| Stacks { loaded, spare }),
            node,
            zone: source.highest_zone(),
            mixed: source.nodes() > 1,
            full: full_at(source.total(), machine.cpus()),
            few: false,
        };
        true
    }

    /// Whether any frame of this magazine satisfies `want`.
    #[inline(always)]
    pub fn serves(&self, want: Want) -> bool {
        want.order == 0 && want.zone >= self.zone && (!self.mixed || want.node == self.node && !want.this_node)
    }

    /// The number of frames in both stacks.
    pub fn len(&self) -> usize {
        self.stacks.as_ref().map_or(0, |stacks| stacks.loaded.len() + stacks.spare.len())
    }

    /// Takes a frame; `None` if both stacks are empty.
    #[inline]
    pub fn pop(&mut self) -> Option<Pfn> {
        let stacks = self.stacks.as_mut()?;
        stacks.loaded.pop().or_else(|| stacks.pop_spare())
    }

    /// Makes sure that [`top`](Magazine::top) and [`commit`](Magazine::commit) can take `n` frames.
    ///
    /// # Errors
    /// The number of frames in the magazine, fewer than `n`. Neither the depot nor the source had
    /// more for `want`.
    #[inline(never)]
    pub fn reserve<M: Machine, L: RawMutex>(
        &mut self,
        machine: &M,
        depot: &Depot<L>,
        want: Want,
        n: usize,
    ) -> Result<(), usize> {
        if self.has(n) {
            return Ok(());
        }
        debug_assert!(n <= MAX_BULK && self.serves(want));
        let bulk = if take(&mut self.few) { 0 } else { (self.full / 2).min(BATCH) };
        let Some(stacks) = &mut self.stacks else { return if n == 0 { Ok(()) } else { Err(0) } };
        stacks.gather(depot, n);
        let have = stacks.loaded.len();
        if have < n {
            stacks.refill(machine, want, bulk.max(n - have), n);
        }
        if stacks.loaded.len() < n { Err(stacks.loaded.len()) } else { Ok(()) }
    }

    /// Whether `n` frames are loaded.
    #[inline(always)]
    pub fn has(&self, n: usize) -> bool {
        matches!(&self.stacks, Some(stacks) if stacks.loaded.len() >= n)
    }

    /// Whether the frames satisfy any request that names no low zone and no particular node: none
    /// of them lies above Normal.
    #[inline(always)]
    pub fn serves_any(&self) -> bool {
        self.zone <= ZoneKind::Normal
    }

    /// The next `n` frames in the order of `pop`. Panics if they were not reserved.
    #[inline(always)]
    pub fn top(&self, n: usize) -> &[Pfn] {
        match &self.stacks {
            Some(stacks) => stacks.loaded.top(n),
            None => &[],
        }
    }

    /// Takes the next `n` frames, which were reserved.
    #[inline(always)]
    pub fn commit(&mut self, n: usize) {
        if let Some(stacks) = &mut self.stacks {
            stacks.loaded.drop_top(n);
        }
    }

    /// Puts a free frame on top of the loaded stack.
    ///
    /// # Safety
    /// The machine's source allocated the frame, and the caller does not use it any more.
    #[inline]
    pub unsafe fn push<M: Machine, L: RawMutex>(&mut self, machine: &M, depot: &Depot<L>, frame: Pfn) {
        pooled(&[frame]);
        let ours = !self.mixed || machine.frames().node_of(frame) == self.node;
        match &mut self.stacks {
            Some(stacks) if ours => {
                stacks.make_room(machine, depot, self.full, 1);
                stacks.loaded.push(frame)
            }
            // SAFETY: the caller's promise.
            _ => unsafe { machine.frames().free(frame, 0) },
        }
    }

    /// Room for `n` ≤ `MAX_BULK` free frames on top of the loaded stack. The caller writes frames there and
    /// calls [`Magazine::accept`]. The first frame written is the next to be taken, so the frames
    /// of a range of pages come out again in the order of the pages. Returns `None` if frames have
    /// to be pushed one by one: there are several nodes, or the memory is tiny.
    #[inline(always)]
    pub fn room<M: Machine, L: RawMutex>(&mut self, machine: &M, depot: &Depot<L>, n: usize) -> Option<&mut [Pfn]> {
        debug_assert!(n <= MAX_BULK);
        match &mut self.stacks {
            Some(stacks) if !self.mixed && n <= self.full => {
                stacks.make_room(machine, depot, self.full, n);
                Some(stacks.loaded.room(n))
            }
            _ => None,
        }
    }

    /// Adds the first `got` frames that the caller wrote into the room for `n`.
    ///
    /// # Safety
    /// As for [`push`](Magazine::push), for those frames. [`Magazine::room`] was called with `n`
    /// just before.
    #[inline(always)]
    pub unsafe fn accept(&mut self, n: usize, got: usize) {
        if let Some(stacks) = &mut self.stacks {
            stacks.loaded.filled(n, got);
        }
    }

    /// Returns up to `BATCH` frames to the source. Returns how many.
    pub fn give_some<M: Machine>(&mut self, machine: &M) -> usize {
        let Some(Stacks { loaded, spare }) = &mut self.stacks else { return 0 };
        let stack = if spare.len() > 0 { spare } else { loaded };
        stack.give_top(machine, stack.len().min(BATCH))
    }

    /// Closes the magazine and returns its frames and stacks to the source. Returns the number of
    /// frames that were in it, not counting the stacks themselves.
    pub fn close<M: Machine>(&mut self, machine: &M) -> usize {
        let Some(Stacks { loaded, spare }) = self.stacks.take() else { return 0 };
        loaded.destroy(machine) + spare.destroy(machine)
    }
}

impl Stacks {
    #[cold]
    fn pop_spare(&mut self) -> Option<Pfn> {
        swap(&mut self.loaded, &mut self.spare);
        self.loaded.pop()
    }

    /// Loads `n` frames from the other stack and the depot; fewer are loaded now. If there are not
    /// enough, loads all there are and leaves the spare stack empty.
    fn gather<L: RawMutex>(&mut self, depot: &Depot<L>, n: usize) {
        loop {
            swap(&mut self.loaded, &mut self.spare);
            if self.loaded.len() >= n {
                return;
            }
            // Each stack has fewer than 128 frames, so they fit into one.
            self.loaded.pour(&mut self.spare);
            if self.loaded.len() >= n || !depot.swap_for_full(&mut self.spare) {
                return;
            }
        }
    }

    /// Asks the own node for `ask` frames, and any node for what is then missing from `n`.
    fn refill<M: Machine>(&mut self, machine: &M, want: Want, ask: usize, n: usize) {
        let near = Want { this_node: true, ..want };
        self.loaded.fill(ask, |places| machine.frames().alloc_bulk(near, places));
        let lacking = n.saturating_sub(self.loaded.len());
        self.loaded.fill(lacking, |places| machine.frames().alloc_bulk(want, places));
    }

    /// Makes room for `n` more frames in `loaded`, below the limit of a full stack.
    #[inline(always)]
    fn make_room<M: Machine, L: RawMutex>(&mut self, machine: &M, depot: &Depot<L>, full: usize, n: usize) {
        if self.loaded.len() + n > full {
            self.unload(machine, depot, full, n);
        }
    }

    #[cold]
    fn unload<M: Machine, L: RawMutex>(&mut self, machine: &M, depot: &Depot<L>, full: usize, n: usize) {
        let has_room = |spare: &Held| spare.len() + n <= full;
        if !has_room(&self.spare) && self.spare.len() >= full / 2 {
            depot.swap_for_empty(&mut self.spare);
        }
        if !has_room(&self.spare) {
            let lacking = self.spare.len() + n - full;
            self.spare.give_top(machine, lacking.max(BATCH.min(full / 2)).min(self.spare.len()));
        }
        swap(&mut self.loaded, &mut self.spare);
    }
}

#[cfg(test)]
mod tests;
