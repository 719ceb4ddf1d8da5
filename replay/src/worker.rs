//! A worker: one CPU's share of the script, done for real.
//!
//! | Make | Is filled | Is checked when it is freed |
//! |---|---|---|
//! | vmalloc | through its addresses (cleared memory is checked first) | through its addresses |
//! | vmap, map_ram | through the frames | through the addresses; filled anew through them, and checked through the frames |
//! | ioremap | through its addresses | through its addresses, and its physical address |
//! | reserve, per-CPU chunk | has no memory | the library knows it |
//!
//! Only the library's calls are timed.

mod check;
mod make;

use crate::latency::{Call, Latency};
use crate::pattern::Page;
use crate::peak::Peak;
use crate::script::{Act, Area, AreaId, Make, Script, Step};
use crate::slots::Slots;
use crate::stage::{Stage, Told};
use crate::tally::Tally;
use core::fmt::{self, Display};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use make::Live;
use vmalloc::area::Caller;
use vmalloc::error::{AllocError, FreeError};
use vmalloc::units::Pfn;

/// Bits below a caller's number, for whatever the library may keep there.
const CALLER_SHIFT: u32 = 4;

/// The caller number `number` of a script, as the library carries it.
pub fn caller(number: u32) -> Caller {
    Caller::Return((number as usize + 1) << CALLER_SHIFT)
}

/// The number of the caller that [`caller`] made, from what the library
/// carries.
pub fn caller_number(pc: usize) -> Option<usize> {
    (pc >> CALLER_SHIFT).checked_sub(1)
}

/// Why an event failed; `F` says why memory could not be reached.
#[derive(Debug)]
pub enum Failure<F> {
    /// The library made nothing.
    Refused {
        /// What.
        what: &'static str,
        /// How large.
        bytes: u64,
        /// Its words.
        why: AllocError,
    },
    /// The library gave nothing back.
    NotFreed {
        /// What.
        what: &'static str,
        /// The area.
        at: usize,
        /// Its words.
        why: FreeError,
    },
    /// Bytes differ.
    Wrong {
        /// How many.
        wrong: u64,
        /// The area.
        at: usize,
    },
    /// A load or a store failed.
    Fault(F),
    /// The library knows another area than was asked for.
    Odd {
        /// The area.
        at: usize,
        /// What is odd.
        what: Odd,
    },
}

/// What is odd about an area.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Odd {
    /// The library does not know it.
    Unknown,
    /// It starts elsewhere.
    Start(usize),
    /// It has so many bytes instead of so many.
    Bytes(usize, usize),
    /// It is not aligned to so many bytes.
    Align(u64),
    /// It was made by somebody else.
    Caller(Caller),
}

impl<F: Display> Display for Failure<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused { what, bytes, why } => write!(f, "{what} of {bytes} bytes: {why}"),
            Failure::NotFreed { what, at, why } => write!(f, "{what} of the area at {at:#x}: {why}"),
            Failure::Wrong { wrong, at } => {
                write!(f, "{wrong} bytes of the area at {at:#x} are not what was written there")
            }
            Failure::Fault(why) => why.fmt(f),
            Failure::Odd { at, what } => write!(f, "the area at {at:#x} is not what was asked for: {what}"),
        }
    }
}

impl Display for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Odd::Unknown => f.write_str("nothing is known of it"),
            Odd::Start(at) => write!(f, "it starts at {at:#x}"),
            Odd::Bytes(has, asked) => write!(f, "it has {has} bytes, not {asked}"),
            Odd::Align(align) => write!(f, "it is not aligned to {align}"),
            Odd::Caller(caller) => write!(f, "it was made by {caller:?}"),
        }
    }
}

/// What the workers of a round share.
pub struct Round<'r, S> {
    /// Where it is played.
    pub stage: &'r S,
    /// What is played.
    pub script: Script<'r>,
    /// Where the areas are.
    pub slots: Slots<'r>,
    /// How much there was at once.
    pub peak: &'r Peak,
    /// The round's number, and what patterns follow from.
    pub number: u32,
    /// As `number`.
    pub seed: u64,
    /// Nobody need go on.
    pub stopped: AtomicBool,
    /// Pages of the device that have been mapped so far.
    pub device_pages: AtomicU64,
}

impl<'r, S> Round<'r, S> {
    /// A round in which nothing has happened yet.
    pub fn new(stage: &'r S, script: Script<'r>, slots: Slots<'r>, peak: &'r Peak, number: u32, seed: u64) -> Self {
        let (stopped, device_pages) = (AtomicBool::new(false), AtomicU64::new(0));
        Round { stage, script, slots, peak, number, seed, stopped, device_pages }
    }

    /// Nobody need go on.
    pub fn stop(&self) {
        self.stopped.store(true, Relaxed);
    }

    /// Whether nobody need go on.
    pub fn is_stopped(&self) -> bool
    where
        S: Stage,
    {
        self.stopped.load(Relaxed) || self.stage.is_ended()
    }
}

