//! Mappings that end themselves: of frames, of devices, and of addresses that they fill.

use crate::common::*;
use std::sync::{Arc, Mutex};
use vmalloc::machine::Context;
use vmalloc::machine::format::{MemType, Prot};
use vmalloc::units::Pfn;
use vmalloc::{AllocError, Config, FreeError, Gfp, Kind, Mapping, Req, What};
use vmalloc_sim::{Bank, Sim};

type Owned<'r> = Mapping<'r, Sim<vmalloc::table::X86_64>>;

const DEVICE: Bank = Bank { first: Pfn(1 << 20), frames: 16, node: None };

fn still() -> Rig {
    boot(quiet(2), Config::region(REGION))
}

/// As [`still`]; then with frames that have no descriptors.
fn both() -> [Rig; 2] {
    [still(), boot(quiet(2).undescribed(), Config::region(REGION))]
}

/// A page for traps and 40 for the task, between guards.
fn stacks(rig: &Rig) -> Owned<'_> {
    let mut stacks = rig.reservation(Req::pages(43)).unwrap();
    stacks.fill(1..2, &Req::pages(1).zeroed()).unwrap();
    stacks.fill(3..43, &Req::pages(40).zeroed()).unwrap();
    stacks
}

/// Areas, pages, what waits, and frames that nobody holds but the library and the machine.
fn left(rig: &Rig) -> (usize, usize, usize, usize) {
    let state = rig.settled();
    (state.areas.len(), state.pages, state.waiting, state.free + state.held)
}

fn all_out(rig: &Rig, frames: &[Pfn]) -> bool {
    let taken = rig.frames(200);
    let out = frames.iter().all(|frame| !taken.contains(frame));
    rig.give_frames(&taken);
    out
}

#[test]
fn a_mapping_that_owns_its_frames_gives_them_back_after_grace() {
    let rig = still();
    let before = left(&rig);
    let frames = rig.frames(3);
    // SAFETY: P2: they are ours to give.
    let owned = unsafe { rig.mapping_owned(&frames, Req::bytes(0)) }.unwrap();
    assert_eq!((owned.bytes(), owned.frames().collect::<Vec<_>>()), (3 * PAGE, frames.clone()));
    rig.sim.load(1, owned.start()).unwrap();
    let at = owned.start();
    drop(owned);
    assert!(matches!(rig.whatis(at.0), What::Freed { was, .. } if was.kind == Kind::VmapOwned));
    assert!(all_out(&rig, &frames), "CPU 1 remembers a page, so they wait");
    rig.purge();
    assert_eq!(rig.sim.tlb_refs(frames[0]), 0);
    assert_eq!(left(&rig), before);
}

#[test]
fn a_mapping_of_anothers_frames_leaves_them_to_him() {
    let rig = still();
    let frames = rig.frames(3);
    let before = left(&rig);
    // SAFETY: P1: we hold them to the end.
    let owned = unsafe { rig.mapping(&frames, Req::bytes(0).prot(Prot::RO)) }.unwrap();
    assert_eq!(owned.frames().collect::<Vec<_>>(), frames);
    drop(owned);
    assert_eq!(left(&rig), before);
    assert!(all_out(&rig, &frames));
    rig.give_frames(&frames);
}

#[test]
fn a_mapping_of_a_device_owns_nothing_and_ends_wherever_it_starts_in_a_page() {
    let rig = boot(quiet(2).bank(DEVICE), Config::region(REGION));
    let before = left(&rig);
    for (offset, bytes, pages) in [(0, PAGE, 1), (0x234, 100, 1), (0xfff, 2, 2), (1, 4 * PAGE, 5)] {
        let device = rig.device(DEVICE.first.phys() + offset, bytes, MemType::Uncached).unwrap();
        assert_eq!((device.start().0 % PAGE, device.bytes()), (offset as usize, bytes));
        let frames: Vec<_> = (0..pages).map(|n| DEVICE.first.offset(n)).collect();
        assert_eq!(device.frames().collect::<Vec<_>>(), frames);
    }
    assert_eq!(left(&rig), before);
}

