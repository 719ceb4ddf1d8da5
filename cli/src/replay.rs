//! The replay, on each machine.
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
//! order and changes CPUs as the trace says. The bare-metal machine plays by
//! itself, and tells what it found.

pub mod historic;
pub mod hosted;
pub mod pc;
pub mod players;
pub mod progress;
pub mod recording;
mod setup;
pub mod sim;

use players::{Remains, Vmas};
use std::time::Duration;
use vmalloc::Stats;
use vmalloc_replay::latency::Latency;
pub use vmalloc_replay::parcel::Manner;
use vmalloc_replay::peak::Peaks;
use vmalloc_replay::tally::WORDS;

/// What a replay found.
pub struct Findings {
    /// What was counted.
    pub counted: Counted,
    /// What was measured, in nanoseconds.
    pub latency: Box<Latency>,
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
    /// Whether Ctrl-C ended it.
    pub interrupted: bool,
    /// The time that the rounds took.
    pub elapsed: Duration,
    /// What remained after everything had been given back.
    pub left: Left,
}

/// What was counted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counted {
    /// Events that went well, by [`WORDS`].
    pub events: [u64; WORDS.len()],
    /// Events that did not.
    pub failed: u64,
    /// Bytes of patterns written.
    pub bytes_written: u64,
    /// Bytes compared.
    pub bytes_verified: u64,
    /// Of these, bytes that differed.
    pub bytes_wrong: u64,
    /// What the first failures said.
    pub errors: Vec<String>,
}

/// What remained.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Left {
    /// Areas that the instance still listed.
    pub areas: usize,
    /// What the instance left when it ended.
    pub remains: Remains,
}

impl Default for Findings {
    fn default() -> Findings {
        Findings {
            counted: Counted::default(),
            latency: Box::new(Latency::EMPTY),
            peaks: Peaks::default(),
            end: Stats::default(),
            vmas: None,
            listing: String::new(),
            broken: Vec::new(),
            stopped: false,
            interrupted: false,
            elapsed: Duration::ZERO,
            left: Left::default(),
        }
    }
}
