//! How long interrupts are off at most, for what is largest, in steps of a page (L3).

use crate::common::{At, PAGE, REGION, Rig, START, State, addr, boot, quiet};
use vmalloc::area::Guard;
use vmalloc::gfp::Gfp;
use vmalloc::{Config, Placement, Policy, Req, Vmalloc};

/// The most steps of these calls.
const MOST: u64 = 128;

/// Prints the longest section of `rig` so far, which is no longer than `most` steps.
fn report(name: &str, rig: &Rig, most: u64) {
    let longest = rig.sim.busiest_section();
    println!("{name:<62} {:3} steps of {most}: {longest:?}", longest.steps());
    assert!(longest.steps() <= most, "{name}");
}

/// The same, on the CPU that is running and on another.
fn on_both(rig: &Rig, act: impl Fn()) {
    for cpu in [0, 1] {
        rig.sim.on(cpu, &act);
        (0..40).for_each(|n| _ = rig.sim.on(n % 2, || rig.tick()));
    }
    rig.purge();
}

const POLICIES: [Policy; 3] = [Policy::Unmap, Policy::Park, Policy::Keep];
const PLACEMENTS: [Placement; 2] = [Placement::Classes, Placement::Lowest];

#[test]
fn no_section_takes_more_than_its_steps_however_large_the_call() {
    for (placement, policy) in PLACEMENTS.into_iter().flat_map(|p| POLICIES.map(|q| (p, q))) {
        let config = || Config::region(START..START + (1 << 40)).placement(placement).policy(policy);
        let rig = boot(quiet(2).node(1 << 30), config());
        // 64 GiB; and 512 GiB by units.
        for pages in [1 << 24, 1 << 27].into_iter().take(1 + (placement == Placement::Classes) as usize) {
            on_both(&rig, || {
                let area = rig.reserve(Req::pages(pages)).unwrap();
                rig.sim.on(1, || rig.give(area)).unwrap();
            });
            report(&format!("{placement:?} {policy:?}: a reservation of {pages} pages"), &rig, MOST);
        }
        // A batch of small areas, and of larger ones, from both CPUs.
        let rig = boot(quiet(2).node(256 << 20), config());
        for pages in [1, 8, 30, 128] {
            let areas: Vec<_> = (0..8192 / pages).map(|_| rig.alloc(Req::pages(pages)).unwrap()).collect();
            for (n, area) in areas.into_iter().enumerate() {
                rig.sim.on((n / 64 % 2) as u32, || rig.give(area)).unwrap();
            }
            (0..400).for_each(|n| _ = rig.sim.on(n % 2, || rig.tick()));
            report(&format!("{placement:?} {policy:?}: areas of {pages} pages"), &rig, MOST);
        }
        // Chunks and areas each of which is the last under its leaf table.
        let rig = boot(quiet(2).node(256 << 20), config());
        for (pages, many) in [(1, 300), (30, 60)] {
            let areas: Vec<_> = (0..many)
                .map(|_| {
                    let area = rig.alloc(Req::pages(pages).align(2 << 20)).unwrap();
                    let small: Vec<_> = (0..20).map(|_| rig.alloc(Req::pages(pages)).unwrap()).collect();
                    let gap = rig.reserve(Req::pages(512).align(2 << 20)).unwrap();
                    (area, small, gap)
                })
                .collect();
            for (area, small, _) in &areas {
                rig.give(*area).unwrap();
                small.iter().for_each(|&area| rig.give(area).unwrap());
            }
            rig.purge();
            report(&format!("{placement:?} {policy:?}: empty chunks and tables, {pages}"), &rig, MOST);
            areas.iter().for_each(|area| rig.give(area.2).unwrap());
            rig.purge();
            report(&format!("{placement:?} {policy:?}: reservations go back, {pages}"), &rig, MOST);
        }
    }
}

