//! Running CPUs at the same time: each is a coroutine, and at a *step* (an access of
//! an atomic, a call of the machine) a [`Chooser`] may let another one go on.
//!
//! ```text
//!   race ──resume──▶ CPU 0 ──step──▶ ... ──step: the chooser says CPU 1──▶ suspend
//!        ──resume──▶ CPU 1 ──wait: a lock is taken──▶ suspend ──▶ CPU 0 ...
//! ```
//!
//! All runs on one host thread, so a schedule follows from the chooser alone, and the
//! chooser from a seed. A step at which nobody is switched costs a counter.
//!
//! # Rules
//! - Nobody is switched while the machine's state is held, nor while a panic is on
//!   its way: the decision waits for the next step.
//! - Where a race wants NMIs, one comes to whoever runs once in so many steps, wherever
//!   that is; it may be switched away from like anything else.
//! - Each CPU serves its own kicks. One whose script is over goes on serving them
//!   until all are.
//! - A race that takes more than [`MOST_STEPS`] steps is a deadlock, and panics.

use crate::chooser::{Chooser, Turn};
use crate::random::Random;
use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use vmalloc::internals::interleave::{self, Hooks, Rule};
use vmalloc::table::X86_64;
use vmalloc::units::Pfn;
use vmalloc_sim::{Sim, turn};

/// Steps of one race from which on it is taken for a deadlock.
const MOST_STEPS: u64 = 3_000_000;
/// Before that so many steps are looked at, where `INTERLEAVE_PLACES` is set.
const LAST_STEPS: u64 = 2_000;
/// NMIs of one race.
const MOST_NMIS: u64 = 300;
/// Events that the story of a race tells.
const EVENTS: usize = 120;
/// Bytes of a CPU's stack.
const STACK: usize = 256 << 10;

/// What a CPU does in a race.
pub type Script = Box<dyn FnOnce()>;

/// The machine of a race.
pub type Machine = Sim<X86_64>;

/// When NMIs come.
#[derive(Clone, Debug)]
pub struct Nmis {
    every: u64,
    left: u64,
    random: Random,
}

impl Nmis {
    /// None comes.
    pub fn none() -> Nmis {
        Nmis { every: 0, left: 0, random: Random::new(0) }
    }

    /// One in so many steps, by chance, or none where that is 0; few enough that a
    /// race comes to its end.
    pub fn one_in(every: u64, random: Random) -> Nmis {
        Nmis { every, left: if every == 0 { 0 } else { MOST_NMIS }, random }
    }

    /// Steps until the next.
    fn next(&mut self) -> u64 {
        if self.left == 0 {
            return u64::MAX;
        }
        self.left -= 1;
        1 + self.random.below(2 * self.every)
    }
}

/// What all CPUs of a race share.
struct Race {
    sim: Machine,
    chooser: RefCell<Chooser>,
    /// CPUs whose scripts are not over.
    left: Cell<usize>,
    /// Steps taken, by CPU.
    steps: RefCell<Vec<u64>>,
    current: Cell<usize>,
    /// When NMIs come.
    nmis: RefCell<Nmis>,
    /// Where the CPUs stood, once it took long.
    places: RefCell<Vec<String>>,
    yielders: RefCell<Vec<*const Yielder<(), usize>>>,
}

