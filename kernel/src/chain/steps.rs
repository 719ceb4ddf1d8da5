//! What the old forms do alike: an array, the pages in it, and their mapping.

use crate::array::{ELEMENT, PageArray};
use crate::call::Value;
use crate::error::Error;
use crate::flags::VmFlags;
use crate::gfp::GfpFlags;
use crate::host::Host;
use crate::kernel::{Kernel, page_align};
use crate::memory::Place;
use crate::request::Request;
use crate::vm_struct::VmStruct;
use core::ptr::NonNull;
use vmalloc::area::Req;
use vmalloc::machine::Machine;
use vmalloc::units::{Node, PAGE_SHIFT, PAGE_SIZE, Pfn};
use vmalloc::{AllocError, Caller, Gfp};

/// How an area for an array is made: by its bytes and flags.
pub(crate) type NewArea<'f> = dyn FnMut(usize, GfpFlags) -> Result<NonNull<u8>, Error> + 'f;

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// The page-aligned size of a request, which is not 0 and not above what the machine
    /// has.
    pub(crate) fn checked_size(&self, size: usize) -> Result<usize, Error> {
        let total = self.total_pages();
        match page_align(size) {
            Some(0) => Err(AllocError::ZeroSize.into()),
            Some(bytes) if bytes >> PAGE_SHIFT <= total => Ok(bytes),
            _ => Err(Error::ExceedsTotal { pages: size.div_ceil(PAGE_SIZE), total }),
        }
    }

    /// An array for `pages` pages, cleared: of the slab for a page or less, never with
    /// HIGHMEM, or else an area that `new_area` makes.
    pub(crate) fn new_array(
        &self,
        pages: usize,
        gfp: GfpFlags,
        node: Option<Node>,
        mut new_area: impl FnMut(usize, GfpFlags) -> Result<NonNull<u8>, Error>,
    ) -> Result<PageArray, Error> {
        let nested = gfp.intersection(GfpFlags::RECLAIM_MASK);
        let bytes = pages.checked_mul(ELEMENT).ok_or(Error::Overflow { count: pages, size: ELEMENT })?;
        if bytes <= PAGE_SIZE {
            let at = self.slab_array(bytes, nested, node)?;
            self.ignore_own(at.addr().get());
            return Ok(PageArray { at: at.addr().get(), len: pages });
        }
        let at = new_area(bytes, nested | GfpFlags::HIGHMEM)?.addr().get();
        self.ignore_own(at);
        let array = PageArray { at, len: pages };
        self.wipe(Place::Area(at), bytes).inspect_err(|_| self.free_array(&array))?;
        Ok(array)
    }

    fn slab_array(&self, bytes: usize, gfp: GfpFlags, node: Option<Node>) -> Result<NonNull<u8>, Error> {
        let gfp = gfp | GfpFlags::ZERO;
        match node {
            Some(_) => self.kmalloc_node(bytes, gfp, node),
            None => self.kmalloc(bytes, gfp),
        }
    }

    /// An area of the library's own for an array.
    pub(crate) fn plain_area(&self, bytes: usize, gfp: GfpFlags) -> Result<NonNull<u8>, Error> {
        Ok(self.vm.alloc(Req::bytes(bytes).gfp(gfp.library() | Gfp::NOWARN).caller(Caller::here()))?)
    }

    /// Takes a frame for each page of the area into its array, one at a time. Where page
    /// i is refused, the area has i frames to free.
    pub(crate) fn take_pages(&self, area: &VmStruct, array: &PageArray, request: &Request) -> Result<(), Error> {
        for n in 0..array.len() {
            let taken = match self.host.fatal_signal_pending() && !request.gfp_mask.contains(GfpFlags::NOFAIL) {
                true => Err(Error::Interrupted),
                false => self.alloc_page(request.gfp_mask, request.node),
            };
            let kept = taken.and_then(|frame| self.set_page(array, n, frame).inspect_err(|_| self.give_frame(frame)));
            self.with_record(area.addr, |record| record.nr_pages = n + kept.is_ok() as usize);
            kept?;
        }
        Ok(())
    }

    /// One frame: `alloc_page`, or `alloc_pages_node` where a node is named.
    ///
    /// # Errors
    /// [`Error::Alloc`].
    ///
    /// # Source
    /// Both names.
    pub fn alloc_page(&self, gfp: GfpFlags, node: Option<Node>) -> Result<Pfn, Error> {
        let mask = ("gfp_mask", Value::Gfp(gfp));
        let _call = match node {
            None => self.enter("alloc_page", &[mask]),
            Some(_) => self.enter("alloc_pages_node", &[("nid", Value::Node(node)), mask, ("order", Value::Number(0))]),
        };
        let gfp = gfp.library() | Gfp::NOWARN;
        // A frame that is cleared here is reached here: any other will do.
        let cleared = gfp.contains(Gfp::ZERO);
        let frame = self.vm.alloc_frame(if cleared { gfp.difference(Gfp::HIGHMEM) } else { gfp }, node)?;
        Ok(frame)
    }

    /// Makes an array, takes its pages and maps them, for an area that has nothing yet.
    /// What was taken stays with the area where that is refused.
    pub(crate) fn furnish(&self, area: &VmStruct, request: &Request, new_area: &mut NewArea<'_>) -> Result<(), Failed> {
        let pages = area.area_size() >> PAGE_SHIFT;
        let array = self.new_array(pages, request.gfp_mask, request.node, new_area).map_err(Failed::Array)?;
        self.with_record(area.addr, |record| record.array = Some(array));
        self.note_memory(area.addr, request.prot.memory);
        self.take_pages(area, &array, request).map_err(Failed::Pages)?;
        // SAFETY: Y3: the frames are the area's, which nobody knows yet.
        unsafe { self.map_vm_area(area, request.prot, &array) }.map_err(Failed::Map)
    }

    /// Takes an area back that could not be furnished: without an array it is removed, or
    /// else freed with what it has.
    pub(crate) fn take_back(&self, area: &VmStruct, failed: Failed) -> Error {
        let at = core::ptr::with_exposed_provenance(area.addr);
        let (undone, error) = match failed {
            // SAFETY: Y1: nobody knows the area yet.
            Failed::Array(error) => (unsafe { self.remove_vm_area(area.addr) }.map(drop), error),
            // SAFETY: Y1: as above.
            Failed::Pages(error) | Failed::Map(error) => (unsafe { self.vfree(at) }, error),
        };
        debug_assert!(undone.is_ok(), "the area was ours: {undone:?}");
        error
    }

    /// The leak detector hears of an area (`kmemleak_alloc`, `kmemleak_vmalloc`).
    pub(crate) fn track(&self, at: usize, bytes: usize, min_count: u32, gfp: GfpFlags) {
        let area = crate::host::Tracked { at, bytes, min_count, gfp };
        self.host.tracked(&area);
        self.track_area(&area);
    }
}

/// Which step was refused.
#[derive(Debug)]
pub(crate) enum Failed {
    Array(Error),
    Pages(Error),
    Map(Error),
}

/// The flags of an area that `vmalloc` makes.
pub(crate) const ALLOC: VmFlags = VmFlags::ALLOC;
