//! Tries mutants: suite after suite, until one notices.

use super::build::Executable;
use super::catalogue::Mutant;
use super::results::{Journal, Row};
use super::suites::{Suite, Target};
use super::watch::{End, Limits, Ran, watch};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// For what the tests of the library as it is may take.
const PLENTY: Limits = Limits {
    time: Duration::from_secs(600),
    silence: Duration::from_secs(600),
    tests: BTreeMap::new(),
    asleep: Duration::from_secs(600),
    memory: MEMORY,
};
const MEMORY: u64 = 3 << 30;

/// The limits of suites that ran without a change.
type Known = Mutex<BTreeMap<String, Arc<Mutex<Option<Arc<Limits>>>>>>;

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
        let shown = journal.is_none();
        let (known, next, journal) = (Known::default(), AtomicUsize::new(0), Mutex::new(journal));
        let work = || -> Result<()> {
            while let Some(&number) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                let row = self.attempt(number, &known, shown)?;
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

    /// What a suite takes without a change, and then some; found out when it is asked
    /// for the first time. Without a change it has to pass.
    fn limits(&self, suite: &Suite, known: &Known) -> Result<Arc<Limits>> {
        let key = format!("{:?} {:?} {:?}", suite.target, suite.args, suite.env);
        let of_suite = Arc::clone(known.lock().expect("no panic").entry(key).or_default());
        let mut limits = of_suite.lock().expect("no panic");
        if let Some(limits) = &*limits {
            return Ok(Arc::clone(limits));
        }
        let args = suite.args.iter().map(|arg| (*arg).to_owned()).collect();
        let ran = watch(&mut self.command(suite, args, None, true)?, &PLENTY)?;
        ensure!(ran.end == End::Passed, "{} without a change: {:?}", suite.name, ran.end);
        println!("{:<10} {:?} {:?} takes {:.1} s", suite.name, suite.args, suite.env, ran.time.as_secs_f64());
        Ok(Arc::clone(limits.insert(Arc::new(limits_of(&ran)))))
    }

    fn attempt(&self, number: usize, known: &Known, shown: bool) -> Result<Row> {
        let (mutant, mut seconds) = (&self.mutants[number], 0.0);
        for suite in &self.suites {
            let Some(args) = suite.args_for(mutant) else { continue };
            let limits = self.limits(suite, known)?;
            let mut command = self.command(suite, args, Some(number), !shown)?;
            if shown {
                println!("VMALLOC_MUTANT={number} {command:?}");
            }
            let began = Instant::now();
            let end = watch(&mut command, &limits)?.end;
            seconds += began.elapsed().as_secs_f64();
            let how = match end {
                End::Passed => continue,
                End::Failed(test) => test,
                End::Exceeded(what) => format!("too much {what}"),
            };
            return Ok(Row::new(mutant, Some(suite.name), how, seconds));
        }
        Ok(Row::new(mutant, None, String::new(), seconds))
    }

    fn command(&self, suite: &Suite, args: Vec<String>, mutant: Option<usize>, quiet: bool) -> Result<Command> {
        let executable = self.executables.get(&suite.target).context("a suite is built")?;
        let mut command = Command::new(&executable.path);
        command.args(args).envs(suite.env.iter().copied());
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
    let tests = ran.tests.iter().map(|(test, &time)| (test.clone(), time * 6 + Duration::from_secs(3)));
    Limits {
        tests: tests.collect(),
        time: ran.time * 3 + Duration::from_secs(5),
        silence: ran.silence * 4 + Duration::from_secs(3),
        asleep: ran.time * 10 + Duration::from_secs(20),
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
