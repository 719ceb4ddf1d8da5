//! Linux refuses: nothing is reused while it can be reached, and no area has another's bytes.
#![cfg(debug_assertions)]

mod common;

use common::*;
use vmalloc::units::PAGE_SIZE;
use vmalloc::{Placement, Policy, Req, Vmalloc};
use vmalloc_process::frames_in_all;
use vmalloc_window::{Window, builder};

#[test]
fn whatever_is_refused_no_area_has_the_bytes_of_a_former_one() {
    for policy in [Policy::Unmap, Policy::Strict, Policy::Keep] {
        let quiet = builder().window(64 << 20).memory(24 << 20).policy(policy).log(|_, _| ());
        let vm = quiet.build().expect("a process has room");
        let frames = frames_in_all(&vm);
        let mut failed = 0;
        for round in 0..1500 {
            vm.machine().faults().fail_at(if round % 3 == 0 { 1 + (round as u64 / 3) % 7 } else { 0 });
            let Ok(mut area) = vm.area(Req::pages(1 + round % 40).zeroed()) else {
                failed += 1;
                continue;
            };
            assert!(area.iter().all(|&byte| byte == 0), "{policy:?}, round {round}");
            area.fill(0xdb);
        }
        vm.machine().faults().fail_at(0);
        assert!(failed > 0 && vm.machine().refusals().1 > failed, "the trial proves nothing");
        assert_nothing_is_left(&vm, frames);
    }
}

#[test]
fn nothing_is_reused_while_it_can_be_reached() {
    let vm = builder().window(64 << 20).memory(24 << 20).log(|_, _| ()).build().expect("a process has room");
    let at = vm.alloc(Req::pages(3)).expect("memory enough");
    vm.machine().faults().fail_from(1);
    // SAFETY: V1: nobody uses it.
    unsafe { vm.free(at) }.unwrap();
    assert_eq!((vm.purge(), vm.stats().waiting_pages), (0, 3));
    assert!(is_readable(at.as_ptr()), "still there, so nobody else may have the address");
    assert!(vm.alloc(Req::pages(1)).is_err());
    vm.machine().faults().fail_at(0);
    assert!(vm.purge() >= 3);
    assert!(!is_readable(at.as_ptr()));
    assert_eq!(vm.check(), Ok(()));
}

/// How many pages can be reached below the boundary as it is now.
fn reachable(vm: &Vmalloc<Window>) -> usize {
    let start = vm.machine().region().start;
    (start..start + vm.machine().usage().open).step_by(PAGE_SIZE).filter(|&at| is_readable(byte(at))).count()
}

#[test]
fn an_area_that_is_refused_at_the_boundary_leaves_no_page_below_it_reachable() {
    for placement in [Placement::Classes, Placement::Lowest] {
        let quiet = builder().window(64 << 20).memory(48 << 20).policy(Policy::Strict).placement(placement);
        let vm = quiet.log(|_, _| ()).build().expect("a process has room");
        let mut refused = 0;
        for _ in 0..6 {
            let before = reachable(&vm);
            // The first slice is bound, and what moves the boundary for a later one fails.
            vm.machine().faults().fail_from(2);
            let area = vm.alloc(Req::pages(300));
            vm.machine().faults().fail_at(0);
            vm.purge();
            if area.is_err() {
                refused += 1;
                assert_eq!(reachable(&vm), before, "{placement:?}: pages of no area");
            }
            vm.alloc(Req::pages(300)).expect("memory enough");
        }
        assert!(refused > 1, "{placement:?}: the trial proves nothing");
        assert_eq!(vm.check(), Ok(()));
    }
}

#[test]
fn an_area_that_is_refused_at_the_end_of_a_window_that_was_cut_leaves_nothing_reachable() {
    let quiet = builder().window(64 << 20).memory(48 << 20).policy(Policy::Strict).placement(Placement::Lowest);
    let vm = quiet.log(|_, _| ()).build().expect("a process has room");
    vm.alloc(Req::pages(400)).expect("memory enough");
    let gone = vm.machine().cut(0);
    let before = reachable(&vm);
    assert!(vm.alloc(Req::pages(140)).is_err() && gone.len() == 62 << 20);
    vm.purge();
    assert_eq!((reachable(&vm), vm.check()), (before, Ok(())));
}
