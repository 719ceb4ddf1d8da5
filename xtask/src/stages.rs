//! The stages of the test command, cheapest first.

use crate::embedders;
use crate::guard;
use crate::install;
use crate::interface::PUBLISHED;
use crate::narrow;
use crate::pc;
use crate::project::{DEAF, IMAGE, MEMBERS, Project};
use crate::steps::{Outcome, Stage, succeed};
use crate::tidy::{self, tree::Tree};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::fs;
use std::process::Command;

/// Rules that are broken, and the oracle, which has to notice.
const CONTROLS: &str = "machines/sim/tests/oracle/sabotage.rs";
const TRACES: &str = "traces";
/// The exit code of a self-test that could not be made.
const SKIPPED: i32 = 77;

/// All stages, in the order they run.
pub const ALL: &[Stage] = &[
    Stage { name: "fmt", about: "formatting", run: |p| succeed(p.cargo().args(["fmt", "--all", "--check"])) },
    Stage { name: "tidy", about: "checks over the tree", run: tidy_up },
    Stage { name: "clippy", about: "lints, all of them errors", run: clippy },
    Stage { name: "narrow", about: "the library for narrower targets", run: narrow::run },
    Stage { name: "docs", about: "the documentation builds without a warning", run: docs },
    Stage {
        name: "unit",
        about: "unit, model and integration tests, and the examples in the documentation",
        run: unit,
    },
    Stage {
        name: "examples",
        about: "the programs in examples/, and the kernels that embed the library there",
        run: examples,
    },
    Stage {
        name: "install",
        about: "the C library is installed, and serves programs and modules",
        run: install::stage,
    },
    Stage { name: "package", about: "what is to be published can be packed, with README and licences", run: package },
    Stage { name: "loom", about: "every interleaving of the races that matter", run: loom },
    Stage {
        name: "interleave",
        about: "CPUs inside operations at once, and the rules that they break (INTERLEAVE_SCHEDULES, default 800)",
        run: interleave,
    },
    Stage { name: "space", about: "the address layer beside its model (SPACE_OPS, default a million)", run: space },
    Stage { name: "oracle", about: "the simulator looks for stale use (ORACLE_OPS, default ten million)", run: oracle },
    Stage {
        name: "threads",
        about: "threads and signal handlers in a process, and what adds up then (HOSTED_SECONDS, default 20)",
        run: threads,
    },
    Stage {
        name: "guard",
        about: "planted bugs and the library's unit tests under the guard allocator",
        run: guard::run,
    },
    Stage { name: "scullv", about: "the device beside its model (SCULLV_OPS), and mounted", run: scullv },
    Stage { name: "pc", about: "the bare image in QEMU, on machines of several kinds", run: pc::run },
    Stage { name: "replay", about: "the recorded trace, in a process and in the simulator", run: replay },
    Stage { name: "replay-pc", about: "the recorded trace, on the bare machine in QEMU", run: replay_pc },
];

/// The stages of these names; all of them if there are none.
pub fn named(wanted: &[String]) -> Result<Vec<&'static Stage>> {
    for name in wanted {
        let known = ALL.iter().any(|stage| stage.name == name);
        ensure!(known, "no stage {name}; there are: {}", ALL.iter().map(|s| s.name).collect::<Vec<_>>().join(" "));
    }
    Ok(ALL.iter().filter(|stage| wanted.is_empty() || wanted.iter().any(|name| name == stage.name)).collect())
}

fn tidy_up(project: &Project) -> Result<Outcome> {
    let report = tidy::look_at(project)?;
    print!("{report}");
    match report.findings.len() {
        0 => Ok(Outcome::Passed),
        n => bail!("{n} findings"),
    }
}

fn clippy(project: &Project) -> Result<Outcome> {
    for (members, which) in [(MEMBERS, &["--all-targets"][..]), (IMAGE, &["--bins"]), (IMAGE, &["--bins", DEAF])] {
        succeed(project.cargo().arg("clippy").args(members).args(which).args(["--", "-D", "warnings"]))?;
    }
    Ok(Outcome::Passed)
}

