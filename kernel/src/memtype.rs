//! Memory types: no frame is mapped with two of them at a time, for what is cached one way and
//! written another way is lost.
//!
//! What is mapped how, the entries tell: an area has its memory type from its making to its end, so
//! there is no list of reservations that could be wrong, and `iounmap` and `vunmap` free what they
//! end. A check visits the areas. The common one, of memory that is mapped as memory, visits none
//! as long as no area of memory has another type.
//!
//! # Rules
//! - **MT1** Whoever maps a device claims its frames first, then looks at the areas, and gives the
//!   claim up when its area can be seen. So of two callers with two memory types the one that claims
//!   later is refused: it sees the other's claim, or else its area.

use crate::error::Error;
use crate::gfp::GfpFlags;
use crate::host::Host;
use crate::kernel::Kernel;
use crate::sync::{Ordering::SeqCst, breaks};
use core::ops::RangeInclusive;
use core::ptr::{NonNull, null_mut};
use vmalloc::machine::Machine;
use vmalloc::machine::format::MemType;
use vmalloc::machine::frames::Frames;
use vmalloc::units::{PAGE_SIZE, Pfn};
use vmalloc::{Info, Kind};

/// Frames of a device that are being mapped (MT1). It lies in the frame of the caller that maps them.
pub(crate) struct Claim {
    frames: RangeInclusive<Pfn>,
    memory: MemType,
    next: *mut Claim,
}

/// The claims that there are.
pub(crate) struct Claims(*mut Claim);

// SAFETY: the pointers lead to claims of callers that wait for the lock before they end.
unsafe impl Send for Claims {}

impl Claims {
    pub(crate) const fn new() -> Claims {
        Claims(null_mut())
    }

    /// Adds a claim; or else the other memory type that one of its frames is being mapped with.
    ///
    /// # Safety
    /// MT1: the claim is there until [`Claims::remove`].
    unsafe fn add(&mut self, claim: *mut Claim) -> Option<MemType> {
        let (mut next, head) = (self.0, self.0);
        // SAFETY: the caller's promise.
        let added = unsafe { &mut *claim };
        // SAFETY: MT1: a claim is taken out before it ends, under the lock that is held.
        while let Some(other) = unsafe { next.as_ref() } {
            let apart = other.frames.end() < added.frames.start() || added.frames.end() < other.frames.start();
            if !apart && other.memory != added.memory {
                return Some(other.memory);
            }
            next = other.next;
        }
        (added.next, self.0) = (head, claim);
        None
    }

    fn remove(&mut self, claim: *mut Claim) {
        let mut at = &raw mut self.0;
        // SAFETY: MT1: what is linked is there, and the claim is linked.
        unsafe {
            while *at != claim {
                at = &raw mut (**at).next;
            }
            *at = (*claim).next;
        }
    }
}

/// A claim that is given up when this is dropped.
struct Claimed<'a, 'v, M: Machine, H: Host>(&'a Kernel<'v, M, H>, *mut Claim);

