//! The glue: what ties this kernel to the library. To be copied.
//!
//! Everything that a kernel on x86-64 has to write is here: a machine, an
//! instance, how it begins, and, in a few lines each elsewhere, where it is
//! called from:
//!
//! | Who calls | What | Where |
//! |---|---|---|
//! | each CPU, on its way up | `cpu_online` | `cpu::other`, `boot_main` |
//! | the handler of the kick | `on_kick` | `trap` |
//! | the timer | `tick` | `trap` |
//! | a CPU's loop, when the tick says so | `work` | `cpu::local` |
//! | a CPU with nothing to do | `idle_enter`, `idle_exit` | `cpu::local` |
//! | a page fault | `whatis`, `stack_guard_hit` | `trap::fault` |

use crate::boot::settings;
use crate::cpu::{self, apic};
use crate::{clock, memory, subsystem, tlb};
use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;
use spin::Mutex;
use vmalloc::area::Placement;
use vmalloc::frames::Zones;
use vmalloc::machine::{Addressable, Context, Flush, Level, Machine, Pinned};
use vmalloc::table::X86_64;
use vmalloc::units::{CpuSet, Node, PAGE_SIZE, Pfn};
use vmalloc::{Config, Vmalloc};
use vmalloc_x86_64::interrupts;

/// This machine.
pub struct Pc {
    zones: Zones<Mutex<()>>,
}

/// The instance, for what is a static as well.
pub static VM: Vmalloc<Pc> = Vmalloc::new(Pc { zones: Zones::new() });

/// The instance.
#[inline(always)]
pub fn vm() -> &'static Vmalloc<Pc> {
    &VM
}

/// Frames that only requests from interrupts may take.
const ATOMIC_RESERVE: usize = 128;

/// Pages of a region under the placement *lowest*, whose grains they are (`Config`): 8 TiB.
const MOST_PAGES: usize = 1 << 31;

/// Begins: after the direct map, the zones and the boot CPU's `Local`.
pub fn init() -> &'static Vmalloc<Pc> {
    subsystem::boot_leak_detector();
    let config = Config::region(VM.machine().region()).add_region(memory::MODULES);
    let config = config.placement(settings().placement).policy(settings().policy);
    let mut config = config.atomic_reserve(ATOMIC_RESERVE);
    if let Some(pages) = settings().load {
        config = config.batch_pages(pages).waiting_pages(pages.saturating_mul(2));
    }
    // SAFETY: N1: nothing else is ever mapped there (`memory`). N2: the boot
    // CPU is alone, and calls this once.
    if let Err(why) = unsafe { VM.init(config) } {
        panic!("vmalloc: {why}");
    }
    vm()
}

// SAFETY: M1: one root table, and `memory` maps nothing in the regions. M2: the
// direct map has all RAM (D1). M3: a topology is found once. M4: interrupts
// are off in between. M5: `context`. M6: INVPCID 2, CR4.PGE or CR3, or
// `tlb` was told to break this rule. M7: the interrupt's handler calls
// `on_kick`, and nobody runs with interrupts off for long. M8: nothing below
// calls back. M9: CPUs come online before they serve; `Local::wake` comes first in every trap.
unsafe impl Machine for Pc {
    type Table = X86_64;
    type Frames = Zones<Mutex<()>>;
    type Lock = Mutex<()>;

    fn frames(&self) -> &Self::Frames {
        &self.zones
    }

    fn root(&self) -> Pfn {
        memory::root()
    }

    #[inline(always)]
    fn virt(&self, f: Pfn) -> NonNull<u8> {
        memory::direct(f.phys())
    }

    fn cpus(&self) -> u32 {
        cpu::possible()
    }

    #[inline(always)]
    fn pin(&self) -> Pinned {
        let saved = interrupts::off();
        Pinned { cpu: cpu::index(), saved }
    }

    #[inline(always)]
    unsafe fn unpin(&self, was: Pinned) {
        interrupts::restore(was.saved);
    }

    fn context(&self) -> Context {
        let here = cpu::here();
        match () {
            () if here.is_in_nmi() => Context::Nmi,
            () if here.is_in_interrupt() => Context::HardIrq,
            () if !interrupts::are_on() => Context::Atomic,
            () => Context::Task,
        }
    }

    fn flush(&self, what: Flush<'_>) {
        match what {
            Flush::Everything => tlb::everything(),
            Flush::Ranges(ranges) => ranges.iter().for_each(|&range| tlb::range(range)),
        }
    }

    fn kick(&self, cpus: &CpuSet) {
        apic::kick(cpus);
    }

    fn levels(&self) -> u8 {
        memory::levels()
    }

    fn node_of(&self, cpu: u32) -> Node {
        cpu::node_of(cpu)
    }

    #[cfg(feature = "events")]
    #[inline(always)]
    fn note(&self, event: vmalloc::machine::event::Event) -> Result<(), i32> {
        subsystem::note(event);
        Ok(())
    }

    fn clock_ns(&self) -> Option<u64> {
        Some(clock::ns())
    }

    fn log(&self, level: Level, line: fmt::Arguments<'_>) {
        println!("{level:?}: {line}");
    }
}

// SAFETY: the MMU reads the tables that the library writes, and nothing else is
// in the way.
unsafe impl Addressable for Pc {}

impl Pc {
    /// The frame allocator.
    pub fn zones(&self) -> &Zones<Mutex<()>> {
        &self.zones
    }

    /// Region 0: what the command line says, else as much as the placement can serve.
    pub fn region(&self) -> Range<usize> {
        let whole = memory::vmalloc_region();
        let most = match settings().placement {
            Placement::Classes => whole.len(),
            Placement::Lowest => MOST_PAGES * PAGE_SIZE,
        };
        let bytes = settings().region.unwrap_or(most);
        whole.start..whole.end.min(whole.start.saturating_add(bytes))
    }
}
