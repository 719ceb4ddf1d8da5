//! The arena beside models too simple to be wrong.

extern crate std;

use super::block::ITEMS;
use super::*;
use crate::error::Broken;
use crate::testing::PageMachine;
use core::fmt::Write;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::string::String;
use std::vec;
use std::vec::Vec;

/// An arena, its machine, and a prealloc that is always full enough.
struct Bench {
    machine: PageMachine,
    arena: Arena,
    prealloc: Prealloc,
}

impl Bench {
    fn new(grains: u32) -> Bench {
        Bench { machine: PageMachine::default(), arena: Arena::new(grains), prealloc: Prealloc::new() }
    }

    /// Runs a take with exactly the frames that it may need.
    fn stocked<T>(&mut self, take: impl FnOnce(&mut Arena, &PageMachine, &mut Prealloc) -> T) -> T {
        let (needed, frames) = (self.arena.frames_needed(), self.arena.frames());
        self.prealloc.fill(&self.machine, crate::units::Node(0), needed).expect("the host has pages");
        let result = take(&mut self.arena, &self.machine, &mut self.prealloc);
        assert_eq!(self.prealloc.len() + (self.arena.frames() - frames) as usize, needed, "A4");
        result
    }

    fn take(&mut self, fit: &Fit) -> Result<u32, u32> {
        self.stocked(|arena, machine, prealloc| arena.take(machine, prealloc, fit))
    }

    fn take_at(&mut self, start: u32, len: u32) -> bool {
        self.stocked(|arena, machine, prealloc| arena.take_at(machine, prealloc, start, len))
    }

    /// Tries lower and lower bases, from `base` on, and returns the one at which both parts are taken.
    fn take_parts(&mut self, base: u32, parts: [(u32, u32); 2]) -> Option<u32> {
        let (machine, frames) = (&self.machine, 2 * self.arena.frames_needed());
        self.prealloc.fill(machine, crate::units::Node(0), frames).expect("the host has pages");
        let mut next = Some(base);
        while let Some(base) = next {
            match self.arena.take_parts(machine, &mut self.prealloc, parts.into_iter(), base) {
                Ok(()) => break,
                Err(lower) => next = lower.inspect(|&lower| assert!(lower < base)),
            }
        }
        self.prealloc.trim(machine, 0);
        next
    }

    fn free(&mut self, start: u32, len: u32) {
        let frames = self.arena.frames();
        self.arena.free(&self.machine, start, len);
        assert_eq!(self.arena.frames(), frames, "A5: freeing needs no memory");
    }

    fn is_free(&self, start: u32, len: u32) -> bool {
        self.arena.is_free(&self.machine, start, len)
    }

    fn check(&self) -> Result<(), Broken> {
        self.arena.check(&self.machine)
    }

    /// The arena's runs, like "[2 taken][60 free]".
    fn picture(&self) -> String {
        let mut picture = String::new();
        let mut from = 0;
        while from < self.arena.grains() {
            let free = self.is_free(from, 1);
            let same = (from..self.arena.grains()).take_while(|&grain| self.is_free(grain, 1) == free).count();
            write!(picture, "[{same} {}]", if free { "free" } else { "taken" }).expect("strings grow");
            from += same as u32;
        }
        picture
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.arena.destroy(&self.machine, |frame| self.machine.take_back(frame));
        self.prealloc.trim(&self.machine, 0);
        if !std::thread::panicking() {
            assert_eq!(self.machine.frames().out(), 0, "every frame came back");
            assert_eq!((self.arena.used(), self.arena.widest()), (0, self.arena.grains()));
        }
    }
}

/// An arena of 64 grains in which `runs` are taken.
fn with_taken(runs: &[Range<u32>]) -> Bench {
    let mut bench = Bench::new(64);
    for run in runs {
        assert!(bench.take_at(run.start, run.end - run.start));
    }
    bench
}

#[test]
fn a_fresh_arena_is_all_free_and_holds_no_frame() {
    let bench = Bench::new(64);
    assert_eq!(bench.picture(), "[64 free]");
    assert_eq!((bench.arena.used(), bench.arena.widest(), bench.arena.frames()), (0, 64, 0));
}

