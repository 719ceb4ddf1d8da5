//! The stage `guard`: the guard allocator under whole programs.
//!
//! - Each planted bug is found, and no correct program is accused ([`planted-run`](../../guard/planted)).
//! - Where one of [`EVERY`] allocations is guarded, that share of them is found.
//! - The library's own unit tests pass with some of their allocations guarded.
//!
//! `git`, `gcc`, `python3` and `sqlite3` run under it in the unit tests of `guard/preload`.

use crate::project::{MEMBERS, Project};
use crate::steps::{Outcome, succeed};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;

/// One of so many allocations is guarded where a share is looked for.
const EVERY: u32 = 10;
/// The crate whose unit tests run under the guard.
const GUARDED: &str = "vmalloc";

/// Builds what is guarded and what guards, and runs the one under the other.
pub fn run(project: &Project) -> Result<Outcome> {
    // The library is preloaded from beside the command.
    succeed(project.cargo().arg("build").args(MEMBERS))?;
    succeed(&mut planted(project, &[], "--all".into()))?;
    let share = (1.0 / f64::from(EVERY)).to_string();
    succeed(&mut planted(project, &["--seeds", "60", "--size", "100", "--share", &share], format!("--every={EVERY}")))?;
    let mut tests = project.program("vmalloc");
    succeed(tests.args(["guard", "--every=100", "--"]).arg(unit_tests(project)?).arg("--quiet"))
}

/// The planted bugs, under the guard.
fn planted(project: &Project, options: &[&str], how: String) -> Command {
    let mut run = project.program("planted-run");
    run.args(options).arg("--").arg(project.program("vmalloc").get_program()).args(["guard", &how, "--"]);
    run
}

/// The program of the unit tests of [`GUARDED`], as cargo says where it is.
fn unit_tests(project: &Project) -> Result<PathBuf> {
    let mut build = project.tests();
    let built = build.args(["--lib", "--no-run", "--message-format=json"]).output().context("cargo test")?;
    ensure!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let text = String::from_utf8_lossy(&built.stdout).into_owned();
    let programs = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    programs.filter_map(|message| program_of(&message)).next_back().with_context(|| format!("no tests of {GUARDED}"))
}

/// The program that a message of cargo's tells of, if it has the tests of [`GUARDED`].
fn program_of(message: &Value) -> Option<PathBuf> {
    let is_it = message["target"]["name"] == GUARDED && message["target"]["kind"][0] == "lib";
    message["executable"].as_str().filter(|_| is_it).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_of_the_library_s_unit_tests_is_known_from_others() {
        let told = |name, kind, executable| {
            program_of(&serde_json::json!({
                "target": { "name": name, "kind": [kind] }, "executable": executable
            }))
        };
        assert_eq!(told(GUARDED, "lib", Some("/a/tests")), Some("/a/tests".into()));
        assert_eq!(told(GUARDED, "bin", Some("/a/command")), None);
        assert_eq!(told("vmalloc_sim", "lib", Some("/a/tests")), None);
        assert_eq!(told(GUARDED, "lib", None), None, "a library alone");
    }
}
