//! What an instance says of itself: the listing, questions about addresses,
//! numbers, and the words of its errors.

use crate::common::{PAGE, REGION, START, addr, at, boot, lines_up, page_of, place, quiet};
use vmalloc::area::Guard;
use vmalloc::machine::format::MemType;
use vmalloc::units::{Node, Pfn, VirtAddr};
use vmalloc::{AllocError, Caller, Config, FreeError, Info, Kind, Placement, Req, What};
use vmalloc_sim::Bank;

const DEVICE: Bank = Bank { first: Pfn(0xfe00_0000 >> 12), frames: 16, node: None };

/// A return address of the function whose name is given to the symbolizer.
fn pc(n: usize) -> Caller {
    Caller::Return(0xffff_ffff_8100_0000 + n)
}

#[test]
fn the_listing_has_the_traditional_form() {
    let machine = quiet(1).node(32 << 20).node(32 << 20).bank(DEVICE);
    let rig = boot(machine, Config::region(START - PAGE..START + (1 << 30)).placement(Placement::Lowest));
    rig.sim.set_symbolizer(|pc, f| write!(f, "caller_{}+0x10/0x80", pc - 0xffff_ffff_8100_0000));
    let frames = rig.frames(3);
    let owned = rig.frames(2);
    let req = |pages, n| Req::pages(pages).caller(pc(n));
    rig.alloc(req(4, 1)).unwrap();
    rig.alloc(Req::bytes(1).caller(pc(2)).node(Node(1))).unwrap();
    // SAFETY: P1, P2: the frames are this test's, and `owned` is given away.
    unsafe {
        rig.vmap(&frames, req(0, 3)).unwrap();
        rig.vmap_owned(&owned, req(0, 4)).unwrap();
        rig.map_ram(&frames[..2], None).unwrap();
    }
    rig.ioremap_for(DEVICE.first.phys() + 0x800, 0x1000, MemType::Uncached, pc(5)).unwrap();
    rig.reserve(req(9, 6)).unwrap();
    let freed = rig.alloc(req(2, 7)).unwrap();
    rig.alloc(Req::stack(4).caller(pc(8))).unwrap();
    rig.give(freed).unwrap();
    // Start and end with the guard, the size in seven places, then what there
    // is to say. The page below the stack is nobody else's, so it does not follow
    // what waits.
    let expected = "\
0xffffc90000000000-0xffffc90000005000   20480 caller_1+0x10/0x80 pages=4 vmalloc N0=4
0xffffc90000005000-0xffffc90000007000    8192 caller_2+0x10/0x80 pages=1 vmalloc N1=1
0xffffc90000007000-0xffffc9000000b000   16384 caller_3+0x10/0x80 vmap
0xffffc9000000b000-0xffffc9000000e000   12288 caller_4+0x10/0x80 pages=2 vmap N0=2
0xffffc9000000e000-0xffffc90000010000    8192 vm_map_ram
0xffffc90000010000-0xffffc90000013000   12288 caller_5+0x10/0x80 phys=0x00000000fe000000 ioremap
0xffffc90000013000-0xffffc9000001d000   40960 caller_6+0x10/0x80
0xffffc90000024000-0xffffc90000029000   20480 caller_8+0x10/0x80 pages=4 vmalloc N0=4
0xffffc9000001d000-0xffffc90000020000   12288 unpurged vm_area
";
    assert_eq!(rig.listing(), expected);
    rig.purge();
    let purged = expected.lines().filter(|line| !line.ends_with("unpurged vm_area"));
    assert!(rig.listing().lines().eq(purged));
    rig.give_frames(&frames);
}

#[test]
fn the_listing_is_sorted_by_address_and_empty_for_nothing() {
    let far = START + (1 << 35)..START + (1 << 35) + (1 << 30);
    let rig = boot(quiet(3), Config::region(far).add_region(START..START + (1 << 30)));
    assert_eq!(rig.listing(), "");
    for round in 0..200usize {
        rig.sim.set_cpu(round as u32 % 3);
        let req = Req::pages(1 + round * 7 % 90).region(vmalloc::area::RegionId(round as u8 % 2));
        rig.alloc(req).unwrap();
    }
    let listing = rig.listing();
    let starts: Vec<_> = listing.lines().map(|line| &line[..18]).collect();
    assert_eq!(starts.len(), 200);
    assert!(starts.is_sorted());
    let line = rig.areas().next().unwrap();
    assert!(listing.starts_with(&format!("{:#018x}-{:#018x}", line.start.0, line.start.0 + line.size())));
    assert!(listing.contains("listing.rs:"), "a place in Rust, where no return address is");
}

