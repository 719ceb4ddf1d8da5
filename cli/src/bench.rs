//! `vmalloc bench`: what things cost, beside what they cost elsewhere.
//!
//! ```text
//!   linux    Linux's cases, to the instruction     profile  where they are spent
//!   figures  Linux's, as shipped                   steps    a case, instruction by instruction
//!   measured what the guest counted                events   what instructions do not show
//!   threads  several CPUs at once                  latency  the longest single call
//!   hosted   a process, beside other allocators
//!   scullv   the mounted device, beside tmpfs      loopback a mount that does nothing else
//!   guard    guarded programs, beside other tools
//! ```

mod events;
mod figures;
mod guard;
mod hosted;
mod latency;
mod linux;
mod loopback;
mod measured;
mod profile;
mod row;
mod scullv;
mod steps;
mod table;
mod threads;

use crate::options;
use crate::qemu::Guest;
use crate::qemu::record::{Line, Record};
use crate::qemu::tools::{Purpose, Tools};
use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use std::path::Path;
use std::time::Duration;
use vmalloc_suite::Case;

/// Memory of a machine: two sets of `full_fit`, and what may wait.
const MEMORY: u64 = 1 << 30;
const PATIENCE: Duration = Duration::from_secs(900);

/// What is to be measured, and with what.
pub struct Bench {
    what: options::Bench,
    /// None where no machine is booted.
    tools: Option<Tools>,
}

/// Checks what was asked for, and builds what it needs.
pub fn prepare(what: options::Bench) -> Result<Bench> {
    let source = match &what {
        options::Bench::Linux(options) => {
            options.case.as_ref().map(|case| case.parse::<Case>()).transpose()?;
            Some(&options.source)
        }
        options::Bench::Profile(options) => {
            if options.case != steps::REMOTE {
                options.case.parse::<Case>()?;
            }
            Some(&options.source)
        }
        options::Bench::Threads(options) => Some(&options.source),
        options::Bench::Latency(options) => Some(&options.source),
        options::Bench::Guard(options) => {
            guard::check(options)?;
            None
        }
        options::Bench::Hosted(_) | options::Bench::Scullv(_) => None,
    };
    let tools = source.map(|source| Tools::find(source, Purpose::Measure)).transpose()?;
    Ok(Bench { what, tools })
}

impl Bench {
    /// Measures and prints; whether all went well.
    pub fn run(&self) -> Result<bool> {
        let mut out = String::new();
        match (&self.what, &self.tools) {
            (options::Bench::Linux(options), Some(tools)) => linux::run(options, tools, &mut out)?,
            (options::Bench::Profile(options), Some(tools)) => profile::run(options, tools, &mut out)?,
            (options::Bench::Threads(options), Some(tools)) => threads::run(options, tools, &mut out)?,
            (options::Bench::Latency(_), Some(tools)) => latency::run(tools, &mut out)?,
            (options::Bench::Scullv(options), _) => scullv::run(options, &mut out)?,
            (options::Bench::Guard(options), _) => guard::run(options, &mut out)?,
            (options::Bench::Hosted(options), _) => hosted::run(options, &mut out)?,
            (_, None) => bail!("no machine to measure on"),
        }
        crate::print(&out)?;
        Ok(true)
    }
}

/// Writes figures for programs.
fn write_json(path: &Path, figures: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(figures)? + "\n";
    crate::output::write(path, &text)
}

/// Runs `commands` on a machine whose clock counts instructions, and returns
/// what it told programs.
fn listen(tools: &Tools, cpus: u32, settings: Vec<String>, commands: Vec<String>) -> Result<Vec<Record>> {
    hear(tools, Guest { exact: true, memory: MEMORY, cpus, settings, commands, ..Guest::default() }, &mut |_| ())
}

/// Runs `guest`, and returns what it told programs; each record is shown to
/// `on_record` when it comes.
fn hear(tools: &Tools, guest: Guest, on_record: &mut dyn FnMut(&Record)) -> Result<Vec<Record>> {
    let guest = Guest { time_limit: Some(PATIENCE), ..guest };
    let mut said = String::new();
    let outcome = guest.run(tools, &mut |line| match line {
        Line::Text(text) => said += &format!("{text}\n"),
        Line::Record(record) => on_record(record),
    });
    let outcome = outcome.context("the bare-metal machine")?;
    ensure!(outcome.passed, "not all went well on the machine:\n{said}");
    Ok(outcome.records)
}
