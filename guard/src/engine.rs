//! The guard of a process: takes an allocation into pages of its own, and closes them when it is freed.
//!
//! # Words
//! - *guarded*: allocated here. Everything else is the underlying allocator's, and so is what is refused
//!   here: for lack of memory or addresses, beyond the budget, or in the middle of another call.
//! - *owned*: an address of the window. Only the guard can free it.
//!
//! # Rules
//! - **E1** An allocation that was refused is as if nobody had asked.
//! - **E2** A guarded allocation is freed once: by the call that moves its slot from LIVE.
//! - **E3** Its addresses serve no other one before it has left the quarantine.
//! - **E4** A call in the middle of a call of this thread waits for nothing.

use crate::depot::Depot;
use crate::finding::Finding;
use crate::here;
use crate::limits;
use crate::os::{self, PAGE};
use crate::place::{Place, Want};
use crate::settings::{Settings, Side};
use crate::slot::{Event, Slot, State};
use crate::slots::{Number, Slots};
use crate::trace::{Mark, Trace};
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering::*};
use vmalloc::{AllocError, Gfp, Policy, Req, Vmalloc};
use vmalloc_window::Window;

/// Addresses of a window: the most, and less where a process may have few.
const WINDOWS: [usize; 6] = [64 << 30, 16 << 30, 4 << 30, 1 << 30, 256 << 20, 64 << 20];
/// A window has at most this part of the addresses that the process may have: the others are the program's.
const SHARE: usize = 8;
/// The window moves its boundary by this number of bytes.
const UNIT: usize = 2 << 20;
/// Tries to take what is behind the boundary.
const TRIES: usize = 8;
/// A guarded allocation has at most this number of pages: 256 MiB.
const LARGEST: usize = 1 << 16;
/// Slots that leave the quarantine when one comes: more than one, so that it gets shorter.
const LEAVING: usize = 4;

/// The most guarded allocations alive where each costs mappings.
const COSTLY: usize = 4096;
/// Allocations that are not even tried after the window has refused one: to refuse may take it long, as it
/// counts the process's mappings.
const RESTING: usize = 1000;

/// What guards a process.
pub struct Engine {
    /// Its areas.
    pub vm: Vmalloc<Window>,
    /// What is known of them.
    pub slots: Slots,
    /// Who made and freed them.
    pub depot: Depot,
    /// What was asked for.
    pub settings: Settings,
    /// What chance follows from.
    pub seed: u64,
    live: AtomicUsize,
    live_pages: AtomicUsize,
    most_live: usize,
    most_pages: usize,
    /// Allocations that are not tried.
    resting: AtomicUsize,
    /// Where the part of the window ends that is in a core: what was ever open.
    dumped: AtomicUsize,
    has_guards: bool,
}

impl Engine {
    /// `None` where the process has no room.
    pub fn new(settings: &Settings) -> Option<Engine> {
        let most = limits::addresses() / SHARE;
        let vm = WINDOWS.iter().filter(|&&bytes| bytes <= most).find_map(|&bytes| window(bytes))?;
        let has_guards = vm.machine().has_guards();
        if !has_guards {
            // Without guards nothing can be closed but by a free.
            vm.set_policy(Policy::Strict);
        }
        let region = vm.machine().region();
        // SAFETY: the window is ours. All of its addresses would be in a core, as holes, or as zeros in a pipe.
        unsafe { os::dump(region.start, region.len(), false) };
        Some(Engine {
            dumped: AtomicUsize::new(region.start),
            slots: Slots::new(vm.machine().region())?,
            vm,
            depot: Depot::new()?,
            settings: *settings,
            seed: settings.seed.unwrap_or_else(os::chance),
            live: AtomicUsize::new(0),
            live_pages: AtomicUsize::new(0),
            most_live: if has_guards { settings.live } else { settings.live.min(COSTLY) },
            most_pages: limits::memory() / PAGE / 2,
            resting: AtomicUsize::new(0),
            has_guards,
        })
    }

    /// The addresses that are owned.
    pub fn region(&self) -> Range<usize> {
        self.vm.machine().region()
    }

