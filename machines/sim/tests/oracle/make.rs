//! Making areas of memory and of addresses.

use super::hand::{Hand, spot};
use super::model::Area;
use core::ptr::NonNull;
use std::ops::Range;
use vmalloc::area::{Guard, RegionId};
use vmalloc::machine::format::{Format, Prot};
use vmalloc::machine::frames::Frames;
use vmalloc::machine::{Context, Machine};
use vmalloc::units::{Node, PAGE_SIZE, Pfn, VirtAddr};
use vmalloc::{AllocError, Gfp, Kind, Placement, Policy, Req};

/// Stores to a new area at most; the other pages say what they say.
const STAMPED: usize = 64;
/// Fallible steps, one of which is refused.
const STEPS: usize = 12;

/// A request, as the oracle understands it.
#[derive(Clone, Debug)]
pub struct Ask {
    pub req: Req,
    bytes: usize,
    align: usize,
    range: Range<usize>,
    guard: Guard,
    gfp: Gfp,
    prot: Prot,
    kind: Kind,
    /// Any frame will do, and nobody came in between.
    plain: bool,
}

impl<F: Format, const ALIASES: bool> Hand<'_, F, ALIASES> {
    /// Pages of an area: few mostly.
    fn some_pages(&self) -> usize {
        let most = self.pick(&[2, 4, 4, 9, 20, self.setup().biggest]);
        1 + self.below(most.min(self.setup().biggest))
    }

    /// A request that makes sense.
    pub fn some_ask(&self) -> Ask {
        let pages = self.some_pages();
        let bytes = pages * PAGE_SIZE - self.pick(&[0, 0, 1, 4095]);
        let region = self.below(self.setup().regions);
        let mut ask = Ask {
            req: Req::bytes(bytes).region(RegionId(region as u8)),
            bytes,
            align: PAGE_SIZE,
            range: self.usable(region),
            guard: Guard::After,
            gfp: Gfp::KERNEL,
            prot: Prot::RW,
            kind: Kind::Vmalloc,
            plain: true,
        };
        match self.below(16) {
            0 => {
                ask.align = PAGE_SIZE << self.below(6);
                ask.req = ask.req.align(ask.align);
            }
            1 => {
                ask.range = self.some_range(region, pages);
                ask.req = ask.req.within(ask.range.clone());
            }
            2 => {
                ask.guard = Guard::None;
                ask.req = ask.req.guard(Guard::None);
            }
            3 => {
                let bytes = pages.min(8) * PAGE_SIZE;
                let align = bytes.next_power_of_two().max(2 * PAGE_SIZE);
                (ask.bytes, ask.align, ask.kind) = (bytes, align, Kind::Stack);
                ask.gfp = Gfp::KERNEL | Gfp::ZERO;
                ask.req = Req::stack(pages.min(8)).region(RegionId(region as u8));
            }
            4..8 => {
                ask.gfp = self.some_gfp();
                ask.plain = !ask.gfp.intersects(Gfp::DMA | Gfp::DMA32 | Gfp::THISNODE | Gfp::NORETRY);
                ask.req = ask.req.gfp(ask.gfp);
            }
            9 => {
                ask.prot = Prot::RO;
                ask.req = ask.req.prot(Prot::RO);
            }
            8 => ask.req = ask.req.node(Node(self.below(self.setup().nodes as usize) as u8)),
            _ => {}
        }
        ask
    }

    fn some_gfp(&self) -> Gfp {
        let how = self.pick(&[Gfp::KERNEL, Gfp::KERNEL, Gfp::ATOMIC, Gfp::NOWAIT]);
        let zone = self.pick(&[Gfp::HIGHMEM, Gfp::HIGHMEM, Gfp::DMA32, Gfp::DMA, Gfp::empty()]);
        how | zone | self.pick(&[Gfp::ZERO, Gfp::NOWARN, Gfp::NORETRY, Gfp::THISNODE, Gfp::empty()])
    }

    /// A range with room for `pages`, if its grains fit.
    fn some_range(&self, region: usize, pages: usize) -> Range<usize> {
        let usable = self.usable(region);
        let room = (usable.len() / PAGE_SIZE).saturating_sub(pages + 2).max(1);
        let start = usable.start + self.below(room) * PAGE_SIZE;
        start..(start + (pages + 1 + self.below(130)) * PAGE_SIZE).min(usable.end)
    }

    pub fn alloc(&self) {
        if self.model().live_pages > self.setup().target && !self.one_in(4) {
            return self.free_any();
        }
        let ask = self.some_ask();
        self.attempt(ask, |req| self.vm.alloc(req));
    }

    /// Asks, and judges the answer: sharper if no interrupt came meanwhile.
    fn attempt(&self, mut ask: Ask, call: impl FnOnce(Req) -> Result<NonNull<u8>, AllocError>) {
        let before = self.interrupts();
        let made = self.or_undone(|| call(ask.req.clone()));
        ask.plain &= self.interrupts() == before;
        self.judge(made, &ask);
    }

    /// Makes a call; if it refuses, the model hears of the pages that it had built.
    pub fn or_undone<T>(&self, call: impl FnOnce() -> Result<T, AllocError>) -> Result<T, AllocError> {
        let began = self.sim().now();
        let made = call();
        if made.is_err() {
            let undone = self.sim().waiting_since(began);
            let undone: Vec<_> = undone.into_iter().map(|(page, frame)| (page.0, frame)).collect();
            self.model().undone(&undone);
        }
        made
    }

    fn judge(&self, made: Result<NonNull<u8>, AllocError>, ask: &Ask) {
        match made {
            Ok(at) => self.made(at, ask),
            Err(error) => self.judge_refusal(ask, error),
        }
    }

    /// As an interrupt does it.
    pub fn alloc_atomic(&self) {
        let mut ask = self.some_ask();
        ask.gfp = Gfp::ATOMIC;
        ask.req = ask.req.gfp(ask.gfp);
        self.model().making += 1;
        let made = self.or_undone(|| self.vm.alloc(ask.req.clone()));
        self.model().making -= 1;
        self.judge(made, &ask);
    }

    /// Some step of it is refused, if it gets that far.
    pub fn alloc_refused(&self) {
        let mut ask = self.some_ask();
        ask.plain = false;
        self.refuse_soon();
        let made = self.or_undone(|| self.vm.alloc(ask.req.clone()));
        self.refuse(0);
        self.judge(made, &ask);
    }

    /// One of the next steps is refused.
    pub fn refuse_soon(&self) {
        self.refuse(1 + self.below(STEPS) as u64);
    }

    /// The step that comes so soon is refused, where refusals are compiled in; 0 = none.
    pub fn refuse(&self, _step: u64) {
        #[cfg(debug_assertions)]
        self.sim().faults().fail_at(_step);
    }

    pub fn reserve(&self) {
        let mut ask = self.some_ask();
        ask.kind = Kind::Reserved;
        self.attempt(ask, |req| self.vm.reserve(req));
    }

    /// Areas at fixed distances.
    pub fn reserve_at_offsets(&self) {
        let unit = self.setup().grain_pages() * PAGE_SIZE;
        let mut end = 0;
        let parts = (0..1 + self.below(3)).map(|n| {
            let page = || self.below(self.setup().grain_pages()) * PAGE_SIZE;
            let offset = if n == 0 { 0 } else { end + self.below(3) * unit } + page();
            let bytes = self.below(3) * unit + page() + PAGE_SIZE;
            end = (offset + bytes).next_multiple_of(unit);
            (offset, bytes)
        });
        let parts: Vec<_> = parts.collect();
        let region = self.below(self.setup().regions);
        let align = PAGE_SIZE << self.below(5);
        let like = Req::bytes(0).region(RegionId(region as u8));
        // The first of them live before the call returns.
        match self.quietly(|| self.vm.reserve_at_offsets(&parts, align, like)) {
            Ok(base) => {
                assert!(base.is_multiple_of(align), "place: congruent areas at {base:#x}, aligned to {align:#x}");
                for (offset, bytes) in parts {
                    let mut area = Area::new(base + offset, bytes, Kind::Reserved);
                    area.guard = Guard::None;
                    self.enter(area, &self.usable(region), PAGE_SIZE);
                }
            }
            Err(AllocError::NoAddresses { .. } | AllocError::NoTables { .. } | AllocError::WouldWait(..)) => {}
            Err(error) => panic!("refusal: congruent {parts:x?}: {error:?}"),
        }
    }

    /// An area was made: is it where it should be, new, and clear if asked for?
    fn made(&self, at: NonNull<u8>, ask: &Ask) {
        let mut area = Area::new(at.addr().get(), ask.bytes, ask.kind);
        (area.guard, area.prot) = (ask.guard, ask.prot);
        if ask.kind != Kind::Reserved {
            // An interrupt would meet an area that the model does not know yet.
            let page = |n| self.quietly(|| self.vm.frame_at(area.start + n * PAGE_SIZE));
            area.frames = (0..area.pages).map(|n| page(n).expect("G2: a page of a new area is bound")).collect();
            let mut model = self.model();
            for (n, &frame) in area.frames.iter().enumerate() {
                model.fresh(frame, &format!("page {n} of {:#x}", area.start));
                let page = VirtAddr(area.start + n * PAGE_SIZE);
                self.sim().assert_reached_only_at(frame, Some(page));
                let own = Pfn::containing(page.0 as u64);
                assert!(ALIASES || frame == own, "frame: {page} has {frame:?} and is its own");
            }
        }
        // A page that is its own frame is clear after each flush, and only cached slots have none.
        let caches = ALIASES || matches!(self.vm.policy(), Policy::Park | Policy::Keep);
        if (ask.gfp.contains(Gfp::ZERO) || !caches) && ask.kind != Kind::Reserved {
            // Where pages are their own frames the word that was stored there is the one to look at.
            let (cpu, at) = (self.awake(), area.start + self.below(area.pages * 512) * 8);
            let own = (at & !(PAGE_SIZE - 1)) + spot(Pfn::containing(at as u64));
            let zero = self.sim().load(cpu, VirtAddr(if ALIASES { at } else { own }));
            assert_eq!(zero, Ok(0), "content: {:#x} is new and not clear", area.start);
        }
        self.enter(area, &ask.range, ask.align);
    }

    /// An area is new: its place is checked, and its pages get new words.
    pub fn enter(&self, area: Area, range: &Range<usize>, align: usize) {
        let right = area.start.is_multiple_of(align) && range.start <= area.start && area.extent() <= range.end;
        assert!(right, "place: {area:x?} in {range:x?}, aligned to {align:#x}");
        let (floor, start, pages, extent) = (area.floor(), area.start, area.pages, area.extent());
        self.model().enter(area);
        let most = pages.min(STAMPED);
        (0..most).for_each(|n| self.write(start + n * pages / most * PAGE_SIZE));
        self.look(extent - PAGE_SIZE);
        // What is below a stack faults at once, whoever the neighbour is.
        if floor < start {
            self.sim().assert_faults(self.awake(), VirtAddr(start - 8));
        }
        self.look_in_passing(start - PAGE_SIZE);
    }

    /// A request was refused: with the right error, and for want of something?
    pub fn judge_refusal(&self, ask: &Ask, error: AllocError) {
        match error {
            AllocError::NoFrames { .. } | AllocError::NoTables { .. } => self.judge_shortage(ask, error),
            AllocError::NoAddresses { .. } => self.judge_gap(ask, error),
            AllocError::WouldWait(..) => {}
            other => panic!("refusal: {ask:x?}: {other:?}"),
        }
    }

    /// Whoever may wait gets the gap that there is, where nothing is rounded.
    fn judge_gap(&self, ask: &Ask, error: AllocError) {
        let waits = ask.gfp.contains(Gfp::WAIT) && self.sim().context() == Context::Task;
        if waits && ask.plain && self.setup().placement == Placement::Lowest {
            let bytes = ask.bytes.next_multiple_of(PAGE_SIZE) + (ask.guard == Guard::After) as usize * PAGE_SIZE;
            let below = (ask.kind == Kind::Stack) as usize * PAGE_SIZE;
            let gap = self.model().gap(&ask.range, below, bytes, ask.align);
            assert_eq!(gap, None, "refusal: {error:?} of {ask:x?}");
        }
    }

    /// Whoever may wait, and take any frame, gets what there is. Tables cannot
    /// lie in high memory.
    fn judge_shortage(&self, ask: &Ask, error: AllocError) {
        let waits = ask.gfp.contains(Gfp::WAIT) && self.sim().context() == Context::Task;
        let elsewhere = self.setup().highmem.is_some() && matches!(error, AllocError::NoTables { .. });
        if !waits || !ask.plain || elsewhere {
            return;
        }
        if !ALIASES && matches!(error, AllocError::NoFrames { .. }) {
            let (live, pages) = (self.model().live_pages, ask.bytes.div_ceil(PAGE_SIZE));
            let limit = self.setup().page_limit();
            return assert!(live + pages > limit, "refusal: {error:?} of {ask:x?}, with {live} of {limit} pages");
        }
        let stats = self.quietly(|| self.vm.stats());
        let idle = stats.waiting_pages + stats.cached_pages + stats.pooled_frames;
        let spare = self.sim().frames().free_now() + idle;
        let (total, pages) = (self.sim().frames().total(), ask.bytes.div_ceil(PAGE_SIZE));
        assert!(spare < pages + 64 + total / 8, "refusal: {error:?} of {ask:x?}, with {spare} frames: {stats:?}");
    }

    /// What no allocator can serve.
    pub fn ask_nonsense(&self) {
        let region = self.setup().region(0);
        let interrupts = self.interrupts();
        let before = self.vm.stats();
        let refused = |req: Req| self.vm.alloc(req).expect_err("refusal: nonsense was served");
        assert_eq!(refused(Req::bytes(0)), AllocError::ZeroSize);
        assert!(matches!(refused(Req::bytes(usize::MAX)), AllocError::TooLarge { .. }));
        assert!(matches!(refused(Req::pages(1 << 30)), AllocError::TooLarge { .. }));
        assert_eq!(refused(Req::pages(1).align(3 * PAGE_SIZE)), AllocError::BadAlign(3 * PAGE_SIZE));
        let outside = Req::pages(1).within(region.end..region.end + 8 * PAGE_SIZE);
        assert!(matches!(refused(outside), AllocError::BadRange { .. }));
        assert!(matches!(refused(Req::pages(1).region(RegionId(3))), AllocError::NoRegion { .. }));
        let after = self.vm.stats();
        if self.interrupts() == interrupts {
            assert_eq!((before.areas, before.pages), (after.areas, after.pages), "refusal: nonsense left something");
        }
    }
}