#[test]
fn grains_outside_of_the_arena_are_neither_free_nor_taken() {
    let mut bench = Bench::new(100);
    let is_taken = |bench: &Bench, start, len| bench.arena.is_taken(&bench.machine, start, len);
    let outside = [(99, 2), (100, 1), (101, 1), (u32::MAX, 1)];
    for taken in [false, true] {
        assert_eq!((bench.is_free(99, 1), is_taken(&bench, 99, 1)), (!taken, taken));
        assert!(outside.iter().all(|&(start, len)| !bench.is_free(start, len) && !is_taken(&bench, start, len)));
        assert_eq!(bench.take_at(0, 100), !taken);
    }
}

#[test]
fn the_lowest_hole_that_is_wide_enough_is_taken() {
    let mut bench = with_taken(&[0..2, 3..10, 14..20, 30..31]);
    assert_eq!(bench.take(&Fit::of(3)), Ok(10));
    assert_eq!(bench.picture(), "[2 taken][1 free][10 taken][1 free][6 taken][10 free][1 taken][33 free]");
    assert_eq!(bench.take(&Fit::of(1)), Ok(2));
    assert_eq!(bench.take(&Fit::of(11)), Ok(31));
    bench.free(3, 7);
    assert_eq!(bench.take(&Fit::of(7)), Ok(3));
}

#[test]
fn neighbours_that_are_freed_become_one_hole() {
    let mut bench = with_taken(&[0..10, 10..20, 20..30]);
    bench.free(0, 10);
    bench.free(20, 10);
    assert_eq!(bench.picture(), "[10 free][10 taken][44 free]");
    bench.free(10, 10);
    assert_eq!(bench.picture(), "[64 free]");
}

#[test]
fn a_refusal_tells_the_widest_hole_and_changes_nothing() {
    let mut bench = with_taken(&[10..20, 40..41]);
    let before = bench.picture();
    assert_eq!(bench.take(&Fit::of(24)), Err(23));
    assert_eq!(bench.take(&Fit { align: 32, ..Fit::of(20) }), Err(23));
    assert_eq!(bench.take(&Fit { within: 0..30, ..Fit::of(11) }), Err(10), "of the range");
    assert_eq!(bench.take(&Fit { within: 64..90, ..Fit::of(1) }), Err(0));
    assert!(!bench.take_at(9, 2));
    assert!(!bench.take_at(60, 5));
    assert_eq!(bench.picture(), before);
    assert_eq!(Bench::new(0).take(&Fit::of(1)), Err(0));
}

#[test]
fn an_exactly_aligned_hole_is_found_behind_longer_ones_that_are_not() {
    let mut bench = with_taken(&[0..1, 8..9, 15..16, 20..64]);
    // Holes: 1..8 (7 long), 9..15 (6 long), 16..20 (4 long, aligned).
    assert_eq!(bench.take(&Fit { align: 16, ..Fit::of(4) }), Ok(16));
    assert_eq!(bench.take(&Fit { align: 4, ..Fit::of(4) }), Ok(4));
}

#[test]
fn alignment_is_that_of_the_address() {
    let fit = Fit { align: 8, phase: 3, ..Fit::of(2) };
    let mut bench = Bench::new(64);
    assert_eq!(bench.take(&fit), Ok(5));
    assert_eq!(bench.take(&fit), Ok(13));
    assert_eq!(bench.take(&Fit { phase: 0u32.wrapping_sub(2), ..fit }), Ok(2));
}

#[test]
fn a_take_stays_within_its_range() {
    let mut bench = with_taken(&[12..13, 13..14]);
    assert_eq!(bench.take(&Fit { within: 9..30, ..Fit::of(4) }), Ok(14));
    assert_eq!(bench.take(&Fit { within: 9..30, ..Fit::of(3) }), Ok(9));
    assert_eq!(bench.take(&Fit { within: 9..30, ..Fit::of(12) }), Ok(18));
    assert_eq!(bench.picture(), "[9 free][21 taken][34 free]");
}

