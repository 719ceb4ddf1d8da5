//! What instructions do not show.

use super::measured::Measured;
use super::steps::{Locked, Steps, Symbols};
use anyhow::Result;

/// What a case's operation causes, under Unmap.
#[derive(Clone, PartialEq, Debug)]
pub struct Events {
    pub case: String,
    /// Page-table entries written.
    pub entries: f64,
    /// Locked instructions; none if nobody stepped.
    pub locked: Option<Locked>,
    /// For a million pages.
    pub flushes: f64,
    pub kicks: f64,
    pub chunks: f64,
    /// Frames that are neither free nor an area's.
    pub held: u64,
}

impl Events {
    /// From what was counted, and from what was stepped through.
    pub fn new(case: &str, of: &Measured, steps: Option<&Steps>, symbols: &Symbols) -> Result<Events> {
        let locked = steps.map(|steps| steps.locked(symbols)).transpose()?;
        Ok(Events {
            case: case.to_owned(),
            // Each page's entry is written when it is bound, when it is made
            // waiting, and when it is collected.
            entries: 2.0 * of.pages + of.collected,
            locked,
            flushes: of.flushes,
            kicks: of.kicks,
            chunks: of.chunks,
            held: of.held,
        })
    }
}
