//! What the crates `bootloader` and `x86_64` have, in the parts that this kernel uses, and the boot
//! loader itself.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, Ordering::*};
use vmalloc::lock_api;

/// Whether privileged instructions can be executed. A kernel has no such constant.
pub const BARE: bool = false;

const FRAMES: u64 = 2048;
const FRAME: u64 = 4096;

#[repr(align(4096))]
struct Memory(UnsafeCell<[u8; (FRAMES * FRAME) as usize]>);
// SAFETY: whoever holds a frame uses it alone.
unsafe impl Sync for Memory {}
static MEMORY: Memory = Memory(UnsafeCell::new([0; (FRAMES * FRAME) as usize]));

/// `bootloader::BootInfo`.
pub struct BootInfo {
    pub memory_map: Vec<MemoryRegion>,
    pub physical_memory_offset: u64,
}

/// `bootloader::bootinfo::MemoryRegion`.
pub struct MemoryRegion {
    pub range: FrameRange,
    pub region_type: MemoryRegionType,
}

/// `bootloader::bootinfo::FrameRange`: the end is exclusive.
pub struct FrameRange {
    pub start_frame_number: u64,
    pub end_frame_number: u64,
}

/// `bootloader::bootinfo::MemoryRegionType`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum MemoryRegionType {
    Usable,
    Reserved,
    PageTable,
}

/// What the boot loader leaves behind: a page table at frame 1, and a hole.
pub fn boot() -> &'static BootInfo {
    let region = |start_frame_number, end_frame_number, region_type| MemoryRegion {
        range: FrameRange { start_frame_number, end_frame_number },
        region_type,
    };
    let memory_map = vec![
        region(0, 1, MemoryRegionType::Reserved),
        region(1, 2, MemoryRegionType::PageTable),
        region(2, 150, MemoryRegionType::Usable),
        region(150, 256, MemoryRegionType::Reserved),
        region(256, FRAMES, MemoryRegionType::Usable),
    ];
    Box::leak(Box::new(BootInfo { memory_map, physical_memory_offset: MEMORY.0.get() as u64 }))
}

/// `x86_64::PhysAddr`.
#[derive(Clone, Copy)]
pub struct PhysAddr(u64);

impl PhysAddr {
    pub fn as_u64(self) -> u64 {
        self.0
    }
}

/// `x86_64::structures::paging::PhysFrame`.
#[derive(Clone, Copy)]
pub struct PhysFrame(PhysAddr);

impl PhysFrame {
    pub fn start_address(self) -> PhysAddr {
        self.0
    }
}

/// `x86_64::registers::control::Cr3Flags`.
pub struct Cr3Flags;

/// `x86_64::registers::control::Cr3`.
pub struct Cr3;

impl Cr3 {
    pub fn read() -> (PhysFrame, Cr3Flags) {
        (PhysFrame(PhysAddr(FRAME)), Cr3Flags)
    }
}

/// `x86_64::registers::model_specific::Msr`.
pub struct Msr;

impl Msr {
    pub fn new(_register: u32) -> Msr {
        Msr
    }
    /// # Safety
    /// Nothing relies on what the register was.
    pub unsafe fn write(&mut self, _value: u64) {}
}

/// The lock that the kernel has: any `lock_api::RawMutex` will do, `spin::Mutex<()>` too.
pub struct Spin(AtomicBool);

// SAFETY: `locked` is set by one caller at a time.
unsafe impl lock_api::RawMutex for Spin {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Spin = Spin(AtomicBool::new(false));
    type GuardMarker = lock_api::GuardSend;

    fn lock(&self) {
        while !self.try_lock() {
            std::hint::spin_loop();
        }
    }
    fn try_lock(&self) -> bool {
        !self.0.swap(true, Acquire)
    }
    unsafe fn unlock(&self) {
        self.0.store(false, Release);
    }
}
