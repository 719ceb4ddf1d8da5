//! Areas whose last pages are given back while the rest lives on.

use crate::common::*;
use vmalloc::units::Pfn;
use vmalloc::{Config, FreeError, Gfp, Kind, Policy, Req};

fn shrink(rig: &Rig, at: At, bytes: usize) -> Result<(), FreeError> {
    // SAFETY: V1: tests use what is left.
    unsafe { rig.shrink(at, bytes) }
}

fn frames_of(rig: &Rig, at: At, pages: usize) -> Vec<Pfn> {
    (0..pages).map(|page| rig.frame_at(page_of(at, page).0).expect("a page")).collect()
}

#[test]
fn the_tail_goes_back_and_the_rest_keeps_what_it_says() {
    for (pages, left) in [(4, 1), (128, 127), (129, 128), (200, 3), (1500, 700)] {
        let rig = rig(2);
        let before = rig.settled();
        let area = rig.alloc(Req::pages(pages)).unwrap();
        rig.stamp(area, pages, 7);
        let frames = frames_of(&rig, area, pages);
        shrink(&rig, area, left * PAGE - 5).unwrap();
        let info = rig.find(addr(area).0).expect("it lives on");
        assert_eq!((info.pages, info.bytes, info.kind), (left, left * PAGE - 5, Kind::Vmalloc));
        assert_eq!(rig.stats().pages, left);
        rig.check_stamps(1, area, left, 7);
        assert_eq!(frames_of(&rig, area, left), frames[..left]);
        assert!((left..pages).all(|page| rig.frame_at(page_of(area, page).0).is_none()));
        rig.purge();
        (0..2).for_each(|cpu| rig.sim.assert_faults(cpu, page_of(area, left)));
        let now = rig.settled();
        assert_eq!(before.free + before.held - now.free - now.held, left, "{pages} → {left}");
        rig.check_stamps(0, area, left, 7);
        rig.give(area).unwrap();
        rig.settled();
    }
}

#[test]
fn frames_that_a_cpu_may_still_reach_wait_for_its_flush() {
    for policy in [Policy::Unmap, Policy::Park, Policy::Keep, Policy::Strict] {
        let rig = boot(quiet(2), Config::region(REGION).policy(policy));
        let area = rig.alloc(Req::pages(8)).unwrap();
        (0..8).for_each(|page| _ = rig.sim.load(1, page_of(area, page)).unwrap());
        let frames = frames_of(&rig, area, 8);
        shrink(&rig, area, PAGE).unwrap();
        let more = rig.frames(200);
        assert!(frames[1..].iter().all(|&frame| rig.sim.tlb_refs(frame) == 1 && !more.contains(&frame)), "G3");
        rig.give_frames(&more);
        rig.give(area).unwrap();
        // Its slot is not cached: another area would lack pages.
        let next = rig.alloc(Req::pages(8)).unwrap();
        rig.stamp(next, 8, 2);
        rig.check_stamps(1, next, 8, 2);
        rig.give(next).unwrap();
        rig.settled();
    }
}

#[test]
fn an_area_of_another_cpu_and_one_with_given_frames_shrink_as_well() {
    let rig = rig(2);
    let far = rig.sim.on(1, || rig.alloc(Req::pages(100))).unwrap();
    shrink(&rig, far, 3 * PAGE).unwrap();
    let frames = rig.frames(10);
    // SAFETY: P2: they are given to the area.
    let owned = unsafe { rig.vmap_owned(&frames, Req::bytes(0)) }.unwrap();
    let held = rig.hold_frame(page_of(owned, 9).0).unwrap();
    shrink(&rig, owned, PAGE).unwrap();
    rig.purge();
    let more = rig.frames(300);
    assert!(!more.contains(&held), "it has a holder yet");
    rig.give_frames(&more);
    rig.give_frames(&[held]);
    assert_eq!(rig.check(), Ok(()));
    assert_eq!((rig.find(addr(far).0).unwrap().pages, rig.find(addr(owned).0).unwrap().pages), (3, 1));
    [far, owned].into_iter().for_each(|area| rig.give(area).unwrap());
    rig.settled();
}

#[test]
fn what_is_no_area_of_memory_is_refused_and_nothing_to_give_back_is_nothing() {
    let rig = rig(1);
    let (area, bare) = (rig.alloc(Req::pages(4).gfp(Gfp::KERNEL)).unwrap(), rig.reserve(Req::pages(4)).unwrap());
    let frames = rig.frames(2);
    let alias = rig.map(&frames).unwrap();
    let before = rig.picture();
    for bytes in [0, 4 * PAGE, 3 * PAGE + 1, usize::MAX] {
        assert_eq!(shrink(&rig, area, bytes), Ok(()));
    }
    assert_eq!(shrink(&rig, bare, PAGE), Err(FreeError::WrongKind(Kind::Reserved)));
    assert_eq!(shrink(&rig, alias, PAGE), Err(FreeError::WrongKind(Kind::Vmap)));
    let inside = page_of(area, 1);
    let refused = shrink(&rig, at(inside.0), PAGE);
    assert_eq!(refused, Err(FreeError::NotItsStart { addr: inside, start: addr(area) }));
    assert_eq!(rig.picture(), before);
    rig.unmap(alias).unwrap();
    rig.give_frames(&frames);
    [area, bare].into_iter().for_each(|area| rig.give(area).unwrap());
    assert!(matches!(shrink(&rig, area, PAGE), Err(FreeError::DoubleFree { .. })));
}

#[test]
fn the_page_after_an_area_is_never_one_that_was_shrunk_away_before_grace() {
    for policy in [vmalloc::Policy::Park, vmalloc::Policy::Keep] {
        let rig = boot(quiet(2), Config::region(REGION).policy(policy));
        let area = rig.alloc(Req::pages(72)).unwrap();
        rig.stamp(area, 72, 1);
        let _ = rig.sim.load(1, page_of(area, 66));
        // SAFETY: V1.
        unsafe { rig.shrink(area, 66 * PAGE) }.unwrap();
        rig.give(area).unwrap();
        let next = rig.alloc(Req::pages(66)).unwrap();
        assert!(rig.sim.load(1, page_of(next, 66)).is_err(), "{policy:?}: its guard is reached");
        rig.give(next).unwrap();
        rig.settled();
    }
}
