//! Reservations that are filled and emptied by hand.

use crate::common::*;
use vmalloc::machine::format::{MemType, Prot};
use vmalloc::units::{Pfn, VirtAddr};
use vmalloc::{AllocError, Req};

fn fill(rig: &Rig, at: At, page: usize, frames: &[Pfn]) -> Result<(), AllocError> {
    // SAFETY: P5, P6: tests hold their frames, and flush before they map again.
    unsafe { rig.map_part(page_of(at, page).0, frames, Prot::RW, MemType::WriteBack) }
}

fn empty(rig: &Rig, at: At, page: usize, pages: usize) -> Result<usize, AllocError> {
    // SAFETY: P5: nobody else knows the reservation.
    unsafe { rig.unmap_part(page_of(at, page).0, pages) }
}

#[test]
fn a_reservation_is_filled_by_parts_and_a_part_is_taken_away_again() {
    let rig = rig(2);
    let (at, frames) = (rig.reserve(Req::pages(200)).unwrap(), rig.frames(100));
    fill(&rig, at, 10, &frames).unwrap();
    assert_eq!((rig.frame_at(page_of(at, 10).0), rig.frame_at(page_of(at, 9).0)), (Some(frames[0]), None));
    rig.stamp(at_page(at, 10), 100, 7);
    assert_eq!(empty(&rig, at, 0, 30), Ok(20), "of the first thirty pages twenty were mapped");
    assert_eq!(rig.sim.load(1, page_of(at, 30)), Ok(7 ^ 20), "the rest stays");
    assert_eq!(rig.check(), Ok(()));
    assert_eq!(empty(&rig, at, 0, 200), Ok(80));
    rig.give(at).unwrap();
    rig.give_frames(&frames);
    rig.settled();
}

#[test]
fn a_part_in_the_middle_of_a_large_reservation_gets_the_tables_that_it_lacks() {
    let rig = boot(quiet(1), vmalloc::Config::region(REGION));
    let (at, frames) = (rig.reserve(Req::pages(3000)).unwrap(), rig.frames(70));
    // In tables of their own, which nothing else has reached into.
    for page in [700, 1300, 2040] {
        fill(&rig, at, page, &frames).unwrap();
        rig.stamp(at_page(at, page), 70, page as u64);
        assert_eq!(empty(&rig, at, page, 70), Ok(70));
        assert!(rig.unmap_aliases());
    }
    assert_eq!(rig.check(), Ok(()));
    rig.give(at).unwrap();
    rig.give_frames(&frames);
}

fn at_page(start: At, page: usize) -> At {
    at(page_of(start, page).0)
}

#[test]
fn frames_of_a_part_that_are_given_up_at_once_wait_for_a_flush() {
    let rig = boot(quiet(2), vmalloc::Config::region(REGION));
    let (at, frames) = (rig.reserve(Req::pages(8)).unwrap(), rig.frames(8));
    fill(&rig, at, 0, &frames).unwrap();
    // Another CPU remembers the pages.
    for page in 0..8 {
        rig.sim.load(1, page_of(at, page)).unwrap();
    }
    assert_eq!(empty(&rig, at, 0, 8), Ok(8));
    rig.give_frames(&frames);
    let more = rig.frames(100);
    assert!(frames.iter().all(|frame| rig.sim.tlb_refs(*frame) == 1), "nobody has flushed");
    assert!(frames.iter().all(|frame| !more.contains(frame)), "G3: they wait");
    assert!(rig.unmap_aliases());
    rig.give_frames(&more);
    rig.give(at).unwrap();
    let settled = rig.settled();
    assert_eq!(settled.waiting, 0);
}

#[test]
fn a_page_is_mapped_again_after_a_flush() {
    let rig = rig(2);
    let (at, frames) = (rig.reserve(Req::pages(4)).unwrap(), rig.frames(4));
    for round in 0..10 {
        fill(&rig, at, 0, &frames).unwrap();
        rig.stamp(at, 4, round);
        rig.check_stamps(1, at, 4, round);
        assert_eq!(empty(&rig, at, 0, 4), Ok(4));
        assert!(rig.unmap_aliases());
    }
    rig.give(at).unwrap();
    rig.give_frames(&frames);
}

