//! The kernel's own page tables: what is mapped once and stays.
//!
//! Entries have accessed and dirty preset, as the library's have, so the MMU
//! writes none.
//!
//! # Source
//! Intel SDM vol. 3A §4.5.4.

use super::early::Early;
use super::{IMAGE, direct, levels};
use core::arch::x86_64::__cpuid;
use core::ops::Range;
use core::ptr::{NonNull, from_ref};
use vmalloc::units::PAGE_SIZE;
use vmalloc_kernel::DirectMap;

const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const WRITE_THROUGH: u64 = 1 << 3;
const UNCACHED: u64 = 1 << 4;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NO_EXEC: u64 = 1 << 63;
/// Bytes of a page.
const PAGE: u64 = PAGE_SIZE as u64;
const FRAME: u64 = 0x000f_ffff_ffff_f000;

const TABLE: u64 = PRESENT | WRITE | ACCESSED;
const LEAF: u64 = PRESENT | ACCESSED | GLOBAL;
const DATA: u64 = LEAF | WRITE | DIRTY | NO_EXEC;

// SAFETY: link.ld defines them; only their addresses are used.
unsafe extern "C" {
    static image_start: u8;
    static text_start: u8;
    static rodata_start: u8;
    static data_start: u8;
    static image_end: u8;
}

/// The addresses of the image, without its boot part.
pub fn image() -> Range<usize> {
    // SAFETY: addresses only.
    let (start, end) = unsafe { (from_ref(&text_start), from_ref(&image_end)) };
    start.addr()..end.addr()
}

/// The addresses of the image's data, which are read from anywhere.
pub fn data() -> Range<usize> {
    // SAFETY: addresses only.
    let (start, end) = unsafe { (from_ref(&data_start), from_ref(&image_end)) };
    start.expose_provenance()..end.addr()
}

/// The frames of the image, its boot part too.
pub fn image_frames() -> Range<u64> {
    // SAFETY: an address only.
    let start = unsafe { from_ref(&image_start) }.addr();
    start as u64..(image().end - IMAGE) as u64
}

/// The tables of the one address space.
pub struct Tables {
    root: u64,
    /// The leaf table of the fixmap.
    fixmap: u64,
    giant: bool,
    direct_end: u64,
}

impl Tables {
    /// An empty root.
    pub fn new(early: &mut Early) -> Tables {
        Tables { root: early.frame(), fixmap: 0, giant: has_giant_pages(), direct_end: 0 }
    }

    /// The root's physical address.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// The pages that the direct map spans.
    pub fn direct_end(&self) -> usize {
        (self.direct_end / PAGE) as usize
    }

    /// The image where it is linked, each section with its protection (D2).
    pub fn map_image(&mut self, early: &mut Early) {
        // SAFETY: addresses only.
        let borders =
            unsafe { [from_ref(&text_start), from_ref(&rodata_start), from_ref(&data_start), from_ref(&image_end)] };
        let borders = borders.map(|border| border.addr());
        for (section, entry) in [LEAF, LEAF | NO_EXEC, DATA].into_iter().enumerate() {
            for at in (borders[section]..borders[section + 1]).step_by(PAGE_SIZE) {
                self.set(at, 1, (at - IMAGE) as u64 | entry, early);
            }
        }
    }

    /// Maps `range` at its place in the direct map, in pages as large as can
    /// be; what shares a large page with it as well.
    pub fn map_direct(&mut self, base: usize, range: Range<u64>, early: &mut Early) {
        self.direct_end = self.direct_end.max(range.end);
        let mut at = range.start & !(size_at(2) - 1);
        while at < range.end {
            let fits = at.is_multiple_of(size_at(3)) && range.end - at >= size_at(3);
            let giant = self.giant && fits && !self.is_present(base + at as usize, 3, early);
            let level = if giant { 3 } else { 2 };
            self.set(base + at as usize, level, at | DATA | LARGE, early);
            at += size_at(level);
        }
    }

