//! Areas: what each kind promises to whoever uses its bytes.

use crate::common::{PAGE, REGION, Rig, addr, at, boot, busy, page_of, quiet, rig};
use vmalloc::area::{Guard, RegionId};
use vmalloc::gfp::Gfp;
use vmalloc::machine::Machine;
use vmalloc::machine::format::{Entry, MemType, Prot};
use vmalloc::machine::frames::Frames;
use vmalloc::table::X86_64;
use vmalloc::units::{Node, Pfn, VirtAddr};
use vmalloc::{AllocError, Area, Config, Kind, Placement, Req, Vmalloc};
use vmalloc_sim::{Bank, Fault, Sim, Why};

const PLACEMENTS: [Placement; 2] = [Placement::Classes, Placement::Lowest];

fn placed(placement: Placement) -> Rig {
    boot(busy(2), Config::region(REGION).placement(placement))
}

#[test]
fn areas_of_all_sizes_keep_what_is_stored_in_them() {
    for placement in PLACEMENTS {
        let rig = placed(placement);
        let mut live = Vec::new();
        for round in 0..160 {
            let pages = if round < 70 { round + 1 } else { 1 + round * round * 97 % 5000 };
            rig.sim.set_cpu(round as u32 % 2);
            let area = rig.alloc(Req::pages(pages)).expect("memory enough");
            rig.stamp(area, pages, round as u64);
            live.push((area, pages, round as u64));
            while live.iter().map(|&(_, pages, _)| pages).sum::<usize>() > 6000 {
                let (area, pages, seed) = live.swap_remove(round * 13 % live.len());
                rig.check_stamps(1 - round as u32 % 2, area, pages, seed);
                rig.give(area).unwrap();
            }
        }
        assert_eq!(rig.check(), Ok(()));
        live.iter().for_each(|&(area, pages, seed)| rig.check_stamps(0, area, pages, seed));
    }
}

#[test]
fn the_largest_size_and_each_around_a_border_are_served() {
    for placement in PLACEMENTS {
        let rig = placed(placement);
        for pages in [1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 511, 512, 513, 1023, 1024, 1025, 4999, 5000] {
            let area = rig.alloc(Req::pages(pages)).expect("memory enough");
            rig.stamp(area, pages, pages as u64);
            rig.check_stamps(1, area, pages, pages as u64);
            rig.sim.assert_faults(1, page_of(area, pages));
            rig.give(area).unwrap();
        }
    }
}

#[test]
fn areas_start_at_multiples_of_their_alignment() {
    for placement in PLACEMENTS {
        let rig = placed(placement);
        for shift in 0..=14 {
            for pages in [1, 3, 64, 200] {
                let align = PAGE << shift;
                let area = rig.alloc(Req::pages(pages).align(align)).expect("addresses enough");
                assert_eq!(addr(area).0 % align, 0, "{pages} pages at a multiple of {align:#x}");
                rig.stamp(area, pages, 1);
            }
        }
        assert_eq!(rig.check(), Ok(()));
        for odd in [0, 3, PAGE + 1, PAGE * 3, usize::MAX] {
            assert_eq!(rig.alloc(Req::pages(1).align(odd)), Err(AllocError::BadAlign(odd)));
        }
        let wide = (REGION.end - REGION.start) << 1;
        assert_eq!(rig.alloc(Req::pages(1).align(wide)), Err(AllocError::BadAlign(wide)));
        assert!(rig.alloc(Req::pages(1).align(1)).is_ok(), "finer than a page is a page");
    }
}

#[test]
fn sizes_that_cannot_be_are_refused_with_the_limit() {
    let rig = rig(1);
    let total = rig.sim.frames().total();
    assert_eq!(rig.alloc(Req::bytes(0)), Err(AllocError::ZeroSize));
    let limit = total * PAGE;
    for bytes in [limit + 1, 1 << 63, usize::MAX] {
        assert_eq!(rig.alloc(Req::bytes(bytes)), Err(AllocError::TooLarge { bytes, limit }));
    }
    assert!(rig.reserve(Req::bytes(limit + 1)).is_ok(), "addresses alone cost no frames");
    // The unit of its first page is nobody's.
    let all = REGION.end - REGION.start - 64 * PAGE;
    assert_eq!(
        rig.reserve(Req::bytes(all)),
        Err(AllocError::TooLarge { bytes: all, limit: all - PAGE }),
        "with its guard"
    );
    let elsewhere = rig.alloc(Req::pages(1).region(RegionId(1)));
    assert_eq!(elsewhere, Err(AllocError::NoRegion { region: RegionId(1), regions: 1 }), "there is no such region");
}

