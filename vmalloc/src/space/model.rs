//! The bins and the whole address layer, beside models too simple to be wrong.

extern crate std;

use super::arena::{Arena, Fit};
use super::bins::CpuChunks;
use super::chunk::{BATCHES, Chunk, ChunkRef};
use super::class::{Class, MAX_SLOT_PAGES, UNIT_PAGES, UNIT_SHIFT};
use super::units::UnitTable;
use crate::area::RegionId;
use crate::machine::Machine;
use crate::machine::prealloc::Prealloc;
use crate::testing::PageMachine;
use crate::units::{Node, PAGE_SHIFT, Pfn, VirtAddr};
use proptest::prelude::*;
use std::boxed::Box;
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

/// The state of a slot in the model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Free,
    Live,
    Stale(usize),
}

/// A CPU's chunks of one class, and the state of each slot in the model.
struct Bins {
    cpu_chunks: CpuChunks,
    class: Class,
    /// The chunks in the bins.
    chunks: Vec<(Box<Chunk>, Vec<State>)>,
}

#[derive(Clone, Debug)]
enum Act {
    Add,
    Take,
    Untake,
    Retire(usize, usize),
    Give(usize),
    TakeEmpty(bool),
}

fn link(chunk: &Chunk) -> ChunkRef {
    // SAFETY: H2: the box lives longer than the bins.
    unsafe { ChunkRef::from_ptr(core::ptr::from_ref(chunk).cast_mut()) }.expect("H2: a reference is not null")
}

impl Bins {
    fn new(pages: usize) -> Bins {
        let class = Class::of(pages, 1).expect("a small area");
        Bins { cpu_chunks: CpuChunks::default(), class, chunks: Vec::new() }
    }

    /// The slots in a state, as (chunk, slot).
    fn slots(&self, wanted: impl Fn(State) -> bool) -> Vec<(usize, usize)> {
        let all = self.chunks.iter().enumerate().flat_map(|(n, (_, states))| (0..states.len()).map(move |s| (n, s)));
        all.filter(|&(n, slot)| wanted(self.chunks[n].1[slot])).collect()
    }

    fn index_of(&self, chunk: ChunkRef) -> usize {
        self.chunks.iter().position(|known| link(&known.0) == chunk).expect("a chunk of this cpu_chunks")
    }

    /// Takes a free slot, from a chunk with areas if there is one.
    fn take(&mut self) -> Option<(usize, usize)> {
        let free = self.slots(|state| state == State::Free);
        let Some((chunk, slot)) = self.cpu_chunks.take(Some(self.class)) else {
            assert_eq!(free, [], "S1: a free slot was not found");
            return None;
        };
        let place = (self.index_of(chunk), slot as usize);
        assert!(free.contains(&place), "C2: {place:?} was not free");
        Some(place)
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Add => {
                let chunk = Box::new(Chunk::new(Pfn(0)));
                chunk.become_class(self.class, self.class.slots(), VirtAddr(0x10_0000), RegionId(0), 0);
                self.cpu_chunks.add(link(&chunk));
                self.chunks.push((chunk, vec![State::Free; self.class.slots()]));
            }
            Act::Take => {
                if let Some((n, slot)) = self.take() {
                    self.chunks[n].0.make_live(slot as u32);
                    self.chunks[n].1[slot] = State::Live;
                }
            }
            Act::Untake => {
                if let Some((n, slot)) = self.take() {
                    self.cpu_chunks.put_back(link(&self.chunks[n].0), slot as u32);
                }
            }
            Act::Retire(which, batch) => {
                let live = self.slots(|state| state == State::Live);
                if let Some(&(n, slot)) = live.get(which % live.len().max(1)) {
                    let first = !self.chunks[n].1.contains(&State::Stale(batch));
                    assert_eq!(self.chunks[n].0.retire(1 << slot, batch), first);
                    self.chunks[n].1[slot] = State::Stale(batch);
                }
            }
            Act::Give(which) => {
                let stale = self.slots(|state| matches!(state, State::Stale(_)));
                if let Some(&(n, slot)) = stale.get(which % stale.len().max(1)) {
                    let State::Stale(batch) = self.chunks[n].1[slot] else { unreachable!("it is stale") };
                    let before = self.chunks[n].0.give(slot as u32, batch);
                    self.cpu_chunks.slot_freed(link(&self.chunks[n].0), before);
                    self.chunks[n].1[slot] = State::Free;
                }
            }
            Act::TakeEmpty(current_too) => {
                if let Some(chunk) = self.cpu_chunks.take_empty(Some(self.class), current_too) {
                    let n = self.index_of(chunk);
                    let (_chunk, states) = self.chunks.swap_remove(n);
                    assert!(states.iter().all(|&state| state == State::Free), "an empty chunk has no area");
                }
            }
        }
    }

    fn check(&self) {
        self.cpu_chunks.check().expect("S1, C2");
        assert_eq!(self.cpu_chunks.chunks(self.class) as usize, self.chunks.len());
        for (chunk, states) in &self.chunks {
            let mask = |wanted| {
                let bit = |(slot, &state): (usize, &State)| ((state == wanted) as u64) << slot;
                states.iter().enumerate().map(bit).fold(0, |mask, bit| mask | bit)
            };
            let masks = (chunk.free_slots(), chunk.live_slots(), chunk.areas(), chunk.stale(0), chunk.stale(1));
            let live = mask(State::Live);
            assert_eq!(masks, (mask(State::Free), live, live, mask(State::Stale(0)), mask(State::Stale(1))));
        }
    }
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        1 => Just(Act::Add),
        8 => Just(Act::Take),
        1 => Just(Act::Untake),
        4 => (any::<usize>(), 0..BATCHES).prop_map(|(which, batch)| Act::Retire(which, batch)),
        4 => any::<usize>().prop_map(Act::Give),
        1 => any::<bool>().prop_map(Act::TakeEmpty),
    ];
    prop::collection::vec(act, 1..300)
}

