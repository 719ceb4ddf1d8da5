//! Steps by themselves: addresses, parts of them mapped and unmapped, the hooks around.

use crate::common::*;
use vmalloc::machine::Context;
use vmalloc::units::{Pfn, VirtAddr};
use vmalloc_kernel::{Errno, Error, Pgprot, Request, VmFlags, VmStruct};

fn map(kernel: &Tested<'_>, area: &VmStruct, first: usize, frames: &[Pfn]) -> Result<(), Error> {
    let start = area.addr + first * PAGE;
    // SAFETY: Y3: tests hold their frames, and map alone.
    unsafe { kernel.vm_area_map_pages(area, start, start + frames.len() * PAGE, frames) }
}

fn unmap(kernel: &Tested<'_>, area: &VmStruct, first: usize, pages: usize) -> Result<(), Error> {
    let start = area.addr + first * PAGE;
    // SAFETY: Y1, Y3: nobody uses them.
    unsafe { kernel.vm_area_unmap_pages(area, start, start + pages * PAGE) }
}

fn free(kernel: &Tested<'_>, area: &VmStruct) {
    // SAFETY: Y1: nobody uses it.
    unsafe { kernel.free_vm_area(area) }.unwrap();
}

#[test]
fn get_vm_area_takes_addresses_and_binds_nothing() {
    let rig = quiet();
    let kernel = rig.kernel();
    let area = kernel.get_vm_area(5 * PAGE - 100, VmFlags::ALLOC).unwrap();
    assert_eq!((area.size, area.area_size(), area.nr_pages, area.pages), (6 * PAGE, 5 * PAGE, 0, None));
    (0..6).for_each(|page| rig.sim.assert_faults(0, VirtAddr(area.addr + page * PAGE)));
    assert_eq!(kernel.find_vm_area(area.addr + 3), Some(area));
    free(&kernel, &area);
    assert_eq!(kernel.find_vm_area(area.addr), None);
}

#[test]
fn devices_are_aligned_to_their_size_within_a_page_and_128_pages() {
    let rig = quiet();
    let kernel = rig.kernel();
    let mut areas = Vec::new();
    for (bytes, align) in
        [(1, PAGE), (PAGE, PAGE), (3 * PAGE, 4 * PAGE), (64 * PAGE, 64 * PAGE), (5000 * PAGE, 128 * PAGE)]
    {
        areas.push(kernel.get_vm_area(PAGE, VmFlags::ALLOC).unwrap());
        let area = kernel.get_vm_area(bytes, VmFlags::IOREMAP).unwrap();
        assert!(area.addr.is_multiple_of(align), "{bytes} at {:#x}", area.addr);
        areas.push(area);
    }
    areas.iter().for_each(|area| free(&kernel, area));
}

#[test]
fn a_sparse_area_is_filled_by_parts_and_a_part_is_unmapped_while_the_rest_stays() {
    let rig = rig(2);
    let kernel = rig.kernel();
    let area = kernel.get_vm_area(100 * PAGE, VmFlags::SPARSE).unwrap();
    let some = frames(&rig, 30);
    map(&kernel, &area, 0, &some[..10]).unwrap();
    map(&kernel, &area, 50, &some[10..]).unwrap();
    rig.stamp(area.addr, 10, 1);
    rig.stamp(area.addr + 50 * PAGE, 20, 2);
    unmap(&kernel, &area, 3, 4).unwrap();
    rig.check_stamps(area.addr, 3, 1);
    rig.check_stamps(area.addr + 50 * PAGE, 20, 2);
    (3..7).for_each(|page| rig.sim.assert_faults(0, VirtAddr(area.addr + page * PAGE)));
    // Other frames take the place.
    map(&kernel, &area, 3, &some[26..]).map_err(|error| error.errno()).unwrap();
    assert_eq!(rig.sim.load(1, VirtAddr(area.addr + 3 * PAGE)), Ok(2 ^ 16));
    unmap(&kernel, &area, 0, 100).unwrap();
    free(&kernel, &area);
    give_frames(&rig, &some);
    rig.state();
}

