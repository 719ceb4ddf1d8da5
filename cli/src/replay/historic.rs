//! The trace, as a kernel of the past would have placed its areas.
//!
//! The address allocator of that age plays the same makes and frees, in the trace's
//! order, by a real walk over its list; nothing is mapped. Each region has its own list.
//! A range within a region that the trace asks for is left out of account, and the parts
//! of a per-CPU chunk are areas like others: those kernels knew neither.

use super::Manner;
use super::setup::region_bytes;
use crate::options::{HistoricName, Replay, word};
use crate::trace::script::{Act, Area, Make, Script};
use serde::Serialize;
use std::ops::Range;
use std::time::Instant;
use vmalloc::units::PAGE_SIZE;
use vmalloc_kernel::Error;
use vmalloc_kernel::historic::{Areas, Form, Place};
use vmalloc_replay::latency::Histogram;

/// What a kernel of the past would have done.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Past {
    pub age: String,
    /// Areas that were made, and requests that were refused.
    pub made: u64,
    pub refused: u64,
    /// Pages from the lowest to the highest address that an area ever had, by region, summed.
    pub span_pages: u64,
    /// Areas that were looked at in searches; and the most in one call.
    pub steps: u64,
    pub longest_search: u64,
    pub flushes: u64,
    /// Of a make or a free.
    pub p50_ns: u64,
    pub max_ns: u64,
    pub elapsed_s: f64,
}

/// Plays `script` as the age would that `options` name, if they name one.
pub fn beside(options: &Replay, script: &Script, manner: Manner) -> Option<Past> {
    let age = options.historic?;
    let starts = script.regions.iter().map(|region| region.start as usize);
    let regions: Vec<Range<usize>> =
        starts.zip(region_bytes(script)).map(|(start, bytes)| start..start.saturating_add(bytes)).collect();
    let form = match age {
        HistoricName::V2_6 => Form::V2_6,
        HistoricName::V3_0 => Form::V3_0 { cpus: manner.cpus },
    };
    Some(Past { age: word(age), ..play(form, script, manner.loops, &regions) })
}

/// Plays `script` so often, in `regions`.
fn play(form: Form, script: &Script, loops: u32, regions: &[Range<usize>]) -> Past {
    // Each area may be there twice: freed ones stay until they are purged.
    let room = 2 * script.areas.iter().map(parts).sum::<usize>() + 1;
    let mut tables: Vec<Vec<Place>> = regions.iter().map(|_| vec![Place::default(); room]).collect();
    let lists = regions.iter().zip(&mut tables).map(|(bounds, table)| Areas::new(form, bounds.clone(), table));
    let mut player = Player {
        lists: lists.collect(),
        live: vec![Vec::new(); script.areas.len()],
        times: Box::new(Histogram::EMPTY),
        made: 0,
        refused: 0,
    };
    let begin = Instant::now();
    for _ in 0..loops {
        script.steps.iter().for_each(|step| player.step(script, step.act));
        (0..script.areas.len()).for_each(|id| player.free(&script.areas[id], id));
    }
    player.told(begin.elapsed().as_secs_f64())
}

/// Areas that an area of the script is.
fn parts(area: &Area) -> usize {
    if let Make::Pcpu(parts) = area.make { parts as usize } else { 1 }
}

struct Player<'t> {
    lists: Vec<Areas<'t>>,
    /// Where the parts of each area lie.
    live: Vec<Vec<usize>>,
    times: Box<Histogram>,
    made: u64,
    refused: u64,
}

impl Player<'_> {
    fn step(&mut self, script: &Script, act: Act) {
        match act {
            Act::Make(id) => self.make(&script.areas[id.0 as usize], id.0 as usize),
            Act::Free(id) | Act::Defer(id) => self.free(&script.areas[id.0 as usize], id.0 as usize),
            Act::Settled(_) | Act::Purge | Act::Mark(_) | Act::Fail => (),
        }
    }

    fn make(&mut self, area: &Area, id: usize) {
        for _ in 0..parts(area) {
            match self.timed(area, |list| get(list, area)) {
                Ok(at) => {
                    self.made += 1;
                    self.live[id].push(at);
                }
                Err(_) => self.refused += 1,
            }
        }
    }

    fn free(&mut self, area: &Area, id: usize) {
        for at in std::mem::take(&mut self.live[id]) {
            let freed = self.timed(area, |list| list.free(at));
            debug_assert_eq!(freed, Ok(()));
        }
    }

    /// Calls `call` with the list of the area's region, and notes how long it takes.
    fn timed<R>(&mut self, area: &Area, call: impl FnOnce(&mut Areas<'_>) -> R) -> R {
        let region = (area.place.region as usize).min(self.lists.len() - 1);
        let begin = Instant::now();
        let result = call(&mut self.lists[region]);
        self.times.add(begin.elapsed().as_nanos() as u64, 1);
        result
    }

    fn told(self, elapsed_s: f64) -> Past {
        let counted: Vec<_> = self.lists.iter().map(Areas::counted).collect();
        Past {
            age: String::new(),
            made: self.made,
            refused: self.refused,
            span_pages: counted.iter().map(|list| (list.span / PAGE_SIZE) as u64).sum(),
            steps: counted.iter().map(|list| list.steps).sum(),
            longest_search: counted.iter().map(|list| list.longest).max().unwrap_or(0),
            flushes: counted.iter().map(|list| list.flushes).sum(),
            p50_ns: self.times.at_thousandths(500),
            max_ns: self.times.at_thousandths(1000),
            elapsed_s,
        }
    }
}

fn get(list: &mut Areas<'_>, area: &Area) -> Result<usize, Error> {
    match area.make {
        Make::Ioremap => list.get_device(area.bytes as usize),
        _ => list.get(area.bytes as usize, area.align as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace;

    fn past(form: Form, loops: u32) -> Past {
        let script = trace::read("mix", crate::MIX).unwrap();
        let regions: Vec<Range<usize>> =
            script.regions.iter().map(|region| region.start as usize..region.end as usize).collect();
        play(form, &script, loops, &regions)
    }

    #[test]
    fn the_trace_fits_as_it_did_and_2_6_looks_at_many_areas_and_flushes_with_each_free() {
        let (old, newer) = (past(Form::V2_6, 1), past(Form::V3_0 { cpus: 4 }, 1));
        assert_eq!((old.refused, newer.refused), (0, 0));
        assert_eq!(old.made, newer.made);
        assert_eq!(old.flushes, old.made, "each free is a flush of its own");
        assert!(newer.flushes < old.flushes / 10, "{newer:?}");
        assert!(newer.steps < old.steps / 2 && old.longest_search > 100, "{old:?} {newer:?}");
    }

    #[test]
    fn two_loops_make_twice_as_many_areas_in_the_same_span() {
        let (once, twice) = (past(Form::V2_6, 1), past(Form::V2_6, 2));
        assert_eq!((2 * once.made, once.span_pages), (twice.made, twice.span_pages));
    }
}
