//! Blocks that grow and shrink: `krealloc`, `vrealloc`, `kvrealloc`.
//!
//! | Block | Shrinks | Grows within what it has | Grows beyond |
//! |---|---|---|---|
//! | object of the slab | in place | in place | another object, bytes copied |
//! | area by parts | in place; frames go back | in place, with new frames | another area; frames move |
//! | area of the library's own | in place; frames stay | in place | another area; frames move |
//!
//! **Frames move, bytes do not.** Each frame gains a holder, the new area takes it over,
//! and the old area, once it is freed, holds it no more. A refusal on the way leaves the
//! old block as it was.

use crate::call::Value;
use crate::error::Error;
use crate::gfp::GfpFlags;
use crate::host::{Host, Kern};
use crate::kernel::Kernel;
use crate::kvmalloc::adjusted;
use crate::memory::Place;
use crate::records::{Built, Record};
use crate::request::Request;
use crate::slab::ZERO_SIZE_PTR;
use crate::vfree::{Pointer, pointer};
use crate::vm_struct::VmStruct;
use core::ptr::NonNull;
use core::slice;
use vmalloc::Gfp;
use vmalloc::area::Req;
use vmalloc::machine::Machine;
use vmalloc::units::{PAGE_SIZE, Pfn};

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// The object at `at` with `size` bytes, there or elsewhere. Null is a new one; no
    /// bytes frees it. With `__GFP_ZERO` from its first call on, bytes that are gained are
    /// clear.
    ///
    /// # Errors
    /// Those of [`Kernel::kmalloc`] and [`Kernel::kfree`]; the object is as it was then.
    ///
    /// # Safety
    /// Y4.
    ///
    /// # Source
    /// `krealloc`.
    pub unsafe fn krealloc(&self, at: *const u8, size: usize, gfp: GfpFlags) -> Result<NonNull<u8>, Error> {
        if at.is_null() || at == ZERO_SIZE_PTR.as_ptr() {
            return self.kmalloc(size, gfp);
        }
        let has = self.ksize(at)?;
        let place = Place::Direct(at.addr());
        if size == 0 {
            self.put_object(at.addr())?;
            return Ok(ZERO_SIZE_PTR);
        }
        if size <= has {
            if gfp.contains(GfpFlags::ZERO) {
                self.wipe(place.plus(size), has - size)?;
            }
            return pointer(at.addr()).ok_or(Error::NotSlab(at.addr()));
        }
        let new = self.kmalloc(size, gfp)?;
        self.copy_place(place, Place::Direct(new.addr().get()), has)?;
        self.put_object(at.addr())?;
        Ok(new)
    }

    /// The area at `at` with `size` bytes, there or elsewhere. Null is a new one; no bytes
    /// frees it, and nothing is returned.
    ///
    /// # Errors
    /// [`Error::NoArea`] after `Trying to vrealloc() nonexistent vm area (%p)`; those of
    /// [`Kernel::__vmalloc`]. The area is as it was then.
    ///
    /// # Safety
    /// Y4.
    ///
    /// # Cost
    /// O(pages): of those that go back, or, where it moves, of all.
    ///
    /// # Source
    /// `vrealloc`.
    #[track_caller]
    pub unsafe fn vrealloc(&self, at: *const u8, size: usize, gfp: GfpFlags) -> Result<Option<NonNull<u8>>, Error> {
        let arguments = [("p", Value::Address(at.addr())), ("size", Value::Number(size)), ("flags", Value::Gfp(gfp))];
        let _call = self.enter("vrealloc", &arguments);
        if size == 0 {
            // SAFETY: Y4, handed on.
            unsafe { self.vfree(at) }?;
            return Ok(None);
        }
        if at.is_null() {
            return self.__vmalloc(size, gfp).map(Some);
        }
        let Some(area) = self.find_vm_area(at.addr()).filter(|area| area.addr == at.addr()) else {
            self.printk(Kern::Err, format_args!("Trying to vrealloc() nonexistent vm area ({})", Pointer(at.addr())));
            return Err(Error::NoArea(at.addr()));
        };
        let bytes = self.checked_size(size)?;
        let request = Request { gfp_mask: gfp, ..self.request(size) };
        match self.record(area.addr).filter(|record| record.built == Built::ByParts) {
            Some(record) if bytes <= area.area_size() => self.resize_parts(&area, &record, &request)?,
            _ if bytes <= area.area_size() => self.resize_whole(&area, &request)?,
            _ => return self.move_area(&area, &request).map(Some),
        }
        Ok(pointer(area.addr))
    }

    /// The block at `at` with `size` bytes, there or elsewhere, of the slab or as an area.
    ///
    /// # Errors
    /// Those of [`Kernel::krealloc`], [`Kernel::vrealloc`] and [`Kernel::kvmalloc`]; the block
    /// is as it was then.
    ///
    /// # Safety
    /// Y4.
    ///
    /// # Source
    /// `kvrealloc`.
    #[track_caller]
    pub unsafe fn kvrealloc(&self, at: *const u8, size: usize, gfp: GfpFlags) -> Result<NonNull<u8>, Error> {
        if self.is_vmalloc_addr(at) {
            // SAFETY: Y4, handed on.
            return unsafe { self.vrealloc(at, size, gfp) }.map(|at| at.unwrap_or(ZERO_SIZE_PTR));
        }
        let has = self.ksize(at)?;
        // SAFETY: Y4, handed on.
        match unsafe { self.krealloc(at, size, adjusted(gfp, size)) } {
            Err(_) if size > PAGE_SIZE => {}
            done => return done,
        }
        let new = self.kvmalloc(size, gfp)?;
        self.copy_place(Place::Direct(at.addr()), self.place_of(new.addr().get()), has)?;
        self.put_object(at.addr())?;
        Ok(new)
    }

    /// An area of the library's own keeps its pages; bytes that it gains are clear if that
    /// was asked for.
    fn resize_whole(&self, area: &VmStruct, request: &Request) -> Result<(), Error> {
        self.clear_gained(area, request)?;
        let mut record = Record::new(area.addr, area.flags, Built::Whole, request.size);
        record.nr_pages = area.nr_pages;
        match self.with_record(area.addr, |record| record.requested = request.size) {
            Some(()) => Ok(()),
            None => self.keep_record(record, request.gfp_mask),
        }
    }

    fn clear_gained(&self, area: &VmStruct, request: &Request) -> Result<(), Error> {
        let gained = request.size.saturating_sub(area.requested_size);
        match request.gfp_mask.contains(GfpFlags::ZERO) {
            true => self.wipe(Place::Area(area.addr + area.requested_size), gained),
            false => Ok(()),
        }
    }

    /// An area by parts has as many frames as its bytes need.
    fn resize_parts(&self, area: &VmStruct, record: &Record, request: &Request) -> Result<(), Error> {
        let wanted = request.size.div_ceil(PAGE_SIZE);
        if wanted < record.nr_pages {
            self.shrink_parts(record, wanted)?;
        }
        for n in record.nr_pages..wanted {
            if let Err(error) = self.gain_page(area, record, n, request) {
                self.shrink_parts(record, record.nr_pages.min(n))?;
                return Err(error);
            }
        }
        self.clear_gained(area, request)?;
        self.with_record(area.addr, |record| record.requested = request.size);
        Ok(())
    }

    fn gain_page(&self, area: &VmStruct, record: &Record, n: usize, request: &Request) -> Result<(), Error> {
        let array = record.array.ok_or(Error::NoArea(area.addr))?;
        let frame = self.alloc_page(request.gfp_mask, request.node)?;
        // SAFETY: Y3: the frame is the area's, and Y4.
        let mapped = unsafe { self.map_kernel_range_noflush(area.addr + n * PAGE_SIZE, request.prot, &[frame]) };
        let kept = mapped.and_then(|()| self.set_page(&array, n, frame));
        kept.inspect_err(|_| self.give_frame(frame))?;
        self.with_record(area.addr, |record| record.nr_pages = n + 1);
        Ok(())
    }

    /// The frames from page `left` on go back.
    fn shrink_parts(&self, record: &Record, left: usize) -> Result<(), Error> {
        let has = self.record(record.start).map_or(0, |record| record.nr_pages);
        let Some(array) = record.array.filter(|_| has > left) else { return Ok(()) };
        // SAFETY: Y1, Y3: Y4: nobody uses what is given up.
        unsafe { self.unmap_kernel_range_noflush(record.start + left * PAGE_SIZE, (has - left) * PAGE_SIZE) }?;
        self.with_record(record.start, |record| record.nr_pages = left);
        for n in left..has {
            if let Some(frame) = self.page_of(&array, n) {
                self.give_frame(frame);
            }
        }
        Ok(())
    }

    /// Another area with the frames of this one, and more behind them.
    #[track_caller]
    fn move_area(&self, area: &VmStruct, request: &Request) -> Result<NonNull<u8>, Error> {
        let pages = request.size.div_ceil(PAGE_SIZE);
        let list = self.kvmalloc_for_frames(pages)?;
        let mut moved = Moved { kernel: self, at: list, held: 0 };
        moved.take(area, pages, request)?;
        let new = moved.map(area, request)?;
        drop(moved);
        // SAFETY: Y1: Y4: the old address is used no more.
        unsafe { self.vfree(core::ptr::with_exposed_provenance(area.addr)) }?;
        Ok(new)
    }

    /// Room for so many frames, which the code itself reads: of the slab.
    fn kvmalloc_for_frames(&self, pages: usize) -> Result<NonNull<Pfn>, Error> {
        let bytes = crate::slab::product(pages, size_of::<Pfn>())?;
        Ok(self.object(bytes, GfpFlags::KERNEL | GfpFlags::NOWARN, None)?.cast())
    }
}