#[test]
fn caches_are_flushed_after_mapping_and_before_unmapping_and_not_by_the_noflush_forms() {
    let rig = quiet();
    let kernel = rig.kernel();
    let area = kernel.get_vm_area(8 * PAGE, VmFlags::SPARSE).unwrap();
    let some = frames(&rig, 8);
    map(&kernel, &area, 0, &some[..4]).unwrap();
    assert_eq!(kernel.host().heard(), ["flush_cache_vmap 4 pages"]);
    let flushes = rig.sim.counters().flushes;
    unmap(&kernel, &area, 0, 2).unwrap();
    assert_eq!(kernel.host().heard(), ["flush_cache_vunmap 2 pages"]);
    assert!(rig.sim.counters().flushes > flushes, "and TLBs after unmapping");
    let flushes = rig.sim.counters().flushes;
    let at = area.addr;
    // SAFETY: Y1, Y3: the test's own pages.
    unsafe {
        kernel.map_kernel_range_noflush(at + 4 * PAGE, Pgprot::KERNEL, &some[4..]).unwrap();
        assert_eq!(kernel.unmap_kernel_range_noflush(at, 8 * PAGE), Ok(6));
    }
    assert_eq!((kernel.host().heard(), rig.sim.counters().flushes), (vec![], flushes));
    assert!(kernel.flush_tlb_kernel_range(at, at + 8 * PAGE));
    free(&kernel, &area);
    give_frames(&rig, &some);
}

#[test]
fn a_flush_that_was_left_out_is_made_up_for_before_the_page_is_mapped_again() {
    let rig = rig(2);
    let kernel = rig.kernel();
    let area = kernel.get_vm_area(4 * PAGE, VmFlags::SPARSE).unwrap();
    let some = frames(&rig, 8);
    for round in 0..6 {
        let these = &some[4 * (round % 2)..][..4];
        map(&kernel, &area, 0, these).unwrap();
        rig.stamp(area.addr, 4, round as u64);
        rig.sim.on(1, || rig.check_stamps(area.addr, 4, round as u64));
        // SAFETY: Y1, Y3: the test's own pages.
        unsafe { kernel.unmap_kernel_range_noflush(area.addr, 4 * PAGE) }.unwrap();
    }
    // Where nobody may wait it is refused, and nothing changes.
    rig.sim.set_context(Context::Atomic);
    assert_eq!(map(&kernel, &area, 0, &some[..4]).unwrap_err().errno(), Errno::EBUSY);
    assert_eq!(kernel.vmalloc_to_page(area.addr), None);
    rig.sim.set_context(Context::Task);
    map(&kernel, &area, 0, &some[..4]).unwrap();
    free(&kernel, &area);
    give_frames(&rig, &some);
}

#[test]
fn only_sparse_areas_with_a_guard_are_filled_by_parts_and_within_their_bounds() {
    let rig = quiet();
    let kernel = rig.kernel();
    let some = frames(&rig, 4);
    let errno = |area: &VmStruct, first: usize, frames: &[Pfn]| map(&kernel, area, first, frames).unwrap_err().errno();
    let plain = kernel.get_vm_area(4 * PAGE, VmFlags::ALLOC).unwrap();
    assert_eq!(errno(&plain, 0, &some), Errno::EINVAL, "not sparse");
    let bare = kernel.get_vm_area(4 * PAGE, VmFlags::SPARSE | VmFlags::NO_GUARD).unwrap();
    assert_eq!(errno(&bare, 0, &some), Errno::EINVAL, "no guard");
    let reset = kernel.get_vm_area(4 * PAGE, VmFlags::SPARSE | VmFlags::FLUSH_RESET_PERMS).unwrap();
    assert_eq!(errno(&reset, 0, &some), Errno::EINVAL, "permissions depend on it");
    let sparse = kernel.get_vm_area(4 * PAGE, VmFlags::SPARSE).unwrap();
    assert_eq!(errno(&sparse, 1, &some), Errno::ERANGE, "the guard is not its own");
    let (start, huge) = (sparse.addr, sparse.addr + (65 << 20));
    // SAFETY: nothing is mapped.
    assert_eq!(unsafe { kernel.vm_area_map_pages(&sparse, start, huge, &some) }.unwrap_err().errno(), Errno::E2BIG);
    assert_eq!(
        // SAFETY: as above.
        unsafe { kernel.vm_area_map_pages(&sparse, start + 1, start + 1 + PAGE, &some[..1]) }.unwrap_err().errno(),
        Errno::EINVAL
    );
    assert_eq!(
        // SAFETY: as above.
        unsafe { kernel.vm_area_map_pages(&sparse, start, start + PAGE, &some) }.unwrap_err().errno(),
        Errno::EINVAL
    );
    map(&kernel, &sparse, 2, &some[..1]).unwrap();
    assert_eq!(errno(&sparse, 0, &some), Errno::EBUSY, "a page is bound");
    assert_eq!(errno(&sparse, 0, &[Pfn(u64::MAX)]), Errno::EINVAL, "no entry can name it");
    assert_eq!(kernel.vmalloc_to_page(start), None, "nothing of a part that is refused");
    [plain, bare, reset, sparse].iter().for_each(|area| free(&kernel, area));
    give_frames(&rig, &some);
}

