//! Blocks that grow and shrink: in place where they have room, else by moving frames.

use crate::common::*;
use vmalloc::Config;
use vmalloc::machine::Machine as _;
use vmalloc::machine::frames::Frames;
use vmalloc::units::{Node, Pfn};
use vmalloc_kernel::{Error, GfpFlags, Kern, Pgprot, Request, VmFlags};
use vmalloc_sim::{Rates, Sim};

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
    for size in [3 * PAGE + 1, 4 * PAGE - 9, 4 * PAGE] {
        assert_eq!(vrealloc(&kernel, area, size, GFP), Ok(area));
        assert_eq!(kernel.find_vm_area(area).unwrap().requested_size, size);
    }
    rig.check_stamps(area, 4, 77);
    // Bytes that are gained with ZERO are clear.
    assert_eq!(vrealloc(&kernel, area, 3 * PAGE + 8, GFP), Ok(area));
    assert_eq!(vrealloc(&kernel, area, 4 * PAGE, GFP | GfpFlags::ZERO), Ok(area));
    rig.check_stamps(area, 4, 77);
    rig.assert_zero(area + 3 * PAGE + 8, PAGE - 8);
    vfree(&kernel, area).unwrap();
}

#[test]
fn shrinking_an_area_of_the_librarys_own_gives_pages_back_in_place() {
    let rig = rig(2);
    let kernel = rig.kernel();
    for pages in [4, 100, 1000] {
        let area = kernel.vzalloc(pages * PAGE).map(number).unwrap();
        rig.stamp(area, pages, 9);
        kernel.pages(area, GFP).unwrap();
        let before = rig.state().1;
        assert_eq!(vrealloc(&kernel, area, PAGE + 1, GFP), Ok(area));
        let view = kernel.find_vm_area(area).unwrap();
        assert_eq!((view.nr_pages, view.requested_size, view.size), (2, PAGE + 1, 3 * PAGE));
        rig.check_stamps(area, 2, 9);
        assert_eq!(kernel.vmalloc_to_page(area + 2 * PAGE), None);
        assert!(before - rig.state().1 >= pages - 2, "frames are the machine's again");
        assert_eq!(kernel.pages(area, GFP).unwrap().len(), 2, "an array of what is left");
        // It has its addresses yet, and grows where it is.
        let new = vrealloc(&kernel, area, 3 * PAGE, GFP | GfpFlags::ZERO).unwrap();
        assert_eq!(new, area);
        rig.check_stamps(new, 1, 9);
        rig.assert_zero(new + 2 * PAGE, PAGE);
        vfree(&kernel, new).unwrap();
    }
    rig.state();
}

fn vrealloc_node_align(
    kernel: &Tested<'_>,
    area: usize,
    size: usize,
    align: usize,
    how: (GfpFlags, Option<Node>),
) -> Result<usize, Error> {
    // SAFETY: Y4: tests use what is returned.
    unsafe { kernel.vrealloc_node_align(at(area), size, align, how) }.map(|at| at.map_or(0, number))
}

#[test]
fn vrealloc_node_align_moves_what_lies_elsewhere_and_leaves_what_lies_right() {
    let rig = quiet();
    let kernel = rig.kernel();
    let spread = (0..3).map(|_| kernel.vmalloc(3 * PAGE).map(number).unwrap()).collect::<Vec<_>>();
    let area = spread[1];
    rig.stamp(area, 3, 4);
    let align = 32 * PAGE;
    assert!(!area.is_multiple_of(align));
    let frame = kernel.vmalloc_to_page(area);
    let new = vrealloc_node_align(&kernel, area, 3 * PAGE, align, (GFP, None)).unwrap();
    assert!(new.is_multiple_of(align) && kernel.vmalloc_to_page(new) == frame, "frames move");
    rig.check_stamps(new, 3, 4);
    assert_eq!(vrealloc_node_align(&kernel, new, PAGE, align, (GFP, None)), Ok(new));
    let refused = vrealloc_node_align(&kernel, new, PAGE, 3, (GFP, None));
    assert_eq!(refused, Err(Error::Alloc(vmalloc::AllocError::BadAlign(3))));
    assert_eq!(vrealloc_node_align(&kernel, 0, PAGE, align, (GFP, None)).map(|at| at % align), Ok(0));
    for area in [spread[0], spread[2], new] {
        vfree(&kernel, area).unwrap();
    }
}

