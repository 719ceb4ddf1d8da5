//! What must fault: guards, and what was freed.

use super::table::Place;
use super::{Outcome, Wrong, check, made, note, stamp};
use crate::boot::settings;
use crate::trap::{self, Fault};
use crate::{cpu, vm};
use vmalloc::area::What;
use vmalloc::machine::format::Prot;
use vmalloc::units::PAGE_SIZE;
use vmalloc::{Placement, Policy, Req};

static AREA: Place = Place::new();

pub fn the_pages_before_and_after_an_area_fault() -> Outcome {
    for pages in [1, 2, 3, 16, 64, 65, 512, 600] {
        let area = made(pages)?;
        let (start, end) = (area.at.addr().get(), area.at.addr().get() + pages * PAGE_SIZE);
        for at in [start - 8, start - PAGE_SIZE, end, end + PAGE_SIZE - 8] {
            check!(trap::load(at) == Err(Fault { at }), "{at:#x} beside {pages} pages at {start:#x} can be read");
            // SAFETY: nobody's: it faults.
            let stored = unsafe { trap::store(at, 0) };
            check!(stored == Err(Fault { at }), "{at:#x} beside {pages} pages at {start:#x} can be written");
        }
        let what = vm().whatis(end + 8);
        let named = matches!(what, What::Guard { below: Some(below), past: 8, .. } if below.start.0 == start);
        check!(named, "a hit in the guard is said to be {what:?}");
        area.free()?;
    }
    Ok(())
}

/// On all CPUs: the page that is shown is used, so that TLBs have it.
fn touch_everywhere() {
    cpu::on_all(|_| note(AREA.look().map_or(Ok(()), |area| area.verify())));
}

pub fn under_strict_a_use_after_free_faults_at_once() -> Outcome {
    vm().set_policy(Policy::Strict);
    for pages in [1, 5, 64, 200] {
        super::put(&AREA, made(pages)?)?;
        touch_everywhere();
        AREA.look().map_or(Ok(()), super::Stamped::free)?;
        cpu::on_all(|_| note(nothing_is_reached(&AREA)));
        AREA.take();
    }
    Ok(())
}

/// Each page of the area that is shown at `of` faults on this CPU.
pub(super) fn nothing_is_reached(of: &Place) -> Outcome {
    let Some(area) = of.look() else { return Ok(()) };
    for page in 0..area.pages {
        let at = area.at.addr().get() + page * PAGE_SIZE;
        check!(trap::load(at) == Err(Fault { at }), "{at:#x} was freed and can be read");
    }
    Ok(())
}

/// Each page of the area that is shown can be stored to on this CPU, or faults.
fn stores_end(may_be_stored: bool) -> Outcome {
    let Some(area) = AREA.look() else { return Ok(()) };
    for page in 0..area.pages {
        let at = area.at.addr().get() + page * PAGE_SIZE;
        let found = trap::load(at).map_err(|_| Wrong)?;
        // SAFETY: the test's own, and what it says already.
        let stored = unsafe { trap::store(at, found) };
        check!(stored.is_ok() == may_be_stored, "a store to {at:#x}: {stored:?}");
    }
    area.verify()
}

fn stores_everywhere(may_be_stored: bool) {
    match may_be_stored {
        true => cpu::on_all(|_| note(stores_end(true))),
        false => cpu::on_all(|_| note(stores_end(false))),
    }
}

pub fn a_store_to_pages_that_became_read_only_faults_on_every_cpu() -> Outcome {
    for pages in [1, 5, 64, 200] {
        let area = made(pages)?;
        super::put(&AREA, area)?;
        stores_everywhere(true);
        for (prot, may_be_stored) in [(Prot::RO, false), (Prot::RW, true), (Prot::RX, false)] {
            // SAFETY: V2: the stores that need it may fault.
            let protected = unsafe { vm().protect(area.at.addr().get(), pages, prot) };
            check!(protected.is_ok(), "{prot:?}: {protected:?}");
            stores_everywhere(may_be_stored);
        }
        AREA.take();
        area.free()?;
    }
    Ok(())
}

/// Each page faults, or is still the freed area's.
fn nothing_else_is_reached() -> Outcome {
    let Some(area) = AREA.look() else { return Ok(()) };
    for page in 0..area.pages {
        let at = area.at.addr().get() + page * PAGE_SIZE;
        let right = trap::load(at).map_or(true, |found| found == stamp::first(at, area.salt));
        check!(right, "{at:#x} was freed and is somebody else's before any flush");
    }
    Ok(())
}

/// Under `policy`: before `flush` nobody else is reached, and after it nothing.
fn faults_after(policy: Policy, flush: fn()) -> Outcome {
    vm().set_policy(policy);
    for pages in [1, 5, 64, 200] {
        let area = made(pages)?;
        super::put(&AREA, area)?;
        touch_everywhere();
        area.free()?;
        cpu::on_all(|_| note(nothing_else_is_reached()));
        let before = vm().whatis(area.at.addr().get());
        check!(matches!(before, What::Freed { .. }), "a freed area is said to be {before:?}");
        flush();
        cpu::on_all(|_| note(nothing_is_reached(&AREA)));
        AREA.take();
    }
    Ok(())
}

pub fn under_unmap_a_use_after_free_faults_after_the_flush() -> Outcome {
    faults_after(Policy::Unmap, || _ = vm().purge())
}

pub fn under_park_and_keep_a_use_after_free_faults_after_unmap_aliases() -> Outcome {
    faults_after(Policy::Park, || _ = vm().unmap_aliases())?;
    faults_after(Policy::Keep, || _ = vm().unmap_aliases())
}

/// What is freed and made again is the same memory, on all CPUs; but under the
/// placement Lowest, which has no slots to keep.
pub fn under_park_and_keep_an_area_that_comes_again_was_cached() -> Outcome {
    if settings().placement == Placement::Lowest {
        return Ok(());
    }
    for policy in [Policy::Park, Policy::Keep] {
        vm().set_policy(policy);
        cpu::on_all(|_| note(comes_again()));
    }
    Ok(())
}

fn comes_again() -> Outcome {
    let mut cached = 0;
    for _ in 0..50 {
        let old = made(3)?;
        old.free()?;
        let Ok(at) = vm().alloc(Req::pages(3)) else { return Err(Wrong) };
        if at == old.at {
            stamp::verify(at, 3, old.salt)?;
            cached += 1;
        }
        // SAFETY: V1: read, and used no more.
        let freed = unsafe { vm().free(at) };
        check!(freed.is_ok(), "{freed:?}");
    }
    // A tick may come in between and let it go.
    check!(cached > 25, "{cached} of 50 came again");
    Ok(())
}