/// Binaries first: the command is named like the library, and whoever comes last keeps the folder. The
/// library that is preloaded is named like the crate that it is made of, and has nothing to document.
fn docs(project: &Project) -> Result<Outcome> {
    const LIBRARIES: &[&str] = &["--lib", "--exclude", "vmalloc-guard-preload"];
    for (members, of) in [(IMAGE, &["--bins"][..]), (MEMBERS, &["--bins"]), (MEMBERS, LIBRARIES)] {
        let mut doc = project.cargo();
        succeed(doc.arg("doc").args(members).arg("--no-deps").args(of).env("RUSTDOCFLAGS", "-D warnings"))?;
    }
    Ok(Outcome::Passed)
}

fn unit(project: &Project) -> Result<Outcome> {
    succeed(project.tests().arg("--no-fail-fast"))
}

fn examples(project: &Project) -> Result<Outcome> {
    let examples = || project.targets.iter().filter(|target| target.kind == "example");
    if examples().next().is_none() {
        return Ok(Outcome::Skipped("there are none".into()));
    }
    // Building the tests builds them too.
    succeed(project.tests().arg("--no-run"))?;
    for example in examples() {
        succeed(&mut project.program(&format!("examples/{}", example.name)))?;
    }
    embedders::run(project)?;
    Ok(Outcome::Passed)
}

/// Packed, and not built from the package: that would take as long as everything else.
fn package(project: &Project) -> Result<Outcome> {
    let names: Vec<String> = PUBLISHED.iter().map(|(_, name)| name.replacen('_', "-", 1)).collect();
    let packages = names.iter().flat_map(|name| ["-p", name]);
    let how = ["package", "--offline", "--no-verify", "--allow-dirty", "--quiet"];
    succeed(project.cargo().args(how).args(packages))?;
    for name in &names {
        let listed = project.cargo().args(["package", "--offline", "--allow-dirty", "--list", "-p", name]).output()?;
        let files = String::from_utf8_lossy(&listed.stdout).into_owned();
        for file in ["README.md", "LICENSE-MIT", "LICENSE-APACHE"] {
            ensure!(files.lines().any(|line| line == file), "the package of {name} has no {file}");
        }
    }
    Ok(Outcome::Passed)
}

/// In a folder of its own: the flag would rebuild everything in the other.
fn loom(project: &Project) -> Result<Outcome> {
    if let Some(absent) = without(project, "vmalloc/tests/loom.rs") {
        return Ok(absent);
    }
    let flags = format!("{} --cfg loom", std::env::var("RUSTFLAGS").unwrap_or_default());
    let mut test = project.cargo();
    test.args(["test", "--profile", "proof", "-p", "vmalloc", "--test", "loom", "--features", "loom"]);
    succeed(test.args(["--target-dir", "target/loom"]).env("RUSTFLAGS", flags.trim()))
}

/// In a folder of its own, as loom. A rule that is broken and not noticed, by a race or by
/// the oracle, fails it.
fn interleave(project: &Project) -> Result<Outcome> {
    if let Some(absent) = without(project, "interleave/src/main.rs") {
        return Ok(absent);
    }
    someone_reads(project, "INTERLEAVE_SCHEDULES", "interleave/")?;
    ensure!(project.has(CONTROLS), "no {CONTROLS}: nobody breaks the rules that the oracle has to notice");
    let mut controls = with_rules_to_break(project, "test");
    succeed(controls.args(["-p", "vmalloc-sim", "--test", "oracle", "--test", "machine", "--", "sabotage"]))?;
    let mut run = with_rules_to_break(project, "run");
    run.args(["-p", "vmalloc-interleave"]).env("INTERLEAVE_SCHEDULES", set_or("INTERLEAVE_SCHEDULES", "800"));
    succeed(&mut run)
}

