//! The library in interrupts: the same calls, in the middle of tasks.

use super::table::{Place, Stamped};
use super::{Outcome, PATIENCE, all_right, check, note, stamped};
use crate::trap::TICK_HOOK;
use crate::{boot, clock, cpu};
use core::sync::atomic::{AtomicU64, Ordering::*};
use vmalloc::Gfp;

/// Nanoseconds between two ticks.
const OFTEN: u32 = 100_000;
const AREAS: usize = 8;

/// Areas that ticks make and free: anybody's.
static TABLE: [Place; AREAS] = [const { Place::new() }; AREAS];
/// What ticks did.
static MADE: AtomicU64 = AtomicU64::new(0);
static FREED: AtomicU64 = AtomicU64::new(0);
static START: AtomicU64 = AtomicU64::new(0);

/// Areas that interrupts have to make and free before anything is said.
const ENOUGH: u64 = 100;

pub fn interrupts_free_and_allocate_in_the_middle_of_tasks() -> Outcome {
    MADE.store(0, SeqCst);
    FREED.store(0, SeqCst);
    START.store(clock::ns(), SeqCst);
    TICK_HOOK.set(|| note(in_the_tick()));
    cpu::on_all(|cpu| {
        clock::tick_every(OFTEN);
        note(work(cpu));
        clock::tick_every(boot::settings().tick);
    });
    TICK_HOOK.clear();
    // A last tick may still be in it.
    clock::delay_us(100_000);
    TABLE.iter().filter_map(Place::take).try_for_each(Stamped::free)?;
    let (made, freed) = (MADE.load(SeqCst), FREED.load(SeqCst));
    check!(made > ENOUGH && freed > ENOUGH, "interrupts made {made} areas and freed {freed}: too few to tell");
    Ok(())
}

/// One is freed, or one is made.
fn in_the_tick() -> Outcome {
    let n = MADE.load(Relaxed) as usize;
    let place = &TABLE[n % AREAS];
    if let Some(area) = place.take() {
        area.verify()?;
        FREED.fetch_add(1, Relaxed);
        return area.free();
    }
    let Some(area) = stamped(1 + n % 5, Gfp::ATOMIC) else { return Ok(()) };
    MADE.fetch_add(1, Relaxed);
    // Another CPU's tick may have filled the place meanwhile.
    place.put(area).or_else(Stamped::free)
}

/// After a while, and when enough was done; in any case at last.
fn is_over() -> bool {
    let ns = clock::ns() - START.load(Relaxed);
    let enough = MADE.load(Relaxed) > ENOUGH && FREED.load(Relaxed) > ENOUGH;
    ns > PATIENCE || ns > 800_000_000 && enough
}

fn work(cpu: usize) -> Outcome {
    let mut n = cpu;
    while !is_over() && all_right() {
        let area = super::made(1 + n % 40)?;
        area.verify()?;
        area.free()?;
        n += 1;
    }
    Ok(())
}
