//! A machine without aliases: what it refuses, and what it does.

extern crate std;

use crate::machine::format::{MemType, Prot};
use crate::table::X86_64;
use crate::testing::{Host, Window};
use crate::units::{PageRange, Pfn, VirtAddr};
use crate::{AllocError, Config, Gfp, Policy, Req, Vmalloc};
use core::ptr::NonNull;
use std::vec::Vec;

type InPlace = Host<X86_64, Window>;

/// An instance on a machine without aliases, of `limit` pages. Its region can be named by entries.
fn in_place(limit: usize, policy: Policy) -> Vmalloc<InPlace> {
    let vm = Vmalloc::new(Host::rooted(Window::new(limit)));
    let config = Config::region(1 << 32..1 << 33).policy(policy).batch_pages(64);
    // SAFETY: N1, N2: it is a new machine, and nobody else has it.
    unsafe { vm.init(config) }.expect("a sound configuration");
    vm.cpu_online();
    vm
}

fn window(vm: &Vmalloc<InPlace>) -> &Window {
    &vm.machine().frames
}

/// Stores into each page of an area, and returns whether all of them were clear.
fn store(vm: &Vmalloc<InPlace>, area: NonNull<u8>, pages: usize) -> bool {
    let each = PageRange::new(VirtAddr(area.addr().get()), pages).slices(1);
    each.map(|page| window(vm).store(page.start)).fold(true, |all, clear| all & clear)
}

fn free(vm: &Vmalloc<InPlace>, area: NonNull<u8>) {
    // SAFETY: V1: nobody uses it.
    unsafe { vm.free(area) }.expect("it lives");
}

#[test]
fn a_machine_without_aliases_refuses_to_map_given_frames_by_name_and_changes_nothing() {
    let vm = in_place(100, Policy::Unmap);
    let frames: Vec<Pfn> = (0..3).map(|_| vm.alloc_frame(Gfp::KERNEL, None).expect("a frame")).collect();
    let reserved = vm.reserve(Req::pages(4)).expect("addresses").addr().get();
    let before = (vm.stats(), window(&vm).bookkeeping.out(), vm.areas().count());
    // SAFETY: P1, P2, P4–P6: the frames are ours, and nobody else uses the reservation.
    let refused = unsafe {
        [
            vm.vmap(&frames, Req::pages(0)).map(drop),
            vm.vmap_owned(&frames, Req::pages(0)).map(drop),
            vm.map_ram(&frames, None).map(drop),
            vm.map_part(reserved, &frames, Prot::RW, MemType::WriteBack),
            vm.ioremap(0x10_0000, 4096, MemType::Uncached).map(drop),
        ]
    };
    assert_eq!(refused, [Err(AllocError::NoAliases); 5]);
    let mut after = vm.stats();
    after.counts.failures = before.0.counts.failures;
    assert_eq!((after, window(&vm).bookkeeping.out(), vm.areas().count()), before);
    // SAFETY: P3: they are ours, and nobody maps them.
    frames.into_iter().for_each(|frame| unsafe { vm.free_frame(frame) });
    assert_eq!(vm.check(), Ok(()));
}

#[test]
fn the_pages_of_an_area_in_place_are_their_own_frames_and_clear_after_every_flush() {
    for policy in [Policy::Unmap, Policy::Strict, Policy::Keep] {
        let vm = in_place(1000, policy);
        let out = window(&vm).bookkeeping.out();
        for pages in [1, 3, 64, 65, 200, 1, 3, 64, 65, 200] {
            let area = vm.alloc(Req::pages(pages).zeroed()).expect("pages enough");
            assert!(store(&vm, area, pages), "{pages} pages, {policy:?}: not clear");
            let at = area.addr().get();
            assert_eq!(vm.frame_at(at), Some(Pfn::containing(at as u64)));
            assert_eq!(vm.check(), Ok(()));
            free(&vm, area);
        }
        vm.purge();
        assert_eq!(window(&vm).reached.lock().len(), 0, "{policy:?}");
        assert_eq!((vm.check(), vm.stats().areas), (Ok(()), 0));
        vm.reclaim(usize::MAX);
        assert!(window(&vm).bookkeeping.out() < out + 50);
    }
}

#[test]
fn a_cached_slot_in_place_keeps_its_pages_and_is_cleared_for_those_who_ask() {
    let vm = in_place(100, Policy::Keep);
    for zeroed in [false, true, false] {
        let req = Req::pages(2);
        let area = vm.alloc(if zeroed { req.zeroed() } else { req }).expect("pages enough");
        let reused = vm.stats().counts.cache_hits > 0;
        assert_eq!(store(&vm, area, 2), zeroed || !reused);
        free(&vm, area);
    }
    assert_eq!(vm.stats().counts.cache_hits, 2);
    vm.purge();
    assert_eq!((vm.stats().cached_pages, window(&vm).reached.lock().len()), (0, 0));
}

#[test]
fn pages_in_place_are_counted_against_the_limit_until_their_flush() {
    let vm = in_place(100, Policy::Unmap);
    let areas: Vec<_> = (0..10).map(|_| vm.alloc(Req::pages(9)).expect("90 of 100")).collect();
    let listing = || (vm.areas().count(), window(&vm).reached.lock().len());
    let before = listing();
    let refused = vm.alloc(Req::pages(11).gfp(Gfp::KERNEL | Gfp::RESERVE));
    assert_eq!(refused, Err(AllocError::NoFrames { wanted: 11, got: Some(10), node: None }));
    assert_eq!(vm.alloc(Req::pages(101)), Err(AllocError::TooLarge { bytes: 101 << 12, limit: 100 << 12 }));
    assert_eq!(listing(), before);
    // What waits for its flush counts, and is flushed for whoever needs it.
    free(&vm, areas[0]);
    free(&vm, areas[1]);
    let last = vm.alloc(Req::pages(28)).expect("10 and 18 that waited");
    assert!(vm.alloc(Req::pages(1)).is_err());
    free(&vm, last);
    areas[2..].iter().for_each(|&area| free(&vm, area));
    vm.purge();
    free(&vm, vm.alloc(Req::pages(100)).expect("all of them"));
    assert_eq!(vm.check(), Ok(()));
}

#[test]
fn an_area_in_place_that_the_machine_refuses_in_the_middle_gives_its_pages_back() {
    let vm = in_place(300, Policy::Unmap);
    for step in 1..=2 {
        window(&vm).faults.fail_from(step);
        assert_eq!(vm.alloc(Req::pages(200)), Err(AllocError::Refused(12)), "step {step}");
        window(&vm).faults.fail_at(0);
        vm.purge();
        assert_eq!((window(&vm).reached.lock().len(), vm.check()), (0, Ok(())));
    }
    free(&vm, vm.alloc(Req::pages(300)).expect("all of them"));
}

#[test]
fn an_area_in_place_gives_its_pages_back_after_its_frames_were_named() {
    let vm = in_place(4, Policy::Unmap);
    let area = vm.area(Req::pages(4)).expect("all of them");
    assert_eq!(area.frames().count(), 4);
    assert_eq!(vm.hold_frame(area.start().0), None);
    drop(area);
    vm.purge();
    assert!(vm.area(Req::pages(4)).is_ok());
}
