//! The hand that acts: what it knows, what it chooses, what it looks at.

use super::model::{Area, Model, Page};
use super::rng::Rng;
use super::setup::{Acts, Setup};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use vmalloc::machine::format::{Format, Prot};
use vmalloc::machine::{Context, Level, Machine};
use vmalloc::units::{PAGE_SIZE, Pfn, VirtAddr};
use vmalloc::{Vmalloc, What};
use vmalloc_sim::{Power, Sim, Why};

/// Acts between two looks at everything.
const CHECK_EVERY: usize = 100;

/// What acts of the driver and of interrupts share.
pub struct World<F: Format> {
    pub sim: Sim<F>,
    pub setup: Setup,
    /// Not to be held where an interrupt can come.
    model: Mutex<Model>,
    rng: Mutex<Rng>,
    /// Interrupts do nothing.
    quiet: AtomicBool,
    /// Interrupts that did something.
    interrupts: AtomicUsize,
}

/// One that acts on the instance.
pub struct Hand<'a, F: Format, const ALIASES: bool> {
    pub vm: &'a Vmalloc<Sim<F, ALIASES>>,
    pub world: &'a World<F>,
}

/// Where in a frame its word is.
pub fn spot(frame: Pfn) -> usize {
    frame.0 as usize * 24 % PAGE_SIZE
}

impl<F: Format> World<F> {
    pub fn new(sim: Sim<F>, setup: Setup) -> World<F> {
        let rng = Rng::new(setup.seed ^ 0x5eed);
        World {
            sim,
            setup,
            model: Mutex::default(),
            rng: Mutex::new(rng),
            quiet: AtomicBool::new(false),
            interrupts: AtomicUsize::new(0),
        }
    }

    pub fn hand<'a, const ALIASES: bool>(&'a self, vm: &'a Vmalloc<Sim<F, ALIASES>>) -> Hand<'a, F, ALIASES> {
        Hand { vm, world: self }
    }
}

