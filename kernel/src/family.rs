//! The family of `vmalloc`: the same call with other choices.
//!
//! | Function | Frames | Cleared | Flags |
//! |---|---|---|---|
//! | `vzalloc` | any | yes | |
//! | `vmalloc_node`, `vzalloc_node` | of the node first | no, yes | |
//! | `vmalloc_user` | any | yes | VM_USERMAP |
//! | `vmalloc_32`, `vmalloc_32_user` | below 4 GiB | no, yes | , VM_USERMAP |
//! | `vmalloc_huge`, `vmalloc_huge_node` | any, of the node first; small pages | no | VM_ALLOW_HUGE_VMAP |
//! | `vmalloc_array`, `vcalloc` | any | no, yes | |

use crate::call::Value;
use crate::error::Error;
use crate::flags::VmFlags;
use crate::gfp::GfpFlags;
use crate::host::Host;
use crate::kernel::Kernel;
use crate::request::Request;
use crate::slab::product;
use core::ptr::NonNull;
use vmalloc::machine::Machine;
use vmalloc::units::{Node, PAGE_SIZE};

/// The alignment that user mappings of an area want: where caches go by virtual
/// addresses it is more than a page.
const SHMLBA: usize = PAGE_SIZE;

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// `size` cleared bytes.
    ///
    /// # Errors
    /// As [`Kernel::__vmalloc_node_range`], here and below.
    #[track_caller]
    pub fn vzalloc(&self, size: usize) -> Result<NonNull<u8>, Error> {
        let _call = self.enter("vzalloc", &[("size", Value::Number(size))]);
        self.__vmalloc_node(&Request { gfp_mask: GfpFlags::KERNEL | GfpFlags::ZERO, ..self.request(size) })
    }

    /// `size` bytes of the memory of `node` first.
    ///
    /// # Errors
    /// As there.
    #[track_caller]
    pub fn vmalloc_node(&self, size: usize, node: Option<Node>) -> Result<NonNull<u8>, Error> {
        let _call = self.enter("vmalloc_node", &[("size", Value::Number(size)), ("node", Value::Node(node))]);
        self.__vmalloc_node(&Request { gfp_mask: GfpFlags::KERNEL, node, ..self.request(size) })
    }

    /// `size` cleared bytes of the memory of `node` first.
    ///
    /// # Errors
    /// As there.
    #[track_caller]
    pub fn vzalloc_node(&self, size: usize, node: Option<Node>) -> Result<NonNull<u8>, Error> {
        let _call = self.enter("vzalloc_node", &[("size", Value::Number(size)), ("node", Value::Node(node))]);
        self.__vmalloc_node(&Request { gfp_mask: GfpFlags::KERNEL | GfpFlags::ZERO, node, ..self.request(size) })
    }

    /// `size` cleared bytes that may be mapped to user space
    /// ([`Kernel::remap_vmalloc_range`]).
    ///
    /// # Errors
    /// As there.
    #[track_caller]
    pub fn vmalloc_user(&self, size: usize) -> Result<NonNull<u8>, Error> {
        let _call = self.enter("vmalloc_user", &[("size", Value::Number(size))]);
        let gfp_mask = GfpFlags::KERNEL | GfpFlags::ZERO;
        let vm_flags = VmFlags::USERMAP;
        self.__vmalloc_node_range(&Request { align: SHMLBA, gfp_mask, vm_flags, ..self.request(size) })
    }

    /// `size` bytes below 4 GiB.
    ///
    /// # Errors
    /// As there.
    #[track_caller]
    pub fn vmalloc_32(&self, size: usize) -> Result<NonNull<u8>, Error> {
        let _call = self.enter("vmalloc_32", &[("size", Value::Number(size))]);
        self.__vmalloc_node(&Request { gfp_mask: GfpFlags::KERNEL | GfpFlags::DMA32, ..self.request(size) })
    }

    /// `size` cleared bytes below 4 GiB that may be mapped to user space.
    ///
    /// # Errors
    /// As there.
    #[track_caller]
    pub fn vmalloc_32_user(&self, size: usize) -> Result<NonNull<u8>, Error> {
        let _call = self.enter("vmalloc_32_user", &[("size", Value::Number(size))]);
        let gfp_mask = GfpFlags::KERNEL | GfpFlags::DMA32 | GfpFlags::ZERO;
        let vm_flags = VmFlags::USERMAP;
        self.__vmalloc_node_range(&Request { align: SHMLBA, gfp_mask, vm_flags, ..self.request(size) })
    }

    /// `size` bytes, for which larger leaves would do: small ones are used.
    ///
    /// # Errors
    /// As there.
    #[track_caller]
    pub fn vmalloc_huge(&self, size: usize, gfp: GfpFlags) -> Result<NonNull<u8>, Error> {
        let _call = self.enter("vmalloc_huge", &[("size", Value::Number(size)), ("gfp_mask", Value::Gfp(gfp))]);
        let vm_flags = VmFlags::ALLOW_HUGE_VMAP;
        self.__vmalloc_node_range(&Request { gfp_mask: gfp, vm_flags, ..self.request(size) })
    }

    /// As [`Kernel::vmalloc_huge`], of the memory of `node` first.
    ///
    /// # Errors
    /// As there.
    #[track_caller]
    pub fn vmalloc_huge_node(&self, size: usize, gfp: GfpFlags, node: Option<Node>) -> Result<NonNull<u8>, Error> {
        let gfp_mask = ("gfp_mask", Value::Gfp(gfp));
        let arguments = [("size", Value::Number(size)), gfp_mask, ("node", Value::Node(node))];
        let _call = self.enter("vmalloc_huge_node", &arguments);
        let vm_flags = VmFlags::ALLOW_HUGE_VMAP;
        self.__vmalloc_node_range(&Request { gfp_mask: gfp, vm_flags, node, ..self.request(size) })
    }

    /// `count` objects of `size` bytes.
    ///
    /// # Errors
    /// [`Error::Overflow`], and as there.
    #[track_caller]
    pub fn vmalloc_array(&self, count: usize, size: usize) -> Result<NonNull<u8>, Error> {
        self.__vmalloc(product(count, size)?, GfpFlags::KERNEL)
    }

    /// `count` cleared objects of `size` bytes.
    ///
    /// # Errors
    /// [`Error::Overflow`], and as there.
    #[track_caller]
    pub fn vcalloc(&self, count: usize, size: usize) -> Result<NonNull<u8>, Error> {
        self.__vmalloc(product(count, size)?, GfpFlags::KERNEL | GfpFlags::ZERO)
    }

    /// Frees an area where nobody may wait. Every free of the library is of this kind:
    /// what there is to wait for waits in the area's entries. So nothing is stored in the
    /// freed memory, and an interrupt may call [`Kernel::vfree`] as well.
    ///
    /// # Errors
    /// As [`Kernel::vfree`].
    ///
    /// # Safety
    /// Y1.
    ///
    /// # Source
    /// `vfree_atomic`.
    #[track_caller]
    pub unsafe fn vfree_atomic(&self, at: *const u8) -> Result<(), Error> {
        // SAFETY: Y1, handed on.
        unsafe { self.vfree(at) }
    }
}
