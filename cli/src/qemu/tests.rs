//! With a program that pretends to be QEMU.

use super::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Tools whose program is the shell script `text`.
fn pretender(folder: &Path, text: &str) -> Tools {
    let program = folder.join("qemu");
    fs::write(&program, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    Tools { image: "/image".into(), program }
}

/// What a guest does whose QEMU is `text`, and the text lines that it said.
fn ran(guest: &Guest, text: &str) -> (Result<Outcome, QemuError>, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let mut said = Vec::new();
    let outcome = guest.run(&pretender(folder.path(), text), &mut |line| {
        if let Line::Text(line) = line {
            said.push(line.to_owned());
        }
    });
    (outcome, said)
}

#[test]
fn only_the_images_own_code_is_a_pass() {
    let passed = |code| ran(&Guest::default(), &format!("exit {code}")).0.map(|outcome| outcome.passed);
    assert!(passed(33).unwrap());
    assert!(!passed(35).unwrap());
    assert!(matches!(passed(37), Err(QemuError::Panicked { .. })));
    for crash in [0, 1, 34, 255] {
        assert!(matches!(passed(crash), Err(QemuError::Crashed { .. })), "{crash}");
    }
}

#[test]
fn lines_for_people_and_records_are_told_apart() {
    let (outcome, said) =
        ran(&Guest::default(), r"printf 'one\r\n@case a=1\nunfin'; sleep 0.1; printf 'ished'; exit 33");
    assert_eq!(said, ["one", "unfinished"]);
    assert_eq!(outcome.unwrap().records, [Record::parse("@case a=1").unwrap()]);
}

#[test]
fn a_crash_shows_the_last_lines_and_what_qemu_said() {
    let (outcome, _) = ran(&Guest::default(), "seq 100; sleep 0.2; echo 'bad flag' >&2; exit 1");
    let why = outcome.unwrap_err().to_string();
    assert!(why.starts_with("the guest crashed: QEMU ended with exit status: 1, which is no code"), "{why}");
    assert!(why.contains("\n  82\n") && !why.contains("\n  81\n") && why.ends_with("\n  100\n  bad flag"), "{why}");
}

#[test]
fn a_guest_that_goes_on_for_ever_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let alive = folder.path().join("alive");
    let guest = Guest { time_limit: Some(Duration::from_millis(300)), ..Guest::default() };
    let (outcome, _) = ran(&guest, &format!("echo begun; exec 1>&-; sleep 1; touch {}", alive.display()));
    let why = outcome.unwrap_err().to_string();
    assert_eq!(why, "the guest did not end within 0.3 s; its last lines:\n  begun");
    std::thread::sleep(Duration::from_secs(1));
    assert!(!alive.exists(), "it went on");
}

#[test]
fn the_module_is_there_while_the_guest_runs_and_nobody_types() {
    let guest = Guest { module: Some(b"some bytes".to_vec()), ..Guest::default() };
    let script = r#"cat; while [ "$1" != -initrd ]; do shift; done; cat "$2"; exit 33"#;
    assert_eq!(ran(&guest, script).1, ["some bytes"]);
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let tools = Tools { image: "/image".into(), program: "/no/qemu".into() };
    let why = Guest::default().run(&tools, &mut |_| ()).unwrap_err().to_string();
    assert_eq!(why, "/no/qemu: cannot be started: No such file or directory (os error 2)");
}
