//! The share of the allocations that is guarded, by threads whose chance is fixed; and that no more live
//! than may.

use std::alloc::{Layout, alloc, dealloc};
use std::sync::Mutex;
use vmalloc_guard::{Guarded, Side, raw};

const EVERY: usize = 20;
const LIVE: usize = 500;

#[global_allocator]
static ALLOCATOR: Guarded = Guarded::sampled(EVERY as u32).seed(7).side(Side::Start).live(LIVE).quarantine(100);

const SMALL: Layout = match Layout::from_size_align(40, 8) {
    Ok(layout) => layout,
    Err(_) => panic!(),
};

/// One test at a time: the budget is the process's.
static ALONE: Mutex<()> = Mutex::new(());

fn make() -> *mut u8 {
    // SAFETY: the size is not 0.
    unsafe { alloc(SMALL) }
}

fn end(at: *mut u8) {
    // SAFETY: `make` made it, and this is its only end.
    unsafe { dealloc(at, SMALL) }
}

/// How many of `count` allocations are guarded, each freed at once.
fn guarded(count: usize) -> usize {
    let one = |_: &usize| {
        let at = make();
        let is_guarded = raw::may_own(at.addr());
        end(at);
        is_guarded
    };
    (0..count).filter(one).count()
}

/// Within five standard deviations.
fn is_share(found: usize, of: usize) -> bool {
    let share = 1.0 / EVERY as f64;
    let deviation = (of as f64 * share * (1.0 - share)).sqrt();
    (found as f64 - of as f64 * share).abs() < 5.0 * deviation
}

#[test]
fn the_share_is_what_was_asked_for_in_each_thread_and_from_its_first_allocation() {
    let _alone = ALONE.lock();
    let found = guarded(100_000);
    assert!(is_share(found, 100_000), "{found}");
    let threads: usize = (0..200).map(|_| std::thread::spawn(|| guarded(50)).join().expect("no panic")).sum();
    assert!(is_share(threads, 200 * 50), "{threads}");
}

#[test]
fn beyond_the_budget_the_other_allocator_serves() {
    let _alone = ALONE.lock();
    let all: Vec<usize> = (0..LIVE * EVERY * 3).map(|_| make().expose_provenance()).collect();
    let found = all.iter().filter(|&&at| raw::may_own(at)).count();
    // The harness and the other test have some.
    assert!(found <= LIVE && found > LIVE / 2, "{found}");
    all.into_iter().for_each(|at| end(std::ptr::with_exposed_provenance_mut(at)));
}
