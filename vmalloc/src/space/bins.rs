//! Bins: one CPU's chunks of one region, by class.
//!
//! ```text
//!   bin of a class:  current ── partial ⇄ partial ⇄ …   empty ⇄ empty ⇄ …
//! ```
//!
//! # Rules
//! - **S1** A chunk with a free slot is its bin's current chunk or is on one of the bin's two
//!   lists: *empty* if all its slots are free, else *partial*. A full chunk is on no list; it may
//!   be the current one.
//! - **S2** A new area goes next to other areas, so that empty chunks can be given up: into the
//!   current chunk, else into a partial one, else into an empty one. From a list the CPU takes the
//!   lowest of the first few chunks, so that areas stay close together.
//!
//! # Locks
//! None. Only a caller inside the owner's CPU uses its bins.

use super::cache::SlotCache;
use super::chunk::{Chunk, ChunkRef};
use super::class::{CLASSES, Class, UNIT_SHIFT};
use crate::error::Broken;
use crate::sync::Ordering::*;
use crate::units::{PAGE_SIZE, PageRange};
use core::ptr::null_mut;

/// How many chunks of a list a search for the lowest one looks at (S2).
const SCAN_LIMIT: usize = 2;

/// How many chunks of each list a search for one in a range looks at.
const RANGE_SCAN_LIMIT: usize = 16;

const NONE: u8 = 0;
const PARTIAL: u8 = 1;
const EMPTY: u8 = 2;

/// The chunks of one class.
#[derive(Clone, Copy, Debug)]
struct ClassBin {
    current: *mut Chunk,
    partial: *mut Chunk,
    empty: *mut Chunk,
    empties: u32,
    /// All chunks of the class, including full ones.
    chunks: u32,
}

const BIN: ClassBin = ClassBin { current: null_mut(), partial: null_mut(), empty: null_mut(), empties: 0, chunks: 0 };

/// One CPU's chunks of one region.
#[derive(Debug)]
pub struct CpuChunks {
    /// By class. The last bin holds the run chunks.
    bins: [ClassBin; CLASSES + 1],
    /// The cached slots of these chunks.
    pub slot_cache: SlotCache,
}

const _: () = assert!(size_of::<CpuChunks>() <= PAGE_SIZE, "the bins fit in one frame");

// SAFETY: the pointers name headers (C1), which any CPU may follow.
unsafe impl Send for CpuChunks {}

fn bin_of(class: Option<Class>) -> usize {
    class.map_or(CLASSES, Class::index)
}

impl Default for CpuChunks {
    fn default() -> CpuChunks {
        CpuChunks { bins: [BIN; CLASSES + 1], slot_cache: SlotCache::default() }
    }
}

/// The header behind a link of a list.
#[inline]
fn chunk(link: *mut Chunk) -> Option<ChunkRef> {
    // SAFETY: H2: the bins store only what `as_ptr` returned.
    unsafe { ChunkRef::from_ptr(link) }
}

/// The chunks of a list.
#[inline]
fn listed(head: *mut Chunk) -> impl Iterator<Item = ChunkRef> {
    core::iter::successors(chunk(head), |at| chunk(at.next.load(Relaxed)))
}

impl CpuChunks {
    /// Takes a free slot of `class`, or of the run chunks for `None`.
    ///
    /// # Cost
    /// O(1).
    pub fn take(&mut self, class: Option<Class>) -> Option<(ChunkRef, u32)> {
        let (chunk, slot) = self.next_of(bin_of(class))?;
        chunk.take_this(slot);
        Some((chunk, slot))
    }

    /// Takes a free slot of `class` in a chunk that lies in `range`, of the first chunks of each
    /// list.
    pub fn take_within(&mut self, class: Class, range: PageRange) -> Option<(ChunkRef, u32)> {
        let (bin, lists) = (class.index(), [self.bins[class.index()].partial, self.bins[class.index()].empty]);
        let listed = lists.into_iter().flat_map(|head| listed(head).take(RANGE_SCAN_LIMIT));
        let inside = |at: &ChunkRef| {
            let end = at.address(0).add_pages(at.units() << UNIT_SHIFT);
            range.start <= at.address(0) && end <= range.end()
        };
        let (chunk, slot) = chunk(self.bins[bin].current)
            .into_iter()
            .chain(listed)
            .filter(inside)
            .find_map(|at| at.next_free().map(|slot| (at, slot)))?;
        chunk.take_this(slot);
        if self.bins[bin].current != chunk.as_ptr() {
            self.unlink(bin, chunk);
            if chunk.free_slots() != 0 {
                self.link(bin, chunk, PARTIAL);
            }
        }
        Some((chunk, slot))
    }

