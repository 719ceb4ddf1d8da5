//! Who is asked for memory and addresses: purge notifiers, and the shrinker.
//!
//! The library asks one function of its machine, [`Machine::exhausted`]. A machine that
//! has several parts to ask keeps a [`Notifiers`] and hands the question on.
//!
//! Source: `register_vmap_purge_notifier`; the shrinker "vmap-node".
//!
//! [`Machine::exhausted`]: vmalloc::machine::Machine::exhausted

use crate::host::Host;
use crate::kernel::Kernel;
use arrayvec::ArrayVec;
use vmalloc::error::Shortage;
use vmalloc::machine::Machine;

/// Notifiers in a chain at most.
pub const MAX_NOTIFIERS: usize = 8;

/// Something that can give something up: returns how much it was.
pub type Notifier<'n> = &'n (dyn Fn(Shortage) -> usize + Sync);

/// A chain of notifiers, called in the order of their registration.
#[derive(Default)]
pub struct Notifiers<'n>(ArrayVec<Notifier<'n>, MAX_NOTIFIERS>);

impl<'n> Notifiers<'n> {
    /// A chain without any.
    pub const fn new() -> Notifiers<'n> {
        Notifiers(ArrayVec::new_const())
    }

    /// Adds one at the end; false = there are [`MAX_NOTIFIERS`] already.
    pub fn register(&mut self, notifier: Notifier<'n>) -> bool {
        self.0.try_push(notifier).is_ok()
    }

    /// Takes one out; false = it was not in.
    pub fn unregister(&mut self, notifier: Notifier<'n>) -> bool {
        let place = self.0.iter().position(|&other| core::ptr::addr_eq(other, notifier));
        place.map(|place| self.0.remove(place)).is_some()
    }

    /// Calls all of them, and returns what they gave up together: more than 0 = try again.
    pub fn call(&self, short: Shortage) -> usize {
        self.0.iter().fold(0, |sum: usize, notifier| sum.saturating_add(notifier(short)))
    }
}

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// What the shrinker could give up: freed areas that stay cached for the next of their
    /// size (the policies Park and Keep).
    ///
    /// # Cost
    /// A sum over CPUs. Source: the shrinker's count, of pooled areas.
    pub fn shrink_count(&self) -> usize {
        self.vm.stats().cached_slots
    }

    /// Gives all of that up, and returns how many areas it was.
    ///
    /// # Cost
    /// That of a purge. Source: the shrinker's scan, a full decay.
    pub fn shrink_scan(&self) -> usize {
        let before = self.shrink_count();
        self.vm.purge();
        before.saturating_sub(self.shrink_count())
    }
}
