//! A bare-metal machine of its own: the image under QEMU.
//!
//! ```text
//!   tools    the image (built, or given) and the program that runs it
//!   flags    what a [`Guest`] is, as QEMU's command line
//!   process  QEMU as a child: starts, ends, never outlives this program
//!   record   lines for people, and records for programs
//! ```
//!
//! # Words
//! - **guest**: a machine that does not exist yet: CPUs, memory, what it is to do;
//! - **record**: a line of the guest's that starts with `@`: figures for programs;
//! - **pass**: the guest has said, by an exit code that nothing else produces,
//!   that everything it ran was right. A guest that ends in any other way has
//!   not passed: a triple fault alone would make QEMU exit with 0.

mod error;
mod flags;
pub mod process;
pub mod record;
pub mod tools;

pub use error::QemuError;
use process::Process;
use record::{Line, Record};
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tools::Tools;

/// Lines that are kept to be shown when a guest ends badly.
const LAST_LINES: usize = 20;

/// The board.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Board {
    /// A PC with PCI
    #[default]
    Q35,
    /// A board for virtual machines, with nearly nothing on it
    Microvm,
}

/// A machine to start.
#[derive(Clone, Debug)]
pub struct Guest {
    /// The board.
    pub board: Board,
    /// CPUs.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// Nodes that memory and CPUs are spread over.
    pub nodes: u32,
    /// Whether addresses have five levels.
    pub la57: bool,
    /// Whether one tick of the time stamp counter is one instruction. Such a
    /// guest repeats itself to the byte, and has one thread for all CPUs.
    pub exact: bool,
    /// Settings of the image: `key=value`.
    pub settings: Vec<String>,
    /// The shell's commands, then it powers off; none: it listens to its line.
    pub commands: Vec<String>,
    /// A file for the image.
    pub module: Option<Vec<u8>>,
    /// After this time it is ended.
    pub time_limit: Option<Duration>,
}

/// How a guest ended that has ended by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Whether everything that it ran was right.
    pub passed: bool,
    /// What it told programs.
    pub records: Vec<Record>,
}

impl Default for Guest {
    fn default() -> Guest {
        Guest {
            board: Board::Q35,
            cpus: 1,
            memory: 256 << 20,
            nodes: 1,
            la57: false,
            exact: false,
            settings: Vec::new(),
            commands: Vec::new(),
            module: None,
            time_limit: None,
        }
    }
}

impl Guest {
    /// Starts the guest and listens until it has ended. Lines are handed to
    /// `on_line` as they come.
    ///
    /// # Errors
    /// It cannot be started, panics, crashes, or takes too long. The error has
    /// the last lines.
    pub fn run(&self, tools: &Tools, on_line: &mut dyn FnMut(Line<'_>)) -> Result<Outcome, QemuError> {
        let deadline = self.time_limit.map(|limit| Instant::now() + limit);
        let mut process = Process::start(self, tools)?;
        drop(process.take_input());
        let mut heard = Heard::default();
        match process.listen(deadline, &mut |line| heard.take(line, on_line))? {
            Some(code) => Ok(Outcome { passed: code.judged(heard.last.text())?, records: heard.records }),
            None => Err(self.late(heard.last.text())),
        }
    }

    /// It has not ended by itself; `last` are its last lines.
    pub fn late(&self, last: String) -> QemuError {
        QemuError::TimeLimit { limit: self.time_limit.unwrap_or_default(), last }
    }
}

/// What was heard of a guest.
#[derive(Default)]
struct Heard {
    records: Vec<Record>,
    last: Last,
}

impl Heard {
    fn take(&mut self, line: &str, on_line: &mut dyn FnMut(Line<'_>)) {
        match Record::parse(line) {
            Some(record) => {
                on_line(Line::Record(&record));
                self.records.push(record);
            }
            None => {
                on_line(Line::Text(line));
                self.last.push(line);
            }
        }
    }
}

/// The last lines.
#[derive(Default)]
struct Last(VecDeque<String>);

impl Last {
    fn push(&mut self, line: &str) {
        if self.0.len() == LAST_LINES {
            self.0.pop_front();
        }
        self.0.push_back(line.to_owned());
    }

    /// The end of a sentence about a bad end.
    fn text(&self) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        let lines: String = self.0.iter().map(|line| format!("\n  {line}")).collect();
        format!("; its last lines:{lines}")
    }
}

#[cfg(test)]
mod tests;