#[test]
fn a_snapshot_tells_all_that_was_asked_for() {
    let rig = boot(quiet(1), Config::region(REGION));
    let area = rig.alloc(Req::bytes(5000).guard(Guard::None).node(Node(0))).unwrap();
    let asked = lines_up(1);
    let info = rig.find(addr(area).0 + 4999).unwrap();
    let Info { start, bytes, pages, kind, guard, caller, freer, phys, .. } = info;
    assert_eq!((start, bytes, pages, kind, guard), (addr(area), 5000, 2, Kind::Vmalloc, Guard::None));
    assert_eq!((place(caller), freer, phys), (asked, None, None));
    assert_eq!(rig.find(page_of(area, 2).0), None);
    assert!(rig.areas().eq([info]));
}

/// What `address` is, in words.
fn told(what: What) -> String {
    what.to_string()
}

#[test]
fn every_address_has_an_answer() {
    // │area│guard│area│guard│ …
    let rig = boot(quiet(2), Config::region(REGION).placement(Placement::Lowest));
    let below = rig.alloc(Req::pages(2).caller(pc(1))).unwrap();
    let above = rig.alloc(Req::pages(3).caller(pc(2))).unwrap();
    let (low, high) = (rig.find(addr(below).0).unwrap(), rig.find(addr(above).0).unwrap());
    assert_eq!(addr(above), page_of(below, 3));
    for offset in [0, 1, 4096, 8191] {
        assert_eq!(rig.whatis(addr(below).0 + offset), What::Inside { area: low, offset });
    }
    let guard = page_of(below, 2).0;
    for past in [0, 1, 4095] {
        let what = rig.whatis(guard + past);
        let expected = What::Guard { below: Some(low), past, above: Some(high), short: PAGE - past };
        assert_eq!(what, expected);
    }
    let last = rig.whatis(page_of(above, 3).0 + 9);
    assert_eq!(last, What::Guard { below: Some(high), past: 9, above: None, short: 0 });
    assert_eq!(rig.whatis(page_of(above, 4).0), What::Free);
    assert_eq!(rig.whatis(REGION.end - 1), What::Free);
    for outside in [0, 1, START - 1, REGION.end, usize::MAX] {
        assert_eq!(rig.whatis(outside), What::NotOurs);
    }
}

#[test]
fn a_freed_area_is_told_with_its_freer_until_its_addresses_are_reused() {
    let rig = boot(quiet(2), Config::region(REGION));
    let _neighbours = [rig.alloc(Req::pages(2)).unwrap(), rig.alloc(Req::pages(2)).unwrap()];
    let area = rig.alloc(Req::bytes(5000).caller(pc(1))).unwrap();
    let info = rig.find(addr(area).0).unwrap();
    rig.sim.on(1, || rig.give(area)).unwrap();
    let freed = lines_up(1);
    for (flushed, address) in [(false, 0), (false, 5000)] {
        let What::Freed { was, flushed: told } = rig.whatis(addr(area).0 + address) else { panic!("it was freed") };
        assert_eq!((Info { freer: None, ..was }, told), (info, flushed));
        assert_eq!(was.freer.map(place), Some(freed.clone()));
    }
    rig.purge();
    assert!(matches!(rig.whatis(addr(area).0 + 5000), What::Freed { flushed: true, .. }));
    assert_eq!(rig.find(addr(area).0), None);
    while rig.find(addr(area).0).is_none() {
        rig.alloc(Req::pages(2)).unwrap();
    }
    assert!(matches!(rig.whatis(addr(area).0 + 5000), What::Inside { offset: 5000, .. }));
}

#[test]
fn a_guard_below_a_stack_is_told_by_how_much_it_was_missed() {
    let rig = boot(quiet(1), Config::region(REGION));
    rig.alloc(Req::pages(1)).unwrap();
    let stacks: Vec<_> = (0..5).map(|_| rig.alloc(Req::stack(4)).unwrap()).collect();
    for &stack in &stacks {
        let What::Guard { above: Some(hit), short, .. } = rig.whatis(addr(stack).0 - 24) else { panic!("a guard") };
        assert_eq!((hit.start, hit.kind, short), (addr(stack), Kind::Stack, 24));
    }
}

