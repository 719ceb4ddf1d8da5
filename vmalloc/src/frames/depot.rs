//! The depot: stacks of one node that no CPU holds.
//!
//! A magazine brings an empty stack and goes with a full one, or the other
//! way round. So a depot always owns as many stacks as it was opened with,
//! which bounds what it hoards, and no exchange can need memory.

use super::magazine::MOST;
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
    /// A depot without stacks: it takes nothing and has nothing.
    pub const fn new() -> Depot<L> {
        Depot { chains: Mutex::const_new(L::INIT, Chains { full: None, empty: None }) }
    }

    /// Adds up to `stacks` empty stacks, made of frames in `stock`, and says
    /// how many.
    ///
    /// # Safety
    /// The machine outlives the depot, and is the one of all further calls
    /// and of the magazines that use it (Q6).
    pub unsafe fn open<M: Machine>(&self, machine: &M, prealloc: &mut Prealloc, stacks: usize) -> usize {
        let mut chains = self.chains.lock();
        for made in 0..stacks {
            // SAFETY: Q6, handed on.
            match unsafe { Held::adopt(machine, prealloc) } {
                Some(stack) => stack.chain(&mut chains.empty),
                None => return made,
            }
        }
        stacks
    }

    /// Stacks that a depot should have: together they hold about a 64th of
    /// the node's memory, or its part of `loads` frames, which come back
    /// sooner than they are needed again.
    pub fn stacks_for<M: Machine>(machine: &M, batches: usize) -> usize {
        let source = machine.frames();
        let full = super::magazine::full_at(source.total(), machine.cpus());
        let frames = (source.total() / 64).max(batches) / source.nodes();
        (frames / full).min(64)
    }

    /// Frames in the depot.
    pub fn frames(&self) -> usize {
        Held::chain_iter(&self.chains.lock().full).map(Stack::len).sum()
    }

    /// Exchanges an empty stack for a full one, if there is one.
    pub(super) fn swap_for_full(&self, empty: &mut Held) -> bool {
        debug_assert_eq!(empty.len(), 0);
        self.chains.lock().exchange(empty, |chains| (&mut chains.full, &mut chains.empty))
    }

    /// Exchanges a full stack for an empty one, if there is one.
    pub(super) fn swap_for_empty(&self, full: &mut Held) -> bool {
        self.chains.lock().exchange(full, |chains| (&mut chains.empty, &mut chains.full))
    }

    /// Gives frames back to the source if more than `keep` are here, up to
    /// `MOST` of them, and says how many. Without the lock.
    pub fn trim<M: Machine>(&self, machine: &M, keep: usize) -> usize {
        if self.frames() <= keep {
            return 0;
        }
        let Some(mut stack) = Held::unchain(&mut self.chains.lock().full) else { return 0 };
        let given = stack.give_top(machine, stack.len().min(MOST));
        let mut chains = self.chains.lock();
        let is_empty = stack.len() == 0;
        stack.chain(if is_empty { &mut chains.empty } else { &mut chains.full });
        given
    }

    /// Closes the depot: frames and stacks go back to the source. Returns the
    /// number of frames that were in stock.
    pub fn destroy<M: Machine>(&self, machine: &M) -> usize {
        let given = core::iter::repeat_with(|| self.trim(machine, 0)).take_while(|&given| given > 0).sum();
        while let Some(stack) = self.take_empty() {
            stack.destroy(machine);
        }
        given
    }

    fn take_empty(&self) -> Option<Held> {
        Held::unchain(&mut self.chains.lock().empty)
    }
}

impl Chains {
    /// Takes a stack from the first chain that `pick` names, and puts `held`
    /// into the second.
    fn exchange(
        &mut self,
        held: &mut Held,
        pick: impl FnOnce(&mut Chains) -> (&mut Option<Held>, &mut Option<Held>),
    ) -> bool {
        let (from, to) = pick(self);
        let Some(taken) = Held::unchain(from) else { return false };
        core::mem::replace(held, taken).chain(to);
        true
    }
}

impl<L: RawMutex> Default for Depot<L> {
    fn default() -> Depot<L> {
        Depot::new()
    }
}
