//! `vmalloc bench hosted`: a process, beside what it would do otherwise.
//!
//! A pair: a block is made, a byte of each page is written, it is given back.
//! *Cold*: [`LIVE`] blocks are made and written, then all are given back, then
//! the allocator is told to keep nothing; so each block is new memory. *Warm*:
//! one after the other, so that an allocator that keeps what it had can give
//! it again.
//!
//! Time is what this thread has spent on a CPU, in the process and in Linux for
//! it, and the least of several rounds through all: others on the same CPUs, and a
//! slow while, do not count.

mod elsewhere;
mod growth;

use super::write_json;
use crate::options::{HostedBench, PolicyName, word};
use crate::report::table::{grouped, numbers};
use anyhow::{Context, Result, ensure};
use mimalloc::MiMalloc;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Write;
use std::ptr::{NonNull, null_mut};
use std::time::Duration;
use vmalloc::units::PAGE_SIZE;
use vmalloc::{Heap, Req, Vmalloc};
use vmalloc_hosted::{Hosted, builder};

const SIZES: [usize; 3] = [1, 16, 256];
const POLICIES: [PolicyName; 4] = [PolicyName::Strict, PolicyName::Unmap, PolicyName::Park, PolicyName::Keep];
/// Blocks that live at once when they are cold.
const LIVE: usize = 64;
/// Of so many rounds the least is told.
const ROUNDS: usize = 15;
/// How long a measurement of warm pairs takes, about.
const WARM: Duration = Duration::from_millis(4);
/// How long they run before that.
const WARM_UP: Duration = Duration::from_millis(30);

const CAPTION: &str = "\
Nanoseconds of CPU time a pair: a block made, a byte of each page written, given back; the least of 15 rounds.
cold: 64 blocks made, then all given back, each of new memory; warm: one after the other.";

const ELSEWHERE_CAPTION: &str = "\
Thousands of blocks a second that one thread makes and writes and another one gives back, by the clock on the wall; the\n\
most of 5 rounds.";
const GROWTH_CAPTION: &str = "\
Milliseconds of CPU time to push 10,000,000 numbers onto a vector one by one, and to drop it; the least of 5 rounds.\n\
Blocks of 64 KiB and more are areas.";
/// Pages of a block that is given back elsewhere.
const ELSEWHERE_SIZES: [usize; 2] = [1, 16];
/// Rounds of what takes longer.
const FEW_ROUNDS: usize = 5;
/// Where blocks begin to be areas.
const LARGE: usize = 64 << 10;

/// Something that hands out blocks of pages.
trait Contestant {
    fn name(&self) -> String;
    /// What it does and does not do, of: clear the memory, give it back to the
    /// system, catch a use after free.
    fn does(&self) -> &'static str;
    fn make(&self, pages: usize) -> Option<NonNull<u8>>;
    /// # Safety
    /// It was made here, with as many pages, and nobody uses it.
    unsafe fn end(&self, block: NonNull<u8>, pages: usize);
    /// Keeps nothing.
    fn forget(&self) {}
}

struct Ours(PolicyName, Vmalloc<Hosted>);

impl Contestant for Ours {
    fn name(&self) -> String {
        format!("vmalloc {}", word(self.0))
    }
    fn does(&self) -> &'static str {
        match self.0 {
            PolicyName::Strict => "clears nothing unless asked; gives back at once; catches every use after free",
            PolicyName::Unmap => "clears nothing unless asked; gives back, and catches, from the next flush on",
            PolicyName::Park => {
                "clears nothing unless asked; holds what is within its budget; catches from the next flush on"
            }
            PolicyName::Keep => "clears nothing unless asked; holds what is within its budget; catches nothing of that",
        }
    }
    fn make(&self, pages: usize) -> Option<NonNull<u8>> {
        self.1.alloc(Req::pages(pages)).ok()
    }
    unsafe fn end(&self, block: NonNull<u8>, _: usize) {
        // SAFETY: the caller's.
        let freed = unsafe { self.1.free(block) };
        debug_assert!(freed.is_ok(), "{freed:?}");
    }
    fn forget(&self) {
        self.1.purge();
    }
}

struct Mmap;

impl Contestant for Mmap {
    fn name(&self) -> String {
        "mmap".to_owned()
    }
    fn does(&self) -> &'static str {
        "clears; gives back at once; catches until the addresses are somebody else's; no guard"
    }
    fn make(&self, pages: usize) -> Option<NonNull<u8>> {
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: new addresses.
        let at = unsafe { libc::mmap(null_mut(), pages * PAGE_SIZE, prot, flags, -1, 0) };
        NonNull::new(at.cast()).filter(|_| at != libc::MAP_FAILED)
    }
    unsafe fn end(&self, block: NonNull<u8>, pages: usize) {
        // SAFETY: the caller's.
        unsafe { libc::munmap(block.as_ptr().cast(), pages * PAGE_SIZE) };
    }
}

/// An allocator of the language's kind.
struct Malloc<A>(&'static str, &'static str, A, fn());

