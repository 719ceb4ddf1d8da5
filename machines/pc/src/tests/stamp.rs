//! Stamps: what tests write into pages, so that a page of another area, or of
//! another time, is told from the right one.
//!
//! The first and the last word of a page are made from its address and a
//! **salt** of the area. A stale translation reads a frame that was stamped
//! for another address, or with another salt.

use super::Wrong;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use vmalloc::units::PAGE_SIZE;

/// The words of a page that are stamped.
const WORDS: [usize; 2] = [0, PAGE_SIZE - 8];

/// A salt that nobody else has.
pub fn salt() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Relaxed)
}

fn value(at: usize, salt: u64) -> u64 {
    (at as u64).rotate_left(20) ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn words(area: NonNull<u8>, pages: usize) -> impl Iterator<Item = NonNull<u64>> {
    let words = (0..pages).flat_map(|page| WORDS.map(|word| page * PAGE_SIZE + word));
    // SAFETY: within the area.
    words.map(move |at| unsafe { area.add(at) }.cast())
}

/// Stamps the pages of an area that the caller holds.
pub fn write(area: NonNull<u8>, pages: usize, salt: u64) {
    for word in words(area, pages) {
        // SAFETY: the caller's area, mapped and aligned.
        unsafe { word.write_volatile(value(word.addr().get(), salt)) }
    }
}

/// Whether all of an area's pages have the stamp; what has not is printed.
pub fn verify(area: NonNull<u8>, pages: usize, salt: u64) -> Result<(), Wrong> {
    for word in words(area, pages) {
        let (at, right) = (word.addr().get(), value(word.addr().get(), salt));
        // SAFETY: as above.
        let found = unsafe { word.read_volatile() };
        super::check!(found == right, "{at:#x} of {area:?} has {found:#x} instead of {right:#x}");
    }
    Ok(())
}

/// The first word of a page at `at` with `salt`.
pub fn first(at: usize, salt: u64) -> u64 {
    value(at, salt)
}
