//! The family of `vmalloc`, mappings of given frames, user areas, and reading.

use crate::common::*;
use vmalloc::machine::Machine;
use vmalloc::machine::format::MemType;
use vmalloc::machine::frames::Frames;
use vmalloc::units::{Node, PAGE_SIZE, Pfn, VirtAddr};
use vmalloc::{Caller, What};
#[cfg(debug_assertions)]
use vmalloc_kernel::PageArray;
use vmalloc_kernel::{Errno, Error, GfpFlags, Kern, Pgprot, Request, UserMapping, VmFlags};
use vmalloc_sim::{Bank, Rates, Sim};

#[test]
fn the_family_clears_places_and_flags_as_its_names_say() {
    let machine = Sim::builder().cpus(2).node(32 << 20).node(32 << 20).rates(Rates::NEVER);
    let rig = boot(machine, vmalloc::Config::region(REGION));
    let kernel = rig.kernel();
    let flags = |at: usize| kernel.find_vm_area(at).unwrap().flags.difference(VmFlags::ALLOC);
    let node = |at: usize| rig.sim.frames().node_of(kernel.vmalloc_to_page(at).unwrap());
    let size = 5 * PAGE + 5;
    let cleared = [
        kernel.vzalloc(size),
        kernel.vzalloc_node(size, Some(Node(1))),
        kernel.vmalloc_user(size),
        kernel.vmalloc_32_user(size),
        kernel.vcalloc(size, 1),
    ];
    let cleared = cleared.map(|made| number(made.unwrap()));
    cleared.iter().for_each(|&area| rig.assert_zero(area, 6 * PAGE));
    let usermap = VmFlags::USERMAP;
    assert_eq!(cleared.map(flags), [VmFlags::empty(), VmFlags::empty(), usermap, usermap, VmFlags::empty()]);
    let others = [
        kernel.vmalloc_node(size, Some(Node(1))),
        kernel.vmalloc_32(size),
        kernel.vmalloc_huge(size, GFP),
        kernel.vmalloc_huge_node(size, GFP, Some(Node(1))),
        kernel.vmalloc_array(5, PAGE),
    ];
    let others = others.map(|made| number(made.unwrap()));
    assert_eq!([cleared[1], others[0]].map(node), [Node(1); 2]);
    assert_eq!([others[2], others[3]].map(flags), [VmFlags::ALLOW_HUGE_VMAP; 2], "accepted, with small pages");
    assert_eq!(node(others[3]), Node(1));
    for &area in &[cleared[3], others[1]] {
        assert!(kernel.vmalloc_to_page(area).unwrap().phys() < 1 << 32);
    }
    cleared.iter().chain(&others).for_each(|&area| vfree(&kernel, area).unwrap());
}

#[test]
fn an_array_whose_bytes_overflow_is_refused() {
    let rig = quiet();
    let kernel = rig.kernel();
    let (count, size) = (usize::MAX / 4, 5);
    let refused = Err(Error::Overflow { count, size });
    assert_eq!([kernel.vmalloc_array(count, size), kernel.vcalloc(count, size)], [refused, refused]);
}

#[test]
fn an_area_that_is_freed_on_behalf_of_somebody_tells_who_that_was() {
    let rig = quiet();
    let kernel = rig.kernel();
    let by = Caller::Return(0x1234);
    // One that the library knows alone, and one that has a record.
    for area in [kernel.vmalloc(PAGE).unwrap(), kernel.vmalloc_user(PAGE).unwrap()] {
        // SAFETY: Y1: nobody uses it.
        unsafe { kernel.vfree_by(area.as_ptr(), by) }.unwrap();
        let What::Freed { was, .. } = kernel.vm().whatis(number(area)) else { panic!("a freed area") };
        assert_eq!(was.freer, Some(by));
    }
}

#[test]
fn vfree_atomic_frees_from_an_interrupt() {
    let rig = quiet();
    let kernel = rig.kernel();
    for area in [kernel.vmalloc(5 * PAGE).unwrap(), kernel.v3_0().vmalloc(5 * PAGE).unwrap()] {
        rig.sim.set_context(vmalloc::machine::Context::HardIrq);
        // SAFETY: Y1: nobody uses it.
        unsafe { kernel.vfree_atomic(area.as_ptr()) }.unwrap();
        rig.sim.set_context(vmalloc::machine::Context::Task);
    }
    rig.state();
}