proptest! {
    #[test]
    fn the_bins_agree_with_a_list_of_states(acts in acts(), pages in prop_oneof![Just(512usize), Just(300), Just(40)]) {
        let mut bins = Bins::new(pages);
        for act in &acts {
            bins.act(act);
            bins.check();
        }
    }
}

/// The units of the region: 512 MiB. A run fills it now and then.
const UNITS: usize = 2048;
/// The region's first page, not a multiple of a large alignment.
const FIRST: usize = 7 * UNIT_PAGES;
/// The number of areas in one batch.
const BATCH: usize = 50;

/// An area in the model.
#[derive(Clone, Copy, Debug)]
struct Area {
    /// With the guard.
    pages: usize,
    live: bool,
}

/// The layer as the rest of the library combines it: one CPU's chunks, an arena of units and a unit
/// table. Beside it, a model of the pages that are taken.
struct Layer {
    machine: PageMachine,
    prealloc: Prealloc,
    arena: Arena,
    units: UnitTable,
    cpu_chunks: CpuChunks,
    /// Unused headers.
    headers: Vec<ChunkRef>,
    /// The stale slots of each batch, and the first page of each.
    batches: [Vec<(ChunkRef, u32, usize)>; BATCHES],
    open: usize,
    model: BTreeMap<usize, Area>,
}

impl Layer {
    fn new() -> Layer {
        Layer {
            machine: PageMachine::default(),
            prealloc: Prealloc::new(),
            arena: Arena::new(UNITS, 0),
            units: UnitTable::new(UNITS),
            cpu_chunks: CpuChunks::default(),
            headers: Vec::new(),
            batches: Default::default(),
            open: 0,
            model: BTreeMap::new(),
        }
    }

    fn header(&mut self) -> ChunkRef {
        self.headers.pop().unwrap_or_else(|| {
            let frame = self.prealloc.take(&self.machine).expect("filled by `fill`");
            // SAFETY: H1: the frame is fresh, and is given back after the layer is gone.
            unsafe { ChunkRef::create(&self.machine, frame) }
        })
    }

    fn fill(&mut self, units: usize) {
        let frames = 1 + self.arena.frames_needed() + self.units.frames_needed(units);
        self.prealloc.fill(&self.machine, Node(0), frames).expect("the host has pages");
    }

    /// Takes a run of units for `pages` pages.
    fn take_run(&mut self, pages: usize, align: usize) -> Option<(usize, usize)> {
        let units = pages.div_ceil(UNIT_PAGES);
        self.fill(units);
        let fit = Fit { align: (align >> UNIT_SHIFT).max(1), phase: FIRST >> UNIT_SHIFT, ..Fit::of(units) };
        self.arena.take(&self.machine, &mut self.prealloc, &fit).ok().map(|start| (start, units))
    }

