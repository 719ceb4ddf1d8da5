//! T2 and M1: what the embedder has in the tables is never touched, and what
//! nobody can have meant to be there is told once, cleared, and walked past.

use crate::common::{At, PAGE, START, page_of, quiet};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::BitOr;
use vmalloc::machine::Machine;
use vmalloc::machine::format::{Entry, Format, MemType, Word};
use vmalloc::machine::frames::{Frames, Want};
use vmalloc::table::{X86_32, X86_64};
use vmalloc::units::{Node, Pfn, VirtAddr};
use vmalloc::{AllocError, Config, InitError, Placement, Req, Vmalloc};
use vmalloc_sim::{Builder, Rates, Sim};

/// Where the regions of 32 bits lie.
const START_32: usize = 0xf800_0000;
/// Where those of five levels lie.
const START_5: usize = 0xffa0_0000_0000_0000;
const DEVICE: u64 = 0xfee0_0000;

/// Present, writable, accessed.
const TABLE: u64 = 0x23;
const LARGE: u64 = 1 << 7;
const NX: u64 = 1 << 63;

/// A format whose words this file makes by hand.
trait ByHand: Format<Word: BitOr<Output = Self::Word> + Debug> {
    const BITS: u32;
    fn word(word: u64) -> Self::Word;
}

impl ByHand for X86_64 {
    const BITS: u32 = 64;
    fn word(word: u64) -> u64 {
        word
    }
}

impl ByHand for X86_32 {
    const BITS: u32 = 32;
    fn word(word: u64) -> u32 {
        word as u32
    }
}

/// A machine and the place of its region.
struct Case<F: ByHand> {
    machine: Builder<F>,
    levels: u8,
    start: usize,
}

fn four_levels() -> Case<X86_64> {
    Case { machine: quiet(1), levels: 4, start: START }
}

fn five_levels() -> Case<X86_64> {
    Case { machine: quiet(1).levels(5), levels: 5, start: START_5 }
}

fn two_levels() -> Case<X86_32> {
    Case { machine: Sim::builder().rates(Rates::NEVER), levels: 2, start: START_32 }
}

/// All entries of a machine's tables, by frame.
type Tables<F> = BTreeMap<Pfn, Vec<<F as Format>::Word>>;

/// What an embedder does with its machine by itself.
struct Embedder<F: ByHand> {
    sim: Sim<F>,
    start: usize,
    levels: u8,
    held: Vec<Pfn>,
}

impl<F: ByHand> Embedder<F> {
    fn new(case: Case<F>) -> Embedder<F> {
        Embedder { sim: case.machine.build(), start: case.start, levels: case.levels, held: Vec::new() }
    }

    fn pinned<R>(&self, act: impl FnOnce() -> R) -> R {
        let pinned = self.sim.pin();
        let result = act();
        // SAFETY: M4: the youngest pin.
        unsafe { self.sim.unpin(pinned) }
        result
    }

    /// A clear frame of its own.
    fn frame(&mut self) -> Pfn {
        let frame = self.pinned(|| self.sim.frames().alloc(Want::bookkeeping(Node(0)))).expect("memory");
        // SAFETY: M2: the frame is held.
        unsafe { self.sim.virt(frame).write_bytes(0, PAGE) }
        self.held.push(frame);
        frame
    }

    /// Links tables of its own with `flags` down to those of `level`.
    fn link_down_to(&mut self, level: u8, flags: u64) {
        for above in (level + 1..=self.levels).rev() {
            if !matches!(self.sim.entry(VirtAddr(self.start), above), Entry::Table(_)) {
                let table = self.frame();
                self.poke(above, table.phys() | flags);
            }
        }
    }

    fn poke(&self, level: u8, word: u64) {
        self.sim.poke(VirtAddr(self.start), level, F::word(word));
    }

    /// An instance over a region of `pages` pages.
    fn begin(&self, pages: usize, placement: Placement) -> Result<Vmalloc<Sim<F>>, InitError> {
        let vm = Vmalloc::new(self.sim.clone());
        let config = Config::region(self.start..self.start + pages * PAGE).placement(placement);
        // SAFETY: N1: whatever else is in the region is what these tests are
        // about; N2: nobody else has the instance.
        unsafe { vm.init(config) }?;
        self.sim.online_all(|| vm.cpu_online());
        Ok(vm)
    }

