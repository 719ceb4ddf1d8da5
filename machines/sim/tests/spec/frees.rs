//! Frees: from wherever they come, and those that must be refused.
//!
//! A free that is refused is named by its error and changes nothing.

use crate::common::{At, PAGE, REGION, Rig, addr, at, boot, busy, lines_up, page_of, place, quiet, rig};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use vmalloc::area::Guard;
use vmalloc::machine::Context;
use vmalloc::machine::format::MemType;
use vmalloc::units::{Pfn, VirtAddr};
use vmalloc::{AllocError, Caller, Config, FreeError, Kind, Placement, Req, What};
use vmalloc_sim::{Bank, Rates};

/// The free is refused with an error that `is` the right one, and nothing
/// changes.
#[track_caller]
fn refused(rig: &Rig, free: impl FnOnce() -> Result<(), FreeError>, is: impl FnOnce(&FreeError) -> bool) {
    let before = rig.picture();
    let error = free().expect_err("a free that must be refused");
    assert!(is(&error), "{error:?}");
    assert_eq!(rig.picture(), before, "{error}");
    assert_eq!(rig.check(), Ok(()));
}

/// One of the frees that an instance has.
type Free = fn(&Rig, At) -> Result<(), FreeError>;

fn is_double(error: &FreeError) -> bool {
    matches!(error, FreeError::DoubleFree { .. })
}

/// Pages of areas that are freed in one section, in several, and with a run
/// of their own.
const SIZES: [usize; 5] = [1, 128, 129, 512, 700];

#[test]
fn a_double_free_is_refused_from_wherever_the_two_come() {
    for pages in SIZES {
        for (first, second) in [(0, 0), (1, 0), (0, 1), (1, 1), (1, 2)] {
            let rig = rig(3);
            let neighbour = rig.alloc(Req::pages(pages)).unwrap();
            let at = rig.alloc(Req::pages(pages)).unwrap();
            rig.sim.on(first, || rig.give(at)).unwrap();
            rig.sim.set_cpu(second);
            refused(&rig, || rig.give(at), is_double);
            // The owner has seen the first free now.
            rig.sim.on(0, || rig.tick());
            refused(&rig, || rig.give(at), is_double);
            rig.stamp(neighbour, pages, 9);
        }
    }
}

#[test]
fn a_double_free_names_who_allocated_and_who_freed() {
    let rig = rig(2);
    let at = rig.alloc(Req::bytes(5000)).unwrap();
    let allocated = lines_up(1);
    rig.sim.on(1, || rig.give(at)).unwrap();
    let freed = lines_up(1);
    let Err(FreeError::DoubleFree { start, was }) = rig.give(at) else { panic!("freed twice") };
    assert_eq!((start, was.start, was.bytes), (addr(at), addr(at), 5000));
    assert_eq!((place(was.caller), was.freer.map(place)), (allocated, Some(freed)));
}

#[test]
fn after_a_purge_a_double_free_is_still_one_while_its_neighbours_live() {
    let rig = rig(1);
    let areas: Vec<_> = (0..4).map(|_| rig.alloc(Req::pages(3)).unwrap()).collect();
    rig.give(areas[1]).unwrap();
    rig.purge();
    refused(&rig, || rig.give(areas[1]), is_double);
    areas.iter().enumerate().filter(|(n, _)| *n != 1).for_each(|(_, &area)| rig.give(area).unwrap());
    rig.purge();
    // Now the addresses are nobody's any more, and the chunk is given up: the last frees are remembered.
    assert_eq!(rig.stats().counts.chunks_released, 1);
    for &area in &areas {
        refused(&rig, || rig.give(area), is_double);
    }
}

#[test]
fn after_a_purge_a_use_and_a_double_free_name_who_allocated_and_who_freed() {
    for placement in [Placement::Classes, Placement::Lowest] {
        let rig = boot(busy(2), Config::region(REGION).placement(placement));
        for pages in SIZES {
            let area = rig.alloc(Req::pages(pages)).unwrap();
            let allocated = lines_up(1);
            rig.sim.on(1, || rig.give(area)).unwrap();
            let freed = lines_up(1);
            rig.purge();
            let inside = page_of(area, pages - 1).0 + 7;
            let What::Freed { was, flushed: true } = rig.whatis(inside) else { panic!("{}", rig.whatis(inside)) };
            assert_eq!((was.start, was.pages, place(was.caller)), (addr(area), pages, allocated));
            assert_eq!(was.freer.map(place), Some(freed));
            let Err(FreeError::DoubleFree { start, was: told }) = rig.give(area) else { panic!("freed twice") };
            assert_eq!((start, told), (addr(area), was));
        }
    }
}

