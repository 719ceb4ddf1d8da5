//! Blocks of adjacent frames: `__get_free_pages` and what is above the classes.

use super::alloc::LARGEST;
use super::sheet::Sheet;
use crate::call::Value;
use crate::error::Error;
use crate::gfp::GfpFlags;
use crate::host::Host;
use crate::kernel::Kernel;
use core::ptr::NonNull;
use vmalloc::error::Shortage;
use vmalloc::gfp::ZoneKind;
use vmalloc::machine::frames::{Frames, MAX_ORDER, Want};
use vmalloc::machine::{Context, Machine};
use vmalloc::units::{Node, PAGE_SIZE, Pfn};
use vmalloc::{AllocError, Gfp};

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// A block of 2^`order` adjacent frames on the direct mapping.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for HIGHMEM, which has no such address; [`Error::TooLarge`];
    /// [`Error::Alloc`] where there is no block. Nothing has changed then.
    ///
    /// # Cost
    /// The source's lock and the slab's. Source: `__get_free_pages`.
    pub fn __get_free_pages(&self, gfp: GfpFlags, order: u32) -> Result<NonNull<u8>, Error> {
        let _call =
            self.enter("__get_free_pages", &[("gfp_mask", Value::Gfp(gfp)), ("order", Value::Number(order as usize))]);
        if gfp.contains(GfpFlags::HIGHMEM) {
            return Err(Error::BadArgument(GfpFlags::HIGHMEM.bits() as usize));
        }
        let bytes = 1usize.checked_shl(order).and_then(|pages| pages.checked_mul(PAGE_SIZE)).unwrap_or(usize::MAX);
        if order > MAX_ORDER as u32 {
            return Err(Error::TooLarge { bytes, limit: LARGEST });
        }
        let at = self.block(order as u8, gfp, None)?;
        if gfp.contains(GfpFlags::ZERO) {
            // SAFETY: the block is the caller's from now on.
            unsafe { at.as_ptr().write_bytes(0, bytes) };
        }
        Ok(at)
    }

    /// A cleared page.
    ///
    /// # Errors
    /// As [`Kernel::__get_free_pages`].
    pub fn get_zeroed_page(&self, gfp: GfpFlags) -> Result<NonNull<u8>, Error> {
        self.__get_free_pages(gfp | GfpFlags::ZERO, 0)
    }

    /// Frees what [`Kernel::__get_free_pages`] returned, with the order of that call.
    ///
    /// # Errors
    /// [`Error::BadArgument`] where the block has another order, and those of
    /// [`Kernel::kfree`]. Nothing has changed then.
    ///
    /// # Safety
    /// Y1.
    pub unsafe fn free_pages(&self, at: *const u8, order: u32) -> Result<(), Error> {
        let bytes = self.ksize(at)?;
        if bytes != 0 && (order > MAX_ORDER as u32 || bytes != PAGE_SIZE << order) {
            return Err(Error::BadArgument(order as usize));
        }
        // SAFETY: Y1, handed on.
        unsafe { self.kfree(at) }
    }

    /// A block that is one object, and enrolled.
    pub(super) fn block(&self, order: u8, gfp: GfpFlags, node: Option<Node>) -> Result<NonNull<u8>, Error> {
        let first = self.take_block(order, gfp.library(), node)?;
        let at = self.machine().virt(first);
        let base = at.as_ptr().expose_provenance();
        let enrolled = self.is_adjacent(first, order, base).and_then(|()| {
            self.stocked(&self.slab, (base, gfp), |slab| slab.add(self.machine(), Sheet::of_block(base, first, order)))
        });
        enrolled.inspect_err(|_| self.give_block(first, order))?;
        Ok(at)
    }

    /// Whether the direct mapping shows the block in one piece.
    fn is_adjacent(&self, first: Pfn, order: u8, base: usize) -> Result<(), Error> {
        let at = |n: usize| self.machine().virt(first.offset(n as u64)).addr().get();
        let odd = (1..1 << order).find(|&n| at(n) != base + n * PAGE_SIZE);
        odd.map_or(Ok(()), |n| Err(Error::NotContiguous(first.offset(n as u64 - 1))))
    }

    /// Frames of a block, from the library for one, from the source for more.
    fn take_block(&self, order: u8, gfp: Gfp, node: Option<Node>) -> Result<Pfn, Error> {
        self.check_node(node)?;
        let gfp = gfp.difference(Gfp::ZERO.union(Gfp::HIGHMEM));
        if order == 0 {
            return Ok(self.vm.alloc_frame(gfp, node)?);
        }
        let zone = gfp.zone().min(ZoneKind::Normal);
        let home = node.unwrap_or_else(|| self.home());
        let want = Want { order, zone, node: home, this_node: gfp.contains(Gfp::THISNODE), next: None };
        let wanted = 1usize << order;
        let found = self.ask_source(want).or_else(|| self.after_reclaim(want, gfp));
        found.ok_or_else(|| {
            // Free frames that do not lie side by side are no block: nobody counts those that do.
            AllocError::NoFrames { wanted, got: None, node }.into()
        })
    }

    fn ask_source(&self, want: Want) -> Option<Pfn> {
        let machine = self.machine();
        let was = machine.pin();
        let block = machine.frames().alloc(want);
        // SAFETY: our own pin, the youngest.
        unsafe { machine.unpin(was) };
        block
    }

    /// Gathers the frames that lie in magazines and depots or wait for a flush; then asks the machine.
    fn after_reclaim(&self, want: Want, gfp: Gfp) -> Option<Pfn> {
        if !gfp.contains(Gfp::WAIT) || self.machine().context() != Context::Task {
            return None;
        }
        self.vm.reclaim(usize::MAX);
        let gathered = self.ask_source(want);
        if gathered.is_some()
            || gfp.contains(Gfp::NORETRY)
            || !self.machine().exhausted(Shortage::Frames(1 << want.order), Context::Task, gfp)
        {
            return gathered;
        }
        self.ask_source(want)
    }
}
