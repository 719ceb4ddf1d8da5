//! A stack of frame numbers that fills one bookkeeping frame.
//!
//! It grows downwards, so that what is on top lies in memory in the order in
//! which it will be popped:
//!
//! ```text
//!   next own at | . . . . | 7 8 9 3 1 |        pop() = 7, top(3) = [7, 8, 9]
//!                         at         509
//! ```
//!
//! # Contract
//! - **Q6** All calls that need a machine get the same one, and it outlives
//!   the stack. [`Held::adopt`] asks for it; everything above hands it on.

use crate::machine::Machine;
use crate::machine::frames::Frames;
use crate::machine::prealloc::Prealloc;
use crate::units::{PAGE_SIZE, Pfn};
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

/// Frame numbers that a stack has room for.
pub(super) const CAPACITY: usize = 509;

/// The contents of the bookkeeping frame. All bytes zero are a valid value.
#[repr(C, align(8))]
pub(super) struct Stack {
    /// The next stack of the depot's chain.
    next: Option<NonNull<Stack>>,
    /// The bookkeeping frame itself.
    own: Pfn,
    /// The place of the top in `frames`; CAPACITY = empty.
    at: usize,
    frames: [Pfn; CAPACITY],
}

const _: () = assert!(size_of::<Stack>() <= PAGE_SIZE);

impl Stack {
    #[inline(always)]
    pub fn len(&self) -> usize {
        CAPACITY - self.at
    }

    #[inline]
    pub fn pop(&mut self) -> Option<Pfn> {
        let frame = *self.frames.get(self.at)?;
        self.at += 1;
        Some(frame)
    }

    /// Panics when full.
    #[inline]
    pub fn push(&mut self, frame: Pfn) {
        let at = self.at - 1;
        self.frames[at] = frame;
        self.at = at;
    }

    /// The next `n` frames, in the order of `pop`. Panics if there are fewer.
    #[inline(always)]
    pub fn top(&self, n: usize) -> &[Pfn] {
        &self.frames[self.at..][..n]
    }

    /// Takes the next `n` off.
    #[inline(always)]
    pub fn drop_top(&mut self, n: usize) {
        debug_assert!(n <= self.len());
        self.at += n;
    }

    /// The `n` places above the top. Panics where there is no room for `n`.
    #[inline(always)]
    pub fn room(&mut self, n: usize) -> &mut [Pfn] {
        let start = self.at - n;
        &mut self.frames[start..self.at]
    }

    /// Of the `n` places above the top, the first `got` were written: these are
    /// on the stack then, the first on top.
    #[inline(always)]
    pub fn filled(&mut self, n: usize, got: usize) {
        if got < n && got > 0 {
            let start = self.at - n;
            self.frames.copy_within(start..start + got, self.at - got);
        }
        self.at -= got;
    }

    /// Lets `fill` write into the `n` places above the top and say how many it
    /// wrote.
    #[inline]
    pub fn fill(&mut self, n: usize, fill: impl FnOnce(&mut [Pfn]) -> usize) {
        let got = fill(self.room(n));
        self.filled(n, got);
    }

    /// Puts the frames of `other` on top, as many as there is room for.
    pub fn pour(&mut self, other: &mut Stack) {
        let n = other.len().min(self.at);
        self.fill(n, |places| {
            places.copy_from_slice(other.top(n));
            n
        });
        other.drop_top(n);
    }
}

/// The one pointer to a stack: whoever has it owns the stack.
pub(super) struct Held(NonNull<Stack>);

// SAFETY: it owns what it points to, and that is plain memory.
unsafe impl Send for Held {}

impl Held {
    /// Makes an empty stack of a frame in stock; `None` where there is none.
    ///
    /// # Safety
    /// Q6.
    pub unsafe fn adopt<M: Machine>(machine: &M, prealloc: &mut Prealloc) -> Option<Held> {
        let own = prealloc.take(machine)?;
        let stack = machine.virt(own).cast::<Stack>();
        // SAFETY: M2 (for as long as the machine lives: Q6); frames in stock
        // are cleared, and nobody else's once taken.
        unsafe {
            (*stack.as_ptr()).own = own;
            (*stack.as_ptr()).at = CAPACITY;
        }
        Some(Held(stack))
    }

    /// Gives the frames on the stack back to the source, and says how many.
    pub fn drain<M: Machine>(&mut self, machine: &M) -> usize {
        self.give_top(machine, self.len())
    }

    /// Gives the next `n` frames back to the source.
    pub fn give_top<M: Machine>(&mut self, machine: &M, n: usize) -> usize {
        // SAFETY: frames on a stack came from this source (Q6 and the
        // contract of `push`), and popping them gives up all use.
        unsafe { machine.frames().free_bulk(self.top(n)) }
        self.drop_top(n);
        n
    }

    /// Gives the frames and the stack itself back.
    pub fn destroy<M: Machine>(mut self, machine: &M) -> usize {
        let drained = self.drain(machine);
        // SAFETY: `adopt` got it from the stock, and `self` was its owner.
        unsafe { machine.frames().free(self.own, 0) }
        drained
    }

    /// Puts the stack at the head of a chain.
    pub fn chain(mut self, head: &mut Option<Held>) {
        self.next = head.take().map(|held| held.0);
        *head = Some(self);
    }

    /// Takes the head of a chain off.
    pub fn unchain(head: &mut Option<Held>) -> Option<Held> {
        let mut first = head.take()?;
        *head = first.next.take().map(Held);
        Some(first)
    }

    /// The stacks of a chain.
    pub fn chain_iter(head: &Option<Held>) -> impl Iterator<Item = &Stack> {
        core::iter::successors(head.as_deref(), |stack| {
            // SAFETY: a chain owns all its stacks, and we have borrowed it.
            stack.next.map(|next| unsafe { next.as_ref() })
        })
    }
}

impl Deref for Held {
    type Target = Stack;
    #[inline]
    fn deref(&self) -> &Stack {
        // SAFETY: `adopt` made it, and the memory is ours (M2, Q6).
        unsafe { self.0.as_ref() }
    }
}

impl DerefMut for Held {
    #[inline]
    fn deref_mut(&mut self) -> &mut Stack {
        // SAFETY: as above; there is one `Held` for each stack.
        unsafe { self.0.as_mut() }
    }
}
