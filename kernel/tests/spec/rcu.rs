//! Blocks that are freed after a grace period.

use crate::common::*;
use std::sync::atomic::Ordering::SeqCst;
use vmalloc::machine::Context;
use vmalloc_kernel::{Error, RCU_HEAD};

fn with_head(kernel: &Tested<'_>, block: usize, head: usize) -> Result<(), Error> {
    // SAFETY: Y1: nobody uses it.
    unsafe { kernel.kvfree_rcu(at(block), head) }
}

fn without(kernel: &Tested<'_>, block: usize) -> Result<(), Error> {
    // SAFETY: Y1: nobody uses it.
    unsafe { kernel.kvfree_rcu_mightsleep(at(block)) }
}

/// All readers of now have ended.
fn pass(kernel: &Tested<'_>) {
    kernel.host().passed.store(kernel.host().begun.load(SeqCst), SeqCst);
}

#[test]
fn a_block_is_freed_when_its_grace_period_has_passed_and_not_before() {
    let rig = quiet();
    let kernel = rig.kernel();
    let area = kernel.vmalloc(2 * PAGE).map(number).unwrap();
    let old = kernel.v2_6().vmalloc(2 * PAGE).map(number).unwrap();
    let object = kernel.kmalloc(64, GFP).map(number).unwrap();
    let bare = kernel.vmalloc(PAGE).map(number).unwrap();
    rig.stamp(area, 2, 7);
    with_head(&kernel, area, area + 2 * PAGE - RCU_HEAD).unwrap();
    with_head(&kernel, old, old).unwrap();
    with_head(&kernel, object, object + 48).unwrap();
    without(&kernel, bare).unwrap();
    rig.purge();
    rig.check_stamps(area, 2, 7);
    assert_eq!(kernel.ksize(at(object)), Ok(64), "a reader may be in it");
    assert_eq!(kernel.vmlist().count(), 3);
    // The first block began a grace period by itself; the others wait for the next one.
    pass(&kernel);
    with_head(&kernel, 0, 0).unwrap();
    let next = kernel.vmalloc(PAGE).map(number).unwrap();
    without(&kernel, next).unwrap();
    assert_eq!((kernel.find_vm_area(area), kernel.find_vm_area(old).is_some()), (None, true));
    assert_eq!(kernel.ksize(at(object)), Ok(64));
    kernel.kvfree_rcu_barrier().unwrap();
    assert_eq!((kernel.vmlist().count(), kernel.ksize(at(object))), (0, Err(Error::DoubleFree(object))));
    assert_eq!(kernel.host().said(), []);
    rig.state();
}

#[test]
fn each_call_frees_two_blocks_that_are_ready_and_the_barrier_all() {
    let rig = quiet();
    let kernel = rig.kernel();
    let make = || kernel.vmalloc(PAGE).map(number).unwrap();
    let before = rig.state();
    for round in 0..1300 {
        match round % 2 {
            0 => without(&kernel, make()).unwrap(),
            _ => {
                let area = make();
                with_head(&kernel, area, area + 8).unwrap();
            }
        }
    }
    assert_eq!(kernel.vmlist().count(), 1300);
    // What waits now is one block, and all others after it.
    pass(&kernel);
    without(&kernel, make()).unwrap();
    assert_eq!(kernel.vmlist().count(), 1300, "one came, and the first went");
    pass(&kernel);
    for gone in 1..100 {
        let was = kernel.vmlist().count();
        let area = make();
        with_head(&kernel, area, area).unwrap();
        assert!(was + 1 - kernel.vmlist().count() <= 2, "{gone}");
    }
    assert!(kernel.vmlist().count() < 1220);
    kernel.kvfree_rcu_barrier().unwrap();
    assert_eq!(kernel.vmlist().count(), 0);
    assert_eq!(rig.state().0, before.0);
}

#[cfg(debug_assertions)]
#[test]
fn where_no_page_is_to_be_had_the_call_waits_for_the_grace_period_itself() {
    let rig = quiet();
    let kernel = rig.kernel();
    let area = kernel.vmalloc(PAGE).map(number).unwrap();
    rig.reclaim(usize::MAX);
    rig.sim.faults().fail_from(1);
    let freed = without(&kernel, area);
    rig.sim.faults().fail_at(0);
    assert_eq!((freed, kernel.find_vm_area(area)), (Ok(()), None));
    assert_eq!(kernel.host().heard(), ["synchronize_rcu"]);
}

#[test]
fn what_is_no_block_and_what_is_no_head_of_it_is_refused_and_nothing_changes() {
    let rig = quiet();
    let kernel = rig.kernel();
    let area = kernel.vmalloc(PAGE).map(number).unwrap();
    let object = kernel.kmalloc(8, GFP).map(number).unwrap();
    let before = rig.state();
    for head in [area - 8, area + PAGE - 8, area + PAGE, area + 4, 0] {
        assert_eq!(with_head(&kernel, area, head), Err(Error::BadArgument(head)), "{head:#x}");
    }
    assert_eq!(with_head(&kernel, object, object), Err(Error::BadArgument(object)), "it has no room");
    let inside = area + 16;
    assert_eq!(with_head(&kernel, inside, inside), Err(Error::NoArea(inside)));
    assert_eq!(without(&kernel, area + PAGE), Err(Error::NoArea(area + PAGE)));
    rig.sim.set_context(Context::HardIrq);
    assert_eq!(without(&kernel, area), Err(Error::WrongContext(Context::HardIrq)), "it may have to wait");
    with_head(&kernel, area, area).expect("an interrupt may");
    rig.sim.set_context(Context::Task);
    assert_eq!(rig.state(), before);
    kernel.kvfree_rcu_barrier().unwrap();
    assert_eq!(kernel.find_vm_area(area), None);
}

#[test]
fn a_subsystem_that_is_dropped_frees_what_waits() {
    let rig = rig(1);
    let kernel = rig.kernel();
    for _ in 0..600 {
        let area = kernel.vmalloc(PAGE).map(number).unwrap();
        without(&kernel, area).unwrap();
        let object = kernel.kmalloc(32, GFP).map(number).unwrap();
        with_head(&kernel, object, object + 16).unwrap();
    }
    drop(kernel);
    assert_eq!(rig.areas().count(), 0);
}
