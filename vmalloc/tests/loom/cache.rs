//! Slots that are used again without a flush (R5).

use super::{chunk, explore, link};
use loom::sync::atomic::{AtomicBool, Ordering::*};
use loom::thread;
use std::sync::Arc;
use vmalloc::internals::chunk::Chunk;
use vmalloc::internals::lookup::SlotRef;
use vmalloc::internals::slot::Slot;
use vmalloc::internals::{hold, release};
use vmalloc::machine::frames::Page;

fn look_up(chunk: &Chunk) -> SlotRef {
    SlotRef::in_chunk(link(chunk), chunk.sequence(), 0)
}

/// Under Keep a slot is used again without a flush, so its owner has to see who
/// frees it at the same moment (R5). Broken by `keep` or `claim` that look before
/// they say, and without the order between (`between_seqcst`).
#[test]
fn a_slot_that_another_cpu_frees_at_the_same_moment_does_not_become_warm() {
    explore(4, || {
        let chunk = chunk(1);
        let remote = thread::spawn({
            let chunk = chunk.clone();
            move || look_up(&chunk).claim()
        });
        let alone = look_up(&chunk).lives() && chunk.cache_alone(0, || (), Slot::is_shared);
        assert!(!(remote.join().unwrap() && alone), "R5");
    });
}

/// Nor does one whose frames are handed out at the same moment. Broken by `hand_out`
/// that looks before it says so, or does not say so, by `cache_alone` that asks for holders
/// first, and without the order between.
#[test]
fn a_slot_whose_frames_are_handed_out_at_the_same_moment_does_not_become_warm() {
    explore(4, || {
        let (chunk, page) = (chunk(1), Arc::new(Page::default()));
        let bound = Arc::new(AtomicBool::new(true));
        let holder = thread::spawn({
            let (chunk, page, bound) = (chunk.clone(), page.clone(), bound.clone());
            move || {
                let found = look_up(&chunk);
                let look = || found.seen(|| bound.load(Relaxed).then_some(())).is_some();
                let held = look() && found.hand_out(|| hold(&page), look);
                (held, !held && page.extra.load(Relaxed) > 0 && release(&page))
            }
        });
        let park = || bound.store(false, Relaxed);
        let cached = look_up(&chunk).lives() && chunk.cache_alone(0, park, Slot::is_shared);
        let (held, last) = holder.join().unwrap();
        assert!(!(held && cached), "R5");
        assert!(!last, "the area's own hold");
    });
}
