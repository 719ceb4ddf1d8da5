//! Blocks of the slab that grow and shrink, `krealloc`, and those that may become areas,
//! `kvrealloc`. An object stays where it has room, or else its bytes are copied. Areas are
//! [`vrealloc`](crate::vrealloc)'s.

use crate::error::Error;
use crate::gfp::GfpFlags;
use crate::host::Host;
use crate::kernel::Kernel;
use crate::kvmalloc::adjusted;
use crate::memory::Place;
use crate::slab::ZERO_SIZE_PTR;
use crate::vfree::pointer;
use core::ptr::NonNull;
use vmalloc::machine::Machine;
use vmalloc::units::PAGE_SIZE;

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
        let copied = self.copy_place(place, Place::Direct(new.addr().get()), has);
        let moved = copied.and_then(|()| self.put_object(at.addr()));
        // Nobody has heard of the new block.
        moved.inspect_err(|_| _ = self.put_object(new.addr().get()))?;
        Ok(new)
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
        let copied = self.copy_place(Place::Direct(at.addr()), self.place_of(new.addr().get()), has);
        let moved = copied.and_then(|()| self.put_object(at.addr()));
        // SAFETY: Y1: nobody has heard of the new block.
        moved.inspect_err(|_| _ = unsafe { self.kvfree(new.as_ptr()) })?;
        Ok(new)
    }
}
