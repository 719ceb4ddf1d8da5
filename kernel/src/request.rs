//! The long argument lists of the traditional functions, by name.
//!
//! `__vmalloc_node_range` has nine parameters in C. Here they are the fields of a
//! [`Request`], with the names that they have there, so that nobody swaps two.

use crate::call::{Argument, Value};
use crate::flags::{Pgprot, VmFlags};
use crate::gfp::GfpFlags;
use crate::host::Host;
use crate::kernel::Kernel;
use core::ops::Range;
use vmalloc::Caller;
use vmalloc::area::RegionId;
use vmalloc::machine::Machine;
use vmalloc::units::Node;

/// Which kernel's form a function has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Age {
    /// 2.6: `vmlist` and `map_vm_area`.
    V2_6,
    /// 3.0: `__vmalloc_node`, and the leak detector.
    V3_0,
    /// 4.x: `__vmalloc_node_range`, and areas that are not whole yet.
    V4,
    /// Today: the library's one path.
    Today,
}

/// What the long functions are asked for.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Request {
    /// Bytes.
    pub size: usize,
    /// The start is a multiple of so many bytes, a power of two; a page at least.
    pub align: usize,
    /// The first address that will do.
    pub start: usize,
    /// The first one behind that will not.
    pub end: usize,
    /// Which frames, and how hard to try.
    pub gfp_mask: GfpFlags,
    /// Protection.
    pub prot: Pgprot,
    /// Flags of the `vm_struct`, besides those that the function sets.
    pub vm_flags: VmFlags,
    /// The node; `None` = any.
    pub node: Option<Node>,
    /// Who asks: a place in Rust source, or a return address from C.
    pub caller: Caller,
}

impl Request {
    pub(crate) const fn bounds(&self) -> Range<usize> {
        self.start..self.end
    }

    pub(crate) const fn size_argument(&self) -> Argument {
        ("size", Value::Number(self.size))
    }

    pub(crate) const fn align_argument(&self) -> Argument {
        ("align", Value::Number(self.align))
    }

    pub(crate) const fn gfp_argument(&self) -> Argument {
        ("gfp_mask", Value::Gfp(self.gfp_mask))
    }

    pub(crate) const fn prot_argument(&self) -> Argument {
        ("prot", Value::Prot(self.prot))
    }

    pub(crate) const fn node_argument(&self) -> Argument {
        ("node", Value::Node(self.node))
    }

    pub(crate) const fn caller_argument(&self) -> Argument {
        ("caller", Value::Caller(self.caller))
    }

    pub(crate) const fn range_arguments(&self) -> [Argument; 2] {
        [("start", Value::Address(self.start)), ("end", Value::Address(self.end))]
    }
}

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// `size` bytes with the usual choices: aligned to 1 (that is a page), anywhere in
    /// region 0, `GFP_KERNEL|__GFP_HIGHMEM`, `PAGE_KERNEL`, any node, on behalf of the
    /// caller of this.
    #[track_caller]
    pub fn request(&self, size: usize) -> Request {
        let bounds = self.bounds();
        Request {
            size,
            align: 1,
            start: bounds.start,
            end: bounds.end,
            gfp_mask: GfpFlags::KERNEL | GfpFlags::HIGHMEM,
            prot: Pgprot::KERNEL,
            vm_flags: VmFlags::empty(),
            node: None,
            caller: Caller::here(),
        }
    }

    /// The addresses that areas are carved from: `VMALLOC_START..VMALLOC_END`. Empty
    /// before the instance serves.
    pub fn bounds(&self) -> Range<usize> {
        self.vm.region_bounds(RegionId(0)).unwrap_or(0..0)
    }

    /// `VMALLOC_START`.
    pub fn vmalloc_start(&self) -> usize {
        self.bounds().start
    }

    /// `VMALLOC_END`.
    pub fn vmalloc_end(&self) -> usize {
        self.bounds().end
    }
}
