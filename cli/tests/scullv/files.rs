//! What a file of the mount does that a device alone has not: its times, its room, what is lost, what
//! options change.

use crate::common::*;
use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;
use std::ptr::null_mut;
use std::time::{Duration, SystemTime};

const PAGE: usize = 4096;

fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

/// Runs the command, which must refuse to mount.
fn refused(name: &str, args: &[&str]) -> String {
    let folder = folder(name);
    let output = vmalloc().arg("scullv").arg(&folder).args(args).output().unwrap();
    let said = text(output.stderr);
    assert_eq!((output.status.code(), text(output.stdout).as_str()), (Some(2), ""), "{said}");
    assert_eq!(fs::read_dir(folder).unwrap().count(), 0, "nothing is mounted");
    said
}

#[test]
fn what_cannot_be_served_is_refused_before_anything_is_mounted() {
    if mount("possible", &["--memory", "64M"]).is_none() {
        return;
    }
    let said = refused("no-log", &["--log", "/no/such/folder/log"]);
    assert_eq!(said, "vmalloc: /no/such/folder/log: cannot be written: No such file or directory (os error 2)\n");
    let said = refused("large-quanta", &["--order", "18", "--memory", "1G"]);
    assert!(said.contains("--order 18: a quantum has 1073741824 bytes, which do not fit into 1073741824"), "{said}");
    let said = refused("small-budget", &["--order", "4", "--budget", "64K"]);
    assert!(said.contains("--order 4: a quantum has 65536 bytes, which do not fit into 65536"), "{said}");
    let said = refused("large-budget", &["--budget", "2G", "--memory", "1G"]);
    assert!(said.contains("--budget 2147483648: more than the 1073741824 bytes of --memory"), "{said}");
    let said = refused("wrong-order", &["--order", "19"]);
    assert!(said.contains("order 19 is not between 0 and 18"), "{said}");
}

#[test]
fn with_keep_only_a_cut_empties() {
    let Some(mount) = mount("keep", &["--memory", "64M", "--keep"]) else { return };
    let (device, path) = (mount.device(0), mount.device(0).display().to_string());
    fs::write(&device, "one\n").unwrap();
    sh(&format!("echo two >> {path}; echo three | tee -a {path} > /dev/null"));
    File::options().write(true).open(&device).unwrap().write_at(b"O", 0).unwrap();
    assert_eq!(mount.read("scullv0"), "One\ntwo\nthree\n");
    fs::write(&device, "new").unwrap();
    assert_eq!(mount.read("scullv0"), "new", "O_TRUNC empties");
}

#[test]
fn other_users_are_let_in_where_that_is_asked_for() {
    // SAFETY: no arguments.
    if unsafe { libc::geteuid() } != 0 || !has("setpriv") {
        return eprintln!("SKIPPED: only root is somebody else at will");
    }
    for (option, reads) in [(&["--memory", "64M"][..], false), (&["--memory", "64M", "--allow-other"], true)] {
        let Some(mount) = mount("others", option) else { return };
        fs::write(mount.device(0), "for all").unwrap();
        // Nobody else may look below the folder of the build.
        let dir = File::open(&mount.folder).unwrap();
        let mut other = Command::new("setpriv");
        let fd = std::os::fd::AsRawFd::as_raw_fd(&dir);
        other.args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c"]);
        let inherited = rustix::io::dup(&dir).unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&inherited);
        let output = other.arg(format!("cat /proc/self/fd/{number}/scullv0")).output().unwrap();
        assert_eq!(output.status.success(), reads, "{option:?} {fd}: {}", text(output.stderr));
        assert_eq!(text(output.stdout), if reads { "for all" } else { "" });
    }
}

#[test]
fn bytes_lost_behind_a_mapping_are_told_at_each_fsync_until_the_device_is_emptied() {
    let args = ["--memory", "64M", "--order", "0", "--budget", "64K"];
    let Some(mount) = mount("lost", &args) else { return };
    let device = mount.open(0);
    device.set_len(64 * PAGE as u64).unwrap();
    let (len, prot) = (64 * PAGE, ProtFlags::READ | ProtFlags::WRITE);
    // SAFETY: a new mapping.
    let at = unsafe { mmap(null_mut(), len, prot, MapFlags::SHARED, &device, 0) }.unwrap();
    // SAFETY: it is as long.
    unsafe { at.cast::<u8>().write_bytes(7, len) };
    // SAFETY: as above.
    let told = unsafe { msync(at, len, MsyncFlags::SYNC) };
    assert!(told.is_err(), "the kernel's own word");
    for _ in 0..3 {
        assert_eq!(errno(mount.open(0).sync_all()), Some(libc::ENOSPC), "to whoever asks");
    }
    // SAFETY: nobody uses it any more.
    unsafe { munmap(at, len) }.unwrap();
    drop(device);
    mount.trim(0);
    assert!(mount.open(0).sync_all().is_ok());
    let (_, said) = mount.end(libc::SIGTERM);
    let line = said.lines().find(|line| line.contains("scullv0: a write was refused")).expect(&said);
    assert!(line.contains("bytes written through a mapping are lost: ") && line.contains("budget"), "{line}");
    assert_eq!(said.matches("a write was refused").count(), 1, "once: {said}");
}