    fn point(&mut self, start: usize, units: usize, chunk: ChunkRef, slot: u64) {
        self.units.set(&self.machine, &mut self.prealloc, start, units, chunk.frame().0 << 8 | slot);
    }

    fn grow(&mut self, class: Class) -> Option<()> {
        let slots = class.slots_after(self.cpu_chunks.chunks(class));
        let (start, units) = self.take_run(class.units(slots) * UNIT_PAGES, class.align())?;
        let chunk = self.header();
        let base = VirtAddr((FIRST + start * UNIT_PAGES) << PAGE_SHIFT);
        chunk.become_class(class, slots, base, RegionId(0), 0);
        self.point(start, units, chunk, 0xff);
        self.cpu_chunks.add(chunk);
        Some(())
    }

    /// A slot for `pages` pages including the guard, and its first page.
    fn place(&mut self, pages: usize, align: usize) -> Option<(ChunkRef, u32, usize)> {
        if let Some(class) = Class::of(pages, align) {
            if let Some((chunk, slot)) = self.cpu_chunks.take(Some(class)) {
                return Some((chunk, slot, chunk.address(slot).0 >> PAGE_SHIFT));
            }
            self.grow(class)?;
            let (chunk, slot) = self.cpu_chunks.take(Some(class))?;
            return Some((chunk, slot, chunk.address(slot).0 >> PAGE_SHIFT));
        }
        let (start, units) = self.take_run(pages + 1, align)?;
        let (chunk, slot) = self.cpu_chunks.take(None).unwrap_or_else(|| {
            let chunk = self.header();
            chunk.become_runs(RegionId(0), 0);
            self.cpu_chunks.add(chunk);
            self.cpu_chunks.take(None).expect("S1: it was added")
        });
        chunk.slot(slot).place(start, units);
        self.point(start, units, chunk, slot as u64);
        Some((chunk, slot, FIRST + start * UNIT_PAGES))
    }

    /// Takes a new area and returns its first page; `None` if there is no room.
    fn alloc(&mut self, pages: usize, align: usize) -> Option<usize> {
        let (chunk, slot, start) = self.place(pages, align)?;
        chunk.make_live(slot);
        let end = start + pages + 1;
        assert!(start >= FIRST && end <= FIRST + UNITS * UNIT_PAGES, "inside the region");
        assert!(start.is_multiple_of(align), "page {start:#x} is no multiple of {align}");
        if let Some((at, area)) = self.model.range(..end).next_back() {
            assert!(at + area.pages <= start, "{pages} pages at {start:#x} overlap {area:?} at {at:#x}");
        }
        self.model.insert(start, Area { pages: pages + 1, live: true });
        Some(start)
    }

    /// The slot whose room covers `page`, and its first page.
    fn find(&self, page: usize) -> Option<(ChunkRef, u32, usize)> {
        let entry = self.units.get(&self.machine, (page - FIRST) >> UNIT_SHIFT);
        let header = self.machine.virt(Pfn((entry != 0).then_some(entry >> 8)?)).cast::<Chunk>();
        // SAFETY: H2: `point` stored the frame of a header.
        let chunk = unsafe { ChunkRef::from_ptr(header.as_ptr()) }?;
        if chunk.class().is_some() {
            let slot = chunk.slot_at(VirtAddr(page << PAGE_SHIFT))?;
            return Some((chunk, slot, chunk.address(slot).0 >> PAGE_SHIFT));
        }
        let slot = entry as u32 & 0xff;
        Some((chunk, slot, FIRST + chunk.slot(slot).run().0 * UNIT_PAGES))
    }

    fn free(&mut self, start: usize) {
        let (chunk, slot, found) = self.find(start).expect("it lives");
        assert!(found == start && chunk.areas() >> slot & 1 != 0, "page {start:#x} is an area's first");
        chunk.retire(1 << slot, self.open);
        self.batches[self.open].push((chunk, slot, start));
        self.model.get_mut(&start).expect("the model has it").live = false;
        if self.batches[self.open].len() >= BATCH {
            self.open ^= 1;
            self.reclaim();
        }
    }

