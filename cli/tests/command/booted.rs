//! `vmalloc boot` and `vmalloc replay --machine pc`, from outside, with a
//! program in QEMU's place: no image, no QEMU.

use crate::common::scratch;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// A folder with a `qemu-system-x86_64` that does what `script` says.
fn pretender(name: &str, script: &str) -> PathBuf {
    let folder = scratch(name);
    fs::create_dir_all(&folder).unwrap();
    let program = folder.join("qemu-system-x86_64");
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// Runs the command where QEMU is what `script` says; its exit code, stdout
/// and stderr.
fn run(name: &str, script: &str, args: &[&str]) -> (i32, String, String) {
    let folder = pretender(name, script);
    let path = format!("{}:/usr/bin:/bin", folder.display());
    let image = folder.join("image");
    fs::write(&image, "").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmalloc"));
    command.args(args).arg("--image").arg(&image).env("PATH", path).stdin(Stdio::null());
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

#[test]
fn commands_go_to_the_image_and_only_its_pass_is_one() {
    let script = |code| format!("echo \"$@\"; echo @case cost=1; exit {code}");
    for (code, ours) in [(33, 0), (35, 1), (37, 1), (0, 1)] {
        let (exit, out, err) = run(
            &format!("boot-{code}"),
            &script(code),
            &["boot", "--policy", "strict", "--cpus", "2", "-c", "mem; map"],
        );
        assert_eq!(exit, ours, "QEMU's {code}: {err}");
        assert!(out.contains(" -smp 2 ") && out.ends_with(" -append policy=strict -- mem; map\n"), "{out}");
    }
}

#[test]
fn settings_and_a_module_go_to_the_image() {
    let folder = scratch("boot-module");
    fs::create_dir_all(&folder).unwrap();
    let module = folder.join("text");
    fs::write(&module, "of the module").unwrap();
    let given = ["boot", "--set", "region=64M", "--set", "stress=1", "-c", "load scullv0", "--module"];
    let script = "echo \"$@\"; while [ \"$1\" != -initrd ]; do shift; done; cat \"$2\"; exit 33";
    let (exit, out, err) = run("boot-set", script, &[&given[..], &[module.to_str().unwrap()]].concat());
    assert_eq!(exit, 0, "{err}");
    assert!(out.contains(" -append region=64M stress=1 -- load scullv0\n") && out.contains("of the module"), "{out}");
    for nonsense in ["region", "=1", "a=", "a b=c"] {
        assert_eq!(run("boot-nonsense", "exit 33", &["boot", "--set", nonsense]).0, 2, "{nonsense}");
    }
}

#[test]
fn nodes_are_refused_on_a_board_that_cannot_tell_of_them() {
    let boot = ["boot", "-c", "mem", "--machine", "microvm", "--nodes"];
    let (exit, out, err) = run("boot-nodes", "echo booted; exit 33", &[&boot[..], &["2"]].concat());
    let why = "vmalloc: --nodes 2: the board microvm cannot tell its guest of nodes; take --machine q35, or leave --nodes out\n";
    assert_eq!((exit, out.as_str(), err.as_str()), (2, "", why));
    let (exit, out, err) = run("boot-one-node", "echo booted; exit 33", &[&boot[..], &["1"]].concat());
    assert_eq!((exit, out.as_str()), (0, "booted\n"), "{err}");
}

#[test]
fn a_line_that_the_image_would_cut_is_refused_before_it_boots() {
    let boot = |bytes: usize| {
        let commands = "x".repeat(bytes - "-- ".len());
        run(&format!("boot-{bytes}-bytes"), "echo booted; exit 33", &["boot", "-c", &commands])
    };
    assert_eq!(boot(4095).0, 0);
    let (exit, out, err) = boot(4096);
    assert_eq!((exit, out.as_str()), (2, ""), "{err}");
    assert!(err.contains("have 4096 bytes, the image takes fewer than 4096; commands in a file (--script)"), "{err}");
}

#[test]
fn without_a_terminal_the_shell_gets_what_is_piped_and_then_the_end() {
    let script = "echo begun; od -An -tx1 | head -1; exit 33";
    let (exit, out, err) = run("boot-shell", script, &["boot"]);
    assert_eq!((exit, out.as_str()), (0, "begun\n 04\n"), "Ctrl-D: {err}");
}

#[test]
fn a_machine_that_does_not_end_is_ended() {
    let (exit, _, err) = run("boot-late", "echo begun; exec sleep 30", &["boot", "-c", "x", "--time-limit", "1"]);
    assert_eq!((exit, err.as_str()), (1, "vmalloc: the guest did not end within 1 s; its last lines:\n  begun\n"));
}

#[test]
fn without_qemu_the_package_is_named() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmalloc"));
    let Output { status, stderr, .. } = command.args(["boot", "-c", "mem"]).env("PATH", "/nowhere").output().unwrap();
    let err = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(2));
    assert!(err.contains("qemu-system-x86,") || err.contains("the package qemu-system-x86 "), "{err}");
}

#[test]
fn a_replay_is_told_in_records() {
    let listing = "0xffffc90000000000-0xffffc90000003000%20%20%20%2012288%200x10%20pages=2%20vmalloc%20N0=2";
    let records = [
        "@start",
        "@stop",
        "@event word=alloc done=7",
        "@tally failed=0 written=8 verified=9 wrong=0 stopped=0",
        "@latency call=alloc values=100:7,",
        "@peak areas=3 pages=4 span=8 of=4",
        "@end areas=1 waiting=0 bound=0 stocked=0 reserve=0 tables=0 bookkeeping=0 flushes=5 kicks=0 purges=0",
        "@left areas=0 frames=0",
    ];
    let script = format!("cat <<'.'\n{}\n@area text={listing}\n.\nexit 33", records.join("\n"));
    let (exit, out, err) = run("replay-pc", &script, &["replay", "--machine", "pc", "--info"]);
    assert_eq!(exit, 1, "a guest that leaves out events: {err}");
    assert!(out.contains(" pages=2 vmalloc N0=2\n") && !out.contains(" 0x10 "), "callers have names: {out}");
    assert!(out.contains("│ alloc       7      100") && out.contains("22,139 events were not done"), "{out}");
    let (exit, _, err) = run("replay-pc-not", "echo no script; exit 35", &["replay", "--machine", "pc"]);
    assert_eq!((exit, err.lines().last()), (1, Some("vmalloc: the guest could not play the script")));
}