    /// The next free slot of `class`; nothing is taken.
    ///
    /// # Cost
    /// O(1).
    #[inline(always)]
    pub fn next(&mut self, class: Class) -> Option<(ChunkRef, u32)> {
        self.next_of(class.index())
    }

    #[inline(always)]
    fn next_of(&mut self, bin: usize) -> Option<(ChunkRef, u32)> {
        if let Some(current) = chunk(self.bins[bin].current)
            && let Some(slot) = current.next_free()
        {
            return Some((current, slot));
        }
        self.advance(bin)
    }

    /// The current chunk is full: the next one becomes current.
    #[inline(never)]
    fn advance(&mut self, bin: usize) -> Option<(ChunkRef, u32)> {
        let partial = self.lowest(self.bins[bin].partial);
        let next = partial.or_else(|| self.lowest(self.bins[bin].empty))?;
        self.unlink(bin, next);
        self.bins[bin].current = next.as_ptr();
        next.next_free().map(|slot| (next, slot))
    }

    /// The lowest of the first few chunks of a list (S2).
    fn lowest(&self, head: *mut Chunk) -> Option<ChunkRef> {
        listed(head).take(SCAN_LIMIT).min_by_key(|at| at.address(0))
    }

    /// Adds a chunk whose slots are all free.
    pub fn add(&mut self, chunk: ChunkRef) {
        let bin = chunk.bin();
        self.bins[bin].chunks += 1;
        self.link(bin, chunk, EMPTY);
    }

    /// The number of chunks of `class`.
    pub fn chunks(&self, class: Class) -> u32 {
        self.bins[class.index()].chunks
    }

    /// A slot of `chunk` became free. `before` are the slots that were free already.
    #[inline(always)]
    pub fn slot_freed(&mut self, chunk: ChunkRef, before: u64) {
        let bin = chunk.bin();
        if self.bins[bin].current == chunk.as_ptr() {
            return;
        }
        let list = if chunk.is_empty() { EMPTY } else { PARTIAL };
        if before == 0 || list == EMPTY {
            self.move_to(bin, chunk, list);
        }
    }

    /// Puts back a slot that was taken and not used.
    pub fn put_back(&mut self, chunk: ChunkRef, slot: u32) {
        let before = chunk.free_slots();
        chunk.put_back(slot);
        self.slot_freed(chunk, before);
    }

    /// The number of empty chunks of `class`.
    pub fn empties(&self, class: Class) -> usize {
        self.bins[class.index()].empties as usize
    }

    /// Removes an empty chunk of `class`, so that the caller can give it up. With `current_too`
    /// that may be the current chunk.
    pub fn take_empty(&mut self, class: Option<Class>, current_too: bool) -> Option<ChunkRef> {
        let bin = bin_of(class);
        if let Some(empty) = chunk(self.bins[bin].empty) {
            self.unlink(bin, empty);
            self.bins[bin].chunks -= 1;
            return Some(empty);
        }
        let current = chunk(self.bins[bin].current).filter(|chunk| current_too && chunk.is_empty())?;
        self.bins[bin].current = null_mut();
        self.bins[bin].chunks -= 1;
        Some(current)
    }

    #[cold]
    #[inline(never)]
    fn move_to(&mut self, bin: usize, chunk: ChunkRef, list: u8) {
        self.unlink(bin, chunk);
        self.link(bin, chunk, list);
    }

    fn head(&mut self, bin: usize, list: u8) -> &mut *mut Chunk {
        if list == PARTIAL { &mut self.bins[bin].partial } else { &mut self.bins[bin].empty }
    }

    fn link(&mut self, bin: usize, new: ChunkRef, list: u8) {
        let head = self.head(bin, list);
        new.next.store(*head, Relaxed);
        new.previous.store(null_mut(), Relaxed);
        if let Some(old) = chunk(*head) {
            old.previous.store(new.as_ptr(), Relaxed);
        }
        *head = new.as_ptr();
        new.list.store(list, Relaxed);
        self.bins[bin].empties += (list == EMPTY) as u32;
    }

    fn unlink(&mut self, bin: usize, old: ChunkRef) {
        let list = old.list.load(Relaxed);
        if list == NONE {
            return;
        }
        let (next, previous) = (old.next.load(Relaxed), old.previous.load(Relaxed));
        match chunk(previous) {
            Some(previous) => previous.next.store(next, Relaxed),
            None => *self.head(bin, list) = next,
        }
        if let Some(next) = chunk(next) {
            next.previous.store(previous, Relaxed);
        }
        old.list.store(NONE, Relaxed);
        self.bins[bin].empties -= (list == EMPTY) as u32;
    }