#[test]
fn a_long_take_needs_frames_at_its_two_ends_only() {
    let mut bench = Bench::new(1 << 27);
    assert_eq!(bench.arena.frames_needed(), 7);
    assert!(bench.take_at(5, (1 << 26) + 9));
    assert_eq!(bench.arena.frames(), 5);
    assert!(bench.take_at((1 << 26) + (1 << 20), 1 << 20));
    assert_eq!(bench.arena.frames(), 5, "whole blocks need none");
    assert_eq!(bench.take(&Fit::of(1 << 20)), Ok((1 << 26) + (1 << 21)));
    bench.free(5, (1 << 26) + 9);
    assert_eq!(bench.check(), Ok(()));
}

#[test]
fn a_whole_arena_can_be_taken_and_freed_piece_by_piece() {
    for grains in [1, 64, 100, 8192, 8193, 30_000] {
        let mut bench = Bench::new(grains);
        assert_eq!(bench.take(&Fit::of(grains)), Ok(0));
        assert_eq!((bench.arena.widest(), bench.take(&Fit::of(1))), (0, Err(0)));
        bench.free(0, grains);
        let pieces: Vec<u32> = (0..grains).step_by(77).collect();
        for &piece in &pieces {
            assert_eq!(bench.take(&Fit::of(77.min(grains - piece))), Ok(piece));
        }
        assert_eq!(bench.arena.used(), grains);
        bench.free(0, grains);
        assert_eq!((bench.check(), bench.arena.used()), (Ok(()), 0), "adjacent takes go back in one piece");
    }
}

#[test]
fn what_was_below_a_uniform_node_is_forgotten() {
    let mut bench = Bench::new(3 * 8192);
    assert!(bench.take_at(8192, 100) && bench.take_at(8292, 8092));
    bench.free(8192, 8192);
    assert!(bench.take_at(8100, 8284), "over the whole block and beyond");
    bench.free(8100, 8284);
    assert!(bench.take_at(8200, 7));
    assert!(bench.is_free(8192, 8) && bench.is_free(8207, 8177));
    assert_eq!(bench.check(), Ok(()));
}

#[test]
#[should_panic(expected = "the prealloc was not filled")]
fn a_take_without_its_stock_is_a_bug_of_the_caller() {
    let mut bench = Bench::new(64);
    let _ = bench.arena.take(&bench.machine, &mut Prealloc::new(), &Fit::of(1));
}

#[test]
#[should_panic(expected = "A5")]
#[cfg(debug_assertions)]
fn freeing_what_is_free_is_a_bug_of_the_caller() {
    with_taken(&[0..4, 5..9]).free(0, 9);
}

/// The result of `check` for an arena of 8,192 grains, with every third of the first hundred taken,
/// after `damage` ran on it.
fn checked_after(damage: impl FnOnce(&mut Bench)) -> Result<(), Broken> {
    let mut bench = Bench::new(8192);
    for third in 0..33 {
        assert!(bench.take_at(3 * third, 1));
    }
    damage(&mut bench);
    bench.check()
}

#[test]
fn check_names_the_rule_that_is_broken() {
    let broken = |rule, at| Err(Broken { rule, at });
    let set = |at, node| move |bench: &mut Bench| bench.arena.root.block(&bench.machine).unwrap().set_node(at, node);
    let mixed = Node { head: 1, tail: 1, best: 1 };
    assert_eq!(checked_after(|_| ()), Ok(()));
    assert_eq!(checked_after(set(ITEMS + 1, mixed)), broken("A1", 64));
    assert_eq!(checked_after(set(ITEMS / 2, mixed)), broken("A2", 0));
    assert_eq!(checked_after(|bench| bench.arena.top = Node { head: 1, ..Node::FREE }), broken("A3", 0));
    assert_eq!(checked_after(|bench| bench.arena.top = mixed), broken("A2", 0));
    assert_eq!(checked_after(|bench| bench.arena.used += 1), broken("A4", 0));
    assert_eq!(checked_after(|bench| bench.arena.frames += 1), broken("A4", 0));

    let mut lost = Arena::new(64);
    lost.top = mixed;
    assert_eq!(lost.check(&PageMachine::default()), broken("A3", 0));
}

