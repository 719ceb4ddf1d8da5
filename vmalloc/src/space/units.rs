//! The unit table: the owner of each grain.
//!
//! The table holds a value of 64 bits for each grain; 0 means no owner. It is a radix tree of
//! frames with 512 entries each and has one to four levels, as the number of grains requires. A
//! missing frame stands for zeros.
//!
//! A reader takes no lock and never waits, so any context may read. Only the holder of the region's
//! lock calls [`UnitTable::set`] and [`UnitTable::clear`].
//!
//! # Rules
//! - **J1** An entry above the leaves is 0 or a frame's number plus one. It changes from 0 to a
//!   link once, after the frame was cleared (Release), and stays until [`UnitTable::destroy`]. A
//!   reader that finds a link (Acquire) may follow it.
//! - **J2** A value is stored with Release and loaded with Acquire. A reader that gets a value also
//!   sees what was written before the value was set.

use crate::machine::Machine;
use crate::machine::prealloc::Prealloc;
use crate::sync::plain::AtomicU64;
use crate::sync::plain::Ordering::{Acquire, Relaxed, Release};
use crate::units::Pfn;
use core::ops::Range;
use core::ptr::NonNull;

/// log2 of [`ENTRIES`].
const ENTRY_BITS: u32 = 9;
/// Entries in a frame.
const ENTRIES: usize = 1 << ENTRY_BITS;

type Entries = [AtomicU64; ENTRIES];

const _: () = assert!(size_of::<Entries>() == crate::units::PAGE_SIZE);

/// The index of the entry for `grain` in a frame whose entries cover 2^`shift` grains each.
#[inline(always)]
const fn index(grain: usize, shift: u32) -> usize {
    (grain >> shift) % ENTRIES
}

/// The leaf frame in which a reader of one table found its last value.
#[derive(Debug)]
pub struct Near {
    /// The number of the block of [`ENTRIES`] grains that the frame covers.
    block: usize,
    entries: NonNull<Entries>,
}

impl Default for Near {
    /// No frame.
    fn default() -> Near {
        Near { block: usize::MAX, entries: NonNull::dangling() }
    }
}

// SAFETY: the entries are atomics, which any CPU may read (J1).
unsafe impl Send for Near {}

/// A value for each grain of a region.
#[derive(Debug)]
pub struct UnitTable {
    /// The link to the root frame.
    root: AtomicU64,
    /// log2 of the grains that one entry of the root covers.
    shift: u32,
    grains: usize,
}

impl UnitTable {
    /// A table of zeros for `grains`.
    pub const fn new(grains: usize) -> UnitTable {
        let mut shift = 0;
        while grains as u64 > (ENTRIES as u64) << shift {
            shift += ENTRY_BITS;
        }
        UnitTable { root: AtomicU64::new(0), shift, grains }
    }

    /// The value of `grain`.
    #[inline]
    pub fn get<M: Machine>(&self, machine: &M, grain: usize) -> u64 {
        self.entries_of(machine, grain).map_or(0, |entries| entries[index(grain, 0)].load(Acquire))
    }

    /// As [`UnitTable::get`], for a reader that remembers the leaf frame of its last look. Grains
    /// nearby are in the same frame.
    #[inline]
    pub fn get_near<M: Machine>(&self, machine: &M, near: &mut Near, grain: usize) -> u64 {
        if near.block != grain >> ENTRY_BITS && !self.move_near(machine, near, grain) {
            return 0;
        }
        // SAFETY: J1: the frame stays the table's and holds atomics.
        let entries = unsafe { near.entries.as_ref() };
        entries[index(grain, 0)].load(Acquire)
    }

    #[cold]
    #[inline(never)]
    fn move_near<M: Machine>(&self, machine: &M, near: &mut Near, grain: usize) -> bool {
        let Ok(entries) = self.entries_of(machine, grain) else { return false };
        *near = Near { block: grain >> ENTRY_BITS, entries: NonNull::from(entries) };
        true
    }