    fn tables(&self) -> Tables<F> {
        let mut tables = BTreeMap::new();
        self.add_tables(&mut tables, self.sim.root(), self.levels);
        tables
    }

    fn add_tables(&self, tables: &mut Tables<F>, table: Pfn, level: u8) {
        let words = self.sim.virt(table).cast::<F::Word>();
        // SAFETY: W1: the entries of a table.
        let words: Vec<_> = (0..1 << F::INDEX_BITS).map(|n| unsafe { F::Word::load(words.add(n).as_ptr()) }).collect();
        for &word in &words {
            if let (2.., Entry::Table(lower)) = (level, F::decode(word, level)) {
                self.add_tables(tables, lower, level - 1);
            }
        }
        tables.insert(table, words);
    }

    /// Takes all away that it has in the tables, and its frames.
    fn leave(self) {
        self.sim.poke(VirtAddr(self.start), self.levels, F::ABSENT);
        let held = &self.held;
        // SAFETY: F2: its own, and linked no more.
        self.pinned(|| held.iter().for_each(|&frame| unsafe { self.sim.frames().free(frame, 0) }));
        self.sim.assert_no_leaks();
    }
}

/// Larger pages that an embedder may have: writable or not, executable or not.
fn leaves<F: ByHand>() -> Vec<u64> {
    let leaves = [0xe3, 0x1a1, 0x81, 0x87].map(|flags| 0x1_0000_0000 | LARGE | flags);
    leaves.into_iter().chain([NX | 0x1_0000_01e3]).filter(|&word| F::BITS == 64 || word & NX == 0).collect()
}

/// What restricts all pages under a table.
fn restrictions<F: ByHand>() -> Vec<u64> {
    if F::BITS == 64 { vec![TABLE ^ 2, TABLE | NX, TABLE | NX | 1 << 9] } else { vec![TABLE ^ 2] }
}

/// `word`, of the table in `lower` if it is of one.
fn with_table(word: u64, lower: Pfn) -> u64 {
    if word & LARGE == 0 { word | lower.phys() } else { word }
}

/// `init` refuses whatever `plant` puts at each level.
fn init_refuses<F: ByHand>(case: fn() -> Case<F>, words: &[u64], error: fn(VirtAddr, u8) -> InitError) {
    for (level, &word) in (2..=case().levels).flat_map(|level| words.iter().map(move |word| (level, word))) {
        let mut embedder = Embedder::new(case());
        embedder.link_down_to(level, TABLE);
        let word = with_table(word, embedder.frame());
        embedder.poke(level, word);
        let (before, free) = (embedder.tables(), embedder.sim.frames().free_now());
        for placement in [Placement::Classes, Placement::Lowest] {
            let refused = embedder.begin(1024, placement).map(drop);
            assert_eq!(refused, Err(error(VirtAddr(embedder.start), level)), "{word:#x} at level {level}");
            assert!(embedder.tables() == before, "{word:#x} at level {level}");
        }
        assert_eq!(embedder.sim.frames().free_now(), free);
        embedder.leave();
    }
}

#[test]
fn t2_init_refuses_larger_pages_of_the_embedder_at_each_level_and_touches_none() {
    let in_use = |at, level| InitError::InUse { at, level };
    init_refuses(four_levels, &leaves::<X86_64>(), in_use);
    init_refuses(five_levels, &leaves::<X86_64>(), in_use);
    init_refuses(two_levels, &leaves::<X86_32>(), in_use);
}

#[test]
fn t2_init_refuses_tables_that_forbid_writing_or_execution_by_name() {
    let restricted = |at, level| InitError::Restricted { at, level };
    init_refuses(four_levels, &restrictions::<X86_64>(), restricted);
    init_refuses(five_levels, &restrictions::<X86_64>(), restricted);
    init_refuses(two_levels, &restrictions::<X86_32>(), restricted);
}