#[test]
fn the_last_32_frees_are_remembered_and_no_memory_is_taken_for_it() {
    let rig = boot(quiet(1), Config::region(REGION).placement(Placement::Lowest));
    let areas: Vec<_> = (0..40).map(|_| rig.alloc(Req::pages(1)).unwrap()).collect();
    let before = rig.stats().bookkeeping_frames;
    for &area in &areas {
        rig.give(area).unwrap();
        rig.purge();
    }
    assert_eq!(rig.stats().bookkeeping_frames, before);
    let told = areas.iter().map(|&area| is_double(&rig.give(area).unwrap_err()));
    assert!(told.eq((0..40).map(|n| n >= 8)));
    assert_eq!(rig.whatis(addr(areas[7]).0), What::Free);
    assert!(matches!(rig.whatis(addr(areas[8]).0), What::Freed { flushed: true, .. }));
}

#[test]
fn what_a_header_told_in_an_earlier_life_is_told_of_no_other_address() {
    let rig = boot(quiet(1), Config::region(REGION));
    let areas: Vec<_> = (0..20).map(|_| rig.alloc(Req::pages(1)).unwrap()).collect();
    areas.iter().for_each(|&area| rig.give(area).unwrap());
    rig.purge();
    // The header serves slots of three pages now, of which one was used.
    let _live = rig.alloc(Req::pages(3)).unwrap();
    let never = REGION.start + (1 << 18) + 4 * PAGE * 12;
    refused(&rig, || rig.give(at(never)), |error| *error == FreeError::NotAnArea(VirtAddr(never)));
    assert_eq!(rig.whatis(never + 9), What::Free);
}

#[test]
fn a_free_after_reuse_frees_the_new_area_once() {
    // Whose pointer it is cannot be told: what counts is that books balance.
    let rig = boot(quiet(1), Config::region(REGION));
    let _neighbour = rig.alloc(Req::pages(1)).unwrap();
    let old = rig.alloc(Req::pages(1)).unwrap();
    rig.give(old).unwrap();
    rig.purge();
    let new = (0..64).map(|_| rig.alloc(Req::pages(1)).unwrap()).find(|&new| new == old);
    assert_eq!(new, Some(old), "the slot comes around");
    rig.give(old).unwrap();
    refused(&rig, || rig.give(old), is_double);
}

#[test]
fn an_interior_address_is_refused_and_told_its_start() {
    let rig = rig(2);
    for pages in SIZES {
        let area = rig.alloc(Req::pages(pages)).unwrap();
        for inside in [1, 8, 4095, PAGE * (pages - 1) + 4095] {
            let inner = VirtAddr(addr(area).0 + inside);
            let told = FreeError::NotItsStart { addr: inner, start: addr(area) };
            refused(&rig, || rig.give(at(inner.0)), |error| *error == told);
        }
        rig.stamp(area, pages, 3);
        rig.sim.on(1, || rig.give(area)).unwrap();
    }
}

#[test]
fn guards_foreign_addresses_and_those_never_handed_out_are_no_areas() {
    let rig = rig(1);
    let area = rig.alloc(Req::pages(2)).unwrap();
    let guard = page_of(area, 2).0;
    let never = [guard, guard + 4095, REGION.end - PAGE, REGION.start + (7 << 30)];
    let foreign = [1, PAGE, REGION.start - 1, REGION.end, usize::MAX];
    for address in never.into_iter().chain(foreign) {
        refused(&rig, || rig.give(at(address)), |error| *error == FreeError::NotAnArea(VirtAddr(address)));
        refused(&rig, || rig.unmap(at(address)), |error| *error == FreeError::NotAnArea(VirtAddr(address)));
    }
    rig.give(area).unwrap();
}

