//! Frames that several mappings share: who is last gives the frame up, and a CPU may
//! still reach it by a page that was unmapped a moment ago (G3).

use super::Scenario;
use crate::rig::{Rig, Trial, act};
use vmalloc::internals::interleave::Rule;
use vmalloc::units::VirtAddr;

pub const ALL: &[Scenario] = &[
    Scenario {
        name: "a frame is given up while a purge collects its other mapping",
        cpus: 2,
        run: |trial| shared(trial, |rig| _ = rig.purge()),
        notices: &[Rule::LookBeforeRelease, Rule::IgnoreAliases],
    },
    Scenario {
        name: "a frame is given up while ticks collect its other mapping",
        cpus: 2,
        run: |trial| {
            shared(trial, |rig| {
                for _ in 0..4 {
                    rig.tick();
                    rig.pause();
                }
            })
        },
        notices: &[Rule::LookBeforeRelease],
    },
    Scenario { name: "a hold against the last release", cpus: 2, run: hold, notices: &[Rule::HoldSticks] },
];

/// A frame is mapped twice; CPU 1 has unmapped one of the two, and collects it.
fn shared(trial: &mut Trial, collects: fn(&Rig)) {
    let rig = trial.quiet(2);
    let frame = rig.frame().expect("a frame");
    let short = rig.map_short(&[frame]).expect("a mapping");
    let area = rig.sim.on(1, || rig.map(&[frame])).expect("an area");
    rig.sim.on(1, || rig.unmap(area)).expect("it lives");
    let pauses = trial.random.below(6);
    let gives = act(move |rig: &Rig| {
        rig.pause_for(pauses);
        rig.sim.load(0, VirtAddr(short)).expect("content: a live mapping");
        rig.unmap_short(short, 1).expect("free: a live mapping");
        rig.give_frame(frame);
    });
    let takes = act(move |rig: &Rig| {
        collects(rig);
        let new = rig.frame().expect("a frame");
        rig.sim.assert_reached_only_at(new, None);
        rig.give_frame(new);
    });
    trial.race(&rig, vec![gives, takes]);
    rig.finish(false);
}

/// CPU 0 gives the last hold up; CPU 1 looks the frame up by the address and holds it.
fn hold(trial: &mut Trial) {
    let rig = trial.quiet(2);
    let frame = rig.frame().expect("a frame");
    let short = rig.map_short(&[frame]).expect("a mapping");
    let gives = act(move |rig: &Rig| {
        rig.unmap_short(short, 1).expect("free: a live mapping");
        rig.give_frame(frame);
    });
    let holds = act(move |rig: &Rig| {
        if let Some(held) = rig.hold_frame(short) {
            rig.give_frame(held);
        }
    });
    trial.race(&rig, vec![gives, holds]);
    rig.finish(false);
}
