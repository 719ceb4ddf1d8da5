//! A stress: all operations on all CPUs, each page with its area's stamp.
//!
//! Places for areas are shared by all CPUs. Whoever empties a place owns what was
//! in it: verifies it through his own TLB, and frees it, or puts it back. A
//! translation that should be gone reads another frame, whose stamp is of
//! another address or another time.

use super::random::Random;
use super::table::{Place, Stamped};
use super::{Outcome, all_right, check, note, stamp, stamped};
use crate::trap::TICK_HOOK;
use crate::{boot, clock, cpu, trap, vm};
use arrayvec::ArrayVec;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering::*};
use vmalloc::machine::format::MemType;
use vmalloc::units::{PAGE_SIZE, Pfn};
use vmalloc::{Gfp, Policy, Req};

/// Places: few enough that addresses and frames come again soon.
const PLACES: usize = 256;
/// Pages of the largest areas, but for a few.
const LARGE: usize = 80;

/// Strict makes everybody wait: seldom.
const POLICIES: [Policy; 7] = {
    use Policy::*;
    [Unmap, Park, Keep, Unmap, Park, Keep, Strict]
};

static TABLE: [Place; PLACES] = [const { Place::new() }; PLACES];
static END: AtomicU64 = AtomicU64::new(0);
static ACTS: AtomicU64 = AtomicU64::new(0);
static PAGES: AtomicU64 = AtomicU64::new(0);

pub fn every_page_keeps_its_areas_stamp() -> Outcome {
    stress(boot::settings().stress as u64)
}

/// Runs for so many seconds.
pub fn stress(seconds: u64) -> Outcome {
    ACTS.store(0, SeqCst);
    PAGES.store(0, SeqCst);
    END.store(clock::ns() + seconds * 1_000_000_000, SeqCst);
    TICK_HOOK.set(|| note(in_the_tick()));
    cpu::on_all(|cpu| note(run(cpu as u64)));
    TICK_HOOK.clear();
    // A last tick may still be in it.
    clock::delay_us(100_000);
    TABLE.iter().filter_map(Place::take).try_for_each(end)?;
    let (acts, pages) = (ACTS.load(SeqCst), PAGES.load(SeqCst));
    println!("  {acts} operations, {pages} pages verified, in {seconds} s");
    println!("@stress seconds={seconds} acts={acts} pages={pages} right={}", all_right());
    check!(acts > 0 && pages > 0, "nothing was done");
    check!(all_right(), "a page was lost");
    Ok(())
}

fn run(cpu: u64) -> Outcome {
    let mut random = Random::new(clock::instructions() ^ cpu << 32);
    let mut acts = 0;
    while clock::ns() < END.load(Relaxed) && all_right() {
        act(&mut random)?;
        acts += 1;
    }
    ACTS.fetch_add(acts, Relaxed);
    Ok(())
}

fn act(random: &mut Random) -> Outcome {
    let place = &TABLE[random.below(PLACES)];
    cpu::here().run_due();
    match (random.below(100), place.take()) {
        (0..8, Some(area)) => end(area),
        (0..8, None) => something_else(random),
        (8..14, None) => map_two_ways(random),
        (_, None) => make(random).map_or(Ok(()), |area| put(place, area)),
        (14..40, Some(area)) => {
            verify(&area)?;
            put(place, area)
        }
        (_, Some(area)) => end(area),
    }
}

/// What happens seldom.
fn something_else(random: &mut Random) -> Outcome {
    match random.below(10) {
        0 => _ = vm().purge(),
        1 => _ = vm().reclaim(random.below(1000)),
        2 => vm().set_policy(POLICIES[random.below(POLICIES.len())]),
        3 => _ = vm().unmap_aliases(),
        4 if cpu::index() != 0 => cpu::idle(cpu::here()),
        5 => return reserve(random),
        6 => return map_device(random),
        7 => return clean(random),
        _ => return large_and_aligned(random),
    }
    Ok(())
}

fn reserve(random: &mut Random) -> Outcome {
    let Ok(at) = vm().reserve(Req::pages(1 + random.below(3000))) else { return Ok(()) };
    check!(trap::load(at.addr().get()).is_err(), "a reservation is mapped at {at:?}");
    free(at)
}