    /// The process may have at most `addresses` from now on: the window keeps its share of them, or what was
    /// ever open. `told` is called before others may have the rest.
    pub fn cut(&self, addresses: usize, told: impl FnOnce(&Range<usize>)) {
        if self.region().len() <= addresses / SHARE {
            return;
        }
        here::inside(|| {
            let Some(kept) = self.seal(addresses / SHARE) else { return };
            let behind = self.vm.machine().cut(kept);
            told(&self.region());
            // SAFETY: the window's, which has them no more.
            unsafe { os::release(behind) };
            let pages = self.region().len() / PAGE;
            self.slots.cut(pages);
            self.depot.cut(pages / 2);
        });
    }

    /// No allocation lies behind the first `bytes` from now on, or where others do already. Returns how many it
    /// are. A reservation takes the rest, for good.
    fn seal(&self, bytes: usize) -> Option<usize> {
        let region = self.region();
        // Whoever allocates meanwhile may move the boundary.
        (0..TRIES).find_map(|_| {
            let open = self.vm.machine().usage().open;
            let kept = bytes.max(open).next_multiple_of(UNIT).min(region.len());
            let rest = region.start + kept..region.end;
            let req = Req::pages((rest.len() / PAGE).checked_sub(1)?).within(rest).gfp(Gfp::KERNEL | Gfp::NOWARN);
            self.vm.reserve(req).ok().map(|_| kept)
        })
    }

    /// Before a fork: nobody is in the middle of a change.
    pub fn hold(&self) {
        self.slots.hold();
        self.depot.hold();
    }

    /// After a fork.
    ///
    /// # Safety
    /// The thread has called [`Engine::hold`].
    pub unsafe fn give_up(&self) {
        // SAFETY: the caller's promise.
        unsafe {
            self.depot.give_up();
            self.slots.give_up();
        }
    }

    /// A guarded allocation, with clear bytes. E1, E4.
    pub fn alloc(&self, want: Want, mark: Mark) -> Option<NonNull<u8>> {
        here::inside(|| {
            self.slots.late(|number, slot| self.retire(number, slot));
            self.is_awake()?;
            let pages = want.pages();
            self.enter(pages)?;
            self.make(want, mark).or_else(|| self.leave(pages))
        })?
    }

    fn is_awake(&self) -> Option<()> {
        if self.resting.load(Relaxed) == 0 {
            return Some(());
        }
        // Two at once may rest one too few: then it is tried.
        let left = self.resting.load(Relaxed).saturating_sub(1);
        self.resting.store(left, Relaxed);
        None
    }

    /// Counts an allocation, if there may be one more.
    fn enter(&self, pages: usize) -> Option<()> {
        let is_within = |counter: &AtomicUsize, n: usize, most| counter.fetch_add(n, Relaxed) + n <= most;
        let fits = is_within(&self.live, 1, self.most_live);
        let fits = is_within(&self.live_pages, pages, self.most_pages) && fits;
        if fits && pages <= LARGEST { Some(()) } else { self.leave(pages) }
    }

    fn leave<T>(&self, pages: usize) -> Option<T> {
        self.live.fetch_sub(1, Relaxed);
        self.live_pages.fetch_sub(pages, Relaxed);
        None
    }

    fn make(&self, want: Want, mark: Mark) -> Option<NonNull<u8>> {
        let number = self.slots.take()?;
        let made = self.area(want).and_then(|place| self.publish(place, number, mark));
        made.or_else(|| {
            self.slots.give_back(number);
            None
        })
    }

    fn area(&self, want: Want) -> Option<Place> {
        let pages = want.pages();
        let req = Req::pages(pages).align(want.align.max(PAGE)).gfp(Gfp::KERNEL | Gfp::NOWARN);
        let area = self.vm.alloc(req).inspect_err(|why| self.rest(why)).ok()?.as_ptr().expose_provenance();
        if area + pages * PAGE > self.dumped.load(Relaxed) {
            self.dump();
        }
        Some(Place { start: area + want.offset(self.is_at_end()), size: want.size, area, pages })
    }

    /// What is open is in a core.
    #[cold]
    fn dump(&self) {
        let end = self.region().start + self.vm.machine().usage().open;
        let from = self.dumped.fetch_max(end, Relaxed);
        // SAFETY: the window is ours.
        unsafe { os::dump(from, end.saturating_sub(from), true) };
    }

