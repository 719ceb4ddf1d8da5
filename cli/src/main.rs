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
//!   convert   makes a trace of what Linux's tools have recorded
//!   layout    where the parts of an address space lie
//!   scullv    mounts the memory device
//!   guard     runs a program with guarded allocations
//!   manual    its own pages, and words for shells
//!   output    files that are written             terminal  how wide it is, and which characters it shows
//! ```
//!
//! Nothing is played before everything that is given has been read and found
//! right: what cannot be used ends with exit code 2 and one line that names
//! file, line and reason.

mod bench;
mod boot;
mod chain;
mod convert;
mod guard;
mod layout;
mod listing;
mod manual;
mod options;
mod output;
mod qemu;
mod replay;
mod report;
mod scullv;
mod show;
mod terminal;
mod trace;

/// What calls cost, and what addresses cost.
#[cfg(doc)]
#[doc = include_str!("../docs/figures.md")]
pub mod figures {}

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use listing::{Comparison, Entry};
use options::{Command, MachineName, Options, Replay, outputs_of};
use replay::progress::Progress;
use replay::recording::Recording;
use replay::{Findings, Manner, historic, players};
use report::{Report, table};
use std::io::{ErrorKind, Write};
use std::process::ExitCode;
use trace::script::Script;
use vmalloc::units::MAX_CPUS;

/// The trace that is built in: see traces/README.md.
const MIX: &[u8] = include_bytes!("../../traces/mix.txt.gz");

/// Something that was given cannot be used.
const UNUSABLE: u8 = 2;
/// Ctrl-C was typed: what a shell has for it.
const INTERRUPTED: i32 = 128 + signal_hook::consts::SIGINT;

fn main() -> ExitCode {
    let command = Options::parse().command;
    if let Err(error) = command.outputs().into_iter().try_for_each(output::probe) {
        return failed(UNUSABLE, &error);
    }
    match command {
        Command::Replay(options) => match inputs(&options) {
            Ok(given) => run(&options, &given).unwrap_or_else(|error| failed(1, &error)),
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
        Command::Convert(options) => match convert::prepare(options) {
            Ok(converted) => ended(converted.run()),
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
        Command::Completions { shell } => ended(manual::completions(shell).map(|()| true)),
        Command::Man { command } => match manual::page(command.as_deref()) {
            Ok(page) => ended(print_raw(&page).map(|()| true)),
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

/// What is given to a replay.
struct Given {
    script: Script,
    /// The listing to compare with.
    expected: Option<Vec<Entry>>,
    manner: Manner,
}

/// Reads what is given.
fn inputs(options: &Replay) -> Result<Given> {
    if options.machine == MachineName::Pc && options.trace_out.is_some() {
        bail!("--trace-out: the bare-metal machine tells no addresses");
    }
    let script = match &options.trace {
        Some(path) => trace::load(path)?,
        None => trace::read("mix.txt.gz (built in)", MIX)?,
    };
    let recorded = script.steps.iter().map(|step| step.cpu + 1).max().unwrap_or(1);
    let cpus = options.cpus.unwrap_or(recorded);
    let most = if options.machine == MachineName::Pc { replay::pc::CPUS } else { MAX_CPUS as u32 };
    ensure!(cpus <= most, "{cpus} CPUs, but this machine has at most {most}: --cpus {most} folds them");
    let expected = options.expect.as_deref().map(listing::load).transpose()?;
    Ok(Given { script, expected, manner: Manner { cpus, loops: options.loops, seed: options.seed } })
}

/// Plays the script and reports.
fn run(options: &Replay, given: &Given) -> Result<ExitCode> {
    let Given { script, expected, manner } = given;
    let recording = options.trace_out.as_deref().map(|path| Recording::begin(path, script, manner.cpus)).transpose()?;
    let found = play(options, script, *manner, recording.as_ref())?;
    recording.map_or(Ok(()), Recording::finish)?;
    let ours = listing::read("the instance's own listing", found.listing.as_bytes())?;
    let compared = expected.as_ref().map(|theirs| listing::compare(&ours, theirs));
    let historic = historic::beside(options, script, *manner);
    let report = Report { historic, ..Report::new(options, *manner, script, &found, compared.as_ref()) };
    if let Some(path) = &options.json {
        output::write(path, &(serde_json::to_string_pretty(&report)? + "\n"))?;
    }
    let title = format!("{}, at the end of its replay on {}", report.trace, report.machine);
    if let Some(path) = &options.svg {
        output::write(path, &show::drawn(&title, &found.listing)?)?;
    }
    if let Some(path) = &options.snapshot {
        output::write(path, &show::snapshot(&title, &found.listing)?)?;
    }
    print(&told(options, &report, &found, compared.as_ref())?)?;
    Ok(ExitCode::from(match () {
        () if report.interrupted => INTERRUPTED as u8,
        () => !report.ok as u8,
    }))
}

fn play(options: &Replay, script: &Script, manner: Manner, recording: Option<&Recording<'_>>) -> Result<Findings> {
    let total = script.steps.len() as u64 * u64::from(manner.loops);
    let progress = Progress::new(total, &script.marks, options.quiet);
    if options.machine != MachineName::Pc {
        progress.end_by_signal().context("Ctrl-C cannot be waited for")?;
    }
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
    if let Some(compared) = compared.filter(|_| !found.stopped && !found.interrupted) {
        table::write_differences(&mut out, compared)?;
    }
    let quiet = options.quiet || outputs_of(options).any(output::is_stdout);
    if !quiet {
        table::write(&mut out, report)?;
    }
    if quiet && !report.ok {
        report.errors.iter().for_each(|error| eprintln!("vmalloc: {error}"));
        eprintln!("vmalloc: {}", table::verdict(report));
    }
    Ok(out)
}

/// Prints `text` for people; somebody who stops reading it is no error.
fn print(text: &str) -> Result<()> {
    print_raw(&terminal::shown(text))
}

/// As [`print()`], every character as it is.
fn print_raw(text: &str) -> Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("the report cannot be printed"),
        _ => Ok(()),
    }
}
