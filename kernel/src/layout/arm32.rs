//! 32-bit ARM: the direct map from 3 GiB, and vmalloc up to a fixed end.

use super::{GIB, Layout, LayoutError, MIB, Memory, PAGE, Part};

const PAGE_OFFSET: u64 = 0xc000_0000;
const VMALLOC_END: u64 = 0xff80_0000;
/// Behind the direct map; vmalloc begins at a multiple of it.
const HOLE: u64 = 8 * MIB;
/// vmalloc space unless `vmalloc=` says otherwise.
const VMALLOC: u64 = 240 * MIB;
const LEAST_VMALLOC: u64 = 16 * MIB;
/// The least direct map that `vmalloc=` may leave.
const LEAST_LOW: u64 = 32 * MIB;

/// A 32-bit ARM machine, and what it is booted with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arm32 {
    /// Bytes of memory.
    pub memory: u64,
    /// `vmalloc=`: the bytes that vmalloc space has at least.
    pub vmalloc: Option<u64>,
}

impl Arm32 {
    /// Where the parts lie.
    ///
    /// # Errors
    /// [`LayoutError`] names the parameter, and what could be served.
    pub fn layout(&self) -> Result<Layout, LayoutError> {
        let most = VMALLOC_END - PAGE_OFFSET - LEAST_LOW - HOLE;
        let vmalloc = self.vmalloc.unwrap_or(VMALLOC);
        if !(LEAST_VMALLOC..=most).contains(&vmalloc) {
            return Err(LayoutError::Vmalloc { bytes: vmalloc, least: LEAST_VMALLOC, most });
        }
        if !(PAGE..=4 * GIB).contains(&self.memory) {
            return Err(LayoutError::Memory { bytes: self.memory, most: 4 * GIB });
        }
        let most_low = VMALLOC_END - vmalloc.next_multiple_of(PAGE) - HOLE - PAGE_OFFSET;
        let memory = self.memory & !(PAGE - 1);
        let low = memory.min(most_low);
        let high_memory = PAGE_OFFSET + low;
        let parts = [
            Part::new("direct map", PAGE_OFFSET, high_memory),
            Part::new("vmalloc", (high_memory + HOLE) & !(HOLE - 1), VMALLOC_END),
        ];
        Ok(Layout::new("arm32", Some(Memory { low, high: memory - low, unused: 0 }), &parts))
    }
}
