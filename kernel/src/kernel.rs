//! The subsystem: an instance of the library, and what is kept beside it.
//!
//! # Rules
//! - **J1** Locks: the slab's, that of the areas' records, that of the blocks that wait for a grace
//!   period, that of the claims on frames, and that of a permanent kmap. They are taken while pinned, nobody
//!   holds two, and under none is anything allocated, freed, mapped or waited for.
//! - **J2** A caller that interrupted the holder of a lock, an NMI, is refused and
//!   never waits.

use crate::call::{Argument, Call};
use crate::error::Error;
use crate::host::{Bare, Host, Kern};
use crate::kmemleak::Kmemleak;
use crate::mapping::Flushes;
use crate::memtype::Claims;
use crate::rcu::Waiting;
use crate::records::Records;
use crate::redzone::Redzones;
use crate::slab::Slab;
use crate::sync::AtomicUsize;
use crate::warn::Quiet;
use core::fmt;
use core::ptr::NonNull;
use vmalloc::lock_api::{Mutex, RawMutex};
use vmalloc::machine::frames::Frames;
use vmalloc::machine::{Context, Level, Machine};
use vmalloc::units::{PAGE_SIZE, Pfn};
use vmalloc::{Gfp, Vmalloc};

/// The traditional subsystem around an instance of the library.
///
/// `new` is const: with an instance that is a static it may be a static. What it
/// made is freed by it; dropped, it frees all that it still has.
pub struct Kernel<'v, M: Machine, H: Host = Bare> {
    pub(crate) vm: &'v Vmalloc<M>,
    pub(crate) host: H,
    pub(crate) slab: Mutex<M::Lock, Slab>,
    pub(crate) records: Mutex<M::Lock, Records>,
    /// Records that there are, or are about to be.
    pub(crate) recorded: AtomicUsize,
    /// Areas of memory that have another memory type than memory has.
    pub(crate) odd_memory: AtomicUsize,
    pub(crate) claims: Mutex<M::Lock, Claims>,
    pub(crate) waiting: Mutex<M::Lock, Waiting>,
    /// The head that came last, of those that no list has yet.
    pub(crate) rcu_heads: AtomicUsize,
    /// Blocks that are ready, and are being freed.
    pub(crate) rcu_freeing: AtomicUsize,
    pub(crate) quiet: Quiet,
    pub(crate) flushes: Flushes,
    pub(crate) redzones: Redzones,
    pub(crate) leaks: Option<&'v Kmemleak<M::Lock>>,
}

// SAFETY: what is inside is behind locks, or atomic; the pointers that the locks
// guard lead to frames that are the subsystem's.
unsafe impl<M: Machine, H: Host> Sync for Kernel<'_, M, H> {}
// SAFETY: as above; nothing in it is bound to a thread.
unsafe impl<M: Machine, H: Host + Send> Send for Kernel<'_, M, H> {}

impl<'v, M: Machine, H: Host> Kernel<'v, M, H> {
    /// The subsystem around `vm`. Touches nothing.
    pub const fn new(vm: &'v Vmalloc<M>, host: H) -> Kernel<'v, M, H> {
        Kernel {
            vm,
            host,
            slab: Mutex::new(Slab::new()),
            records: Mutex::new(Records::new()),
            recorded: AtomicUsize::new(0),
            odd_memory: AtomicUsize::new(0),
            claims: Mutex::new(Claims::new()),
            waiting: Mutex::new(Waiting::new()),
            rcu_heads: AtomicUsize::new(0),
            rcu_freeing: AtomicUsize::new(0),
            quiet: Quiet::new(),
            flushes: Flushes::new(),
            redzones: Redzones::new(),
            leaks: None,
        }
    }

    /// The instance underneath.
    pub fn vm(&self) -> &'v Vmalloc<M> {
        self.vm
    }

    /// What surrounds the subsystem.
    pub fn host(&self) -> &H {
        &self.host
    }

