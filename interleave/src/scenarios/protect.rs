//! Protections that change while other CPUs use the pages: when the call returns, no CPU uses the
//! old one any more (G2). The machine judges that when it is told that the change is over.

use super::Scenario;
use crate::rig::{Rig, Shape, Trial, act};
use vmalloc::internals::interleave::Rule;
use vmalloc::machine::format::Prot;
use vmalloc::units::VirtAddr;
use vmalloc_sim::Why;

pub const ALL: &[Scenario] = &[
    Scenario {
        name: "pages become read-only while another CPU stores to them",
        cpus: 2,
        run: |trial| stores::<true>(trial, 4),
        notices: &[Rule::ProtectUnflushed, Rule::SkipFlush],
    },
    Scenario {
        name: "pages of several slices become read-only while another CPU stores to them",
        cpus: 2,
        run: |trial| stores::<true>(trial, 150),
        notices: &[Rule::ProtectUnflushed],
    },
    Scenario {
        name: "an area becomes read-only and is freed while another CPU purges",
        cpus: 2,
        run: freed,
        notices: &[],
    },
];

/// Whether the CPU can store to a page: it does, or the page is read-only.
fn stored<const ALIASES: bool>(rig: &Rig<ALIASES>, cpu: u32, page: VirtAddr) -> bool {
    match rig.sim.store(cpu, page, 7) {
        Ok(()) => true,
        Err(fault) if fault.why == Why::ReadOnly => false,
        Err(fault) => panic!("content: a live page on CPU {cpu}: {fault}"),
    }
}

/// CPU 0 takes the right to store away, while CPU 1 stores to the first page and the last one.
pub fn stores<const ALIASES: bool>(trial: &mut Trial, pages: usize) {
    let rig = Rig::<ALIASES>::on(Shape::new(2, trial.seed));
    let at = rig.make(vmalloc::Req::pages(pages)).expect("an area");
    let ends = [0, pages - 1].map(|n| VirtAddr(at).add_pages(n));
    ends.iter().for_each(|&page| assert!(stored(&rig, 1, page)));
    let pauses = trial.random.below(4);
    let forbids = act(move |rig: &Rig<ALIASES>| {
        rig.pause_for(pauses);
        rig.forbid(at, pages, Prot::RO).expect("a live area");
        ends.iter().for_each(|&page| assert!(!stored(rig, 0, page) && !stored(rig, 1, page)));
    });
    let stores = act(move |rig: &Rig<ALIASES>| {
        for _ in 0..4 {
            ends.iter().for_each(|&page| _ = stored(rig, 1, page));
            rig.pause();
        }
    });
    trial.race(&rig, vec![forbids, stores]);
    ends.iter().for_each(|&page| assert!(!stored(&rig, 1, page)));
    rig.give(at).expect("free: it lives");
    rig.finish(false);
}

/// CPU 0 frees what it has protected; CPU 1 purges, and gets areas that can be written.
fn freed(trial: &mut Trial) {
    let rig = trial.quiet(2);
    let at = rig.sim.on(1, || rig.make(vmalloc::Req::pages(3))).expect("an area");
    rig.stamp(at, 3, 5);
    let frees = act(move |rig: &Rig| {
        rig.forbid(at, 2, Prot::RX).expect("a live area");
        rig.check_stamps(at, 3, 5);
        rig.give(at).expect("free: it lives");
    });
    let purges = act(|rig: &Rig| {
        for _ in 0..2 {
            rig.purge();
            let other = rig.make(vmalloc::Req::pages(3)).expect("memory");
            rig.stamp(other, 3, 9);
            rig.give(other).expect("free: it lives");
        }
    });
    trial.race(&rig, vec![frees, purges]);
    rig.finish(false);
}
