//! Messages about failures, to the letter that tools look for.
//!
//! | Text | Level | When |
//! |---|---|---|
//! | `allocation failed: out of vmalloc space - use vmalloc=<size> to increase size.` | warning | no addresses, 2.6 |
//! | `vmap allocation for size %lu failed: use vmalloc=<size> to increase size.` | warning | no addresses, 3.0 and 4.x |
//! | `vmalloc_node_range for size %lu failed: Address range restricted to %#lx - %#lx` | warning | no addresses, today |
//! | `vmalloc bug: 0x..-0x.. overlaps with 0x..-0x..` | warning | an early area that somebody has |
//! | `ioremap on RAM at 0x… - 0x…` | warning, once | memory is no device |
//! | `ioremap: invalid physical address %llx` | warning | beyond what an entry can name |
//! | `ioremap error for 0x..-0x.., requested 0x%x, got 0x%x` | error | mapped with another memory type |
//! | `iounmap: bad address %p` | error | no device is mapped there |
//! | `<comm>: <message>, mode:0x…(names), nodemask=(null)`, a stack, Mem-Info | warning | [`Kernel::warn_alloc`] |
//!
//! Those of failed requests are limited together: one in ten seconds of the machine's clock;
//! without a clock, one each time that their number has doubled. `__GFP_NOWARN` silences them.

use crate::gfp::GfpFlags;
use crate::host::{Host, Kern};
use crate::kernel::Kernel;
use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use vmalloc::machine::Machine;
use vmalloc::machine::frames::Frames;

/// Nanoseconds between two messages.
const QUIET_NS: u64 = 10_000_000_000;

/// A message that comes once in the life of a machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Once {
    /// Zero bytes were asked for.
    ZeroSize = 1,
    /// `vmap` was asked for an area without a guard.
    NoGuard = 2,
    /// `kvmalloc` was asked for more than `INT_MAX`.
    TooLarge = 4,
    /// `ioremap` was asked for memory.
    OnRam = 8,
    /// `vmalloc_to_page` met an entry that makes no sense.
    BadEntry = 16,
}

/// What was said, and when; without a clock, how often something might have been said.
#[derive(Debug)]
pub(crate) struct Quiet {
    last_ns: AtomicU64,
    said: AtomicU32,
}

impl Quiet {
    pub(crate) const fn new() -> Quiet {
        Quiet { last_ns: AtomicU64::new(0), said: AtomicU32::new(0) }
    }
}

/// Calls its function as it is printed.
struct With<F>(F);

impl<F: Fn(&mut fmt::Formatter<'_>) -> fmt::Result> fmt::Display for With<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0(f)
    }
}

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// Whether a message of a request with these flags may be printed now; then it
    /// counts as printed.
    pub(crate) fn may_warn(&self, gfp: GfpFlags) -> bool {
        if gfp.contains(GfpFlags::NOWARN) {
            return false;
        }
        let Some(now) = self.machine().clock_ns() else {
            return (self.quiet.last_ns.fetch_add(1, Relaxed) + 1).is_power_of_two();
        };
        let last = self.quiet.last_ns.load(Relaxed);
        if last != 0 && now.saturating_sub(last) < QUIET_NS {
            return false;
        }
        self.quiet.last_ns.compare_exchange(last, now.max(1), Relaxed, Relaxed).is_ok()
    }

    /// Whether a message that comes once has not come yet; then it counts as printed.
    pub(crate) fn first_time(&self, what: Once) -> bool {
        self.quiet.said.fetch_or(what as u32, Relaxed) & what as u32 == 0
    }

    /// Warns of a failed allocation: the task's name, the message, the flags in hex and
    /// by name, the nodes allowed, the stack, and how much memory there is. Silent with
    /// `__GFP_NOWARN`, and beyond one in ten seconds.
    ///
    /// # Source
    /// `warn_alloc`.
    pub fn warn_alloc(&self, gfp: GfpFlags, message: fmt::Arguments<'_>) {
        if !self.may_warn(gfp) {
            return;
        }
        let comm = With(|f: &mut fmt::Formatter<'_>| self.host.comm(f));
        let mode = gfp.bits();
        self.printk(Kern::Warning, format_args!("{comm}: {message}, mode:{mode:#x}({gfp}), nodemask=(null)"));
        self.host.backtrace(&mut |line| self.printk(Kern::Warning, line));
        self.show_mem();
    }

    /// How much memory there is.
    fn show_mem(&self) {
        let (frames, stats) = (self.machine().frames(), self.vm.stats());
        self.printk(Kern::Warning, format_args!("Mem-Info:"));
        let (free, stocked) = (frames.free_now(), stats.pooled_frames);
        let (waiting, vmalloc) = (stats.waiting_pages, stats.pages);
        self.printk(Kern::Warning, format_args!("free:{free} free_pcp:{stocked} unpurged:{waiting} vmalloc:{vmalloc}"));
        self.printk(Kern::Warning, format_args!("{} pages RAM", frames.total()));
    }
}
