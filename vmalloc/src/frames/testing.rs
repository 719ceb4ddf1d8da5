//! A machine for the tests of this tier: zones over a vector, no page tables.

extern crate std;

use super::{MemoryRange, STORAGE_ALIGN, Zones};
use crate::machine::faulty::FaultyFrames;
use crate::machine::prealloc::Prealloc;
use crate::machine::testing::NoTables;
use crate::machine::{Context, Flush, Machine, Pinned};
use crate::sync::plain::{AtomicBool, Ordering};
use crate::units::{CpuSet, Node, PAGE_SIZE, Pfn};
use core::ptr::NonNull;
use std::vec;
use std::vec::Vec;

/// A lock that spins.
pub struct TestLock(AtomicBool);

// SAFETY: one holder at a time, by the exchange.
unsafe impl lock_api::RawMutex for TestLock {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: TestLock = TestLock(AtomicBool::new(false));
    type GuardMarker = lock_api::GuardSend;
    fn lock(&self) {
        while !self.try_lock() {
            std::thread::yield_now();
        }
    }
    fn try_lock(&self) -> bool {
        !self.0.swap(true, Ordering::Acquire)
    }
    unsafe fn unlock(&self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Zones with the storage that they live on.
pub struct TestZones {
    pub zones: FaultyFrames<Zones<TestLock>>,
    _storage: Vec<u128>,
}

impl TestZones {
    pub fn new(map: &[MemoryRange], highmem_from: Option<Pfn>) -> TestZones {
        let mut storage = vec![u128::MAX; Zones::<TestLock>::storage_for(map).div_ceil(16)];
        let zones = FaultyFrames::new(Zones::new());
        let at = NonNull::new(storage.as_mut_ptr()).unwrap().cast();
        const { assert!(STORAGE_ALIGN <= align_of::<u128>()) };
        // SAFETY: the vector is long enough, aligned, and stays (Z1); the
        // frames are mere numbers (Z2); nobody else is here (Z3).
        unsafe { zones.inner().init(map, highmem_from, at) }.unwrap();
        TestZones { zones, _storage: storage }
    }

    pub fn inner(&self) -> &Zones<TestLock> {
        self.zones.inner()
    }
}

/// A range of frames for a map.
pub const fn ram(first: u64, frames: usize, node: u8) -> MemoryRange {
    MemoryRange { first: Pfn(first), frames, node: Node(node) }
}

/// A machine whose frames have memory.
pub struct TestMachine {
    pub frames: TestZones,
    pub cpus: u32,
    base: Pfn,
    ram: Vec<[u128; PAGE_SIZE / 16]>,
}

impl TestMachine {
    pub fn new(map: &[MemoryRange], cpus: u32) -> TestMachine {
        let base = map.iter().map(|range| range.first).min().unwrap();
        let end = map.iter().map(|range| range.first.0 + range.frames as u64).max().unwrap();
        let ram = vec![[u128::MAX; PAGE_SIZE / 16]; (end - base.0) as usize];
        TestMachine { frames: TestZones::new(map, None), cpus, base, ram }
    }

    /// A stock of `n` frames.
    pub fn stock(&self, n: usize) -> Prealloc {
        let mut stock = Prealloc::new();
        stock.fill(self, Node(0), n).unwrap();
        stock
    }
}

// SAFETY: nothing is mapped (M1, M6 and M9 are empty); M2: `ram` has a page for
// each frame; the rest is never used.
unsafe impl Machine for TestMachine {
    type Table = NoTables;
    type Frames = FaultyFrames<Zones<TestLock>>;
    type Lock = TestLock;
    fn frames(&self) -> &Self::Frames {
        &self.frames.zones
    }
    fn root(&self) -> Pfn {
        unreachable!("no tables here")
    }
    fn virt(&self, f: Pfn) -> NonNull<u8> {
        NonNull::from(&self.ram[(f.0 - self.base.0) as usize]).cast()
    }
    fn cpus(&self) -> u32 {
        self.cpus
    }
    fn pin(&self) -> Pinned {
        Pinned { cpu: 0, saved: 0 }
    }
    unsafe fn unpin(&self, _: Pinned) {}
    fn context(&self) -> Context {
        Context::Task
    }
    fn flush(&self, _: Flush<'_>) {}
    fn kick(&self, _: &CpuSet) {}
}
