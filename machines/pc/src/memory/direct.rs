//! The direct map of single frames: what it allows may change.
//!
//! A large page that covers the frame is split first: a table takes its place whose entries allow
//! what it allowed, so nobody sees a difference, and CPUs may use either until they flush.
//!
//! # Source
//! Intel SDM vol. 3A §4.10.2.3 (the details of TLB use while page sizes change).

use super::tables::Tables;
use super::{TABLES, direct_base};
use crate::vm;
use vmalloc::machine::frames::{Frames, Want};
use vmalloc::units::{Node, Pfn};
use vmalloc_kernel::DirectMap;
use vmalloc_x86_64::interrupts;

/// The direct mapping of `frame` gets this permission. CPUs may use the old one until they flush.
///
/// # Panics
/// Without memory for a table: whoever asked would take the frame for protected.
pub fn set_direct_map(frame: Pfn, to: DirectMap) {
    let Some(tables) = TABLES.get() else { return };
    let was = interrupts::off();
    let changed = change(&tables.lock(), frame, to);
    interrupts::restore(was);
    assert!(changed.is_some(), "no memory for a table of the direct map");
}

fn change(tables: &Tables, frame: Pfn, to: DirectMap) -> Option<()> {
    let at = direct_base() + frame.phys() as usize;
    let entry = tables.direct_entry(at, || {
        let table = vm().machine().zones().alloc(Want::bookkeeping(Node(0)))?;
        Some(table.phys())
    })?;
    let allowed = Tables::direct_leaf(frame.phys(), to);
    // SAFETY: the entry of a frame of RAM, which the lock guards (D1).
    unsafe { entry.write_volatile(allowed) };
    Some(())
}
