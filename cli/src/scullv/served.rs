//! What is served: the devices of an instance, and what was done with them.

use super::times::Times;
use super::transfer::{self, Device};
use crate::report::table::{bytes, grouped, numbers};
use parking_lot::RawRwLock;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Instant;
use vmalloc::Vmalloc;
use vmalloc::machine::Machine;
use vmalloc::machine::frames::Frames;
use vmalloc::units::PAGE_SIZE;
use vmalloc_hosted::Hosted;
use vmalloc_scullv::{Access, Error, Output, Parameters, Scullv};

const KIB: usize = 1 << 10;
/// Mappings that an allocation may need: with fewer left it is for want of them that one is refused.
const SPARE: usize = 64;
/// All may read and write, as with the original's nodes.
const MODE: u32 = 0o666;

/// The devices, and a tally for each.
pub struct Served {
    scullv: Scullv<'static, Hosted, RawRwLock>,
    tallies: Vec<Tally>,
    inodes: Vec<Inode>,
    since: Instant,
}

/// What was done with a device.
#[derive(Default)]
struct Tally {
    reads: AtomicU64,
    read_bytes: AtomicU64,
    writes: AtomicU64,
    written_bytes: AtomicU64,
    trims: AtomicU64,
    ioctls: AtomicU64,
    refused: AtomicU64,
    /// The number of the error for which bytes were lost that a program had written through a mapping; 0
    /// = none were.
    lost: AtomicI32,
    /// Whether a refusal was told since the device was emptied.
    told: AtomicBool,
}

/// What of a file the device itself does not know.
struct Inode {
    times: Times,
    /// Who may do what with it.
    mode: AtomicU32,
}

impl Tally {
    fn count<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        self.refused.fetch_add(u64::from(result.is_err()), Relaxed);
        result
    }
}

impl Served {
    /// The devices of `vm` that `with` asks for, all empty.
    pub fn new(vm: &'static Vmalloc<Hosted>, with: Parameters) -> Result<Served, Error> {
        let scullv = Scullv::new(vm, with)?;
        let tallies = scullv.devices().iter().map(|_| Tally::default()).collect();
        let inode = |_| Inode { times: Times::now(), mode: AtomicU32::new(MODE) };
        let inodes = scullv.devices().iter().map(inode).collect();
        Ok(Served { scullv, tallies, inodes, since: Instant::now() })
    }

    pub fn devices(&self) -> &[Device<'static>] {
        self.scullv.devices()
    }

