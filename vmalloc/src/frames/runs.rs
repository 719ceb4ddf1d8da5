//! Runs of frames, for machines on which a run costs as much as a page.
//!
//! [`Runs::take`] asks for the largest block that fits, then for blocks that continue it, and tries
//! lower orders when the source refuses. Frames go back as the largest aligned blocks (F4).

use crate::frames::magazine::MAX_BULK;
use crate::machine::frames::{Frames, MAX_ORDER, Want};
use crate::units::Pfn;
use arrayvec::ArrayVec;

/// The most runs in one [`Runs`]: that many frames always find room.
pub const MAX_RUNS: usize = MAX_BULK;

/// Adjacent frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TakenRun {
    /// The first frame.
    pub first: Pfn,
    /// The number of frames.
    pub frames: usize,
}

/// Frames that were taken together, as few and as long runs as possible. Dropping it leaks the
/// frames.
#[must_use = "the frames leak unless they are used or given back"]
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Runs {
    runs: ArrayVec<TakenRun, MAX_RUNS>,
}

impl Runs {
    /// Takes `n` frames. Takes fewer, but at least [`MAX_RUNS`], if memory is so fragmented that
    /// `n` frames are more than [`MAX_RUNS`] runs.
    ///
    /// # Errors
    /// The number of frames that the source had, fewer than `n`. They went back.
    pub fn take<F: Frames>(source: &F, want: Want, n: usize) -> Result<Runs, usize> {
        let mut taken = Runs { runs: ArrayVec::new() };
        let (mut left, mut largest, mut next) = (n, MAX_ORDER, want.next);
        while left > 0 && !taken.runs.is_full() {
            let order = largest.min(left.ilog2() as u8);
            match source.alloc(Want { order, next, ..want }) {
                Some(first) => {
                    taken.add(first, 1 << order);
                    next = Some(first.offset(1 << order));
                    left -= 1 << order;
                }
                None if order > 0 => largest = order - 1,
                None => {
                    // SAFETY: `alloc` returned them just now.
                    unsafe { taken.give_back_from(0, source) }
                    return Err(n - left);
                }
            }
        }
        Ok(taken)
    }

    /// The runs, in the order in which they were taken.
    pub fn iter(&self) -> impl Iterator<Item = TakenRun> + '_ {
        self.runs.iter().copied()
    }

    /// The number of frames in all runs.
    #[cfg(test)]
    pub fn frames(&self) -> usize {
        self.runs.iter().map(|run| run.frames).sum()
    }

    /// Gives back all frames except the first `used`.
    ///
    /// # Safety
    /// The frames came from this source, and nobody uses them.
    pub unsafe fn give_back_from<F: Frames>(&self, mut used: usize, source: &F) {
        for run in self.iter() {
            let kept = used.min(run.frames);
            used -= kept;
            let rest = TakenRun { first: run.first.offset(kept as u64), frames: run.frames - kept };
            // SAFETY: the caller's promise.
            unsafe { give_run(source, rest) }
        }
    }

    fn add(&mut self, first: Pfn, frames: usize) {
        match self.runs.last_mut() {
            Some(last) if last.first.offset(last.frames as u64) == first => last.frames += frames,
            _ => self.runs.push(TakenRun { first, frames }),
        }
    }
}

/// Gives back a run as aligned blocks, each as large as possible.
///
/// # Safety
/// As for [`Frames::free`], for each frame. All frames are of one node.
unsafe fn give_run<F: Frames>(source: &F, mut run: TakenRun) {
    while run.frames > 0 {
        let aligned = run.first.0.trailing_zeros().min(MAX_ORDER as u32);
        let order = aligned.min(run.frames.ilog2());
        // SAFETY: F4: the frames are allocated and form an aligned block.
        unsafe { source.free(run.first, order as u8) }
        run = TakenRun { first: run.first.offset(1 << order), frames: run.frames - (1 << order) };
    }
}

#[cfg(test)]
mod tests;
