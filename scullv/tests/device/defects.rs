//! What the original did wrong, one by one.

use crate::common::*;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use vmalloc_scullv::{Access, Command, Geometry, How, Input, MAX_ORDER, MAX_QSET, MAX_SIZE, Parameters, What};

/// Items after the first kept order 0 and qset 0, while offsets were computed
/// with the first one's.
#[test]
fn every_item_has_the_geometry_of_its_device() {
    let vm = vm(16);
    let scullv = one(&vm, 1, 2);
    let bytes = Rng::new(1).bytes(5 * 16384 + 100);
    write_all(first(&scullv), 0, &bytes);
    assert!(vm.areas().all(|area| area.pages == 2), "quanta of 2 pages, in all items");
    assert_eq!(vm.areas().count(), 11);
    let mut listing = String::new();
    scullv.list(&mut listing).unwrap();
    assert_eq!(listing.matches("  item at ").count(), 6);
    for (at, expected) in bytes.chunks(8192).enumerate() {
        assert_eq!(read(first(&scullv), at as u64 * 8192, 8192), expected);
    }
}

/// The fault handler took the page's number for the quantum's, which is right
/// for order 0 alone.
#[test]
fn a_fault_finds_its_page_in_quanta_of_any_order() {
    let vm = vm(32);
    for order in 0..=4 {
        let scullv = one(&vm, order, 3);
        let bytes = Rng::new(order.into()).bytes((9 * PAGE) << order);
        write_all(first(&scullv), 0, &bytes);
        let mapping = first(&scullv).map();
        for (page, expected) in bytes.chunks(PAGE).enumerate() {
            let frame = mapping.fault((page * PAGE) as u64).unwrap();
            assert!(load(&vm, frame.frame()) == expected, "order {order}, page {page}");
        }
    }
}

/// vmas was counted without a lock.
#[test]
fn no_device_is_trimmed_under_a_mapping_whoever_maps_and_trims() {
    let vm = vm(32);
    let scullv = one(&vm, 0, 4);
    let device = first(&scullv);
    let geometry = device.status().geometry;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    let mapping = device.map();
                    let clone = mapping.clone();
                    drop(mapping);
                    // What is there once stays until we let go.
                    if let Ok(frame) = clone.fault(0) {
                        std::thread::yield_now();
                        assert_eq!(clone.fault(0).unwrap().frame(), frame.frame());
                    }
                    drop(clone);
                    std::thread::yield_now();
                }
            });
        }
        let (mut trimmed, mut busy) = (0, 0);
        while trimmed < 50 || busy < 50 {
            write(device, 0, b"x").unwrap();
            match device.trim(geometry) {
                Ok(()) => trimmed += 1,
                Err(_) => busy += 1,
            }
        }
        done.store(true, Relaxed);
    });
    assert_eq!(device.status().mappings, 0, "every mapping was counted, and given up");
    device.trim(geometry).unwrap();
}

/// The size of an item was an int: order and qset could overflow it.
#[test]
fn the_largest_items_do_not_overflow() {
    let vm = vm(64);
    let largest = Geometry::new(MAX_ORDER, MAX_QSET).unwrap();
    assert_eq!(largest.item(), 1 << 50);
    let scullv = one(&vm, 0, MAX_QSET);
    let device = first(&scullv);
    for position in [0, u64::from(u32::MAX) + 1, FAR, MAX_SIZE - 1] {
        assert_eq!(write(device, position, b"ab"), Ok(if position == MAX_SIZE - 1 { 1 } else { 2 }));
        assert_eq!(read(device, position, 1), b"a");
        assert_eq!(device.check(), Ok(()));
    }
    assert_eq!(device.status().size, MAX_SIZE);
}

/// The walk to an item did not look whether its allocations had succeeded.
#[cfg(debug_assertions)]
#[test]
fn each_allocation_on_the_way_to_an_item_may_fail() {
    let vm = vm(16);
    let scullv = one(&vm, 0, 1);
    let device = first(&scullv);
    write(device, 0, b"near").unwrap();
    let before = device.status();
    let faults = &vmalloc::machine::Machine::frames(vm.machine()).faults;
    let mut refused = 0;
    for n in 1.. {
        // Whatever magazines hold must not serve.
        vm.purge();
        vm.reclaim(usize::MAX);
        faults.fail_from(n);
        let written = write(device, FAR, b"far");
        faults.fail_at(0);
        assert_eq!(device.check(), Ok(()));
        match written {
            Ok(_) => break,
            Err(error) => assert_eq!((error.errno(), device.status()), (12, before), "{error}"),
        }
        refused += 1;
    }
    assert!(refused >= 1, "nothing was ever refused");
    assert_eq!((read(device, 0, 4), read(device, FAR, 9)), (b"near".to_vec(), b"far".to_vec()));
}

/// A read past the end made the items on the way to it.
#[test]
fn a_read_allocates_nothing_wherever_it_is() {
    let vm = vm(16);
    let scullv = one(&vm, 4, 500);
    let device = first(&scullv);
    write(device, 0, b"x").unwrap();
    device.resize(FAR).unwrap();
    let before = (device.status(), vm.stats().areas, vm.stats().counts.allocs);
    for position in [1 << 16, 1 << 40, FAR - 1, FAR, MAX_SIZE, u64::MAX] {
        assert_eq!(read(device, position, 100), b"");
        assert!(device.map().fault(position).is_err());
        device.next_data(position);
        device.next_hole(position);
    }
    assert_eq!((device.status(), vm.stats().areas, vm.stats().counts.allocs), before);
}

/// ioctl took negative and huge values, which the next trim took over.
#[test]
fn no_value_that_ioctl_takes_breaks_the_next_trim() {
    let vm = vm(16);
    let scullv = Scullv::new(&vm, Parameters { devices: 1, order: 0, qset: 2, ..Parameters::default() }).unwrap();
    let values = [i32::MIN, -1, 0, 1, 18, 19, 31, 32, 500, 1 << 20, (1 << 20) + 1, i32::MAX];
    let mut taken = 0;
    for what in [What::Order, What::Qset] {
        for value in values {
            let file = scullv.open(0, Access::ReadWrite).unwrap();
            let set = file.ioctl(Command::Of(what, How::Set).number(), 0, &mut Input(&value.to_ne_bytes()));
            taken += usize::from(set.is_ok());
            scullv.open(0, Access::WriteOnly).unwrap();
            match write(first(&scullv), 1 << 40, b"x") {
                Ok(done) => assert_eq!(done, 1),
                Err(error) => assert_eq!(error.errno(), 12, "16 MiB are too few for {what:?} {value}: {error}"),
            }
            assert_eq!(first(&scullv).check(), Ok(()));
        }
    }
    assert_eq!(taken, 3 + 7, "orders 0, 1, 18; qsets from 1 to 2^20");
}
