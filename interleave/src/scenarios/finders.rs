//! Who looks while others make and free (R2, U1, G1).

use super::Scenario;
use crate::rig::{Rig, Shape, Trial, act};
use std::cell::Cell;
use std::rc::Rc;
use vmalloc::gfp::Gfp;
use vmalloc::internals::interleave::Rule;
use vmalloc::units::VirtAddr;
use vmalloc::{Policy, Req};

pub const ALL: &[Scenario] = &[
    Scenario {
        name: "a frame is held while its area is freed",
        cpus: 2,
        run: |trial| hold_against_free(trial, Policy::Unmap),
        notices: &[Rule::IgnoreCounts],
    },
    Scenario {
        name: "a frame is held while its area is cached",
        cpus: 2,
        run: |trial| hold_against_free(trial, Policy::Keep),
        notices: &[Rule::HoldUnchecked, Rule::CacheShared],
    },
    Scenario {
        name: "an area is found while it is made",
        cpus: 2,
        run: found_cleared,
        notices: &[Rule::PublishUncleared],
    },
    Scenario {
        name: "a CPU answers kicks while a load is closed",
        cpus: 2,
        run: kicks::<true>,
        notices: &[Rule::EarlyReclaim, Rule::SkipFlush],
    },
    Scenario {
        name: "every CPU is held while others call",
        cpus: 3,
        run: quiesces::<true>,
        notices: &[Rule::QuiesceAllButOne],
    },
];

/// CPU 0 holds the frame of an area that CPU 1 frees, and makes again and again: what
/// is held is no frame of an area that was made later.
fn hold_against_free(trial: &mut Trial, policy: Policy) {
    let rig = Rig::new(Shape { policy, ..Shape::new(2, trial.seed) });
    let area = rig.sim.on(1, || rig.make(Req::pages(1))).expect("an area");
    let held = Rc::new(Cell::new(None));
    let tells = Rc::clone(&held);
    let holds = act(move |rig: &Rig| {
        tells.set(rig.hold_frame(area));
        rig.pause_for(6);
        if let Some(frame) = tells.take() {
            rig.give_frame(frame);
        }
    });
    let frees = act(move |rig: &Rig| {
        rig.give(area).expect("free: a live area");
        for round in 0..3 {
            if round == 1 && policy == Policy::Unmap {
                rig.purge();
            }
            let before = held.get();
            let again = rig.make(Req::pages(1)).expect("an area");
            let still = before.filter(|_| held.get() == before);
            assert!(still.is_none() || rig.frame_at(again) != still, "frame: of a new area, and held");
            rig.give(again).expect("free: a live area");
        }
    });
    trial.race(&rig, vec![holds, frees]);
    rig.finish(false);
}

/// CPU 1 finds the area that CPU 0 makes, and what it reads there is zero.
fn found_cleared(trial: &mut Trial) {
    let rig = trial.quiet(2);
    let place = rig.make(Req::pages(1)).expect("an area");
    rig.give(place).expect("it lives");
    rig.purge();
    let makes = act(move |rig: &Rig| {
        let at = rig.make(Req::pages(1).gfp(Gfp::KERNEL | Gfp::ZERO)).expect("an area");
        rig.pause();
        rig.give(at).expect("free: a live area");
    });
    let finds = act(move |rig: &Rig| {
        for _ in 0..4 {
            if rig.find(place).is_some() {
                // A fault or another's word says that it was freed since.
                let read = rig.sim.load(1, VirtAddr(place));
                assert!(rig.find(place).is_none() || read == Ok(0), "content: an area that was not cleared: {read:?}");
            }
            rig.pause();
        }
    });
    trial.race(&rig, vec![makes, finds]);
    rig.finish(false);
}

/// CPU 1 answers a kick, and speculates; CPU 0 frees, closes and collects meanwhile.
pub fn kicks<const ALIASES: bool>(trial: &mut Trial) {
    let rig = Rig::<ALIASES>::on(Shape::new(2, trial.seed));
    let areas = [1, 1, 1].map(|pages| rig.make(Req::pages(pages)).expect("an area"));
    areas.iter().for_each(|&area| rig.stamp(area, 1, 3));
    rig.give(areas[2]).expect("it lives");
    // A load is closed, and CPU 1 is behind.
    (0..3).for_each(|_| _ = rig.tick());
    let frees = act(move |rig: &Rig<ALIASES>| {
        for &area in &areas[..2] {
            // A store makes the page worth a guess.
            rig.stamp(area, 1, 3);
            (0..8).for_each(|_| rig.sim.speculate(1));
            rig.give(area).expect("free: a live area");
            rig.purge();
            let new = rig.make(Req::pages(1)).expect("an area");
            rig.stamp(new, 1, 4);
            rig.give(new).expect("free: a live area");
        }
    });
    let reads = act(move |rig: &Rig<ALIASES>| {
        for n in 0..4 {
            rig.on_kick();
            // A fault is right once it was freed; what is stale is judged.
            let _ = rig.sim.load(1, VirtAddr(areas[n % 2]));
            rig.pause();
        }
    });
    trial.race(&rig, vec![frees, reads]);
    rig.finish(false);
}

/// CPUs 0 and 1 hold every CPU by turns, while CPU 2 makes and frees: nothing changes
/// meanwhile, and everybody comes to an end.
pub fn quiesces<const ALIASES: bool>(trial: &mut Trial) {
    let rig = Rig::<ALIASES>::on(Shape::new(3, trial.seed));
    let holds = || {
        act(|rig: &Rig<ALIASES>| {
            for _ in 0..3 {
                let quiesced = rig.quiesce().expect("a call of its own");
                let live = || (rig.stats().areas, rig.stats().counts.allocs, rig.stats().counts.local_frees);
                assert_eq!(live(), live(), "quiesce: somebody is inside");
                assert!(rig.make(Req::pages(1)).is_err(), "quiesce: its own CPU is held");
                drop(quiesced);
                rig.pause();
            }
        })
    };
    let makes = act(|rig: &Rig<ALIASES>| {
        for pages in 1..6 {
            let area = rig.make(Req::pages(pages)).expect("an area");
            rig.pause();
            rig.give(area).expect("free: a live area");
        }
    });
    trial.race(&rig, vec![holds(), holds(), makes]);
    rig.finish(false);
}