#[test]
fn vmap_shows_frames_side_by_side_and_vunmap_leaves_them_to_their_holder() {
    let rig = quiet();
    let kernel = rig.kernel();
    let some = frames(&rig, 3);
    // SAFETY: Y5: they are held for longer.
    let map = |flags, prot| unsafe { kernel.vmap(&some, flags, prot) };
    let mapped = map(VmFlags::empty(), Pgprot::KERNEL_EXEC).map(number).unwrap();
    rig.stamp(mapped, 3, 9);
    assert_eq!(kernel.find_vm_area(mapped).unwrap().flags, VmFlags::MAP);
    let (_, entry) = rig.sim.peek(VirtAddr(mapped));
    let leaf = vmalloc::machine::format::Entry::Leaf { frame: some[0], prot: Pgprot::KERNEL.prot };
    assert_eq!(entry, leaf, "never for execution");
    assert!(vfree(&kernel, mapped).is_err(), "vfree is not for it");
    assert_eq!(map(VmFlags::FLUSH_RESET_PERMS, Pgprot::KERNEL).unwrap_err().errno(), Errno::EINVAL);
    let guarded = map(VmFlags::NO_GUARD | VmFlags::USERMAP, Pgprot::KERNEL).map(number).unwrap();
    let view = kernel.find_vm_area(guarded).unwrap();
    assert_eq!((view.flags, view.size), (VmFlags::MAP | VmFlags::USERMAP, 4 * PAGE), "it has a guard all the same");
    kernel.host().said();
    for area in [mapped, guarded] {
        // SAFETY: Y1: nobody uses it.
        unsafe { kernel.vunmap(at(area)) }.unwrap();
    }
    // SAFETY: nothing is there.
    assert!(unsafe { kernel.vunmap(at(mapped)) }.is_err());
    let line = format!("Trying to vunmap() nonexistent vm area ({mapped:016x})");
    assert_eq!(kernel.host().said(), [(Kern::Err, line)]);
    give_frames(&rig, &some);
}

#[test]
fn vmap_refuses_more_frames_than_the_machine_has() {
    let rig = quiet();
    let kernel = rig.kernel();
    let some = vec![Pfn(100); (64 << 20) / PAGE + 1];
    // SAFETY: it is refused before a frame is looked at.
    let refused = unsafe { kernel.vmap(&some, VmFlags::empty(), Pgprot::KERNEL) }.unwrap_err();
    assert_eq!(refused, Error::ExceedsTotal { pages: some.len(), total: some.len() - 1 });
}

#[test]
fn with_map_put_pages_vfree_frees_frames_and_array() {
    let rig = quiet();
    let kernel = rig.kernel();
    let before = rig.state();
    let some = frames(&rig, 3);
    // SAFETY: Y5: they are given up by that.
    let mapped = unsafe { kernel.vmap(&some, VmFlags::MAP_PUT_PAGES, Pgprot::KERNEL) }.map(number).unwrap();
    let view = kernel.find_vm_area(mapped).unwrap();
    assert_eq!((view.flags, view.nr_pages), (VmFlags::MAP | VmFlags::MAP_PUT_PAGES, 3));
    vfree(&kernel, mapped).unwrap();
    assert_eq!(rig.state().0, before.0);

    let removed = {
        let area = kernel.v2_6().vmalloc(600 * PAGE).map(number).unwrap();
        // SAFETY: Y1: nobody uses it.
        unsafe { kernel.remove_vm_area(area) }.unwrap()
    };
    let array = removed.pages.unwrap();
    // SAFETY: Y5: frames and array are handed over.
    let mapped = unsafe { kernel.vmap_put_pages(&array, Pgprot::KERNEL) }.map(number).unwrap();
    assert_eq!(kernel.find_vm_area(mapped).unwrap().pages, Some(array));
    rig.stamp(mapped, 600, 4);
    vfree(&kernel, mapped).unwrap();
    assert_eq!(kernel.vmlist().count(), 0);
}

