//! Areas at fixed distances from each other.

use crate::common::*;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use vmalloc::area::Guard;
use vmalloc::machine::format::{MemType, Prot};
use vmalloc::{AllocError, Config, Gfp, Kind, Placement, Req};
use vmalloc_sim::{Rates, What};

const PLACEMENTS: [Placement; 2] = [Placement::Classes, Placement::Lowest];
const UNIT: usize = 64 * PAGE;

fn placed(placement: Placement, range: Range<usize>) -> Rig {
    boot(quiet(2), Config::region(range).placement(placement))
}

fn small(units: usize) -> Range<usize> {
    // The first unit has the page below the first area.
    START..START + (units + 1) * UNIT
}

/// An area that is in the way, and has no guard.
fn busy_at(rig: &Rig, at: usize, bytes: usize) -> At {
    rig.reserve(Req::bytes(bytes).guard(Guard::None).within(at..at + bytes)).expect("nothing is there")
}

#[track_caller]
fn give_parts(rig: &Rig, base: usize, parts: &[(usize, usize)]) {
    parts.iter().for_each(|part| rig.give(at(base + part.0)).unwrap());
}

#[test]
fn parts_far_apart_take_little_and_take_no_more_the_next_time() {
    for placement in PLACEMENTS {
        let rig = boot(quiet(1), Config::region(START..START + (4 << 40)).placement(placement));
        let parts = [(0, 64 << 10), (512 << 30, 64 << 10)];
        let free = || rig.settled().free;
        let (frames, before) = (free(), rig.stats());
        let mut kept = Vec::new();
        for _ in 0..3 {
            let base = rig.reserve_at_offsets(&parts, PAGE, Req::bytes(0)).unwrap();
            assert_eq!(rig.areas().map(|info| info.start.0).collect::<Vec<_>>(), [base, base + (512 << 30)]);
            let taken = rig.stats().bookkeeping_frames - before.bookkeeping_frames;
            let out = rig.stats().pooled_frames - before.pooled_frames;
            println!("{placement:?}: {taken} frames of bookkeeping, {out} at hand");
            assert!(taken + out < 64, "{taken} frames for two parts");
            give_parts(&rig, base, &parts);
            kept.push(frames - free());
        }
        assert!(kept[0] < 16 && kept.iter().all(|&frames| frames == kept[0]), "{kept:?} frames stay");
        assert!(rig.sim.longest_section().of(What::Reached) < 300);
    }
}

#[test]
fn what_lies_between_the_parts_may_be_in_use() {
    for placement in PLACEMENTS {
        let rig = placed(placement, small(6));
        let first = START + UNIT;
        let between = busy_at(&rig, first + 2 * UNIT, UNIT);
        let parts = [(0, 2 * UNIT), (3 * UNIT, 3 * UNIT)];
        assert_eq!(rig.reserve_at_offsets(&parts, PAGE, Req::bytes(0)), Ok(first), "nothing else fits");
        let refused = rig.reserve_at_offsets(&[(0, PAGE), (UNIT, PAGE)], UNIT, Req::bytes(0));
        assert!(matches!(refused, Err(AllocError::NoAddresses { .. })), "{refused:?}");
        give_parts(&rig, first, &parts);
        rig.give(between).unwrap();
        assert_eq!(rig.check(), Ok(()));
    }
}

#[test]
fn parts_are_placed_top_down() {
    for placement in PLACEMENTS {
        let rig = placed(placement, small(64));
        let end = START + 65 * UNIT;
        let parts = [(0, UNIT), (4 * UNIT, UNIT)];
        let base = || rig.reserve_at_offsets(&parts, UNIT, Req::bytes(0)).unwrap();
        let bases: Vec<_> = (0..5).map(|_| (end - base()) / UNIT).collect();
        assert_eq!(bases, [5, 6, 7, 8, 13], "units from the end");
        // A hole above serves before what is free below.
        give_parts(&rig, end - 6 * UNIT, &parts);
        rig.purge();
        assert_eq!(base(), end - 6 * UNIT);
        // So does the upper end of a range.
        let range = START + 8 * UNIT..START + 24 * UNIT;
        let base = rig.reserve_at_offsets(&parts, 4 * UNIT, Req::bytes(0).within(range)).unwrap();
        assert_eq!(base, (START + 19 * UNIT) & !(4 * UNIT - 1));
        let ordinary = rig.alloc(Req::pages(1)).unwrap();
        assert!(addr(ordinary).0 < base, "all others begin at the lower end");
    }
}

