//! Frames before there are zones: one after the other, after the image.

use super::ram::Ram;
use super::{direct, tables};
use core::ops::Range;
use vmalloc::units::PAGE_SIZE;

/// What the static tables of the start map.
const STATIC_END: u64 = 1 << 30;

/// A pointer that moves up.
pub struct Early {
    start: u64,
    next: u64,
    end: u64,
}

impl Early {
    /// The RAM from the image up, as far as nothing else is there.
    pub fn after_image(ram: &Ram, module: &Range<u64>) -> Early {
        let image = tables::image_frames();
        let range = ram.around(image.end).unwrap_or_else(|| panic!("no RAM after the image, at {:#x}", image.end));
        let above = if module.start >= image.end && !module.is_empty() { module.start } else { u64::MAX };
        Early { start: image.start, next: image.end, end: range.end.min(STATIC_END).min(above) }
    }

    /// A frame, cleared.
    pub fn frame(&mut self) -> u64 {
        let frame = self.next;
        self.next += PAGE_SIZE as u64;
        assert!(self.next <= self.end, "no memory left for the first page tables");
        // SAFETY: RAM that is nobody's yet, mapped by the static tables (below
        // `STATIC_END`) and by the direct map (D1).
        unsafe { direct(frame).write_bytes(0, PAGE_SIZE) }
        frame
    }

    /// The image and what was given out.
    pub fn used(&self) -> Range<u64> {
        self.start..self.next
    }
}
