//! Runs a test program under limits, and ends it at the first test that fails.
//!
//! Limits are of processor time, so that a busy machine makes no mutant look
//! caught; and of time asleep, for those that sleep for ever. Who waits for a
//! processor does not sleep.

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::io::{BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(10);
/// Linux counts a process's time in hundredths of a second.
const JIFFY: Duration = Duration::from_millis(10);
const PAGE: u64 = 4096;
/// What the harness writes behind the name of a test that begins.
const BEGINS: &str = " ... ";

/// How much a program may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Processor time.
    pub time: Duration,
    /// Processor time without a word.
    pub silence: Duration,
    /// The same in the middle of a test, by its name.
    pub tests: BTreeMap<String, Duration>,
    /// Time on the clock in which no thread of it would run.
    pub asleep: Duration,
    /// Resident bytes.
    pub memory: u64,
}

/// How a program ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// By itself, and all was well.
    Passed,
    /// A test failed, or the whole of it: which.
    Failed(String),
    /// It took too much: of what.
    Exceeded(&'static str),
}

/// What a run showed.
#[derive(Clone, Debug)]
pub struct Ran {
    /// How it ended.
    pub end: End,
    /// Processor time.
    pub time: Duration,
    /// The longest of it without a word.
    pub silence: Duration,
    /// What each test took of it.
    pub tests: BTreeMap<String, Duration>,
}

/// Runs the program.
pub fn watch(command: &mut Command, limits: &Limits) -> Result<Ran> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("a test program")?;
    let lines = lines_of(child.stdout.take().context("its output")?);
    let mut watch = Watch::new();
    let end = watch.until_end(&mut child, &lines, limits);
    // It may have ended by itself meanwhile.
    let _gone = child.kill();
    child.wait()?;
    Ok(Ran { end: end?, time: watch.time, silence: watch.silence, tests: watch.tests })
}

struct Watch {
    /// When it was looked at last.
    looked: Instant,
    asleep: Duration,
    /// Processor time at the last word.
    spoke: Duration,
    time: Duration,
    silence: Duration,
    /// The test that runs.
    test: String,
    tests: BTreeMap<String, Duration>,
}

impl Watch {
    fn new() -> Watch {
        let (asleep, spoke, time, silence) = Default::default();
        let (test, tests) = (String::new(), BTreeMap::new());
        Watch { looked: Instant::now(), asleep, spoke, time, silence, test, tests }
    }

    /// A test begins, or has ended.
    fn hear(&mut self, word: &str) {
        let took = self.time - self.spoke;
        self.spoke = self.time;
        match word.strip_prefix("test ").and_then(|word| word.strip_suffix(BEGINS)) {
            Some(test) => self.test = test.to_owned(),
            None if self.test.is_empty() => {}
            None => _ = self.tests.insert(std::mem::take(&mut self.test), took),
        }
    }

    fn until_end(&mut self, child: &mut Child, lines: &Receiver<String>, limits: &Limits) -> Result<End> {
        loop {
            match lines.recv_timeout(TICK) {
                Ok(line) if line.ends_with("FAILED") && line.starts_with("test ") => {
                    return Ok(End::Failed(test_of(&line)));
                }
                Ok(word) => self.hear(&word),
                Err(RecvTimeoutError::Timeout) => {}
                // It closes its output when it ends.
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(TICK),
            }
            let usage = Usage::of(child.id());
            self.time = usage.map_or(self.time, |usage| usage.time);
            let since = std::mem::replace(&mut self.looked, Instant::now()).elapsed();
            self.asleep += if would_run(child.id()) { Duration::ZERO } else { since };
            self.silence = self.silence.max(self.time - self.spoke);
            if let Some(status) = child.try_wait()? {
                let said = lines.iter().find(|line| line.starts_with("test ") && line.ends_with("FAILED"));
                return Ok(match (status.success(), said) {
                    (true, _) => End::Passed,
                    (false, Some(line)) => End::Failed(test_of(&line)),
                    (false, None) => End::Failed(status.to_string()),
                });
            }
            if let Some(what) = self.exceeded(usage, limits) {
                return Ok(End::Exceeded(what));
            }
        }
    }

    fn exceeded(&self, usage: Option<Usage>, limits: &Limits) -> Option<&'static str> {
        let memory = usage.map_or(0, |usage| usage.memory);
        let silence = limits.tests.get(&self.test).unwrap_or(&limits.silence);
        let limits = [
            (self.time > limits.time, "time"),
            (self.time - self.spoke > *silence, "time for one test"),
            (self.asleep > limits.asleep, "time asleep"),
            (memory > limits.memory, "memory"),
        ];
        limits.into_iter().find_map(|(exceeded, what)| exceeded.then_some(what))
    }
}

