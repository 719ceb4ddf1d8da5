//! The traditional subsystem around the instance, and its leak detector: what this machine is to them.
//!
//! | The subsystem asks for | Here it is |
//! |---|---|
//! | the log | the serial line |
//! | the direct mapping of a frame, with other permissions | `memory::set_direct_map` |
//! | where references may be | the image's data, what each CPU has for itself, the stacks |
//!
//! The detector hears the library's events from the boot on with `kmemleak=on`, never with `off`, and
//! else from the first command on, so that allocations cost nothing until somebody asks.

use crate::boot::settings;
use crate::machine::{Pc, VM};
use crate::{cpu, memory};
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use spin::Mutex;
use vmalloc::machine::event::Event;
use vmalloc::units::Pfn;
use vmalloc_kernel::kmemleak::{Boot, Kmemleak, Origin, Root, RootKind};
use vmalloc_kernel::{DirectMap, Host, Kern, Kernel};

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
        let Some(n) = n.checked_sub(1) else {
            let data = memory::data();
            // SAFETY: Y8: the image stays.
            return Some(unsafe { Root::memory(RootKind::Data, data.start, data.len()) });
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

/// A command for the detector is about to run, whose stack begins at `caller`. The first makes it
/// hear, and adopts what is there. Stacks are roots, and no more.
pub fn wake_leak_detector(caller: usize) {
    CALLER.store(caller, Relaxed);
    if settings().kmemleak.is_none() && !HEARS.swap(true, Relaxed) {
        KERNEL.kmemleak_adopt();
    }
    let stacks = (0..cpu::count()).map(|cpu| cpu::stack_of(cpu).start);
    stacks.filter(|&start| start != 0).for_each(|start| KERNEL.kmemleak_no_scan(start));
}

/// An event of the library's: a few instructions, until somebody wants to hear.
#[inline(always)]
pub fn note(event: Event) {
    if HEARS.load(Relaxed) {
        tell(event);
    }
}

#[cold]
#[inline(never)]
fn tell(event: Event) {
    LEAKS.note(VM.machine(), event, || Origin::new("swapper", cpu::index(), &[]));
}
