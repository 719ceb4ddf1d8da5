//! The address layer and nothing else: CPU's chunks, chunk, unit table, arena, put
//! together as the library does it, for one CPU whose flush is immediate.
//!
//! No request, no CPU to enter, no label, no entries, no tables: what is left
//! is what an address allocator does.

use super::{Bench, PAIRS_A_TICK, Random, SEED, START, bench};
use std::hint::black_box;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::Ordering::Relaxed;
use vmalloc::area::RegionId;
use vmalloc::internals::arena::{Arena, Fit};
use vmalloc::internals::bins::CpuChunks;
use vmalloc::internals::chunk::{Chunk, ChunkRef};
use vmalloc::internals::class::{Class, UNIT_PAGES, UNIT_SHIFT};
use vmalloc::internals::units::UnitTable;
use vmalloc::machine::Machine;
use vmalloc::machine::prealloc::Prealloc;
use vmalloc::units::{Node, PAGE_SHIFT, Pfn, VirtAddr};

const UNITS: usize = 1 << 27;
/// Slots that wait for one flush.
const LOAD: usize = 128;

/// Fills the layer and replaces areas, as `run_calls` does.
pub fn run([live, max_pages, warm_up, pairs]: [usize; 4]) {
    let mut layer = Layer::new(bench());
    let mut random = Random(SEED);
    let size = |random: &mut Random| 1 + random.below(max_pages);
    let mut areas: Vec<_> = (0..live).map(|_| as_pointer(layer.take(size(&mut random)))).collect();
    for n in 0..warm_up + pairs {
        let (at, pages) = (random.below(live), size(&mut random));
        let replace = if n < warm_up { layer_pair } else { measured_layer };
        areas[at] = replace(black_box(&mut layer), areas[at], pages);
        if n % PAIRS_A_TICK == 0 {
            layer.tick();
        }
    }
}

/// One CPU's address layer.
struct Layer {
    machine: Bench,
    arena: Arena,
    units: UnitTable,
    cpu_chunks: CpuChunks,
    prealloc: Prealloc,
    headers: Vec<ChunkRef>,
    /// The first chunk with slots in the batch, and how many slots.
    batch: *mut Chunk,
    waiting: usize,
}

impl Layer {
    /// A layer of 32 TiB.
    fn new(machine: Bench) -> Layer {
        Layer {
            machine,
            arena: Arena::new(UNITS, 0),
            units: UnitTable::new(UNITS),
            cpu_chunks: CpuChunks::default(),
            prealloc: Prealloc::new(),
            headers: Vec::new(),
            batch: null_mut(),
            waiting: 0,
        }
    }

    /// Addresses for `pages` pages and their guard.
    #[inline]
    fn take(&mut self, pages: usize) -> VirtAddr {
        let class = Class::of(pages, 1).expect("512 pages at most");
        loop {
            if let Some((chunk, slot)) = self.cpu_chunks.take(Some(class)) {
                chunk.make_live(slot);
                return chunk.address(slot);
            }
            self.grow(class);
        }
    }

    /// The addresses from `at` wait for the flush; a full batch is reclaimed.
    #[inline]
    fn give(&mut self, at: VirtAddr) {
        let unit = (at.0 - START) >> (PAGE_SHIFT + UNIT_SHIFT);
        let value = self.units.get(&self.machine, unit);
        let header = self.machine.virt(Pfn(value)).cast::<Chunk>();
        // SAFETY: H2: values are the frames of headers.
        let chunk = unsafe { ChunkRef::from_ptr(header.as_ptr()) }.expect("an address of an area");
        let slot = chunk.slot_at(at).expect("an address of a slot");
        assert!(chunk.address(slot) == at && chunk.areas() >> slot & 1 != 0, "it lives, and begins here");
        if chunk.retire(1 << slot, 0) {
            chunk.next_in_batch(0).store(self.batch, Relaxed);
            self.batch = chunk.as_ptr();
        }
        self.waiting += 1;
        if self.waiting == LOAD {
            self.reclaim();
        }
    }

    fn reclaim(&mut self) {
        // SAFETY: H2: `give` stored what `as_ptr` gave.
        while let Some(chunk) = unsafe { ChunkRef::from_ptr(self.batch) } {
            while chunk.stale(0) != 0 {
                let before = chunk.give(chunk.stale(0).trailing_zeros(), 0);
                self.cpu_chunks.slot_freed(chunk, before);
            }
            self.batch = chunk.next_in_batch(0).load(Relaxed);
        }
        self.waiting = 0;
    }

    #[cold]
    fn grow(&mut self, class: Class) {
        let slots = class.slots_after(self.cpu_chunks.chunks(class));
        let units = class.units(slots);
        let needed = 1 + self.arena.frames_needed() + self.units.frames_needed(units);
        self.prealloc.fill(&self.machine, Node(0), needed).expect("the host has pages");
        let fit = Fit { align: (class.align() / UNIT_PAGES).max(1), phase: 0, within: 0..usize::MAX, grains: units };
        let start = self.arena.take(&self.machine, &mut self.prealloc, &fit).expect("32 TiB are enough");
        let chunk = self.headers.pop().unwrap_or_else(|| {
            let frame = self.prealloc.take(&self.machine).expect("laid in");
            // SAFETY: H1: fresh from the stock.
            unsafe { ChunkRef::create(&self.machine, frame) }
        });
        let base = VirtAddr(START).add_pages(start << UNIT_SHIFT);
        chunk.become_class(class, slots, base, RegionId(0), 0);
        self.units.set(&self.machine, &mut self.prealloc, start, units, chunk.frame().0);
        self.cpu_chunks.add(chunk);
    }

    /// Gives up empty chunks, as the library's tick does.
    fn tick(&mut self) {
        for class in Class::all() {
            for _ in 0..self.cpu_chunks.empties(class).saturating_sub(class.spares()).div_ceil(4) {
                let Some(chunk) = self.cpu_chunks.take_empty(Some(class), false) else { break };
                let start = (chunk.address(0).0 - START) >> (PAGE_SHIFT + UNIT_SHIFT);
                let units = chunk.units();
                chunk.retire_header();
                self.units.clear(&self.machine, start, units);
                self.arena.free(&self.machine, start, units);
                self.headers.push(chunk);
            }
        }
    }
}

/// What is counted: addresses given back, others taken.
#[unsafe(no_mangle)]
#[inline(never)]
fn measured_layer(layer: &mut Layer, old: NonNull<u8>, pages: usize) -> NonNull<u8> {
    layer_pair(layer, old, pages)
}

/// The same steps, not counted.
#[inline]
fn layer_pair(layer: &mut Layer, old: NonNull<u8>, pages: usize) -> NonNull<u8> {
    layer.give(VirtAddr(old.addr().get()));
    as_pointer(layer.take(pages))
}

/// An address of the layer, in the form of the instance's.
fn as_pointer(at: VirtAddr) -> NonNull<u8> {
    NonNull::new(std::ptr::without_provenance_mut(at.0)).expect("no region begins at 0")
}