/// The build in which library and simulator break rules on demand.
fn with_rules_to_break(project: &Project, command: &str) -> Command {
    let flags = format!("{} --cfg interleave", std::env::var("RUSTFLAGS").unwrap_or_default());
    let mut cargo = project.cargo();
    cargo.args([command, "--profile", "interleave", "--target-dir", "target/interleave"]);
    cargo.env("RUSTFLAGS", flags.trim());
    cargo
}

fn space(project: &Project) -> Result<Outcome> {
    someone_reads(project, "SPACE_OPS", "vmalloc/")?;
    let mut test = project.cargo();
    test.args(["test", "--profile", "proof", "-p", "vmalloc", "--lib", "space::"]);
    succeed(test.env("SPACE_OPS", set_or("SPACE_OPS", "1000000")))
}

fn threads(project: &Project) -> Result<Outcome> {
    someone_reads(project, "HOSTED_SECONDS", "machines/process/")?;
    // As the unit tests built them: with every check, and with nothing to build again.
    let mut test = project.tests();
    test.args(["--test", "threads", "--test", "signals"]);
    succeed(test.env("HOSTED_SECONDS", set_or("HOSTED_SECONDS", "20")))
}

fn oracle(project: &Project) -> Result<Outcome> {
    if let Some(absent) = without(project, "machines/sim/tests/oracle/main.rs") {
        return Ok(absent);
    }
    someone_reads(project, "ORACLE_OPS", "machines/sim/")?;
    let mut test = project.tests();
    test.args(["--profile", "proof", "--test", "oracle", "--", "promises", "--nocapture"]);
    succeed(test.env("ORACLE_OPS", set_or("ORACLE_OPS", "10000000")))
}

/// The device, then the mount, if its self-test says that something can be
/// mounted here.
fn scullv(project: &Project) -> Result<Outcome> {
    someone_reads(project, "SCULLV_OPS", "scullv/")?;
    let mut device = project.tests();
    device.args(["--test", "device", "--", "--nocapture", "random"]);
    succeed(device.env("SCULLV_OPS", set_or("SCULLV_OPS", "1000000")))?;
    // Building the tests of the command builds it too.
    succeed(project.tests().args(["--test", "scullv", "--no-run"]))?;
    let mut selftest = project.program("vmalloc");
    let ended = selftest.args(["scullv", "--selftest"]).status().context("the self-test")?;
    match ended.code() {
        Some(0) => {}
        Some(SKIPPED) => return Ok(Outcome::Partly("the device passed, but nothing can be mounted here".into())),
        _ => bail!("the self-test: {ended}"),
    }
    let long = [("SCULLV_MOUNT_OPS", "50000"), ("SCULLV_SECONDS", "20")];
    let mut mount = project.tests();
    mount.args(["--test", "scullv", "--", "--nocapture"]);
    for (variable, length) in long {
        someone_reads(project, variable, "cli/tests/")?;
        mount.env(variable, set_or(variable, length));
    }
    succeed(&mut mount)
}

fn replay(project: &Project) -> Result<Outcome> {
    if let Some(absent) = without(project, TRACES) {
        return Ok(absent);
    }
    ["hosted", "sim"].iter().try_for_each(|machine| replay_on(project, machine))?;
    Ok(Outcome::Passed)
}

fn replay_pc(project: &Project) -> Result<Outcome> {
    if let Some(absent) = without(project, TRACES) {
        return Ok(absent);
    }
    if let Some(why) = pc::without_qemu(project)? {
        return Ok(Outcome::Skipped(why));
    }
    replay_on(project, "pc")?;
    Ok(Outcome::Passed)
}

fn replay_on(project: &Project, machine: &str) -> Result<()> {
    fs::create_dir_all(project.root.join("target"))?;
    let report = format!("target/replay-{machine}.json");
    let report_at = project.root.join(&report);
    let _absent_is_fine = fs::remove_file(&report_at);
    // As the unit tests built it: building the tests of the command builds it too.
    succeed(project.tests().args(["--test", "command", "--no-run"]))?;
    let mut replay = project.program("vmalloc");
    succeed(replay.args(["replay", "--machine", machine, "--json", &report]))?;
    judge(&fs::read(&report_at).with_context(|| format!("no report {report}"))?).context(report)
}

