//! Putting a machine together.

use crate::cpu::State;
use crate::memory::{Bank, Memory};
use crate::{Core, ORDER, Sim, SoloLock, Source};
use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex};
use vmalloc::frames::{MemoryRange, Zones};
use vmalloc::machine::format::Format;
use vmalloc::machine::frames::{Frames, MAX_ORDER, Want};
use vmalloc::units::{MAX_CPUS, Node, PAGE_SIZE, PageRange, Pfn};

/// Where memory starts unless banks say otherwise.
const FIRST: Pfn = Pfn(16);
/// Frames of a machine that was given none: 64 MiB.
const DEFAULT_FRAMES: u64 = 64 << 20 >> 12;

/// How often things happen by chance: once in so many times, 0 = never.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// A CPU speculates, when the library does something.
    pub speculate: u64,
    /// An interrupt comes, where it may.
    pub interrupt: u64,
    /// A CPU loses a cached entry, in a step.
    pub evict: u64,
    /// A task goes on on another CPU, where it is not pinned.
    pub migrate: u64,
}

impl Rates {
    /// Nothing happens by chance.
    pub const NEVER: Rates = Rates { speculate: 0, interrupt: 0, evict: 0, migrate: 0 };
    /// The usual ones.
    pub const USUAL: Rates = Rates { speculate: 16, interrupt: 64, evict: 16, migrate: 0 };
}

/// What a machine is to be made of.
#[derive(Clone, Debug)]
pub struct Builder<F> {
    cpus: u32,
    banks: Vec<Bank>,
    highmem: Option<Pfn>,
    levels: Option<u8>,
    windows: Vec<Bank>,
    window_limit: usize,
    roots: u32,
    described: bool,
    seed: u64,
    rates: Rates,
    tlb: usize,
    format: PhantomData<fn() -> F>,
}

impl<F: Format> Builder<F> {
    pub(crate) const fn new() -> Builder<F> {
        Builder {
            cpus: 1,
            banks: Vec::new(),
            highmem: None,
            levels: None,
            windows: Vec::new(),
            window_limit: 0,
            roots: 1,
            described: true,
            seed: 0,
            rates: Rates::USUAL,
            tlb: 64,
            format: PhantomData,
        }
    }

    /// How many CPUs: 1 unless told.
    pub const fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// One more node, with `bytes` of memory after all that there is.
    pub fn node(self, bytes: u64) -> Self {
        let first = self.banks.iter().map(Bank::end).max().unwrap_or(FIRST);
        let node = Node(self.nodes() as u8);
        self.bank(Bank { first, frames: bytes / PAGE_SIZE as u64, node: Some(node) })
    }

    /// A bank of memory, or a device, wherever it is.
    pub fn bank(mut self, bank: Bank) -> Self {
        self.banks.push(bank);
        self
    }

    /// Pages that are their own frames to an instance without aliases, whose areas may have so many of
    /// them together.
    pub fn windows(mut self, windows: impl IntoIterator<Item = PageRange>, limit: usize) -> Self {
        let bank = |pages: PageRange| {
            let first = Pfn::containing(pages.start.0 as u64);
            Bank { first, frames: pages.pages as u64, node: None }
        };
        self.windows.extend(windows.into_iter().map(bank));
        self.window_limit = limit;
        self
    }

    /// Frames from here on have no direct mapping. Rounded down to the
    /// largest block.
    pub const fn highmem(mut self, from: Pfn) -> Self {
        self.highmem = Some(Pfn(from.0 >> MAX_ORDER << MAX_ORDER));
        self
    }

    /// How many levels the tables have, where the format leaves a choice.
    pub const fn levels(mut self, levels: u8) -> Self {
        self.levels = Some(levels);
        self
    }

    /// How many roots CPUs walk, by turns: 1 unless told.
    pub const fn roots(mut self, roots: u32) -> Self {
        self.roots = roots;
        self
    }

    /// Frames have no descriptors, as those of many small kernels.
    pub const fn undescribed(mut self) -> Self {
        self.described = false;
        self
    }

    /// What chance follows from.
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// How often things happen by chance.
    pub const fn rates(mut self, rates: Rates) -> Self {
        self.rates = rates;
        self
    }

    /// Entries of a TLB: 64 unless told.
    pub const fn tlb(mut self, entries: usize) -> Self {
        self.tlb = entries;
        self
    }

    /// The machine. All its CPUs are offline, CPU 0 runs.
    ///
    /// # Panics
    /// Where the parts do not make a machine.
    pub fn build(mut self) -> Sim<F> {
        assert!((1..=MAX_CPUS as u32).contains(&self.cpus), "{} CPUs", self.cpus);
        let levels = self.levels.unwrap_or(F::LEVELS);
        assert!((F::LEVELS.min(2)..=F::MAX_LEVELS).contains(&levels), "{levels} levels in {}", F::NAME);
        if self.nodes() == 0 {
            self = self.node(DEFAULT_FRAMES * PAGE_SIZE as u64);
        }
        let (zones, storage) = self.zones();
        let nodes = self.nodes();
        let memory = Memory::new(self.banks, self.windows, self.highmem.unwrap_or(Pfn(u64::MAX)));
        assert!(self.roots > 0, "no root");
        let roots: Box<[Pfn]> = (0..self.roots).map(|_| take_root(&zones, &memory)).collect();
        let core = Core {
            memory,
            window_limit: self.window_limit,
            root: roots[0],
            roots,
            levels,
            cpus: self.cpus,
            nodes,
            current: AtomicU32::new(0),
            zones: Source::from(zones),
            _descriptors: storage,
            described: self.described,
            fuse: AtomicU64::new(0),
            nmi: AtomicU64::new(0),
            state: Mutex::new(State::new(self.cpus, self.tlb, self.seed, self.rates)),
            format: PhantomData,
        };
        Sim(Arc::new(core))
    }

    fn nodes(&self) -> u32 {
        self.banks.iter().filter_map(|b| b.node).map(|n| n.0 as u32 + 1).max().unwrap_or(0)
    }

    fn zones(&self) -> (Zones<SoloLock>, Box<[AtomicU64]>) {
        let ram = |b: &Bank| b.node.map(|node| MemoryRange { first: b.first, frames: b.frames as usize, node });
        let map: Vec<_> = self.banks.iter().filter_map(ram).collect();
        let words = Zones::<SoloLock>::storage_for(&map).div_ceil(8);
        let mut storage: Box<[AtomicU64]> = (0..words).map(|_| AtomicU64::new(0)).collect();
        let zones = Zones::new();
        // SAFETY: Z1: the storage is kept beside the zones, and was asked for
        // its size; Z2: simulated memory, made for this; Z3: nobody else has
        // the zones yet.
        let made = unsafe { zones.init(&map, self.highmem, NonNull::from(&mut storage[..]).cast()) };
        made.expect("a memory map");
        (zones, storage)
    }
}

/// Takes a clear frame for the root.
fn take_root(zones: &Zones<SoloLock>, memory: &Memory) -> Pfn {
    let root = zones.alloc(Want::bookkeeping(Node(0))).expect("a frame for the root");
    memory.meta(root).expect("zones hold memory").out.store(true, ORDER);
    root
}
