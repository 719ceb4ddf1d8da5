//! What is refused, and that it changes nothing.

use crate::common::*;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};

/// An address at which nothing is.
const NOWHERE: usize = 8;

fn settings(file: &File) -> (i32, i32) {
    (ioctl(file, QUERY_ORDER, 0).unwrap(), ioctl(file, QUERY_QSET, 0).unwrap())
}

#[test]
fn every_bad_ioctl_returns_its_error_and_changes_nothing() {
    let Some(mount) = mount("ioctl", &["--memory", "64M", "--order", "2", "--qset", "9"]) else { return };
    let device = mount.open(0);
    device.write_all_at(b"stays", 0).unwrap();
    let before = (settings(&device), mount.read("scullvmem"));
    assert_eq!(before.0, (2, 9));
    for number in 0..=12u32 {
        // Commands with a pointer: those whose place among the six is odd, counted from 1.
        let pointer = number > 0 && (number - 1) % 2 == 0;
        let command = match number {
            0 => RESET,
            n => {
                [SET_ORDER, TELL_ORDER, GET_ORDER, QUERY_ORDER, EXCHANGE_ORDER, SHIFT_ORDER][(n as usize - 1) % 6]
                    & !0xff
                    | n
            }
        };
        let (sets, qset) = (number > 0 && ![3, 4].contains(&((number - 1) % 6 + 1)), number > 6);
        if pointer {
            for nowhere in [0, NOWHERE, usize::MAX - 3, usize::MAX / 2] {
                assert_eq!(ioctl(&device, command, nowhere), Err(libc::EFAULT), "{command:#x} at {nowhere:#x}");
            }
        }
        for value in [-1, i32::MIN, i32::MAX, if qset { 0 } else { 19 }, (1 << 20) + 1] {
            if sets && pointer {
                assert_eq!(through(&device, command, value), (Err(libc::EINVAL), value), "{command:#x} {value}");
            } else if sets {
                assert_eq!(ioctl(&device, command, value as usize), Err(libc::EINVAL), "{command:#x} {value}");
            }
        }
        // Another size, another direction, another magic, a number past the last.
        for stranger in [command ^ 8 << 16, command ^ 1 << 30, command ^ 1 << 31, command ^ 1 << 8, command + 13] {
            let known = [SET_ORDER, TELL_ORDER, GET_ORDER, EXCHANGE_ORDER].map(|known| known & !0xff);
            if stranger & 0xff <= 12 && known.contains(&(stranger & !0xff)) && same_kind(stranger) {
                continue;
            }
            assert_eq!(through(&device, stranger, 3).0, Err(libc::ENOTTY), "{stranger:#x}");
        }
    }
    assert_eq!((settings(&device), mount.read("scullvmem")), before);
    assert_eq!(mount.read("scullv0"), "stays");
}

/// Whether a number is a command after all.
fn same_kind(number: u32) -> bool {
    let kinds = [SET_ORDER, TELL_ORDER, GET_ORDER, QUERY_ORDER, EXCHANGE_ORDER, SHIFT_ORDER];
    match number & 0xff {
        0 => number == RESET,
        n => kinds[(n as usize - 1) % 6] & !0xff == number & !0xff,
    }
}

#[test]
fn listings_are_no_devices() {
    let Some(mount) = mount("listings", &["--memory", "64M"]) else { return };
    for name in ["scullvmem", "vmallocinfo", "meminfo"] {
        let path = mount.folder.join(name);
        let file = File::open(&path).unwrap();
        assert_eq!(ioctl(&file, QUERY_ORDER, 0), Err(libc::ENOTTY), "{name}");
        let errno = |result: std::io::Result<()>| result.unwrap_err().raw_os_error();
        assert!(fs::write(&path, "x").is_err(), "{name} is not written to");
        assert!(errno(fs::set_permissions(&path, fs::Permissions::from_mode(0o777))).is_some());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o444);
    }
}

#[test]
fn the_folder_has_what_it_has() {
    let Some(mount) = mount("folder", &["--memory", "64M", "--devices", "2"]) else { return };
    let errno = |result: std::io::Result<()>| result.unwrap_err().raw_os_error();
    let stranger = mount.folder.join("stranger");
    assert_eq!(errno(fs::create_dir(&stranger)), Some(libc::EPERM));
    assert!(errno(File::create(&stranger).map(drop)).is_some_and(|n| [libc::EPERM, libc::EACCES].contains(&n)));
    assert!(errno(fs::remove_file(mount.device(0))).is_some_and(|n| [libc::EPERM, libc::EACCES].contains(&n)));
    assert_eq!(errno(fs::metadata(mount.device(2)).map(drop)), Some(libc::ENOENT));
    assert_eq!(fs::read_dir(&mount.folder).unwrap().count(), 5);
}

#[test]
fn positions_end_where_a_file_ends() {
    let Some(mount) = mount("positions", &["--memory", "64M", "--order", "0"]) else { return };
    let (device, last) = (mount.open(0), i64::MAX as u64);
    let errno = |result: std::io::Result<usize>| result.unwrap_err().raw_os_error();
    assert_eq!(device.write_at(b"x", 1 << 62).unwrap(), 1);
    assert_eq!(errno(device.write_at(b"x", last)), Some(libc::EINVAL), "the kernel's own word");
    assert_eq!(errno(device.write_at(b"x", u64::MAX)), Some(libc::EINVAL));
    assert_eq!(device.write_at(b"x", last - 1).unwrap(), 1);
    let mut byte = [0; 1];
    assert_eq!((device.read_at(&mut byte, last - 1).unwrap(), byte[0]), (1, b'x'));
    assert_eq!(fs::metadata(mount.device(0)).unwrap().len(), last);
    assert!(device.set_len(1 << 40).is_ok() && mount.areas().is_empty());
}