#[test]
fn bytes_that_are_no_whole_pages_are_rounded_up_and_remembered() {
    let rig = rig(1);
    for (bytes, pages) in [(1, 1), (4095, 1), (4096, 1), (4097, 2), (65537, 17)] {
        let area = rig.alloc(Req::bytes(bytes)).unwrap();
        let info = rig.find(addr(area).0 + bytes - 1).expect("its last byte is inside");
        assert_eq!((info.bytes, info.pages, info.size()), (bytes, pages, (pages + 1) * PAGE));
    }
}

#[test]
fn cleared_memory_is_clear_and_other_memory_need_not_be() {
    let rig = rig(2);
    for round in 0..50 {
        let pages = 1 + round * 17 % 200;
        let area = rig.alloc(Req::pages(pages).zeroed()).unwrap();
        let mut bytes = vec![1; pages * PAGE];
        rig.sim.read_bytes(1, addr(area), &mut bytes).unwrap();
        assert!(bytes.iter().all(|&byte| byte == 0), "{pages} pages");
        rig.sim.write_bytes(0, addr(area), &vec![0xff; pages * PAGE]).unwrap();
        rig.give(area).unwrap();
        if round % 8 == 0 {
            rig.purge();
        }
    }
    let area = rig.alloc(Req::pages(1)).unwrap();
    assert_ne!(rig.sim.load(0, addr(area)), Ok(0), "dirty frames show what is not cleared");
}

#[test]
fn an_area_that_may_only_be_read_faults_on_stores() {
    let rig = rig(2);
    for prot in [Prot::RO, Prot::RX] {
        let area = rig.alloc(Req::pages(3).prot(prot).zeroed()).unwrap();
        for page in 0..3 {
            let at = page_of(area, page);
            assert_eq!(rig.sim.load(1, at), Ok(0));
            assert_eq!(rig.sim.store(0, at, 1), Err(Fault { at, why: Why::ReadOnly }));
            assert!(matches!(rig.sim.peek(at), (1, Entry::Leaf { prot: told, .. }) if told == prot));
        }
        rig.give(area).unwrap();
        // The same pages may be written when they are another's.
        let area = rig.alloc(Req::pages(3)).unwrap();
        rig.stamp(area, 3, 1);
    }
}

#[test]
fn the_pages_before_and_after_an_area_fault() {
    // guard │ area │ guard, at each slot of a chunk and between runs.
    let rig = rig(2);
    for pages in [1, 2, 7, 63, 200, 600] {
        let areas: Vec<_> = (0..70).filter_map(|_| rig.alloc(Req::pages(pages).gfp(Gfp::KERNEL)).ok()).collect();
        assert!(areas.len() > 10);
        for &area in &areas {
            rig.sim.assert_faults(0, VirtAddr(addr(area).0 - PAGE));
            rig.sim.assert_faults(1, page_of(area, pages));
        }
        assert_eq!(rig.check(), Ok(()));
        areas.iter().for_each(|&area| rig.give(area).unwrap());
    }
}

#[test]
fn an_area_without_a_guard_asks_for_its_pages_only() {
    let rig = placed(Placement::Lowest);
    let first = rig.alloc(Req::pages(2).guard(Guard::None)).unwrap();
    let second = rig.alloc(Req::pages(2).guard(Guard::None)).unwrap();
    assert_eq!(addr(second), page_of(first, 2), "side by side");
    assert_eq!(rig.find(addr(first).0).unwrap().size(), 2 * PAGE);
    assert_eq!(rig.check(), Ok(()));
    rig.stamp(first, 4, 7);
}

#[test]
fn a_stack_is_aligned_to_its_size_and_clear_and_guarded_below_and_above() {
    for placement in PLACEMENTS {
        let rig = placed(placement);
        for pages in [1, 2, 4, 5, 16] {
            for _ in 0..5 {
                let stack = rig.alloc(Req::stack(pages)).unwrap();
                assert_eq!(addr(stack).0 % (pages * PAGE).next_power_of_two(), 0);
                assert_eq!(rig.sim.load(0, VirtAddr(page_of(stack, pages).0 - 8)), Ok(0));
                rig.sim.assert_faults(0, VirtAddr(addr(stack).0 - 8));
                rig.sim.assert_faults(0, page_of(stack, pages));
                assert_eq!(rig.find(addr(stack).0).unwrap().kind, Kind::Stack);
            }
        }
    }
}