impl<F: Format, const ALIASES: bool> Hand<'_, F, ALIASES> {
    pub fn sim(&self) -> &Sim<F> {
        &self.world.sim
    }

    pub fn setup(&self) -> &Setup {
        &self.world.setup
    }

    /// Interrupts that did something so far.
    pub fn interrupts(&self) -> usize {
        self.world.interrupts.load(Relaxed)
    }

    pub fn model(&self) -> MutexGuard<'_, Model> {
        self.world.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn below(&self, n: usize) -> usize {
        self.world.rng.lock().unwrap_or_else(PoisonError::into_inner).below(n)
    }

    pub fn pick<T: Copy>(&self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    pub fn one_in(&self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// A CPU that runs programs.
    pub fn awake(&self) -> u32 {
        loop {
            let cpu = self.below(self.setup().cpus as usize) as u32;
            if self.sim().power(cpu) == Power::Awake {
                return cpu;
            }
        }
    }

    /// Does one thing, and a little time passes.
    pub fn act(&self, n: usize) {
        self.sim().set_cpu(self.awake());
        self.sim().set_context(self.pick(&[Context::Task, Context::Task, Context::Task, Context::Atomic]));
        match self.below(1000) {
            0..250 => self.alloc(),
            250..270 => self.alloc_refused(),
            270..500 => self.free_any(),
            500..640 => self.look_around(),
            640..680 => self.scribble(),
            680..720 if self.setup().acts == Acts::Parts => self.change_part(),
            680..720 => self.map_frames(),
            720..760 => self.hold_page(),
            760..800 => self.let_go(),
            800..820 => self.take_frame(),
            820..840 => self.map_device(),
            840..850 => self.reserve(),
            850..854 => self.reserve_at_offsets(),
            854..900 if self.setup().acts.others(self.below(2)) => self.change_part(),
            854..900 => self.free_badly(),
            900..910 => self.ask_nonsense(),
            other => self.pass_time(other - 910),
        }
        self.sim().set_context(Context::Task);
        self.sim().step();
        if n.is_multiple_of(CHECK_EVERY) {
            self.check();
        }
    }

    /// What an interrupt does, wherever it comes.
    pub fn interrupt(&self) {
        if self.world.quiet.load(Relaxed) || self.model().freeing.iter().any(|freeing| freeing.stolen) {
            return;
        }
        self.world.interrupts.fetch_add(1, Relaxed);
        match self.below(8) {
            0..3 => self.alloc_atomic(),
            3 | 4 => self.free_any(),
            5 => self.free_twice(),
            6 => self.look_in_passing(self.some_page()),
            _ => drop(self.vm.tick()),
        }
    }

    /// A page of a live area, or one close to it.
    pub fn some_page(&self) -> usize {
        let model = self.model();
        let freed = model.freed().len();
        match self.below(8) {
            0 if freed > 0 => {
                // Mostly one of the latest: nobody has flushed since.
                let freed = model.freed()[self.below(freed).max(self.below(freed))];
                freed.start + self.below(freed.pages) * PAGE_SIZE
            }
            0 | 1 => self.setup().region(self.below(self.setup().regions)).start + self.below(600) * PAGE_SIZE,
            _ if model.count() == 0 => self.setup().base(0),
            other => {
                let area = model.area(model.start(self.below(model.count())));
                match other {
                    2 => area.start - PAGE_SIZE,
                    3 => area.end(),
                    4 => area.end() - PAGE_SIZE,
                    _ => area.start + self.below(area.pages) * PAGE_SIZE,
                }
            }
        }
    }

    pub fn look_around(&self) {
        let page = self.some_page();
        self.look(page);
        self.ask(page + self.below(PAGE_SIZE));
    }

    /// Looks at a page. An interrupt only does if it lives: the call that was
    /// interrupted may be making an area there that the model does not know.
    pub fn look_in_passing(&self, page: usize) {
        let lives = matches!(self.model().page(page), Page::Bound { .. });
        if lives || self.sim().context() != Context::HardIrq {
            self.look(page);
        }
    }

    /// Loads from a page, and compares with what it must be.
    pub fn look(&self, page: usize) {
        let (cpu, sim) = (self.awake(), self.sim());
        let mut model = self.model();
        match model.page(page) {
            Page::Barred => sim.assert_faults(cpu, VirtAddr(page + self.below(512) * 8)),
            Page::Bound { frame, .. } => match (sim.load(cpu, VirtAddr(page + spot(frame))), model.frame(frame).word) {
                (Ok(found), Some(word)) => {
                    assert_eq!(found, word, "content: {page:#x} on CPU {cpu}, of {frame:?}: {found:#x}, not {word:#x}")
                }
                (Ok(_), None) => {}
                (Err(fault), _) => panic!("content: a live page on CPU {cpu}: {fault}"),
            },
            Page::Gone(gone) => {
                let known = *model.frame(gone.frame);
                let Ok(found) = sim.load(cpu, VirtAddr(page + spot(gone.frame))) else { return };
                assert_eq!(known.life, gone.life, "stale: {page:#x} on CPU {cpu} reaches {:?}, reused", gone.frame);
                assert!(known.word.is_none_or(|word| word == found), "stale: {page:#x} reads {found:#x}: {known:x?}");
            }
        }
    }

    /// Stores to a page, as a right program does, or a wrong one.
    pub fn scribble(&self) {
        let page = self.some_page();
        self.write(page);
    }

    /// Stores a new word to a page, if it has a frame.
    pub fn write(&self, page: usize) {
        let (cpu, sim) = (self.awake(), self.sim());
        let mut model = self.model();
        let stamp = model.stamp();
        match model.page(page) {
            Page::Barred => {}
            Page::Bound { frame, prot } => match sim.store(cpu, VirtAddr(page + spot(frame)), stamp) {
                Ok(()) if prot.contains(Prot::WRITE) => model.frame(frame).word = Some(stamp),
                Err(fault) if fault.why == Why::ReadOnly && !prot.contains(Prot::WRITE) => {}
                other => panic!("content: a store to {page:#x} on CPU {cpu}, {prot:?}: {other:?}"),
            },
            Page::Gone(gone) => {
                let Ok(()) = sim.store(cpu, VirtAddr(page + spot(gone.frame)), stamp) else { return };
                let known = model.frame(gone.frame);
                assert_eq!(known.life, gone.life, "stale: CPU {cpu} stores by {page:#x} to {:?}, reused", gone.frame);
                known.word = Some(stamp);
            }
        }
    }

    /// Asks the library what an address is.
    fn ask(&self, at: usize) {
        let what = self.vm.whatis(at);
        let model = self.model();
        let inside = |area: &Area| at < area.end();
        let right = match (&what, model.around(at)) {
            (What::Inside { area, offset }, Some(known)) => {
                inside(known) && same(known, area) && *offset == at - known.start
            }
            (What::Guard { below: Some(below), past, .. }, Some(known)) => {
                !inside(known) && same(known, below) && *past == at - known.end()
            }
            (What::Inside { .. } | What::Changing, None) | (_, Some(_)) => false,
            (What::Guard { below: Some(below), .. }, None) => model.around(below.start.0).is_some(),
            (What::NotOurs, None) => (0..self.setup().regions).all(|n| !(self.usable(n)).contains(&at)),
            (_, None) => true,
        };
        assert!(right, "place: {at:#x} is {:x?}, but the library says {what:x?}", model.around(at));
        assert_eq!(self.vm.find(at).map(|area| area.start.0), model.around(at).filter(|a| inside(a)).map(|a| a.start));
    }

    /// The addresses of a region that can be handed out.
    pub fn usable(&self, n: usize) -> std::ops::Range<usize> {
        let (base, end) = (self.setup().base(n), self.setup().region(n).end);
        base..end - (end - base) % (self.setup().grain_pages() * PAGE_SIZE)
    }

    /// Looks at everything, while nothing else happens.
    pub fn check(&self) {
        self.quietly(|| self.sim().undisturbed(|| self.check_quietly()));
    }

    /// Does something that interrupts do not meddle with.
    pub fn quietly<T>(&self, act: impl FnOnce() -> T) -> T {
        let was = self.world.quiet.swap(true, Relaxed);
        let result = act();
        self.world.quiet.store(was, Relaxed);
        result
    }

    fn check_quietly(&self) {
        if let Err(broken) = self.vm.check() {
            panic!("check: {broken}");
        }
        let areas: Vec<_> = self.vm.areas().collect();
        let model = self.model();
        assert!(areas.len() == model.count(), "place: {} areas, not {}", areas.len(), model.count());
        for (known, area) in model.areas().zip(&areas) {
            assert!(same(known, area), "place: {known:x?} is listed as {area:x?}");
        }
        let (live, limit) = (model.live_pages, self.setup().page_limit());
        assert!(ALIASES || live <= limit, "refusal: areas have {live} pages, of {limit}");
        drop(model);
        self.sim().audit();
        for (level, line) in self.sim().take_log() {
            assert!(level != Level::Error, "log: {line}");
        }
    }

    /// A mapping for a short time.
    fn some_loan(&self) -> Option<usize> {
        self.model().areas().find(|area| !area.lent().is_empty()).map(|area| area.start)
    }

    /// Gives up some of what is left, or all, so that dropping finds both.
    pub fn finish(&self) {
        // Frames that are lent are the driver's to give back.
        while let Some(start) = self.some_loan() {
            self.free(start);
        }
        while !self.model().held.is_empty() {
            self.let_go();
        }
        for cpu in 0..self.setup().cpus {
            if self.sim().power(cpu) != Power::Awake && self.one_in(2) {
                self.change_power(cpu);
            }
        }
        if self.one_in(2) {
            while self.model().count() > 0 {
                self.free_any();
            }
        }
        self.check();
        self.world.quiet.store(true, Relaxed);
        self.vm.purge();
        let waiting = self.vm.stats().waiting_pages;
        assert_eq!(waiting, 0, "what waits: pages after everything was purged");
    }
}

fn same(known: &Area, area: &vmalloc::Info) -> bool {
    let known = (known.start, known.pages, known.bytes, known.kind, known.guard);
    known == (area.start.0, area.pages, area.bytes, area.kind, area.guard)
}
