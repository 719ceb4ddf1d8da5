//! Every refusal, and that it changes nothing.

use crate::common::*;
use vmalloc_scullv::{Access, Error, Input, MAX_SIZE, Output, Parameters, User};

fn with_budget(vm: &Vm, bytes: usize) -> Scullv<'_> {
    Scullv::new(vm, Parameters { devices: 2, order: 0, qset: 4, budget: bytes }).unwrap()
}

#[test]
fn a_spent_budget_is_enospc_for_its_device_alone_and_all_that_was_written_stays() {
    let vm = vm(16);
    let scullv = with_budget(&vm, 20 * PAGE);
    let (device, other) = (&scullv.devices()[0], &scullv.devices()[1]);
    let bytes = Rng::new(3).bytes(20 * PAGE);
    let fits = (0..20).take_while(|n| write(device, (n * PAGE) as u64, &bytes[n * PAGE..][..PAGE]).is_ok()).count();
    // 15 quanta, 4 sets and a node.
    assert_eq!((fits, device.status().pages), (15, 20));
    let before = device.status();
    for position in [15 * PAGE as u64, FAR] {
        let refused = write(device, position, b"x").unwrap_err();
        assert!(matches!(refused, Error::NoSpace { left: 0, .. }) && refused.errno() == 28, "{refused}");
    }
    assert_eq!((device.status(), device.check()), (before, Ok(())));
    assert_eq!(write(device, 14 * PAGE as u64, b"what is there can be written"), Ok(28));
    for n in 0..14 {
        assert!(read(device, (n * PAGE) as u64, PAGE) == bytes[n * PAGE..][..PAGE], "quantum {n}");
    }
    assert_eq!(write(other, 0, b"x"), Ok(1));
    device.resize(PAGE as u64).unwrap();
    assert_eq!(write(device, PAGE as u64, b"x"), Ok(1), "what was cut can be spent again");
}

#[test]
fn spent_memory_is_enomem_and_all_that_was_written_stays() {
    let vm = vm(8);
    let scullv = Scullv::new(&vm, Parameters { devices: 2, order: 3, qset: 10, ..Parameters::default() }).unwrap();
    let device = first(&scullv);
    let bytes = Rng::new(4).bytes(8 << 20);
    let mut written = 0;
    let refused = loop {
        match write(device, written as u64, &bytes[written..]) {
            Ok(done) => written += done,
            Err(error) => break error,
        }
    };
    assert_eq!(refused.errno(), 12, "{refused}");
    assert!(written > 6 << 20, "{written} bytes of 8 MiB");
    assert_eq!((device.status().size, device.check(), vm.check()), (written as u64, Ok(()), Ok(())));
    assert_eq!(write(&scullv.devices()[1], 0, b"x").map_err(|e| e.errno()), Err(12), "it is the host's");
    for at in (0..written).step_by(8 * PAGE) {
        assert!(read(device, at as u64, 8 * PAGE) == bytes[at..][..8 * PAGE], "at {at}");
    }
    scullv.open(0, Access::WriteOnly).unwrap();
    assert_eq!(write(&scullv.devices()[1], 0, b"x"), Ok(1), "a trim gives it back");
}

/// User memory of which the first `good` bytes are there.
struct Torn<'a> {
    bytes: &'a [u8],
    good: usize,
}

impl User for Torn<'_> {
    fn copy_in(&mut self, from: usize, to: &mut [u8]) -> Result<(), vmalloc_scullv::Fault> {
        let there = self.good.saturating_sub(from).min(to.len());
        to[..there].copy_from_slice(&self.bytes[from..][..there]);
        if there == to.len() { Ok(()) } else { Err(vmalloc_scullv::Fault) }
    }

    fn copy_out(&mut self, _: usize, _: &[u8]) -> Result<(), vmalloc_scullv::Fault> {
        Err(vmalloc_scullv::Fault)
    }
}