#[test]
fn an_area_in_a_range_stays_in_it_with_its_guard() {
    for placement in PLACEMENTS {
        let rig = placed(placement);
        let range = REGION.start + (300 << 20)..REGION.start + (302 << 20);
        let mut made = Vec::new();
        while let Ok(area) = rig.alloc(Req::pages(30).within(range.clone())) {
            assert!(addr(area).0 >= range.start && page_of(area, 31).0 <= range.end);
            rig.stamp(area, 30, 2);
            made.push(area);
        }
        // 512 pages are sixteen of 31.
        assert_eq!(made.len(), 16);
        let full = rig.alloc(Req::pages(30).within(range.clone()));
        assert!(matches!(full, Err(AllocError::NoAddresses { pages: 31, .. })), "{full:?}");
        assert!(rig.alloc(Req::pages(30)).is_ok(), "elsewhere is room");
        rig.give(made[3]).unwrap();
        let again = rig.alloc(Req::pages(30).within(range.clone()));
        assert_eq!(again, Ok(made[3]), "the purge under pressure makes room");
        let outside = [range.start - (1 << 40)..range.end, range.start..REGION.end + PAGE, range.end..range.start];
        for bad in outside {
            let told = AllocError::BadRange { start: VirtAddr(bad.start), end: VirtAddr(bad.end) };
            assert_eq!(rig.alloc(Req::pages(1).within(bad)), Err(told));
        }
        assert_eq!(rig.check(), Ok(()));
    }
}

#[test]
fn two_mappings_of_the_same_frames_see_each_others_stores() {
    let rig = rig(2);
    let frames = rig.frames(70);
    let (first, second) = (rig.map(&frames).unwrap(), rig.map(&frames).unwrap());
    // SAFETY: P4: the frames are this test's.
    let third = unsafe { rig.map_ram(&frames, None) }.unwrap();
    rig.stamp(first, 70, 1);
    rig.check_stamps(1, second, 70, 1);
    rig.stamp(second, 70, 2);
    rig.check_stamps(0, third, 70, 2);
    rig.unmap(first).unwrap();
    rig.purge();
    rig.check_stamps(1, second, 70, 2);
    rig.unmap(second).unwrap();
    rig.unmap_pages(third, 70).unwrap();
    rig.give_frames(&frames);
}

#[test]
fn a_ring_maps_each_frame_twice_side_by_side() {
    let rig = rig(1);
    let frames = rig.frames(4);
    let ring = rig.map(&[&frames[..], &frames[..]].concat()).unwrap();
    rig.stamp(ring, 4, 5);
    rig.check_stamps(0, at(page_of(ring, 4).0), 4, 5);
    rig.give_frames(&frames);
    rig.unmap(ring).unwrap();
    assert_eq!(rig.settled().pages, 0);
}

#[test]
fn frames_that_an_area_took_over_come_back_when_it_is_freed() {
    let rig = rig(2);
    let before = rig.settled();
    let frames = rig.frames(130);
    // SAFETY: P2: the frames are given to the area.
    let area = unsafe { rig.vmap_owned(&frames, Req::bytes(0)) }.unwrap();
    rig.stamp(area, 130, 4);
    rig.sim.on(1, || rig.give(area)).unwrap();
    let after = rig.settled();
    assert_eq!(after.free + after.held, before.free + before.held);
}

#[test]
fn a_frame_freed_while_it_is_mapped_stays_until_its_last_mapping_is_gone() {
    let rig = rig(2);
    let frames = rig.frames(3);
    let (first, second) = (rig.map(&frames).unwrap(), rig.map(&frames).unwrap());
    rig.stamp(first, 3, 6);
    rig.give_frames(&frames);
    rig.unmap(first).unwrap();
    // Nobody else may get them, however short memory is.
    let others: Vec<_> = std::iter::from_fn(|| rig.alloc_frame(Gfp::KERNEL, None).ok()).collect();
    assert!(others.len() > 10_000 && others.iter().all(|frame| !frames.contains(frame)));
    rig.check_stamps(1, second, 3, 6);
    rig.unmap(second).unwrap();
    let last: Vec<_> = std::iter::from_fn(|| rig.alloc_frame(Gfp::KERNEL, None).ok()).collect();
    assert!(frames.iter().all(|frame| last.contains(frame)), "the last mapping is gone: {last:?}");
    rig.give_frames(&[others, last].concat());
}

