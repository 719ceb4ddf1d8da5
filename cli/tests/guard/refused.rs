//! What is not started: exit code 2, and one line that says why.

use crate::common::{Place, chmod, plain};
use std::fs;
use std::process::Command;

const MAIN: &str = "int main(void) { return 0; }";

#[test]
fn a_program_that_is_not_there() {
    let place = Place::new();
    place.guard(&["no-such-program"]).refused("no-such-program: not found in the ");
    place.guard(&["./no-such-program"]).refused("./no-such-program: No such file");
    place.guard(&["/"]).refused("/: a folder, and no program");
    fs::write(place.path("data"), "x").unwrap();
    place.guard(&["./data"]).refused("./data: may not be run");
}

#[test]
fn a_static_program_and_a_script_of_one() {
    let place = Place::new();
    let program = place.compile("static", MAIN, &["-static"]);
    place.guard(&["./static"]).refused("./static: linked statically (no PT_INTERP)");
    place.compile("static-pie", MAIN, &["-static-pie"]);
    place.guard(&["./static-pie"]).refused("./static-pie: linked statically");
    place.script("script", &format!("#!{}\n", program.display()));
    place.guard(&["./script"]).refused("which runs ./script: linked statically");
    place.script("outer", &format!("#!{}\n", place.path("script").display()));
    place.guard(&["./outer"]).refused("which runs ./outer: linked statically");
}

#[test]
fn a_script_without_an_end_or_without_an_interpreter() {
    let place = Place::new();
    place.script("ring", &format!("#!{}\n", place.path("ring").display()));
    place.guard(&["./ring"]).refused("a script whose interpreter is a script");
    place.script("orphan", "#!/no/such/shell\n");
    place.guard(&["./orphan"]).refused("the interpreter of ./orphan: /no/such/shell: No such file");
    place.script("sought", "#!/usr/bin/env no-such-shell\n");
    place.guard(&["./sought"]).refused("the interpreter of ./sought: no-such-shell: not found");
}

#[test]
fn a_program_with_rights_of_its_own() {
    let place = Place::new();
    let program = place.compile("own", MAIN, &[]);
    for (mode, rights) in [("4755", "./own: set-uid"), ("2755", "./own: set-gid")] {
        chmod(&program, mode);
        place.guard(&["./own"]).refused(rights);
    }
    // Without the right to run by the group, the bit means locks.
    chmod(&program, "2745");
    assert_eq!(place.guard(&["./own"]).code, Some(0));
}

#[test]
fn a_program_with_file_capabilities() {
    let place = Place::new();
    let program = place.compile("capable", MAIN, &[]);
    // CAP_NET_RAW, of revision 2, effective. Source: linux/capability.h.
    let value = "0x0100000200200000000000000000000000000000";
    let set = format!(
        "import os; os.setxattr({:?}, 'security.capability', bytes.fromhex({:?}))",
        program.to_str().unwrap(),
        &value[2..]
    );
    if !Command::new("python3").args(["-c", &set]).output().is_ok_and(|output| output.status.success()) {
        return eprintln!("SKIPPED: no right to give a file capabilities, or no python3");
    }
    place.guard(&["./capable"]).refused("./capable: has file capabilities");
}

#[test]
fn a_program_for_another_processor_or_another_libc() {
    let place = Place::new();
    place.compile("program", MAIN, &[]);
    let mut library = fs::read(place.library()).unwrap();
    // e_machine: 0x28 is 32-bit ARM. Source: elf(5), elf.h.
    library[18..20].copy_from_slice(&[0x28, 0]);
    fs::write(place.path("arm.so"), library).unwrap();
    let mut command = place.command(&["./program"]);
    let run = place.ran(command.env("VMALLOC_GUARD_LIB", "arm.so"));
    run.refused("./program: of 64 bits for the processor ");
    assert!(run.err.contains("arm.so is of 64 bits for 40"), "{}", run.err);
    place.compile("musl", MAIN, &["-Wl,--dynamic-linker=/lib/ld-musl-x86_64.so.1"]);
    place.guard(&["./musl"]).refused("./musl: its loader is musl's (/lib/ld-musl-x86_64.so.1)");
}

#[test]
fn a_library_that_is_not_there_or_is_none() {
    let place = Place::bare();
    let own = place.own("vmalloc");
    let run = place.ran(plain(&own).args(["guard", "true"]));
    run.refused("libvmalloc_guard.so is not there: neither ");
    assert!(run.err.contains("cargo build --release -p "), "{}", run.err);
    let named = "VMALLOC_GUARD_LIB names what cannot be preloaded: ";
    place.guard(&["true"]).refused(named);
    fs::write(place.library(), "text").unwrap();
    place.guard(&["true"]).refused(": no ELF file");
}

#[test]
fn a_library_whose_path_the_loader_would_cut() {
    let place = Place::new();
    let odd = place.path("a library.so");
    fs::copy(place.library(), &odd).unwrap();
    let mut command = place.command(&["true"]);
    place.ran(command.env("VMALLOC_GUARD_LIB", &odd)).refused("a path with a colon or a space");
}

#[test]
fn a_report_that_could_not_be_written() {
    let place = Place::new();
    place.guard(&["--report", "no/such/x", "true"]).refused("--report no/such/x: ");
    place.guard(&["--report", "/", "true"]).refused("--report /: a folder, and no file");
}

#[test]
fn options_that_make_no_sense() {
    let place = Place::new();
    for args in
        [&["--all", "--every", "2", "true"][..], &["--every", "0", "true"], &["--live", "0", "true"], &["--all"]]
    {
        let run = place.guard(args);
        assert_eq!((run.code, &*run.out), (Some(2), ""), "{args:?}: {}", run.err);
    }
}
