//! The machine, and where the kernel calls.

use crate::frames::{self, FreeList};
use crate::stubs::{self, CPUS, Spin};
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use vmalloc::machine::{Context, Flush, Machine, Pinned};
use vmalloc::units::{CpuSet, PAGE_SIZE, Pfn};
use vmalloc::{Config, Vmalloc};
use vmalloc_x86_64::{interrupts, tlb};

pub struct Hermit;

pub static VM: Vmalloc<Hermit> = Vmalloc::new(Hermit);

/// The root table's frame, and the first one behind the kernel's image.
const ROOT: u64 = 1;
const IMAGE_END: u64 = 16;

// SAFETY: M1: the region is new. M2: memory is mapped one to one (at an offset, here). M3: four CPUs.
// M4: interrupts are off. M5: tasks may wait; handlers, and whoever has interrupts off, may not. M6: by `vmalloc-x86_64`. M7: the
// handler of the interrupt calls `on_kick`. M8: nothing calls back. M9: `main` says who is there.
unsafe impl Machine for Hermit {
    type Table = vmalloc::table::X86_64;
    type Frames = FreeList;
    type Lock = Spin;

    fn frames(&self) -> &FreeList {
        &FreeList
    }
    fn root(&self) -> Pfn {
        Pfn(ROOT)
    }
    fn virt(&self, f: Pfn) -> NonNull<u8> {
        stubs::memory(f.phys())
    }
    fn cpus(&self) -> u32 {
        CPUS
    }
    fn pin(&self) -> Pinned {
        let saved = if stubs::BARE { interrupts::off() } else { stubs::interrupts_off() };
        Pinned { cpu: stubs::core_id(), saved }
    }
    unsafe fn unpin(&self, was: Pinned) {
        if stubs::BARE { interrupts::restore(was.saved) } else { stubs::restore(was.saved) }
    }
    fn context(&self) -> Context {
        match () {
            () if stubs::in_handler() => Context::HardIrq,
            () if !are_interrupts_on() => Context::Atomic,
            () => Context::Task,
        }
    }
    fn flush(&self, what: Flush<'_>) {
        match what {
            _ if !stubs::BARE => stubs::count_flush(),
            Flush::Everything => method().everything(),
            Flush::Ranges(ranges) => {
                let pages = ranges.iter().flat_map(|range| range.addresses().step_by(PAGE_SIZE));
                method().pages(pages)
            }
        }
    }
    fn kick(&self, cpus: &CpuSet) {
        cpus.iter().for_each(stubs::ipi_tlb_flush)
    }
    fn relax(&self) {
        stubs::pause();
    }
}

pub fn boot() {
    stubs::enter_cpu(0);
    stubs::install(|| VM.on_kick());
    frames::init(IMAGE_END);
    let region = 0xffff_c900_0000_0000..0xffff_c980_0000_0000;
    // SAFETY: N1: nobody else maps there. N2: once, on the boot CPU.
    unsafe { VM.init(Config::region(region).atomic_reserve(16)) }.expect("memory for the bookkeeping");
}

/// On each CPU, before it runs a task.
pub fn cpu_up() {
    if stubs::BARE {
        stubs::wrmsr(vmalloc_x86_64::cpu::PAT_MSR, vmalloc_x86_64::PAT);
        vmalloc_x86_64::check_cpu(VM.machine().levels(), method()).expect("EFER.NXE, CR0.WP, CR4, PAT");
    }
    VM.cpu_online();
}

/// How CPUs discard translations: asked once, because CPUID takes long.
fn method() -> tlb::Method {
    static METHOD: OnceLock<tlb::Method> = OnceLock::new();
    *METHOD.get_or_init(tlb::Method::of_this_cpu)
}

fn are_interrupts_on() -> bool {
    if stubs::BARE { interrupts::are_on() } else { stubs::are_interrupts_on() }
}

static WORK: AtomicBool = AtomicBool::new(false);

/// The handler of the timer's interrupt. What it asks for may take long, so a task does it.
pub fn timer() {
    WORK.fetch_or(VM.tick().work, Relaxed);
}

/// The loop of a CPU without a task, once round.
pub fn idle() {
    if WORK.swap(false, Relaxed) {
        VM.work();
    }
    VM.idle_enter();
    stubs::halt();
    VM.idle_exit();
}
