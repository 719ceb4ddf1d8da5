//! An instance on a simulated machine, and what tests say about the two.

use std::ops::{Deref, Range};
use std::panic::Location;
use std::ptr::NonNull;
use vmalloc::gfp::Gfp;
use vmalloc::machine::format::Format;
use vmalloc::machine::frames::Frames;
use vmalloc::machine::{Level, Machine};
use vmalloc::table::X86_64;
use vmalloc::units::{Pfn, VirtAddr};
use vmalloc::{AllocError, Caller, Config, FreeError, Info, Req, Stats};
use vmalloc_sim::{Booted, Builder, Rates, Sim};

/// An area, as its caller knows it.
pub type At = NonNull<u8>;

/// Where the region of most tests starts: Linux's place on x86-64.
pub const START: usize = 0xffff_c900_0000_0000;
pub const REGION: Range<usize> = START..START + (1 << 39);
pub const PAGE: usize = 4096;

/// An instance and its machine. When it is dropped, nothing may remain, and
/// nobody may have complained.
pub struct Rig<F: Format = X86_64> {
    pub sim: Sim<F>,
    booted: Option<Booted<F>>,
}

/// `cpus` CPUs, 64 MiB, one region.
pub fn rig(cpus: u32) -> Rig {
    boot(busy(cpus), Config::region(REGION))
}

/// `cpus` CPUs that speculate and forget as real ones do.
pub fn busy(cpus: u32) -> Builder<X86_64> {
    Sim::builder().cpus(cpus).seed(cpus as u64)
}

/// The same, and nothing happens by chance.
pub fn quiet(cpus: u32) -> Builder<X86_64> {
    Sim::builder().cpus(cpus).rates(Rates::NEVER)
}

/// All CPUs online, CPU 0 runs.
pub fn boot<F: Format>(machine: Builder<F>, config: Config) -> Rig<F> {
    let sim = machine.build();
    let booted = Booted::new(sim.clone(), config).expect("memory for the bookkeeping");
    Rig { sim, booted: Some(booted) }
}

impl<F: Format> Deref for Rig<F> {
    type Target = Booted<F>;

    fn deref(&self) -> &Booted<F> {
        self.booted.as_ref().expect("it lives until the rig is dropped")
    }
}

impl<F: Format> Drop for Rig<F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What the instance would say now would hide the first panic.
            std::mem::forget(self.booted.take());
            return;
        }
        #[cfg(debug_assertions)]
        self.sim.faults().fail_at(0);
        drop(self.booted.take());
        assert_eq!(self.complaints(), [""; 0]);
        self.sim.assert_no_leaks();
    }
}

/// What a refusal must not change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    pub areas: Vec<Info>,
    pub pages: usize,
    pub reserved: usize,
    pub waiting: usize,
    pub free: usize,
    pub held: usize,
}

impl<F: Format> Rig<F> {
    /// Frees an area of any kind that `free` takes.
    #[track_caller]
    pub fn give(&self, at: At) -> Result<(), FreeError> {
        // SAFETY: V1: simulated memory is used through the simulator, which
        // judges each use.
        unsafe { self.free(at) }
    }

    #[track_caller]
    pub fn map(&self, frames: &[Pfn]) -> Result<At, AllocError> {
        // SAFETY: P1: tests hold their frames for longer.
        unsafe { self.vmap(frames, Req::bytes(0)) }
    }

    #[track_caller]
    pub fn unmap(&self, at: At) -> Result<(), FreeError> {
        // SAFETY: V1, as for `give`.
        unsafe { self.vunmap(at) }
    }

    #[track_caller]
    pub fn unmap_pages(&self, at: At, count: usize) -> Result<(), FreeError> {
        // SAFETY: V1, as for `give`.
        unsafe { self.unmap_ram(at, count) }
    }

    #[track_caller]
    pub fn unmap_device(&self, at: At) -> Result<(), FreeError> {
        // SAFETY: V1, as for `give`.
        unsafe { self.iounmap(at) }
    }

    /// `n` frames, for the caller to hold.
    pub fn frames(&self, n: usize) -> Vec<Pfn> {
        (0..n).map(|_| self.alloc_frame(Gfp::KERNEL, None).expect("a frame")).collect()
    }

    #[track_caller]
    pub fn give_frames(&self, frames: &[Pfn]) {
        for &frame in frames {
            // SAFETY: P3: tests give up what they hold.
            unsafe { self.free_frame(frame) }
        }
    }

    /// Stores a number of its own to each of `pages` pages.
    pub fn stamp(&self, at: At, pages: usize, seed: u64) {
        for page in 0..pages {
            self.sim.store(self.sim.cpu(), page_of(at, page), seed ^ page as u64).expect("a live page");
        }
    }

    /// The same numbers are read on `cpu`.
    #[track_caller]
    pub fn check_stamps(&self, cpu: u32, at: At, pages: usize, seed: u64) {
        for page in 0..pages {
            assert_eq!(self.sim.load(cpu, page_of(at, page)), Ok(seed ^ page as u64), "page {page} of {at:?}");
        }
    }

    /// Everything is flushed, what is free is the machine's, every rule holds.
    #[track_caller]
    pub fn settled(&self) -> State {
        assert_eq!(self.check(), Ok(()));
        self.purge();
        self.reclaim(usize::MAX);
        assert_eq!(self.check(), Ok(()));
        self.sim.audit();
        let stats = self.stats();
        State {
            areas: self.areas().collect(),
            pages: stats.pages,
            reserved: stats.reserved_pages,
            waiting: stats.waiting_pages,
            free: self.sim.frames().free_now(),
            held: stats.table_frames + stats.bookkeeping_frames + stats.pooled_frames + stats.reserve_frames,
        }
    }

    /// All that a refused free must leave alone.
    pub fn picture(&self) -> (Stats, String) {
        (self.stats(), self.listing())
    }

    pub fn listing(&self) -> String {
        let mut text = String::new();
        self.list(&mut text).expect("a string takes everything");
        text
    }

    /// The errors that were logged since the last look.
    pub fn complaints(&self) -> Vec<String> {
        self.sim.take_log().into_iter().filter(|line| line.0 == Level::Error).map(|line| line.1).collect()
    }
}

pub fn addr(at: At) -> VirtAddr {
    VirtAddr(at.addr().get())
}

pub fn page_of(at: At, page: usize) -> VirtAddr {
    addr(at).add_pages(page)
}

/// The address as a pointer, as a careless caller would make one.
pub fn at(address: usize) -> At {
    NonNull::new(std::ptr::with_exposed_provenance_mut(address)).expect("not null")
}

/// The place of the call, `up` lines before it.
#[track_caller]
pub fn lines_up(up: u32) -> (String, u32) {
    (Location::caller().file().into(), Location::caller().line() - up)
}

/// File and line of a caller.
pub fn place(caller: Caller) -> (String, u32) {
    match caller {
        Caller::At(place) => (place.file().into(), place.line()),
        Caller::Return(pc) => panic!("a place in Rust, not {pc:#x}"),
    }
}
