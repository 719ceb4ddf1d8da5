//! Dead addresses: areas were freed, their chunk is given up, and its header becomes
//! another chunk, while somebody frees one of them again, or looks at it (R2).
//!
//! A dead address may answer if, and only if, a new area is there.

use super::Scenario;
use crate::rig::{Rig, Shape, Trial, act};
use std::cell::RefCell;
use std::rc::Rc;
use vmalloc::Req;
use vmalloc::internals::interleave::Rule;
use vmalloc::units::PAGE_SIZE;

pub const ALL: &[Scenario] = &[
    Scenario {
        name: "free of a dead address",
        cpus: 2,
        run: |trial| dead(trial, |rig, at| rig.give(at).is_ok(), true),
        notices: &[Rule::ChunkReborn],
    },
    Scenario {
        name: "frame behind a dead address",
        cpus: 2,
        run: |trial| dead(trial, |rig, at| rig.frame_at(at).is_some(), false),
        notices: &[Rule::ChunkReborn],
    },
    Scenario {
        name: "hold by a dead address",
        cpus: 2,
        run: |trial| dead(trial, hold, false),
        notices: &[Rule::ChunkReborn],
    },
    Scenario {
        name: "what a dead address is",
        cpus: 2,
        run: |trial| dead(trial, find, false),
        notices: &[Rule::ChunkReborn],
    },
];

/// Areas that die; one in 64 is the first of its chunk.
const AREAS: usize = 448;
/// Pages of the areas that are made then: of different classes.
const SIZES: [usize; 6] = [2, 3, 4, 5, 6, 7];

fn hold(rig: &Rig, at: usize) -> bool {
    let held = rig.hold_frame(at);
    if let Some(frame) = held {
        rig.give_frame(frame);
    }
    held.is_some()
}

fn find(rig: &Rig, at: usize) -> bool {
    rig.find(at).is_some_and(|area| area.range().contains(vmalloc::units::VirtAddr(at)))
}

/// An area, as its maker knows it.
#[derive(Clone, Copy, Debug)]
struct Made {
    at: usize,
    pages: usize,
}

/// CPU 0 does something with dead addresses, CPU 1 gives their chunks up and makes
/// others. `frees`: what answers is freed, and then it is nobody's business to use it.
fn dead(trial: &mut Trial, does: fn(&Rig, usize) -> bool, frees: bool) {
    // A step of reclaiming comes with the 56th page: few pages wait when the race begins, so that
    // the maker need not wait for the looker to flush.
    let rig = Rig::new(Shape { load: Some(56), ..Shape::new(2, trial.seed) });
    let make = || rig.make(Req::pages(1)).expect("an area");
    let areas: Vec<_> = rig.sim.on(1, || (0..AREAS).map(|_| make()).collect());
    for load in areas.chunks(64) {
        // It is collected before the next is closed, and no chunk is given up.
        rig.sim.on(1, || load.iter().for_each(|&at| rig.give(at).expect("it lives")));
        (0..2).for_each(|cpu| rig.sim.on(cpu, || rig.on_kick()));
        rig.sim.on(1, || rig.work());
    }
    let firsts: Vec<_> = areas.into_iter().step_by(64).collect();
    let dead: Vec<usize> = (0..if frees { 1 } else { 2 }).map(|_| trial.random.pick(&firsts)).collect();
    let ticks = 1 + trial.random.below(5);
    let made: Rc<RefCell<Vec<Made>>> = Rc::default();
    let answered: Rc<RefCell<Vec<usize>>> = Rc::default();
    let looker = {
        let (answered, dead) = (Rc::clone(&answered), dead.clone());
        act(move |rig: &Rig| answered.borrow_mut().extend(dead.into_iter().filter(|&at| does(rig, at))))
    };
    let maker = {
        let (made, dead) = (Rc::clone(&made), dead.clone());
        act(move |rig: &Rig| {
            (0..ticks).for_each(|_| _ = rig.tick());
            let is_hit = |at: usize| frees && dead.contains(&at);
            // Each needs a chunk of its own, and is the first in it.
            for pages in SIZES {
                let at = rig.make(Req::pages(pages)).expect("an area");
                made.borrow_mut().push(Made { at, pages });
                if !is_hit(at) {
                    rig.stamp(at, pages, at as u64);
                }
            }
            // While they live, the other CPU goes on.
            rig.pause();
            let all = made.borrow().clone();
            for Made { at, pages } in all {
                if is_hit(at) {
                    // Perhaps it was freed as the dead one: then this is too late.
                    let _ = rig.give(at);
                    continue;
                }
                rig.check_stamps(at, pages, at as u64);
                rig.give(at).expect("free: a live area");
            }
        })
    };
    trial.race(&rig, vec![looker, maker]);
    for &at in &*answered.borrow() {
        let is_there = |made: &Made| match frees {
            true => made.at == at,
            false => (made.at..made.at + made.pages * PAGE_SIZE).contains(&at),
        };
        let made = made.borrow();
        assert!(made.iter().any(is_there), "dead: {at:#x} answered, where no area was made: {made:x?}");
    }
    rig.finish(true);
}
