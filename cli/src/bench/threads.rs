//! `vmalloc bench threads`: several CPUs at once.

use super::steps::{self, REMOTE, Symbols};
use super::{Guest, MEMORY, hear, listen};
use crate::options::{PolicyName, word};
use crate::qemu::record::Record;
use crate::qemu::tools::Tools;
use crate::report::table::numbers;
use anyhow::{Context, Result};
use std::fmt::Write;
use std::time::{Duration, Instant};

const CPUS: [u32; 4] = [1, 2, 4, 8];
const POLICIES: [PolicyName; 3] = [PolicyName::Unmap, PolicyName::Park, PolicyName::Keep];
/// Cases, and what Linux did with one CPU and with two, thousands a second.
const CASES: [(&str, Option<(&str, &str)>); 5] = [
    ("fix_size 1", Some(("249", "396"))),
    ("fix_size 16", Some(("91", "166"))),
    ("fix_size 256", None),
    ("random_size", Some(("37.9", "66.4"))),
    ("vm_map_ram 1", Some(("908", "1,675"))),
];
/// Locked instructions on shared lines that a remote free may have.
const MOST_SHARED: f64 = 2.0;

/// What a load costs once, shared by all that is in it, and a chunk in the mail.
const BESIDES: f64 = 0.02;

/// Measures, and writes.
pub fn run(tools: &Tools, out: &mut String) -> Result<()> {
    let mut table = numbers(&["case", "policy", "1 CPU", "2", "4", "8", "Linux, 1", "2"], 6);
    for policy in POLICIES {
        let runs = CPUS.map(|cpus| records(tools, policy, cpus));
        let runs: Vec<_> = runs.into_iter().collect::<Result<_>>()?;
        for (case, linux) in CASES {
            let speeds = runs.iter().map(|records| speed(records, case)).collect::<Result<Vec<_>>>()?;
            let linux = linux.map_or(["–", "–"], |(one, two)| [one, two]).map(str::to_owned);
            table.add_row([case.to_owned(), word(policy)].into_iter().chain(speeds).chain(linux));
        }
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    writeln!(out, "{table}")?;
    writeln!(
        out,
        "Thousand operations a second, all CPUs together, by the clock, in QEMU with a thread a CPU, on {threads} \
         processors:\nmore CPUs than these take turns. Linux: the same cases on another, quiet host.\n"
    )?;
    shared(tools, out)
}

/// The cases on so many CPUs: each one's record, and how long it took by our
/// clock, from the record before it.
fn records(tools: &Tools, policy: PolicyName, cpus: u32) -> Result<Vec<(Record, Duration)>> {
    let commands = CASES.iter().map(|(case, _)| format!("bench {case} threads={cpus}")).collect();
    let settings = vec![format!("policy={}", word(policy))];
    let (mut start, mut times) = (Instant::now(), Vec::new());
    let guest = Guest { cpus, memory: MEMORY, settings, commands, ..Guest::default() };
    hear(tools, guest, &mut |record| match record.name.as_str() {
        "go" => start = Instant::now(),
        "threads" => times.push((record.clone(), start.elapsed())),
        _ => {}
    })?;
    Ok(times)
}

fn speed(times: &[(Record, Duration)], case: &str) -> Result<String> {
    let of = times.iter().find(|(of, _)| of.get("name") == Some(case));
    let (of, time) = of.with_context(|| format!("the machine has not said @threads of {case}"))?;
    let operations = of.number("loops")? * of.number("threads")?;
    Ok(format!("{:.1}", operations as f64 / 1e3 / time.as_secs_f64()))
}

/// Steps through frees on the same CPU and on another.
fn shared(tools: &Tools, out: &mut String) -> Result<()> {
    let symbols = Symbols::load(&tools.image)?;
    let commands = ["fix_size 1", REMOTE].map(|case| format!("bench {case} steps loops=1024")).to_vec();
    let stepped = steps::read(&listen(tools, 2, Vec::new(), commands)?)?;
    writeln!(out, "Locked instructions, by stepping through 1,024 of each (policy Unmap; tick off):")?;
    for steps in &stepped {
        let locked = steps.locked(&symbols)?;
        let (what, most) = match steps.name.as_str() {
            REMOTE => ("a free of another CPU's area", MOST_SHARED),
            _ => ("a pair on the same CPU", 0.0),
        };
        let verdict = if locked.shared > most + BESIDES { "MISSED" } else { "kept" };
        let (shared, locks, own) = (locked.shared, locked.locks, locked.own);
        writeln!(
            out,
            "  {what}: {shared:.3} on lines that CPUs share (at most {most:.0}: {verdict}), {locks:.3} for locks, \
             {own:.3} on lines of its own"
        )?;
    }
    Ok(())
}
