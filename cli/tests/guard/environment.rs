//! What the library and the program are told.

use crate::common::{Place, Run};

/// The lines of the program's environment that are about the library.
fn told(run: &Run) -> Vec<&str> {
    assert_eq!(run.code, Some(0), "{}", run.err);
    let mut lines: Vec<&str> = run.out.lines().filter(|line| line.starts_with("VMALLOC_GUARD")).collect();
    lines.retain(|line| !line.starts_with("VMALLOC_GUARD_LIB="));
    lines.sort_unstable();
    lines
}

#[test]
fn all_are_guarded_unless_less_is_asked_for() {
    let place = Place::new();
    assert_eq!(told(&place.guard(&["--", "env"])), ["VMALLOC_GUARD=all"]);
    assert_eq!(told(&place.guard(&["--all", "env"])), ["VMALLOC_GUARD=all"]);
    assert_eq!(told(&place.guard(&["--every", "1000", "--", "env"])), ["VMALLOC_GUARD=every=1000"]);
}

#[test]
fn each_option_is_a_variable() {
    let place = Place::new();
    let args = ["--live", "20000", "--side", "start", "--seed", "7", "--leaks", "--report", "bug-%p.json", "--", "env"];
    let report = format!("VMALLOC_GUARD_REPORT={}", place.path("bug-%p.json").display());
    let expected = [
        "VMALLOC_GUARD=all",
        "VMALLOC_GUARD_LEAKS=1",
        "VMALLOC_GUARD_LIVE=20000",
        &report,
        "VMALLOC_GUARD_SEED=7",
        "VMALLOC_GUARD_SIDE=start",
    ];
    assert_eq!(told(&place.guard(&args)), expected);
}

#[test]
fn what_is_not_given_is_left_as_it_was() {
    let place = Place::new();
    let mut command = place.command(&["--live", "5", "env"]);
    command.envs([("VMALLOC_GUARD", "every=3"), ("VMALLOC_GUARD_LIVE", "9"), ("VMALLOC_GUARD_SIDE", "end")]);
    let expected = ["VMALLOC_GUARD=every=3", "VMALLOC_GUARD_LIVE=5", "VMALLOC_GUARD_SIDE=end"];
    assert_eq!(told(&place.ran(&mut command)), expected);
    let mut command = place.command(&["--all", "env"]);
    assert_eq!(told(&place.ran(command.env("VMALLOC_GUARD", "every=3"))), ["VMALLOC_GUARD=all"]);
}

#[test]
fn what_is_preloaded_already_stays_behind_the_library() {
    let place = Place::new();
    let other = place.compile("libother.so", "", &["-shared", "-fPIC"]);
    let mut command = place.command(&["env"]);
    let run = place.ran(command.env("LD_PRELOAD", &other));
    let expected = format!("LD_PRELOAD={}:{}", place.library().display(), other.display());
    assert!(run.out.lines().any(|line| line == expected), "{}", run.out);
}
