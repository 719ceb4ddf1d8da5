//! Frames by the run, for machines to which a run costs as much as a page.
//!
//! [`Runs::take`] asks for the largest block that still fits, then for the one
//! that continues it, and falls to lower orders where it is refused.
//! [`RunCollector`] is the way back: it joins frames that arrive one after the
//! other and gives them back as the largest aligned blocks (F4).

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
                    unsafe { taken.give_back(source) }
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

    /// Gives all frames back.
    ///
    /// # Safety
    /// They came from this source, and nobody uses them.
    pub unsafe fn give_back<F: Frames>(self, source: &F) {
        for run in self.runs {
            // SAFETY: the caller's promise.
            unsafe { give_run(source, run) }
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

/// Joins frames that are being given back. Dropping it gives back the last
/// run.
pub struct RunCollector<'a, F: Frames> {
    source: &'a F,
    run: TakenRun,
}

impl<'a, F: Frames> RunCollector<'a, F> {
    /// A collector that gives back to `source`.
    pub fn new(source: &'a F) -> RunCollector<'a, F> {
        RunCollector { source, run: TakenRun { first: Pfn(0), frames: 0 } }
    }

    /// Gives `frame` back, now or with a later one that continues it.
    ///
    /// # Safety
    /// As for [`Frames::free`].
    pub unsafe fn push(&mut self, frame: Pfn) {
        let run = &mut self.run;
        let continues = run.end() == frame && self.source.node_of(run.first) == self.source.node_of(frame);
        if run.frames > 0 && continues {
            run.frames += 1;
            return;
        }
        self.flush();
        self.run = TakenRun { first: frame, frames: 1 };
    }

    fn flush(&mut self) {
        let run = core::mem::replace(&mut self.run, TakenRun { first: Pfn(0), frames: 0 });
        // SAFETY: the contract of `push`, which joined frames of one node.
        unsafe { give_run(self.source, run) }
    }
}

impl<F: Frames> Drop for RunCollector<'_, F> {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests;
