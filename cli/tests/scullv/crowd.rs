//! Many at once: 8 writers and 8 readers, on all devices, contents checked.
//!
//! A writer fills a record with bytes that follow from its first ones. A record
//! lies in one page and reaches the server in one request, so that a reader who
//! asks the server sees an old record, a new one, or zeros, and never half of two.
//! Readers open with O_DIRECT for that: a read from Linux's page cache is not
//! locked against a write into the same page, and tears on any file system.

use crate::common::*;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{scope, sleep};
use std::time::Duration;

const RECORD: usize = 2048;
// Few, so that a reader and a writer meet at one often.
const RECORDS: u64 = 64;
const CROWD: u64 = 8;
const DEVICES: u64 = 4;

fn record(writer: u64, turn: u64) -> Vec<u8> {
    let head = [writer.to_le_bytes(), turn.to_le_bytes()].concat();
    let rest = Rng(writer << 40 ^ turn).bytes(RECORD - head.len());
    [head, rest].concat()
}

fn open_direct(mount: &Mount, index: u64) -> File {
    let device = mount.device(index as usize);
    File::options().read(true).custom_flags(libc::O_DIRECT).open(device).unwrap()
}

fn is_whole(bytes: &[u8]) -> bool {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    bytes.iter().all(|&byte| byte == 0) || bytes == record(word(0), word(8))
}

#[test]
fn eight_writers_and_eight_readers_never_meet_half_a_record() {
    let seconds = set_or("SCULLV_SECONDS", 3);
    let Some(mount) = mount("crowd", &["--memory", "128M", "--order", "2"]) else { return };
    let (done, written, read) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    scope(|scope| {
        for one in 0..CROWD {
            let (mount, done, written, read) = (&mount, &done, &written, &read);
            scope.spawn(move || {
                let (device, mut rng) = (mount.open((one % DEVICES) as usize), Rng(one));
                for turn in 0.. {
                    let at = rng.below(RECORDS) * RECORD as u64;
                    assert_eq!(device.write_at(&record(one + 1, turn), at).unwrap(), RECORD);
                    written.fetch_add(1, Relaxed);
                    if done.load(Relaxed) {
                        break;
                    }
                }
            });
            scope.spawn(move || {
                let (mut device, mut rng) = (open_direct(mount, one % DEVICES), Rng(100 + one));
                let mut bytes = vec![0; RECORD];
                while !done.load(Relaxed) {
                    let at = rng.below(RECORDS) * RECORD as u64;
                    let there = device.read_at(&mut bytes, at).unwrap();
                    assert!(there < RECORD || is_whole(&bytes), "at {at}");
                    read.fetch_add(1, Relaxed);
                    if rng.below(100) == 0 {
                        device = open_direct(mount, one % DEVICES);
                    }
                }
            });
        }
        sleep(Duration::from_secs(seconds));
        done.store(true, Relaxed);
    });
    println!("{seconds} s: {} records written, {} read", written.load(Relaxed), read.load(Relaxed));
    for index in 0..DEVICES as usize {
        let device = mount.open(index);
        for at in 0..RECORDS {
            let mut bytes = vec![0; RECORD];
            let there = device.read_at(&mut bytes, at * RECORD as u64).unwrap();
            assert!(there < RECORD || is_whole(&bytes), "scullv{index}, record {at}");
        }
        mount.trim(index);
    }
    assert_eq!(mount.areas(), [""; 0], "nothing leaked");
}
