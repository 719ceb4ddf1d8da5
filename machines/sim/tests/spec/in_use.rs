//! An entry that is in use where none may be: the call is refused, the entry is as it
//! was, and frames and holders are whose they were (T2, E1).

use crate::common::*;
use std::sync::atomic::Ordering::Relaxed;
use vmalloc::machine::Machine;
use vmalloc::machine::format::{Entry, Format, MemType, Prot};
use vmalloc::machine::frames::Frames;
use vmalloc::table::X86_64;
use vmalloc::units::{Node, Pfn, VirtAddr};
use vmalloc::{AllocError, Config, Gfp, Placement, Policy, Req};
use vmalloc_sim::Bank;

const DEVICE: Bank = Bank { first: Pfn(1 << 20), frames: 256, node: None };

/// How an area of some pages is made, and undone.
struct Way {
    name: &'static str,
    make: fn(&Rig, &[Pfn]) -> Result<At, AllocError>,
    undo: fn(&Rig, At, usize),
}

fn freed(rig: &Rig, at: At, _: usize) {
    rig.give(at).expect("it was made");
}

const WAYS: [Way; 7] = [
    Way { name: "alloc", make: |rig, frames| rig.alloc(Req::pages(frames.len())), undo: freed },
    Way {
        name: "alloc of low memory, by the run",
        make: |rig, frames| rig.alloc(Req::pages(frames.len()).gfp(Gfp::KERNEL | Gfp::DMA32)),
        undo: freed,
    },
    Way {
        name: "alloc on a node, by the run",
        make: |rig, frames| rig.alloc(Req::pages(frames.len()).node(Node(1)).gfp(Gfp::KERNEL | Gfp::THISNODE)),
        undo: freed,
    },
    Way { name: "vmap", make: |rig, frames| rig.map(frames), undo: |rig, at, _| rig.unmap(at).expect("it was made") },
    Way {
        name: "vmap that takes the frames over",
        // Holds of its own for the area, by the mapping that is there all the time.
        make: |rig, frames| {
            let alias = rig.areas().next().expect("an alias").start;
            let held: Vec<_> = (0..frames.len()).filter_map(|n| rig.hold_frame(alias.add_pages(n).0)).collect();
            assert_eq!(held, frames);
            // SAFETY: P2: the holds of a moment ago.
            unsafe { rig.vmap_owned(&held, Req::bytes(0)) }.inspect_err(|_| rig.give_frames(&held))
        },
        undo: freed,
    },
    Way {
        name: "map_ram",
        // SAFETY: P4: the caller holds the frames.
        make: |rig, frames| unsafe { rig.map_ram(frames, None) },
        undo: |rig, at, pages| rig.unmap_pages(at, pages).expect("it was made"),
    },
    Way {
        name: "ioremap",
        make: |rig, frames| rig.ioremap(DEVICE.first.phys(), frames.len() * PAGE, MemType::Uncached),
        undo: |rig, at, _| rig.unmap_device(at).expect("it was made"),
    },
];

/// Holders of each frame beyond the first.
fn extra(rig: &Rig, frames: &[Pfn]) -> Vec<u32> {
    let page = |&frame: &Pfn| rig.sim.frames().page(frame).map_or(0, |page| page.extra.load(Relaxed));
    frames.iter().map(page).collect()
}

/// What lies in the regions' first tables, where nothing is but what is poked.
fn poke(rig: &Rig, at: VirtAddr, frame: Option<Pfn>) {
    let entry = frame.map_or(X86_64::ABSENT, |frame| X86_64::leaf(frame, Prot::RW, MemType::WriteBack, 1));
    rig.sim.poke(at, 1, entry);
}

/// Where the next area of this kind and size will be, for as long as nothing else
/// changes: one was there, and its tables stay, for the sake of those that are
/// returned as well.
fn next_place(rig: &Rig, way: &Way, frames: &[Pfn]) -> (VirtAddr, Vec<At>) {
    let mut neighbours = Vec::new();
    loop {
        let [first, again] = [0, 1].map(|_| {
            let area = (way.make)(rig, frames).unwrap();
            (way.undo)(rig, area, frames.len());
            rig.purge();
            area
        });
        if first == again && rig.sim.peek(addr(first)).0 == 1 {
            return (addr(first), neighbours);
        }
        neighbours.push((way.make)(rig, frames).unwrap());
    }
}

