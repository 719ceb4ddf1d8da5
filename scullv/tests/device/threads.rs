//! Many threads, on one device and on many.

use crate::common::*;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use vmalloc_scullv::{Access, Parameters};

const WRITERS: u64 = 4;
const SLOTS: u64 = 64;

/// A record that says of itself whether it is whole: who wrote it, and 500
/// bytes that follow from that.
fn record(writer: u64, turn: u64) -> Vec<u8> {
    let mut bytes = [writer.to_le_bytes(), turn.to_le_bytes()].concat();
    bytes.extend(Rng::new(writer << 32 | turn).bytes(496));
    bytes
}

fn is_whole(bytes: &[u8]) -> bool {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    bytes.iter().all(|&byte| byte == 0) || bytes == record(word(0), word(8))
}

#[test]
fn readers_of_one_device_never_see_half_of_a_write() {
    let vm = vm(32);
    let scullv = one(&vm, 0, 3);
    let device = first(&scullv);
    let (done, seen) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                scope.spawn(move || {
                    let mut rng = Rng::new(writer);
                    for turn in 0..3000 {
                        // 8 records fill a quantum.
                        write(device, rng.below(SLOTS) * 512, &record(writer + 1, turn)).unwrap();
                    }
                })
            })
            .collect();
        for reader in 0..4 {
            let (done, seen) = (&done, &seen);
            scope.spawn(move || {
                let mut rng = Rng::new(100 + reader);
                while !done.load(Relaxed) {
                    let bytes = read(device, rng.below(SLOTS) * 512, 512);
                    assert!(bytes.len() < 512 || is_whole(&bytes));
                    seen.fetch_add(u64::from(bytes.len() == 512), Relaxed);
                }
            });
        }
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        done.store(true, Relaxed);
    });
    assert!(seen.load(Relaxed) > 0, "readers read");
    assert_eq!((device.check(), vm.check()), (Ok(()), Ok(())));
    assert!((0..SLOTS).all(|slot| is_whole(&read(device, slot * 512, 512))));
}

#[test]
fn readers_read_at_the_same_time() {
    let vm = vm(16);
    let scullv = one(&vm, 0, 3);
    write(first(&scullv), 0, b"x").unwrap();
    /// User memory that is there only once another reader is inside too.
    struct Meeting<'a>(&'a std::sync::Barrier);
    impl vmalloc_scullv::User for Meeting<'_> {
        fn copy_in(&mut self, _: usize, _: &mut [u8]) -> Result<(), vmalloc_scullv::Fault> {
            Err(vmalloc_scullv::Fault)
        }
        fn copy_out(&mut self, _: usize, _: &[u8]) -> Result<(), vmalloc_scullv::Fault> {
            self.0.wait();
            Ok(())
        }
    }
    let barrier = std::sync::Barrier::new(3);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| first(&scullv).read(0, &mut Meeting(&barrier), 0, 1).unwrap());
        }
    });
}

#[test]
fn a_writer_of_one_device_waits_for_nobody_on_another() {
    let vm = vm(16);
    let scullv = Scullv::new(&vm, Parameters { devices: 2, order: 0, qset: 3, ..Parameters::default() }).unwrap();
    /// User memory behind which a whole write to the other device happens.
    struct Nested<'a, 'v>(&'a Device<'v>);
    impl vmalloc_scullv::User for Nested<'_, '_> {
        fn copy_in(&mut self, _: usize, to: &mut [u8]) -> Result<(), vmalloc_scullv::Fault> {
            write(self.0, 0, b"inside").unwrap();
            self.0.trim(self.0.status().geometry).unwrap();
            to.fill(b'o');
            Ok(())
        }
        fn copy_out(&mut self, _: usize, _: &[u8]) -> Result<(), vmalloc_scullv::Fault> {
            Err(vmalloc_scullv::Fault)
        }
    }
    let (one, other) = (&scullv.devices()[0], &scullv.devices()[1]);
    assert_eq!(one.write(0, &mut Nested(other), 0, 7), Ok(7));
    assert_eq!(read(one, 0, 10), b"ooooooo");
}

#[test]
fn many_threads_on_many_devices_write_read_map_cut_and_trim() {
    let vm = vm(64);
    let with = Parameters { devices: 3, order: 0, qset: 5, budget: 200 * PAGE };
    let scullv = Scullv::new(&vm, with).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let scullv = &scullv;
            scope.spawn(move || {
                let mut rng = Rng::new(thread);
                for _ in 0..3000 {
                    let index = rng.below(3) as usize;
                    let device = &scullv.devices()[index];
                    let at = [0, FAR][rng.below(2) as usize] + rng.below(64) * 512;
                    match rng.below(20) {
                        0..=8 => {
                            let written = write(device, at, &record(thread + 1, at)).map_err(|e| e.errno());
                            assert!(matches!(written, Ok(512) | Err(28)), "{written:?}");
                        }
                        9..=15 => {
                            let bytes = read(device, at, 512);
                            assert!(bytes.len() < 512 || is_whole(&bytes));
                        }
                        16 => drop(device.map().fault(at)),
                        17 => {
                            let cut = device.resize(at).map_err(|e| e.errno());
                            assert!(matches!(cut, Ok(()) | Err(16)), "{cut:?}");
                        }
                        18 => drop(scullv.open(index, Access::WriteOnly)),
                        _ => assert_eq!(device.check(), Ok(())),
                    }
                }
            });
        }
    });
    for device in scullv.devices() {
        assert_eq!((device.check(), device.status().mappings), (Ok(()), 0));
        device.trim(device.status().geometry).unwrap();
    }
    assert_eq!((vm.areas().count(), vm.check()), (0, Ok(())));
}