    /// The leaf entry of the page at `at` of the direct map. Large pages that cover it are split, into
    /// tables from `table`; `None` where there is no such memory, or nothing is mapped.
    pub fn direct_entry(&self, at: usize, table: impl Fn() -> Option<u64>) -> Option<NonNull<u64>> {
        let mut here = self.root;
        for level in (2..=levels() as u32).rev() {
            // SAFETY: a table in use, within it.
            let slot = unsafe { direct(here).cast::<u64>().add(index(at, level)) };
            // SAFETY: as above.
            let mut entry = unsafe { slot.read_volatile() };
            if entry & PRESENT == 0 {
                return None;
            }
            if entry & LARGE != 0 {
                entry = split(entry, level, table()?);
                // SAFETY: as above: it leads to what it showed.
                unsafe { slot.write_volatile(entry) };
            }
            here = entry & FRAME;
        }
        // SAFETY: as above.
        Some(unsafe { direct(here).cast::<u64>().add(index(at, 1)) })
    }

    /// The entry of the frame at `phys` in the direct map, where it allows `what`.
    pub fn direct_leaf(phys: u64, what: DirectMap) -> u64 {
        phys | match what {
            DirectMap::Default => DATA,
            DirectMap::ReadOnly => LEAF | NO_EXEC,
            DirectMap::Invalid => DATA & !PRESENT,
        }
    }

    /// Links a leaf table for the fixmap at `at`.
    pub fn map_fixmap(&mut self, at: usize, early: &mut Early) {
        self.fixmap = self.slot(at, 1, early).map_or(0, |slot| slot.addr().get() as u64 / PAGE * PAGE);
    }

    /// Maps the device at `phys` to the page at `at` of the fixmap, uncached.
    pub fn map_device(&mut self, at: usize, phys: u64) {
        let table = direct(self.fixmap).cast::<u64>();
        let entry = phys & FRAME | DATA | WRITE_THROUGH | UNCACHED;
        // SAFETY: an entry of the fixmap's own table, which was not present.
        unsafe { table.add(index(at, 1)).write_volatile(entry) }
    }

    /// Writes an entry, unless something is mapped there already.
    fn set(&mut self, at: usize, level: u32, entry: u64, early: &mut Early) {
        if let Some(slot) = self.slot(at, level, early).filter(|_| !self.is_present(at, level, early)) {
            // SAFETY: a slot of ours.
            unsafe { slot.write(entry) }
        }
    }

    fn is_present(&mut self, at: usize, level: u32, early: &mut Early) -> bool {
        // SAFETY: a slot of ours.
        self.slot(at, level, early).is_some_and(|slot| unsafe { slot.read() } & PRESENT != 0)
    }

    /// The entry for `at` at `level`; tables above it are made. `None` where a
    /// large page covers it.
    fn slot(&mut self, at: usize, level: u32, early: &mut Early) -> Option<NonNull<u64>> {
        let mut table = self.root;
        for above in (level + 1..=levels() as u32).rev() {
            // SAFETY: tables that `early` gave, within one of them.
            let slot = unsafe { direct(table).cast::<u64>().add(index(at, above)) };
            // SAFETY: as above.
            let mut entry = unsafe { slot.read() };
            if entry & PRESENT == 0 {
                entry = early.frame() | TABLE;
                // SAFETY: as above.
                unsafe { slot.write(entry) }
            } else if entry & LARGE != 0 {
                return None;
            }
            table = entry & FRAME;
        }
        // SAFETY: as above.
        Some(unsafe { direct(table).cast::<u64>().add(index(at, level)) })
    }
}

/// Fills the table at `table` with what the large page `entry` of `level` shows; the entry that leads
/// there.
fn split(entry: u64, level: u32, table: u64) -> u64 {
    let (below, flags) = (level - 1, entry & !FRAME);
    let flags = if below == 1 { flags & !LARGE } else { flags };
    for n in 0..512 {
        let part = (entry & FRAME) + n * size_at(below);
        // SAFETY: the table is a frame that nobody else has (D1).
        unsafe { direct(table).cast::<u64>().add(n as usize).write(part | flags) };
    }
    table | TABLE
}

fn index(at: usize, level: u32) -> usize {
    at >> (12 + 9 * (level - 1)) & 511
}

/// Bytes that an entry of `level` covers.
fn size_at(level: u32) -> u64 {
    1 << (12 + 9 * (level - 1))
}

/// Whether there are pages of 1 GiB: CPUID.80000001H:EDX, bit 26.
fn has_giant_pages() -> bool {
    __cpuid(0x8000_0001).edx >> 26 & 1 != 0
}
