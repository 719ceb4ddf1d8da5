//! Bounds that are numbers: each is printed, and fails above its mark.

use crate::common::{At, REGION, Rig, boot, quiet};
use vmalloc::{Config, Policy, Req};

/// CPUs of a machine of 1 GiB that serve their kicks at once.
fn machine(cpus: u32) -> Rig {
    boot(quiet(cpus).node(1 << 30), Config::region(REGION))
}

/// Numbers without a pattern.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

/// 10,000 live areas of 1..=10 pages, which the CPUs replace in turn, each its own, until `pages`
/// pages were freed. Returns the flushes of all CPUs for a million pages.
fn flushes(cpus: usize, pages: usize) -> u64 {
    let rig = machine(cpus as u32);
    let random = &mut Random(1);
    let mut alloc = |cpu: usize| {
        let pages = 1 + random.below(10);
        (rig.sim.on(cpu as u32, || rig.alloc(Req::pages(pages))).expect("memory enough"), pages)
    };
    let mut live: Vec<(At, usize)> = (0..10_048).map(|n| alloc(n % cpus)).collect();
    let before = rig.sim.counters().flushes;
    let mut freed = 0;
    for n in 0.. {
        if freed >= pages {
            break;
        }
        let (cpu, area) = (n % cpus, (n * 7919) % live.len() / cpus * cpus + n % cpus);
        rig.sim.on(cpu as u32, || rig.give(live[area].0)).expect("a live area");
        freed += live[area].1;
        live[area] = alloc(cpu);
        rig.sim.serve_kicks();
    }
    let flushes = rig.sim.counters().flushes - before;
    live.iter().for_each(|&(at, _)| rig.give(at).unwrap());
    flushes * 1_000_000 / freed as u64
}

#[test]
fn flushes_grow_no_faster_than_the_cpus_that_have_to_run_them() {
    for (cpus, most) in [(1, 300), (8, 3_000), (64, 25_000)] {
        let flushes = flushes(cpus, 250_000);
        println!("{cpus:3} CPUs: {flushes} flushes a million pages, at most {most}");
        assert!(flushes <= most);
    }
}

#[test]
fn what_waits_is_bounded_wherever_it_waits_and_the_statistics_say_so() {
    // CPU 0 makes all areas and sleeps; CPU 1 frees them, and needs none.
    let rig = machine(2);
    let bound = (1 << 30) / 4096 / 32;
    let areas: Vec<At> = (0..20_000).map(|_| rig.alloc(Req::pages(8)).expect("memory enough")).collect();
    rig.sim.sleep(0, || rig.idle_enter());
    let mut most = 0;
    for area in areas {
        rig.sim.on(1, || rig.give(area)).expect("a live area");
        rig.sim.serve_kicks();
        most = most.max(rig.stats().waiting_pages);
    }
    println!("{most} pages waited, of {bound} and a batch of {} for each CPU", bound / 4);
    assert!(most <= bound + 2 * bound / 4);
    for _ in 0..10 {
        rig.sim.on(1, || {
            if rig.tick().work {
                rig.work();
            }
        });
        rig.sim.serve_kicks();
    }
    assert_eq!(rig.stats().waiting_pages, 0, "the ticks of CPU 1 do what CPU 0 would");
    rig.sim.wake(0, || rig.idle_exit());
}

/// How many runs by chance a mean is of.
const SEEDS: u64 = 4;

/// The addresses from the first live page to the last, over the pages of areas and guards.
fn span(rig: &Rig) -> f64 {
    let areas: Vec<_> = rig.areas().map(|area| (area.start.0, area.start.0 + area.size(), area.size())).collect();
    let first = areas.iter().map(|area| area.0).min().expect("an area");
    let end = areas.iter().map(|area| area.1).max().expect("an area");
    (end - first) as f64 / areas.iter().map(|area| area.2).sum::<usize>() as f64
}

/// The span of `live` reservations of up to `most` pages, each of which was replaced four times.
fn span_by_chance(live: usize, most: usize, seed: u64) -> f64 {
    // Small batches: what waits for a flush is little beside 1,000 areas.
    let rig = boot(quiet(1), Config::region(REGION).batch_pages(512));
    let random = &mut Random(seed);
    let reserve = |random: &mut Random| rig.reserve(Req::pages(1 + random.below(most))).expect("room");
    let mut areas: Vec<_> = (0..live).map(|_| reserve(random)).collect();
    for _ in 0..4 * live {
        let area = random.below(live);
        // SAFETY: V1: nobody uses a reservation.
        unsafe { rig.free(areas[area]) }.expect("a live area");
        areas[area] = reserve(random);
    }
    span(&rig)
}

#[test]
fn areas_that_come_and_go_by_chance_are_spread_over_few_addresses() {
    println!("span, the mean of {SEEDS} seeds and at most");
    let seeds = (1..=SEEDS).map(|seed| 9 * seed);
    for (live, pages, most) in [(1_000, 10, 1.5), (15_000, 10, 1.1), (1_000, 256, 1.5), (15_000, 256, 1.18)] {
        let mean = seeds.clone().map(|seed| span_by_chance(live, pages, seed)).sum::<f64>() / SEEDS as f64;
        println!("{live:6} live areas of 1..={pages} pages: {mean:.3}, {most}");
        assert!(mean <= most);
    }
}

#[test]
fn a_tick_takes_the_steps_of_a_sleeping_cpu_whose_cached_slots_are_overdue() {
    for policy in [Policy::Park, Policy::Keep] {
        let rig = boot(quiet(2), Config::region(REGION).policy(policy));
        let areas: Vec<At> = (0..40).map(|_| rig.alloc(Req::pages(3)).expect("memory enough")).collect();
        let (cached, remote) = areas.split_at(20);
        cached.iter().for_each(|&area| rig.give(area).expect("a live area"));
        rig.sim.sleep(0, || rig.idle_enter());
        remote.iter().for_each(|&area| rig.sim.on(1, || rig.give(area)).expect("a live area"));
        for _ in 0..100 {
            rig.sim.on(1, || {
                if rig.tick().work {
                    rig.work();
                }
            });
            rig.sim.serve_kicks();
        }
        assert_eq!((rig.stats().areas, rig.check()), (0, Ok(())), "{policy:?}");
        rig.sim.wake(0, || rig.idle_exit());
    }
}