#[test]
fn each_kind_has_its_own_free_and_the_others_refuse_it() {
    let device = Bank { first: Pfn(1 << 20), frames: 8, node: None };
    let rig = boot(busy(1).node(64 << 20).bank(device), Config::region(REGION));
    let frames = rig.frames(2);
    let owned = rig.frames(2);
    let like = || Req::bytes(0);
    // SAFETY: P1, P2, P4: the frames are this test's, and `owned` is given away.
    let (mapped, taken, ram) =
        unsafe { (rig.vmap(&frames, like()), rig.vmap_owned(&owned, like()), rig.map_ram(&frames, None)) };
    let areas: [(At, Kind); 7] = [
        (rig.alloc(Req::pages(2)).unwrap(), Kind::Vmalloc),
        (rig.alloc(Req::stack(2)).unwrap(), Kind::Stack),
        (taken.unwrap(), Kind::VmapOwned),
        (rig.reserve(Req::pages(2)).unwrap(), Kind::Reserved),
        (mapped.unwrap(), Kind::Vmap),
        (ram.unwrap(), Kind::MapRam),
        (rig.ioremap(device.first.phys(), 2 * PAGE, MemType::Uncached).unwrap(), Kind::Ioremap),
    ];
    let right = |kind| match kind {
        Kind::Vmap => 1,
        Kind::MapRam => 2,
        Kind::Ioremap => 3,
        _ => 0,
    };
    let frees: [Free; 4] = [Rig::give, Rig::unmap, |rig, area| rig.unmap_pages(area, 2), Rig::unmap_device];
    for (area, kind) in areas {
        for (_, free) in frees.iter().enumerate().filter(|(n, _)| *n != right(kind)) {
            refused(&rig, || free(&rig, area), |error| *error == FreeError::WrongKind(kind));
        }
    }
    for (area, kind) in areas {
        frees[right(kind)](&rig, area).unwrap();
    }
    rig.give_frames(&frames);
}

#[test]
fn a_mapping_is_undone_with_its_own_page_count_only() {
    let rig = rig(1);
    let frames = rig.frames(3);
    // SAFETY: P4: the frames are this test's.
    let area = unsafe { rig.map_ram(&frames, None) }.unwrap();
    for given in [0, 1, 2, 4, usize::MAX] {
        let told = FreeError::WrongSize { pages: 3, given };
        refused(&rig, || rig.unmap_pages(area, given), |error| *error == told);
    }
    rig.unmap_pages(area, 3).unwrap();
    refused(&rig, || rig.unmap_pages(area, 3), is_double);
    rig.give_frames(&frames);
}

#[test]
fn double_frees_of_areas_with_runs_of_their_own_are_refused() {
    let rig = boot(busy(2), Config::region(REGION).placement(Placement::Lowest));
    for pages in SIZES {
        let area = rig.alloc(Req::pages(pages)).unwrap();
        let bare = rig.reserve(Req::pages(pages).guard(Guard::None)).unwrap();
        rig.sim.on(1, || rig.give(area)).unwrap();
        refused(&rig, || rig.give(area), is_double);
        rig.give(bare).unwrap();
        refused(&rig, || rig.sim.on(1, || rig.give(bare)), is_double);
        rig.purge();
        refused(&rig, || rig.give(area), is_double);
    }
}

#[test]
fn a_free_on_behalf_of_a_caller_names_that_caller() {
    let rig = rig(1);
    let area = rig.alloc(Req::pages(1).caller(Caller::Return(0x1234))).unwrap();
    // SAFETY: V1: simulated memory.
    let free = |by| unsafe { rig.free_by(area, Caller::Return(by)) };
    free(0x5678).unwrap();
    let Err(FreeError::DoubleFree { was, .. }) = free(0x9abc) else { panic!("freed twice") };
    assert_eq!((was.caller, was.freer), (Caller::Return(0x1234), Some(Caller::Return(0x5678))));
}

#[test]
fn a_reservation_of_any_size_is_freed_for_good() {
    let rig = rig(2);
    let nothing = rig.settled();
    for pages in SIZES {
        for cpu in [0, 1] {
            let area = rig.reserve(Req::pages(pages)).unwrap();
            rig.sim.on(cpu, || rig.give(area)).unwrap();
            assert_eq!(rig.settled().reserved, nothing.reserved, "{pages} pages, freed on CPU {cpu}");
        }
    }
}

#[test]
fn frees_from_interrupts_anywhere_keep_the_books() {
    let often = Rates { interrupt: 4, ..Rates::USUAL };
    let rig = boot(busy(2).rates(often), Config::region(REGION));
    let list: Arc<Mutex<Vec<(usize, usize)>>> = Arc::default();
    let (freed, due) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&list));
    let count = Arc::clone(&freed);
    rig.set_interrupt(move |vm, _| {
        let next = due.lock().unwrap().pop();
        if let Some((address, _)) = next {
            // SAFETY: V1: the list holds areas that nobody uses any more.
            unsafe { vm.free(at(address)) }.expect("a live area");
            count.fetch_add(1, Relaxed);
        }
    });
    for round in 0..600 {
        rig.sim.set_cpu(round as u32 % 2);
        let pages = 1 + round * 31 % 150;
        let area = rig.alloc(Req::pages(pages)).expect("memory enough");
        rig.stamp(area, pages, round as u64);
        rig.check_stamps(1 - round as u32 % 2, area, pages, round as u64);
        list.lock().unwrap().push((addr(area).0, pages));
        rig.sim.step();
        if round % 50 == 0 {
            rig.tick();
        }
    }
    assert!(freed.load(Relaxed) > 300, "only {} of 600 were freed by interrupts", freed.load(Relaxed));
    rig.set_interrupt(|_, _| {});
    assert_eq!(rig.stats().areas, list.lock().unwrap().len());
    assert_eq!(rig.check(), Ok(()));
}

