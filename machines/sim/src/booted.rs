//! An instance on a machine, wired up: kicks and interrupts reach it.

use crate::Sim;
use core::ops::Deref;
use vmalloc::error::{Broken, Shortage};
use vmalloc::machine::format::Format;
use vmalloc::{Config, InitError, Vmalloc};

/// An instance that serves on a machine, all of whose CPUs are online. Kicks
/// are answered until it is gone, for dropping it waits for them.
pub struct Booted<F: Format, const ALIASES: bool = true> {
    /// Before the hooks, so that it is dropped first.
    vm: Box<Vmalloc<Sim<F, ALIASES>>>,
    hooks: Hooks<F>,
}

/// What the machine calls while the instance is there.
struct Hooks<F: Format>(Sim<F>);

/// The instance, as its machine's hooks know it.
struct Wire<F: Format, const ALIASES: bool>(*const Vmalloc<Sim<F, ALIASES>>);

// SAFETY: an instance may be shared and sent.
unsafe impl<F: Format, const ALIASES: bool> Send for Wire<F, ALIASES> {}
// SAFETY: as above.
unsafe impl<F: Format, const ALIASES: bool> Sync for Wire<F, ALIASES> {}

impl<F: Format, const ALIASES: bool> Booted<F, ALIASES> {
    /// Puts an instance on `sim` and brings all CPUs online.
    ///
    /// # Errors
    /// Those of [`Vmalloc::init`].
    pub fn new(sim: Sim<F, ALIASES>, config: Config) -> Result<Self, InitError> {
        let hooks = Hooks(sim.for_instance());
        let booted = Booted { hooks, vm: Box::new(Vmalloc::new(sim)) };
        let wire = booted.wire();
        booted.sim().set_kick(move |_| wire.vm().on_kick());
        // SAFETY: N1: the machine's tables are new; N2: nobody knows the
        // instance but its kicks, which it answers with nothing until then.
        booted.sim().unbounded(|| unsafe { booted.vm.init(config) })?;
        booted.sim().online_all(|| booted.vm.cpu_online());
        Ok(booted)
    }

    /// The machine.
    pub fn sim(&self) -> &Sim<F> {
        &self.hooks.0
    }

    /// As [`Vmalloc::check`], which is for nobody who is in a hurry.
    ///
    /// # Errors
    /// As there.
    pub fn check(&self) -> Result<(), Broken> {
        self.sim().unbounded(|| self.vm.check())
    }

    /// What runs when an interrupt comes; it gets the CPU's index.
    pub fn set_interrupt(&self, handler: impl Fn(&Vmalloc<Sim<F, ALIASES>>, u32) + Send + Sync + 'static) {
        let wire = self.wire();
        self.sim().set_interrupt(move |cpu| handler(wire.vm(), cpu));
    }

    /// The `n`-th thing from now on that the library does is interrupted by
    /// an NMI, which runs `handler`. 0 = by none.
    pub fn set_nmi(&self, n: u64, handler: impl Fn(&Vmalloc<Sim<F, ALIASES>>) + Send + Sync + 'static) {
        let wire = self.wire();
        self.sim().set_nmi(n, move |_| handler(wire.vm()));
    }

    /// What the machine tries when something runs short; true = try again.
    pub fn set_shortage(&self, handler: impl Fn(&Vmalloc<Sim<F, ALIASES>>, Shortage) -> bool + Send + Sync + 'static) {
        let wire = self.wire();
        self.sim().set_shortage(move |short, _| handler(wire.vm(), short));
    }

    fn wire(&self) -> Wire<F, ALIASES> {
        Wire(&raw const *self.vm)
    }
}

impl<F: Format, const ALIASES: bool> Wire<F, ALIASES> {
    fn vm(&self) -> &Vmalloc<Sim<F, ALIASES>> {
        // SAFETY: the instance stays in its box until the hooks are taken off,
        // which comes after its drop.
        unsafe { &*self.0 }
    }
}

impl<F: Format, const ALIASES: bool> Drop for Booted<F, ALIASES> {
    fn drop(&mut self) {
        // To take everything apart is one section, however much there is.
        self.sim().state().unbounded = true;
        // M1: no other root names a table of the instance any more.
        self.sim().clear_copies();
    }
}

impl<F: Format> Drop for Hooks<F> {
    fn drop(&mut self) {
        self.0.state().unbounded = false;
        self.0.set_kick(|_| {});
        self.0.set_interrupt(|_| {});
        self.0.set_nmi(0, |_| {});
        self.0.set_shortage(|_, _| false);
    }
}

impl<F: Format, const ALIASES: bool> Deref for Booted<F, ALIASES> {
    type Target = Vmalloc<Sim<F, ALIASES>>;

    fn deref(&self) -> &Self::Target {
        &self.vm
    }
}
