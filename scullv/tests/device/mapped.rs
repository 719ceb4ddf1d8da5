//! Mappings.

use crate::common::*;
use vmalloc_scullv::{Access, Error, NoPage};

#[test]
fn a_mapping_shows_what_is_written_and_writes_what_is_read() {
    let vm = vm(16);
    let scullv = one(&vm, 1, 2);
    let device = first(&scullv);
    write_all(device, 0, &[1; 5 * PAGE]);
    let mapping = device.map();
    let frame = mapping.fault(3 * PAGE as u64 + 17).unwrap();
    assert_eq!(load(&vm, frame.frame()), [1; PAGE]);
    write(device, 3 * PAGE as u64, b"to the mapping").unwrap();
    assert_eq!(&load(&vm, frame.frame())[..14], b"to the mapping");
    store(&vm, frame.frame(), 100, b"back");
    assert_eq!(read(device, 3 * PAGE as u64 + 100, 4), b"back");
}

#[test]
fn a_page_beyond_the_size_or_in_a_hole_is_a_bus_error() {
    let vm = vm(16);
    let scullv = one(&vm, 0, 2);
    let device = first(&scullv);
    let mapping = device.map();
    assert_eq!(mapping.fault(0).map(drop), Err(NoPage::BeyondSize), "an empty device has no page");
    write(device, 2 * PAGE as u64, b"x").unwrap();
    assert_eq!(mapping.fault(0).map(drop), Err(NoPage::Hole));
    assert_eq!(mapping.fault(2 * PAGE as u64).map(drop), Ok(()));
    assert_eq!(mapping.fault(3 * PAGE as u64 - 1).map(drop), Ok(()), "the page of the last byte, to its end");
    assert_eq!(mapping.fault(3 * PAGE as u64).map(drop), Err(NoPage::BeyondSize));
    assert_eq!(mapping.fault(u64::MAX).map(drop), Err(NoPage::BeyondSize));
}

#[test]
fn a_mapped_device_is_busy_until_the_last_mapping_is_gone() {
    let vm = vm(16);
    let scullv = one(&vm, 0, 2);
    let device = first(&scullv);
    write_all(device, 0, &[1; 2 * PAGE]);
    let mapping = device.map();
    let fork = mapping.clone();
    let before = device.status();
    assert_eq!(before.mappings, 2);
    let busy = |mappings| Err(Error::Busy { mappings });
    assert_eq!(device.trim(before.geometry), busy(2));
    assert_eq!(scullv.open(0, Access::WriteOnly).map(drop), busy(2));
    assert_eq!(device.resize(1), busy(2), "a cut takes pages away too");
    assert_eq!(scullv.open(0, Access::ReadWrite).unwrap().truncate(0), busy(2));
    assert_eq!((device.status(), device.check()), (before, Ok(())));
    drop(mapping);
    assert_eq!(device.trim(before.geometry), busy(1));
    assert_eq!(device.resize(9 * PAGE as u64), Ok(()), "growing takes nothing away");
    assert_eq!(write(device, 5 * PAGE as u64, b"x"), Ok(1));
    drop(fork);
    assert_eq!(device.trim(before.geometry), Ok(()));
    assert_eq!((device.status().mappings, device.status().pages), (0, 0));
}

#[test]
fn a_frame_that_is_held_is_not_reused_after_its_device_is_gone() {
    let vm = vm(16);
    let scullv = one(&vm, 0, 2);
    write(first(&scullv), 0, b"held").unwrap();
    let held = first(&scullv).map().fault(0).unwrap();
    drop(scullv);
    vm.purge();
    let scullv = one(&vm, 0, 500);
    let device = first(&scullv);
    let mut at = 0;
    while write(device, at, &[9; PAGE]).is_ok() {
        at += PAGE as u64;
    }
    assert!(at > 8 << 20, "all memory was used");
    assert_eq!(&load(&vm, held.frame())[..4], b"held");
}
