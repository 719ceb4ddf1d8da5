//! How long interrupts are off (L3), and what others see of a call in its middle.

use crate::common::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use vmalloc::machine::format::MemType;
use vmalloc::units::Pfn;
use vmalloc::{Config, Gfp, Placement, Policy, Req};
use vmalloc_sim::{BOUNDS, Bank, Rates, What};

const DEVICE: Bank = Bank { first: Pfn(1 << 20), frames: 2048, node: None };
const POLICIES: [Policy; 4] = [Policy::Unmap, Policy::Strict, Policy::Park, Policy::Keep];

/// Pages of a large area.
const MANY: usize = 1500;

/// Makes and frees large areas of each kind, on their own CPU and on another.
fn large_areas(rig: &Rig) {
    let frames = rig.frames(MANY);
    for cpu in [0, 1] {
        for size in [128, 129, 500, MANY] {
            for gfp in [Gfp::KERNEL, Gfp::KERNEL | Gfp::ZERO, Gfp::KERNEL | Gfp::DMA32] {
                let area = rig.alloc(Req::pages(size).gfp(gfp)).unwrap();
                rig.sim.on(cpu, || rig.give(area)).unwrap();
            }
        }
        let map = rig.map(&frames).unwrap();
        rig.sim.on(cpu, || rig.unmap(map)).unwrap();
        // SAFETY: P4: they are held.
        let ram = unsafe { rig.map_ram(&frames, None) }.unwrap();
        rig.sim.on(cpu, || rig.unmap_pages(ram, MANY)).unwrap();
        let device = rig.ioremap(DEVICE.first.phys(), MANY * PAGE, MemType::Uncached).unwrap();
        rig.sim.on(cpu, || rig.unmap_device(device)).unwrap();
        (0..20).for_each(|n| _ = rig.sim.on(n % 2, || rig.tick()));
        rig.purge();
    }
    rig.give_frames(&frames);
}

#[test]
fn however_large_an_area_is_no_section_is_longer_than_its_bound() {
    for (placement, policy) in
        [Placement::Classes, Placement::Lowest].into_iter().flat_map(|p| POLICIES.map(|q| (p, q)))
    {
        let machine = quiet(2).node(32 << 20).node(32 << 20).bank(DEVICE);
        let rig = boot(machine, Config::region(REGION).placement(placement).policy(policy).cached_pages(4 * MANY));
        large_areas(&rig);
        let longest = rig.sim.longest_section();
        println!("{placement:?}, {policy:?}: {longest:?} of {BOUNDS:?}");
        for what in [What::Read, What::Written] {
            assert!((64..=BOUNDS.of(what)).contains(&longest.of(what)), "{longest:?}");
        }
    }
}

#[test]
fn to_look_whether_an_area_may_stay_cached_is_done_by_slices_too() {
    // Frames may be of two nodes: each entry is looked at.
    let machine = || quiet(2).node(32 << 20).node(32 << 20);
    for policy in [Policy::Park, Policy::Keep] {
        let rig = boot(machine(), Config::region(REGION).policy(policy).cached_pages(4 * MANY));
        for cpu in [0, 1] {
            let area = rig.alloc(Req::pages(500)).unwrap();
            rig.sim.on(cpu, || rig.give(area)).unwrap();
        }
        let longest = rig.sim.longest_section();
        println!("{policy:?}: {longest:?}");
        assert!((64..300).contains(&longest.of(What::Read)), "{longest:?}");
    }
}

#[test]
fn a_page_is_cleared_before_anybody_can_know_of_its_area() {
    for policy in POLICIES {
        for pages in [1, 3, 100, 600] {
            let rig = boot(quiet(1), Config::region(REGION).policy(policy));
            let known = rig.alloc(Req::pages(2)).unwrap();
            // What is used again is dirty too.
            let dirty = rig.alloc(Req::pages(pages)).unwrap();
            rig.stamp(dirty, pages, 7);
            rig.give(dirty).unwrap();
            let looks = Arc::new(AtomicUsize::new(0));
            for n in (1..40).chain([80, 200, 650, 700]) {
                let (sim, known, looked) = (rig.sim.clone(), addr(known), Arc::clone(&looks));
                rig.set_nmi(n, move |vm| {
                    for area in vm.areas().filter(|area| area.start != known) {
                        for page in 0..area.pages {
                            let at = area.start.add_pages(page);
                            assert_eq!(sim.load(0, at), Ok(0), "{policy:?}: page {page} of {pages}, at step {n}");
                        }
                    }
                    looked.fetch_add(1, Relaxed);
                });
                let area = rig.alloc(Req::pages(pages).gfp(Gfp::KERNEL | Gfp::ZERO)).unwrap();
                rig.set_nmi(0, |_| {});
                rig.stamp(area, pages, 9);
                rig.give(area).unwrap();
            }
            assert!(looks.load(Relaxed) > 0, "no NMI came inside a call");
        }
    }
}

