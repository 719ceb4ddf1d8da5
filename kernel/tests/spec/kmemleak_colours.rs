//! Which objects are white, grey and black.

use crate::kmemleak::*;
use Colour::{Black, Grey, White};
use std::ptr::without_provenance;
use vmalloc::{Gfp, Req};
use vmalloc_kernel::{Request, VmFlags};

#[test]
fn what_a_list_leads_to_is_grey_and_what_nothing_leads_to_is_white() {
    let rig = rig();
    let kernel = rig.kernel();
    let list = [0; 5].map(|_| object(&kernel));
    let lost = object(&kernel);
    rig.point(0, list[0]);
    list.windows(2).for_each(|pair| set(pair[0], 3, pair[1]));
    assert_eq!(rig.scan(&kernel), 1);
    list.iter().for_each(|&one| rig.assert_colours(&[(one, Grey)]));
    rig.assert_colours(&[(lost, White)]);
    // The list is cut in the middle.
    set(list[1], 3, 0);
    assert_eq!(rig.scan(&kernel), 3);
    rig.assert_colours(&[(list[0], Grey), (list[1], Grey), (list[2], White), (list[3], White), (list[4], White)]);
    // The lost one is found again.
    rig.point(1, lost);
    rig.scan(&kernel);
    rig.assert_colours(&[(lost, Grey)]);
}

#[test]
fn a_ring_is_white_unless_something_outside_leads_to_it() {
    let rig = rig();
    let kernel = rig.kernel();
    let ring = [0; 3].map(|_| object(&kernel));
    (0..3).for_each(|n| set(ring[n], 0, ring[(n + 1) % 3]));
    let own = object(&kernel);
    set(own, 0, own);
    assert_eq!(rig.scan(&kernel), 4);
    ring.iter().chain([&own]).for_each(|&one| rig.assert_colours(&[(one, White)]));
    rig.point(0, ring[2]);
    rig.scan(&kernel);
    ring.iter().for_each(|&one| rig.assert_colours(&[(one, Grey)]));
}

#[test]
fn a_pointer_into_the_middle_counts_and_one_behind_the_end_does_not() {
    let rig = rig();
    let kernel = rig.kernel();
    let (inside, last, behind) = (object(&kernel), object(&kernel), kernel.kzalloc(96, GFP).map(number).unwrap());
    rig.point(0, inside + 20);
    rig.point(1, last + 63);
    rig.point(2, behind + 96);
    rig.scan(&kernel);
    rig.assert_colours(&[(inside, Grey), (last, Grey), (behind, White)]);
}

#[test]
fn a_pointer_that_is_hidden_or_not_aligned_is_none() {
    let rig = rig();
    let kernel = rig.kernel();
    let (hidden, askew, plain) = (object(&kernel), object(&kernel), object(&kernel));
    rig.point(0, !hidden);
    let holder = object(&kernel);
    rig.point(1, holder);
    // SAFETY: the object has as many bytes.
    unsafe { with_exposed_provenance_mut::<usize>(holder + 4).write_unaligned(askew) };
    set(holder, 3, plain);
    rig.scan(&kernel);
    rig.assert_colours(&[(hidden, White), (askew, White), (plain, Grey), (holder, Grey)]);
}

#[test]
fn a_white_object_whose_bytes_change_is_in_use_until_they_stay() {
    let rig = rig();
    let kernel = rig.kernel();
    let (busy, kept) = (object(&kernel), object(&kernel));
    // What it leads to is in use as long as it is.
    set(busy, 1, kept);
    rig.sim.advance(6 * SECOND);
    for round in 1..4 {
        set(busy, 0, round);
        assert_eq!(kernel.kmemleak_scan(), 0, "round {round}");
        rig.assert_colours(&[(busy, Grey), (kept, Grey)]);
    }
    assert_eq!(kernel.kmemleak_scan(), 2);
    rig.assert_colours(&[(busy, White), (kept, White)]);
}

#[test]
fn no_scan_hides_what_an_object_leads_to_and_not_itself() {
    let rig = rig();
    let kernel = rig.kernel();
    let (deaf, open, behind, beside) = (object(&kernel), object(&kernel), object(&kernel), object(&kernel));
    set(deaf, 0, behind);
    set(open, 0, beside);
    rig.point(0, deaf);
    rig.point(1, open);
    kernel.kmemleak_no_scan(deaf);
    rig.scan(&kernel);
    rig.assert_colours(&[(deaf, Grey), (open, Grey), (behind, White), (beside, Grey)]);
}

