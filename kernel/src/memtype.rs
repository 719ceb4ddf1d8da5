//! Memory types: no frame is mapped with two of them at a time, for what is cached one way and
//! written another way is lost.
//!
//! What is mapped how, the entries tell: an area has its memory type from its making to its end, so
//! there is no list of reservations that could be wrong, and `iounmap` and `vunmap` free what they
//! end. A check visits the areas. The common one, of memory that is mapped as memory, visits none
//! as long as no area of memory has another type.
//!
//! # Rules
//! - **MT1** Whoever maps frames that may be mapped elsewhere claims them first, then looks at the claims that
//!   are older, then at the areas, and gives the claim up when its area can be seen and is counted among those of
//!   memory of another type. So of two callers with two memory types the one that claims
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

/// Frames of a list that are looked at under the lock at a time.
const PIECE: usize = 64;

/// Frames that are being mapped (MT1). It lies in the frame of the caller that maps them.
pub(crate) struct Claim {
    /// From the lowest to the highest.
    bounds: RangeInclusive<Pfn>,
    /// Those of memory, sorted unless they are mapped write-back; of a device all within the bounds.
    list: Option<NonNull<[Pfn]>>,
    memory: MemType,
    next: *mut Claim,
}

/// The claims that there are, the youngest first.
pub(crate) struct Claims(*mut Claim);

/// What a look at older claims has found.
enum Found {
    /// The other memory type with which one of the frames is being mapped.
    Other(MemType),
    /// Nothing, but there are more pieces.
    More,
    Nothing,
}

// SAFETY: the pointers lead to claims of callers that wait for the lock before they end.
unsafe impl Send for Claims {}

impl Claims {
    pub(crate) const fn new() -> Claims {
        Claims(null_mut())
    }

    /// Adds a claim.
    ///
    /// # Safety
    /// MT1: the claim is there until [`Claims::remove`].
    unsafe fn add(&mut self, claim: *mut Claim) {
        // SAFETY: the caller's promise.
        unsafe { (*claim).next = self.0 };
        self.0 = claim;
    }

