//! Running the command.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A file of this repository's `traces/`.
pub fn trace(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../traces").join(name).display().to_string()
}

/// A file for a test to write, of a name that no other test uses.
pub fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// What a run of the command did.
pub struct Run {
    /// Its exit code.
    pub code: i32,
    /// Its stdout.
    pub out: String,
    /// Its stderr.
    pub err: String,
}

/// Runs `vmalloc replay` with `args`.
pub fn replay(args: &[&str]) -> Run {
    command(&[&["replay"], args].concat())
}

/// Runs the command with `args`.
pub fn command(args: &[&str]) -> Run {
    run(Command::new(env!("CARGO_BIN_EXE_vmalloc")).args(args))
}

fn run(command: &mut Command) -> Run {
    let Output { status, stdout, stderr } = command.output().expect("the command was built for the test");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Run { code: status.code().expect("no signal"), out: text(stdout), err: text(stderr) }
}

/// Runs `vmalloc replay` with `args`, and reads the report that it writes.
pub fn report(name: &str, args: &[&str]) -> (Run, Value) {
    let json = scratch(&format!("{name}.json"));
    let json = json.to_str().expect("text");
    // One of an earlier run would be taken for this one's.
    let _ = std::fs::remove_file(json);
    let run = replay(&[args, &["--json", json]].concat());
    let report = std::fs::read_to_string(json).unwrap_or_else(|_| panic!("{name}: no report:\n{}{}", run.out, run.err));
    (run, serde_json::from_str(&report).expect("JSON"))
}

/// The text of a file of this repository's `traces/`.
pub fn unpacked(name: &str) -> String {
    let mut text = String::new();
    let file = std::fs::File::open(trace(name)).expect("it is there");
    std::io::Read::read_to_string(&mut flate2::read::MultiGzDecoder::new(file), &mut text).expect("text");
    text
}

/// Runs `vmalloc replay` with `args`, and `input` on stdin.
pub fn replay_stdin(args: &[&str], input: &[u8]) -> Run {
    let mut file = tempfile::tempfile().expect("a file");
    std::io::Write::write_all(&mut file, input).expect("written");
    std::io::Seek::rewind(&mut file).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmalloc"));
    run(command.arg("replay").args(args).stdin(file))
}
