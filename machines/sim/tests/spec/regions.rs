//! Regions: where areas go, and the tables under them.

use crate::common::{At, PAGE, REGION, Rig, START, addr, boot, busy, page_of, quiet};
use vmalloc::area::{Guard, RegionId};
use vmalloc::gfp::Gfp;
use vmalloc::machine::Machine;
use vmalloc::machine::format::{Format, Prot};
use vmalloc::machine::frames::Frames;
use vmalloc::table::{X86_32, X86_64};
use vmalloc::units::{Pfn, VirtAddr};
use vmalloc::{AllocError, Config, InitError, Placement, Policy, RegionFault, Req, Vmalloc, What};
use vmalloc_sim::Sim;

/// A small generator, so that runs repeat.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }
}

#[test]
fn areas_come_from_the_region_that_was_asked_for() {
    let module = 0xffff_ffff_a000_0000..0xffff_ffff_c000_0000;
    let small = START - (1 << 40)..START - (1 << 40) + 192 * PAGE;
    let config = Config::region(REGION).add_region(module.clone());
    let rig = boot(busy(2), config.placement(Placement::Classes).add_region(small.clone()));
    let regions = [REGION, module, small];
    let mut live = Vec::new();
    for round in 0..60 {
        let id = round % 3;
        let area = rig.alloc(Req::pages(1 + round % 20).region(RegionId(id as u8)));
        let Ok(area) = area else { continue };
        assert!(regions[id].contains(&addr(area).0));
        assert_eq!(rig.find(addr(area).0).unwrap().region, RegionId(id as u8));
        rig.stamp(area, 1 + round % 20, round as u64);
        live.push((area, 1 + round % 20, round as u64));
    }
    live.iter().for_each(|&(area, pages, seed)| rig.check_stamps(1, area, pages, seed));
    // By address, whatever the order of the regions.
    let starts: Vec<_> = rig.areas().map(|info| info.start).collect();
    assert!(starts.is_sorted() && starts.len() == live.len());
    assert_eq!(rig.whatis(START - PAGE), What::NotOurs);
    assert_eq!(rig.whatis(REGION.end - 1), What::Free);
    live.into_iter().for_each(|(area, ..)| rig.give(area).unwrap());
    assert_eq!(rig.settled().reserved, 0);
}

#[test]
fn regions_that_make_no_sense_are_refused_at_init() {
    let sim = quiet(1).build();
    let vm: Vmalloc<Sim<X86_64>> = Vmalloc::new(sim.clone());
    for (config, error) in [
        (
            Config::region(START..START),
            InitError::BadRegion { why: RegionFault::NoGrain, start: VirtAddr(START), end: VirtAddr(START) },
        ),
        (Config::region(REGION).add_region(START + PAGE..START + PAGE * 999), InitError::Overlap(0, 1)),
    ] {
        // SAFETY: N1, N2: the machine is new, and nobody else has it.
        assert_eq!(unsafe { vm.init(config) }, Err(error));
    }
    drop(vm);
    sim.assert_no_leaks();
}

/// Which pages of a region are spoken for, page by page.
struct Pages(Vec<bool>);

impl Pages {
    /// The lowest page from which `pages` pages are free, at a multiple of
    /// `align` counted from address 0.
    fn lowest(&self, pages: usize, align: usize) -> Option<usize> {
        let first = START / PAGE;
        let fits = |&at: &usize| (first + at).is_multiple_of(align) && !self.0[at..at + pages].contains(&true);
        (0..=self.0.len().checked_sub(pages)?).find(fits)
    }

    fn set(&mut self, at: usize, pages: usize, taken: bool) {
        assert!(self.0[at..at + pages].iter().all(|&was| was != taken));
        self.0[at..at + pages].fill(taken);
    }
}

