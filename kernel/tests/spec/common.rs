//! The subsystem on a simulated machine, and a host that writes down what it hears.

use std::fmt;
use std::ops::{Deref, Range};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use vmalloc::machine::{Level, Machine as _};
use vmalloc::table::X86_64;
use vmalloc::units::{PageRange, Pfn, VirtAddr};
use vmalloc::{Config, Info};
use vmalloc_kernel::{Call, DirectMap, Error, GfpFlags, Host, Kern, Kernel, Scope, Tracked};
use vmalloc_sim::{Booted, Builder, Direct, Rates, Sim};

pub const START: usize = 0xffff_c900_0000_0000;
pub const REGION: Range<usize> = START..START + (1 << 39);
pub const PAGE: usize = 4096;
pub const GFP: GfpFlags = GfpFlags::KERNEL;
pub const USUAL: GfpFlags = GfpFlags::KERNEL.union(GfpFlags::HIGHMEM);

pub type Machine = Sim<X86_64>;
pub type Tested<'v> = Kernel<'v, Machine, Recorder>;

/// An instance on its machine; when it is dropped nothing may remain.
pub struct Rig {
    pub sim: Machine,
    booted: Option<Booted<X86_64>>,
}

/// `cpus` CPUs, 64 MiB, one region, things happening by chance.
pub fn rig(cpus: u32) -> Rig {
    boot(Sim::builder().cpus(cpus).seed(cpus as u64), Config::region(REGION))
}

/// One CPU, and nothing happens by chance.
pub fn quiet() -> Rig {
    boot(Sim::builder().rates(Rates::NEVER), Config::region(REGION))
}

pub fn boot(machine: Builder<X86_64>, config: Config) -> Rig {
    let sim = machine.build();
    let booted = Booted::new(sim.clone(), config).expect("memory for the bookkeeping");
    Rig { sim, booted: Some(booted) }
}

impl Rig {
    pub fn kernel(&self) -> Tested<'_> {
        Kernel::new(self, Recorder::default())
    }

    /// The lines of the machine's log since the last look.
    pub fn log(&self) -> Vec<(Level, String)> {
        self.sim.take_log()
    }

    /// What a refusal must not change: areas, and frames that are out beside stocks.
    pub fn state(&self) -> (Vec<Info>, usize) {
        assert_eq!(self.check(), Ok(()));
        self.purge();
        self.reclaim(usize::MAX);
        assert_eq!(self.check(), Ok(()));
        self.sim.audit();
        let stats = self.stats();
        let held = stats.table_frames + stats.bookkeeping_frames + stats.pooled_frames + stats.reserve_frames;
        (self.areas().collect(), self.sim.leaked_frames() - held)
    }

    /// A number of its own in each page.
    pub fn stamp(&self, at: usize, pages: usize, seed: u64) {
        for page in 0..pages {
            self.sim.store(self.sim.cpu(), VirtAddr(at + page * PAGE), seed ^ page as u64).expect("a live page");
        }
    }

    #[track_caller]
    pub fn check_stamps(&self, at: usize, pages: usize, seed: u64) {
        for page in 0..pages {
            let cpu = self.sim.cpu();
            assert_eq!(self.sim.load(cpu, VirtAddr(at + page * PAGE)), Ok(seed ^ page as u64), "page {page}");
        }
    }

    #[track_caller]
    pub fn assert_zero(&self, at: usize, bytes: usize) {
        let mut read = vec![1; bytes];
        self.sim.read_bytes(self.sim.cpu(), VirtAddr(at), &mut read).expect("a live area");
        assert!(read.iter().all(|&byte| byte == 0), "all clear at {at:#x}");
    }
}

impl Deref for Rig {
    type Target = Booted<X86_64>;

    fn deref(&self) -> &Booted<X86_64> {
        self.booted.as_ref().expect("it lives until the rig is dropped")
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::mem::forget(self.booted.take());
            return;
        }
        #[cfg(debug_assertions)]
        self.sim.faults().fail_at(0);
        self.sim.take_log();
        drop(self.booted.take());
        let errors: Vec<_> = self.log().into_iter().filter(|line| line.0 == Level::Error).collect();
        assert_eq!(errors, []);
        self.sim.assert_no_leaks();
    }
}

