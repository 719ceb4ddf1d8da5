//! The largest region that there is: the 12.5 PB of x86-64 with five levels.

use crate::common::*;
use std::ops::Range;
use vmalloc::area::Guard;
use vmalloc::units::VirtAddr;
use vmalloc::{AllocError, Config, InitError, Placement, RegionFault, Req};
use vmalloc_sim::{BOUNDS, What};

const VAST: Range<usize> = 0xffa0_0000_0000_0000..0xffd2_0000_0000_0000;
const TIB: usize = 1 << 40;
const PIB: usize = 1 << 50;
const UNIT: usize = 64 * PAGE;
/// What no single area crosses: 512 TiB.
const WINDOW: usize = UNIT << 31;

fn rig() -> Rig {
    boot(quiet(2).levels(5), Config::region(VAST))
}

#[track_caller]
fn sections_are_short(rig: &Rig) {
    let longest = rig.sim.longest_section();
    for what in [What::Read, What::Written, What::Reached, What::Asked, What::Moved, What::Locked] {
        assert!(longest.of(what) <= BOUNDS.of(what), "{longest:?} of {BOUNDS:?}");
    }
}

#[test]
fn areas_lie_at_both_ends_of_a_region_of_12_5_pb_and_at_every_border() {
    let rig = rig();
    let before = rig.settled();
    let ends = [VAST.start, VAST.end - 4 * UNIT].into_iter();
    let borders = (VAST.start + WINDOW..VAST.end).step_by(WINDOW);
    let mut live: Vec<At> = Vec::new();
    for place in ends.chain(borders.flat_map(|at| [at - 4 * UNIT, at])) {
        for pages in [5, 70] {
            let area = rig.alloc(Req::pages(pages).within(place..place + 4 * UNIT)).unwrap();
            rig.stamp(area, pages, addr(area).0 as u64);
            rig.check_stamps(1, area, pages, addr(area).0 as u64);
            live.push(area);
        }
    }
    assert!(live.len() == 100 && rig.check() == Ok(()));
    let found = |at: &At| rig.find(addr(*at).0 + 4 * PAGE).map(|info| info.start);
    assert!(live.iter().all(|area| found(area) == Some(addr(*area))));
    let mut starts: Vec<_> = live.iter().map(|&area| addr(area)).collect();
    starts.sort();
    assert_eq!(rig.areas().map(|info| info.start).collect::<Vec<_>>(), starts, "by address");
    assert_eq!(rig.listing().lines().count(), live.len());
    assert!(rig.whatis(VAST.end - 1) != vmalloc::What::NotOurs && rig.whatis(VAST.end) == vmalloc::What::NotOurs);
    live.into_iter().for_each(|area| rig.give(area).unwrap());
    assert_eq!(rig.settled().reserved, before.reserved);
    sections_are_short(&rig);
}

#[test]
fn every_unit_around_a_border_is_given_and_no_run_crosses_it() {
    let rig = rig();
    let border = VAST.start + 7 * WINDOW;
    let around = border - 64 * UNIT..border + 64 * UNIT;
    let units = |n: usize| rig.reserve(Req::bytes(n * UNIT).guard(Guard::None).within(around.clone()));
    assert!(matches!(units(65), Err(AllocError::NoAddresses { .. })), "over the border");
    let halves = [units(64).unwrap(), units(64).unwrap()];
    assert_eq!(halves.map(|at| addr(at).0), [border - 64 * UNIT, border]);
    assert!(matches!(units(1), Err(AllocError::NoAddresses { .. })));
    halves.into_iter().for_each(|at| rig.give(at).unwrap());
    rig.purge();
    let all: Vec<At> = std::iter::from_fn(|| units(1).ok()).collect();
    assert_eq!((all.len(), rig.check()), (128, Ok(())));
    all.into_iter().for_each(|at| rig.give(at).unwrap());
    sections_are_short(&rig);
}