#[test]
fn one_area_has_several_stacks_with_guards_between_them() {
    for rig in both() {
        let before = left(&rig);
        let stacks = stacks(&rig);
        let page = |n: usize| stacks.start().add_pages(n);
        for guard in [0, 2, 43] {
            rig.sim.assert_faults(0, page(guard));
        }
        // What lies between the stacks is the area's own.
        let above = page(2).0 + PAGE - 8;
        assert!(
            matches!(rig.whatis(above), What::Inside { area, offset } if area.start == page(0) && offset == 3 * PAGE - 8)
        );
        assert_eq!(rig.sim.load(1, page(42)), Ok(0), "cleared");
        rig.stamp(at(page(3).0), 40, 7);
        rig.check_stamps(1, at(page(3).0), 40, 7);
        drop(stacks);
        assert_eq!(left(&rig), before);
    }
}

#[test]
fn frames_of_stacks_that_are_gone_wait_for_a_flush() {
    for rig in both() {
        let stacks = stacks(&rig);
        let (start, frames): (_, Vec<_>) = (stacks.start(), stacks.frames().collect());
        assert_eq!(frames.len(), 41);
        rig.sim.load(1, start.add_pages(42)).unwrap();
        drop(stacks);
        assert!(all_out(&rig, &frames), "CPU 1 remembers a page");
        rig.settled();
        assert!(!all_out(&rig, &frames));
    }
}

#[test]
fn a_page_that_was_emptied_is_filled_again_after_a_flush_only() {
    for rig in both() {
        let mut stacks = stacks(&rig);
        let page = stacks.start().add_pages(10);
        rig.sim.load(1, page).unwrap();
        rig.sim.set_context(Context::Atomic);
        assert_eq!(stacks.empty(0..11), 9, "a page for traps, and eight of the task");
        assert_eq!(stacks.empty(5..11), 0);
        assert_eq!(stacks.fill(10..11, &Req::pages(1)), Err(AllocError::WrongContext(Context::Atomic)));
        rig.sim.set_context(Context::Task);
        stacks.fill(10..11, &Req::pages(1).zeroed()).unwrap();
        rig.sim.store(0, page, 9).unwrap();
        assert_eq!(rig.sim.load(1, page), Ok(9));
    }
}

#[test]
fn a_range_that_cannot_be_filled_is_left_as_it_was() {
    let rig = still();
    let mut stacks = stacks(&rig);
    let before = left(&rig);
    let (start, like) = (stacks.start(), Req::pages(1));
    assert_eq!(stacks.fill(0..3, &like), Err(AllocError::InUse(start.add_pages(1))));
    assert_eq!(stacks.fill(2..43, &like), Err(AllocError::InUse(start.add_pages(3))));
    let beyond = AllocError::BadRange {
        start: vmalloc::units::VirtAddr(start.0 + 42 * PAGE),
        end: vmalloc::units::VirtAddr(start.0 + 44 * PAGE),
    };
    assert_eq!(stacks.fill(42..44, &like), Err(beyond), "the guard is no page of it");
    assert!(matches!(stacks.fill(0..usize::MAX, &like), Err(AllocError::BadRange { .. })));
    let rwx = Req::pages(1).prot(Prot::WRITE | Prot::EXEC);
    assert_eq!(stacks.fill(0..1, &rwx), Err(AllocError::WriteExec));
    assert_eq!(left(&rig), before);
    assert_eq!(stacks.frames().count(), 41);
    let device = boot(quiet(2).bank(DEVICE), Config::region(REGION));
    let mut io = device.device(DEVICE.first.phys(), PAGE, MemType::Uncached).unwrap();
    assert!(matches!(io.fill(0..1, &like), Err(AllocError::BadRange { .. })), "no reservation");
    assert_eq!((io.empty(0..1), io.frames().count()), (0, 1));
}

#[test]
fn what_a_mapping_has_ended_is_not_ended_twice() {
    for rig in both() {
        let start = at(stacks(&rig).start().0);
        assert!(matches!(rig.give(start), Err(FreeError::DoubleFree { .. })));
    }
}

