//! The order of locks (L2): who holds which, and what that forbids.
//!
//! A lock does not know its machine, nor its CPU. But [`on`] is told at each pin and
//! whenever another CPU goes on, so what a host thread does is the running CPU's.
//!
//! # Rules, judged
//! - L2: Nobody holds two locks of the library's: region, depot and reserve are
//!   of one rank. Those of the source come after, and one at a time. Nothing is held
//!   where anybody waits, nor outside of pins.
//! - **F3** The source is not called under a lock of the library's.

use crate::judge::accuse;
use crate::section::{Tally, What};
use core::cell::{Cell, RefCell};

/// What is known of a CPU that this thread drives.
#[derive(Default)]
pub(crate) struct Driven {
    tally: Tally,
    /// The addresses of the locks that it holds.
    held: Vec<usize>,
    /// What the tally said when the first of them was taken.
    began: Tally,
    /// The most of each kind that was done under one, in this section.
    longest: Tally,
    /// Whether it has called the source, whose locks are its own.
    in_source: bool,
}

thread_local! {
    static RUNNING: Cell<u32> = const { Cell::new(0) };
    static DRIVEN: RefCell<Vec<Driven>> = const { RefCell::new(Vec::new()) };
}

/// From here on this thread drives `cpu`.
#[inline]
pub(crate) fn on(cpu: u32) {
    RUNNING.set(cpu);
}

fn with<T>(cpu: u32, f: impl FnOnce(&mut Driven) -> T) -> T {
    DRIVEN.with_borrow_mut(|driven| {
        let cpu = cpu as usize;
        if driven.len() <= cpu {
            driven.resize_with(cpu + 1, Driven::default);
        }
        f(&mut driven[cpu])
    })
}

/// No CPU that this thread drives holds anything.
pub(crate) fn forget() {
    DRIVEN.take();
}

/// The running CPU does `more` of `what`.
#[inline]
pub(crate) fn tell(what: What, more: u64) {
    with(RUNNING.get(), |driven| driven.tally.tell(what, more));
}

/// What `cpu` has done so far.
pub(crate) fn tally(cpu: u32) -> Tally {
    with(cpu, |driven| driven.tally)
}

/// `cpu` is interrupted by an NMI, which has a story of its own: that of before,
/// for [`resume`].
pub(crate) fn interrupt(cpu: u32) -> Driven {
    with(cpu, core::mem::take)
}

/// The NMI on `cpu` has ended.
pub(crate) fn resume(cpu: u32, before: Driven) {
    with(cpu, |driven| *driven = before);
}

/// The running CPU has taken a lock.
pub(crate) fn taken(lock: usize) {
    let cpu = RUNNING.get();
    let others = with(cpu, |driven| {
        if !driven.in_source {
            driven.tally.tell(What::Locked, 1);
        }
        driven.held.push(lock);
        if driven.held.len() == 1 {
            driven.began = driven.tally;
        }
        driven.held.len() - 1
    });
    if others > 0 {
        accuse(&format!("L2: CPU {cpu} takes a lock and holds {others} already"));
    }
}

/// A lock was given back.
pub(crate) fn left(lock: usize) {
    DRIVEN.with_borrow_mut(|driven| {
        let holder = driven.iter_mut().find(|cpu| cpu.held.contains(&lock));
        if let Some(holder) = holder {
            holder.held.retain(|&other| other != lock);
            if !holder.in_source {
                holder.longest = holder.longest.most(&holder.tally.since(&holder.began));
            }
        }
    });
}

/// The most of each kind that `cpu` has done under one lock since this was asked last.
pub(crate) fn longest_hold(cpu: u32) -> Tally {
    with(cpu, |driven| core::mem::take(&mut driven.longest))
}

/// Panics if `cpu` holds a lock where it may hold none.
pub(crate) fn nothing_is_held(cpu: u32, why: &str) {
    let held = with(cpu, |driven| driven.held.len());
    if held > 0 {
        accuse(&format!("L2: CPU {cpu} {why} and holds {held} locks"));
    }
}

/// The source is at work for a CPU until this is dropped.
pub(crate) struct InSource(u32);

/// The source is called, by `cpu`.
pub(crate) fn enter_source(cpu: u32) -> InSource {
    let held = with(cpu, |driven| driven.held.len());
    if held > 0 {
        accuse(&format!("F3: CPU {cpu} asks for frames, or gives some back, and holds a lock of the library's"));
    }
    with(cpu, |driven| {
        driven.tally.tell(What::Asked, 1);
        driven.in_source = true;
    });
    InSource(cpu)
}

impl Drop for InSource {
    fn drop(&mut self) {
        with(self.0, |driven| driven.in_source = false);
    }
}