impl<M: Machine, H: Host> Drop for Claimed<'_, '_, M, H> {
    fn drop(&mut self) {
        let Claimed(kernel, claim) = *self;
        // This caller has had the lock once, so it is another CPU's if it is not free, and will be.
        while kernel.locked(&kernel.claims, |claims| claims.remove(claim)).is_err() {
            kernel.machine().relax();
        }
    }
}

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// Calls `map`, which maps `frames` of a device with this memory type, while they are claimed (MT1).
    ///
    /// # Errors
    /// [`Error::OtherMemory`]; those of `map`.
    pub(crate) fn claimed<R>(
        &self,
        frames: RangeInclusive<Pfn>,
        memory: MemType,
        map: impl FnOnce() -> Result<R, Error>,
    ) -> Result<R, Error> {
        if breaks!(DeviceUnclaimed) {
            return map();
        }
        let mut claim = Claim { frames, memory, next: null_mut() };
        let claim = &raw mut claim;
        // SAFETY: MT1: it is taken out before this function ends.
        if let Some(got) = self.locked(&self.claims, |claims| unsafe { claims.add(claim) })? {
            return Err(Error::OtherMemory { requested: memory, got });
        }
        let _claimed = Claimed(self, claim);
        map()
    }

    /// Claims frames of a device, between the lowest and the highest, while `map` maps them; those of
    /// memory it does not claim.
    ///
    /// # Errors
    /// As [`Kernel::claimed`].
    pub(crate) fn claimed_list<R>(
        &self,
        frames: &[Pfn],
        memory: MemType,
        map: impl FnOnce() -> Result<R, Error>,
    ) -> Result<R, Error> {
        match (frames.iter().min(), frames.iter().max()) {
            (Some(&first), Some(&last)) if !self.is_memory(first) => self.claimed(first..=last, memory, map),
            _ => map(),
        }
    }

    /// Refuses `frames` if one of them is mapped with another memory type, by any area but the one
    /// that starts at `except`.
    ///
    /// # Errors
    /// [`Error::OtherMemory`]; [`Error::Alloc`] for want of memory for a list.
    pub(crate) fn same_memory(&self, frames: &[Pfn], memory: MemType, except: usize) -> Result<(), Error> {
        let Some(is_memory) = frames.first().map(|&frame| self.is_memory(frame)) else { return Ok(()) };
        if is_memory && memory == MemType::WriteBack && self.odd_memory.load(SeqCst) == 0 {
            return Ok(());
        }
        let bytes = crate::slab::product(frames.len(), size_of::<Pfn>())?;
        let list: NonNull<Pfn> = self.object(bytes, GfpFlags::KERNEL, None)?.cast();
        // SAFETY: the object has room for each, and nobody else has it.
        let sorted = unsafe {
            list.copy_from_nonoverlapping(NonNull::from(frames).cast(), frames.len());
            core::slice::from_raw_parts_mut(list.as_ptr(), frames.len())
        };
        sorted.sort_unstable();
        let got = self.other_memory((memory, is_memory), except, |frame| sorted.binary_search(&frame).is_ok());
        let freed = self.put_object(list.addr().get());
        debug_assert!(freed.is_ok(), "the list was ours: {freed:?}");
        got.map_or(Ok(()), |got| Err(Error::OtherMemory { requested: memory, got }))
    }

    /// The other memory type with which a part of a device is mapped.
    pub(crate) fn other_device_memory(&self, frames: &RangeInclusive<Pfn>, memory: MemType) -> Option<MemType> {
        self.other_memory((memory, false), 0, |frame| frames.contains(&frame))
    }

    /// The other memory type with which a frame of those that `is_one` picks is mapped, which are
    /// memory or not, by any area but the one that starts at `except`.
    fn other_memory(
        &self,
        (memory, is_memory): (MemType, bool),
        except: usize,
        is_one: impl Fn(Pfn) -> bool,
    ) -> Option<MemType> {
        let others = self.vm.areas().filter(|info| info.start.0 != except);
        others.filter(|info| self.may_differ(info, memory, is_memory)).find_map(|info| {
            let mut pages = (0..info.pages).filter_map(|n| self.vm.memory_at(info.start.0 + n * PAGE_SIZE));
            pages.find(|&(frame, got)| got != memory && is_one(frame)).map(|(_, got)| got)
        })
    }

    /// Whether an area may have pages of such frames with another memory type. One that is mapped
    /// whole has one type.
    fn may_differ(&self, info: &Info, memory: MemType, is_memory: bool) -> bool {
        if info.kind == Kind::Reserved {
            return self.record_of(info).is_some();
        }
        self.vm.memory_at(info.start.0).is_some_and(|(frame, got)| got != memory && self.is_memory(frame) == is_memory)
    }

    fn is_memory(&self, frame: Pfn) -> bool {
        self.machine().frames().is_ram(frame)
    }

    /// An area by parts has pages of a memory type.
    pub(crate) fn note_memory(&self, start: usize, memory: MemType) {
        let was = self.with_record(start, |record| core::mem::replace(&mut record.cached, memory));
        match was.map(|was| (was != MemType::WriteBack, memory != MemType::WriteBack)) {
            Some((false, true)) => _ = self.odd_memory.fetch_add(1, SeqCst),
            Some((true, false)) => _ = self.odd_memory.fetch_sub(1, SeqCst),
            _ => (),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Bare;
    use crate::kernel::Kernel;
    use vmalloc::Config;
    use vmalloc::table::X86_64;
    use vmalloc_sim::{Bank, Booted, Rates, Sim};

    const FIRST: Pfn = Pfn(1 << 20);

    #[test]
    fn a_device_that_is_being_mapped_is_claimed_until_its_area_is_there() {
        use MemType::{UncachedMinus, WriteCombining};
        let device = Bank { first: FIRST, frames: 20, node: None };
        let sim: Sim<X86_64> = Sim::builder().rates(Rates::NEVER).bank(device).build();
        let start = 0xffff_c900_0000_0000;
        let booted = Booted::new(sim, Config::region(start..start + (1 << 30))).unwrap();
        let kernel = Kernel::new(&booted, Bare);
        let refused = Error::OtherMemory { requested: UncachedMinus, got: WriteCombining };
        let (phys, page) = (FIRST.0 * PAGE_SIZE as u64, PAGE_SIZE as u64);
        let frames = FIRST.offset(2)..=FIRST.offset(5);
        let made = kernel.claimed(frames.clone(), WriteCombining, || {
            for (first, size) in [(2, 1), (5, 1), (0, 3), (5, 9), (0, 9)] {
                assert_eq!(kernel.ioremap(phys + first * page, size * PAGE_SIZE), Err(refused));
            }
            let apart = [kernel.ioremap(phys, 2 * PAGE_SIZE)?, kernel.ioremap(phys + 6 * page, PAGE_SIZE)?];
            let same = kernel.ioremap_wc(phys + 3 * page, PAGE_SIZE)?;
            // SAFETY: Y1: nobody uses them.
            apart.into_iter().chain([same]).for_each(|area| unsafe { kernel.iounmap(area.as_ptr()) }.unwrap());
            assert_eq!(kernel.claimed(frames.clone(), UncachedMinus, || Ok(())), Err(refused));
            kernel.claimed(FIRST..=FIRST, UncachedMinus, || kernel.ioremap_wc(phys + 2 * page, PAGE_SIZE))
        });
        let made = made.expect("the claim is its own");
        assert_eq!(kernel.ioremap(phys + 2 * page, PAGE_SIZE), Err(refused), "the area is there");
        let beside = kernel.ioremap(phys + 3 * page, PAGE_SIZE).expect("claimed no more");
        // SAFETY: Y1: nobody uses them.
        [made, beside].into_iter().for_each(|area| unsafe { kernel.iounmap(area.as_ptr()) }.unwrap());
        assert_eq!(booted.areas().count(), 0);
    }
}