    /// The first grain at or after `from` that has a value, and the value.
    ///
    /// # Cost
    /// O(depth) for each grain; a missing frame counts as one grain.
    pub fn next<M: Machine>(&self, machine: &M, from: usize) -> Option<(usize, u64)> {
        let mut grain = from;
        while grain < self.grains {
            let (value, shift) = match self.entries_of(machine, grain) {
                Ok(entries) => (entries[index(grain, 0)].load(Acquire), 0),
                Err(shift) => (0, shift),
            };
            if value != 0 {
                return Some((grain, value));
            }
            grain = (((grain as u64 >> shift) + 1) << shift).min(self.grains as u64) as usize;
        }
        None
    }

    /// The most frames that [`UnitTable::set`] uses for a run of `len` grains.
    pub const fn frames_needed(&self, len: usize) -> usize {
        // A run that starts in the last entry of a frame touches the most frames.
        let (mut frames, mut touched, mut shift) = (1, len, 0);
        while shift < self.shift {
            touched = touched.saturating_sub(1).div_ceil(ENTRIES) + 1;
            frames += touched;
            shift += ENTRY_BITS;
        }
        frames
    }

    /// Sets `len` grains from `start` to `value`, which is not 0.
    ///
    /// # Panics
    /// If the prealloc has fewer than [`UnitTable::frames_needed`] frames. Nothing changes before
    /// the panic.
    pub fn set<M: Machine>(&self, machine: &M, prealloc: &mut Prealloc, start: usize, len: usize, value: u64) {
        debug_assert!(value != 0);
        assert!(prealloc.len() >= self.frames_needed(len), "the prealloc was not filled before the set");
        for part in by_leaf(start, len) {
            store(self.leaf(machine, part.start, prealloc).expect("J1: stocked for"), part, value);
        }
    }

    /// Sets `len` grains from `start` to 0.
    pub fn clear<M: Machine>(&self, machine: &M, start: usize, len: usize) {
        for part in by_leaf(start, len) {
            if let Some(leaf) = self.leaf(machine, part.start, &mut Prealloc::new()) {
                store(leaf, part, 0);
            }
        }
    }

    /// Passes every frame to `give`. All values are 0 afterwards.
    pub fn destroy<M: Machine>(&mut self, machine: &M, mut give: impl FnMut(Pfn)) {
        give_all(machine, *self.root.get_mut(), self.shift, &mut give);
        *self.root.get_mut() = 0;
    }

    /// The leaf entries around `grain`.
    ///
    /// # Errors
    /// A frame is missing. The error is log2 of the number of grains that it stands for.
    #[inline]
    fn entries_of<'a, M: Machine>(&self, machine: &'a M, grain: usize) -> Result<&'a Entries, u32> {
        debug_assert!(grain < self.grains);
        let (mut link, mut shift) = (self.root.load(Acquire), self.shift);
        loop {
            let entries = follow(machine, link).ok_or(shift + ENTRY_BITS)?;
            if shift == 0 {
                return Ok(entries);
            }
            link = entries[index(grain, shift)].load(Acquire);
            shift -= ENTRY_BITS;
        }
    }

    /// The leaf entries around `grain`. Missing frames come from the prealloc.
    fn leaf<'a, M: Machine>(&'a self, machine: &'a M, grain: usize, prealloc: &mut Prealloc) -> Option<&'a Entries> {
        let (mut link, mut shift) = (&self.root, self.shift);
        loop {
            if link.load(Relaxed) == 0 {
                link.store(prealloc.take(machine)?.0 + 1, Release);
            }
            let entries = follow(machine, link.load(Relaxed))?;
            if shift == 0 {
                return Some(entries);
            }
            link = &entries[index(grain, shift)];
            shift -= ENTRY_BITS;
        }
    }
}

