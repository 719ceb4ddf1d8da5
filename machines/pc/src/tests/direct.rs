//! The direct map follows what areas allow: through all CPUs' TLBs.

use super::table::Place;
use super::{Outcome, Wrong, check, note, put};
use crate::subsystem::kernel;
use crate::tests::{Stamped, stamp};
use crate::trap::{self, Fault};
use crate::{cpu, memory, vm};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering::SeqCst};
use vmalloc::units::PAGE_SIZE;
use vmalloc_kernel::Error;

const PAGES: usize = 3;

/// The area whose direct mapping all CPUs try.
static AREA: Place = Place::new();
/// Whether they may store to it.
static STORES: AtomicBool = AtomicBool::new(true);

fn right<T>(made: Result<T, Error>) -> Result<T, Wrong> {
    made.map_err(|why| {
        println!("  refused: {why}");
        Wrong
    })
}

fn area() -> Result<NonNull<u8>, Wrong> {
    let at = right(kernel().vmalloc(PAGES * PAGE_SIZE))?;
    let salt = stamp::salt();
    stamp::write(at, PAGES, salt);
    put(&AREA, Stamped { at, pages: PAGES, salt })?;
    Ok(at)
}

/// Tries the direct mapping of each page on this CPU.
fn tried() -> Outcome {
    let Some(area) = AREA.look() else { return Ok(()) };
    let stores = STORES.load(SeqCst);
    for page in 0..PAGES {
        let frame = kernel().vmalloc_to_page(area.at.addr().get() + page * PAGE_SIZE).ok_or(Wrong)?;
        let at = memory::direct(frame.phys()).addr().get();
        let found = trap::load(at).map_err(|_| Wrong)?;
        // SAFETY: the test's own, and what it says already.
        let stored = unsafe { trap::store(at, found) };
        check!(stored == if stores { Ok(()) } else { Err(Fault { at }) }, "a direct store to {at:#x}: {stored:?}");
    }
    Ok(())
}

fn all_cpus_try(stores: bool) {
    STORES.store(stores, SeqCst);
    cpu::on_all(|_| note(tried()));
}

pub fn no_cpu_stores_by_the_direct_map_to_what_became_read_only() -> Outcome {
    let at = area()?;
    for _ in 0..3 {
        all_cpus_try(true);
        // SAFETY: Y9: nobody needs the access but the test, whose stores may fault.
        right(unsafe { kernel().set_memory_ro(at.addr().get(), PAGES) })?;
        all_cpus_try(false);
        // SAFETY: as above.
        right(unsafe { kernel().set_memory_rw(at.addr().get(), PAGES) })?;
    }
    all_cpus_try(true);
    AREA.take();
    // SAFETY: Y1: nobody uses it any more.
    right(unsafe { kernel().vfree(at.as_ptr()) })
}

pub fn an_area_that_was_executable_gives_its_direct_mapping_back() -> Outcome {
    for _ in 0..4 {
        let at = area()?;
        all_cpus_try(true);
        // SAFETY: Y9: as above.
        right(unsafe { kernel().set_memory_rox(at.addr().get(), PAGES) })?;
        all_cpus_try(false);
        let frame = kernel().vmalloc_to_page(at.addr().get()).ok_or(Wrong)?;
        AREA.take();
        // SAFETY: Y1: nobody uses it any more.
        right(unsafe { kernel().vfree(at.as_ptr()) })?;
        let direct = memory::direct(frame.phys()).addr().get();
        check!(trap::load(direct).is_ok(), "the direct mapping of {frame:?} did not come back");
        vm().purge();
        // Frames that come again are cleared by their direct mapping.
        let again = right(kernel().vzalloc(64 * PAGE_SIZE))?;
        // SAFETY: Y1: nobody uses it any more.
        right(unsafe { kernel().vfree(again.as_ptr()) })?;
    }
    Ok(())
}
