//! The masks of a chunk, drawn.

use super::*;
use crate::machine::prealloc::Prealloc;
use crate::testing::PageMachine;
use crate::units::Node;
extern crate std;
use std::string::String;

/// `f` free, `L` live, `c` claimed, `w` cached, `0`/`1` stale in that batch.
fn picture(chunk: &Chunk) -> String {
    let slots = chunk.all_slots().count_ones();
    let state = |slot: u32| {
        let has = |mask: u64| mask >> slot & 1 != 0;
        match () {
            _ if has(chunk.free_slots()) => 'f',
            _ if has(chunk.cached_slots()) => 'w',
            _ if has(chunk.stale(0)) => '0',
            _ if has(chunk.stale(1)) => '1',
            _ if chunk.is_claimed(slot) => 'c',
            _ if has(chunk.areas()) => 'L',
            _ => '?',
        }
    };
    (0..slots).map(state).collect()
}

/// Seven slots.
fn chunk() -> Chunk {
    let chunk = Chunk::new(Pfn(0));
    let class = Class::of(512, 1).unwrap();
    chunk.become_class(class, 7, VirtAddr(0x4000_0000), RegionId(0), 0);
    chunk
}

#[test]
fn a_slot_goes_from_free_to_live_to_stale_to_free() {
    let chunk = chunk();
    assert_eq!(picture(&chunk), "fffffff");
    for slot in 0..3 {
        assert_eq!(chunk.take(), Some(slot));
        chunk.make_live(slot);
    }
    assert_eq!(picture(&chunk), "LLLffff");
    assert!(chunk.retire(1 << 1, 0) && !chunk.retire(1 << 0, 0) && chunk.retire(1 << 2, 1));
    assert_eq!(picture(&chunk), "001ffff");
    chunk.give(1, 0);
    assert_eq!(picture(&chunk), "0f1ffff");
    assert!(chunk.masks_agree(), "C2");
}

#[test]
fn the_next_free_slot_is_the_one_that_is_taken_next() {
    let chunk = chunk();
    for slot in 0..7 {
        assert_eq!((chunk.next_free(), chunk.take()), (Some(slot), Some(slot)));
        chunk.make_live(slot);
    }
    assert_eq!((chunk.next_free(), chunk.take()), (None, None));
}

#[test]
fn a_claim_is_given_once_and_only_for_live_slots() {
    let chunk = chunk();
    chunk.take();
    chunk.make_live(0);
    assert!(!chunk.claim(3), "nothing lives there");
    assert_eq!(picture(&chunk), "Lffffff");
    assert!(chunk.claim(0) && !chunk.claim(0));
    assert_eq!((picture(&chunk).as_str(), chunk.areas()), ("cffffff", 0));
    assert!(chunk.post(0), "the first post pushes");
    let posted = chunk.take_posted();
    chunk.retire(posted, 0);
    chunk.unclaim(posted);
    assert_eq!(picture(&chunk), "0ffffff");
}

#[test]
fn a_cached_slot_lives_again_or_becomes_stale() {
    let chunk = chunk();
    for slot in 0..3 {
        chunk.take();
        chunk.make_live(slot);
    }
    assert!(chunk.cache(0) && chunk.cache(1) && chunk.claim(2) && !chunk.cache(2), "R5");
    assert_eq!((picture(&chunk).as_str(), chunk.areas()), ("wwwffff", 0));
    assert!(!chunk.claim(0), "what is cached does not live");
    chunk.uncache(0);
    chunk.make_live(0);
    assert!(chunk.evict(1, 0) && !chunk.evict(2, 0));
    assert_eq!(picture(&chunk), "L00ffff");
    assert!(chunk.masks_agree(), "C2");
}

#[test]
fn the_reciprocal_finds_the_slot_of_every_page_of_every_class() {
    for class in Class::all() {
        let chunk = Chunk::new(Pfn(0));
        let base = VirtAddr(0xffff_c900_0000_0000);
        chunk.become_class(class, class.slots(), base, RegionId(0), 0);
        for page in 0..class.units(class.slots()) * super::super::class::UNIT_PAGES {
            let slot = (page / class.stride()) as u32;
            let expected = (slot < class.slots() as u32 && class.mask(class.slots()) >> slot & 1 != 0).then_some(slot);
            assert_eq!(chunk.slot_at(base.add_pages(page)), expected, "page {page} of {class:?}");
        }
    }
}

