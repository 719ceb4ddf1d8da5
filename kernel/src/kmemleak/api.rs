//! What callers tell the detector, by the traditional names, and what this crate tells it itself.
//!
//! Each does nothing where no detector is. An address that is no object's start is told to
//! the log, but of frees: there it is memory that was never tracked.

use super::object::{BLACK, GREY, Object, Place};
use super::origin::origin_of;
use super::{AREA_MIN_COUNT, Kmemleak, Origin, Over, State};
use crate::gfp::GfpFlags;
use crate::host::{Host, Kern, Tracked};
use crate::kernel::Kernel;
use crate::vm_struct::VmStruct;
use vmalloc::machine::Machine;
use vmalloc::units::PAGE_SIZE;
use vmalloc::{Kind, What};

impl<'v, M: Machine, H: Host> Kernel<'v, M, H> {
    /// The same, with a leak detector: it hears of objects of the slab, and of areas that this
    /// crate makes. Of all others it hears by [`Kmemleak::note`]. To be called before anything is made.
    pub const fn with_kmemleak(mut self, leaks: &'v Kmemleak<M::Lock>) -> Kernel<'v, M, H> {
        self.leaks = Some(leaks);
        self
    }

    /// A block of memory is an object from here on, white with fewer than `min_count`
    /// references; 0 = it is scanned and never reported, -1 = it is ignored.
    ///
    /// # Safety
    /// Y8.
    ///
    /// # Source
    /// `kmemleak_alloc`.
    pub unsafe fn kmemleak_alloc(&self, ptr: usize, size: usize, min_count: i32, _gfp: GfpFlags) {
        self.track_object(ptr, size, |object| Object { min_count: min_count.max(BLACK), ..object });
    }

    /// A block of memory of each CPU is an object: `ptr` tells where CPU `n` has its own. It is scanned and never
    /// reported.
    ///
    /// # Safety
    /// Y8.
    ///
    /// # Source
    /// `kmemleak_alloc_percpu`.
    pub unsafe fn kmemleak_alloc_percpu(&self, ptr: impl Fn(u32) -> usize, size: usize, _gfp: GfpFlags) {
        for cpu in 0..self.machine().cpus() {
            self.track_object(ptr(cpu), size, |object| Object { min_count: GREY, ..object });
        }
    }

    /// An area is an object, of `size` bytes, or of as many as it has: for areas whose flags deferred it
    /// (`VM_DEFER_KMEMLEAK`).
    ///
    /// # Source
    /// `kmemleak_vmalloc`.
    pub fn kmemleak_vmalloc(&self, area: &VmStruct, size: usize, gfp: GfpFlags) {
        let bytes = size.min(area.area_size());
        self.track_area(&Tracked { at: area.addr, bytes, min_count: AREA_MIN_COUNT as u32, gfp });
    }

    /// Every area of the library's that the detector has not heard of is an object from here on, as if it was
    /// made now by somebody unknown: where the machine tells no events, before each scan; or else once, for areas that
    /// are older than the detector.
    ///
    /// # Cost
    /// O(areas), each with a search under the lock.
    pub fn kmemleak_adopt(&self) {
        let Some(leaks) = self.leaks else { return };
        for info in self.vm.areas().filter(|info| matches!(info.kind, Kind::Vmalloc | Kind::Stack)) {
            let (start, size) = (info.start.0, info.range().bytes());
            let earlier = |object: &Object| object.caller.is_some_and(|caller| caller != info.caller);
            leaks.forget(self.machine(), start, |object| !object.by_event && earlier(object));
            let area = leaks.new_object(self.machine(), start, size, Origin::default());
            let (min_count, place) = (AREA_MIN_COUNT, Place::Area);
            let area = Object { min_count, held: min_count - 1, place, caller: Some(info.caller), ..area };
            leaks.track(self.machine(), area, Over::Leave);
        }
    }

    /// The block is no object any more. What no detector knows is nothing.
    ///
    /// # Source
    /// `kmemleak_free`.
    pub fn kmemleak_free(&self, ptr: usize) {
        self.forget_object(ptr, |_| true);
    }

    /// The blocks of each CPU are no objects any more.
    ///
    /// # Source
    /// `kmemleak_free_percpu`.
    pub fn kmemleak_free_percpu(&self, ptr: impl Fn(u32) -> usize) {
        (0..self.machine().cpus()).for_each(|cpu| self.kmemleak_free(ptr(cpu)));
    }

    /// A part of a block is freed: what is left of it, before the part and behind it, are objects of their own.
    ///
    /// # Source
    /// `kmemleak_free_part`.
    pub fn kmemleak_free_part(&self, ptr: usize, size: usize) {
        if size == 0 {
            return;
        }
        let whole = self.with_state(|state| {
            let object = state.store.holding(ptr)?;
            let fits = size <= object.end() - ptr;
            fits.then(|| state.store.remove(object))
        });
        let Some(object) = whole.flatten() else { return self.tell_unknown("free_part", ptr) };
        for left in [object.start..ptr, ptr + size..object.end()].into_iter().filter(|left| !left.is_empty()) {
            let rest = Object { start: left.start, size: left.len(), checksum: 0, reported: false, ..object.clone() };
            self.with_leaks(|leaks| leaks.track(self.machine(), rest, Over::Refuse));
        }
    }

    /// The object is no leak: it is grey, and is scanned.
    ///
    /// # Source
    /// `kmemleak_not_leak`.
    pub fn kmemleak_not_leak(&self, ptr: usize) {
        self.with_object("not_leak", ptr, |object| object.min_count = GREY);
    }

    /// The object is black: neither scanned nor reported.
    ///
    /// # Source
    /// `kmemleak_ignore`.
    pub fn kmemleak_ignore(&self, ptr: usize) {
        self.with_object("ignore", ptr, |object| (object.min_count, object.no_scan) = (BLACK, true));
    }

    /// Of the object that holds `ptr` only this part is scanned, and others that are named so.
    /// `usize::MAX` bytes are all up to its end. Where there is no memory for it, all is scanned.
    ///
    /// # Source
    /// `kmemleak_scan_area`.
    pub fn kmemleak_scan_area(&self, ptr: usize, size: usize, _gfp: GfpFlags) {
        let Some(leaks) = self.leaks else { return };
        let machine = self.machine();
        if self.with_state(|state| state.store.lacks_part()) == Some(true) {
            leaks.stock(machine, |state, frame| state.store.give_for_parts(machine, frame));
        }
        let known = self.with_state(|state| {
            let object = state.store.holding(ptr)?;
            let offset = ptr - object.start;
            let end = if size == usize::MAX { object.size } else { offset.checked_add(size)? };
            (end <= object.size).then(|| state.store.add_part(object, offset..end))
        });
        if known.flatten().is_none() {
            self.tell_unknown("scan_area", ptr);
        }
    }

    /// The object holds no references: it is not scanned.
    ///
    /// # Source
    /// `kmemleak_no_scan`.
    pub fn kmemleak_no_scan(&self, ptr: usize) {
        self.with_object("no_scan", ptr, |object| object.no_scan = true);
    }

    /// The references to the object are out of sight for a while: the next scan does not suspect it.
    ///
    /// # Source
    /// `kmemleak_transient_leak`.
    pub fn kmemleak_transient_leak(&self, ptr: usize) {
        // No checksum is the complement of the present one.
        self.with_object("transient_leak", ptr, |object| object.checksum = !object.checksum);
    }

    /// The object has been allocated here and now, by the current task.
    ///
    /// # Source
    /// `kmemleak_update_trace`.
    pub fn kmemleak_update_trace(&self, ptr: usize) {
        let origin = self.leaks.map(|_| origin_of(&self.host)).unwrap_or_default();
        self.with_object("update_trace", ptr, |object| (object.origin, object.caller) = (origin, None));
    }

    fn with_leaks<R>(&self, f: impl FnOnce(&Kmemleak<M::Lock>) -> R) -> Option<R> {
        self.leaks.map(f)
    }

    fn with_state<R>(&self, f: impl FnOnce(&mut State) -> R) -> Option<R> {
        self.leaks?.locked(self.machine(), f)
    }

    fn with_object(&self, call: &str, ptr: usize, f: impl FnOnce(&mut Object)) {
        let known = self.with_state(|state| state.store.get(ptr).map(|mut object| f(&mut object)).is_some());
        if known == Some(false) {
            self.tell_unknown(call, ptr);
        }
    }

    fn tell_unknown(&self, call: &str, ptr: usize) {
        if self.with_state(|state| state.on) == Some(true) {
            self.printk(Kern::Warning, format_args!("kmemleak: kmemleak_{call} of {ptr:#x}, which is no object"));
        }
    }

    fn track_object(&self, start: usize, size: usize, how: impl FnOnce(Object) -> Object) {
        let Some(leaks) = self.leaks.filter(|_| start != 0) else { return };
        let object = leaks.new_object(self.machine(), start, size, origin_of(&self.host));
        let place = self.place_of_object(start);
        leaks.track(self.machine(), how(Object { place, ..object }), Over::Refuse);
    }

    fn place_of_object(&self, at: usize) -> Place {
        if self.vm.whatis(at) == What::NotOurs { Place::Direct } else { Place::Area }
    }

    /// An area was made by a function of this crate.
    pub(crate) fn track_area(&self, area: &Tracked) {
        let Some(leaks) = self.leaks else { return };
        let object = leaks.new_object(self.machine(), area.at, area.bytes, origin_of(&self.host));
        let min_count = area.min_count as i32;
        let object = Object { min_count, held: min_count - 1, place: Place::Area, ..object };
        leaks.track(self.machine(), object, Over::Evict);
    }

    /// An area has so many pages from here on, where it is.
    pub(crate) fn resize_tracked(&self, at: usize, pages: usize) {
        self.with_leaks(|leaks| leaks.resize(self.machine(), at, pages * PAGE_SIZE));
    }

    /// The slab has given out an object.
    #[cold]
    #[inline(never)]
    pub(crate) fn track_slab(&self, leaks: &Kmemleak<M::Lock>, at: usize, bytes: usize) {
        let object = leaks.new_object(self.machine(), at, bytes, origin_of(&self.host));
        leaks.track(self.machine(), object, Over::Evict);
    }

    /// An object by CPU was made, which has its bytes at each of `places`: they are scanned and never reported.
    pub(crate) fn track_percpu(&self, places: impl Iterator<Item = usize>, size: usize) {
        let Some(leaks) = self.leaks else { return };
        for at in places {
            let object = leaks.new_object(self.machine(), at, size, origin_of(&self.host));
            leaks.track(self.machine(), Object { min_count: GREY, place: Place::Area, ..object }, Over::Evict);
        }
    }

    /// The serial of the object that was told of last, for [`Kernel::forget_percpu`].
    pub(crate) fn latest_object(&self) -> Option<u64> {
        self.with_state(|state| state.store.latest())
    }

    /// An object by CPU was freed, after the object `latest` was told of: what was told of since at these
    /// places is another one that was made there.
    pub(crate) fn forget_percpu(&self, places: impl Iterator<Item = usize>, latest: u64) {
        places.for_each(|at| self.forget_object(at, |object| object.serial <= latest));
    }

    /// What lies there is about to be unmapped: whatever is known of it.
    pub(crate) fn evict_tracked(&self, start: usize, bytes: usize) {
        self.with_leaks(|leaks| leaks.evict(self.machine(), start, bytes));
    }

    /// What this crate keeps for itself: no scan sees its references.
    pub(crate) fn ignore_own(&self, at: usize) {
        self.with_state(|state| {
            if let Some(mut object) = state.store.get(at) {
                (object.min_count, object.no_scan) = (BLACK, true);
            }
        });
    }

    /// Takes an object out whose memory is about to be freed. Areas that the machine's events
    /// tell of stay: their end is an event.
    fn forget_object(&self, at: usize, is_one: impl FnOnce(&Object) -> bool) {
        self.with_leaks(|leaks| leaks.forget(self.machine(), at, is_one));
    }

    /// As [`Kernel::forget_object`], for an area that this crate is about to free.
    pub(crate) fn forget_freed(&self, at: usize) {
        self.forget_object(at, |object| !object.by_event);
    }

    /// Nothing reads the object at `at` from here on, until it is known whether it is freed.
    pub(crate) fn begin_free(&self, at: usize) -> Option<Leaving> {
        let leaving = self.with_state(|state| {
            let mut object = state.store.get(at).filter(|object| !object.by_event)?;
            object.leaving += 1;
            Some(Leaving { at, serial: object.serial })
        });
        leaving.flatten()
    }

    /// It was freed, or that was refused, and it is an object as before.
    pub(crate) fn end_free(&self, leaving: Option<Leaving>, freed: bool) {
        let Some(Leaving { at, serial }) = leaving else { return };
        self.with_state(|state| match state.store.get(at).filter(|object| object.serial == serial) {
            Some(object) if freed => _ = state.store.remove(object),
            Some(mut object) => object.leaving = object.leaving.saturating_sub(1),
            // Its memory was given out again, to another one.
            None => (),
        });
    }

    /// The subsystem is dropped: so are its objects.
    pub(crate) fn forget_all_freed(&self) {
        let mut from = Some(0);
        while let Some(at) = from {
            from = self.with_state(|state| state.forget_some(at)).flatten();
        }
    }
}

/// An object whose memory is being freed.
pub(crate) struct Leaving {
    at: usize,
    serial: u64,
}

impl State {
    fn forget_some(&mut self, from: usize) -> Option<usize> {
        let object = self.store.at_or_above(from)?;
        let next = object.start.checked_add(1);
        if !object.by_event {
            self.store.remove(object);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Bare;
    use crate::kmemleak::Colour;
    use vmalloc::Config;
    use vmalloc::table::X86_64;
    use vmalloc_sim::{Booted, Rates, Sim};

    type Leaks<'a> = Kernel<'a, Sim<X86_64>, Bare>;

    /// Two objects, the first of which is no leak and names the second, and their colours.
    fn with_holder(test: impl FnOnce(&Leaks<'_>, [usize; 2], &dyn Fn(usize) -> Option<Colour>)) {
        let sim: Sim<X86_64> = Sim::builder().rates(Rates::NEVER).build();
        let start = 0xffff_c900_0000_0000;
        let booted = Booted::new(sim.clone(), Config::region(start..start + (1 << 30))).unwrap();
        let mut leaks = Kmemleak::new();
        let kernel = Kernel::new(&booted, Bare).with_kmemleak(&leaks);
        let [holder, held] = [0; 2].map(|_| kernel.kzalloc(64, GfpFlags::KERNEL).unwrap());
        // SAFETY: the object is the test's.
        unsafe { holder.cast::<usize>().write(held.addr().get()) };
        kernel.kmemleak_not_leak(holder.addr().get());
        test(&kernel, [holder, held].map(|object| object.addr().get()), &|at| leaks.colour(&sim, at));
        drop(kernel);
        leaks.give_back(&sim);
    }

    #[test]
    fn an_object_that_is_being_freed_is_not_read_unless_that_is_refused() {
        with_holder(|kernel, [holder, held], colour_of| {
            let mut leaving = kernel.begin_free(holder);
            for (ended, colour) in [(false, Colour::White), (true, Colour::Grey)] {
                if ended {
                    kernel.end_free(leaving.take(), false);
                }
                kernel.kmemleak_scan();
                assert_eq!(colour_of(held), Some(colour));
            }
        });
    }

    #[test]
    fn of_two_frees_of_one_object_the_refused_one_does_not_let_it_be_read_while_the_other_goes_on() {
        with_holder(|kernel, [at, held], colour_of| {
            let look = || {
                kernel.kmemleak_scan();
                colour_of(held)
            };
            for refused_first in [true, false] {
                let (first, second) = (kernel.begin_free(at), kernel.begin_free(at));
                let (refused, other) = if refused_first { (first, second) } else { (second, first) };
                kernel.end_free(refused, false);
                assert_eq!(look(), Some(Colour::White), "the other is not over");
                kernel.end_free(other, false);
                assert_eq!(look(), Some(Colour::Grey), "both were refused");
            }
            let (freed, refused) = (kernel.begin_free(at), kernel.begin_free(at));
            kernel.end_free(freed, true);
            kernel.end_free(refused, false);
            assert_eq!(colour_of(at), None);
        });
    }
}
