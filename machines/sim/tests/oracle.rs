//! Ten million things done to the library, on machines of all kinds, and
//! everything that it promises compared with a simple model after each.
//!
//! `ORACLE_OPS` is how many (200,000 unless told), `ORACLE_SEED` the first
//! run's seed. A failure prints the seed of its run: with it, and with
//! `ORACLE_OPS` no larger than a run, that run is repeated alone.

#[path = "oracle/mod.rs"]
mod oracle;

use oracle::{Seen, Setup, Tables};
use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;
use vmalloc::table::{X86_32, X86_64};
use vmalloc_sim::{Honest, Sabotage};

/// Things done by one run.
const RUN: usize = 20_000;

/// Acts from which on everything has to be met, once in so many acts.
const ENOUGH: usize = 100_000;
const RARELY: usize = 1_000;

fn number(name: &str, otherwise: u64) -> u64 {
    let Ok(text) = std::env::var(name) else { return otherwise };
    let digits = text.replace('_', "");
    let parsed = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    parsed.unwrap_or_else(|_| panic!("{name}={text} is no number"))
}

fn run(setup: &Setup) -> Seen {
    match setup.tables {
        Tables::Four | Tables::Five => oracle::run::<X86_64, Honest>(setup, Sabotage::None),
        Tables::Two => oracle::run::<X86_32, Honest>(setup, Sabotage::None),
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
                Ok(met) => seen.lock().unwrap().add(met),
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
