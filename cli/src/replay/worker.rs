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

use super::latency::{Call, Latency};
use super::pattern::Page;
use super::peak::Peak;
use super::progress::Progress;
use super::slots::Slots;
use super::stage::Stage;
use super::tally::Tally;
use crate::trace::script::{Act, AreaId, Make, Script, Step};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use thiserror::Error;
use vmalloc::error::{AllocError, FreeError};
use vmalloc::units::PAGE_SIZE;

/// Steps between a worker's ticks.
const TICK: u64 = 64;

/// Why an event failed.
#[derive(Debug, Error)]
pub enum Failure {
    #[error("{what} of {bytes} bytes: {why}")]
    Refused { what: &'static str, bytes: u64, why: AllocError },
    #[error("{what} of the area at {at:#x}: {why}")]
    NotFreed { what: &'static str, at: usize, why: FreeError },
    #[error("{wrong} bytes of the area at {at:#x} are not what was written there")]
    Wrong { wrong: u64, at: usize },
    #[error("{0}")]
    Fault(String),
    #[error("the area at {at:#x} is not what was asked for: {what}")]
    Odd { at: usize, what: String },
}

/// What the workers of a round share.
pub struct Round<'r, S> {
    /// Where it is played.
    pub stage: &'r S,
    /// What is played.
    pub script: &'r Script,
    /// Where the areas are.
    pub slots: Slots,
    /// How much there was at once.
    pub peak: &'r Peak,
    /// How far everybody is.
    pub progress: &'r Progress,
    /// The round's number, and what patterns follow from.
    pub number: u32,
    pub seed: u64,
    /// Nobody need go on.
    pub stopped: AtomicBool,
    /// Pages of the device that have been mapped so far.
    pub device_pages: AtomicU64,
}

/// One CPU's worker.
pub struct Worker<'r, S> {
    round: &'r Round<'r, S>,
    page: Box<Page>,
    steps: u64,
    /// What was measured.
    pub latency: Latency,
    /// What was counted.
    pub tally: Tally,
}

impl<'r, S: Stage> Worker<'r, S> {
    /// A worker that has done nothing yet.
    pub fn new(round: &'r Round<'r, S>) -> Self {
        let (latency, tally) = (Latency::default(), Tally::default());
        Worker { round, page: Box::new([0; PAGE_SIZE]), steps: 0, latency, tally }
    }

    /// Does one step. An allocation that is refused stops the whole replay:
    /// what follows would no longer be what the trace says.
    pub fn step(&mut self, step: &Step) {
        match self.act(&step.act) {
            Ok(()) => self.tally.done(self.round.script.word(&step.act)),
            Err(failure) => {
                if matches!(failure, Failure::Refused { .. }) {
                    self.round.stopped.store(true, Relaxed);
                }
                self.tally.failed(&failure);
            }
        }
        self.round.progress.step();
        self.pass_time();
    }

    /// What a kernel's timer interrupt and its worker thread would do.
    fn pass_time(&mut self) {
        self.round.stage.pass_time();
        self.steps += 1;
        if self.steps.is_multiple_of(TICK) && self.round.stage.vm().tick().work {
            self.round.stage.vm().work();
        }
    }

    /// Checks and frees all that the round has left.
    pub fn clear(&mut self) {
        for (id, live) in self.round.slots.drain() {
            if let Err(failure) = self.give_back(id, live, false) {
                self.tally.failed(&failure);
            }
        }
    }

    fn act(&mut self, act: &Act) -> Result<(), Failure> {
        match act {
            Act::Make(id) => self.make(*id),
            Act::Free(id) => self.free(*id, false),
            Act::Defer(id) => self.free(*id, true),
            Act::Purge => {
                let vm = self.round.stage.vm();
                self.latency.timed(Call::Purge, || vm.purge());
                Ok(())
            }
            Act::Mark(text) => {
                self.round.progress.phase(text);
                Ok(())
            }
            Act::Settled(_) | Act::Fail => Ok(()),
        }
    }

    fn make(&mut self, id: AreaId) -> Result<(), Failure> {
        let area = self.round.script.area(id);
        let made = match area.make {
            Make::Vmalloc => self.vmalloc(area),
            Make::Vmap | Make::MapRam => self.map(id, area),
            Make::Ioremap => self.ioremap(area),
            Make::Reserve => self.reserve(area),
            Make::Pcpu(parts) => self.chunk(area, parts),
        };
        let (live, result) = match made {
            Ok(live) => {
                let result = self.prepare(id, &live);
                self.round.peak.grow(area.pages(), || self.round.stage.vm().areas());
                (Some(live), result)
            }
            Err(failure) => (None, Err(failure)),
        };
        self.round.slots.put(id, live);
        result
    }

    fn free(&mut self, id: AreaId, deferred: bool) -> Result<(), Failure> {
        match self.round.slots.take(id, || self.round.stopped.load(Relaxed)) {
            Some(live) => self.give_back(id, live, deferred),
            // Its making failed, or the replay is over: that is counted there.
            None => Ok(()),
        }
    }
}
