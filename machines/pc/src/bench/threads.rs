//! A case on several CPUs at once, for the clock on the wall.

use super::cases::{Coded, loops_of};
use super::{Bare, suite};
use crate::cpu;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicU32, Ordering::*};
use spin::Mutex;
use vmalloc_suite::{Case, Error};

/// What all CPUs do, and the first error of any.
static JOB: Mutex<Option<(Case, usize)>> = Mutex::new(None);
static FAILED: Mutex<Option<Error>> = Mutex::new(None);
/// CPUs that have not arrived.
static AWAITED: AtomicU32 = AtomicU32::new(0);

/// Runs `case` on `threads` CPUs: once to warm up, then between two records, for
/// whoever listens and has a clock.
pub fn run(case: Case, loops: Option<usize>, threads: u32) -> Result<(), Error> {
    let threads = threads.clamp(1, cpu::count());
    let loops = loops.unwrap_or(loops_of(case) / 4);
    together(case, loops / 4 + 1, threads)?;
    println!("@go");
    together(case, loops, threads)?;
    println!("@threads name={} threads={threads} loops={loops}", Coded(case));
    Ok(())
}

fn together(case: Case, loops: usize, threads: u32) -> Result<(), Error> {
    *JOB.lock() = Some((case, loops));
    AWAITED.store(threads, SeqCst);
    (1..threads).for_each(|cpu| cpu::on(cpu, work, cpu as usize));
    work(0);
    (1..threads).for_each(cpu::wait);
    FAILED.lock().take().map_or(Ok(()), Err)
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
