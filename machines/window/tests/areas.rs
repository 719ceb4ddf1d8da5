//! Areas: what can be reached, what cannot any more, and what they cost the process.

mod common;

use common::*;
use std::time::Instant;
use vmalloc::machine::format::{MemType, Prot};
use vmalloc::units::PAGE_SIZE;
use vmalloc::{AllocError, Gfp, Policy, Req, What};
use vmalloc_kernel::{Bare, Error, GfpFlags, Kernel};
use vmalloc_process::in_child;
use vmalloc_window::builder;

#[test]
fn an_area_is_clear_and_guarded_on_both_sides_and_a_use_after_the_free_faults() {
    for policy in [Policy::Strict, Policy::Unmap, Policy::Keep] {
        let vm = instance(64, policy);
        for pages in [1, 2, 5, 64, 200, 1, 3] {
            let at = vm.alloc(Req::pages(pages)).expect("memory enough");
            // SAFETY: it lives.
            assert!((0..pages).all(|page| unsafe { word(at, page).read() } == 0));
            // SAFETY: as above.
            (0..pages).for_each(|page| unsafe { word(at, page).write(!0) });
            let start = at.addr().get();
            for beside in [start - 1, start + pages * PAGE_SIZE] {
                assert!(!is_readable(byte(beside)), "{pages} pages, {policy:?}");
            }
            assert!(load_faults(byte(start - 8)) && load_faults(byte(start + pages * PAGE_SIZE)));
            // SAFETY: V1: nobody uses it.
            unsafe { vm.free(at) }.unwrap();
            if policy != Policy::Strict {
                vm.purge();
            }
            assert!((0..pages).all(|page| !is_readable(word(at, page).cast())), "{pages} pages, {policy:?}");
            assert!(load_faults(at.as_ptr()));
        }
        vm.purge();
        assert_eq!(vm.check(), Ok(()));
    }
}

#[test]
fn calls_that_need_aliases_are_refused_by_name_and_change_nothing() {
    let vm = instance(64, Policy::Unmap);
    let mut area = vm.area(Req::pages(3)).expect("memory enough");
    area.fill(7);
    let frames: Vec<_> = (0..3).map(|_| vm.alloc_frame(Gfp::KERNEL, None).expect("a frame")).collect();
    let part = vm.reserve(Req::pages(4)).expect("addresses").addr().get();
    let (areas, mappings) = (vm.areas().count(), vm.machine().mappings());
    // A ring that is mapped twice, a second view of code, a view without stores.
    let own: Vec<_> = area.frames().collect();
    let twice: Vec<_> = own.iter().chain(&own).copied().collect();
    // SAFETY: P1, P2, P4–P6: the frames are ours, and nobody else uses the reservation.
    let refused = unsafe {
        [
            vm.vmap(&twice, Req::pages(0)).map(drop),
            vm.vmap(&own, Req::pages(0).prot(Prot::RX)).map(drop),
            vm.vmap_owned(&frames, Req::pages(0)).map(drop),
            vm.map_ram(&frames, None).map(drop),
            vm.map_part(part, &frames, Prot::RW, MemType::WriteBack),
            vm.ioremap(0x10_0000, 4096, MemType::Uncached).map(drop),
        ]
    };
    assert_eq!(refused, [Err(AllocError::NoAliases); 6]);
    let text = refused[0].unwrap_err().to_string();
    assert!(text.contains("cannot be mapped on this machine"), "{text}");
    assert_eq!((vm.areas().count(), vm.machine().mappings()), (areas, mappings));
    assert!(area.iter().all(|&byte| byte == 7));
    // SAFETY: P3: they are ours, and nobody maps them.
    frames.into_iter().for_each(|frame| unsafe { vm.free_frame(frame) });
}

#[test]
fn a_stack_has_a_guard_below_whatever_lies_there() {
    for pages in [1, 2, 3, 4, 7, 16, 64, 2048] {
        let vm = instance(64, Policy::Unmap);
        let stacks: Vec<_> = (0..4)
            .map(|n| {
                vm.alloc(Req::pages(pages.min(64)).guard(vmalloc::area::Guard::None)).expect("memory enough");
                (n, vm.alloc(Req::stack(pages)).expect("memory enough"))
            })
            .collect();
        for (n, stack) in stacks {
            let below = stack.addr().get() - 1;
            assert!(!is_readable(byte(below)), "stack {n} of {pages} pages");
            assert!(matches!(vm.whatis(below), What::Guard { above: Some(_), .. }), "{}", vm.whatis(below));
            assert!(!is_readable(byte(stack.addr().get() + pages * PAGE_SIZE)));
        }
    }
}

