//! The straight path: what most calls are.
//!
//! An area of at most one slice, with all that it takes at hand: a slot in the
//! current chunk of its class, the chunk's leaf table, frames in the magazine
//! or given by the caller. Such a call is one section inside its CPU, and a few
//! hundred instructions. Its steps and its rules are those of the long way
//! ([`vmalloc`](crate::vmalloc)); but before the first of them it makes sure of
//! all, and where something is not at hand nothing has changed, and the call
//! goes the long way from the beginning.
//!
//! - E1: Only one thing can still go wrong: an entry that is in use where none
//!   may be (T2). Then the slot is undone as ever.

use crate::area::{Backing, Caller, Kind, Policy, Req};
use crate::cpu::{CpuGuard, SLICE};
use crate::error::AllocError;
use crate::frames::{hold_all, release};
use crate::gfp::Gfp;
use crate::instance::{Core, Vmalloc};
use crate::lookup::{Found, at_hand};
use crate::machine::Machine;
use crate::machine::frames::Frames;
use crate::plan::{Plan, check_node};
use crate::space::chunk::ChunkRef;
use crate::space::class::Class;
use crate::sync::breaks;
use crate::table::PteRange;
use crate::units::{PAGE_SHIFT, PAGE_SIZE, PageRange, Pfn, VirtAddr};
use crate::vmalloc::{AreaBuilder, Way};
use core::ptr::NonNull;

/// What the area takes, none of it taken yet.
struct AtHand<M: Machine> {
    chunk: ChunkRef,
    slot: u32,
    piece: PteRange<M::Table>,
}

impl<M: Machine> Vmalloc<M> {
    /// Makes an area, if that is a straight matter; `None`, and nothing has
    /// changed, where it is not.
    #[inline(always)]
    pub(crate) fn make_straight(
        &self,
        core: &Core<M>,
        req: &Req,
        kind: Kind,
        caller: Caller,
        backing: &Backing<'_>,
    ) -> Option<Result<NonNull<u8>, AllocError>> {
        let region = core.regions.get(req.region.0 as usize)?;
        let caches = || matches!(backing, Backing::Fresh) && core.caches();
        if matches!(backing, Backing::Fresh)
            && let Some(at) = self.make_cached(core, req, kind, caller)
        {
            return Some(Ok(at));
        }
        let plan = straight_plan(req, kind, caller, region.straight)?;
        let mut here = CpuGuard::enter(self, core).ok()?;
        if here.is_pressed() || caches() && !here.cpu.remote_frees.is_empty() {
            return None;
        }
        let AtHand { chunk, slot, piece } = here.at_hand(&plan)?;
        if !here.has_frames(&plan, backing, plan.pages) {
            return None;
        }
        chunk.take_this(slot);
        here.begin((chunk, slot), &plan, backing);
        if caches() {
            here.missed(&plan, chunk.slot(slot));
        }
        let bound = here.bind_straight(piece, &plan, backing);
        here.written(chunk, PageRange::new(piece.start(), bound), &plan);
        drop(here);
        let found = Found { chunk, index: slot, start: piece.start() };
        if bound < plan.pages {
            return Some(Err(AreaBuilder { vm: self, core, found, pages: plan.pages, bound }.in_use()));
        }
        if matches!(backing, Backing::Fresh) && req.gfp.contains(Gfp::ZERO) {
            if breaks!(PublishUncleared) {
                found.publish();
            }
            self.zero(piece);
        }
        Some(Ok(found.publish()))
    }

    /// Frees an area, if that is a straight matter; false, and nothing has
    /// changed, where it is not.
    #[inline(always)]
    pub(crate) fn free_area_straight(
        &self,
        core: &Core<M>,
        at: VirtAddr,
        by: Caller,
        frees: impl Fn(Kind) -> bool,
        count: Option<usize>,
    ) -> bool {
        if frees(Kind::Vmalloc)
            && let Some(done) = self.free_area_cached(core, at, by)
        {
            return done;
        }
        let Ok(mut here) = CpuGuard::enter(self, core) else { return false };
        let Some(found) = here.find(at) else { return false };
        let Some((kind, pages)) = found.slot().built() else { return false };
        let whole = found.start == at && found.chunk.areas() >> found.index & 1 != 0;
        let asked = frees(kind) && kind != Kind::Reserved && count.is_none_or(|count| count == pages);
        let ours = found.chunk.owner() == here.index && core.policy() != Policy::Strict;
        if !(whole && asked && ours && pages <= SLICE) {
            return false;
        }
        let Some(piece) = at_hand::<M>(found.chunk, PageRange::new(at, pages)) else { return false };
        here.retire_straight(&found, piece, by);
        true
    }
}