/// The name of a function, and what another task does when it is entered.
pub type Beside = (&'static str, Box<dyn FnOnce() + Send>);

/// What the host hears, in order.
#[derive(Default)]
pub struct Recorder {
    calls: Mutex<Vec<(usize, String)>>,
    depth: AtomicU32,
    /// The function whose entry it does not hear.
    pub deaf_to: Mutex<Option<&'static str>>,
    pub lines: Mutex<Vec<(Kern, String)>>,
    pub events: Mutex<Vec<String>>,
    pub tracked: Mutex<Vec<Tracked>>,
    pub untracked: Mutex<Vec<usize>>,
    /// What another task does when the function of this name is entered next.
    pub beside: Mutex<Option<Beside>>,
    pub dying: AtomicBool,
    pub ticks: AtomicU32,
    pub on_tick: Mutex<Option<Box<dyn Fn() + Send>>>,
    pub scope: Arc<AtomicU8>,
    /// The machine whose frames it shows.
    pub shows: Mutex<Option<Machine>>,
    /// The machine whose direct mapping it changes, and what was changed.
    pub direct: Mutex<Option<Machine>>,
    pub directs: Mutex<Vec<(Pfn, DirectMap)>>,
    /// Grace periods that have begun, and those that have passed.
    pub begun: AtomicU64,
    pub passed: AtomicU64,
}

impl Recorder {
    fn act_beside(&self, name: &str) {
        let beside = self.beside.lock().unwrap().take_if(|(when, _)| *when == name);
        beside.into_iter().for_each(|(_, act)| act());
    }

    /// The calls since the last look, indented.
    pub fn calls(&self) -> Vec<String> {
        let calls = std::mem::take(&mut *self.calls.lock().unwrap());
        calls.into_iter().map(|(depth, call)| format!("{:indent$}{call}", "", indent = 2 * depth)).collect()
    }

    /// Their names alone.
    pub fn names(&self) -> Vec<String> {
        self.calls().iter().map(|call| call.trim().split('(').next().unwrap().to_owned()).collect()
    }

    pub fn said(&self) -> Vec<(Kern, String)> {
        std::mem::take(&mut *self.lines.lock().unwrap())
    }

    pub fn heard(&self) -> Vec<String> {
        std::mem::take(&mut *self.events.lock().unwrap())
    }
}

impl Host for Recorder {
    fn entered(&self, call: &Call<'_>) {
        let depth = self.depth.fetch_add(1, SeqCst) as usize;
        if *self.deaf_to.lock().unwrap() != Some(call.name) {
            self.calls.lock().unwrap().push((depth, call.to_string()));
        }
        self.act_beside(call.name);
    }
    fn left(&self, _name: &'static str) {
        self.depth.fetch_sub(1, SeqCst);
    }
    fn printk(&self, level: Kern, line: fmt::Arguments<'_>) -> bool {
        self.lines.lock().unwrap().push((level, line.to_string()));
        true
    }
    fn comm(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("insmod")
    }
    fn backtrace(&self, line: &mut dyn FnMut(fmt::Arguments<'_>)) {
        line(format_args!("Call Trace:"));
    }
    fn fatal_signal_pending(&self) -> bool {
        self.dying.load(SeqCst)
    }
    fn sleep_tick(&self) {
        self.ticks.fetch_add(1, SeqCst);
        if let Some(act) = &*self.on_tick.lock().unwrap() {
            act();
        }
    }
    fn scope(&self) -> Scope {
        Scope::from_bits_truncate(self.scope.load(SeqCst))
    }
    fn set_scope(&self, scope: Scope) {
        self.scope.store(scope.bits(), SeqCst);
    }
    fn rcu_begin(&self) -> u64 {
        self.begun.fetch_add(1, SeqCst) + 1
    }
    fn rcu_passed(&self, number: u64) -> bool {
        self.passed.load(SeqCst) >= number
    }
    fn synchronize_rcu(&self) {
        self.events.lock().unwrap().push("synchronize_rcu".to_owned());
        self.passed.store(self.begun.load(SeqCst), SeqCst);
    }
    fn flush_cache_vmap(&self, pages: PageRange) {
        self.events.lock().unwrap().push(format!("flush_cache_vmap {} pages", pages.pages));
    }
    fn flush_cache_vunmap(&self, pages: PageRange) {
        self.events.lock().unwrap().push(format!("flush_cache_vunmap {} pages", pages.pages));
    }
    fn set_direct_map(&self, frame: Pfn, to: DirectMap) {
        self.directs.lock().unwrap().push((frame, to));
        // A judgement is not to poison the lock.
        let sim = self.direct.lock().unwrap().clone();
        if let Some(sim) = sim {
            let how = match to {
                DirectMap::Default => Direct::Writable,
                DirectMap::ReadOnly => Direct::ReadOnly,
                DirectMap::Invalid => Direct::Gone,
            };
            sim.set_direct(frame, how);
        }
    }
    fn kmap(&self, frame: Pfn) -> Option<NonNull<u8>> {
        self.act_beside("kmap");
        self.shows.lock().unwrap().as_ref().map(|sim| sim.virt(frame))
    }
    fn tracked(&self, object: &Tracked) {
        self.tracked.lock().unwrap().push(*object);
        self.act_beside("tracked");
    }
    fn untracked(&self, at: usize) {
        self.untracked.lock().unwrap().push(at);
    }
}

/// An address as a number.
pub fn number(at: NonNull<u8>) -> usize {
    at.addr().get()
}

/// A number as an address, as a careless caller would make one.
pub fn at(address: usize) -> *const u8 {
    std::ptr::with_exposed_provenance(address)
}

/// Frees an area.
#[track_caller]
pub fn vfree(kernel: &Tested<'_>, address: usize) -> Result<(), Error> {
    // SAFETY: Y1: simulated memory is used through the simulator, which judges each use.
    unsafe { kernel.vfree(at(address)) }
}

/// Frees an object.
pub fn kfree(kernel: &Tested<'_>, object: NonNull<u8>) -> Result<(), Error> {
    // SAFETY: Y1: tests use what they hold.
    unsafe { kernel.kfree(object.as_ptr()) }
}

/// `n` frames, for the caller to hold.
pub fn frames(rig: &Rig, n: usize) -> Vec<Pfn> {
    (0..n).map(|_| rig.alloc_frame(vmalloc::Gfp::KERNEL, None).expect("a frame")).collect()
}

pub fn give_frames(rig: &Rig, frames: &[Pfn]) {
    // SAFETY: P3: tests give up what they hold.
    frames.iter().for_each(|&frame| unsafe { rig.free_frame(frame) });
}

/// Refuses the array of an area's frames: the area is as it was.
#[cfg(debug_assertions)]
pub fn refuse_array(rig: &Rig, kernel: &Tested<'_>, area: usize) {
    let before = (rig.state(), kernel.find_vm_area(area));
    rig.sim.faults().fail_from(1);
    assert!(kernel.pages(area, GFP).is_err());
    rig.sim.faults().fail_at(0);
    assert_eq!((rig.state(), kernel.find_vm_area(area)), before);
}
