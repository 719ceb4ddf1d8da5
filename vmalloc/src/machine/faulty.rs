//! A machine that refuses on request: each step that can fail can be made to fail.
//!
//! [`Faults`] counts the steps of a machine that can fail. It refuses the n-th one after
//! [`Faults::fail_at`], or all from the n-th on. A test arms it with n = 1, 2, … until a run
//! succeeds, and compares the state before and after each refusal.

use super::frames::{Frames, Page, Want};
use crate::gfp::ZoneKind;
use crate::sync::plain::{AtomicBool, AtomicU64, Ordering::SeqCst};
use crate::units::{Node, Pfn};

/// Chooses the step to refuse.
#[derive(Debug, Default)]
pub struct Faults {
    /// The number of steps up to the refusal; 0 if none is armed.
    left: AtomicU64,
    /// Whether all later steps are refused too.
    lasts: AtomicBool,
    hit: AtomicU64,
}

impl Faults {
    /// Refuses nothing.
    pub const fn new() -> Faults {
        Faults { left: AtomicU64::new(0), lasts: AtomicBool::new(false), hit: AtomicU64::new(0) }
    }

    /// Refuses the `n`-th step from now; 0 disarms.
    pub fn fail_at(&self, n: u64) {
        self.lasts.store(false, SeqCst);
        self.left.store(n, SeqCst);
    }

    /// Refuses the `n`-th step from now and all later ones.
    pub fn fail_from(&self, n: u64) {
        self.lasts.store(true, SeqCst);
        self.left.store(n, SeqCst);
    }

    /// The number of refusals so far.
    pub fn refused(&self) -> u64 {
        self.hit.load(SeqCst)
    }

    /// Called at each step that can fail. Returns true to refuse it.
    pub fn strike(&self) -> bool {
        let least = self.lasts.load(SeqCst) as u64;
        let was = self.left.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1).map(|n| n.max(least)));
        let struck = was == Ok(1);
        self.hit.fetch_add(struck as u64, SeqCst);
        struck
    }
}

/// A source of frames that refuses as [`Faults`] decides.
#[derive(Debug, Default)]
pub struct FaultyFrames<F> {
    inner: F,
    /// Chooses the step to refuse.
    pub faults: Faults,
}

impl<F> FaultyFrames<F> {
    /// `inner`, with nothing armed.
    pub const fn new(inner: F) -> FaultyFrames<F> {
        FaultyFrames { inner, faults: Faults::new() }
    }

    /// The source underneath.
    pub const fn inner(&self) -> &F {
        &self.inner
    }
}

impl<F> From<F> for FaultyFrames<F> {
    fn from(inner: F) -> FaultyFrames<F> {
        FaultyFrames::new(inner)
    }
}

// SAFETY: F1–F6 are `inner`'s; a refusal changes nothing.
unsafe impl<F: Frames> Frames for FaultyFrames<F> {
    fn total(&self) -> usize {
        self.inner.total()
    }
    fn free_now(&self) -> usize {
        self.inner.free_now()
    }
    fn is_ram(&self, frame: Pfn) -> bool {
        self.inner.is_ram(frame)
    }
    fn free_for(&self, want: Want) -> Option<usize> {
        self.inner.free_for(want)
    }
    fn alloc(&self, want: Want) -> Option<Pfn> {
        if self.faults.strike() { None } else { self.inner.alloc(want) }
    }
    unsafe fn free(&self, first: Pfn, order: u8) {
        // SAFETY: the caller's promise, passed on.
        unsafe { self.inner.free(first, order) }
    }
    fn alloc_bulk(&self, want: Want, into: &mut [Pfn]) -> usize {
        if self.faults.strike() { 0 } else { self.inner.alloc_bulk(want, into) }
    }
    unsafe fn free_bulk(&self, frames: &[Pfn]) {
        // SAFETY: the caller's promise, passed on.
        unsafe { self.inner.free_bulk(frames) }
    }
    fn nodes(&self) -> usize {
        self.inner.nodes()
    }
    fn highest_zone(&self) -> ZoneKind {
        self.inner.highest_zone()
    }
    fn end(&self) -> Pfn {
        self.inner.end()
    }
    fn is_out(&self, frame: Pfn) -> bool {
        self.inner.is_out(frame)
    }

    fn node_of(&self, frame: Pfn) -> Node {
        self.inner.node_of(frame)
    }
    fn page(&self, frame: Pfn) -> Option<&Page> {
        self.inner.page(frame)
    }
}
