//! The flags of a `vm_struct`, and protections, with their traditional names.

use core::fmt;
use vmalloc::machine::format::{MemType, Prot};

bitflags::bitflags! {
    /// The flags of a `vm_struct`, with the values of 6.12.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct VmFlags: u32 {
        /// Made by `ioremap` and the like.
        const IOREMAP = 0x1;
        /// Made by `vmalloc`.
        const ALLOC = 0x2;
        /// Made by `vmap`.
        const MAP = 0x4;
        /// May be mapped to user space.
        const USERMAP = 0x8;
        /// Made for a coherent DMA mapping.
        const DMA_COHERENT = 0x10;
        /// Not whole yet: readers skip it.
        const UNINITIALIZED = 0x20;
        /// No unmapped page after the area.
        const NO_GUARD = 0x40;
        /// Its last bytes are watched (`Kernel::with_redzones`).
        const KASAN = 0x80;
        /// The direct mapping's permissions are reset when it is freed.
        const FLUSH_RESET_PERMS = 0x100;
        /// `vfree` gives the frames and their array back.
        const MAP_PUT_PAGES = 0x200;
        /// Larger leaves are allowed: accepted, small pages are used.
        const ALLOW_HUGE_VMAP = 0x400;
        /// The leak detector hears of it later, from its caller.
        const DEFER_KMEMLEAK = 0x800;
        /// Filled and emptied by parts.
        const SPARSE = 0x1000;
    }
}

bitflags::bitflags! {
    /// The flags of a `vm_struct` in the form of 3.0.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct VmFlags30: u32 {
        /// `VM_IOREMAP`: made by `ioremap`.
        const IOREMAP = 0x1;
        /// `VM_ALLOC`: made by `vmalloc`.
        const ALLOC = 0x2;
        /// `VM_MAP`: made by `vmap`.
        const MAP = 0x4;
        /// `VM_VPAGES`: the array of pages lies in an area of its own.
        const VPAGES = 0x10;
    }
}

impl fmt::Display for VmFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("0");
        }
        self.iter_names().enumerate().try_for_each(|(n, (name, _))| {
            let bar = if n == 0 { "" } else { "|" };
            write!(f, "{bar}VM_{name}")
        })
    }
}

/// A protection with its memory type: the traditional `pgprot_t`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pgprot {
    /// What may be done with the bytes.
    pub prot: Prot,
    /// How they are cached.
    pub memory: MemType,
}

impl Pgprot {
    /// `PAGE_KERNEL`: read and write, cached.
    pub const KERNEL: Pgprot = Pgprot { prot: Prot::RW, memory: MemType::WriteBack };
    /// `PAGE_KERNEL_RO`: read only.
    pub const KERNEL_RO: Pgprot = Pgprot { prot: Prot::RO, memory: MemType::WriteBack };
    /// `PAGE_KERNEL_EXEC`: read, write and execute.
    pub const KERNEL_EXEC: Pgprot = Pgprot { prot: Prot::RWX, memory: MemType::WriteBack };
    /// `PAGE_KERNEL_ROX`: read and execute.
    pub const KERNEL_ROX: Pgprot = Pgprot { prot: Prot::RX, memory: MemType::WriteBack };
    /// `PAGE_KERNEL_NOCACHE`: read and write, not cached (UC−).
    pub const KERNEL_NOCACHE: Pgprot = Pgprot { prot: Prot::RW, memory: MemType::UncachedMinus };

    /// The same without execution. Source: `pgprot_nx`, which `vmap` applies.
    pub const fn nx(self) -> Pgprot {
        Pgprot { prot: self.prot.difference(Prot::EXEC.union(Prot::BOTH)), memory: self.memory }
    }
}

impl fmt::Display for Pgprot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [(Pgprot, &str); 5] = [
            (Pgprot::KERNEL, "PAGE_KERNEL"),
            (Pgprot::KERNEL_RO, "PAGE_KERNEL_RO"),
            (Pgprot::KERNEL_EXEC, "PAGE_KERNEL_EXEC"),
            (Pgprot::KERNEL_ROX, "PAGE_KERNEL_ROX"),
            (Pgprot::KERNEL_NOCACHE, "PAGE_KERNEL_NOCACHE"),
        ];
        match NAMES.iter().find(|(prot, _)| prot == self) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "{:?}/{:?}", self.prot, self.memory),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::string::ToString;

    #[test]
    fn there_are_thirteen_flags_with_their_traditional_values() {
        let bits: std::vec::Vec<u32> = VmFlags::all().iter().map(|flag| flag.bits()).collect();
        assert_eq!(bits, (0..13).map(|bit| 1 << bit).collect::<std::vec::Vec<u32>>());
        assert_eq!((VmFlags::ALLOC | VmFlags::UNINITIALIZED).to_string(), "VM_ALLOC|VM_UNINITIALIZED");
        assert_eq!(VmFlags::empty().to_string(), "0");
    }

    #[test]
    fn protections_have_their_names_and_nx_takes_execution_away() {
        assert_eq!(Pgprot::KERNEL.to_string(), "PAGE_KERNEL");
        assert_eq!(Pgprot::KERNEL_EXEC.nx(), Pgprot::KERNEL);
        assert_eq!(Pgprot::KERNEL_ROX.nx().to_string(), "PAGE_KERNEL_RO");
    }
}
