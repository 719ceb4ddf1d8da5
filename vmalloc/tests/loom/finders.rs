//! What finders are told (R2).

use super::{chunk, explore, link, make};
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use loom::thread;
use std::sync::Arc;
use vmalloc::area::{Caller, RegionId};
use vmalloc::internals::batch::Batch;
use vmalloc::internals::chunk::Chunk;
use vmalloc::internals::class::Class;
use vmalloc::internals::lookup::SlotRef;
use vmalloc::units::{Node, Pfn, VirtAddr};

/// Broken by `begin` without the release fence, and by `SlotRef::area` without the last
/// look at the sequences: areas are told that were freed before the question.
#[test]
fn what_a_finder_sees_of_an_area_was_true() {
    explore(2, || {
        let chunk = chunk(0);
        make(&chunk, 1);
        let freed = Arc::new(AtomicBool::new(false));
        let finder = thread::spawn({
            let (chunk, freed) = (chunk.clone(), freed.clone());
            move || {
                let late = freed.load(Acquire);
                let Some(info) = SlotRef::in_chunk(link(&chunk), chunk.sequence(), 0).area() else { return };
                let n = info.pages;
                assert!(n == 2 || (n == 1 && !late), "area 1 was freed before");
                assert_eq!((info.bytes, info.caller, info.freer), (n << 12, Caller::Return(n), None), "R2");
                assert_eq!((info.node, info.phys), (Node(n as u8), Some(n as u64)), "R2");
            }
        });
        chunk.retire(1, 0);
        chunk.slot(0).freed_by(Caller::Return(7));
        freed.store(true, Release);
        chunk.give(0, 0);
        make(&chunk, 2);
        finder.join().unwrap();
    });
}

/// Broken by a sequence that does not move when the header becomes another
/// chunk, by nobody looking at it, and by `retire_header` without its fence: the old
/// base is told with the new area.
#[test]
fn a_finder_does_not_take_a_chunk_for_the_one_that_it_was() {
    explore(2, || {
        let class = Class::of(16, 1).expect("a small area");
        let chunk = Arc::new(Chunk::new(Pfn(0)));
        let become_at = |base| chunk.become_class(class, 2, VirtAddr(base), RegionId(0), 0);
        become_at(0x1000);
        make(&chunk, 1);
        let finder = thread::spawn({
            let chunk = chunk.clone();
            move || {
                if let Some(info) = SlotRef::in_chunk(link(&chunk), chunk.sequence(), 0).area() {
                    assert_eq!(info.start, VirtAddr(info.pages * 0x1000), "R2");
                }
            }
        });
        chunk.retire(1, 0);
        chunk.slot(0).freed_by(Caller::Return(7));
        chunk.give(0, 0);
        chunk.retire_header();
        become_at(0x2000);
        make(&chunk, 2);
        finder.join().unwrap();
    });
}

/// A dead address is freed again, while its chunk is given up and its header becomes
/// another one. Broken by a look that reads both sequences last.
#[test]
fn a_free_of_a_dead_address_claims_nothing_of_the_next_chunk() {
    explore(3, || {
        let class = Class::of(16, 1).expect("a small area");
        let chunk = Arc::new(Chunk::new(Pfn(0)));
        let become_at = |base| chunk.become_class(class, 2, VirtAddr(base), RegionId(0), 0);
        become_at(0x1000);
        make(&chunk, 1);
        let dead = VirtAddr(0x1000);
        let (found, mut open) = (SlotRef::in_class(link(&chunk), dead).expect("its first slot"), Batch::new(0));
        assert!(found.is_area_at(dead) && found.retire(&mut open, 1));
        chunk.slot(0).freed_by(Caller::Return(7));
        chunk.give(0, 0);
        let freer = thread::spawn({
            let chunk = chunk.clone();
            move || {
                let found = SlotRef::in_class(link(&chunk), dead);
                assert!(!found.is_some_and(|found| found.is_area_at(dead) && found.claim()), "R2");
            }
        });
        chunk.retire_header();
        become_at(0x2000);
        make(&chunk, 2);
        freer.join().unwrap();
        assert!(!chunk.is_claimed(0));
    });
}

/// A slot is looked up, and holds another area before it is looked at, or claimed.
/// Broken by `seen` that asks first and then looks, by `is_same` that does not ask for
/// the slot, and by a claim that does not ask again when it is made: a double free
/// frees an innocent area.
#[test]
fn what_was_looked_up_is_told_and_claimed_only_while_it_lives() {
    explore(4, || {
        let chunk = chunk(1);
        let found = SlotRef::in_chunk(link(&chunk), chunk.sequence(), 0);
        // What the area has: the frame behind its first page.
        let frame = Arc::new(AtomicU64::new(1));
        let finder = thread::spawn({
            let (chunk, frame) = (chunk.clone(), frame.clone());
            move || {
                let _outlives = chunk;
                let seen = found.seen(|| Some(frame.load(Acquire)));
                assert!(seen.is_none_or(|frame| frame == 1), "U1");
                found.claim()
            }
        });
        let mut open = Batch::new(0);
        let mut reused = found.retire(&mut open, 1);
        // The flush shows every claim that was given before (R4).
        chunk.unclaim(0);
        reused &= !chunk.is_claimed(0);
        if reused {
            chunk.give(0, 0);
            make(&chunk, 2);
            frame.store(2, Release);
        }
        assert!(!(finder.join().unwrap() && reused), "R1: an area that nobody freed");
        assert!(!reused || !found.claim() && !chunk.is_claimed(0));
    });
}
