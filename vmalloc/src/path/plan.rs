//! Plans: a request, checked once, in the terms of the rooms below.
//!
//! Most requests are *usual*: an area of a class, anywhere in its region. A few compares
//! find that out; every other request is checked out of line.

use crate::area::{Caller, Guard, Kind, Req};
use crate::error::AllocError;
use crate::gfp::{Gfp, ZoneKind};
use crate::machine::Machine;
use crate::machine::format::Prot;
use crate::machine::frames::{Frames, Want};
use crate::path::backing::Backing;
use crate::space::class::Class;
use crate::space::slot::Label;
use crate::state::core::Ctx;
use crate::state::region::{Region, RunFit};
use crate::units::{Node, PAGE_SHIFT, PAGE_SIZE, VirtAddr};

/// What a call will do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan<'r> {
    pub(crate) req: &'r Req,
    pub(crate) kind: Kind,
    pub(crate) caller: Caller,
    pub(crate) pages: usize,
    /// The class whose slots it takes one of; `None` for a run of its own.
    pub(crate) class: Option<Class>,
}

impl<'r> Plan<'r> {
    /// The plan of a usual request: one that nothing is wrong with. `None` for any other.
    #[inline(always)]
    pub(crate) fn usual<M: Machine, B: Backing<M>>(
        ctx: Ctx<'_, M>,
        req: &'r Req,
        kind: Kind,
        caller: Caller,
        backing: B,
    ) -> Option<Plan<'r>> {
        let region = ctx.core.regions.get(req.region.0 as usize)?;
        let pages = req.bytes.wrapping_add(PAGE_SIZE - 1) >> PAGE_SHIFT;
        if pages.wrapping_sub(1) >= region.usual || req.unusual || !has_node(ctx.machine, req) {
            return None;
        }
        let class = match req.align {
            PAGE_SIZE => Class::of(pages, 1)?,
            align if align.is_power_of_two() => Class::of(pages, align >> PAGE_SHIFT)?,
            _ => return None,
        };
        backing.check(ctx.machine, pages).ok()?;
        Some(Plan { req, kind, caller: req.caller.unwrap_or(caller), pages, class: Some(class) })
    }

    /// Checks any request.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub(crate) fn checked<M: Machine, B: Backing<M>>(
        ctx: Ctx<'_, M>,
        req: &'r Req,
        kind: Kind,
        caller: Caller,
        backing: B,
    ) -> Result<Plan<'r>, AllocError> {
        check_prot(req.prot)?;
        let (pages, class) = checked_size(ctx, (req, kind), backing.limit(ctx.machine))?;
        backing.check(ctx.machine, pages)?;
        Ok(Plan { req, kind, caller: req.caller.unwrap_or(caller), pages, class })
    }

    /// The area's label. Frames that it takes over are borrowed until it is
    /// whole, so that a refusal leaves them alone.
    #[inline(always)]
    pub(crate) fn label<M: Machine, B: Backing<M>>(&self, backing: B) -> Label {
        Label {
            bytes: self.req.bytes,
            pages: self.pages,
            kind: if !B::FRESH && self.adopts() { Kind::Vmap } else { self.kind },
            guard: self.req.guard,
            caller: self.caller,
            node: self.req.node.unwrap_or_default(),
            phys: backing.phys(),
        }
    }

    /// Whether the area takes the frames over that it is given.
    #[inline]
    pub(crate) fn adopts(&self) -> bool {
        self.kind == Kind::VmapOwned
    }

    /// The run of its own that it needs.
    pub(crate) fn run<L: lock_api::RawMutex>(&self, region: &Region<L>) -> RunFit {
        RunFit {
            pages: self.pages + guards_after(self.req),
            below: self.kind.guards_below(),
            align: (self.req.align >> PAGE_SHIFT).max(1),
            within: self.within(region),
        }
    }

    /// Checks that its area can have a run of its own: one that is not longer than any run.
    ///
    /// # Errors
    /// [`AllocError::TooLarge`].
    pub(crate) fn check_run<L: lock_api::RawMutex>(&self, region: &Region<L>) -> Result<(), AllocError> {
        let run = self.run(region);
        region.check_run(region.fit(&run).grains - run.below, self.req.bytes, run.pages - self.pages)
    }

    /// The grains that it may have.
    pub(crate) fn within<L: lock_api::RawMutex>(&self, region: &Region<L>) -> (usize, usize) {
        self.req.within.and_then(|range| region.grains_within(range)).unwrap_or((0, region.grains()))
    }
}