impl<A: GlobalAlloc> Contestant for Malloc<A> {
    fn name(&self) -> String {
        self.0.to_owned()
    }
    fn does(&self) -> &'static str {
        self.1
    }
    fn make(&self, pages: usize) -> Option<NonNull<u8>> {
        // SAFETY: not of size 0.
        NonNull::new(unsafe { self.2.alloc(layout(pages)?) })
    }
    unsafe fn end(&self, block: NonNull<u8>, pages: usize) {
        if let Some(layout) = layout(pages) {
            // SAFETY: the caller's.
            unsafe { self.2.dealloc(block.as_ptr(), layout) }
        }
    }
    fn forget(&self) {
        self.3();
    }
}

fn layout(pages: usize) -> Option<Layout> {
    Layout::from_size_align(pages * PAGE_SIZE, 16).ok().filter(|layout| layout.size() > 0)
}

fn trim_system() {
    // SAFETY: gives unused memory back.
    unsafe { libc::malloc_trim(0) };
}

fn trim_mimalloc() {
    // SAFETY: as above.
    unsafe { libmimalloc_sys::mi_collect(true) };
}

/// Measures, and writes the table.
pub fn run(options: &HostedBench, out: &mut String) -> Result<()> {
    let contestants = contestants(1)?;
    let mut rows: Vec<_> = contestants.iter().map(|of| Row::new(&**of)).collect();
    for _ in 0..ROUNDS {
        rows.iter_mut().zip(&contestants).try_for_each(|(row, of)| row.measure(&**of))?;
    }
    if let Some(path) = &options.json {
        write_json(path, &rows)?;
    }
    let titles = ["", "1 page cold", "warm", "16 cold", "warm", "256 cold", "warm", "what it does"];
    let mut table = numbers(&titles, titles.len() - 1);
    for row in &rows {
        let figures = row.pairs.iter().flat_map(|pair| [grouped(pair.cold_ns), grouped(pair.warm_ns)]);
        table.add_row([row.name.clone()].into_iter().chain(figures).chain([row.does.to_owned()]));
    }
    writeln!(out, "{table}\n{CAPTION}\n")?;
    measure_elsewhere(out)?;
    measure_growth(out)
}

/// Everybody, ours with so many CPUs.
fn contestants(cpus: u32) -> Result<Vec<Box<dyn Contestant + Sync>>> {
    let mut contestants: Vec<Box<dyn Contestant + Sync>> = Vec::new();
    for policy in POLICIES {
        contestants.push(Box::new(Ours(policy, builder().cpus(cpus).policy(policy.into()).build()?)));
    }
    let keeps = "clears nothing; keeps what it had; catches nothing; no guard";
    contestants.push(Box::new(Mmap));
    contestants.push(Box::new(Malloc("malloc", keeps, System, trim_system)));
    contestants.push(Box::new(Malloc("mimalloc", keeps, MiMalloc, trim_mimalloc)));
    Ok(contestants)
}

fn measure_elsewhere(out: &mut String) -> Result<()> {
    let contestants = contestants(2)?;
    let mut best = vec![[0; ELSEWHERE_SIZES.len()]; contestants.len()];
    for _ in 0..FEW_ROUNDS {
        for (best, of) in best.iter_mut().zip(&contestants) {
            for (best, pages) in best.iter_mut().zip(ELSEWHERE_SIZES) {
                *best = elsewhere::speed(&**of, pages)?.max(*best);
            }
        }
    }
    let mut table = numbers(&["given back elsewhere", "1 page", "16"], 2);
    for (best, of) in best.iter().zip(&contestants) {
        table.add_row([of.name()].into_iter().chain(best.iter().map(|&speed| grouped(speed))));
    }
    Ok(writeln!(out, "{table}\n{ELSEWHERE_CAPTION}\n")?)
}

fn measure_growth(out: &mut String) -> Result<()> {
    let mut rows: Vec<(String, Duration)> = vec![("malloc".to_owned(), Duration::MAX)];
    for policy in POLICIES {
        rows.push((format!("vmalloc {}", word(policy)), Duration::MAX));
    }
    let heaps = POLICIES.map(|policy| {
        // Never freed, since a heap lives as long as its process.
        let vm = Box::leak(Box::new(builder().policy(policy.into()).build()?));
        let heap = Heap::new(System, LARGE);
        heap.serve(vm);
        anyhow::Ok(heap)
    });
    let heaps: Vec<Heap<Hosted, System>> = heaps.into_iter().collect::<Result<_>>()?;
    for _ in 0..FEW_ROUNDS {
        rows[0].1 = growth::time(&System)?.min(rows[0].1);
        for (row, heap) in rows[1..].iter_mut().zip(&heaps) {
            row.1 = growth::time(heap)?.min(row.1);
        }
    }
    let system = rows[0].1;
    let mut table = numbers(&["grown one by one", "ms", "times malloc"], 2);
    for (name, time) in rows {
        let times = time.as_secs_f64() / system.as_secs_f64();
        table.add_row([name, grouped(time.as_millis() as u64), format!("{times:.2}")]);
    }
    Ok(writeln!(out, "{table}\n{GROWTH_CAPTION}")?)
}

