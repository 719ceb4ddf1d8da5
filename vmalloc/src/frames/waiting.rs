//! Waiting frames and deferred frames: two kinds of free list that need no memory, because a
//! frame's link is in its descriptor.
//!
//! A *waiting* frame was released by its last holder while a stale translation could still reach
//! it. It waits for the flush in a chain of the open batch. A *deferred* frame was released where
//! the CPU could not be entered, in an NMI for example. It is on a list of its CPU until the next
//! caller inside that CPU drains the list.
//!
//! - **Q1** A frame is on one list, and that list is its only holder. The frame's links therefore
//!   belong to the list.
//! - **Q2** Only its owner uses a [`WaitingFrames`]. Anybody, even an NMI, may push onto a
//!   [`DeferredFrames`]; only a drain removes frames, and it takes all of them at once. So no frame
//!   returns to the head while another CPU compares it.

use crate::machine::Machine;
use crate::machine::frames::{Frames, Page};
use crate::sync::plain::AtomicU64;
use crate::sync::plain::Ordering::{Acquire, Relaxed, Release};
use crate::units::Pfn;

/// The end of a list.
const END: u64 = u64::MAX;

fn set_next(page: &Page, next: u64) {
    page.links[0].store(next as u32, Relaxed);
    page.links[1].store((next >> 32) as u32, Relaxed);
}

fn next(page: &Page) -> u64 {
    page.links[0].load(Relaxed) as u64 | (page.links[1].load(Relaxed) as u64) << 32
}

/// A list of waiting frames.
#[derive(Debug)]
pub struct WaitingFrames {
    head: u64,
    len: usize,
}

impl WaitingFrames {
    /// An empty list.
    pub const fn new() -> WaitingFrames {
        WaitingFrames { head: END, len: 0 }
    }

    /// Whether the list is empty.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a frame whose descriptor is `page`. The caller was its only holder (Q1).
    pub fn push(&mut self, frame: Pfn, page: &Page) {
        set_next(page, self.head);
        (self.head, self.len) = (frame.0, self.len + 1);
    }

    /// Takes a frame. The caller becomes its holder.
    pub fn pop<'f, F: Frames>(&mut self, source: &'f F) -> Option<(Pfn, &'f Page)> {
        let frame = Pfn(self.head);
        // F5: every frame on the list has a descriptor.
        let page = if self.head == END { None } else { source.page(frame) }?;
        debug_assert!(self.len > 0, "Q1: {frame:?} is on the list of waiting frames, and in another place");
        (self.head, self.len) = (next(page), self.len - 1);
        Some((frame, page))
    }

    /// Whether the list has as many frames as its count.
    pub fn is_sound<F: Frames>(&self, source: &F) -> bool {
        let (mut at, mut found) = (self.head, 0);
        while let Some(page) = source.page(Pfn(at)).filter(|_| at != END && found <= self.len) {
            (at, found) = (next(page), found + 1);
        }
        at == END && found == self.len
    }
}

/// A list of deferred frames. A frame without a descriptor has its link in its own first word.
#[derive(Debug)]
pub struct DeferredFrames(AtomicU64);

impl Default for DeferredFrames {
    fn default() -> DeferredFrames {
        DeferredFrames(AtomicU64::new(END))
    }
}

impl DeferredFrames {
    /// Adds a frame, from any context. `page` is its descriptor, if it has one; a frame without one
    /// has a direct mapping (P3).
    pub fn push<M: Machine>(&self, machine: &M, frame: Pfn, page: Option<&Page>) {
        let mut head = self.0.load(Relaxed);
        loop {
            match page {
                Some(page) => set_next(page, head),
                // SAFETY: M2, P3: the frame is directly mapped, and belongs to the list (Q1).
                None => unsafe { link(machine, frame).write(head) },
            }
            match self.0.compare_exchange_weak(head, frame.0, Release, Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Takes all frames and calls `take` for each.
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
            // SAFETY: M2, P3: `push` wrote the word, and the frame belongs to the list.
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
    use crate::testing::{TestZones, ZoneMachine, ram};
    extern crate std;
    use std::vec::Vec;

    #[test]
    fn waiting_frames_come_out_as_a_stack_and_are_counted() {
        let real = TestZones::new(&[ram(1 << 33, 4, 0)], None);
        let zones = &real.zones;
        let mut waiting = WaitingFrames::new();
        let frames = [3, 0, 2].map(|n| Pfn((1 << 33) + n));
        for frame in frames {
            waiting.push(frame, zones.page(frame).unwrap());
            assert!(waiting.is_sound(zones));
        }
        let out: Vec<Pfn> = core::iter::from_fn(|| waiting.pop(zones)).map(|(frame, _)| frame).collect();
        assert_eq!((out, waiting.is_empty()), (frames.iter().rev().copied().collect(), true));
    }

    #[test]
    fn a_chain_that_was_cut_or_tied_to_a_ring_is_not_sound() {
        let real = TestZones::new(&[ram(0, 4, 0)], None);
        let mut waiting = WaitingFrames::new();
        (0..3).for_each(|n| waiting.push(Pfn(n), real.zones.page(Pfn(n)).unwrap()));
        for wrong in [END, 2, 9] {
            set_next(real.zones.page(Pfn(1)).unwrap(), wrong);
            assert!(!waiting.is_sound(&real.zones), "{wrong}");
        }
    }

    #[test]
    fn frames_dropped_by_several_threads_come_out_once_each_with_descriptors_or_without() {
        // The memory between the two ranges has no descriptors.
        let machine = ZoneMachine::new(&[ram(0, 32, 0), ram(63, 1, 0)], 1);
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
