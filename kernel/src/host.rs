//! What the traditional subsystem asks of its embedder, beyond a machine.
//!
//! Everything has a default that is right for whoever has nothing of the kind.

use crate::call::Call;
use crate::gfp::GfpFlags;
use crate::kmemleak::Root;
use crate::scope::Scope;
use core::fmt;
use core::ptr::NonNull;
use vmalloc::units::{PageRange, Pfn};

/// How much a line of the log matters, by the traditional names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kern {
    /// `KERN_CRIT`.
    Crit,
    /// `KERN_ERR`.
    Err,
    /// `KERN_WARNING`.
    Warning,
    /// `KERN_INFO`.
    Info,
}

/// An object that the leak detector is told of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tracked {
    /// Its first byte.
    pub at: usize,
    /// Its bytes.
    pub bytes: usize,
    /// References that it has even if its user has none.
    pub min_count: u32,
    /// The flags of its request.
    pub gfp: GfpFlags,
}

/// What the direct mapping of a frame allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DirectMap {
    /// Loads and stores: what it allows of every frame.
    Default,
    /// Loads.
    ReadOnly,
    /// Nothing: it is not mapped.
    Invalid,
}

/// What surrounds the subsystem: hooks, the current task, the log.
pub trait Host: Sync {
    /// A function of the subsystem was entered.
    #[inline(always)]
    fn entered(&self, _call: &Call<'_>) {}
    /// The function that was entered last, and has not been left, ends.
    #[inline(always)]
    fn left(&self, _name: &'static str) {}

    /// A line for the log, without its end; false = the machine's log shall have it.
    fn printk(&self, _level: Kern, _line: fmt::Arguments<'_>) -> bool {
        false
    }
    /// The current task's name (`comm`).
    fn comm(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("swapper/0")
    }
    /// The current task's number (`pid`).
    fn pid(&self) -> u32 {
        0
    }
    /// Return addresses of the caller's stack, the innermost first, for the leak detector; how
    /// many they are.
    fn stack(&self, _into: &mut [usize]) -> usize {
        0
    }
    /// The `n`-th part of memory from which references lead to objects, for the leak detector:
    /// data, CPUs' own data, stacks, registers. `None` = there are no more.
    fn root(&self, _n: usize) -> Option<Root> {
        None
    }
    /// The stack of the caller, a line a frame, for warnings.
    fn backtrace(&self, _line: &mut dyn FnMut(fmt::Arguments<'_>)) {}
    /// Whether a fatal signal waits for the current task.
    fn fatal_signal_pending(&self) -> bool {
        false
    }
    /// The current task waits for a tick (`schedule_timeout_uninterruptible(1)`).
    fn sleep_tick(&self) {}

    /// The current task's scope. Who has no tasks leaves both.
    fn scope(&self) -> Scope {
        Scope::empty()
    }
    /// The current task's scope is another one from here on.
    fn set_scope(&self, _scope: Scope) {}

    /// A grace period begins: the readers of now are waited for. Returns its number
    /// (`start_poll_synchronize_rcu`). Called under a lock: it does not wait. Who has no
    /// readers leaves all three.
    fn rcu_begin(&self) -> u64 {
        0
    }
    /// Whether the readers that the grace period `number` waits for have ended
    /// (`poll_state_synchronize_rcu`). Called under a lock: it does not wait.
    fn rcu_passed(&self, _number: u64) -> bool {
        true
    }
    /// The current task waits for a grace period (`synchronize_rcu`).
    fn synchronize_rcu(&self) {}

    /// New mappings of `pages` are there: caches that go by virtual addresses.
    fn flush_cache_vmap(&self, _pages: PageRange) {}
    /// The mappings of `pages` are about to go.
    fn flush_cache_vunmap(&self, _pages: PageRange) {}

    /// The direct mapping of `frame` gets this permission. CPUs may use the old one until their next
    /// flush of everything, which the subsystem sees to (`set_direct_map_default_noflush`,
    /// `set_direct_map_invalid_noflush`). A host that leaves it, [`Bare`] say, keeps frames writable there:
    /// then only the area's own pages follow `set_memory_ro`. A process has it so, whose direct mapping
    /// is a view of its memory file.
    fn set_direct_map(&self, _frame: Pfn, _to: DirectMap) {}

    /// The leak detector hears of an object (`kmemleak_alloc`, `kmemleak_vmalloc`).
    fn tracked(&self, _object: &Tracked) {}
    /// The leak detector hears that the object at `at` is gone (`kmemleak_free`).
    fn untracked(&self, _at: usize) {}

    /// The current task sleeps until [`Host::pkmap_wake`] is called, or a tick has passed: all
    /// entries of the permanent kmap are used.
    fn pkmap_wait(&self) {
        self.sleep_tick();
    }
    /// An entry of the permanent kmap has no user any more: who sleeps looks again.
    fn pkmap_wake(&self) {}
    /// The current task stays on its CPU (`migrate_disable`). Calls nest.
    fn migrate_disable(&self) {}
    /// Ends what [`Host::migrate_disable`] began.
    fn migrate_enable(&self) {}

    /// Where the bytes of a frame without a direct mapping can be reached for a
    /// moment (`kmap_local_page`); `None` = nowhere.
    fn kmap(&self, _frame: Pfn) -> Option<NonNull<u8>> {
        None
    }
    /// Ends what [`Host::kmap`] began.
    fn kunmap(&self, _at: NonNull<u8>) {}
}

/// A host that has nothing of all that.
#[derive(Clone, Copy, Default, Debug)]
pub struct Bare;

impl Host for Bare {}
