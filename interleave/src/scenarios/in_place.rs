//! The same races on a machine without aliases: its pages are their own frames, and an area's pages
//! are free when they are reclaimed, as frames are elsewhere.
//!
//! No CPU may reach a page when it is free (G3). A page that is mapped after a flush is clear, and
//! only a cached slot has what was stored in it.

use super::{Scenario, finders, frees, nmis, protect, rounds};
use crate::mix;
use crate::rig::{Rig, Shape, Trial, WINDOW_LIMIT, act};
use vmalloc::internals::interleave::Rule;
use vmalloc::units::{PAGE_SIZE, VirtAddr};
use vmalloc::{AllocError, Policy, Req};

pub const ALL: &[Scenario] = &[
    Scenario {
        name: "in place: an area is freed twice at the same moment",
        cpus: 2,
        run: frees::twice::<false>,
        notices: &[Rule::ClaimDecidedTwice],
    },
    Scenario {
        name: "in place: an area is freed twice, and is another one by then",
        cpus: 2,
        run: frees::twice_and_cached::<false>,
        notices: &[Rule::LateClaimKept],
    },
    Scenario {
        name: "in place: an area is freed by another CPU, then by a third",
        cpus: 3,
        run: frees::one_after_the_other::<false>,
        notices: &[Rule::UnclaimEarly, Rule::DropClaim],
    },
    Scenario {
        name: "in place: two CPUs free areas of two chunks of a third",
        cpus: 3,
        run: frees::two_chunks::<false>,
        notices: &[Rule::LinkAfterPosted],
    },
    Scenario {
        name: "in place: an area that an NMI frees is freed again",
        cpus: 2,
        run: nmis::freed_again::<false>,
        notices: &[Rule::UnclaimDeferred],
    },
    Scenario {
        name: "in place: a CPU answers kicks while a load is closed",
        cpus: 2,
        run: finders::kicks::<false>,
        notices: &[Rule::EarlyReclaim, Rule::SkipFlush],
    },
    Scenario {
        name: "in place: every CPU is held while others call",
        cpus: 3,
        run: finders::quiesces::<false>,
        notices: &[Rule::QuiesceAllButOne],
    },
    Scenario {
        name: "in place: three CPUs free into batches that share a flush",
        cpus: 3,
        run: rounds::shared::<false>,
        notices: &[Rule::SealOld, Rule::EarlyReclaim],
    },
    Scenario {
        name: "in place: pages become read-only while another CPU stores to them",
        cpus: 2,
        run: |trial| protect::stores::<false>(trial, 4),
        notices: &[Rule::ProtectUnflushed, Rule::SkipFlush],
    },
    Scenario {
        name: "in place: an area is freed under Strict while another CPU uses it",
        cpus: 2,
        run: strict,
        notices: &[Rule::SkipFlush],
    },
    Scenario {
        name: "in place: parked slots are taken again while another CPU purges",
        cpus: 2,
        run: |trial| cached(trial, Policy::Park),
        notices: &[Rule::AnySize],
    },
    Scenario {
        name: "in place: kept slots are taken again while another CPU purges",
        cpus: 2,
        run: |trial| cached(trial, Policy::Keep),
        notices: &[Rule::AnySize, Rule::PublishUncleared],
    },
    Scenario {
        name: "in place: the last pages are shared by two CPUs",
        cpus: 2,
        run: last_pages,
        notices: &[Rule::EarlyReclaim],
    },
    Scenario {
        name: "in place: mix of 2 CPUs",
        cpus: 2,
        run: |trial| mix::mix::<false>(trial, 2),
        notices: &[Rule::EarlyReclaim, Rule::SkipFlush, Rule::SkipIdle, Rule::DropClaim, Rule::VisitAlone],
    },
];

/// The pages of an area that is gone when a free under Strict returns.
const PAGES: usize = 3;
/// Sizes of one class.
const SIZES: [usize; 2] = [17, 18];
/// What an area says that is freed before it is another one.
const STAMP: u64 = 7;

