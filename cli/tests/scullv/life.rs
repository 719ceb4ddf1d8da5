//! How a mount begins and ends.

use crate::common::*;
use std::fs;
use std::os::unix::fs::FileExt;
use std::process::{Command, Output};

#[test]
fn where_the_right_to_mount_is_of_no_use_the_selftest_is_skipped() {
    let alone = |program: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", program]);
        command
    };
    if !alone("true").status().is_ok_and(|status| status.success()) {
        return eprintln!("SKIPPED: no namespace of users can be made here");
    }
    let Output { status, stdout, .. } =
        alone(env!("CARGO_BIN_EXE_vmalloc")).args(["scullv", "--selftest"]).output().unwrap();
    let said = text(stdout);
    assert_eq!(status.code(), Some(77), "{said}");
    assert!(said.starts_with("SKIPPED: nothing can be mounted here: "), "{said}");
}

#[test]
fn the_selftest_passes_and_says_each_step() {
    let output = vmalloc().args(["scullv", "--selftest"]).output().unwrap();
    let said = text(output.stdout);
    match output.status.code() {
        Some(0) => {
            assert!(
                said.ends_with("passed\n") && said.lines().filter(|line| line.starts_with("ok ")).count() == 17,
                "{said}"
            );
        }
        Some(77) => assert!(said.starts_with("SKIPPED: "), "{said}"),
        code => panic!("{code:?}: {said}"),
    }
}

#[test]
fn both_signals_unmount_and_nothing_is_left() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let Some(mount) = mount("signals", &["--memory", "64M"]) else { return };
        let folder = mount.folder.clone();
        fs::write(mount.device(0), "something").unwrap();
        let (code, said) = mount.end(signal);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("every area was given back"), "{said}");
        assert_eq!(fs::read_dir(folder).unwrap().count(), 0);
    }
}

#[test]
fn a_mount_in_use_is_served_until_it_is_not() {
    let Some(mount) = mount("in-use", &["--memory", "64M"]) else { return };
    let device = mount.open(0);
    device.write_all_at(b"kept", 0).unwrap();
    mount.signal(libc::SIGTERM);
    until("the folder is out of sight", || fs::read_dir(&mount.folder).unwrap().count() == 0);
    let mut back = [0; 4];
    device.read_exact_at(&mut back, 0).unwrap();
    assert_eq!(&back, b"kept");
    drop(device);
    let mut mount = mount;
    until("the server ends", || !mount.is_alive());
}

#[test]
fn a_killed_server_leaves_a_mount_that_the_next_start_clears_away() {
    let Some(mount) = mount("killed", &["--memory", "64M"]) else { return };
    let folder = mount.folder.clone();
    let device = mount.open(0);
    let writer = std::thread::spawn(move || {
        let mut at = 0;
        while device.write_at(&[1; 100_000], at % (32 << 20)).is_ok() {
            at += 100_000;
        }
    });
    until("something is written", || fs::metadata(mount.device(0)).is_ok_and(|meta| meta.len() > 1 << 20));
    mount.kill();
    writer.join().unwrap();
    let dead = fs::read_dir(&folder).unwrap_err();
    assert_eq!(dead.raw_os_error(), Some(libc::ENOTCONN));
    let again = serve(folder.clone(), &["--memory", "64M"]).unwrap();
    fs::write(again.device(0), "a new beginning").unwrap();
    assert_eq!(again.read("scullv0"), "a new beginning");
    let (code, said) = again.end(libc::SIGTERM);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("ENOTCONN"), "it was explained: {said}");
    assert_eq!(fs::read_dir(folder).unwrap().count(), 0);
}

#[test]
fn a_server_whose_devices_were_emptied_gives_their_memory_back() {
    let Some(mount) = mount("back", &["--memory", "128M"]) else { return };
    let before = mount.shared_memory();
    for round in 0..3 {
        for index in 0..3 {
            mount.open(index).write_all_at(&vec![7; 24 << 20], 0).unwrap();
        }
        let written = mount.shared_memory();
        assert!(written - before >= 72 << 20, "round {round}: {written} of 72 MiB");
        (0..3).for_each(|index| mount.trim(index));
        let left = mount.shared_memory();
        assert!(left < before + (4 << 20), "round {round}: {left} bytes are left of {written}");
    }
}

#[test]
fn a_daemon_serves_when_its_command_has_ended_and_writes_statistics_to_its_log() {
    let folder = folder("daemon");
    let log = folder.with_extension("log");
    let _ = fs::remove_file(&log);
    let output = vmalloc().arg("scullv").arg(&folder).args(["--memory", "64M", "--log"]).arg(&log).output().unwrap();
    if output.status.code() == Some(2) && text(output.stderr.clone()).contains("nothing can be mounted here") {
        return eprintln!("SKIPPED: {}", text(output.stderr).trim());
    }
    assert!(output.status.success(), "{output:?}");
    assert_eq!(text(output.stdout), format!("scullv0..3 are in {}\n", folder.display()));
    fs::write(folder.join("scullv2"), "daemon").unwrap();
    let again = vmalloc().arg("scullv").arg(&folder).output().unwrap();
    assert_eq!(again.status.code(), Some(2), "it is mounted already");
    let server =
        run(Command::new("pgrep").args(["-f", &format!("{} --memory 64M --log .* --daemon", folder.display())]));
    run(Command::new("kill").args(["-USR1", server.trim()]));
    until("statistics", || fs::read_to_string(&log).is_ok_and(|said| said.contains("VMAs")));
    let said = fs::read_to_string(&log).unwrap();
    assert!(said.lines().any(|line| line.contains("scullv2") && line.contains(" 1 ")), "{said}");
    run(Command::new("umount").arg(&folder));
    until("the daemon ends", || fs::read_to_string(&log).unwrap().contains("every area was given back"));
}

#[test]
fn what_cannot_be_used_is_refused_with_2() {
    let file = folder("refused").join("a file");
    fs::write(&file, "").unwrap();
    let file = file.to_str().unwrap();
    for args in [
        &["/nowhere/at/all"][..],
        &[file],
        &[],
        &["--devices", "0", "/tmp"],
        &["--order", "19", "--foreground", "/tmp"],
        &["--qset", "0", "--foreground", "/tmp"],
        &["--memory", "1", "/tmp"],
    ] {
        let output = vmalloc().arg("scullv").args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
    }
}