/// What was measured of one contestant.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Row {
    name: String,
    does: &'static str,
    /// By size.
    pairs: Vec<Pair>,
}

/// Nanoseconds of a pair.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Pair {
    pages: usize,
    cold_ns: u64,
    warm_ns: u64,
}

impl Row {
    /// Nothing is measured yet.
    fn new(of: &dyn Contestant) -> Row {
        let pairs = SIZES.map(|pages| Pair { pages, cold_ns: u64::MAX, warm_ns: u64::MAX });
        Row { name: of.name(), does: of.does(), pairs: pairs.into() }
    }

    /// A round: what takes less than in those before is told.
    fn measure(&mut self, of: &dyn Contestant) -> Result<()> {
        for pair in &mut self.pairs {
            pair.least(cold(of, pair.pages)?, warm(of, pair.pages)?);
        }
        Ok(())
    }
}

impl Pair {
    fn least(&mut self, cold_ns: u64, warm_ns: u64) {
        self.cold_ns = self.cold_ns.min(cold_ns);
        self.warm_ns = self.warm_ns.min(warm_ns);
    }
}

/// Nanoseconds of a cold pair.
fn cold(of: &dyn Contestant, pages: usize) -> Result<u64> {
    of.forget();
    let start = cpu_time();
    let blocks: Vec<_> = (0..LIVE).map_while(|_| written(of, pages)).collect();
    let made = blocks.len();
    for block in blocks {
        // SAFETY: made just now.
        unsafe { of.end(block, pages) }
    }
    let took = cpu_time() - start;
    ensure!(made == LIVE, "{}: no memory", of.name());
    Ok(each(took, LIVE))
}

/// Nanoseconds of a warm pair, after a while that does not count: some allocators go round in the memory that they
/// have, and the first time it is new.
fn warm(of: &dyn Contestant, pages: usize) -> Result<u64> {
    pairs_for(of, pages, WARM_UP)?;
    pairs_for(of, pages, WARM)
}

/// Nanoseconds of a pair: of as many as take so long, since to read the clock is a system call.
fn pairs_for(of: &dyn Contestant, pages: usize, time: Duration) -> Result<u64> {
    let mut pairs = LIVE;
    loop {
        let start = cpu_time();
        for _ in 0..pairs {
            let block = written(of, pages).with_context(|| format!("{}: no memory", of.name()))?;
            // SAFETY: made just now.
            unsafe { of.end(block, pages) }
        }
        let took = cpu_time() - start;
        if took >= time {
            return Ok(each(took, pairs));
        }
        pairs *= 2;
    }
}

/// What this thread has spent on a CPU.
fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Nanoseconds of one of `pairs`.
fn each(time: Duration, pairs: usize) -> u64 {
    time.as_nanos() as u64 / pairs as u64
}

/// A block of which each page has been written to.
fn written(of: &dyn Contestant, pages: usize) -> Option<NonNull<u8>> {
    let block = of.make(pages)?;
    for page in 0..pages {
        // SAFETY: the block has so many pages.
        unsafe { block.add(page * PAGE_SIZE).write_volatile(1) }
    }
    Some(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_contestant_makes_blocks_that_can_be_written() {
        let ours = Ours(PolicyName::Keep, builder().memory(16 << 20).build().unwrap());
        let contestants: [&dyn Contestant; 3] = [&ours, &Mmap, &Malloc("mimalloc", "", MiMalloc, trim_mimalloc)];
        for contestant in contestants {
            for pages in SIZES {
                let block = written(contestant, pages).unwrap();
                // SAFETY: made just now.
                unsafe { contestant.end(block, pages) }
            }
            contestant.forget();
        }
    }

    #[test]
    fn the_least_of_all_rounds_is_told_and_of_a_pair() {
        let mut pair = Pair { pages: 1, cold_ns: u64::MAX, warm_ns: u64::MAX };
        [(30, 9), (20, 5), (25, 7)].into_iter().for_each(|(cold, warm)| pair.least(cold, warm));
        assert_eq!(pair, Pair { pages: 1, cold_ns: 20, warm_ns: 5 });
        assert_eq!(each(Duration::from_micros(20), 10), 2_000);
    }

    #[test]
    fn time_that_a_thread_sleeps_does_not_count() {
        let start = cpu_time();
        std::thread::sleep(Duration::from_millis(50));
        let slept = cpu_time();
        assert!(slept - start < Duration::from_millis(25), "{:?}", slept - start);
        while cpu_time() < slept + Duration::from_millis(1) {}
    }

    #[test]
    fn what_programs_read_has_every_size() {
        let pairs = SIZES.map(|pages| Pair { pages, cold_ns: 2, warm_ns: 1 }).into();
        let text = serde_json::to_string(&Row { name: "a".to_owned(), does: "b", pairs }).unwrap();
        let expected = r#"{"name":"a","does":"b","pairs":[{"pages":1,"cold_ns":2,"warm_ns":1},{"pages":16,"cold_ns":2,"warm_ns":1},{"pages":256,"cold_ns":2,"warm_ns":1}]}"#;
        assert_eq!(text, expected);
    }
}
