//! Policies, ticks, and CPUs that sleep: when what was freed becomes
//! unreachable, and when it is used again.

use crate::common::{REGION, Rig, addr, boot, busy, page_of, quiet, rig};
use vmalloc::machine::{Context, Level};
use vmalloc::{Config, Policy, Req, What};
use vmalloc_sim::{Booted, Power};

fn ticks(rig: &Rig, n: usize) {
    (0..n).for_each(|_| {
        rig.tick();
    });
}

#[test]
fn under_unmap_a_use_after_free_reads_the_same_frame_until_the_flush_and_faults_after() {
    let rig = boot(quiet(2), Config::region(REGION));
    let area = rig.alloc(Req::pages(3)).unwrap();
    rig.stamp(area, 3, 5);
    rig.check_stamps(1, area, 3, 5);
    let frame = rig.frame_at(addr(area).0).unwrap();
    rig.give(area).unwrap();
    // CPU 1 still knows where the pages were: what it reads there is what was
    // there.
    rig.check_stamps(1, area, 3, 5);
    assert!(rig.sim.tlb_refs(frame) > 0);
    assert!(matches!(rig.whatis(addr(area).0), What::Freed { flushed: false, .. }));
    // However much is allocated now, none of it is that frame or that place.
    for _ in 0..50 {
        let other = rig.alloc(Req::pages(3).gfp(vmalloc::Gfp::NOWAIT)).unwrap();
        assert_ne!(addr(other), addr(area));
        rig.stamp(other, 3, 6);
    }
    rig.check_stamps(1, area, 3, 5);
    rig.purge();
    for page in 0..3 {
        (0..2).for_each(|cpu| rig.sim.assert_faults(cpu, page_of(area, page)));
    }
}

#[test]
fn under_strict_a_use_after_free_faults_at_once_on_every_cpu() {
    let rig = boot(busy(3), Config::region(REGION).policy(Policy::Strict));
    for (round, pages) in [1, 64, 128, 129, 300, 700].into_iter().cycle().take(24).enumerate() {
        rig.sim.set_cpu(round as u32 % 3);
        let area = rig.alloc(Req::pages(pages)).unwrap();
        rig.stamp(area, pages, 1);
        (0..3).for_each(|cpu| rig.check_stamps(cpu, area, pages, 1));
        rig.sim.on((round as u32 / 3) % 3, || rig.give(area)).unwrap();
        for page in (0..pages).step_by(13) {
            (0..3).for_each(|cpu| rig.sim.assert_faults(cpu, page_of(area, page)));
        }
    }
}

#[test]
fn a_small_strict_free_discards_its_own_pages_and_no_others() {
    let rig = boot(quiet(2), Config::region(REGION).policy(Policy::Strict));
    let [area, other] = [3, 2].map(|pages| rig.alloc(Req::pages(pages)).unwrap());
    rig.purge();
    for cpu in 0..2 {
        rig.sim.set_cpu(cpu);
        rig.stamp(area, 3, 1);
        rig.stamp(other, 2, 2);
    }
    let known = |area| rig.sim.tlb_refs(rig.frame_at(addr(area).0).unwrap());
    let before = known(other);
    assert!(before > 0, "both CPUs know the other area");
    rig.sim.set_cpu(0);
    rig.give(area).unwrap();
    (0..2).for_each(|cpu| rig.sim.assert_faults(cpu, addr(area)));
    assert_eq!(known(other), before);
}

#[test]
fn strict_does_not_wait_where_waiting_is_forbidden() {
    let rig = boot(quiet(2), Config::region(REGION).policy(Policy::Strict));
    let area = rig.alloc(Req::pages(2)).unwrap();
    rig.stamp(area, 2, 1);
    rig.check_stamps(1, area, 2, 1);
    rig.sim.set_context(Context::Atomic);
    rig.give(area).unwrap();
    rig.check_stamps(1, area, 2, 1);
    rig.sim.serve_kicks();
    rig.sim.assert_faults(1, addr(area));
    rig.sim.set_context(Context::Task);
}

#[test]
fn the_policy_can_be_changed_at_any_time() {
    let rig = boot(quiet(2), Config::region(REGION));
    assert_eq!(rig.policy(), Policy::Unmap);
    for policy in [Policy::Strict, Policy::Unmap, Policy::Strict] {
        rig.set_policy(policy);
        assert_eq!(rig.policy(), policy);
        let area = rig.alloc(Req::pages(2)).unwrap();
        rig.stamp(area, 2, 1);
        rig.check_stamps(1, area, 2, 1);
        rig.give(area).unwrap();
        assert_eq!(rig.sim.load(1, addr(area)).is_err(), policy == Policy::Strict);
        rig.purge();
    }
    assert_eq!(rig.check(), Ok(()));
}

#[test]
fn a_cpu_that_has_never_been_online_has_nothing_to_discard() {
    let rig = boot(quiet(3), Config::region(REGION));
    assert_eq!((rig.sim.counters().flushes, rig.stats().counts.flushes), (0, 0));
}

