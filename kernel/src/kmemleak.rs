//! The leak detector: memory that nothing points to any more.
//!
//! ```text
//!   Machine::note ── areas, by the library's events ──┐
//!   kmalloc, kfree ── objects of the slab ────────────┼──▶ objects, in a tree by address
//!   kmemleak_alloc, … ── what callers tell of ────────┘
//!
//!   a scan:   all white ── roots ──▶ grey ── what grey objects point to ──▶ grey …
//!             white objects whose bytes have changed ──▶ grey …      what stays white: suspected
//! ```
//!
//! Any aligned word that is an address in an object is a reference, to its start or not. An object
//! with fewer of them than its `min_count` is *white*; one with enough is *grey*, and what it
//! holds is scanned in its turn; a *black* one is ignored. A white object whose checksum is not that
//! of the scan before (0 for the first) is in use by somebody, and counts as grey once. What is white then, and was five
//! seconds old when the scan began, is reported, and told of once.
//!
//! A [`Kmemleak`] is a value of the embedder's: its machine hands events to [`Kmemleak::note`],
//! and a [`Kernel`](crate::Kernel) is told of it by [`Kernel::with_kmemleak`](crate::Kernel::with_kmemleak). An area that was made by the
//! library alone is heard of as well. Where the machine tells no events, or areas are older than the detector,
//! [`Kernel::kmemleak_adopt`](crate::Kernel::kmemleak_adopt) finds them.
//!
//! # The reference of the `vm_struct`
//! The `min_count` of an area is 2 because the `vm_struct` holds its address: in the form of 3.0
//! it is 3, for two lists. Here a `vm_struct` is a view of a slot, which has no address in it and is
//! not scanned. So the count of an area begins each scan at `min_count - 1`, as if the scan had
//! been in the `vm_struct` already, and one reference of its caller's makes it grey.
//!
//! # Reading
//! Of an area each page is read while its frame is held, as `vread` does: others may free it
//! meanwhile. An object of the slab is read under the detector's lock, and whoever frees it tells
//! the detector first. Where a machine's areas have no frames (`ALIASES` is false), they hold no references.
//!
//! # Bounds
//! A step of a scan reads at most [`CHUNK`] bytes, or looks at [`OBJECTS`] objects, and a slice has as many steps as its
//! caller says. The lock is held for 64 words or so many objects at a time.
//!
//! # Locks
//! One, around all of it, taken while pinned; nothing is called under it. Whoever interrupted
//! its holder is not heard: of an area that was freed then, the next scan finds that it is gone.
//!
//! Source: `mm/kmemleak` by its documentation: algorithm, interface, the file in debugfs.

mod api;
mod command;
mod object;
mod origin;
mod read;
mod report;
mod scan;
mod store;
mod tree;

pub use command::{Boot, CommandError, FIRST_SCAN_NS, SCAN_PERIOD_NS};
pub use object::{Colour, MAX_TRACE, Origin};
pub use origin::{Root, RootKind};
pub use read::CHUNK;
pub use scan::{OBJECTS, Progress, Scan};

use command::Schedule;
use object::{Object, Place};
use store::{Overlaps, Store};
use vmalloc::Kind;
use vmalloc::lock_api::{Mutex, RawMutex};
use vmalloc::machine::event::Event;
use vmalloc::machine::frames::{Frames, Want};
use vmalloc::machine::{Level, Machine};
use vmalloc::units::{PAGE_SIZE, Pfn};

/// Tries of a caller that may have interrupted the holder of the lock.
const TRIES: usize = 1000;
/// References that an area has while it is in use: the `vm_struct`'s, and its caller's.
const AREA_MIN_COUNT: i32 = 2;

/// The detector.
///
/// It takes frames of the machine for its objects. Dropped, it keeps them:
/// [`Kmemleak::give_back`] returns them first.
pub struct Kmemleak<L: RawMutex> {
    state: Mutex<L, State>,
}

/// What the lock guards.
struct State {
    store: Store,
    /// Cleared by `off`, for good.
    on: bool,
    /// Whether stacks are scanned.
    stacks: bool,
    /// The scan that was begun last; all others are over.
    scan: u64,
    /// When it began.
    scanned_ns: u64,
    schedule: Schedule,
}

