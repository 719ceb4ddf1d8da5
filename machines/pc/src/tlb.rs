//! Discarding translations: by the instruction that this CPU has, counted.
//!
//! `flush=none` on the command line breaks M6 on purpose: nothing is discarded,
//! and whoever looks for stale translations has to find some. `pge=off` clears CR4.PGE on
//! all CPUs, as kernels have it that isolate page tables: a flush must not rely on it.

use crate::boot::{FlushBy, settings};
use crate::cpu::here;
use crate::cpu::local::count;
use crate::instructions;
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};
use vmalloc::units::{PAGE_SIZE, PageRange};
use vmalloc_x86_64::tlb::Method;

/// The most pages that are discarded one by one.
const MOST: usize = 64;

const INVPCID: u8 = 0;
const GLOBAL_PAGES: u8 = 1;
const ROOT: u8 = 2;
const NOTHING: u8 = 3;

static METHOD: AtomicU8 = AtomicU8::new(ROOT);

/// Chooses how, once: on the boot CPU, for all.
pub fn init() {
    let method = match (settings().flush, Method::of_this_cpu()) {
        (FlushBy::Nothing, _) => NOTHING,
        (FlushBy::Best, Method::Invpcid) => INVPCID,
        (FlushBy::Best, Method::GlobalPages) => GLOBAL_PAGES,
        (FlushBy::Best, Method::Root) => ROOT,
    };
    METHOD.store(method, Relaxed);
}

/// Takes CR4.PGE away from the calling CPU where the command line says so: start.s has set
/// it where the CPU has global pages.
pub fn init_cpu() {
    if !settings().global_pages {
        instructions::clear_global_pages();
    }
}

/// Whether this CPU is in the state that the library relies on: before it is online.
pub fn check_cpu() {
    // Where nothing is discarded on purpose, the flush is not what is checked.
    let method = method().unwrap_or(Method::GlobalPages);
    if let Err(unmet) = vmalloc_x86_64::check_cpu(crate::memory::levels(), method) {
        panic!("CPU {}: {unmet}", crate::cpu::index());
    }
}

/// Discards everything on this CPU (M6).
#[inline]
pub fn everything() {
    count(&here().counters.flushes);
    if let Some(method) = method() {
        method.everything();
    }
}

/// What was chosen, unless nothing is discarded.
#[inline]
fn method() -> Option<Method> {
    match METHOD.load(Relaxed) {
        INVPCID => Some(Method::Invpcid),
        GLOBAL_PAGES => Some(Method::GlobalPages),
        ROOT => Some(Method::Root),
        _ => None,
    }
}

/// Discards the translations of a range on this CPU.
pub fn range(range: PageRange) {
    match method() {
        Some(method) if range.pages <= MOST => {
            count(&here().counters.ranges);
            method.pages(range.addresses().step_by(PAGE_SIZE));
        }
        _ => everything(),
    }
}