    /// An alignment that cannot be had says nothing of the next allocation.
    #[cold]
    fn rest(&self, why: &AllocError) {
        if !matches!(why, AllocError::BadAlign(_)) {
            self.resting.store(RESTING, Relaxed);
        }
    }

    fn is_at_end(&self) -> bool {
        match self.settings.side {
            Side::End => true,
            Side::Start => false,
            Side::Chance => !here::random().is_multiple_of(4),
        }
    }

    fn publish(&self, place: Place, number: Number, mark: Mark) -> Option<NonNull<u8>> {
        if !self.slots.own(&place, number) {
            self.give_back(&place);
            return None;
        }
        // SAFETY: the area was made just now, for this allocation.
        unsafe { place.fill() };
        self.slots.get(number)?.begin(place, self.event(mark));
        pointer(place.start)
    }

    fn event(&self, mark: Mark) -> Event {
        Event { thread: here::thread(), trace: self.depot.number(&Trace::here(mark)), when: os::now_ms() }
    }

    /// The place of a live allocation that starts at `at`.
    pub fn find(&self, at: usize) -> Option<Place> {
        let place = self.slots.at(at).filter(|(_, slot)| slot.state() == State::Live)?.1.place();
        (place.start == at).then_some(place)
    }

    /// Frees an owned address. E2, E4.
    ///
    /// # Errors
    /// What is wrong, with the address or with what lies beside the allocation.
    #[allow(clippy::result_large_err, reason = "the program ends with it")]
    pub fn free(&self, at: usize, mark: Mark) -> Result<(), Finding> {
        let Some((number, slot)) = self.slots.at(at) else { return Err(Finding::free(self, at, mark)) };
        let is_start = slot.place().start == at;
        if !is_start || !slot.close() {
            return Err(Finding::free(self, at, mark));
        }
        here::inside(|| self.free_inside(number, slot, mark)).unwrap_or_else(|| {
            self.slots.close_later(number);
            Ok(())
        })
    }

    #[allow(clippy::result_large_err, reason = "as above")]
    fn free_inside(&self, number: Number, slot: &Slot, mark: Mark) -> Result<(), Finding> {
        self.slots.late(|number, slot| self.retire(number, slot));
        // SAFETY: its pages are open, and the caller has said that nobody uses them.
        let overwritten = unsafe { slot.place().overwritten() };
        slot.freed_by(self.event(mark));
        if let Some(overwritten) = overwritten {
            return Err(Finding::canary(slot, overwritten, mark));
        }
        self.retire(number, slot);
        Ok(())
    }

    /// A slot that has been freed is closed, and others leave the quarantine. E3.
    fn retire(&self, number: Number, slot: &Slot) {
        let place = slot.place();
        let _: Option<()> = self.leave(place.pages);
        if !self.close(&place) {
            self.end(number, slot);
            // Nothing that was freed may be reached.
            self.vm.purge();
            return;
        }
        slot.become_(State::Closed);
        self.slots.quarantine(number, place.pages);
        for _ in 0..LEAVING {
            let Some((number, slot)) = self.slots.leave(self.longest_quarantine()) else { return };
            self.end(number, slot);
        }
    }

    /// In pages: what was asked for, if the window has room for more than that.
    fn longest_quarantine(&self) -> usize {
        self.settings.quarantine.min(self.region().len() / PAGE / 4)
    }

    fn close(&self, place: &Place) -> bool {
        // SAFETY: the area is ours, and what lay there has been freed.
        self.has_guards && unsafe { pointer(place.area).is_some_and(|area| os::close(area, place.pages * PAGE)) }
    }

    /// The addresses of a slot are the window's again.
    fn end(&self, number: Number, slot: &Slot) {
        slot.become_(State::Gone);
        self.give_back(&slot.place());
        self.slots.give_back(number);
    }

    fn give_back(&self, place: &Place) {
        // A refusal leaks addresses.
        // SAFETY: V1: it was freed.
        let _ = pointer(place.area).map(|area| unsafe { self.vm.free(area) });
    }
}

fn pointer(at: usize) -> Option<NonNull<u8>> {
    NonNull::new(core::ptr::with_exposed_provenance_mut(at))
}

fn window(bytes: usize) -> Option<Vmalloc<Window>> {
    // A guard that complains would change what a program prints.
    vmalloc_window::builder().window(bytes).memory(bytes).log(|_, _| ()).build().ok()
}
