//! Blocks that grow and shrink: in place where they have room, else by moving frames.

use crate::common::*;
use vmalloc_kernel::{Error, GfpFlags, Kern, VmFlags};

fn vrealloc(kernel: &Tested<'_>, area: usize, size: usize, gfp: GfpFlags) -> Result<usize, Error> {
    // SAFETY: Y4: tests use what is returned.
    unsafe { kernel.vrealloc(at(area), size, gfp) }.map(|at| at.map_or(0, number))
}

fn kvrealloc(kernel: &Tested<'_>, block: usize, size: usize, gfp: GfpFlags) -> Result<usize, Error> {
    // SAFETY: Y4: tests use what is returned.
    unsafe { kernel.kvrealloc(at(block), size, gfp) }.map(number)
}

#[test]
fn vrealloc_of_null_allocates_and_to_no_bytes_frees() {
    let rig = quiet();
    let kernel = rig.kernel();
    let area = vrealloc(&kernel, 0, 100, GFP).unwrap();
    assert_eq!(kernel.find_vm_area(area).unwrap().requested_size, 100);
    assert_eq!(vrealloc(&kernel, area, 0, GFP), Ok(0));
    assert_eq!(kernel.find_vm_area(area), None);
}

#[test]
fn vrealloc_within_the_mapped_pages_stays_in_place() {
    let rig = quiet();
    let kernel = rig.kernel();
    let area = kernel.vzalloc(4 * PAGE).map(number).unwrap();
    rig.stamp(area, 4, 77);
    for size in [PAGE, 2 * PAGE + 1, 1, 4 * PAGE] {
        assert_eq!(vrealloc(&kernel, area, size, GFP), Ok(area));
        assert_eq!(kernel.find_vm_area(area).unwrap().requested_size, size);
    }
    rig.check_stamps(area, 4, 77);
    // Bytes that are gained with ZERO are clear.
    assert_eq!(vrealloc(&kernel, area, 2 * PAGE, GFP), Ok(area));
    assert_eq!(vrealloc(&kernel, area, 4 * PAGE, GFP | GfpFlags::ZERO), Ok(area));
    rig.check_stamps(area, 2, 77);
    rig.assert_zero(area + 2 * PAGE, 2 * PAGE);
    vfree(&kernel, area).unwrap();
}

#[test]
fn vrealloc_beyond_them_moves_frames_and_not_bytes() {
    let rig = rig(2);
    let kernel = rig.kernel();
    for make in [|k: &Tested<'_>| k.vmalloc(4 * PAGE), |k: &Tested<'_>| k.v3_0().vmalloc(4 * PAGE)] {
        let area = make(&kernel).map(number).unwrap();
        rig.stamp(area, 4, 5);
        let old: Vec<_> = (0..4).map(|page| kernel.vmalloc_to_page(area + page * PAGE)).collect();
        let new = vrealloc(&kernel, area, 100 * PAGE, GFP | GfpFlags::ZERO).unwrap();
        assert_ne!(new, area);
        let now: Vec<_> = (0..4).map(|page| kernel.vmalloc_to_page(new + page * PAGE)).collect();
        assert_eq!(now, old, "the frames are the same");
        rig.check_stamps(new, 4, 5);
        rig.assert_zero(new + 4 * PAGE, 96 * PAGE);
        assert_eq!(kernel.find_vm_area(area), None);
        let view = kernel.find_vm_area(new).unwrap();
        assert_eq!((view.flags, view.nr_pages), (VmFlags::ALLOC, 100));
        rig.sim.on(1, || rig.check_stamps(new, 4, 5));
        let newer = vrealloc(&kernel, new, 200 * PAGE, GFP).unwrap();
        rig.check_stamps(newer, 4, 5);
        vfree(&kernel, newer).unwrap();
    }
    assert_eq!(kernel.vmlist().count(), 0);
    rig.state();
}

