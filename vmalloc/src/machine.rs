//! The machine: everything that the library needs from the system under it.
//!
//! An embedder implements two small traits, [`Machine`] (CPUs, flushes, access to the memory of
//! tables) and [`Frames`] (physical memory; the library's own `frames::Zones` will do), and picks a
//! [`Format`] of page tables. The rest of the library is algorithm.
//!
//! # Contract
//! - **M1** Nobody else uses the regions. Every root shares the top-level entries that `init` fills
//!   in for them; an embedder copies them at once, or when an access has faulted. These entries
//!   never change while the instance lives. The embedder takes them out of the other roots before
//!   it drops the instance. The drop gives back every empty table under those entries whose link is
//!   exactly what the format writes, so nobody else may map under them at that time.
//! - **M2** [`Machine::virt`] is valid for reads and writes, for every frame that the library holds
//!   as a table or for bookkeeping, as long as it holds it.
//! - **M3** [`Machine::cpus`] is a constant upper bound of CPU indices.
//! - **M4** Between [`Machine::pin`] and [`Machine::unpin`] nothing else runs with this index,
//!   except an NMI. A machine that cannot promise this (one of threads) sets [`Machine::THREADS`],
//!   returns another index from [`Machine::busy`], and knows whether a thread is pinned already
//!   ([`Machine::is_nested`]).
//! - **M5** [`Machine::context`] never returns `Task` where waiting is forbidden.
//! - **M6** When [`Machine::flush`] returns, this CPU holds no translation and no paging-structure
//!   entry from before the call. That includes global ones and those of other address-space ids.
//! - **M7** Each kicked CPU calls `on_kick` in bounded time. `kick` does not wait for that.
//! - **M8** No method calls back into the instance, with two exceptions: [`Machine::exhausted`] may
//!   call `free`, `reclaim` and read-only methods, and *other* CPUs may run during [`Machine::relax`].
//! - **M9** A CPU touches no area before `cpu_online`, after `cpu_offline`, and between
//!   `idle_enter` and `idle_exit`. After `cpu_offline` it stops.

pub mod event;
pub mod faulty;
pub mod format;
pub mod frames;
pub mod prealloc;

use crate::error::Shortage;
use crate::gfp::Gfp;
use crate::units::{CpuSet, Node, PAGE_SIZE, PageRange, Pfn, VirtAddr};
use core::fmt;
use core::ptr::NonNull;
use event::Event;
use format::{Format, Prot};
use frames::Frames;

/// A CPU that the caller cannot be moved away from.
#[derive(Debug)]
pub struct Pinned {
    /// Its index, below [`Machine::cpus`].
    pub cpu: u32,
    /// The state that `unpin` restores: the interrupt flag, or nothing.
    pub saved: usize,
}

/// The context of the caller: what it may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Context {
    /// It may wait.
    Task,
    /// It holds a lock or runs with preemption off, and must not wait.
    Atomic,
    /// Deferred interrupt work.
    Softirq,
    /// An interrupt handler.
    HardIrq,
    /// A non-maskable interrupt. It may interrupt another call. It may then look areas up, free
    /// them and answer kicks; the CPU takes apart later what it frees, and allocations are refused.
    /// One that has interrupted no call may do what a hard interrupt may.
    Nmi,
}

/// The translations that a flush discards.
#[derive(Clone, Copy, Debug)]
pub enum Flush<'a> {
    /// All translations and paging-structure entries.
    Everything,
    /// Those of these ranges. Discarding more is always right.
    Ranges(&'a [PageRange]),
}

/// A run of pages that are mapped to adjacent frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// The pages.
    pub pages: PageRange,
    /// The frame of the first page. The other frames follow it.
    pub first: Pfn,
    /// Their protection.
    pub prot: Prot,
}

/// The importance of a log line.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// For information.
    Info,
    /// An allocation failed, or a caller made a mistake.
    Warn,
    /// Something is broken: a bad entry, a double free.
    Error,
}

/// The machine under an instance.
///
/// # Safety
/// The implementor keeps M1–M9 of the [module](self).
pub unsafe trait Machine: Sync + Sized {
    /// The page-table format.
    type Table: Format;
    /// The source of frames.
    type Frames: Frames;
    /// The lock for data that CPUs share: any CPU may take it and any may release it. The library takes it
    /// only while pinned.
    type Lock: lock_api::RawMutex + Send + Sync;

    /// Whether the MMU learns of a mapping from [`Machine::mirror`] and not from the entries. Such
    /// a machine is given adjacent frames if there are any, since a run costs it as much as a page.
    const MIRRORED: bool = false;

    /// Whether threads share indices. A caller that finds an index in use then waits for it; on
    /// other machines it is an NMI in the middle of a call (M4). [`Machine::is_nested`] tells
    /// whether a signal handler has interrupted a call.
    const THREADS: bool = false;

    /// Whether a frame can be mapped at two addresses. Where it cannot, a page is its own frame
    /// (private memory of a process): its entry has the page's own number, and [`Machine::frames`]
    /// serves bookkeeping alone. The library then counts the pages of areas against
    /// [`Machine::page_limit`], and refuses every call that maps frames which its caller names. A
    /// page that is mapped after a flush must be clear, and [`Machine::zero`] clears by address.
    const ALIASES: bool = true;

    /// Whether the memory of the instance is not here: in the child of a process that has it. Every call is
    /// then as before `init`, and a drop gives nothing back.
    #[inline(always)]
    fn is_elsewhere(&self) -> bool {
        false
    }

