//! Objects and blocks by chance, judged beside a model too simple to be wrong; and allocators
//! that are broken on purpose, which the judge notices.

use crate::common::*;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{NonNull, with_exposed_provenance};
use vmalloc::units::VirtAddr;
use vmalloc_kernel::Error;

/// What is judged.
trait Objects {
    fn make(&self, size: usize) -> Result<usize, Error>;
    fn resize(&self, at: usize, size: usize) -> Result<usize, Error>;
    fn end(&self, at: usize) -> Result<(), Error>;
    fn room(&self, at: usize) -> Result<usize, Error>;
    /// Writes `mark` all over `size` bytes.
    fn fill(&self, at: usize, size: usize, mark: u8) {
        bytes(at, size).fill(mark);
    }
    fn says(&self, at: usize, size: usize, mark: u8) -> bool {
        bytes(at, size).iter().all(|&byte| byte == mark)
    }
    fn is_second(&self, error: &Error) -> bool {
        matches!(error, Error::DoubleFree(_) | Error::NotSlab(_))
    }
}

impl Objects for Tested<'_> {
    fn make(&self, size: usize) -> Result<usize, Error> {
        self.kmalloc(size, GFP).map(number)
    }
    fn resize(&self, at: usize, size: usize) -> Result<usize, Error> {
        // SAFETY: Y4: only what is returned is used.
        unsafe { self.krealloc(with_exposed_provenance(at), size, GFP) }.map(number)
    }
    fn end(&self, at: usize) -> Result<(), Error> {
        // SAFETY: Y1: the judge forgets it.
        unsafe { self.kfree(with_exposed_provenance(at)) }
    }
    fn room(&self, at: usize) -> Result<usize, Error> {
        self.ksize(with_exposed_provenance(at))
    }
}

/// The bytes of an object that the judge holds.
fn bytes<'a>(at: usize, size: usize) -> &'a mut [u8] {
    let start = NonNull::new(std::ptr::with_exposed_provenance_mut(at)).expect("an object");
    // SAFETY: the object has so many bytes, and the judge alone uses it.
    unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), size) }
}

/// Makes, resizes, checks and ends objects; panics at the first thing that is wrong.
fn judge(objects: &impl Objects, steps: u64) {
    let (mut live, mut rng): (BTreeMap<usize, (usize, u8)>, _) = (BTreeMap::new(), 99u64);
    let mut dice = |n: usize| {
        rng = rng.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (rng >> 33) as usize % n
    };
    for step in 0..steps {
        let most = if dice(8) == 0 { 20_000 } else { 700 };
        let size = 1 + dice(most);
        let some = live.keys().nth(dice(live.len().max(1))).copied();
        match (dice(5), some) {
            (0 | 1, _) | (_, None) => enter(objects, &mut live, objects.make(size).expect("an object"), size, step),
            (2, Some(at)) => {
                let (old, mark) = live.remove(&at).expect("it lives");
                let now = objects.resize(at, size).expect("another one");
                let kept = objects.says(now, size.min(old), mark);
                assert!(kept, "content: of {old} bytes at {at:#x}, now {size} at {now:#x}");
                enter(objects, &mut live, now, size, step);
            }
            (_, Some(at)) => {
                let (size, mark) = live.remove(&at).expect("it lives");
                assert!(objects.says(at, size, mark), "content: {size} bytes at {at:#x}");
                objects.end(at).expect("a live object");
                let again = objects.end(at).expect_err("a second free");
                assert!(objects.is_second(&again), "{again}");
            }
        }
    }
    for (at, (size, mark)) in live {
        assert!(objects.says(at, size, mark), "content: {size} bytes at {at:#x}");
        objects.end(at).expect("a live object");
    }
}

/// A new object lies over no other, is aligned, and has room.
fn enter(objects: &impl Objects, live: &mut BTreeMap<usize, (usize, u8)>, at: usize, size: usize, step: u64) {
    let room = objects.room(at).expect("a live object");
    assert!(room >= size, "place: {room} bytes for {size}");
    assert!(!room.is_power_of_two() || at.is_multiple_of(room.min(PAGE)), "place: {room} bytes at {at:#x}");
    let below = live.range(..at + room).next_back().filter(|&(&other, &(size, _))| other + size > at);
    assert_eq!(below, None, "place: {size} bytes at {at:#x} lie over another object");
    let mark = step as u8 | 1;
    objects.fill(at, size, mark);
    live.insert(at, (size, mark));
}

#[test]
fn objects_by_chance_lie_apart_keep_their_bytes_and_are_freed_once() {
    let rig = quiet();
    {
        let kernel = rig.kernel();
        rig.sim.unbounded(|| judge(&kernel, 6000));
    }
    rig.state();
}

/// An allocator that breaks one rule now and then.
struct Broken<'k, 'v> {
    kernel: &'k Tested<'v>,
    how: How,
    calls: std::cell::Cell<u32>,
}

#[derive(Clone, Copy, Debug)]
enum How {
    /// An object is given out while it is out (J5).
    TwiceOut,
    /// A byte of another object is written.
    Scribbled,
    /// What is resized loses its first byte.
    Lost,
    /// A second free succeeds.
    FreedTwice,
    /// An object lies where it should not.
    Crooked,
}

