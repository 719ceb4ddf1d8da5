//! NMIs in the middle of a call, while other CPUs come to theirs (L4, R6).

use super::Scenario;
use crate::engine::Nmis;
use crate::rig::{Rig, Shape, Trial, act, pointer};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use vmalloc::Req;
use vmalloc::gfp::Gfp;
use vmalloc::internals::interleave::Rule;

pub const ALL: &[Scenario] = &[
    Scenario {
        name: "an NMI's area is undone while its CPU is visited",
        cpus: 2,
        run: undone,
        notices: &[Rule::HoleForgotten],
    },
    Scenario {
        name: "an area that an NMI frees is freed again",
        cpus: 2,
        run: freed_again::<true>,
        notices: &[Rule::UnclaimDeferred],
    },
];

/// CPU 1 visits CPU 0, where NMIs begin areas for which frames are refused: of what
/// was begun nothing is left.
fn undone(trial: &mut Trial) {
    let rig = trial.quiet(2);
    // There is a slot for it, but there are not frames enough.
    let neighbour = rig.make(Req::pages(140)).expect("an area");
    let sim = rig.sim.clone();
    rig.set_nmi(0, move |vm| {
        sim.faults().fail_from(1);
        if let Ok(at) = vm.alloc(Req::pages(140).gfp(Gfp::ATOMIC | Gfp::NOWARN)) {
            // SAFETY: V1: nobody has used it.
            unsafe { vm.free(at) }.expect("free: an area of an NMI's");
        }
        sim.faults().fail_at(0);
    });
    trial.nmis = Nmis::one_in(1 + trial.random.below(40), trial.random.clone());
    let waits = act(|rig: &Rig| rig.pause_for(8));
    let visits = act(|rig: &Rig| (0..40).for_each(|_| _ = rig.stats()));
    trial.race(&rig, vec![waits, visits]);
    rig.give(neighbour).expect("it lives");
    rig.finish(false);
}

/// Pages of an area whose entries its owner retires in three sections.
const LARGE: usize = 300;

/// An NMI frees an area of CPU 0's, which retires its entries in its ticks; CPU 1 frees
/// it too. One of the two has.
pub fn freed_again<const ALIASES: bool>(trial: &mut Trial) {
    let rig = Rig::<ALIASES>::on(Shape::new(2, trial.seed));
    let area = rig.make(Req::pages(LARGE)).expect("an area");
    let freed = Arc::new(AtomicUsize::new(0));
    let by_nmi = Arc::clone(&freed);
    rig.set_nmi(0, move |vm| {
        // SAFETY: V1: nobody uses it.
        by_nmi.fetch_add(unsafe { vm.free(pointer(area)) }.is_ok() as usize, Relaxed);
    });
    trial.nmis = Nmis::one_in(1 + trial.random.below(100), trial.random.clone());
    let owner = act(|rig: &Rig<ALIASES>| (0..6).for_each(|_| _ = rig.tick()));
    let by_other = Arc::clone(&freed);
    let other = act(move |rig: &Rig<ALIASES>| {
        for _ in 0..6 {
            by_other.fetch_add(rig.give(area).is_ok() as usize, Relaxed);
            rig.pause();
        }
    });
    trial.race(&rig, vec![owner, other]);
    rig.set_nmi(0, |_| {});
    let last = rig.give(area).is_ok() as usize;
    assert_eq!(freed.load(Relaxed) + last, 1, "free: {area:#x} was freed as often");
    rig.finish(false);
}