#[test]
fn the_lowest_placement_takes_the_lowest_hole_always() {
    // Strict, so that what was freed is a hole as soon as it is purged.
    const SIZE: usize = 700;
    let config = Config::region(START - PAGE..START + SIZE * PAGE).placement(Placement::Lowest).policy(Policy::Strict);
    let rig = boot(quiet(2), config);
    let (mut model, mut live, mut chance) = (Pages(vec![false; SIZE]), Vec::<(At, usize)>::new(), Chance(7));
    let (mut made, mut refused) = (0, 0);
    for round in 0..3000 {
        rig.sim.set_cpu(round % 2);
        if chance.below(100) < 55 {
            let (pages, align) = (1 + chance.below(40), 1 << chance.below(6));
            let guard = if chance.below(3) == 0 { Guard::None } else { Guard::After };
            let room = pages + (guard == Guard::After) as usize;
            let expected = model.lowest(room, align);
            let area = rig.reserve(Req::pages(pages).align(align * PAGE).guard(guard));
            match (area, expected) {
                (Ok(area), Some(at)) => {
                    assert_eq!((addr(area).0 - START) / PAGE, at, "{room} pages at a multiple of {align}");
                    model.set(at, room, true);
                    live.push((area, room));
                    made += 1;
                }
                (Err(AllocError::NoAddresses { pages, widest }), None) => {
                    assert_eq!(pages, room);
                    assert!(align > 1 || widest < room);
                    refused += 1;
                }
                (got, expected) => panic!("{got:?}, where the model says {expected:?}"),
            }
        } else if !live.is_empty() {
            let (area, room) = live.swap_remove(chance.below(live.len()));
            rig.give(area).unwrap();
            rig.purge();
            model.set((addr(area).0 - START) / PAGE, room, false);
        }
        assert_eq!(rig.stats().reserved_pages, model.0.iter().filter(|&&taken| taken).count());
        if round % 100 == 0 {
            assert_eq!(rig.check(), Ok(()));
        }
    }
    assert!(made > 500 && refused > 50, "{made} made, {refused} refused");
}

#[test]
fn the_layout_of_a_32_bit_kernel_serves_high_memory() {
    // The sample layout: vmalloc from 0xf7bfe000 to 0xff3fe000, 1 GiB of
    // address space for the kernel, and memory beyond the direct mapping.
    let region = 0xf7bf_e000..0xff3f_e000;
    let highmem = Pfn(16 << 8);
    for placement in [Placement::Lowest, Placement::Classes] {
        let machine = Sim::<X86_32>::builder().cpus(2).seed(3).node(64 << 20).highmem(highmem);
        let rig = boot(machine, Config::region(region.clone()).placement(placement));
        let area = rig.alloc(Req::pages(300)).unwrap();
        if placement == Placement::Lowest {
            assert_eq!(addr(area).0, region.start + PAGE, "the lowest hole begins at the second page");
        }
        let high = (0..300).filter(|&page| rig.frame_at(page_of(area, page).0).unwrap() >= highmem).count();
        assert!(high > 250, "{high} of 300 pages are high memory");
        rig.stamp(area, 300, 1);
        rig.check_stamps(1, area, 300, 1);
        // Clearing works without a direct mapping.
        for prot in [Prot::RW, Prot::RO] {
            let clear = rig.alloc(Req::pages(40).zeroed().prot(prot)).unwrap();
            let mut bytes = vec![1; 40 * PAGE];
            rig.sim.read_bytes(1, addr(clear), &mut bytes).unwrap();
            assert!(bytes.iter().all(|&byte| byte == 0));
        }
        let frame = rig.alloc_frame(Gfp::KERNEL | Gfp::HIGHMEM | Gfp::ZERO, None).unwrap();
        assert!(frame < highmem, "who wants it clear wants a direct mapping");
        rig.give_frames(&[frame]);
        rig.give(area).unwrap();
        assert_eq!(rig.check(), Ok(()));
        // All of the region can be used, to its last page.
        let mut made = Vec::new();
        while let Ok(area) = rig.reserve(Req::pages(1000)) {
            made.push(area);
        }
        let pages = (region.end - region.start) / PAGE;
        assert!(made.len() >= pages / 1024 - 1, "{} of {}", made.len(), pages / 1024);
        rig.sim.assert_faults(0, VirtAddr(region.end));
    }
}

#[test]
fn five_levels_reach_where_four_do_not() {
    let start = 0xffa0_0000_0000_0000;
    let machine = quiet(2).levels(5);
    let rig = boot(machine, Config::region(start..start + (1 << 46)));
    let far = start + (1 << 45)..start + (1 << 46);
    let area = rig.alloc(Req::pages(70)).unwrap();
    let other = rig.alloc(Req::pages(70).within(far.clone())).unwrap();
    assert!(far.contains(&addr(other).0));
    rig.stamp(area, 70, 1);
    rig.stamp(other, 70, 2);
    rig.check_stamps(1, area, 70, 1);
    rig.check_stamps(1, other, 70, 2);
    assert_eq!(rig.check(), Ok(()));
}