    /// The frames.
    fn frames(&self) -> &Self::Frames;
    /// The root table.
    fn root(&self) -> Pfn;
    /// The address at which the library reads and writes the frame `f` (M2).
    fn virt(&self, f: Pfn) -> NonNull<u8>;
    /// An upper bound of CPU indices (M3), at most
    /// [`MAX_CPUS`](crate::units::MAX_CPUS).
    fn cpus(&self) -> u32;
    /// Keeps the caller on its CPU, with interrupts off (M4). Calls nest.
    fn pin(&self) -> Pinned;
    /// Ends what `pin` began.
    ///
    /// # Safety
    /// `was` came from [`Machine::pin`] or [`Machine::busy`] of this machine, on this CPU, and is
    /// the newest that has not been ended.
    unsafe fn unpin(&self, was: Pinned);
    /// The context of the caller (M5). The library asks only before it waits, and when the caller's
    /// CPU is in use.
    fn context(&self) -> Context;
    /// Discards `what` on this CPU (M6).
    fn flush(&self, what: Flush<'_>);
    /// Makes each of `cpus` call `on_kick` soon (M7).
    fn kick(&self, cpus: &CpuSet);

    // The methods from here on have defaults that are right for every machine, but slower or less
    // informative.

    /// The number of levels in use. A machine may know it only at boot (LA57).
    fn levels(&self) -> u8 {
        Self::Table::LEVELS
    }
    /// The number of pages that areas may have together, a constant.
    fn page_limit(&self) -> usize {
        self.frames().total()
    }
    /// Whether the calling thread was already pinned when it last called [`Machine::pin`]. A signal
    /// handler has then interrupted a call, and must not take what that call may hold. The library
    /// asks only if [`Machine::THREADS`] is set, from any context.
    fn is_nested(&self) -> bool {
        false
    }
    /// Returns another index to try, because another thread is inside the library with this one. A
    /// machine with real CPUs never needs this and keeps its index (M4).
    fn busy(&self, was: Pinned) -> Pinned {
        was
    }
    /// Discards `what` on all CPUs (TLBI IS, a process). Returns true when that is done, and false
    /// if CPUs have to be kicked instead or if it failed.
    fn flush_everywhere(&self, _what: Flush<'_>) -> bool {
        false
    }
    /// Makes `run` reachable for loads and stores, if the MMU does not read the entries.
    ///
    /// # Errors
    /// The machine's own error number. No page of `run` is reachable then.
    fn mirror(&self, _run: Run) -> Result<(), i32> {
        Ok(())
    }
    /// The entries of `pages` are about to get another protection; CPUs may use the old one until
    /// the next flush. A machine whose MMU does not read the entries changes it here.
    ///
    /// # Errors
    /// The machine's own error number; here ENOSYS where [`Machine::MIRRORED`] is set. Nothing has
    /// changed then.
    fn protect(&self, _pages: PageRange, _prot: Prot) -> Result<(), i32> {
        if Self::MIRRORED { Err(38) } else { Ok(()) }
    }
    /// The entries of `pages` were cleared or parked. The pages may stay reachable until the next
    /// flush, but not after it.
    fn unmapped(&self, _pages: PageRange) {}
    /// New entries were written for `pages`. A format that needs a barrier before their use has it
    /// here.
    fn sync(&self, _pages: PageRange) {}
    /// Called once per turn of a loop that waits for other CPUs.
    fn relax(&self) {
        core::hint::spin_loop()
    }
    /// The memory node of `cpu`.
    fn node_of(&self, _cpu: u32) -> Node {
        Node(0)
    }
    /// Clears the frame `f`, which is mapped at `at`. A frame without a direct mapping is cleared
    /// through `at`.
    fn zero(&self, f: Pfn, _at: VirtAddr) {
        // SAFETY: the library holds `f`, so M2 makes the page writable.
        unsafe { self.virt(f).as_ptr().write_bytes(0, PAGE_SIZE) }
    }
    /// The last resort before a failure (a purge notifier). Returns true if the library should try
    /// again. The library asks at most eight times in a call, and only where the caller may wait: in
    /// [`Context::Task`] and with [`Gfp::WAIT`], as the arguments say.
    fn exhausted(&self, _short: Shortage, _context: Context, _gfp: Gfp) -> bool {
        false
    }
    /// The time since some start, in nanoseconds.
    fn clock_ns(&self) -> Option<u64> {
        None
    }
    /// Called at each [`Event`], by any context, with interrupts off perhaps. Leak detectors,
    /// tracepoints and quotas begin here.
    ///
    /// # Errors
    /// An error number refuses an [`Event::Publish`]: the allocation is undone and fails with
    /// [`AllocError::Refused`](crate::AllocError::Refused). It is ignored for all other events.
    #[inline]
    fn note(&self, _event: Event) -> Result<(), i32> {
        Ok(())
    }
    /// Writes a line to the log.
    fn log(&self, _level: Level, _line: fmt::Arguments<'_>) {}
    /// Prints the name of the function that contains the return address `pc`.
    fn symbol(&self, pc: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{pc:#x}")
    }
}

/// A machine whose areas are real memory: the code that asked for an area can use its address as a
/// pointer.
///
/// # Safety
/// While an area lives, its bytes are readable and writable at its address.
pub unsafe trait Addressable: Machine {}

#[cfg(test)]
mod tests {
    use super::Machine;

    /// An instance is used by all CPUs, so its locks are. This compiles for every machine.
    fn locks_may_be_used_by_every_cpu<M: Machine>() {
        fn shared<T: Send + Sync>() {}
        shared::<M::Lock>();
    }

    #[test]
    fn a_lock_that_one_cpu_alone_may_use_is_none_for_a_machine() {
        locks_may_be_used_by_every_cpu::<crate::testing::PageMachine>();
    }
}