/// The command's own word is not enough: its figures have to say it too.
fn judge(report: &[u8]) -> Result<()> {
    let report: Value = serde_json::from_slice(report)?;
    let figure = |name: &str| report[name].as_u64().with_context(|| format!("no number {name}"));
    ensure!(figure("events_done")? > 0 && figure("bytes_verified")? > 0, "nothing was replayed");
    ensure!(figure("events_failed")? == 0, "{} events failed", figure("events_failed")?);
    ensure!(figure("leaked_areas")? == 0, "{} areas leaked", figure("leaked_areas")?);
    Ok(())
}

/// A length that no test reads would promise more than is done.
fn someone_reads(project: &Project, variable: &str, below: &str) -> Result<()> {
    let tree = Tree::read(project)?;
    let mut files = tree.texts.iter().filter(|file| file.path.starts_with(below) && file.path.ends_with(".rs"));
    ensure!(files.any(|file| file.text.contains(variable)), "no test in {below} reads {variable}");
    Ok(())
}

fn without(project: &Project, path: &str) -> Option<Outcome> {
    (!project.has(path)).then(|| Outcome::Skipped(format!("no {path} yet")))
}

/// What the caller set for `variable`, so that a long stage can be made short.
fn set_or(variable: &str, default: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| default.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_means_all_stages() {
        assert_eq!(named(&[]).unwrap().len(), ALL.len());
    }

    #[test]
    fn named_stages_run_in_their_own_order() {
        let stages = named(&["unit".into(), "fmt".into()]).unwrap();
        assert_eq!(stages.iter().map(|stage| stage.name).collect::<Vec<_>>(), ["fmt", "unit"]);
    }

    #[test]
    fn an_unknown_stage_is_refused_and_the_known_ones_are_told() {
        let why = named(&["units".into()]).err().unwrap().to_string();
        assert!(why.starts_with("no stage units; there are: fmt tidy"), "{why}");
    }

    #[test]
    fn what_is_absent_is_skipped_with_its_name() {
        let nowhere = Project { root: "/nowhere".into(), built: "/nowhere".into(), targets: Vec::new() };
        assert_eq!(loom(&nowhere).unwrap(), Outcome::Skipped("no vmalloc/tests/loom.rs yet".into()));
        assert_eq!(interleave(&nowhere).unwrap(), Outcome::Skipped("no interleave/src/main.rs yet".into()));
        assert_eq!(oracle(&nowhere).unwrap(), Outcome::Skipped("no machines/sim/tests/oracle/main.rs yet".into()));
        assert_eq!(replay(&nowhere).unwrap(), Outcome::Skipped("no traces yet".into()));
        assert_eq!(replay_pc(&nowhere).unwrap(), Outcome::Skipped("no traces yet".into()));
        assert_eq!(examples(&nowhere).unwrap(), Outcome::Skipped("there are none".into()));
    }
    fn judged(done: u64, failed: u64, leaked: u64) -> String {
        let report = serde_json::json!({
            "events_done": done, "bytes_verified": 4096, "events_failed": failed, "leaked_areas": leaked
        });
        judge(report.to_string().as_bytes()).map_or_else(|why| why.to_string(), |()| "fine".into())
    }

    #[test]
    fn a_replay_is_judged_by_its_figures() {
        assert_eq!(judged(7, 0, 0), "fine");
        assert_eq!(judged(0, 0, 0), "nothing was replayed");
        assert_eq!(judged(7, 2, 0), "2 events failed");
        assert_eq!(judged(7, 0, 3), "3 areas leaked");
        assert_eq!(judge(b"{}").unwrap_err().to_string(), "no number events_done");
    }
}
