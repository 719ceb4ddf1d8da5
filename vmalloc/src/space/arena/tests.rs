//! The arena beside models too simple to be wrong.

extern crate std;

mod walks;

use super::block::ITEMS;
use super::*;
use crate::error::Broken;
use crate::testing::PageMachine;
use core::fmt::Write;
use std::string::String;
use std::vec;
use std::vec::Vec;

/// An arena, its machine, and a prealloc that is always full enough.
struct Bench {
    machine: PageMachine,
    arena: Arena,
    prealloc: Prealloc,
    /// The takes that did not find a run in their searches and told where to go on.
    breaks: usize,
}

impl Bench {
    fn new(grains: usize) -> Bench {
        Bench::at(grains, 0)
    }

    fn at(grains: usize, phase: usize) -> Bench {
        let (machine, arena) = (PageMachine::default(), Arena::new(grains, phase));
        Bench { machine, arena, prealloc: Prealloc::new(), breaks: 0 }
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
        let mut rest = fit.clone();
        loop {
            match self.stocked(|arena, machine, prealloc| arena.take(machine, prealloc, &rest)) {
                Ok(start) => return Ok(start),
                Err(None) => return Err(self.arena.widest_within(&self.machine, &fit.within)),
                Err(Some(next)) => {
                    assert!(next > rest.within.start);
                    rest.within.start = next;
                    self.breaks += 1;
                }
            }
        }
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

/// An arena in which `holes` holes of 20 grains are free, 8 grains after each multiple of 32, and all
/// above them.
fn with_odd_holes(holes: usize) -> Bench {
    let mut bench = Bench::new(1 << 20);
    assert!(bench.take_at(0, 8) && (0..holes).all(|hole| bench.take_at(32 * hole + 28, 12)));
    bench
}

#[test]
fn an_aligned_run_above_many_holes_that_are_not_aligned_is_found_after_a_bounded_number_of_searches_each() {
    for holes in [1, 30, 31, 32, 33, 63, 64, 1000, 10_000] {
        let mut bench = with_odd_holes(holes);
        let above = (32 * holes + 8).next_multiple_of(16);
        let mut calls = 1;
        let mut fit = Fit { align: 16, ..Fit::of(16) };
        let found = loop {
            match bench.stocked(|arena, machine, prealloc| arena.take(machine, prealloc, &fit)) {
                Err(Some(next)) => {
                    assert!(next <= fit.within.start + 32 * SEARCHES, "a search passes one hole");
                    (fit.within.start, calls) = (next, calls + 1);
                }
                done => break done,
            }
        };
        assert_eq!((found, calls), (Ok(above), (holes + 2).div_ceil(SEARCHES)), "{holes} holes");
        assert_eq!((bench.check(), bench.take(&Fit::of(16))), (Ok(()), Ok(8)), "the first hole is free");
    }
}

#[test]
fn no_aligned_run_among_many_holes_is_told_after_all_of_them() {
    let mut bench = with_odd_holes(1000);
    let fit = Fit { align: 16, within: 0..32_000, ..Fit::of(16) };
    assert_eq!(bench.take(&fit), Err(20));
    assert_eq!(bench.breaks, 1000 / SEARCHES);
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