#[test]
fn a_sleeping_cpu_is_not_woken_for_frames() {
    let rig = boot(quiet(2), Config::region(REGION).batch_pages(64));
    // Under a table that stays, so that no table page waits.
    let _stays = rig.alloc(Req::pages(20)).unwrap();
    let area = rig.alloc(Req::pages(20)).unwrap();
    rig.stamp(area, 20, 1);
    rig.check_stamps(1, area, 20, 1);
    rig.sim.sleep(1, || rig.idle_enter());
    rig.give(area).unwrap();
    let interrupts = rig.sim.counters().interrupts;
    ticks(&rig, 4);
    assert_eq!(rig.stats().waiting_pages, 0, "grace came without it");
    assert_eq!(rig.stats().counts.kicks, 0);
    assert_eq!(rig.sim.counters().interrupts, interrupts);
    // It forgets before it does anything else.
    rig.sim.wake(1, || rig.idle_exit());
    rig.sim.assert_faults(1, addr(area));
}

#[test]
fn a_sleeping_cpu_is_waited_for_when_table_pages_go() {
    let rig = boot(quiet(2), Config::region(REGION));
    let far = REGION.start + (5 << 30)..REGION.start + (6 << 30);
    let area = rig.alloc(Req::pages(600).within(far)).unwrap();
    rig.stamp(area, 600, 1);
    rig.check_stamps(1, area, 600, 1);
    rig.sim.sleep(1, || rig.idle_enter());
    let tables = rig.stats().table_frames;
    rig.give(area).unwrap();
    ticks(&rig, 20);
    assert!(rig.stats().counts.tables_pruned > 0, "nothing was left under them");
    assert_eq!(rig.stats().table_frames, tables, "CPU 1 could still walk there");
    assert!(rig.stats().counts.kicks > 0);
    rig.sim.serve_kicks();
    assert_eq!(rig.sim.power(1), Power::Idle);
    ticks(&rig, 4);
    assert!(rig.stats().table_frames < tables);
    rig.sim.wake(1, || rig.idle_exit());
}

#[test]
fn an_offline_cpu_holds_nobody_up_and_flushes_before_it_rejoins() {
    let rig = boot(quiet(3), Config::region(REGION));
    let area = rig.alloc(Req::pages(700)).unwrap();
    rig.stamp(area, 700, 1);
    rig.check_stamps(2, area, 700, 1);
    rig.sim.offline(2, || rig.cpu_offline());
    rig.give(area).unwrap();
    rig.purge();
    assert_eq!(rig.stats().waiting_pages, 0);
    // Its translations are stale now, and harm nobody until it is back: the
    // machine judges what it remembers when it comes online.
    let again = rig.alloc(Req::pages(700)).unwrap();
    rig.stamp(again, 700, 2);
    rig.sim.online(2, || rig.cpu_online());
    rig.check_stamps(2, again, 700, 2);
}

#[test]
fn cpus_come_and_go_while_areas_do() {
    let rig = rig(4);
    let mut live = Vec::new();
    for round in 0..400u64 {
        let (cpu, other) = (round as u32 * 7 % 3, 3 - round as u32 % 2 * 2);
        match (rig.sim.power(other), round % 5) {
            (Power::Awake, 0) if other == 3 => rig.sim.sleep(3, || rig.idle_enter()),
            (Power::Idle, 1) => rig.sim.wake(other, || rig.idle_exit()),
            (Power::Awake, 3) if other == 3 => rig.sim.offline(3, || rig.cpu_offline()),
            (Power::Offline, 4) => rig.sim.online(other, || rig.cpu_online()),
            _ => {}
        }
        rig.sim.set_cpu(cpu);
        let pages = 1 + round as usize * 37 % 130;
        let area = rig.alloc(Req::pages(pages)).expect("memory enough");
        rig.stamp(area, pages, round);
        live.push((area, pages, round));
        if live.len() > 12 {
            let (area, pages, seed) = live.swap_remove(round as usize * 5 % live.len());
            rig.check_stamps((cpu + 1) % 3, area, pages, seed);
            rig.give(area).unwrap();
        }
        rig.sim.step();
        rig.tick();
    }
    assert_eq!(rig.check(), Ok(()));
}

#[test]
fn a_batch_is_sealed_when_it_is_full() {
    let rig = boot(quiet(1), Config::region(REGION).batch_pages(64));
    let areas: Vec<_> = (0..20).map(|_| rig.alloc(Req::pages(9)).unwrap()).collect();
    for (n, &area) in areas.iter().take(7).enumerate() {
        assert_eq!(rig.stats().counts.closes, 0, "{n} areas of 9 pages wait");
        rig.give(area).unwrap();
    }
    areas.iter().skip(7).take(3).for_each(|&area| rig.give(area).unwrap());
    assert_eq!(rig.stats().counts.closes, 1, "90 pages are half a slice more than 64");
}

