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
    fn new(grains: usize) -> Bench {
        Bench::at(grains, 0)
    }

    fn at(grains: usize, phase: usize) -> Bench {
        Bench { machine: PageMachine::default(), arena: Arena::new(grains, phase), prealloc: Prealloc::new() }
    }

    /// Runs a take with exactly the frames that it may need.
    fn stocked<T>(&mut self, take: impl FnOnce(&mut Arena, &PageMachine, &mut Prealloc) -> T) -> T {
        let (needed, frames) = (self.arena.frames_needed(), self.arena.frames());
        self.prealloc.fill(&self.machine, crate::units::Node(0), needed).expect("the host has pages");
        let result = take(&mut self.arena, &self.machine, &mut self.prealloc);
        assert_eq!(self.prealloc.len() + (self.arena.frames() - frames) as usize, needed, "A4");
        result
    }

    fn take(&mut self, fit: &Fit) -> Result<usize, usize> {
        self.stocked(|arena, machine, prealloc| arena.take(machine, prealloc, fit))
    }

    fn take_at(&mut self, start: usize, len: usize) -> bool {
        self.stocked(|arena, machine, prealloc| arena.take_at(machine, prealloc, start, len))
    }

    /// Tries lower and lower bases, from `base` on, and returns the one at which both parts are taken.
    fn take_parts(&mut self, base: usize, parts: [(usize, usize); 2]) -> Option<usize> {
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

    fn free(&mut self, start: usize, len: usize) {
        let frames = self.arena.frames();
        self.arena.free(&self.machine, start, len);
        assert_eq!(self.arena.frames(), frames, "A5: freeing needs no memory");
    }

    fn is_free(&self, start: usize, len: usize) -> bool {
        self.arena.is_free(&self.machine, start, len)
    }

    fn widest(&self) -> usize {
        self.arena.widest(&self.machine)
    }

    /// The most places of one window among so many from `first` on.
    fn widest_of(grains: usize, first: usize) -> usize {
        grains.saturating_sub(WINDOW - first).min(WINDOW).max(WINDOW - first)
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
            from += same;
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
            let grains = self.arena.grains();
            let widest = if grains > WINDOW { Bench::widest_of(grains, self.arena.places.start) } else { grains };
            assert_eq!((self.arena.used(), self.widest()), (0, widest));
        }
    }
}

/// An arena of 64 grains in which `runs` are taken.
fn with_taken(runs: &[Range<usize>]) -> Bench {
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
    assert_eq!((bench.arena.used(), bench.widest(), bench.arena.frames()), (0, 64, 0));
}

#[test]
fn grains_outside_of_the_arena_are_neither_free_nor_taken() {
    let mut bench = Bench::new(100);
    let is_taken = |bench: &Bench, start, len| bench.arena.is_taken(&bench.machine, start, len);
    let outside = [(99, 2), (100, 1), (101, 1), (u32::MAX as usize, 1), (WINDOW, 1)];
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
    assert_eq!(bench.take(&Fit { phase: 0usize.wrapping_sub(2), ..fit }), Ok(2));
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
        assert_eq!((bench.widest(), bench.take(&Fit::of(1))), (0, Err(0)));
        bench.free(0, grains);
        let pieces: Vec<usize> = (0..grains).step_by(77).collect();
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

    let mut wide = Bench::new(3 * WINDOW);
    assert!(wide.take_at(2 * WINDOW, 1));
    assert_eq!(wide.check(), Ok(()));
    wide.arena.root.block(&wide.machine).unwrap().set_node(ITEMS + 2, mixed);
    assert_eq!(wide.check(), broken("A2", 2 * WINDOW));

    let mut lost = Arena::new(64, 0);
    lost.top = mixed;
    assert_eq!(lost.check(&PageMachine::default()), broken("A3", 0));
}

