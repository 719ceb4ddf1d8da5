//! `vmalloc bench guard`: what guarded programs cost and find, beside other tools.
//!
//! ```text
//!   peers  the tools           load.c  the program that is slowed down
//!   table  what is printed     plot    what is drawn
//! ```
//!
//! The bugs are those of the package `vmalloc-planted`, in C. Time is that of the program on a CPU, in the
//! process and in Linux for it, while it replaces one of its objects after the other, and the least of several
//! rounds through all tools. The fill before it, and what a tool takes to start, do not count.

mod peers;
mod plot;
mod table;

use super::write_json;
use crate::options::guard::GuardBench;
use anyhow::{Context, Result, bail, ensure};
use peers::{NAMES, Peer, peers};
use serde::Serialize;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use vmalloc_planted::tally::Count;
use vmalloc_planted::tool::{Tool, Verdict, watched};
use vmalloc_planted::{Kind, Program, cases, compile};

const LOAD: &str = include_str!("guard/load.c");

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Figures {
    bugs: Vec<Bugs>,
    loads: Vec<Load>,
    absent: Vec<Absent>,
}

/// A tool that is not installed.
#[derive(Debug, Serialize)]
struct Absent {
    tool: &'static str,
    why: String,
}

/// Which of the planted bugs a tool found.
#[derive(Debug, Serialize)]
struct Bugs {
    tool: &'static str,
    bugs: usize,
    /// The program died.
    stopped: usize,
    /// It died, and the tool said of what kind of bug.
    named: usize,
    /// Kinds of which the program survived at least one.
    goes_on: Vec<&'static str>,
    correct: usize,
    /// Correct programs that did not end as they should.
    accused: usize,
}

/// What a tool makes of the program.
#[derive(Debug, Serialize)]
struct Load {
    tool: &'static str,
    name: &'static str,
    live: u64,
    /// Nanoseconds of CPU time a replacement.
    ns: Option<f64>,
    /// Times what it takes under glibc alone.
    slowdown: Option<f64>,
    rss_kib: Option<u64>,
    mappings: Option<u64>,
    /// How the program ended, if not well.
    died: Option<String>,
}

/// The programs, and a folder for what they write.
struct Programs {
    folder: TempDir,
    planted: Program,
    load: PathBuf,
}

/// Whether all that is asked for by name is known.
pub fn check(options: &GuardBench) -> Result<()> {
    for name in &options.only {
        ensure!(NAMES.contains(&&**name), "--only {name}: one of {}", NAMES.join(", "));
    }
    ensure!(!options.live.contains(&0), "--live 0: at least one object");
    ensure!(!options.sizes.contains(&0), "--sizes 0: at least one byte");
    Ok(())
}

/// Measures, and writes the tables.
pub fn run(options: &GuardBench, out: &mut String) -> Result<()> {
    let programs = Programs::make()?;
    let (mut here, mut absent) = (Vec::new(), Vec::new());
    for Peer { name, title, tool } in peers(&options.only)? {
        match tool {
            Ok(tool) => here.push((name, title, tool)),
            Err(why) => absent.push(Absent { tool: title, why }),
        }
    }
    let bugs = here.iter().map(|(_, title, tool)| programs.bugs(title, tool, &options.sizes)).collect::<Result<_>>()?;
    let mut loads = loads(options, &here);
    for _ in 0..options.rounds {
        programs.round(options, &here, &mut loads)?;
    }
    compare(&mut loads);
    let figures = Figures { bugs, loads, absent };
    if let Some(path) = &options.json {
        write_json(path, &figures)?;
    }
    if let (Some(path), Some(picture)) = (&options.svg, plot::draw(&figures)) {
        crate::output::write(path, &picture)?;
    }
    Ok(table::write(out, &figures, options)?)
}

/// One for each number of objects and each tool, with nothing measured yet.
fn loads(options: &GuardBench, here: &[(&'static str, &'static str, Tool)]) -> Vec<Load> {
    let all = options.live.iter().flat_map(|&live| here.iter().map(move |(name, title, _)| (live, *name, *title)));
    all.map(|(live, name, tool)| Load {
        tool,
        name,
        live,
        ns: None,
        slowdown: None,
        rss_kib: None,
        mappings: None,
        died: None,
    })
    .collect()
}

/// Fills in what each takes beside glibc alone.
fn compare(loads: &mut [Load]) {
    let alone: Vec<(u64, f64)> =
        loads.iter().filter(|load| load.name == NAMES[0]).filter_map(|load| Some((load.live, load.ns?))).collect();
    for load in loads {
        let of = alone.iter().find(|(live, _)| *live == load.live);
        load.slowdown = load.ns.zip(of).map(|(ns, (_, alone))| ns / alone);
    }
}