#[test]
fn a_held_frame_survives_its_area() {
    let rig = rig(2);
    let before = rig.settled();
    let area = rig.alloc(Req::pages(5)).unwrap();
    rig.stamp(area, 5, 8);
    let frame = rig.hold_frame(page_of(area, 2).0 + 77).expect("a live page");
    assert_eq!(rig.frame_at(page_of(area, 2).0), Some(frame));
    rig.give(area).unwrap();
    assert_eq!((rig.frame_at(page_of(area, 2).0), rig.hold_frame(page_of(area, 2).0)), (None, None));
    rig.purge();
    // Its contents are still there, for whoever maps it.
    let again = rig.map(&[frame]).unwrap();
    assert_eq!(rig.sim.load(1, addr(again)), Ok(8 ^ 2));
    rig.unmap(again).unwrap();
    rig.give_frames(&[frame]);
    let after = rig.settled();
    assert_eq!(after.free + after.held, before.free + before.held);
}

#[test]
fn a_hold_given_up_before_the_free_changes_nothing() {
    let rig = rig(1);
    let before = rig.settled();
    let area = rig.alloc(Req::pages(2)).unwrap();
    drop(rig.frame_ref(addr(area).0).expect("a live page"));
    rig.stamp(area, 2, 1);
    rig.give(area).unwrap();
    let after = rig.settled();
    assert_eq!(after.free + after.held, before.free + before.held);
    assert!(rig.frame_ref(addr(area).0).is_none());
}

/// A device after the memory, and nothing between.
const DEVICE: Bank = Bank { first: Pfn(1 << 20), frames: 512, node: None };

#[test]
fn a_device_is_mapped_with_its_offset_kept() {
    let rig = boot(busy(1).node(64 << 20).bank(DEVICE), Config::region(REGION));
    for (offset, bytes, pages) in [(0, 1, 1), (0x123, 8, 1), (0xffc, 8, 2), (0x10_0010, 0x3000, 4), (5, 300 << 10, 76)]
    {
        let phys = DEVICE.first.phys() + offset;
        let io = rig.ioremap(phys, bytes, MemType::Uncached).unwrap();
        let info = rig.find(addr(io).0).unwrap();
        assert_eq!(addr(io).0 % PAGE, phys as usize % PAGE);
        assert_eq!((info.kind, info.pages, info.phys), (Kind::Ioremap, pages, Some(phys / 4096 * 4096)));
        let align = (pages * PAGE).next_power_of_two().min(128 * PAGE);
        assert_eq!(info.start.0 % align, 0, "aligned to its size");
        assert_eq!(rig.frame_at(addr(io).0), Some(Pfn::containing(phys)));
        rig.sim.store(0, VirtAddr(addr(io).0), offset).unwrap();
        assert_eq!(rig.hold_frame(addr(io).0), None, "a device has no descriptors");
        rig.unmap_device(io).unwrap();
    }
    let free = rig.settled();
    assert_eq!((free.pages, free.waiting), (0, 0));
}

#[test]
fn device_ranges_that_wrap_or_are_memory_or_cannot_be_named_are_refused() {
    let rig = boot(busy(1).node(64 << 20).bank(DEVICE), Config::region(REGION));
    let before = rig.picture().1;
    let io = |phys, bytes| rig.ioremap(phys, bytes, MemType::Uncached);
    assert_eq!(io(DEVICE.first.phys(), 0), Err(AllocError::ZeroSize));
    assert_eq!(io(16 << 12, 1), Err(AllocError::IsRam(Pfn(16))), "memory");
    let end = (64 << 20) + (16 << 12);
    assert!(matches!(io(end - 1, 2), Err(AllocError::IsRam(_))), "the last byte of memory");
    assert!(matches!(io(0x1000, 1 << 20), Err(AllocError::IsRam(Pfn(16)))), "memory inside");
    for (phys, bytes) in [(u64::MAX, 2), (u64::MAX - 4095, 4097), (1, usize::MAX), (4095, usize::MAX - 4094)] {
        assert!(matches!(io(phys, bytes), Err(AllocError::TooLarge { .. })), "{phys:#x} + {bytes:#x}");
    }
    for phys in [1 << 52, u64::MAX - 4095, u64::MAX] {
        assert!(matches!(io(phys, 1), Err(AllocError::BadFrame(_))), "{phys:#x}: no entry names it");
    }
    let last = io((1 << 52) - 1, 1).expect("the last byte that an entry can name");
    rig.unmap_device(last).unwrap();
    assert!(matches!(io((1 << 52) - 1, 2), Err(AllocError::BadFrame(_))));
    assert!(matches!(io(1 << 45, 1 << 45), Err(AllocError::TooLarge { .. })), "at once, however large");
    rig.purge();
    assert_eq!(rig.picture().1, before);
}

