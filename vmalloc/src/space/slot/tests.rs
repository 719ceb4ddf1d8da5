//! What a slot tells.

use super::*;

fn label(pages: usize) -> Label {
    Label {
        bytes: pages * 4096 - 7,
        pages,
        kind: Kind::Vmalloc,
        guard: Guard::After,
        caller: Caller::here(),
        node: Node(3),
        phys: None,
    }
}

#[test]
fn a_slot_tells_what_was_written_into_it() {
    let slot = Slot::default();
    slot.begin(&label(5));
    assert!(slot.is_building() && slot.snapshot().unwrap().is_building(), "U1");
    slot.publish();
    let info = slot.snapshot().unwrap().info(VirtAddr(0x8000), RegionId(1));
    assert_eq!((info.bytes, info.pages, info.node, info.region), (5 * 4096 - 7, 5, Node(3), RegionId(1)));
    assert!(matches!(info.caller, Caller::At(place) if place.file().ends_with("slot/tests.rs")));
    assert_eq!((info.freer, info.phys), (None, None));
}

#[test]
fn the_freer_is_told_until_the_slot_is_used_again() {
    let slot = Slot::default();
    slot.begin(&label(1));
    slot.publish();
    slot.freed_by(Caller::Return(0x77));
    let info = slot.snapshot().unwrap().info(VirtAddr(0), RegionId(0));
    assert_eq!(info.freer, Some(Caller::Return(0x77)));
    slot.begin(&label(1));
    assert!(!slot.snapshot().unwrap().is_freed());
}

#[test]
fn r4_of_two_that_free_at_the_same_moment_one_is_told_and_the_slot_can_be_read_on() {
    extern crate std;
    let at = Caller::here();
    for round in 0..20_000 {
        let (slot, pc) = (Slot::default(), Caller::Return(0x1000 + round));
        slot.begin(&label(1));
        slot.publish();
        std::thread::scope(|scope| {
            if round % 2000 == 0 {
                scope.spawn(|| slot.freed_by(pc));
                slot.freed_by(at);
            } else {
                // The other freer runs in between: after this one's word, before its flags.
                slot.freer.store(word_of([at, pc][round % 2]).0, Relaxed);
                slot.freed_by([pc, at][round % 2]);
                slot.freer.store(word_of([at, pc][round % 2]).0, Relaxed);
            }
        });
        let copy = slot.snapshot().expect("R2: nobody changes it");
        match copy.info(VirtAddr(0), RegionId(0)).freer {
            Some(Caller::At(place)) => assert!(place.file().ends_with("slot/tests.rs")),
            Some(Caller::Return(told)) => assert_eq!(told | 1, (0x1000 + round) | 1),
            None => panic!("somebody has freed it"),
        }
    }
}

#[test]
fn return_addresses_are_told_to_the_last_bit() {
    let slot = Slot::default();
    for pc in [0, 1, 2, usize::MAX, usize::MAX - 1, 1 << (usize::BITS - 1)] {
        slot.begin(&Label { caller: Caller::Return(pc), ..label(1) });
        slot.freed_by(Caller::Return(pc));
        let info = slot.snapshot().unwrap().info(VirtAddr(0), RegionId(0));
        assert_eq!((info.caller, info.freer), (Caller::Return(pc), Some(Caller::Return(pc))));
    }
}

#[test]
fn no_snapshot_is_given_while_a_slot_changes() {
    let slot = Slot::default();
    slot.change(|slot| assert!(slot.snapshot().is_none(), "R2"));
    assert!(slot.snapshot().is_some());
}

#[test]
fn a_run_is_told_as_it_was_stored_and_a_long_one_is_rounded_up_by_less_than_a_millionth() {
    let slot = Slot::default();
    for start in [0, 1, (1 << 31) - 1, 1 << 31, (1 << 36) - 1] {
        for asked in [1, 2, LONG - 1, LONG, LONG + 1, (1 << 28) + 1, WINDOW - 1, WINDOW] {
            let grains = Slot::storable(asked);
            slot.place(start, grains);
            assert_eq!(slot.run(), (start, grains));
            assert!((asked..=asked + asked / 1_000_000).contains(&grains), "{grains} grains for {asked}");
        }
    }
}

#[test]
fn a_slot_is_64_bytes_at_most() {
    assert!(size_of::<Slot>() <= 64);
}
