//! Shortages: what a call tries before it is refused, and who gets the rest.

use crate::common::{At, PAGE, REGION, Rig, START, addr, boot, busy, page_of, quiet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use vmalloc::error::Shortage;
use vmalloc::gfp::Gfp;
use vmalloc::machine::frames::Frames;
use vmalloc::machine::{Context, Level, Machine};
use vmalloc::units::{Node, Pfn};
use vmalloc::{AllocError, Config, Placement, Policy, Req};
use vmalloc_sim::Bank;

/// Allocates areas of `pages` pages until that is refused.
fn exhaust(rig: &Rig, req: &Req) -> (Vec<At>, AllocError) {
    let mut areas = Vec::new();
    loop {
        match rig.alloc(req.clone()) {
            Ok(area) => areas.push(area),
            Err(error) => return (areas, error),
        }
    }
}

/// The log lines that warn.
fn warnings(rig: &Rig) -> Vec<String> {
    rig.sim.take_log().into_iter().filter(|line| line.0 == Level::Warn).map(|line| line.1).collect()
}

#[test]
fn when_the_frames_run_out_all_are_in_use_and_a_free_helps_at_once() {
    for pages in [1, 10, 100, 700] {
        let rig = boot(busy(2), Config::region(REGION));
        let total = rig.sim.frames().total();
        let (mut areas, error) = exhaust(&rig, &Req::pages(pages));
        match error {
            AllocError::NoFrames { wanted, got, .. } => assert!(wanted == pages && got < Some(pages), "{error}"),
            AllocError::NoTables { wanted, got } => assert!(got < Some(wanted), "{error}"),
            other => panic!("{other}"),
        }
        let stats = rig.stats();
        let used = stats.pages + stats.table_frames + stats.bookkeeping_frames;
        assert!(used + pages + 64 > total, "{pages} pages: {used} of {total} frames are used: {stats:?}");
        // Freed anywhere, waiting for a flush, among another CPU's remote frees: all the
        // same to who may wait.
        for cpu in [0, 1] {
            let area = areas.pop().unwrap();
            rig.sim.on(cpu, || rig.give(area)).unwrap();
            areas.push(rig.alloc(Req::pages(pages)).expect("as many pages as were freed"));
        }
        assert_eq!(rig.check(), Ok(()));
    }
}

#[test]
fn when_the_addresses_run_out_the_widest_gap_is_told_and_a_free_helps_at_once() {
    for placement in [Placement::Classes, Placement::Lowest] {
        for pages in [1, 5, 60, 100] {
            let config = Config::region(START - PAGE..START + 1024 * PAGE).placement(placement);
            let rig = boot(busy(2), config);
            let (mut areas, error) = exhaust(&rig, &Req::pages(pages));
            let AllocError::NoAddresses { pages: wanted, widest } = error else { panic!("{error}") };
            assert_eq!(wanted, pages + 1, "with the guard");
            if placement == Placement::Lowest {
                assert_eq!((areas.len(), widest), (1024 / (pages + 1), 1024 % (pages + 1)));
            }
            assert!(areas.len() * pages * 3 >= 1024, "{} areas of {pages} pages", areas.len());
            for cpu in [0, 1] {
                let area = areas.pop().unwrap();
                rig.sim.on(cpu, || rig.give(area)).unwrap();
                areas.push(rig.alloc(Req::pages(pages)).expect("a hole was made"));
            }
            areas.drain(..).for_each(|area| rig.give(area).unwrap());
            assert_eq!(rig.settled().reserved, 0);
            assert!(rig.alloc(Req::pages(1000)).is_ok(), "all of it is one hole again");
        }
    }
}

#[test]
fn the_promised_reserve_serves_the_atomic_when_nothing_else_is_left() {
    let rig = boot(busy(1), Config::region(REGION).atomic_reserve(150));
    // Room for the areas, so that only frames are short.
    let slots: Vec<_> = (0..3).map(|_| rig.reserve(Req::pages(3)).unwrap()).collect();
    let (mut areas, _) = exhaust(&rig, &Req::pages(1).gfp(Gfp::KERNEL | Gfp::NOWARN));
    slots.into_iter().for_each(|slot| rig.give(slot).unwrap());
    assert_eq!(rig.stats().reserve_frames, 150, "others leave it alone");
    rig.purge();
    areas.extend(exhaust(&rig, &Req::pages(1).gfp(Gfp::KERNEL)).0);
    assert_eq!(rig.stats().reserve_frames, 150);
    for gfp in [Gfp::KERNEL, Gfp::NOWAIT] {
        assert!(rig.alloc(Req::pages(130).gfp(gfp)).is_err());
    }
    let atomic = rig.alloc(Req::pages(130).gfp(Gfp::ATOMIC)).expect("what was promised, more than a slice of it");
    rig.stamp(atomic, 130, 1);
    let left = rig.stats().reserve_frames;
    assert!(left < 20, "{left} are left");
    let refused = rig.alloc(Req::pages(30).gfp(Gfp::ATOMIC));
    assert!(matches!(refused, Err(AllocError::NoFrames { .. } | AllocError::NoTables { .. })), "{refused:?}");
    // Once there is memory again, the worker lays it in.
    areas.drain(..1000).for_each(|area| rig.give(area).unwrap());
    rig.purge();
    rig.work();
    assert_eq!(rig.stats().reserve_frames, 150);
    assert!(rig.alloc(Req::pages(30).gfp(Gfp::ATOMIC)).is_ok());
}

#[test]
fn an_atomic_frame_comes_from_the_reserve_too() {
    let rig = boot(busy(1), Config::region(REGION).atomic_reserve(3));
    let all: Vec<_> = std::iter::from_fn(|| rig.alloc_frame(Gfp::KERNEL, None).ok()).collect();
    let last: Vec<_> = std::iter::from_fn(|| rig.alloc_frame(Gfp::ATOMIC, None).ok()).collect();
    assert_eq!((last.len(), rig.stats().reserve_frames), (3, 0));
    rig.give_frames(&[all, last].concat());
}

#[test]
fn a_frame_is_found_wherever_one_waits() {
    // In the other CPU's magazine, among its remote frees, in a batch: all are looked for.
    let rig = boot(busy(2), Config::region(REGION));
    let area = rig.alloc(Req::pages(300)).unwrap();
    let mut all: Vec<_> = std::iter::from_fn(|| rig.alloc_frame(Gfp::KERNEL, None).ok()).collect();
    rig.sim.on(1, || rig.give(area)).unwrap();
    let more: Vec<_> = std::iter::from_fn(|| rig.alloc_frame(Gfp::KERNEL, None).ok()).collect();
    assert!(more.len() >= 300, "{} of 300", more.len());
    rig.sim.on(1, || rig.give_frames(&all.split_off(all.len() - 5)));
    let more: Vec<_> = [more, std::iter::from_fn(|| rig.alloc_frame(Gfp::KERNEL, None).ok()).collect()].concat();
    assert!(more.len() >= 305, "{} of 305", more.len());
    assert!(rig.stats().counts.failures >= 3, "a refusal is counted");
    assert!(!warnings(&rig).is_empty(), "and logged");
    rig.give_frames(&[all, more].concat());
}

#[test]
fn who_does_not_wait_is_told_that_waiting_would_help() {
    let rig = boot(quiet(2), Config::region(REGION));
    let big = rig.alloc(Req::pages(4000)).unwrap();
    let (_areas, _) = exhaust(&rig, &Req::pages(100));
    rig.give(big).unwrap();
    let waited = rig.alloc(Req::pages(2000).gfp(Gfp::NOWAIT));
    let waits = |context| AllocError::WouldWait(context, Shortage::Tables(13));
    assert_eq!(waited, Err(waits(Context::Task)), "CPU 1 has not flushed yet");
    rig.sim.set_context(Context::Softirq);
    let waited = rig.alloc(Req::pages(2000));
    assert_eq!(waited, Err(waits(Context::Softirq)), "it may wait, but not here");
    rig.sim.set_context(Context::Task);
    rig.sim.serve_kicks();
    assert!(rig.alloc(Req::pages(2000).gfp(Gfp::NOWAIT)).is_ok(), "now nobody needs to wait");
    assert!(rig.alloc(Req::pages(1000)).is_ok());
}

#[test]
fn memory_of_one_node_is_that_node_s_and_a_preference_is_only_that() {
    let rig = boot(busy(4).node(16 << 20).node(16 << 20), Config::region(REGION));
    let node_of = |area, pages| {
        let nodes = (0..pages).map(|page| rig.frame_at(page_of(area, page).0).expect("a live page"));
        nodes.map(|frame| rig.sim.frames().node_of(frame).0).collect::<Vec<_>>()
    };
    for cpu in 0..4 {
        rig.sim.set_cpu(cpu);
        for (req, expected) in
            [(Req::pages(70), cpu as u8 / 2), (Req::pages(70).node(Node(0)), 0), (Req::pages(70).node(Node(1)), 1)]
        {
            assert_eq!(node_of(rig.alloc(req).unwrap(), 70), [expected; 70], "on CPU {cpu}");
        }
    }
    rig.sim.set_cpu(0);
    let only = Req::pages(70).node(Node(1)).gfp(Gfp::KERNEL | Gfp::THISNODE | Gfp::NOWARN);
    let (areas, error) = exhaust(&rig, &only);
    assert!(areas.iter().all(|&area| node_of(area, 70) == [1; 70]));
    assert!(areas.len() > 30);
    assert!(matches!(error, AllocError::NoFrames { wanted: 70, node: Some(Node(1)), .. }), "{error}");
    // A preference takes what there is.
    let near = rig.alloc(Req::pages(200).node(Node(1))).expect("node 0 has memory");
    assert!(node_of(near, 200).contains(&0));
    rig.give(areas[0]).unwrap();
    let again = rig.alloc(only).expect("its own memory came back");
    assert_eq!(node_of(again, 70), [1; 70]);
}

#[test]
fn low_memory_is_below_its_border() {
    // 2 MiB below 16 MiB, 2 MiB below 4 GiB, 60 MiB above.
    let bank = |first, frames| Bank { first: Pfn(first), frames, node: Some(Node(0)) };
    let machine = busy(2).bank(bank(256, 512)).bank(bank(0x8_0000, 512)).bank(bank(0x12_0000, 15 << 10));
    let rig = boot(machine, Config::region(REGION));
    let any = rig.alloc(Req::pages(130)).unwrap();
    assert!((0..130).all(|page| rig.frame_at(page_of(any, page).0).unwrap().0 > 1 << 20), "high memory first");
    for (zone, border) in [(Gfp::DMA, 1 << 12), (Gfp::DMA32, 1 << 20)] {
        let low = rig.alloc(Req::pages(130).gfp(Gfp::KERNEL | zone)).expect("low memory is kept for such");
        (0..130).for_each(|page| assert!(rig.frame_at(page_of(low, page).0).unwrap().0 < border));
        let frame = rig.alloc_frame(Gfp::KERNEL | zone, None).expect("as for areas");
        assert!(frame.0 < border);
        rig.give_frames(&[frame]);
        rig.give(low).unwrap();
    }
    let (areas, error) = exhaust(&rig, &Req::pages(16).gfp(Gfp::KERNEL | Gfp::DMA));
    assert!(matches!(error, AllocError::NoFrames { .. }), "{error}");
    assert!(areas.len() >= 10);
}

#[test]
fn the_machine_s_last_resort_is_asked_and_what_it_frees_is_used() {
    let rig = boot(busy(1), Config::region(REGION));
    let cache = std::sync::Mutex::new(exhaust(&rig, &Req::pages(60)).0.into_iter().map(addr).collect::<Vec<_>>());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    rig.set_shortage(move |vm, short| {
        count.fetch_add(1, Relaxed);
        assert!(matches!(short, Shortage::Frames(1..=128) | Shortage::Tables(_)));
        let Some(victim) = cache.lock().unwrap().pop() else { return false };
        // SAFETY: V1: the cache's areas are nobody else's.
        unsafe { vm.free(crate::common::at(victim.0)) }.unwrap();
        vm.reclaim(64) >= 64
    });
    for gfp in [Gfp::NOWAIT | Gfp::NORETRY, Gfp::KERNEL | Gfp::NORETRY] {
        assert!(rig.alloc(Req::pages(70).gfp(gfp)).is_err());
        assert_eq!(asked.load(Relaxed), 0, "who does not retry does not ask");
    }
    assert!(rig.alloc(Req::pages(150)).is_ok());
    assert!((1..=3).contains(&asked.load(Relaxed)), "asked {} times", asked.load(Relaxed));
    // What never helps is not asked for ever.
    asked.store(0, Relaxed);
    let count = Arc::clone(&asked);
    rig.set_shortage(move |_, _| count.fetch_add(1, Relaxed) < usize::MAX);
    assert!(rig.alloc(Req::pages(16_000)).is_err());
    assert!((1..100).contains(&asked.load(Relaxed)));
}

#[test]
fn a_refusal_warns_once_in_ten_seconds_and_never_with_nowarn() {
    let rig = boot(quiet(1), Config::region(REGION));
    let fail = |gfp| assert!(rig.alloc(Req::bytes(usize::MAX).gfp(gfp)).is_err());
    fail(Gfp::KERNEL | Gfp::NOWARN);
    assert_eq!(warnings(&rig), [""; 0]);
    (0..3).for_each(|_| fail(Gfp::KERNEL));
    let lines = warnings(&rig);
    assert_eq!(lines.len(), 1);
    assert!(lines[0].starts_with("vmalloc: allocation failure: 18446744073709551615 bytes, mode:"), "{lines:?}");
    rig.sim.advance(9_000_000_000);
    fail(Gfp::KERNEL);
    assert_eq!(warnings(&rig), [""; 0]);
    rig.sim.advance(2_000_000_000);
    fail(Gfp::KERNEL);
    assert_eq!(warnings(&rig).len(), 1);
    assert_eq!(rig.stats().counts.failures, 6, "all of them count");
}

#[test]
fn reclaim_gives_back_as_many_frames_as_it_says_and_at_least_those_asked_for() {
    for wanted in [1, 100, 2000, usize::MAX] {
        let rig = boot(busy(2), Config::region(REGION));
        let areas: Vec<_> = (0..30).map(|_| rig.alloc(Req::pages(100)).unwrap()).collect();
        areas.iter().for_each(|&area| rig.give(area).unwrap());
        let free = rig.sim.frames().free_now();
        let given = rig.reclaim(wanted);
        assert_eq!(given, rig.sim.frames().free_now() - free);
        assert!(given >= wanted.min(2900), "{given} of {wanted}");
        assert_eq!(rig.check(), Ok(()));
    }
}

#[test]
fn what_waits_for_flushes_is_bounded_the_next_who_may_wait_waits() {
    let rig = boot(quiet(2), Config::region(REGION).batch_pages(64).waiting_pages(300));
    let areas: Vec<_> = (0..20).map(|_| rig.alloc(Req::pages(60)).unwrap()).collect();
    // CPU 1 is slow: kicks are served only when somebody waits.
    areas.iter().for_each(|&area| rig.give(area).unwrap());
    assert_eq!(rig.stats().waiting_pages, 1200, "a free never waits");
    rig.alloc(Req::pages(1).gfp(Gfp::NOWAIT)).expect("memory enough");
    assert_eq!(rig.stats().waiting_pages, 1200, "who must not wait does not");
    rig.alloc(Req::pages(1)).expect("memory enough");
    assert!(rig.stats().waiting_pages <= 300, "{} wait", rig.stats().waiting_pages);
}

#[test]
fn a_strict_instance_under_pressure_is_served_too() {
    let rig = boot(busy(2), Config::region(REGION).policy(Policy::Strict));
    let (mut areas, _) = exhaust(&rig, &Req::pages(300));
    for _ in 0..5 {
        rig.give(areas.pop().unwrap()).unwrap();
        areas.push(rig.alloc(Req::pages(300)).expect("as many as were freed"));
    }
}

#[test]
fn a_reclaim_gives_back_all_that_magazines_and_depots_hold_however_much_that_is() {
    // Both stacks of the CPU have some, and each goes back by 64 frames at a time.
    for back in 130..260 {
        let rig = boot(quiet(1), Config::region(REGION));
        let (area, held) = (rig.alloc(Req::pages(64)).unwrap(), rig.frames(260));
        rig.give_frames(&held[..back]);
        rig.give(area).unwrap();
        rig.reclaim(usize::MAX);
        assert_eq!(rig.stats().pooled_frames, 0, "{back} frames were given up");
        rig.give_frames(&held[back..]);
    }
}

#[test]
fn a_request_for_more_addresses_than_there_are_leaves_no_frames_with_its_cpu() {
    let rig = boot(quiet(1), Config::region(REGION));
    rig.sim.unbounded(|| {
        let half = rig.reserve(Req::pages(1 << 26)).unwrap();
        let refused = rig.reserve(Req::pages(1 << 26));
        assert!(matches!(refused, Err(AllocError::NoAddresses { .. })), "{refused:?}");
        assert!(rig.stats().pooled_frames <= 16, "{} were laid in", rig.stats().pooled_frames);
        rig.give(half).unwrap();
        rig.purge();
    });
}

#[test]
fn the_reserve_serves_what_is_missing_of_an_area_and_no_more() {
    let rig = boot(quiet(1), Config::region(REGION).atomic_reserve(90));
    let cached = rig.alloc(Req::pages(100)).unwrap();
    rig.give(cached).unwrap();
    // Addresses and tables are there; now only frames run out.
    let slot = rig.reserve(Req::pages(100)).unwrap();
    let mut areas = Vec::new();
    while let Ok(a) = rig.alloc(Req::pages(1).gfp(Gfp::KERNEL | Gfp::NOWARN)) {
        areas.push(a);
    }
    rig.give(slot).unwrap();
    rig.purge();
    while let Ok(a) = rig.alloc(Req::pages(1).gfp(Gfp::KERNEL | Gfp::NOWARN)) {
        areas.push(a);
    }
    areas.drain(..40).for_each(|a| rig.give(a).unwrap());
    rig.purge();
    let area = rig.alloc(Req::pages(100).gfp(Gfp::ATOMIC));
    rig.sim.take_log();
    if let Ok(a) = area {
        rig.give(a).unwrap()
    }
    areas.into_iter().for_each(|a| rig.give(a).unwrap());
    assert!(area.is_ok(), "40 free and 90 in reserve");
}
