//! Areas that grow and shrink: `vrealloc`.
//!
//! | Area | Shrinks | Grows within what it has | Grows beyond |
//! |---|---|---|---|
//! | by parts | in place; frames go back | in place, with new frames | another area; frames move |
//! | of the library's own | in place; frames go back | in place | in place as far as its slot reaches; else as above |
//!
//! **Frames move, bytes do not.** Each frame gains a holder, the new area takes it over,
//! and the old area, once it is freed, holds it no more. Only what may not stay on its node, or
//! cannot be held twice, is copied. A refusal on the way leaves the old block as it was.

use crate::call::Value;
use crate::error::Error;
use crate::flags::{Pgprot, VmFlags};
use crate::gfp::GfpFlags;
use crate::host::{Host, Kern};
use crate::kernel::Kernel;
use crate::memory::Place;
use crate::records::{Built, Record};
use crate::request::Request;
use crate::vfree::{Pointer, pointer};
use crate::vm_struct::VmStruct;
use core::ptr::NonNull;
use core::slice;
use vmalloc::area::Req;
use vmalloc::machine::Machine;
use vmalloc::machine::format::{Entry, MemType, Prot};
use vmalloc::machine::frames::Frames;
use vmalloc::units::{Node, PAGE_SIZE, Pfn};
use vmalloc::{AllocError, Caller, Gfp};

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// The area at `at` with `size` bytes, there or elsewhere. Null is a new one; no bytes
    /// frees it, and nothing is returned. With `__GFP_ZERO` from its first call on, bytes that
    /// are gained are clear.
    ///
    /// # Errors
    /// [`Error::NoArea`] after `Trying to vrealloc() nonexistent vm area (%p)`;
    /// [`Error::WrongFlags`] for an area that no `vmalloc` made; those of [`Kernel::__vmalloc`].
    /// The area is as it was then.
    ///
    /// # Safety
    /// Y4.
    ///
    /// # Cost
    /// O(pages): of those that go back, or, where it moves, of all.
    ///
    /// # Source
    /// `vrealloc`, which frees the tail from 7.2 on.
    #[track_caller]
    pub unsafe fn vrealloc(&self, at: *const u8, size: usize, gfp: GfpFlags) -> Result<Option<NonNull<u8>>, Error> {
        let arguments = [("p", Value::Address(at.addr())), ("size", Value::Number(size)), ("flags", Value::Gfp(gfp))];
        let _call = self.enter("vrealloc", &arguments);
        // SAFETY: Y4, handed on.
        unsafe { self.resized(at, &Request { gfp_mask: gfp, ..self.request(size) }) }
    }

    /// As [`Kernel::vrealloc`], at a multiple of `align`, which moves an area that is elsewhere,
    /// and with new frames of `node` first. With `__GFP_THISNODE` frames of other nodes are
    /// replaced.
    ///
    /// # Errors
    /// As there; EINVAL for an alignment that is no power of two.
    ///
    /// # Safety
    /// Y4.
    ///
    /// # Source
    /// `vrealloc_node_align`.
    #[track_caller]
    pub unsafe fn vrealloc_node_align(
        &self,
        at: *const u8,
        size: usize,
        align: usize,
        (gfp, node): (GfpFlags, Option<Node>),
    ) -> Result<Option<NonNull<u8>>, Error> {
        let (flags, nid) = (("flags", Value::Gfp(gfp)), ("nid", Value::Node(node)));
        let (size_argument, align_argument) = (("size", Value::Number(size)), ("align", Value::Number(align)));
        let arguments = [("p", Value::Address(at.addr())), size_argument, align_argument, flags, nid];
        let _call = self.enter("vrealloc_node_align", &arguments);
        if !align.is_power_of_two() {
            return Err(AllocError::BadAlign(align).into());
        }
        // SAFETY: Y4, handed on.
        unsafe { self.resized(at, &Request { align, gfp_mask: gfp, node, ..self.request(size) }) }
    }

    /// # Safety
    /// Y4.
    #[track_caller]
    unsafe fn resized(&self, at: *const u8, request: &Request) -> Result<Option<NonNull<u8>>, Error> {
        let watched = self.unwatch(at.addr())?;
        // SAFETY: Y4, handed on.
        let resized = unsafe { self.resized_unwatched(at, request) };
        match (&resized, watched.zip(pointer(at.addr()))) {
            (Ok(Some(new)), _) if !at.is_null() => self.watch(*new, request.size, request.gfp_mask),
            (Err(_), Some((size, old))) => self.watch(old, size, request.gfp_mask),
            _ => (),
        }
        resized
    }

    /// # Safety
    /// Y4.
    #[track_caller]
    unsafe fn resized_unwatched(&self, at: *const u8, request: &Request) -> Result<Option<NonNull<u8>>, Error> {
        if request.size == 0 {
            // SAFETY: Y4, handed on.
            unsafe { self.vfree(at) }?;
            return Ok(None);
        }
        if at.is_null() {
            return self.__vmalloc_node(request).map(Some);
        }
        let area = self.resizable(at.addr())?;
        let bytes = self.told_size(request)?;
        let stays = self.may_stay(&area, request);
        if stays && bytes > area.area_size() && self.grows_in_place(&area, request)? {
            self.refit(&area, request.size);
            return Ok(pointer(area.addr));
        }
        if bytes > area.area_size() || !stays {
            return self.move_area(&area, request).inspect_err(|error| self.tell_refusal(request, error)).map(Some);
        }
        match self.record(area.addr).filter(|record| record.built == Built::ByParts) {
            Some(record) => self.resize_parts(&area, &record, request),
            None => self.resize_whole(&area, request),
        }
        .inspect_err(|error| self.tell_refusal(request, error))?;
        Ok(pointer(area.addr))
    }

    /// The area that starts at `at`, which `vmalloc` made.
    fn resizable(&self, at: usize) -> Result<VmStruct, Error> {
        match self.find_vm_area(at).filter(|area| area.addr == at) {
            Some(area) if area.flags.contains(VmFlags::FLUSH_RESET_PERMS) => {
                // Frames that it gives up would keep the permissions of their direct mapping.
                Err(Error::WrongFlags { has: area.flags.bits(), about: VmFlags::FLUSH_RESET_PERMS.bits() })
            }
            Some(area) if area.flags.contains(VmFlags::ALLOC) => Ok(area),
            Some(area) => Err(Error::WrongFlags { has: area.flags.bits(), about: VmFlags::ALLOC.bits() }),
            None => {
                self.printk(Kern::Err, format_args!("Trying to vrealloc() nonexistent vm area ({})", Pointer(at)));
                Err(Error::NoArea(at))
            }
        }
    }

    fn tell_refusal(&self, request: &Request, error: &Error) {
        if let Error::Alloc(error) = error {
            self.tell_failure(request, error, false);
        }
    }

    /// Whether the area's start and its frames are what is asked for.
    fn may_stay(&self, area: &VmStruct, request: &Request) -> bool {
        let pages = area.nr_pages.min(request.size.div_ceil(PAGE_SIZE));
        let mut frames = (0..pages).filter_map(|n| self.vm.frame_at(area.addr + n * PAGE_SIZE));
        area.addr.is_multiple_of(request.align) && frames.all(|frame| self.is_on_node(frame, request))
    }

    /// Whether a request that allows no other node may have this frame.
    fn is_on_node(&self, frame: Pfn, request: &Request) -> bool {
        let only = request.node.filter(|_| request.gfp_mask.contains(GfpFlags::THISNODE));
        only.is_none_or(|node| self.machine().frames().node_of(frame) == node)
    }

    /// An area of the library's own gives pages back that it needs no more; bytes that it gains
    /// are clear if that was asked for.
    fn resize_whole(&self, area: &VmStruct, request: &Request) -> Result<(), Error> {
        let (size, left) = (request.size, request.size.div_ceil(PAGE_SIZE));
        if left < area.nr_pages {
            return self.shrink_whole(area, size);
        }
        self.clear_gained(area, request)?;
        let mut record = Record::new(area.addr, area.flags.difference(VmFlags::NO_GUARD), Built::Whole, size);
        record.nr_pages = area.nr_pages;
        match self.with_record(area.addr, |record| record.requested = size) {
            Some(()) => Ok(()),
            None => self.keep_record(record, request.gfp_mask),
        }
    }

    /// The pages of an area of the library's own behind `size` bytes go back. Its array is that of
    /// more pages, and is made anew where somebody asks for it.
    fn shrink_whole(&self, area: &VmStruct, size: usize) -> Result<(), Error> {
        let start = pointer(area.addr).ok_or(Error::NoArea(area.addr))?;
        // SAFETY: V1: Y4: nobody uses what is given up.
        unsafe { self.vm.shrink(start, size) }?;
        self.refit(area, size);
        Ok(())
    }

    /// Whether an area of the library's own has got pages for so many bytes where it is, clear if
    /// that was asked for.
    fn grows_in_place(&self, area: &VmStruct, request: &Request) -> Result<bool, Error> {
        let gfp = self.host.scope().apply(request.gfp_mask).difference(GfpFlags::ZERO);
        let like = self.wanted(&Request { prot: self.pgprot_of(area), ..*request }, gfp);
        let (Some(start), Some(was)) = (pointer(area.addr), self.vm.find(area.addr)) else { return Ok(false) };
        // SAFETY: V1: nothing is behind an area but its guard; Y4.
        if unsafe { self.vm.grow(start, like) }.is_err() {
            return Ok(false);
        }
        self.clear_gained(area, request).inspect_err(|_| {
            // SAFETY: V1: nobody knows of the pages that it has gained.
            let undone = unsafe { self.vm.shrink(start, was.bytes) };
            debug_assert!(undone.is_ok(), "it grew a moment ago: {undone:?}");
        })?;
        Ok(true)
    }

    /// Its record follows an area that has other pages than before.
    fn refit(&self, area: &VmStruct, size: usize) {
        let pages = self.vm.find(area.addr).map_or(0, |info| info.pages);
        let array = self.with_record(area.addr, |record| {
            (record.requested, record.nr_pages) = (size, pages);
            record.array.take()
        });
        array.flatten().inspect(|array| self.free_array(array));
        self.resize_tracked(area.addr, pages);
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
        if let Err(error) = self.clear_gained(area, request) {
            self.shrink_parts(record, record.nr_pages.min(wanted))?;
            return Err(error);
        }
        self.with_record(area.addr, |record| record.requested = request.size);
        Ok(())
    }

    fn gain_page(&self, area: &VmStruct, record: &Record, n: usize, request: &Request) -> Result<(), Error> {
        let array = record.array.ok_or(Error::NoArea(area.addr))?;
        let (frame, prot) = (self.alloc_page(request.gfp_mask, request.node)?, self.pgprot_of(area));
        // SAFETY: Y3: the frame is the area's, and Y4.
        let mapped = unsafe { self.map_kernel_range_noflush(area.addr + n * PAGE_SIZE, prot, &[frame]) };
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
        let list = self.list_of_frames(pages, request.gfp_mask)?;
        let mut moved = Moved { kernel: self, at: list, held: 0 };
        moved.take(area, pages, request)?;
        let new = moved.map(area, request)?;
        drop(moved);
        // SAFETY: Y1: Y4: the old address is used no more.
        let freed = unsafe { self.vfree(core::ptr::with_exposed_provenance(area.addr)) };
        // Nobody has heard of the new area.
        freed.inspect_err(|_| _ = self.free_area(new.addr().get(), |_| true, Caller::here()))?;
        Ok(new)
    }

    /// Room for so many frames, which the code itself reads: of the slab.
    fn list_of_frames(&self, pages: usize, gfp: GfpFlags) -> Result<NonNull<Pfn>, Error> {
        let bytes = crate::slab::product(pages, size_of::<Pfn>())?;
        Ok(self.object(bytes, gfp.intersection(GfpFlags::RECLAIM_MASK) | GfpFlags::NOWARN, None)?.cast())
    }

    /// A frame for the page at `at` of the area's successor: the frame of now with one holder
    /// more, or a copy.
    fn same_or_copied(&self, at: usize, request: &Request) -> Result<Pfn, Error> {
        let held = self.vm.hold_frame(at);
        if let Some(frame) = held.filter(|&frame| self.is_on_node(frame, request)) {
            return Ok(frame);
        }
        held.inspect(|&frame| self.give_frame(frame));
        let frame = self.alloc_page(request.gfp_mask, request.node)?;
        self.copy_page(at, frame).inspect_err(|_| self.give_frame(frame))?;
        Ok(frame)
    }

    /// Copies a page of an area that the caller holds to a frame of its own.
    fn copy_page(&self, at: usize, to: Pfn) -> Result<(), Error> {
        let mut buffer = [0; 256];
        for done in (0..PAGE_SIZE).step_by(buffer.len()) {
            self.read_place(Place::Area(at + done), &mut buffer)?;
            self.with_bytes(to, |bytes| {
                // SAFETY: Y2: the frame is the caller's alone, and the part lies in it.
                unsafe { bytes.add(done).copy_from_nonoverlapping(NonNull::from(&buffer).cast(), buffer.len()) }
            })?;
        }
        Ok(())
    }

    /// What the area's pages allow, and how they are cached, which an entry does not tell: those
    /// that it gains, and those of a successor, are the same.
    fn pgprot_of(&self, area: &VmStruct) -> Pgprot {
        // SAFETY: Y7: the caller holds the area, so its tables stay linked.
        let last = unsafe { self.walk(area.addr) }.up().next().map(|entry| entry.says());
        let Some(Entry::Leaf { mut prot, .. }) = last else { return Pgprot::KERNEL };
        // Whoever made it so has meant it.
        prot.set(Prot::BOTH, prot.contains(Prot::WRITE | Prot::EXEC));
        Pgprot { prot, memory: self.record(area.addr).map_or(MemType::WriteBack, |record| record.cached) }
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
        for n in 0..pages {
            let frame = match n < area.nr_pages {
                true => self.kernel.same_or_copied(area.addr + n * PAGE_SIZE, request)?,
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
        let Pgprot { prot, memory } = kernel.pgprot_of(area);
        let like = Req::bytes(0).prot(prot).memory(memory).align(request.align.max(PAGE_SIZE));
        let like = like.gfp(request.gfp_mask.library() | Gfp::NOWARN);
        // SAFETY: P2: each frame is held by this, once.
        let new = unsafe { kernel.vm.vmap_owned(frames, like.caller(request.caller)) }?;
        let flags = area.flags.difference(VmFlags::NO_GUARD);
        let mut record = Record::new(new.addr().get(), flags, Built::Whole, request.size);
        (record.nr_pages, record.cached) = (self.held, memory);
        self.held = 0;
        let kept = kernel.keep_record(record, request.gfp_mask);
        let moved = VmStruct { addr: new.addr().get(), ..*area };
        let cleared = kept.and_then(|()| kernel.clear_gained(&moved, request));
        // The old area holds its frames on.
        cleared.inspect_err(|_| _ = kernel.free_area(moved.addr, |_| true, Caller::here()))?;
        kernel.tell_kmemleak(new, &Request { vm_flags: area.flags, ..*request });
        Ok(new)
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