/// CPU 0 frees what CPU 1 reads all the time: when the free returns, no CPU reaches it.
fn strict(trial: &mut Trial) {
    let rig = Rig::<false>::on(Shape { policy: Policy::Strict, ..Shape::new(2, trial.seed) });
    let areas = [0, 1].map(|_| rig.make(Req::pages(PAGES)).expect("an area"));
    areas.iter().for_each(|&at| rig.stamp(at, PAGES, 5));
    let pauses = trial.random.below(6);
    let frees = act(move |rig: &Rig<false>| {
        for at in areas {
            rig.pause_for(pauses);
            rig.give(at).expect("free: a live area");
            let pages = (0..PAGES).map(|n| VirtAddr(at).add_pages(n));
            pages.for_each(|page| (0..2).for_each(|cpu| rig.sim.assert_faults(cpu, page)));
        }
    });
    let reads = act(move |rig: &Rig<false>| {
        for _ in 0..6 {
            // A fault is right once it was freed; what is stale is judged.
            areas.iter().for_each(|&at| _ = rig.sim.load(1, VirtAddr(at)));
            rig.pause();
        }
    });
    trial.race(&rig, vec![frees, reads]);
    rig.finish(false);
}

/// CPU 0 makes areas of several sizes in the slots that it has cached, and asks for clear pages; CPU 1
/// finds them, and evicts what is cached.
fn cached(trial: &mut Trial, policy: Policy) {
    let rig = Rig::<false>::on(Shape { policy, ..Shape::new(2, trial.seed) });
    let [some, more] = SIZES;
    let place = rig.make(Req::pages(more)).expect("an area");
    rig.stamp(place, more, STAMP);
    rig.give(place).expect("it lives");
    let takes = act(move |rig: &Rig<false>| {
        for pages in [more, some, more] {
            let at = rig.make(Req::pages(pages).zeroed()).expect("memory");
            for n in 0..pages {
                let read = rig.sim.load(0, VirtAddr(at).add_pages(n));
                assert_eq!(read, Ok(0), "content: page {n} of an area that was asked for cleared");
            }
            rig.sim.assert_faults(0, VirtAddr(at + pages * PAGE_SIZE));
            rig.stamp(at, pages, pages as u64);
            rig.pause();
            rig.check_stamps(at, pages, pages as u64);
            rig.give(at).expect("free: a live area");
        }
    });
    let purges = act(move |rig: &Rig<false>| {
        for round in 0..4 {
            if let Some(area) = rig.find(place) {
                // A fault, or what CPU 0 has stored, is right too.
                let read = rig.sim.load(1, area.start);
                assert_ne!(read, Ok(STAMP), "content: an area that was not cleared");
            }
            if round % 2 == 1 {
                rig.purge();
            }
            rig.pause();
        }
    });
    trial.race(&rig, vec![takes, purges]);
    rig.finish(false);
}

/// Two CPUs make areas that together may be more than there are pages for: each has its pages for
/// itself, and who lacks some is told how many there are.
fn last_pages(trial: &mut Trial) {
    let rig = Rig::<false>::on(Shape::new(2, trial.seed));
    let most = rig.make(Req::pages(WINDOW_LIMIT - 24)).expect("as many as there may be");
    let script = |cpu: u64| {
        act(move |rig: &Rig<false>| {
            for round in 0..3 {
                match rig.make(Req::pages(14)) {
                    Ok(at) => {
                        rig.stamp(at, 14, cpu << 32 | round);
                        rig.pause();
                        rig.check_stamps(at, 14, cpu << 32 | round);
                        rig.give(at).expect("free: a live area");
                    }
                    Err(AllocError::NoFrames { wanted: 14, got: Some(got), .. }) => assert!(got < 14),
                    Err(why) => panic!("refusal: {why}"),
                }
            }
        })
    };
    let scripts = vec![script(0), script(1)];
    trial.race(&rig, scripts);
    rig.give(most).expect("free: it lives");
    let all = (0..2).map(|_| rig.make(Req::pages(WINDOW_LIMIT / 2)).expect("leak: all pages were given back"));
    all.collect::<Vec<_>>().into_iter().for_each(|at| rig.give(at).expect("free: it lives"));
    rig.finish(false);
}
