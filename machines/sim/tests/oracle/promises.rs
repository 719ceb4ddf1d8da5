//! Ten million things done to the library, on machines of all kinds, and
//! everything that it promises compared with a simple model after each.
//!
//! `ORACLE_OPS` is how many (200,000 unless told), `ORACLE_SEED` the first
//! run's seed. A failure prints the seed of its run: with it, and with
//! `ORACLE_OPS` no larger than a run, that run is repeated alone.

use super::{Setup, Tables};
use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;
use vmalloc::Counts;
use vmalloc::table::{X86_32, X86_64};
use vmalloc_sim::{Counters, Sabotage};

/// Things done by one run.
const RUN: usize = 20_000;

/// What runs met: those that met nothing prove nothing.
#[derive(Clone, Copy, Default, Debug)]
struct Seen {
    accesses: u64,
    used_after_free: u64,
    interrupts: u64,
    remote_frees: u64,
    refusals: u64,
    flushes: u64,
    purges: u64,
    tables_pruned: u64,
    loose_frames: u64,
    chunks_released: u64,
    warm_hits: u64,
    warm_aged: u64,
    warm_over: u64,
    warm_purged: u64,
}

impl Seen {
    fn of((machine, library): (Counters, Counts)) -> Seen {
        Seen {
            accesses: machine.accesses,
            used_after_free: machine.used_after_free,
            interrupts: machine.interrupts,
            remote_frees: library.remote_frees,
            refusals: library.failures,
            flushes: machine.flushes,
            purges: library.purges,
            tables_pruned: library.tables_pruned,
            loose_frames: library.loose_frames,
            chunks_released: library.chunks_released,
            warm_hits: library.warm_hits,
            warm_aged: library.warm_aged,
            warm_over: library.warm_over,
            warm_purged: library.warm_purged,
        }
    }

    fn add(&mut self, more: Seen) {
        self.accesses += more.accesses;
        self.used_after_free += more.used_after_free;
        self.interrupts += more.interrupts;
        self.remote_frees += more.remote_frees;
        self.refusals += more.refusals;
        self.flushes += more.flushes;
        self.purges += more.purges;
        self.tables_pruned += more.tables_pruned;
        self.loose_frames += more.loose_frames;
        self.chunks_released += more.chunks_released;
        self.warm_hits += more.warm_hits;
        self.warm_aged += more.warm_aged;
        self.warm_over += more.warm_over;
        self.warm_purged += more.warm_purged;
    }

    /// Whether everything was met, one act in `share` at least.
    fn is_enough(&self, acts: usize, share: usize) -> bool {
        let Seen { used_after_free, interrupts, remote_frees, refusals, purges, tables_pruned, .. } = *self;
        let met = [used_after_free, interrupts, remote_frees, refusals, purges, tables_pruned];
        let rare = [self.chunks_released, self.loose_frames];
        let warm = [self.warm_hits, self.warm_aged, self.warm_over, self.warm_purged];
        met.iter().chain(&rare).chain(&warm).all(|&met| met as usize >= acts / share)
    }
}

/// Acts from which on everything has to be met, once in so many acts.
const ENOUGH: usize = 100_000;
const RARELY: usize = 4_000;

fn number(name: &str, otherwise: u64) -> u64 {
    let Ok(text) = std::env::var(name) else { return otherwise };
    let digits = text.replace('_', "");
    let parsed = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    parsed.unwrap_or_else(|_| panic!("{name}={text} is no number"))
}

fn run(setup: &Setup) -> (Counters, Counts) {
    match setup.tables {
        Tables::Four | Tables::Five => super::run::<X86_64>(setup, Sabotage::None),
        Tables::Two => super::run::<X86_32>(setup, Sabotage::None),
    }
}

#[test]
fn everything_promised_is_kept() {
    let (ops, seed) = (number("ORACLE_OPS", 200_000) as usize, number("ORACLE_SEED", 1));
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let seen = Mutex::new(Seen::default());
    let began = Instant::now();
    let work = || {
        while !failed.load(Ordering::Relaxed) {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n * RUN >= ops {
                return;
            }
            let setup = Setup::from_seed(seed + n as u64, RUN.min(ops - n * RUN));
            match catch_unwind(|| run(&setup)) {
                Ok(met) => seen.lock().unwrap().add(Seen::of(met)),
                Err(_) => {
                    failed.store(true, Ordering::Relaxed);
                    eprintln!("failed: {setup:#?}\nrepeat: ORACLE_SEED={} ORACLE_OPS={}", setup.seed, setup.ops);
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    assert!(!failed.load(Ordering::Relaxed), "a promise was broken; see above");
    let seen = *seen.lock().unwrap();
    println!("{ops} acts in {:.1} s: {seen:#?}", began.elapsed().as_secs_f64());
    assert!(ops < ENOUGH || seen.is_enough(ops, RARELY), "the runs met too little");
}