#[test]
fn a_free_reclaims_once_in_half_a_slice_of_what_frees_leave() {
    let rig = boot(quiet(1), Config::region(REGION).batch_pages(56));
    let areas: Vec<_> = (0..2 * 64).map(|_| rig.alloc(Req::pages(1)).unwrap()).collect();
    let (ours, theirs) = areas.split_at(64);
    // A slot and a page each, and the chunk that they are of counts as sixteen.
    ours[..55].iter().for_each(|&area| rig.give(area).unwrap());
    assert_eq!(rig.stats().counts.closes, 0);
    rig.give(ours[55]).unwrap();
    assert_eq!(rig.stats().counts.closes, 1, "and the only CPU has flushed");
    let reclaims = |area| {
        let before = rig.stats().counts.reclaimed;
        rig.give(area).unwrap();
        rig.stats().counts.reclaimed > before
    };
    let which: Vec<_> = (1..).zip(&theirs[..56]).filter(|&(_, &area)| reclaims(area)).map(|(n, _)| n).collect();
    assert_eq!(which, [8, 24], "these drain it");
}

#[test]
fn l3_a_free_looks_at_few_chunks_where_each_has_but_one_slot_and_keeps_up_all_the_same() {
    const CHUNKS: usize = 64;
    let rig = boot(quiet(1), Config::region(REGION).batch_pages(CHUNKS / 2));
    let areas: Vec<_> = (0..CHUNKS * 64).map(|_| rig.alloc(Req::pages(1)).unwrap()).collect();
    let mut most = 0;
    for &area in areas.iter().skip(7).step_by(64).chain(areas.iter().skip(40).step_by(64)) {
        let before = rig.stats().counts.reclaimed;
        rig.give(area).unwrap();
        most = most.max(rig.stats().counts.reclaimed - before);
        assert!(rig.stats().waiting_pages <= 2 * CHUNKS, "what waits is drained before the next batch is full");
    }
    let counts = rig.stats().counts;
    assert!(counts.closes >= 3 && (1..=6).contains(&most), "{most} slots in one free, {} batches", counts.closes);
}

#[test]
fn a_batch_is_sealed_after_two_ticks_however_little_it_holds() {
    let rig = boot(quiet(1), Config::region(REGION));
    ticks(&rig, 5);
    assert_eq!(rig.stats().counts.closes, 0, "nothing waits");
    for round in 1..4 {
        let area = rig.alloc(Req::pages(1)).unwrap();
        rig.give(area).unwrap();
        rig.tick();
        assert_eq!((rig.stats().counts.closes, rig.stats().waiting_pages), (round - 1, 1), "one tick is too soon");
        rig.tick();
        assert_eq!(rig.stats().counts.closes, round);
        rig.tick();
        assert_eq!(rig.stats().waiting_pages, 0);
    }
}

#[test]
fn a_tick_does_a_slice_and_says_that_more_is_to_be_done() {
    let rig = boot(quiet(1), Config::region(REGION));
    let areas: Vec<_> = (0..60).map(|_| rig.alloc(Req::pages(50)).unwrap()).collect();
    let mut works = false;
    areas.iter().for_each(|&area| rig.give(area).unwrap());
    for _ in 0..8 {
        let before = rig.stats().counts.reclaimed_pages;
        works |= rig.tick().work;
        assert!(rig.stats().counts.reclaimed_pages - before <= 128, "a tick is bounded");
    }
    assert!(works);
    while rig.tick().work {
        rig.work();
    }
    assert_eq!(rig.stats().waiting_pages, 0);
}

#[test]
fn no_alias_survives_unmap_aliases() {
    let rig = boot(quiet(3), Config::region(REGION));
    let frames = rig.frames(4);
    // SAFETY: P4: the frames are this test's.
    let ram = unsafe { rig.map_ram(&frames, None) }.unwrap();
    rig.stamp(ram, 4, 1);
    (0..3).for_each(|cpu| rig.check_stamps(cpu, ram, 4, 1));
    rig.sim.on(1, || rig.unmap_pages(ram, 4)).unwrap();
    assert!(frames.iter().any(|&frame| rig.sim.tlb_refs(frame) > 0));
    rig.unmap_aliases();
    assert!(frames.iter().all(|&frame| rig.sim.tlb_refs(frame) == 0));
    rig.give_frames(&frames);
}

#[test]
fn an_instance_that_ends_where_it_must_not_wait_leaks_and_says_so() {
    let sim = quiet(2).build();
    let vm = Booted::new(sim.clone(), Config::region(REGION)).unwrap();
    vm.alloc(Req::pages(3)).unwrap();
    sim.set_context(Context::Atomic);
    drop(vm);
    let log = sim.take_log();
    assert!(matches!(&log[..], [(Level::Error, line)] if line.contains("memory is leaked")), "{log:?}");
    assert!(sim.leaked_frames() >= 3, "CPU 1 may still reach them");
}
