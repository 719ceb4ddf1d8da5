//! Stacks: a promise that rests on no neighbour. The page below one is its own.

use crate::common::{At, PAGE, Rig, START, addr, boot, page_of, quiet};
use vmalloc::area::{Guard, RegionId};
use vmalloc::gfp::Gfp;
use vmalloc::machine::format::{Format, Prot};
use vmalloc::table::X86_64;
use vmalloc::units::VirtAddr;
use vmalloc::{AllocError, Config, Info, Kind, Placement, Policy, Req, What};

const PLACEMENTS: [Placement; 2] = [Placement::Classes, Placement::Lowest];

fn region(placement: Placement) -> Config {
    Config::region(START..START + (64 << 20)).placement(placement)
}

/// Nothing is below the stack but what is its own.
#[track_caller]
fn assert_guarded(rig: &Rig, stack: At) {
    for below in [1, 8, PAGE] {
        let address = VirtAddr(addr(stack).0 - below);
        rig.sim.assert_faults(0, address);
        let What::Guard { above: Some(hit), short, .. } = rig.whatis(address.0) else {
            panic!("{below} bytes below a stack: {}", rig.whatis(address.0));
        };
        assert_eq!((hit.start, hit.kind, short), (addr(stack), Kind::Stack, below));
        assert!(rig.whatis(address.0).to_string().contains("below the stack of "), "{}", rig.whatis(address.0));
    }
}

#[test]
fn no_neighbour_reaches_the_page_below_a_stack() {
    for placement in PLACEMENTS {
        for pages in [1usize, 2, 3, 4, 7, 8, 16, 32, 64, 128, 600] {
            for neighbour in 0..6 {
                let rig = boot(quiet(1), region(placement));
                let frames = rig.frames(128);
                let n = pages.next_power_of_two().min(128);
                let bare = |pages: usize| Req::pages(pages).guard(Guard::None);
                let mut lent = Vec::new();
                for round in 0..6 {
                    match neighbour {
                        // SAFETY: P4: the frames are held to the end.
                        0 => lent.push(unsafe { rig.map_ram(&frames[..n.min(64)], None) }.unwrap()),
                        1 => drop(rig.alloc(bare(n).align(n * PAGE)).unwrap()),
                        // SAFETY: P1: as above.
                        2 => drop(unsafe { rig.vmap(&frames[..n], bare(0).align(n * PAGE)) }.unwrap()),
                        3 => drop(rig.alloc(bare(64)).unwrap()),
                        // What fills units to the last page.
                        4 => drop(rig.alloc(bare(640 + round * 64)).unwrap()),
                        _ => drop(
                            rig.reserve_at_offsets(&[(0, 64 * PAGE), (64 * PAGE, 128 * PAGE)], PAGE, Req::bytes(0))
                                .unwrap(),
                        ),
                    }
                    let stack = rig.alloc(Req::stack(pages)).unwrap();
                    assert!(addr(stack).0.is_multiple_of(pages.next_power_of_two() * PAGE));
                    assert_guarded(&rig, stack);
                }
                assert_eq!(rig.check(), Ok(()));
                lent.into_iter().for_each(|at| rig.unmap_pages(at, n.min(64)).unwrap());
                rig.give_frames(&frames);
            }
        }
    }
}

#[test]
fn what_comes_later_does_not_take_the_page_below_a_stack() {
    for placement in PLACEMENTS {
        let rig = boot(quiet(1), region(placement));
        let stacks: Vec<_> = (0..40).map(|n| rig.alloc(Req::stack(1 + n % 9)).unwrap()).collect();
        let filler = || rig.alloc(Req::pages(1).guard(Guard::None).gfp(Gfp::KERNEL | Gfp::NOWARN));
        let rest: Vec<_> = std::iter::from_fn(|| filler().ok()).take(8000).collect();
        stacks.iter().for_each(|&stack| assert_guarded(&rig, stack));
        rest.into_iter().for_each(|area| rig.give(area).unwrap());
        stacks.into_iter().for_each(|stack| rig.give(stack).unwrap());
        assert_eq!(rig.settled().reserved, 0, "the page below goes with its stack");
    }
}

