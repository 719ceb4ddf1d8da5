//! Programs that are started: which, with what, and how they end.

use crate::common::{Place, plain};
use std::fs;
use std::process::Command;

#[test]
fn the_program_has_its_own_exit_code_and_arguments() {
    let place = Place::new();
    let run = place.guard(&["--", "sh", "-c", "echo \"$0 $@\"; exit 43", "a", "--all", "--", "b c"]);
    assert_eq!((run.code, &*run.out, &*run.err), (Some(43), "a --all -- b c\n", "loaded\n"));
    // The first word that is no option begins the program.
    assert_eq!(place.guard(&["--all", "sh", "-c", "exit 2"]).code, Some(2));
}

#[test]
fn a_program_that_dies_by_a_signal_dies_by_it() {
    let run = Place::new().guard(&["--", "sh", "-c", "kill -SEGV $$"]);
    assert_eq!((run.code, &*run.err), (None, "loaded\n"));
}

#[test]
fn the_program_finds_the_signals_and_descriptors_that_the_command_found() {
    let place = Place::new();
    let found =
        "grep -E 'Sig(Blk|Ign)' /proc/self/status; for n in 0 1 2; do test -e /proc/self/fd/$n && echo $n; done";
    place.script("found", found);
    for how in ["", "trap '' PIPE HUP;", "trap - PIPE; exec 0<&-;", "exec 2>&-;"] {
        let plain =
            place.ran(plain("sh".as_ref()).args(["-c", &format!("{how} sh found")]).current_dir(place.path("")));
        let mut shell = Command::new("sh");
        let told = ["-c", &format!("{how} exec \"$0\" guard -- sh found"), env!("CARGO_BIN_EXE_vmalloc")];
        shell.args(told).env("VMALLOC_GUARD_LIB", place.library()).current_dir(place.path(""));
        let run = place.ran(&mut shell);
        assert_eq!((run.code, run.out), (plain.code, plain.out), "{how}: {}", run.err);
    }
}

#[test]
fn what_the_program_starts_is_guarded_too() {
    let run = Place::new().guard(&["--", "sh", "-c", "env > /dev/null; true"]);
    assert_eq!((run.code, &*run.err), (Some(0), "loaded\nloaded\n"));
}

#[test]
fn a_script_is_run_by_its_interpreter() {
    let place = Place::new();
    place.script("direct", "#!/bin/sh\necho $#\n");
    place.script("sought", "#!/usr/bin/env -S sh -e\necho $#\n");
    place.script("plain", "echo $#\n");
    for name in ["./direct", "./sought", "./plain"] {
        let run = place.guard(&[name, "x", "y"]);
        assert_eq!((run.code, &*run.out), (Some(0), "2\n"), "{name}: {}", run.err);
        assert!(run.err.starts_with("loaded\n"), "{name}");
    }
}

#[test]
fn a_name_is_looked_for_in_path_and_given_as_it_was_typed() {
    let place = Place::new();
    place.compile("named", "#include <stdio.h>\nint main(int n, char **v) { puts(v[0]); return n; }", &[]);
    fs::write(place.path("shadow"), "").unwrap();
    let mut command = place.command(&["named"]);
    let path = format!("/nowhere:{}:/usr/bin:/bin", place.path("").display());
    let run = place.ran(command.env("PATH", path));
    assert_eq!((run.code, &*run.out), (Some(1), "named\n"), "{}", run.err);
}

#[test]
fn the_library_is_found_beside_the_command_and_in_lib() {
    let place = Place::new();
    fs::create_dir(place.path("bin")).unwrap();
    fs::create_dir(place.path("lib")).unwrap();
    let own = place.own("bin/vmalloc");
    for folder in ["lib", "bin"] {
        let library = place.path(folder).join("libvmalloc_guard.so");
        fs::copy(place.library(), &library).unwrap();
        let run = place.ran(plain(&own).args(["guard", "env"]));
        let expected = format!("LD_PRELOAD={}", library.display());
        assert!(run.out.lines().any(|line| line == expected), "{folder}: {}{}", run.out, run.err);
    }
}