#[cfg(debug_assertions)]
#[test]
fn each_refusal_of_a_mapping_that_takes_frames_over_leaves_them_to_their_giver() {
    let rig = quiet();
    let kernel = rig.kernel();
    let array_of = |pages: usize| {
        let area = kernel.v2_6().vmalloc(pages * PAGE).map(number).unwrap();
        // SAFETY: Y1: nobody uses it.
        unsafe { kernel.remove_vm_area(area) }.unwrap().pages.unwrap()
    };
    // SAFETY: Y5: frames and array are handed over.
    let put = |array: &PageArray| unsafe { kernel.vmap_put_pages(array, Pgprot::KERNEL) };
    // Records come 31 or so in a frame: some of these maps have to ask for one.
    let mut made = Vec::new();
    for _ in 0..60 {
        let array = array_of(3);
        let before = rig.state();
        for n in 1.. {
            rig.sim.faults().fail_from(n);
            let mapped = put(&array);
            rig.sim.faults().fail_at(0);
            if let Ok(mapped) = mapped {
                made.push(number(mapped));
                break;
            }
            assert_eq!(rig.state(), before, "refusal {n}");
        }
    }
    made.into_iter().for_each(|mapped| vfree(&kernel, mapped).unwrap());
    rig.state();
}

#[test]
fn vmap_pfn_maps_only_what_has_no_descriptor() {
    let device = Bank { first: Pfn(1 << 20), frames: 16, node: None };
    let machine = Sim::builder().node(16 << 20).bank(device).rates(Rates::NEVER);
    let rig = boot(machine, vmalloc::Config::region(REGION));
    let kernel = rig.kernel();
    let device: Vec<Pfn> = (0..4).map(|n| Pfn((1 << 20) + n)).collect();
    // SAFETY: Y6: the test's own device.
    let map = |frames: &[Pfn]| unsafe { kernel.vmap_pfn(frames, Pgprot::KERNEL_NOCACHE) };
    let mapped = map(&device).map(number).unwrap();
    rig.stamp(mapped, 4, 1);
    let memory = frames(&rig, 1);
    assert_eq!(map(&[device[0], memory[0]]), Err(Error::HasDescriptor(memory[0])));
    assert_eq!(Error::HasDescriptor(memory[0]).errno(), Errno::EINVAL);
    // SAFETY: Y1: nobody uses it.
    unsafe { kernel.vunmap(at(mapped)) }.unwrap();
    give_frames(&rig, &memory);
}

/// A user mapping that writes down what it shows.
struct Shown {
    start: usize,
    end: usize,
    pages: Vec<(usize, Pfn)>,
    full: usize,
}

impl UserMapping for Shown {
    fn start(&self) -> usize {
        self.start
    }
    fn end(&self) -> usize {
        self.end
    }
    fn insert(&mut self, at: usize, frame: Pfn) -> Result<(), Error> {
        if self.pages.len() == self.full {
            return Err(Error::BadArgument(at));
        }
        self.pages.push((at, frame));
        Ok(())
    }
}

