//! What callers tell the detector, up to the edges of what they may tell.

use crate::kmemleak::*;
use Colour::{Black, Grey, White};
use vmalloc::Req;
use vmalloc::machine::event::Event;
use vmalloc::units::VirtAddr;
use vmalloc::{Caller, Kind};
use vmalloc_kernel::percpu::{Group, PerCpu};

/// What the log says of the object that holds the address.
#[track_caller]
fn dump(kernel: &Tested<'_>, at: usize) -> String {
    kernel.host().said();
    kernel.kmemleak_write(&format!("dump={at:#x}")).unwrap();
    kernel.host().said().join("\n")
}

/// An object of the slab that the detector has not heard of.
fn unknown(kernel: &Tested<'_>) -> usize {
    let block = object(kernel);
    kernel.kmemleak_free(block);
    block
}

/// Tells of an object.
fn tell(kernel: &Tested<'_>, at: usize, size: usize, min_count: i32) {
    // SAFETY: Y8: what the tests tell of lives on, or is nothing.
    unsafe { kernel.kmemleak_alloc(at, size, min_count, GFP) };
}

#[test]
fn an_object_told_of_with_a_negative_count_is_black_and_nothing_and_no_bytes_are_none() {
    let rig = rig();
    let kernel = rig.kernel();
    let objects = [-1, -7, 0, 1].map(|min_count| {
        let at = unknown(&kernel);
        tell(&kernel, at, 64, min_count);
        at
    });
    let before = rig.leaks().len(&rig.sim);
    tell(&kernel, 0, 64, 1);
    tell(&kernel, unknown(&kernel), 0, 1);
    assert_eq!(rig.leaks().len(&rig.sim), before);
    rig.scan(&kernel);
    let [one, seven, zero, white] = objects;
    rig.assert_colours(&[(one, Black), (seven, Black), (zero, Grey), (white, White)]);
}

#[test]
fn an_object_that_needs_three_references_is_grey_with_three_and_while_its_bytes_change() {
    let rig = rig();
    let kernel = rig.kernel();
    let at = unknown(&kernel);
    tell(&kernel, at, 64, 3);
    rig.sim.advance(6 * SECOND);
    set(at, 0, 77);
    assert_eq!(kernel.kmemleak_scan(), 0);
    rig.assert_colours(&[(at, Grey)]);
    for (references, colour) in [(0, White), (1, White), (2, White), (3, Grey)] {
        (0..references).for_each(|n| rig.point(n, at));
        rig.scan(&kernel);
        rig.assert_colours(&[(at, colour)]);
    }
}

#[test]
fn a_part_that_reaches_beyond_its_block_is_told_and_the_block_stays() {
    let rig = rig();
    let kernel = rig.kernel();
    let block = object(&kernel);
    kernel.kmemleak_free_part(block + 32, 33);
    let line = format!("kmemleak: kmemleak_free_part of {:#x}, which is no object", block + 32);
    assert_eq!(kernel.host().said(), [line]);
    assert!(dump(&kernel, block + 63).starts_with(&format!("kmemleak: object 0x{block:08x} (size 64)")));
    kernel.kmemleak_free_part(block + 32, 32);
    assert_eq!((kernel.host().said(), rig.colour(block)), (vec![], Some(White)));
    assert!(dump(&kernel, block + 31).contains("(size 32)"));
    assert!(dump(&kernel, block + 32).contains("no object holds"));
}

#[test]
fn what_is_left_of_a_suspect_that_is_freed_in_part_is_suspected_anew() {
    let rig = rig();
    let kernel = rig.kernel();
    let block = object(&kernel);
    assert_eq!((rig.scan(&kernel), rig.scan(&kernel)), (1, 0));
    kernel.kmemleak_free_part(block + 16, 16);
    assert_eq!(rig.scan(&kernel), 2, "before the part, and behind it");
}

