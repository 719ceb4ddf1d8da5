//! An instance on a small simulated machine, and what scripts say about the two.

use crate::engine::Nmis;
use crate::random::Random;
use std::ops::Deref;
use std::ptr::NonNull;
use std::rc::Rc;
use vmalloc::gfp::Gfp;
use vmalloc::machine::Level;
use vmalloc::machine::format::{MemType, Prot};
use vmalloc::table::X86_64;
use vmalloc::units::{PAGE_SIZE, PageRange, Pfn, VirtAddr};
use vmalloc::{AllocError, Config, FreeError, Placement, Policy, Req};
use vmalloc_sim::{Bank, Booted, Rates, Sim};

/// Where the region starts.
pub const START: usize = 0xffff_c900_0000_0000;
/// Bytes of the region where addresses are handed out page by page.
const LOWEST: usize = 16 << 20;
/// Where the region starts whose pages are their own frames: entries can name them so.
const WINDOW: usize = 1 << 36;
/// Pages of that region, and how many of them areas may have together.
const WINDOW_PAGES: usize = 4096;
pub const WINDOW_LIMIT: usize = 512;
/// A device, clear of all memory.
pub const DEVICE: Bank = Bank { first: Pfn(0xf_0000), frames: 16, node: None };
/// Purges after which nothing may wait any more.
const PURGES: usize = 3;

/// What a machine is like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub cpus: u32,
    pub frames: u64,
    pub rates: Rates,
    pub policy: Policy,
    /// Pages of the largest load; `None` = as the library likes.
    pub load: Option<usize>,
    /// Pages that a CPU may keep cached; `None` = as the library likes.
    pub cached: Option<usize>,
    /// Addresses are handed out page by page, the lowest first.
    pub lowest: bool,
    pub seed: u64,
}

impl Shape {
    /// `cpus` CPUs, 4 MiB, nothing by chance.
    pub fn new(cpus: u32, seed: u64) -> Shape {
        Shape {
            cpus,
            frames: 1024,
            rates: Rates::NEVER,
            policy: Policy::Unmap,
            load: None,
            cached: None,
            lowest: false,
            seed,
        }
    }
}

/// The instance and its machine: one on which a frame can be mapped twice, unless told.
pub struct Rig<const ALIASES: bool = true> {
    pub sim: Sim<X86_64>,
    booted: Option<Booted<X86_64, ALIASES>>,
}

impl<const ALIASES: bool> Deref for Rig<ALIASES> {
    type Target = Booted<X86_64, ALIASES>;

    fn deref(&self) -> &Booted<X86_64, ALIASES> {
        self.booted.as_ref().expect("it lives until it is finished")
    }
}

impl<const ALIASES: bool> Drop for Rig<ALIASES> {
    fn drop(&mut self) {
        // After a panic it would only go wrong again.
        std::mem::forget(self.booted.take());
    }
}

impl Rig {
    pub fn new(shape: Shape) -> Rc<Rig> {
        Rig::on(shape)
    }
}

impl<const ALIASES: bool> Rig<ALIASES> {
    /// Where the region starts.
    pub const START: usize = if ALIASES { START } else { WINDOW };

    /// An instance on a machine with aliases, or without.
    pub fn on(shape: Shape) -> Rc<Self> {
        let window = PageRange::new(VirtAddr(WINDOW), WINDOW_PAGES);
        let sim = Sim::builder()
            .cpus(shape.cpus)
            .rates(shape.rates)
            .seed(shape.seed)
            .tlb(16)
            .node(shape.frames * PAGE_SIZE as u64)
            .windows((!ALIASES).then_some(window), WINDOW_LIMIT)
            .bank(DEVICE)
            .build();
        let placement = if shape.lowest { Placement::Lowest } else { Placement::Classes };
        let bytes = match (ALIASES, shape.lowest) {
            (false, _) => window.bytes(),
            (true, true) => LOWEST,
            (true, false) => 1 << 30,
        };
        let config = Config::region(Self::START..Self::START + bytes).placement(placement);
        let config = config.atomic_reserve(0).policy(shape.policy);
        let config = shape.load.map_or(config.clone(), |pages| config.batch_pages(pages));
        let config = shape.cached.map_or(config.clone(), |pages| config.cached_pages(pages));
        let booted = Booted::new(sim.for_instance(), config).expect("memory for the bookkeeping");
        Rc::new(Rig { sim, booted: Some(booted) })
    }