#[test]
fn an_ignored_object_is_black_and_one_that_is_no_leak_is_grey_and_scanned() {
    let rig = rig();
    let kernel = rig.kernel();
    let objects = [0; 6].map(|_| object(&kernel));
    let [ignored, behind_it, good, behind_good, lost, behind_lost] = objects;
    set(ignored, 0, behind_it);
    set(good, 0, behind_good);
    set(lost, 0, behind_lost);
    kernel.kmemleak_ignore(ignored);
    kernel.kmemleak_not_leak(good);
    assert_eq!(rig.scan(&kernel), 3);
    rig.assert_colours(&[(ignored, Black), (behind_it, White), (good, Grey)]);
    rig.assert_colours(&[(behind_good, Grey), (lost, White), (behind_lost, White)]);
}

#[test]
fn of_an_object_with_scan_areas_only_these_are_scanned() {
    let rig = rig();
    let kernel = rig.kernel();
    let holder = kernel.kzalloc(1024, GFP).map(number).unwrap();
    rig.point(0, holder);
    let parts = [0; 4].map(|_| object(&kernel));
    (0..4).for_each(|n| set(holder, 10 * n, parts[n]));
    kernel.kmemleak_scan_area(holder + 80, 8, GFP);
    kernel.kmemleak_scan_area(holder + 200, usize::MAX, GFP);
    rig.scan(&kernel);
    rig.assert_colours(&[(holder, Grey), (parts[0], White), (parts[1], Grey), (parts[2], White), (parts[3], Grey)]);
    // What lies outside of the object is refused.
    kernel.kmemleak_scan_area(holder + 1000, 100, GFP);
    assert_eq!(kernel.host().said().len(), 2, "one new suspect, and this");
}

#[test]
fn what_is_left_of_a_block_that_is_freed_in_part_is_objects_of_their_own() {
    let rig = rig();
    let kernel = rig.kernel();
    let block = kernel.vzalloc(pages(4)).map(number).unwrap();
    kernel.kmemleak_free(block);
    // SAFETY: Y8: the area lives on.
    unsafe { kernel.kmemleak_alloc(block, pages(4), 1, GFP) };
    rig.point(0, block + 8);
    kernel.kmemleak_free_part(block + 4096, 4096);
    rig.scan(&kernel);
    rig.assert_colours(&[(block, Grey), (block + pages(2), White)]);
    rig.point(1, block + 4096 + 8);
    rig.scan(&kernel);
    rig.assert_colours(&[(block, Grey), (block + pages(2), White)]);
    kernel.kmemleak_free_part(block + pages(3), PAGE);
    rig.point(1, block + pages(3));
    rig.scan(&kernel);
    rig.assert_colours(&[(block + pages(2), White)]);
    rig.point(1, block + pages(3) - 1);
    rig.scan(&kernel);
    rig.assert_colours(&[(block + pages(2), Grey)]);
    assert_eq!(rig.leaks().len(&rig.sim), 2);
}

#[test]
fn an_area_needs_one_reference_beside_that_of_the_vm_struct_and_in_3_0_as_well() {
    let rig = rig();
    let kernel = rig.kernel();
    let make: [&dyn Fn() -> usize; 4] = [
        &|| kernel.vzalloc(pages(3)).map(number).unwrap(),
        &|| kernel.v3_0().vmalloc(pages(3)).map(number).unwrap(),
        &|| kernel.v4().vmalloc(pages(3)).map(number).unwrap(),
        &|| rig.vm().alloc(Req::pages(3).zeroed()).map(number).unwrap(),
    ];
    for make in make {
        let (area, lost) = (make(), make());
        for word in 0..pages(3) / 8 {
            rig.store(area + 8 * word, 0);
            rig.store(lost + 8 * word, 0);
        }
        let behind = object(&kernel);
        rig.store(area + pages(2) + 8, behind);
        rig.point(0, area);
        rig.scan(&kernel);
        rig.assert_colours(&[(area, Grey), (behind, Grey), (lost, White)]);
        rig.point(0, 0);
        rig.scan(&kernel);
        rig.assert_colours(&[(area, White), (behind, White), (lost, White)]);
        vfree(&kernel, area);
        vfree(&kernel, lost);
        kfree(&kernel, behind);
        assert_eq!(rig.leaks().len(&rig.sim), 0);
    }
}