/// The plan of a request that may go straight: an area of a class, of at most
/// `most` pages, anywhere in its region.
#[inline(always)]
pub(crate) fn straight_plan(req: &Req, kind: Kind, caller: Caller, most: usize) -> Option<Plan<'_>> {
    let pages = req.bytes.wrapping_add(PAGE_SIZE - 1) >> PAGE_SHIFT;
    if pages.wrapping_sub(1) >= most || req.within.is_some() || kind == Kind::VmapOwned {
        return None;
    }
    let class = match req.align {
        PAGE_SIZE => Class::of(pages, 1)?,
        align if align.is_power_of_two() => Class::of(pages, align >> PAGE_SHIFT)?,
        _ => return None,
    };
    Some(Plan { req, kind, caller: req.caller.unwrap_or(caller), pages, class: Some(class) })
}

impl<'v, M: Machine> CpuGuard<'v, M> {
    /// The slot that is next, and its entries.
    #[inline(always)]
    fn at_hand(&mut self, plan: &Plan<'_>) -> Option<AtHand<M>> {
        let (chunk, slot) = self.cpu_chunks(plan.req.region).peek(plan.class?)?;
        let piece = at_hand::<M>(chunk, PageRange::new(chunk.address(slot), plan.pages))?;
        Some(AtHand { chunk, slot, piece })
    }

    /// Binds a slice of an area, `done` pages into it, if entries and frames are
    /// at hand, and says how many pages: what the long way does where it can.
    #[inline(always)]
    pub(crate) fn bind_at_hand(
        &mut self,
        chunk: ChunkRef,
        slice: PageRange,
        done: usize,
        plan: &Plan<'_>,
        backing: &Backing<'_>,
    ) -> Option<usize> {
        let piece = at_hand::<M>(chunk, slice)?;
        let part = match *backing {
            Backing::Frames(frames) => Backing::Frames(&frames[done..done + slice.pages]),
            other => other,
        };
        if !self.has_frames(plan, &part, slice.pages) {
            return None;
        }
        let bound = self.bind_straight(piece, plan, &part);
        self.written(chunk, slice, plan);
        Some(bound)
    }

    /// Whether frames for `pages` pages are at hand: in the magazine, or the
    /// caller's, which all are counted and gain a holder, but for a short time.
    #[inline(always)]
    fn has_frames(&mut self, plan: &Plan<'_>, backing: &Backing<'_>, pages: usize) -> bool {
        match *backing {
            Backing::Fresh => !M::MIRRORED && self.magazine.has(pages) && self.serves(plan),
            Backing::Frames(_) if !plan.kind.keeps() => !M::MIRRORED,
            Backing::Frames(frames) => {
                let held = if M::MIRRORED { 0 } else { hold_all(self.vm.machine().frames(), frames) };
                if held < frames.len() {
                    self.unhold(&frames[..held]);
                }
                held == frames.len()
            }
            _ => false,
        }
    }

    /// Whether this CPU's own frames will do for what is asked for.
    #[inline(always)]
    pub(crate) fn serves(&self, plan: &Plan<'_>) -> bool {
        let any = plan.wants_any() && self.magazine.serves_any();
        any || check_node(self.vm, plan.req).is_ok() && self.magazine.serves(plan.want(self.node))
    }

    /// Binds the pages to the frames at hand, and says how many.
    #[inline(always)]
    fn bind_straight(&mut self, piece: PteRange<M::Table>, plan: &Plan<'_>, backing: &Backing<'_>) -> usize {
        if let Backing::Frames(frames) = *backing {
            let bound = piece.map(frames, plan.req.prot, plan.req.memory);
            if bound < frames.len() && plan.kind.keeps() {
                self.unhold(&frames[bound..]);
            }
            return bound;
        }
        let bound = piece.map(self.magazine.top(piece.pages()), plan.req.prot, plan.req.memory);
        self.magazine.commit(bound);
        bound
    }

    /// Holds that were not needed are given up; their frames are somebody's.
    #[cold]
    #[inline(never)]
    pub(crate) fn unhold(&self, frames: &[Pfn]) {
        let source = self.vm.machine().frames();
        for page in frames.iter().filter_map(|&frame| source.page(frame)) {
            let last = release(page);
            debug_assert!(!last, "P1: the caller holds it");
        }
    }

    /// live → stale, in one section.
    #[inline(always)]
    fn retire_straight(&mut self, found: &Found, piece: PteRange<M::Table>, by: Caller) {
        let (vm, pages) = (self.vm, piece.pages());
        self.count_free(Way::AtOnce, pages);
        self.open.add(found.chunk, 1 << found.index, pages);
        found.slot().freed_by(by);
        piece.park(&mut |at, word| vm.report_bad_entry_once((found.chunk, found.index), at, word));
        vm.machine().unmapped(PageRange::new(found.start, pages));
        self.reclaim_step();
    }
}