/// Frames on their way to another area. Dropped, it gives up what it still holds.
struct Moved<'k, 'v, M: Machine, H: Host> {
    kernel: &'k Kernel<'v, M, H>,
    at: NonNull<Pfn>,
    held: usize,
}

impl<M: Machine, H: Host> Moved<'_, '_, M, H> {
    /// Becomes a holder of the area's frames, and of new ones for `pages` pages in all.
    fn take(&mut self, area: &VmStruct, pages: usize, request: &Request) -> Result<(), Error> {
        let old = area.requested_size.div_ceil(PAGE_SIZE);
        for n in 0..pages {
            let at = area.addr + n * PAGE_SIZE;
            let frame = match n < old {
                true => self.kernel.vm.hold_frame(at).ok_or(Error::NoArea(at))?,
                false => self.kernel.alloc_page(request.gfp_mask, request.node)?,
            };
            // SAFETY: the list has room for `pages` frames.
            unsafe { self.at.add(n).write(frame) };
            self.held = n + 1;
        }
        Ok(())
    }

    /// Gives the frames to a new area.
    #[track_caller]
    fn map(&mut self, area: &VmStruct, request: &Request) -> Result<NonNull<u8>, Error> {
        let kernel = self.kernel;
        // SAFETY: `take` has written them all.
        let frames = unsafe { slice::from_raw_parts(self.at.as_ptr(), self.held) };
        let like = Req::bytes(0).prot(request.prot.prot).gfp(request.gfp_mask.library() | Gfp::NOWARN);
        // SAFETY: P2: each frame is held by this, once.
        let new = unsafe { kernel.vm.vmap_owned(frames, like.caller(request.caller)) }?;
        let flags = area.flags.difference(crate::flags::VmFlags::NO_GUARD);
        let mut record = Record::new(new.addr().get(), flags, Built::Whole, request.size);
        record.nr_pages = self.held;
        self.held = 0;
        let kept = kernel.keep_record(record, request.gfp_mask);
        let moved = VmStruct { addr: new.addr().get(), ..*area };
        let cleared = kept.and_then(|()| kernel.clear_gained(&moved, request));
        // The old area holds its frames on.
        cleared.inspect_err(|_| _ = kernel.free_area(moved.addr, |_| true)).map(|()| new)
    }
}

impl<M: Machine, H: Host> Drop for Moved<'_, '_, M, H> {
    fn drop(&mut self) {
        for n in 0..self.held {
            // SAFETY: `take` has written it.
            self.kernel.give_frame(unsafe { self.at.add(n).read() });
        }
        let freed = self.kernel.put_object(self.at.addr().get());
        debug_assert!(freed.is_ok(), "the list was ours: {freed:?}");
    }
}