#[test]
fn a_fault_in_user_memory_leaves_no_quantum_and_no_size_behind() {
    let vm = vm(16);
    let scullv = one(&vm, 0, 4);
    let device = first(&scullv);
    write(device, 0, b"there").unwrap();
    let before = (device.status(), vm.areas().count());
    for position in [PAGE as u64, 40 * PAGE as u64, FAR] {
        let torn = device.write(position, &mut Torn { bytes: &[1; 100], good: 50 }, 0, 100);
        assert_eq!(torn, Err(Error::Fault));
        for (at, count) in [(101, 1), (usize::MAX, 2), (0, 101)] {
            assert_eq!(device.write(position, &mut Input(&[0; 100]), at, count), Err(Error::Fault));
        }
    }
    assert_eq!((device.status(), vm.areas().count(), device.check()), (before.0, before.1, Ok(())));
    assert_eq!(device.next_data(PAGE as u64), None, "holes are still holes");
    let torn = device.write(3, &mut Torn { bytes: &[b'!'; 100], good: 50 }, 0, 100);
    assert_eq!((torn, device.status().size), (Err(Error::Fault), 5), "the size is as it was");
}

#[test]
fn a_fault_while_reading_is_efault_and_a_file_stays_where_it_is() {
    let vm = vm(16);
    let scullv = one(&vm, 0, 4);
    write(first(&scullv), 0, b"0123456789").unwrap();
    let mut file = scullv.open(0, Access::ReadWrite).unwrap();
    let mut small = [0; 4];
    for (at, count) in [(0, 5), (4, 1), (usize::MAX, 1)] {
        assert_eq!(file.read(&mut Output(&mut small), at, count), Err(Error::Fault));
    }
    assert_eq!(file.write(&mut Input(b""), 0, 1), Err(Error::Fault));
    assert_eq!(file.read(&mut Output(&mut small), 0, 4), Ok(4));
    assert_eq!(&small, b"0123");
}

#[test]
fn nothing_is_written_at_or_past_the_largest_size() {
    let vm = vm(16);
    let scullv = one(&vm, 0, 4);
    let device = first(&scullv);
    for position in [MAX_SIZE, MAX_SIZE + 1, u64::MAX] {
        assert_eq!(write(device, position, b"x"), Err(Error::TooLarge));
    }
    assert_eq!(device.status().size, 0);
    assert_eq!(write(device, MAX_SIZE - 3, b"abcdef"), Ok(3), "only what fits");
    assert_eq!(read(device, MAX_SIZE - 3, 10), b"abc");
}

#[test]
fn parameters_out_of_range_load_no_driver() {
    let vm = vm(16);
    let with = |devices, order, qset| {
        Scullv::new(&vm, Parameters { devices, order, qset, budget: usize::MAX }).map(drop).map_err(|e| e.errno())
    };
    let wrong = [(0, 4, 500), (4096, 4, 500), (4, 19, 500), (4, 4, 0), (4, 4, 1 << 21), (usize::MAX, 0, 1)];
    assert!(wrong.iter().all(|&(devices, order, qset)| with(devices, order, qset) == Err(22)));
    assert_eq!(with(Scullv::MOST, 18, 1 << 20), Ok(()));
    const { assert!(Scullv::MOST >= 16) };
    let scullv = one(&vm, 0, 1);
    assert_eq!(scullv.open(1, Access::ReadOnly).map(drop), Err(Error::NoDevice(1)));
}

#[cfg(debug_assertions)]
#[test]
fn each_step_of_a_write_may_be_refused_and_nothing_has_changed_then() {
    let vm = vm(16);
    let scullv = one(&vm, 1, 1000);
    let device = first(&scullv);
    write(device, 0, b"x").unwrap();
    let mut refused = 0;
    // The machine's own steps: mappings that Linux refuses.
    for position in [8192, FAR, FAR + (1 << 40)] {
        for n in 1.. {
            let before = (device.status(), vm.areas().count());
            vm.machine().faults().fail_at(n);
            let written = write(device, position, b"y");
            let armed = vm.machine().faults().refused();
            vm.machine().faults().fail_at(0);
            assert_eq!((device.check(), vm.check()), (Ok(()), Ok(())));
            match written {
                Ok(_) => break,
                Err(error) => assert_eq!((error.errno(), (device.status(), vm.areas().count())), (12, before)),
            }
            refused += 1;
            assert!(armed > 0);
        }
    }
    assert!(refused >= 3, "{refused}");
}
