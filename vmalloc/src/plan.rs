//! Plans: a request, checked, in the terms of the tiers below.

use crate::area::{Backing, Caller, Guard, Kind, RegionId, Req};
use crate::cpu::{Here, SLICE};
use crate::error::{AllocError, Shortage};
use crate::gfp::{Gfp, ZoneKind};
use crate::instance::{Core, Vmalloc};
use crate::machine::Machine;
use crate::machine::format::{Format, MemType, Prot};
use crate::machine::frames::{Frames, Want};
use crate::pressure::Tries;
use crate::region::RunFit;
use crate::space::chunk::ChunkRef;
use crate::space::class::Class;
use crate::space::slot::Label;
use crate::units::{Node, PAGE_SHIFT, PAGE_SIZE, Pfn};

/// What a call will do.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) pages: usize,
    pub(crate) region: RegionId,
    /// The slots it takes one of; `None` for a run of its own.
    pub(crate) class: Option<Class>,
    pub(crate) run: RunFit,
    pub(crate) label: Label,
    pub(crate) gfp: Gfp,
    node: Option<Node>,
    pub(crate) prot: Prot,
    pub(crate) memory: MemType,
    /// The area takes the frames over that it was given, once it is whole:
    /// until then they are borrowed, so that a refusal leaves them alone.
    pub(crate) adopts: bool,
}

impl Plan {
    /// Checks `req` and says how it is done.
    #[inline]
    pub(crate) fn new<M: Machine>(
        vm: &Vmalloc<M>,
        core: &Core<M>,
        req: &Req,
        caller: Caller,
        backing: &Backing<'_>,
    ) -> Result<Plan, AllocError> {
        let pages = checked_pages(vm, req, backing)?;
        let region = core.regions.get(req.region.0 as usize);
        let region = region.ok_or(AllocError::BadRange { start: 0, end: 0 })?;
        if !req.align.is_power_of_two() || req.align > region.bytes {
            return Err(AllocError::BadAlign(req.align));
        }
        let with_guard = pages + (req.guard == Guard::After) as usize;
        if with_guard > region.bytes >> PAGE_SHIFT {
            return Err(AllocError::TooLarge { bytes: req.bytes, limit: region.bytes });
        }
        let align = (req.align >> PAGE_SHIFT).max(1);
        let within = match req.within {
            None => (0, region.grains()),
            Some(range) => region.grains_within(range).ok_or(AllocError::BadRange { start: range.0, end: range.1 })?,
        };
        let classed = region.grain_shift != 0 && req.within.is_none();
        let label = Label {
            bytes: req.bytes,
            pages,
            kind: if req.kind == Kind::VmapOwned { Kind::Vmap } else { req.kind },
            guard: req.guard,
            caller: req.caller.unwrap_or(caller),
            node: req.node.unwrap_or_default(),
            phys: match *backing {
                Backing::Device(first) => Some(first.phys()),
                _ => None,
            },
        };
        Ok(Plan {
            pages,
            region: req.region,
            class: if classed { Class::of(pages, align) } else { None },
            run: RunFit { pages: with_guard, align, within },
            label,
            gfp: req.gfp,
            node: req.node,
            prot: req.prot,
            memory: req.memory,
            adopts: req.kind == Kind::VmapOwned,
        })
    }

    /// Which frames, for a CPU of `home`.
    #[inline]
    pub(crate) fn want(&self, home: Node) -> Want {
        let zone = match self.gfp.zone() {
            // The traditional rule: highmem will do unless a low zone is named.
            ZoneKind::Normal => ZoneKind::HighMem,
            zone => zone,
        };
        Want {
            order: 0,
            zone,
            node: self.node.unwrap_or(home),
            this_node: self.gfp.contains(Gfp::THISNODE),
            next: None,
        }
    }

    #[inline]
    pub(crate) fn tries(&self) -> Tries {
        Tries::default()
    }
}

/// The page count, if it is one that could be served.
#[inline]
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
    let nameable = |frame: &Pfn| frame.0 < <M::Table as Format>::MAX_PFN;
    let odd = match backing {
        Backing::Frames(frames) => frames.iter().find(|frame| !nameable(frame)).copied(),
        Backing::Device(first) => {
            let last = first.0.checked_add(req.bytes.div_ceil(PAGE_SIZE) as u64 - 1).map_or(Pfn(u64::MAX), Pfn);
            Some(last).filter(|last| !nameable(last))
        }
        _ => None,
    };
    odd.map_or(Ok(req.bytes.div_ceil(PAGE_SIZE)), |frame| Err(AllocError::BadFrame(frame)))
}

impl<M: Machine> Here<'_, M> {
    /// Takes a slot: from the shelf, or by the slow path.
    #[inline]
    pub(crate) fn take_slot(&mut self, plan: &Plan) -> Result<(ChunkRef, u32), Shortage> {
        if plan.class.is_some()
            && let Some(place) = self.shelf(plan.region).take(plan.class)
        {
            return Ok(place);
        }
        self.take_slot_slowly(plan)
    }

    /// No clean slot is at hand: what waits is looked through, then addresses
    /// are taken from the region.
    #[cold]
    #[inline(never)]
    fn take_slot_slowly(&mut self, plan: &Plan) -> Result<(ChunkRef, u32), Shortage> {
        self.catch_up_with_clock();
        self.drain_mail();
        self.poll();
        let Some(class) = plan.class else { return self.take_own_run(plan) };
        loop {
            if let Some(place) = self.shelf(plan.region).take(plan.class) {
                return Ok(place);
            }
            if self.redeem(SLICE) == 0 {
                break;
            }
        }
        match self.grow(plan.region, class) {
            // No room for a whole chunk: the area alone may fit.
            Err(Shortage::Addresses { .. }) => self.take_own_run(plan),
            Err(short) => Err(short),
            Ok(()) => self.shelf(plan.region).take(plan.class).ok_or(Shortage::Tables(1)),
        }
    }

    /// A slot of a run chunk, with a run of its own.
    fn take_own_run(&mut self, plan: &Plan) -> Result<(ChunkRef, u32), Shortage> {
        self.redeem(SLICE);
        let place = match self.shelf(plan.region).take(None) {
            Some(place) => place,
            None => {
                self.grow_runs(plan.region)?;
                self.shelf(plan.region).take(None).ok_or(Shortage::Tables(1))?
            }
        };
        match self.take_run_for(plan.region, place, &plan.run) {
            Ok(()) => Ok(place),
            Err(short) => {
                self.shelf(plan.region).untake(place.0, place.1);
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
