//! `kvmalloc`: of the slab if that is easy, or else an area.
//!
//! | Asked for | Slab | Area |
//! |---|---|---|
//! | a page or less | with the flags as they are | never |
//! | up to `INT_MAX` | quietly, and without trying hard, unless `__GFP_RETRY_MAYFAIL` | where the slab has refused |
//! | more | | never: refused, with a warning |

use crate::call::Value;
use crate::error::Error;
use crate::flags::VmFlags;
use crate::gfp::GfpFlags;
use crate::host::{Host, Kern};
use crate::kernel::Kernel;
use crate::memory::Place;
use crate::request::Request;
use crate::slab::{ZERO_SIZE_PTR, product};
use crate::warn::Once;
use core::ptr::NonNull;
use vmalloc::area::RegionId;
use vmalloc::machine::Machine;
use vmalloc::units::{Node, PAGE_SIZE};

/// The most bytes that are served.
const INT_MAX: usize = i32::MAX as usize;
/// Areas whose memory is freed with them.
const OWNS: VmFlags = VmFlags::ALLOC.union(VmFlags::MAP_PUT_PAGES);

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// `size` bytes, physically adjacent if that is easy, virtually in any case.
    ///
    /// # Errors
    /// [`Error::TooLarge`] above `INT_MAX`; those of [`Kernel::kmalloc`] up to a page, and of
    /// [`Kernel::__vmalloc_node`] above. Nothing has changed then.
    ///
    /// # Source
    /// `kvmalloc`.
    #[track_caller]
    pub fn kvmalloc(&self, size: usize, gfp: GfpFlags) -> Result<NonNull<u8>, Error> {
        self.kvmalloc_node(size, gfp, None)
    }

    /// As [`Kernel::kvmalloc`], of the memory of `node` first.
    ///
    /// # Errors
    /// As there.
    #[track_caller]
    pub fn kvmalloc_node(&self, size: usize, gfp: GfpFlags, node: Option<Node>) -> Result<NonNull<u8>, Error> {
        let arguments = [("size", Value::Number(size)), ("flags", Value::Gfp(gfp)), ("node", Value::Node(node))];
        let _call = self.enter("kvmalloc_node", &arguments);
        let request = Request { gfp_mask: gfp, node, ..self.request(size) };
        match self.kmalloc_node(size, adjusted(gfp, size), node) {
            Err(Error::TooLarge { .. } | Error::Alloc(_) | Error::NotContiguous(_)) if size > PAGE_SIZE => {
                self.instead(&request)
            }
            made => made,
        }
    }

    /// An area, where the slab has refused.
    fn instead(&self, request: &Request) -> Result<NonNull<u8>, Error> {
        let bytes = request.size;
        if bytes > INT_MAX {
            if !request.gfp_mask.contains(GfpFlags::NOWARN) && self.first_time(Once::TooLarge) {
                self.printk(Kern::Warning, format_args!("kvmalloc: {bytes} bytes are more than INT_MAX"));
            }
            return Err(Error::TooLarge { bytes, limit: INT_MAX });
        }
        self.__vmalloc_node(request)
    }

    /// As [`Kernel::kvmalloc`], cleared.
    ///
    /// # Errors
    /// As there.
    #[track_caller]
    pub fn kvzalloc(&self, size: usize, gfp: GfpFlags) -> Result<NonNull<u8>, Error> {
        self.kvmalloc(size, gfp | GfpFlags::ZERO)
    }

    /// `count` objects of `size` bytes.
    ///
    /// # Errors
    /// [`Error::Overflow`], and those of [`Kernel::kvmalloc`].
    #[track_caller]
    pub fn kvmalloc_array(&self, count: usize, size: usize, gfp: GfpFlags) -> Result<NonNull<u8>, Error> {
        self.kvmalloc(product(count, size)?, gfp)
    }

    /// Whether `at` lies in the addresses that areas are carved from.
    ///
    /// # Source
    /// `is_vmalloc_addr`.
    pub fn is_vmalloc_addr(&self, at: *const u8) -> bool {
        (0..u8::MAX).map_while(|id| self.vm.region_bounds(RegionId(id))).any(|bounds| bounds.contains(&at.addr()))
    }

    /// Frees what [`Kernel::kvmalloc`] returned: the address tells whose it is. Null is
    /// nothing.
    ///
    /// # Errors
    /// Those of [`Kernel::vfree`] or of [`Kernel::kfree`].
    ///
    /// # Safety
    /// Y1.
    ///
    /// # Source
    /// `kvfree`.
    #[track_caller]
    pub unsafe fn kvfree(&self, at: *const u8) -> Result<(), Error> {
        if self.is_vmalloc_addr(at) {
            // SAFETY: Y1, handed on.
            unsafe { self.vfree(at) }
        } else {
            // SAFETY: Y1, handed on.
            unsafe { self.kfree(at) }
        }
    }

    /// As [`Kernel::kvfree`], and clears the first `bytes` bytes before.
    ///
    /// # Errors
    /// As there, and [`Error::TooLarge`] where the block has not as many bytes. Nothing has changed
    /// then.
    ///
    /// # Safety
    /// Y1.
    ///
    /// # Source
    /// `kvfree_sensitive`.
    #[track_caller]
    pub unsafe fn kvfree_sensitive(&self, at: *const u8, bytes: usize) -> Result<(), Error> {
        if at.is_null() || at == ZERO_SIZE_PTR.as_ptr() {
            return Ok(());
        }
        let (place, limit) = self.block_at(at)?;
        if bytes > limit {
            return Err(Error::TooLarge { bytes, limit });
        }
        self.unbroken(at.addr())?;
        self.wipe(place, bytes)?;
        // SAFETY: Y1, handed on.
        unsafe { self.kvfree(at) }
    }

    /// The block that starts at `at`: where it is, and the bytes that it has.
    ///
    /// # Errors
    /// [`Error::NoArea`], those of [`Kernel::ksize`], and [`Error::WrongFlags`] for an area whose
    /// memory is not its own.
    pub(crate) fn block_at(&self, at: *const u8) -> Result<(Place, usize), Error> {
        if !self.is_vmalloc_addr(at) {
            return Ok((Place::Direct(at.addr()), self.ksize(at)?));
        }
        let area = self.find_vm_area(at.addr()).filter(|area| area.addr == at.addr());
        let area = area.ok_or(Error::NoArea(at.addr()))?;
        if !area.flags.intersects(OWNS) {
            return Err(Error::WrongFlags { has: area.flags.bits(), about: OWNS.bits() });
        }
        // What is behind the bytes of a watched area is its redzone.
        let watched = area.flags.contains(VmFlags::KASAN);
        Ok((Place::Area(area.addr), if watched { area.requested_size } else { area.area_size() }))
    }
}

/// The flags with which the slab is asked.
pub(crate) fn adjusted(gfp: GfpFlags, size: usize) -> GfpFlags {
    if size <= PAGE_SIZE {
        return gfp;
    }
    let quiet = gfp.union(GfpFlags::NOWARN).difference(GfpFlags::NOFAIL);
    if gfp.contains(GfpFlags::RETRY_MAYFAIL) { quiet } else { quiet.union(GfpFlags::NORETRY) }
}