/// A page of the firmware's read-only memory, which is there and does nothing.
fn map_device(random: &mut Random) -> Outcome {
    const FIRMWARE: u64 = 0xffff_f000;
    let bytes = 1 + random.below(PAGE_SIZE);
    let Ok(at) = vm().ioremap(FIRMWARE, bytes, MemType::Uncached) else { return Ok(()) };
    let read = trap::load(at.addr().get());
    // SAFETY: V1: it was read, and is used no more.
    let unmapped = unsafe { vm().iounmap(at) };
    check!(read.is_ok() && unmapped.is_ok(), "{read:?}, {unmapped:?}");
    Ok(())
}

/// Cleared memory is, whatever was in its frames.
fn clean(random: &mut Random) -> Outcome {
    let pages = random.size(LARGE);
    let Ok(at) = vm().alloc(Req::pages(pages).zeroed()) else { return Ok(()) };
    for page in 0..pages {
        let at = at.addr().get() + page * PAGE_SIZE + random.below(512) * 8;
        check!(trap::load(at) == Ok(0), "{at:#x} of {pages} cleared pages reads as {:x?}", trap::load(at));
    }
    free(at)
}

fn large_and_aligned(random: &mut Random) -> Outcome {
    let (pages, align) = (random.size(LARGE), PAGE_SIZE << random.below(10));
    let Ok(at) = vm().alloc(Req::pages(pages).align(align)) else { return Ok(()) };
    let area = Stamped { at, pages, salt: stamp::salt() };
    stamp::write(at, pages, area.salt);
    check!(at.addr().get().is_multiple_of(align), "{at:?} is not aligned to {align:#x}");
    end(area)
}

fn free(at: NonNull<u8>) -> Outcome {
    // SAFETY: V1: who calls does not use it any more.
    let freed = unsafe { vm().free(at) };
    check!(freed.is_ok(), "{freed:?}");
    Ok(())
}

/// Interrupts take part: they end an area, or make one.
fn in_the_tick() -> Outcome {
    let place = &TABLE[clock::instructions() as usize / 16 % PLACES];
    match place.take() {
        Some(area) => end(area),
        None => stamped(3, Gfp::ATOMIC).map_or(Ok(()), |area| put(place, area)),
    }
}

fn make(random: &mut Random) -> Option<Stamped> {
    let large = random.below(64) == 0;
    let gfp = if random.below(4) == 0 { Gfp::ATOMIC } else { Gfp::KERNEL };
    stamped(random.size(if large { 700 } else { LARGE }), gfp)
}

/// Into the place; where somebody was quicker, the area ends.
fn put(place: &Place, area: Stamped) -> Outcome {
    place.put(area).or_else(end)
}

fn verify(area: &Stamped) -> Outcome {
    PAGES.fetch_add(area.pages as u64, Relaxed);
    area.verify()
}

fn end(area: Stamped) -> Outcome {
    verify(&area)?;
    area.free()
}

/// Frames of an area, held and mapped once more: the same pages, elsewhere.
fn map_two_ways(random: &mut Random) -> Outcome {
    const MOST: usize = 8;
    let Some(area) = stamped(1 + random.below(MOST), Gfp::KERNEL) else { return Ok(()) };
    let pages = (0..area.pages).map(|page| area.at.addr().get() + page * PAGE_SIZE);
    let frames: ArrayVec<Pfn, MOST> = pages.filter_map(|at| vm().hold_frame(at)).collect();
    check!(frames.len() == area.pages, "{} frames behind {area:?}", frames.len());
    // SAFETY: P4: held, above.
    let again = unsafe { vm().map_ram(&frames, None) };
    // The area goes first: the frames live on with their holders.
    area.free()?;
    let seen = again.map(|at| read_through(at, &area));
    let unmapped = again.map(|at| {
        // SAFETY: V1: read, and used no more.
        unsafe { vm().unmap_ram(at, area.pages) }
    });
    for frame in frames {
        // SAFETY: P3: held above.
        unsafe { vm().free_frame(frame) }
    }
    check!(!matches!(unmapped, Ok(Err(_))), "{unmapped:?}");
    seen.unwrap_or(Ok(()))
}

/// The pages of `area` have its stamps, at `at` too.
fn read_through(at: NonNull<u8>, area: &Stamped) -> Outcome {
    for page in 0..area.pages {
        // SAFETY: mapped, and held.
        let found = unsafe { at.add(page * PAGE_SIZE).cast::<u64>().read_volatile() };
        let right = stamp::first(area.at.addr().get() + page * PAGE_SIZE, area.salt);
        check!(found == right, "page {page} at {at:?} has {found:#x} instead of {right:#x}");
    }
    Ok(())
}
