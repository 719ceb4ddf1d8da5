//! The machine: what is under the library.
//!
//! An embedder implements three small traits: [`Machine`] (CPUs, flushes,
//! reachability of table memory), [`Frames`] (physical
//! memory; the library's own `frames::Zones` will do) and picks a
//! [`Format`] of page tables. Everything else is algorithm.
//!
//! # Contract
//! - **M1** The regions are used by nobody else, and every root shares the
//!   top-level entries that `init` fills in for them, which never change while
//!   the instance lives: copied at once, or when an access has faulted. They are
//!   taken out of the other roots before the instance is dropped. Dropping the instance
//!   gives back every empty table under those entries that is linked as the
//!   format links tables, so nobody else maps under them then.
//! - **M2** [`Machine::virt`] is valid, for reads and writes, for every frame
//!   the library holds as a table or as bookkeeping, for as long as it does.
//! - **M3** [`Machine::cpus`] is a constant upper bound of CPU indices.
//! - **M4** Between [`Machine::pin`] and [`Machine::unpin`] nothing else runs
//!   with this index, NMI excepted. Machines that cannot promise it (threads)
//!   set [`Machine::THREADS`], answer [`Machine::busy`] with another index, and
//!   know a thread that is pinned already ([`Machine::is_nested`]).
//! - **M5** [`Machine::context`] never says Task where waiting is forbidden.
//! - **M6** When [`Machine::flush`] returns, this CPU holds no translation and
//!   no paging-structure entry older than the call: global ones and those of
//!   other address-space ids included.
//! - **M7** Each kicked CPU calls `on_kick` in bounded time; `kick` does not
//!   wait for it.
//! - **M8** No method calls back into the instance, but for
//!   [`Machine::exhausted`], which may call `reclaim` and read-only calls, and
//!   [`Machine::relax`], in which *other* CPUs may run.
//! - **M9** Before `cpu_online`, after `cpu_offline`, and between `idle_enter`
//!   and `idle_exit` a CPU touches no area; after `cpu_offline` it stops.

pub mod faulty;
pub mod format;
pub mod frames;
pub mod prealloc;

use crate::error::Shortage;
use crate::units::{CpuSet, Node, PAGE_SIZE, PageRange, Pfn, VirtAddr};
use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;
use format::{Format, Prot};
use frames::Frames;

/// A CPU that the caller cannot be moved away from.
#[derive(Debug)]
pub struct Pinned {
    /// Its index, below [`Machine::cpus`].
    pub cpu: u32,
    /// What `unpin` needs to restore: the interrupt flag, or nothing.
    pub saved: usize,
}

/// Where the caller runs: what it may do there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Context {
    /// May wait.
    Task,
    /// Holds a lock or runs with preemption off: must not wait.
    Atomic,
    /// Deferred interrupt work.
    Softirq,
    /// An interrupt handler.
    HardIrq,
    /// A non-maskable interrupt. In the middle of another call it may look, free
    /// and answer kicks; what it frees is taken apart later, and allocations are
    /// refused.
    Nmi,
}

/// What a flush has to discard.
#[derive(Clone, Copy, Debug)]
pub enum Flush<'a> {
    /// All translations and paging-structure entries.
    Everything,
    /// Those of these ranges; discarding more is always right.
    Ranges(&'a [PageRange]),
}

/// A run of pages bound to adjacent frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// The pages.
    pub pages: PageRange,
    /// The frame of the first page; the others follow it.
    pub first: Pfn,
    /// Their protection.
    pub prot: Prot,
}

