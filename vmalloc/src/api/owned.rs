//! Owning areas: freed when they are dropped.

use crate::api::instance::Vmalloc;
use crate::area::{Caller, Req};
use crate::error::AllocError;
use crate::machine::format::Prot;
use crate::machine::{Addressable, Machine};
use crate::units::{Pfn, VirtAddr};
use core::fmt;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

/// An area that frees itself. Its bytes are cleared to begin with, and it
/// derefs to them where the machine's areas are real memory.
pub struct Area<'v, M: Machine> {
    vm: &'v Vmalloc<M>,
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it owns its bytes, and the instance may be shared.
unsafe impl<M: Machine> Send for Area<'_, M> {}
// SAFETY: as above; shared access only reads.
unsafe impl<M: Machine> Sync for Area<'_, M> {}

impl<M: Machine> Vmalloc<M> {
    /// Allocates an owning area, cleared, for reading and writing.
    ///
    /// # Errors
    /// See [`AllocError`]; nothing has changed then.
    #[track_caller]
    pub fn area(&self, req: Req) -> Result<Area<'_, M>, AllocError> {
        let caller = req.caller.unwrap_or(Caller::here());
        let req = req.zeroed().prot(Prot::RW).caller(caller);
        let bytes = req.bytes;
        let start = self.alloc(req)?;
        Ok(Area { vm: self, start, bytes })
    }
}

impl<'v, M: Machine> Area<'v, M> {
    /// Takes an area over that was allocated by hand.
    ///
    /// # Safety
    /// - O1. `start` came from [`Vmalloc::alloc`] of this instance for `bytes`
    ///   bytes, all of them initialised, and nobody else uses or frees it.
    pub unsafe fn from_raw(vm: &'v Vmalloc<M>, start: NonNull<u8>, bytes: usize) -> Area<'v, M> {
        Area { vm, start, bytes }
    }

    /// Gives the area up: the caller frees it.
    pub fn into_raw(self) -> NonNull<u8> {
        let start = self.start;
        core::mem::forget(self);
        start
    }

    /// Its first byte.
    pub fn start(&self) -> VirtAddr {
        VirtAddr(self.start.addr().get())
    }

    /// Its length in bytes, as asked for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The frames behind it, by page. They are handed out by that: whoever maps
    /// them is a holder beside the area, or has done so before it is dropped (P1,
    /// P4).
    pub fn frames(&self) -> impl Iterator<Item = Pfn> + '_ {
        if let Some(found) = self.vm.ctx().and_then(|ctx| ctx.find(self.start())) {
            found.slot().share();
        }
        let pages = crate::units::pages_for(self.bytes).unwrap_or(0);
        (0..pages).filter_map(|page| self.vm.frame_at(self.start().add_pages(page).0))
    }
}

impl<M: Addressable> Deref for Area<'_, M> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: Addressable: the bytes are ours and readable while the area
        // lives; `area` cleared them, or O1.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }
}

impl<M: Addressable> DerefMut for Area<'_, M> {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and we are borrowed exclusively.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

impl<M: Machine> Drop for Area<'_, M> {
    fn drop(&mut self) {
        // SAFETY: V1: it was ours alone.
        let freed = unsafe { self.vm.free(self.start) };
        debug_assert!(freed.is_ok(), "an owned area was freed by somebody else: {freed:?}");
    }
}

impl<M: Machine> fmt::Debug for Area<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Area({} bytes at {})", self.bytes, self.start())
    }
}