    pub fn vm(&self) -> &'static Vmalloc<Hosted> {
        self.scullv.vm()
    }

    /// The times of device `index`.
    pub fn times(&self, index: usize) -> &Times {
        &self.inodes[index].times
    }

    /// The mode of the file that device `index` is.
    pub fn mode(&self, index: usize) -> u32 {
        self.inodes[index].mode.load(Relaxed)
    }

    /// Changes it.
    pub fn set_mode(&self, index: usize, mode: u32) {
        self.inodes[index].mode.store(mode & 0o777, Relaxed);
    }

    /// Opens device `index`, which trims it if it is for writing only.
    pub fn open(&self, index: usize, access: Access) -> Result<(), Error> {
        self.tallies[index].count(self.scullv.open(index, access).map(drop))?;
        if access == Access::WriteOnly {
            self.emptied(index, 1);
        }
        Ok(())
    }

    /// Makes device `index` end at `size`; trims it at 0.
    pub fn truncate(&self, index: usize, size: u64) -> Result<(), Error> {
        let cut = self.scullv.open(index, Access::ReadWrite).and_then(|mut file| file.truncate(size));
        self.tallies[index].count(cut)?;
        self.emptied(index, u64::from(size == 0));
        Ok(())
    }

    /// Makes zeros of a part of device `index`, whose memory is free then.
    pub fn punch(&self, index: usize, start: u64, bytes: u64) {
        self.devices()[index].punch(start, bytes);
        self.emptied(index, 0);
    }

    /// Takes memory for a part of device `index`.
    pub fn reserve(&self, index: usize, start: u64, bytes: u64, grows: bool) -> Result<(), Error> {
        self.tallies[index].count(self.devices()[index].reserve(start, bytes, grows))?;
        self.times(index).write();
        Ok(())
    }

    /// What a device held is free at once, and not at some flush to come.
    fn emptied(&self, index: usize, trims: u64) {
        let tally = &self.tallies[index];
        tally.trims.fetch_add(trims, Relaxed);
        tally.told.store(false, Relaxed);
        if trims > 0 {
            tally.lost.store(0, Relaxed);
        }
        self.times(index).write();
        self.vm().purge();
    }

    /// Reads as the page cache wants it.
    pub fn read(&self, index: usize, position: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        let tally = &self.tallies[index];
        let done = tally.count(transfer::read(&self.devices()[index], position, buffer))?;
        tally.reads.fetch_add(1, Relaxed);
        tally.read_bytes.fetch_add(done as u64, Relaxed);
        self.times(index).read();
        Ok(done)
    }

    /// Writes as the page cache wants it. Where bytes come `by_mapping` nobody waits for what becomes of them:
    /// if they are lost, [`Served::lost`] tells.
    pub fn write(&self, index: usize, position: u64, bytes: &[u8], by_mapping: bool) -> Result<usize, Error> {
        let tally = &self.tallies[index];
        let write = if by_mapping { transfer::write_all } else { transfer::write };
        let written = write(&self.devices()[index], position, bytes);
        let done = tally.count(written).inspect_err(|error| self.refused(index, error, by_mapping))?;
        tally.writes.fetch_add(1, Relaxed);
        tally.written_bytes.fetch_add(done as u64, Relaxed);
        self.times(index).write();
        Ok(done)
    }

    /// Tells of the first refused write since the device was emptied: programs often say no more than that
    /// there is no space, and sometimes nothing.
    fn refused(&self, index: usize, error: &Error, by_mapping: bool) {
        let tally = &self.tallies[index];
        if by_mapping {
            tally.lost.store(error.errno(), Relaxed);
        }
        if tally.told.swap(true, Relaxed) {
            return;
        }
        let lost = if by_mapping { ", and bytes written through a mapping are lost" } else { "" };
        let vmas = self.vm().machine().vmas();
        let mappings = if vmas.used + SPARE >= vmas.allowed {
            format!(
                "; {} of {} mappings are used (vm.max_map_count): larger quanta need fewer",
                vmas.used, vmas.allowed
            )
        } else {
            String::new()
        };
        eprintln!("vmalloc: scullv{index}: a write was refused{lost}: {error}{mappings}");
    }

    /// The number of the error for which bytes of device `index` were lost, since it was last emptied.
    pub fn lost(&self, index: usize) -> Option<i32> {
        Some(self.tallies[index].lost.load(Relaxed)).filter(|&number| number != 0)
    }

    /// Does a command with `argument`: a value, or an address in `memory`.
    pub fn ioctl(&self, index: usize, number: u32, argument: usize, memory: &mut [u8]) -> Result<i32, Error> {
        self.tallies[index].ioctls.fetch_add(1, Relaxed);
        self.tallies[index].count(self.scullv.settings().ioctl(number, argument, &mut Output(memory)))
    }

    /// The listing of the devices.
    pub fn scullvmem(&self) -> String {
        let mut text = String::new();
        // A string takes all.
        let _ = self.scullv.list(&mut text);
        text
    }

    /// The listing of the instance's areas.
    pub fn vmallocinfo(&self) -> String {
        let mut text = String::new();
        let _ = self.vm().list(&mut text);
        text
    }

    /// The instance's lines of a meminfo.
    pub fn meminfo(&self) -> String {
        let machine = self.vm().machine();
        let addresses: usize = machine.regions().map(|region| region.len()).sum();
        let lines = [
            ("MemTotal", machine.ram()),
            ("MemFree", self.free()),
            ("VmallocTotal", addresses),
            ("VmallocUsed", self.vm().stats().pages * PAGE_SIZE),
            ("VmallocChunk", 0),
        ];
        lines.map(|(name, bytes)| format!("{:15} {:>8} kB\n", format!("{name}:"), bytes / KIB)).concat()
    }

    /// Bytes of memory that nobody uses: free frames, and those in magazines and depots.
    pub fn free(&self) -> usize {
        let stats = self.vm().stats();
        (self.vm().machine().frames().free_now() + stats.pooled_frames) * PAGE_SIZE
    }

    /// Bytes that can still be written: free memory, as far as there are mappings for it.
    pub fn room(&self) -> usize {
        let vmas = self.vm().machine().vmas();
        let quantum = self.scullv.settings().get().quantum();
        self.free().min(vmas.allowed.saturating_sub(vmas.used).saturating_mul(quantum))
    }

    /// What was done so far, for people.
    pub fn statistics(&self) -> String {
        let titles = [
            "device", "size", "holds", "order", "qset", "reads", "bytes", "writes", "bytes", "trims", "ioctls",
            "refused",
        ];
        let mut table = numbers(&titles, titles.len() - 1);
        for (index, (device, tally)) in self.devices().iter().zip(&self.tallies).enumerate() {
            let (status, of) = (device.status(), |counter: &AtomicU64| counter.load(Relaxed));
            table.add_row([
                format!("scullv{index}"),
                bytes(status.size),
                bytes((status.pages * PAGE_SIZE) as u64),
                status.geometry.order().to_string(),
                status.geometry.qset().to_string(),
                grouped(of(&tally.reads)),
                bytes(of(&tally.read_bytes)),
                grouped(of(&tally.writes)),
                bytes(of(&tally.written_bytes)),
                grouped(of(&tally.trims)),
                grouped(of(&tally.ioctls)),
                grouped(of(&tally.refused)),
            ]);
        }
        let (stats, vmas) = (self.vm().stats(), self.vm().machine().vmas());
        let mut text = format!("{table}\n");
        let _ = writeln!(
            text,
            "{} areas of {} pages; {} of {} free; {} of {} VMAs; {} s",
            grouped(stats.areas as u64),
            grouped(stats.pages as u64),
            bytes(self.free() as u64),
            bytes(self.vm().machine().ram() as u64),
            grouped(vmas.used as u64),
            grouped(vmas.allowed as u64),
            self.since.elapsed().as_secs(),
        );
        text
    }
}
