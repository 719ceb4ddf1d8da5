//! Frames that are there already, mapped side by side: `vmap`, `vmap_pfn`.

use crate::array::PageArray;
use crate::call::Value;
use crate::error::Error;
use crate::flags::{Pgprot, VmFlags};
use crate::gfp::GfpFlags;
use crate::host::{Host, Kern};
use crate::kernel::Kernel;
use crate::records::{Built, Record};
use crate::warn::Once;
use core::ptr::NonNull;
use vmalloc::area::Req;
use vmalloc::machine::Machine;
use vmalloc::machine::format::MemType;
use vmalloc::machine::frames::Frames;
use vmalloc::units::{PAGE_SIZE, Pfn};
use vmalloc::{AllocError, Caller, Gfp};

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// Maps `frames`, one a page, side by side, never for execution. With
    /// VM_MAP_PUT_PAGES [`Kernel::vfree`] frees the frames; otherwise they stay their
    /// holder's, and [`Kernel::vunmap`] ends the mapping.
    ///
    /// # Errors
    /// [`Error::WrongFlags`] for VM_FLUSH_RESET_PERMS; [`Error::ExceedsTotal`] for more frames
    /// than there are; [`Error::OtherMemory`] for a
    /// frame that is mapped with another memory type, by whatever area; [`Error::Alloc`]: a frame that no entry can name, or that cannot be
    /// taken over, or memory among what is none. Nothing has changed then. VM_NO_GUARD is taken off, with a warning.
    ///
    /// # Safety
    /// Y5.
    ///
    /// # Source
    /// `vmap`.
    #[track_caller]
    pub unsafe fn vmap(&self, frames: &[Pfn], flags: VmFlags, prot: Pgprot) -> Result<NonNull<u8>, Error> {
        let arguments =
            [("count", Value::Number(frames.len())), ("flags", Value::Flags(flags)), ("prot", Value::Prot(prot))];
        let _call = self.enter("vmap", &arguments);
        let flags = self.checked_flags(flags)?;
        let (pages, total) = (frames.len(), self.total_pages());
        if pages > total {
            return Err(Error::ExceedsTotal { pages, total });
        }
        let like = self.like(prot.nx());
        self.claimed_list(frames, prot.memory, || {
            let at = match flags.contains(VmFlags::MAP_PUT_PAGES) {
                // SAFETY: P2: Y5.
                true => unsafe { self.vm.vmap_owned(frames, like) },
                // SAFETY: P1: Y5.
                false => unsafe { self.vm.vmap(frames, like) },
            }?;
            self.note_mapping(at, (flags, prot.memory), frames.len())?;
            Ok(at)
        })
    }

    /// The flags that a mapping may have.
    fn checked_flags(&self, flags: VmFlags) -> Result<VmFlags, Error> {
        if flags.contains(VmFlags::FLUSH_RESET_PERMS) {
            return Err(Error::WrongFlags { has: flags.bits(), about: VmFlags::FLUSH_RESET_PERMS.bits() });
        }
        if flags.contains(VmFlags::NO_GUARD) && self.first_time(Once::NoGuard) {
            self.printk(Kern::Warning, format_args!("vmap: VM_NO_GUARD is taken off: mappings have guards"));
        }
        Ok(flags.difference(VmFlags::NO_GUARD) | VmFlags::MAP)
    }

    #[track_caller]
    fn like(&self, prot: Pgprot) -> Req {
        Req::bytes(0).prot(prot.prot).memory(prot.memory).gfp(Gfp::KERNEL | Gfp::NOWARN).caller(Caller::here())
    }

    /// Keeps what the library does not know of a mapping.
    fn note_mapping(&self, at: NonNull<u8>, (flags, memory): (VmFlags, MemType), pages: usize) -> Result<(), Error> {
        let known = VmFlags::MAP | VmFlags::MAP_PUT_PAGES;
        if known.contains(flags) && memory == MemType::WriteBack {
            return self.forget_left_over(at.addr().get()).inspect_err(|_| self.undo_mapping(at, flags, pages));
        }
        let mut record = Record::new(at.addr().get(), flags, Built::Whole, pages * PAGE_SIZE);
        (record.nr_pages, record.cached) = (if flags.contains(VmFlags::MAP_PUT_PAGES) { pages } else { 0 }, memory);
        self.keep_record(record, GfpFlags::KERNEL).inspect_err(|_| self.undo_mapping(at, flags, pages))
    }

    /// Unmaps what was mapped a moment ago; its frames are their giver's again.
    fn undo_mapping(&self, at: NonNull<u8>, flags: VmFlags, pages: usize) {
        let undone = if flags.contains(VmFlags::MAP_PUT_PAGES) {
            // The area gives one hold on each frame up: the giver's is a new one.
            let held = (0..pages).filter_map(|n| self.vm.hold_frame(at.addr().get() + n * PAGE_SIZE)).count();
            debug_assert_eq!(held, pages, "each page has its frame");
            // SAFETY: V1: nobody knows it yet.
            unsafe { self.vm.free(at) }
        } else {
            // SAFETY: V1: nobody knows it yet.
            unsafe { self.vm.vunmap(at) }
        };
        debug_assert!(undone.is_ok(), "it was mapped a moment ago: {undone:?}");
    }

    /// As [`Kernel::vmap`] with VM_MAP_PUT_PAGES, for the frames of an array, which is
    /// handed over too: [`Kernel::vfree`] frees both.
    ///
    /// # Errors
    /// As there; frames and array are the caller's still.
    ///
    /// # Safety
    /// Y5.
    #[track_caller]
    pub unsafe fn vmap_put_pages(&self, array: &PageArray, prot: Pgprot) -> Result<NonNull<u8>, Error> {
        let bytes = crate::slab::product(array.len(), size_of::<Pfn>())?;
        let list: NonNull<Pfn> = self.object(bytes.max(1), GfpFlags::KERNEL, None)?.cast();
        let mapped = self.gather(array, list).and_then(|frames| {
            // SAFETY: Y5, handed on.
            unsafe { self.vmap(frames, VmFlags::MAP_PUT_PAGES, prot) }
        });
        let freed = self.put_object(list.addr().get());
        debug_assert!(freed.is_ok(), "the list was ours: {freed:?}");
        let at = mapped?;
        let flags = VmFlags::MAP | VmFlags::MAP_PUT_PAGES;
        let mut record = Record::new(at.addr().get(), flags, Built::Whole, array.len() * PAGE_SIZE);
        (record.array, record.nr_pages, record.cached) = (Some(*array), array.len(), prot.memory);
        self.keep_record(record, GfpFlags::KERNEL).inspect_err(|_| self.undo_mapping(at, flags, array.len()))?;
        Ok(at)
    }

    /// The frames of an array, in a list that the code can read.
    fn gather(&self, array: &PageArray, list: NonNull<Pfn>) -> Result<&[Pfn], Error> {
        for n in 0..array.len() {
            let frame = self.page_of(array, n).ok_or(Error::BadArgument(n))?;
            // SAFETY: the list has room for each.
            unsafe { list.add(n).write(frame) };
        }
        // SAFETY: all of them were written, and nobody else has the list.
        Ok(unsafe { core::slice::from_raw_parts(list.as_ptr(), array.len()) })
    }

    /// Maps frames that have no descriptor, by their numbers: memory of a device. Never for
    /// execution. [`Kernel::vunmap`] ends it.
    ///
    /// # Errors
    /// [`Error::HasDescriptor`] for the first that is memory like any other (EINVAL); those of
    /// [`Kernel::vmap`].
    ///
    /// # Safety
    /// Y6.
    ///
    /// # Source
    /// `vmap_pfn`.
    #[track_caller]
    pub unsafe fn vmap_pfn(&self, frames: &[Pfn], prot: Pgprot) -> Result<NonNull<u8>, Error> {
        let _call = self.enter("vmap_pfn", &[("count", Value::Number(frames.len())), ("prot", Value::Prot(prot))]);
        let source = self.machine().frames();
        if let Some(&odd) = frames.iter().find(|&&frame| source.is_ram(frame)) {
            return Err(Error::HasDescriptor(odd));
        }
        if frames.is_empty() {
            return Err(AllocError::ZeroSize.into());
        }
        let like = self.like(prot.nx());
        self.claimed_list(frames, prot.memory, || {
            // SAFETY: P1: Y6.
            Ok(unsafe { self.vm.vmap(frames, like) }?)
        })
    }
}
