//! Playing a script in this process: rounds, threads, and a look at the end.

use super::progress::Progress;
use super::{Counted, Findings, Manner};
use crate::trace::script::Script;
use std::fmt::Display;
use std::thread;
use std::time::Instant;
use vmalloc::units::{PAGE_SIZE, Pfn};
use vmalloc_replay::latency::Latency;
use vmalloc_replay::pattern::Page;
use vmalloc_replay::peak::Peak;
use vmalloc_replay::slots::{self, Noted, Slot, Slots};
use vmalloc_replay::stage::{Stage, Told};
use vmalloc_replay::tally::Tally;
use vmalloc_replay::worker::{Desk, Part, Round, Worker, most_frames, most_parts};

/// A stage in this process.
pub trait Host: Stage {
    /// Whether each CPU can have a thread of its own.
    const THREADS: bool;

    /// Runs `act` on `cpu`.
    fn on<R>(&self, cpu: u32, act: impl FnOnce() -> R) -> R;

    /// Mappings of the process, where there is one.
    fn vmas(&self) -> Option<Vmas> {
        None
    }

    /// Ends the instance, and says what is left of it.
    fn close(self) -> Remains;
}

/// Mappings of the process that the machine uses and may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vmas {
    pub used: usize,
    pub allowed: usize,
}

/// What an instance left behind when it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Remains {
    /// Frames that were not given back: of areas, of tables, of bookkeeping.
    pub frames: usize,
    /// Mappings of the process that are still there.
    pub vmas: usize,
}

/// Plays `script` on `stage`, and ends it.
pub fn play<S: Host>(stage: S, script: &Script, manner: Manner, progress: &Progress<'_>) -> Findings {
    let peak = Peak::default();
    let (tally, findings) = (Tally::default(), Findings::default());
    let mut players = Players { stage: &stage, script, manner, peak: &peak, tally, findings };
    thread::scope(|scope| {
        let _shown_until_the_end = progress.show(scope);
        (1..=manner.loops).all(|number| players.round(number));
    });
    let Players { tally, mut findings, .. } = players;
    findings.counted = tally.into();
    findings.interrupted = progress.is_ended();
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

struct Players<'p, S: Stage> {
    stage: &'p S,
    script: &'p Script,
    manner: Manner,
    peak: &'p Peak,
    tally: Tally<S::Fault>,
    findings: Findings,
}

/// The memory of a [`Desk`].
struct Room<F> {
    page: Box<Page>,
    frames: Vec<Pfn>,
    parts: Vec<Part>,
    latency: Box<Latency>,
    tally: Tally<F>,
}

impl<F> Room<F> {
    fn new(script: &Script) -> Room<F> {
        Room {
            page: Box::new([0; PAGE_SIZE]),
            frames: vec![Pfn(0); most_frames(&script.areas)],
            parts: vec![(0, 0); most_parts(&script.areas)],
            latency: Box::new(Latency::EMPTY),
            tally: Tally::default(),
        }
    }

    fn desk(&mut self) -> Desk<'_, F> {
        let Room { page, frames, parts, latency, tally } = self;
        Desk { page, frames, parts, latency, tally }
    }
}

impl<S: Host> Players<'_, S> {
    /// Plays one round, and tells whether another can follow.
    fn round(&mut self, number: u32) -> bool {
        let slots: Vec<Slot> = slots::awaited(&self.script.areas).collect();
        let notes: Vec<Noted> = (0..slots::frames(&self.script.areas)).map(|_| Noted::nothing()).collect();
        let slots = Slots::new(&slots, &notes);
        let round = Round::new(self.stage, self.script.played(), slots, self.peak, number, self.manner.seed);
        let start = Instant::now();
        if S::THREADS {
            self.with_threads(&round)
        } else {
            self.in_turn(&round)
        }
        self.findings.elapsed += start.elapsed();
        let stopped = round.is_stopped();
        self.findings.stopped = stopped;
        if stopped || number == self.manner.loops {
            self.look();
            self.stage.told(0, Told::End);
        }
        self.work(&round, |worker| self.stage.on(0, || worker.clear()));
        !stopped
    }

    fn with_threads(&mut self, round: &Round<'_, S>) {
        let cpus = self.manner.cpus;
        let mut rooms: Vec<Room<S::Fault>> = (0..cpus).map(|_| Room::new(self.script)).collect();
        thread::scope(|scope| {
            let start =
                |(cpu, room): (u32, _)| scope.spawn(move || round.stage.on(cpu, || alone(round, room, cpu, cpus)));
            let threads: Vec<_> = (0..).zip(&mut rooms).map(start).collect();
            let join = |thread: thread::ScopedJoinHandle<'_, _>| thread.join();
            threads.into_iter().for_each(|t| join(t).unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        });
        rooms.into_iter().for_each(|room| self.take(room));
    }

    fn in_turn(&mut self, round: &Round<'_, S>) {
        let (stage, cpus) = (self.stage, self.manner.cpus);
        self.work(round, |worker| {
            let steps = round.script.steps.iter().take_while(|_| !round.is_stopped());
            steps.for_each(|step| stage.on(step.cpu % cpus, || worker.step(step)));
        });
    }

    /// Lets one worker do `what`.
    fn work(&mut self, round: &Round<'_, S>, what: impl FnOnce(&mut Worker<'_, S>)) {
        let mut room = Room::new(self.script);
        what(&mut Worker::new(round, room.desk()));
        self.take(room);
    }

    fn take(&mut self, room: Room<S::Fault>) {
        self.findings.latency.merge(&room.latency);
        self.tally.merge(room.tally);
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

impl<F: Display> From<Tally<F>> for Counted {
    fn from(tally: Tally<F>) -> Counted {
        let Tally { events, failed, bytes_written, bytes_verified, bytes_wrong, errors } = tally;
        let errors = errors.iter().map(ToString::to_string).collect();
        Counted { events, failed, bytes_written, bytes_verified, bytes_wrong, errors }
    }
}

/// Does the steps of `cpu` among `cpus`.
fn alone<S: Stage>(round: &Round<'_, S>, room: &mut Room<S::Fault>, cpu: u32, cpus: u32) {
    /// Who panics has to tell those who would wait for him.
    struct Alarm<'a, 'r, S>(&'a Round<'r, S>);
    impl<S> Drop for Alarm<'_, '_, S> {
        fn drop(&mut self) {
            if thread::panicking() {
                self.0.stop();
            }
        }
    }
    let _alarm = Alarm(round);
    Worker::new(round, room.desk()).play(cpu, cpus);
}
