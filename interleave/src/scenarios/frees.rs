//! Frees of one area by several CPUs, and of areas of several chunks (R1, R4).

use super::Scenario;
use crate::engine::Nmis;
use crate::rig::{Rig, Shape, Trial, act};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use vmalloc::internals::interleave::Rule;
use vmalloc::machine::format::{Entry, Format, MemType, Prot};
use vmalloc::table::X86_64;
use vmalloc::units::{Pfn, VirtAddr};
use vmalloc::{AllocError, Policy, Req};
use vmalloc_sim::Rates;

pub const ALL: &[Scenario] = &[
    Scenario {
        name: "an area is freed twice at the same moment",
        cpus: 2,
        run: twice::<true>,
        notices: &[Rule::ClaimDecidedTwice],
    },
    Scenario {
        name: "an area is freed twice, and its slot used again",
        cpus: 2,
        run: twice_and_reused,
        notices: &[Rule::GiveClaimed],
    },
    Scenario {
        name: "an area is freed twice, and is another one by then",
        cpus: 2,
        run: twice_and_cached::<true>,
        notices: &[Rule::LateClaimKept],
    },
    Scenario {
        name: "an area is freed by another CPU, then by a third",
        cpus: 3,
        run: one_after_the_other::<true>,
        notices: &[Rule::UnclaimEarly, Rule::DropClaim],
    },
    Scenario {
        name: "two CPUs free areas of two chunks of a third",
        cpus: 3,
        run: two_chunks::<true>,
        notices: &[Rule::LinkAfterPosted],
    },
    Scenario {
        name: "a mapping for a short time is ended twice, and its slot used again",
        cpus: 2,
        run: ended_twice,
        notices: &[Rule::GiveClaimed],
    },
    Scenario {
        name: "an area is freed again while what was begun there is undone",
        cpus: 2,
        run: undone_meanwhile,
        notices: &[Rule::HoleForgotten],
    },
];

/// Two CPUs free one area: one at least is told that it did.
pub fn twice<const ALIASES: bool>(trial: &mut Trial) {
    let rig = Rig::<ALIASES>::on(Shape::new(2, trial.seed));
    let area = rig.make(Req::pages(1)).expect("an area");
    let freed = Rc::new(Cell::new(0));
    let frees = || {
        let freed = Rc::clone(&freed);
        act(move |rig: &Rig<ALIASES>| {
            if rig.give(area).is_ok() {
                freed.set(freed.get() + 1);
            }
        })
    };
    let scripts = vec![frees(), frees()];
    trial.race(&rig, scripts);
    assert!(freed.get() >= 1, "free: nobody has freed {area:#x}");
    rig.finish(true);
}

/// Pages of an area that is unmapped in two sections.
const LARGE: usize = 140;

/// The owner frees an area of two slices, which it keeps in one section, and collects
/// it; CPU 1, for which there is no room to keep it, unmaps it slice by slice, and is
/// interrupted in between until the owner has made something else.
fn twice_and_reused(trial: &mut Trial) {
    let rates = Rates { interrupt: 1, ..Rates::NEVER };
    let rig = Rig::new(Shape { policy: Policy::Keep, cached: Some(LARGE + 30), rates, ..Shape::new(2, trial.seed) });
    let make = |pages| rig.make(Req::pages(pages)).expect("an area");
    let (cached, area) = (make(100), make(LARGE));
    rig.give(cached).expect("it lives");
    let frames: Vec<_> = (0..LARGE).map(|_| rig.frame().expect("a frame")).collect();
    let made = Arc::new(AtomicBool::new(false));
    interrupt_between_slices(&rig, area, &made);
    let tells = Arc::clone(&made);
    let owner = act(move |rig: &Rig| {
        let _ = rig.give(area);
        for _ in 0..6 {
            rig.tick();
            rig.pause();
        }
        // Of another kind, so that the other free cannot be of this one.
        let new = rig.map(&frames).expect("an area");
        rig.stamp(new, LARGE, 7);
        tells.store(true, Relaxed);
        rig.pause_for(3);
        rig.check_stamps(new, LARGE, 7);
        rig.unmap(new).expect("free: a live mapping");
        frames.into_iter().for_each(|frame| rig.give_frame(frame));
    });
    let other = act(move |rig: &Rig| _ = rig.give(area));
    trial.race(&rig, vec![owner, other]);
    rig.set_interrupt(|_, _| {});
    rig.set_policy(Policy::Unmap);
    rig.finish(true);
}

