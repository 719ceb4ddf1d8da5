//! Frames by the run, for machines to which a run costs as much as a page.
//!
//! [`Runs::take`] asks for the largest block that still fits, then for the one
//! that continues it, and falls to lower orders where it is refused. What is
//! given back goes as the largest aligned blocks (F4).

use crate::machine::frames::{Frames, MAX_ORDER, Want};
use crate::units::Pfn;
use arrayvec::ArrayVec;

/// Runs that one [`Runs`] can name.
pub const MAX_RUNS: usize = 64;

/// Adjacent frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TakenRun {
    /// The first.
    pub first: Pfn,
    /// How many.
    pub frames: usize,
}

impl TakenRun {
    fn end(&self) -> Pfn {
        self.first.offset(self.frames as u64)
    }
}

/// Frames that were taken together, as few and long runs. Dropping it leaks
/// them: they are the caller's.
#[must_use = "the frames leak unless they are used or given back"]
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Runs {
    runs: ArrayVec<TakenRun, MAX_RUNS>,
}

impl Runs {
    /// Takes `n` frames; fewer where memory is so scattered that `n` frames
    /// are more than [`MAX_RUNS`] runs (so at least that many).
    ///
    /// # Errors
    /// The frames that there were, fewer than `n`. They were given back.
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
                    // SAFETY: `alloc` gave them out just now.
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

    /// How many frames it names.
    pub fn frames(&self) -> usize {
        self.runs.iter().map(|run| run.frames).sum()
    }

    /// Gives all frames but the first `used` back.
    ///
    /// # Safety
    /// They came from this source, and nobody uses them.
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
            Some(last) if last.end() == first => last.frames += frames,
            _ => self.runs.push(TakenRun { first, frames }),
        }
    }
}

/// Gives a run back as aligned blocks, each as large as can be.
///
/// # Safety
/// As for [`Frames::free`], for each frame; they are of one node.
unsafe fn give_run<F: Frames>(source: &F, mut run: TakenRun) {
    while run.frames > 0 {
        let aligned = run.first.0.trailing_zeros().min(MAX_ORDER as u32);
        let order = aligned.min(run.frames.ilog2());
        // SAFETY: F4: frames that are out, in an aligned block.
        unsafe { source.free(run.first, order as u8) }
        run = TakenRun { first: run.first.offset(1 << order), frames: run.frames - (1 << order) };
    }
}

#[cfg(test)]
mod tests;
