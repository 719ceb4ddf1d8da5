//! Areas that get more pages behind their last one, and stay where they are.

use crate::common::*;
use vmalloc::area::Guard;
use vmalloc::machine::Context;
use vmalloc::machine::format::Prot;
use vmalloc::{AllocError, Config, Gfp, Kind, Placement, Policy, Req};

fn grow(rig: &Rig, at: At, pages: usize) -> Result<(), AllocError> {
    grow_as(rig, at, Req::pages(pages))
}

fn grow_as(rig: &Rig, at: At, like: Req) -> Result<(), AllocError> {
    // SAFETY: V1: nobody uses what is behind the area.
    unsafe { rig.grow(at, like) }
}

fn shrink(rig: &Rig, at: At, pages: usize) {
    // SAFETY: V1: tests use what is left.
    unsafe { rig.shrink(at, pages * PAGE) }.unwrap();
}

fn tlb_filled(rig: &Rig, at: At, pages: usize) {
    (0..pages).for_each(|page| _ = rig.sim.load(1, page_of(at, page)).unwrap());
}

#[test]
fn an_area_grows_in_place_as_far_as_its_slot_reaches_and_its_guard_stays() {
    for policy in [Policy::Unmap, Policy::Park, Policy::Keep, Policy::Strict] {
        let rig = boot(quiet(2), Config::region(REGION).policy(policy));
        let before = rig.settled();
        // A class of 24 pages, one of 144, and a run of 1,024 with its guard.
        for (pages, most) in [(23, 24), (130, 144), (1000, 1023)] {
            let area = rig.alloc(Req::pages(pages)).unwrap();
            rig.stamp(area, pages, 3);
            grow(&rig, area, most).unwrap();
            let info = rig.find(addr(area).0).unwrap();
            assert_eq!((info.pages, info.bytes, info.kind), (most, most * PAGE, Kind::Vmalloc));
            rig.check_stamps(1, area, pages, 3);
            rig.stamp(area, most, 4);
            rig.check_stamps(1, area, most, 4);
            assert!(rig.sim.load(1, page_of(area, most)).is_err(), "G6");
            let refused = AllocError::NoAddresses { pages: most + 1, widest: most };
            assert_eq!(grow(&rig, area, most + 1), Err(refused));
            assert_eq!((rig.check(), rig.stats().pages), (Ok(()), most));
            rig.give(area).unwrap();
            rig.settled();
        }
        rig.purge();
        let now = rig.settled();
        assert_eq!(before.free + before.held - now.free - now.held, 0);
    }
}

#[test]
fn what_was_given_back_is_reached_by_nobody_when_the_area_grows_there_again() {
    for (policy, placement) in [(Policy::Unmap, Placement::Classes), (Policy::Keep, Placement::Lowest)] {
        let rig = boot(quiet(2), Config::region(REGION).policy(policy).placement(placement));
        let area = rig.alloc(Req::pages(300)).unwrap();
        rig.stamp(area, 300, 1);
        for left in [200, 130, 3] {
            tlb_filled(&rig, area, 300);
            shrink(&rig, area, left);
            grow(&rig, area, 300).unwrap();
            rig.check_stamps(1, area, left, 1);
            rig.stamp(area, 300, 1);
            rig.check_stamps(1, area, 300, 1);
        }
        rig.give(area).unwrap();
        rig.settled();
    }
}

#[test]
fn who_must_not_wait_is_told_that_what_was_given_back_is_still_reached() {
    let rig = rig_quiet();
    let area = rig.alloc(Req::pages(8)).unwrap();
    tlb_filled(&rig, area, 8);
    shrink(&rig, area, 2);
    rig.sim.set_context(Context::Softirq);
    let before = rig.find(addr(area).0);
    assert!(matches!(grow(&rig, area, 8), Err(AllocError::WouldWait(Context::Softirq, _))));
    assert_eq!(rig.find(addr(area).0), before);
    rig.sim.set_context(Context::Task);
    rig.purge();
    rig.sim.set_context(Context::Softirq);
    assert_eq!(grow(&rig, area, 8), Ok(()), "everybody has flushed");
    rig.sim.set_context(Context::Task);
    rig.give(area).unwrap();
    rig.settled();
}

fn rig_quiet() -> Rig {
    boot(quiet(2), Config::region(REGION))
}

#[test]
fn new_pages_are_clear_where_that_is_asked_for_and_mapped_as_asked_for() {
    let rig = rig_quiet();
    let area = rig.alloc(Req::pages(17)).unwrap();
    rig.stamp(area, 17, 9);
    grow_as(&rig, area, Req::pages(18).gfp(Gfp::KERNEL | Gfp::ZERO)).unwrap();
    rig.check_stamps(0, area, 17, 9);
    assert_eq!(rig.sim.load(0, page_of(area, 17)), Ok(0));
    rig.give(area).unwrap();
    let fixed = rig.alloc(Req::pages(17).prot(Prot::RO)).unwrap();
    grow_as(&rig, fixed, Req::pages(18).prot(Prot::RO)).unwrap();
    assert!(rig.sim.store(0, page_of(fixed, 17), 1).is_err());
    rig.give(fixed).unwrap();
    rig.settled();
}