/// A step of a random walk. Numbers are reduced modulo the number of choices.
#[derive(Clone, Debug)]
enum Step {
    Take(Fit),
    TakeAt(u32, u32),
    /// Two runs at the highest base up to one: their distance, and the length of each.
    TakeParts(u32, u32, u32),
    /// The n-th live run, and the runs after it that touch it.
    Free {
        nth: usize,
        neighbours: bool,
    },
}

fn steps(grains: u32, longest: u32) -> impl Strategy<Value = Vec<Step>> {
    let len = prop_oneof![3 => 1..=longest.min(8), 1 => 1..=longest];
    let fit = (len.clone(), 0u32..8, any::<u32>(), 0..grains, 0..=grains, any::<bool>()).prop_map(
        |(grains, align, phase, from, end, all)| {
            let within = if all { 0..u32::MAX } else { from..end };
            Fit { grains, align: 1 << align, phase, within }
        },
    );
    let step = prop_oneof![
        2 => len.clone().prop_map(|len| Step::Take(Fit::of(len))),
        2 => fit.prop_map(Step::Take),
        1 => (0..grains, len.clone()).prop_map(|(start, len)| Step::TakeAt(start, len)),
        1 => (0..grains, 0..grains, len).prop_map(|(base, gap, len)| Step::TakeParts(base, len + gap, len)),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(nth, neighbours)| Step::Free { nth, neighbours }),
    ];
    prop::collection::vec(step, 1..80)
}

/// One bool per grain.
struct Model {
    taken: Vec<bool>,
    live: BTreeMap<u32, u32>,
}

impl Model {
    fn is_free(&self, start: u32, len: u32) -> bool {
        self.taken.get(start as usize..(start + len) as usize).is_some_and(|grains| !grains.contains(&true))
    }

    fn take(&mut self, start: u32, len: u32) {
        self.taken[start as usize..(start + len) as usize].fill(true);
        self.live.insert(start, len);
    }

    fn lowest(&self, fit: &Fit) -> Result<u32, u32> {
        let fits = |&start: &u32| {
            fit.phase.wrapping_add(start) % fit.align == 0
                && start + fit.grains <= fit.within.end
                && self.is_free(start, fit.grains)
        };
        let first = fit.within.start.min(self.taken.len() as u32);
        (first..self.taken.len() as u32).find(fits).ok_or_else(|| self.widest_within(&fit.within))
    }

    fn widest_within(&self, range: &Range<u32>) -> u32 {
        let end = (range.end as usize).min(self.taken.len());
        let part = self.taken.get(range.start as usize..end).unwrap_or(&[]);
        part.split(|&taken| taken).map(|run| run.len() as u32).max().unwrap_or(0)
    }

    fn widest(&self) -> u32 {
        self.taken.split(|&taken| taken).map(|run| run.len() as u32).max().unwrap_or(0)
    }

    /// Frees a live run and returns its grains.
    fn free(&mut self, nth: usize, neighbours: bool) -> Option<(u32, u32)> {
        let start = *self.live.keys().nth(nth % self.live.len().max(1))?;
        let mut end = start;
        while let Some(len) = self.live.remove(&end) {
            end += len;
            if !neighbours {
                break;
            }
        }
        self.taken[start as usize..end as usize].fill(false);
        Some((start, end - start))
    }
}

/// Runs the steps on the arena and on the model.
fn walk(grains: u32, steps: &[Step]) {
    let mut bench = Bench::new(grains);
    let mut model = Model { taken: vec![false; grains as usize], live: BTreeMap::new() };
    for step in steps {
        match step {
            Step::Take(fit) => {
                let expected = model.lowest(fit);
                assert_eq!(bench.take(fit), expected, "{fit:?}");
                expected.into_iter().for_each(|start| model.take(start, fit.grains));
            }
            &Step::TakeAt(start, len) => {
                let expected = model.is_free(start, len);
                assert_eq!(bench.take_at(start, len), expected);
                expected.then(|| model.take(start, len));
            }
            &Step::TakeParts(from, distance, len) => {
                let parts = [(0, len), (distance, len)];
                let are_free = |base: &u32| parts.iter().all(|part| model.is_free(base + part.0, part.1));
                let expected = (0..=from).rev().find(are_free);
                assert_eq!(bench.take_parts(from, parts), expected);
                expected.into_iter().for_each(|base| parts.iter().for_each(|part| model.take(base + part.0, part.1)));
            }
            &Step::Free { nth, neighbours } => {
                model.free(nth, neighbours).into_iter().for_each(|(start, len)| bench.free(start, len));
            }
        }
        let used = model.taken.iter().filter(|&&taken| taken).count() as u32;
        assert_eq!((bench.arena.used(), bench.arena.widest()), (used, model.widest()));
        assert_eq!(bench.check(), Ok(()));
    }
    assert!((0..grains).all(|grain| bench.is_free(grain, 1) == model.is_free(grain, 1)));
}

