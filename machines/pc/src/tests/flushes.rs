//! Flushes: kicks, ranges, CPUs that are deaf, and readers that never stop.

use super::table::{Place, Stamped};
use super::{Outcome, PATIENCE, check, made, note, stamp, stamped};
use crate::trap;
use crate::{boot, clock, cpu, vm};
use arrayvec::ArrayVec;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use vmalloc::machine::{Flush, Machine};
use vmalloc::units::{PAGE_SIZE, PageRange, Pfn, VirtAddr};
use vmalloc::{Gfp, Policy};
use vmalloc_x86_64::interrupts;

static AREA: Place = Place::new();
/// Odd while the area changes.
static VERSION: AtomicU64 = AtomicU64::new(0);
static STOP: AtomicBool = AtomicBool::new(false);
static READS: AtomicU64 = AtomicU64::new(0);

/// One CPU makes and frees areas, and flushes, as fast as it can; the others
/// read. A read counts if the area lived throughout.
pub fn whoever_reads_a_live_area_reads_that_area() -> Outcome {
    STOP.store(false, SeqCst);
    READS.store(0, SeqCst);
    (1..cpu::count()).for_each(|cpu| cpu::on(cpu, |_| note(read_until_stopped()), 0));
    let outcome = change_until_read();
    STOP.store(true, SeqCst);
    (1..cpu::count()).for_each(cpu::wait);
    outcome
}

/// Reads to see before anything is said.
const ENOUGH: u64 = 200;

/// Areas of changing size, purged now and then, so that addresses and frames
/// come again in other pairs. Where few CPUs of the host run the readers, they
/// live longer.
fn change_until_read() -> Outcome {
    let (start, mut round) = (clock::ns(), 0);
    let enough = if cpu::count() == 1 { 0 } else { ENOUGH };
    loop {
        let (ns, reads) = (clock::ns() - start, READS.load(SeqCst));
        if ns > 800_000_000 && reads >= enough {
            return Ok(());
        }
        check!(ns < PATIENCE, "only {reads} reads");
        let live = if ns < 800_000_000 { 20 } else { 2000 };
        let area = made(1 + round % 3)?;
        super::put(&AREA, area)?;
        VERSION.fetch_add(1, SeqCst);
        clock::delay_us(live);
        area.verify()?;
        VERSION.fetch_add(1, SeqCst);
        AREA.take();
        area.free()?;
        if round % 4 == 3 {
            vm().purge();
        }
        round += 1;
    }
}

fn read_until_stopped() -> Outcome {
    while !STOP.load(Relaxed) {
        let version = VERSION.load(SeqCst);
        let Some(area) = AREA.look().filter(|_| version % 2 == 1) else {
            spin_loop();
            continue;
        };
        let at = area.at.addr().get();
        let found = trap::load(at);
        if VERSION.load(SeqCst) == version {
            READS.fetch_add(1, Relaxed);
            check!(found == Ok(stamp::first(at, area.salt)), "a live area at {at:#x} reads as {found:x?}");
        }
    }
    Ok(())
}

pub fn a_busy_cpu_answers_a_kick_without_a_tick() -> Outcome {
    STOP.store(false, SeqCst);
    READS.store(0, SeqCst);
    for cpu in 1..cpu::count() {
        cpu::on(cpu, |_| spin_without_ticks(), 0);
    }
    while READS.load(SeqCst) < cpu::count() as u64 - 1 {
        spin_loop();
    }
    let kicks = || (1..cpu::count()).map(|cpu| cpu::counters(cpu).kicks.load(SeqCst)).sum::<u64>();
    let before = kicks();
    let outcome = (0..10).try_for_each(|_| {
        made(3)?.free()?;
        vm().purge();
        Ok(())
    });
    let kicked = kicks() - before;
    STOP.store(true, SeqCst);
    (1..cpu::count()).for_each(cpu::wait);
    outcome?;
    let enough = 10 * (cpu::count() as u64 - 1);
    check!(kicked >= enough, "{kicked} kicks for 10 purges, {enough} are needed");
    Ok(())
}

fn spin_without_ticks() {
    clock::tick_every(0);
    READS.fetch_add(1, SeqCst);
    while !STOP.load(Relaxed) {
        spin_loop();
    }
    clock::tick_every(boot::settings().tick);
}

/// A CPU uses an area and then answers no kick. As long as it does not, neither
/// the area's addresses nor its frames are anybody's.
pub fn nothing_is_reused_before_every_cpu_has_flushed() -> Outcome {
    if cpu::count() == 1 {
        return Ok(());
    }
    vm().set_policy(Policy::Unmap);
    STOP.store(false, SeqCst);
    READS.store(0, SeqCst);
    let area = made(4)?;
    super::put(&AREA, area)?;
    let frames = frames_of(&area);
    cpu::on(1, |_| note(use_deafly()), 0);
    while READS.load(SeqCst) == 0 {
        spin_loop();
    }
    let outcome = area.free().and_then(|()| (1..40).try_for_each(|pages| avoids(&area, &frames, pages)));
    STOP.store(true, SeqCst);
    cpu::wait(1);
    AREA.take();
    outcome
}

fn frames_of(area: &Stamped) -> ArrayVec<Pfn, 64> {
    let pages = (0..area.pages).map(|page| area.at.addr().get() + page * PAGE_SIZE);
    pages.filter_map(|at| vm().frame_at(at)).take(64).collect()
}

/// A new area, made without waiting, has nothing of `old`, and is freed again.
fn avoids(old: &Stamped, frames: &[Pfn], pages: usize) -> Outcome {
    let Some(new) = stamped(pages, Gfp::ATOMIC) else { return Ok(()) };
    let (old_at, new_at) = (old.at.addr().get(), new.at.addr().get());
    let apart = new_at + pages * PAGE_SIZE <= old_at || old_at + old.pages * PAGE_SIZE <= new_at;
    check!(apart, "the addresses of {old:?} were given to {new:?}");
    let reused = frames_of(&new).iter().find(|frame| frames.contains(frame)).copied();
    check!(reused.is_none(), "{reused:?} of {old:?} was given to {new:?}");
    new.free()
}

/// Interrupts off: reads the area until told to stop.
fn use_deafly() -> Outcome {
    let flags = interrupts::off();
    let outcome = AREA.look().map_or(Ok(()), |area| {
        let at = area.at.addr().get();
        while !STOP.load(SeqCst) {
            let right = trap::load(at).map_or(true, |found| found == stamp::first(at, area.salt));
            check!(right, "{at:#x} is somebody else's though this CPU has not flushed");
            READS.fetch_add(1, SeqCst);
        }
        Ok(())
    });
    READS.fetch_add(1, SeqCst);
    interrupts::restore(flags);
    outcome
}

/// What `Flush::Ranges` is for: only this CPU, only these pages; many pages are
/// all pages.
pub fn a_flush_of_ranges_forgets_them() -> Outcome {
    vm().set_policy(Policy::Unmap);
    for pages in [1, 10, 64, 65] {
        let area = made(pages)?;
        area.verify()?;
        let range = PageRange::new(VirtAddr(area.at.addr().get()), pages);
        area.free()?;
        vm().machine().flush(Flush::Ranges(&[range]));
        for at in range.addresses().step_by(PAGE_SIZE) {
            check!(trap::load(at).is_err(), "{at:#x} can be read after its flush");
        }
    }
    Ok(())
}
