//! The instance: how it begins and how it ends.
//!
//! # Rules
//! - **I1** `core` is written once, by `init`, before `ready` is set (Release);
//!   everybody else reads `ready` first (Acquire).
//! - **I3** Dropping frees what lives, waits for grace, and gives every frame
//!   back. What grace does not come for is leaked: nobody may reuse it.

use crate::area::Policy;
use crate::machine::format::Format;
use crate::machine::{Level, Machine};
use crate::reclaim::cache::AGED;
use crate::state::config::{Config, InitError};
use crate::state::core::{Core, Ctx};
use crate::sync::plain::{AtomicBool, Ordering::*};
use crate::units::PAGE_SHIFT;
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;

/// An allocator of virtually contiguous memory on a machine.
///
/// `new` is const: an instance may be a static. It serves after
/// [`Vmalloc::init`], and is not moved any more while others use it.
pub struct Vmalloc<M: Machine> {
    ready: AtomicBool,
    core: UnsafeCell<MaybeUninit<Core<M>>>,
    machine: M,
}

// SAFETY: I1; what is inside `core` is atomics, locks, and per-CPU state that
// L1 makes exclusive.
unsafe impl<M: Machine> Sync for Vmalloc<M> {}
// SAFETY: nothing in it is bound to a thread, but perhaps the machine.
unsafe impl<M: Machine + Send> Send for Vmalloc<M> {}

impl<M: Machine> Vmalloc<M> {
    /// An instance that serves after [`Vmalloc::init`]. Touches nothing.
    pub const fn new(machine: M) -> Vmalloc<M> {
        Vmalloc { ready: AtomicBool::new(false), core: UnsafeCell::new(MaybeUninit::uninit()), machine }
    }

    /// The machine underneath.
    #[inline]
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// What every call goes on with; `None` before `init`, and where the memory is not.
    #[inline(always)]
    pub(crate) fn ctx(&self) -> Option<Ctx<'_, M>> {
        if !self.ready.load(Acquire) || self.machine.is_elsewhere() {
            return not_ready();
        }
        // SAFETY: I1.
        Some(Ctx { machine: &self.machine, core: unsafe { (*self.core.get()).assume_init_ref() } })
    }

    /// Begins to serve the regions of `config`. Needs the frames, the direct
    /// mapping and the root; no heap, no interrupts, no other CPU.
    ///
    /// # Errors
    /// See [`InitError`]; nothing has changed then.
    ///
    /// # Safety
    /// - N1. Nobody else maps in the regions (M1).
    /// - N2. Nobody calls anything on this instance before it returns, and the
    ///   instance is not moved while anybody else uses it.
    pub unsafe fn init(&self, config: Config) -> Result<(), InitError> {
        let cpus = self.machine.cpus();
        config.validate(cpus)?;
        let index_bits = <M::Table as Format>::INDEX_BITS;
        config.is_canonical(PAGE_SHIFT + index_bits * self.machine.levels() as u32)?;
        if self.ready.load(Acquire) {
            return Err(InitError::Twice);
        }
        let core = Core::new(&self.machine, &config)?;
        // SAFETY: N2: nobody reads it before `ready` (I1).
        unsafe { (*self.core.get()).write(core) };
        self.ready.store(true, Release);
        Ok(())
    }

    /// What a free does from now on. What is cached by the policy before is
    /// retired.
    pub fn set_policy(&self, policy: Policy) {
        let Some(ctx) = self.ctx() else { return };
        if ctx.core.policy.swap(policy as u8, Relaxed) != policy as u8 {
            ctx.evict_all(AGED);
        }
    }

    /// What a free does.
    pub fn policy(&self) -> Policy {
        self.ctx().map_or(Policy::Unmap, |ctx| ctx.core.policy())
    }
}

/// Out of line, so that the branch stays one.
#[cold]
#[inline(never)]
fn not_ready<T>() -> Option<T> {
    None
}

impl<M: Machine> Drop for Vmalloc<M> {
    fn drop(&mut self) {
        let Some(ctx) = self.ctx() else { return };
        ctx.free_everything();
        let tables = if ctx.is_drained() { ctx.unlink_tables() } else { None };
        let Some(mut tables) = tables else {
            self.machine.log(Level::Error, format_args!("dropped while flushes are outstanding: memory is leaked"));
            return;
        };
        self.ready.store(false, Release);
        // SAFETY: I1: it was ready, and `&mut self` says that nobody is inside.
        let core = unsafe { (*self.core.get()).assume_init_read() };
        let pinned = self.machine.pin();
        tables.trim(&self.machine, 0);
        core.destroy(&self.machine);
        // SAFETY: our own pin, the youngest.
        unsafe { self.machine.unpin(pinned) }
    }
}
