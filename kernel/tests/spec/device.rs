//! Devices: `ioremap` and its siblings, and what they say.

use crate::common::*;
use std::ptr::NonNull;
use vmalloc::machine::format::MemType;
use vmalloc::units::{Pfn, VirtAddr};
use vmalloc_kernel::{Errno, Error, Kern, VmFlags};
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