#[test]
fn vrealloc_node_align_takes_new_frames_of_the_node_and_replaces_others_where_no_other_is_allowed() {
    let sim = Sim::builder().node(64 << 20).node(64 << 20).rates(vmalloc_sim::Rates::NEVER);
    let rig = boot(sim, vmalloc::Config::region(REGION));
    let kernel = rig.kernel();
    let nodes = |area: usize, pages: usize| -> Vec<u8> {
        let frame = |page: usize| kernel.vmalloc_to_page(area + page * PAGE).unwrap();
        (0..pages).map(|page| rig.sim.frames().node_of(frame(page)).0).collect()
    };
    let area = kernel.vmalloc_node(2 * PAGE, Some(Node(0))).map(number).unwrap();
    rig.stamp(area, 2, 6);
    let new = vrealloc_node_align(&kernel, area, 4 * PAGE, 1, (GFP, Some(Node(1)))).unwrap();
    assert_eq!(nodes(new, 4), [0, 0, 1, 1]);
    let only = (GFP | GfpFlags::THISNODE, Some(Node(1)));
    let newer = vrealloc_node_align(&kernel, new, 4 * PAGE, 1, only).unwrap();
    assert_eq!((nodes(newer, 4), newer == new), (vec![1; 4], false));
    rig.check_stamps(newer, 2, 6);
    assert_eq!(vrealloc_node_align(&kernel, newer, 4 * PAGE, 1, only), Ok(newer), "it lies right");
    vfree(&kernel, newer).unwrap();
    rig.state();
}

#[test]
fn an_area_that_moves_keeps_its_protection() {
    let rig = quiet();
    let kernel = rig.kernel();
    let request = Request { prot: Pgprot::KERNEL_RO, ..kernel.request(PAGE) };
    let area = kernel.__vmalloc_node(&request).map(number).unwrap();
    let new = vrealloc(&kernel, area, 3 * PAGE, GFP).unwrap();
    assert_ne!(new, area);
    assert!(rig.sim.store(rig.sim.cpu(), vmalloc::units::VirtAddr(new), 1).is_err(), "it is read only still");
    vfree(&kernel, new).unwrap();
}

#[test]
fn vrealloc_grows_an_area_where_it_is_as_far_as_its_slot_reaches() {
    let rig = rig(2);
    let kernel = rig.kernel();
    for (pages, most) in [(17, 18), (130, 144), (1000, 1023)] {
        let area = kernel.vmalloc(pages * PAGE - 8).map(number).unwrap();
        rig.stamp(area, pages - 1, 6);
        kernel.pages(area, GFP).unwrap();
        let frames: Vec<_> = (0..pages).map(|page| kernel.vmalloc_to_page(area + page * PAGE)).collect();
        assert_eq!(vrealloc(&kernel, area, most * PAGE - 16, GFP | GfpFlags::ZERO), Ok(area));
        let view = kernel.find_vm_area(area).unwrap();
        let told = (view.nr_pages, view.requested_size, view.size);
        assert_eq!(told, (most, most * PAGE - 16, (most + 1) * PAGE));
        assert!((0..pages).all(|page| kernel.vmalloc_to_page(area + page * PAGE) == frames[page]));
        rig.sim.on(1, || rig.check_stamps(area, pages - 1, 6));
        rig.assert_zero(area + pages * PAGE - 8, 8);
        rig.assert_zero(area + pages * PAGE, (most - pages) * PAGE - 16);
        assert_eq!(kernel.pages(area, GFP).unwrap().len(), most);
        let new = vrealloc(&kernel, area, (most + 1) * PAGE, GFP).unwrap();
        assert_ne!(new, area, "its slot is full");
        rig.check_stamps(new, pages - 1, 6);
        vfree(&kernel, new).unwrap();
    }
    rig.state();
}

/// The entry of a page, without its frame and what the MMU stores in it.
fn bits(kernel: &Tested<'_>, at: usize) -> u64 {
    // SAFETY: Y7: tests hold the area.
    let word = unsafe { kernel.walk(at) }.up().next().expect("an entry").word();
    u64::from_str_radix(&format!("{word:x}"), 16).expect("a number") & !(0x000f_ffff_ffff_f000 | 0x60)
}

