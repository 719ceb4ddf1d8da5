//! Protections that change while an area lives.

use crate::common::*;
use vmalloc::machine::Context;
use vmalloc::machine::format::{Entry, MemType, Prot};
use vmalloc::units::Pfn;
use vmalloc::{AllocError, Config, Policy, Req};
use vmalloc_sim::{Bank, Why};

/// A device, clear of all memory.
const DEVICE: Bank = Bank { first: Pfn(0xf_0000), frames: 16, node: None };

fn protect(rig: &Rig, at: At, (first, pages): (usize, usize), prot: Prot) -> Result<(), AllocError> {
    // SAFETY: V2: simulated memory is used through the simulator, which judges each use.
    unsafe { rig.protect(page_of(at, first).0, pages, prot) }
}

/// Whether `cpu` can store to a page.
fn can_store(rig: &Rig, cpu: u32, at: At, page: usize) -> bool {
    match rig.sim.store(cpu, page_of(at, page), 7 ^ page as u64) {
        Ok(()) => true,
        Err(fault) => {
            assert_eq!(fault.why, Why::ReadOnly);
            false
        }
    }
}

/// What an entry allows.
fn allowed(rig: &Rig, at: At, page: usize) -> Prot {
    match rig.sim.entry(page_of(at, page), 1) {
        Entry::Leaf { prot, .. } => prot,
        other => panic!("page {page} of {at:?} is {other:?}"),
    }
}

#[test]
fn a_store_to_pages_that_were_made_read_only_faults_on_every_cpu_when_the_call_returns() {
    let rig = rig(4);
    let at = rig.alloc(Req::pages(300)).unwrap();
    rig.stamp(at, 300, 7);
    (0..4).for_each(|cpu| rig.check_stamps(cpu, at, 300, 7));
    protect(&rig, at, (0, 300), Prot::RO).unwrap();
    rig.sim.audit();
    for cpu in 0..4 {
        assert!((0..300).all(|page| !can_store(&rig, cpu, at, page)));
        rig.check_stamps(cpu, at, 300, 7);
    }
    protect(&rig, at, (0, 300), Prot::RW).unwrap();
    assert!((0..4).all(|cpu| (0..300).all(|page| can_store(&rig, cpu, at, page))));
    assert_eq!(rig.sim.noted().protects, 2);
    rig.give(at).unwrap();
    rig.settled();
}

#[test]
fn a_part_is_protected_and_the_pages_beside_it_are_as_they_were() {
    let rig = rig(2);
    let at = rig.alloc(Req::pages(150)).unwrap();
    protect(&rig, at, (20, 100), Prot::RX).unwrap();
    for page in [0, 19, 20, 119, 120, 149] {
        let (prot, is_part) = (allowed(&rig, at, page), (20..120).contains(&page));
        assert_eq!(prot, if is_part { Prot::RX } else { Prot::RW }, "page {page}");
        assert_eq!(can_store(&rig, 1, at, page), !is_part, "page {page}");
    }
    rig.give(at).unwrap();
}

#[test]
fn areas_of_every_kind_are_protected_and_freed_as_before() {
    let rig = boot(busy(2).bank(DEVICE), Config::region(REGION));
    let frames = rig.frames(4);
    let device = rig.ioremap(DEVICE.first.phys(), 4 * PAGE, MemType::Uncached).unwrap();
    let reserved = rig.reserve(Req::pages(9)).unwrap();
    // SAFETY: P4, P5, P6: the frames are held to the end.
    let short = unsafe { rig.map_ram(&frames, None) }.unwrap();
    // SAFETY: as above.
    unsafe { rig.map_part(page_of(reserved, 2).0, &frames, Prot::RW, MemType::WriteBack) }.unwrap();
    let mapped = rig.map(&frames).unwrap();
    let stack = rig.alloc(Req::stack(4)).unwrap();
    let owned = rig.alloc(Req::pages(4)).unwrap();
    for (at, first) in [(owned, 0), (stack, 0), (mapped, 0), (short, 0), (reserved, 2), (device, 0)] {
        protect(&rig, at, (first, 4), Prot::RO).unwrap();
        assert!((first..first + 4).all(|page| allowed(&rig, at, page) == Prot::RO));
        assert!(at == device || !can_store(&rig, 1, at, first + 3));
    }
    rig.give(owned).unwrap();
    rig.give(stack).unwrap();
    rig.unmap(mapped).unwrap();
    rig.unmap_pages(short, 4).unwrap();
    rig.give(reserved).unwrap();
    rig.unmap_device(device).unwrap();
    rig.give_frames(&frames);
    rig.settled();
}