    pub(crate) fn machine(&self) -> &'v M {
        self.vm.machine()
    }

    /// Frames of the machine: the bound of the size check (`totalram_pages`).
    pub(crate) fn total_pages(&self) -> usize {
        self.machine().frames().total()
    }

    /// Tells the host that a function is entered, until what this returns is dropped.
    #[inline(always)]
    pub(crate) fn enter<'k>(&'k self, name: &'static str, arguments: &[Argument]) -> Entered<'k, H> {
        self.host.entered(&Call { name, arguments });
        Entered { host: &self.host, name }
    }

    /// Calls `f` with what `lock` guards (J1).
    ///
    /// # Errors
    /// [`Error::WrongContext`] where the caller interrupted the holder (J2).
    pub(crate) fn locked<L: RawMutex, T, R>(
        &self,
        lock: &Mutex<L, T>,
        f: impl FnOnce(&mut T) -> R,
    ) -> Result<R, Error> {
        let machine = self.machine();
        let was = machine.pin();
        let guard = match lock.try_lock() {
            Some(guard) => Ok(guard),
            None if M::THREADS && machine.is_nested() => Err(Error::WrongContext(Context::Nmi)),
            None if machine.context() == Context::Nmi => Err(Error::WrongContext(Context::Nmi)),
            None => Ok(lock.lock()),
        };
        let result = guard.map(|mut guard| f(&mut guard));
        // SAFETY: our own pin, the youngest.
        unsafe { machine.unpin(was) };
        result
    }

    /// A cleared frame that the direct mapping reaches, for bookkeeping.
    pub(crate) fn bookkeeping_frame(&self, gfp: Gfp) -> Result<Pfn, Error> {
        const KEPT: Gfp = Gfp::WAIT.union(Gfp::RESERVE).union(Gfp::NOWARN).union(Gfp::NORETRY);
        Ok(self.vm.alloc_frame(gfp.intersection(KEPT).union(Gfp::ZERO), None)?)
    }

    /// Gives a frame of the subsystem's own back.
    pub(crate) fn give_frame(&self, frame: Pfn) {
        // SAFETY: P3: it came from this instance, and nothing uses it any more.
        unsafe { self.vm.free_frame(frame) }
    }

    /// Calls `f` with the bytes of the frame.
    ///
    /// # Errors
    /// [`Error::NotReachable`] where nothing shows them.
    pub(crate) fn with_bytes<R>(&self, frame: Pfn, f: impl FnOnce(NonNull<u8>) -> R) -> Result<R, Error> {
        if self.machine().frames().highest_zone() != vmalloc::gfp::ZoneKind::HighMem {
            return Ok(f(self.machine().virt(frame)));
        }
        let at = self.host.kmap(frame).ok_or(Error::NotReachable(frame))?;
        let result = f(at);
        self.host.kunmap(at);
        Ok(result)
    }

    /// A line for the log.
    pub(crate) fn printk(&self, level: Kern, line: fmt::Arguments<'_>) {
        if self.host.printk(level, line) {
            return;
        }
        let level = match level {
            Kern::Crit | Kern::Err => Level::Error,
            Kern::Warning => Level::Warn,
            Kern::Info => Level::Info,
        };
        self.machine().log(level, line);
    }
}

/// A function is inside until this is dropped.
pub(crate) struct Entered<'k, H: Host> {
    host: &'k H,
    name: &'static str,
}

impl<H: Host> Drop for Entered<'_, H> {
    fn drop(&mut self) {
        self.host.left(self.name);
    }
}

impl<M: Machine, H: Host> Drop for Kernel<'_, M, H> {
    fn drop(&mut self) {
        self.forget_all_freed();
        self.free_all_waiting();
        self.free_all_areas();
        self.free_slab();
    }
}

impl<M: Machine, H: Host> fmt::Debug for Kernel<'_, M, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kernel")
    }
}

/// `bytes` rounded up to whole pages; `None` where that overflows.
pub(crate) fn page_align(bytes: usize) -> Option<usize> {
    bytes.checked_next_multiple_of(PAGE_SIZE)
}