#[test]
fn an_area_that_moves_or_grows_in_place_keeps_its_memory_type() {
    let rig = quiet();
    let kernel = rig.kernel();
    let plain = kernel.vmalloc(PAGE).map(number).unwrap();
    let prot = Pgprot::KERNEL_NOCACHE;
    let request = Request { prot, ..kernel.request(4 * PAGE) };
    let whole = kernel.__vmalloc_node(&request).map(number).unwrap();
    let parts = kernel.v2_6().__vmalloc(4 * PAGE, GFP, prot).map(number).unwrap();
    let uncached = bits(&kernel, whole);
    assert_ne!(bits(&kernel, plain), uncached);
    for area in [whole, parts] {
        assert_eq!(vrealloc(&kernel, area, 2 * PAGE, GFP), Ok(area));
        let mut area = vrealloc(&kernel, area, 3 * PAGE, GFP).unwrap();
        // It moves once, and once more.
        for pages in [3, 50, 100] {
            area = vrealloc(&kernel, area, pages * PAGE, GFP).unwrap();
            assert!((0..pages).all(|page| bits(&kernel, area + page * PAGE) == uncached), "{pages} pages");
        }
        vfree(&kernel, area).unwrap();
    }
    // The next area there is an ordinary one.
    let next = kernel.vmalloc(4 * PAGE).map(number).unwrap();
    assert_eq!(bits(&kernel, next), bits(&kernel, plain));
    [plain, next].into_iter().for_each(|area| vfree(&kernel, area).unwrap());
    rig.state();
}

#[test]
fn what_no_vmalloc_made_is_not_resized() {
    let rig = quiet();
    let kernel = rig.kernel();
    let frames = frames(&rig, 2);
    // SAFETY: Y5: the test holds them.
    let alias = unsafe { kernel.vmap(&frames, VmFlags::empty(), Pgprot::KERNEL) }.map(number).unwrap();
    let before = rig.state();
    let refused = vrealloc(&kernel, alias, 9 * PAGE, GFP).unwrap_err();
    assert_eq!(refused, Error::WrongFlags { has: VmFlags::MAP.bits(), about: VmFlags::ALLOC.bits() });
    assert_eq!(rig.state(), before);
    // SAFETY: Y1: nobody uses it.
    unsafe { kernel.vunmap(at(alias)) }.unwrap();
    give_frames(&rig, &frames);
}

