//! T2: entries that nobody can have meant to be there are told once, cleared, and
//! walked past; and no area is made of them.

use crate::common::{PAGE, REGION, Rig, START, addr, boot, page_of, quiet};
use vmalloc::gfp::Gfp;
use vmalloc::machine::format::{Entry, Format, MemType, Prot};
use vmalloc::machine::frames::Frames;
use vmalloc::table::X86_64;
use vmalloc::units::VirtAddr;
use vmalloc::{AllocError, Config, Placement, Policy, Req};
use vmalloc_sim::Booted;

/// Not present, and nothing that the library writes.
const GARBAGE: u64 = 0x1000;
/// Pages under a leaf table.
const SPAN: usize = 512;

fn line(level: u8, at: VirtAddr, word: u64) -> String {
    format!("bad entry at level {level} for {at}: {word:#x}")
}

/// What the rig complained of, without whose area it was.
fn lines(rig: &Rig) -> Vec<String> {
    let whole = |line: String| line.split(", in an area by ").next().unwrap_or_default().to_owned();
    rig.complaints().into_iter().map(whole).collect()
}

fn complaints(vm: &Booted<X86_64>) -> Vec<String> {
    vm.sim().take_log().into_iter().map(|(_, line)| line).collect()
}

#[test]
fn t2_a_bad_link_over_a_large_area_is_told_by_level_when_it_is_freed_and_walked_past() {
    for (level, word, lost) in
        [(2, GARBAGE, SPAN + 1), (2, 0, SPAN + 1), (3, GARBAGE, 4 * SPAN + 5), (4, 0, 4 * SPAN + 6)]
    {
        let sim = quiet(1).build();
        let config = Config::region(START..START + (1 << 30)).placement(Placement::Lowest);
        let vm = Booted::new(sim.clone(), config).unwrap();
        let req = Req::pages(4 * SPAN).align(SPAN * PAGE);
        let area = vm.alloc(req.clone()).unwrap();
        let broken = if level == 2 { page_of(area, SPAN) } else { addr(area) };
        sim.poke(broken, level, word);
        // SAFETY: V1: nobody uses it.
        assert_eq!(unsafe { vm.free(area) }, Ok(()));
        assert_eq!(complaints(&vm), [line(level, broken, word)]);
        vm.purge();
        assert_eq!(complaints(&vm), [""; 0], "once");
        let again = vm.alloc(req).unwrap();
        for page in 0..4 * SPAN {
            sim.store(0, page_of(again, page), 1).expect("an area that can be used");
        }
        assert_eq!(vm.check(), Ok(()));
        drop(vm);
        assert_eq!(sim.leaked_frames(), lost, "what was under the entry cannot be known, the rest is back");
    }
}

/// One area of a chunk that has more, by the straight path.
fn in_a_chunk() -> (Rig, VirtAddr) {
    let rig = boot(quiet(1), Config::region(REGION));
    let areas: Vec<_> = (0..4).map(|_| rig.alloc(Req::pages(2)).unwrap()).collect();
    rig.give(areas[3]).unwrap();
    rig.purge();
    let area = rig.alloc(Req::pages(2)).unwrap();
    (rig, addr(area))
}

#[test]
fn t2_a_bad_link_over_a_chunk_is_told_once_and_mended_when_what_was_freed_is_reclaimed() {
    for (level, word) in [(2, GARBAGE), (2, 0), (3, GARBAGE), (3, 0)] {
        let (rig, area) = in_a_chunk();
        let lost = rig.sim.entry(area, level);
        rig.sim.poke(area, level, word);
        rig.give(crate::common::at(area.0)).unwrap();
        let leaf = VirtAddr(area.0 & !(SPAN * PAGE - 1));
        let told: Vec<_> = std::iter::from_fn(|| {
            rig.tick();
            Some(lines(&rig))
        })
        .take(8)
        .flatten()
        .collect();
        assert_eq!(told, [line(level, leaf, word)]);
        for seed in 0..40 {
            let area = rig.alloc(Req::pages(2)).unwrap();
            rig.stamp(area, 2, seed);
        }
        assert_eq!(rig.check(), Ok(()));
        assert_eq!(lines(&rig), [""; 0]);
        if let (3, Entry::Table(upper)) = (level, lost) {
            // Nobody can know the frame of an upper table that was written over.
            give_lost(&rig, upper);
        }
    }
}

#[test]
fn t2_a_larger_page_over_a_chunk_is_told_and_left_alone_and_areas_there_are_refused() {
    let sim = quiet(1).build();
    let vm = Booted::new(sim.clone(), Config::region(REGION)).unwrap();
    let area = vm.alloc(Req::pages(2)).unwrap();
    let (at, leaf, large) = (addr(area), VirtAddr(addr(area).0 & !(SPAN * PAGE - 1)), 0x1_0000_00e3);
    sim.poke(at, 2, large);
    // SAFETY: V1: nobody uses it.
    assert_eq!(unsafe { vm.free(area) }, Ok(()));
    (0..8).for_each(|_| _ = vm.tick());
    assert_eq!(complaints(&vm), [line(2, leaf, large)]);
    let refused = vm.alloc(Req::pages(2).gfp(Gfp::KERNEL | Gfp::NOWARN));
    assert!(matches!(refused, Err(AllocError::InUse(at)) if at.0 >> 21 == leaf.0 >> 21), "{refused:?}");
    drop(vm);
    assert_eq!(sim.entry(at, 2), Entry::Foreign);
    assert!(sim.leaked_frames() <= 6, "the tables, and what was bound under the entry");
}

