//! The magazine: one CPU's stock of free single frames.
//!
//! Two stacks: `loaded` serves, `spare` is behind it. While calls go back and
//! forth around a border, the two are swapped and nobody else is asked.
//!
//! ```text
//!   pop, commit   loaded ◀── swap ── spare ◀── full ── depot ── … ◀── batch ── source
//!   push          loaded ── swap ──▶ spare ── full ──▶ depot ── … ── batch ──▶ source
//! ```
//!
//! How much: a stack counts as full at clamp(frames/64/CPUs, 8..=445), and a
//! batch from or to the source is half of that, at most 64 frames, and from it
//! at most an eighth of what is free, unless the caller needs more at once. So on small
//! memories a CPU holds a few frames only, on large ones at most 3.5 MiB.
//!
//! Which: single frames of the CPU's own node, of any zone that the source
//! has. Frames of other nodes come in only where the own node has too few, and
//! never come back. So requests that name a lower zone, or insist on a node,
//! must go to the source: [`Magazine::serves`].
//!
//! # Rules
//! - **Q7** A frame is in one place: source, depot, a magazine, or a caller's.
//! - **Q8** `pop`, `top`, `commit` and `push` cannot fail and take no lock, but
//!   for a `push` that finds both stacks full.

use super::depot::Depot;
use super::stack::{CAPACITY, Held};
use crate::gfp::ZoneKind;
use crate::machine::Machine;
use crate::machine::frames::{Frames, Want};
use crate::machine::prealloc::Prealloc;
use crate::sync::pooled;
use crate::units::{Node, Pfn};
use core::mem::swap;
use lock_api::RawMutex;

/// The most frames that can be reserved or accepted at once, and that go from or
/// to the source at once.
pub(crate) const MOST: usize = 64;

/// One CPU's stock of free frames. Closed until [`Magazine::open`]; dropping
/// one that is open leaks what is in it.
pub struct Magazine {
    stacks: Option<Stacks>,
    node: Node,
    /// The highest zone of the source.
    zone: ZoneKind,
    /// Whether frames of other nodes have to be told apart.
    mixed: bool,
    /// A stack of so many frames is full.
    full: usize,
}

struct Stacks {
    loaded: Held,
    spare: Held,
}

/// When a stack counts as full: always with room for [`MOST`] more.
pub(super) fn full_at(total: usize, cpus: u32) -> usize {
    (total / 64 / cpus.max(1) as usize).clamp(8, CAPACITY - MOST)
}

impl Magazine {
    /// A sealed magazine.
    pub const fn new() -> Magazine {
        Magazine { stacks: None, node: Node(0), zone: ZoneKind::Normal, mixed: false, full: 0 }
    }

    /// Opens it, empty, for a CPU of `node`, with two frames in stock; false,
    /// and nothing has changed, where the stock has fewer. Does nothing if it
    /// is open.
    ///
    /// # Safety
    /// The machine outlives the magazine, and is the one of all further calls
    /// (Q6).
    pub unsafe fn open<M: Machine>(&mut self, machine: &M, prealloc: &mut Prealloc, node: Node) -> bool {
        if self.stacks.is_some() {
            return true;
        }
        if prealloc.len() < 2 {
            return false;
        }
        // SAFETY: Q6, handed on.
        let (loaded, spare) = unsafe { (Held::adopt(machine, prealloc), Held::adopt(machine, prealloc)) };
        let source = machine.frames();
        *self = Magazine {
            stacks: loaded.zip(spare).map(|(loaded, spare)| Stacks { loaded, spare }),
            node,
            zone: source.highest_zone(),
            mixed: source.nodes() > 1,
            full: full_at(source.total(), machine.cpus()),
        };
        true
    }

    /// Whether the frames in here will do for `want`.
    #[inline(always)]
    pub fn serves(&self, want: Want) -> bool {
        want.order == 0 && want.zone >= self.zone && (!self.mixed || want.node == self.node && !want.this_node)
    }

    /// Frames in stock.
    pub fn len(&self) -> usize {
        self.stacks.as_ref().map_or(0, |stacks| stacks.loaded.len() + stacks.spare.len())
    }

    /// Whether nothing is in stock.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes a frame; `None` where neither stack has one.
    #[inline]
    pub fn pop(&mut self) -> Option<Pfn> {
        let stacks = self.stacks.as_mut()?;
        stacks.loaded.pop().or_else(|| stacks.pop_spare())
    }

    /// Sees to it that the next `n` frames can be taken by
    /// [`top`](Magazine::top) and [`commit`](Magazine::commit).
    ///
    /// # Errors
    /// The frames that there are, fewer than `n`: all of the magazine's, and
    /// neither depot nor source had more for `want`.
    #[inline]
    pub fn reserve<M: Machine, L: RawMutex>(
        &mut self,
        machine: &M,
        depot: &Depot<L>,
        want: Want,
        n: usize,
    ) -> Result<(), usize> {
        match &self.stacks {
            Some(stacks) if stacks.loaded.len() >= n => Ok(()),
            _ => self.fetch(machine, depot, want, n),
        }
    }

    /// Whether the next `n` frames are loaded.
    #[inline(always)]
    pub fn has(&self, n: usize) -> bool {
        matches!(&self.stacks, Some(stacks) if stacks.loaded.len() >= n)
    }

    /// Whether its frames do for everybody who wants no low zone and no certain
    /// node: none lies above Normal.
    #[inline(always)]
    pub fn serves_any(&self) -> bool {
        self.zone <= ZoneKind::Normal
    }

    /// The next `n` frames, in the order of `pop`. Panics unless they were
    /// reserved.
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

