//! Runs a test program under limits, and ends it at the first test that fails.
//!
//! Limits are of processor time, so that a busy machine makes no mutant look
//! caught; a time on the clock, far larger, is for those that sleep for ever.

use anyhow::{Context, Result};
use std::io::{BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(10);
/// Linux counts a process's time in hundredths of a second.
const JIFFY: Duration = Duration::from_millis(10);
const PAGE: u64 = 4096;

/// How much a program may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Processor time.
    pub time: Duration,
    /// Processor time without a word.
    pub silence: Duration,
    /// Time on the clock.
    pub clock: Duration,
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
}

/// Runs the program.
pub fn watch(command: &mut Command, limits: Limits) -> Result<Ran> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("a test program")?;
    let lines = lines_of(child.stdout.take().context("its output")?);
    let mut watch =
        Watch { began: Instant::now(), spoke: Duration::ZERO, time: Duration::ZERO, silence: Duration::ZERO };
    let end = watch.until_end(&mut child, &lines, limits);
    // It may have ended by itself meanwhile.
    let _gone = child.kill();
    child.wait()?;
    Ok(Ran { end: end?, time: watch.time, silence: watch.silence })
}

struct Watch {
    began: Instant,
    /// Processor time at the last word.
    spoke: Duration,
    time: Duration,
    silence: Duration,
}

impl Watch {
    fn until_end(&mut self, child: &mut Child, lines: &Receiver<String>, limits: Limits) -> Result<End> {
        loop {
            match lines.recv_timeout(TICK) {
                Ok(line) if line.ends_with("FAILED") && line.starts_with("test ") => {
                    return Ok(End::Failed(test_of(&line)));
                }
                Ok(_) => self.spoke = self.time,
                Err(RecvTimeoutError::Timeout) => {}
                // It closes its output when it ends.
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(TICK),
            }
            let usage = Usage::of(child.id());
            self.time = usage.map_or(self.time, |usage| usage.time);
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

    fn exceeded(&self, usage: Option<Usage>, limits: Limits) -> Option<&'static str> {
        let memory = usage.map_or(0, |usage| usage.memory);
        let limits = [
            (self.time > limits.time, "time"),
            (self.time - self.spoke > limits.silence, "time for one test"),
            (self.began.elapsed() > limits.clock, "time asleep"),
            (memory > limits.memory, "memory"),
        ];
        limits.into_iter().find_map(|(exceeded, what)| exceeded.then_some(what))
    }
}

/// `a::b` of `test a::b ... FAILED`
fn test_of(line: &str) -> String {
    line.split_whitespace().nth(1).unwrap_or("?").to_owned()
}

/// The output, line by line as it comes. Each half of a line that names a test
/// counts as a word too, since a program may die in between.
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
            continue;
        }
        let text = String::from_utf8_lossy(&std::mem::take(&mut line)).into_owned();
        if sender.send(text).is_err() {
            return;
        }
    }
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
        clock: Duration::from_secs(60),
        memory: 1 << 30,
    };

    fn run(script: &str, limits: Limits) -> End {
        watch(Command::new("sh").args(["-c", script]), limits).unwrap().end
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
        assert_eq!(run("exec sleep 60", Limits { clock: soon, ..LIMITS }), End::Exceeded("time asleep"));
        assert_eq!(run("while :; do echo; done", Limits { time: soon, ..LIMITS }), End::Exceeded("time"));
        let silent = Limits { silence: soon, ..LIMITS };
        assert_eq!(run("while :; do :; done", silent), End::Exceeded("time for one test"));
        assert_eq!(run("exec sleep 60", Limits { memory: 1, ..LIMITS }), End::Exceeded("memory"));
    }
}
