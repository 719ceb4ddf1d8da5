//! The heap of whoever writes a report: memory that is taken and never given back.
//!
//! A report is written in a copy of the process, of one thread (`copy.rs`). Its heap may be in any state, so
//! that nothing of it is used: allocations come from mappings of the copy's own, and frees do nothing.

use crate::here;
use crate::os;
use crate::process;
use core::alloc::Layout;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};

/// Bytes of a mapping, or more where one allocation is larger.
const PIECE: usize = 16 << 20;

static IS_ON: AtomicBool = AtomicBool::new(false);
static NEXT: AtomicUsize = AtomicUsize::new(0);
static END: AtomicUsize = AtomicUsize::new(0);

/// Every allocation of this process, which has one thread, comes from here from now on.
pub fn begin() {
    process::own_all();
    here::wake();
    IS_ON.store(true, Relaxed);
}

/// Whether this process writes a report.
pub fn is_on() -> bool {
    IS_ON.load(Relaxed)
}

/// Clear memory; null where there is none.
pub fn alloc(layout: Layout) -> *mut u8 {
    place(layout).or_else(|| more(layout).and_then(|()| place(layout))).unwrap_or(null_mut())
}

fn place(layout: Layout) -> Option<*mut u8> {
    let at = NEXT.load(Relaxed).checked_next_multiple_of(layout.align())?;
    let end = at.checked_add(layout.size())?;
    if at == 0 || end > END.load(Relaxed) {
        return None;
    }
    NEXT.store(end, Relaxed);
    Some(core::ptr::with_exposed_provenance_mut(at))
}

fn more(layout: Layout) -> Option<()> {
    let bytes = layout.size().checked_add(layout.align())?.max(PIECE);
    let start = os::memory(bytes)?.as_ptr().expose_provenance();
    NEXT.store(start, Relaxed);
    END.store(start + bytes, Relaxed);
    Some(())
}
