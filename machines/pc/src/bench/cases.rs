//! A case counted: one record.

use super::{Bare, suite};
use crate::machine::Pc;
use crate::{clock, cpu, vm};
use vmalloc::Req;
use vmalloc::machine::Machine;
use vmalloc::units::{Pfn, VirtAddr};
use vmalloc_suite::{Case, Difference, Error, Results};

/// Instructions that a measurement takes, if a page took 20
/// and a call 200: in truth it is about the double, some ticks.
const LENGTH: usize = 10_000_000;

/// What all records of this run have in common.
pub fn about() {
    match zeroing() {
        Ok(zeroing) => println!("@bench cpus={} zero={zeroing}", cpu::count()),
        Err(why) => println!("bench: {why}"),
    }
}

/// Loops that take about [`LENGTH`].
pub fn loops_of(case: Case) -> usize {
    (LENGTH / (400 + 20 * case.weight())).next_multiple_of(case.lives())
}

/// Counts `case`.
pub fn run(case: Case, loops: Option<usize>) -> Result<(), Error> {
    let suite = suite(&Bare);
    let found = suite.difference(case, loops.unwrap_or(loops_of(case)))?;
    tell(case, &found, suite.results());
    Ok(())
}

fn tell(case: Case, found: &Difference, results: Results) {
    let Difference { loops, cost } = found;
    let (counts, stats) = (cost.counts, vm().stats());
    print!("@case name={} loops={loops} clock={}", Coded(case), cost.clock);
    print!(" allocs={} pages={}", counts.allocs, counts.alloc_pages);
    print!(" collected={} flushes={}", counts.reclaimed_pages, counts.flushes);
    print!(" kicks={} purges={} chunks={}", counts.kicks, counts.purges, counts.chunks_made);
    print!(" held={}", stats.waiting_pages + stats.cached_pages + stats.pooled_frames);
    println!(" passed={} failed={} xfailed={}", results.passed, results.failed, results.xfailed);
}

/// A case's name without a space.
pub struct Coded(pub Case);

impl core::fmt::Display for Coded {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.0.pages() {
            Some(pages) => write!(f, "{}%20{pages}", self.0.word()),
            None => f.write_str(self.0.word()),
        }
    }
}

/// Instructions that clear a page, as the library has it cleared.
fn zeroing() -> Result<u64, Error> {
    let area = vm().alloc(Req::pages(1))?;
    let at = area.addr().get();
    let frame = vm().frame_at(at).unwrap_or(Pfn(0));
    let machine: &Pc = vm().machine();
    let start = clock::instructions();
    let nothing = clock::instructions() - start;
    let start = clock::instructions();
    machine.zero(frame, VirtAddr(at));
    let cleared = clock::instructions() - start;
    // SAFETY: V1: it is ours, and nobody was told.
    unsafe { vm().free(area) }?;
    Ok(cleared - nothing)
}
