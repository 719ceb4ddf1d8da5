//! The longest single call, by kind and size.
//!
//! 100,000 areas live; a million times one of them is freed, or one is made
//! where one was freed. Each call is counted by itself, with no tick: the tick
//! comes by hand, when it would be due, and is counted apart.
//!
//! Every machine does the same: so a second one can step through the calls that
//! were the longest in the first, which tells where they spent their time.

use super::step::Counters;
use crate::boot::settings;
use crate::{clock, instructions, vm};
use core::ptr::{NonNull, with_exposed_provenance_mut};
use vmalloc::Req;
use vmalloc::units::PAGE_SIZE;
use vmalloc_suite::{Error, Random};

const LIVE: usize = 100_000;
const OPERATIONS: usize = 1_000_000;
/// Areas that are freed and made between two ticks: about 4,000,000 instructions.
const TICK: usize = 3_000;
/// Sizes of areas, each with how many of a thousand have them.
const CLASSES: [(usize, usize, usize); 5] = [(1, 1, 800), (2, 4, 150), (5, 16, 40), (17, 64, 8), (65, 256, 2)];
/// What is counted: an allocation and a free of each class, the tick.
const KINDS: usize = 2 * CLASSES.len() + 1;
const OF_TICK: usize = KINDS - 1;
/// Counts that have a counter of their own; what is longer counts as this.
const SPREAD: usize = 1 << 16;
/// A call that took longer may have waited for a flush.
const LONG: u64 = 4_000;

/// Runs it, a record a kind. The calls with the numbers `stepped` are stepped
/// through, a record each.
pub fn run(operations: Option<usize>, stepped: &str) -> Result<(), Error> {
    clock::tick_every(0);
    let ran = Latency::new(stepped).and_then(|mut latency| latency.fill_and_replace(operations.unwrap_or(OPERATIONS)));
    clock::tick_every(settings().tick);
    ran
}

struct Latency<'a> {
    /// Addresses; the lower bits are the pages less one. 0 = none.
    live: Words,
    /// [`SPREAD`] counters a kind.
    counters: Words,
    /// Steps, where calls are stepped through.
    steps: Counters,
    stepped: &'a str,
    random: Random,
    /// Calls that were counted.
    calls: usize,
    /// Of each kind the longest, and its number.
    longest: [(u64, usize); KINDS],
    /// Calls that waited for a flush, and the longest.
    forced: [(u64, u64); KINDS],
    purges: u64,
}

