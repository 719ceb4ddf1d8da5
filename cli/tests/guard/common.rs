//! A library to be preloaded, programs of several kinds, and the command beside them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// Says at its start that it was loaded, and into which process.
const LIBRARY: &str = r#"
#include <stdio.h>
__attribute__((constructor)) static void loaded(void) { fputs("loaded\n", stderr); }
"#;

/// A folder with a library and what a test makes beside it.
pub struct Place {
    folder: TempDir,
}

/// What a run did.
pub struct Run {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Place {
    /// With the library.
    pub fn new() -> Place {
        let place = Place::bare();
        place.compile("libvmalloc_guard.so", LIBRARY, &["-shared", "-fPIC"]);
        place
    }

    /// Without it.
    pub fn bare() -> Place {
        Place { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn library(&self) -> PathBuf {
        self.path("libvmalloc_guard.so")
    }

    pub fn compile(&self, name: &str, source: &str, flags: &[&str]) -> PathBuf {
        let (file, out) = (self.path(&format!("{name}.c")), self.path(name));
        fs::write(&file, source).unwrap();
        run(Command::new("cc").args(flags).arg(&file).arg("-o").arg(&out));
        out
    }

    /// A file that may be run. Another process writes it: while this one had it open, a child of
    /// another test could inherit that, and Linux would not run it.
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        run(Command::new("sh").args(["-c", "printf %s \"$1\" > \"$0\"; chmod 755 \"$0\""]).arg(&path).arg(text));
        path
    }

    /// The command itself, copied to where it may find something else beside it.
    pub fn own(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        run(Command::new("cp").arg(env!("CARGO_BIN_EXE_vmalloc")).arg(&path));
        path
    }

    /// The command, told where the library is.
    pub fn guard(&self, args: &[&str]) -> Run {
        self.ran(&mut self.command(args))
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.vmalloc();
        command.arg("guard").args(args);
        command
    }

    pub fn vmalloc(&self) -> Command {
        let mut command = plain(Path::new(env!("CARGO_BIN_EXE_vmalloc")));
        command.env("VMALLOC_GUARD_LIB", self.library()).current_dir(self.folder.path());
        command
    }

    pub fn ran(&self, command: &mut Command) -> Run {
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Run { code: status.code(), out: text(stdout), err: text(stderr) }
    }
}

/// A program without what this test's environment might say to the command.
pub fn plain(program: &Path) -> Command {
    let mut command = Command::new(program);
    let ours = std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("VMALLOC_"));
    ours.for_each(|name| {
        command.env_remove(name);
    });
    command.env_remove("LD_PRELOAD");
    command
}

pub fn chmod(path: &Path, mode: &str) {
    run(Command::new("chmod").arg(mode).arg(path));
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Run {
    /// That it was not started, for this reason.
    #[track_caller]
    pub fn refused(&self, reason: &str) {
        assert_eq!((self.code, self.out.as_str()), (Some(2), ""), "{}", self.err);
        assert!(self.err.starts_with("vmalloc: ") && self.err.contains(reason), "{}", self.err);
        assert_eq!(self.err.lines().count(), 1, "one line: {}", self.err);
    }
}