/// Pages under a leaf table.
fn span<F: Format>() -> usize {
    1 << F::INDEX_BITS
}

#[test]
fn tables_with_nothing_under_them_go_and_are_made_again() {
    for placement in [Placement::Classes, Placement::Lowest] {
        let rig = boot(busy(3), Config::region(REGION).placement(placement));
        let (mut most, mut least) = (0, usize::MAX);
        for round in 0..12 {
            rig.sim.set_cpu(round % 3);
            let area = rig.alloc(Req::pages(5 * span::<X86_64>())).unwrap();
            rig.stamp(area, 5 * span::<X86_64>(), round as u64);
            rig.check_stamps((round + 1) % 3, area, 5 * span::<X86_64>(), round as u64);
            most = most.max(rig.stats().table_frames);
            rig.give(area).unwrap();
            rig.purge();
            least = least.min(rig.stats().table_frames);
            assert_eq!(rig.check(), Ok(()));
        }
        assert!(most >= least + 4, "from {least} to {most} tables");
        assert!(rig.stats().counts.tables_pruned >= 12 * 4);
        assert_eq!(rig.stats().reserved_pages, 0);
    }
}

#[test]
fn a_table_stays_while_anything_is_left_under_it() {
    let rig = boot(quiet(1), Config::region(REGION).placement(Placement::Lowest));
    // One table: a big area and a small one at its end.
    let big = rig.alloc(Req::pages(span::<X86_64>() - 5)).unwrap();
    let small = rig.alloc(Req::pages(2)).unwrap();
    assert_eq!(addr(small).0 / (PAGE * span::<X86_64>()), addr(big).0 / (PAGE * span::<X86_64>()));
    rig.stamp(small, 2, 4);
    rig.give(big).unwrap();
    rig.purge();
    assert_eq!(rig.stats().counts.tables_pruned, 0);
    rig.check_stamps(0, small, 2, 4);
    rig.give(small).unwrap();
    rig.purge();
    assert_eq!(rig.stats().counts.tables_pruned, 1);
}

#[test]
fn empty_chunks_are_given_up_with_time_or_at_once_by_a_purge() {
    let rig = boot(quiet(1), Config::region(REGION));
    let areas: Vec<_> = (0..2000).map(|_| rig.alloc(Req::pages(3)).unwrap()).collect();
    let chunks = rig.stats().counts.chunks_made;
    assert!(chunks > 20);
    areas.into_iter().for_each(|area| rig.give(area).unwrap());
    for _ in 0..400 {
        rig.tick();
    }
    let released = rig.stats().counts.chunks_released;
    assert!(released > chunks / 2 && released < chunks, "{released} of {chunks}: some are kept for the next");
    rig.purge();
    assert_eq!((rig.stats().counts.chunks_released, rig.stats().reserved_pages), (chunks, 0));
}

#[test]
fn a_region_smaller_than_a_chunk_serves_what_fits() {
    for (pages, placement) in [(64, Placement::Classes), (192, Placement::Classes), (10, Placement::Lowest)] {
        let rig = boot(busy(1), Config::region(START - PAGE..START + pages * PAGE).placement(placement));
        let full: Vec<_> =
            std::iter::from_fn(|| rig.alloc(Req::pages(3).gfp(Gfp::KERNEL | Gfp::NOWARN)).ok()).collect();
        assert!(full.len() >= (pages / 64).max(1), "{} in {pages} pages", full.len());
        full.iter().for_each(|&area| rig.stamp(area, 3, 1));
        full.into_iter().for_each(|area| rig.give(area).unwrap());
        let whole = rig.alloc(Req::pages(pages - 1)).expect("all of it, with the guard");
        rig.stamp(whole, pages - 1, 2);
        let bytes = pages * PAGE;
        let refused = rig.alloc(Req::pages(pages));
        assert_eq!(refused, Err(AllocError::TooLarge { bytes, limit: bytes - PAGE }));
        rig.give(whole).unwrap();
        assert!(rig.alloc(Req::pages(pages).guard(Guard::None)).is_ok());
    }
}