#[test]
fn areas_that_were_made_past_the_facade_are_objects_and_those_without_memory_of_their_own_are_none() {
    let rig = rig();
    let kernel = rig.kernel();
    let area = rig.vm().alloc(Req::pages(2)).unwrap();
    let stack = rig.vm().alloc(Req::pages(4).gfp(Gfp::KERNEL)).unwrap();
    let places = rig.vm().reserve(Req::pages(2)).unwrap();
    assert_eq!(rig.leaks().len(&rig.sim), 2);
    assert_eq!((rig.colour(number(area)), rig.colour(number(places))), (Some(White), None));
    for one in [area, stack, places] {
        // SAFETY: V1: nobody uses it.
        unsafe { rig.vm().free(one) }.unwrap();
    }
    assert_eq!(rig.leaks().len(&rig.sim), 0);
    let deferred = Request { vm_flags: VmFlags::DEFER_KMEMLEAK, ..kernel.request(PAGE) };
    let area = kernel.__vmalloc_node(&deferred).map(number).unwrap();
    assert_eq!(rig.colour(area), None);
    kernel.kmemleak_vmalloc(&kernel.find_vm_area(area).unwrap(), PAGE, GFP);
    assert_eq!(rig.colour(area), Some(White));
    vfree(&kernel, area);
    assert_eq!(rig.leaks().len(&rig.sim), 0);
}

#[test]
fn an_area_whose_end_nobody_told_is_forgotten_by_the_next_scan_or_area() {
    let rig = rig();
    let kernel = rig.kernel();
    let area = rig.vm().alloc(Req::pages(2)).unwrap();
    rig.hears.store(false, SeqCst);
    // SAFETY: V1: nobody uses it.
    unsafe { rig.vm().free(area) }.unwrap();
    assert_eq!(rig.leaks().len(&rig.sim), 1);
    kernel.kmemleak_scan();
    assert_eq!(rig.leaks().len(&rig.sim), 0);
    rig.hears.store(true, SeqCst);
    let area = rig.vm().alloc(Req::pages(2)).unwrap();
    rig.hears.store(false, SeqCst);
    // SAFETY: V1: as above.
    unsafe { rig.vm().free(area) }.unwrap();
    rig.vm().purge();
    rig.hears.store(true, SeqCst);
    let again: Vec<_> = (0..200).map(|_| rig.vm().reserve(Req::pages(2)).unwrap()).collect();
    assert_eq!((again.contains(&area), rig.leaks().len(&rig.sim)), (true, 0), "the same addresses");
    // SAFETY: V1: as above.
    again.into_iter().for_each(|again| unsafe { rig.vm().free(again) }.unwrap());
}

#[test]
fn areas_that_nobody_told_of_are_adopted_and_keep_what_is_known_of_others() {
    let rig = rig();
    let kernel = rig.kernel();
    let told = kernel.vzalloc(pages(1)).map(number).unwrap();
    rig.hears.store(false, SeqCst);
    let area = rig.vm().alloc(Req::pages(2).zeroed()).unwrap();
    let places = rig.vm().reserve(Req::pages(2)).unwrap();
    rig.sim.advance(10 * SECOND);
    kernel.kmemleak_adopt();
    assert_eq!((rig.leaks().len(&rig.sim), rig.colour(number(places))), (2, None));
    // It is as old as the detector knows.
    assert_eq!(kernel.kmemleak_scan(), 1);
    rig.assert_colours(&[(told, White), (number(area), White)]);
    assert_eq!(rig.scan(&kernel), 1);
    // Adopted again, it is the same.
    kernel.kmemleak_adopt();
    assert_eq!(rig.scan(&kernel), 0);
    // SAFETY: V1: nobody uses them.
    [area, places].into_iter().for_each(|one| unsafe { rig.vm().free(one) }.unwrap());
    kernel.kmemleak_scan();
    assert_eq!(rig.leaks().len(&rig.sim), 1);
    assert_eq!(rig.sim.take_log(), []);
}

