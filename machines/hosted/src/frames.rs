//! Frames of the memory file, and which of them Linux holds memory for.
//!
//! Linux provides a page of the file when it is first touched, and holds it until somebody punches a hole.
//! A frame is in one of three states:
//!
//! ```text
//!             alloc                      alloc
//!   ┌──────────────────────▶ out ◀──────────────────┐
//!  bare                       │ free               used
//!   ▲                         └─────────────────────▶│
//!   └────────────────── give_back ───────────────────┘
//!   bare   free, and Linux holds nothing       used   free, and Linux may hold its page
//! ```
//!
//! Nothing is given back on the way of an allocation or a free: a frame that is taken again soon should find its
//! page. A purge, a reclaim and an idle clock call [`FileFrames::give_back`].
//!
//! # Rules
//! - **K1** The bit of a frame is set exactly if it is *used*. It is set before the zones get the frame, and cleared
//!   after they gave it, by its holder: whoever has a frame out has its bit alone.
//! - **K2** A hole is punched in frames that are out, in the hands of [`FileFrames::give_back`]: nobody can have them
//!   meanwhile.
//! - **K3** One block at a time is in these hands, under the lock `giving`. An allocation that finds nothing asks once
//!   more under that lock, so that it is not refused because of them.

use crate::os;
use parking_lot::{Mutex, RawMutex};
use std::ptr::NonNull;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
};
use vmalloc::frames::{BadMap, MemoryRange, STORAGE_ALIGN, Zones};
use vmalloc::gfp::ZoneKind;
use vmalloc::machine::frames::{Frames, MAX_ORDER, Page, Want};
use vmalloc::units::{Node, Pfn};

/// The end of what a request for DMA memory gets, and of DMA32.
const ZONE_ENDS: [(ZoneKind, u64); 2] = [(ZoneKind::Dma, 16 << 20 >> 12), (ZoneKind::Dma32, 4 << 30 >> 12)];

/// The source of frames of this machine.
pub struct FileFrames {
    zones: Zones<RawMutex>,
    used: Bits,
    giving: Mutex<()>,
    /// Odd while somebody has a block to give it back; never the same again.
    turns: AtomicU64,
    /// What `zones` keeps its records in: wide words, for their alignment.
    _records: Box<[u128]>,
}

/// A bit for each frame.
struct Bits(Box<[AtomicU64]>);

impl FileFrames {
    /// All of `frames` frames from the first on, bare; `None` where there is no memory for their records.
    pub fn new(frames: usize) -> Result<Option<FileFrames>, BadMap> {
        const { assert!(STORAGE_ALIGN <= align_of::<u128>()) };
        let map = [MemoryRange { first: Pfn(0), frames, node: Node(0) }];
        let words = Zones::<RawMutex>::storage_for(&map).div_ceil(size_of::<u128>());
        let (Some(mut records), Some(bits)) = (os::zeros(words), os::zeros(frames.div_ceil(64))) else {
            return Ok(None);
        };
        let zones = Zones::new();
        let storage = NonNull::from(&mut *records).cast();
        // SAFETY: Z1: the slice is kept as long as the zones and not touched. Z2: the file is new. Z3: one call.
        unsafe { zones.init(&map, None, storage)? };
        let (used, giving, turns) = (Bits(bits), Mutex::default(), AtomicU64::new(0));
        Ok(Some(FileFrames { zones, used, giving, turns, _records: records }))
    }

    /// Makes every used frame bare that is free meanwhile: `punch` lets Linux have the pages of so many frames from
    /// the first on. Returns how many these are.
    ///
    /// # Errors
    /// That of `punch`, which then is not asked again; frames that it refused stay used.
    ///
    /// # Cost
    /// A call of `punch` for each block of used frames, at most 4 MiB; a word for 64 frames that are not used.
    pub fn give_back(&self, mut punch: impl FnMut(Pfn, usize) -> Result<(), i32>) -> Result<usize, i32> {
        let (mut at, mut given) = (0, 0);
        while let Some(first) = self.used.next(at) {
            let most = self.used.run(first, 1 << MAX_ORDER);
            let (tried, bare) = self.in_turn(|| self.give_block(first, most, &mut punch))?;
            (at, given) = (first + tried, given + bare);
        }
        Ok(given)
    }

    /// The largest block of used frames at `first`, of at most `most`. Returns its frames, or 1 for a frame that is
    /// not free any more, and how many were made bare.
    fn give_block(
        &self,
        first: usize,
        most: usize,
        punch: &mut impl FnMut(Pfn, usize) -> Result<(), i32>,
    ) -> Result<(usize, usize), i32> {
        let aligned = first.trailing_zeros().min(u32::from(MAX_ORDER));
        let order = aligned.min(most.ilog2()) as u8;
        let Some(order) = (0..=order).rev().find(|&order| self.take_at(first, order)) else { return Ok((1, 0)) };
        let (first, frames) = (Pfn(first as u64), 1 << order);
        let punched = punch(first, frames);
        if punched.is_ok() {
            self.used.set(first, frames, false);
        }
        // SAFETY: taken just now.
        unsafe { self.zones.free(first, order) };
        punched.map(|()| (frames, frames))
    }