/// All ways to make an area with entries.
fn make<F: Format>(vm: &Vmalloc<Sim<F>>, way: usize, frames: &[Pfn]) -> Result<At, AllocError> {
    match way {
        0 => vm.alloc(Req::pages(3)),
        1 => vm.alloc(Req::pages(200)),
        // SAFETY: P1: they are held for longer.
        2 => unsafe { vm.vmap(frames, Req::bytes(0)) },
        // SAFETY: P4: as above.
        3 => unsafe { vm.map_ram(frames, None) },
        _ => vm.ioremap(DEVICE, 5 * PAGE, MemType::Uncached),
    }
}

/// Allocations refuse whatever stands at each level below the root, whose entries
/// `init` has linked.
fn alloc_refuses<F: ByHand>(case: fn() -> Case<F>, words: &[u64], error: fn(VirtAddr) -> AllocError) {
    for (level, &word) in (2..case().levels).flat_map(|level| words.iter().map(move |word| (level, word))) {
        for placement in [Placement::Classes, Placement::Lowest] {
            let mut embedder = Embedder::new(case());
            embedder.link_down_to(level, TABLE);
            let lower = embedder.frame();
            let vm = embedder.begin(1024, placement).expect("nothing is in the way yet");
            let word = with_table(word, lower);
            embedder.poke(level, word);
            let frames = [embedder.frame(), lower];
            let before = embedder.tables();
            for way in 0..5 {
                let made = make(&vm, way, &frames);
                let Err(refused) = made else { panic!("way {way} was made over {word:#x} at level {level}") };
                let expected = [error(VirtAddr(embedder.start)), error(refused_at(refused))];
                assert!(expected.contains(&refused), "way {way} over {word:#x} at level {level}: {refused:?}");
                assert!(embedder.tables() == before, "way {way} over {word:#x} at level {level}");
                vm.purge();
                vm.tick();
            }
            assert!(vm.reserve(Req::pages(5)).is_ok(), "addresses alone need no entry");
            drop(vm);
            let says = embedder.sim.entry(VirtAddr(embedder.start), level);
            assert_eq!(says, F::decode(F::word(word), level), "{word:#x} at level {level}, when the instance is gone");
            embedder.leave();
        }
    }
}

fn refused_at(error: AllocError) -> VirtAddr {
    match error {
        AllocError::InUse(at) | AllocError::Restricted(at) => at,
        other => panic!("{other:?}"),
    }
}

#[test]
fn t2_what_the_embedder_maps_later_is_in_use_at_each_level_and_never_touched() {
    alloc_refuses(four_levels, &leaves::<X86_64>(), AllocError::InUse);
    alloc_refuses(five_levels, &leaves::<X86_64>(), AllocError::InUse);
}

#[test]
fn t2_nothing_is_mapped_under_a_table_that_forbids_writing_or_execution() {
    alloc_refuses(four_levels, &restrictions::<X86_64>(), AllocError::Restricted);
    alloc_refuses(five_levels, &restrictions::<X86_64>(), AllocError::Restricted);
}

/// An area is made, used and freed under an embedder's table with a flag at each
/// level, which stays as it is.
fn flags_are_the_embedders<F: ByHand>(case: fn() -> Case<F>) {
    // User, write-through, uncached, not accessed, dirty, global, and what is
    // ignored.
    let low = [2u64, 3, 4, 5, 6, 8, 9, 10, 11];
    for level in 2..=case().levels {
        for bit in low.into_iter().chain((52..63).filter(|_| F::BITS == 64)) {
            let mut embedder = Embedder::new(case());
            embedder.link_down_to(level, TABLE);
            let lower = embedder.frame();
            let word = (TABLE ^ 1 << bit) | lower.phys();
            embedder.poke(level, word);
            let before = embedder.tables();
            let vm = embedder.begin(1024, Placement::Classes).expect("any flag will do");
            let area = vm.alloc(Req::pages(3)).expect("any flag will do");
            embedder.sim.store(0, page_of(area, 2), 7).expect("a page");
            assert_eq!(vm.check(), Ok(()));
            // SAFETY: V1: nobody uses it.
            unsafe { vm.free(area) }.expect("an area");
            vm.purge();
            drop(vm);
            assert!(embedder.tables() == before, "bit {bit} at level {level}");
            embedder.leave();
        }
    }
}

#[test]
fn m1_tables_above_a_region_may_have_any_flags_and_keep_them() {
    flags_are_the_embedders(four_levels);
    flags_are_the_embedders(five_levels);
    flags_are_the_embedders(two_levels);
}