#[test]
fn a_refused_vrealloc_is_told_as_any_vmalloc() {
    let rig = quiet();
    let kernel = rig.kernel();
    let area = kernel.vmalloc(PAGE).map(number).unwrap();
    rig.stamp(area, 1, 9);
    let much = kernel.vmalloc(20 << 20).map(number).unwrap();
    // What it stocks on the way it keeps: that no frame is lost the rig looks at in the end.
    let before = (rig.state().0, kernel.find_vm_area(area));
    for (bytes, why) in [(65 << 20, "exceeds total pages"), (60 << 20, "failed to allocate pages")] {
        let mut told = [Vec::new(), Vec::new()];
        let errors = [0, 1].map(|n| {
            rig.sim.advance(11_000_000_000);
            let made = if n == 0 { kernel.vmalloc(bytes).map(number) } else { vrealloc(&kernel, area, bytes, GFP) };
            told[n] = kernel.host().said();
            // How many frames are free is of the moment.
            told[n].retain(|(_, line)| !line.starts_with("free:"));
            made.unwrap_err().errno()
        });
        assert_eq!(errors[1], errors[0], "{why}");
        let line = format!("insmod: vmalloc error: size {bytes}, {why}, mode:0xcc0(GFP_KERNEL), nodemask=(null)");
        assert_eq!(told[0].first(), Some(&(Kern::Warning, line)));
        assert_eq!(told[1], told[0], "level and stack as well");
        assert!(vrealloc(&kernel, area, bytes, GFP | GfpFlags::NOWARN).is_err());
        assert_eq!(kernel.host().said(), []);
        assert_eq!((rig.state().0, kernel.find_vm_area(area)), before);
        rig.check_stamps(area, 1, 9);
    }
    [area, much].into_iter().for_each(|area| vfree(&kernel, area).unwrap());
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
fn a_reader_of_an_area_that_was_resized_gets_the_pages_that_it_has_whatever_its_size() {
    let rig = rig(2);
    let kernel = rig.kernel();
    let makes = [|k: &Tested<'_>| k.vmalloc(6 * PAGE), |k: &Tested<'_>| k.v2_6().vmalloc(6 * PAGE)];
    for area in makes.map(|make| make(&kernel).map(number).unwrap()) {
        rig.stamp(area, 6, 4);
        let mut bytes = vec![1; 6 * PAGE];
        assert_eq!(kernel.vread(&mut bytes, area), Ok(6 * PAGE));
        let stored = bytes.clone();
        for (size, pages) in [(2 * PAGE + 100, 3), (100, 1), (3 * PAGE + 1, 4), (2 * PAGE, 2)] {
            assert_eq!(vrealloc(&kernel, area, size, GFP), Ok(area), "in place");
            assert_eq!(kernel.vread(&mut bytes, area), Ok(pages * PAGE), "{size} bytes");
            assert_eq!(bytes[..PAGE], stored[..PAGE]);
            assert!(bytes[pages * PAGE..].iter().all(|&byte| byte == 0), "what is no page's reads as 0");
        }
        vfree(&kernel, area).unwrap();
    }
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

/// Another task frees a block when the function `when` is entered next.
fn free_beside(kernel: &Tested<'_>, when: &'static str, block: usize) {
    let shared = std::ptr::from_ref(kernel).expose_provenance();
    let frees = move || {
        // SAFETY: the kernel outlives the hook, which runs once.
        let kernel = unsafe { &*std::ptr::with_exposed_provenance::<Tested<'_>>(shared) };
        // SAFETY: a mistake: another task uses the block.
        unsafe { kernel.kvfree(at(block)) }.unwrap();
    };
    *kernel.host().beside.lock().unwrap() = Some((when, Box::new(frees)));
}

#[test]
fn a_block_that_somebody_frees_while_it_is_resized_leaves_no_other_behind() {
    type Make = fn(&Tested<'_>) -> Result<std::ptr::NonNull<u8>, Error>;
    type Resize = fn(&Tested<'_>, usize) -> Result<usize, Error>;
    let grown = |k: &Tested<'_>, old: usize| vrealloc(k, old, 100 * PAGE, GFP);
    let cases: [(&str, Make, Resize); 4] = [
        // SAFETY: Y4: the tests use what is returned.
        ("kmalloc", |k| k.kmalloc(64, GFP), |k, old| unsafe { k.krealloc(at(old), 3000, GFP) }.map(number)),
        ("kvmalloc_node", |k| k.kmalloc(3000, GFP), |k, old| kvrealloc(k, old, 5 << 20, GFP)),
        ("vfree", |k| k.vmalloc(4 * PAGE), grown),
        ("vfree", |k| k.v2_6().vmalloc(4 * PAGE), grown),
    ];
    for (n, (when, make, resize)) in cases.into_iter().enumerate() {
        let rig = quiet();
        let mut leaks = vmalloc_kernel::kmemleak::Kmemleak::new();
        let kernel = rig.kernel().with_kmemleak(&leaks);
        let old = make(&kernel).map(number).unwrap();
        free_beside(&kernel, when, old);
        let resized = resize(&kernel, old);
        assert!(kernel.host().beside.lock().unwrap().is_none(), "case {n}: it was freed");
        assert!(resized.is_err(), "case {n}: {resized:?}");
        assert_eq!(leaks.len(&rig.sim), 0, "case {n}: a block that nobody has");
        drop(kernel);
        leaks.give_back(&rig.sim);
    }
}

#[test]
fn a_vrealloc_that_cannot_clear_what_it_gains_changes_nothing() {
    let machine = Sim::builder().rates(Rates::NEVER).node(64 << 20).highmem(Pfn(4096));
    let rig = boot(machine, Config::region(REGION));
    let kernel = rig.kernel();
    let whole = kernel.vmalloc(17 * PAGE - 8).map(number).unwrap();
    let parts = kernel.v2_6().__vmalloc(17 * PAGE - 8, USUAL, Pgprot::KERNEL).map(number).unwrap();
    for area in [whole, parts] {
        let state = || (kernel.find_vm_area(area).unwrap(), rig.find(area), kernel.meminfo().vmalloc_used);
        let before = state();
        for size in [17 * PAGE, 18 * PAGE - 16] {
            let refused = vrealloc(&kernel, area, size, USUAL | GfpFlags::ZERO);
            assert!(matches!(refused, Err(Error::NotReachable(_))), "{refused:?}");
            assert_eq!(state(), before, "{size}");
        }
        vfree(&kernel, area).unwrap();
    }
    rig.state();
}