#[test]
fn a_deferred_area_is_an_object_of_the_bytes_that_are_told() {
    let rig = rig();
    let kernel = rig.kernel();
    let area = kernel.vmalloc(pages(2)).map(number).unwrap();
    let view = kernel.find_vm_area(area).unwrap();
    kernel.kmemleak_vmalloc(&view, 5000, GFP);
    assert!(dump(&kernel, area + 4999).contains(&format!("0x{area:08x} (size 5000)")));
    assert!(dump(&kernel, area + 5000).contains("no object holds"));
    rig.point(0, area);
    rig.scan(&kernel);
    rig.assert_colours(&[(area, Grey)]);
    vfree(&kernel, area);
}

#[test]
fn an_adopted_area_needs_one_reference_and_is_its_present_callers() {
    let rig = rig();
    let kernel = rig.kernel();
    rig.hears.store(false, SeqCst);
    let made = || (rig.vm().alloc(Req::pages(1).zeroed()).unwrap(), line!());
    let (first, _) = made();
    rig.point(0, number(first));
    kernel.kmemleak_adopt();
    rig.scan(&kernel);
    rig.assert_colours(&[(number(first), Grey)]);
    // Freed, and made by another in the same place.
    // SAFETY: V1: nobody uses it.
    unsafe { rig.vm().free(first) }.unwrap();
    rig.vm().purge();
    let (second, line) = (rig.vm().alloc(Req::pages(1).zeroed()).unwrap(), line!());
    assert_eq!(first, second);
    kernel.kmemleak_adopt();
    let said = dump(&kernel, number(second));
    assert!(said.ends_with(&format!("{}:{line}", file!())), "{said}");
}

#[test]
fn objects_of_one_byte_side_by_side_are_each_seen_by_each_look_at_all() {
    let rig = rig();
    let kernel = rig.kernel();
    let block = unknown(&kernel);
    let bytes: Vec<usize> = (block..block + 6).collect();
    bytes.iter().for_each(|&at| tell(&kernel, at, 1, 1));
    assert_eq!(rig.scan(&kernel), 6);
    let mut text = String::new();
    kernel.kmemleak(&mut text).unwrap();
    bytes.iter().for_each(|at| assert!(text.contains(&format!("0x{at:08x} (size 1)")), "{text}"));
    kernel.kmemleak_write("clear").unwrap();
    rig.scan(&kernel);
    rig.assert_colours(&bytes.iter().map(|&at| (at, Grey)).collect::<Vec<_>>());
}

#[test]
fn a_reference_to_the_first_or_the_last_byte_of_all_and_one_in_the_last_word_of_a_root_count() {
    for offset in [0, 63] {
        let rig = rig();
        let kernel = rig.kernel();
        let only = object(&kernel);
        rig.point(rig.data.len() - 1, only + offset);
        rig.scan(&kernel);
        rig.assert_colours(&[(only, Grey)]);
    }
}

#[test]
fn parts_of_objects_that_are_freed_serve_the_next() {
    let rig = rig();
    let kernel = rig.kernel();
    let round = || {
        let block = object(&kernel);
        (0..8).for_each(|n| kernel.kmemleak_scan_area(block + 8 * n, 8, GFP));
        kfree(&kernel, block);
    };
    round();
    let before = rig.sim.leaked_frames();
    (0..500).for_each(|_| round());
    assert_eq!(rig.sim.leaked_frames(), before);
}