impl Broken<'_, '_> {
    fn is_due(&self) -> bool {
        self.calls.set(self.calls.get() + 1);
        self.calls.get().is_multiple_of(40)
    }
}

impl Objects for Broken<'_, '_> {
    fn make(&self, size: usize) -> Result<usize, Error> {
        let at = self.kernel.make(size)?;
        match self.how {
            How::TwiceOut if self.is_due() => {
                self.kernel.end(at)?;
                self.kernel.make(size)?;
                // What was freed is given out twice.
                self.kernel.end(at).and(Ok(at))
            }
            How::Scribbled if self.is_due() => {
                bytes(at & !(PAGE - 1), 1)[0] ^= 0x40;
                Ok(at)
            }
            How::Crooked if self.is_due() => Ok(at + 4),
            _ => Ok(at),
        }
    }
    fn resize(&self, at: usize, size: usize) -> Result<usize, Error> {
        let now = self.kernel.resize(at, size)?;
        if matches!(self.how, How::Lost) && self.is_due() {
            bytes(now, 1)[0] ^= 1;
        }
        Ok(now)
    }
    fn end(&self, at: usize) -> Result<(), Error> {
        match self.kernel.end(at) {
            Err(_) if matches!(self.how, How::FreedTwice) && self.is_due() => Ok(()),
            ended => ended,
        }
    }
    fn room(&self, at: usize) -> Result<usize, Error> {
        self.kernel.room(at)
    }
}

#[test]
fn an_allocator_that_breaks_a_rule_is_noticed() {
    for how in [How::TwiceOut, How::Scribbled, How::Lost, How::FreedTwice, How::Crooked] {
        let rig = quiet();
        let kernel = rig.kernel();
        let broken = Broken { kernel: &kernel, how, calls: std::cell::Cell::new(0) };
        let noticed = catch_unwind(AssertUnwindSafe(|| rig.sim.unbounded(|| judge(&broken, 6000))));
        assert!(noticed.is_err(), "{how:?} was not noticed");
    }
}

/// Areas that `vrealloc` resizes; perhaps one rule is broken now and then. A page says its mark in
/// its first word.
struct Areas<'k, 'v> {
    kernel: &'k Tested<'v>,
    rig: &'k Rig,
    how: Option<How>,
    calls: std::cell::Cell<u32>,
}

impl Areas<'_, '_> {
    fn is_due(&self) -> bool {
        self.calls.set(self.calls.get() + 1);
        self.calls.get().is_multiple_of(40)
    }
    fn pages(at: usize, size: usize) -> impl Iterator<Item = VirtAddr> {
        (at..at + size).step_by(PAGE).map(VirtAddr)
    }
}

impl Objects for Areas<'_, '_> {
    fn make(&self, size: usize) -> Result<usize, Error> {
        self.kernel.vmalloc(size).map(number)
    }
    fn resize(&self, at: usize, size: usize) -> Result<usize, Error> {
        if matches!(self.how, Some(How::TwiceOut)) && self.is_due() {
            // It says that it has grown, and has not.
            return Ok(at);
        }
        // SAFETY: Y4: only what is returned is used.
        let now = unsafe { self.kernel.vrealloc(with_exposed_provenance(at), size, GFP) }?;
        let now = number(now.expect("an area"));
        if matches!(self.how, Some(How::Lost)) && self.is_due() {
            self.fill(now, 1, 0);
        }
        Ok(now)
    }
    fn end(&self, at: usize) -> Result<(), Error> {
        // SAFETY: Y1: the judge forgets it.
        match unsafe { self.kernel.vfree(with_exposed_provenance(at)) } {
            Err(_) if matches!(self.how, Some(How::FreedTwice)) && self.is_due() => Ok(()),
            ended => ended,
        }
    }
    fn room(&self, at: usize) -> Result<usize, Error> {
        let area = self.kernel.find_vm_area(at).filter(|area| area.addr == at);
        area.map(|area| area.area_size()).ok_or(Error::NoArea(at))
    }
    fn fill(&self, at: usize, size: usize, mark: u8) {
        Areas::pages(at, size).for_each(|page| self.rig.sim.store(0, page, mark.into()).expect("a live page"));
    }
    fn says(&self, at: usize, size: usize, mark: u8) -> bool {
        Areas::pages(at, size).all(|page| self.rig.sim.load(0, page) == Ok(mark.into()))
    }
    fn is_second(&self, error: &Error) -> bool {
        matches!(error, Error::Free(_) | Error::NoArea(_))
    }
}

#[test]
fn areas_by_chance_grow_and_shrink_lie_apart_and_keep_what_they_say() {
    let rig = quiet();
    {
        let kernel = rig.kernel();
        judge(&Areas { kernel: &kernel, rig: &rig, how: None, calls: Default::default() }, 1500);
    }
    rig.state();
}

#[test]
fn a_vrealloc_that_breaks_a_rule_is_noticed() {
    for how in [How::TwiceOut, How::Lost, How::FreedTwice] {
        let rig = quiet();
        let kernel = rig.kernel();
        let broken = Areas { kernel: &kernel, rig: &rig, how: Some(how), calls: Default::default() };
        let noticed = catch_unwind(AssertUnwindSafe(|| judge(&broken, 1500)));
        assert!(noticed.is_err(), "{how:?} was not noticed");
    }
}