/// CPU 1 is interrupted where it has claimed the area, until something is made.
fn interrupt_between_slices(rig: &Rig, area: usize, made: &Arc<AtomicBool>) {
    let (sim, made) = (rig.sim.clone(), Arc::clone(made));
    rig.set_interrupt(move |vm, cpu| {
        if cpu == 1 && vm.find(area).is_none() {
            wait_for(&sim, 1, &made);
        }
    });
}

/// CPU 0 frees an area that its owner frees too, and makes again of the same slot: a
/// free that is refused leaves no claim on the area that is there by then.
pub fn twice_and_cached<const ALIASES: bool>(trial: &mut Trial) {
    let rig = Rig::<ALIASES>::on(Shape { policy: Policy::Keep, ..Shape::new(2, trial.seed) });
    let area = rig.sim.on(1, || rig.make(Req::pages(1))).expect("an area");
    let (freed, last) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(area)));
    let frees = {
        let freed = Rc::clone(&freed);
        move |rig: &Rig<ALIASES>| {
            let done = rig.give(area).is_ok();
            freed.set(freed.get() + done as u32);
        }
    };
    let (late, tells) = (act(frees.clone()), Rc::clone(&last));
    let owner = act(move |rig: &Rig<ALIASES>| {
        frees(rig);
        tells.set(rig.make(Req::pages(1)).expect("an area"));
    });
    trial.race(&rig, vec![late, owner]);
    // Two may have freed the first one, or one of them the second.
    let ended = rig.give(last.get());
    assert!(ended.is_ok() || freed.get() == 2, "free: the area that is there now: {ended:?}");
    rig.finish(true);
}

/// CPU 1 has freed it; then CPU 2 has to be refused, whatever the owner does.
pub fn one_after_the_other<const ALIASES: bool>(trial: &mut Trial) {
    let rig = Rig::<ALIASES>::on(Shape::new(3, trial.seed));
    let area = rig.make(Req::pages(1)).expect("an area");
    let freed = Rc::new(Cell::new(false));
    let tells = Rc::clone(&freed);
    let owner = act(|rig: &Rig<ALIASES>| {
        rig.tick();
        rig.pause();
        rig.tick();
    });
    let second = act(move |rig: &Rig<ALIASES>| {
        rig.give(area).expect("free: a live area");
        tells.set(true);
    });
    let third = act(move |rig: &Rig<ALIASES>| {
        while !freed.get() {
            rig.pause();
        }
        let again = rig.give(area);
        assert!(again.is_err(), "free: {area:#x} was freed before: {again:?}");
    });
    trial.race(&rig, vec![owner, second, third]);
    rig.finish(false);
}

/// An interrupted CPU answers kicks until something is made, or it is not to be.
fn wait_for(sim: &crate::engine::Machine, cpu: u32, made: &AtomicBool) {
    for _ in 0..200 {
        if made.load(Relaxed) {
            return;
        }
        sim.serve_kick_of(cpu);
        crate::engine::wait();
    }
}

