//! `vmalloc guard`: runs a program with the guarding library loaded before it.
//!
//! ```text
//!   library  where libvmalloc_guard.so is      program  what would be run, and whether it can be guarded
//!   elf      what the head of a file says      inherited  what it finds of whoever started the command
//! ```
//!
//! The loader of a program loads what LD_PRELOAD names first, so that the program's
//! malloc is the library's. It does so silently or not at all: not in a program
//! without a loader, not in one that gets rights by being run, not for another kind of
//! processor. All of that is looked for before, since a program that runs unguarded
//! while its user believes otherwise is worse than one that does not run.

mod elf;
mod inherited;
pub mod library;
mod program;

use crate::options::guard::Guard;
use crate::options::word;
use anyhow::{Context, Error, Result, ensure};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Names files that the loader loads before all others.
const PRELOAD: &str = "LD_PRELOAD";
/// What separates these names. Source: ld.so(8).
const BETWEEN: &[u8] = b": ";

/// Becomes the program; returns only if that cannot be, with the reason.
pub fn run(options: &Guard) -> Error {
    match prepare(options) {
        Ok(mut command) => {
            let name = command.get_program().to_owned();
            Error::from(command.exec()).context(format!("{}: cannot be run", name.display()))
        }
        Err(error) => error,
    }
}

/// The program, found and looked at, with its environment.
fn prepare(options: &Guard) -> Result<Command> {
    let (name, args) = options.program.split_first().context("no program is named")?;
    let program = program::find(name)?;
    let library = library::find()?;
    program::check(&program, &library)?;
    let mut command = Command::new(&program);
    command.arg0(name).args(args).envs(settings(options)?);
    command.env(PRELOAD, preload(&library.path, std::env::var_os(PRELOAD))?);
    inherited::pass_on(&mut command);
    Ok(command)
}

/// What the library is told. What is not asked for here stays as the environment has it.
fn settings(options: &Guard) -> Result<Vec<(&'static str, OsString)>> {
    let mut told: Vec<(&str, OsString)> = Vec::new();
    if let Some(guarded) = how_many(options) {
        told.push(("VMALLOC_GUARD", guarded.into()));
    }
    let live = options.live.map(|most| most.to_string());
    let seed = options.seed.map(|seed| seed.to_string());
    let leaks = options.leaks.then(|| "1".to_owned());
    for (name, value) in [
        ("VMALLOC_GUARD_LIVE", live),
        ("VMALLOC_GUARD_SIDE", options.side.map(word)),
        ("VMALLOC_GUARD_SEED", seed),
        ("VMALLOC_GUARD_LEAKS", leaks),
    ] {
        told.extend(value.map(|value| (name, value.into())));
    }
    if let Some(path) = &options.report {
        told.push(("VMALLOC_GUARD_REPORT", report(path)?));
    }
    Ok(told)
}

fn how_many(options: &Guard) -> Option<String> {
    match options.every {
        Some(n) => Some(format!("every={n}")),
        None if options.all || std::env::var_os("VMALLOC_GUARD").is_none() => Some("all".to_owned()),
        None => None,
    }
}

/// The whole path of the report, since the program may go to another folder.
fn report(path: &Path) -> Result<OsString> {
    let whole = std::path::absolute(path).with_context(|| format!("--report {}", path.display()))?;
    let folder = whole.parent().unwrap_or(&whole);
    ensure!(folder.is_dir(), "--report {}: {} is no folder", path.display(), folder.display());
    ensure!(!whole.is_dir(), "--report {}: a folder, and no file", path.display());
    Ok(whole.into_os_string())
}

/// The library, and behind it what is loaded already.
fn preload(library: &Path, others: Option<OsString>) -> Result<OsString> {
    let bytes = library.as_os_str().as_bytes();
    ensure!(
        !bytes.iter().any(|byte| BETWEEN.contains(byte)),
        "{}: a path with a colon or a space, which LD_PRELOAD cannot name; put the library elsewhere and \
         name it in {}",
        library.display(),
        library::VARIABLE
    );
    let mut all = library.as_os_str().to_owned();
    for other in others.iter().flat_map(|others| others.as_bytes().split(|byte| BETWEEN.contains(byte))) {
        if !other.is_empty() && other != bytes {
            all.push(":");
            all.push(std::ffi::OsStr::from_bytes(other));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(others: &str) -> String {
        preload(Path::new("/lib/g.so"), Some(others.into())).unwrap().into_string().unwrap()
    }

    #[test]
    fn the_library_comes_first_and_once_and_what_was_there_stays() {
        assert_eq!(preload(Path::new("/lib/g.so"), None).unwrap(), "/lib/g.so");
        assert_eq!(loaded(""), "/lib/g.so");
        assert_eq!(loaded("/a.so:b.so /c.so"), "/lib/g.so:/a.so:b.so:/c.so");
        assert_eq!(loaded("/a.so:/lib/g.so"), "/lib/g.so:/a.so");
    }

    #[test]
    fn a_path_that_the_loader_would_cut_is_refused() {
        for path in ["/a b/g.so", "/a:b/g.so"] {
            let why = preload(Path::new(path), None).unwrap_err().to_string();
            assert!(why.contains(path) && why.contains("VMALLOC_GUARD_LIB"), "{why}");
        }
    }
}