/// The entry of an area's second page goes bad; the area is freed; who tells of it,
/// and how often.
fn a_bad_leaf_is_told_once(policy: Policy, pages: usize, freer: u32, word: u64) {
    let rig = boot(quiet(2), Config::region(REGION).policy(policy));
    let area = rig.alloc(Req::pages(pages)).unwrap();
    let (at, frame) = (page_of(area, 1), rig.frame_at(page_of(area, 1).0).unwrap());
    rig.sim.poke(at, 1, word);
    rig.sim.on(freer, || rig.give(area)).unwrap();
    (0..8).for_each(|_| _ = rig.tick());
    rig.set_policy(Policy::Unmap);
    rig.purge();
    assert_eq!(lines(&rig), [line(1, at, word)], "{policy:?}, {pages} pages, freed on CPU {freer}");
    let again = rig.alloc(Req::pages(pages)).unwrap();
    rig.stamp(again, pages, 3);
    assert_eq!(rig.check(), Ok(()));
    give_lost(&rig, frame);
}

fn give_lost(rig: &Rig, frame: vmalloc::units::Pfn) {
    use vmalloc::machine::Machine;
    let pinned = rig.sim.pin();
    // SAFETY: F2: no entry names it any more, and nobody else knows it.
    unsafe { rig.sim.frames().free(frame, 0) };
    // SAFETY: M4: the youngest pin.
    unsafe { rig.sim.unpin(pinned) };
}

#[test]
fn t2_a_bad_entry_of_a_page_is_told_exactly_once() {
    for policy in [Policy::Unmap, Policy::Strict, Policy::Park, Policy::Keep] {
        for (pages, freer) in [(3, 0), (3, 1), (100, 0), (100, 1), (700, 0), (700, 1)] {
            for word in [0, GARBAGE, 0x1167] {
                a_bad_leaf_is_told_once(policy, pages, freer, word);
            }
        }
    }
}

#[test]
fn t2_an_entry_that_goes_bad_while_its_frame_waits_is_told_once_when_it_is_collected() {
    for pages in [3, 100, 700] {
        for word in [0, GARBAGE] {
            let rig = boot(quiet(1), Config::region(REGION));
            let area = rig.alloc(Req::pages(pages)).unwrap();
            let (at, frame) = (page_of(area, 1), rig.frame_at(page_of(area, 1).0).unwrap());
            rig.give(area).unwrap();
            rig.sim.poke(at, 1, word);
            rig.purge();
            assert_eq!(lines(&rig), [line(1, at, word)], "{pages} pages");
            rig.purge();
            assert_eq!((lines(&rig), rig.check()), (Vec::new(), Ok(())));
            give_lost(&rig, frame);
        }
    }
}

#[test]
fn t2_no_area_is_made_of_a_parked_slot_with_a_bad_entry() {
    for (pages, zero) in [(3, false), (3, true), (100, false)] {
        for word in [0, GARBAGE] {
            let rig = boot(quiet(1), Config::region(REGION).policy(Policy::Park));
            let area = rig.alloc(Req::pages(pages)).unwrap();
            let (at, frame) = (page_of(area, 1), rig.frame_at(page_of(area, 1).0).unwrap());
            rig.give(area).unwrap();
            assert_eq!(rig.stats().cached_pages, pages, "it is parked");
            rig.sim.poke(at, 1, word);
            let req = if zero { Req::pages(pages).zeroed() } else { Req::pages(pages) };
            let other = rig.alloc(req).unwrap();
            rig.stamp(other, pages, 5);
            assert_eq!(lines(&rig), [line(1, at, word)]);
            rig.purge();
            assert_eq!((lines(&rig), rig.check()), (Vec::new(), Ok(())));
            give_lost(&rig, frame);
        }
    }
}

#[test]
fn t2_a_mapping_with_a_bad_entry_is_told_once() {
    for (pages, word) in [(2, GARBAGE), (2, 0), (100, GARBAGE)] {
        let rig = boot(quiet(1), Config::region(REGION));
        let frames = rig.frames(pages);
        // SAFETY: P4: they are held for longer.
        let area = unsafe { rig.map_ram(&frames, None) }.unwrap();
        rig.sim.poke(page_of(area, 1), 1, word);
        rig.unmap_pages(area, pages).unwrap();
        rig.purge();
        assert_eq!(lines(&rig), [line(1, page_of(area, 1), word)]);
        let mapped = rig.map(&frames).unwrap();
        rig.sim.poke(page_of(mapped, 1), 1, X86_64::leaf(frames[0], Prot::RW, MemType::WriteBack, 1) | 1 << 9);
        rig.unmap(mapped).unwrap();
        rig.purge();
        assert_eq!(lines(&rig).len(), 1);
        // The entry that was lost held its frame.
        rig.give_frames(&frames);
        rig.give_frames(&frames[1..2]);
    }
}

#[test]
fn t2_a_bad_entry_of_a_page_is_told_with_who_made_the_area() {
    let rig = boot(quiet(1), Config::region(REGION));
    let area = rig.alloc(Req::pages(3).caller(vmalloc::Caller::Return(0x1234))).unwrap();
    let (at, frame) = (page_of(area, 1), rig.frame_at(page_of(area, 1).0).unwrap());
    rig.sim.poke(at, 1, GARBAGE);
    rig.give(area).unwrap();
    assert_eq!(rig.complaints(), [format!("{}, in an area by 0x1234", line(1, at, GARBAGE))]);
    rig.purge();
    give_lost(&rig, frame);
}
