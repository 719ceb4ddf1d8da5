//! `vm_struct`, its list, and the array of pages.

use crate::common::*;
use vmalloc_kernel::{Error, Request, VmFlags, VmFlags30};

#[test]
fn a_vm_struct_tells_address_size_with_guard_flags_pages_and_caller() {
    let rig = quiet();
    let kernel = rig.kernel();
    let area = kernel.v3_0().vmalloc(5000).map(number).unwrap();
    let line = line!() - 1;
    let view = kernel.find_vm_area(area + 4097).unwrap();
    assert_eq!((view.addr, view.size, view.flags), (area, 3 * PAGE, VmFlags::ALLOC));
    assert_eq!((view.nr_pages, view.phys_addr, view.page_order, view.requested_size), (2, 0, 0, 5000));
    assert!(matches!(view.caller, vmalloc::Caller::At(place) if place.line() == line));
    assert_eq!((view.area_size(), view.end()), (2 * PAGE, area + 2 * PAGE));
    let array = view.pages.unwrap();
    for page in 0..2 {
        assert_eq!(kernel.page_of(&array, page), kernel.vmalloc_to_page(area + page * PAGE));
    }
    assert_eq!((array.len(), kernel.page_of(&array, 2)), (2, None));
    vfree(&kernel, area).unwrap();
    assert_eq!(kernel.find_vm_area(area), None);
}

#[test]
fn vmlist_is_sorted_by_address_and_has_a_head() {
    let rig = quiet();
    let kernel = rig.kernel();
    assert_eq!(kernel.vmlist_head(), None);
    let mut areas: Vec<usize> = (1..30)
        .map(|n| match n % 3 {
            0 => kernel.v2_6().vmalloc(n * PAGE),
            1 => kernel.v4().vmalloc(n * PAGE),
            _ => kernel.vmalloc(n * PAGE),
        })
        .map(|made| number(made.unwrap()))
        .collect();
    areas.sort_unstable();
    assert_eq!(kernel.vmlist().map(|area| area.addr).collect::<Vec<_>>(), areas);
    let head = kernel.vmlist_head().unwrap();
    let walked = std::iter::successors(Some(head), |area| kernel.next(area)).map(|area| area.addr);
    assert_eq!(walked.collect::<Vec<_>>(), areas, "from the head by next");
    areas.iter().for_each(|&area| vfree(&kernel, area).unwrap());
}

#[test]
fn the_flags_of_3_0_tell_an_array_in_an_area_of_its_own() {
    let rig = quiet();
    let kernel = rig.kernel();
    let small = kernel.v3_0().vmalloc(512 * PAGE).map(number).unwrap();
    let large = kernel.v3_0().vmalloc(513 * PAGE).map(number).unwrap();
    let flags = |area| kernel.find_vm_area(area).unwrap().flags_3_0();
    assert_eq!(flags(small), VmFlags30::ALLOC, "512 frames of 8 bytes are a page: of the slab");
    assert_eq!(flags(large), VmFlags30::ALLOC | VmFlags30::VPAGES);
    let array = kernel.find_vm_area(large).unwrap().pages.unwrap();
    assert!(array.is_vpages() && kernel.find_vm_area(array.at()).is_some(), "in the listing, too");
    [small, large].iter().for_each(|&area| vfree(&kernel, area).unwrap());
    assert_eq!(kernel.vmlist().count(), 0);
}

#[test]
fn each_flag_is_told_when_it_holds() {
    let rig = quiet();
    let kernel = rig.kernel();
    let given = VmFlags::USERMAP | VmFlags::DMA_COHERENT | VmFlags::ALLOW_HUGE_VMAP | VmFlags::FLUSH_RESET_PERMS;
    let request = Request { vm_flags: given, ..kernel.request(PAGE) };
    let area = kernel.__vmalloc_node_range(&request).map(number).unwrap();
    assert_eq!(kernel.find_vm_area(area).unwrap().flags, given | VmFlags::ALLOC);
    let bare = Request { vm_flags: VmFlags::NO_GUARD, ..kernel.request(PAGE) };
    let bare = kernel.__vmalloc_node_range(&bare).map(number).unwrap();
    let view = kernel.find_vm_area(bare).unwrap();
    assert_eq!((view.flags, view.size, view.area_size()), (VmFlags::ALLOC | VmFlags::NO_GUARD, PAGE, PAGE));
    [area, bare].iter().for_each(|&area| vfree(&kernel, area).unwrap());
    let device = rig.ioremap(0x1_0000_0000, 100, vmalloc::machine::format::MemType::Uncached).unwrap();
    let view = kernel.find_vm_area(number(device)).unwrap();
    assert_eq!((view.flags, view.phys_addr, view.nr_pages), (VmFlags::IOREMAP, 0x1_0000_0000, 0));
    // SAFETY: V1: nobody uses it.
    unsafe { rig.iounmap(device) }.unwrap();
}

#[test]
fn what_is_mapped_for_a_short_time_has_no_vm_struct() {
    let rig = quiet();
    let kernel = rig.kernel();
    let some = frames(&rig, 2);
    // SAFETY: P4: they are held for longer.
    let mapped = unsafe { rig.map_ram(&some, None) }.unwrap();
    assert_eq!((kernel.find_vm_area(number(mapped)), kernel.vmlist().count()), (None, 0));
    // SAFETY: V1: nobody uses it.
    unsafe { rig.unmap_ram(mapped, 2) }.unwrap();
    give_frames(&rig, &some);
}

#[test]
fn pages_makes_the_array_where_a_caller_asks_and_vfree_frees_it() {
    let rig = quiet();
    let kernel = rig.kernel();
    for pages in [3, 512, 513] {
        let area = kernel.vmalloc(pages * PAGE).map(number).unwrap();
        assert_eq!(kernel.find_vm_area(area).unwrap().pages, None, "the library keeps frames in entries");
        let array = kernel.pages(area, GFP).unwrap();
        assert_eq!((array.len(), array.is_vpages()), (pages, pages > 512));
        assert_eq!(kernel.pages(area, GFP), Ok(array), "made once");
        for page in 0..pages {
            assert_eq!(kernel.page_of(&array, page), kernel.vmalloc_to_page(area + page * PAGE));
        }
        vfree(&kernel, area).unwrap();
        assert_eq!(kernel.vmlist().count(), 0);
    }
    assert_eq!(kernel.pages(START + PAGE, GFP), Err(Error::NoArea(START + PAGE)));
}

#[cfg(debug_assertions)]
#[test]
fn an_array_that_is_refused_leaves_the_area_as_it_was() {
    let rig = quiet();
    let kernel = rig.kernel();
    let area = kernel.vmalloc(600 * PAGE).map(number).unwrap();
    refuse_array(&rig, &kernel, area);
    // What is left is freed with the subsystem, or by the instance.
}
