//! The tools that everybody has.

use crate::common::*;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};

/// A file of random bytes, beside the mount.
fn sample(name: &str, bytes: usize) -> (String, Vec<u8>) {
    let path = format!("{}/scullv-{name}.sample", env!("CARGO_TARGET_TMPDIR"));
    let bytes = Rng(bytes as u64).bytes(bytes);
    fs::write(&path, &bytes).unwrap();
    (path, bytes)
}

#[test]
fn files_are_copied_in_compared_and_summed() {
    let Some(mount) = mount("copied", &["--memory", "64M"]) else { return };
    let (from, _) = sample("copied", 5_000_001);
    let at = mount.folder.display();
    sh(&format!("cp {from} {at}/scullv0; cmp {from} {at}/scullv0; cat {at}/scullv0 | cmp - {from}"));
    sh(&format!("dd if={from} of={at}/scullv1 bs=777 status=none; cmp {from} {at}/scullv1"));
    sh(&format!("dd if={at}/scullv0 of={at}/scullv2 bs=1M status=none; cmp {at}/scullv1 {at}/scullv2"));
    let sums = sh(&format!("sha256sum < {from}; sha256sum < {at}/scullv0; sha256sum < {at}/scullv2"));
    let sums: Vec<&str> = sums.lines().collect();
    assert!(sums.len() == 3 && sums[0] == sums[1] && sums[1] == sums[2], "{sums:?}");
    assert_eq!(mount.areas().len(), 3 * 5_000_001usize.div_ceil(65536));
}

#[test]
fn reads_and_writes_are_whole_however_many_quanta_they_cross() {
    let Some(mount) = mount("whole", &["--memory", "64M", "--order", "0"]) else { return };
    let bytes = Rng(1).bytes(1 << 20);
    assert_eq!(mount.open(0).write_at(&bytes, 100).unwrap(), bytes.len(), "256 quanta");
    let mut back = vec![0; 2 << 20];
    assert_eq!(mount.open(0).read_at(&mut back, 100).unwrap(), bytes.len());
    assert!(back[..bytes.len()] == bytes);
}

#[test]
fn holes_are_zeros_and_sparse_copies_come_out_whole() {
    let Some(mount) = mount("sparse", &["--memory", "64M", "--order", "0"]) else { return };
    let device = mount.open(0);
    device.write_all_at(b"near", 5000).unwrap();
    device.write_all_at(b"far", 3 << 40).unwrap();
    let meta = fs::metadata(mount.device(0)).unwrap();
    assert_eq!(meta.len(), (3 << 40) + 3);
    assert!(meta.blocks() * 512 < 64 << 10, "{} blocks", meta.blocks());
    let at = mount.folder.display();
    // cp looks for data, and does not read three TiB of zeros.
    let copy = format!("{}/scullv-sparse.copy", env!("CARGO_TARGET_TMPDIR"));
    sh(&format!("cp --sparse=always {at}/scullv0 {copy}"));
    let copied = File::open(&copy).unwrap();
    let (mut near, mut far) = ([1; 9], [1; 9]);
    copied.read_exact_at(&mut near, 4998).unwrap();
    assert_eq!(copied.read_at(&mut far, (3 << 40) - 2).unwrap(), 5);
    assert_eq!((&near, &far[..5]), (b"\0\0near\0\0\0", &b"\0\0far"[..]));
    fs::remove_file(copy).unwrap();
}

#[test]
fn truncate_cuts_and_grows_but_who_opens_for_writing_only_empties_first() {
    let Some(mount) = mount("truncate", &["--memory", "64M", "--order", "0"]) else { return };
    let at = mount.folder.display();
    sh(&format!("printf 0123456789 > {at}/scullv0"));
    let device = mount.open(0);
    device.set_len(4).unwrap();
    assert_eq!(mount.read("scullv0"), "0123");
    device.set_len(8).unwrap();
    assert_eq!(mount.read("scullv0"), "0123\0\0\0\0", "what was cut is gone");
    sh(&format!("truncate -s 6 {at}/scullv0"));
    assert_eq!(mount.read("scullv0"), "\0\0\0\0\0\0", "truncate opens for writing only");
    sh(&format!("printf abc > {at}/scullv0; printf de >> {at}/scullv0"));
    assert_eq!(mount.read("scullv0"), "de", "and so does >>");
    sh(&format!("printf abc 1<> {at}/scullv0"));
    assert_eq!(mount.read("scullv0"), "abc");
    sh(&format!("printf xy | dd of={at}/scullv0 conv=notrunc status=none"));
    assert_eq!(mount.read("scullv0"), "xy", "dd as well");
    sh(&format!("printf z | dd of={at}/scullv0 bs=1 seek=8192 conv=notrunc status=none"));
    assert_eq!((mount.read("scullv0").len(), mount.areas().len()), (8193, 2), "unless it seeks: then it reads too");
}

