//! Negative controls: each test breaks one rule on purpose, and the oracle
//! sees it within a bounded number of acts and names what went wrong. The same
//! run without the sabotage passes.

#[path = "oracle/mod.rs"]
mod oracle;

use oracle::{Setup, Tables};
use std::panic::catch_unwind;
use vmalloc::machine::Sabotage as Broken;
use vmalloc::table::X86_64;
use vmalloc::{Placement, Policy};
use vmalloc_sim::{Honest, Rules, Sabotage};

/// Runs, each with a seed of its own, in one of which it has to show.
const RUNS: u64 = 8;
const ACTS: usize = 4_000;

/// Four CPUs and an address space so small that tables come and go.
fn setup(seed: u64, policy: Policy) -> Setup {
    Setup {
        tables: Tables::Four,
        cpus: 4,
        highmem: None,
        placement: Placement::Classes,
        policy,
        bound_pages: None,
        target: 300,
        biggest: 130,
        region_pages: 10_000,
        load_pages: Some(64),
        tlb: 64,
        speculate: 4,
        ..Setup::from_seed(seed, ACTS)
    }
}

/// What a run panics with.
fn story<R: Rules>(setup: &Setup, sabotage: Sabotage) -> Option<String> {
    let panic = catch_unwind(|| oracle::run::<X86_64, R>(setup, sabotage)).err()?;
    Some(panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "a panic without a story".into()))
}

/// Panics unless `R`, or the machine's `sabotage`, is noticed in some run, with
/// a story that has one of `words`, and the same run is right without.
fn is_caught<R: Rules>(sabotage: Sabotage, words: &[&str]) {
    is_caught_under::<R>(Policy::Unmap, sabotage, words);
}

fn is_caught_under<R: Rules>(policy: Policy, sabotage: Sabotage, words: &[&str]) {
    let run = |seed| story::<R>(&setup(seed, policy), sabotage).map(|story| (seed, story));
    let (seed, story) = (1..=RUNS).find_map(run).expect("nothing was noticed");
    assert!(words.iter().any(|&word| story.contains(word)), "{story}");
    assert_eq!(self::story::<Honest>(&setup(seed, policy), Sabotage::None), None);
}

/// The same under both policies that keep slots warm.
fn is_caught_warm<R: Rules>(words: &[&str]) {
    is_caught_under::<R>(Policy::Park, Sabotage::None, words);
    is_caught_under::<R>(Policy::Keep, Sabotage::None, words);
}

macro_rules! breaks {
    ($name:ident) => {
        enum $name {}
        impl Rules for $name {
            const BROKEN: Broken = Broken::$name;
        }
    };
}

breaks!(EarlyRedeem);
breaks!(SkipFlush);
breaks!(SkipIdle);
breaks!(DropClaim);
breaks!(IgnoreCounts);
breaks!(MapGuard);
breaks!(AnySize);
breaks!(AnyProt);
breaks!(CacheShared);
breaks!(ForgetWarm);

#[test]
fn g3_a_load_that_is_redeemed_early_is_noticed() {
    is_caught::<EarlyRedeem>(Sabotage::None, &["before grace", "the frame was given back", "given to a new holder"]);
}

#[test]
fn g1_a_flush_that_is_skipped_is_noticed() {
    is_caught::<SkipFlush>(Sabotage::None, &["stale: "]);
}

#[test]
fn g5_an_idle_cpu_that_is_skipped_for_a_table_page_is_noticed() {
    is_caught::<SkipIdle>(Sabotage::None, &["to the table in"]);
}

#[test]
fn r1_a_claim_that_is_dropped_is_noticed() {
    is_caught::<DropClaim>(Sabotage::None, &["a double free of", "freed by another", "but the library says Inside"]);
}

#[test]
fn g3_a_frame_that_is_pooled_while_others_hold_it_is_noticed() {
    is_caught::<IgnoreCounts>(Sabotage::None, &["holders", "which is held", "given back twice"]);
}

#[test]
fn g6_a_guard_that_is_mapped_is_noticed() {
    is_caught::<MapGuard>(Sabotage::None, &["guard: "]);
}

#[test]
fn g6_a_warm_slot_of_another_size_is_noticed() {
    is_caught_warm::<AnySize>(&["guard: ", "G2", "G6", "W1"]);
}

#[test]
fn w1_a_warm_slot_of_another_protection_is_noticed() {
    is_caught_warm::<AnyProt>(&["content: a store to"]);
}

#[test]
fn w3_a_warm_slot_with_frames_that_others_hold_is_noticed() {
    is_caught_warm::<CacheShared>(&["holders", "which is held"]);
}

#[test]
fn w2_warm_slots_that_are_not_counted_and_never_given_back_are_noticed() {
    is_caught_warm::<ForgetWarm>(&["W2", "guard: "]);
}

#[test]
fn m6_a_machine_that_does_not_flush_one_cpu_is_noticed() {
    is_caught::<Honest>(Sabotage::SkipFlush { cpu: 1 }, &["CPU 1 reaches"]);
}

#[test]
fn m6_a_machine_that_does_not_flush_idle_cpus_is_noticed() {
    is_caught::<Honest>(Sabotage::SkipIdleFlush, &["stale: "]);
}

#[test]
fn m6_a_machine_that_flushes_no_tables_is_noticed() {
    is_caught::<Honest>(Sabotage::KeepTables, &["to the table in"]);
}
