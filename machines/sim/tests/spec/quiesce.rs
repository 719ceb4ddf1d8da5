//! Quiescing: every CPU is held, and what works meanwhile.

use crate::common::{REGION, addr, boot, quiet, rig};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use vmalloc::machine::{Context, Machine};
use vmalloc::{AllocError, Config, Gfp, Req, What};

const WRONG: AllocError = AllocError::WrongContext(Context::Atomic);

#[test]
fn a_quiesced_instance_refuses_its_own_cpu_and_can_be_looked_at() {
    let rig = rig(3);
    let area = rig.sim.on(1, || rig.alloc(Req::pages(3)).expect("memory enough"));
    let (frame, areas) = (rig.frames(1)[0], rig.areas().count());
    // How long it takes is its caller's choice.
    rig.sim.unbounded(|| {
        let quiesced = rig.quiesce().expect("nobody is inside");
        assert_eq!(rig.alloc(Req::pages(1)), Err(WRONG));
        assert_eq!(rig.alloc_frame(Gfp::KERNEL, None), Err(WRONG));
        assert_eq!(rig.map(&[frame]), Err(WRONG));
        assert_eq!(rig.quiesce().err(), Some(WRONG));
        assert!(matches!(rig.whatis(addr(area).0 + 5000), What::Inside { .. }));
        assert_eq!((rig.areas().count(), rig.stats().areas), (areas, areas));
        let mut listing = String::new();
        rig.list(&mut listing).expect("a string takes all of it");
        assert!(listing.contains("pages=3"), "{listing}");
        // What is freed meanwhile is the owner's to end.
        rig.give(area).expect("it lives");
        assert!(matches!(rig.whatis(addr(area).0), What::Freed { .. } | What::Free | What::Changing));
        rig.give_frames(&[frame]);
        drop(quiesced);
    });
    rig.purge();
    let area = rig.alloc(Req::pages(3)).expect("memory enough");
    rig.give(area).expect("it lives");
    assert_eq!((rig.check(), rig.stats().areas), (Ok(()), 0));
}

#[test]
fn an_nmi_on_another_cpu_is_refused_while_all_are_held() {
    let rig = boot(quiet(2), Config::region(REGION));
    let quiesced = rig.quiesce().expect("nobody is inside");
    rig.sim.on(1, || {
        rig.sim.set_context(Context::Nmi);
        assert_eq!(rig.alloc(Req::pages(1)), Err(AllocError::WrongContext(Context::Nmi)));
        assert_eq!(rig.quiesce().err(), Some(AllocError::WrongContext(Context::Nmi)));
        rig.sim.set_context(Context::Task);
    });
    drop(quiesced);
    let area = rig.sim.on(1, || rig.alloc(Req::pages(1)).expect("memory enough"));
    rig.give(area).expect("it lives");
}

#[test]
fn a_call_in_the_middle_of_another_cannot_quiesce_and_holds_nothing_after() {
    let rig = boot(quiet(2), Config::region(REGION));
    let (came, refused) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    for cpu in 0..2 {
        for step in 1..60 {
            let (came, refused) = (Arc::clone(&came), Arc::clone(&refused));
            rig.set_nmi(step, move |vm| {
                came.fetch_add(1, Relaxed);
                refused.fetch_add(vm.quiesce().is_err() as u64, Relaxed);
            });
            rig.sim.on(cpu, || {
                let area = rig.alloc(Req::pages(2)).expect("memory enough");
                rig.give(area).expect("it lives");
                // A visitor holds both CPUs.
                assert_eq!(rig.stats().areas, 0);
            });
        }
    }
    rig.set_nmi(0, |_| {});
    let (came, refused) = (came.load(Relaxed), refused.load(Relaxed));
    assert!(refused > 0 && refused < came, "{refused} of {came}: inside and outside of calls");
    assert!(rig.quiesce().is_ok());
    assert_eq!(rig.machine().context(), Context::Task, "nothing is pinned any more");
}

#[test]
fn looks_can_be_forgotten_while_nobody_is_inside_and_later_ones_count_again() {
    let rig = boot(quiet(2), Config::region(REGION));
    let area = rig.alloc(Req::pages(3)).expect("memory enough");
    rig.sim.unbounded(|| {
        let quiesced = rig.quiesce().expect("nobody is inside");
        // SAFETY: N3: this test is the only caller.
        unsafe { quiesced.forget_looks() };
        assert!(rig.frame_at(addr(area).0).is_some());
    });
    rig.give(area).expect("it lives");
    rig.purge();
    assert_eq!((rig.check(), rig.stats().waiting_pages, rig.frame_at(addr(area).0)), (Ok(()), 0, None));
}
