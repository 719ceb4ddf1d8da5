//! Tries mutants: suite after suite, until one notices.

use super::build::Executable;
use super::catalogue::Mutant;
use super::results::{Journal, Row};
use super::suites::{Suite, Target};
use super::watch::{End, Limits, Ran, watch};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// For what the tests of the library as it is may take.
const PLENTY: Limits = Limits {
    time: Duration::from_secs(600),
    silence: Duration::from_secs(600),
    clock: Duration::from_secs(3600),
    memory: MEMORY,
};
const MEMORY: u64 = 3 << 30;

/// Everything that a run needs.
pub struct Hunt<'a> {
    /// In the order they run.
    pub suites: Vec<&'static Suite>,
    /// What cargo built.
    pub executables: BTreeMap<Target, Executable>,
    /// A mutant's number is its index.
    pub mutants: &'a [Mutant],
}

impl Hunt<'_> {
    /// Tries the `wanted`, `jobs` at a time. Without a journal the tests are
    /// shown.
    pub fn run(&self, wanted: &[usize], jobs: usize, journal: Option<Journal>) -> Result<()> {
        let limits = self.limits()?;
        let (next, journal) = (AtomicUsize::new(0), Mutex::new(journal));
        let work = || -> Result<()> {
            while let Some(&number) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                let row = self.attempt(number, &limits, journal.lock().expect("no panic").is_none())?;
                tell(&row);
                if let Some(journal) = &mut *journal.lock().expect("no panic") {
                    journal.add(&row)?;
                }
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| worker.join().expect("no panic"))
        })
    }

    /// What each suite takes without a change, and then some. Without a change
    /// all of them have to pass.
    fn limits(&self) -> Result<Vec<Limits>> {
        let mut known: BTreeMap<String, Limits> = BTreeMap::new();
        let mut all = Vec::new();
        for suite in &self.suites {
            let key = format!("{:?} {:?} {:?}", suite.target, suite.args, suite.env);
            if !known.contains_key(&key) {
                let args = suite.args.iter().map(|arg| (*arg).to_owned()).collect();
                let ran = watch(&mut self.command(suite, args, None, true)?, PLENTY)?;
                ensure!(ran.end == End::Passed, "{} without a change: {:?}", suite.name, ran.end);
                println!("{:<10} {:?} takes {:.1} s", suite.name, suite.env, ran.time.as_secs_f64());
                known.insert(key.clone(), limits_of(&ran));
            }
            all.push(known[&key]);
        }
        Ok(all)
    }

    fn attempt(&self, number: usize, limits: &[Limits], shown: bool) -> Result<Row> {
        let (mutant, began) = (&self.mutants[number], Instant::now());
        for (suite, &limits) in self.suites.iter().zip(limits) {
            let Some(args) = suite.args_for(mutant) else { continue };
            let mut command = self.command(suite, args, Some(number), !shown)?;
            if shown {
                println!("VMALLOC_MUTANT={number} {command:?}");
            }
            let how = match watch(&mut command, limits)?.end {
                End::Passed => continue,
                End::Failed(test) => test,
                End::Exceeded(what) => format!("too much {what}"),
            };
            return Ok(Row::new(mutant, Some(suite.name), how, began.elapsed().as_secs_f64()));
        }
        Ok(Row::new(mutant, None, String::new(), began.elapsed().as_secs_f64()))
    }

    fn command(&self, suite: &Suite, args: Vec<String>, mutant: Option<usize>, quiet: bool) -> Result<Command> {
        let executable = self.executables.get(&suite.target).context("a suite is built")?;
        let mut command = Command::new("nice");
        command.arg(&executable.path).args(args).envs(suite.env.iter().copied());
        command.current_dir(&executable.folder).env("CARGO_MANIFEST_DIR", &executable.folder);
        command.env_remove("VMALLOC_MUTANT");
        command.envs(mutant.map(|number| ("VMALLOC_MUTANT", number.to_string())));
        if quiet {
            command.stderr(Stdio::null());
        }
        Ok(command)
    }
}

fn limits_of(ran: &Ran) -> Limits {
    Limits {
        time: ran.time * 3 + Duration::from_secs(5),
        silence: ran.silence * 4 + Duration::from_secs(3),
        clock: ran.time * 10 + Duration::from_secs(20),
        memory: MEMORY,
    }
}

fn tell(row: &Row) {
    let Row { id, part, place, function, change, seconds, .. } = row;
    let end = match &row.caught {
        Some(suite) => format!("caught by {suite}: {}", row.how),
        None => "SURVIVED".into(),
    };
    println!("{id} {part:<6} {end}, {seconds:.1} s\n         {place} {function}: {change}");
}