    /// Grace has come for the batch that becomes the open one: gives its slots.
    fn reclaim(&mut self) {
        let batch = self.open;
        for (chunk, slot, start) in core::mem::take(&mut self.batches[batch]) {
            if chunk.class().is_none() {
                let (grain, units) = chunk.slot(slot).run();
                self.release(grain, units);
            }
            let before = chunk.give(slot, batch);
            self.cpu_chunks.slot_freed(chunk, before);
            self.model.remove(&start).expect("the model has it");
        }
    }

    fn release(&mut self, start: usize, units: usize) {
        self.units.clear(&self.machine, start, units);
        self.arena.free(&self.machine, start, units);
    }

    /// Gives up empty chunks.
    fn shrink(&mut self, current_too: bool) {
        for class in Class::all() {
            while let Some(chunk) = self.cpu_chunks.take_empty(Some(class), current_too) {
                let start = ((chunk.address(0).0 >> PAGE_SHIFT) - FIRST) >> UNIT_SHIFT;
                chunk.retire_header();
                self.release(start, chunk.units());
                self.headers.push(chunk);
            }
        }
    }

    /// Compares layer and model at `page`.
    fn probe(&self, page: usize) {
        let under = self.model.range(..=page).next_back();
        let area = under.filter(|(start, area)| area.live && page < *start + area.pages);
        let found = self.find(page).filter(|(chunk, slot, _)| chunk.areas() >> slot & 1 != 0);
        match (area, found) {
            (Some((&start, _)), Some((_, _, found))) => assert_eq!(found, start, "of page {page:#x}"),
            (Some(area), None) => panic!("{area:?} was not found for page {page:#x}"),
            // `page` lies in a slot behind the end of its area.
            (None, Some((_, _, found))) => assert!(self.model[&found].live && found <= page, "of page {page:#x}"),
            (None, None) => (),
        }
    }

    fn check(&self) {
        self.cpu_chunks.check().expect("S1, C2");
        self.arena.check(&self.machine).expect("the arena's rules");
    }
}

impl Drop for Layer {
    /// Gives everything back.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let live: Vec<usize> = self.model.iter().filter(|(_, area)| area.live).map(|(&start, _)| start).collect();
        live.into_iter().for_each(|start| self.free(start));
        for _ in 0..BATCHES {
            self.open ^= 1;
            self.reclaim();
        }
        self.shrink(true);
        assert_eq!((self.arena.used(), self.model.len()), (0, 0), "every unit came back");
        self.headers.extend(core::iter::from_fn(|| self.cpu_chunks.take_empty(None, true)));
        let machine = &self.machine;
        self.headers.iter().for_each(|header| machine.take_back(header.frame()));
        self.arena.destroy(machine, |frame| machine.take_back(frame));
        self.units.destroy(machine, |frame| machine.take_back(frame));
        self.prealloc.trim(machine, 0);
        assert_eq!(machine.frames().out(), 0, "every frame came back");
    }
}

/// xorshift64*
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) as u128 * end as u128) >> 64) as usize
    }

    /// A request: mostly small and unaligned, now and then larger than a slot.
    fn request(&mut self) -> (usize, usize) {
        let most = [10, 10, 64, 300, MAX_SLOT_PAGES, 3 * MAX_SLOT_PAGES][self.below(6)];
        let align = if self.below(4) == 0 { 1 << self.below(11) } else { 1 };
        (1 + self.below(most), align)
    }
}

/// Runs `SPACE_OPS` operations, 20,000 by default.
#[test]
fn the_address_layer_agrees_with_a_map_of_pages() {
    let ops = std::env::var("SPACE_OPS").ok().and_then(|ops| ops.parse().ok()).unwrap_or(20_000);
    let (mut layer, mut random) = (Layer::new(), Random(0x9e37_79b9_7f4a_7c15));
    let (mut live, mut refused) = (Vec::new(), 0);
    for op in 0..ops {
        // Phases that fill the space and phases that empty it take turns.
        let filling = op / 3000 % 2 == 0;
        if random.below(100) < if filling { 60 } else { 35 } || live.is_empty() {
            let (pages, align) = random.request();
            match layer.alloc(pages, align) {
                Some(start) => live.push(start),
                None => refused += 1,
            }
        } else {
            layer.free(live.swap_remove(random.below(live.len())));
        }
        if random.below(500) == 0 {
            layer.shrink(random.below(2) == 0);
        }
        layer.probe(FIRST + random.below(UNITS * UNIT_PAGES));
        layer.check();
    }
    assert!(refused > 0, "the region was never full: the test is too easy");
}