    /// The machine's last word: nothing waits, no claim is left, every rule holds,
    /// everything is given back, and nobody has complained of anything but double
    /// frees, where `doubles` may have been made.
    pub fn finish(self: Rc<Self>, doubles: bool) {
        if !doubles {
            assert_eq!(self.check(), Ok(()), "after the race");
        }
        (0..PURGES).for_each(|_| _ = self.purge());
        assert_eq!(self.stats().waiting_pages, 0, "leak: pages wait after {PURGES} purges");
        assert_eq!(self.check(), Ok(()), "after the purges");
        self.sim.audit();
        let mut rig = Rc::into_inner(self).expect("every script is over");
        drop(rig.booted.take());
        let told: Vec<_> = rig.sim.take_log().into_iter().filter(|line| line.0 == Level::Error).collect();
        let others = told.iter().find(|line| !line.1.contains("double free"));
        assert!(others.is_none(), "complaint: {others:?}");
        rig.sim.assert_no_leaks();
    }

    pub fn make(&self, req: Req) -> Result<usize, AllocError> {
        self.sim.tell("allocates", 0);
        self.told("has", self.alloc(req))
    }

    /// Notes what a call has returned.
    fn told(&self, what: &'static str, made: Result<NonNull<u8>, AllocError>) -> Result<usize, AllocError> {
        let made = made.map(|at| at.addr().get());
        self.sim.tell(if made.is_ok() { what } else { "is refused" }, *made.as_ref().unwrap_or(&0));
        made
    }

    pub fn give(&self, at: usize) -> Result<(), FreeError> {
        self.sim.tell("frees", at);
        // SAFETY: V1: simulated memory is used through the simulator, which judges
        // each use.
        let freed = unsafe { self.free(pointer(at)) };
        self.sim.tell(if freed.is_ok() { "has freed" } else { "was refused the free of" }, at);
        freed
    }

    pub fn map(&self, frames: &[Pfn]) -> Result<usize, AllocError> {
        // SAFETY: P1: scripts hold their frames for longer.
        self.told("maps", unsafe { self.vmap(frames, Req::bytes(0)) })
    }

    pub fn unmap(&self, at: usize) -> Result<(), FreeError> {
        self.sim.tell("unmaps", at);
        // SAFETY: V1, as for `give`.
        unsafe { self.vunmap(pointer(at)) }
    }

    /// The area takes the frames over.
    pub fn map_for_ever(&self, frames: &[Pfn]) -> Result<usize, AllocError> {
        // SAFETY: P2: scripts give what they were given.
        self.told("gives frames to", unsafe { self.vmap_owned(frames, Req::bytes(0)) })
    }

    pub fn reserve_pages(&self, pages: usize) -> Result<usize, AllocError> {
        self.told("reserves", self.reserve(Req::pages(pages)))
    }

    /// Maps frames in pages of a reservation.
    pub fn map_pages(&self, at: usize, frames: &[Pfn]) -> Result<(), AllocError> {
        self.sim.tell("maps a part", at);
        // SAFETY: P5, P6: scripts share no reservation, flush before they map again, and hold
        // their frames until they are unmapped.
        unsafe { self.map_part(at, frames, Prot::RW, MemType::WriteBack) }
    }

    /// Unmaps pages of a reservation.
    pub fn unmap_pages(&self, at: usize, pages: usize) -> Result<usize, AllocError> {
        self.sim.tell("unmaps a part", at);
        // SAFETY: P5, as for `map_pages`.
        unsafe { self.unmap_part(at, pages) }
    }

    /// Gives the last pages of an area back.
    pub fn shorten(&self, at: usize, pages: usize) -> Result<(), FreeError> {
        self.sim.tell("shrinks", at);
        // SAFETY: V1, as for `give`.
        unsafe { self.shrink(pointer(at), pages * PAGE_SIZE) }
    }

    /// Gives an area more pages, where it is.
    pub fn extend(&self, at: usize, pages: usize) -> Result<(), AllocError> {
        self.sim.tell("grows", at);
        // SAFETY: V1, as for `give`.
        unsafe { self.grow(pointer(at), Req::pages(pages)) }
    }

    /// Gives pages of an area another protection.
    pub fn forbid(&self, at: usize, pages: usize, prot: Prot) -> Result<(), AllocError> {
        self.sim.tell("protects", at);
        // SAFETY: V2, as V1 for `give`; scripts share no area that they protect.
        let done = unsafe { self.protect(at, pages, prot) };
        self.sim.tell("has protected", at);
        done
    }

