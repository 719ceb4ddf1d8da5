//! The replay: a script, done for real on a machine, checked byte by byte.
//!
//! ```text
//!   for each round:   workers play the script      (timed, verified)
//!                     ── last round: look at what is live, list it ──
//!                     what is live is checked and freed
//!   then:             purge; nothing may be left
//!                     the instance ends; nothing may be left of it either
//! ```
//!
//! On a machine with threads each CPU's worker does its own CPU's steps, in the
//! order of the trace, at its own speed; a free waits for its allocation, and
//! nothing else waits. Elsewhere one worker does all steps in the trace's
//! order and changes CPUs as the trace says.

pub mod hosted;
pub mod latency;
mod pattern;
pub mod peak;
pub mod progress;
mod setup;
pub mod sim;
mod slots;
pub mod stage;
mod tally;
mod worker;

use crate::trace::script::{Script, Step};
use latency::Latency;
use peak::{Peak, Peaks};
use progress::Progress;
use slots::Slots;
use stage::{Remains, Stage, Vmas};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};
use tally::Tally;
use vmalloc::Stats;
use worker::{Round, Worker};

/// How to play a script.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// CPUs; those of the trace are counted round.
    pub cpus: u32,
    /// How often.
    pub loops: u32,
    /// What patterns follow from.
    pub seed: u64,
}

/// What a replay found.
pub struct Findings {
    /// What was counted.
    pub tally: Tally,
    /// What was measured.
    pub latency: Latency,
    /// The most that there was at once.
    pub peaks: Peaks,
    /// The instance at the end of the last round.
    pub end: Stats,
    /// The mappings of the process then.
    pub vmas: Option<Vmas>,
    /// What was live then, as the library lists it.
    pub listing: String,
    /// Rules of the library that its own `check` found broken.
    pub broken: Vec<String>,
    /// Whether an allocation was refused, so that the rest was not done.
    pub stopped: bool,
    /// The time that the rounds took.
    pub elapsed: Duration,
    /// What remained after everything had been given back.
    pub left: Left,
}

/// What remained.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Left {
    /// Areas that the instance still listed.
    pub areas: usize,
    /// What the instance left when it ended.
    pub remains: Remains,
}

/// Plays `script` on `stage`, and ends it.
pub fn play<S: Stage>(stage: S, script: &Script, manner: Manner, progress: &Progress) -> Findings {
    let peak = Peak::default();
    let mut players = Players { stage: &stage, script, manner, progress, peak: &peak, findings: Findings::new() };
    thread::scope(|scope| {
        let _shown_until_the_end = progress.show(scope);
        (1..=manner.loops).all(|number| players.round(number));
    });
    let mut findings = players.findings;
    findings.peaks = peak.peaks();
    stage.on(0, || finish(&stage, &mut findings));
    findings.left.remains = stage.close();
    findings
}

/// Purges, and looks at what is left.
fn finish<S: Stage>(stage: &S, findings: &mut Findings) {
    let vm = stage.vm();
    vm.purge();
    findings.left.areas = vm.areas().count();
    if let Err(broken) = vm.check() {
        findings.broken.push(format!("after the last free: {broken}"));
    }
}

struct Players<'p, S> {
    stage: &'p S,
    script: &'p Script,
    manner: Manner,
    progress: &'p Progress,
    peak: &'p Peak,
    findings: Findings,
}

impl<S: Stage> Players<'_, S> {
    /// Plays one round, and tells whether another can follow.
    fn round(&mut self, number: u32) -> bool {
        let round = Round {
            stage: self.stage,
            script: self.script,
            slots: Slots::new(self.script.areas.len()),
            peak: self.peak,
            progress: self.progress,
            number,
            seed: self.manner.seed,
            stopped: AtomicBool::new(false),
            device_pages: AtomicU64::new(0),
        };
        let start = Instant::now();
        if S::THREADS {
            self.with_threads(&round)
        } else {
            self.in_turn(&round)
        }
        self.findings.elapsed += start.elapsed();
        let stopped = round.stopped.load(Relaxed);
        self.findings.stopped = stopped;
        if stopped || number == self.manner.loops {
            self.look();
        }
        let mut sweeper = Worker::new(&round);
        self.stage.on(0, || sweeper.clear());
        self.take(sweeper);
        !stopped
    }

    fn with_threads(&mut self, round: &Round<'_, S>) {
        let cpus = self.manner.cpus;
        let workers: Vec<Worker<'_, S>> = thread::scope(|scope| {
            let start = |cpu: u32| scope.spawn(move || round.stage.on(cpu, || alone(round, cpu, cpus)));
            let threads: Vec<_> = (0..cpus).map(start).collect();
            let join = |thread: thread::ScopedJoinHandle<'_, _>| thread.join();
            threads.into_iter().map(|t| join(t).unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        workers.into_iter().for_each(|worker| self.take(worker));
    }

    fn in_turn(&mut self, round: &Round<'_, S>) {
        let mut worker = Worker::new(round);
        for step in &self.script.steps {
            if round.stopped.load(Relaxed) {
                break;
            }
            self.stage.on(step.cpu % self.manner.cpus, || worker.step(step));
        }
        self.take(worker);
    }

    fn take(&mut self, worker: Worker<'_, S>) {
        self.findings.latency.merge(&worker.latency);
        self.findings.tally.merge(worker.tally);
    }

    /// Looks at what is live.
    fn look(&mut self) {
        let (stage, findings) = (self.stage, &mut self.findings);
        stage.on(0, || {
            findings.end = stage.vm().stats();
            findings.vmas = stage.vmas();
            stage.vm().list(&mut findings.listing).expect("a String takes everything");
            if let Err(broken) = stage.vm().check() {
                findings.broken.push(format!("at the end: {broken}"));
            }
        });
    }
}

impl Findings {
    fn new() -> Findings {
        Findings {
            tally: Tally::default(),
            latency: Latency::default(),
            peaks: Peaks::default(),
            end: Stats::default(),
            vmas: None,
            listing: String::new(),
            broken: Vec::new(),
            stopped: false,
            elapsed: Duration::ZERO,
            left: Left::default(),
        }
    }
}

/// Does the steps of `cpu` among `cpus`.
fn alone<'r, S: Stage>(round: &'r Round<'r, S>, cpu: u32, cpus: u32) -> Worker<'r, S> {
    /// Who panics has to tell those who would wait for him.
    struct Alarm<'a>(&'a AtomicBool);
    impl Drop for Alarm<'_> {
        fn drop(&mut self) {
            if thread::panicking() {
                self.0.store(true, Relaxed);
            }
        }
    }
    let _alarm = Alarm(&round.stopped);
    let mut worker = Worker::new(round);
    let ours = |step: &&Step| step.cpu % cpus == cpu && !round.stopped.load(Relaxed);
    round.script.steps.iter().filter(ours).for_each(|step| worker.step(step));
    worker
}