proptest! {
    #[test]
    fn a_small_arena_agrees_with_a_row_of_bools(
        (grains, steps) in (1u32..400).prop_flat_map(|grains| (Just(grains), steps(grains, grains)))
    ) {
        walk(grains, &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn an_arena_of_several_blocks_agrees_with_a_row_of_bools(
        (grains, steps) in (8_000u32..40_000).prop_flat_map(|grains| (Just(grains), steps(grains, 12_000)))
    ) {
        walk(grains, &steps);
    }
}

/// The taken runs of an arena that is too large for one bool per grain.
struct Runs {
    grains: u32,
    taken: BTreeMap<u32, u32>,
}

impl Runs {
    /// The holes, in order.
    fn holes(&self) -> impl Iterator<Item = Range<u32>> {
        let starts = self.taken.keys().copied().chain([self.grains]);
        let ends = [0].into_iter().chain(self.taken.iter().map(|(start, len)| start + len));
        ends.zip(starts).map(|(end, start)| end..start)
    }

    fn lowest(&self, fit: &Fit) -> Result<u32, u32> {
        let fits = |hole: Range<u32>| {
            let address =
                (hole.start.max(fit.within.start) as u64 + fit.phase as u64).next_multiple_of(fit.align as u64);
            let start = address - fit.phase as u64;
            (start + fit.grains as u64 <= hole.end.min(fit.within.end) as u64).then_some(start as u32)
        };
        let inside = |hole: Range<u32>| hole.end.min(fit.within.end).saturating_sub(hole.start.max(fit.within.start));
        self.holes().find_map(fits).ok_or_else(|| self.holes().map(inside).max().unwrap_or(0))
    }
}

/// Runs random steps on a large arena and on its list of runs.
fn large_walk(grains: u32, steps: u32, live: usize) {
    let mut bench = Bench::new(grains);
    let mut runs = Runs { grains, taken: BTreeMap::new() };
    let mut held: Vec<u32> = Vec::new();
    let mut seed = grains as u64;
    let mut draw = move |below: u32| {
        seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (((seed >> 32) * below as u64) >> 32) as u32
    };
    for step in 0..steps {
        if draw(live as u32 * 2) as usize > held.len() {
            let (bits, align) = (draw(25), draw(2) * draw(15));
            let within = if draw(4) == 0 { draw(grains)..draw(grains) } else { 0..u32::MAX };
            let fit = Fit { grains: 1 + draw(1 << bits), align: 1 << align, phase: draw(grains), within };
            let expected = runs.lowest(&fit);
            assert_eq!(bench.take(&fit), expected, "step {step}: {fit:?}");
            if let Ok(start) = expected {
                runs.taken.insert(start, fit.grains);
                held.push(start);
            }
        } else if !held.is_empty() {
            let start = held.swap_remove(draw(held.len() as u32) as usize);
            bench.free(start, runs.taken.remove(&start).expect("held"));
        }
        if step % (steps / 20) == 0 {
            assert_eq!(bench.check(), Ok(()));
        }
    }
    assert_eq!(bench.arena.used(), runs.taken.values().sum::<u32>());
    assert!(runs.holes().all(|hole| hole.is_empty() || bench.is_free(hole.start, hole.end - hole.start)));
}

#[test]
fn large_arenas_agree_with_a_list_of_runs() {
    for grains in [1 << 20, (1 << 27) + 12_345, MAX_GRAINS] {
        large_walk(grains, 20_000, 60);
    }
}

#[test]
fn a_million_operations_agree_with_a_list_of_runs() {
    large_walk((1 << 27) + 12_345, 1_000_000, 100);
}