#[test]
fn what_cannot_be_protected_is_refused_by_name_and_changes_nothing() {
    let rig = rig(2);
    let (at, beside) = (rig.alloc(Req::pages(4)).unwrap(), rig.alloc(Req::pages(4)).unwrap());
    let (reserved, frames) = (rig.reserve(Req::pages(9)).unwrap(), rig.frames(4));
    // SAFETY: P5, P6: the frames are held to the end.
    unsafe { rig.map_part(page_of(reserved, 1).0, &frames, Prot::RW, MemType::WriteBack) }.unwrap();
    let gone = rig.alloc(Req::pages(4)).unwrap();
    rig.give(gone).unwrap();
    let before = (rig.picture(), rig.sim.noted());
    assert_eq!(protect(&rig, at, (0, 4), Prot::WRITE | Prot::EXEC), Err(AllocError::WriteExec));
    for (at, part) in [(at, (0, 0)), (at, (0, 5)), (at, (3, 2)), (at, (4, 1)), (gone, (0, 4))] {
        assert!(matches!(protect(&rig, at, part, Prot::RO), Err(AllocError::BadRange { .. })), "{at:?} {part:?}");
    }
    // SAFETY: V2: as for `protect`.
    let [odd, huge, nowhere] = [(addr(at).0 + 1, 1), (addr(at).0, usize::MAX), (0x1000, 1)]
        .map(|(at, n)| unsafe { rig.protect(at, n, Prot::RO) });
    assert!([odd, huge, nowhere].iter().all(|refused| matches!(refused, Err(AllocError::BadRange { .. }))));
    for (part, first) in [((0, 9), 0), ((1, 5), 5), ((2, 7), 5), ((6, 1), 6)] {
        assert_eq!(protect(&rig, reserved, part, Prot::RO), Err(AllocError::NotMapped(page_of(reserved, first))));
    }
    rig.sim.set_context(Context::Atomic);
    assert_eq!(protect(&rig, at, (0, 4), Prot::RO), Err(AllocError::WrongContext(Context::Atomic)));
    rig.sim.set_context(Context::Task);
    assert_eq!((rig.picture(), rig.sim.noted()), before);
    for (at, first) in [(at, 0), (beside, 0), (reserved, 1)] {
        assert!((first..first + 4).all(|page| allowed(&rig, at, page) == Prot::RW && can_store(&rig, 0, at, page)));
    }
    [at, beside, reserved].into_iter().for_each(|at| rig.give(at).unwrap());
    rig.give_frames(&frames);
}

#[test]
fn pages_that_are_written_and_executed_at_once_have_to_be_meant() {
    let rig = rig(1);
    let (careless, frames) = (Req::pages(2).prot(Prot::WRITE | Prot::EXEC), rig.frames(2));
    let before = rig.settled();
    assert_eq!(rig.alloc(careless.clone()), Err(AllocError::WriteExec));
    assert_eq!(rig.alloc(careless.clone().align(8 * PAGE)), Err(AllocError::WriteExec));
    // SAFETY: P1: the frames are held to the end.
    assert_eq!(unsafe { rig.vmap(&frames, careless.clone()) }, Err(AllocError::WriteExec));
    assert_eq!(rig.settled(), before);
    let reserved = rig.reserve(Req::pages(2)).unwrap();
    // SAFETY: P5, P6: the frames are held to the end.
    let part = unsafe { rig.map_part(addr(reserved).0, &frames, Prot::WRITE | Prot::EXEC, MemType::WriteBack) };
    assert_eq!(part, Err(AllocError::WriteExec));
    let area = rig.alloc(Req::pages(2)).unwrap();
    // SAFETY: V1: nobody uses what is behind it.
    assert_eq!(unsafe { rig.grow(area, careless) }, Err(AllocError::WriteExec));
    let meant = rig.alloc(Req::pages(2).prot(Prot::RWX)).unwrap();
    assert_eq!(allowed(&rig, meant, 1), Prot::WRITE | Prot::EXEC);
    protect(&rig, area, (1, 1), Prot::RWX).unwrap();
    assert_eq!([0, 1].map(|page| allowed(&rig, area, page)), [Prot::RW, Prot::WRITE | Prot::EXEC]);
    [reserved, area, meant].into_iter().for_each(|at| rig.give(at).unwrap());
    rig.give_frames(&frames);
}

#[test]
fn a_read_only_area_does_not_become_a_writable_one_by_way_of_the_cache() {
    for policy in [Policy::Park, Policy::Keep] {
        let rig = boot(busy(2), Config::region(REGION).policy(policy));
        for round in 0..4 {
            let at = rig.alloc(Req::pages(4)).unwrap();
            rig.stamp(at, 4, round);
            protect(&rig, at, (1, 2), Prot::RO).unwrap();
            rig.give(at).unwrap();
            assert_eq!((rig.stats().cached_slots, rig.check()), (0, Ok(())), "{policy:?}");
        }
        // One that is as usual again is cached.
        let at = rig.alloc(Req::pages(4)).unwrap();
        protect(&rig, at, (0, 4), Prot::RO).unwrap();
        protect(&rig, at, (0, 4), Prot::RW).unwrap();
        rig.give(at).unwrap();
        assert_eq!((rig.stats().cached_slots, rig.check()), (1, Ok(())), "{policy:?}");
        let again = rig.alloc(Req::pages(4)).unwrap();
        rig.stamp(again, 4, 9);
        assert_eq!(again, at);
    }
}

#[test]
fn an_area_that_was_protected_grows_and_shrinks() {
    let rig = rig(2);
    let at = rig.alloc(Req::pages(5)).unwrap();
    protect(&rig, at, (0, 5), Prot::RO).unwrap();
    // SAFETY: V1: nobody uses what is behind it.
    unsafe { rig.shrink(at, 3 * PAGE) }.unwrap();
    // SAFETY: as above.
    unsafe { rig.grow(at, Req::pages(4)) }.unwrap();
    assert_eq!([2, 3].map(|page| can_store(&rig, 1, at, page)), [false, true]);
    assert!(matches!(protect(&rig, at, (0, 5), Prot::RW), Err(AllocError::BadRange { .. })));
    protect(&rig, at, (0, 4), Prot::RW).unwrap();
    rig.give(at).unwrap();
    rig.settled();
}
