//! The depot: the stacks of one node that are in no magazine.
//!
//! A magazine exchanges an empty stack for a full one, or a full stack for an empty one. A depot
//! therefore always has the number of stacks that it was opened with. That bounds the frames in it,
//! and an exchange never needs memory.

use super::magazine::BATCH;
use super::stack::{Held, Stack};
use crate::machine::Machine;
use crate::machine::frames::Frames;
use crate::machine::prealloc::Prealloc;
use lock_api::{Mutex, RawMutex};

/// Full and empty stacks under a lock. Closed until [`Depot::open`].
pub struct Depot<L> {
    chains: Mutex<L, Chains>,
}

struct Chains {
    full: Option<Held>,
    empty: Option<Held>,
}

impl<L: RawMutex> Depot<L> {
    /// A depot without stacks. No exchange succeeds on it.
    pub const fn new() -> Depot<L> {
        Depot { chains: Mutex::const_new(L::INIT, Chains { full: None, empty: None }) }
    }

    /// Adds up to `stacks` empty stacks, made of frames of the prealloc. Returns how many.
    ///
    /// # Safety
    /// The machine outlives the depot. All further calls, and all magazines that use the depot, use
    /// the same machine (Q6).
    pub unsafe fn open<M: Machine>(&self, machine: &M, prealloc: &mut Prealloc, stacks: usize) -> usize {
        let mut chains = self.chains.lock();
        for made in 0..stacks {
            // SAFETY: Q6, passed on to the caller.
            match unsafe { Held::adopt(machine, prealloc) } {
                Some(stack) => stack.chain(&mut chains.empty),
                None => return made,
            }
        }
        stacks
    }

    /// The number of stacks that a depot should have. Together they hold the node's share of 1/64
    /// of the memory, or of the frames that may wait for flushes if that is more: those come back
    /// many at a time, before they are needed again.
    pub fn stacks_for<M: Machine>(machine: &M, waiting_frames: usize) -> usize {
        let source = machine.frames();
        let full = super::magazine::full_at(source.total(), machine.cpus());
        let frames = (source.total() / 64).max(waiting_frames) / source.nodes();
        (frames / full).min(64)
    }

    /// The number of frames in the depot.
    pub fn frames(&self) -> usize {
        Held::chain_iter(&self.chains.lock().full).map(Stack::len).sum()
    }

    /// Exchanges an empty stack for a full one. Returns false if there is none.
    pub(super) fn swap_for_full(&self, empty: &mut Held) -> bool {
        debug_assert_eq!(empty.len(), 0);
        let chains = &mut *self.chains.lock();
        exchange(empty, &mut chains.full, &mut chains.empty)
    }

    /// Exchanges a full stack for an empty one. Returns false if there is none.
    pub(super) fn swap_for_empty(&self, full: &mut Held) -> bool {
        let chains = &mut *self.chains.lock();
        exchange(full, &mut chains.empty, &mut chains.full)
    }

    /// Returns up to `BATCH` frames to the source if the depot has more than `keep`, without
    /// holding the lock. Returns how many.
    pub fn trim<M: Machine>(&self, machine: &M, keep: usize) -> usize {
        if self.frames() <= keep {
            return 0;
        }
        let Some(mut stack) = Held::unchain(&mut self.chains.lock().full) else { return 0 };
        let given = stack.give_top(machine, stack.len().min(BATCH));
        let mut chains = self.chains.lock();
        let is_empty = stack.len() == 0;
        stack.chain(if is_empty { &mut chains.empty } else { &mut chains.full });
        given
    }

    /// Closes the depot and returns its frames and stacks to the source. Returns the number of
    /// frames that were in the depot, not counting the stacks themselves.
    pub fn destroy<M: Machine>(&self, machine: &M) -> usize {
        let given = core::iter::repeat_with(|| self.trim(machine, 0)).take_while(|&given| given > 0).sum();
        let empty = || Held::unchain(&mut self.chains.lock().empty);
        while let Some(stack) = empty() {
            stack.destroy(machine);
        }
        given
    }
}

/// Exchanges `held` for a stack of the chain `from`, and puts it onto the chain `to`. Returns false
/// if `from` is empty.
fn exchange(held: &mut Held, from: &mut Option<Held>, to: &mut Option<Held>) -> bool {
    let Some(taken) = Held::unchain(from) else { return false };
    core::mem::replace(held, taken).chain(to);
    true
}