#[test]
fn an_area_that_was_resized_is_scanned_up_to_its_end_of_now() {
    let rig = rig();
    let kernel = rig.kernel();
    // A slot of this size has room for one page more.
    let at = (1..200).find_map(|n| {
        let area = rig.vm().alloc(Req::pages(n).zeroed()).unwrap();
        // SAFETY: V1: nobody knows the area.
        let grown = unsafe { rig.vm().grow(area, Req::pages(n + 1).zeroed()) };
        grown.is_ok().then_some((number(area), n))
    });
    let (area, pages_before) = at.expect("some class has room");
    let held = object(&kernel);
    let last = area + pages(pages_before);
    rig.store(last + 80, held);
    rig.point(0, last);
    rig.scan(&kernel);
    rig.assert_colours(&[(area, Grey), (held, Grey)]);
    let start = std::ptr::NonNull::new(with_exposed_provenance_mut(area)).unwrap();
    // SAFETY: V1: nobody uses the tail.
    unsafe { rig.vm().shrink(start, pages(pages_before)) }.unwrap();
    rig.scan(&kernel);
    rig.assert_colours(&[(area, White), (held, White)]);
}

#[test]
fn per_cpu_blocks_are_scanned_and_never_reported() {
    let rig = rig();
    let kernel = rig.kernel();
    let block = object(&kernel);
    kernel.kmemleak_free(block);
    let behind = object(&kernel);
    set(block, 2, behind);
    // SAFETY: Y8: the object lives on.
    unsafe { kernel.kmemleak_alloc_percpu(|_| block, 64, GFP) };
    assert_eq!(rig.scan(&kernel), 0);
    rig.assert_colours(&[(block, Grey), (behind, Grey)]);
    kernel.kmemleak_free_percpu(|_| block);
    assert_eq!(rig.colour(block), None);
    assert_eq!(rig.scan(&kernel), 1);
}

#[test]
fn a_transient_leak_is_not_suspected_by_the_next_scan() {
    let rig = rig();
    let kernel = rig.kernel();
    let (moved, lost) = (object(&kernel), object(&kernel));
    rig.sim.advance(6 * SECOND);
    kernel.kmemleak_transient_leak(moved);
    assert_eq!(kernel.kmemleak_scan(), 1);
    rig.assert_colours(&[(moved, Grey), (lost, White)]);
    assert_eq!(kernel.kmemleak_scan(), 1);
    rig.assert_colours(&[(moved, White)]);
}

#[test]
fn what_the_subsystem_keeps_for_itself_is_not_suspected() {
    let rig = rig();
    let kernel = rig.kernel();
    // One array lies in the slab, the other in an area.
    let areas = [3, 700].map(|n| kernel.v2_6().vmalloc(pages(n)).map(number).unwrap());
    let waits = object(&kernel);
    // SAFETY: Y1: nobody reads it.
    unsafe { kernel.kvfree_rcu_mightsleep(at(waits)) }.unwrap();
    assert_eq!(rig.scan(&kernel), 0);
    // In the form of 2.6 nobody tells of the area itself: its arrays alone are known, and black.
    areas.iter().for_each(|&area| assert_eq!(rig.colour(area), None));
    areas.iter().for_each(|&area| vfree(&kernel, area));
}

#[test]
fn a_free_that_is_refused_leaves_the_object_an_object() {
    let rig = rig();
    let kernel = rig.kernel();
    let (one, held, hidden) = (object(&kernel), object(&kernel), object(&kernel));
    (0..2).for_each(|n| set(one, 2 * n, [held, hidden][n]));
    kernel.kmemleak_scan_area(one, 8, GFP);
    // SAFETY: what is refused changes nothing.
    unsafe {
        assert!(kernel.kfree(at(one + 8)).is_err());
        assert!(kernel.kfree(without_provenance(8)).is_err());
        assert!(kernel.vfree(at(one)).is_err());
    }
    assert_eq!(rig.colour(one), Some(White));
    // What the slab does not know stays an object of whoever told of it.
    let mut words = [0usize; 8];
    let start = words.as_mut_ptr().expose_provenance();
    // SAFETY: Y8: the words live on.
    unsafe { kernel.kmemleak_alloc(start, 64, 1, GFP) };
    // SAFETY: what is refused changes nothing.
    assert!(unsafe { kernel.kfree(at(start)) }.is_err());
    assert_eq!(rig.colour(start), Some(White));
    kernel.kmemleak_scan_area(start, 8, GFP);
    // SAFETY: as above.
    assert!(unsafe { kernel.kfree(at(start)) }.is_err());
    set(start, 0, held);
    set(start, 2, hidden);
    rig.point(0, start);
    rig.scan(&kernel);
    rig.assert_colours(&[(start, Grey), (held, Grey), (hidden, White)]);
    kernel.kmemleak_free(start);
    [one, held, hidden].iter().for_each(|&one| kfree(&kernel, one));
    assert_eq!(rig.leaks().len(&rig.sim), 0);
}

