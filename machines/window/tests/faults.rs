//! Linux refuses: nothing is reused while it can be reached, and no area has another's bytes.
#![cfg(debug_assertions)]

mod common;

use common::*;
use vmalloc::{Policy, Req};
use vmalloc_process::frames_in_all;
use vmalloc_window::builder;

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