// SAFETY: what is inside is behind the lock.
unsafe impl<L: RawMutex + Sync> Sync for Kmemleak<L> {}

impl<L: RawMutex> Default for Kmemleak<L> {
    fn default() -> Self {
        Kmemleak::new()
    }
}

impl<L: RawMutex> Kmemleak<L> {
    /// A detector that has heard of nothing.
    pub const fn new() -> Kmemleak<L> {
        let schedule = Schedule::new();
        let store = Store::new();
        Kmemleak { state: Mutex::new(State { store, on: true, stacks: true, scan: 0, scanned_ns: 0, schedule }) }
    }

    /// Hears of an event of the library's ([`Machine::note`]): areas that own their memory are
    /// objects from their publication to the moment when a free has claimed them. `origin` is asked
    /// who allocates.
    ///
    /// # Cost
    /// The lock and a search; a frame of `machine` for every few objects.
    pub fn note<M: Machine>(&self, machine: &M, event: Event, origin: impl FnOnce() -> Origin) {
        match event {
            Event::Publish { start, pages, kind: Kind::Vmalloc | Kind::Stack, caller } => {
                let area = self.new_object(machine, start.0, pages * PAGE_SIZE, origin());
                let held = AREA_MIN_COUNT - 1;
                let area = Object { min_count: AREA_MIN_COUNT, held, place: Place::Area, by_event: true, ..area };
                self.track(machine, Object { caller: Some(caller), ..area }, Over::Evict);
            }
            Event::Publish { start, pages, .. } => self.evict(machine, start.0, pages * PAGE_SIZE),
            Event::Resize { start, to, .. } => self.resize(machine, start.0, to * PAGE_SIZE),
            Event::Claim { start, .. } => _ = self.forget(machine, start.0, |object| object.place == Place::Area),
            _ => (),
        }
    }

    /// How many objects it knows.
    pub fn len<M: Machine>(&self, machine: &M) -> usize {
        self.locked(machine, |state| state.store.len()).unwrap_or(0)
    }

    /// The colour that the last scan gave the object that starts at `at`.
    pub fn colour<M: Machine>(&self, machine: &M, at: usize) -> Option<Colour> {
        self.locked(machine, |state| Some(state.store.get(at)?.colour())).flatten()
    }

    /// Gives all frames back to `machine`, of which they came: all objects are forgotten.
    pub fn give_back<M: Machine>(&mut self, machine: &M) {
        self.state.get_mut().store.take_apart(machine, &mut |frame| put_frame(machine, frame));
    }

    fn new_object<M: Machine>(&self, machine: &M, start: usize, size: usize, origin: Origin) -> Object {
        Object {
            start,
            size,
            place: Place::Direct,
            min_count: 1,
            held: 0,
            count: 0,
            by_event: false,
            leaving: 0,
            no_scan: false,
            reported: false,
            checksum: 0,
            born_ns: self.now(machine),
            serial: 0,
            caller: None,
            origin,
            areas: None,
            links: Default::default(),
        }
    }

    /// The machine's clock, or the time that it was told last.
    fn now<M: Machine>(&self, machine: &M) -> u64 {
        machine.clock_ns().or_else(|| self.locked(machine, |state| state.schedule.told_ns)?).unwrap_or(0)
    }

    /// Adds an object.
    fn track<M: Machine>(&self, machine: &M, object: Object, over: Over) {
        loop {
            match self.locked(machine, |state| state.add(&object, over)) {
                None | Some(Added::Done) => return,
                Some(Added::Overlaps(_)) if over == Over::Leave => return,
                Some(Added::Overlaps(Overlaps(there))) => {
                    let (start, end) = (there.start, there.end);
                    let line =
                        format_args!("kmemleak: {:#x} lies in {start:#x}-{end:#x}, an object already", object.start);
                    return machine.log(Level::Warn, line);
                }
                Some(Added::Lacks) => {
                    if !self.stock(machine, |state, frame| state.store.give_for_objects(machine, frame)) {
                        return self.stop(machine, "no memory for an object");
                    }
                }
            }
        }
    }

    /// Gives the store one more frame; false = there is none.
    fn stock<M: Machine>(&self, machine: &M, give: impl FnOnce(&mut State, Pfn)) -> bool {
        let Some(frame) = take_frame(machine) else { return false };
        let given = self.locked(machine, |state| give(state, frame));
        if given.is_none() {
            put_frame(machine, frame);
        }
        given.is_some()
    }

