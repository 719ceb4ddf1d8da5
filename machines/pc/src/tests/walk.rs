//! A walk of the page tables that shares nothing with the library's: from CR3
//! down, through the direct map.

use super::{Outcome, check, made};
use crate::{instructions, memory, vm};
use core::ops::Range;

const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;
const NO_EXEC: u64 = 1 << 63;
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// The leaf for `at`, and how many tables led there.
fn walk(at: usize) -> Option<(u64, u32)> {
    let mut table = instructions::cr3();
    let levels = memory::levels() as u32;
    for level in (1..=levels).rev() {
        let index = at >> (12 + 9 * (level - 1)) & 511;
        // SAFETY: D1, and tables are RAM.
        let entry = unsafe { memory::direct(table).cast::<u64>().add(index).read_volatile() };
        if entry & PRESENT == 0 {
            return None;
        }
        if level == 1 || entry & LARGE != 0 {
            return Some((entry, levels - level + 1));
        }
        table = entry & FRAME;
    }
    None
}

pub fn the_tables_lead_where_the_library_says() -> Outcome {
    let area = made(300)?;
    for page in 0..area.pages {
        let at = area.at.addr().get() + page * 4096;
        let (leaf, tables) = walk(at).unwrap_or_default();
        let frame = vm().frame_at(at).map_or(0, |frame| frame.phys());
        check!(leaf & FRAME == frame && frame != 0, "{at:#x}: the leaf {leaf:#x}, the library {frame:#x}");
        check!(tables == memory::levels() as u32, "{tables} tables");
        check!(leaf & NO_EXEC != 0 && leaf & WRITE != 0, "{at:#x}: the leaf {leaf:#x}");
    }
    check!(walk(area.at.addr().get() + 300 * 4096).is_none(), "the guard is mapped");
    area.free()
}

/// Bytes of a leaf that was reached through so many tables.
fn size(tables: u32) -> usize {
    1 << (12 + 9 * (memory::levels() as u32 - tables))
}

pub fn no_page_of_the_image_is_writable_and_executable() -> Outcome {
    for (name, range) in memory::map() {
        let pages = pages_of(range);
        check!(pages != Err(()), "{name} has a page that is writable and executable");
        check!(name != "image" || pages.is_ok_and(|pages| pages > 10), "the image is not mapped");
    }
    check!(walk(0x20_0000).is_none() && walk(0x8000).is_none(), "the first addresses are mapped");
    Ok(())
}

/// Pages in a range that is mapped; areas are tested elsewhere.
fn pages_of(range: Range<usize>) -> Result<usize, ()> {
    let (mut at, mut pages) = (range.start, 0);
    if range == vm().machine().region() || range == memory::MODULES {
        return Ok(0);
    }
    while at < range.end {
        let Some((leaf, tables)) = walk(at) else {
            at += 1 << 21;
            continue;
        };
        if leaf & WRITE != 0 && leaf & NO_EXEC == 0 {
            return Err(());
        }
        pages += 1;
        at += size(tables);
    }
    Ok(pages)
}