impl Req {
    /// Whether it wants frames of no certain node, and of no low zone.
    #[inline(always)]
    pub(crate) fn wants_any(&self) -> bool {
        const CERTAIN: Gfp = Gfp::DMA.union(Gfp::DMA32).union(Gfp::THISNODE);
        !self.gfp.intersects(CERTAIN) && self.node.is_none()
    }

    /// Which frames, for a CPU of `home`.
    #[inline]
    pub(crate) fn want(&self, home: Node) -> Want {
        // Cleared through its direct mapping, if not through its own.
        let direct = self.gfp.contains(Gfp::ZERO) && !self.prot.contains(Prot::WRITE);
        let zone = match self.gfp.zone() {
            ZoneKind::HighMem if direct => ZoneKind::Normal,
            // The traditional rule: highmem will do unless a low zone is named.
            ZoneKind::Normal if !direct => ZoneKind::HighMem,
            zone => zone,
        };
        let this_node = self.gfp.contains(Gfp::THISNODE);
        Want { order: 0, zone, node: self.node.unwrap_or(home), this_node, next: None }
    }
}

/// Pages and class of any request.
fn checked_size<M: Machine>(
    ctx: Ctx<'_, M>,
    (req, kind): (&Req, Kind),
    limit: usize,
) -> Result<(usize, Option<Class>), AllocError> {
    let pages = match req.page_count() {
        Some(0) => return Err(AllocError::ZeroSize),
        Some(pages) if pages <= limit => pages,
        _ => return Err(AllocError::TooLarge { bytes: req.bytes, limit: limit.saturating_mul(PAGE_SIZE) }),
    };
    check_node(ctx.machine, req)?;
    let Some(region) = ctx.core.regions.get(req.region.0 as usize) else {
        return Err(AllocError::NoRegion { region: req.region, regions: ctx.core.regions.len() });
    };
    if !req.align.is_power_of_two() || req.align > region.bytes {
        return Err(AllocError::BadAlign(req.align));
    }
    let needed = pages.saturating_add(guards_after(req) + kind.guards_below());
    if needed > region.bytes >> PAGE_SHIFT {
        let guards = needed - pages;
        return Err(AllocError::TooLarge { bytes: req.bytes, limit: region.bytes.saturating_sub(guards * PAGE_SIZE) });
    }
    if let Some((start, end)) = req.within {
        let bad = AllocError::BadRange { start: VirtAddr(start), end: VirtAddr(end) };
        region.grains_within((start, end)).ok_or(bad)?;
    }
    Ok((pages, region.class_of(pages, req.align).filter(|_| req.within.is_none())))
}

/// Pages after an area that nobody maps.
fn guards_after(req: &Req) -> usize {
    (req.guard == Guard::After) as usize
}

#[inline(always)]
fn has_node<M: Machine>(machine: &M, req: &Req) -> bool {
    req.node.is_none_or(|node| (node.0 as usize) < machine.frames().nodes())
}

/// A node that is asked of is one that there is.
pub(crate) fn check_node<M: Machine>(machine: &M, req: &Req) -> Result<(), AllocError> {
    let node = req.node.unwrap_or_default();
    let bad = AllocError::BadNode { node, nodes: machine.frames().nodes() };
    if has_node(machine, req) { Ok(()) } else { Err(bad) }
}

/// Stores and execution at once are meant.
pub(crate) fn check_prot(prot: Prot) -> Result<(), AllocError> {
    if prot.is_careless() { Err(AllocError::WriteExec) } else { Ok(()) }
}
