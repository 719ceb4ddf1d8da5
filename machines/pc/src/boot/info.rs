//! The start info of PVH: what the loader tells.
//!
//! It lies wherever the loader put it, and is copied out before anything is
//! written to memory.
//!
//! # Source
//! The interface description of Xen's "x86/HVM direct boot ABI".

use super::Line;
use arrayvec::ArrayVec;
use core::ops::Range;

/// Ranges of a memory map at most.
pub const MAX_RANGES: usize = 64;

/// In the map's `kind`: memory to use.
const RAM: u32 = 1;
const MAGIC: u32 = 0x336e_c578;

#[repr(C)]
struct Raw {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    module_list: u64,
    line: u64,
    rsdp: u64,
    map: u64,
    map_entries: u32,
    reserved: u32,
}

#[repr(C)]
struct RawModule {
    start: u64,
    bytes: u64,
    line: u64,
    reserved: u64,
}

/// A range of the memory map.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MapEntry {
    start: u64,
    bytes: u64,
    kind: u32,
    reserved: u32,
}

impl MapEntry {
    /// The range, if it is memory to use.
    pub fn ram(&self) -> Option<Range<u64>> {
        (self.kind == RAM).then(|| self.start..self.start.saturating_add(self.bytes))
    }
}

/// What the loader told.
pub struct StartInfo {
    /// The memory map.
    pub map: ArrayVec<MapEntry, MAX_RANGES>,
    /// The command line.
    pub line: Line,
    /// The first module; empty if there is none.
    pub module: Range<u64>,
    /// Where the root of ACPI's tables is, if the loader knows.
    pub rsdp: Option<u64>,
}

impl StartInfo {
    /// Copies what lies at `at`.
    ///
    /// # Safety
    /// It is what the loader handed over, untouched, and physical memory is
    /// mapped at its own addresses.
    pub unsafe fn read(at: u64) -> StartInfo {
        // SAFETY: the caller's, here and below, for all that it points to.
        let raw = unsafe { &*(at as *const Raw) };
        assert_eq!(raw.magic, MAGIC, "started by PVH");
        // SAFETY: as above.
        let map = unsafe { entries::<MapEntry>(raw.map, raw.map_entries) };
        // SAFETY: as above.
        let modules = unsafe { entries::<RawModule>(raw.module_list, raw.modules) };
        // SAFETY: as above.
        let line = unsafe { Line::copy(raw.line) };
        StartInfo {
            map: map.iter().copied().take(MAX_RANGES).collect(),
            line,
            module: modules.first().map_or(0..0, |module| module.start..module.start + module.bytes),
            rsdp: (raw.rsdp != 0).then_some(raw.rsdp),
        }
    }
}

/// # Safety
/// There are so many at `at`, or none.
unsafe fn entries<T>(at: u64, count: u32) -> &'static [T] {
    match at {
        0 => &[],
        // SAFETY: the caller's.
        at => unsafe { core::slice::from_raw_parts(at as *const T, count as usize) },
    }
}
