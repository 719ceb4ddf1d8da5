//! Park and Keep: what stays bound, who gets it, and when it goes.

use crate::common::{At, PAGE, REGION, Rig, addr, boot, busy, page_of, quiet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use vmalloc::gfp::Gfp;
use vmalloc::machine::Context;
use vmalloc::machine::format::{Entry, Format, MemType, Prot};
use vmalloc::table::X86_32;
use vmalloc::units::{Node, Pfn};
use vmalloc::{Config, FreeError, Placement, Policy, Req, What};
use vmalloc_sim::{Bank, Rates, Sim};

const CACHING: [Policy; 2] = [Policy::Park, Policy::Keep];

fn rig(policy: Policy) -> Rig {
    boot(quiet(2), Config::region(REGION).policy(policy))
}

fn hits<F: Format>(rig: &Rig<F>) -> u64 {
    rig.stats().counts.cache_hits
}

fn bound<F: Format>(rig: &Rig<F>) -> (usize, usize) {
    (rig.stats().cached_slots, rig.stats().cached_pages)
}

fn frames_of<F: Format>(rig: &Rig<F>, at: At, pages: usize) -> Vec<Option<Pfn>> {
    (0..pages).map(|page| rig.frame_at(page_of(at, page).0)).collect()
}

/// An area made and freed.
#[track_caller]
fn free_one<F: Format>(rig: &Rig<F>, req: Req) -> At {
    let area = rig.alloc(req).unwrap();
    rig.give(area).unwrap();
    assert_eq!(rig.check(), Ok(()));
    area
}

#[test]
fn the_next_area_of_the_size_has_place_and_frames_of_the_last() {
    for policy in CACHING {
        for pages in [1, 3, 17, 64, 128, 129, 200, 512] {
            let rig = boot(busy(2), Config::region(REGION).policy(policy).cached_pages(1000));
            let first = rig.alloc(Req::pages(pages)).unwrap();
            let frames = frames_of(&rig, first, pages);
            rig.stamp(first, pages, 7);
            rig.check_stamps(1, first, pages, 7);
            rig.give(first).unwrap();
            assert_eq!((bound(&rig), rig.check()), ((1, pages), Ok(())), "{policy:?} {pages}");
            let second = rig.alloc(Req::pages(pages)).unwrap();
            assert_eq!((second, frames_of(&rig, second, pages)), (first, frames), "{policy:?} {pages}");
            assert_eq!((hits(&rig), bound(&rig), rig.check()), (1, (0, 0), Ok(())));
            rig.stamp(second, pages, 9);
            rig.check_stamps(1, second, pages, 9);
            rig.sim.assert_faults(1, page_of(second, pages));
            rig.give(second).unwrap();
            assert_eq!(rig.stats().counts.closes, 0, "no flush was needed");
        }
    }
}

#[test]
fn a_parked_area_faults_where_no_tlb_knows_it_and_a_kept_one_does_not() {
    for policy in CACHING {
        let rig = rig(policy);
        let area = rig.alloc(Req::pages(3)).unwrap();
        rig.stamp(area, 3, 5);
        rig.give(area).unwrap();
        let parked = policy == Policy::Park;
        assert_eq!(rig.sim.load(1, addr(area)).is_err(), parked);
        assert!(rig.sim.load(0, addr(area)).is_ok(), "its own CPU has it in its TLB");
        assert!(matches!(rig.sim.peek(addr(area)).1, Entry::Parked(_)) == parked);
        // What the next owner finds is what was there.
        let again = rig.alloc(Req::pages(3)).unwrap();
        assert_eq!(again, area);
        rig.check_stamps(1, again, 3, 5);
    }
}

#[test]
fn no_use_after_free_goes_through_after_unmap_aliases_a_purge_or_another_policy() {
    type End = fn(&Rig);
    let ends: [(&str, End); 3] = [
        ("unmap_aliases", |rig| assert!(rig.unmap_aliases())),
        ("purge", |rig| assert!(rig.purge() > 0)),
        ("set_policy", |rig| {
            rig.set_policy(Policy::Unmap);
            (0..4).for_each(|_| _ = rig.tick());
            rig.sim.serve_kicks();
        }),
    ];
    for policy in CACHING {
        for (name, end) in ends {
            let rig = rig(policy);
            for pages in [2, 100] {
                let area = rig.alloc(Req::pages(pages)).unwrap();
                rig.stamp(area, pages, 1);
                rig.check_stamps(1, area, pages, 1);
                rig.give(area).unwrap();
                // One lies among its owner's remote frees.
                let area2 = rig.alloc(Req::pages(pages + 1)).unwrap();
                rig.stamp(area2, pages, 1);
                rig.sim.on(1, || rig.give(area2)).unwrap();
                end(&rig);
                assert_eq!(bound(&rig), (0, 0), "{name}");
                for page in 0..pages {
                    (0..2).for_each(|cpu| rig.sim.assert_faults(cpu, page_of(area, page)));
                    (0..2).for_each(|cpu| rig.sim.assert_faults(cpu, page_of(area2, page)));
                }
                rig.set_policy(policy);
            }
        }
    }
}

#[test]
fn only_the_same_number_of_pages_is_used_again() {
    for policy in CACHING {
        let rig = rig(policy);
        // One class: strides of 19 pages.
        let (small, large) = (free_one(&rig, Req::pages(17)), free_one(&rig, Req::pages(18)));
        assert_ne!(small, large);
        assert_eq!((hits(&rig), bound(&rig)), (0, (2, 35)));
        let [a, b, c] = [17, 18, 18].map(|pages| rig.alloc(Req::pages(pages)).unwrap());
        assert_eq!((a, b, hits(&rig)), (small, large, 2), "G6");
        rig.sim.assert_faults(0, page_of(a, 17));
        assert!(c != a && c != b);
    }
}

#[test]
fn only_usual_requests_get_a_cached_slot_and_only_usual_areas_become_one() {
    for policy in CACHING {
        let rig = rig(policy);
        let cached = free_one(&rig, Req::pages(4));
        let odd = [
            Req::pages(4).prot(Prot::RO),
            Req::pages(4).prot(Prot::RX),
            Req::pages(4).memory(MemType::WriteCombining),
            Req::pages(4).within(REGION.start..REGION.start + 600 * PAGE),
            Req::pages(4).align(8 * PAGE),
        ];
        for req in odd {
            let area = rig.alloc(req.clone()).unwrap();
            assert_ne!(area, cached, "{req:?}");
            rig.give(area).unwrap();
            assert_eq!(rig.check(), Ok(()));
        }
        // Of these two have memory as usual: those of the range and of the alignment.
        assert_eq!((hits(&rig), bound(&rig)), (0, (3, 12)));
        let reserved = rig.reserve(Req::pages(4)).unwrap();
        rig.give(reserved).unwrap();
        let frames = rig.frames(4);
        let mapped = rig.map(&frames).unwrap();
        rig.unmap(mapped).unwrap();
        rig.give_frames(&frames);
        assert_eq!((hits(&rig), bound(&rig)), (0, (3, 12)));
        rig.alloc(Req::pages(4)).unwrap();
        assert_eq!(rig.alloc(Req::pages(4)).unwrap(), cached, "the one of the range was newer");
    }
}

#[test]
fn a_stack_is_used_again_cleared() {
    for policy in CACHING {
        let rig = rig(policy);
        let stack = rig.alloc(Req::stack(4)).unwrap();
        rig.stamp(stack, 4, 77);
        rig.give(stack).unwrap();
        let again = rig.alloc(Req::stack(4)).unwrap();
        assert_eq!((again, hits(&rig)), (stack, 1));
        (0..4).for_each(|page| assert_eq!(rig.sim.load(1, page_of(again, page)), Ok(0)));
    }
}

#[test]
fn an_area_whose_frames_were_handed_out_does_not_stay() {
    for policy in CACHING {
        let rig = rig(policy);
        let area = rig.alloc(Req::pages(2)).unwrap();
        let held = rig.hold_frame(addr(area).0).unwrap();
        rig.give(area).unwrap();
        assert_eq!((bound(&rig), rig.check()), ((0, 0), Ok(())), "W3");
        let other = rig.alloc(Req::pages(2)).unwrap();
        assert!(!frames_of(&rig, other, 2).contains(&Some(held)));
        rig.give_frames(&[held]);
    }
}

#[test]
fn what_another_cpu_frees_is_cached_when_its_owner_finds_it() {
    for policy in CACHING {
        for pages in [2, 64, 100] {
            let rig = rig(policy);
            for round in 0..3 {
                let area = rig.alloc(Req::pages(pages)).unwrap();
                rig.stamp(area, pages, round);
                rig.sim.on(1, || rig.give(area)).unwrap();
                assert!(matches!(rig.whatis(addr(area).0), What::Freed { flushed: false, .. }));
                assert_eq!(rig.check(), Ok(()));
                let again = rig.alloc(Req::pages(pages)).unwrap();
                assert_eq!((again, hits(&rig)), (area, 1 + 3 * round));
                rig.check_stamps(1, again, pages, round);
                rig.give(again).unwrap();
                assert_eq!(rig.alloc(Req::pages(pages)).unwrap(), area);
                rig.give(area).unwrap();
            }
            assert_eq!(rig.stats().counts.remote_frees, 3);
        }
    }
}

#[test]
fn a_remote_free_takes_apart_what_its_owner_has_no_room_for() {
    let rig = boot(quiet(2), Config::region(REGION).policy(Policy::Keep).cached_pages(10));
    let areas: Vec<_> = (0..2).map(|_| rig.alloc(Req::pages(8)).unwrap()).collect();
    rig.give(areas[0]).unwrap();
    rig.sim.on(1, || rig.give(areas[1])).unwrap();
    rig.sim.assert_faults(0, addr(areas[1]));
    rig.tick();
    assert_eq!((bound(&rig), rig.stats().waiting_pages), ((1, 8), 8));
}

#[test]
fn a_cached_slot_is_freed_and_by_whom_is_told() {
    for policy in CACHING {
        let rig = rig(policy);
        let area = free_one(&rig, Req::pages(2));
        let What::Freed { was, flushed: false } = rig.whatis(addr(area).0 + 5000) else { panic!("it was freed") };
        assert_eq!((was.start, was.pages, was.phys), (addr(area), 2, None));
        assert!(format!("{:?}", was.freer.unwrap()).contains("cache.rs"));
        assert_eq!((rig.find(addr(area).0), rig.areas().count()), (None, 0));
        assert!(rig.listing().contains("unpurged vm_area"));
        assert!(matches!(rig.give(area), Err(FreeError::DoubleFree { .. })));
        assert!(rig.hold_frame(addr(area).0).is_none() && rig.frame_at(addr(area).0).is_none());
        assert_eq!((bound(&rig), rig.check()), ((1, 2), Ok(())));
    }
}

#[test]
fn the_budget_holds_and_the_class_that_was_not_used_for_longest_goes_first() {
    for policy in CACHING {
        let rig = boot(quiet(1), Config::region(REGION).policy(policy).cached_pages(100));
        for pages in [30, 20, 10] {
            free_one(&rig, Req::pages(pages));
        }
        let used = rig.alloc(Req::pages(30)).unwrap();
        rig.give(used).unwrap();
        assert_eq!(bound(&rig), (3, 60));
        free_one(&rig, Req::pages(50));
        assert_eq!((bound(&rig), rig.stats().counts.cache_over), ((3, 90), 1), "W2: {policy:?}");
        let hits_of = |pages| {
            let before = hits(&rig);
            rig.alloc(Req::pages(pages)).unwrap();
            hits(&rig) - before
        };
        assert_eq!([10, 20, 30, 50].map(hits_of), [1, 0, 1, 1]);
        free_one(&rig, Req::pages(101));
        assert_eq!(bound(&rig), (0, 0), "more than there may be");
    }
}

#[test]
fn the_budget_is_a_part_of_memory() {
    let frames = |mib: u64| mib << 8;
    for (mib, cpus, pages) in [(64, 2, 256), (512, 2, 256), (1024, 1, 1024), (1024, 2, 512)] {
        let bank = Bank { first: Pfn(16), frames: frames(mib), node: Some(Node(0)) };
        let rig = boot(quiet(cpus).bank(bank), Config::region(REGION).policy(Policy::Keep));
        let areas: Vec<_> = (0..pages + 9).map(|_| rig.alloc(Req::pages(1)).unwrap()).collect();
        areas.into_iter().for_each(|area| rig.give(area).unwrap());
        assert_eq!(bound(&rig), (pages, pages), "{mib} MiB, {cpus} CPUs");
    }
}

#[test]
fn what_nobody_needs_goes_by_the_tick() {
    for policy in CACHING {
        let rig = boot(quiet(1), Config::region(REGION).policy(policy).cached_pages(400));
        let areas: Vec<_> = (0..20).map(|_| rig.alloc(Req::pages(5)).unwrap()).collect();
        areas.into_iter().for_each(|area| rig.give(area).unwrap());
        free_one(&rig, Req::pages(200));
        let mut ticks = 0;
        while bound(&rig).0 > 1 {
            // One of them is in use all the time.
            free_one(&rig, Req::pages(5));
            rig.tick();
            assert_eq!(rig.check(), Ok(()));
            ticks += 1;
            assert!(ticks < 300, "{:?}", bound(&rig));
        }
        assert!(ticks > 30, "not all at once");
        assert_eq!(bound(&rig), (1, 5), "what is needed stays");
        (0..40).for_each(|_| _ = rig.tick());
        assert_eq!(bound(&rig), (0, 0));
        assert_eq!(rig.stats().counts.cache_aged, 21);
    }
}

#[test]
fn a_tick_that_is_interrupted_by_a_tick_loses_nothing_that_either_evicts() {
    for policy in CACHING {
        let config = Config::region(REGION).policy(policy).cached_pages(9000);
        let rig = boot(busy(1).rates(Rates { interrupt: 3, ..Rates::USUAL }), config);
        // Of every class of more than a slice, since each tick looks at a few.
        let areas: Vec<_> = (0..24).map(|n| rig.alloc(Req::pages(70 + n * 18)).unwrap()).collect();
        areas.into_iter().for_each(|area| rig.give(area).unwrap());
        let ticking = AtomicBool::new(false);
        rig.set_interrupt(move |vm, _| {
            if !ticking.swap(true, Relaxed) {
                vm.tick();
                ticking.store(false, Relaxed);
            }
        });
        for _ in 0..400 {
            rig.tick();
        }
        rig.set_interrupt(|_, _| {});
        assert_eq!((bound(&rig), rig.check()), ((0, 0), Ok(())), "{policy:?}");
        rig.settled();
    }
}

#[test]
fn a_tick_retires_a_quarter_of_a_slice_and_the_next_goes_on() {
    let rig = rig(Policy::Keep);
    free_one(&rig, Req::pages(200));
    let present = |rig: &Rig| {
        let start = REGION.start;
        (0..513)
            .filter(|page| matches!(rig.sim.peek(vmalloc::units::VirtAddr(start + page * PAGE)).1, Entry::Leaf { .. }))
            .count()
    };
    rig.set_policy(Policy::Keep);
    let mut last = present(&rig);
    assert_eq!(last, 200);
    let mut slices = 0;
    for _ in 0..60 {
        rig.tick();
        assert_eq!(rig.check(), Ok(()));
        let now = present(&rig);
        assert!(last - now <= 32, "L3: {last} to {now}");
        slices += (now < last) as usize;
        last = now;
    }
    assert_eq!((last, slices), (0, 7));
}

#[test]
fn however_much_nobody_needs_a_tick_lets_go_of_a_slice_and_no_more() {
    for policy in CACHING {
        let rig = boot(quiet(1), Config::region(REGION).policy(policy).cached_pages(1000));
        let areas: Vec<_> = (0..150).map(|_| rig.alloc(Req::pages(5)).unwrap()).collect();
        areas.into_iter().for_each(|area| rig.give(area).unwrap());
        let mut most = 0;
        for _ in 0..400 {
            let before = bound(&rig).0;
            rig.tick();
            most = most.max(before - bound(&rig).0);
        }
        // Parked entries are retired already: such a slot is one page's work.
        let slots = if policy == Policy::Park { 64 } else { 64usize.div_ceil(5) };
        assert_eq!((bound(&rig).0, most), (0, slots), "L3: {policy:?}");
    }
}

/// How many things a free does of an area that is the `n`-th of its slot.
fn things_of_a_free(policy: Policy, pages: usize, n: usize) -> usize {
    let comes = |step| {
        let rig = rig(policy);
        // The first free of all looks where the region's chunks are.
        free_one(&rig, Req::pages(1));
        (1..n).for_each(|_| _ = free_one(&rig, Req::pages(pages)));
        let area = rig.alloc(Req::pages(pages)).unwrap();
        let came = Arc::new(AtomicBool::new(false));
        let tells = Arc::clone(&came);
        rig.set_nmi(step, move |_| tells.store(true, Relaxed));
        rig.give(area).unwrap();
        rig.set_nmi(0, |_| {});
        came.load(Relaxed)
    };
    (1..).take_while(|&step| comes(step)).count()
}

#[test]
fn w1_the_first_area_of_a_slot_is_known_to_be_plain_and_freed_like_the_next() {
    for policy in CACHING {
        for pages in [3, 100] {
            let [first, next] = [1, 2].map(|n| things_of_a_free(policy, pages, n));
            assert_eq!(first, next, "{policy:?}, {pages} pages");
        }
    }
}

#[test]
fn memory_comes_back_when_somebody_else_needs_it() {
    for policy in CACHING {
        let bank = Bank { first: Pfn(16), frames: 1024, node: Some(Node(0)) };
        let rig = boot(quiet(2).bank(bank), Config::region(REGION).policy(policy));
        // Both CPUs keep as much as they may: a half of all.
        for cpu in 0..2 {
            rig.sim.on(cpu, || {
                let areas: Vec<_> = (0..250).map(|_| rig.alloc(Req::pages(1)).unwrap()).collect();
                areas.into_iter().for_each(|area| rig.give(area).unwrap());
            });
        }
        assert_eq!(bound(&rig), (500, 500));
        let large = rig.alloc(Req::pages(700)).unwrap();
        rig.stamp(large, 700, 1);
        assert_eq!((bound(&rig).0, rig.check()), (0, Ok(())), "{policy:?}");
    }
}

#[test]
fn addresses_come_back_when_somebody_else_needs_them() {
    for policy in CACHING {
        let narrow = REGION.start - PAGE..REGION.start + 1024 * PAGE;
        let rig = boot(quiet(2), Config::region(narrow).policy(policy));
        rig.sim.on(1, || free_one(&rig, Req::pages(200)));
        assert_eq!(bound(&rig), (1, 200));
        rig.alloc(Req::pages(1000)).unwrap();
        assert_eq!(bound(&rig), (0, 0), "{policy:?}");
    }
}

#[test]
fn who_must_not_wait_gives_up_its_own_all_the_same() {
    let bank = Bank { first: Pfn(16), frames: 1024, node: Some(Node(0)) };
    let rig = boot(quiet(1).bank(bank), Config::region(REGION).policy(Policy::Park));
    let areas: Vec<_> = (0..250).map(|_| rig.alloc(Req::pages(1)).unwrap()).collect();
    areas.into_iter().for_each(|area| rig.give(area).unwrap());
    rig.sim.set_context(Context::Atomic);
    // The only CPU: its own flush is grace enough.
    rig.alloc(Req::pages(800).gfp(Gfp::ATOMIC)).unwrap();
    rig.sim.set_context(Context::Task);
    assert_eq!(bound(&rig), (0, 0));
}

#[test]
fn pressure_of_waiting_pages_leaves_cached_slots_alone() {
    let rig = boot(quiet(1), Config::region(REGION).policy(Policy::Keep).waiting_pages(100).cached_pages(50));
    free_one(&rig, Req::pages(7));
    for _ in 0..5 {
        free_one(&rig, Req::pages(400));
    }
    assert!(rig.stats().counts.purges > 0);
    assert_eq!(bound(&rig), (1, 7));
}

#[test]
fn g4_a_call_that_finds_remote_frees_waits_for_flushes_all_the_same() {
    for policy in CACHING {
        // An area of a class, and one with a run of its own.
        for (pages, remote) in [(1, false), (1, true), (600, false), (600, true)] {
            let rig = boot(quiet(2), Config::region(REGION).policy(policy).waiting_pages(100).cached_pages(50));
            let small = rig.alloc(Req::pages(3)).unwrap();
            let large: Vec<_> = (0..10).map(|_| rig.alloc(Req::pages(60)).unwrap()).collect();
            if remote {
                // Of another size: no area of `pages` pages can be made of it.
                rig.sim.on(1, || rig.give(small)).unwrap();
            }
            // CPU 1 is slow: kicks are served only when somebody waits.
            large.into_iter().for_each(|area| rig.give(area).unwrap());
            let waiting = rig.stats().waiting_pages;
            assert!(waiting >= 600, "{waiting} wait: a free never waits");
            rig.alloc(Req::pages(pages)).unwrap();
            let waiting = rig.stats().waiting_pages;
            assert!(waiting <= 100, "{policy:?}, {pages} pages, remote frees: {remote}: {waiting} wait");
        }
    }
}

#[test]
fn a_slot_keeps_its_form_when_the_policy_changes_between() {
    let rig = boot(busy(2), Config::region(REGION).policy(Policy::Keep));
    let areas: Vec<_> = (0..4).map(|_| rig.alloc(Req::pages(3)).unwrap()).collect();
    for (n, &area) in areas.iter().enumerate() {
        rig.set_policy(CACHING[n % 2]);
        rig.give(area).unwrap();
        assert_eq!(rig.check(), Ok(()));
        let again = rig.alloc(Req::pages(3)).unwrap();
        rig.stamp(again, 3, 3);
        rig.check_stamps(1, again, 3, 3);
        assert_eq!(rig.check(), Ok(()));
    }
}

#[test]
fn frames_of_other_nodes_do_not_stay() {
    let node = |n: u64| Bank { first: Pfn(16 + n * 2048), frames: 2048, node: Some(Node(n as u8)) };
    for policy in CACHING {
        let rig = boot(quiet(2).bank(node(0)).bank(node(1)), Config::region(REGION).policy(policy));
        free_one(&rig, Req::pages(3).node(Node(1)));
        assert_eq!(bound(&rig), (0, 0), "foreign");
        let home = free_one(&rig, Req::pages(3));
        assert_eq!(bound(&rig), (1, 3));
        for req in [Req::pages(3).node(Node(1)), Req::pages(3).gfp(Gfp::KERNEL | Gfp::THISNODE)] {
            assert_ne!(rig.alloc(req).unwrap(), home);
        }
        assert_eq!(rig.alloc(Req::pages(3).node(Node(0))).unwrap(), home);
    }
}

#[test]
fn where_entries_cannot_hide_their_frames_park_is_unmap() {
    let region = 0xc000_0000..0xf000_0000;
    let machine = || Sim::<X86_32>::builder().cpus(1).rates(vmalloc_sim::Rates::NEVER);
    for (policy, stays) in [(Policy::Park, (0, 0)), (Policy::Keep, (1, 2))] {
        let rig = boot(machine(), Config::region(region.clone()).policy(policy));
        free_one(&rig, Req::pages(2));
        assert_eq!((rig.policy(), bound(&rig)), (policy, stays));
    }
}

#[test]
fn park_parks_where_memory_ends_in_the_lower_half_of_what_entries_can_name() {
    for (end, stays) in [(1 << 39, (1, 2)), ((1 << 39) + 1, (0, 0))] {
        let bank = Bank { first: Pfn(end - 4096), frames: 4096, node: Some(Node(0)) };
        let rig = boot(quiet(1).bank(bank), Config::region(REGION).policy(Policy::Park));
        free_one(&rig, Req::pages(2));
        assert_eq!(bound(&rig), stays, "it ends at {end:#x}");
    }
}

#[test]
fn nothing_stays_under_the_lowest_placement_nor_of_runs() {
    for policy in CACHING {
        let rig = boot(quiet(1), Config::region(REGION).placement(Placement::Lowest).policy(policy));
        free_one(&rig, Req::pages(2));
        assert_eq!(bound(&rig), (0, 0));
        let rig = boot(quiet(1), Config::region(REGION).policy(policy).cached_pages(2000));
        free_one(&rig, Req::pages(600));
        assert_eq!(bound(&rig), (0, 0));
    }
}

#[test]
fn an_area_that_found_no_room_in_a_chunk_does_not_stay() {
    for policy in CACHING {
        let rig = boot(quiet(2), Config::region(REGION.start..REGION.start + 6 * 64 * PAGE).policy(policy));
        rig.alloc(Req::pages(3)).unwrap();
        rig.reserve(Req::pages(100)).unwrap();
        // A slot of its class has 129 pages, and two units are left.
        let area = rig.alloc(Req::pages(121)).unwrap();
        assert_eq!(rig.stats().counts.chunks_made, 2);
        rig.sim.on(1, || rig.give(area)).unwrap();
        rig.tick();
        assert_eq!((bound(&rig), rig.check()), ((0, 0), Ok(())), "W1");
    }
}

#[test]
fn w1_a_policy_that_changes_in_the_middle_of_a_free_is_the_one_that_counts() {
    for policy in CACHING {
        // Two nodes: each entry is looked at, and interrupts come in between.
        let often = Rates { interrupt: 4, ..Rates::USUAL };
        let machine = busy(2).rates(often).node(32 << 20).node(32 << 20);
        let rig = boot(machine, Config::region(REGION).policy(policy).cached_pages(2000));
        let mut changed = 0;
        for _ in 0..60 {
            rig.set_policy(policy);
            let area = rig.alloc(Req::pages(400).node(Node(0))).unwrap();
            let calls = std::sync::atomic::AtomicU32::new(0);
            rig.set_interrupt(move |vm, _| {
                if calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 1 {
                    vm.set_policy(Policy::Unmap);
                }
            });
            rig.give(area).unwrap();
            rig.set_interrupt(|_, _| {});
            if rig.policy() == Policy::Unmap {
                changed += 1;
                assert_eq!(bound(&rig), (0, 0), "{policy:?}");
            }
        }
        assert!(changed > 0, "{policy:?}: no interrupt came in");
        assert_eq!(rig.check(), Ok(()));
    }
}

#[test]
fn what_was_cached_by_a_remote_free_is_let_go_if_the_policy_has_changed() {
    for policy in CACHING {
        let rig = boot(quiet(2), Config::region(REGION).policy(policy));
        let area = rig.alloc(Req::pages(3)).unwrap();
        rig.sim.on(1, || rig.give(area)).unwrap();
        // As if the post had come after the owner had shed all.
        let other = rig.alloc(Req::pages(700)).unwrap();
        rig.set_policy(Policy::Unmap);
        assert_eq!(bound(&rig), (0, 0), "{policy:?}");
        rig.give(other).unwrap();
        assert_eq!(rig.check(), Ok(()));
    }
}
