//! Rounds: batches of several CPUs that wait for one flush (G4), and CPUs that sleep meanwhile.

use super::Scenario;
use crate::rig::{Rig, Shape, Trial, act};
use std::rc::Rc;
use vmalloc::Req;
use vmalloc::internals::interleave::Rule;
use vmalloc_sim::Rates;

pub const ALL: &[Scenario] = &[
    Scenario {
        name: "three CPUs free into batches that share a flush",
        cpus: 3,
        run: shared::<true>,
        notices: &[Rule::SealOld, Rule::EarlyReclaim],
    },
    Scenario {
        name: "a CPU wakes while another one takes its steps",
        cpus: 3,
        run: asleep,
        notices: &[Rule::SkipFlush, Rule::EarlyReclaim],
    },
];

/// Pages of each area.
const PAGES: usize = 6;

/// CPUs that speculate, and whose batches are full with two areas.
fn small_batches<const ALIASES: bool>(trial: &Trial, speculate: u64) -> Rc<Rig<ALIASES>> {
    let rates = Rates { speculate, ..Rates::NEVER };
    Rig::<ALIASES>::on(Shape { rates, load: Some(2 * PAGES), ..Shape::new(3, trial.seed) })
}

fn makes_and_frees<const ALIASES: bool>(rig: &Rig<ALIASES>, times: u64) {
    for n in 0..times {
        let at = rig.make(Req::pages(PAGES)).expect("memory");
        rig.stamp(at, PAGES, n);
        rig.check_stamps(at, PAGES, n);
        rig.give(at).expect("free: it lives");
    }
}

/// Each CPU's batch is sealed in a round that it or another one begins.
pub fn shared<const ALIASES: bool>(trial: &mut Trial) {
    let rig = small_batches(trial, 4);
    let scripts = (0..3).map(|_| act(|rig: &Rig<ALIASES>| makes_and_frees(rig, 12))).collect();
    trial.race(&rig, scripts);
    assert!(rig.stats().counts.closes > 0, "no round was begun");
    rig.finish(false);
}

/// CPU 0 owns areas and sleeps. The others free them, drain them, and go on; it wakes in the midst.
fn asleep(trial: &mut Trial) {
    let rig = small_batches(trial, 4);
    let make = |_| rig.make(Req::pages(PAGES)).expect("memory");
    let [first, second]: [Vec<usize>; 2] = [0, 1].map(|_| (0..12).map(make).collect());
    let pauses = trial.random.below(40);
    let sleeps = act(move |rig: &Rig| {
        rig.sim.sleep(0, || rig.idle_enter());
        rig.pause_for(pauses);
        rig.sim.wake(0, || rig.idle_exit());
        makes_and_frees(rig, 4);
    });
    let frees = |areas: Vec<usize>| {
        act(move |rig: &Rig| {
            for at in areas {
                rig.give(at).expect("free: it lives");
            }
            rig.tick();
            makes_and_frees(rig, 2);
        })
    };
    trial.race(&rig, vec![sleeps, frees(first), frees(second)]);
    rig.finish(false);
}