#[test]
fn overlapping_masks_are_seen() {
    let chunk = chunk();
    chunk.free.store(0b11, Relaxed);
    chunk.live.store(0b01, Relaxed);
    assert!(!chunk.masks_agree());
}

#[test]
fn an_area_is_found_at_its_start_and_nowhere_else() {
    for class in Class::all() {
        let chunk = Chunk::new(Pfn(0));
        let base = VirtAddr(0xffff_c900_0000_0000);
        chunk.become_class(class, class.slots(), base, RegionId(0), 0);
        let last = class.slots() as u32 - 1;
        chunk.make_live(last);
        for page in 0..class.units(class.slots()) * super::super::class::UNIT_PAGES {
            let start = last as usize * class.stride();
            assert_eq!(chunk.area_at(base.add_pages(page)), (page == start).then_some((last, page)), "{class:?}");
        }
        assert_eq!(chunk.area_at(VirtAddr(chunk.address(last).0 + 1)), None);
        assert!(!chunk.claim(last) || chunk.area_at(chunk.address(last)).is_none(), "it is being freed");
    }
}

#[test]
fn bare_slots_are_taken_once_but_not_while_they_are_claimed() {
    let chunk = chunk();
    (0..3).for_each(|slot| {
        assert_eq!(chunk.take(), Some(slot));
        chunk.make_live(slot);
    });
    assert!(chunk.claim(1));
    chunk.retire(0b111, 0);
    chunk.mark_bare(0b110);
    assert!(chunk.masks_agree(), "C2");
    assert_eq!((chunk.take_bare(1), chunk.take_bare(0)), (0, 0b100));
    chunk.unclaim(0b010);
    assert_eq!((chunk.take_bare(0), chunk.take_bare(0)), (0b010, 0));
    chunk.mark_bare(0b1000);
    assert!(!chunk.masks_agree(), "C2: nothing was freed there");
}

#[test]
fn a_cleared_frame_becomes_the_header_that_a_new_one_is() {
    let machine = PageMachine::default();
    let mut prealloc = Prealloc::new();
    prealloc.fill(&machine, Node(0), 1).expect("the host has pages");
    let frame = prealloc.take(&machine).unwrap();
    // SAFETY: H1: the frame is cleared, and is given back after the last use.
    let made = unsafe { ChunkRef::create(&machine, frame) };
    assert_eq!(std::format!("{:?}", *made), std::format!("{:?}", Chunk::new(frame)));
    assert_eq!(made.class(), None);
    machine.take_back(frame);
}

#[test]
fn a_stale_slot_that_is_still_claimed_waits_in_the_other_load_and_is_given_once() {
    let chunk = chunk();
    for slot in 0..2 {
        chunk.take();
        chunk.make_live(slot);
    }
    // The owner has freed both slots, and another CPU is freeing the first one too.
    assert!(chunk.claim(0) && chunk.retire(0b11, 0));
    assert!(chunk.is_claimed(0) && !chunk.is_claimed(1));
    assert!(chunk.postpone(0, 0), "it is the other batch's first");
    assert_eq!((picture(&chunk).as_str(), chunk.stale(0), chunk.stale(1)), ("10fffff", 0b10, 0b01));
    chunk.unclaim(1);
    chunk.give(1, 0);
    chunk.give(0, 1);
    assert_eq!(picture(&chunk), "fffffff");
    assert!(chunk.masks_agree(), "C2");
}

#[test]
fn a_bare_slot_that_a_claim_hid_for_a_moment_is_not_bare_any_more_when_it_is_given() {
    let chunk = chunk();
    chunk.take();
    chunk.make_live(0);
    chunk.retire(1, 0);
    chunk.mark_bare(1);
    // A late free claims the slot and takes the claim back a moment later.
    chunk.remote.claimed.store(1, Relaxed);
    assert_eq!(chunk.take_bare(0), 0, "R4");
    chunk.unclaim(1);
    chunk.give(0, 0);
    assert!(chunk.masks_agree(), "C2");
    // The slot holds frames the next time.
    chunk.take();
    chunk.make_live(0);
    chunk.retire(1, 0);
    assert_eq!(chunk.take_bare(0), 0, "something waits in its entries");
}