    /// Compares the `n`-th pieces of a claim and of the older ones with another memory type.
    ///
    /// # Safety
    /// MT1: the claim was added.
    unsafe fn look(&self, claim: *mut Claim, n: usize) -> Found {
        // SAFETY: the caller's promise; the lock is held.
        let claim = unsafe { &*claim };
        let (mut next, mut longest) = (claim.next, 0);
        // SAFETY: MT1: a claim is taken out before it ends, under the lock that is held.
        while let Some(other) = unsafe { next.as_ref() } {
            next = other.next;
            if other.memory == claim.memory || claim.is_apart(other) {
                continue;
            }
            if claim.meets(other, n) {
                return Found::Other(other.memory);
            }
            longest = longest.max(claim.frames().len()).max(other.frames().len());
        }
        if (n + 1) * PIECE < longest { Found::More } else { Found::Nothing }
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

impl Claim {
    fn of_device(frames: RangeInclusive<Pfn>, memory: MemType) -> Claim {
        Claim { bounds: frames, list: None, memory, next: null_mut() }
    }

    fn of_memory(frames: &[Pfn], memory: MemType) -> Claim {
        let bounds = bounds_of(frames);
        Claim { bounds, list: Some(NonNull::from(frames)), memory, next: null_mut() }
    }

    /// The list.
    fn frames(&self) -> &[Pfn] {
        // SAFETY: MT1: the list is there as long as the claim.
        self.list.map_or(&[], |list| unsafe { list.as_ref() })
    }

    fn piece(&self, n: usize) -> &[Pfn] {
        self.frames().chunks(PIECE).nth(n).unwrap_or_default()
    }

    fn is_sorted(&self) -> bool {
        self.list.is_none() || self.memory != MemType::WriteBack
    }

    fn has(&self, frame: &Pfn) -> bool {
        self.bounds.contains(frame) && (self.list.is_none() || self.frames().binary_search(frame).is_ok())
    }

    fn is_apart(&self, other: &Claim) -> bool {
        self.bounds.end() < other.bounds.start() || other.bounds.end() < self.bounds.start()
    }

    /// Whether both have a frame of the `n`-th piece of a list. They are not apart, and have two memory types, so
    /// one of them is sorted.
    fn meets(&self, other: &Claim, n: usize) -> bool {
        match (self.list, other.list) {
            (None, None) => true,
            (Some(_), _) if other.is_sorted() => self.piece(n).iter().any(|frame| other.has(frame)),
            _ => other.piece(n).iter().any(|frame| self.has(frame)),
        }
    }
}

/// The lowest and the highest.
fn bounds_of(frames: &[Pfn]) -> RangeInclusive<Pfn> {
    let least = frames.iter().min().copied().unwrap_or_default();
    least..=frames.iter().max().copied().unwrap_or_default()
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
        self.with_claim(Claim::of_device(frames, memory), map)
    }

    /// Calls `map`, which maps `frames` with this memory type and counts the area if it is of memory of another
    /// type, while they are claimed (MT1); those of a device from the lowest to the highest.
    ///
    /// # Errors
    /// [`Error::OtherMemory`], where one of them is mapped with another memory type; [`Error::Alloc`] for
    /// want of memory for a list; those of `map`.
    pub(crate) fn claimed_list<R>(
        &self,
        frames: &[Pfn],
        memory: MemType,
        map: impl FnOnce() -> Result<R, Error>,
    ) -> Result<R, Error> {
        let Some(is_memory) = frames.first().map(|&frame| self.is_memory(frame)) else { return map() };
        if frames.iter().any(|&frame| self.is_memory(frame) != is_memory) {
            // The library refuses memory among what is none, and maps nothing.
            return map();
        }
        if is_memory && memory == MemType::WriteBack {
            return self.with_claim(Claim::of_memory(frames, memory), || {
                if self.odd_memory.load(SeqCst) != 0 {
                    self.with_sorted(frames, |sorted| self.same_memory(sorted, (memory, is_memory)))?;
                }
                map()
            });
        }
        self.with_sorted(frames, |sorted| {
            let claim = match is_memory {
                true => Claim::of_memory(sorted, memory),
                false => Claim::of_device(bounds_of(sorted), memory),
            };
            self.with_claim(claim, || {
                self.same_memory(sorted, (memory, is_memory))?;
                map()
            })
        })
    }

    fn with_claim<R>(&self, mut claim: Claim, map: impl FnOnce() -> Result<R, Error>) -> Result<R, Error> {
        if breaks!(DeviceUnclaimed) {
            return map();
        }
        let (memory, claim) = (claim.memory, &raw mut claim);
        // SAFETY: MT1: it is taken out before this function ends, when `_claimed` is dropped.
        self.locked(&self.claims, |claims| unsafe { claims.add(claim) })?;
        let _claimed = Claimed(self, claim);
        for n in 0.. {
            // SAFETY: MT1: it was added.
            match self.locked(&self.claims, |claims| unsafe { claims.look(claim, n) })? {
                Found::Other(got) => return Err(Error::OtherMemory { requested: memory, got }),
                Found::More => {}
                Found::Nothing => break,
            }
        }
        map()
    }

    /// Calls `f` with the frames in the order of their numbers.
    fn with_sorted<R>(&self, frames: &[Pfn], f: impl FnOnce(&[Pfn]) -> Result<R, Error>) -> Result<R, Error> {
        let bytes = crate::slab::product(frames.len(), size_of::<Pfn>())?;
        let list: NonNull<Pfn> = self.object(bytes, GfpFlags::KERNEL, None)?.cast();
        // SAFETY: the object has room for each, and nobody else has it.
        let sorted = unsafe {
            list.copy_from_nonoverlapping(NonNull::from(frames).cast(), frames.len());
            core::slice::from_raw_parts_mut(list.as_ptr(), frames.len())
        };
        sorted.sort_unstable();
        let result = f(sorted);
        let freed = self.put_object(list.addr().get());
        debug_assert!(freed.is_ok(), "the list was ours: {freed:?}");
        result
    }

    /// Refuses frames, which are sorted, if one of them is mapped with another memory type.
    fn same_memory(&self, sorted: &[Pfn], (memory, is_memory): (MemType, bool)) -> Result<(), Error> {
        let got = self.other_memory((memory, is_memory), |frame| sorted.binary_search(&frame).is_ok());
        got.map_or(Ok(()), |got| Err(Error::OtherMemory { requested: memory, got }))
    }

    /// The other memory type with which a part of a device is mapped.
    pub(crate) fn other_device_memory(&self, frames: &RangeInclusive<Pfn>, memory: MemType) -> Option<MemType> {
        self.other_memory((memory, false), |frame| frames.contains(&frame))
    }

    /// The other memory type with which a frame of those that `is_one` picks is mapped, which are
    /// memory or not.
    fn other_memory(&self, (memory, is_memory): (MemType, bool), is_one: impl Fn(Pfn) -> bool) -> Option<MemType> {
        self.vm.areas().filter(|info| self.may_differ(info, memory, is_memory)).find_map(|info| {
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
    extern crate std;
    use super::*;
    use crate::flags::{Pgprot, VmFlags};
    use crate::host::Bare;
    use crate::kernel::Kernel;
    use std::vec::Vec;
    use vmalloc::table::X86_64;
    use vmalloc::{Config, Gfp};
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

    #[test]
    fn memory_that_is_being_mapped_is_claimed_frame_by_frame_until_its_area_is_counted() {
        use MemType::{WriteBack, WriteCombining};
        let sim: Sim<X86_64> = Sim::builder().rates(Rates::NEVER).build();
        let start = 0xffff_c900_0000_0000;
        let booted = Booted::new(sim, Config::region(start..start + (1 << 30))).unwrap();
        let kernel = Kernel::new(&booted, Bare);
        let frames: Vec<Pfn> = (0..300).map(|_| booted.alloc_frame(Gfp::KERNEL, None).unwrap()).collect();
        // Every other frame, so that the claims of both halves lie in the same bounds.
        let half = |odd: usize| frames.iter().copied().skip(odd).step_by(2);
        let [ours, others]: [Vec<Pfn>; 2] = [half(0).collect(), half(1).collect()];
        // The one frame of both is in the last piece of either.
        let both: Vec<Pfn> = others.iter().copied().chain([ours[149]]).collect();
        let types = [(WriteBack, WriteCombining), (WriteCombining, WriteBack)];
        for (requested, got) in types {
            let prot = Pgprot { memory: requested, ..Pgprot::KERNEL };
            // SAFETY: Y5: the frames are the test's.
            let map = |frames: &[Pfn]| unsafe { kernel.vmap(frames, VmFlags::empty(), prot) };
            let refused = Error::OtherMemory { requested, got };
            let parts = kernel.get_vm_area(151 * PAGE_SIZE, VmFlags::empty()).unwrap();
            kernel
                .claimed_list(&ours, got, || {
                    assert_eq!(map(&both), Err(refused));
                    assert_eq!(map(&ours[..1]), Err(refused));
                    // SAFETY: Y3: nobody uses the area.
                    let bound = unsafe { kernel.map_kernel_range_noflush(parts.addr, prot, &both) };
                    assert_eq!(bound, Err(refused));
                    let beside = map(&others)?;
                    // SAFETY: Y1: nobody uses it.
                    unsafe { kernel.vunmap(beside.as_ptr()) }
                })
                .expect("the claim is its own");
            let after = map(&both).expect("claimed no more");
            // SAFETY: Y1: nobody uses them.
            unsafe { kernel.vunmap(after.as_ptr()) }.unwrap();
            // SAFETY: Y1: nobody uses it.
            unsafe { kernel.free_vm_area(&parts) }.unwrap();
        }
        assert_eq!(booted.areas().count(), 0);
        frames.into_iter().for_each(|frame| kernel.give_frame(frame));
    }
}
