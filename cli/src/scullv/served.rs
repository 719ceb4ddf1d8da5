//! What is served: the devices of an instance, and what was done with them.

use super::transfer::{self, Device};
use crate::report::table::{bytes, grouped, numbers};
use parking_lot::RawRwLock;
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};
use vmalloc::Vmalloc;
use vmalloc::machine::Machine;
use vmalloc::machine::frames::Frames;
use vmalloc::units::PAGE_SIZE;
use vmalloc_hosted::Hosted;
use vmalloc_scullv::{Access, Error, Output, Parameters, Scullv};

const KIB: usize = 1 << 10;
/// All may read and write, as with the original's nodes.
const MODE: u32 = 0o666;

/// The devices, and a tally for each.
pub struct Served {
    scullv: Scullv<'static, Hosted, RawRwLock>,
    tallies: Vec<Tally>,
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
    /// When it was last changed, in nanoseconds from 1970.
    changed: AtomicI64,
    /// Who may do what with it: the mode of its file.
    mode: AtomicU32,
}

impl Tally {
    fn count<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        self.refused.fetch_add(u64::from(result.is_err()), Relaxed);
        result
    }

    fn touch(&self, time: SystemTime) {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.changed.store(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX), Relaxed);
    }
}

impl Served {
    /// The devices of `vm` that `with` asks for, all empty.
    pub fn new(vm: &'static Vmalloc<Hosted>, with: Parameters) -> Result<Served, Error> {
        let scullv = Scullv::new(vm, with)?;
        let tallies: Vec<Tally> = scullv.devices().iter().map(|_| Tally::default()).collect();
        tallies.iter().for_each(|tally| {
            tally.touch(SystemTime::now());
            tally.mode.store(MODE, Relaxed);
        });
        Ok(Served { scullv, tallies, since: Instant::now() })
    }

    pub fn devices(&self) -> &[Device<'static>] {
        self.scullv.devices()
    }

    pub fn vm(&self) -> &'static Vmalloc<Hosted> {
        self.scullv.vm()
    }

    /// When device `index` was last changed.
    pub fn changed(&self, index: usize) -> SystemTime {
        let nanos = self.tallies[index].changed.load(Relaxed);
        SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos.unsigned_abs())
    }

    /// Says that it was changed then.
    pub fn touch(&self, index: usize, time: SystemTime) {
        self.tallies[index].touch(time);
    }

    /// The mode of the file that device `index` is.
    pub fn mode(&self, index: usize) -> u32 {
        self.tallies[index].mode.load(Relaxed)
    }

    /// Changes it.
    pub fn set_mode(&self, index: usize, mode: u32) {
        self.tallies[index].mode.store(mode & 0o777, Relaxed);
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

    /// What a device held is free at once, and not at some flush to come.
    fn emptied(&self, index: usize, trims: u64) {
        self.tallies[index].trims.fetch_add(trims, Relaxed);
        self.tallies[index].touch(SystemTime::now());
        self.vm().purge();
    }

    /// Reads as the page cache wants it.
    pub fn read(&self, index: usize, position: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        let tally = &self.tallies[index];
        let done = tally.count(transfer::read(&self.devices()[index], position, buffer))?;
        tally.reads.fetch_add(1, Relaxed);
        tally.read_bytes.fetch_add(done as u64, Relaxed);
        Ok(done)
    }

    /// Writes as the page cache wants it.
    pub fn write(&self, index: usize, position: u64, bytes: &[u8]) -> Result<usize, Error> {
        let tally = &self.tallies[index];
        let done = tally.count(transfer::write(&self.devices()[index], position, bytes))?;
        tally.writes.fetch_add(1, Relaxed);
        tally.written_bytes.fetch_add(done as u64, Relaxed);
        tally.touch(SystemTime::now());
        Ok(done)
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
