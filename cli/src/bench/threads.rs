//! `vmalloc bench threads`: several CPUs at once.

use super::steps::{self, REMOTE, Symbols};
use super::{Guest, MEMORY, hear, listen};
use crate::options::{PolicyName, ThreadsBench, word};
use crate::qemu::record::Record;
use crate::qemu::tools::Tools;
use crate::report::table::numbers;
use anyhow::{Context, Result};
use std::fmt::Write;

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
/// What an operation may cost on 2 and on 4 CPUs, in instructions of all CPUs together, beside one
/// CPU; and the operations of each CPU that are counted.
const GROWTH: [(u32, f64); 3] = [(1, 1.0), (2, 1.2), (4, 1.6)];
const GROWN: [(&str, u32); 3] = [("fix_size 16", 30_000), ("fix_size 256", 6_000), ("random_size", 12_000)];
/// Locked instructions on shared lines that a remote free may have.
const MOST_SHARED: f64 = 2.0;

/// What a load costs once, shared by all that is in it, and a chunk in the mail.
const BESIDES: f64 = 0.02;

/// Measures, and writes.
pub fn run(options: &ThreadsBench, tools: &Tools, out: &mut String) -> Result<()> {
    growth(tools, out)?;
    if options.exact {
        return Ok(());
    }
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
        "Thousand operations a second, all CPUs together, by the machine's own clock, a second each, in QEMU with a\n\
         thread a CPU, on {threads} processors: more CPUs than these take turns. Linux: the same cases on another, quiet host.\n"
    )?;
    shared(tools, out)
}

/// The instructions of an operation on more CPUs beside those on one.
fn growth(tools: &Tools, out: &mut String) -> Result<()> {
    let mut table = numbers(&["instructions an operation", "1 CPU", "2", "4"], 3);
    let runs = GROWTH.map(|(cpus, _)| {
        let commands = GROWN.map(|(case, loops)| format!("bench {case} threads={cpus} loops={loops}")).to_vec();
        listen(tools, cpus, Vec::new(), commands)
    });
    let runs: Vec<_> = runs.into_iter().collect::<Result<_>>()?;
    for (case, _) in GROWN {
        let costs = runs.iter().map(|records| instructions(records, case)).collect::<Result<Vec<_>>>()?;
        let cells = GROWTH.iter().zip(&costs).map(|((_, most), cost)| beside(*cost, costs[0], *most));
        table.add_row([case.to_owned()].into_iter().chain(cells));
    }
    writeln!(
        out,
        "{table}\nOf all CPUs together, policy Unmap, counted by a machine whose CPUs take turns; beside one CPU at most \
         1.2 and 1.6 times.\n"
    )?;
    Ok(())
}

/// The instructions of an operation of `case`.
fn instructions(records: &[Record], case: &str) -> Result<f64> {
    let (ns, operations) = measured(records, case)?;
    Ok(ns as f64 / operations as f64)
}

/// A cost, and how much more it is than on one CPU.
fn beside(cost: f64, one: f64, most: f64) -> String {
    let times = cost / one;
    let verdict = if times > most { " MISSED" } else { "" };
    if cost == one { format!("{cost:.0}") } else { format!("{cost:.0} ({times:.2}{verdict})") }
}

/// The cases on so many CPUs: each one's record.
fn records(tools: &Tools, policy: PolicyName, cpus: u32) -> Result<Vec<Record>> {
    let commands = CASES.iter().map(|(case, _)| format!("bench {case} threads={cpus}")).collect();
    let settings = vec![format!("policy={}", word(policy))];
    hear(tools, Guest { cpus, memory: MEMORY, settings, commands, ..Guest::default() }, &mut |_| ())
}

/// Thousand operations a second.
fn speed(records: &[Record], case: &str) -> Result<String> {
    let (ns, operations) = measured(records, case)?;
    Ok(format!("{:.1}", operations as f64 * 1e6 / ns.max(1) as f64))
}

/// The nanoseconds that the case took, and its operations on all CPUs.
fn measured(records: &[Record], case: &str) -> Result<(u64, u64)> {
    let of = records.iter().find(|of| of.name == "threads" && of.get("name") == Some(case));
    let of = of.with_context(|| format!("the machine has not said @threads of {case}"))?;
    Ok((of.number("ns")?, of.number("loops")? * of.number("threads")?))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn speed_of(line: &str) -> Result<String> {
        speed(&[Record::parse("@case name=a").unwrap(), Record::parse(line).unwrap()], "a")
    }

    #[test]
    fn the_speed_is_of_all_cpus_together_by_the_machines_clock() {
        assert_eq!(speed_of("@threads name=a threads=4 loops=25000 ns=500000000").unwrap(), "200.0");
    }

    #[test]
    fn a_record_without_the_time_is_refused() {
        assert!(speed_of("@threads name=a threads=4 loops=25000").is_err());
        assert!(
            speed_of("@threads name=b threads=4 loops=25000 ns=5").unwrap_err().to_string().contains("@threads of a")
        );
    }
}
