extern crate std;

use super::*;
use crate::gfp::ZoneKind;
use crate::testing::{TestZones, ram};
use crate::units::Node;
use std::string::String;
use std::vec::Vec;

const WANT: Want = Want { order: 0, zone: ZoneKind::Normal, node: Node(0), this_node: false, next: None };

fn drawn(runs: &Runs) -> String {
    runs.iter().map(|run| std::format!("[{}+{}]", run.first.0, run.frames)).collect()
}

/// Zones in which all frames are allocated except those that `free` names.
fn only(frames: usize, free: impl Fn(u64) -> bool) -> TestZones {
    let real = TestZones::new(&[ram(0, frames, 0)], None);
    while real.zones.alloc(WANT).is_some() {}
    for frame in (0..frames as u64).filter(|&frame| free(frame)) {
        // SAFETY: `alloc` returned it.
        unsafe { real.zones.free(Pfn(frame), 0) }
    }
    real
}

#[test]
fn fresh_memory_is_one_run_whatever_the_length() {
    let real = TestZones::new(&[ram(0, 4096, 0)], None);
    let runs = Runs::take(&real.zones, WANT, 1000).unwrap();
    assert_eq!((drawn(&runs).as_str(), runs.frames()), ("[0+1000]", 1000));
    let more = Runs::take(&real.zones, Want { next: Some(Pfn(1000)), ..WANT }, 8).unwrap();
    assert_eq!(drawn(&more), "[1000+8]");
}

#[test]
fn scattered_memory_gives_its_largest_blocks_first() {
    let real = only(64, |frame| (16..32).contains(&frame) || (40..44).contains(&frame) || frame == 63);
    let runs = Runs::take(&real.zones, WANT, 21).unwrap();
    assert_eq!(drawn(&runs), "[16+16][40+4][63+1]");
}

#[test]
fn a_refusal_gives_all_back_and_says_what_there_was() {
    let real = only(64, |frame| frame % 3 == 0);
    let before: Vec<_> = real.inner().stats().collect();
    assert_eq!(Runs::take(&real.zones, WANT, 23), Err(22));
    assert_eq!(real.inner().stats().collect::<Vec<_>>(), before);
    assert_eq!((real.inner().check(), real.inner().bad_frees()), (Ok(()), 0));
}

#[test]
fn memory_too_scattered_for_one_record_gives_part_of_it() {
    let real = only(400, |frame| frame % 2 == 0);
    let runs = Runs::take(&real.zones, WANT, 150).unwrap();
    assert_eq!(runs.frames(), MAX_RUNS);
    // SAFETY: `take` returned them.
    unsafe { runs.give_back_from(0, &real.zones) }
    assert_eq!((real.zones.free_now(), real.inner().bad_frees()), (200, 0));
}

#[test]
fn nothing_is_an_empty_record() {
    let real = TestZones::new(&[ram(0, 4, 0)], None);
    assert_eq!(Runs::take(&real.zones, WANT, 0).map(|runs| runs.frames()), Ok(0));
}

#[test]
fn each_refusal_of_the_source_is_survived_or_undone() {
    let real = TestZones::new(&[ram(0, 64, 0)], None);
    for n in 1.. {
        real.zones.faults.fail_at(n);
        let taken = Runs::take(&real.zones, WANT, 45);
        real.zones.faults.fail_at(0);
        let through = real.zones.faults.refused() < n;
        if let Ok(runs) = taken {
            assert_eq!(runs.frames(), 45);
            // SAFETY: `take` returned them.
            unsafe { runs.give_back_from(0, &real.zones) }
        }
        assert_eq!((real.zones.free_now(), real.inner().bad_frees()), (64, 0), "refusal {n}");
        if through {
            return;
        }
    }
}

#[test]
fn what_was_not_used_goes_back_as_aligned_blocks() {
    let real = TestZones::new(&[ram(0, 64, 0)], None);
    let runs = Runs::take(&real.zones, WANT, 64).unwrap();
    // SAFETY: `take` returned them.
    unsafe { runs.give_back_from(11, &real.zones) }
    let stats = real.inner().stats().next().unwrap();
    assert_eq!((stats.free, stats.blocks[..6].to_vec()), (53, [1, 0, 1, 0, 1, 1].into()), "11, 12..16, 16..32, 32..64");
    assert_eq!((real.inner().check(), real.inner().bad_frees()), (Ok(()), 0));
}
