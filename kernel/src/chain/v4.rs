//! 4.x: `vmalloc` → `__vmalloc_node_flags` → `__vmalloc_node` → `__vmalloc_node_range`.

use super::steps::{ALLOC, Failed};
use crate::call::Value;
use crate::error::Error;
use crate::flags::{Pgprot, VmFlags};
use crate::gfp::GfpFlags;
use crate::host::Host;
use crate::kernel::Kernel;
use crate::request::{Age, Request};
use crate::vm_struct::VmStruct;
use core::ptr::NonNull;
use vmalloc::Caller;
use vmalloc::machine::Machine;
use vmalloc::units::Node;

/// References that the leak detector counts on: the `vm_struct` holds one.
pub(super) const MIN_COUNT: u32 = 2;

/// The functions in the form of 4.x.
pub struct V4<'k, 'v, M: Machine, H: Host>(&'k Kernel<'v, M, H>);

impl<'v, M: Machine, H: Host> Kernel<'v, M, H> {
    /// The functions in the form of 4.x.
    pub const fn v4(&self) -> V4<'_, 'v, M, H> {
        V4(self)
    }
}

impl<M: Machine, H: Host> V4<'_, '_, M, H> {
    /// `size` bytes of any frames, for reading and writing.
    ///
    /// # Errors
    /// As [`V4::__vmalloc_node_range`].
    #[track_caller]
    pub fn vmalloc(&self, size: usize) -> Result<NonNull<u8>, Error> {
        let _call = self.0.enter("vmalloc", &[("size", Value::Number(size))]);
        self.__vmalloc_node_flags(size, None, GfpFlags::KERNEL)
    }

    /// As [`V4::vmalloc`], with a node and flags.
    ///
    /// # Errors
    /// As [`V4::__vmalloc_node_range`].
    #[track_caller]
    pub fn __vmalloc_node_flags(&self, size: usize, node: Option<Node>, flags: GfpFlags) -> Result<NonNull<u8>, Error> {
        let arguments = [("size", Value::Number(size)), ("node", Value::Node(node)), ("flags", Value::Gfp(flags))];
        let _call = self.0.enter("__vmalloc_node_flags", &arguments);
        let gfp_mask = flags | GfpFlags::HIGHMEM;
        self.__vmalloc_node(&Request { node, gfp_mask, caller: Caller::here(), ..self.0.request(size) })
    }

    /// As `request` says, anywhere: its bounds are not looked at.
    ///
    /// # Errors
    /// As [`V4::__vmalloc_node_range`].
    pub fn __vmalloc_node(&self, request: &Request) -> Result<NonNull<u8>, Error> {
        let (gfp, prot) = (request.gfp_argument(), request.prot_argument());
        let (node, caller) = (request.node_argument(), request.caller_argument());
        let arguments = [request.size_argument(), request.align_argument(), gfp, prot, node, caller];
        let _call = self.0.enter("__vmalloc_node", &arguments);
        let bounds = self.0.bounds();
        self.__vmalloc_node_range(&Request { start: bounds.start, end: bounds.end, ..*request })
    }

    /// An area as `request` says, within its bounds. It is VM_UNINITIALIZED, which
    /// readers skip, until it is whole.
    ///
    /// # Errors
    /// EINVAL for no bytes, E2BIG above the machine's pages, EBUSY where no hole is wide
    /// enough, ENOMEM; each is warned of, with the flags in hex and by name. Everything is
    /// taken back.
    pub fn __vmalloc_node_range(&self, request: &Request) -> Result<NonNull<u8>, Error> {
        let [start, end] = request.range_arguments();
        let flags = ("vm_flags", Value::Flags(request.vm_flags));
        let (gfp, prot) = (request.gfp_argument(), request.prot_argument());
        let (node, caller) = (request.node_argument(), request.caller_argument());
        let arguments = [request.size_argument(), request.align_argument(), start, end, gfp, prot, flags, node, caller];
        let _call = self.0.enter("__vmalloc_node_range", &arguments);
        let area = self.build(request).inspect_err(|_| self.warn(request))?;
        let at = crate::vfree::pointer(area.addr).ok_or(Error::NoArea(area.addr))?;
        self.clear_vm_uninitialized_flag(&area);
        self.kmemleak_vmalloc(&area, request.size, request.gfp_mask);
        self.0.watch(at, request.size, request.gfp_mask);
        Ok(at)
    }

    fn build(&self, request: &Request) -> Result<VmStruct, Error> {
        let bytes = self.0.checked_size(request.size)?;
        let vm_flags = request.vm_flags | ALLOC | VmFlags::UNINITIALIZED;
        let area = self.0.get_area_as(&Request { size: bytes, vm_flags, ..*request }, Age::V4)?;
        let furnished = self.__vmalloc_area_node(&area, request);
        furnished.map_err(|failed| self.0.take_back(&area, failed))?;
        self.0.with_record(area.addr, |record| record.requested = request.size);
        Ok(area)
    }

    fn warn(&self, request: &Request) {
        self.0.warn_alloc(request.gfp_mask, format_args!("vmalloc: allocation failure: {} bytes", request.size));
    }

    fn __vmalloc_area_node(&self, area: &VmStruct, request: &Request) -> Result<(), Failed> {
        let (gfp, prot) = (request.gfp_argument(), request.prot_argument());
        let arguments = [("area", Value::Address(area.addr)), gfp, prot, request.node_argument()];
        let _call = self.0.enter("__vmalloc_area_node", &arguments);
        self.0.furnish(area, request, &mut |bytes, gfp_mask| {
            self.__vmalloc_node(&Request { size: bytes, align: 1, gfp_mask, prot: Pgprot::KERNEL, ..*request })
        })
    }

    /// The area is whole: readers see it.
    fn clear_vm_uninitialized_flag(&self, area: &VmStruct) {
        let _call = self.0.enter("clear_vm_uninitialized_flag", &[("vm", Value::Address(area.addr))]);
        self.0.with_record(area.addr, |record| record.flags.remove(VmFlags::UNINITIALIZED));
    }

    /// The leak detector hears of the area.
    fn kmemleak_vmalloc(&self, area: &VmStruct, size: usize, gfp: GfpFlags) {
        let arguments = [("area", Value::Address(area.addr)), ("size", Value::Number(size)), ("gfp", Value::Gfp(gfp))];
        let _call = self.0.enter("kmemleak_vmalloc", &arguments);
        self.0.track(area.addr, size, MIN_COUNT, gfp);
    }
}