/// The kernel remembers sizes. A device that was trimmed under it was as large
/// as before to who had it open, where two short answers overtook each other.
#[test]
fn a_trim_is_seen_by_who_has_the_device_open() {
    let Some(mount) = mount("overtaken", &["--memory", "64M", "--order", "0"]) else { return };
    let (device, mut back) = (mount.open(0), vec![0; 1 << 20]);
    for round in 0..200u64 {
        device.write_all_at(&vec![1; 3 << 20], 0).unwrap();
        mount.trim(0);
        device.write_all_at(b"new", round * 31).unwrap();
        for from in [0, 100_000, 2 << 20] {
            let there = (round * 31 + 3).saturating_sub(from);
            assert_eq!(device.read_at(&mut back, from).unwrap() as u64, there, "round {round}, from {from}");
        }
    }
}

#[test]
fn a_mode_can_be_changed_and_a_time_set() {
    let Some(mount) = mount("mode", &["--memory", "64M"]) else { return };
    let (from, bytes) = sample("mode", 100_000);
    let (at, mode) = (mount.folder.display(), |path: &std::path::Path| fs::metadata(path).unwrap().mode() & 0o777);
    sh(&format!("chmod 640 {from}; cp -p {from} {at}/scullv0"));
    assert_eq!((mode(&mount.device(0)), mode(&mount.device(1))), (0o640, 0o666));
    let times = [fs::metadata(&from).unwrap().mtime(), fs::metadata(mount.device(0)).unwrap().mtime()];
    assert_eq!(times[0], times[1]);
    assert!(fs::read(mount.device(0)).unwrap() == bytes);
    assert!(std::os::unix::fs::chown(mount.device(0), Some(12345), None).is_err(), "it is the server's");
}

#[test]
fn a_trim_leaves_no_area_behind() {
    let Some(mount) = mount("trimmed", &["--memory", "64M"]) else { return };
    let at = mount.folder.display();
    for index in 0..4 {
        sh(&format!("dd if=/dev/zero of={at}/scullv{index} bs=64K count=50 status=none"));
    }
    assert_eq!(mount.areas().len(), 200);
    (0..4).for_each(|index| mount.trim(index));
    assert_eq!(mount.areas(), [""; 0]);
    let used = |text: &str| text.lines().find_map(|line| line.strip_prefix("VmallocUsed:")).unwrap().trim().to_owned();
    assert_eq!(used(&mount.read("meminfo")), "0 kB");
}

#[test]
fn the_listing_is_read_like_a_file_of_proc() {
    let Some(mount) = mount("listing", &["--memory", "64M", "--devices", "2", "--qset", "7", "--order", "1"]) else {
        return;
    };
    let at = mount.folder.display();
    sh(&format!("printf x > {at}/scullv1"));
    let text = sh(&format!("cat {at}/scullvmem; wc -c < {at}/scullvmem; grep -c Device {at}/scullvmem"));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], ["", "Device 0: qset 7, order 1, sz 0"]);
    assert_eq!(lines[3..5], ["", "Device 1: qset 7, order 1, sz 1"]);
    let (slot, address) = lines[6].split_once(':').unwrap();
    assert_eq!((slot, address.len()), ("       0", 16));
    assert!(mount.areas()[0].contains(address), "the quantum is an area");
    assert_eq!(lines[8], "2");
    assert!(mount.read("meminfo").starts_with("MemTotal:          65536 kB\n"), "{}", mount.read("meminfo"));
}

#[test]
fn a_spent_budget_is_no_space_and_spent_memory_no_memory() {
    let args = ["--memory", "16M", "--budget", "4M", "--order", "0"];
    let Some(mount) = mount("spent", &args) else { return };
    let fill = |index| {
        let device = mount.open(index);
        let mut written = 0;
        loop {
            match device.write_at(&[index as u8; 100_000], written) {
                Ok(bytes) => written += bytes as u64,
                Err(why) => return (written, why.raw_os_error().unwrap()),
            }
        }
    };
    let (written, why) = fill(1);
    assert_eq!(why, libc::ENOSPC);
    assert!((3 << 20..4 << 20).contains(&written), "{written}");
    let back = fs::read(mount.device(1)).unwrap();
    assert!(back.len() as u64 == written && back.iter().all(|&byte| byte == 1), "all of it is there");
    let ends: Vec<i32> = [0, 2, 3].map(|index| fill(index).1).to_vec();
    assert_eq!(ends, [libc::ENOSPC, libc::ENOSPC, libc::ENOMEM]);
    assert!(fs::read(mount.device(1)).unwrap() == back);
}