#[test]
fn a_call_that_meets_an_entry_in_use_leaves_it_alone_and_nothing_behind() {
    for (placement, pages) in [(Placement::Classes, 8), (Placement::Classes, 100), (Placement::Lowest, 100)] {
        for way in &WAYS {
            let machine = quiet(2).node(32 << 20).node(32 << 20).bank(DEVICE);
            let rig = boot(machine, Config::region(REGION).placement(placement).policy(Policy::Unmap));
            let frames = rig.frames(pages);
            let foreign = rig.frames(1)[0];
            let alias = rig.map(&frames).unwrap();
            let (place, neighbours) = next_place(&rig, way, &frames);
            let (before, holders) = (rig.settled(), extra(&rig, &frames));
            for n in [0, 1, pages / 2, pages - 1] {
                let what = format!("{placement:?}, {}, page {n} of {pages}", way.name);
                let page = place.add_pages(n);
                poke(&rig, page, Some(foreign));
                assert_eq!((way.make)(&rig, &frames), Err(AllocError::InUse(page)), "{what}");
                assert_eq!(rig.sim.entry(page, 1), Entry::Leaf { frame: foreign, prot: Prot::RW }, "{what}: T2");
                poke(&rig, page, None);
                assert_eq!(rig.complaints(), [""; 0], "{what}");
                let after = rig.settled();
                assert_eq!(
                    (after.free + after.held, &after.areas),
                    (before.free + before.held, &before.areas),
                    "{what}"
                );
                assert_eq!(extra(&rig, &frames), holders, "{what}: holders are left");
                let again = (way.make)(&rig, &frames);
                assert_eq!(again.map(addr), Ok(place), "{what}: nobody is there any more");
                (way.undo)(&rig, again.unwrap(), pages);
                rig.purge();
                assert_eq!(rig.complaints(), [""; 0], "{what}: again");
            }
            neighbours.into_iter().for_each(|area| (way.undo)(&rig, area, pages));
            rig.unmap(alias).unwrap();
            rig.give_frames(&frames);
            rig.give_frames(&[foreign]);
        }
    }
}

#[test]
fn a_mapping_of_frames_with_and_without_descriptors_leaves_no_holders_behind() {
    let rig = boot(quiet(1).bank(DEVICE), Config::region(REGION));
    let held = rig.frames(5);
    let mixed = [&held[..], &[DEVICE.first]].concat();
    // A neighbour, for which chunk and tables stay at hand.
    rig.alloc(Req::pages(mixed.len())).unwrap();
    for _ in 0..3 {
        // Whether such a mixture is served or refused: it leaves nothing.
        if let Ok(area) = rig.map(&mixed) {
            rig.unmap(area).unwrap();
        }
        rig.purge();
        assert_eq!(extra(&rig, &held), [0; 5]);
    }
    rig.give_frames(&held);
}

#[test]
fn a_mapping_clears_nothing_whatever_its_request_says() {
    let zero = Req::bytes(0).gfp(Gfp::KERNEL | Gfp::ZERO);
    for placement in [Placement::Classes, Placement::Lowest] {
        for pages in [3, 100] {
            let rig = boot(quiet(1), Config::region(REGION).placement(placement));
            let frames = rig.frames(pages);
            let first = rig.map(&frames).unwrap();
            rig.stamp(first, pages, 5);
            for _ in 0..2 {
                // SAFETY: P1: they are held.
                let second = unsafe { rig.vmap(&frames, zero.clone()) }.unwrap();
                rig.check_stamps(0, second, pages, 5);
                rig.unmap(second).unwrap();
            }
            rig.unmap(first).unwrap();
            // SAFETY: P2: they are the caller's to give.
            let owned = unsafe { rig.vmap_owned(&frames, zero.clone()) }.unwrap();
            rig.check_stamps(0, owned, pages, 5);
            rig.give(owned).unwrap();
        }
    }
}

#[test]
fn t2_an_area_whose_table_is_written_over_while_it_is_made_is_refused_or_whole() {
    for n in 0..12 {
        let always = vmalloc_sim::Rates { interrupt: 1, ..vmalloc_sim::Rates::NEVER };
        let rig = boot(quiet(1).rates(always), Config::region(REGION).placement(Placement::Lowest));
        // A neighbour, for which the table stays.
        rig.alloc(Req::pages(1)).unwrap();
        let place = rig.alloc(Req::pages(200)).unwrap();
        rig.give(place).unwrap();
        rig.purge();
        let (sim, at, moments) = (rig.sim.clone(), addr(place), std::sync::atomic::AtomicUsize::new(0));
        rig.set_interrupt(move |_, _| {
            if moments.fetch_add(1, Relaxed) == n {
                sim.poke(at, 2, X86_64::ABSENT);
            }
        });
        let made = rig.alloc(Req::pages(200));
        rig.set_interrupt(|_, _| {});
        if let Ok(area) = made {
            let lost = (0..200).filter(|&page| rig.frame_at(page_of(area, page).0).is_none()).count();
            let linked = rig.sim.entry(addr(place), 2);
            assert!(lost == 0 || linked == Entry::Absent, "moment {n}: {lost} pages are not mapped");
        }
        // What was under the table is lost.
        std::mem::forget(rig);
    }
}
