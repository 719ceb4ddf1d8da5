//! The stage `narrow`: the library for targets that are narrower than this machine.
//!
//! | Target | What has to come of it |
//! |---|---|
//! | [`POINTERS`] | it compiles: addresses of 32 bits |
//! | [`ATOMICS`] | one error, which says that atomics of 64 bits are missing |
//!
//! Both need a `core` of their target: the toolchain's own (`rustup target add`), or one that
//! the compiler of Debian's `rustc-web`, `cargo-web` and `rust-web-src` builds from source.

use crate::project::Project;
use crate::steps::{Outcome, succeed};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::Command;

/// Pointers of 32 bits.
const POINTERS: &str = "i686-unknown-linux-gnu";
/// No atomic is wider than 32 bits.
const ATOMICS: &str = "riscv32imac-unknown-none-elf";
/// How the one error begins (`vmalloc/src/sync/absent.rs`).
const MISSING: &str = "error: vmalloc needs atomic accesses of 64 bits, which this target does not have";

/// Debian's compiler and the source of its `core`.
const DISTRIBUTION: [&str; 3] = ["/usr/bin/cargo", "/usr/bin/rustc", "/usr/lib/rustlib/src/rust/library/core"];

/// Where a target's `core` comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Core {
    Toolchain,
    Distribution,
}

/// Checks both targets.
pub fn run(project: &Project) -> Result<Outcome> {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output()?.stdout;
    let sysroot = String::from_utf8(sysroot)?;
    let there = |path: &Path| path.exists();
    for target in [POINTERS, ATOMICS] {
        let Some(core) = core_for(target, Path::new(sysroot.trim()), there) else {
            return Ok(Outcome::Skipped(format!(
                "no core for {target}: rustup target add {target}, or apt-get install rustc-web cargo-web rust-web-src"
            )));
        };
        let mut check = check(project, core, target);
        match target {
            ATOMICS => refused(&mut check)?,
            _ => drop(succeed(&mut check)?),
        }
    }
    Ok(Outcome::Passed)
}

/// The first of the two that is there.
fn core_for(target: &str, sysroot: &Path, there: impl Fn(&Path) -> bool) -> Option<Core> {
    let distribution = || DISTRIBUTION.iter().all(|path| there(Path::new(path)));
    match there(&sysroot.join("lib/rustlib").join(target)) {
        true => Some(Core::Toolchain),
        false => distribution().then_some(Core::Distribution),
    }
}

/// In a folder of its own: two compilers share none.
fn check(project: &Project, core: Core, target: &str) -> Command {
    let mut check = match core {
        Core::Toolchain => project.cargo(),
        Core::Distribution => {
            let mut cargo = Command::new(DISTRIBUTION[0]);
            cargo.current_dir(&project.root).env("RUSTC", DISTRIBUTION[1]).env("RUSTC_BOOTSTRAP", "1");
            cargo.env_remove("CARGO").args(["-Zbuild-std=core,compiler_builtins"]);
            cargo.args(["-Zbuild-std-features=compiler-builtins-mem", "--config", "profile.dev.opt-level=0"]);
            cargo
        }
    };
    check.args(["check", "--package", "vmalloc", "--target", target, "--target-dir", "target/narrow"]);
    check.env("CARGO_TERM_COLOR", "never");
    check
}

/// Runs a check that has to fail, with the one error.
fn refused(check: &mut Command) -> Result<()> {
    let ended = check.output().with_context(|| format!("{check:?}"))?;
    let said = String::from_utf8_lossy(&ended.stderr);
    ensure!(!ended.status.success(), "{check:?}: it compiles, though the target has no atomics of 64 bits");
    only_what_is_missing(&said).with_context(|| format!("{check:?}:\n{said}"))?;
    println!("{ATOMICS} is refused: {}", &MISSING["error: ".len()..]);
    Ok(())
}

/// Cargo's closing line aside, there is one error, and it is [`MISSING`].
fn only_what_is_missing(said: &str) -> Result<()> {
    let errors = said.lines().filter(|line| line.starts_with("error") && !line.starts_with("error: could not compile"));
    let errors: Vec<&str> = errors.collect();
    ensure!(matches!(errors[..], [only] if only.starts_with(MISSING)), "one error is due, there are: {errors:#?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_toolchains_core_goes_before_the_distributions() {
        let of = |list: &[&str]| {
            let list: Vec<String> = list.iter().map(|&path| path.into()).collect();
            core_for("t", Path::new("/s"), |path| list.iter().any(|one| Path::new(one) == path))
        };
        let [cargo, rustc, source] = DISTRIBUTION;
        assert_eq!(of(&["/s/lib/rustlib/t", cargo, rustc, source]), Some(Core::Toolchain));
        assert_eq!(of(&["/s/lib/rustlib/other", cargo, rustc, source]), Some(Core::Distribution));
        assert_eq!(of(&[cargo, rustc]), None, "without source there is no core");
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn only_the_error_that_is_due_is_right() {
        let end = "error: could not compile `vmalloc` (lib) due to 1 previous error\n";
        let due = format!("    Checking vmalloc\n{MISSING}: the masks\n  --> a.rs:1:1\n\n{end}");
        assert!(only_what_is_missing(&due).is_ok());
        let more = format!("{due}error[E0599]: no method named `swap`\n");
        assert!(only_what_is_missing(&more).unwrap_err().to_string().contains("E0599"));
        assert!(only_what_is_missing(end).is_err(), "no error at all");
        assert!(only_what_is_missing("error: no such target\n").is_err());
    }
}
