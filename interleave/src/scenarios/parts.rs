//! Parts of reservations that are unmapped, and tails that are given back, while other CPUs
//! flush, reclaim and take frames: nobody is given a frame that a CPU may still reach (G3).

use super::Scenario;
use crate::rig::{Act, Rig, Trial, act};
use vmalloc::internals::interleave::Rule;
use vmalloc::units::{PAGE_SIZE, Pfn, VirtAddr};

pub const ALL: &[Scenario] = &[
    Scenario {
        name: "a part is unmapped and its frame given up while another CPU purges",
        cpus: 2,
        run: |trial| part(trial, |rig, at, _| assert_eq!(rig.unmap_pages(at, 8), Ok(1), "free: a mapped part"), purges),
        notices: &[Rule::IgnoreAliases],
    },
    Scenario {
        name: "a reservation is freed with a part mapped while its owner ticks",
        cpus: 2,
        run: |trial| part(trial, |rig, at, _| rig.give(at).expect("free: a live reservation"), ticks),
        notices: &[Rule::IgnoreAliases],
    },
    Scenario {
        name: "an area shrinks while another CPU purges",
        cpus: 2,
        run: |trial| tail(trial, 1, purges),
        notices: &[Rule::IgnoreAliases],
    },
    Scenario {
        name: "an area of several slices shrinks while its owner ticks",
        cpus: 2,
        run: |trial| tail(trial, 150, ticks),
        notices: &[],
    },
    Scenario {
        name: "an area shrinks and grows again while another CPU ticks",
        cpus: 2,
        run: grown_again,
        notices: &[Rule::GrowStale],
    },
    Scenario { name: "a tail is given back while another CPU holds a page of it", cpus: 2, run: held, notices: &[] },
];

fn purges(rig: &Rig) {
    rig.purge();
}

fn ticks(rig: &Rig) {
    for _ in 0..4 {
        rig.tick();
        rig.pause();
    }
}

/// Collects, and takes frames that nobody reaches.
fn takes(collects: fn(&Rig)) -> Act {
    act(move |rig: &Rig| {
        collects(rig);
        let new: Vec<Pfn> = (0..3).map_while(|_| rig.frame()).collect();
        new.iter().for_each(|&frame| rig.sim.assert_reached_only_at(frame, None));
        new.into_iter().for_each(|frame| rig.give_frame(frame));
    })
}

/// CPU 1 has made a reservation and mapped a page of it, which both CPUs have used; CPU 0 ends
/// that and gives the frame up.
fn part(trial: &mut Trial, ends: fn(&Rig, usize, Pfn), collects: fn(&Rig)) {
    let rig = trial.quiet(2);
    let frame = rig.frame().expect("a frame");
    let at = rig.sim.on(1, || rig.reserve_pages(8)).expect("addresses");
    rig.map_pages(at + 3 * PAGE_SIZE, &[frame]).expect("tables");
    let page = VirtAddr(at).add_pages(3);
    (0..2).for_each(|cpu| _ = rig.sim.load(cpu, page).expect("content: a mapped page"));
    let pauses = trial.random.below(6);
    let gives = act(move |rig: &Rig| {
        rig.pause_for(pauses);
        ends(rig, at, frame);
        rig.give_frame(frame);
    });
    trial.race(&rig, vec![gives, takes(collects)]);
    let _ = rig.give(at);
    rig.finish(false);
}

/// CPU 1 has made an area, which both CPUs have used; CPU 0 gives its tail back.
fn tail(trial: &mut Trial, more: usize, collects: fn(&Rig)) {
    let rig = trial.quiet(2);
    let at = rig.sim.on(1, || rig.make(vmalloc::Req::pages(2 + more))).expect("an area");
    rig.stamp(at, 2 + more, 5);
    (0..2 + more).for_each(|n| _ = rig.sim.load(1, VirtAddr(at).add_pages(n)).expect("content: a live page"));
    let pauses = trial.random.below(6);
    let gives = act(move |rig: &Rig| {
        rig.pause_for(pauses);
        rig.shorten(at, 2).expect("free: a live area");
        rig.check_stamps(at, 2, 5);
    });
    trial.race(&rig, vec![gives, takes(collects)]);
    rig.check_stamps(at, 2, 5);
    rig.give(at).expect("free: it lives");
    rig.finish(false);
}

/// CPU 1 holds a page of the tail that CPU 0 gives back: it has the frame, or nothing.
fn held(trial: &mut Trial) {
    let rig = trial.quiet(2);
    let at = rig.make(vmalloc::Req::pages(3)).expect("an area");
    rig.stamp(at, 3, 9);
    let gives = act(move |rig: &Rig| rig.shorten(at, 1).expect("free: a live area"));
    let holds = act(move |rig: &Rig| {
        if let Some(frame) = rig.hold_frame(at + 2 * PAGE_SIZE) {
            let taken = rig.frame();
            assert_ne!(taken, Some(frame), "frame: {frame:?} is held");
            taken.into_iter().chain([frame]).for_each(|frame| rig.give_frame(frame));
        }
    });
    trial.race(&rig, vec![gives, holds]);
    rig.check_stamps(at, 1, 9);
    rig.give(at).expect("free: it lives");
    rig.finish(false);
}

/// CPU 1 has used an area, which CPU 0 makes smaller and larger again: CPU 1 reaches the new
/// frames, and none that was given back.
fn grown_again(trial: &mut Trial) {
    let rig = trial.quiet(2);
    let at = rig.sim.on(1, || rig.make(vmalloc::Req::pages(4))).expect("an area");
    rig.stamp(at, 4, 5);
    (0..4).for_each(|n| _ = rig.sim.load(1, VirtAddr(at).add_pages(n)).expect("content: a live page"));
    let pauses = trial.random.below(6);
    let grows = act(move |rig: &Rig| {
        rig.pause_for(pauses);
        rig.shorten(at, 1).expect("free: a live area");
        rig.extend(at, 4).expect("memory");
        rig.stamp(at, 4, 5);
    });
    trial.race(&rig, vec![grows, act(|rig: &Rig| ticks(rig))]);
    rig.sim.on(1, || rig.check_stamps(at, 4, 5));
    rig.give(at).expect("free: it lives");
    rig.finish(false);
}