#[test]
fn what_another_cpu_freed_is_usable_after_ticks_of_its_owner() {
    let rig = boot(quiet(2), Config::region(REGION).batch_pages(8));
    let areas: Vec<_> = (0..63).map(|_| rig.alloc(Req::pages(1)).unwrap()).collect();
    let _last = rig.alloc(Req::pages(1)).unwrap();
    let chunks = rig.stats().counts.chunks_made;
    rig.sim.on(1, || areas.iter().for_each(|&area| rig.give(area).unwrap()));
    assert_eq!((rig.stats().areas, rig.stats().waiting_pages), (1, 63), "they lie among the owner's remote frees");
    for _ in 0..8 {
        rig.tick();
        rig.sim.serve_kicks();
    }
    assert_eq!(rig.stats().waiting_pages, 0);
    assert_eq!(rig.stats().counts.reclaimed, 63);
    for _ in 0..20 {
        rig.alloc(Req::pages(1)).unwrap();
    }
    assert_eq!(rig.stats().counts.chunks_made, chunks, "the old slots served");
}

#[test]
fn areas_of_an_offline_cpu_are_freed_and_purged_by_others() {
    let rig = boot(busy(2), Config::region(REGION));
    let nothing = rig.settled();
    rig.sim.set_cpu(1);
    let areas: Vec<_> = SIZES.iter().map(|&pages| rig.alloc(Req::pages(pages)).unwrap()).collect();
    let left_waiting = rig.alloc(Req::pages(9)).unwrap();
    rig.give(left_waiting).unwrap();
    rig.sim.set_cpu(0);
    rig.sim.offline(1, || rig.cpu_offline());
    for area in areas {
        rig.give(area).unwrap();
        refused(&rig, || rig.give(area), is_double);
    }
    let settled = rig.settled();
    assert_eq!((settled.waiting, settled.pages), (0, 0));
    assert_eq!(settled.free + settled.held, nothing.free + nothing.held);
    assert_eq!(settled.reserved, nothing.reserved);
    rig.sim.online(1, || rig.cpu_online());
}

#[test]
fn an_nmi_inside_a_call_may_look_and_free_but_not_allocate() {
    let rig = boot(quiet(1), Config::region(REGION));
    rig.alloc(Req::pages(1)).unwrap();
    let refused = Arc::new(AtomicUsize::new(0));
    for n in 1..40 {
        let victim = rig.alloc(Req::pages(3)).unwrap();
        let (address, refusals) = (addr(victim).0, Arc::clone(&refused));
        let before = rig.stats();
        rig.set_nmi(n, move |vm| {
            assert!(matches!(vm.whatis(address + 5), What::Inside { offset: 5, .. }), "looking is always allowed");
            let made = vm.alloc(Req::pages(1));
            match made {
                Err(AllocError::WrongContext(context)) => {
                    assert_eq!(context, Context::Nmi);
                    refusals.fetch_add(1, Relaxed);
                }
                // It came before or after the sections inside the CPU.
                // SAFETY: V1: the area is the handler's own.
                other => unsafe { vm.free(other.unwrap()) }.unwrap(),
            }
            // SAFETY: V1: nobody uses the area.
            unsafe { vm.free(at(address)) }.unwrap();
        });
        // A slot is at hand and frames are: no lock is taken.
        let area = rig.alloc(Req::pages(1)).unwrap();
        rig.set_nmi(0, |_| {});
        rig.give(area).unwrap();
        // The last rounds are over before the NMI comes.
        assert!(rig.give(victim).is_ok_and(|()| n > 8) || is_double(&rig.give(victim).unwrap_err()));
        assert_eq!((rig.stats().areas + 1, rig.stats().pages + 3), (before.areas, before.pages));
        rig.purge();
        assert_eq!(rig.check(), Ok(()));
        rig.give(rig.alloc(Req::pages(1)).unwrap()).unwrap();
    }
    assert!(refused.load(Relaxed) > 0, "no NMI came inside a call");
}