#[test]
fn an_object_that_overlaps_another_is_refused_and_told() {
    let rig = rig();
    let kernel = rig.kernel();
    let one = object(&kernel);
    // SAFETY: Y8: the object lives on.
    unsafe { kernel.kmemleak_alloc(one + 8, 8, 1, GFP) };
    let log = rig.sim.take_log();
    assert!(log.len() == 1 && log[0].1.contains("an object already"), "{log:?}");
    assert_eq!((rig.leaks().len(&rig.sim), rig.colour(one)), (1, Some(White)));
    kernel.kmemleak_ignore(one + 8);
    assert!(kernel.host().said()[0].contains("which is no object"));
}

#[test]
fn an_area_that_moves_is_an_object_at_its_new_address_and_its_references_count() {
    for hears in [true, false] {
        let rig = rig();
        rig.hears.store(hears, SeqCst);
        let kernel = rig.kernel();
        let area = kernel.vmalloc(PAGE).map(number).unwrap();
        let held = kernel.kmalloc(64, GFP).map(number).unwrap();
        // SAFETY: Y4.
        let moved = unsafe { kernel.vrealloc(at(area), 300 * PAGE, GFP) }.unwrap().map(number).unwrap();
        assert_ne!(moved, area);
        rig.point(0, moved);
        rig.store(moved + 299 * PAGE, held);
        rig.scan(&kernel);
        assert_eq!(rig.colour(area), None);
        rig.assert_colours(&[(moved, Colour::Grey), (held, Colour::Grey)]);
        rig.point(0, 0);
        rig.scan(&kernel);
        rig.assert_colours(&[(moved, Colour::White), (held, Colour::White)]);
        // SAFETY: Y1.
        unsafe { kernel.vfree(at(moved)) }.unwrap();
        assert_eq!(rig.colour(moved), None);
    }
}

#[test]
fn an_area_that_is_resized_in_place_is_as_large_for_the_detector_where_no_events_are_told() {
    let rig = rig();
    rig.hears.store(false, SeqCst);
    let kernel = rig.kernel();
    let area = kernel.vmalloc(300 * PAGE).map(number).unwrap();
    let held = kernel.kmalloc(64, GFP).map(number).unwrap();
    rig.point(0, area);
    for pages in [PAGE, 310 * PAGE] {
        // SAFETY: Y4.
        assert_eq!(unsafe { kernel.vrealloc(at(area), pages, GFP) }.unwrap().map(number), Some(area));
    }
    rig.store(area + 309 * PAGE, held);
    rig.scan(&kernel);
    rig.assert_colours(&[(area, Colour::Grey), (held, Colour::Grey)]);
    // SAFETY: Y1.
    unsafe { kernel.vfree(at(area)) }.unwrap();
}

#[test]
fn an_area_is_no_larger_an_object_than_it_is_and_hides_no_other() {
    let rig = rig();
    let kernel = rig.kernel();
    let areas = [0; 3].map(|_| kernel.vmalloc(2 * PAGE).map(number).unwrap());
    let view = kernel.find_vm_area(areas[0]).unwrap();
    kernel.kmemleak_vmalloc(&view, usize::MAX, GFP);
    kernel.kmemleak_not_leak(areas[0]);
    assert!(areas.iter().all(|&area| rig.colour(area).is_some()), "an object that was hidden");
    rig.scan(&kernel);
    // SAFETY: Y1.
    areas.iter().for_each(|&area| unsafe { kernel.vfree(at(area)) }.unwrap());
}

#[test]
fn a_part_of_no_bytes_is_freed_without_a_trace() {
    let rig = rig();
    let kernel = rig.kernel();
    let object = kernel.kmalloc(64, GFP).map(number).unwrap();
    let before = rig.leaks().len(&rig.sim);
    kernel.kmemleak_free_part(object + 16, 0);
    assert_eq!((rig.leaks().len(&rig.sim), rig.colour(object + 16)), (before, None));
}