#[test]
fn a_reserve_of_many_frames_is_laid_in_a_few_at_a_time() {
    let sim = quiet(2).node(256 << 20).build();
    let vm = Vmalloc::new(sim.clone());
    // SAFETY: N1, N2: the machine is new, and nobody else knows the instance.
    unsafe { vm.init(Config::region(REGION).atomic_reserve(20_000)) }.expect("memory enough");
    let longest = sim.busiest_section();
    println!("init with a reserve of 20,000 frames: {} steps: {longest:?}", longest.steps());
    assert!(longest.steps() <= MOST);
    sim.unbounded(|| drop(vm));

    // What a shortage took of it comes back.
    let rig = boot(quiet(1), Config::region(REGION).atomic_reserve(2000));
    let mut areas: Vec<_> =
        std::iter::from_fn(|| rig.alloc(Req::pages(1).gfp(Gfp::KERNEL | Gfp::NOWARN)).ok()).collect();
    areas.extend(std::iter::from_fn(|| rig.alloc(Req::pages(100).gfp(Gfp::ATOMIC | Gfp::NOWARN)).ok()));
    let left = rig.stats().reserve_frames;
    assert!(left < 1900, "{left}");
    areas.iter().for_each(|&area| rig.give(area).unwrap());
    rig.purge();
    rig.work();
    assert_eq!(rig.stats().reserve_frames, 2000);
    report(&format!("a reserve of 2,000 of which {left} were left"), &rig, MOST);
}

/// Reserves what lies between: `holes` holes, each longer than 16 grains, in none of which a run of 16 grains lies
/// that begins at a multiple of 16.
fn with_holes(rig: &Rig, grain: usize, holes: usize) -> usize {
    let reserve = |grains: usize| rig.reserve(Req::pages(grains * grain).guard(Guard::None)).unwrap();
    let number = |at: At| addr(at).0 / PAGE / grain;
    let first = reserve(40);
    // The next one begins 8 grains after a multiple of 32.
    reserve(32 + (8 + 64 - (number(first) + 40) % 32) % 32);
    let areas: Vec<_> = (0..holes).map(|_| (reserve(20), reserve(12))).collect();
    assert!(areas.iter().all(|(hole, taken)| (number(*hole) % 32, number(*taken) % 32) == (8, 28)));
    areas.iter().for_each(|area| rig.give(area.0).unwrap());
    rig.purge();
    number(areas[holes - 1].1) + 12
}

#[test]
fn an_aligned_run_above_thousands_of_holes_that_are_not_aligned_is_looked_for_bit_by_bit() {
    for (placement, grain) in [(Placement::Lowest, 1), (Placement::Classes, 64)] {
        let rig = boot(quiet(2).node(64 << 20), Config::region(REGION).placement(placement));
        let above = with_holes(&rig, grain, 3000);
        let aligned = Req::pages(16 * grain).align(16 * grain * PAGE).guard(Guard::None);
        let area = rig.reserve(aligned).unwrap();
        report(&format!("{placement:?}: 3,000 holes"), &rig, MOST);
        println!("under one lock: {:?}", rig.sim.longest_hold());
        assert_eq!(addr(area).0 / PAGE / grain, above.next_multiple_of(16), "the lowest that fits");
    }
}

/// Reserves `bytes` as often as it takes, and refuses one step of it after the other, which changes
/// nothing. Returns how many refusals there were.
#[cfg(debug_assertions)]
fn refusals(placement: Placement, bytes: usize) -> usize {
    let rig = boot(quiet(2).node(64 << 20), Config::region(REGION).placement(placement));
    let all = || {
        let now = rig.settled();
        State { free: now.free + now.held, held: 0, ..now }
    };
    let (before, mut refused) = (all(), 0);
    for n in 1.. {
        let struck = rig.sim.faults().refused();
        rig.sim.faults().fail_from(n);
        let made = rig.reserve(Req::bytes(bytes + 5 * PAGE).gfp(Gfp::KERNEL | Gfp::NOWARN));
        rig.sim.faults().fail_at(0);
        refused += made.is_err() as usize;
        made.into_iter().for_each(|area| rig.give(area).unwrap());
        assert_eq!((all(), rig.check()), (before.clone(), Ok(())), "{placement:?}, refused at {n}");
        if rig.sim.faults().refused() == struck {
            break;
        }
    }
    refused
}

#[test]
#[cfg(debug_assertions)]
fn a_very_large_reservation_whose_later_pieces_cannot_be_entered_changes_nothing() {
    for (placement, piece) in [(Placement::Lowest, 4096 * PAGE), (Placement::Classes, 4096 * 64 * PAGE)] {
        let (one, many) = (refusals(placement, piece / 2), refusals(placement, 17 * piece));
        println!("{placement:?}: {one} refusals with one piece, {many} with eighteen");
        assert!(many >= one + 8, "the later pieces take memory of their own");
    }
}
