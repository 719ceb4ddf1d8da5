//! The listing, devices by parts, early areas, notifiers and the shrinker.

use crate::common::*;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use vmalloc::machine::format::MemType;
use vmalloc::units::{Pfn, VirtAddr};
use vmalloc::{Caller, Policy};
use vmalloc_kernel::{Bare, EarlyAreas, Errno, Error, Kernel, Notifiers, Pgprot, Request, VmFlags};
use vmalloc_sim::{Bank, Rates, Sim};

fn listing(kernel: &Tested<'_>) -> Vec<String> {
    let mut text = String::new();
    kernel.vmallocinfo(&mut text).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// The words after the size and the caller.
fn words(line: &str) -> Vec<&str> {
    line.split_ascii_whitespace().skip(3).collect()
}

#[test]
fn vmallocinfo_lists_what_holds_of_each_area_in_the_traditional_order() {
    let device = Bank { first: Pfn(1 << 20), frames: 16, node: None };
    let rig = boot(Sim::builder().node(32 << 20).bank(device).rates(Rates::NEVER), vmalloc::Config::region(REGION));
    rig.sim.set_symbolizer(|pc, f| write!(f, "load_module+{pc:#x}/0x1e40"));
    let kernel = rig.kernel();
    let area = kernel.v3_0().__vmalloc_node(&Request { caller: Caller::Return(0x9f0), ..kernel.request(5000) });
    let area = area.map(number).unwrap();
    let line = listing(&kernel)[0].clone();
    let expected =
        format!("{area:#018x}-{:#018x}   12288 load_module+0x9f0/0x1e40 pages=2 vmalloc N0=2", area + 3 * PAGE);
    assert_eq!(line, expected);
    vfree(&kernel, area).unwrap();
    let at_last = |kernel: &Tested<'_>| listing(kernel).into_iter().rfind(|line| !line.ends_with("unpurged vm_area"));
    let user = kernel.vmalloc_user(PAGE).map(number).unwrap();
    assert_eq!(words(&at_last(&kernel).unwrap()), ["pages=1", "vmalloc", "user", "N0=1"]);
    vfree(&kernel, user).unwrap();
    let coherent = Request { vm_flags: VmFlags::DMA_COHERENT, ..kernel.request(PAGE) };
    let coherent = kernel.__vmalloc_node_range(&coherent).map(number).unwrap();
    assert_eq!(words(&at_last(&kernel).unwrap()), ["pages=1", "vmalloc", "dma-coherent", "N0=1"]);
    vfree(&kernel, coherent).unwrap();
    let sparse = kernel.get_vm_area(PAGE, VmFlags::SPARSE).unwrap();
    assert_eq!(words(&at_last(&kernel).unwrap()), ["sparse"]);
    // SAFETY: Y1: nobody uses it.
    unsafe { kernel.free_vm_area(&sparse) }.unwrap();
    let some = frames(&rig, 2);
    // SAFETY: Y5: they are held for longer.
    let mapped = unsafe { kernel.vmap(&some, VmFlags::MAP, Pgprot::KERNEL) }.map(number).unwrap();
    assert_eq!(words(&at_last(&kernel).unwrap()), ["vmap"], "frames of somebody else are of no node");
    // SAFETY: Y1: nobody uses it.
    unsafe { kernel.vunmap(at(mapped)) }.unwrap();
    give_frames(&rig, &some);
    let (past, line) = (rig.alloc(vmalloc::Req::pages(1)).map(number).unwrap(), line!());
    let caller = at_last(&kernel).unwrap();
    assert_eq!(caller.split_ascii_whitespace().nth(2), Some(&*format!("{}:{line}", file!())));
    vfree(&kernel, past).unwrap();
    let large = kernel.v2_6().vmalloc(513 * PAGE).map(number).unwrap();
    let lines = listing(&kernel);
    let mut sizes: Vec<Vec<&str>> =
        lines.iter().filter(|line| line.contains("vmalloc")).map(|line| words(line)).collect();
    sizes.sort();
    assert_eq!(sizes, [vec!["pages=2", "vmalloc", "N0=2"], vec!["pages=513", "vmalloc", "vpages", "N0=513"]]);
    vfree(&kernel, large).unwrap();
    assert!(listing(&kernel).iter().all(|line| line.ends_with(" unpurged vm_area")), "what waits for a flush");
    rig.purge();
    assert_eq!(listing(&kernel), [""; 0]);
}

#[test]
fn addresses_above_4_gib_have_16_digits_whatever_the_first_are() {
    let vm = vmalloc_hosted::builder().memory(16 << 20).build().unwrap();
    let kernel = Kernel::new(&vm, Bare);
    let area = kernel.vmalloc(PAGE).map(number).unwrap();
    let mut text = String::new();
    kernel.vmallocinfo(&mut text).unwrap();
    let start = format!("0x{area:016x}-0x{:016x}    8192 ", area + 2 * PAGE);
    assert!(start.starts_with("0x0000") && text.starts_with(&start), "{text}");
    // SAFETY: Y1: nobody uses it.
    unsafe { kernel.vfree(at(area)) }.unwrap();
}

#[test]
fn areas_that_are_not_whole_are_not_listed_and_short_mappings_have_no_caller() {
    let rig = quiet();
    let kernel = rig.kernel();
    let area = kernel.get_vm_area(PAGE, VmFlags::ALLOC | VmFlags::UNINITIALIZED).unwrap();
    assert_eq!(listing(&kernel), [""; 0]);
    let some = frames(&rig, 2);
    // SAFETY: P4: they are held for longer.
    let ram = unsafe { rig.map_ram(&some, None) }.unwrap();
    let start = number(ram);
    assert_eq!(listing(&kernel), [format!("{start:#018x}-{:#018x}    8192 vm_map_ram", start + 2 * PAGE)]);
    // SAFETY: V1, Y1: nobody uses them.
    unsafe {
        rig.unmap_ram(ram, 2).unwrap();
        kernel.free_vm_area(&area).unwrap();
    }
    give_frames(&rig, &some);
}

#[test]
fn ioremap_page_range_fills_a_device_area_exactly_or_not_at_all() {
    let device = Bank { first: Pfn(1 << 20), frames: 200, node: None };
    let rig = boot(Sim::builder().node(32 << 20).bank(device).rates(Rates::NEVER), vmalloc::Config::region(REGION));
    let kernel = rig.kernel();
    let area = kernel.get_vm_area(100 * PAGE, VmFlags::IOREMAP).unwrap();
    let phys = (1u64 << 20) * PAGE as u64;
    let prot = Pgprot { prot: vmalloc::machine::format::Prot::RW, memory: MemType::Uncached };
    // SAFETY: Y6: the test's own device.
    let map = |start, end, phys| unsafe { kernel.ioremap_page_range(start, end, phys, prot) };
    let errno = |start, end, phys| map(start, end, phys).unwrap_err().errno();
    assert_eq!(errno(area.addr, area.end() - PAGE, phys), Errno::ERANGE);
    assert_eq!(errno(area.addr + PAGE, area.end(), phys), Errno::ERANGE);
    assert_eq!(errno(area.addr, area.end(), phys + 1), Errno::EINVAL);
    assert_eq!(errno(START + (1 << 33), area.end(), phys), Errno::EINVAL);
    let other = kernel.get_vm_area(PAGE, VmFlags::ALLOC).unwrap();
    assert_eq!(errno(other.addr, other.end(), phys), Errno::EINVAL, "not VM_IOREMAP");
    map(area.addr, area.end(), phys).unwrap();
    assert_eq!(errno(area.addr, area.end(), phys), Errno::EBUSY);
    rig.stamp(area.addr, 100, 3);
    rig.check_stamps(area.addr, 100, 3);
    rig.sim.assert_faults(0, VirtAddr(area.end()));
    let view = kernel.find_vm_area(area.addr).unwrap();
    assert_eq!((view.phys_addr, view.flags), (phys, VmFlags::IOREMAP));
    let line = listing(&kernel).into_iter().find(|line| line.contains("ioremap")).unwrap();
    assert_eq!(words(&line), ["phys=0x0000000100000000", "ioremap"]);
    for area in [area, other] {
        // SAFETY: Y1: nobody uses it.
        unsafe { kernel.free_vm_area(&area) }.unwrap();
    }
}

#[test]
fn early_areas_are_noted_before_the_instance_serves_and_taken_over_by_it() {
    let mut early = EarlyAreas::new();
    let bounds = START + PAGE..START + 64 * PAGE;
    early.add(START + 8 * PAGE, 4 * PAGE).unwrap();
    let overlap = early.add(START + 11 * PAGE, PAGE).unwrap_err();
    assert_eq!(
        overlap.to_string(),
        format!(
            "{:#x}-{:#x} is not inside of the area {:#x}-{:#x}",
            START + 11 * PAGE,
            START + 12 * PAGE,
            START + 8 * PAGE,
            START + 12 * PAGE
        )
    );
    assert_eq!(early.register(3 * PAGE, PAGE, bounds.clone()), Ok(START + PAGE));
    assert_eq!(early.register(6 * PAGE, 4 * PAGE, bounds.clone()), Ok(START + 12 * PAGE), "the lowest that fits");
    assert_eq!(early.register(PAGE, PAGE, bounds.clone()), Ok(START + 4 * PAGE));
    assert_eq!(early.register(60 * PAGE, PAGE, bounds.clone()), Err(Error::BadArgument(60 * PAGE)));
    assert_eq!(early.add(START + 1, PAGE), Err(Error::NotAligned(START + 1)));
    let config = vmalloc::Config::region(START..START + 64 * PAGE).placement(vmalloc::Placement::Lowest);
    let rig = boot(Sim::builder().rates(Rates::NEVER), config);
    let kernel = rig.kernel();
    kernel.import_early(&early).unwrap();
    let listed: Vec<_> = kernel.vmlist().map(|area| area.addr..area.end()).collect();
    assert_eq!(listed, early.iter().collect::<Vec<_>>());
    let next = kernel.vmalloc(PAGE).map(number).unwrap();
    assert!(early.iter().all(|area| !area.contains(&next)), "nobody else gets them");
    assert_eq!(kernel.host().said(), []);
    assert!(kernel.import_early(&early).is_err(), "once");
    let (from, to) = (START + PAGE, START + 4 * PAGE);
    let line = format!("vmalloc bug: {from:#x}-{to:#x} overlaps with {from:#x}-{to:#x}");
    assert_eq!(kernel.host().said(), [(vmalloc_kernel::Kern::Warning, line)]);
    assert_eq!(kernel.vmlist().count(), 5);
    vfree(&kernel, next).unwrap();
}

#[cfg(debug_assertions)]
#[test]
fn purge_notifiers_are_called_in_a_chain_and_what_they_free_is_tried_again() {
    let (first, second) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let count = |counter: &AtomicUsize, freed| {
        counter.fetch_add(1, SeqCst);
        freed
    };
    let (one, two) = (|_| count(&first, 0), |_| count(&second, 3));
    let mut chain = Notifiers::new();
    assert!(chain.register(&one) && chain.register(&two));
    let short = vmalloc::error::Shortage::Frames(1);
    assert_eq!((chain.call(short), first.load(SeqCst), second.load(SeqCst)), (3, 1, 1));
    assert!(chain.unregister(&two) && !chain.unregister(&two));
    assert_eq!(chain.call(short), 0);

    // Under the library: the machine hands the question on.
    let rig = quiet();
    let kernel = rig.kernel();
    let sim = rig.sim.clone();
    rig.set_shortage(move |_, short| {
        let give_up = |_| {
            sim.faults().fail_at(0);
            1
        };
        let mut chain = Notifiers::new();
        chain.register(&give_up) && chain.call(short) > 0
    });
    rig.reclaim(usize::MAX);
    rig.sim.faults().fail_from(1);
    let area = kernel.vmalloc(10 * PAGE).map(number).expect("tried again");
    vfree(&kernel, area).unwrap();
}

#[test]
fn the_shrinker_counts_areas_that_stay_bound_and_gives_all_of_them_up() {
    let config = vmalloc::Config::region(REGION).policy(Policy::Keep);
    let rig = boot(Sim::builder().rates(Rates::NEVER), config);
    let kernel = rig.kernel();
    let areas: Vec<usize> = (0..5).map(|_| kernel.vmalloc(3 * PAGE).map(number).unwrap()).collect();
    assert_eq!(kernel.shrink_count(), 0);
    areas.iter().for_each(|&area| vfree(&kernel, area).unwrap());
    // What is freed a second time from the same size stays bound.
    let again: Vec<usize> = (0..5).map(|_| kernel.vmalloc(3 * PAGE).map(number).unwrap()).collect();
    again.iter().for_each(|&area| vfree(&kernel, area).unwrap());
    let bound = kernel.shrink_count();
    assert!(bound > 0);
    assert_eq!((kernel.shrink_scan(), kernel.shrink_count()), (bound, 0));
}