/// `a::b` of `test a::b ... FAILED`
fn test_of(line: &str) -> String {
    line.split_whitespace().nth(1).unwrap_or("?").to_owned()
}

/// The output, line by line as it comes. The first half of a line that names a test,
/// which comes when the test begins, counts as a word too.
fn lines_of(output: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || send_lines(output, &sender));
    receiver
}

fn send_lines(output: ChildStdout, sender: &Sender<String>) {
    let mut line = Vec::new();
    for byte in BufReader::new(output).bytes() {
        let Ok(byte) = byte else { return };
        if byte != b'\n' {
            line.push(byte);
        }
        let begins = line.starts_with(b"test ") && line.ends_with(BEGINS.as_bytes());
        if byte == b'\n' || begins {
            let text = String::from_utf8_lossy(&line).into_owned();
            if !begins {
                line.clear();
            }
            if sender.send(text).is_err() {
                return;
            }
        }
    }
}

/// Whether a thread of the process runs, or waits for a processor.
fn would_run(process: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let mut stats = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok());
    stats.any(|stat| stat.rsplit_once(')').is_some_and(|(_, after_name)| after_name.trim_start().starts_with('R')))
}

#[derive(Clone, Copy)]
struct Usage {
    time: Duration,
    memory: u64,
}

impl Usage {
    /// As `/proc` tells it; `None` when the process is gone.
    fn of(process: u32) -> Option<Usage> {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        let (_, after_name) = stat.rsplit_once(')')?;
        let field = |n: usize| after_name.split_whitespace().nth(n)?.parse::<u64>().ok();
        let jiffies = u32::try_from(field(11)? + field(12)?).ok()?;
        Some(Usage { time: JIFFY * jiffies, memory: field(21)? * PAGE })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        time: Duration::from_secs(20),
        silence: Duration::from_secs(20),
        tests: BTreeMap::new(),
        asleep: Duration::from_secs(60),
        memory: 1 << 30,
    };

    fn run(script: &str, limits: Limits) -> End {
        watch(Command::new("sh").args(["-c", script]), &limits).unwrap().end
    }

    #[test]
    fn a_program_passes_or_fails_by_its_exit_code() {
        assert_eq!(run("echo test a ... ok", LIMITS), End::Passed);
        assert_eq!(run("exit 3", LIMITS), End::Failed("exit status: 3".into()));
    }

    #[test]
    fn the_first_test_that_fails_ends_it() {
        let failed = End::Failed("a::b".into());
        assert_eq!(run("echo 'test a::b ... FAILED'; exec sleep 60", LIMITS), failed);
        assert_eq!(run("echo 'test a::b ... FAILED'; exit 101", LIMITS), failed);
    }

    #[test]
    fn a_program_that_sleeps_or_spins_or_says_nothing_is_ended() {
        let soon = Duration::from_millis(50);
        assert_eq!(run("exec sleep 60", Limits { asleep: soon, ..LIMITS }), End::Exceeded("time asleep"));
        assert_eq!(run("while :; do echo; done", Limits { time: soon, ..LIMITS }), End::Exceeded("time"));
        let awake = "n=0; while [ $n -lt 30000 ]; do n=$((n + 1)); done";
        assert_eq!(run(awake, Limits { asleep: soon, ..LIMITS }), End::Passed);
        let silent = Limits { silence: soon, ..LIMITS };
        assert_eq!(run("while :; do :; done", silent), End::Exceeded("time for one test"));
        assert_eq!(run("exec sleep 60", Limits { memory: 1, ..LIMITS }), End::Exceeded("memory"));
    }

    #[test]
    fn a_test_has_a_limit_of_its_own() {
        let tests = BTreeMap::from([("a::b".to_owned(), Duration::from_millis(50))]);
        let limits = Limits { tests, ..LIMITS };
        let spins = "printf 'test a::b ... '; while :; do :; done";
        assert_eq!(run(spins, limits.clone()), End::Exceeded("time for one test"));
        assert_eq!(run("echo 'test a::b ... ok'; printf 'test a::c ... '; exit 0", limits), End::Passed);
        let took =
            watch(Command::new("sh").args(["-c", "printf 'test a::b ... '; echo ok; sleep 0.3"]), &LIMITS).unwrap();
        assert_eq!(took.tests.keys().collect::<Vec<_>>(), ["a::b"]);
    }
}