#[test]
fn remote_frees_that_were_taken_out_are_not_lost_when_more_come() {
    for policy in POLICIES {
        let rig = boot(quiet(2), Config::region(REGION).policy(policy).cached_pages(50));
        let nothing = rig.settled();
        let areas: Vec<_> = (0..400).map(|_| rig.alloc(Req::pages(1)).unwrap()).collect();
        let free = |range: std::ops::Range<usize>| {
            rig.sim.on(1, || areas[range].iter().for_each(|&area| rig.give(area).unwrap()));
        };
        // More chunks than the owner looks at in one go; then more remote frees.
        free(0..300);
        rig.tick();
        free(300..400);
        (0..20).for_each(|_| _ = rig.tick());
        assert_eq!((rig.stats().areas, rig.check()), (0, Ok(())));
        let left = rig.settled();
        assert_eq!((left.reserved, left.waiting), (nothing.reserved, nothing.waiting), "{policy:?}");
        assert_eq!(left.free + left.held, nothing.free + nothing.held, "{policy:?}");
    }
}

/// Frees an area of CPU 0 on `cpu`; at the `n`-th moment that an interrupt can
/// come there, CPU 0 frees it and uses the addresses again. True = the late free
/// was refused.
fn freed_late(policy: Policy, cpu: u32, n: usize) -> bool {
    let always = Rates { interrupt: 1, ..Rates::NEVER };
    // Frames may be of two nodes, so that entries are looked at, slice by slice.
    let machine = quiet(2).node(32 << 20).node(32 << 20).rates(always);
    let rig = boot(machine, Config::region(REGION).policy(policy).cached_pages(1000));
    let area = rig.alloc(Req::pages(130)).unwrap();
    let (sim, place, moments) = (rig.sim.clone(), addr(area).0, AtomicUsize::new(0));
    rig.set_interrupt(move |vm, _| {
        if moments.fetch_add(1, Relaxed) == n {
            sim.on(0, || {
                // Unless the other free has it already.
                // SAFETY: V1: nobody uses it.
                if unsafe { vm.free(at(place)) }.is_ok() {
                    assert_eq!(vm.alloc(Req::pages(130)), Ok(at(place)), "the newest slot is the next");
                }
            });
        }
    });
    let late = rig.sim.on(cpu, || rig.give(area));
    rig.set_interrupt(|_, _| {});
    // Either it was the new area that it freed, or that one lives and is nobody's to free.
    assert_eq!(rig.find(place).is_some(), late.is_err(), "{policy:?}, CPU {cpu}, moment {n}: {late:?}");
    assert_eq!(rig.give(area).is_ok(), late.is_err(), "{policy:?}, CPU {cpu}, moment {n}: a claim is left");
    assert_eq!(rig.check(), Ok(()));
    late.is_err()
}

#[test]
fn a_slow_free_of_an_area_that_is_another_one_by_now_frees_nothing() {
    for policy in [Policy::Park, Policy::Keep] {
        for cpu in [0, 1] {
            // The first moments come before the free has looked; then it knows.
            let refused: Vec<_> = (0..12).filter(|&n| freed_late(policy, cpu, n)).collect();
            assert!(!refused.is_empty(), "{policy:?}, CPU {cpu}");
        }
    }
}

#[test]
fn the_units_of_a_very_large_run_are_pointed_at_their_slot_and_cleared_by_pieces() {
    let frames = |rig: &Rig| rig.settled().reserved;
    for policy in [Policy::Unmap, Policy::Park] {
        let machine = quiet(2).node(64 << 20);
        let rig = boot(machine, Config::region(REGION).placement(Placement::Lowest).policy(policy));
        let before = frames(&rig);
        for cpu in [0, 1] {
            let area = rig.reserve(Req::bytes(8 << 30)).unwrap();
            for page in [0, 4095, 4096, 1 << 20, (2 << 20) - 1] {
                let found = rig.find(addr(area).0 + page * PAGE).map(|area| area.start);
                assert_eq!(found, Some(addr(area)), "page {page}");
            }
            rig.sim.on(cpu, || rig.give(area)).unwrap();
            let parts = [(0, 2 << 30), (3 << 30, 4 << 30)];
            let base = rig.reserve_at_offsets(&parts, PAGE, Req::bytes(0)).unwrap();
            for (offset, bytes) in parts {
                let found = rig.find(base + offset + bytes - PAGE).map(|area| area.start.0);
                assert_eq!(found, Some(base + offset));
                rig.sim.on(cpu, || rig.give(at(base + offset))).unwrap();
            }
            rig.purge();
            assert_eq!((frames(&rig), rig.check()), (before, Ok(())), "{policy:?}");
            assert_eq!(rig.find(base), None);
        }
        let longest = rig.sim.longest_section();
        let long = [What::Written, What::Reached, What::Asked, What::Moved].map(|what| longest.of(what));
        println!("{policy:?}: {longest:?}");
        assert!(long.iter().all(|&work| work < 300), "{longest:?}");
    }
}
