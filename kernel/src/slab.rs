//! The slab: objects of a few sizes on the direct mapping (`kmalloc`).
//!
//! ```text
//!   kmalloc ── up to 2 KiB ──▶ class ──▶ a page of objects of one size      bits say which are out
//!           └─ above ────────▶ 2ⁿ adjacent frames                           one object
//!
//!   Slab ── sheets     first page → Sheet, the record of what lies there
//!        ── partial    by node, zone and class: sheets with a free object
//! ```
//!
//! An object's page has nothing but objects, so an object of 2ⁿ bytes is aligned to
//! 2ⁿ bytes, as callers of `kmalloc` rely on. Nothing of the slab's own lies in freed
//! memory: a write to a freed object harms nobody's bookkeeping, and a double free is
//! told from what the bits say.
//!
//! # Rules
//! - **J5** An object is out from `kmalloc` to `kfree`, and given out once meanwhile.
//! - **J6** A sheet is in the list of its class exactly while it has a free object; of
//!   those without any object out one is kept, the others go.
//!
//! # Source
//! `kmalloc`, `kfree`, `ksize`, `__get_free_pages`: size classes 8 to 2,048 bytes with
//! 96 and 192 between, then whole pages by powers of two; `ZERO_SIZE_PTR`.

mod alloc;
mod class;
mod free;
mod pages;
mod sheet;
#[cfg(test)]
mod tests;

pub use alloc::ZERO_SIZE_PTR;
pub(crate) use alloc::product;

use crate::map::{Map, Mapped};
use class::CLASSES;
use core::ptr::null_mut;
use sheet::{Sheet, SheetRef};
use vmalloc::frames::MAX_NODES;
use vmalloc::gfp::ZoneKind;
use vmalloc::machine::Machine;
use vmalloc::machine::frames::MAX_ORDER;

/// Zones that have lists of their own: DMA, DMA32, and all others.
const ZONES: usize = 3;

/// What the slab's lock guards.
pub(crate) struct Slab {
    sheets: Map<Sheet>,
    partial: [[[*mut Sheet; CLASSES]; ZONES]; MAX_NODES],
}

// SAFETY: the pointers lead to sheets in the slab's own frames, which its lock guards.
unsafe impl Send for Slab {}

impl Mapped for Slab {
    type Record = Sheet;

    fn map(&mut self) -> &mut Map<Sheet> {
        &mut self.sheets
    }
}

/// Which of the lists serve `zone`.
fn list_of(zone: ZoneKind) -> usize {
    match zone {
        ZoneKind::Dma => 0,
        ZoneKind::Dma32 => 1,
        ZoneKind::Normal | ZoneKind::HighMem => 2,
    }
}

impl Slab {
    pub(crate) const fn new() -> Slab {
        let partial = [[[null_mut(); CLASSES]; ZONES]; MAX_NODES];
        Slab { sheets: Map::new(), partial }
    }

    /// Adds a sheet; nothing is lacking.
    fn add<M: Machine>(&mut self, machine: &M, sheet: Sheet) {
        let base = sheet.base;
        let Some(record) = self.sheets.add(machine, base, sheet) else { return };
        // SAFETY: J6: the record was made a sheet, and lives in the slab's frames.
        let sheet = unsafe { SheetRef::new(record) };
        if sheet.has_room() {
            self.push(sheet);
        }
    }

    /// Takes a sheet without objects out.
    fn remove<M: Machine>(&mut self, machine: &M, sheet: SheetRef) -> Option<Sheet> {
        self.unlink(sheet);
        self.sheets.remove(machine, sheet.base)
    }

    /// The sheet whose memory holds `at`.
    fn find<M: Machine>(&self, machine: &M, at: usize) -> Option<SheetRef> {
        // No block is larger.
        // SAFETY: J6: what the map names is a sheet.
        let sheet = unsafe { SheetRef::new(self.sheets.at_or_below(machine, at, (1 << MAX_ORDER) - 1)?) };
        sheet.holds(at).then_some(sheet)
    }

    fn list(&mut self, sheet: SheetRef) -> &mut *mut Sheet {
        &mut self.partial[sheet.node as usize % MAX_NODES][sheet.list as usize][sheet.class as usize]
    }

    /// A sheet of the class with a free object.
    fn first(&self, node: usize, list: usize, class: usize) -> Option<SheetRef> {
        let record = core::ptr::NonNull::new(self.partial[node % MAX_NODES][list][class])?;
        // SAFETY: J6: what is listed is a sheet of ours.
        Some(unsafe { SheetRef::new(record) })
    }

    fn push(&mut self, sheet: SheetRef) {
        let head = self.list(sheet);
        let next = core::mem::replace(head, sheet.record().as_ptr());
        sheet.set_links(null_mut(), next);
    }

    /// Takes a sheet out of its list, if it is in one.
    fn unlink(&mut self, sheet: SheetRef) {
        if !sheet.is_block() {
            let head = self.list(sheet);
            sheet.unlink_from(head);
        }
    }
}
