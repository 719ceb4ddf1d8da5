//! What the tests share.

use parking_lot::RawRwLock;
use vmalloc::Vmalloc;
use vmalloc::machine::Machine;
use vmalloc::units::Pfn;
use vmalloc_hosted::Hosted;
use vmalloc_scullv::{Error, Input, Output, Parameters};

pub type Vm = Vmalloc<Hosted>;
pub type Scullv<'v> = vmalloc_scullv::Scullv<'v, Hosted, RawRwLock>;
pub type Device<'v> = vmalloc_scullv::Device<'v, Hosted, RawRwLock>;

pub const PAGE: usize = 4096;
/// Far out: the last item of the default geometry begins before it.
pub const FAR: u64 = 1 << 62;

/// An instance with so many MiB.
pub fn vm(mib: usize) -> Vm {
    vmalloc_hosted::builder().memory(mib << 20).cpus(2).build().unwrap()
}

/// One device of this geometry.
pub fn one(vm: &Vm, order: u32, qset: u32) -> Scullv<'_> {
    Scullv::new(vm, Parameters { devices: 1, order, qset, ..Parameters::default() }).unwrap()
}

pub fn first<'s, 'v>(scullv: &'s Scullv<'v>) -> &'s Device<'v> {
    &scullv.devices()[0]
}

pub fn write(device: &Device<'_>, position: u64, bytes: &[u8]) -> Result<usize, Error> {
    device.write(position, &mut Input(bytes), 0, bytes.len())
}

/// What one read of up to `count` bytes brings.
pub fn read(device: &Device<'_>, position: u64, count: usize) -> Vec<u8> {
    let mut bytes = vec![0xee; count];
    let done = device.read(position, &mut Output(&mut bytes), 0, count).unwrap();
    bytes.truncate(done);
    bytes
}

/// Writes all of `bytes`, call by call.
pub fn write_all(device: &Device<'_>, mut position: u64, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let done = write(device, position, bytes).unwrap();
        (position, bytes) = (position + done as u64, &bytes[done..]);
    }
}

/// Bytes of areas of the instance, without guards.
pub fn area_pages(vm: &Vm) -> usize {
    vm.areas().map(|area| area.pages).sum()
}

/// The bytes of a frame that is held, as a program sees them that has mapped
/// it.
pub fn load(vm: &Vm, frame: Pfn) -> Vec<u8> {
    // SAFETY: M2: all frames of the machine are mapped; the test holds this one, and nobody writes to it now.
    unsafe { std::slice::from_raw_parts(vm.machine().virt(frame).as_ptr(), PAGE) }.to_vec()
}

/// Such a program stores `bytes` there.
pub fn store(vm: &Vm, frame: Pfn, at: usize, bytes: &[u8]) {
    assert!(at + bytes.len() <= PAGE);
    // SAFETY: as above.
    unsafe { vm.machine().virt(frame).as_ptr().add(at).copy_from(bytes.as_ptr(), bytes.len()) }
}

/// Numbers that look random and are the same in each run.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// Source: Vigna, splitmix64.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(count).collect()
    }
}