#[test]
fn a_reservation_maps_nothing() {
    let rig = rig(1);
    let bare = rig.reserve(Req::pages(90)).unwrap();
    (0..91).for_each(|page| rig.sim.assert_faults(0, page_of(bare, page)));
    assert_eq!(rig.frame_at(addr(bare).0), None);
    assert_eq!(rig.find(page_of(bare, 89).0).map(|info| info.kind), Some(Kind::Reserved));
    rig.give(bare).unwrap();
}

#[test]
fn congruent_areas_lie_at_their_offsets_or_are_not_made_at_all() {
    for placement in PLACEMENTS {
        let rig = placed(placement);
        let nothing = rig.settled();
        let parts = [(0, 512 * PAGE), (1536 * PAGE, 512 * PAGE), (4096 * PAGE, 64 * PAGE)];
        let align = 512 * PAGE;
        let bases: Vec<_> = (0..20).map(|_| rig.reserve_at_offsets(&parts, align, Req::bytes(0)).unwrap()).collect();
        for &base in &bases {
            assert_eq!(base % align, 0);
            for &(offset, bytes) in &parts {
                let info = rig.find(base + offset).expect("a part");
                assert_eq!((info.start.0, info.bytes, info.kind), (base + offset, bytes, Kind::Reserved));
            }
        }
        assert_eq!(rig.areas().count(), 60);
        for &(offset, _) in &parts {
            bases.iter().for_each(|base| rig.give(at(base + offset)).unwrap());
        }
        let whole = REGION.end - REGION.start;
        let before = rig.settled();
        assert_eq!(before.reserved, nothing.reserved);
        for wide in [&[(0, PAGE), (whole, PAGE)][..], &[(0, PAGE), (usize::MAX << 18, PAGE)]] {
            assert!(matches!(rig.reserve_at_offsets(wide, align, Req::bytes(0)), Err(AllocError::TooLarge { .. })));
        }
        assert_eq!(rig.reserve_at_offsets(&[], align, Req::bytes(0)), Err(AllocError::ZeroSize));
        assert_eq!(rig.settled(), before);
    }
}

#[test]
fn an_owning_area_frees_itself_unless_it_is_given_up() {
    let rig = rig(2);
    let owned = rig.area(Req::bytes(9000)).unwrap();
    assert_eq!((owned.bytes(), owned.frames().count()), (9000, 3));
    assert_eq!(rig.find(owned.start().0).map(|info| info.start), Some(owned.start()));
    assert_eq!(rig.sim.load(1, owned.start()), Ok(0), "cleared to begin with");
    drop(owned);
    assert_eq!(rig.stats().areas, 0);
    let raw = rig.area(Req::pages(1)).unwrap().into_raw();
    assert_eq!(rig.stats().areas, 1);
    // SAFETY: O1: a page, cleared, that nobody else knows.
    drop(unsafe { Area::from_raw(&**rig, raw, PAGE) });
    assert_eq!(rig.stats().areas, 0);
}

#[test]
fn an_instance_that_was_not_initialised_refuses_everything_and_answers_questions() {
    let sim = quiet(1).build();
    let vm: Vmalloc<Sim<X86_64>> = Vmalloc::new(sim.clone());
    assert_eq!(vm.alloc(Req::pages(1)), Err(AllocError::NotInitialised));
    assert_eq!(vm.alloc_frame(Gfp::KERNEL, Some(Node(0))), Err(AllocError::NotInitialised));
    assert_eq!((vm.purge(), vm.reclaim(9), vm.work(), vm.areas().count()), (0, 0, 0, 0));
    assert_eq!((vm.whatis(REGION.start), vm.check()), (vmalloc::What::NotOurs, Ok(())));
    drop(vm);
    sim.assert_no_leaks();
}