#[test]
fn an_area_that_grows_reaches_up_to_the_next_object_at_most() {
    let rig = rig();
    let kernel = rig.kernel();
    let places = rig.vm().reserve(Req::pages(4)).unwrap();
    let start = number(places);
    let kind = Kind::Vmalloc;
    for page in [0, 2] {
        let start = VirtAddr(start + pages(page));
        let event = Event::Publish { start, pages: 1, kind, caller: Caller::Return(0) };
        rig.leaks().note(&rig.sim, event, Origin::default);
    }
    rig.leaks().note(&rig.sim, Event::Resize { start: VirtAddr(start), from: 1, to: 4 }, Origin::default);
    assert!(dump(&kernel, start).contains("(size 8192)"), "two pages");
    assert!(dump(&kernel, start + pages(2)).contains(&format!("0x{:08x} (size 4096)", start + pages(2))));
    for page in [0, 2] {
        let start = VirtAddr(start + pages(page));
        rig.leaks().note(&rig.sim, Event::Claim { start, pages: 1, freer: Caller::Return(0) }, Origin::default);
    }
    // SAFETY: V1: nobody uses them.
    unsafe { rig.vm().free(places) }.unwrap();
}

#[test]
fn a_part_that_begins_within_a_page_is_read_across_its_end_by_the_frames_of_the_area() {
    let rig = rig();
    let kernel = rig.kernel();
    // Frames that do not follow each other.
    let taken: Vec<_> = (0..9).map(|_| rig.vm().alloc_frame(vmalloc::Gfp::KERNEL, None).unwrap()).collect();
    // SAFETY: P3: the test's own.
    taken.iter().step_by(2).for_each(|&frame| unsafe { rig.vm().free_frame(frame) });
    let area = rig.vm().alloc(Req::pages(2).zeroed()).map(number).unwrap();
    let [first, second] = [0, 1].map(|page| rig.vm().frame_at(area + pages(page)).unwrap());
    assert_ne!(second.0, first.0 + 1);
    let held = object(&kernel);
    rig.point(0, area);
    kernel.kmemleak_scan_area(area + 4096 - 200, 400, GFP);
    rig.store(area + 4096, held);
    rig.scan(&kernel);
    rig.assert_colours(&[(area, Grey), (held, Grey)]);
    // SAFETY: P3: the test's own.
    taken.iter().skip(1).step_by(2).for_each(|&frame| unsafe { rig.vm().free_frame(frame) });
    vfree(&kernel, area);
}

#[test]
fn objects_by_cpu_are_scanned_and_never_reported_until_they_are_freed() {
    let rig = rig();
    let kernel = rig.kernel();
    let groups = [Group { offset: 0, cpus: 2 }, Group { offset: 1 << 20, cpus: 1 }];
    let percpu = PerCpu::new(&kernel, &groups, 8).unwrap();
    let before = rig.leaks().len(&rig.sim);
    // Twice: what is known of the first is not in the way of the second.
    for _ in 0..2 {
        let by_cpu = percpu.alloc_percpu(5000, 8, GFP).unwrap();
        let places = [0, 1, 2].map(|cpu| number(percpu.per_cpu_ptr(by_cpu, cpu).unwrap()));
        let behind = object(&kernel);
        rig.store(places[2] + 4096, behind);
        assert_eq!(rig.scan(&kernel), 0);
        rig.assert_colours(&[(places[0], Grey), (places[1], Grey), (places[2], Grey), (behind, Grey)]);
        assert!(dump(&kernel, places[1] + 4999).contains("(size 5000)"), "of its bytes alone");
        // SAFETY: Y1: nobody uses it.
        let free = || unsafe { percpu.free_percpu(by_cpu) };
        free().unwrap();
        assert_eq!(places.map(|at| rig.colour(at)), [None; 3]);
        assert_eq!(rig.scan(&kernel), 1, "nobody refers to what is behind it");
        let known = rig.leaks().len(&rig.sim);
        assert!(free().is_err());
        assert_eq!(rig.leaks().len(&rig.sim), known, "a free that is refused is none");
        // SAFETY: Y1: nobody uses it.
        unsafe { kernel.kfree(at(behind)) }.unwrap();
    }
    let _left = percpu.alloc_percpu(64, 8, GFP).unwrap();
    assert_eq!(rig.leaks().len(&rig.sim), before + 3);
    drop(percpu);
    assert_eq!(rig.leaks().len(&rig.sim), before, "what is out when the allocator goes is known no more");
}
