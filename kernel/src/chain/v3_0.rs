//! 3.0: `vmalloc` → `__vmalloc_node` → `__get_vm_area_node`, `__vmalloc_area_node`,
//! `kmemleak_alloc`.

use super::steps::ALLOC;
use crate::call::Value;
use crate::error::Error;
use crate::gfp::GfpFlags;
use crate::host::Host;
use crate::kernel::Kernel;
use crate::request::{Age, Request};
use crate::vm_struct::VmStruct;
use core::ptr::NonNull;
use vmalloc::machine::Machine;
use vmalloc::units::Node;

/// References that the leak detector counts on: the lists of the subsystem hold two,
/// and the caller one.
const MIN_COUNT: u32 = 3;

/// The functions in the form of 3.0.
pub struct V3_0<'k, 'v, M: Machine, H: Host>(&'k Kernel<'v, M, H>);

impl<'v, M: Machine, H: Host> Kernel<'v, M, H> {
    /// The functions in the form of 3.0.
    pub const fn v3_0(&self) -> V3_0<'_, 'v, M, H> {
        V3_0(self)
    }
}

impl<M: Machine, H: Host> V3_0<'_, '_, M, H> {
    /// `size` bytes of any frames, for reading and writing.
    ///
    /// # Errors
    /// As [`V3_0::__vmalloc_node`].
    #[track_caller]
    pub fn vmalloc(&self, size: usize) -> Result<NonNull<u8>, Error> {
        let _call = self.0.enter("vmalloc", &[("size", Value::Number(size))]);
        self.__vmalloc_node(&self.0.request(size))
    }

    /// As [`V3_0::vmalloc`], of the frames of `node` first.
    ///
    /// # Errors
    /// As [`V3_0::__vmalloc_node`].
    #[track_caller]
    pub fn vmalloc_node(&self, size: usize, node: Option<Node>) -> Result<NonNull<u8>, Error> {
        let _call = self.0.enter("vmalloc_node", &[("size", Value::Number(size)), ("node", Value::Node(node))]);
        self.__vmalloc_node(&Request { node, ..self.0.request(size) })
    }

    /// An area as `request` says, anywhere.
    ///
    /// # Errors
    /// EINVAL for no bytes, E2BIG above the machine's pages, EBUSY where no hole is wide
    /// enough, ENOMEM. Everything is taken back.
    pub fn __vmalloc_node(&self, request: &Request) -> Result<NonNull<u8>, Error> {
        let (gfp, prot) = (request.gfp_argument(), request.prot_argument());
        let (node, caller) = (request.node_argument(), request.caller_argument());
        let arguments = [request.size_argument(), request.align_argument(), gfp, prot, node, caller];
        let _call = self.0.enter("__vmalloc_node", &arguments);
        let bytes = self.0.checked_size(request.size)?;
        let wanted = Request { size: bytes, vm_flags: request.vm_flags | ALLOC, ..*request };
        let area = self.0.get_area_as(&wanted, Age::V3_0)?;
        let at = self.__vmalloc_area_node(&area, request)?;
        self.kmemleak_alloc(at, request.size, MIN_COUNT, request.gfp_mask);
        self.0.watch(at, request.size, request.gfp_mask);
        Ok(at)
    }

    /// Gives an area its array, its frames and its entries; a refused one is taken back.
    fn __vmalloc_area_node(&self, area: &VmStruct, request: &Request) -> Result<NonNull<u8>, Error> {
        let (gfp, prot) = (request.gfp_argument(), request.prot_argument());
        let arguments =
            [("area", Value::Address(area.addr)), gfp, prot, request.node_argument(), request.caller_argument()];
        let _call = self.0.enter("__vmalloc_area_node", &arguments);
        let mut nested = |bytes, gfp_mask| {
            let prot = crate::flags::Pgprot::KERNEL;
            self.__vmalloc_node(&Request { size: bytes, align: 1, gfp_mask, prot, ..*request })
        };
        self.0.furnish(area, request, &mut nested).map_err(|failed| self.0.take_back(area, failed))?;
        self.0.with_record(area.addr, |record| record.requested = request.size);
        crate::vfree::pointer(area.addr).ok_or(Error::NoArea(area.addr))
    }

    /// The leak detector hears of the area.
    fn kmemleak_alloc(&self, at: NonNull<u8>, size: usize, min_count: u32, gfp: GfpFlags) {
        let at = at.addr().get();
        let count = ("min_count", Value::Number(min_count as usize));
        let _call = self.0.enter(
            "kmemleak_alloc",
            &[("ptr", Value::Address(at)), ("size", Value::Number(size)), count, ("gfp", Value::Gfp(gfp))],
        );
        self.0.track(at, size, min_count, gfp);
    }
}
