//! `vmalloc boot`: the bare-metal machine, for people and for scripts.
//!
//! With commands, the guest runs them and powers off; what it says is printed.
//! Without, keys go to its shell and what it says comes back byte by byte, as
//! if the terminal hung on its serial line. Records are for programs, and are
//! shown to nobody.

mod keys;
mod relay;
mod terminal;

use crate::options::{Boot, word};
use crate::qemu::process::{Code, News, Process, Stopper};
use crate::qemu::record::Line;
use crate::qemu::tools::{Purpose, Tools};
use crate::qemu::{Board, Guest};
use anyhow::{Context, Result, ensure};
use relay::Relay;
use std::io::{Write, stdout};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A command line of so many bytes is cut, by the image (`machines/pc/src/boot/line.rs`) or on its way there.
const LONGEST_LINE: usize = 4096;

/// What is to be run.
pub struct Run {
    guest: Guest,
    tools: Tools,
}

/// Reads what `options` name, and builds what they need.
pub fn prepare(options: &Boot) -> Result<Run> {
    let guest = guest(options)?;
    check(&guest)?;
    Ok(Run { guest, tools: Tools::find(&options.source, Purpose::Use)? })
}

/// Refuses what QEMU would take without a word and the guest could not be.
fn check(guest: &Guest) -> Result<()> {
    ensure!(
        guest.nodes == 1 || guest.board != Board::Microvm,
        "--nodes {}: the board microvm cannot tell its guest of nodes; take --machine q35, or leave --nodes out",
        guest.nodes
    );
    let bytes = guest.command_line().len();
    ensure!(
        bytes < LONGEST_LINE,
        "the settings and commands have {bytes} bytes, the image takes fewer than {LONGEST_LINE}; commands in a file \
         (--script) may be longer"
    );
    Ok(())
}

fn guest(options: &Boot) -> Result<Guest> {
    let file = options.script.as_ref().or(options.module.as_ref());
    let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("{}: cannot be read", path.display()));
    let module = file.map(read).transpose()?;
    let script = options.script.iter().map(|_| "@script".to_owned());
    let policy = options.policy.map(|policy| format!("policy={}", word(policy)));
    Ok(Guest {
        board: options.machine,
        cpus: options.cpus,
        memory: options.memory,
        nodes: options.nodes,
        la57: options.la57,
        settings: policy.into_iter().chain(options.settings.iter().cloned()).collect(),
        commands: options.commands.iter().cloned().chain(script).collect(),
        module,
        time_limit: options.time_limit.map(Duration::from_secs),
        ..Guest::default()
    })
}

impl Run {
    /// Runs it to its end, and tells whether the guest passed.
    pub fn run(&self) -> Result<bool> {
        if self.guest.commands.is_empty() {
            return self.connect();
        }
        let mut shown = Ok(());
        let outcome = self.guest.run(&self.tools, &mut |line| {
            if let Line::Text(text) = line
                && shown.is_ok()
            {
                shown = show(format!("{text}\n").as_bytes());
            }
        })?;
        shown.map(|()| outcome.passed)
    }

    /// Connects the terminal to the guest's shell.
    fn connect(&self) -> Result<bool> {
        let deadline = self.guest.time_limit.map(|limit| Instant::now() + limit);
        let mut process = Process::start(&self.guest, &self.tools)?;
        let stopper = process.stopper();
        terminal::stop_at_signals(stopper.clone()).context("signals cannot be waited for")?;
        let raw = terminal::Raw::enter().context("the terminal cannot be set up")?;
        if raw.is_some() {
            print!("Ctrl-A x ends the machine at once; poweroff ends it well.\r\n");
        }
        let code = relay_until_the_end(&mut process, deadline, &stopper)?;
        drop(raw);
        match code {
            _ if stopper.used() => Ok(false),
            Some(code) => Ok(code.judged(String::new())?),
            None => Err(self.guest.late(String::new()))?,
        }
    }
}

/// Prints what the guest says until it has ended, and tells how. Keys go to it
/// from its first word on: before that it does not listen, and loses them.
fn relay_until_the_end(process: &mut Process, deadline: Option<Instant>, stopper: &Stopper) -> Result<Option<Code>> {
    let (mut relay, mut out) = (Relay::default(), Vec::new());
    let mut input = process.take_input();
    loop {
        let news = process.next(deadline)?;
        match &news {
            News::Bytes(bytes) => {
                relay.pass(bytes, &mut out);
                input.take().into_iter().for_each(|input| terminal::forward_keys(input, stopper.clone()));
            }
            News::Complaint(text) => eprintln!("qemu: {text}"),
            News::Ended(_) | News::Late => relay.flush(&mut out),
        }
        show(&out)?;
        out.clear();
        match news {
            News::Ended(code) => return Ok(Some(code)),
            News::Late => return Ok(None),
            News::Bytes(_) | News::Complaint(_) => {}
        }
    }
}

fn show(text: &[u8]) -> Result<()> {
    let mut stdout = stdout().lock();
    stdout.write_all(text).and_then(|()| stdout.flush()).context("what the machine says cannot be shown")
}
