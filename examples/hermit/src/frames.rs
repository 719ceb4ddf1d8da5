//! The frames that the kernel has: a list of free ranges, ordered by address.

use crate::stubs::{MEMORY_FRAMES, Spin};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use vmalloc::lock_api::Mutex;
use vmalloc::machine::frames::{Frames, Want};
use vmalloc::units::Pfn;

/// The list. A kernel that cannot allocate here has an array.
static FREE: Mutex<Spin, Vec<(u64, u64)>> = Mutex::new(Vec::new());
/// How many frames are free, so that nobody walks the list to count them.
static COUNT: AtomicUsize = AtomicUsize::new(0);

static GIVEN: AtomicUsize = AtomicUsize::new(0);

pub struct FreeList;

/// Gives the list its memory: what lies behind the kernel's image.
pub fn init(first: u64) {
    *FREE.lock() = vec![(first, MEMORY_FRAMES)];
    for count in [&COUNT, &GIVEN] {
        count.store((MEMORY_FRAMES - first) as usize, Relaxed);
    }
}

/// How many frames there were to begin with.
pub fn given() -> usize {
    GIVEN.load(Relaxed)
}

pub fn free() -> usize {
    COUNT.load(Relaxed)
}

pub fn fragments() -> usize {
    FREE.lock().len()
}

/// The lowest aligned block of `frames` frames. O(fragments).
fn take(list: &mut Vec<(u64, u64)>, frames: u64) -> Option<Pfn> {
    let fits = |&(start, end): &(u64, u64)| start.next_multiple_of(frames) + frames <= end;
    let at = list.iter().position(fits)?;
    let (start, end) = list[at];
    let first = start.next_multiple_of(frames);
    let left = [(start, first), (first + frames, end)];
    list.splice(at..=at, left.into_iter().filter(|(start, end)| start < end));
    Some(Pfn(first))
}

/// Puts a block where it belongs, joined with what lies beside it. O(fragments).
fn give(list: &mut Vec<(u64, u64)>, first: u64, frames: u64) {
    let at = list.partition_point(|&(start, _)| start < first);
    let (mut from, mut to, mut joined) = (at, at, (first, first + frames));
    if at > 0 && list[at - 1].1 == first {
        (from, joined.0) = (at - 1, list[at - 1].0);
    }
    if at < list.len() && list[at].0 == joined.1 {
        (to, joined.1) = (at + 1, list[at].1);
    }
    list.splice(from..to, [joined]);
}

// SAFETY: F1, F4: a frame is in one range of the list, or out. F2: `take` aligns. F3: the library
// calls with interrupts off, and so does this kernel. F5: there are no descriptors. F6: all memory is
// mapped.
unsafe impl Frames for FreeList {
    fn total(&self) -> usize {
        MEMORY_FRAMES as usize
    }
    fn free_now(&self) -> usize {
        free()
    }
    fn is_ram(&self, frame: Pfn) -> bool {
        frame.0 < MEMORY_FRAMES
    }
    fn end(&self) -> Pfn {
        Pfn(MEMORY_FRAMES)
    }
    fn highest_zone(&self) -> vmalloc::gfp::ZoneKind {
        vmalloc::gfp::ZoneKind::Dma32
    }
    fn alloc(&self, want: Want) -> Option<Pfn> {
        let first = take(&mut FREE.lock(), 1 << want.order)?;
        COUNT.fetch_sub(1 << want.order, Relaxed);
        Some(first)
    }
    unsafe fn free(&self, first: Pfn, order: u8) {
        give(&mut FREE.lock(), first.0, 1 << order);
        COUNT.fetch_add(1 << order, Relaxed);
    }
    /// One lock for a magazine: the list is long where memory is fragmented.
    fn alloc_bulk(&self, _: Want, into: &mut [Pfn]) -> usize {
        let mut list = FREE.lock();
        let got = into.iter_mut().map_while(|frame| take(&mut list, 1).map(|taken| *frame = taken)).count();
        COUNT.fetch_sub(got, Relaxed);
        got
    }
}