#[test]
fn the_widest_alignment_finds_every_place_that_there_is() {
    let rig = rig();
    let at = |n: usize| rig.reserve(Req::bytes(n * UNIT).align(WINDOW)).map(|at| addr(at).0);
    for n in 1..25 {
        assert_eq!(at(100), Ok(VAST.start + n * WINDOW), "the first page of the region is nobody's");
    }
    assert!(matches!(at(1), Err(AllocError::NoAddresses { .. })));
    rig.areas().for_each(|info| rig.give(crate::common::at(info.start.0)).unwrap());
}

#[test]
fn parts_10_pb_apart_take_few_frames() {
    let rig = rig();
    let parts = [(0, UNIT), (10 * PIB, UNIT), (12 * PIB, 3 * PAGE)];
    let before = rig.settled();
    let mut kept = Vec::new();
    for _ in 0..3 {
        let bookkeeping = rig.stats().bookkeeping_frames;
        let base = rig.reserve_at_offsets(&parts, PAGE, Req::bytes(0)).unwrap();
        assert!(rig.stats().bookkeeping_frames - bookkeeping < 64);
        let starts: Vec<_> = rig.areas().map(|info| info.start.0 - base).collect();
        assert_eq!((starts, rig.listing().lines().count()), (parts.map(|part| part.0).to_vec(), 3));
        assert_eq!(base + 12 * PIB + UNIT, VAST.end, "the highest base, after {} times", kept.len());
        parts.iter().for_each(|part| rig.give(at(base + part.0)).unwrap());
        kept.push(before.free - rig.settled().free);
    }
    assert!(kept[0] < 40 && kept.iter().all(|&frames| frames == kept[0]), "{kept:?} frames stay");
    sections_are_short(&rig);
}

#[test]
fn an_area_longer_than_512_tib_is_refused_by_name_and_changes_nothing() {
    let rig = rig();
    let before = rig.settled();
    for guard in [Guard::None, Guard::After] {
        let limit = WINDOW - if guard == Guard::After { PAGE } else { 0 };
        for bytes in [limit + 1, limit + PAGE, PIB, 12 * PIB] {
            let refused = rig.reserve(Req::bytes(bytes).guard(guard));
            assert_eq!(refused, Err(AllocError::TooLarge { bytes, limit }));
        }
    }
    let (bytes, limit) = (WINDOW + PAGE, WINDOW);
    let refused = rig.reserve_at_offsets(&[(0, PAGE), (PIB, bytes)], PAGE, Req::bytes(0));
    assert_eq!(refused, Err(AllocError::TooLarge { bytes, limit }));
    assert_eq!(rig.settled(), before);
}

#[test]
fn a_region_of_pages_has_256_tib_and_no_more() {
    let start = VAST.start;
    let config = |pages: usize| Config::region(start..start + pages * PAGE).placement(Placement::Lowest);
    // The first page is nobody's.
    let most = (1 << 36) + 1;
    let sim = quiet(1).levels(5).build();
    let vm = vmalloc::Vmalloc::new(sim.clone());
    let end = start + (most + 1) * PAGE;
    // SAFETY: N1, N2: the machine is new, and nobody else has the instance.
    let made = unsafe { vm.init(config(most + 1)) };
    assert_eq!(
        made,
        Err(InitError::BadRegion { why: RegionFault::TooManyGrains, start: VirtAddr(start), end: VirtAddr(end) })
    );
    drop(vm);
    let rig = boot(quiet(2).levels(5), config(most));
    let last = rig.alloc(Req::pages(3).guard(Guard::None).within(end - 9 * PAGE..end - PAGE)).unwrap();
    let border = (start + 8 * TIB, 5 * PAGE);
    let over = rig.reserve(Req::bytes(border.1).guard(Guard::None).within(border.0 - 4 * PAGE..border.0 + border.1));
    assert_eq!(over.map(|at| addr(at).0), Ok(border.0), "not over the border");
    rig.stamp(last, 3, 9);
    rig.check_stamps(1, last, 3, 9);
    assert_eq!((rig.areas().count(), rig.check()), (2, Ok(())));
    rig.areas().for_each(|info| rig.give(at(info.start.0)).unwrap());
}