#[test]
fn a_hundred_thousand_stacks_are_as_many_mappings_as_one() {
    let vm = builder().window(64 << 30).memory(4 << 30).build().expect("a process has room");
    let mut stacks = vec![vm.alloc(Req::bytes(4 * PAGE_SIZE).align(8 * PAGE_SIZE)).expect("memory enough")];
    let before = (maps_in(vm.machine().region()), vm.machine().mappings());
    stacks.extend((1..100_000).map(|_| vm.alloc(Req::pages(4).align(8 * PAGE_SIZE)).expect("memory enough")));
    for (n, &stack) in stacks.iter().enumerate().step_by(97) {
        // SAFETY: it lives.
        unsafe { word(stack, 3).write(n as u64) };
        assert!(!is_readable(byte(stack.addr().get() - 1)), "below stack {n}");
    }
    assert_eq!((maps_in(vm.machine().region()), vm.machine().mappings()), before);
    assert_eq!(before.0, 2, "what is open, and what is not");
    // SAFETY: as above.
    assert!(stacks.iter().enumerate().step_by(97).all(|(n, &stack)| unsafe { word(stack, 3).read() } == n as u64));
    // SAFETY: V1: nobody uses them.
    stacks.iter().for_each(|&stack| unsafe { vm.free(stack) }.unwrap());
    vm.purge();
    assert_eq!((vm.check(), maps_in(vm.machine().region())), (Ok(()), 2));
}

#[test]
fn a_million_areas_are_as_many_mappings_as_one() {
    const AREAS: usize = 1_000_000;
    let vm = builder().window(16 << 30).memory(8 << 30).build().expect("a process has room");
    let first = vm.alloc(Req::pages(1)).expect("memory enough");
    let before = (maps_in(vm.machine().region()), vm.machine().mappings());
    let mut areas = vec![first];
    areas.extend((1..AREAS).map(|_| vm.alloc(Req::pages(1)).expect("memory enough")));
    assert_eq!((maps_in(vm.machine().region()), vm.machine().mappings()), before);
    for (n, &at) in areas.iter().enumerate().step_by(9973) {
        // SAFETY: it lives.
        unsafe { word(at, 0).write(n as u64) };
        assert!(!is_readable(byte(at.addr().get() + PAGE_SIZE)));
    }
    // Every second one goes, in no order; its neighbours stay.
    for n in (0..AREAS / 2).map(|n| 2 * (n * 7919 % (AREAS / 2))) {
        // SAFETY: V1: nobody uses it.
        unsafe { vm.free(areas[n]) }.unwrap();
    }
    vm.purge();
    for (n, &at) in areas.iter().enumerate().step_by(9973) {
        assert_eq!(is_readable(at.as_ptr()), n % 2 == 1, "area {n}");
        // SAFETY: it lives.
        assert!(n % 2 == 0 || unsafe { word(at, 0).read() } == n as u64);
    }
    assert_eq!((maps_in(vm.machine().region()), vm.check()), (before.0, Ok(())));
}

#[test]
fn a_free_among_two_hundred_thousand_costs_what_it_costs_among_two_hundred() {
    let vm = builder().window(16 << 30).memory(8 << 30).build().expect("a process has room");
    let (mut held, mut cost) = (Vec::new(), Vec::new());
    for wanted in [200usize, 200_000] {
        let mut more = held.len()..wanted;
        held.extend(more.by_ref().map(|n| vm.alloc(Req::pages(1 + n % 5)).expect("memory enough")));
        let once = || {
            let begin = Instant::now();
            for n in 0..2000 {
                let at = &mut held[n * 7919 % wanted];
                // SAFETY: V1: nobody uses it.
                unsafe { vm.free(*at) }.unwrap();
                *at = vm.alloc(Req::pages(1 + n % 5)).expect("memory enough");
            }
            begin.elapsed()
        };
        cost.push(std::iter::repeat_with(once).take(5).min().unwrap());
    }
    assert!(cost[1] < 30 * cost[0], "{cost:?}");
    assert_eq!(vm.check(), Ok(()));
}