impl<'a> Latency<'a> {
    fn new(stepped: &'a str) -> Result<Latency<'a>, Error> {
        Ok(Latency {
            live: Words::new(LIVE)?,
            counters: Words::new(KINDS * SPREAD)?,
            steps: Counters::new()?,
            stepped,
            random: Random::new(Random::SEED),
            calls: 0,
            longest: [(0, 0); KINDS],
            forced: [(0, 0); KINDS],
            purges: vm().stats().counts.purges,
        })
    }

    fn fill_and_replace(&mut self, operations: usize) -> Result<(), Error> {
        let filled = (0..LIVE).try_for_each(|at| {
            self.make(at, false)?;
            self.tick_if_due(at, false);
            Ok(())
        });
        let replaced = filled.and_then(|()| (1..=operations / 2).try_for_each(|n| self.replace(n)));
        self.tell();
        let emptied = (0..LIVE).map(|at| self.end(at, false)).fold(Ok(()), Result::and);
        replaced.and(emptied)
    }

    fn replace(&mut self, n: usize) -> Result<(), Error> {
        let at = self.random.up_to(LIVE) - 1;
        self.end(at, true)?;
        self.make(at, true)?;
        self.tick_if_due(n, true);
        Ok(())
    }

    fn tick_if_due(&mut self, n: usize, counts: bool) {
        if n.is_multiple_of(TICK) {
            let mut work = false;
            self.counted(counts.then_some(OF_TICK), || work = vm().tick().work);
            if work {
                vm().work();
            }
        }
    }

    fn make(&mut self, at: usize, counts: bool) -> Result<(), Error> {
        let (class, pages) = self.draw();
        let mut made = None;
        let make = || made = Some(vm().alloc(Req::pages(pages)));
        self.counted(counts.then_some(2 * class), make);
        if let Some(area) = made.transpose()? {
            self.live.set(at, area.expose_provenance().get() as u64 | (pages - 1) as u64);
        }
        Ok(())
    }

    fn end(&mut self, at: usize, counts: bool) -> Result<(), Error> {
        let word = self.live.get(at) as usize;
        self.live.set(at, 0);
        let pages = word % PAGE_SIZE + 1;
        let Some(area) = NonNull::new(with_exposed_provenance_mut(word - word % PAGE_SIZE)) else { return Ok(()) };
        let class = CLASSES.iter().position(|&(_, most, _)| pages <= most).unwrap_or(0);
        let mut freed = Ok(());
        // SAFETY: V1: nobody uses it.
        let free = || freed = unsafe { vm().free(area) };
        self.counted(counts.then_some(2 * class + 1), free);
        Ok(freed?)
    }

    /// A class and a size in it.
    fn draw(&mut self) -> (usize, usize) {
        let mut lot = self.random.up_to(1000);
        for (class, &(least, most, share)) in CLASSES.iter().enumerate() {
            if lot <= share {
                return (class, least + self.random.up_to(most - least + 1) - 1);
            }
            lot -= share;
        }
        (0, 1)
    }

    /// Calls, and counts it as of this kind, if it is of any.
    fn counted(&mut self, kind: Option<usize>, call: impl FnOnce()) {
        let Some(kind) = kind else { return call() };
        self.calls += 1;
        if self.stepped.split(',').any(|number| number.parse() == Ok(self.calls)) {
            return self.step(call);
        }
        let start = clock::instructions();
        call();
        let count = clock::instructions() - start;
        if count > LONG && self.has_waited() {
            let (calls, longest) = self.forced[kind];
            self.forced[kind] = (calls + 1, longest.max(count));
            return;
        }
        self.longest[kind] = self.longest[kind].max((count, self.calls));
        let at = kind * SPREAD + (count as usize).min(SPREAD - 1);
        self.counters.set(at, self.counters.get(at) + 1);
    }

    fn step(&self, call: impl FnOnce()) {
        self.steps.clear();
        instructions::trap_each(true);
        call();
        instructions::trap_each(false);
        println!("@steps name={} loops=1", self.calls);
        self.steps.tell();
    }

    /// Whether a call waited for a flush since the last look.
    fn has_waited(&mut self) -> bool {
        let before = core::mem::replace(&mut self.purges, vm().stats().counts.purges);
        self.purges != before
    }

    fn tell(&self) {
        for kind in 0..KINDS {
            let (forced, longest_forced) = self.forced[kind];
            let (count, median) = self.median(kind);
            match CLASSES.get(kind / 2).filter(|_| kind != OF_TICK) {
                Some((least, most, _)) => {
                    print!("@latency of={} least={least} most={most}", ["alloc", "free"][kind % 2]);
                }
                None => print!("@latency of=tick least=0 most=0"),
            }
            let (longest, number) = self.longest[kind];
            print!(" count={count} median={median} longest={longest} number={number}");
            println!(" forced={forced} longest_forced={longest_forced}");
        }
    }

    /// How many were counted of a kind, and their median.
    fn median(&self, kind: usize) -> (u64, u64) {
        let counters = || (0..SPREAD).map(|at| self.counters.get(kind * SPREAD + at));
        let all: u64 = counters().sum();
        let mut before = 0;
        let reached = counters().position(|n| {
            before += n;
            2 * before >= all
        });
        (all, reached.unwrap_or(0) as u64)
    }
}

/// Words in an area.
struct Words {
    area: NonNull<u64>,
    len: usize,
}

impl Words {
    fn new(len: usize) -> Result<Words, Error> {
        Ok(Words { area: vm().alloc(Req::bytes(len * size_of::<u64>()).zeroed())?.cast(), len })
    }

    fn get(&self, at: usize) -> u64 {
        assert!(at < self.len, "a word of the area");
        // SAFETY: it is in the area.
        unsafe { self.area.add(at).read() }
    }

    fn set(&mut self, at: usize, word: u64) {
        assert!(at < self.len, "a word of the area");
        // SAFETY: as for `get`.
        unsafe { self.area.add(at).write(word) }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: V1: it is used through this only.
        if let Err(why) = unsafe { vm().free(self.area.cast()) } {
            println!("bench: {why}");
        }
    }
}
