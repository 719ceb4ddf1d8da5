//! A case on several CPUs at once, by the machine's own clock.

use super::cases::{Coded, loops_of};
use super::{Bare, suite};
use crate::{clock, cpu};
use core::hint::spin_loop;
use core::sync::atomic::{AtomicU32, Ordering::*};
use spin::Mutex;
use vmalloc_suite::{Case, Error, loops_for};

/// Nanoseconds that are measured, and those of a run that tells how many loops
/// that is.
const MEASURED: u64 = 1_000_000_000;
const TRIED: u64 = MEASURED / 10;

/// What all CPUs do, and the first error of any.
static JOB: Mutex<Option<(Case, usize)>> = Mutex::new(None);
static FAILED: Mutex<Option<Error>> = Mutex::new(None);
/// CPUs that have not arrived.
static AWAITED: AtomicU32 = AtomicU32::new(0);

/// Runs `case` on `threads` CPUs: to warm up, then for about a second, or for
/// so many loops, which is a record.
pub fn run(case: Case, loops: Option<usize>, threads: u32) -> Result<(), Error> {
    let threads = threads.clamp(1, cpu::count());
    let few = loops.unwrap_or(loops_of(case)) / 16 + 1;
    let took = together(case, few, threads)?;
    let loops = match loops {
        Some(loops) => loops,
        None => {
            let some = loops_for(TRIED, few, took);
            loops_for(MEASURED, some, together(case, some, threads)?)
        }
    };
    let ns = together(case, loops, threads)?;
    println!("@threads name={} threads={threads} loops={loops} ns={ns}", Coded(case));
    Ok(())
}

/// Runs `case` on all of them, and says how long the last one took.
fn together(case: Case, loops: usize, threads: u32) -> Result<u64, Error> {
    *JOB.lock() = Some((case, loops));
    AWAITED.store(threads, SeqCst);
    let start = clock::ns();
    (1..threads).for_each(|cpu| cpu::on(cpu, work, cpu as usize));
    work(0);
    (1..threads).for_each(cpu::wait);
    let took = clock::ns() - start;
    FAILED.lock().take().map_or(Ok(took), Err)
}

/// Waits for all, then works.
fn work(cpu: usize) {
    let job = *JOB.lock();
    AWAITED.fetch_sub(1, SeqCst);
    while AWAITED.load(SeqCst) > 0 {
        spin_loop();
    }
    let done = job.map_or(Ok(()), |(case, loops)| suite(&Bare).seed(cpu as u64 + 1).run(case, loops));
    if let Err(why) = done {
        *FAILED.lock() = Some(why);
    }
}
