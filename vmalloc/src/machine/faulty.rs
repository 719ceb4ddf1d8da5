//! A machine that refuses on request: each fallible step can be made to fail.
//!
//! [`Faults`] counts the fallible steps of a machine; the n-th one after
//! [`Faults::fail_at`] is refused, or all from then on. Tests arm it with n = 1, 2, … until a run
//! comes through, and compare the state before and after each refusal.

use super::frames::{Frames, Page, Want};
use crate::gfp::ZoneKind;
use crate::sync::plain::{AtomicBool, AtomicU64, Ordering::SeqCst};
use crate::units::{Node, Pfn};

/// Decides which fallible step is refused.
#[derive(Debug, Default)]
pub struct Faults {
    /// Steps until the refusal; 0 = none armed.
    left: AtomicU64,
    /// All further steps are refused too.
    lasts: AtomicBool,
    hit: AtomicU64,
}

impl Faults {
    /// Nothing is refused.
    pub const fn new() -> Faults {
        Faults { left: AtomicU64::new(0), lasts: AtomicBool::new(false), hit: AtomicU64::new(0) }
    }

    /// The `n`-th fallible step from now is refused; 0 disarms.
    pub fn fail_at(&self, n: u64) {
        self.lasts.store(false, SeqCst);
        self.left.store(n, SeqCst);
    }

    /// The `n`-th fallible step from now and all after it are refused.
    pub fn fail_from(&self, n: u64) {
        self.lasts.store(true, SeqCst);
        self.left.store(n, SeqCst);
    }

    /// How many steps were refused so far.
    pub fn refused(&self) -> u64 {
        self.hit.load(SeqCst)
    }

    /// Asked at each fallible step: true = refuse it.
    pub fn strike(&self) -> bool {
        let least = self.lasts.load(SeqCst) as u64;
        let was = self.left.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1).map(|n| n.max(least)));
        let struck = was == Ok(1);
        self.hit.fetch_add(struck as u64, SeqCst);
        struck
    }
}

/// Frames that are refused when [`Faults`] says so.
#[derive(Debug, Default)]
pub struct FaultyFrames<F> {
    inner: F,
    /// The switch.
    pub faults: Faults,
}

impl<F> FaultyFrames<F> {
    /// `inner`, with nothing armed.
    pub const fn new(inner: F) -> FaultyFrames<F> {
        FaultyFrames { inner, faults: Faults::new() }
    }

    /// The frames underneath.
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
    fn alloc(&self, want: Want) -> Option<Pfn> {
        if self.faults.strike() { None } else { self.inner.alloc(want) }
    }
    unsafe fn free(&self, first: Pfn, order: u8) {
        // SAFETY: the caller's promise, handed on.
        unsafe { self.inner.free(first, order) }
    }
    fn alloc_bulk(&self, want: Want, into: &mut [Pfn]) -> usize {
        if self.faults.strike() { 0 } else { self.inner.alloc_bulk(want, into) }
    }
    unsafe fn free_bulk(&self, frames: &[Pfn]) {
        // SAFETY: the caller's promise, handed on.
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
