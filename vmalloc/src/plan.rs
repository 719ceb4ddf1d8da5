//! Plans: a request, checked, in the terms of the tiers below.

use crate::area::{Backing, Caller, Guard, Kind, Req};
use crate::cpu::{CpuGuard, SLICE};
use crate::error::{AllocError, Shortage};
use crate::gfp::{Gfp, ZoneKind};
use crate::instance::{Core, Vmalloc};
use crate::machine::Machine;
use crate::machine::format::{Format, Prot};
use crate::machine::frames::{Frames, Want};
use crate::region::{Region, RunFit};
use crate::space::chunk::ChunkRef;
use crate::space::class::Class;
use crate::space::slot::Label;
use crate::units::{Node, PAGE_SHIFT, PAGE_SIZE, Pfn};

/// What a call will do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan<'r> {
    pub(crate) req: &'r Req,
    pub(crate) kind: Kind,
    pub(crate) caller: Caller,
    pub(crate) pages: usize,
    /// The slots it takes one of; `None` for a run of its own.
    pub(crate) class: Option<Class>,
}

impl<'r> Plan<'r> {
    /// Checks `req` and says how it is done.
    #[inline(always)]
    pub(crate) fn new<M: Machine>(
        vm: &Vmalloc<M>,
        core: &Core<M>,
        (req, kind, caller): (&'r Req, Kind, Caller),
        backing: &Backing<'_>,
    ) -> Result<Plan<'r>, AllocError> {
        let pages = checked_pages(vm, req, backing)?;
        check_node(vm, req)?;
        let Some(region) = core.regions.get(req.region.0 as usize) else {
            return Err(AllocError::BadRange { start: 0, end: 0 });
        };
        if !req.align.is_power_of_two() || req.align > region.bytes {
            return Err(AllocError::BadAlign(req.align));
        }
        if pages + MOST_GUARDS > region.bytes >> PAGE_SHIFT {
            check_whole_region(region, (req, kind), pages)?;
        }
        if let Backing::Device(first) = *backing {
            check_no_memory(vm, first, pages)?;
        }
        let mut classed = region.grain_shift != 0;
        if let Some((start, end)) = req.within {
            region.grains_within((start, end)).ok_or(AllocError::BadRange { start, end })?;
            classed = false;
        }
        let class = if classed { Class::of(pages, req.align >> PAGE_SHIFT) } else { None };
        Ok(Plan { req, kind, caller: req.caller.unwrap_or(caller), pages, class })
    }

    /// The area's label. Frames that it takes over are borrowed until it is
    /// whole, so that a refusal leaves them alone.
    #[inline(always)]
    pub(crate) fn label(&self, backing: &Backing<'_>) -> Label {
        Label {
            bytes: self.req.bytes,
            pages: self.pages,
            kind: if self.adopts() { Kind::Vmap } else { self.kind },
            guard: self.req.guard,
            caller: self.caller,
            node: self.req.node.unwrap_or_default(),
            phys: match *backing {
                Backing::Device(first) => Some(first.phys()),
                _ => None,
            },
        }
    }

    /// Whether the area takes the frames over that it is given.
    #[inline]
    pub(crate) fn adopts(&self) -> bool {
        self.kind == Kind::VmapOwned
    }

    /// The run of its own that it needs.
    fn run<L: lock_api::RawMutex>(&self, region: &Region<L>) -> RunFit {
        let whole = (0, region.grains());
        RunFit {
            pages: self.pages + guards_after(self.req),
            below: guards_below(self.kind),
            align: (self.req.align >> PAGE_SHIFT).max(1),
            within: self.req.within.and_then(|range| region.grains_within(range)).unwrap_or(whole),
        }
    }

    /// Whether it wants frames of no certain node, and of no low zone.
    #[inline(always)]
    pub(crate) fn wants_any(&self) -> bool {
        const CERTAIN: Gfp = Gfp::DMA.union(Gfp::DMA32).union(Gfp::THISNODE);
        !self.req.gfp.intersects(CERTAIN) && self.req.node.is_none()
    }

    /// Which frames, for a CPU of `home`.
    #[inline]
    pub(crate) fn want(&self, home: Node) -> Want {
        // Cleared through its direct mapping, if not through its own.
        let direct = self.req.gfp.contains(Gfp::ZERO) && !self.req.prot.contains(Prot::WRITE);
        let zone = match self.req.gfp.zone() {
            ZoneKind::HighMem if direct => ZoneKind::Normal,
            // The traditional rule: highmem will do unless a low zone is named.
            ZoneKind::Normal if !direct => ZoneKind::HighMem,
            zone => zone,
        };
        let this_node = self.req.gfp.contains(Gfp::THISNODE);
        Want { order: 0, zone, node: self.req.node.unwrap_or(home), this_node, next: None }
    }
}

/// Pages around an area that nobody binds, at most.
const MOST_GUARDS: usize = 2;

/// Pages after an area that nobody binds.
fn guards_after(req: &Req) -> usize {
    (req.guard == Guard::After) as usize
}

/// Grains below an area with a run of its own that nobody binds (G6).
pub(crate) fn guards_below(kind: Kind) -> u32 {
    (kind == Kind::Stack) as u32
}

/// An area with its guards must fit the region.
#[cold]
fn check_whole_region<L: lock_api::RawMutex>(
    region: &Region<L>,
    (req, kind): (&Req, Kind),
    pages: usize,
) -> Result<(), AllocError> {
    let needed = pages.saturating_add(guards_after(req) + guards_below(kind) as usize);
    let fits = needed <= region.bytes >> PAGE_SHIFT;
    if fits { Ok(()) } else { Err(AllocError::TooLarge { bytes: req.bytes, limit: region.bytes }) }
}

