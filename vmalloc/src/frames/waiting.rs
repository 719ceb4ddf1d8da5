//! WaitingFrames frames: those whose last holder has given them up, and that still have
//! to wait. They are chained through their descriptors, so that nothing is
//! needed to keep them.
//!
//! - **Q1** A frame is in one chain, and its chain is its only holder. So its
//!   links are the chain's.
//! - **Q2** A [`WaitingFrames`] is its owner's alone. A [`DeferredFrames`] takes frames from
//!   anybody, NMIs too, and gives them out all at once, so that no frame comes
//!   back to its head while somebody looks at it.

use crate::machine::Machine;
use crate::machine::frames::{Frames, Page};
use crate::sync::plain::AtomicU64;
use crate::sync::plain::Ordering::{Acquire, Relaxed, Release};
use crate::units::Pfn;

/// The number of no frame: the end of a chain.
const END: u64 = u64::MAX;

fn set_next(page: &Page, next: u64) {
    page.links[0].store(next as u32, Relaxed);
    page.links[1].store((next >> 32) as u32, Relaxed);
}

fn next(page: &Page) -> u64 {
    page.links[0].load(Relaxed) as u64 | (page.links[1].load(Relaxed) as u64) << 32
}

/// A chain of frames.
#[derive(Debug)]
pub struct WaitingFrames {
    head: u64,
    len: usize,
}

impl WaitingFrames {
    /// An empty chain.
    pub const fn new() -> WaitingFrames {
        WaitingFrames { head: END, len: 0 }
    }

    /// Frames in it.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts a frame in, which has this descriptor and the caller for its only
    /// holder (Q1).
    pub fn push(&mut self, frame: Pfn, page: &Page) {
        set_next(page, self.head);
        (self.head, self.len) = (frame.0, self.len + 1);
    }

    /// Takes a frame out; the caller is its holder.
    pub fn pop<'f, F: Frames>(&mut self, source: &'f F) -> Option<(Pfn, &'f Page)> {
        let frame = Pfn(self.head);
        // F5: who was pushed has a descriptor.
        let page = if self.head == END { None } else { source.page(frame) }?;
        (self.head, self.len) = (next(page), self.len - 1);
        Some((frame, page))
    }

    /// Whether there are as many as are counted.
    pub fn is_sound<F: Frames>(&self, source: &F) -> bool {
        let (mut at, mut found) = (self.head, 0);
        while let Some(page) = source.page(Pfn(at)).filter(|_| at != END && found <= self.len) {
            (at, found) = (next(page), found + 1);
        }
        at == END && found == self.len
    }
}

impl Default for WaitingFrames {
    fn default() -> WaitingFrames {
        WaitingFrames::new()
    }
}

/// Frames that were given up where nobody could be asked. One without a descriptor
/// has its link in its own first word.
#[derive(Debug)]
pub struct DeferredFrames(AtomicU64);

impl Default for DeferredFrames {
    fn default() -> DeferredFrames {
        DeferredFrames(AtomicU64::new(END))
    }
}

impl DeferredFrames {
    /// Puts a frame in, as [`WaitingFrames::push`], from any context; `page` is its
    /// descriptor, if it has one. One without has a direct mapping (P3).
    pub fn push<M: Machine>(&self, machine: &M, frame: Pfn, page: Option<&Page>) {
        let mut head = self.0.load(Relaxed);
        loop {
            match page {
                Some(page) => set_next(page, head),
                // SAFETY: M2, P3: it is directly mapped, and the chain's alone (Q1).
                None => unsafe { link(machine, frame).write(head) },
            }
            match self.0.compare_exchange_weak(head, frame.0, Release, Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Takes all frames out, and tells of each.
    #[inline]
    pub fn drain<M: Machine>(&self, machine: &M, take: impl FnMut(Pfn, Option<&Page>)) {
        if self.0.load(Relaxed) != END {
            self.drain_now(machine, take)
        }
    }

    #[cold]
    fn drain_now<M: Machine>(&self, machine: &M, mut take: impl FnMut(Pfn, Option<&Page>)) {
        let mut at = self.0.swap(END, Acquire);
        while at != END {
            let frame = Pfn(at);
            let page = machine.frames().page(frame);
            // SAFETY: M2, P3: `push` wrote it, and the frame is the chain's alone.
            at = page.map_or_else(|| unsafe { link(machine, frame).read() }, next);
            take(frame, page);
        }
    }
}

/// The first word of a frame.
fn link<M: Machine>(machine: &M, frame: Pfn) -> *mut u64 {
    machine.virt(frame).cast().as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::testing::{TestMachine, TestZones, ram};
    extern crate std;
    use std::vec::Vec;

    #[test]
    fn loose_frames_come_out_as_a_stack_and_are_counted() {
        let real = TestZones::new(&[ram(1 << 33, 4, 0)], None);
        let zones = &real.zones;
        let mut loose = WaitingFrames::new();
        let frames = [3, 0, 2].map(|n| Pfn((1 << 33) + n));
        for frame in frames {
            loose.push(frame, zones.page(frame).unwrap());
            assert!(loose.is_sound(zones));
        }
        let out: Vec<Pfn> = core::iter::from_fn(|| loose.pop(zones)).map(|(frame, _)| frame).collect();
        assert_eq!((out, loose.is_empty()), (frames.iter().rev().copied().collect(), true));
    }

    #[test]
    fn a_chain_that_was_cut_or_tied_to_a_ring_is_not_sound() {
        let real = TestZones::new(&[ram(0, 4, 0)], None);
        let mut loose = WaitingFrames::new();
        (0..3).for_each(|n| loose.push(Pfn(n), real.zones.page(Pfn(n)).unwrap()));
        for wrong in [END, 2, 9] {
            set_next(real.zones.page(Pfn(1)).unwrap(), wrong);
            assert!(!loose.is_sound(&real.zones), "{wrong}");
        }
    }

    #[test]
    fn frames_dropped_by_several_threads_come_out_once_each_with_descriptors_or_without() {
        // Between the ranges there is memory, and nobody describes it.
        let machine = TestMachine::new(&[ram(0, 32, 0), ram(63, 1, 0)], 1);
        let source = &machine.frames.zones;
        assert!(source.page(Pfn(31)).is_some() && source.page(Pfn(40)).is_none());
        let dropped = DeferredFrames::default();
        let mut seen = Vec::new();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (machine, dropped) = (&machine, &dropped);
                scope.spawn(move || {
                    for frame in (0..64).filter(|n| n % 4 == thread).map(Pfn) {
                        dropped.push(machine, frame, machine.frames.zones.page(frame));
                    }
                });
            }
            while seen.len() < 64 {
                dropped.drain(&machine, |frame, page| {
                    assert_eq!(page.is_some(), machine.frames.zones.page(frame).is_some());
                    seen.push(frame.0)
                });
            }
        });
        seen.sort();
        assert_eq!(seen, (0..64).collect::<Vec<_>>());
    }
}