/// The entries behind a link.
#[inline(always)]
fn follow<M: Machine>(machine: &M, link: u64) -> Option<&Entries> {
    let frame = Pfn(link.checked_sub(1)?);
    // SAFETY: J1 and M2: the frame is the table's, it was cleared, and all accesses to it are
    // accesses to entries, which are atomics.
    Some(unsafe { machine.virt(frame).cast::<Entries>().as_ref() })
}

/// Passes the frames below `link`, and then its own frame, to `give`.
fn give_all<M: Machine>(machine: &M, link: u64, shift: u32, give: &mut dyn FnMut(Pfn)) {
    let Some(entries) = follow(machine, link) else { return };
    if shift > 0 {
        entries.iter().for_each(|entry| give_all(machine, entry.load(Relaxed), shift - ENTRY_BITS, give));
    }
    give(Pfn(link - 1));
}

/// Stores `value` for `grains`, which lie in one leaf frame.
fn store(leaf: &Entries, grains: Range<usize>, value: u64) {
    let first = index(grains.start, 0);
    leaf[first..first + grains.len()].iter().for_each(|entry| entry.store(value, Release));
}

/// The run of `len` grains from `start`, cut at the borders of leaf frames.
fn by_leaf(start: usize, len: usize) -> impl Iterator<Item = Range<usize>> {
    let end = start + len;
    (start / ENTRIES..end.div_ceil(ENTRIES)).map(move |leaf| start.max(leaf * ENTRIES)..end.min((leaf + 1) * ENTRIES))
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::machine::Machine;
    use crate::testing::PageMachine;
    use crate::units::Node;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::vec::Vec;

    /// A table, its machine, and a prealloc that is always full enough.
    struct Bench {
        machine: PageMachine,
        table: UnitTable,
        prealloc: Prealloc,
    }

    impl Bench {
        fn new(grains: usize) -> Bench {
            Bench { machine: PageMachine::default(), table: UnitTable::new(grains), prealloc: Prealloc::new() }
        }

        fn set(&mut self, start: usize, len: usize, value: u64) {
            let needed = self.table.frames_needed(len);
            self.prealloc.fill(&self.machine, Node(0), needed).expect("the host has pages");
            self.table.set(&self.machine, &mut self.prealloc, start, len, value);
        }

        fn get(&self, grain: usize) -> u64 {
            self.table.get(&self.machine, grain)
        }

        fn all(&self) -> Vec<(usize, u64)> {
            let next = |from| self.table.next(&self.machine, from);
            std::iter::successors(next(0), |&(grain, _)| next(grain + 1)).collect()
        }

        fn frames(&self) -> usize {
            self.machine.frames().out() - self.prealloc.len()
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            self.table.destroy(&self.machine, |frame| self.machine.take_back(frame));
            self.prealloc.trim(&self.machine, 0);
            if !std::thread::panicking() {
                assert_eq!(self.machine.frames().out(), 0, "every frame came back");
                assert!(self.all().is_empty());
            }
        }
    }

    #[test]
    fn a_reader_that_looks_nearby_reads_what_is_there_now() {
        let mut bench = Bench::new(1 << 27);
        let mut near = Near::default();
        let look = |bench: &Bench, near: &mut Near, grain| bench.table.get_near(&bench.machine, near, grain);
        assert_eq!(look(&bench, &mut near, 7), 0, "no frame yet");
        for grain in [7, 8, 511, 512, 7, 1 << 26, 8] {
            bench.set(grain, 1, grain as u64 + 1);
            assert_eq!(look(&bench, &mut near, grain), grain as u64 + 1);
            bench.table.clear(&bench.machine, grain, 1);
            assert_eq!(look(&bench, &mut near, grain), 0);
        }
    }

    #[test]
    fn a_fresh_table_says_nothing_and_holds_no_frame() {
        let bench = Bench::new(1 << 36);
        assert_eq!((bench.get(0), bench.get((1 << 36) - 1), bench.frames()), (0, 0, 0));
        assert_eq!(bench.table.next(&bench.machine, 0), None);
    }

    #[test]
    fn a_value_is_found_at_each_grain_of_its_run_and_at_no_other() {
        for grains in [513, 1 << 18, 1 << 27, 1 << 31, 25 << 31, 1 << 36] {
            let mut bench = Bench::new(grains);
            bench.set(grains - 513, 3, 7);
            bench.set(grains - 1, 1, u64::MAX);
            let last: Vec<u64> = (grains - 513..grains).map(|grain| bench.get(grain)).collect();
            assert_eq!((&last[..4], &last[511..]), (&[7, 7, 7, 0][..], &[0, u64::MAX][..]));
            bench.table.clear(&bench.machine, grains - 513, 3);
            assert_eq!(bench.all(), [(grains - 1, u64::MAX)]);
        }
    }

    #[test]
    fn clearing_what_was_never_set_makes_no_frame() {
        let bench = Bench::new(1 << 20);
        bench.table.clear(&bench.machine, 5, 100_000);
        assert_eq!(bench.frames(), 0);
    }

    #[test]
    fn the_worst_run_uses_up_the_stock_that_was_named() {
        for (grains, len) in [(512, 1), (1 << 18, 2), (1 << 27, 2), (1 << 27, 514), (1 << 31, 513), (1 << 36, 514)] {
            let mut bench = Bench::new(grains);
            let needed = bench.table.frames_needed(len);
            bench.set((grains / 2).saturating_sub(1), len, 1);
            assert_eq!(bench.frames(), needed, "{len} of {grains}");
        }
    }

    #[test]
    #[should_panic(expected = "the prealloc was not filled")]
    fn a_set_without_its_stock_is_a_bug_of_the_caller() {
        let bench = Bench::new(64);
        bench.table.set(&bench.machine, &mut Prealloc::new(), 0, 1, 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_table_agrees_with_a_map(
            grains in prop_oneof![1usize..2000, 300_000usize..400_000],
            steps in prop::collection::vec((any::<usize>(), 1usize..1500, 0u64..4), 1..30),
        ) {
            let mut bench = Bench::new(grains);
            let mut map = BTreeMap::new();
            for (start, len, value) in steps {
                let start = start % grains;
                let run = start..start.saturating_add(len).min(grains);
                let len = run.end - start;
                if value == 0 {
                    bench.table.clear(&bench.machine, start, len);
                    map.retain(|grain, _| !run.contains(grain));
                } else {
                    bench.set(start, len, value);
                    map.extend(run.clone().map(|grain| (grain, value)));
                }
                prop_assert!(bench.all().into_iter().eq(map.clone()));
                let after = map.range(run.end..).next().map(|(&grain, &value)| (grain, value));
                prop_assert_eq!(bench.table.next(&bench.machine, run.end), after);
            }
            prop_assert!((0..grains).all(|grain| bench.get(grain) == map.get(&grain).copied().unwrap_or(0)));
        }
    }

    #[test]
    fn a_reader_sees_what_was_written_before_the_value() {
        let mut bench = Bench::new(1 << 20);
        let needed = 64 * bench.table.frames_needed(1);
        bench.prealloc.fill(&bench.machine, Node(0), needed).expect("the host has pages");
        let told: Vec<AtomicU64> = (0..64).map(|_| AtomicU64::new(0)).collect();
        let (machine, table, prealloc) = (&bench.machine, &bench.table, &mut bench.prealloc);
        let grain = |n: usize| n * 16_000;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in (0..64).rev() {
                    while table.get(machine, grain(n)) == 0 {
                        std::hint::spin_loop();
                    }
                    assert_eq!(told[n].load(Relaxed), n as u64 + 1, "J2");
                }
            });
            for (n, told) in told.iter().enumerate() {
                told.store(n as u64 + 1, Relaxed);
                table.set(machine, prealloc, grain(n), 1, n as u64 + 1);
            }
        });
    }
}
