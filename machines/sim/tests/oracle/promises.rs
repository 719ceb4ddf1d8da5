//! Ten million things done to the library, on machines of all kinds, and
//! everything that it promises compared with a simple model after each.
//!
//! `ORACLE_OPS` is how many (200,000 unless told), `ORACLE_SEED` the first
//! run's seed. A failure prints the seed of its run: with it, and with
//! `ORACLE_OPS` no larger than a run, that run is repeated alone.

use super::setup::Acts;
use super::{Met, Setup, Tables};
use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;
use vmalloc::Placement;
use vmalloc::table::{X86_32, X86_64, X86Pae};
use vmalloc::units::Pfn;
use vmalloc_sim::{BOUNDS, Work};

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
    alias_frames: u64,
    chunks_released: u64,
    cache_hits: u64,
    cache_aged: u64,
    cache_over: u64,
    cache_purged: u64,
    /// The most that one section did.
    longest: Work,
}

impl Seen {
    fn of(Met { machine, library, longest }: Met) -> Seen {
        Seen {
            accesses: machine.accesses,
            used_after_free: machine.used_after_free,
            interrupts: machine.interrupts,
            remote_frees: library.remote_frees,
            refusals: library.failures,
            flushes: machine.flushes,
            purges: library.purges,
            tables_pruned: library.tables_pruned,
            alias_frames: library.alias_frames,
            chunks_released: library.chunks_released,
            cache_hits: library.cache_hits,
            cache_aged: library.cache_aged,
            cache_over: library.cache_over,
            cache_purged: library.cache_purged,
            longest,
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
        self.alias_frames += more.alias_frames;
        self.chunks_released += more.chunks_released;
        self.cache_hits += more.cache_hits;
        self.cache_aged += more.cache_aged;
        self.cache_over += more.cache_over;
        self.cache_purged += more.cache_purged;
        self.longest = self.longest.most(&more.longest);
    }

    /// The first thing that was not met once in [`RARELY`] acts, and how often it was.
    fn lacks(&self, acts: usize, aliases: bool) -> Option<(&'static str, u64)> {
        let met = [
            ("used_after_free", self.used_after_free),
            ("interrupts", self.interrupts),
            ("remote_frees", self.remote_frees),
            ("refusals", self.refusals),
            ("purges", self.purges),
            ("tables_pruned", self.tables_pruned),
            ("chunks_released", self.chunks_released),
            ("alias_frames", self.alias_frames),
            ("cache_hits", self.cache_hits),
            ("cache_aged", self.cache_aged),
            ("cache_over", self.cache_over),
            ("cache_purged", self.cache_purged),
        ];
        met.into_iter()
            .filter(|&(what, _)| aliases || what != "alias_frames")
            .find(|&(_, met)| (met as usize) < acts / RARELY)
    }
}

/// Acts from which on everything has to be met, once in so many acts.
const ENOUGH: usize = 100_000;
const RARELY: usize = 4_000;
/// Times that so many acts more may be done to meet it.
const EXTRA: usize = 4;

fn number(name: &str, otherwise: u64) -> u64 {
    let Ok(text) = std::env::var(name) else { return otherwise };
    let digits = text.replace('_', "");
    let parsed = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    parsed.unwrap_or_else(|_| panic!("{name}={text} is no number"))
}

fn run(setup: &Setup) -> Met {
    match setup.tables {
        Tables::Four | Tables::Five if !setup.aliases => super::run::<X86_64, false>(setup),
        Tables::Four | Tables::Five => super::run::<X86_64, true>(setup),
        Tables::Two => super::run::<X86_32, true>(setup),
        Tables::Three => super::run::<X86Pae, true>(setup),
    }
}

/// Runs with the seeds from `seed` on, `ops` acts in all, on all host CPUs.
fn runs(seed: u64, ops: usize, make: fn(u64, usize) -> Setup) -> Seen {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let seen = Mutex::new(Seen::default());
    let work = || {
        while !failed.load(Ordering::Relaxed) {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n * RUN >= ops {
                return;
            }
            let setup = make(seed + n as u64, RUN.min(ops - n * RUN));
            match catch_unwind(|| run(&setup)) {
                Ok(met) => seen.lock().unwrap().add(Seen::of(met)),
                Err(story) => {
                    failed.store(true, Ordering::Relaxed);
                    let story = story.downcast_ref::<String>().map_or("", String::as_str);
                    eprintln!("failed: {setup:#?}\n{story}");
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    assert!(!failed.load(Ordering::Relaxed), "a promise was broken; see above");
    seen.into_inner().unwrap()
}

/// Runs as [`runs`], and more if there are too few to meet everything.
fn meet_everything(first: u64, ops: usize, aliases: bool, make: fn(u64, usize) -> Setup) {
    let began = Instant::now();
    let mut seen = runs(first, ops, make);
    println!("{ops} acts in {:.1} s: {seen:#?}, bounds of a section: {BOUNDS:?}", began.elapsed().as_secs_f64());
    // A few setups may all be of a kind that never meets something: more will.
    let mut seed = first + ops.div_ceil(RUN) as u64;
    for _ in 0..EXTRA {
        if ops < ENOUGH || seen.lacks(ops, aliases).is_none() {
            return;
        }
        seen.add(runs(seed, ENOUGH, make));
        seed += (ENOUGH / RUN) as u64;
    }
    let lacks = seen.lacks(ops, aliases);
    assert_eq!(lacks, None, "the runs with the seeds {first}..{seed} met this less than {} times", ops / RARELY);
}

#[test]
fn everything_promised_is_kept() {
    let (ops, first) = (number("ORACLE_OPS", 200_000) as usize, number("ORACLE_SEED", 1));
    meet_everything(first, ops, true, Setup::from_seed);
}

/// Pages are their own frames, and calls that map frames which their caller names are refused.
#[test]
fn without_aliases_everything_promised_is_kept() {
    let (ops, first) = (number("ORACLE_OPS", 200_000) as usize, number("ORACLE_SEED", 0));
    // A run that is repeated has its own length.
    let (first, ops) = if first == 0 { (800_000, ops / 10) } else { (first, ops) };
    meet_everything(first, ops, false, Setup::without_aliases);
}

/// Half of the memory lies above 4 GiB, where 32-bit kernels have no direct mapping.
#[test]
fn with_pae_and_memory_above_4_gib_everything_promised_is_kept() {
    let ops = number("ORACLE_OPS", 200_000) as usize / 5;
    for seed in 0..(ops / RUN).max(4) as u64 {
        let setup = Setup::from_seed(900_000 + seed, RUN.min(ops));
        let (first_frame, highmem) = (Pfn(0xf_fc00), Some(Pfn(0x10_0000)));
        run(&Setup { tables: Tables::Three, frames: 2048, nodes: 1, first_frame, highmem, ..setup });
    }
}

/// A region as large as there is one, on the border of two windows of its arena: after 512 TiB
/// or, where a grain is a page, after 8 TiB.
#[test]
fn in_a_region_of_12_pb_everything_promised_is_kept() {
    let ops = number("ORACLE_OPS", 200_000) as usize / 20;
    for seed in 0..(ops / RUN).max(4) as u64 {
        let setup = Setup::from_seed(950_000 + seed, RUN.min(ops));
        let (border, region_pages) = match setup.placement {
            Placement::Classes => (1 << 37, 12 << 38),
            Placement::Lowest => (1 << 31, 1 << 36),
        };
        let (tables, offset_pages) = (Tables::Five, border - 600);
        run(&Setup { tables, regions: 1, region_pages, offset_pages, highmem: None, migrate: 0, ..setup });
    }
}

/// Acts of which the oracle's model once thought wrong, by seed; each run ends
/// soon after them.
#[test]
fn what_the_model_once_had_wrong_it_has_right() {
    for (seed, ops) in [(10_058_020, 1_900), (10_074_033, 12_300), (10_078_076, 11_000)] {
        run(&Setup { acts: Acts::Whole, migrate: 0, ..Setup::from_seed(seed, ops) });
    }
}

/// An interrupt frees twice what lies inside an area that its caller has just made.
#[test]
fn an_area_that_is_made_already_and_not_known_yet_is_not_mistaken() {
    run(&Setup { migrate: 0, ..Setup::from_seed(354, 9_406) });
}

/// A free evicted several slots in one section and reclaimed a slice for each, or reclaimed
/// a slice twice.
#[test]
fn a_section_that_was_longer_than_its_bound_is_not_any_more() {
    for (seed, ops) in [(70_001_324, 3_700), (80_000_296, 9_700), (480, 20_000)] {
        run(&Setup { acts: Acts::Whole, migrate: 0, ..Setup::from_seed(seed, ops) });
    }
}