    /// It cannot know any more what is in use: it ends.
    fn stop<M: Machine>(&self, machine: &M, why: &str) {
        if self.locked(machine, |state| core::mem::take(&mut state.on)) == Some(true) {
            machine.log(Level::Warn, format_args!("kmemleak: {why}; it is off from here on"));
        }
    }

    /// Takes the object that starts at `at` out, if it is one of these.
    fn forget<M: Machine>(&self, machine: &M, at: usize, is_one: impl FnOnce(&Object) -> bool) -> Option<Object> {
        let taken = self.locked(machine, |state| {
            let object = state.store.get(at).filter(|object| is_one(object))?;
            Some(state.store.remove(object))
        });
        taken.flatten()
    }

    /// What is known of these addresses is of an area whose end nobody has heard of.
    fn evict<M: Machine>(&self, machine: &M, start: usize, bytes: usize) {
        while self.locked(machine, |state| state.evict(start, bytes)) == Some(true) {}
    }

    fn resize<M: Machine>(&self, machine: &M, start: usize, size: usize) {
        self.locked(machine, |state| {
            let area = state.store.get(start).filter(|object| object.place == Place::Area)?;
            state.store.resize(area, size);
            Some(())
        });
    }

    /// Calls `f` under the lock; `None` for a caller that has interrupted the holder.
    fn locked<M: Machine, R>(&self, machine: &M, f: impl FnOnce(&mut State) -> R) -> Option<R> {
        let was = machine.pin();
        // A thread that the library has pinned looks like one that has interrupted the holder.
        let unsure = machine.context() == vmalloc::machine::Context::Nmi || M::THREADS && machine.is_nested();
        let guard = self.state.try_lock().or_else(|| match unsure {
            false => Some(self.state.lock()),
            true => (0..TRIES).find_map(|_| {
                machine.relax();
                self.state.try_lock()
            }),
        });
        let result = guard.map(|mut guard| f(&mut guard));
        // SAFETY: our own pin, the youngest.
        unsafe { machine.unpin(was) };
        result
    }
}

/// What happens to an object that overlaps a new one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    /// It is gone: the memory is known to be new.
    Evict,
    /// It stays, and the new one is refused, which is told.
    Refuse,
    /// It stays: the new one is known already.
    Leave,
}

/// What became of an object.
enum Added {
    Done,
    /// A frame is lacking.
    Lacks,
    /// It is refused.
    Overlaps(Overlaps),
}

impl State {
    fn evict(&mut self, start: usize, bytes: usize) -> bool {
        let old = self.store.overlapping(start, bytes);
        old.map(|old| self.store.remove(old)).is_some()
    }

    fn add(&mut self, object: &Object, over: Over) -> Added {
        if !self.on || object.size == 0 {
            return Added::Done;
        }
        if self.store.lacks_object() {
            return Added::Lacks;
        }
        let mut object = object.clone();
        // No object reaches beyond the last address.
        object.size = object.size.min(usize::MAX - object.start);
        while let Some(old) =
            self.store.overlapping(object.start, object.size).filter(|old| over == Over::Evict || old.leaving > 0)
        {
            let old = self.store.remove(old);
            if old.start == object.start {
                // An area that an event told of, and then the function that made it.
                object.by_event |= old.by_event;
                object.caller = object.caller.or(old.caller);
            }
        }
        self.store.add(object).map_or_else(Added::Overlaps, |()| Added::Done)
    }
}

fn take_frame<M: Machine>(machine: &M) -> Option<Pfn> {
    let was = machine.pin();
    let frame = machine.frames().alloc(Want::bookkeeping(machine.node_of(was.cpu)));
    // SAFETY: our own pin, the youngest.
    unsafe { machine.unpin(was) };
    frame
}

fn put_frame<M: Machine>(machine: &M, frame: Pfn) {
    let was = machine.pin();
    // SAFETY: F1: the frame came from there, and nothing uses it any more.
    unsafe { machine.frames().free(frame, 0) };
    // SAFETY: our own pin, the youngest.
    unsafe { machine.unpin(was) };
}

impl<L: RawMutex> core::fmt::Debug for Kmemleak<L> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Kmemleak")
    }
}