    /// Pages of the device.
    pub fn map_device(&self, pages: usize) -> Result<usize, AllocError> {
        let phys = DEVICE.first.0 * PAGE_SIZE as u64;
        self.ioremap(phys, pages * PAGE_SIZE, MemType::Uncached).map(|at| at.addr().get())
    }

    pub fn unmap_device(&self, at: usize) -> Result<(), FreeError> {
        // SAFETY: V1, as for `give`.
        unsafe { self.iounmap(pointer(at)) }
    }

    pub fn map_short(&self, frames: &[Pfn]) -> Result<usize, AllocError> {
        // SAFETY: P4: scripts hold their frames until it is unmapped.
        self.told("maps for a short time", unsafe { self.map_ram(frames, None) })
    }

    pub fn unmap_short(&self, at: usize, pages: usize) -> Result<(), FreeError> {
        self.sim.tell("ends a mapping for a short time", at);
        // SAFETY: V1, as for `give`.
        unsafe { self.unmap_ram(pointer(at), pages) }
    }

    pub fn frame(&self) -> Option<Pfn> {
        self.alloc_frame(Gfp::KERNEL, None).ok()
    }

    pub fn give_frame(&self, frame: Pfn) {
        // SAFETY: P3: scripts give up what they hold.
        unsafe { self.free_frame(frame) }
    }

    /// Stores a number of its own to each page.
    pub fn stamp(&self, at: usize, pages: usize, seed: u64) {
        for n in 0..pages {
            let page = VirtAddr(at).add_pages(n);
            if let Err(fault) = self.sim.store(self.sim.cpu(), page, seed ^ n as u64) {
                panic!("content: page {n} of a live area: {fault}");
            }
        }
    }

    /// The same numbers are read.
    pub fn check_stamps(&self, at: usize, pages: usize, seed: u64) {
        for n in 0..pages {
            let read = self.sim.load(self.sim.cpu(), VirtAddr(at).add_pages(n));
            assert_eq!(read, Ok(seed ^ n as u64), "content: page {n} of the live area at {at:#x}");
        }
    }

    /// As the CPU that comes back from what it did before: kicks are answered.
    pub fn pause(&self) {
        self.sim.serve_kick_of(self.sim.cpu());
        crate::engine::wait();
    }

    pub fn pause_for(&self, times: u64) {
        (0..times).for_each(|_| self.pause());
    }
}

/// The address as a pointer, as a careless caller would make one.
pub fn pointer(at: usize) -> NonNull<u8> {
    NonNull::new(std::ptr::with_exposed_provenance_mut(at)).expect("not null")
}

/// What a scenario is given: its chance, and the race.
pub struct Trial {
    pub random: Random,
    pub seed: u64,
    /// NMIs of the race: none, unless told.
    pub nmis: Nmis,
    chooser: Option<crate::chooser::Chooser>,
}

impl Trial {
    pub fn new(seed: u64, chooser: crate::chooser::Chooser) -> Trial {
        Trial { random: Random::new(seed), seed, nmis: Nmis::none(), chooser: Some(chooser) }
    }

    /// `cpus` CPUs and nothing by chance.
    pub fn quiet(&self, cpus: u32) -> Rc<Rig> {
        Rig::new(Shape::new(cpus, self.seed))
    }

    /// The same, and addresses are handed out page by page.
    pub fn quiet_by_pages(&self, cpus: u32) -> Rc<Rig> {
        Rig::new(Shape { lowest: true, ..Shape::new(cpus, self.seed) })
    }

    /// Runs one script a CPU at the same time.
    pub fn race<const ALIASES: bool>(&mut self, rig: &Rc<Rig<ALIASES>>, scripts: Vec<Act<ALIASES>>) {
        let chooser = self.chooser.take().expect("one race a trial");
        let script = |act: Act<ALIASES>| -> crate::engine::Script {
            let rig = Rc::clone(rig);
            Box::new(move || act(&rig))
        };
        let scripts = scripts.into_iter().map(script).collect();
        crate::engine::race(&rig.sim, chooser, self.nmis.clone(), scripts);
    }
}

/// What one CPU does.
pub type Act<const ALIASES: bool = true> = Box<dyn FnOnce(&Rig<ALIASES>)>;

/// Makes an act of a closure.
pub fn act<const ALIASES: bool>(does: impl FnOnce(&Rig<ALIASES>) + 'static) -> Act<ALIASES> {
    Box::new(does)
}