#[test]
fn map_vm_area_maps_all_but_the_guard_from_an_array() {
    let rig = quiet();
    let kernel = rig.kernel();
    let source = kernel.vmalloc(200 * PAGE).map(number).unwrap();
    let array = kernel.pages(source, GFP).unwrap();
    let area = kernel.get_vm_area(200 * PAGE, VmFlags::MAP).unwrap();
    // SAFETY: Y3: the source lives on.
    unsafe { kernel.map_vm_area(&area, Pgprot::KERNEL, &array) }.unwrap();
    rig.stamp(source, 200, 5);
    rig.check_stamps(area.addr, 200, 5);
    rig.sim.assert_faults(0, VirtAddr(area.addr + 200 * PAGE));
    let short = kernel.get_vm_area(199 * PAGE, VmFlags::MAP).unwrap();
    // SAFETY: nothing is mapped.
    assert_eq!(unsafe { kernel.map_vm_area(&short, Pgprot::KERNEL, &array) }, Err(Error::BadArgument(200)));
    [short, area].iter().for_each(|area| free(&kernel, area));
    rig.check_stamps(source, 200, 5);
    vfree(&kernel, source).unwrap();
}

#[test]
fn remove_vm_area_leaves_array_and_frames_to_its_caller() {
    let rig = quiet();
    let kernel = rig.kernel();
    let area = kernel.v2_6().vmalloc(3 * PAGE).map(number).unwrap();
    let view = kernel.find_vm_area(area).unwrap();
    // SAFETY: Y1: nobody uses it.
    let removed = unsafe { kernel.remove_vm_area(area) }.unwrap();
    assert_eq!((removed.area, removed.pages), (view, view.pages));
    assert_eq!(kernel.find_vm_area(area), None);
    rig.sim.assert_faults(0, VirtAddr(area));
    let array = removed.pages.unwrap();
    let left: Vec<Pfn> = (0..3).map(|page| kernel.page_of(&array, page).unwrap()).collect();
    give_frames(&rig, &left);
    // SAFETY: Y1: the array is ours now.
    unsafe { kernel.kfree(at(array.at())) }.unwrap();
    // SAFETY: nothing is there.
    assert_eq!(unsafe { kernel.remove_vm_area(area) }, Err(Error::NoArea(area)));
}

#[test]
fn free_vm_area_refuses_what_is_not_the_area_that_it_was() {
    let rig = quiet();
    let kernel = rig.kernel();
    let area = kernel.get_vm_area(3 * PAGE, VmFlags::ALLOC).unwrap();
    let other = VmStruct { size: area.size + PAGE, ..area };
    // SAFETY: what is refused changes nothing.
    assert_eq!(unsafe { kernel.free_vm_area(&other) }, Err(Error::NoArea(area.addr)));
    free(&kernel, &area);
    // SAFETY: nothing is there.
    assert_eq!(unsafe { kernel.free_vm_area(&area) }, Err(Error::NoArea(area.addr)));
}

#[test]
fn an_area_is_taken_within_bounds_with_alignment_or_refused_by_name() {
    let rig = quiet();
    let kernel = rig.kernel();
    let (start, end) = (START + (1 << 30), START + (1 << 30) + (1 << 20));
    let request = Request { start, end, align: 1 << 16, vm_flags: VmFlags::ALLOC, ..kernel.request(8 * PAGE) };
    let area = kernel.__get_vm_area_node(&request).unwrap();
    assert!(area.addr >= start && area.addr + area.size <= end && area.addr.is_multiple_of(1 << 16));
    let errno = |request: &Request| kernel.__get_vm_area_node(request).unwrap_err().errno();
    assert_eq!(errno(&Request { align: 3, ..request }), Errno::EINVAL);
    assert_eq!(errno(&Request { size: 0, ..request }), Errno::EINVAL);
    assert_eq!(errno(&Request { size: 2 << 20, ..request }), Errno::EBUSY, "no hole of that size between the bounds");
    assert_eq!(errno(&Request { start: 0, end: 1 << 20, ..request }), Errno::ERANGE);
    free(&kernel, &area);
}

#[cfg(debug_assertions)]
#[test]
fn each_refusal_of_a_step_changes_nothing() {
    let rig = quiet();
    let kernel = rig.kernel();
    let some = frames(&rig, 600);
    let whole = || -> Result<(), Error> {
        let area = kernel.get_vm_area(600 * PAGE, VmFlags::SPARSE)?;
        let mapped = map(&kernel, &area, 0, &some);
        free(&kernel, &area);
        mapped
    };
    whole().unwrap();
    let before = rig.state();
    for n in 1.. {
        rig.sim.faults().fail_from(n);
        let done = whole();
        rig.sim.faults().fail_at(0);
        assert_eq!(rig.state(), before, "refusal {n}");
        if done.is_ok() {
            assert!(n > 1);
            break;
        }
        assert_eq!(done.unwrap_err().errno(), Errno::ENOMEM);
    }
    give_frames(&rig, &some);
}
