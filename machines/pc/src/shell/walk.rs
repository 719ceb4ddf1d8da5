//! The walk to an address, entry by entry, as the MMU does it.
//!
//! # Source
//! Intel SDM vol. 3A §4.5.

use super::Done;
use super::words::{Complaint, Words};
use crate::{instructions, memory, vm};

const PRESENT: u64 = 1 << 0;
const LARGE: u64 = 1 << 7;
const FRAME: u64 = 0x000f_ffff_ffff_f000;
/// The bits that are named, where they are set.
const NAMES: [(u32, &str); 8] = [
    (1, "writable"),
    (2, "user"),
    (3, "write-through"),
    (4, "uncached"),
    (5, "accessed"),
    (6, "dirty"),
    (8, "global"),
    (63, "no-execute"),
];

pub fn walk<'t>(words: &mut Words<'t>) -> Done<'t> {
    let at = words.number("at what address")?;
    let levels = u32::from(memory::levels());
    let beyond = (at as i64) >> (11 + 9 * levels);
    if beyond != 0 && beyond != -1 {
        return Err(Complaint::NotCanonical(at));
    }
    println!("{at:#x}, {levels} levels from CR3 = {:#x}", instructions::cr3());
    match descend(at, levels) {
        Some((leaf, level)) => {
            let offset = at as u64 & (size(level) - 1);
            let page = (leaf & FRAME) & !(size(level) - 1);
            println!("physical address {:#x}, {} bytes into a page of {:#x}", page + offset, offset, size(level));
        }
        None => println!("a page fault"),
    }
    println!("the library says: {}", vm().whatis(at));
    Ok(())
}

/// Prints each entry on the way; the leaf and its level, if there is one.
fn descend(at: usize, levels: u32) -> Option<(u64, u32)> {
    let mut table = instructions::cr3();
    for (depth, level) in (1..=levels).rev().enumerate() {
        let index = at >> (12 + 9 * (level - 1)) & 511;
        // SAFETY: D1: tables are RAM, which the direct map has; the entry is
        // one aligned load.
        let entry = unsafe { memory::direct(table).cast::<u64>().add(index).read_volatile() };
        let branch = if depth == 0 { "" } else { "└─" };
        print!("{:>width$}{branch} level {level} [{index:>3}] {entry:#018x} ", "", width = 2 * depth);
        let leaf = level == 1 || entry & LARGE != 0;
        if entry & PRESENT == 0 {
            println!("{}", absent(entry));
            return None;
        }
        print!(
            "{} {:#x}",
            if leaf { "page" } else { "table" },
            entry & FRAME & !(if leaf { size(level) - 1 } else { 0 })
        );
        NAMES.iter().filter(|(bit, _)| entry >> bit & 1 != 0).for_each(|(_, name)| print!(" {name}"));
        println!();
        if leaf {
            return Some((entry, level));
        }
        table = entry & FRAME;
    }
    None
}

fn absent(entry: u64) -> &'static str {
    if entry == 0 { "nothing" } else { "not present; it keeps a frame, until the next flush or for the next area" }
}

/// Bytes that an entry of `level` covers.
fn size(level: u32) -> u64 {
    1 << (12 + 9 * (level - 1))
}
