//! What the process's MMU is told: bindings as mappings of the memory file.
//!
//! The library writes its page tables as on any machine; here they are records
//! that no MMU reads. Each binding is *mirrored* by a mapping before it is
//! published, each clearing is queued, and a flush undoes what is queued.
//!
//! ```text
//!   bind(run)       blank ──alias──▶ no access ──guards, protect──▶ open
//!   cleared(range)  noted in the queue
//!   drain()         sorted, joined over guards, one call each ──▶ reserved
//! ```
//!
//! The file is mapped twice as a whole: `direct`, for tables, bookkeeping and
//! zeroing, and `blank`, without access. A run is bound by `mremap` with an old
//! length of 0, which makes a second mapping of what is at the source: unlike
//! `mmap` it takes over MADV_DONTFORK too, so that a fork at any moment finds
//! nothing to inherit. What Linux refuses is done another way ([`ability`](crate::ability)). A run that covers a gap
//! ([`shape`](crate::shape)) is aliased from `blank`, so that the gap is never
//! open, not for a moment: a neighbour may be live.
//!
//! # Rules
//! - **H1** A failed binding leaves nothing reachable.
//! - **H2** [`Mirror::drain`] is true only if all that was queued before the
//!   call is reserved again, by whomever. What could not be is queued again.
//! - **H3** The count of VMAs is Linux's own (V1).
//!
//! # Locks
//! `draining`, then a region's `shape`; `queue` last and alone. Linux serves
//! one mapping call of a process at a time: a lock around it costs nobody much.

use crate::ability::{Abilities, Ability};
use crate::budget::{Budget, MOST, Vmas};
use crate::builder::BuildError;
use crate::os::{self, Mapping};
use crate::shape::{Cover, Shape};
use parking_lot::Mutex;
use std::mem;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use vmalloc::machine::Run;
use vmalloc::machine::format::Prot;
use vmalloc::units::{PAGE_SIZE, PageRange, Pfn, VirtAddr};

/// The widest run whose page tables are filled in at once: a fault a page
/// costs seven times as much, if the page is used.
const POPULATE: usize = 512;

/// Alignment of a region: what a leaf table of four-level tables spans.
const REGION_ALIGN: usize = 1 << 21;

/// The error number of [`Machine::mirror`](vmalloc::machine::Machine::mirror)
/// when the VMA budget is spent: EDQUOT.
pub const BUDGET_SPENT: i32 = libc::EDQUOT;

/// What to build.
pub struct Plan<'a> {
    /// Bytes of the memory file, whole pages.
    pub memory: usize,
    /// Bytes of each region, whole pages.
    pub regions: &'a [usize],
    /// The most VMAs, where the default is too many.
    pub vma_budget: Option<usize>,
}

/// The mappings of one instance.
pub struct Mirror {
    file: OwnedFd,
    abilities: Abilities,
    direct: Mapping,
    blank: Mapping,
    regions: Box<[Region]>,
    /// Whether a page was ever bound that may not be written. Nobody has to look for one else.
    has_sealed: AtomicBool,
    queue: Mutex<Vec<PageRange>>,
    /// Held while the queue is worked off; what it guards is the work.
    draining: Mutex<Vec<PageRange>>,
    budget: Budget,
    refusals: AtomicU64,
    #[cfg(debug_assertions)]
    faults: vmalloc::machine::faulty::Faults,
}

struct Region {
    addresses: Mapping,
    shape: Mutex<Shape>,
}

impl Mirror {
    /// Memory and regions, with nothing bound.
    pub fn new(plan: &Plan<'_>) -> Result<Mirror, BuildError> {
        let named = |what| move |number| BuildError::of(what, number);
        let file = os::memory_file(plan.memory).map_err(|number| match number {
            libc::EFBIG => BuildError::FileLimit { bytes: plan.memory, limit: os::file_limit() },
            number => BuildError::of("memory file", number),
        })?;
        let share = |access| Mapping::share(&file, plan.memory, access);
        let direct = share(libc::PROT_READ | libc::PROT_WRITE).map_err(named("direct map"))?;
        let blank = share(libc::PROT_NONE).map_err(named("direct map"))?;
        let regions: Result<Box<[Region]>, _> = plan.regions.iter().map(|&bytes| Region::new(bytes)).collect();
        let regions = regions?;
        let mirror = Mirror {
            file,
            abilities: Abilities::new(),
            has_sealed: AtomicBool::new(false),
            direct,
            blank,
            queue: Mutex::default(),
            draining: Mutex::default(),
            budget: Budget::new(2 + regions.len(), plan.vma_budget),
            regions,
            refusals: AtomicU64::new(0),
            #[cfg(debug_assertions)]
            faults: Default::default(),
        };
        mirror.probe_guards();
        Ok(mirror)
    }

