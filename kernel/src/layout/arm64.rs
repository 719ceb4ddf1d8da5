//! 64-bit ARM with pages of 4 KiB and addresses of 48 bits.
//!
//! vmalloc ends 256 MiB below vmemmap, which has 64 bytes for each page of the linear map and ends
//! where as much again is left to the top.

use super::{GIB, Layout, MIB, Part, TIB};

const LINEAR: u64 = 0xffff_0000_0000_0000;
const MODULES: u64 = 0xffff_8000_0000_0000;
const VMEMMAP: u64 = 0xffff_fc00_0000_0000;

/// A 64-bit ARM machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arm64;

impl Arm64 {
    /// Where the parts lie.
    pub fn layout(&self) -> Layout {
        let parts = [
            Part::new("linear map", LINEAR, MODULES),
            Part::new("modules", MODULES, MODULES + 2 * GIB),
            Part::new("vmalloc", MODULES + 2 * GIB, VMEMMAP - 256 * MIB),
            Part::new("vmemmap", VMEMMAP, VMEMMAP + 2 * TIB),
        ];
        Layout::new("arm64", None, &parts)
    }
}
