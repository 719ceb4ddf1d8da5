//! A machine without aliases whose CPUs have TLBs: each page is its own frame, what was stored in it is
//! lost when it is unmapped, and a CPU that has not flushed still reaches it.

use std::collections::HashSet;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Mutex;
use vmalloc::machine::format::Prot;
use vmalloc::machine::{Context, Flush, Level, Machine, Pinned};
use vmalloc::table::X86_64;
use vmalloc::units::{CpuSet, PAGE_SHIFT, PAGE_SIZE, PageRange, Pfn, VirtAddr};
use vmalloc::{Config, Placement, Policy, Req, Vmalloc};
use vmalloc_sim::{Bank, Rates, Sim};

/// Where the region starts: entries can name these pages as frames.
const START: usize = 1 << 32;
const PAGES: usize = 16_384;

struct InPlace {
    sim: Sim<X86_64>,
    /// The pages that have kept what was stored in them.
    kept: Mutex<HashSet<VirtAddr>>,
}

// SAFETY: M1–M9 are the simulator's. A page that is mapped after a flush is cleared then.
unsafe impl Machine for InPlace {
    type Table = <Sim<X86_64> as Machine>::Table;
    type Frames = <Sim<X86_64> as Machine>::Frames;
    type Lock = <Sim<X86_64> as Machine>::Lock;
    const ALIASES: bool = false;

    fn frames(&self) -> &Self::Frames {
        self.sim.frames()
    }
    fn root(&self) -> Pfn {
        self.sim.root()
    }
    fn virt(&self, f: Pfn) -> NonNull<u8> {
        self.sim.virt(f)
    }
    fn cpus(&self) -> u32 {
        self.sim.cpus()
    }
    fn page_limit(&self) -> usize {
        PAGES / 4
    }
    fn pin(&self) -> Pinned {
        self.sim.pin()
    }
    unsafe fn unpin(&self, was: Pinned) {
        // SAFETY: the caller's promise.
        unsafe { self.sim.unpin(was) }
    }
    fn context(&self) -> Context {
        self.sim.context()
    }
    fn flush(&self, what: Flush<'_>) {
        self.sim.flush(what)
    }
    fn kick(&self, cpus: &CpuSet) {
        self.sim.kick(cpus)
    }
    fn sync(&self, pages: PageRange) {
        self.sim.sync(pages);
        for page in pages.slices(1).map(|page| page.start) {
            if self.kept.lock().unwrap().insert(page) {
                self.sim.write_bytes(self.sim.cpu(), page, &[0; PAGE_SIZE]).expect("it was mapped just now");
            }
        }
    }
    fn protect(&self, pages: PageRange, prot: Prot) -> Result<(), i32> {
        Machine::protect(&self.sim, pages, prot)
    }
    fn unmapped(&self, pages: PageRange) {
        pages.slices(1).for_each(|page| _ = self.kept.lock().unwrap().remove(&page.start));
        self.sim.unmapped(pages);
    }
    fn relax(&self) {
        self.sim.relax()
    }
    fn zero(&self, _: Pfn, at: VirtAddr) {
        self.sim.write_bytes(self.sim.cpu(), at, &[0; PAGE_SIZE]).expect("a page of an area");
    }
    fn clock_ns(&self) -> Option<u64> {
        self.sim.clock_ns()
    }
    fn log(&self, level: Level, line: fmt::Arguments<'_>) {
        self.sim.log(level, line)
    }
}

/// An area: its address, its pages, and what its first words say.
type Area = (NonNull<u8>, usize, u64);

struct World {
    sim: Sim<X86_64>,
    vm: &'static Vmalloc<InPlace>,
    areas: Vec<Area>,
    random: u64,
}

fn words((at, pages, _): Area) -> impl Iterator<Item = VirtAddr> {
    (0..pages).map(move |page| VirtAddr(at.addr().get()).add_pages(page))
}

impl World {
    fn new(cpus: u32, config: Config, rates: Rates) -> World {
        let pages = Bank { first: Pfn((START >> PAGE_SHIFT) as u64), frames: PAGES as u64, node: None };
        let sim = Sim::builder().cpus(cpus).seed(cpus as u64).rates(rates).node(64 << 20).bank(pages).build();
        let machine = InPlace { sim: sim.clone(), kept: Mutex::default() };
        let vm: &Vmalloc<InPlace> = Box::leak(Box::new(Vmalloc::new(machine)));
        sim.set_kick(move |_| vm.on_kick());
        // SAFETY: N1, N2: the tables are new, and nobody else knows the instance.
        sim.unbounded(|| unsafe { vm.init(config) }).expect("memory for the bookkeeping");
        sim.online_all(|| vm.cpu_online());
        sim.set_interrupt(move |_| _ = vm.tick());
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
        let vm = &raw const *self.vm;
        self.sim.set_interrupt(|_| ());
        // SAFETY: it was leaked by `new`; only kicks know it, which are answered until it is gone.
        self.sim.unbounded(|| drop(unsafe { Box::from_raw(vm.cast_mut()) }));
        self.sim.set_kick(|_| ());
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
