//! Programs with the library before them, and C programs made for a test.

#![allow(dead_code, reason = "each test uses some of it")]

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use tempfile::TempDir;

/// The library, built as this test was: cargo builds no such library for the tests of its package.
pub fn library() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(build).clone()
}

fn build() -> PathBuf {
    let own = std::env::current_exe().expect("this test");
    let profile = own.parent().and_then(Path::parent).expect("a folder of a profile");
    let name = match profile.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let mut cargo = plain(env!("CARGO"));
    cargo.args(["build", "-q", "-p", env!("CARGO_PKG_NAME"), "--profile", name, "--target-dir"]);
    cargo.arg(profile.parent().expect("a target folder")).current_dir(env!("CARGO_MANIFEST_DIR"));
    let status = cargo.status().expect("cargo");
    assert!(status.success(), "the library cannot be built");
    profile.join("libvmalloc_guard.so")
}

/// A program under the library, with these settings.
pub fn guarded(program: impl AsRef<std::ffi::OsStr>, settings: &[(&str, &str)]) -> Command {
    let mut command = plain(program);
    command.env("LD_PRELOAD", library()).envs(settings.iter().copied());
    command
}

/// A program without what this test's environment might say.
pub fn plain(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    let ours = std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("VMALLOC_"));
    ours.for_each(|name| _ = command.env_remove(name));
    command
}

/// A folder with a C program; `None`, with a message, where there is no compiler.
pub fn compiled(source: &str) -> Option<(TempDir, PathBuf)> {
    let folder = tempfile::tempdir().expect("a folder");
    let (text, program) = (folder.path().join("program.c"), folder.path().join("program"));
    std::fs::write(&text, source).expect("written");
    let done = Command::new("cc")
        .args(["-g", "-O1", "-fno-builtin", "-pthread", "-w", "-o"])
        .arg(&program)
        .arg(&text)
        .output();
    match done {
        Ok(Output { status, stderr, .. }) => {
            assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
            Some((folder, program))
        }
        Err(why) => {
            eprintln!("skipped: cc: {why}");
            None
        }
    }
}

/// What a C program wrote, and how it ended.
#[derive(Debug)]
pub struct End {
    /// Its output.
    pub out: String,
    /// Its errors.
    pub errors: String,
    /// Its exit code, if it had one.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

impl End {
    /// The reports that were written to stderr.
    pub fn reports(&self) -> usize {
        self.errors.matches("vmalloc-guard: ").count()
    }
}

/// Runs a C program with every allocation guarded, and these settings. One that hangs is ended.
pub fn run(source: &str, settings: &[(&str, &str)]) -> Option<End> {
    let (_folder, program) = compiled(source)?;
    // The variables are env(1)'s, so that only the program has them.
    let preload = format!("LD_PRELOAD={}", library().display());
    let told = [("VMALLOC_GUARD", "all")].into_iter().chain(settings.iter().copied());
    let mut command = plain("timeout");
    command.args(["-s", "KILL", "60", "env", &preload]).args(told.map(|(name, value)| format!("{name}={value}")));
    let end = ran(command.arg(&program));
    let (out, errors) = (text(&end.stdout), text(&end.stderr));
    // timeout(1) exits with 128 and the signal, and dies by what it sent itself.
    let code = end.status.code();
    let signal = code.filter(|code| *code > 128).map(|code| code - 128).or(end.status.signal());
    Some(End { out, errors, code: code.filter(|code| *code <= 128), signal })
}

/// Whether a program is there; a message if not. Where `CI` is set, it has to be.
pub fn is_there(program: &str) -> bool {
    let found =
        std::env::var_os("PATH").is_some_and(|all| std::env::split_paths(&all).any(|at| at.join(program).exists()));
    if !found && !Path::new(program).exists() {
        assert!(std::env::var_os("CI").is_none(), "no {program}");
        eprintln!("skipped: no {program}");
        return false;
    }
    true
}

/// What a command wrote, and how it ended.
pub fn ran(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|why| panic!("{command:?}: {why}"))
}

/// Text that was written.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