/// Frames of a reservation that is freed as it is, which CPU 1 remembers; then they are given up.
fn freed_with_parts(rig: &Rig, pages: usize, free: impl FnOnce(At)) {
    let (at, frames) = (rig.reserve(Req::pages(pages)).unwrap(), rig.frames(8));
    fill(rig, at, pages - 8, &frames).unwrap();
    (pages - 8..pages).for_each(|page| _ = rig.sim.load(1, page_of(at, page)).unwrap());
    free(at);
    rig.give_frames(&frames);
    let more = rig.frames(100);
    assert!(frames.iter().all(|frame| rig.sim.tlb_refs(*frame) == 1), "nobody has flushed");
    assert!(frames.iter().all(|frame| !more.contains(frame)), "G3: they wait");
    rig.give_frames(&more);
    assert!(rig.unmap_aliases());
    assert_eq!(rig.frame_at(page_of(at, pages - 1).0), None);
    (0..2).for_each(|cpu| rig.sim.assert_faults(cpu, page_of(at, pages - 1)));
    let settled = rig.settled();
    assert_eq!((settled.areas, settled.waiting, rig.sim.leaked_frames() - settled.held), (vec![], 0, 0));
}

#[test]
fn a_reservation_that_is_freed_unmaps_what_is_mapped_and_its_frames_wait() {
    for pages in [8, 200] {
        let rig = boot(quiet(2), vmalloc::Config::region(REGION));
        freed_with_parts(&rig, pages, |at| rig.give(at).unwrap());
        freed_with_parts(&rig, pages, |at| rig.sim.on(1, || rig.give(at)).unwrap());
        // Its addresses serve the next one.
        let next = rig.alloc(Req::pages(pages)).unwrap();
        rig.stamp(next, pages, 1);
        rig.give(next).unwrap();
    }
}

#[test]
fn what_is_no_part_of_a_reservation_is_refused_and_nothing_changes() {
    let rig = rig(1);
    let (at, area) = (rig.reserve(Req::pages(4)).unwrap(), rig.alloc(Req::pages(4)).unwrap());
    let frames = rig.frames(5);
    let before = rig.picture();
    let bad = |start: usize, pages: usize| {
        Err(AllocError::BadRange { start: VirtAddr(start), end: VirtAddr(start + pages * PAGE) })
    };
    assert_eq!(fill(&rig, at, 0, &frames), bad(addr(at).0, 5));
    assert_eq!(fill(&rig, at, 2, &frames[..3]), bad(page_of(at, 2).0, 3));
    assert_eq!(fill(&rig, at, 0, &[]), bad(addr(at).0, 0));
    assert_eq!(fill(&rig, area, 0, &frames[..1]), bad(addr(area).0, 1));
    assert_eq!(fill(&rig, at, 1 << 20, &frames[..1]), bad(page_of(at, 1 << 20).0, 1));
    // SAFETY: nothing is mapped.
    let odd = unsafe { rig.map_part(addr(at).0 + 1, &frames[..1], Prot::RW, MemType::WriteBack) };
    assert_eq!(
        odd,
        Err(AllocError::BadRange { start: VirtAddr(addr(at).0 + 1), end: VirtAddr(addr(at).0 + 1 + PAGE) })
    );
    assert_eq!(fill(&rig, at, 0, &[frames[0], Pfn(u64::MAX)]), Err(AllocError::BadFrame(Pfn(u64::MAX))));
    assert_eq!(empty(&rig, area, 0, 4).map_err(|_| ()), Err(()));
    fill(&rig, at, 2, &frames[..1]).unwrap();
    let in_use = page_of(at, 2);
    assert_eq!(fill(&rig, at, 0, &frames[..4]), Err(AllocError::InUse(in_use)));
    assert_eq!(rig.frame_at(page_of(at, 0).0), None, "E1: the whole part or nothing");
    assert_eq!(empty(&rig, at, 0, 4), Ok(1));
    assert_eq!(rig.picture(), before);
    [at, area].iter().for_each(|&at| rig.give(at).unwrap());
    rig.give_frames(&frames);
}

#[cfg(debug_assertions)]
#[test]
fn each_refusal_of_a_part_leaves_it_unmapped() {
    let rig = boot(quiet(1), vmalloc::Config::region(REGION));
    let (at, frames) = (rig.reserve(Req::pages(1500)).unwrap(), rig.frames(1500));
    // The fallible steps are those that lay tables in.
    let mut refusals = 0;
    for n in 1.. {
        rig.purge();
        rig.reclaim(usize::MAX);
        rig.sim.faults().fail_from(n);
        let filled = fill(&rig, at, 0, &frames);
        let struck = rig.sim.faults().refused() > refusals;
        rig.sim.faults().fail_at(0);
        if filled.is_ok() {
            assert!(n > 1, "a table was needed");
            break;
        }
        assert!(struck && matches!(filled, Err(AllocError::NoTables { .. })), "{filled:?}");
        refusals = rig.sim.faults().refused();
        assert!((0..1500).all(|page| rig.frame_at(page_of(at, page).0).is_none()), "E1");
        assert!(rig.unmap_aliases());
        assert_eq!(rig.check(), Ok(()));
    }
    assert_eq!(empty(&rig, at, 0, 1500), Ok(1500));
    rig.give(at).unwrap();
    rig.give_frames(&frames);
}