/// CPUs 1 and 2 free what is CPU 0's, which drains its mail meanwhile.
pub fn two_chunks<const ALIASES: bool>(trial: &mut Trial) {
    let rig = Rig::<ALIASES>::on(Shape::new(3, trial.seed));
    let make = |pages| rig.make(Req::pages(pages)).expect("an area");
    let (small, large) = ([make(1), make(1), make(1)], [make(2), make(2)]);
    let owner = act(|rig: &Rig<ALIASES>| {
        for _ in 0..3 {
            rig.tick();
            rig.pause();
        }
    });
    let frees = |areas: Vec<usize>| {
        act(move |rig: &Rig<ALIASES>| {
            for area in areas {
                rig.give(area).expect("free: a live area");
            }
        })
    };
    trial.race(&rig, vec![owner, frees(small.to_vec()), frees(large.to_vec())]);
    rig.finish(false);
}

/// CPU 0 makes free again what waits, which CPU 1 answers in NMIs, wherever that is.
fn collect(rig: &Rig) {
    for _ in 0..3 {
        rig.tick();
        crate::engine::at_once(|| rig.sim.on(1, || rig.on_kick()));
    }
    rig.work();
}

/// CPUs 0 and 1 end a mapping; then an area of CPU 0's is there, whose frames come
/// back.
fn ended_twice(trial: &mut Trial) {
    let rig = trial.quiet(2);
    let frame = rig.frame().expect("a frame");
    let mapping = rig.map_short(&[frame]).expect("a mapping");
    let owner = act(move |rig: &Rig| {
        let _ = rig.unmap_short(mapping, 1);
        collect(rig);
        let area = rig.make(Req::pages(1)).expect("an area");
        // It may be freed as the dead one.
        let _ = rig.give(area);
        collect(rig);
        rig.give_frame(frame);
    });
    let other = act(move |rig: &Rig| _ = rig.unmap_short(mapping, 1));
    trial.race(&rig, vec![owner, other]);
    rig.finish(true);
}

/// CPUs 0 and 1 free an area; then CPU 0 begins another one there, and is refused,
/// since somebody else maps its second page. NMIs stop CPU 1 before that, and each of
/// the two in the middle of it.
fn undone_meanwhile(trial: &mut Trial) {
    let rig = trial.quiet(2);
    let area = rig.make(Req::pages(2)).expect("an area");
    let second = VirtAddr(area).add_pages(1);
    let stage = Arc::new(AtomicUsize::new(0));
    let (sim, now, random) = (rig.sim.clone(), Arc::clone(&stage), Mutex::new(trial.random.clone()));
    rig.set_nmi(0, move |_| {
        let (cpu, at) = (sim.cpu() as usize, now.load(Relaxed));
        // Who stops at which stage, for how long, and one time in how many.
        let (until, one_in) = match (cpu, at) {
            (1, 0) => (3, 8),
            (0, 2) => (4, 12),
            (1, 3) => (5, 2),
            _ => return,
        };
        if random.lock().expect("no panic under it").one_in(one_in) {
            now.store(at + 1, Relaxed);
            (0..200).take_while(|_| now.load(Relaxed) < until).for_each(|_| crate::engine::wait());
        }
    });
    trial.nmis = Nmis::one_in(2, trial.random.clone());
    let tells = Arc::clone(&stage);
    let owner = act(move |rig: &Rig| {
        let _ = rig.give(area);
        crate::engine::at_once(|| collect(rig));
        if rig.sim.peek(second) != (1, Entry::Absent) {
            return;
        }
        let theirs = X86_64::leaf(Pfn(7), Prot::RW, MemType::WriteBack, 1);
        crate::engine::at_once(|| rig.sim.poke(second, 1, theirs));
        tells.fetch_max(2, Relaxed);
        assert_eq!(rig.make(Req::pages(2)), Err(AllocError::InUse(second)));
        tells.fetch_max(5, Relaxed);
        crate::engine::at_once(|| rig.sim.poke(second, 1, X86_64::ABSENT));
    });
    let other = act(move |rig: &Rig| _ = rig.give(area));
    trial.race(&rig, vec![owner, other]);
    rig.finish(true);
}
