//! Random walks of the arena beside a list of runs.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

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