#[test]
fn a_stack_in_a_range_has_its_page_below_there_too() {
    for placement in PLACEMENTS {
        let rig = boot(quiet(1), region(placement));
        let range = START + (8 << 20)..START + (9 << 20);
        let below = rig.alloc(Req::pages(64).guard(Guard::None).within(range.start - 64 * PAGE..range.start)).unwrap();
        assert_eq!(page_of(below, 64).0, range.start, "bound up to the range");
        let mut made = Vec::new();
        while let Ok(stack) = rig.alloc(Req::stack(4).within(range.clone()).gfp(Gfp::KERNEL | Gfp::NOWARN)) {
            assert!(addr(stack).0 - PAGE >= range.start && page_of(stack, 5).0 <= range.end);
            assert_guarded(&rig, stack);
            made.push(stack);
        }
        // 256 pages: four pages and two guards in eight, and in each chunk of a unit one place is empty.
        assert_eq!(made.len(), if placement == Placement::Lowest { 31 } else { 28 });
        made.into_iter().for_each(|stack| rig.give(stack).unwrap());
        let narrow = range.start..range.start + 5 * PAGE;
        let refused = rig.alloc(Req::stack(4).within(narrow).gfp(Gfp::KERNEL | Gfp::NOWARN));
        assert!(matches!(refused, Err(AllocError::NoAddresses { .. })), "{refused:?}");
        assert_eq!(rig.check(), Ok(()));
    }
}

#[test]
fn the_first_page_of_a_region_is_nobodys() {
    let middle = START + (4 << 20);
    for placement in PLACEMENTS {
        let config = region(placement);
        let touching = config.add_region(START + (64 << 20)..START + (68 << 20)).add_region(START - (4 << 20)..START);
        let rig = boot(quiet(1), touching);
        for id in 0..3 {
            let start = [START, START + (64 << 20), START - (4 << 20)][id];
            let first = rig.alloc(Req::pages(1).guard(Guard::None).region(RegionId(id as u8))).unwrap();
            assert!(addr(first).0 > start);
            rig.sim.assert_faults(0, VirtAddr(start));
            assert!(matches!(rig.whatis(start), What::Free | What::Guard { .. }), "{}", rig.whatis(start));
            let all = rig.alloc(Req::pages(1).within(start..start + PAGE).region(RegionId(id as u8)));
            assert!(matches!(all, Err(AllocError::NoAddresses { .. })), "{all:?}");
            // Whatever there is of the region, to its last page and the next one's first.
            let bare = |pages| Req::pages(pages).guard(Guard::None).region(RegionId(id as u8));
            let reserve = |pages: usize| rig.reserve(bare(pages).gfp(Gfp::KERNEL | Gfp::NOWARN));
            let mut pages = 1 << 15;
            while pages > 0 {
                if reserve(pages).is_err() {
                    pages /= 2;
                }
            }
            let lowest = rig.areas().map(|area| area.start.0).filter(|&at| at >= start).min().unwrap();
            assert!(lowest >= start + PAGE, "{lowest:#x}");
        }
        assert!(rig.find(middle).is_some());
    }
}

#[test]
fn the_first_stack_of_a_region_is_told_of_below() {
    for placement in PLACEMENTS {
        for pages in [1, 4, 16, 300] {
            let rig = boot(quiet(1), region(placement));
            let stack = rig.alloc(Req::stack(pages)).unwrap();
            assert_guarded(&rig, stack);
            assert_eq!(rig.whatis(START - 1), What::NotOurs);
        }
    }
}

#[test]
fn g6_a_cached_slot_that_becomes_a_stack_has_no_translation_below() {
    for (policy, pages) in [Policy::Park, Policy::Keep].into_iter().flat_map(|p| [1, 3, 4, 7].map(|n| (p, n))) {
        let rig = boot(quiet(2), region(Placement::Classes).policy(policy).batch_pages(8));
        let align = (pages + 1usize).next_power_of_two() * PAGE;
        // The same slots in turn: with and without guards, as stacks and not.
        for round in 0..24 {
            let plain = Req::pages(pages).align(align).guard(if round % 2 == 0 { Guard::None } else { Guard::After });
            let made: Vec<_> = (0..6)
                .map(|n| rig.alloc(if (n + round) % 3 == 0 { Req::stack(pages) } else { plain.clone() }).unwrap())
                .collect();
            for &area in &made {
                rig.sim.load(1, addr(area)).unwrap();
                rig.sim.load(1, page_of(area, pages - 1)).unwrap();
            }
            for (n, &area) in made.iter().enumerate().filter(|(n, _)| (n + round) % 3 == 0) {
                assert_guarded(&rig, area);
                rig.sim.assert_faults(1, VirtAddr(addr(area).0 - 8));
                assert!(n < 6);
            }
            assert_eq!(rig.check(), Ok(()));
            made.into_iter().for_each(|area| rig.give(area).unwrap());
        }
        assert!(rig.stats().counts.cache_hits > 0, "{policy:?}");
    }
}

