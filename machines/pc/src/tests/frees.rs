//! Frees by another CPU than the one that made the area.

use super::table::{Place, Stamped};
use super::{Outcome, Wrong, all_right, check, made, note};
use crate::bench::step;
use crate::boot::settings;
use crate::{cpu, vm};
use core::sync::atomic::{AtomicUsize, Ordering::*};
use vmalloc::error::FreeError;
use vmalloc::{Placement, Policy};

const AREAS: usize = 100;
static TABLE: [[Place; AREAS]; cpu::MAX] = [const { [const { Place::new() }; AREAS] }; cpu::MAX];

pub fn what_another_cpu_frees_comes_back() -> Outcome {
    vm().purge();
    let before = vm().stats();
    for round in 0..10 {
        cpu::on_all(|cpu| note(TABLE[cpu].iter().enumerate().try_for_each(|(n, place)| make(n, place))));
        cpu::on_all(|cpu| {
            let other = &TABLE[(cpu + 1) % cpu::count() as usize];
            note(other.iter().filter_map(Place::take).try_for_each(verify_and_free));
        });
        check!(all_right(), "in round {round}");
    }
    vm().purge();
    let after = vm().stats();
    check!(after.areas == before.areas && after.waiting_pages == 0, "{before:?} became {after:?}");
    let remote = after.counts.remote_frees - before.counts.remote_frees;
    let freed = (AREAS * 10 * cpu::count() as usize) as u64;
    check!(cpu::count() == 1 || remote == freed, "{remote} of {freed} frees were remote");
    Ok(())
}

fn make(n: usize, place: &Place) -> Outcome {
    super::put(place, made(1 + n % 20)?)
}

fn verify_and_free(area: Stamped) -> Outcome {
    area.verify()?;
    area.free()
}

/// Entering a CPU is one locked instruction, on a line that is the CPU's own. A
/// pair enters twice; what a batch costs is shared by all that is in it.
pub fn a_pair_on_one_cpu_locks_no_line_that_others_write() -> Outcome {
    if settings().placement == Placement::Lowest {
        return Ok(());
    }
    vm().set_policy(Policy::Unmap);
    locks_at_most(2 * PAIRS + PAIRS / 2, false)
}

/// It claims and it posts (R1), and it enters its own CPU once. The owner's remote frees are for a
/// whole chunk.
pub fn a_free_on_another_cpu_locks_two_lines_that_others_write() -> Outcome {
    if settings().placement == Placement::Lowest || cpu::count() == 1 {
        return Ok(());
    }
    vm().set_policy(Policy::Unmap);
    locks_at_most(3 * PAIRS + 3 * PAIRS / 4, true)
}

const PAIRS: usize = 2048;

/// Whoever spins for a CPU that the host has stopped counts too, so the least of a few tries is meant.
fn locks_at_most(most: usize, remote: bool) -> Outcome {
    let mut least = u32::MAX;
    for _ in 0..5 {
        vm().purge();
        let locked = step::locked(PAIRS, remote).map_err(|why| {
            println!("  {why}");
            Wrong
        })?;
        least = least.min(locked);
        if least <= most as u32 {
            return Ok(());
        }
    }
    check!(false, "{least} locked instructions in {PAIRS} loops, at most {most} are meant");
    Ok(())
}

static FREED: AtomicUsize = AtomicUsize::new(0);
static REFUSED: AtomicUsize = AtomicUsize::new(0);

/// Where the owner and another CPU free at the same moment, both may be told
/// that it went well; the second one is found out when its post is read.
pub fn a_double_free_on_two_cpus_is_refused_once() -> Outcome {
    let raced = || vm().stats().counts.raced_frees as usize;
    for _ in 0..200 {
        super::put(&TABLE[0][0], made(2)?)?;
        FREED.store(0, SeqCst);
        REFUSED.store(0, SeqCst);
        let before = raced();
        cpu::on_all(|_| contend());
        TABLE[0][0].take();
        vm().purge();
        let (freed, refused) = (FREED.load(SeqCst) - (raced() - before), REFUSED.load(SeqCst) + raced() - before);
        check!(freed == 1, "{freed} freed it, {refused} of {} were refused", cpu::count());
        check!(refused == cpu::count() as usize - 1, "{refused} of {} were refused", cpu::count());
    }
    Ok(())
}

fn contend() {
    let Some(area) = TABLE[0][0].look() else { return };
    // SAFETY: on purpose: one of them is right, the others are to be refused.
    let freed = unsafe { vm().free(area.at) };
    match freed {
        Ok(()) => FREED.fetch_add(1, SeqCst),
        Err(FreeError::DoubleFree { .. } | FreeError::NotAnArea(_)) => REFUSED.fetch_add(1, SeqCst),
        Err(why) => {
            println!("  {why}");
            0
        }
    };
}