#[test]
fn remap_vmalloc_range_shows_user_areas_page_by_page_and_each_frame_is_held() {
    let rig = quiet();
    let kernel = rig.kernel();
    let area = kernel.vmalloc_user(8 * PAGE).map(number).unwrap();
    let user = 0x7000_0000;
    let mut shown = Shown { start: user, end: user + 3 * PAGE, pages: Vec::new(), full: 99 };
    kernel.remap_vmalloc_range(&mut shown, area, 2).unwrap();
    let expected: Vec<_> =
        (0..3).map(|n| (user + n * PAGE, kernel.vmalloc_to_page(area + (2 + n) * PAGE).unwrap())).collect();
    assert_eq!(shown.pages, expected);
    let mut whole = Shown { start: user, end: user + 8 * PAGE, pages: Vec::new(), full: 99 };
    kernel.remap_vmalloc_range(&mut whole, area, 0).unwrap();
    assert_eq!((whole.pages.len(), whole.pages[2].1), (8, shown.pages[0].1), "all of it, up to the guard");
    give_frames(&rig, &whole.pages.iter().map(|page| page.1).collect::<Vec<_>>());
    let errno = |at, part, user| {
        let mut shown = Shown { start: 0, end: 0, pages: Vec::new(), full: 99 };
        let refused = kernel.remap_vmalloc_range_partial(&mut shown, user, at, part).unwrap_err();
        assert_eq!(shown.pages, []);
        refused.errno()
    };
    assert_eq!(errno(area, (6, 3 * PAGE), user), Errno::EINVAL, "the guard is not its own");
    assert_eq!(errno(area + 1, (0, PAGE), user), Errno::EINVAL);
    assert_eq!(errno(area, (0, PAGE), user + 1), Errno::EINVAL);
    assert_eq!(errno(area, (usize::MAX / PAGE_SIZE, PAGE), user), Errno::EINVAL, "pgoff overflows");
    assert_eq!(errno(area, (usize::MAX, PAGE), user), Errno::EINVAL);
    let plain = kernel.vmalloc(PAGE).map(number).unwrap();
    assert_eq!(errno(plain, (0, PAGE), user), Errno::EINVAL, "neither USERMAP nor DMA_COHERENT");
    let coherent = Request { vm_flags: VmFlags::DMA_COHERENT, ..kernel.request(PAGE) };
    let coherent = kernel.__vmalloc_node_range(&coherent).map(number).unwrap();
    let mut full = Shown { start: user, end: user + PAGE, pages: Vec::new(), full: 0 };
    assert!(kernel.remap_vmalloc_range(&mut full, coherent, 0).is_err(), "what the mapping refuses");
    // The frames outlive the area, as long as the mapping holds them.
    vfree(&kernel, area).unwrap();
    rig.purge();
    let more = frames(&rig, 3000);
    assert!(shown.pages.iter().all(|(_, frame)| !more.contains(frame)));
    give_frames(&rig, &more);
    give_frames(&rig, &shown.pages.iter().map(|page| page.1).collect::<Vec<_>>());
    [plain, coherent].iter().for_each(|&area| vfree(&kernel, area).unwrap());
}

#[test]
fn vread_reads_memory_and_zeros_where_holes_devices_and_sparse_areas_are() {
    let device = Bank { first: Pfn(1 << 20), frames: 16, node: None };
    let machine = Sim::builder().node(32 << 20).bank(device).rates(Rates::NEVER);
    let rig = boot(machine, vmalloc::Config::region(REGION));
    let kernel = rig.kernel();
    let area = kernel.vmalloc(3 * PAGE).map(number).unwrap();
    rig.stamp(area, 3, 0x1111_0000);
    let mut bytes = vec![9; 4 * PAGE];
    assert_eq!(kernel.vread(&mut bytes, area), Ok(3 * PAGE), "its guard is a hole");
    for page in 0..3 {
        assert_eq!(bytes[page * PAGE..][..8], (0x1111_0000 ^ page as u64).to_le_bytes());
    }
    assert!(bytes[3 * PAGE..].iter().all(|&byte| byte == 0));
    let mut word = [9; 8];
    assert_eq!(kernel.vread(&mut word, area + PAGE), Ok(8));
    assert_eq!(u64::from_le_bytes(word), 0x1111_0001, "from deep inside");
    let io = rig.ioremap((1 << 20) * PAGE as u64, PAGE, MemType::Uncached).unwrap();
    rig.sim.store(0, VirtAddr(number(io)), 7).unwrap();
    assert_eq!((kernel.vread(&mut word, number(io)), word), (Ok(8), [0; 8]), "devices are not touched");
    let sparse = kernel.get_vm_area(4 * PAGE, VmFlags::SPARSE).unwrap();
    let some = frames(&rig, 1);
    // SAFETY: Y3: the frame is held for longer.
    unsafe { kernel.vm_area_map_pages(&sparse, sparse.addr, sparse.addr + PAGE, &some) }.unwrap();
    rig.sim.store(0, VirtAddr(sparse.addr), 7).unwrap();
    assert_eq!((kernel.vread(&mut word, sparse.addr), word), (Ok(8), [0; 8]));
    assert_eq!((kernel.vread(&mut word, START + (1 << 30)), word), (Ok(0), [0; 8]), "a hole");
    // SAFETY: P4: they are held for longer.
    let ram = unsafe { rig.map_ram(&some, None) }.unwrap();
    assert_eq!((kernel.vread(&mut word, number(ram)), word), (Ok(8), 7u64.to_le_bytes()), "what has no vm_struct");
    // SAFETY: V1, Y1: nobody uses them.
    unsafe {
        rig.unmap_ram(ram, 1).unwrap();
        kernel.free_vm_area(&sparse).unwrap();
        rig.iounmap(io).unwrap();
    }
    give_frames(&rig, &some);
    vfree(&kernel, area).unwrap();
    assert_eq!(kernel.vread(&mut word, area), Ok(0), "freed");
}

