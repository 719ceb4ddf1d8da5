//! Runs stages one after the other and sums them up.
//!
//! A failing stage stops nothing: the others run, and the summary at the end
//! says which one it was. A stage that cannot run here is **skipped**, with
//! the reason in the summary: it counts neither as passed nor as failed.

use crate::project::Project;
use anyhow::{Context, Result, bail, ensure};
use std::fmt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// A part of the test command.
pub struct Stage {
    /// What selects it on the command line.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// Does it; an error is a failed stage.
    pub run: fn(&Project) -> Result<Outcome>,
}

/// How a stage ended, unless it failed.
#[derive(PartialEq, Eq, Debug)]
pub enum Outcome {
    /// All of it ran and was right.
    Passed,
    /// What this machine allows ran and was right, in CI too: what did not run, and why.
    Partly(String),
    /// It could not run: why.
    Skipped(String),
}

/// What is left of an outcome in CI: there nothing may be skipped.
fn in_ci(ended: Result<Outcome>) -> Result<Outcome> {
    match ended? {
        Outcome::Skipped(why) => bail!("skipped, which CI may not do: {why}"),
        outcome => Ok(outcome),
    }
}

struct Line {
    name: &'static str,
    ended: Result<Outcome>,
    time: Duration,
}

struct Summary(Vec<Line>);

impl Summary {
    fn passed(&self) -> usize {
        self.0.iter().filter(|line| matches!(line.ended, Ok(Outcome::Passed))).count()
    }

    fn failed(&self) -> usize {
        self.0.iter().filter(|line| line.ended.is_err()).count()
    }

    fn partly(&self) -> usize {
        self.0.iter().filter(|line| matches!(line.ended, Ok(Outcome::Partly(_)))).count()
    }

    fn skipped(&self) -> usize {
        self.0.iter().filter(|line| matches!(line.ended, Ok(Outcome::Skipped(_)))).count()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Line { name, ended, time } in &self.0 {
            let (word, why) = match ended {
                Ok(Outcome::Passed) => ("ok", String::new()),
                Ok(Outcome::Partly(why)) => ("PARTLY", format!("  {why}")),
                Ok(Outcome::Skipped(why)) => ("SKIPPED", format!("  {why}")),
                Err(why) => ("FAILED", format!("  {why:#}")),
            };
            writeln!(f, "{name:<9} {word:<8} {:>7.1} s{why}", time.as_secs_f64())?;
        }
        write!(f, "{} passed, {} failed", self.passed(), self.failed())?;
        for (n, word) in [(self.partly(), "partly"), (self.skipped(), "skipped")] {
            if n > 0 {
                write!(f, ", {n} {word}")?;
            }
        }
        writeln!(f)
    }
}

/// Runs `stages` and prints the summary, its totals as the last line.
pub fn run(project: &Project, stages: &[&Stage]) -> Result<ExitCode> {
    let ci = std::env::var_os("CI").is_some_and(|value| value == "true");
    let lines = stages.iter().map(|stage| timed(project, stage, ci)).collect();
    let summary = Summary(lines);
    println!("\n{}\n{summary}", "─".repeat(60));
    Ok(if summary.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn timed(project: &Project, stage: &Stage, ci: bool) -> Line {
    println!("\n── {}: {}", stage.name, stage.about);
    let start = Instant::now();
    let ended = (stage.run)(project);
    let ended = if ci { in_ci(ended) } else { ended };
    let time = start.elapsed();
    match &ended {
        Ok(Outcome::Passed) => println!("── {} ok, {:.1} s", stage.name, time.as_secs_f64()),
        Ok(Outcome::Partly(why)) => println!("── {} PARTLY: {why}", stage.name),
        Ok(Outcome::Skipped(why)) => println!("── {} SKIPPED: {why}", stage.name),
        Err(why) => println!("── {} FAILED: {why:#}", stage.name),
    }
    Line { name: stage.name, ended, time }
}

/// Runs a command of a stage, its output shown.
pub fn succeed(command: &mut Command) -> Result<Outcome> {
    let shown = shown(command);
    println!("$ {shown}");
    let status = command.status().with_context(|| shown.clone())?;
    ensure!(status.success(), "{shown}: {status}");
    Ok(Outcome::Passed)
}

fn shown(command: &Command) -> String {
    let set = command
        .get_envs()
        .filter_map(|(key, value)| Some(format!("{}={:?} ", key.to_string_lossy(), value?.to_string_lossy())));
    let args = command.get_args().map(|arg| format!(" {}", arg.to_string_lossy()));
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy();
    set.chain([program.into_owned()]).chain(args).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nowhere() -> Project {
        Project { root: "/".into(), built: "/".into(), targets: Vec::new() }
    }

    fn line(run: fn(&Project) -> Result<Outcome>) -> Line {
        line_in(false, run)
    }

    fn line_in(ci: bool, run: fn(&Project) -> Result<Outcome>) -> Line {
        Line { time: Duration::from_millis(1500), ..timed(&nowhere(), &Stage { name: "it", about: "a test", run }, ci) }
    }

    #[test]
    fn the_last_line_counts_what_passed_and_what_failed() {
        let summary = Summary(vec![
            line(|_| Ok(Outcome::Passed)),
            line(|_| anyhow::bail!("broken")),
            line(|_| Ok(Outcome::Skipped("no compiler".into()))),
            line(|_| Ok(Outcome::Partly("no mount".into()))),
        ]);
        assert_eq!(
            summary.to_string(),
            "it        ok           1.5 s\n\
             it        FAILED       1.5 s  broken\n\
             it        SKIPPED      1.5 s  no compiler\n\
             it        PARTLY       1.5 s  no mount\n\
             1 passed, 1 failed, 1 partly, 1 skipped\n"
        );
        assert_eq!(Summary(Vec::new()).to_string(), "0 passed, 0 failed\n");
    }

    #[test]
    fn in_ci_what_is_skipped_has_failed_and_what_ran_partly_has_not() {
        let summary = Summary(vec![
            line_in(true, |_| Ok(Outcome::Skipped("no compiler".into()))),
            line_in(true, |_| Ok(Outcome::Partly("no mount".into()))),
            line_in(true, |_| Ok(Outcome::Passed)),
        ]);
        assert_eq!(
            summary.to_string(),
            "it        FAILED       1.5 s  skipped, which CI may not do: no compiler\n\
             it        PARTLY       1.5 s  no mount\n\
             it        ok           1.5 s\n\
             1 passed, 1 failed, 1 partly\n"
        );
    }

    #[test]
    fn a_failing_stage_fails_the_run_and_stops_no_other() {
        let fails = Stage { name: "a", about: "fails", run: |_| anyhow::bail!("broken") };
        let works = Stage { name: "b", about: "works", run: |_| Ok(Outcome::Passed) };
        let code = run(&nowhere(), &[&fails, &works]).unwrap();
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::FAILURE));
        let code = run(&nowhere(), &[&works]).unwrap();
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::SUCCESS));
    }

    #[test]
    fn a_command_that_fails_is_named_with_its_environment() {
        let why = succeed(Command::new("false").arg("-x").env("A", "1")).unwrap_err().to_string();
        assert!(why.starts_with("A=\"1\" false -x: "), "{why}");
    }
}