thread_local! {
    /// Steps until the chooser is asked again.
    static UNTIL: Cell<u64> = const { Cell::new(u64::MAX) };
    /// How many steps the CPU that goes on next may take.
    static NEXT: Cell<u64> = const { Cell::new(0) };
    /// How many that were when it was asked last.
    static GRANTED: Cell<u64> = const { Cell::new(0) };
    static RACE: RefCell<Option<Rc<Race>>> = const { RefCell::new(None) };
    static BROKEN: Cell<Option<Rule>> = const { Cell::new(None) };
    static STEPS: Cell<u64> = const { Cell::new(0) };
    /// Steps until an NMI comes, and those that are granted after it.
    static TO_NMI: Cell<u64> = const { Cell::new(u64::MAX) };
    static REST: Cell<u64> = const { Cell::new(0) };
    /// The machine of the last race, which knows its story.
    static RACED: RefCell<Option<Machine>> = const { RefCell::new(None) };
    static LAST: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Steps that races on this thread have taken so far.
pub fn steps() -> u64 {
    STEPS.get()
}

/// Steps that the last race took, by CPU.
pub fn last_steps() -> Vec<u64> {
    LAST.take()
}

/// What all CPUs did last in the last race, or on its machine after it.
pub fn last_story() -> String {
    RACED.take().map_or_else(String::new, |sim| sim.story_of_all(EVENTS))
}

/// From here on the library breaks `rule` on this thread.
pub fn break_rule(rule: Option<Rule>) {
    BROKEN.set(rule);
}

/// Runs `scripts`, one a CPU, at the same time. Panics with what a script panics with.
pub fn race(sim: &Machine, chooser: Chooser, nmis: Nmis, scripts: Vec<Script>) {
    interleave::install(Hooks { step, pooled, breaks });
    let race = Rc::new(Race {
        sim: sim.clone(),
        chooser: RefCell::new(chooser),
        left: Cell::new(scripts.len()),
        steps: RefCell::new(vec![0; scripts.len()]),
        current: Cell::new(0),
        nmis: RefCell::new(nmis),
        places: RefCell::new(vec![String::new(); scripts.len()]),
        yielders: RefCell::new(vec![std::ptr::null(); scripts.len()]),
    });
    let mut cpus: Vec<_> = scripts.into_iter().enumerate().map(|(cpu, script)| coroutine(&race, cpu, script)).collect();
    RACE.set(Some(Rc::clone(&race)));
    turn::set_turns(Some(turn::Turns { step, wait }));
    TO_NMI.set(race.nmis.borrow_mut().next());
    let ended = catch_unwind(AssertUnwindSafe(|| run(&race, &mut cpus)));
    TO_NMI.set(u64::MAX);
    turn::set_turns(None);
    UNTIL.set(u64::MAX);
    RACE.set(None);
    sim.resume_on(0);
    STEPS.set(STEPS.get() + race.taken());
    LAST.set(race.steps.take());
    RACED.set(Some(sim.clone()));
    if let Err(story) = ended {
        // To unwind the others would only tell more of the same: they are left as
        // they stand.
        cpus.into_iter().for_each(std::mem::forget);
        resume_unwind(story);
    }
}

impl Race {
    /// The steps since the last decision are those of the CPU that runs.
    fn account(&self) {
        let taken = 1 + GRANTED.get().saturating_sub(UNTIL.get());
        self.steps.borrow_mut()[self.current.get()] += taken;
        GRANTED.set(UNTIL.get());
        TO_NMI.set(TO_NMI.get().saturating_sub(taken));
    }

    /// An NMI comes to the CPU that runs, which then goes on: with what is left of its
    /// steps, some of which the NMI has taken.
    fn interrupt(&self, waits: bool) {
        TO_NMI.set(self.nmis.borrow_mut().next());
        grant(if waits { 0 } else { REST.get() });
        self.sim.nmi();
        if waits {
            grant(0);
        }
    }

    /// Notes where CPUs stand that seem to wait for ever, and then gives up.
    fn watch(&self) {
        let taken = self.taken();
        if taken > MOST_STEPS {
            panic!("deadlock: a race that does not end; where the CPUs stand:\n{}", self.places.borrow().join("\n"));
        }
        if taken > MOST_STEPS - LAST_STEPS && std::env::var_os("INTERLEAVE_PLACES").is_some() {
            let trace = std::backtrace::Backtrace::force_capture().to_string();
            let ours = trace.lines().filter(|line| line.contains("at ./vmalloc/src") || line.contains("vmalloc::"));
            let cpu = self.current.get();
            self.places.borrow_mut()[cpu] = format!("CPU {cpu}:\n{}", ours.collect::<Vec<_>>().join("\n"));
        }
    }

    fn taken(&self) -> u64 {
        self.steps.borrow().iter().sum()
    }
}

fn coroutine(race: &Rc<Race>, cpu: usize, script: Script) -> Coroutine<(), usize, ()> {
    let race = Rc::clone(race);
    let stack = DefaultStack::new(STACK).expect("memory for a stack");
    Coroutine::with_stack(stack, move |yielder, ()| {
        race.yielders.borrow_mut()[cpu] = yielder;
        script();
        race.account();
        race.left.set(race.left.get() - 1);
        while race.left.get() > 0 {
            race.sim.serve_kick_of(cpu as u32);
            wait();
        }
    })
}

/// Resumes one CPU after the other, as they are chosen, until all are done.
fn run(race: &Race, cpus: &mut [Coroutine<(), usize, ()>]) {
    let mut turn = race.chooser.borrow_mut().first();
    loop {
        // Whoever is done has nothing left to do.
        let Some(cpu) = (0..cpus.len()).map(|n| (turn.cpu + n) % cpus.len()).find(|&cpu| !cpus[cpu].done()) else {
            return;
        };
        race.current.set(cpu);
        race.sim.resume_on(cpu as u32);
        grant(turn.steps);
        match cpus[cpu].resume(()) {
            CoroutineResult::Yield(next) => turn = Turn { cpu: next, steps: NEXT.get() },
            CoroutineResult::Return(()) => turn = Turn { cpu: cpu + 1, steps: u64::MAX },
        }
    }
}

/// The CPU may take so many steps, unless an NMI comes before.
fn grant(steps: u64) {
    let before = steps.min(TO_NMI.get());
    REST.set(steps - before);
    GRANTED.set(before);
    UNTIL.set(before);
}

/// Does something that takes no time: nobody is switched meanwhile. Even a look at
/// the tables would be a step.
pub fn at_once<T>(does: impl FnOnce() -> T) -> T {
    let until = UNTIL.replace(u64::MAX);
    let result = does();
    UNTIL.set(until);
    result
}

fn step() {
    let left = UNTIL.get();
    if left > 0 {
        UNTIL.set(left.wrapping_sub(1));
        return;
    }
    decide(false);
}

/// This CPU cannot go on before another one has.
pub fn wait() {
    decide(true);
}

#[cold]
fn decide(waits: bool) {
    if std::thread::panicking() {
        return;
    }
    let Some(race) = RACE.with_borrow(|race| race.clone()) else { return };
    if race.sim.is_held() {
        return;
    }
    race.account();
    race.watch();
    if TO_NMI.get() == 0 {
        return race.interrupt(waits);
    }
    let turn = race.chooser.borrow_mut().next(race.current.get(), race.taken(), waits);
    if turn.cpu == race.current.get() {
        grant(turn.steps);
    } else {
        NEXT.set(turn.steps);
        let yielder = race.yielders.borrow()[race.current.get()];
        drop(race);
        // SAFETY: the coroutine that runs put it there, and runs.
        unsafe { (*yielder).suspend(turn.cpu) }
    }
}

/// Frames become free memory: no CPU may reach them.
fn pooled(frames: &[Pfn]) {
    if std::thread::panicking() {
        return;
    }
    let race = RACE.with_borrow(|race| race.clone());
    if let Some(race) = race {
        frames.iter().for_each(|&frame| race.sim.assert_reached_only_at(frame, None));
    }
}

/// Whether the library breaks `rule` on this thread.
pub fn breaks(rule: Rule) -> bool {
    BROKEN.get() == Some(rule)
}