#[cfg(debug_assertions)]
#[test]
fn a_refused_stack_leaves_nothing_of_its_own_behind() {
    for placement in PLACEMENTS {
        let rig = boot(quiet(1), region(placement));
        let _first = rig.alloc(Req::pages(1)).unwrap();
        let before = rig.settled();
        for step in 1..12 {
            for pages in [1, 4, 600] {
                rig.sim.faults().fail_at(step);
                let made = rig.alloc(Req::stack(pages).gfp(Gfp::KERNEL | Gfp::ZERO | Gfp::NOWARN));
                rig.sim.faults().fail_at(0);
                if let Ok(stack) = made {
                    rig.give(stack).unwrap();
                }
                let after = rig.settled();
                assert_eq!((&after.areas, after.reserved), (&before.areas, before.reserved), "{placement:?}");
            }
        }
    }
}

#[test]
fn somebody_elses_page_in_the_middle_of_a_stack_gives_the_page_below_back_too() {
    let rig = boot(quiet(1), region(Placement::Lowest));
    let frame = rig.frames(1)[0];
    let foreign = VirtAddr(START + 6 * PAGE);
    let first = rig.alloc(Req::pages(1)).unwrap();
    rig.sim.poke(foreign, 1, X86_64::leaf(frame, Prot::RW, Default::default(), 1));
    assert_eq!(rig.alloc(Req::stack(4)), Err(AllocError::InUse(foreign)));
    rig.sim.poke(foreign, 1, X86_64::ABSENT);
    rig.give(first).unwrap();
    assert_eq!(rig.settled().reserved, 0);
    rig.give_frames(&[frame]);
}

#[test]
fn a_stack_that_no_region_can_hold_with_its_guards_is_too_large() {
    let pages = 130;
    let rig = boot(quiet(1), Config::region(START..START + (pages + 1) * PAGE).placement(Placement::Lowest));
    let bytes = pages * PAGE;
    for whole in [pages, pages - 1] {
        let refused = rig.alloc(Req::stack(whole).align(PAGE).gfp(Gfp::KERNEL | Gfp::NOWARN));
        assert_eq!(refused, Err(AllocError::TooLarge { bytes: whole * PAGE, limit: bytes - 2 * PAGE }));
    }
    let most = rig.alloc(Req::stack(pages - 2).align(PAGE)).expect("all of it, with both guards");
    assert_guarded(&rig, most);
    assert_eq!(rig.check(), Ok(()));
}

#[test]
fn the_nearer_side_of_a_guard_is_told_and_a_stack_first() {
    let rig = boot(quiet(1), region(Placement::Lowest));
    let low = rig.alloc(Req::pages(2)).unwrap();
    let high = rig.alloc(Req::pages(3)).unwrap();
    assert_eq!(addr(high), page_of(low, 3), "one page between them");
    let guard = page_of(low, 2).0;
    let told = |address: usize| rig.whatis(address).to_string();
    assert!(told(guard).contains("0x0 bytes past the end of the area of 8192 bytes"), "{}", told(guard));
    assert!(told(guard + 100).contains("0x64 bytes past the end of"), "{}", told(guard + 100));
    assert!(told(guard + PAGE - 8).contains("0x8 bytes below the area of 12288 bytes"), "{}", told(guard + PAGE - 8));
    let area = |start: usize, kind| Info { start: VirtAddr(start), kind, ..rig.find(addr(low).0).unwrap() };
    let (below, stack) = (Some(area(START, Kind::Vmalloc)), Some(area(START + 4 * PAGE, Kind::Stack)));
    let far = What::Guard { below, past: 0, above: stack, short: PAGE };
    assert!(far.to_string().contains("0x1000 bytes below the stack of 8192 bytes"), "{far}");
    let over = What::Guard { below: stack, past: 8, above: below, short: PAGE - 8 };
    assert!(over.to_string().contains("0x8 bytes past the end of the stack of 8192 bytes"), "{over}");
    let first = told(START + 1);
    assert!(first.contains("0xfff bytes below the area of 8192 bytes"), "the region's first page: {first}");
}
