//! All that the kernel adds: its frames, its machine, and where it calls.

use crate::stubs::{self, BootInfo, Cr3, MemoryRegionType, Spin};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::OnceLock;
use vmalloc::frames::{MemoryRange, Zones};
use vmalloc::machine::frames::Frames;
use vmalloc::machine::{Context, Flush, Machine, Pinned};
use vmalloc::table::X86_64;
use vmalloc::units::{CpuSet, Node, Pfn, PAGE_SIZE};
use vmalloc::{Config, Vmalloc, What};
use vmalloc_x86_64::{interrupts, tlb};

/// The machine. The frames are the library's buddy allocator: such a kernel has none that frees.
pub struct Kernel {
    zones: Zones<Spin>,
    /// `BootInfo::physical_memory_offset`.
    offset: AtomicU64,
}

pub static VM: Vmalloc<Kernel> = Vmalloc::new(Kernel { zones: Zones::new(), offset: AtomicU64::new(0) });

impl Kernel {
    /// How many frames are free.
    pub fn free(&'static self) -> impl Fn() -> usize {
        move || self.zones.free_now()
    }
}

// SAFETY: M1: the region is new. M2: all memory is mapped at the offset. M3, M4, M7: one CPU.
// M5: with interrupts off nobody waits. M6: by `vmalloc-x86_64`. M8: nothing calls
// back. M9: `init` says that the CPU is there.
unsafe impl Machine for Kernel {
    type Table = X86_64;
    type Frames = Zones<Spin>;
    type Lock = Spin;

    fn frames(&self) -> &Zones<Spin> {
        &self.zones
    }
    fn root(&self) -> Pfn {
        Pfn::containing(Cr3::read().0.start_address().as_u64())
    }
    fn virt(&self, f: Pfn) -> NonNull<u8> {
        let at = self.offset.load(Relaxed) + f.phys();
        NonNull::new(at as *mut u8).expect("the offset is not null")
    }
    fn cpus(&self) -> u32 {
        1
    }
    fn pin(&self) -> Pinned {
        Pinned { cpu: 0, saved: if stubs::BARE { interrupts::off() } else { 0 } }
    }
    unsafe fn unpin(&self, was: Pinned) {
        if stubs::BARE {
            interrupts::restore(was.saved)
        }
    }
    fn context(&self) -> Context {
        if stubs::BARE && !interrupts::are_on() {
            Context::Atomic
        } else {
            Context::Task
        }
    }
    fn flush(&self, what: Flush<'_>) {
        match what {
            _ if !stubs::BARE => {}
            Flush::Everything => method().everything(),
            Flush::Ranges(ranges) => {
                let pages = ranges.iter().flat_map(|range| range.addresses().step_by(PAGE_SIZE));
                method().pages(pages)
            }
        }
    }
    fn kick(&self, _cpus: &CpuSet) {}
}

/// After the boot loader: gives the memory map's free frames to the zones, and begins to serve.
pub fn init(boot_info: &'static BootInfo) {
    let machine = VM.machine();
    machine.offset.store(boot_info.physical_memory_offset, Relaxed);
    let usable = boot_info.memory_map.iter().filter(|region| region.region_type == MemoryRegionType::Usable);
    let ranges = usable.map(|region| &region.range);
    let mut map: Vec<MemoryRange> = ranges
        .map(|range| MemoryRange {
            first: Pfn(range.start_frame_number),
            frames: (range.end_frame_number - range.start_frame_number) as usize,
            node: Node(0),
        })
        .collect();
    // The descriptors lie in the first frames of the largest range. A kernel without a heap has an
    // array for the map.
    let taken = Zones::<Spin>::storage_for(&map).div_ceil(PAGE_SIZE);
    let largest = map.iter_mut().max_by_key(|range| range.frames).expect("usable memory");
    let storage = machine.virt(largest.first);
    largest.first = largest.first.offset(taken as u64);
    largest.frames -= taken;
    // SAFETY: Z1, Z2: usable frames, and those of the storage are left out. Z3: once.
    unsafe { machine.zones.init(&map, None, storage) }.expect("a memory map");
    let region = 0xffff_c900_0000_0000..0xffff_c980_0000_0000;
    // SAFETY: N1: the boot loader has mapped nothing there. N2: once, on the boot CPU.
    unsafe { VM.init(Config::region(region).atomic_reserve(16)) }.expect("memory for the bookkeeping");
    if stubs::BARE {
        // SAFETY: the first and the fourth type are what they were, and nothing is mapped with another.
        unsafe { stubs::Msr::new(vmalloc_x86_64::cpu::PAT_MSR).write(vmalloc_x86_64::PAT) };
        vmalloc_x86_64::check_cpu(machine.levels(), method()).expect("EFER.NXE, CR0.WP, CR4, PAT");
    }
    VM.cpu_online();
}

/// How this CPU discards translations: asked once, because CPUID takes long.
fn method() -> tlb::Method {
    static METHOD: OnceLock<tlb::Method> = OnceLock::new();
    *METHOD.get_or_init(tlb::Method::of_this_cpu)
}

static WORK: AtomicBool = AtomicBool::new(false);

/// The handler of the timer's interrupt. What it asks for may take long, so the kernel's loop does it.
pub fn timer() {
    WORK.fetch_or(VM.tick().work, Relaxed);
}

/// Once round in the kernel's loop.
pub fn work() {
    if WORK.swap(false, Relaxed) {
        VM.work();
    }
}

/// The handler of page faults, on a stack of its own.
pub fn page_fault(at: usize) {
    match VM.whatis(at) {
        What::NotOurs => println!("page fault at {:#x}", at),
        what => println!("page fault at {:#x}: {}", at, what),
    }
}
