//! Memory types: no frame is mapped with two of them at a time, for what is cached one way and
//! written another way is lost.
//!
//! What is mapped how, the entries tell: an area has its memory type from its making to its end, so
//! there is no list of reservations that could be wrong, and `iounmap` and `vunmap` free what they
//! end. A check visits the areas. The common one, of memory that is mapped as memory, visits none
//! as long as no area of memory has another type.

use crate::error::Error;
use crate::gfp::GfpFlags;
use crate::host::Host;
use crate::kernel::Kernel;
use crate::sync::Ordering::SeqCst;
use core::ops::RangeInclusive;
use core::ptr::NonNull;
use vmalloc::machine::Machine;
use vmalloc::machine::format::MemType;
use vmalloc::machine::frames::Frames;
use vmalloc::units::{PAGE_SIZE, Pfn};
use vmalloc::{Info, Kind};

impl<M: Machine, H: Host> Kernel<'_, M, H> {
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
            return self.record_of(info).is_some_and(|record| record.phys.is_none() == is_memory);
        }
        self.vm.memory_at(info.start.0).is_some_and(|(frame, got)| got != memory && self.is_memory(frame) == is_memory)
    }

    fn is_memory(&self, frame: Pfn) -> bool {
        self.machine().frames().page(frame).is_some()
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

    /// Frames with descriptors, which are memory, do not mix with others.
    ///
    /// # Errors
    /// [`Error::Mixed`]: the first that is not as the first of all.
    pub(crate) fn all_memory_or_none(&self, frames: &[Pfn]) -> Result<(), Error> {
        let Some(first) = frames.first().map(|&frame| self.is_memory(frame)) else { return Ok(()) };
        frames.iter().find(|&&frame| self.is_memory(frame) != first).map_or(Ok(()), |&odd| Err(Error::Mixed(odd)))
    }
}
