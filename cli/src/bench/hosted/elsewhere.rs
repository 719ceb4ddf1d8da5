//! Blocks that one thread makes and another one gives back: pairs a second, by the clock on the wall.

use super::{Contestant, written};
use anyhow::{Result, ensure};
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering::*};
use std::thread;
use std::time::{Duration, Instant};

/// Blocks that are on their way at most.
const ON_THE_WAY: usize = 256;
/// Pairs of one measurement, and of one that is over too soon with those.
const PAIRS: [usize; 2] = [40_000, 400_000];
/// What is too soon.
const SOON: Duration = Duration::from_millis(30);

/// Thousands of pairs a second.
pub fn speed(of: &(dyn Contestant + Sync), pages: usize) -> Result<u64> {
    let [few, many] = PAIRS;
    match time(of, pages, few)? {
        soon if soon < SOON => Ok(rate(many, time(of, pages, many)?)),
        took => Ok(rate(few, took)),
    }
}

fn rate(pairs: usize, took: Duration) -> u64 {
    (pairs as u128 * 1_000_000 / took.as_nanos().max(1)) as u64
}

/// How long so many pairs take.
fn time(of: &(dyn Contestant + Sync), pages: usize, pairs: usize) -> Result<Duration> {
    let belt: Vec<AtomicPtr<u8>> = (0..ON_THE_WAY).map(|_| AtomicPtr::new(null_mut())).collect();
    let is_over = AtomicBool::new(false);
    let start = Instant::now();
    let made = thread::scope(|scope| {
        scope.spawn(|| take_all(of, pages, &belt, &is_over));
        let made = (0..pairs).take_while(|n| written(of, pages).is_some_and(|block| put(&belt[n % ON_THE_WAY], block)));
        let made = made.count();
        is_over.store(true, Release);
        made
    });
    let took = start.elapsed();
    ensure!(made == pairs, "{}: no memory", of.name());
    Ok(took)
}

/// Waits for an empty place.
fn put(place: &AtomicPtr<u8>, block: NonNull<u8>) -> bool {
    while !place.load(Acquire).is_null() {
        thread::yield_now();
    }
    place.store(block.as_ptr(), Release);
    true
}

/// Gives back what comes, in order, until it is over.
fn take_all(of: &(dyn Contestant + Sync), pages: usize, belt: &[AtomicPtr<u8>], is_over: &AtomicBool) {
    let mut next = 0;
    loop {
        let was_over = is_over.load(Acquire);
        match NonNull::new(belt[next % ON_THE_WAY].swap(null_mut(), AcqRel)) {
            Some(block) => {
                // SAFETY: made by the other thread, which has let go of it.
                unsafe { of.end(block, pages) }
                next += 1;
            }
            None if was_over => return,
            None => thread::yield_now(),
        }
    }
}