    /// The regions' addresses.
    pub fn regions(&self) -> impl Iterator<Item = Range<usize>> {
        self.regions.iter().map(|r| r.range().addresses())
    }

    /// Whether the memory is another process's.
    #[inline]
    pub fn is_elsewhere(&self) -> bool {
        !self.direct.is_here()
    }

    /// Where the frame `f` is reached directly.
    pub fn direct(&self, f: Pfn) -> NonNull<u8> {
        self.direct.at(f.phys() as usize)
    }

    /// Bytes of memory.
    pub fn memory(&self) -> usize {
        self.direct.bytes()
    }

    /// VMAs used and allowed.
    pub fn vmas(&self) -> Vmas {
        self.budget.vmas()
    }

    /// Whether gaps are covered by guards.
    pub fn has_guards(&self) -> bool {
        self.abilities.has(Ability::Guards)
    }

    /// How often Linux refused to take a mapping away.
    pub fn refusals(&self) -> u64 {
        self.refusals.load(Relaxed)
    }

    /// Decides which step fails, for tests.
    #[cfg(debug_assertions)]
    pub fn faults(&self) -> &vmalloc::machine::faulty::Faults {
        &self.faults
    }

    /// Makes `run` reachable.
    ///
    /// # Errors
    /// EFAULT outside of the regions, ENXIO beyond the memory,
    /// [`BUDGET_SPENT`], or Linux's own number; H1.
    pub fn bind(&self, run: Run) -> Result<(), i32> {
        let region = self.region_of(run.pages).ok_or(libc::EFAULT)?;
        let end = run.first.0.checked_add(run.pages.pages as u64).ok_or(libc::ENXIO)?;
        if end > self.frames() {
            return Err(libc::ENXIO);
        }
        self.book()?;
        self.note_prot(run.prot);
        let mut shape = region.shape.lock();
        let before = shape.vmas();
        let bound = self.bind_in(region, &mut shape, run);
        self.budget.settle(MOST, shape.vmas().wrapping_sub(before));
        drop(shape);
        if bound.is_ok() && run.pages.pages <= POPULATE {
            os::populate(run.pages);
        }
        bound
    }

    /// Lets `range`, which is open, be used as `prot` says.
    ///
    /// # Errors
    /// EFAULT outside of the regions, [`BUDGET_SPENT`], or Linux's own number. It may be used as
    /// before then.
    pub fn protect(&self, range: PageRange, prot: Prot) -> Result<(), i32> {
        let region = self.region_of(range).ok_or(libc::EFAULT)?;
        self.book()?;
        self.note_prot(prot);
        let (mut shape, pages) = (region.shape.lock(), region.pages(range));
        let before = shape.vmas();
        // SAFETY: O1: it is in the region. O2: its owner wants it.
        let done = self.step(|| unsafe { os::protect(range, prot) });
        if done.is_ok() {
            shape.protect(pages, prot);
        } else {
            // Linux may have got as far as a border between two mappings.
            for (pages, was) in shape.prots(pages) {
                // SAFETY: as above.
                let _ = unsafe { os::protect(region.range_of(pages), was) };
            }
        }
        self.budget.settle(MOST, shape.vmas().wrapping_sub(before));
        done
    }

    /// Lets Linux have the memory of frames that nobody has.
    ///
    /// # Errors
    /// The number of Linux, which refused both ways: frames keep their memory.
    pub fn punch(&self, first: Pfn, frames: usize) -> Result<(), i32> {
        let (offset, bytes) = (first.phys() as usize, frames * PAGE_SIZE);
        let punched = self.step(|| os::punch(&self.file, offset, bytes));
        punched.or_else(|_| self.step(|| os::remove(&self.direct, offset, bytes)))
    }

    /// Bytes of memory that Linux holds for the file.
    pub fn resident(&self) -> Result<usize, i32> {
        os::resident(&self.file)
    }

    /// Whether the page at `at`, which is in an area that the caller is making, may be written.
    pub fn is_writable(&self, at: VirtAddr) -> bool {
        if !self.has_sealed.load(Relaxed) {
            return true;
        }
        let page = PageRange::new(at, 1);
        self.region_of(page).is_some_and(|region| {
            let pages = region.pages(page);
            region.shape.lock().prots(pages).all(|(_, prot)| prot.contains(Prot::WRITE))
        })
    }

    /// The entries of `range` are cleared: it may go at the next flush.
    pub fn cleared(&self, range: PageRange) {
        debug_assert!(self.region_of(range).is_some(), "{range:?}");
        if range.pages > 0 {
            self.queue.lock().push(range);
        }
    }

