//! Discarding translations: by the instruction that this CPU has, counted.
//!
//! `flush=none` on the command line breaks M6 on purpose: nothing is discarded,
//! and whoever looks for stale translations has to find some.

use crate::boot::FlushBy;
use crate::cpu::here;
use crate::cpu::local::count;
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};
use vmalloc::units::{PAGE_SIZE, PageRange};
use vmalloc_x86_64::tlb::{self, Method};

/// The most pages that are discarded one by one.
const MOST: usize = 64;

const INVPCID: u8 = 0;
const GLOBAL_PAGES: u8 = 1;
const NOTHING: u8 = 2;

static METHOD: AtomicU8 = AtomicU8::new(GLOBAL_PAGES);

/// Chooses how, once.
pub fn init(by: FlushBy) {
    let method = match by {
        FlushBy::Nothing => NOTHING,
        FlushBy::Best if Method::of_this_cpu() == Method::Invpcid => INVPCID,
        _ => GLOBAL_PAGES,
    };
    METHOD.store(method, Relaxed);
}

/// Discards everything on this CPU (M6).
#[inline]
pub fn everything() {
    count(&here().counters.flushes);
    match METHOD.load(Relaxed) {
        INVPCID => Method::Invpcid.everything(),
        GLOBAL_PAGES => Method::GlobalPages.everything(),
        _ => (),
    }
}

/// Discards the translations of a range on this CPU.
pub fn range(range: PageRange) {
    if range.pages > MOST || METHOD.load(Relaxed) == NOTHING {
        return everything();
    }
    count(&here().counters.ranges);
    range.addresses().step_by(PAGE_SIZE).for_each(tlb::page);
}
