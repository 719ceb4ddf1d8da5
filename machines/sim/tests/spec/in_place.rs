//! A machine without aliases whose CPUs have TLBs: each page is its own frame, what was stored in it is
//! lost when it is unmapped, and a CPU that has not flushed still reaches it.

use std::ptr::NonNull;
use vmalloc::machine::Machine;
use vmalloc::table::X86_64;
use vmalloc::units::{PAGE_SIZE, PageRange, VirtAddr};
use vmalloc::{Config, Placement, Policy, Req};
use vmalloc_sim::{Booted, Rates, Sim};

/// Where the region starts: entries can name these pages as frames.
const START: usize = 1 << 32;
const PAGES: usize = 16_384;

/// An area: its address, its pages, and what its first words say.
type Area = (NonNull<u8>, usize, u64);

struct World {
    sim: Sim<X86_64>,
    vm: Booted<X86_64, false>,
    areas: Vec<Area>,
    random: u64,
}

fn words((at, pages, _): Area) -> impl Iterator<Item = VirtAddr> {
    (0..pages).map(move |page| VirtAddr(at.addr().get()).add_pages(page))
}

impl World {
    fn new(cpus: u32, config: Config, rates: Rates) -> World {
        let window = PageRange::new(VirtAddr(START), PAGES);
        let sim = Sim::builder().cpus(cpus).seed(cpus as u64).rates(rates).node(64 << 20);
        let sim = sim.windows([window], PAGES / 4).build();
        let vm = Booted::new(sim.for_instance::<false>(), config).expect("memory for the bookkeeping");
        vm.set_interrupt(|vm, _| _ = vm.tick());
        World { sim, vm, areas: Vec::new(), random: 1 }
    }

    fn below(&mut self, n: usize) -> usize {
        self.random = self.random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.random >> 33) as usize % n
    }

    fn make(&mut self, cpu: u32) {
        let pages = if self.below(20) == 0 { 60 + self.below(150) } else { 1 + self.below(9) };
        let zeroed = self.below(2) == 0;
        let req = Req::pages(pages);
        let Ok(at) = self.vm.alloc(if zeroed { req.zeroed() } else { req }) else { return };
        let area = (at, pages, self.random);
        let is_clear = zeroed || matches!(self.vm.policy(), Policy::Unmap | Policy::Strict);
        for word in words(area) {
            let found = self.sim.load(cpu, word).expect("a live page");
            assert!(found == 0 || !is_clear, "{word} of {pages} pages holds {found:#x}");
            self.sim.store(cpu, word, area.2 ^ word.0 as u64).expect("a live page");
        }
        self.sim.assert_faults(cpu, VirtAddr(at.addr().get()).add_pages(pages));
        self.areas.push(area);
    }

    fn end(&mut self, cpu: u32) {
        if self.areas.is_empty() {
            return;
        }
        let n = self.below(self.areas.len());
        let area = self.areas.swap_remove(n);
        for word in words(area) {
            assert_eq!(self.sim.load(cpu, word), Ok(area.2 ^ word.0 as u64), "somebody else's bytes at {word}");
        }
        // SAFETY: V1: the simulator judges each use.
        unsafe { self.vm.free(area.0) }.expect("it lives");
        if self.vm.policy() == Policy::Strict {
            words(area)
                .for_each(|word| (0..self.vm.machine().cpus()).for_each(|cpu| self.sim.assert_faults(cpu, word)));
        }
    }

    fn act(&mut self) {
        let cpu = self.below(self.vm.machine().cpus() as usize) as u32;
        let sim = self.sim.clone();
        sim.on(cpu, || match self.below(100) {
            0..46 => self.make(cpu),
            46..90 => self.end(cpu),
            90..98 => _ = self.vm.tick(),
            98 => _ = self.vm.work(),
            _ => _ = self.vm.purge(),
        });
        sim.step();
    }

    /// Everything is freed, and given back.
    fn finish(mut self) {
        while !self.areas.is_empty() {
            self.end(self.sim.cpu());
        }
        self.vm.purge();
        self.sim.audit();
        assert_eq!(self.sim.unbounded(|| self.vm.check()), Ok(()));
        let all = self.sim.unbounded(|| self.vm.alloc(Req::pages(PAGES / 4))).expect("all pages were given back");
        // SAFETY: V1, as above.
        self.sim.unbounded(|| unsafe { self.vm.free(all) }).expect("it lives");
        self.vm.set_interrupt(|_, _| ());
        drop(self.vm);
        self.sim.assert_no_leaks();
    }
}

#[test]
fn pages_in_place_are_clear_and_nobody_elses_on_cpus_that_remember() {
    let region = START..START + PAGES * PAGE_SIZE;
    for policy in [Policy::Unmap, Policy::Strict, Policy::Park, Policy::Keep] {
        for (placement, cpus) in [(Placement::Classes, 1), (Placement::Classes, 4), (Placement::Lowest, 3)] {
            let config = Config::region(region.clone()).policy(policy).placement(placement).batch_pages(64);
            let rates = Rates { speculate: 8, interrupt: 64, migrate: 32, evict: 16 };
            let mut world = World::new(cpus, config, rates);
            (0..3000).for_each(|_| world.act());
            world.finish();
        }
    }
}

/// A page that is filled again is clear, and what CPUs remember of it is gone.
#[test]
fn pages_in_place_are_filled_and_emptied() {
    let region = START..START + PAGES * PAGE_SIZE;
    let world = World::new(2, Config::region(region), Rates::NEVER);
    let mut mapping = world.vm.reservation(Req::pages(300)).unwrap();
    let page = mapping.start().add_pages(200);
    for round in 1..4 {
        mapping.fill(150..250, &Req::pages(1).zeroed()).unwrap();
        assert_eq!([0, 1].map(|cpu| world.sim.load(cpu, page)), [Ok(0); 2]);
        world.sim.store(1, page, round).unwrap();
        assert_eq!(mapping.empty(0..300), 100);
    }
    mapping.fill(0..300, &Req::pages(1)).unwrap();
    drop(mapping);
    world.finish();
}

/// A machine whose pages are their own frames would close it under its owner.
#[test]
#[should_panic(expected = "is said to be unmapped, and its entry says that it is mapped")]
fn a_live_page_that_the_machine_is_told_was_unmapped_is_noticed() {
    let region = START..START + PAGES * PAGE_SIZE;
    let world = World::new(1, Config::region(region), Rates::NEVER);
    let area = world.vm.alloc(Req::pages(3)).unwrap();
    world.vm.machine().unmapped(PageRange::new(VirtAddr(area.addr().get()), 3));
}