    /// Takes away what is queued (H2).
    pub fn drain(&self) -> bool {
        // Whoever waits here finds done, or queued again, what others took.
        let mut work = self.draining.lock();
        mem::swap(&mut *work, &mut *self.queue.lock());
        work.sort_unstable_by_key(|range| range.start);
        let mut failed = Vec::new();
        let mut rest = work.as_slice();
        while let Some(region) = rest.first().and_then(|first| self.region_of(*first)) {
            let (group, others) = rest.split_at(self.unbind_some(region, rest, &mut failed));
            debug_assert!(!group.is_empty());
            rest = others;
        }
        work.clear();
        self.queue.lock().extend_from_slice(&failed);
        failed.is_empty()
    }

    /// Before a page may be used as `prot` says, no more.
    fn note_prot(&self, prot: Prot) {
        if !prot.contains(Prot::WRITE) {
            self.has_sealed.store(true, Relaxed);
        }
    }

    fn frames(&self) -> u64 {
        (self.memory() / PAGE_SIZE) as u64
    }

    fn region_of(&self, range: PageRange) -> Option<&Region> {
        self.regions.iter().find(|r| r.range().contains(range.start) && range.end() <= r.range().end())
    }

    /// Books the VMAs of a binding (B1); what waits to be taken away has some.
    fn book(&self) -> Result<(), i32> {
        if self.budget.take() {
            return Ok(());
        }
        self.drain();
        if self.budget.take() { Ok(()) } else { Err(BUDGET_SPENT) }
    }

    /// Binds `run` in the way for which Linux leaves the abilities; a refusal leaves one fewer for the next try.
    fn bind_in(&self, region: &Region, shape: &mut Shape, run: Run) -> Result<(), i32> {
        let is_code = run.prot.contains(Prot::EXEC);
        let to_open = match run.prot {
            Prot::RW => Ability::Guards,
            _ if is_code => Ability::Exec,
            _ => Ability::Protect,
        };
        while self.abilities.has(Ability::Alias) && (run.prot == Prot::RW || self.abilities.has(to_open)) {
            match self.bind_by_alias(region, shape, run) {
                Err((step, number)) if self.abilities.lose(step.unwrap_or(to_open), number) => (),
                result => return result.map_err(|(_, number)| number),
            }
        }
        self.bind_at_once(region, shape, run)
    }

    /// Binds `run` by a mapping that has its protection from the start. It covers no gap.
    fn bind_at_once(&self, region: &Region, shape: &mut Shape, run: Run) -> Result<(), i32> {
        let pages = region.pages(run.pages);
        // SAFETY: O1: the run is in the region. O2: its pages are clean.
        let mapped = self.step(|| unsafe { os::map(&self.file, run.first.phys() as usize, run.pages, run.prot) });
        match mapped {
            Ok(()) => shape.bind(pages, Cover::default(), run.first, run.prot),
            // SAFETY: as above. Nothing of it may be reached (H1).
            Err(_) => _ = unsafe { os::reserve_again(run.pages).or_else(|_| os::mend(run.pages)) },
        }
        mapped
    }

    /// Binds `run` by a second mapping of the file. Names the step that was refused; `None` = the last one, which
    /// opens the run.
    fn bind_by_alias(&self, region: &Region, shape: &mut Shape, run: Run) -> Result<(), (Option<Ability>, i32)> {
        let pages = region.pages(run.pages);
        let cover = self.cover(shape, &pages, run.first);
        let all = region.range_of(pages.start - cover.before..pages.end + cover.after);
        let plain = cover == Cover::default() && run.prot == Prot::RW;
        let source = if plain { &self.direct } else { &self.blank };
        let offset = run.first.phys() as usize - cover.before * PAGE_SIZE;
        // SAFETY: O1: `all` is in the region. O2: the run's pages are clean, the cover's are not open.
        let aliased = self.step(|| unsafe { os::alias(source, offset, all) });
        if let Err(number) = aliased {
            // SAFETY: O1.
            let _ = unsafe { os::mend(all) };
            return Err((Some(Ability::Alias), number));
        }
        shape.bind(pages.clone(), cover, run.first, run.prot);
        if plain {
            return Ok(());
        }
        // Should the clearing fail as well: nothing is open (H1), and the next binding replaces it.
        self.open(region, &pages, cover, run.prot).inspect_err(|_| {
            let _ = self.clear(region, shape, pages);
        })
    }