/// A step of a random walk. Numbers are reduced modulo the number of choices.
#[derive(Clone, Debug)]
enum Step {
    Take(Fit),
    TakeAt(usize, usize),
    /// Two runs at the highest base up to one: their distance, and the length of each.
    TakeParts(usize, usize, usize),
    /// The n-th live run, and the runs after it that touch it.
    Free {
        nth: usize,
        neighbours: bool,
    },
}

fn steps(grains: usize, longest: usize) -> impl Strategy<Value = Vec<Step>> {
    let len = prop_oneof![3 => 1..=longest.min(8), 1 => 1..=longest];
    let fit = (len.clone(), 0u32..8, any::<usize>(), 0..grains, 0..=grains, any::<bool>()).prop_map(
        |(grains, align, phase, from, end, all)| {
            let within = if all { 0..usize::MAX } else { from..end };
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

/// One bool per grain. Between two windows there is a wall: no run that was searched for crosses it.
struct Model {
    taken: Vec<bool>,
    wall: usize,
    live: BTreeMap<usize, usize>,
}

impl Model {
    fn is_free(&self, start: usize, len: usize) -> bool {
        self.taken.get(start..start + len).is_some_and(|grains| !grains.contains(&true))
    }

    /// Whether a search may find the run.
    fn fits(&self, start: usize, len: usize) -> bool {
        self.is_free(start, len) && !(start + 1..start + len).contains(&self.wall)
    }

    fn take(&mut self, start: usize, len: usize) {
        self.taken[start..start + len].fill(true);
        self.live.insert(start, len);
    }

    fn lowest(&self, fit: &Fit) -> Result<usize, usize> {
        let fits = |&start: &usize| {
            fit.phase.wrapping_add(start).is_multiple_of(fit.align)
                && start + fit.grains <= fit.within.end
                && self.fits(start, fit.grains)
        };
        let first = fit.within.start.min(self.taken.len());
        (first..self.taken.len()).find(fits).ok_or_else(|| self.widest_within(&fit.within))
    }

    fn widest_within(&self, range: &Range<usize>) -> usize {
        let inside = |part: Range<usize>| part.start.max(range.start)..part.end.min(range.end);
        let parts = [inside(0..self.wall), inside(self.wall..self.taken.len())];
        let runs = parts.into_iter().flat_map(|part| self.taken.get(part).unwrap_or(&[]).split(|&taken| taken));
        runs.map(|run| run.len()).max().unwrap_or(0)
    }

    fn widest(&self) -> usize {
        let (low, high) = self.taken.split_at(self.wall);
        let runs = low.split(|&taken| taken).chain(high.split(|&taken| taken));
        runs.map(|run| run.len()).max().unwrap_or(0)
    }

    /// Frees a live run and returns its grains.
    fn free(&mut self, nth: usize, neighbours: bool) -> Option<(usize, usize)> {
        let start = *self.live.keys().nth(nth % self.live.len().max(1))?;
        let mut end = start;
        while let Some(len) = self.live.remove(&end) {
            end += len;
            if !neighbours {
                break;
            }
        }
        self.taken[start..end].fill(false);
        Some((start, end - start))
    }
}

/// Runs the steps on an arena and on the model of its `grains` grains from `at` on. The others are
/// taken.
fn walk(mut bench: Bench, at: usize, wall: usize, grains: usize, steps: &[Step]) {
    let mut model = Model { taken: vec![false; grains], wall, live: BTreeMap::new() };
    let others = bench.arena.used();
    let back = |start: usize| start - at;
    for step in steps {
        match step {
            Step::Take(fit) => {
                let expected = model.lowest(fit);
                let within = fit.within.start + at..fit.within.end.saturating_add(at);
                let moved = Fit { phase: fit.phase.wrapping_sub(at), within, ..fit.clone() };
                assert_eq!(bench.take(&moved).map(back), expected, "{fit:?}");
                expected.into_iter().for_each(|start| model.take(start, fit.grains));
            }
            &Step::TakeAt(start, len) => {
                let expected = model.is_free(start, len);
                assert_eq!(bench.take_at(at + start, len), expected);
                expected.then(|| model.take(start, len));
            }
            &Step::TakeParts(from, distance, len) => {
                let parts = [(0, len), (distance, len)];
                let fit = |base: &usize| parts.iter().all(|part| model.fits(base + part.0, part.1));
                let expected = (0..=from).rev().find(fit);
                assert_eq!(bench.take_parts(at + from, parts).map(back), expected);
                expected.into_iter().for_each(|base| parts.iter().for_each(|part| model.take(base + part.0, part.1)));
            }
            &Step::Free { nth, neighbours } => {
                model.free(nth, neighbours).into_iter().for_each(|(start, len)| bench.free(at + start, len));
            }
        }
        let used = others + model.taken.iter().filter(|&&taken| taken).count();
        assert_eq!((bench.arena.used(), bench.widest()), (used, model.widest()));
        assert_eq!(bench.check(), Ok(()));
    }
    assert!((0..grains).all(|grain| bench.is_free(at + grain, 1) == model.is_free(grain, 1)));
}

proptest! {
    #[test]
    fn a_small_arena_agrees_with_a_row_of_bools(
        (grains, steps) in (1usize..400).prop_flat_map(|grains| (Just(grains), steps(grains, grains)))
    ) {
        walk(Bench::new(grains), 0, 0, grains, &steps);
    }

    #[test]
    fn the_border_of_two_windows_agrees_with_a_row_of_bools_that_no_search_looks_across(
        phase in prop_oneof![Just(0), 0..3 * WINDOW],
        (wall, grains, steps) in (1usize..200, 200usize..400).prop_flat_map(|(wall, grains)| {
            (Just(wall), Just(grains), steps(grains, grains))
        })
    ) {
        let mut bench = Bench::at(3 * WINDOW, phase);
        let at = 2 * WINDOW - phase % WINDOW - wall;
        prop_assert!(bench.take_at(0, at) && bench.take_at(at + grains, 3 * WINDOW - at - grains));
        walk(bench, at, wall, grains, &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn an_arena_of_several_blocks_agrees_with_a_row_of_bools(
        (grains, steps) in (8_000usize..40_000).prop_flat_map(|grains| (Just(grains), steps(grains, 12_000)))
    ) {
        walk(Bench::new(grains), 0, 0, grains, &steps);
    }
}

/// The taken runs of an arena that is too large for one bool per grain.
struct Runs {
    grains: usize,
    /// The lowest border of two windows.
    border: usize,
    taken: BTreeMap<usize, usize>,
}

impl Runs {
    /// The holes, in order, cut at the borders of windows.
    fn holes(&self) -> impl Iterator<Item = Range<usize>> {
        let starts = self.taken.keys().copied().chain([self.grains]);
        let ends = [0].into_iter().chain(self.taken.iter().map(|(start, len)| start + len));
        let borders = (self.border..).step_by(WINDOW);
        ends.zip(starts).flat_map(move |(end, start)| {
            let inside = borders.clone().skip_while(move |&at| at <= end).take_while(move |&at| at < start);
            let firsts = [end].into_iter().chain(inside.clone());
            firsts.zip(inside.chain([start])).map(|(first, end)| first..end)
        })
    }

    fn lowest(&self, fit: &Fit) -> Result<usize, usize> {
        let fits = |hole: Range<usize>| {
            let address = (hole.start.max(fit.within.start) + fit.phase).next_multiple_of(fit.align);
            let start = address - fit.phase;
            (start + fit.grains <= hole.end.min(fit.within.end)).then_some(start)
        };
        let inside = |hole: Range<usize>| hole.end.min(fit.within.end).saturating_sub(hole.start.max(fit.within.start));
        self.holes().find_map(fits).ok_or_else(|| self.holes().map(inside).max().unwrap_or(0))
    }
}

/// Runs random steps on a large arena and on its list of runs.
fn large_walk(grains: usize, own: usize, steps: usize, live: usize) {
    let mut bench = Bench::at(grains, own);
    let border = if grains > WINDOW { WINDOW - own % WINDOW } else { WINDOW };
    let mut runs = Runs { grains, border, taken: BTreeMap::new() };
    let mut held: Vec<usize> = Vec::new();
    let mut seed = grains as u64;
    let mut draw = move |below: usize| {
        seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (((seed >> 32) as u128 * below as u128) >> 32) as usize
    };
    for step in 0..steps {
        if draw(live * 2) > held.len() {
            let (bits, align) = (draw(if grains > WINDOW { 32 } else { 25 }), draw(2) * draw(15));
            let border = (border + draw(grains.div_ceil(WINDOW)) * WINDOW).min(grains);
            let within = match draw(4) {
                0 => draw(grains)..draw(grains),
                1 if grains > WINDOW => border.saturating_sub(draw(1 << 24))..border + draw(1 << 24),
                _ => 0..usize::MAX,
            };
            let fit = Fit { grains: 1 + draw(1 << bits), align: 1 << align, phase: draw(grains), within };
            let expected = runs.lowest(&fit);
            assert_eq!(bench.take(&fit), expected, "step {step}: {fit:?}");
            if let Ok(start) = expected {
                runs.taken.insert(start, fit.grains);
                held.push(start);
            }
        } else if !held.is_empty() {
            let start = held.swap_remove(draw(held.len()));
            bench.free(start, runs.taken.remove(&start).expect("held"));
        }
        if step % (steps / 20) == 0 {
            assert_eq!(bench.check(), Ok(()));
        }
    }
    assert_eq!(bench.arena.used(), runs.taken.values().sum::<usize>());
    assert!(runs.holes().all(|hole| hole.is_empty() || bench.is_free(hole.start, hole.end - hole.start)));
}

#[test]
fn large_arenas_agree_with_a_list_of_runs() {
    for (grains, own) in [
        (1 << 20, 0),
        ((1 << 27) + 12_345, 77),
        (WINDOW, 0),
        (WINDOW + 1, WINDOW - 5),
        (WINDOW + 1, 5),
        (25 * WINDOW - 1, 0xffa0 << 30 | 1),
        (MAX_GRAINS as usize, 1 << 30),
    ] {
        large_walk(grains, own, 20_000, 60);
    }
}

#[test]
fn an_arena_of_several_windows_needs_frames_where_it_is_used() {
    let mut bench = Bench::at(25 * WINDOW - 1, 1);
    assert_eq!((bench.arena.frames_needed(), bench.widest()), (17, WINDOW));
    assert_eq!(bench.take(&Fit { align: 1 << 35, phase: 1, ..Fit::of(5) }), Ok((1 << 35) - 1));
    let few = bench.arena.frames();
    assert!(few <= 17, "{few} frames");
    assert!(bench.take_at(3 * WINDOW - 8, 14), "over a border");
    assert!(bench.is_free(3 * WINDOW + 6, WINDOW + 7) && !bench.is_free(3 * WINDOW + 5, WINDOW));
    assert_eq!(bench.take(&Fit::of(WINDOW)), Ok(WINDOW - 1));
    assert_eq!(bench.take(&Fit::of(WINDOW + 1)), Err(WINDOW), "longer than a window");
    assert_eq!(bench.take(&Fit { within: 24 * WINDOW..usize::MAX, ..Fit::of(WINDOW) }), Err(WINDOW - 1));
    assert_eq!(bench.take(&Fit { within: 24 * WINDOW - 1..usize::MAX, ..Fit::of(WINDOW) }), Ok(24 * WINDOW - 1));
    assert_eq!(bench.check(), Ok(()));
    bench.free(WINDOW - 1, WINDOW);
    bench.free(3 * WINDOW - 8, 14);
    assert!(bench.is_free(0, 16 * WINDOW - 1));
}

#[test]
fn a_million_operations_agree_with_a_list_of_runs() {
    large_walk((1 << 27) + 12_345, 0, 1_000_000, 100);
}
