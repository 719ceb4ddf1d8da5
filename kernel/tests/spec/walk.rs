//! The walk by level, and entries that make no sense.

use crate::common::*;
use vmalloc::machine::format::{Entry, Format, MemType, Prot};
use vmalloc::table::X86_64;
use vmalloc::units::{Pfn, VirtAddr};
use vmalloc_kernel::{Kern, Level, VmFlags};
use vmalloc_sim::Sim;

#[test]
fn the_walk_goes_down_by_name_and_up_again() {
    let rig = quiet();
    let kernel = rig.kernel();
    let area = kernel.vmalloc(2 * PAGE).map(number).unwrap();
    // SAFETY: Y7: the area is held.
    let pte = unsafe {
        let pgd = kernel.pgd_offset_k(area);
        let p4d = kernel.p4d_offset(&pgd, area).unwrap();
        let pud = kernel.pud_offset(&p4d, area).unwrap();
        let pmd = kernel.pmd_offset(&pud, area).unwrap();
        assert_eq!([pgd.table, p4d.table, pud.table, pmd.table], [4, 4, 3, 2], "p4d is folded");
        assert_eq!(pgd.word(), p4d.word());
        kernel.pte_offset_kernel(&pmd, area).unwrap()
    };
    assert!(pte.leaf() && !pte.none() && !pte.bad());
    let frame = kernel.vmalloc_to_page(area).unwrap();
    assert!(matches!(pte.says(), Entry::Leaf { frame: there, .. } if there == frame));
    // SAFETY: Y7: the area is held.
    let path = unsafe { kernel.walk(area) };
    let names: Vec<&str> = path.down().map(|entry| entry.level.name()).collect();
    assert_eq!(names, ["pgd", "p4d", "pud", "pmd", "pte"]);
    let up: Vec<&str> = path.up().map(|entry| entry.level.name()).collect();
    assert_eq!(up, ["pte", "pmd", "pud", "p4d", "pgd"]);
    assert_eq!(path.entry(Level::Pte), Some(pte));
    // SAFETY: Y7: nobody else calls.
    let nothing = unsafe { kernel.walk(START + (1 << 38)) };
    assert!(nothing.up().next().unwrap().none() && nothing.entry(Level::Pte).is_none(), "it ends where nothing is");
    vfree(&kernel, area).unwrap();
}

#[test]
fn with_five_levels_none_is_folded() {
    let start = 0xffa0_0000_0000_0000;
    let rig = boot(Sim::builder().levels(5), vmalloc::Config::region(start..start + (1 << 39)));
    let kernel = rig.kernel();
    let area = kernel.vmalloc(PAGE).map(number).unwrap();
    // SAFETY: Y7: the area is held.
    let tables: Vec<u8> = unsafe { kernel.walk(area) }.down().map(|entry| entry.table).collect();
    assert_eq!(tables, [5, 4, 3, 2, 1]);
    vfree(&kernel, area).unwrap();
}

#[test]
fn a_bad_entry_above_the_pages_is_told_by_its_level_cleared_and_walked_past() {
    for (level, name) in [(2, "pmd"), (3, "pud")] {
        let rig = quiet();
        let kernel = rig.kernel();
        let area = kernel.get_vm_area(2 * PAGE, VmFlags::ALLOC).unwrap();
        let some = frames(&rig, 2);
        // SAFETY: Y3: they are held for longer.
        unsafe { kernel.map_kernel_range_noflush(area.addr, vmalloc_kernel::Pgprot::KERNEL, &some) }.unwrap();
        // SAFETY: Y7: the area is held.
        let entry = unsafe { kernel.walk(area.addr) }.down().find(|entry| entry.table == level).unwrap();
        let good = u64::from_str_radix(&format!("{:x}", entry.word()), 16).unwrap();
        rig.sim.poke(VirtAddr(area.addr), level, BAD);
        // SAFETY: Y1, Y3: the test's own area.
        unsafe { kernel.v2_6().unmap_vm_area(&area) }.unwrap();
        let said = kernel.host().said();
        assert_eq!(said.len(), 1, "{said:?}");
        assert_eq!(said[0].0, Kern::Err);
        let end = format!("({BAD:016x}).");
        assert!(said[0].1.starts_with(&format!("bad {name} ")) && said[0].1.ends_with(&end), "{said:?}");
        assert!(entry.none(), "cleared");
        // The table below it would be lost, as whatever has written the word lost it.
        rig.sim.poke(VirtAddr(area.addr), level, good);
        // SAFETY: Y1: nobody uses it.
        unsafe { kernel.free_vm_area(&area) }.unwrap();
        give_frames(&rig, &some);
    }
}