    /// Guards and then opens what was aliased from `blank`. Names the step, as above.
    fn open(
        &self,
        region: &Region,
        run: &Range<usize>,
        cover: Cover,
        prot: Prot,
    ) -> Result<(), (Option<Ability>, i32)> {
        let (low, high) = (run.start - cover.before, run.end + cover.after);
        for guard in [low..run.start, run.end..high] {
            if !guard.is_empty() {
                // SAFETY: O1, O2: just aliased, and published to nobody.
                let guarded = self.step(|| unsafe { os::install_guards(region.range_of(guard)) });
                guarded.map_err(|number| (Some(Ability::Guards), number))?;
            }
        }
        // SAFETY: as above.
        self.step(|| unsafe { os::protect(region.range_of(low..high), prot) }).map_err(|number| (None, number))
    }

    /// The gaps to cover; the mapping has to exist in the file from end to end.
    fn cover(&self, shape: &Shape, run: &Range<usize>, first: Pfn) -> Cover {
        if !self.abilities.has(Ability::Guards) {
            return Cover::default();
        }
        let Cover { before, after } = shape.gaps(run);
        let end = first.0 + run.len() as u64;
        Cover {
            before: if before as u64 <= first.0 { before } else { 0 },
            after: if end + after as u64 <= self.frames() { after } else { 0 },
        }
    }

    /// Unbinds the first range of `sorted` and those that join it, in one call,
    /// and says how many those were.
    fn unbind_some(&self, region: &Region, sorted: &[PageRange], failed: &mut Vec<PageRange>) -> usize {
        let mut shape = region.shape.lock();
        let before = shape.vmas();
        let Range { start, mut end } = region.pages(sorted[0]);
        let mut count = 1;
        for next in sorted[1..].iter().filter(|next| region.range().contains(next.start)).map(|r| region.pages(*r)) {
            if !shape.joins(end, next.start) {
                break;
            }
            (end, count) = (next.end, count + 1);
        }
        if self.clear(region, &mut shape, start..end).is_err() {
            self.refusals.fetch_add(1, Relaxed);
            failed.extend_from_slice(&sorted[..count]);
        }
        self.budget.settle(0, shape.vmas().wrapping_sub(before));
        count
    }

    fn clear(&self, region: &Region, shape: &mut Shape, range: Range<usize>) -> Result<(), i32> {
        let all = shape.extent(&range);
        // SAFETY: O1: it is in the region. O2: `range` was cleared, what else there is are guards.
        self.step(|| unsafe { os::reserve_again(region.range_of(all.clone())) })?;
        shape.clear(all);
        Ok(())
    }

    /// A fallible step.
    fn step(&self, call: impl FnOnce() -> Result<(), i32>) -> Result<(), i32> {
        #[cfg(debug_assertions)]
        if self.faults.strike() {
            return Err(libc::ENOMEM);
        }
        call()
    }

    /// Finds out whether guards work on a file of this kind, by trying: two pages, of
    /// which the second is one.
    fn probe_guards(&self) {
        let region = self.regions.first().filter(|region| region.range().pages >= 2 && self.frames() >= 2);
        if !region.is_some_and(|region| self.has_guard_after_page(region)) {
            self.abilities.lose(Ability::Guards, libc::EOPNOTSUPP);
        }
    }

    fn has_guard_after_page(&self, region: &Region) -> bool {
        let cover = Cover { before: 0, after: 1 };
        // SAFETY: O1, O2: nothing is bound yet.
        let aliased = unsafe { os::alias(&self.blank, 0, region.range_of(0..2)) };
        let opened = aliased.is_ok() && self.open(region, &(0..1), cover, Prot::RW).is_ok();
        let byte = |page| region.addresses.at(page * PAGE_SIZE).as_ptr();
        let works = opened && os::is_readable(byte(0)) && !os::is_readable(byte(1));
        // SAFETY: as above.
        unsafe { os::reserve_again(region.range_of(0..2)) }.is_ok() && works
    }
}

impl Region {
    fn new(bytes: usize) -> Result<Region, BuildError> {
        let addresses = Mapping::reserve(bytes, REGION_ALIGN).map_err(|number| BuildError::of("region", number))?;
        let shape = Shape::new(bytes / PAGE_SIZE).ok_or(BuildError::NoRecords { of: "region's pages" })?;
        Ok(Region { addresses, shape: Mutex::new(shape) })
    }

    fn range(&self) -> PageRange {
        PageRange::new(VirtAddr(self.addresses.start()), self.addresses.bytes() / PAGE_SIZE)
    }

    /// Pages, counted from the region's start.
    fn pages(&self, range: PageRange) -> Range<usize> {
        let first = (range.start.0 - self.addresses.start()) / PAGE_SIZE;
        first..first + range.pages
    }

    fn range_of(&self, pages: Range<usize>) -> PageRange {
        PageRange::new(self.range().start.add_pages(pages.start), pages.len())
    }
}
