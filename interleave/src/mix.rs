//! Everything that CPUs may do, in any order, by chance.
//!
//! What is known of an area that lives is told to all CPUs through [`World`]: whoever
//! ends an area takes it out first. A *dead* address was freed before; whoever frees
//! it again says so first ([`World::contested`]), and whoever is given an area there
//! meanwhile does not use it, for nobody can tell whose it is.

mod acts;
mod world;

use crate::engine::Nmis;
use crate::rig::{Act, Rig, Shape, Trial, act, pointer};
use crate::scenarios::Scenario;
use acts::Hand;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use vmalloc::gfp::Gfp;
use vmalloc::internals::interleave::Rule;
use vmalloc::{Policy, Req};
use vmalloc_sim::Rates;
use world::World;

pub const ALL: &[Scenario] = &[
    Scenario { name: "mix of 2 CPUs", cpus: 2, run: |trial| mix::<true>(trial, 2), notices: UNDER_ANY },
    Scenario { name: "mix of 3 CPUs", cpus: 3, run: |trial| mix::<true>(trial, 3), notices: &[Rule::IgnoreAliases] },
    Scenario { name: "mix of 4 CPUs", cpus: 4, run: |trial| mix::<true>(trial, 4), notices: &[Rule::IgnoreCounts] },
];

const UNDER_ANY: &[Rule] = &[
    Rule::EarlyReclaim,
    Rule::SkipFlush,
    Rule::SkipIdle,
    Rule::DropClaim,
    Rule::IgnoreCounts,
    Rule::CacheShared,
    Rule::VisitAlone,
];

pub fn mix<const ALIASES: bool>(trial: &mut Trial, cpus: u32) {
    let random = &mut trial.random.clone();
    let rates = Rates { speculate: 8, interrupt: random.pick(&[0, 16, 64]), evict: 16, ..Rates::NEVER };
    let shape = Shape {
        rates,
        frames: random.pick(&[512, 1024, 1024]),
        policy: random.pick(&[Policy::Unmap, Policy::Unmap, Policy::Park, Policy::Keep, Policy::Strict]),
        load: random.pick(&[None, Some(8), Some(64)]),
        ..Shape::new(cpus, trial.seed)
    };
    let rig = Rig::<ALIASES>::on(shape);
    let refused = interrupts(&rig);
    let world = Rc::new(RefCell::new(World::default()));
    let left = nmis(&rig);
    trial.nmis = Nmis::one_in(random.pick(&[0, 40, 400]), random.clone());
    let acts = random.pick(&[8, 20, 30]);
    let script = |cpu: u32| -> Act<ALIASES> {
        let mut hand = Hand::<ALIASES>::new(cpu, Rc::clone(&world), Arc::clone(&left), trial.seed);
        act(move |rig: &Rig<ALIASES>| (0..acts).for_each(|_| hand.act(rig)))
    };
    let scripts = (0..cpus).map(script).collect();
    trial.race(&rig, scripts);
    rig.sim.faults().fail_at(0);
    rig.set_interrupt(|_, _| {});
    rig.set_policy(Policy::Unmap);
    Hand::<ALIASES>::new(0, world, Arc::clone(&left), trial.seed).end_all(&rig);
    let refused = core::mem::take(&mut *refused.lock().expect("no panic under it"));
    // Perhaps somebody has freed it as the dead one that had been there.
    refused.into_iter().for_each(|at| _ = rig.give(at));
    rig.finish(true);
}

/// Interrupts make areas and free them. Returns those whose frees were refused: while
/// somebody freed what had been there before.
fn interrupts<const ALIASES: bool>(rig: &Rig<ALIASES>) -> Arc<Mutex<Vec<usize>>> {
    let refused = Arc::<Mutex<Vec<usize>>>::default();
    let told = Arc::clone(&refused);
    rig.set_interrupt(move |vm, _| {
        let Ok(at) = vm.alloc(Req::pages(1).gfp(Gfp::ATOMIC)) else { return };
        // SAFETY: V1: nobody has used it.
        if unsafe { vm.free(at) }.is_err() {
            told.lock().expect("no panic under it").push(at.addr().get());
        }
    });
    refused
}

/// An area that is left to NMIs; `certain` where nobody else can be freeing it.
#[derive(Clone, Copy, Debug)]
pub struct Left {
    pub at: usize,
    pub certain: bool,
    /// An NMI is freeing it.
    taken: bool,
    /// It is no area: its dead address is being freed.
    dead: bool,
}

impl Left {
    /// A free of this dead address is under way.
    pub fn dead(at: usize) -> Left {
        Left { at, certain: false, taken: true, dead: true }
    }

    pub fn new(at: usize, certain: bool) -> Left {
        Left { at, certain, taken: false, dead: false }
    }

    /// The newest that no NMI has taken yet.
    fn take(all: &mut [Left]) -> Option<Left> {
        let newest = all.iter_mut().rfind(|area| !area.taken)?;
        newest.taken = true;
        Some(*newest)
    }
}

/// What is left to NMIs: areas to be freed. An NMI frees one, tries to make another, and
/// looks; it never waits.
fn nmis<const ALIASES: bool>(rig: &Rig<ALIASES>) -> Arc<Mutex<Vec<Left>>> {
    let left = Arc::<Mutex<Vec<Left>>>::default();
    let taken = Arc::clone(&left);
    rig.set_nmi(0, move |vm| {
        let area = Left::take(&mut taken.lock().expect("no panic under it"));
        if let Some(Left { at, certain, .. }) = area {
            // SAFETY: V1: it was left to NMIs.
            let freed = unsafe { vm.free(pointer(at)) };
            taken.lock().expect("no panic under it").retain(|area| area.dead || !(area.taken && area.at == at));
            assert!(freed.is_ok() || !certain, "free: an area that was left to NMIs: {freed:?}");
        }
        if let Ok(at) = vm.alloc(Req::pages(1).gfp(Gfp::ATOMIC)) {
            let (mut all, at) = (taken.lock().expect("no panic under it"), at.addr().get());
            // A free of the dead address that is under way may take it: then it is nobody's to
            // free before everything else has ended.
            let contested = all.iter().any(|left| left.dead && left.at == at);
            all.push(Left { taken: contested, ..Left::new(at, false) });
        }
        let _ = (vm.whatis(Rig::<ALIASES>::START), vm.tick());
    });
    left
}