#[test]
fn a_large_page_of_the_library_ends_the_walk_at_its_level_mapped_or_parked() {
    let rig = quiet();
    let kernel = rig.kernel();
    let area = kernel.vmalloc(3000 * PAGE).map(number).unwrap();
    let inside = area + 7 * PAGE;
    // SAFETY: Y7: the area is held.
    let link = unsafe { kernel.walk(inside) }.entry(Level::Pmd).unwrap().word();
    let good = u64::from_str_radix(&format!("{link:x}"), 16).unwrap();
    let mapped = X86_64::leaf(Pfn(512), Prot::RW, MemType::WriteBack, 2);
    for (word, says) in
        [(mapped, Entry::Leaf { frame: Pfn(512), prot: Prot::RW }), (X86_64::park(mapped), Entry::Parked(Pfn(512)))]
    {
        rig.sim.poke(VirtAddr(inside), 2, word);
        // SAFETY: Y7: the area is held.
        let last = unsafe { kernel.walk(inside) }.up().next().unwrap();
        assert_eq!((last.level, last.says()), (Level::Pmd, says));
        assert_eq!((last.leaf(), last.none(), last.bad()), (word == mapped, false, false));
    }
    rig.sim.poke(VirtAddr(inside), 2, good);
    vfree(&kernel, area).unwrap();
}

/// A word that the format never writes above the pages: not present, and not 0.
const BAD: u64 = 0xdead_0000_0000_0ff0;

#[test]
fn a_page_that_is_neither_empty_nor_present_is_told_as_swapped_out() {
    let rig = quiet();
    let kernel = rig.kernel();
    let area = kernel.get_vm_area(4 * PAGE, VmFlags::ALLOC).unwrap();
    let some = frames(&rig, 4);
    // SAFETY: Y3: they are held for longer.
    unsafe { kernel.map_kernel_range_noflush(area.addr, vmalloc_kernel::Pgprot::KERNEL, &some) }.unwrap();
    rig.sim.poke(VirtAddr(area.addr + PAGE), 1, 0x1234_0000);
    // SAFETY: Y1, Y3: the test's own area.
    unsafe { kernel.v2_6().unmap_vm_area(&area) }.unwrap();
    let line = "Whee.. Swapped out page in kernel page table".to_owned();
    assert_eq!(kernel.host().said(), [(Kern::Crit, line)]);
    assert_eq!(kernel.host().heard(), ["flush_cache_vunmap 4 pages"]);
    // Tables stay linked; only the entries of pages are cleared.
    // SAFETY: Y7: the area is held.
    let path = unsafe { kernel.walk(area.addr + PAGE) };
    assert!(path.entry(Level::Pte).unwrap().none());
    // SAFETY: Y1: nobody uses it.
    unsafe { kernel.free_vm_area(&area) }.unwrap();
    give_frames(&rig, &some);
}

#[test]
fn unmapping_as_2_6_did_flushes_at_once() {
    let rig = rig(2);
    let kernel = rig.kernel();
    let area = kernel.get_vm_area(3 * PAGE, VmFlags::ALLOC).unwrap();
    let some = frames(&rig, 3);
    // SAFETY: Y3: they are held for longer.
    unsafe { kernel.map_kernel_range_noflush(area.addr, vmalloc_kernel::Pgprot::KERNEL, &some) }.unwrap();
    rig.stamp(area.addr, 3, 1);
    rig.sim.on(1, || rig.check_stamps(area.addr, 3, 1));
    // SAFETY: Y1, Y3: the test's own area.
    unsafe { kernel.v2_6().unmap_vm_area(&area) }.unwrap();
    some.iter().for_each(|&frame| assert_eq!(rig.sim.tlb_refs(frame), 0));
    // SAFETY: Y1: nobody uses it.
    unsafe { kernel.free_vm_area(&area) }.unwrap();
    give_frames(&rig, &some);
}

#[test]
fn vmalloc_to_page_warns_once_of_an_entry_that_makes_no_sense_and_has_no_answer() {
    // A large area is looked up by a walk; a small one's leaf table is known.
    for (pages, level, name) in [(3, 1, "pte"), (3000, 1, "pte"), (3000, 2, "pmd"), (3000, 3, "pud")] {
        let rig = quiet();
        let kernel = rig.kernel();
        let area = kernel.vmalloc(pages * PAGE).map(number).unwrap();
        let expected: Vec<_> = (0..pages).map(|page| kernel.vmalloc_to_page(area + page * PAGE)).collect();
        assert_eq!(kernel.page_iter(area + PAGE).collect::<Vec<_>>(), expected);
        // SAFETY: Y7: the area is held.
        let entry = unsafe { kernel.walk(area) }.down().find(|entry| entry.table == level).unwrap();
        let good = u64::from_str_radix(&format!("{:x}", entry.word()), 16).unwrap();
        rig.sim.poke(VirtAddr(area), level, BAD);
        assert_eq!([(); 2].map(|()| kernel.vmalloc_to_page(area)), [None; 2]);
        let line = format!("vmalloc_to_page: bad {name} ({BAD:016x}) at {area:#x}");
        assert_eq!(kernel.host().said(), [(Kern::Warning, line)], "once");
        rig.sim.poke(VirtAddr(area), level, good);
        assert_eq!(kernel.vmalloc_to_page(START + (1 << 38)), None);
        assert_eq!(kernel.host().said(), [], "nothing is there, and nothing is said");
        vfree(&kernel, area).unwrap();
    }
}