#[test]
fn an_area_of_another_cpu_and_one_with_given_frames_grow_as_well() {
    let rig = rig_quiet();
    let far = rig.sim.on(1, || rig.alloc(Req::pages(70))).unwrap();
    grow(&rig, far, 72).unwrap();
    let frames = rig.frames(17);
    // SAFETY: P2: they are given to the area.
    let owned = unsafe { rig.vmap_owned(&frames, Req::bytes(0)) }.unwrap();
    grow(&rig, owned, 18).unwrap();
    let held = rig.hold_frame(page_of(owned, 17).0).unwrap();
    for (area, pages) in [(far, 72), (owned, 18)] {
        rig.stamp(area, pages, 6);
        rig.check_stamps(1, area, pages, 6);
        rig.give(area).unwrap();
    }
    rig.purge();
    let more = rig.frames(300);
    assert!(!more.contains(&held), "it has a holder yet");
    rig.give_frames(&more);
    rig.give_frames(&[held]);
    rig.settled();
}

#[test]
fn what_is_no_area_of_memory_does_not_grow_and_the_same_size_is_nothing() {
    let rig = rig_quiet();
    let (area, bare) = (rig.alloc(Req::pages(18)).unwrap(), rig.reserve(Req::pages(17)).unwrap());
    let frames = rig.frames(17);
    let alias = rig.map(&frames).unwrap();
    let before = rig.picture();
    for at in [bare, alias, at(page_of(area, 1).0)] {
        assert!(matches!(grow(&rig, at, 18), Err(AllocError::BadRange { .. })));
    }
    let nowhere = grow_as(&rig, area, Req::pages(18).node(vmalloc::units::Node(9)));
    assert!(matches!(nowhere, Err(AllocError::BadNode { .. })), "{nowhere:?}");
    assert!(matches!(grow(&rig, area, 17), Err(AllocError::BadRange { .. })), "it is larger");
    assert_eq!(grow(&rig, area, 18), Ok(()));
    assert_eq!(rig.picture(), before);
    rig.unmap(alias).unwrap();
    rig.give_frames(&frames);
    [area, bare].into_iter().for_each(|area| rig.give(area).unwrap());
    assert!(matches!(grow(&rig, area, 18), Err(AllocError::BadRange { .. })), "it was freed");
}

#[test]
fn an_area_without_a_guard_has_its_whole_run_again() {
    let rig = rig_quiet();
    let make = |pages| rig.alloc(Req::pages(pages).guard(Guard::None)).unwrap();
    // A class of 24 pages, whose guard stays (K1), and a run of 1,024.
    for most in [24, 1024] {
        let (area, other) = (make(most), make(most));
        [area, other].into_iter().for_each(|at| rig.stamp(at, most, 3));
        shrink(&rig, area, 9);
        assert_eq!(grow(&rig, area, most + 1), Err(AllocError::NoAddresses { pages: most + 1, widest: most }));
        grow(&rig, area, most).unwrap();
        rig.stamp(area, most, 4);
        rig.check_stamps(1, other, most, 3);
        assert_eq!(rig.check(), Ok(()));
        [area, other].into_iter().for_each(|at| rig.give(at).unwrap());
    }
    rig.settled();
}

#[cfg(debug_assertions)]
#[test]
fn each_refusal_on_the_way_leaves_the_area_as_it_was() {
    for pages in [18, 300] {
        let rig = rig_quiet();
        let area = rig.alloc(Req::bytes(pages * PAGE - 5)).unwrap();
        rig.stamp(area, pages, 2);
        shrink(&rig, area, 10);
        let before = rig.settled();
        for n in 1.. {
            rig.sim.faults().fail_from(n);
            let grown = grow(&rig, area, pages);
            rig.sim.faults().fail_at(0);
            rig.check_stamps(1, area, 10, 2);
            if grown.is_ok() {
                assert!(n > 1, "it asks for frames");
                break;
            }
            assert_eq!(rig.settled(), before, "refusal {n}");
        }
        rig.give(area).unwrap();
        rig.settled();
    }
}

#[test]
fn where_frames_run_out_on_the_way_the_area_is_as_it_was_and_nobody_is_given_what_it_gave_back() {
    let rig = rig_quiet();
    let area = rig.alloc(Req::bytes(1000 * PAGE - 5)).unwrap();
    rig.stamp(area, 1000, 2);
    shrink(&rig, area, 10);
    rig.purge();
    let mut all: Vec<_> = std::iter::from_fn(|| rig.alloc_frame(Gfp::KERNEL, None).ok()).collect();
    let before = rig.find(addr(area).0);
    // Enough for some slices, and not for all.
    rig.give_frames(&all.split_off(all.len() - 400));
    let refused = grow(&rig, area, 1000);
    assert!(matches!(refused, Err(AllocError::NoFrames { .. })), "{refused:?}");
    assert_eq!(rig.find(addr(area).0), before);
    rig.check_stamps(1, area, 10, 2);
    rig.purge();
    (0..2).for_each(|cpu| rig.sim.assert_faults(cpu, page_of(area, 10)));
    assert_eq!((rig.check(), rig.stats().pages), (Ok(()), 10));
    rig.give_frames(&all);
    grow(&rig, area, 1000).unwrap();
    rig.stamp(area, 1000, 3);
    rig.give(area).unwrap();
    rig.settled();
}