#[test]
fn a_write_past_the_bytes_that_were_asked_for_is_told_at_the_free() {
    let vm = instance(64, Policy::Strict);
    let kernel = Kernel::new(&vm, Bare).with_redzones();
    let area = kernel.vmalloc(5000).expect("memory enough");
    // SAFETY: inside of the area's last page.
    unsafe { area.as_ptr().add(5000).write(0x55) };
    let start = area.addr().get();
    // SAFETY: Y1: nobody uses it.
    let freed = unsafe { kernel.vfree(area.as_ptr()) };
    assert_eq!(freed, Err(Error::OutOfBounds { at: start + 5000, start, size: 5000 }));
    // SAFETY: as above.
    unsafe { kernel.vfree(area.as_ptr()) }.expect("it was told");
    let clean = kernel.kvmalloc(PAGE_SIZE, GfpFlags::KERNEL).expect("memory enough");
    // SAFETY: as above.
    unsafe { kernel.kvfree(clean.as_ptr()) }.expect("nothing was written past it");
}

#[test]
fn a_protection_holds_until_the_area_is_freed_and_the_next_one_can_be_written() {
    let vm = instance(64, Policy::Strict);
    let before = vm.machine().mappings().used;
    let mut frozen = vm.area(Req::pages(4)).expect("memory enough");
    frozen.fill(9);
    let start = frozen.start().0;
    let store = |page: usize| {
        let at = byte(start + page * PAGE_SIZE);
        // SAFETY: it is in the child's own copy, or faults.
        has_faulted(in_child(|| unsafe {
            at.write_volatile(1);
            0
        }))
    };
    // SAFETY: V2: nobody stores there meanwhile.
    unsafe { vm.protect(start + PAGE_SIZE, 2, Prot::RO) }.expect("within the budget");
    assert_eq!((maps_in(vm.machine().region()), vm.machine().mappings().used), (4, before + 2));
    assert_eq!([0, 1, 2, 3].map(store), [false, true, true, false]);
    assert!(frozen.iter().all(|&byte| byte == 9));
    drop(frozen);
    assert_eq!((maps_in(vm.machine().region()), vm.machine().mappings().used), (2, before));
    let mut again = vm.area(Req::pages(4)).expect("memory enough");
    assert!(again.iter().all(|&byte| byte == 0));
    again.fill(1);
}

#[test]
fn pages_come_back_to_linux_when_they_are_freed() {
    let vm = instance(256, Policy::Strict);
    let resident = || resident_in(vm.machine().region());
    let mut area = vm.area(Req::bytes(128 << 20)).expect("memory enough");
    area.fill(1);
    assert_eq!(resident(), 128 << 20);
    drop(area);
    assert_eq!(resident(), 0);
}

#[test]
fn a_window_that_was_cut_serves_from_what_is_left_and_the_rest_is_anybodys() {
    const LEFT: usize = 4 << 20;
    let vm = builder().window(64 << 20).build().expect("addresses");
    let first = vm.alloc(Req::pages(1)).expect("memory enough");
    let region = vm.machine().region();
    let rest = region.start + LEFT..region.end;
    vm.reserve(Req::pages(rest.len() / PAGE_SIZE - 1).within(rest.clone())).expect("nobody is there");
    assert_eq!((vm.machine().cut(LEFT), vm.machine().region().len()), (rest.clone(), LEFT));
    let pointer = std::ptr::with_exposed_provenance_mut(rest.start);
    // SAFETY: the machine has given them up.
    assert_eq!(unsafe { libc::munmap(pointer, rest.len()) }, 0);
    let areas: Vec<_> = std::iter::from_fn(|| vm.alloc(Req::pages(1)).ok()).collect();
    assert!((300..LEFT / PAGE_SIZE / 2).contains(&areas.len()), "{}", areas.len());
    assert!(areas.iter().all(|at| (region.start..rest.start).contains(&at.addr().get())));
    for at in areas.into_iter().chain([first]) {
        // SAFETY: V1: nobody uses it.
        unsafe { vm.free(at) }.expect("ours");
    }
    assert!(vm.alloc(Req::pages(1)).is_ok());
}