/// What a worker needs to work: of nobody else, but kept by whoever has memory.
pub struct Desk<'r, F> {
    /// Room for a page.
    pub page: &'r mut Page,
    /// Room for the frames of an area: [`most_frames`] of them.
    pub frames: &'r mut [Pfn],
    /// Room for the parts of a chunk: [`most_parts`] of them.
    pub parts: &'r mut [Part],
    /// What was measured so far.
    pub latency: &'r mut Latency,
    /// What was counted so far.
    pub tally: &'r mut Tally<F>,
}

/// A part of a chunk: its distance from the first, and its bytes.
pub type Part = (usize, usize);

/// The most frames that one of `areas` has mapped.
pub fn most_frames(areas: &[Area]) -> usize {
    areas.iter().map(Area::frames).max().unwrap_or(0)
}

/// The most parts that one of `areas` has.
pub fn most_parts(areas: &[Area]) -> usize {
    areas.iter().map(Area::parts).max().unwrap_or(0)
}

/// One CPU's worker.
pub struct Worker<'r, S: Stage> {
    round: &'r Round<'r, S>,
    desk: Desk<'r, S::Fault>,
    steps: u64,
    /// The script's CPU whose step it does.
    cpu: u32,
}

impl<'r, S: Stage> Worker<'r, S> {
    /// A worker that has done nothing yet.
    pub fn new(round: &'r Round<'r, S>, desk: Desk<'r, S::Fault>) -> Self {
        Worker { round, desk, steps: 0, cpu: 0 }
    }

    /// Does the steps of `cpu` among `cpus`, until somebody stops the round.
    pub fn play(&mut self, cpu: u32, cpus: u32) {
        let round = self.round;
        let ours = |step: &&Step| step.cpu % cpus == cpu && !round.is_stopped();
        round.script.steps.iter().filter(ours).for_each(|step| self.step(step));
    }

    /// Does one step. An allocation that is refused stops the whole replay:
    /// what follows would no longer be what the trace says.
    pub fn step(&mut self, step: &Step) {
        self.cpu = step.cpu;
        match self.act(step.act) {
            Ok(()) => self.desk.tally.done(self.round.script, step.act),
            Err(failure) => {
                if matches!(failure, Failure::Refused { .. }) {
                    self.tell(Told::Refused);
                    self.round.stop();
                }
                self.desk.tally.failed(failure);
            }
        }
        self.pass_time();
    }

    /// What a kernel's timer interrupt and its worker thread would do.
    fn pass_time(&mut self) {
        self.round.stage.stepped();
        self.steps += 1;
        if self.steps.is_multiple_of(S::TICK) && self.round.stage.vm().tick().work {
            self.round.stage.vm().work();
        }
    }

    /// Checks and frees all that the round has left.
    pub fn clear(&mut self) {
        for (id, at) in self.round.slots.drain() {
            if let Err(failure) = self.give_back(id, at, false) {
                self.desk.tally.failed(failure);
            }
        }
    }

    fn act(&mut self, act: Act) -> Result<(), Failure<S::Fault>> {
        match act {
            Act::Make(id) => self.make(id),
            Act::Free(id) => self.free(id, false),
            Act::Defer(id) => self.free(id, true),
            Act::Purge => {
                let vm = self.round.stage.vm();
                self.tell(Told::Purge);
                self.timed(Call::Purge, || vm.purge());
                Ok(())
            }
            Act::Mark(number) => {
                self.tell(Told::Phase(number));
                self.round.stage.phase(number);
                Ok(())
            }
            Act::Settled(_) | Act::Fail => Ok(()),
        }
    }

    fn make(&mut self, id: AreaId) -> Result<(), Failure<S::Fault>> {
        let area = self.round.script.area(id);
        let made = match area.make {
            Make::Vmalloc => self.vmalloc(area),
            Make::Vmap | Make::MapRam => self.map(id, area),
            Make::Ioremap => self.ioremap(area),
            Make::Reserve => self.reserve(area),
            Make::Pcpu(_) => self.chunk(area),
        };
        let (at, result) = match made {
            Ok(at) => {
                self.tell(Told::Made(area, at));
                let result = self.prepare(&self.live(id, at));
                self.round.peak.grow(area.pages(), || self.round.stage.vm().areas());
                (Some(at), result)
            }
            Err(failure) => (None, Err(failure)),
        };
        self.round.slots.put(id, at);
        result
    }

    fn free(&mut self, id: AreaId, deferred: bool) -> Result<(), Failure<S::Fault>> {
        let round = self.round;
        let wait = |looks| {
            round.stage.wait(looks);
            !round.is_stopped()
        };
        match round.slots.take(id, wait) {
            Some(at) => self.give_back(id, at, deferred),
            // Its making failed, or the replay is over: that is counted there.
            None => Ok(()),
        }
    }

    fn live(&self, id: AreaId, at: usize) -> Live<'r> {
        let area = self.round.script.area(id);
        Live { id, area, at, frames: self.round.slots.frames(id, area) }
    }

    fn tell(&self, told: Told<'_>) {
        self.round.stage.told(self.cpu, told);
    }

    /// Runs `act` and notes how long it took.
    fn timed<R>(&mut self, call: Call, act: impl FnOnce() -> R) -> R {
        let start = self.round.stage.now();
        let result = act();
        self.desk.latency.note(call, self.round.stage.now().saturating_sub(start));
        result
    }
}