    /// Takes a free frame in. It is the next one to come out.
    ///
    /// # Safety
    /// The frame was given out by the machine's source, and the caller gives
    /// up all use of it.
    #[inline]
    pub unsafe fn push<M: Machine, L: RawMutex>(&mut self, machine: &M, depot: &Depot<L>, frame: Pfn) {
        pooled(&[frame]);
        let ours = self.is_ours(machine, frame);
        match &mut self.stacks {
            Some(stacks) if ours && stacks.loaded.len() < self.full => stacks.loaded.push(frame),
            Some(stacks) if ours => stacks.push_full(machine, depot, self.full, frame),
            // SAFETY: the caller's promise.
            _ => unsafe { machine.frames().free(frame, 0) },
        }
    }

    /// Room for `n` ≤ 64 free frames, to be written there and taken in by
    /// [`Magazine::accept`]: the first of them is the next to come out, so
    /// frames in the order of their pages come out in that order. `None` where
    /// frames have to be pushed one by one: nodes are told apart, or memory is
    /// tiny.
    #[inline(always)]
    pub fn room<M: Machine, L: RawMutex>(&mut self, machine: &M, depot: &Depot<L>, n: usize) -> Option<&mut [Pfn]> {
        debug_assert!(n <= MOST);
        match &mut self.stacks {
            Some(stacks) if !self.mixed && n <= self.full => {
                stacks.make_room(machine, depot, self.full, n);
                Some(stacks.loaded.room(n))
            }
            _ => None,
        }
    }

    /// Takes in the first `got` frames of the room for `n`.
    ///
    /// # Safety
    /// As for [`push`](Magazine::push), for the frames that were written into
    /// what [`Magazine::room`] gave for `n` just now.
    #[inline(always)]
    pub unsafe fn accept(&mut self, n: usize, got: usize) {
        if let Some(stacks) = &mut self.stacks {
            stacks.loaded.filled(n, got);
        }
    }

    /// Gives up to `MOST` frames back to the source, and says how many.
    pub fn give_some<M: Machine>(&mut self, machine: &M) -> usize {
        let Some(Stacks { loaded, spare }) = &mut self.stacks else { return 0 };
        let stack = if spare.len() > 0 { spare } else { loaded };
        stack.give_top(machine, stack.len().min(MOST))
    }

    /// Closes it: frames and stacks go back to the source. Returns the number
    /// of frames that were in stock.
    pub fn seal<M: Machine>(&mut self, machine: &M) -> usize {
        let Some(Stacks { loaded, spare }) = self.stacks.take() else { return 0 };
        loaded.destroy(machine) + spare.destroy(machine)
    }

    #[cold]
    fn fetch<M: Machine, L: RawMutex>(
        &mut self,
        machine: &M,
        depot: &Depot<L>,
        want: Want,
        n: usize,
    ) -> Result<(), usize> {
        debug_assert!(n <= MOST && self.serves(want));
        let full = self.full;
        let Some(stacks) = &mut self.stacks else { return if n == 0 { Ok(()) } else { Err(0) } };
        stacks.gather(depot, n);
        let have = stacks.loaded.len();
        if have < n {
            stacks.refill(machine, want, batch(machine, full).max(n - have), n);
        }
        if stacks.loaded.len() < n { Err(stacks.loaded.len()) } else { Ok(()) }
    }

    #[inline]
    fn is_ours<M: Machine>(&self, machine: &M, frame: Pfn) -> bool {
        !self.mixed || machine.frames().node_of(frame) == self.node
    }
}

/// How many frames to ask the source for.
fn batch<M: Machine>(machine: &M, full: usize) -> usize {
    (full / 2).min(MOST).min(machine.frames().free_now() / 8)
}

impl Stacks {
    #[cold]
    fn pop_spare(&mut self) -> Option<Pfn> {
        swap(&mut self.loaded, &mut self.spare);
        self.loaded.pop()
    }

    /// Loads `n` frames, more than are loaded, if stacks and depot have them:
    /// else all that they have, and leaves the spare stack empty.
    fn gather<L: RawMutex>(&mut self, depot: &Depot<L>, n: usize) {
        loop {
            swap(&mut self.loaded, &mut self.spare);
            if self.loaded.len() >= n {
                return;
            }
            // Both have fewer than 64: there is room.
            self.loaded.pour(&mut self.spare);
            if self.loaded.len() >= n || !depot.swap_for_full(&mut self.spare) {
                return;
            }
        }
    }

    /// Asks the own node for `ask` frames, and any other for what is lacking.
    fn refill<M: Machine>(&mut self, machine: &M, want: Want, ask: usize, n: usize) {
        let near = Want { this_node: true, ..want };
        self.loaded.fill(ask, |places| machine.frames().alloc_bulk(near, places));
        let lacking = n.saturating_sub(self.loaded.len());
        self.loaded.fill(lacking, |places| machine.frames().alloc_bulk(want, places));
    }

    #[cold]
    fn push_full<M: Machine, L: RawMutex>(&mut self, machine: &M, depot: &Depot<L>, full: usize, frame: Pfn) {
        self.make_room(machine, depot, full, 1);
        self.loaded.push(frame);
    }

    /// Makes `loaded` take `n` more without getting more than full.
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
            self.spare.give_top(machine, lacking.max(MOST.min(full / 2)).min(self.spare.len()));
        }
        swap(&mut self.loaded, &mut self.spare);
    }
}

impl Default for Magazine {
    fn default() -> Magazine {
        Magazine::new()
    }
}

#[cfg(test)]
mod tests;
