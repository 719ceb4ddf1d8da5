//! Areas that are freed past the subsystem, by the library's own `free`: what was kept of them
//! is nobody's, and nothing is lost (J7).

use crate::common::*;
use std::ptr::NonNull;
use vmalloc::units::VirtAddr;
use vmalloc_kernel::{Error, GfpFlags, Request, VmFlags};

fn free_past(rig: &Rig, area: usize) {
    let area = NonNull::new(std::ptr::with_exposed_provenance_mut(area)).unwrap();
    // SAFETY: V1: nobody uses it any more.
    unsafe { rig.free(area) }.expect("an area");
}

/// Frames that are out, beside what the library stocks.
fn out(rig: &Rig) -> usize {
    rig.state().1
}

#[test]
fn an_area_of_a_chain_that_is_freed_past_vfree_is_unmapped_and_its_frames_come_back() {
    for pages in [3, 600] {
        let rig = rig(2);
        let kernel = rig.kernel();
        let makes: [fn(&Tested<'_>, usize) -> usize; 3] = [
            |kernel, bytes| kernel.v2_6().vmalloc(bytes).map(number).unwrap(),
            |kernel, bytes| kernel.v3_0().vmalloc(bytes).map(number).unwrap(),
            |kernel, bytes| kernel.v4().vmalloc(bytes).map(number).unwrap(),
        ];
        for make in makes {
            let area = make(&kernel, pages * PAGE);
            rig.stamp(area, pages, 1);
            rig.sim.on(1, || rig.check_stamps(area, pages, 1));
            let held = out(&rig);
            free_past(&rig, area);
            assert_eq!((kernel.find_vm_area(area), rig.frame_at(area)), (None, None));
            assert_eq!(vfree(&kernel, area).map_err(|error| error.errno()), Err(vmalloc_kernel::Errno::EINVAL));
            rig.purge();
            (0..2).for_each(|cpu| rig.sim.assert_faults(cpu, VirtAddr(area)));
            assert!(held - out(&rig) >= pages, "its frames came back with the vain vfree");
        }
    }
}

#[test]
fn what_was_left_behind_is_not_the_next_areas() {
    let rig = quiet();
    let kernel = rig.kernel();
    let old = kernel.v4().vmalloc(3 * PAGE).map(number).unwrap();
    let frames: Vec<_> = (0..3).map(|page| kernel.vmalloc_to_page(old + page * PAGE).unwrap()).collect();
    free_past(&rig, old);
    rig.purge();
    let next = rig.alloc(vmalloc::Req::pages(3)).map(number).unwrap();
    assert_eq!(next, old, "the same addresses");
    let view = kernel.find_vm_area(next).unwrap();
    assert_eq!((view.flags, view.pages, view.nr_pages), (VmFlags::ALLOC, None, 3));
    assert!(frames.iter().all(|&frame| rig.sim.tlb_refs(frame) == 0));
    vfree(&kernel, next).unwrap();
    rig.state();
}

#[test]
fn an_array_and_flags_of_an_area_that_was_freed_past_vfree_do_not_pass_to_its_successor() {
    let rig = quiet();
    let kernel = rig.kernel();
    let before = out(&rig);
    let (mut seen, mut arrays) = (Vec::new(), Vec::new());
    for round in 0..3 {
        let vm_flags = if round == 1 { VmFlags::USERMAP } else { VmFlags::empty() };
        let request = Request { gfp_mask: GfpFlags::KERNEL, vm_flags, ..kernel.request(600 * PAGE) };
        let area = kernel.__vmalloc_node_range(&request).map(number).unwrap();
        let view = kernel.find_vm_area(area).unwrap();
        assert_eq!((view.flags, view.pages), (VmFlags::ALLOC | vm_flags, None), "round {round}");
        arrays.push(kernel.pages(area, GFP).unwrap().at());
        seen.push(area);
        free_past(&rig, area);
        rig.purge();
    }
    assert!(seen.iter().all(|&at| at == seen[0]), "the same addresses: {seen:x?}");
    // The last array is there until somebody meets it.
    assert_eq!(vfree(&kernel, seen[0]).map_err(|error| matches!(error, Error::Free(_))), Err(true));
    assert_eq!(kernel.vmlist().count(), 0);
    assert!(out(&rig) - before < 8, "but for nodes of the tree");
}

#[test]
fn a_subsystem_that_is_dropped_gives_back_what_was_left_behind() {
    let rig = rig(1);
    let kernel = rig.kernel();
    for pages in [1, 70, 700] {
        let area = kernel.v2_6().vmalloc(pages * PAGE).map(number).unwrap();
        free_past(&rig, area);
    }
    drop(kernel);
    // The rig looks for frames that are out.
}
