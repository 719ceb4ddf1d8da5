//! Mappings for a short time hold nothing: what becomes of frames that are given
//! up while CPUs still reach them.

use crate::common::*;
use vmalloc::units::{Node, Pfn};
use vmalloc::{AllocError, Config, Gfp, Policy, Req};
use vmalloc_sim::{Bank, Booted};

/// `pages` frames were mapped, read on all three CPUs, and unmapped on `cpu`.
fn unmapped_on(cpu: u32, rig: &Rig, pages: usize) -> (At, Vec<Pfn>) {
    let frames = rig.frames(pages);
    // SAFETY: P4: they are held, and unmapped below.
    let ram = unsafe { rig.map_ram(&frames, None) }.unwrap();
    rig.stamp(ram, pages, 1);
    (0..3).for_each(|cpu| rig.check_stamps(cpu, ram, pages, 1));
    rig.sim.on(cpu, || rig.unmap_pages(ram, pages)).unwrap();
    (ram, frames)
}

fn still() -> Rig {
    boot(quiet(3), Config::region(REGION))
}

/// All that can be had.
fn all_frames(rig: &Rig) -> Vec<Pfn> {
    std::iter::from_fn(|| rig.alloc_frame(Gfp::ATOMIC, None).ok()).collect()
}

#[test]
fn a_frame_freed_while_a_cpu_reaches_it_is_nobodys_until_all_have_flushed() {
    for cpu in [0, 1] {
        for pages in [1, 4, 100] {
            let rig = still();
            let (ram, frames) = unmapped_on(cpu, &rig, pages);
            rig.give_frames(&frames);
            assert_eq!(rig.stats().counts.alias_frames, pages as u64);
            let others = all_frames(&rig);
            assert!(others.iter().all(|frame| !frames.contains(frame)), "{pages} pages, on CPU {cpu}");
            let last = page_of(ram, pages - 1);
            assert_eq!(rig.sim.load(2, last), Ok(1 ^ (pages as u64 - 1)), "a use after free, and still the same frame");
            rig.purge();
            rig.sim.assert_faults(2, last);
            let last = all_frames(&rig);
            assert!(frames.iter().all(|frame| last.contains(frame)), "{pages} pages, on CPU {cpu}");
            rig.give_frames(&[others, last].concat());
        }
    }
}

#[test]
fn a_frame_freed_on_another_cpu_waits_there() {
    let rig = still();
    let (_, frames) = unmapped_on(0, &rig, 3);
    rig.sim.on(2, || rig.give_frames(&frames));
    assert_eq!(rig.stats().waiting_pages, 3 + 3, "a mapping's pages on CPU 0, and frames on CPU 2");
    let others = all_frames(&rig);
    assert!(others.iter().all(|frame| !frames.contains(frame)));
    rig.purge();
    assert_eq!(rig.stats().waiting_pages, 0);
    rig.give_frames(&others);
}

#[test]
fn frames_are_pooled_at_once_where_no_alias_is_left() {
    let rig = still();
    let (_, frames) = unmapped_on(1, &rig, 8);
    rig.purge();
    rig.give_frames(&frames);
    assert_eq!((rig.stats().counts.alias_frames, rig.stats().waiting_pages), (0, 0));
}

#[test]
fn ticks_reclaim_frames_that_wait_by_themselves() {
    let rig = still();
    let (_, frames) = unmapped_on(0, &rig, 2);
    rig.sim.on(1, || rig.give_frames(&frames));
    for _ in 0..8 {
        (0..3).for_each(|cpu| rig.sim.on(cpu, || rig.on_kick()));
        (0..3).for_each(|cpu| _ = rig.sim.on(cpu, || rig.tick()));
    }
    assert_eq!(rig.stats().waiting_pages, 0);
    rig.give_frames(&rig.frames(1));
    assert_eq!(rig.stats().counts.alias_frames, 2, "no load knows of aliases any more");
}

/// Time passes on `cpu`, and the others answer.
fn pass_time_on(cpu: u32, rig: &Rig) {
    for _ in 0..3 {
        rig.sim.on(cpu, || rig.tick());
        (0..3).for_each(|cpu| rig.sim.on(cpu, || rig.on_kick()));
    }
}

#[test]
fn a_small_batch_that_is_about_aliases_flushes_everything() {
    // The small area's load has a loose frame, whose alias is in another load;
    // or it is that of the CPU that unmapped another one's slot.
    for (unmaps, frees, closes) in [(0, 2, 2), (1, 2, 1)] {
        let rig = still();
        // All have flushed for all that was before.
        rig.purge();
        let area = rig.sim.on(closes, || rig.alloc(Req::pages(1))).unwrap();
        let (ram, frames) = unmapped_on(unmaps, &rig, 1);
        rig.sim.on(closes, || rig.give(area)).unwrap();
        rig.sim.on(frees, || rig.give_frames(&frames));
        pass_time_on(closes, &rig);
        (0..3).for_each(|cpu| rig.sim.assert_faults(cpu, addr(ram)));
    }
}

#[test]
fn many_loose_frames_seal_their_batch() {
    let rig = boot(quiet(3), Config::region(REGION).batch_pages(64));
    let (_, frames) = unmapped_on(0, &rig, 400);
    let closes = rig.stats().counts.closes;
    rig.sim.on(2, || rig.give_frames(&frames));
    assert!(rig.stats().counts.closes > closes, "G4");
}

