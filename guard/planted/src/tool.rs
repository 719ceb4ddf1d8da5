//! Running a program under a tool, and what the tool says.

use crate::{Case, Kind, Program};
use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Deserializer, Value};
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

/// Seconds; what takes longer hangs, and is ended by a signal.
const PATIENCE: u32 = 120;
/// From here on, exit codes say that a child died, or that valgrind has found something.
const DIED: i32 = 128;

/// The words on stderr by which a tool names a kind.
pub type Words = fn(Kind) -> &'static [&'static str];

/// What programs are run under.
#[derive(Clone, Default)]
pub struct Tool {
    /// Words before the program.
    pub prefix: Vec<OsString>,
    /// Set for the program.
    pub env: Vec<(OsString, OsString)>,
    /// Absent where the tool writes reports.
    pub words: Option<Words>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// What was run.
    #[serde(flatten)]
    pub case: Case,
    /// What came of it.
    pub verdict: Verdict,
    /// The exit status, in words.
    pub ended: String,
    /// The kinds that reports name.
    pub reported: Vec<String>,
}

/// What came of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The bug: the program died, and its kind was named.
    Found,
    /// The program died, and its bug was not named.
    Unnamed,
    /// The bug was not noticed.
    Missed,
    /// There was none, and nothing was found.
    Right,
    /// There was none, and something was found, or the program ended otherwise than it should.
    Accused,
}

impl Tool {
    /// The program, under this tool.
    pub fn command(&self, program: &Path) -> Command {
        let mut words = self.prefix.iter().map(OsString::as_os_str).chain([program.as_os_str()]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs `case`. The tool is told to write its reports into `folder`.
    pub fn run(&self, program: &Program, case: Case, folder: &Path) -> Result<Outcome> {
        let errors = folder.join("stderr");
        let mut command = self.command(&program.path);
        command.args([case.kind.word(), &case.size.to_string(), case.way.word()]);
        command.env("VMALLOC_GUARD_REPORT", folder.join("%p.json"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&errors)?);
        let status =
            watched(&mut command).status().with_context(|| format!("{:?} cannot be run", command.get_program()))?;
        let said = String::from_utf8_lossy(&fs::read(&errors)?).into_owned();
        let reported = reports(folder)?;
        let named = match self.words {
            Some(words) => words(case.kind).iter().any(|word| said.contains(word)),
            None => reported.iter().any(|kind| case.kind.reported().contains(&&**kind)),
        };
        let verdict = verdict(case.kind, status, named, !reported.is_empty());
        Ok(Outcome { case, verdict, ended: status.to_string(), reported })
    }
}

/// A program that hangs dies after a while, and none leaves a core.
pub fn watched(command: &mut Command) -> &mut Command {
    // SAFETY: `prepare` does nothing that is forbidden between fork and exec.
    unsafe { command.pre_exec(prepare) }
}

/// In the child. Source: alarm(2) and getrlimit(2): both stay over execve.
fn prepare() -> std::io::Result<()> {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: system calls with arguments of their own.
    unsafe {
        libc::alarm(PATIENCE);
        libc::setrlimit(libc::RLIMIT_CORE, &none);
    }
    Ok(())
}

fn verdict(kind: Kind, status: ExitStatus, named: bool, reported: bool) -> Verdict {
    let hung = status.signal() == Some(libc::SIGALRM);
    let died = !hung && (status.signal().is_some() || status.code().is_some_and(|code| code >= DIED));
    match (kind, died, named) {
        (Kind::None, ..) if status.success() && !reported => Verdict::Right,
        (Kind::None, ..) => Verdict::Accused,
        (_, true, true) => Verdict::Found,
        (_, true, false) => Verdict::Unnamed,
        (_, false, _) => Verdict::Missed,
    }
}

/// The kinds that the reports in `folder` name; the reports are taken away.
fn reports(folder: &Path) -> Result<Vec<String>> {
    let mut kinds = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            kinds.extend(named(&fs::read(&path)?));
            fs::remove_file(&path)?;
        }
    }
    Ok(kinds)
}

/// The kind of each object in `text`; what is no JSON is a kind of its own, since nobody could read it.
fn named(text: &[u8]) -> Vec<String> {
    let kind = |value: &Value| value["kind"].as_str().unwrap_or("no kind").to_owned();
    let values = Deserializer::from_slice(text).into_iter::<Value>();
    values.map(|value| value.map_or_else(|error| format!("no JSON: {error}"), |value| kind(&value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bug_is_found_if_the_program_dies_and_it_is_named() {
        let of = |raw, named| verdict(Kind::Underrun, ExitStatus::from_raw(raw), named, named);
        assert_eq!([of(11, true), of(11, false)], [Verdict::Found, Verdict::Unnamed]);
        assert_eq!(
            [of((128 + 11) << 8, true), of(0, true), of(1 << 8, true)],
            [Verdict::Found, Verdict::Missed, Verdict::Missed]
        );
        assert_eq!(of(libc::SIGALRM, true), Verdict::Missed);
    }

    #[test]
    fn nothing_may_be_found_in_a_correct_program() {
        let of = |raw, reported| verdict(Kind::None, ExitStatus::from_raw(raw), false, reported);
        assert_eq!(of(0, false), Verdict::Right);
        assert_eq!([of(0, true), of(6, false), of(4 << 8, false)], [Verdict::Accused; 3]);
    }

    #[test]
    fn all_reports_of_a_file_are_read_and_broken_ones_are_seen() {
        assert_eq!(named(br#"{"kind":"overrun","bytes":1}{"kind":"canary"}"#), ["overrun", "canary"]);
        assert_eq!(named(br#"{"x":1}"#), ["no kind"]);
        assert!(named(br#"{"kind":"#)[0].starts_with("no JSON: "));
    }
}