#[test]
fn a_part_begins_at_any_page() {
    for placement in PLACEMENTS {
        let rig = placed(placement, small(64));
        let parts = [(PAGE, 3 * PAGE), (UNIT + 5 * PAGE, PAGE), (2 * UNIT + 63 * PAGE, 70 * PAGE)];
        let base = rig.reserve_at_offsets(&parts, PAGE, Req::bytes(0)).unwrap();
        let found: Vec<_> = rig.areas().map(|info| (info.start.0 - base, info.bytes, info.kind)).collect();
        assert_eq!(found, parts.map(|(offset, bytes)| (offset, bytes, Kind::Reserved)));
        for (offset, bytes) in parts {
            let start = base + offset;
            for inside in [start, start + bytes - 1] {
                assert_eq!(rig.find(inside).map(|info| info.start.0), Some(start), "{inside:#x}");
            }
            assert_eq!(rig.find(start - 1).map(|info| info.start.0), None);
            assert_eq!(rig.find(start + bytes).map(|info| info.start.0), None);
            assert!(rig.give(at(start - PAGE)).is_err(), "no area starts there");
        }
        rig.sim.on(1, || give_parts(&rig, base, &parts));
        rig.purge();
        // Their slots serve others, which begin where their runs do.
        let wide = rig.reserve(Req::pages(640)).unwrap();
        assert_eq!(addr(wide).0 % UNIT, if placement == Placement::Classes { 0 } else { PAGE });
        assert_eq!(rig.find(addr(wide).0).map(|info| info.start), Some(addr(wide)));
        assert_eq!(rig.check(), Ok(()));
    }
}

#[test]
fn the_pages_of_a_part_are_mapped_by_hand_wherever_it_begins() {
    for placement in PLACEMENTS {
        let rig = placed(placement, small(64));
        let frames = rig.frames(2);
        let base = rig.reserve_at_offsets(&[(7 * PAGE, 9 * PAGE)], PAGE, Req::bytes(0)).unwrap();
        let start = base + 7 * PAGE;
        // SAFETY: P5: the frames are held to the end, and no page is mapped twice.
        unsafe { rig.map_part(start + 3 * PAGE, &frames, Prot::RW, MemType::WriteBack) }.unwrap();
        assert_eq!((0..9).map(|n| rig.frame_at(start + n * PAGE)).position(|frame| frame == Some(frames[0])), Some(3));
        assert_eq!(rig.check(), Ok(()));
        // SAFETY: nobody uses them any more.
        assert_eq!(unsafe { rig.unmap_part(start, 9) }, Ok(2));
        rig.give(at(start)).unwrap();
        rig.purge();
        rig.give_frames(&frames);
    }
}

#[test]
fn parts_that_cannot_be_told_apart_are_refused() {
    for placement in PLACEMENTS {
        let rig = placed(placement, small(64));
        let before = rig.settled();
        let refused = |parts: &[(usize, usize)]| rig.reserve_at_offsets(parts, PAGE, Req::bytes(0)).err();
        assert_eq!(refused(&[(0, 2 * PAGE), (PAGE, PAGE)]), Some(AllocError::BadAlign(PAGE)), "they overlap");
        assert_eq!(refused(&[(0, PAGE), (0, PAGE)]), Some(AllocError::BadAlign(0)));
        assert_eq!(refused(&[(UNIT + 1, PAGE)]), Some(AllocError::BadAlign(UNIT + 1)));
        assert_eq!(refused(&[(0, PAGE), (UNIT, 0)]), Some(AllocError::ZeroSize));
        assert_eq!(rig.settled(), before);
        let close = refused(&[(0, 3 * PAGE), (5 * PAGE, PAGE)]);
        if placement == Placement::Classes {
            assert_eq!(close, Some(AllocError::BadAlign(5 * PAGE)), "a unit belongs to one area");
        } else {
            assert_eq!(close, None);
            rig.areas().for_each(|info| rig.give(at(info.start.0)).unwrap());
        }
        assert_eq!(rig.settled().areas, before.areas);
    }
}

#[test]
fn an_interrupt_that_reserves_in_the_middle_of_the_call_is_in_nobodys_way() {
    for placement in PLACEMENTS {
        let (parts, mut steps) = ([(0, UNIT), (3 * UNIT, UNIT)], 0);
        loop {
            let machine = quiet(1).rates(Rates { interrupt: 1, ..Rates::NEVER });
            let rig = boot(machine, Config::region(small(7)).placement(placement));
            // The highest unit is taken, so that a lower base is tried too.
            busy_at(&rig, START + 7 * UNIT, UNIT);
            let came = Arc::new(AtomicUsize::new(0));
            let counted = came.clone();
            rig.set_interrupt(move |vm, _| {
                if counted.fetch_add(1, Relaxed) == steps {
                    let asked = Req::bytes(UNIT).guard(Guard::None).within(small(7));
                    vm.reserve(asked.gfp(Gfp::ATOMIC)).expect("there is room for both");
                }
            });
            let base = rig.reserve_at_offsets(&parts, UNIT, Req::bytes(0)).expect("there is room for both");
            let reached = came.load(Relaxed) > steps;
            rig.set_interrupt(|_, _| {});
            assert_eq!(rig.areas().count(), 3 + usize::from(reached));
            give_parts(&rig, base, &parts);
            assert_eq!(rig.check(), Ok(()));
            if !reached {
                break;
            }
            steps += 1;
        }
        println!("{placement:?}: interrupts at {steps} steps");
        assert!(steps > 3);
    }
}