    /// Runs `f`, which takes frames and frees them again, as the only one who does so (K3).
    fn in_turn<R>(&self, f: impl FnOnce() -> R) -> R {
        let _giving = self.giving.lock();
        self.turns.fetch_add(1, AcqRel);
        let result = f();
        self.turns.fetch_add(1, AcqRel);
        result
    }

    /// Takes the block of `order` at `first`, if it is free.
    fn take_at(&self, first: usize, order: u8) -> bool {
        let first = Pfn(first as u64);
        let below = |&(_, end): &(ZoneKind, u64)| first.0 < end;
        let zone = ZONE_ENDS.into_iter().find(below).map_or(ZoneKind::Normal, |(zone, _)| zone);
        let want = Want { zone, next: Some(first), ..Want::bookkeeping(Node(0)).order(order) };
        let got = self.zones.alloc(want);
        if let Some(other) = got.filter(|&got| got != first) {
            // SAFETY: taken just now.
            unsafe { self.zones.free(other, order) };
        }
        got == Some(first)
    }

    /// Asks for frames, and once more when nothing is being given back, if something was meanwhile (K3).
    fn insist<R>(&self, mut ask: impl FnMut() -> R, is_all: impl Fn(&R) -> bool) -> R {
        let turn = self.turns.load(Acquire);
        let got = ask();
        if is_all(&got) || (turn.is_multiple_of(2) && turn == self.turns.load(Acquire)) {
            return got;
        }
        let _giving = self.giving.lock();
        ask()
    }
}

// SAFETY: F1–F6 are those of `zones`. What is out for a hole (K2) is nobody's meanwhile.
unsafe impl Frames for FileFrames {
    fn total(&self) -> usize {
        self.zones.total()
    }
    fn free_now(&self) -> usize {
        self.zones.free_now()
    }
    fn is_ram(&self, frame: Pfn) -> bool {
        self.zones.is_ram(frame)
    }
    fn free_for(&self, want: Want) -> Option<usize> {
        self.zones.free_for(want)
    }
    fn alloc(&self, want: Want) -> Option<Pfn> {
        let first = self.insist(|| self.zones.alloc(want), Option::is_some)?;
        self.used.set(first, 1 << want.order, false);
        Some(first)
    }
    unsafe fn free(&self, first: Pfn, order: u8) {
        self.used.set(first, 1 << order, true);
        // SAFETY: the caller's promise, passed on.
        unsafe { self.zones.free(first, order) }
    }
    fn alloc_bulk(&self, want: Want, into: &mut [Pfn]) -> usize {
        let (mut got, all) = (0, into.len());
        let ask = || {
            got += self.zones.alloc_bulk(want, &mut into[got..]);
            got
        };
        let got = self.insist(ask, |&got| got == all);
        self.used.set_each(&into[..got], false);
        got
    }
    unsafe fn free_bulk(&self, frames: &[Pfn]) {
        self.used.set_each(frames, true);
        // SAFETY: the caller's promise, passed on.
        unsafe { self.zones.free_bulk(frames) }
    }
    fn nodes(&self) -> usize {
        self.zones.nodes()
    }
    fn highest_zone(&self) -> ZoneKind {
        self.zones.highest_zone()
    }
    fn end(&self) -> Pfn {
        self.zones.end()
    }
    fn is_out(&self, frame: Pfn) -> bool {
        self.zones.is_out(frame)
    }
    fn page(&self, frame: Pfn) -> Option<&Page> {
        self.zones.page(frame)
    }
    #[inline]
    fn each_page(&self, frames: &[Pfn], f: impl FnMut(usize, Option<&Page>)) {
        self.zones.each_page(frames, f);
    }
}

impl Bits {
    /// Sets, or clears, the bits of `frames` frames from `first` on. Frames that do not exist have none.
    fn set(&self, first: Pfn, frames: usize, to: bool) {
        let (mut at, end) = (first.0 as usize, first.0 as usize + frames);
        while at < end
            && let Some(word) = self.0.get(at / 64)
        {
            let bits = (end - at).min(64 - at % 64);
            let mask = u64::MAX >> (64 - bits) << (at % 64);
            if to {
                word.fetch_or(mask, Relaxed);
            } else if word.load(Relaxed) & mask != 0 {
                word.fetch_and(!mask, Relaxed);
            }
            at += bits;
        }
    }

