//! Devices: `ioremap` and its siblings, and what they say.

use crate::common::*;
use std::ptr::NonNull;
use vmalloc::AllocError;
use vmalloc::machine::format::MemType;
use vmalloc::units::{Pfn, VirtAddr};
use vmalloc_kernel::{Errno, Error, Kern, Pgprot, Request, VmFlags};
use vmalloc_sim::{Bank, Rates, Sim};

const DEVICE: u64 = (1 << 20) * PAGE as u64;

fn with_device() -> Rig {
    let device = Bank { first: Pfn(1 << 20), frames: 200, node: None };
    boot(Sim::builder().node(32 << 20).bank(device).rates(Rates::NEVER), vmalloc::Config::region(REGION))
}

fn iounmap(kernel: &Tested<'_>, address: usize) -> Result<(), Error> {
    // SAFETY: Y1: nobody uses it.
    unsafe { kernel.iounmap(at(address)) }
}

#[test]
fn ioremap_and_its_siblings_map_a_device_each_with_its_memory_type() {
    let rig = with_device();
    let kernel = rig.kernel();
    type Map = fn(&Tested<'_>, u64, usize) -> Result<NonNull<u8>, Error>;
    let maps: [Map; 5] = [
        |k, phys, size| k.ioremap(phys, size),
        |k, phys, size| k.ioremap_uc(phys, size),
        |k, phys, size| k.ioremap_wc(phys, size),
        |k, phys, size| k.ioremap_wt(phys, size),
        |k, phys, size| k.ioremap_cache(phys, size),
    ];
    let mut seen = Vec::new();
    for (n, map) in maps.into_iter().enumerate() {
        let (phys, size) = (DEVICE + (n * 4 * PAGE) as u64 + 0x123, 2 * PAGE);
        let area = map(&kernel, phys, size).map(number).unwrap();
        assert_eq!(area % PAGE, 0x123, "the offset in the page is kept");
        let view = kernel.find_vm_area(area).unwrap();
        let expected = (VmFlags::IOREMAP, phys & !0xfff, size, 0);
        assert_eq!((view.flags, view.phys_addr, view.requested_size, view.nr_pages), expected);
        // SAFETY: Y7: the area is held.
        let word = unsafe { kernel.walk(area) }.up().next().unwrap().word();
        // Present, written to and the frame aside, the entries differ by their memory types.
        seen.push(format!("{word:x}").split_at(8).1.to_owned());
        assert_eq!(vfree(&kernel, area - 0x123).map_err(|error| error.errno()), Err(Errno::EINVAL), "not vfree's");
        iounmap(&kernel, area).unwrap();
        assert_eq!(kernel.find_vm_area(area), None);
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 5, "{seen:?}");
    assert_eq!(iounmap(&kernel, 0), Ok(()), "null is nothing");
}

#[test]
fn what_is_no_device_is_refused_in_the_traditional_words() {
    let rig = with_device();
    let kernel = rig.kernel();
    let memory = frames(&rig, 1)[0];
    let before = rig.state();
    assert_eq!(kernel.ioremap(DEVICE, 0).unwrap_err().errno(), Errno::EINVAL);
    assert_eq!(kernel.ioremap(u64::MAX - 5, 100).unwrap_err().errno(), Errno::E2BIG);
    assert_eq!(kernel.host().said(), [], "nothing is said of no bytes and of what wraps");
    let phys = memory.0 * PAGE as u64;
    for _ in 0..2 {
        assert_eq!(kernel.ioremap(phys, PAGE).unwrap_err().errno(), Errno::EINVAL);
    }
    let line = format!("ioremap on RAM at {phys:#018x} - {:#018x}", phys + PAGE as u64 - 1);
    assert_eq!(kernel.host().said(), [(Kern::Warning, line)], "once");
    let beyond = 1u64 << 60;
    assert_eq!(kernel.ioremap(beyond, PAGE).unwrap_err().errno(), Errno::EINVAL);
    let line = format!("ioremap: invalid physical address {beyond:x}");
    assert_eq!(kernel.host().said(), [(Kern::Warning, line)]);
    assert!(iounmap(&kernel, START + 77 * PAGE + 5).is_err());
    let line = format!("iounmap: bad address {:016x}", START + 77 * PAGE + 5);
    assert_eq!(kernel.host().said(), [(Kern::Err, line)]);
    assert_eq!(rig.state(), before);
    give_frames(&rig, &[memory]);
}

#[test]
fn a_device_is_not_mapped_with_two_memory_types_at_a_time() {
    let rig = with_device();
    let kernel = rig.kernel();
    let area = kernel.ioremap_wc(DEVICE, 3 * PAGE).map(number).unwrap();
    let again = kernel.ioremap_wc(DEVICE + 2 * PAGE as u64, PAGE).map(number).unwrap();
    let before = rig.state();
    let refused = kernel.ioremap(DEVICE + 2 * PAGE as u64 + 8, 16).unwrap_err();
    let conflict = Error::OtherMemory { requested: MemType::UncachedMinus, got: MemType::WriteCombining };
    assert_eq!((refused, refused.errno()), (conflict, Errno::EBUSY));
    let (from, to) = (DEVICE + 2 * PAGE as u64 + 8, DEVICE + 2 * PAGE as u64 + 24);
    let line = format!("ioremap error for {from:#x}-{to:#x}, requested 0x2, got 0x1");
    assert_eq!(kernel.host().said(), [(Kern::Err, line)]);
    assert_eq!(rig.state(), before);
    let beside = kernel.ioremap(DEVICE + 3 * PAGE as u64, PAGE).map(number).unwrap();
    [area, again, beside].into_iter().for_each(|area| iounmap(&kernel, area).unwrap());
    let other = kernel.ioremap(DEVICE, PAGE).map(number).expect("nobody has it any more");
    iounmap(&kernel, other).unwrap();
    rig.purge();
    rig.sim.assert_faults(0, VirtAddr(area));
}

#[cfg(debug_assertions)]
#[test]
fn each_refusal_of_ioremap_changes_nothing() {
    let rig = with_device();
    let kernel = rig.kernel();
    let first = kernel.ioremap(DEVICE, PAGE).map(number).unwrap();
    iounmap(&kernel, first).unwrap();
    let before = rig.state();
    for n in 1.. {
        rig.sim.faults().fail_from(n);
        let made = kernel.ioremap(DEVICE, 70 * PAGE);
        rig.sim.faults().fail_at(0);
        if let Ok(area) = made {
            iounmap(&kernel, number(area)).unwrap();
            break;
        }
        assert_eq!(rig.state(), before, "refusal {n}");
    }
    assert_eq!(rig.state(), before);
}

/// Maps frames with a memory type.
fn vmap(kernel: &Tested<'_>, some: &[Pfn], memory: MemType) -> Result<usize, Error> {
    // SAFETY: Y5: tests hold their frames for longer.
    unsafe { kernel.vmap(some, VmFlags::empty(), Pgprot { memory, ..Pgprot::KERNEL }) }.map(number)
}

fn vunmap(kernel: &Tested<'_>, area: usize) {
    // SAFETY: Y1: nobody uses it.
    unsafe { kernel.vunmap(at(area)) }.unwrap();
}

const CONFLICT: fn(MemType, MemType) -> Result<usize, Error> =
    |requested, got| Err(Error::OtherMemory { requested, got });

#[test]
fn frames_that_are_mapped_with_one_memory_type_are_not_mapped_with_another() {
    use MemType::{Uncached, UncachedMinus, WriteBack, WriteCombining};
    let rig = with_device();
    let kernel = rig.kernel();
    let some = frames(&rig, 3);
    let others = [UncachedMinus, Uncached, MemType::WriteThrough, WriteCombining];
    for first in [WriteBack, WriteCombining] {
        let mapped = vmap(&kernel, &some, first).unwrap();
        // The slab keeps the page that the first list lay in.
        vmap(&kernel, &some[2..], Uncached).unwrap_err();
        let before = rig.state();
        for second in others.into_iter().chain([WriteBack]).filter(|&second| second != first) {
            assert_eq!(vmap(&kernel, &some[2..], second), CONFLICT(second, first));
            assert_eq!(rig.state(), before);
        }
        let again = vmap(&kernel, &some[1..], first).unwrap();
        [mapped, again].into_iter().for_each(|area| vunmap(&kernel, area));
    }
    // Frames that are an area's own, of the library's or by parts.
    for area in [kernel.vmalloc(2 * PAGE), kernel.v2_6().vmalloc(2 * PAGE)] {
        let area = area.map(number).unwrap();
        let own = [rig.frame_at(area + PAGE).unwrap()];
        assert_eq!(vmap(&kernel, &own, WriteCombining), CONFLICT(WriteCombining, WriteBack));
        vunmap(&kernel, vmap(&kernel, &own, WriteBack).unwrap());
        vfree(&kernel, area).unwrap();
    }
    let request = Request { prot: Pgprot { memory: Uncached, ..Pgprot::KERNEL }, ..kernel.request(PAGE) };
    let area = kernel.__vmalloc_node_range(&request).map(number).unwrap();
    let own = [rig.frame_at(area).unwrap()];
    assert_eq!(vmap(&kernel, &own, WriteBack), CONFLICT(WriteBack, Uncached));
    vfree(&kernel, area).unwrap();
    for memory in others.into_iter().chain([WriteBack]) {
        vunmap(&kernel, vmap(&kernel, &some, memory).expect("whoever had them ended that"));
    }
    give_frames(&rig, &some);
}

#[test]
fn memory_and_what_is_none_do_not_mix() {
    let rig = with_device();
    let kernel = rig.kernel();
    let (some, device) = (frames(&rig, 2), Pfn(DEVICE / PAGE as u64));
    let before = rig.state();
    let mixed = |some: &[Pfn]| vmap(&kernel, some, MemType::WriteBack).unwrap_err();
    assert_eq!(mixed(&[some[0], device, some[1]]), Error::Alloc(AllocError::Mixed(device)));
    let other = Error::Alloc(AllocError::Mixed(some[0]));
    assert_eq!((mixed(&[device, some[0]]), other.errno()), (other, Errno::EINVAL));
    assert_eq!(rig.state(), before);
    give_frames(&rig, &some);
}

#[test]
fn a_device_has_one_memory_type_however_it_is_mapped() {
    let rig = with_device();
    let kernel = rig.kernel();
    let device: Vec<Pfn> = (0..2).map(|n| Pfn(DEVICE / PAGE as u64 + n)).collect();
    let pfns = |memory| {
        // SAFETY: Y6: the device is the test's.
        unsafe { kernel.vmap_pfn(&device, Pgprot { memory, ..Pgprot::KERNEL }) }.map(number)
    };
    let busy = |made: Result<usize, Error>| made.unwrap_err().errno() == Errno::EBUSY;
    // Past the facade.
    let past = rig.ioremap(DEVICE + PAGE as u64, PAGE, MemType::WriteCombining).unwrap();
    assert!(busy(kernel.ioremap(DEVICE, 2 * PAGE).map(number)) && busy(pfns(MemType::WriteBack)));
    // SAFETY: V1: nobody uses it.
    unsafe { rig.iounmap(past) }.unwrap();
    let mapped = pfns(MemType::UncachedMinus).unwrap();
    assert!(busy(kernel.ioremap_wc(DEVICE + PAGE as u64, 8).map(number)));
    let device_area = kernel.ioremap(DEVICE, 8).map(number).expect("the same type");
    iounmap(&kernel, device_area).unwrap();
    vunmap(&kernel, mapped);
    let by_parts = kernel.get_vm_area(2 * PAGE, VmFlags::IOREMAP).unwrap();
    let cached = Pgprot { memory: MemType::WriteCombining, ..Pgprot::KERNEL };
    // SAFETY: Y6: the device is the test's.
    unsafe { kernel.ioremap_page_range(by_parts.addr, by_parts.addr + 2 * PAGE, DEVICE, cached) }.unwrap();
    assert!(busy(kernel.ioremap(DEVICE, PAGE).map(number)));
    vfree(&kernel, by_parts.addr).unwrap();
    iounmap(&kernel, kernel.ioremap(DEVICE, PAGE).map(number).unwrap()).unwrap();
    kernel.host().said();
}

#[test]
fn a_look_for_another_memory_type_leaves_nothing_behind() {
    let rig = with_device();
    let kernel = rig.kernel();
    let some = frames(&rig, 300);
    let uncached = Pgprot { memory: MemType::Uncached, ..Pgprot::KERNEL };
    let round = || {
        // SAFETY: Y5: they are held for longer.
        let mapped = unsafe { kernel.vmap(&some, VmFlags::MAP, uncached) }.unwrap();
        // SAFETY: Y1: nobody uses it.
        unsafe { kernel.vunmap(mapped.as_ptr()) }.unwrap();
    };
    round();
    let before = rig.state();
    (0..200).for_each(|_| round());
    assert_eq!(rig.state(), before, "the list of frames that are looked for goes back");
    give_frames(&rig, &some);
}
