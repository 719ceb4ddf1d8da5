//! The program that would be run: where it is, and whether it can be guarded.

use super::elf::{Elf, Head};
use super::library::Library;
use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{Access, access, getxattr};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Scripts that may be each other's interpreters. Source: execve(2).
const SCRIPTS: usize = 5;
/// Where programs are without PATH. Source: execvp(3).
const USUAL: &str = "/bin:/usr/bin";
/// What reads a file that is neither ELF nor names an interpreter. Source: execvp(3).
const SHELL: &str = "/bin/sh";
const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
/// Without it, set-gid means something else.
const GROUP_RUNS: u32 = 0o0010;
const CAPABILITIES: &str = "security.capability";

/// The file that `name` means: a path, or a name in PATH.
pub fn find(name: &OsStr) -> Result<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        runs(Path::new(name))?;
        return Ok(name.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| USUAL.into());
    let mut all = std::env::split_paths(&path).map(|folder| folder.join(name));
    all.find(|file| runs(file).is_ok()).with_context(|| {
        format!("{}: not found in the {} folders of PATH", name.display(), std::env::split_paths(&path).count())
    })
}

/// Whether the file at `path` may be run.
fn runs(path: &Path) -> Result<()> {
    let meta = path.metadata().with_context(|| path.display().to_string())?;
    ensure!(!meta.is_dir(), "{}: a folder, and no program", path.display());
    access(path, Access::EXEC_OK).with_context(|| format!("{}: may not be run", path.display()))
}

/// Whether the library would be loaded into the program at `path`, or the interpreter of it.
pub fn check(path: &Path, library: &Library) -> Result<()> {
    let mut file = path.to_owned();
    for _ in 0..=SCRIPTS {
        let head = Head::read(&file).with_context(|| format!("{}: cannot be read", file.display()))?;
        file = match head {
            Head::Elf(elf) => return loads(&named(path, &file), &file, &elf, library),
            Head::Script(interpreter, rest) => interpreted(&file, interpreter, &rest)?,
            Head::Other => SHELL.into(),
        };
    }
    bail!("{}: a script whose interpreter is a script, {SCRIPTS} times", path.display())
}

/// What an error calls the file at `file`, to which `path` has led.
fn named(path: &Path, file: &Path) -> String {
    match path == file {
        true => path.display().to_string(),
        false => format!("{}, which runs {}", file.display(), path.display()),
    }
}

/// The program that reads the script; where env only looks for it, that which it finds.
fn interpreted(script: &Path, interpreter: OsString, rest: &OsStr) -> Result<PathBuf> {
    let of = || format!("the interpreter of {}", script.display());
    let sought = rest.to_str().filter(|_| Path::new(&interpreter).file_name() == Some(OsStr::new("env")));
    let word =
        sought.and_then(|rest| rest.split_whitespace().find(|word| !word.starts_with('-') && !word.contains('=')));
    let path = word.map_or(interpreter, OsString::from);
    if word.is_some() {
        return find(&path).with_context(of);
    }
    runs(Path::new(&path)).with_context(of)?;
    Ok(path.into())
}

fn loads(name: &str, file: &Path, elf: &Elf, library: &Library) -> Result<()> {
    let Some(loader) = &elf.loader else {
        bail!(
            "{name}: linked statically (no PT_INTERP), so that no library can be loaded before it; \
             link it dynamically, or with the crate vmalloc-guard inside"
        )
    };
    if let Some(rights) = rights(file)? {
        bail!("{name}: {rights}, and what runs with rights of its own ignores LD_PRELOAD; run a copy without them")
    }
    let bits = |wide| if wide { 64 } else { 32 };
    ensure!(
        (elf.wide, elf.machine) == (library.elf.wide, library.elf.machine),
        "{name}: of {} bits for the processor {} (e_machine), while {} is of {} bits for {}",
        bits(elf.wide),
        elf.machine,
        library.path.display(),
        bits(library.elf.wide),
        library.elf.machine
    );
    ensure!(
        !loader.as_bytes().windows(4).any(|part| part == b"musl"),
        "{name}: its loader is musl's ({}), and the library is made for glibc",
        loader.display()
    );
    Ok(())
}

/// What gives rights to who runs the file, in words.
fn rights(file: &Path) -> Result<Option<&'static str>> {
    let mode = file.metadata()?.permissions().mode();
    let capabilities = getxattr(file, CAPABILITIES, &mut [0u8; 64][..]).is_ok_and(|bytes| bytes > 0);
    Ok(match mode {
        _ if mode & SET_UID != 0 => Some("set-uid"),
        _ if mode & (SET_GID | GROUP_RUNS) == SET_GID | GROUP_RUNS => Some("set-gid"),
        _ if capabilities => Some("has file capabilities"),
        _ => None,
    })
}