impl Programs {
    fn make() -> Result<Programs> {
        let folder = tempfile::tempdir()?;
        let (planted, load) = (folder.path().join("planted"), folder.path().join("load"));
        compile(None, &planted)?;
        compile(Some(LOAD), &load)?;
        Ok(Programs { folder, planted: Program { language: "C", path: planted }, load })
    }

    fn bugs(&self, title: &'static str, tool: &Tool, sizes: &[usize]) -> Result<Bugs> {
        let runs = cases("C", sizes).into_iter().map(|case| tool.run(&self.planted, case, self.folder.path()));
        let outcomes = runs.collect::<Result<Vec<_>>>()?;
        let bugs = Count::of(&outcomes, |of| of.case.kind != Kind::None);
        let correct = Count::of(&outcomes, |of| of.case.kind == Kind::None);
        let survived = |kind| outcomes.iter().any(|of| (of.case.kind, of.verdict) == (kind, Verdict::Missed));
        let goes_on = Kind::ALL.into_iter().filter(|&kind| survived(kind)).map(Kind::word).collect();
        let accused = outcomes.iter().filter(|of| of.verdict == Verdict::Accused).count();
        Ok(Bugs {
            tool: title,
            bugs: bugs.all,
            stopped: bugs.good + bugs.unnamed,
            named: bugs.good,
            goes_on,
            correct: correct.all,
            accused,
        })
    }

    /// Runs each once; what died is not run again.
    fn round(&self, options: &GuardBench, here: &[(&str, &str, Tool)], loads: &mut [Load]) -> Result<()> {
        for load in loads.iter_mut().filter(|load| load.died.is_none()) {
            let tool = here.iter().find(|(name, ..)| *name == load.name);
            let (.., tool) = tool.context("a load without a tool")?;
            load.add(self.measure(tool, load.live, options.replace, self.folder.path())?, options.replace);
        }
        Ok(())
    }

    /// What the program printed, or how it died.
    fn measure(&self, tool: &Tool, live: u64, replace: u64, folder: &Path) -> Result<Result<[u64; 3], String>> {
        let mut command = tool.command(&self.load);
        command.args([live.to_string(), replace.to_string()]).env("VMALLOC_GUARD_REPORT", folder.join("%p.json"));
        let output = watched(&mut command).output().with_context(|| format!("{:?}", command.get_program()))?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return Ok(Err([&*output.status.to_string(), said.trim()].join(" ").trim().to_owned()));
        }
        let printed = String::from_utf8_lossy(&output.stdout);
        let numbers: Vec<u64> = printed.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let Ok(numbers) = numbers.try_into() else { bail!("{printed:?} is not what load.c prints") };
        Ok(Ok(numbers))
    }
}

impl Load {
    /// A run: what takes less than those before is told.
    fn add(&mut self, run: Result<[u64; 3], String>, replace: u64) {
        match run {
            Ok([ns, mappings, kib]) => {
                let ns = ns as f64 / replace as f64;
                self.ns = Some(self.ns.map_or(ns, |least| least.min(ns)));
                self.mappings = Some(self.mappings.map_or(mappings, |least| least.min(mappings)));
                self.rss_kib = Some(self.rss_kib.map_or(kib, |least| least.min(kib)));
            }
            Err(how) => *self = Load { died: Some(how), ns: None, rss_kib: None, mappings: None, ..*self },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(name: &'static str, live: u64) -> Load {
        Load { tool: name, name, live, ns: None, slowdown: None, rss_kib: None, mappings: None, died: None }
    }

    #[test]
    fn the_least_of_all_rounds_counts_beside_glibc_with_as_many_objects() {
        let mut loads = [load("glibc", 5), load("glibc", 9), load("all", 9)];
        for (load, ns) in loads.iter_mut().zip([1000, 2000, 7000]) {
            load.add(Ok([ns + 500, 40, 30]), 100);
            load.add(Ok([ns, 50, 20]), 100);
        }
        compare(&mut loads);
        assert_eq!((loads[2].ns, loads[2].slowdown), (Some(70.0), Some(3.5)));
        assert_eq!((loads[2].mappings, loads[2].rss_kib), (Some(40), Some(20)));
    }

    #[test]
    fn the_program_prints_three_figures_and_says_how_it_died() {
        let (programs, alone) = (Programs::make().unwrap(), Tool::default());
        let measure = |live| programs.measure(&alone, live, 1000, programs.folder.path()).unwrap();
        let [ns, mappings, kib] = measure(1000).unwrap();
        assert!(ns > 1000 && (10..200).contains(&mappings) && (500..50_000).contains(&kib), "{ns} {mappings} {kib}");
        assert!(measure(0).unwrap_err().contains("exit status: 2"));
    }
}