#[test]
fn no_more_is_said_to_be_free_than_there_are_mappings_for() {
    let Some(mount) = mount("room", &["--memory", "4G", "--order", "0"]) else { return };
    let free = rustix::fs::statvfs(&mount.folder).unwrap();
    let (free, mappings) = (free.f_bavail * free.f_frsize, fs::read_to_string("/proc/sys/vm/max_map_count").unwrap());
    let mappings: u64 = mappings.trim().parse().unwrap();
    assert!(free <= mappings * PAGE as u64, "{free} bytes in {mappings} mappings of a page");
    ioctl(&mount.open(0), TELL_ORDER, 4).unwrap();
    let more = rustix::fs::statvfs(&mount.folder).unwrap();
    assert!(more.f_bavail * more.f_frsize > free, "larger quanta need fewer");
}

#[test]
fn a_hole_is_punched_and_room_is_taken() {
    let Some(mount) = mount("fallocate", &["--memory", "64M", "--order", "0", "--qset", "8", "--budget", "256K"])
    else {
        return;
    };
    let device = mount.open(0);
    device.write_all_at(&[7; 16 * PAGE], 0).unwrap();
    let allocate = |mode, start: usize, bytes: usize| {
        // SAFETY: no pointers.
        let done =
            unsafe { libc::fallocate(std::os::fd::AsRawFd::as_raw_fd(&device), mode, start as i64, bytes as i64) };
        if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().raw_os_error().unwrap()) }
    };
    let held = || device.metadata().unwrap().blocks() * 512;
    let before = held();
    assert_eq!(allocate(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, PAGE + 100, 4 * PAGE), Ok(()));
    assert_eq!((device.metadata().unwrap().len(), before - held()), (16 * PAGE as u64, 3 * PAGE as u64));
    let mut back = vec![0; 16 * PAGE];
    device.read_exact_at(&mut back, 0).unwrap();
    assert!(back.iter().enumerate().all(|(at, &byte)| (byte == 0) == (PAGE + 100..5 * PAGE + 100).contains(&at)));
    assert_eq!(allocate(0, 0, 20 * PAGE), Ok(()));
    assert_eq!((device.metadata().unwrap().len(), held() > before), (20 * PAGE as u64, true));
    assert_eq!(allocate(libc::FALLOC_FL_KEEP_SIZE, 0, 200 * PAGE), Ok(()), "what lies beyond the end stays a hole");
    assert_eq!(allocate(0, 0, 200 * PAGE), Err(libc::ENOSPC));
    assert_eq!(allocate(libc::FALLOC_FL_COLLAPSE_RANGE, 0, PAGE), Err(libc::EOPNOTSUPP));
    device.write_all_at(&[1; PAGE], 0).unwrap();
}

#[test]
fn each_time_is_of_its_own_and_the_folder_has_that_of_the_mount() {
    let Some(mount) = mount("times", &["--memory", "64M"]) else { return };
    let (device, folder) = (mount.device(0), fs::metadata(&mount.folder).unwrap());
    let mut file = mount.open(0);
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    file.set_times(fs::FileTimes::new().set_accessed(then).set_modified(then + Duration::from_secs(1))).unwrap();
    let set = fs::metadata(&device).unwrap();
    assert_eq!((set.atime(), set.mtime()), (1_000_000, 1_000_001));
    assert!(set.ctime() > 1_000_001, "set just now");
    file.write_all(b"x").unwrap();
    file.sync_all().unwrap();
    until("a write moves two of them", || {
        let written = fs::metadata(&device).unwrap();
        written.atime() == 1_000_000 && written.mtime() > 1_000_001
    });
    let later = fs::metadata(&mount.folder).unwrap();
    assert_eq!((later.mtime(), later.mtime_nsec()), (folder.mtime(), folder.mtime_nsec()));
}

#[test]
fn nothing_is_renamed_made_or_removed() {
    let Some(mount) = mount("names", &["--memory", "64M"]) else { return };
    let (device, other) = (mount.device(0), mount.folder.join("other"));
    let may_not = [Some(libc::EPERM), Some(libc::EACCES)];
    assert!(may_not.contains(&errno(fs::rename(&device, &other))));
    assert!(may_not.contains(&errno(fs::hard_link(&device, &other))));
    assert!(may_not.contains(&errno(std::os::unix::fs::symlink(&device, &other))));
    assert!(may_not.contains(&errno(fs::remove_file(&device))));
}