#[test]
fn the_statistics_count_what_happens() {
    let rig = boot(quiet(2), Config::region(REGION).atomic_reserve(5));
    let fresh = rig.stats();
    assert_eq!((fresh.areas, fresh.pages, fresh.reserved_pages, fresh.waiting_pages), (0, 0, 0, 0));
    assert_eq!((fresh.reserve_frames, fresh.table_frames, fresh.pooled_frames), (5, 1, 0));
    assert_eq!(fresh.init_frames, fresh.bookkeeping_frames + fresh.table_frames + 5);
    let areas: Vec<_> = (1..=10).map(|pages| rig.alloc(Req::pages(pages)).unwrap()).collect();
    let big = rig.alloc(Req::pages(600)).unwrap();
    let stats = rig.stats();
    assert_eq!((stats.areas, stats.pages), (11, 655));
    assert_eq!((stats.counts.allocs, stats.counts.alloc_pages), (11, 655));
    assert!(stats.reserved_pages >= 655 + 11 && stats.table_frames >= 4);
    rig.give(areas[0]).unwrap();
    rig.sim.on(1, || rig.give(areas[1])).unwrap();
    rig.give(big).unwrap();
    let stats = rig.stats();
    assert_eq!((stats.counts.local_frees, stats.counts.remote_frees, stats.counts.free_pages), (2, 1, 603));
    assert_eq!((stats.areas, stats.pages), (8, 52));
    assert_eq!(rig.purge(), 603);
    let stats = rig.stats();
    assert_eq!((stats.waiting_pages, stats.counts.reclaimed, stats.counts.reclaimed_pages), (0, 3, 603));
    assert!(rig.alloc(Req::bytes(0)).is_err());
    assert_eq!(rig.stats().counts.failures, 1);
    assert_eq!(rig.stats().counts.allocs, 11, "a refusal is no area");
}

#[cfg(debug_assertions)]
#[test]
fn an_area_that_was_given_up_half_way_counts_as_a_failure_only() {
    let rig = boot(quiet(1), Config::region(REGION));
    rig.give(rig.alloc(Req::pages(200)).unwrap()).unwrap();
    rig.settled();
    let before = rig.stats().counts;
    // Tables are there, the frames come in batches: the first will do for a
    // slice or two.
    for n in 1..6 {
        rig.sim.faults().fail_from(n);
        let refused = rig.alloc(Req::pages(500).gfp(vmalloc::Gfp::NOWAIT));
        rig.sim.faults().fail_at(0);
        assert!(refused.is_err(), "500 frames in {n} steps");
    }
    let counts = rig.stats().counts;
    assert_eq!(counts.failures - before.failures, 5);
    let made = counts.allocs - before.allocs;
    let freed = counts.local_frees + counts.remote_frees - before.local_frees - before.remote_frees;
    assert_eq!((made, freed, counts.alloc_pages - before.alloc_pages), (0, 0, 0));
    assert_eq!((rig.stats().areas, rig.stats().pages), (0, 0));
}

#[test]
fn errors_and_answers_say_their_numbers() {
    let rig = boot(quiet(1), Config::region(START - PAGE..START + 256 * PAGE));
    let say = |error: AllocError| error.to_string();
    assert_eq!(say(rig.alloc(Req::bytes(0)).unwrap_err()), "an area of zero bytes");
    let wide = rig.reserve(Req::pages(300)).unwrap_err();
    assert_eq!(say(wide), "1228800 bytes, but only 1044480 could ever be had");
    assert_eq!(
        say(rig.alloc(Req::pages(1).align(12)).unwrap_err()),
        "alignment 12: not a power of two that fits the region"
    );
    let area = rig.alloc(Req::pages(100).caller(pc(1))).unwrap();
    rig.alloc(Req::pages(100)).unwrap();
    assert_eq!(say(rig.alloc(Req::pages(100)).unwrap_err()), "no gap of 101 pages; the widest is 0 pages");
    assert_eq!(
        told(rig.whatis(addr(area).0 + 16)),
        "0x10 bytes into the area of 409600 bytes at 0xffffc90000000000 by 0xffffffff81000001"
    );
    assert!(
        told(rig.whatis(page_of(area, 100).0 + 2))
            .starts_with("guard: 0x2 bytes past the end of the area of 409600 bytes at 0xffffc90000000000")
    );
    assert_eq!(told(rig.whatis(1)), "outside of all regions");
    let say = |error: FreeError| error.to_string();
    assert_eq!(say(rig.give(at(0x1000)).unwrap_err()), "nonexistent area (0x1000)");
    assert_eq!(
        say(rig.give(at(addr(area).0 + 8)).unwrap_err()),
        "bad address (0xffffc90000000008): 0x8 bytes into the area at 0xffffc90000000000"
    );
    assert_eq!(say(rig.unmap(area).unwrap_err()), "not for an area of kind Vmalloc");
    rig.give(area).unwrap();
    let twice = say(rig.give(area).unwrap_err());
    assert!(
        twice
            .starts_with("double free of 0xffffc90000000000: 409600 bytes, allocated by 0xffffffff81000001, freed by "),
        "{twice}"
    );
    assert!(twice.contains("listing.rs:"), "{twice}");
    let what = told(rig.whatis(addr(area).0));
    assert!(
        what.starts_with(
            "in the freed area of 409600 bytes at 0xffffc90000000000 by 0xffffffff81000001, not flushed yet, freed by "
        ),
        "{what}"
    );
    assert_eq!(VirtAddr(0x20).to_string(), "0x20");
}