/// What is mapped by hand in a mapping would be taken for its own.
#[test]
fn the_pages_of_a_mapping_are_mapped_by_nobody_else() {
    let rig = still();
    let mut mapping = rig.reservation(Req::pages(4)).unwrap();
    mapping.fill(1..2, &Req::pages(1)).unwrap();
    let (page, frames) = (mapping.start().0, rig.frames(1));
    // SAFETY: P5, P6.
    let mapped = unsafe { rig.map_part(page, &frames, Prot::RW, MemType::WriteBack) };
    assert!(matches!(mapped, Err(AllocError::BadRange { .. })));
    // SAFETY: P5.
    let unmapped = unsafe { rig.unmap_part(page, 4) };
    assert!(matches!(unmapped, Err(AllocError::BadRange { .. })));
    assert!(matches!(rig.give(at(page)), Err(FreeError::WrongKind { .. })));
    assert_eq!(mapping.empty(0..4), 1);
    rig.give_frames(&frames);
}

/// Whether the caller may wait or not, and frames have descriptors or not. What was undone waits in the
/// mapping until a page is filled by a caller that may wait.
#[cfg(debug_assertions)]
#[test]
fn a_fill_that_lacks_frames_anywhere_loses_nothing() {
    for (rig, context) in both().into_iter().zip([Context::Task, Context::HardIrq]) {
        let mut mapping = rig.reservation(Req::pages(700)).unwrap();
        let like = Req::pages(1).gfp(if context == Context::Task { Gfp::KERNEL } else { Gfp::ATOMIC });
        let mut refused = 0;
        loop {
            rig.reclaim(usize::MAX);
            let before = left(&rig);
            rig.sim.set_context(context);
            rig.sim.faults().fail_from(refused as u64 + 1);
            let filled = mapping.fill(1..600, &like);
            rig.sim.faults().fail_at(0);
            rig.sim.set_context(Context::Task);
            if filled.is_ok() {
                break;
            }
            assert_eq!(mapping.frames().count(), refused);
            mapping.fill(600 + refused..601 + refused, &Req::pages(1)).unwrap();
            let after = left(&rig);
            assert_eq!((after.2, after.3 + 1), (before.2, before.3), "refusal {refused} of {context:?}");
            refused += 1;
        }
        assert!(refused > 3, "{refused} refusals");
        assert_eq!(mapping.empty(0..600), 599);
    }
}

#[test]
fn a_mapping_that_ends_in_an_interrupt_or_an_nmi_loses_no_frame() {
    for rig in both() {
        for context in [Context::HardIrq, Context::Nmi] {
            let before = left(&rig);
            let mut stacks = stacks(&rig);
            assert_eq!(stacks.empty(1..2), 1);
            rig.sim.set_context(context);
            assert_eq!(stacks.empty(10..13), 3);
            drop(stacks);
            rig.sim.set_context(Context::Task);
            assert_eq!(left(&rig), before, "{context:?}");
        }
    }
}

/// An NMI at each step of an allocation and of a free.
#[test]
fn a_mapping_is_dropped_by_an_nmi_in_the_middle_of_a_call() {
    for rig in both() {
        let before = left(&rig);
        for step in 1.. {
            let mapping = stacks(&rig);
            let start = mapping.start();
            // SAFETY: it is dropped before the rig is.
            let mapping = unsafe { core::mem::transmute::<Owned<'_>, Owned<'static>>(mapping) };
            let prey = Arc::new(Mutex::new(Some(mapping)));
            let theirs = Arc::clone(&prey);
            rig.set_nmi(step, move |_| drop(theirs.lock().unwrap().take()));
            let area = rig.alloc(Req::pages(2)).unwrap();
            rig.give(area).unwrap();
            rig.set_nmi(0, |_| ());
            let never_came = prey.lock().unwrap().take().is_some();
            rig.purge();
            assert!(rig.find(start.0).is_none());
            assert_eq!(left(&rig), before, "an NMI at step {step}");
            if never_came {
                assert!(step > 10, "{step} steps");
                break;
            }
        }
    }
}