#[test]
fn uninitialized_areas_are_skipped_by_readers() {
    let rig = quiet();
    let kernel = rig.kernel();
    let area = kernel.get_vm_area(PAGE, VmFlags::ALLOC | VmFlags::UNINITIALIZED).unwrap();
    let mut word = [9; 8];
    assert_eq!((kernel.vread(&mut word, area.addr), word), (Ok(0), [0; 8]));
    // SAFETY: Y1: nobody uses it.
    unsafe { kernel.free_vm_area(&area) }.unwrap();
}

#[cfg(debug_assertions)]
#[test]
fn requests_without_fs_or_io_run_in_a_scope_that_reaches_table_pages() {
    use std::sync::atomic::Ordering::SeqCst;
    use std::sync::{Arc, Mutex};
    for (gfp, scope) in [(GfpFlags::NOFS, 1), (GfpFlags::NOIO, 2), (GfpFlags::KERNEL, 0)] {
        let rig = quiet();
        let tested = rig.kernel();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (seen, current) = (Arc::clone(&asked), Arc::clone(&tested.host().scope));
        rig.set_shortage(move |_, short| {
            seen.lock().unwrap().push((format!("{short:?}"), current.load(SeqCst)));
            false
        });
        rig.reclaim(usize::MAX);
        for n in 1..200 {
            rig.sim.faults().fail_from(n);
            let made = tested.__vmalloc(20 * PAGE, gfp);
            rig.sim.faults().fail_at(0);
            if let Ok(area) = made {
                vfree(&tested, number(area)).unwrap();
                break;
            }
            rig.reclaim(usize::MAX);
        }
        let asked = asked.lock().unwrap();
        assert!(asked.iter().any(|(short, _)| short.starts_with("Tables")), "{asked:?}");
        assert!(asked.iter().all(|&(_, seen)| seen == scope), "{gfp}: {asked:?}");
        assert_eq!(tested.host().scope.load(SeqCst), 0, "it has ended");
    }
}

#[cfg(debug_assertions)]
#[test]
fn nofail_tries_again_each_tick_and_says_so() {
    use std::sync::atomic::Ordering::SeqCst;
    let rig = quiet();
    let kernel = rig.kernel();
    rig.reclaim(usize::MAX);
    rig.sim.faults().fail_from(1);
    let sim = rig.sim.clone();
    let ticks = std::sync::atomic::AtomicU32::new(0);
    *kernel.host().on_tick.lock().unwrap() = Some(Box::new(move || {
        if ticks.fetch_add(1, SeqCst) == 4 {
            sim.faults().fail_at(0);
        }
    }));
    let area = kernel.__vmalloc(20 * PAGE, GFP | GfpFlags::NOFAIL).map(number).unwrap();
    assert_eq!(kernel.host().ticks.load(SeqCst), 5);
    let said = kernel.host().said();
    assert!(said[0].1.contains(". Retrying."), "{said:?}");
    vfree(&kernel, area).unwrap();
    // What can never be is refused all the same.
    assert!(kernel.__vmalloc(0, GFP | GfpFlags::NOFAIL).is_err());
}

#[cfg(debug_assertions)]
#[test]
fn noretry_does_not_ask_the_machine_and_retry_mayfail_does() {
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
    let rig = quiet();
    let kernel = rig.kernel();
    let asked = std::sync::Arc::new(AtomicU32::new(0));
    let count = std::sync::Arc::clone(&asked);
    rig.set_shortage(move |_, _| {
        count.fetch_add(1, SeqCst);
        false
    });
    let try_with = |gfp| {
        rig.reclaim(usize::MAX);
        rig.sim.faults().fail_from(1);
        assert!(kernel.__vmalloc(20 * PAGE, gfp | GfpFlags::NOWARN).is_err());
        rig.sim.faults().fail_at(0);
        asked.swap(0, SeqCst)
    };
    assert_eq!(try_with(GFP | GfpFlags::NORETRY), 0);
    assert!(try_with(GFP | GfpFlags::RETRY_MAYFAIL) > 0);
    assert!(try_with(GFP) > 0);
    assert_eq!(kernel.host().said(), [], "nothing is said with NOWARN");
}