#[test]
fn who_runs_short_gets_frames_that_waited() {
    let rig = still();
    let (_, frames) = unmapped_on(1, &rig, 5);
    let others = all_frames(&rig);
    rig.sim.on(2, || rig.give_frames(&frames));
    let frame = rig.alloc_frame(Gfp::KERNEL, None).expect("a purge brings them back");
    assert!(frames.contains(&frame));
    rig.give_frames(&[others, vec![frame]].concat());
}

#[test]
fn strict_forgets_a_mapping_before_its_unmapping_returns() {
    let rig = boot(quiet(3), Config::region(REGION).policy(Policy::Strict));
    for cpu in [0, 1] {
        for pages in [1, 100] {
            let (ram, frames) = unmapped_on(cpu, &rig, pages);
            (0..3).for_each(|cpu| rig.sim.assert_faults(cpu, addr(ram)));
            rig.give_frames(&frames);
        }
    }
    assert_eq!(rig.stats().counts.alias_frames, 0);
}

#[test]
fn a_frame_that_an_nmi_gives_up_waits_for_the_next_one_inside() {
    for n in [1, 5, 30] {
        let rig = still();
        let before = rig.settled();
        let (_, frames) = unmapped_on(0, &rig, 1);
        let frame = frames[0];
        // SAFETY: P3: the test's hold.
        rig.set_nmi(n, move |vm| unsafe { vm.free_frame(frame) });
        let area = rig.alloc(Req::pages(40)).unwrap();
        rig.set_nmi(0, |_| {});
        assert!((0..40).all(|page| rig.frame_at(page_of(area, page).0) != Some(frame)));
        rig.give(area).unwrap();
        let after = rig.settled();
        assert_eq!(after.free + after.held, before.free + before.held, "after {n} things");
    }
}

#[test]
fn frames_of_a_vmap_and_frames_that_an_area_owns_wait_for_aliases_too() {
    let rig = still();
    let frames = rig.frames(6);
    // SAFETY: P1, P4: they are held until both are unmapped; P2: a hold on each is given away then.
    let (mapped, owned) = unsafe {
        let ram = rig.map_ram(&frames, None).unwrap();
        rig.stamp(ram, 6, 3);
        rig.check_stamps(1, ram, 6, 3);
        let mapped = rig.vmap(&frames[..3], Req::bytes(0)).unwrap();
        rig.unmap_pages(ram, 6).unwrap();
        (mapped, rig.vmap_owned(&frames[3..], Req::bytes(0)).unwrap())
    };
    rig.give_frames(&frames[..3]);
    // Their batches are sealed and expired before that of the mapping for a short time.
    rig.sim.on(2, || {
        rig.unmap(mapped).unwrap();
        rig.give(owned).unwrap();
    });
    let others = all_frames(&rig);
    assert!(others.iter().all(|frame| !frames.contains(frame)));
    rig.purge();
    let last = all_frames(&rig);
    assert!(frames.iter().all(|frame| last.contains(frame)));
    rig.give_frames(&[others, last].concat());
}

#[test]
fn frames_that_no_entry_can_name_are_refused() {
    let rig = rig(1);
    let mut frames = rig.frames(6);
    let odd = Pfn(1 << 40);
    for place in 0..7 {
        frames.insert(place, odd);
        // SAFETY: P4: the others are held; the call is refused.
        let refused = unsafe { rig.map_ram(&frames, None) };
        assert_eq!(refused, Err(AllocError::BadFrame(odd)), "at {place}");
        frames.remove(place);
    }
    assert_eq!((rig.stats().areas, rig.stats().waiting_pages), (0, 0));
    rig.give_frames(&frames);
}

#[test]
fn memory_without_descriptors_is_mapped_for_a_short_time_too() {
    let device = Bank { first: Pfn(1 << 20), frames: 8, node: None };
    let rig = boot(quiet(1).node(64 << 20).bank(device), Config::region(REGION));
    let frames: Vec<_> = (0..8).map(|n| device.first.offset(n)).collect();
    // SAFETY: P4: nobody can take them away.
    let ram = unsafe { rig.map_ram(&frames, Some(Node(0))) }.unwrap();
    rig.stamp(ram, 8, 4);
    rig.check_stamps(0, ram, 8, 4);
    rig.unmap_pages(ram, 8).unwrap();
    assert_eq!(rig.settled().areas, []);
}

#[test]
fn an_instance_that_ends_while_frames_are_mapped_for_a_short_time_clears_their_entries() {
    for pages in [1, 4, 100] {
        let sim = quiet(1).build();
        let vm = Booted::new(sim.clone(), Config::region(REGION)).unwrap();
        let frames: Vec<_> = (0..pages).map(|_| vm.alloc_frame(Gfp::KERNEL, None).unwrap()).collect();
        // SAFETY: P4: they are held for longer than the instance lives.
        unsafe { vm.map_ram(&frames, None) }.unwrap();
        drop(vm);
        assert_eq!(sim.take_log(), [], "{pages} pages");
        assert_eq!(sim.leaked_frames(), pages, "the frames are the caller's");
    }
}
