//! The command `vmalloc`.
//!
//! ```text
//!   options   the command line
//!   trace     reads a trace and judges it      listing   reads a vmallocinfo
//!   replay    plays it on a machine            report    tells what happened
//!   qemu      runs the bare-metal machine      boot      lends it the terminal
//!   bench     measures, beside Linux and others
//!   chain     prints the calls behind a vmalloc
//!   show      who holds what, from a vmallocinfo
//!   layout    where the parts of an address space lie
//!   scullv    mounts the memory device
//!   guard     runs a program with guarded allocations
//! ```
//!
//! Nothing is played before everything that is given has been read and found
//! right: what cannot be used ends with exit code 2 and one line that names
//! file, line and reason.

mod bench;
mod boot;
mod chain;
mod guard;
mod layout;
mod listing;
mod options;
mod qemu;
mod replay;
mod report;
mod scullv;
mod show;
mod trace;

/// What calls cost, and what addresses cost.
#[cfg(doc)]
#[doc = include_str!("../docs/figures.md")]
pub mod figures {}

use anyhow::{Context, Result, bail};
use clap::Parser;
use listing::{Comparison, Entry};
use options::{Command, MachineName, Options, Replay};
use replay::progress::Progress;
use replay::recording::Recording;
use replay::{Findings, Manner, historic, players};
use report::{Report, table};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;
use trace::script::Script;

/// The trace that is built in: see traces/README.md.
const MIX: &[u8] = include_bytes!("../../traces/mix.txt.gz");

/// Something that was given cannot be used.
const UNUSABLE: u8 = 2;

fn main() -> ExitCode {
    match Options::parse().command {
        Command::Replay(options) => match inputs(&options) {
            Ok((script, expected)) => ended(run(&options, &script, expected.as_deref())),
            Err(error) => failed(UNUSABLE, &error),
        },
        Command::Boot(options) => match boot::prepare(&options) {
            Ok(run) => ended(run.run()),
            Err(error) => failed(UNUSABLE, &error),
        },
        Command::Chain(options) => match chain::prepare(options) {
            Ok(chain) => ended(chain.run()),
            Err(error) => failed(UNUSABLE, &error),
        },
        Command::Show(options) => match show::prepare(options) {
            Ok(shown) => ended(shown.run()),
            Err(error) => failed(UNUSABLE, &error),
        },
        Command::Layout(options) => match layout::prepare(options) {
            Ok(laid) => ended(laid.run()),
            Err(error) => failed(UNUSABLE, &error),
        },
        Command::Scullv(options) => match scullv::prepare(options) {
            Ok(job) => job.run().map_or_else(|error| failed(1, &error), ExitCode::from),
            Err(error) => failed(UNUSABLE, &error),
        },
        Command::Guard(options) => failed(UNUSABLE, &guard::run(&options)),
        Command::Bench(what) => match bench::prepare(what) {
            Ok(bench) => ended(bench.run()),
            Err(error) => failed(UNUSABLE, &error),
        },
    }
}

fn ended(well: Result<bool>) -> ExitCode {
    match well {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => failed(1, &error),
    }
}

fn failed(code: u8, error: &anyhow::Error) -> ExitCode {
    eprintln!("vmalloc: {error:#}");
    ExitCode::from(code)
}

/// Reads what is given: the trace, and the listing to compare with.
fn inputs(options: &Replay) -> Result<(Script, Option<Vec<Entry>>)> {
    if options.machine == MachineName::Pc && options.trace_out.is_some() {
        bail!("--trace-out: the bare-metal machine tells no addresses");
    }
    let script = match &options.trace {
        Some(path) => trace::load(path)?,
        None => trace::read("mix.txt.gz (built in)", MIX)?,
    };
    Ok((script, options.expect.as_deref().map(listing::load).transpose()?))
}

/// Plays `script` and reports; whether all went well.
fn run(options: &Replay, script: &Script, expected: Option<&[Entry]>) -> Result<bool> {
    let recorded = script.steps.iter().map(|step| step.cpu + 1).max().unwrap_or(1);
    let cpus = options.cpus.unwrap_or(recorded);
    let manner = Manner { cpus, loops: options.loops, seed: options.seed };
    let recording = options.trace_out.as_deref().map(|path| Recording::begin(path, script, cpus)).transpose()?;
    let found = play(options, script, manner, recording.as_ref())?;
    recording.map_or(Ok(()), Recording::finish)?;
    let ours = listing::read("the instance's own listing", found.listing.as_bytes())?;
    let compared = expected.map(|theirs| listing::compare(&ours, theirs));
    let historic = historic::beside(options, script, manner);
    let report = Report { historic, ..Report::new(options, manner, script, &found, compared.as_ref()) };
    if let Some(path) = &options.json {
        write_file(path, &(serde_json::to_string_pretty(&report)? + "\n"))?;
    }
    let title = format!("{}, at the end of its replay on {}", report.trace, report.machine);
    if let Some(path) = &options.svg {
        write_file(path, &show::drawn(&title, &found.listing)?)?;
    }
    if let Some(path) = &options.snapshot {
        write_file(path, &show::snapshot(&title, &found.listing)?)?;
    }
    print(&told(options, &report, &found, compared.as_ref())?)?;
    Ok(report.ok)
}

fn play(options: &Replay, script: &Script, manner: Manner, recording: Option<&Recording<'_>>) -> Result<Findings> {
    let total = script.steps.len() as u64 * u64::from(manner.loops);
    let progress = Progress::new(total, &script.marks, options.quiet);
    Ok(match options.machine {
        MachineName::Hosted => {
            let stage = replay::hosted::stage(options, script, manner.cpus, &progress, recording)?;
            players::play(stage, script, manner, &progress)
        }
        MachineName::Sim => {
            let stage = replay::sim::stage(options, script, manner.cpus, &progress, recording)?;
            players::play(stage, script, manner, &progress)
        }
        MachineName::Pc => replay::pc::play(options, script, manner, &progress)?,
    })
}

/// What goes to stdout.
fn told(options: &Replay, report: &Report, found: &Findings, compared: Option<&Comparison>) -> Result<String> {
    let mut out = String::new();
    if options.info {
        out.push_str(&found.listing);
    }
    if let Some(compared) = compared.filter(|_| !found.stopped) {
        table::write_differences(&mut out, compared)?;
    }
    if !options.quiet {
        table::write(&mut out, report)?;
    }
    if options.quiet && !report.ok {
        report.errors.iter().for_each(|error| eprintln!("vmalloc: {error}"));
        eprintln!("vmalloc: {}", table::verdict(report));
    }
    Ok(out)
}

/// Writes `text` into the file at `path`.
fn write_file(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("{}: cannot be written", path.display()))
}

/// Prints `text`; somebody who stops reading it is no error.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("the report cannot be printed"),
        _ => Ok(()),
    }
}
