//! 64-bit x86: addresses are many, and no part depends on the memory.
//!
//! vmemmap has 64 bytes for each page of the direct map.

use super::{GIB, Layout, LayoutError, MIB, PIB, Part, TIB};

/// Where kernels are linked; modules lie behind their image, so that calls reach it.
const IMAGE: u64 = 0xffff_ffff_8000_0000;
const MODULES: u64 = 0xffff_ffff_a000_0000;

/// A 64-bit x86 machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct X86_64 {
    /// Levels of its page tables: 4, or 5.
    pub levels: u8,
}

impl X86_64 {
    /// Where the parts lie.
    ///
    /// # Errors
    /// [`LayoutError::Levels`].
    pub fn layout(&self) -> Result<Layout, LayoutError> {
        let (machine, direct, direct_bytes, vmalloc, vmalloc_bytes, vmemmap) = match self.levels {
            4 => ("x86-64", 0xffff_8880 << 32, 64 * TIB, 0xffff_c900 << 32, 32 * TIB, 0xffff_ea00 << 32),
            5 => ("x86-64, 5 levels", 0xff11 << 48, 32 * PIB, 0xffa0 << 48, 25 * PIB / 2, 0xffd4 << 48),
            levels => return Err(LayoutError::Levels { levels }),
        };
        let parts = [
            Part::new("direct map", direct, direct + direct_bytes),
            Part::new("vmalloc", vmalloc, vmalloc + vmalloc_bytes),
            Part::new("vmemmap", vmemmap, vmemmap + direct_bytes / 64),
            Part::new("kernel image", IMAGE, IMAGE + GIB / 2),
            Part::new("modules", MODULES, MODULES + 1520 * MIB),
        ];
        Ok(Layout::new(machine, None, &parts))
    }
}