#[test]
fn a_region_need_not_begin_or_end_at_a_unit() {
    let region = START + 3 * PAGE..START + (64 * 7 + 5) * PAGE;
    let rig = boot(busy(1), Config::region(region.clone()));
    let whole = rig.alloc(Req::pages(10).within(region.clone())).expect("the region is a range of itself");
    assert!(region.contains(&addr(whole).0));
    let mut made = Vec::new();
    while let Ok(area) = rig.alloc(Req::pages(40).gfp(Gfp::KERNEL | Gfp::NOWARN)) {
        assert!(addr(area).0 >= region.start && page_of(area, 41).0 <= region.end);
        rig.stamp(area, 40, 3);
        made.push(area);
    }
    assert!(made.len() >= 5);
    for odd in [START + 2 * PAGE..region.end, region.start..region.end + PAGE] {
        let told = AllocError::BadRange { start: VirtAddr(odd.start), end: VirtAddr(odd.end) };
        assert_eq!(rig.alloc(Req::pages(1).within(odd)), Err(told));
    }
    // A range without a whole unit has no room for anything.
    let narrow = rig.alloc(Req::pages(1).within(region.start..region.start + 9 * PAGE));
    assert!(matches!(narrow, Err(AllocError::NoAddresses { .. })), "{narrow:?}");
    assert_eq!(rig.check(), Ok(()));
}

#[test]
fn somebody_else_s_entry_in_the_region_is_told_and_left_alone() {
    let rig = boot(quiet(1), Config::region(REGION).placement(Placement::Lowest));
    let area = rig.alloc(Req::pages(1)).unwrap();
    let frame = rig.frames(1)[0];
    let foreign = page_of(area, 5);
    rig.sim.poke(foreign, 1, X86_64::leaf(frame, Prot::RW, Default::default(), 1));
    let refused = rig.alloc(Req::pages(8));
    assert_eq!(refused, Err(AllocError::InUse(foreign)));
    assert!(rig.sim.frames().free_now() > 0);
    rig.sim.poke(foreign, 1, X86_64::ABSENT);
    rig.purge();
    assert_eq!(rig.alloc(Req::pages(8)).map(addr), Ok(page_of(area, 2)));
    rig.give_frames(&[frame]);
}

/// Areas of `pages` pages that are reserved until there is no address left for one.
fn reserve_all(rig: &Rig, req: impl Fn() -> Req) -> Vec<At> {
    core::iter::from_fn(|| rig.reserve(req()).ok()).collect()
}

#[test]
fn a_part_of_a_region_is_filled_and_whole_again_when_its_areas_have_gone() {
    let part = START + (64 << 20)..START + (80 << 20);
    for placement in [Placement::Lowest, Placement::Classes] {
        for pages in [1, 4, 8, 20, 63] {
            let rig = boot(quiet(2), Config::region(START..START + (1 << 30)).placement(placement));
            let held = reserve_all(&rig, || Req::pages(pages).within(part.clone()));
            let fit = 4096 / (pages + 1);
            assert!(held.len() * 10 >= fit * 9, "{placement:?}: {} of {fit} areas of {pages} pages", held.len());
            assert!(held.iter().all(|&at| part.contains(&addr(at).0) && part.contains(&(addr(at).0 + pages * PAGE))));
            held.into_iter().for_each(|at| rig.give(at).unwrap());
            rig.purge();
            let whole = rig.reserve(Req::bytes(15 << 20).within(part.clone())).unwrap();
            rig.give(whole).unwrap();
            assert_eq!(rig.settled().reserved, 0);
        }
    }
}

#[test]
fn what_lies_between_aligned_areas_serves_small_ones() {
    for placement in [Placement::Lowest, Placement::Classes] {
        let rig = boot(quiet(1), Config::region(START..START + (64 << 20)).placement(placement));
        let large = reserve_all(&rig, || Req::pages(600).align(2 << 20));
        let small = reserve_all(&rig, || Req::pages(4));
        let fit = ((64 << 20) / PAGE - large.len() * 601) / 5;
        assert!(small.len() * 10 >= fit * 8, "{placement:?}: {} of {fit} beside {}", small.len(), large.len());
        large.into_iter().chain(small).for_each(|at| rig.give(at).unwrap());
        assert_eq!(rig.settled().reserved, 0);
    }
}