/// How much a log line matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// For the curious.
    Info,
    /// An allocation failed, or a caller did something odd.
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
    /// Where frames come from.
    type Frames: Frames;
    /// The lock for what CPUs share. It is only taken while pinned.
    type Lock: lock_api::RawMutex;

    /// Whether the MMU learns of a binding through [`Machine::mirror`] rather
    /// than from the entries. Such machines are given adjacent frames where
    /// there are any, since a run costs them as much as a page.
    const MIRRORED: bool = false;

    /// Whether indices are shared by threads, so that finding one busy means
    /// waiting and not an NMI in the middle of a call (M4). Whether a signal handler
    /// is in the middle of one, [`Machine::is_nested`] says.
    const THREADS: bool = false;

    /// The frames.
    fn frames(&self) -> &Self::Frames;
    /// The root table.
    fn root(&self) -> Pfn;
    /// Where the library reads and writes the frame `f` (M2).
    fn virt(&self, f: Pfn) -> NonNull<u8>;
    /// An upper bound of CPU indices (M3), at most
    /// [`MAX_CPUS`](crate::units::MAX_CPUS).
    fn cpus(&self) -> u32;
    /// Keeps the caller on its CPU and interrupts off it (M4). Nests.
    fn pin(&self) -> Pinned;
    /// Ends what `pin` began.
    ///
    /// # Safety
    /// `was` came from [`Machine::pin`] or [`Machine::busy`] of this machine,
    /// on this CPU, and is the youngest that has not been ended.
    unsafe fn unpin(&self, was: Pinned);
    /// Where the caller runs (M5). Asked only before waiting, and where the
    /// caller's CPU is taken.
    fn context(&self) -> Context;
    /// Discards `what` on this CPU (M6).
    fn flush(&self, what: Flush<'_>);
    /// Makes each of `cpus` call `on_kick` soon (M7).
    fn kick(&self, cpus: &CpuSet);

    // From here on a machine may leave the defaults: they are right for
    // everybody, only slower or less informative.

    /// The levels of the tables in use: LA57 is known only at boot.
    fn levels(&self) -> u8 {
        Self::Table::LEVELS
    }
    /// Whether the calling thread was pinned already when it called
    /// [`Machine::pin`] the last time: then a signal handler runs in the middle of
    /// a call, and must not take what that call may hold. Asked of machines of
    /// threads only ([`Machine::THREADS`]), from any context.
    fn is_nested(&self) -> bool {
        false
    }
    /// Another thread is inside the library with this index: another index to
    /// try. A machine with real CPUs never has to (M4): it keeps its own.
    fn busy(&self, was: Pinned) -> Pinned {
        was
    }
    /// Discards `what` on all CPUs and returns true when it is done (TLBI IS,
    /// a process); false where CPUs have to be kicked, or where it failed.
    fn flush_everywhere(&self, _what: Flush<'_>) -> bool {
        false
    }
    /// Makes `run` reachable for loads and stores, where the MMU does not read
    /// the entries.
    ///
    /// # Errors
    /// The machine's own error number; nothing of `run` is reachable then.
    fn mirror(&self, _run: Run) -> Result<(), i32> {
        Ok(())
    }
    /// The entries of `pages` were cleared: until the next flush they may
    /// still be reachable, after it they must not be.
    fn unmapped(&self, _pages: PageRange) {}
    /// New entries were written for `pages`: a barrier, where the format
    /// needs one before they are used.
    fn sync(&self, _pages: PageRange) {}
    /// One turn of a loop that waits for other CPUs.
    fn relax(&self) {
        core::hint::spin_loop()
    }
    /// The memory node of `cpu`.
    fn node_of(&self, _cpu: u32) -> Node {
        Node(0)
    }
    /// Clears the frame `f`, bound at `at`: through `at` where the frame has
    /// no direct mapping.
    fn zero(&self, f: Pfn, _at: VirtAddr) {
        // SAFETY: the library holds `f`, so M2 makes the page writable.
        unsafe { self.virt(f).as_ptr().write_bytes(0, PAGE_SIZE) }
    }
    /// The last resort before a failure (a purge notifier); true = try again.
    fn exhausted(&self, _short: Shortage) -> bool {
        false
    }
    /// Time since some start, in nanoseconds.
    fn clock_ns(&self) -> Option<u64> {
        None
    }
    /// A line for the log.
    fn log(&self, _level: Level, _line: fmt::Arguments<'_>) {}
    /// Prints the function that holds the return address `pc`.
    fn symbol(&self, pc: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{pc:#x}")
    }
    /// Calls its argument for each range of memory that may hold pointers to
    /// areas (leak scan).
    fn roots(&self, _found: &mut dyn FnMut(Range<usize>)) {}
}

/// A machine whose areas are real memory: an area's address can be
/// dereferenced by the code that called for it.
///
/// # Safety
/// While an area lives, its bytes are readable and writable at its address.
pub unsafe trait Addressable: Machine {}