/// A node that is asked of is one that there is.
pub(crate) fn check_node<M: Machine>(vm: &Vmalloc<M>, req: &Req) -> Result<(), AllocError> {
    let nodes = vm.machine().frames().nodes();
    match req.node {
        Some(node) if node.0 as usize >= nodes => Err(AllocError::BadNode { node, nodes }),
        _ => Ok(()),
    }
}

/// A device is no memory: frames with descriptors are somebody's.
fn check_no_memory<M: Machine>(vm: &Vmalloc<M>, first: Pfn, pages: usize) -> Result<(), AllocError> {
    let mut frames = (0..pages as u64).map(|page| first.offset(page));
    let memory = frames.find(|&frame| vm.machine().frames().page(frame).is_some());
    memory.map_or(Ok(()), |frame| Err(AllocError::BadFrame(frame)))
}

/// The page count, if it is one that could be served.
#[inline(always)]
fn checked_pages<M: Machine>(vm: &Vmalloc<M>, req: &Req, backing: &Backing<'_>) -> Result<usize, AllocError> {
    let source = vm.machine().frames();
    let limit = match backing {
        Backing::Fresh | Backing::Frames(_) => source.total(),
        Backing::Device(_) | Backing::Nothing => usize::MAX >> PAGE_SHIFT,
    };
    match req.page_count() {
        Some(0) => return Err(AllocError::ZeroSize),
        Some(pages) if pages <= limit => {}
        _ => return Err(AllocError::TooLarge { bytes: req.bytes, limit: limit.saturating_mul(PAGE_SIZE) }),
    }
    match odd_frame::<M>(req, backing) {
        None => Ok(req.bytes.div_ceil(PAGE_SIZE)),
        Some(frame) => Err(AllocError::BadFrame(frame)),
    }
}

/// The first frame that no entry can name.
#[inline(always)]
pub(crate) fn odd_frame<M: Machine>(req: &Req, backing: &Backing<'_>) -> Option<Pfn> {
    let nameable = |frame: &Pfn| frame.0 < <M::Table as Format>::MAX_PFN;
    match backing {
        Backing::Frames(frames) => frames.iter().find(|frame| !nameable(frame)).copied(),
        Backing::Device(first) => {
            let last = first.0.checked_add(req.bytes.div_ceil(PAGE_SIZE) as u64 - 1).map_or(Pfn(u64::MAX), Pfn);
            Some(last).filter(|last| !nameable(last))
        }
        Backing::Fresh | Backing::Nothing => None,
    }
}

impl<M: Machine> CpuGuard<'_, M> {
    /// Takes a slot: from the CPU's chunks, or by the slow path.
    #[inline]
    pub(crate) fn take_slot(&mut self, plan: &Plan<'_>) -> Result<(ChunkRef, u32), Shortage> {
        if plan.class.is_some()
            && let Some(place) = self.cpu_chunks(plan.req.region).take(plan.class)
        {
            return Ok(place);
        }
        self.take_slot_slowly(plan)
    }

    /// No clean slot is at hand: what waits is looked through, then addresses
    /// are taken from the region.
    #[cold]
    #[inline(never)]
    fn take_slot_slowly(&mut self, plan: &Plan<'_>) -> Result<(ChunkRef, u32), Shortage> {
        self.catch_up_with_clock();
        self.drain_remote_frees();
        self.poll();
        let Some(class) = plan.class else { return self.take_own_run(plan) };
        if let Some(place) = self.reclaim_for(plan) {
            return Ok(place);
        }
        match self.grow(plan.req.region, class) {
            // No room for a whole chunk: the area alone may fit.
            Err(Shortage::Addresses { .. }) => self.take_own_run(plan),
            Err(short) => Err(short),
            Ok(()) => self.cpu_chunks(plan.req.region).take(plan.class).ok_or(Shortage::Tables(1)),
        }
    }

    /// Redeems until there is a slot, but not more than half a slice, or of large
    /// areas as many pages as they have: what waits belongs to all sizes, and a
    /// chunk costs less than a batch.
    fn reclaim_for(&mut self, plan: &Plan<'_>) -> Option<(ChunkRef, u32)> {
        const HALF: usize = SLICE / 2;
        let mut left = if plan.pages > SLICE { plan.pages } else { HALF };
        loop {
            let work = self.reclaim(left.min(SLICE));
            let place = self.cpu_chunks(plan.req.region).take(plan.class);
            left = left.saturating_sub(work);
            if place.is_some() || work == 0 || left == 0 {
                return place;
            }
            self.preempt_point();
        }
    }

    /// A slot of a run chunk, with a run of its own.
    fn take_own_run(&mut self, plan: &Plan<'_>) -> Result<(ChunkRef, u32), Shortage> {
        self.reclaim(SLICE);
        let place = match self.cpu_chunks(plan.req.region).take(None) {
            Some(place) => place,
            None => {
                self.grow_runs(plan.req.region)?;
                self.cpu_chunks(plan.req.region).take(None).ok_or(Shortage::Tables(1))?
            }
        };
        let run = plan.run(&self.core.regions[plan.req.region.0 as usize]);
        match self.take_run_for(plan.req.region, place, &run) {
            Ok(()) => Ok(place),
            Err(short) => {
                self.cpu_chunks(plan.req.region).put_back(place.0, place.1);
                Err(short)
            }
        }
    }

    /// Machines without a timer: the tick runs here when the clock has moved.
    fn catch_up_with_clock(&mut self) {
        let Some(now) = self.vm.machine().clock_ns() else { return };
        if M::THREADS && now.wrapping_sub(self.ticked_ns) > TICK_NS {
            self.ticked_ns = now;
            self.tick();
        }
    }
}

/// Between two ticks of a machine that has no timer.
const TICK_NS: u64 = 4_000_000;
