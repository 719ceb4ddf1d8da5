//! The traditional subsystem around the instance, and its leak detector: what this machine is to them.
//!
//! | The subsystem asks for | Here it is |
//! |---|---|
//! | the log | the serial line |
//! | the direct mapping of a frame, with other permissions | `memory::set_direct_map` |
//! | where references may be | the image's data, what each CPU has for itself, the stacks; no trap stack, which keeps the registers of the scan that a tick came into |
//!
//! The detector hears the library's events from the boot on with `kmemleak=on`, never with `off`, and
//! else from the first command on. Without the feature `events` nobody hears them, and they cost no
//! instruction: the detector adopts the areas that it does not know before each scan.

#[cfg(feature = "events")]
mod events;

use crate::boot::settings;
use crate::machine::{Pc, VM};
use crate::{cpu, memory};
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use spin::Mutex;
use vmalloc::units::Pfn;
use vmalloc_kernel::kmemleak::{Boot, Kmemleak, Root, RootKind};
use vmalloc_kernel::{DirectMap, Host, Kern, Kernel};

#[cfg(feature = "events")]
pub use events::note;

static LEAKS: Kmemleak<Mutex<()>> = Kmemleak::new();
static KERNEL: Kernel<'static, Pc, Surroundings> = Kernel::new(&VM, Surroundings).with_kmemleak(&LEAKS);
/// Whether the detector hears of events.
static HEARS: AtomicBool = AtomicBool::new(false);
/// Where the stack of the command that scans begins: what lies below is the detector's own.
static CALLER: AtomicUsize = AtomicUsize::new(0);

/// What surrounds the subsystem here.
pub struct Surroundings;

/// The subsystem.
pub fn kernel() -> &'static Kernel<'static, Pc, Surroundings> {
    &KERNEL
}

impl Host for Surroundings {
    fn printk(&self, _level: Kern, line: fmt::Arguments<'_>) -> bool {
        println!("{line}");
        true
    }

    fn set_direct_map(&self, frame: Pfn, to: DirectMap) {
        memory::set_direct_map(frame, to);
    }

    fn root(&self, n: usize) -> Option<Root> {
        let Some(n) = n.checked_sub(2) else {
            let (data, gates) = (memory::data(), cpu::boot_gates());
            let part = if n == 0 { data.start..gates.start } else { gates.end..data.end };
            // SAFETY: Y8: the image stays.
            return Some(unsafe { Root::memory(RootKind::Data, part.start, part.len()) });
        };
        let cpu = u32::try_from(n / 2).ok().filter(|&cpu| cpu < cpu::count())?;
        if n.is_multiple_of(2) {
            let own = cpu::own_bytes(cpu);
            // SAFETY: Y8: it never moves, and stays.
            return Some(unsafe { Root::memory(RootKind::PerCpu, own.start, own.len()) });
        }
        let (stack, caller) = (cpu::stack_of(cpu), CALLER.load(Relaxed));
        let start = if stack.contains(&caller) { caller } else { stack.start };
        Some(Root::in_area(RootKind::Stack, start, stack.end - start))
    }
}

/// Obeys `kmemleak=`, before the instance is there.
pub fn boot_leak_detector() {
    if let Some(parameter) = settings().kmemleak {
        LEAKS.boot(VM.machine(), parameter);
        HEARS.store(parameter == Boot::On, Relaxed);
    }
}

/// A command for the detector is about to run, whose stack begins at `caller`. What the detector does not
/// know it adopts: what is older than the first command, after which it hears, or what is there before each scan (`scans`).
/// Stacks are roots, and no more.
pub fn wake_leak_detector(caller: usize, scans: bool) {
    CALLER.store(caller, Relaxed);
    let adopts = match cfg!(feature = "events") {
        true => settings().kmemleak.is_none() && !HEARS.swap(true, Relaxed),
        false => scans,
    };
    if adopts {
        KERNEL.kmemleak_adopt();
    }
    let stacks = (0..cpu::count()).map(|cpu| cpu::stack_of(cpu).start);
    stacks.filter(|&start| start != 0).for_each(|start| KERNEL.kmemleak_no_scan(start));
}