    /// Sets, or clears, those of these frames; adjacent ones together.
    fn set_each(&self, frames: &[Pfn], to: bool) {
        for run in frames.chunk_by(|below, above| above.0 == below.0 + 1) {
            self.set(run[0], run.len(), to);
        }
    }

    /// The first that is set, from `from` on.
    fn next(&self, from: usize) -> Option<usize> {
        let rest = self.0.get(from / 64)?.load(Relaxed) >> (from % 64);
        if rest != 0 {
            return Some(from + rest.trailing_zeros() as usize);
        }
        let words = self.0[from / 64 + 1..].iter().map(|word| word.load(Relaxed));
        let (skipped, word) = words.enumerate().find(|&(_, word)| word != 0)?;
        Some((from / 64 + 1 + skipped) * 64 + word.trailing_zeros() as usize)
    }

    /// How many are set in a row from `from` on, which is; at most `most`.
    fn run(&self, from: usize, most: usize) -> usize {
        let mut at = from;
        while at < from + most
            && let Some(word) = self.0.get(at / 64)
        {
            let ones = (word.load(Relaxed) >> (at % 64)).trailing_ones() as usize;
            at += ones;
            if ones < 64 - (at - ones) % 64 {
                break;
            }
        }
        (at - from).clamp(1, most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAMES: usize = 4000;

    fn frames() -> FileFrames {
        FileFrames::new(FRAMES).unwrap().unwrap()
    }

    fn want() -> Want {
        Want::bookkeeping(Node(0))
    }

    /// Gives back, and says which runs.
    fn given(frames: &FileFrames) -> Vec<(u64, usize)> {
        let mut holes = Vec::new();
        let total = frames.give_back(|first, count| {
            holes.push((first.0, count));
            Ok(())
        });
        assert_eq!(total, Ok(holes.iter().map(|hole| hole.1).sum()));
        holes
    }

    #[test]
    fn frames_that_nobody_ever_had_are_not_given_back() {
        assert_eq!(given(&frames()), []);
    }

    #[test]
    fn a_frame_is_given_back_once_after_each_use_and_never_while_it_is_out() {
        let frames = frames();
        let [first, second] = [0; 2].map(|_| frames.alloc(want()).unwrap());
        assert_eq!(given(&frames), []);
        // SAFETY: taken just now.
        unsafe { frames.free(second, 0) };
        assert_eq!(given(&frames), [(second.0, 1)]);
        assert_eq!(given(&frames), [], "Linux has it already");
        let again = frames.alloc(Want { next: Some(second), ..want() });
        assert_eq!((again, given(&frames)), (Some(second), vec![]));
        // SAFETY: both are out.
        unsafe { frames.free_bulk(&[first, second]) };
        assert_eq!(given(&frames).iter().map(|hole| hole.1).sum::<usize>(), 2);
        assert_eq!(frames.free_now(), FRAMES);
    }

    #[test]
    fn adjacent_frames_are_given_back_in_one_call_a_block() {
        let frames = frames();
        let mut all = vec![Pfn(0); FRAMES];
        let got = all.chunks_mut(128).map(|some| frames.alloc_bulk(want(), some)).sum::<usize>();
        assert_eq!(got, FRAMES);
        // SAFETY: all are out.
        all.chunks(128).for_each(|some| unsafe { frames.free_bulk(some) });
        let blocks = [(0, 1024), (1024, 1024), (2048, 1024), (3072, 512), (3584, 256), (3840, 128), (3968, 32)];
        assert_eq!(given(&frames), blocks);
    }

    #[test]
    fn what_is_refused_stays_used_and_is_tried_by_the_next_call() {
        let frames = frames();
        let block = frames.alloc(want().order(3)).unwrap();
        // SAFETY: taken just now.
        unsafe { frames.free(block, 3) };
        assert_eq!(frames.give_back(|_, _| Err(libc::EPERM)), Err(libc::EPERM));
        assert_eq!((given(&frames), frames.free_now()), (vec![(block.0, 8)], FRAMES));
    }

    #[test]
    fn an_allocation_is_not_refused_because_of_frames_that_are_being_given_back() {
        let frames = FileFrames::new(1).unwrap().unwrap();
        let only = frames.alloc(want()).unwrap();
        // SAFETY: taken just now.
        unsafe { frames.free(only, 0) };
        std::thread::scope(|scope| {
            let asks = |_, _| {
                assert_eq!(frames.zones.alloc(want()), None, "it is out");
                scope.spawn(|| assert_eq!(frames.alloc(want()), Some(only)));
                std::thread::sleep(std::time::Duration::from_millis(20));
                Ok(())
            };
            assert_eq!(frames.give_back(asks), Ok(1));
        });
        assert_eq!(frames.free_now(), 0);
    }
}
