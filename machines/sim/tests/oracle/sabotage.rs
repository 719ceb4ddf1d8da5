//! Negative controls: each test breaks one rule on purpose, and the oracle
//! sees it within a bounded number of acts and names what went wrong. The same
//! run without the sabotage passes.
//!
//! The library and the machine can be broken in a build with `--cfg interleave`
//! alone: `cargo xtask test interleave` runs these.

use super::setup::Acts;
use super::{Setup, Tables};
use std::cell::Cell;
use std::panic::catch_unwind;
use vmalloc::internals::interleave::{Hooks, Rule, install};
use vmalloc::table::X86_64;
use vmalloc::{Placement, Policy};
use vmalloc_sim::{Sabotage, Sim};

/// Runs, each with a seed of its own, in one of which it has to show.
const RUNS: u64 = 8;
const ACTS: usize = 4_000;

/// Who breaks something.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Broken {
    Library(Rule),
    Machine(Sabotage),
}
use Broken::*;

thread_local! {
    /// The rule that the library breaks on this thread.
    static BROKEN: Cell<Option<Rule>> = const { Cell::new(None) };
}

/// Four CPUs and an address space so small that tables come and go.
fn setup(seed: u64, policy: Policy) -> Setup {
    Setup {
        tables: Tables::Four,
        cpus: 4,
        highmem: None,
        placement: Placement::Classes,
        policy,
        cached_pages: None,
        target: 300,
        biggest: 130,
        region_pages: 10_000,
        batch_pages: Some(64),
        tlb: 64,
        speculate: 4,
        ..Setup::from_seed(seed, ACTS)
    }
}

/// Runs a setup with `broken` broken from its first act on; returns what it panics with.
fn story(setup: &Setup, broken: Option<Broken>) -> Option<String> {
    install(Hooks { step: || (), pooled: |_| (), breaks: |rule| BROKEN.get() == Some(rule) });
    let breaks = |sim: &Sim<X86_64>| match broken {
        Some(Library(rule)) => BROKEN.set(Some(rule)),
        Some(Machine(how)) => sim.break_contract(how),
        None => (),
    };
    let run = || match setup.aliases {
        true => super::run_with::<X86_64, true>(setup, breaks),
        false => super::run_with::<X86_64, false>(setup, breaks),
    };
    let ended = catch_unwind(run);
    BROKEN.set(None);
    let panic = ended.err()?;
    Some(panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "a panic without a story".into()))
}

/// Panics unless what is broken is noticed in some run, with a story that has one
/// of `words`, and the same run is right without: on a machine with aliases, and on one without.
fn is_caught(broken: Broken, words: &[&str]) {
    is_caught_under(Policy::Unmap, broken, words);
}

fn is_caught_under(policy: Policy, broken: Broken, words: &[&str]) {
    for aliases in [true, false] {
        is_caught_in(|seed| Setup { aliases, ..setup(seed, policy) }, broken, words);
    }
}

/// The same, of holders and of aliases: there have to be some.
fn is_caught_sharing(rule: Rule, policies: &[Policy], words: &[&str]) {
    for &policy in policies {
        is_caught_in(|seed| setup(seed, policy), Library(rule), words);
    }
}

fn is_caught_in(setup: impl Fn(u64) -> Setup, broken: Broken, words: &[&str]) {
    let run = |seed| story(&setup(seed), Some(broken)).map(|story| (seed, story));
    let (seed, told) = (1..=RUNS).find_map(run).unwrap_or_else(|| panic!("nothing was noticed: {:?}", setup(1)));
    assert!(words.iter().any(|&word| told.contains(word)), "{told}");
    assert_eq!(story(&setup(seed), None), None);
}

/// The same under both policies that cache slots.
fn is_caught_cached(rule: Rule, words: &[&str]) {
    is_caught_under(Policy::Park, Library(rule), words);
    is_caught_under(Policy::Keep, Library(rule), words);
}

#[test]
fn g3_a_batch_that_is_reclaimed_early_is_noticed() {
    is_caught(Library(Rule::EarlyReclaim), &["before grace", "the frame was given back", "given to a new holder"]);
}

#[test]
fn g1_a_flush_that_is_skipped_is_noticed() {
    is_caught(Library(Rule::SkipFlush), &["stale: "]);
}