#[test]
fn shrinking_an_area_by_parts_gives_pages_back_and_it_grows_again_in_place() {
    let rig = rig(2);
    let kernel = rig.kernel();
    let area = kernel.v2_6().vmalloc(10 * PAGE).map(number).unwrap();
    rig.stamp(area, 10, 3);
    assert_eq!(vrealloc(&kernel, area, 4 * PAGE, GFP), Ok(area));
    assert_eq!(kernel.find_vm_area(area).unwrap().nr_pages, 4);
    rig.check_stamps(area, 4, 3);
    assert!((4..10).all(|page| kernel.vmalloc_to_page(area + page * PAGE).is_none()));
    assert_eq!(vrealloc(&kernel, area, 9 * PAGE, GFP | GfpFlags::ZERO), Ok(area));
    rig.check_stamps(area, 4, 3);
    rig.assert_zero(area + 4 * PAGE, 5 * PAGE);
    assert_eq!(kernel.find_vm_area(area).unwrap().nr_pages, 9);
    vfree(&kernel, area).unwrap();
    rig.state();
}

#[test]
fn an_unknown_address_is_told_by_name() {
    let rig = quiet();
    let kernel = rig.kernel();
    let nowhere = START + 5 * PAGE;
    assert_eq!(vrealloc(&kernel, nowhere, 1, GFP), Err(Error::NoArea(nowhere)));
    let line = format!("Trying to vrealloc() nonexistent vm area ({nowhere:016x})");
    assert_eq!(kernel.host().said(), [(Kern::Err, line)]);
}

#[cfg(debug_assertions)]
#[test]
fn each_refusal_of_vrealloc_leaves_the_old_block_as_it_was() {
    let makes = [|k: &Tested<'_>| k.vmalloc(4 * PAGE), |k: &Tested<'_>| k.v2_6().vmalloc(4 * PAGE)];
    for (which, make) in makes.into_iter().enumerate() {
        let rig = quiet();
        let kernel = rig.kernel();
        // What stays for good comes before.
        let first = vrealloc(&kernel, number(make(&kernel).unwrap()), 40 * PAGE, GFP).unwrap();
        vfree(&kernel, first).unwrap();
        let area = make(&kernel).map(number).unwrap();
        rig.stamp(area, 4, 8);
        let before = (rig.state(), kernel.find_vm_area(area));
        for n in 1.. {
            rig.sim.faults().fail_from(n);
            let grown = vrealloc(&kernel, area, 40 * PAGE, GFP | GfpFlags::NOWARN);
            rig.sim.faults().fail_at(0);
            if let Ok(new) = grown {
                assert!(n > 1);
                rig.check_stamps(new, 4, 8);
                vfree(&kernel, new).unwrap();
                break;
            }
            assert_eq!((rig.state(), kernel.find_vm_area(area)), before, "{which}, refusal {n}");
            rig.check_stamps(area, 4, 8);
        }
    }
}

#[test]
fn kvrealloc_goes_from_the_slab_to_an_area_and_keeps_the_bytes() {
    let rig = quiet();
    let kernel = rig.kernel();
    let block = kvrealloc(&kernel, 0, 3000, GFP).unwrap();
    let mut bytes = [0; 3000];
    // SAFETY: the object has so many bytes.
    unsafe { std::ptr::with_exposed_provenance_mut::<u8>(block).write_bytes(6, 3000) };
    let area = kvrealloc(&kernel, block, 5 << 20, GFP).unwrap();
    assert!(kernel.is_vmalloc_addr(at(area)));
    assert_eq!((kernel.vread(&mut bytes, area), bytes), (Ok(3000), [6; 3000]));
    let larger = kvrealloc(&kernel, area, 6 << 20, GFP).unwrap();
    assert_eq!((kernel.vread(&mut bytes, larger), bytes), (Ok(3000), [6; 3000]));
    // SAFETY: Y1: nobody uses it.
    unsafe { kernel.kvfree(at(larger)) }.unwrap();
    let (mut small, mut at_once) = (kvrealloc(&kernel, 0, 10, GFP).unwrap(), 10);
    while at_once < 3000 {
        at_once *= 2;
        small = kvrealloc(&kernel, small, at_once, GFP).unwrap();
    }
    assert!(!kernel.is_vmalloc_addr(at(small)));
    assert_eq!(kvrealloc(&kernel, small, 0, GFP), Ok(16), "no bytes are ZERO_SIZE_PTR");
}
