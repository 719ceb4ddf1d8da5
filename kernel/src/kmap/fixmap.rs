//! The fixmap: pages whose addresses follow from their numbers.
//!
//! Slot 0 would lie at FIXADDR_TOP itself, and is none. The slots' addresses go down while
//! their numbers go up.
//!
//! Source: `fix_to_virt`, `set_fixmap`, `clear_fixmap`. There an entry may be written over;
//! here a slot that is in use is refused, for its users would see another frame.

use super::{Place, Window, pointer};
use crate::error::Error;
use crate::flags::Pgprot;
use crate::host::Host;
use crate::kernel::Kernel;
use core::ptr::NonNull;
use vmalloc::machine::Machine;
use vmalloc::units::{PAGE_SHIFT, PAGE_SIZE, Pfn};

/// Where the slot lies, below `top`. Numbers that no address space has wrap.
pub const fn fix_to_virt(top: usize, slot: usize) -> usize {
    top.wrapping_sub(slot.wrapping_mul(PAGE_SIZE))
}

/// The slot that the page of `at` is. Above `top` is none: the number wraps.
pub const fn virt_to_fix(top: usize, at: usize) -> usize {
    top.wrapping_sub(at & !(PAGE_SIZE - 1)) >> PAGE_SHIFT
}

/// Slots from 1 on.
pub struct Fixmap<'k, M: Machine, H: Host> {
    window: Window<'k, M, H>,
    top: usize,
    slots: usize,
}

impl<'k, M: Machine, H: Host> Fixmap<'k, M, H> {
    /// Takes the addresses of the slots 1 to `slots` below `place.at`.
    ///
    /// # Errors
    /// What the library refuses where they are not all free in the region.
    pub fn new(kernel: &'k Kernel<'k, M, H>, place: Place, slots: usize) -> Result<Self, Error> {
        let start = slots.checked_mul(PAGE_SIZE).and_then(|bytes| place.at.checked_sub(bytes));
        let start = start.ok_or(Error::BadArgument(slots))?;
        Ok(Fixmap { window: Window::new(kernel, place.region, start, slots)?, top: place.at, slots })
    }

    /// Where the slot lies.
    ///
    /// # Errors
    /// [`Error::BadArgument`] where there is no such slot.
    pub fn address(&self, slot: usize) -> Result<usize, Error> {
        let is_slot = (1..=self.slots).contains(&slot);
        if is_slot { Ok(fix_to_virt(self.top, slot)) } else { Err(Error::BadArgument(slot)) }
    }

    /// Maps `frame`, memory or a device, in the slot.
    ///
    /// # Errors
    /// [`Error::BadArgument`]; [`Error::Alloc`]: EBUSY for a slot in use, EINVAL for a frame
    /// that no entry can name. Nothing has changed then.
    ///
    /// # Safety
    /// Y3, until the slot is cleared.
    pub unsafe fn set(&self, slot: usize, frame: Pfn, prot: Pgprot) -> Result<NonNull<u8>, Error> {
        let at = self.address(slot)?;
        self.window.flush()?;
        // SAFETY: Y3, handed on; J11: all CPUs have flushed.
        unsafe { self.window.map(at, frame, prot) }?;
        pointer(at)
    }

    /// Unmaps what the slot has, and flushes; whether it had something. Where the caller may
    /// not wait, the next [`Fixmap::set`] flushes, or is refused.
    ///
    /// # Errors
    /// [`Error::BadArgument`].
    ///
    /// # Safety
    /// Y1, Y3.
    pub unsafe fn clear(&self, slot: usize) -> Result<bool, Error> {
        let at = self.address(slot)?;
        // SAFETY: Y1, Y3, handed on.
        let was_set = unsafe { self.window.unmap(at) }?;
        if was_set {
            self.window.kernel.flush_tlb_kernel_range(at, at + PAGE_SIZE);
        }
        Ok(was_set)
    }
}