#[test]
fn g4_bare_addresses_that_wait_press_nobody() {
    for placement in [Placement::Classes, Placement::Lowest] {
        let rig = boot(quiet(2), Config::region(REGION).placement(placement).waiting_pages(100).batch_pages(64));
        // Runs of very many grains are one section yet.
        rig.sim.unbounded(|| {
            for (cpu, pages) in [(0, 1 << 20), (1, 1 << 20), (0, 300), (1, 300)] {
                let bare = rig.reserve(Req::pages(pages)).unwrap();
                rig.sim.on(cpu, || rig.give(bare)).unwrap();
                assert_eq!(rig.stats().waiting_pages, 0, "addresses are no memory");
            }
            (0..10).for_each(|_| _ = rig.alloc(Req::pages(1)).unwrap());
            assert_eq!((rig.stats().waiting_pages, rig.stats().counts.purges), (0, 0), "{placement:?}");
            // Memory does, as ever.
            let area = rig.alloc(Req::pages(120)).unwrap();
            rig.give(area).unwrap();
            assert_eq!(rig.stats().waiting_pages, 120);
            rig.alloc(Req::pages(1)).unwrap();
            assert!(rig.stats().counts.purges > 0);
            rig.purge();
        });
        assert_eq!(rig.check(), Ok(()));
    }
}

#[test]
fn g4_bare_addresses_that_wait_make_a_batch_as_pages_do() {
    let rig = boot(quiet(1), Config::region(REGION).batch_pages(64));
    let before = rig.stats().reserved_pages;
    for _ in 0..4_000 {
        rig.give(rig.reserve(Req::pages(5)).unwrap()).unwrap();
    }
    let (stats, counts) = (rig.stats(), rig.stats().counts);
    assert!(counts.closes > 4_000 * 5 / 64 / 2, "no tick has come, and {} batches were sealed", counts.closes);
    assert!(stats.reserved_pages - before < 4 * 384, "{} pages are out for one area", stats.reserved_pages - before);
    assert_eq!(rig.check(), Ok(()));
}

/// Areas of the largest size that one section frees, each in a chunk with no other of its batch.
#[test]
fn batches_of_large_areas_each_in_its_own_chunk_do_not_grow() {
    let rig = boot(quiet(1).node(512 << 20), Config::region(REGION).batch_pages(8 * 128));
    let mut areas: Vec<_> = (0..700).map(|_| rig.alloc(Req::pages(128)).unwrap()).collect();
    areas.sort();
    // By chunk, which is 16 MiB at most.
    let mut chunks = std::collections::BTreeMap::<usize, Vec<_>>::new();
    areas.into_iter().for_each(|area| chunks.entry(addr(area).0 >> 24).or_default().push(area));
    let mut most = 0;
    while chunks.values().any(|chunk| !chunk.is_empty()) {
        for area in chunks.values_mut().filter_map(Vec::pop) {
            rig.give(area).unwrap();
            most = most.max(rig.stats().waiting_pages / 128);
        }
    }
    assert!(most <= 10, "G4: {most} areas of a batch of 8 wait");
}

#[test]
fn all_frees_of_a_chunk_that_is_given_up_are_remembered() {
    let rig = rig(1);
    let areas: Vec<_> = (0..20).map(|_| rig.alloc(Req::pages(1)).unwrap()).collect();
    areas.iter().for_each(|&area| rig.give(area).unwrap());
    rig.purge();
    assert_eq!(rig.stats().counts.chunks_released, 1);
    areas.iter().for_each(|&area| refused(&rig, || rig.give(area), is_double));
}

/// The ring remembers areas of three pages; their addresses then serve more areas of one page than it
/// can remember.
#[test]
fn a_double_free_is_named_after_the_last_life_of_its_address() {
    for placement in [Placement::Classes, Placement::Lowest] {
        let rig = boot(quiet(1), Config::region(REGION).placement(placement));
        let first: Vec<_> = (0..8).map(|_| rig.alloc(Req::pages(3)).unwrap()).collect();
        first.iter().for_each(|&area| rig.give(area).unwrap());
        rig.purge();
        first.iter().for_each(|&area| refused(&rig, || rig.give(area), is_double));
        let second: Vec<_> = (0..50).map(|_| rig.alloc(Req::pages(1)).unwrap()).collect();
        second.iter().for_each(|&area| rig.give(area).unwrap());
        rig.purge();
        let again = second.iter().filter(|area| first.contains(area)).count();
        assert!(again > 2, "{again} addresses were used twice");
        for error in second.iter().filter_map(|&area| rig.give(area).err()) {
            let FreeError::DoubleFree { was, .. } = error else { continue };
            assert_eq!(was.pages, 1, "{was:?}");
        }
    }
}