    /// Checks S1, C2 and K5.
    ///
    /// # Errors
    /// The broken rule, and the address of the header.
    pub fn check(&self) -> Result<(), Broken> {
        for (bin, state) in self.bins.iter().enumerate() {
            self.check_list(bin, state.partial, |chunk| !chunk.is_empty() && chunk.free_slots() != 0)?;
            let empties = self.check_list(bin, state.empty, |chunk| chunk.is_empty())?;
            if empties != state.empties {
                return Err(Broken { rule: "S1", at: bin });
            }
        }
        self.slot_cache.check().map(drop)
    }

    fn check_list(&self, bin: usize, head: *mut Chunk, belongs: impl Fn(&Chunk) -> bool) -> Result<u32, Broken> {
        let (mut link, mut count) = (head, 0);
        while let Some(at) = chunk(link) {
            if !belongs(&at) || at.bin() != bin || self.bins[bin].current == link {
                return Err(Broken { rule: "S1", at: link.addr() });
            }
            if !at.masks_agree() {
                return Err(Broken { rule: "C2", at: link.addr() });
            }
            (link, count) = (at.next.load(Relaxed), count + 1);
        }
        Ok(count)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::area::RegionId;
    use crate::units::{Pfn, VirtAddr};
    extern crate std;
    use std::boxed::Box;

    const PAGES: usize = 512;

    /// Bins with two chunks of one class. The chunks are leaked.
    fn two_chunks() -> (CpuChunks, Class, [ChunkRef; 2]) {
        let class = Class::of(PAGES, 1).unwrap();
        let chunks = [0, 1].map(|n| {
            let chunk = Box::leak(Box::new(Chunk::new(Pfn(n))));
            chunk.become_class(class, class.slots(), VirtAddr((1 + n as usize) << 30), RegionId(0), 0);
            // SAFETY: H2: it was leaked.
            unsafe { ChunkRef::from_ptr(chunk) }.unwrap()
        });
        let mut cpu_chunks = CpuChunks::default();
        chunks.iter().for_each(|&chunk| cpu_chunks.add(chunk));
        assert_eq!(cpu_chunks.check(), Ok(()));
        (cpu_chunks, class, chunks)
    }

    fn broken(rule: &'static str, chunk: ChunkRef) -> Result<(), Broken> {
        Err(Broken { rule, at: chunk.as_ptr().addr() })
    }

    #[test]
    fn a_chunk_on_the_wrong_list_is_seen() {
        let (cpu_chunks, _, [first, _]) = two_chunks();
        first.take();
        assert_eq!(cpu_chunks.check(), broken("S1", first), "it is on the list of empty ones");
        let (mut cpu_chunks, class, [first, second]) = two_chunks();
        cpu_chunks.move_to(class.index(), second, PARTIAL);
        assert_eq!(cpu_chunks.check(), broken("S1", second), "all its slots are free");
        while first.take().is_some() {}
        cpu_chunks.move_to(class.index(), second, EMPTY);
        cpu_chunks.move_to(class.index(), first, PARTIAL);
        assert_eq!(cpu_chunks.check(), broken("S1", first), "it has no free slot");
    }

    #[test]
    fn the_current_chunk_on_a_list_is_seen() {
        let (mut cpu_chunks, class, [first, _]) = two_chunks();
        cpu_chunks.bins[class.index()].current = first.as_ptr();
        assert_eq!(cpu_chunks.check(), broken("S1", first));
    }

    #[test]
    fn a_wrong_count_of_empty_chunks_is_seen() {
        let (mut cpu_chunks, class, _) = two_chunks();
        cpu_chunks.bins[class.index()].empties += 1;
        assert_eq!(cpu_chunks.check(), Err(Broken { rule: "S1", at: class.index() }));
    }

    #[test]
    fn masks_of_a_chunk_that_overlap_are_seen() {
        let (mut cpu_chunks, class, [first, _]) = two_chunks();
        let slot = first.take().unwrap();
        cpu_chunks.move_to(class.index(), first, PARTIAL);
        assert_eq!(cpu_chunks.check(), Ok(()));
        first.make_live(slot + 1);
        assert_eq!(cpu_chunks.check(), broken("C2", first), "a slot is free, and lives");
    }
}