#[test]
fn g5_an_idle_cpu_that_is_skipped_for_a_table_page_is_noticed() {
    is_caught(Library(Rule::SkipIdle), &["to the table in"]);
}

#[test]
fn r1_a_claim_that_is_dropped_is_noticed() {
    let still_there = "in None: Err(NotItsStart";
    let words = ["a double free of", "freed by another", "but the library says", still_there, "G2"];
    is_caught(Library(Rule::DropClaim), &words);
}

#[test]
fn g3_a_frame_that_is_pooled_while_others_hold_it_is_noticed() {
    is_caught_sharing(
        Rule::IgnoreCounts,
        &[Policy::Unmap],
        &["holders", "which is held", "given back", "given to a new holder", "Q1"],
    );
}

#[test]
fn g3_a_frame_that_is_pooled_while_cpus_reach_it_is_noticed() {
    is_caught_sharing(
        Rule::IgnoreAliases,
        &[Policy::Unmap],
        &["given to a new holder", "the frame was given back", "reused"],
    );
}

/// Runs without any mapping of given frames: what is noticed comes by parts alone.
fn is_caught_by_parts(rule: Rule, words: &[&str]) {
    is_caught_in(|seed| Setup { acts: Acts::Parts, ..setup(seed, Policy::Unmap) }, Library(rule), words);
}

#[test]
fn g3_a_frame_of_a_part_or_a_tail_that_is_pooled_while_cpus_reach_it_is_noticed() {
    is_caught_by_parts(Rule::IgnoreAliases, &["given to a new holder", "the frame was given back", "reused"]);
}

#[test]
fn g1_a_flush_that_is_skipped_is_noticed_by_parts() {
    is_caught_by_parts(Rule::SkipFlush, &["stale: "]);
}

#[test]
fn g2_an_area_that_grows_over_what_cpus_still_reach_is_noticed() {
    is_caught_by_parts(Rule::GrowStale, &["bound to another frame before grace", "guard: "]);
}

#[test]
fn g2_a_protection_that_is_not_flushed_for_is_noticed() {
    is_caught_by_parts(Rule::ProtectUnflushed, &["the protection was changed without a flush"]);
}

#[test]
fn g6_a_guard_that_is_mapped_is_noticed() {
    is_caught(Library(Rule::MapGuard), &["guard: ", "frame: of the page", "G6"]);
}

#[test]
fn g6_a_cached_slot_of_another_size_is_noticed() {
    is_caught_cached(Rule::AnySize, &["guard: ", "G2", "G6", "W1", "bad entry"]);
}

#[test]
fn w1_a_cached_slot_of_another_protection_is_noticed() {
    is_caught_cached(Rule::AnyProt, &["content: a store to", "W1"]);
}

#[test]
fn w3_a_cached_slot_with_frames_that_others_hold_is_noticed() {
    is_caught_sharing(
        Rule::CacheShared,
        &[Policy::Park, Policy::Keep],
        &["holders", "which is held", "given to a new holder"],
    );
}

#[test]
fn w2_cached_slots_that_are_not_counted_and_never_given_back_are_noticed() {
    is_caught_cached(Rule::ForgetCached, &["W2", "guard: "]);
}

#[test]
fn m6_a_machine_that_does_not_flush_one_cpu_is_noticed() {
    is_caught(Machine(Sabotage::SkipFlush { cpu: 1 }), &["CPU 1 reaches"]);
}

#[test]
fn m6_a_machine_that_does_not_flush_idle_cpus_is_noticed() {
    is_caught(Machine(Sabotage::SkipIdleFlush), &["stale: "]);
}

#[test]
fn m6_a_machine_that_flushes_no_tables_is_noticed() {
    is_caught(Machine(Sabotage::KeepTables), &["to the table in"]);
}

#[test]
fn a_failure_names_seed_act_and_how_to_repeat_it() {
    let setup = Setup { cpus: 1, ..Setup::from_seed(3, 200) };
    let story = story(&Setup { tables: Tables::Four, ..setup }, Some(Library(Rule::MapGuard)));
    let story = story.expect("guards that are mapped are noticed");
    assert!(story.starts_with("seed 3, act ") && story.contains("repeat: ORACLE_SEED=3 ORACLE_OPS="), "{story}");
}
