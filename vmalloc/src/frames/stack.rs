//! A stack of frame numbers in one bookkeeping frame.
//!
//! The stack grows downwards, so that the top frames lie in memory in the order in which they are
//! popped:
//!
//! ```text
//!   next own at | . . . . | 7 8 9 3 1 |        pop() = 7, top(3) = [7, 8, 9]
//!                         at         509
//! ```
//!
//! # Contract
//! - **Q6** All calls that take a machine get the same one, and it outlives the stack.
//!   [`Held::adopt`] requires this, and so does every owner of a stack.

use crate::machine::Machine;
use crate::machine::frames::Frames;
use crate::machine::prealloc::Prealloc;
use crate::units::{PAGE_SIZE, Pfn};
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

/// The most frame numbers in a stack.
pub(super) const CAPACITY: usize = 509;

/// The contents of the bookkeeping frame. All bytes zero are a valid value.
#[repr(C, align(8))]
pub(super) struct Stack {
    /// The next stack of a depot's chain.
    next: Option<NonNull<Stack>>,
    /// The bookkeeping frame itself.
    own: Pfn,
    /// The index of the top in `frames`; CAPACITY if the stack is empty.
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

    /// Panics if the stack is full.
    #[inline]
    pub fn push(&mut self, frame: Pfn) {
        let at = self.at - 1;
        self.frames[at] = frame;
        self.at = at;
    }

    /// The next `n` frames in the order of `pop`. Panics if there are fewer.
    #[inline(always)]
    pub fn top(&self, n: usize) -> &[Pfn] {
        &self.frames[self.at..][..n]
    }

    /// Removes the top `n` frames.
    #[inline(always)]
    pub fn drop_top(&mut self, n: usize) {
        debug_assert!(n <= self.len());
        self.at += n;
    }

    /// The `n` places above the top. Panics if there is no room for `n`.
    #[inline(always)]
    pub fn room(&mut self, n: usize) -> &mut [Pfn] {
        let start = self.at - n;
        &mut self.frames[start..self.at]
    }

    /// Adds the first `got` of the `n` places above the top, which the caller has written. The
    /// first one becomes the top.
    #[inline(always)]
    pub fn filled(&mut self, n: usize, got: usize) {
        if got < n && got > 0 {
            let start = self.at - n;
            self.frames.copy_within(start..start + got, self.at - got);
        }
        self.at -= got;
    }

    /// Calls `fill` with the `n` places above the top; `fill` returns how many it wrote.
    #[inline]
    pub fn fill(&mut self, n: usize, fill: impl FnOnce(&mut [Pfn]) -> usize) {
        let got = fill(self.room(n));
        self.filled(n, got);
    }

    /// Moves the frames of `other` onto this stack, as many as fit.
    pub fn pour(&mut self, other: &mut Stack) {
        let n = other.len().min(self.at);
        self.fill(n, |places| {
            places.copy_from_slice(other.top(n));
            n
        });
        other.drop_top(n);
    }
}

/// The only pointer to a stack. Its holder owns the stack.
pub(super) struct Held(NonNull<Stack>);

// SAFETY: `Held` owns the memory that it points to, and that is plain memory.
unsafe impl Send for Held {}

impl Held {
    /// Makes an empty stack of a frame of the prealloc; `None` if the prealloc is empty.
    ///
    /// # Safety
    /// Q6.
    pub unsafe fn adopt<M: Machine>(machine: &M, prealloc: &mut Prealloc) -> Option<Held> {
        let own = prealloc.take(machine)?;
        let stack = machine.virt(own).cast::<Stack>();
        // SAFETY: M2, for as long as the machine lives (Q6). A frame of the prealloc is cleared,
        // and belongs to its taker.
        unsafe {
            (*stack.as_ptr()).own = own;
            (*stack.as_ptr()).at = CAPACITY;
        }
        Some(Held(stack))
    }

    /// Gives the top `n` frames back to the source. Returns `n`.
    pub fn give_top<M: Machine>(&mut self, machine: &M, n: usize) -> usize {
        // SAFETY: frames on a stack came from this source (Q6 and the contract of `push`), and
        // nobody uses them.
        unsafe { machine.frames().free_bulk(self.top(n)) }
        self.drop_top(n);
        n
    }

    /// Gives the frames and the stack itself back. Returns how many frames were on it.
    pub fn destroy<M: Machine>(mut self, machine: &M) -> usize {
        let given = self.give_top(machine, self.len());
        // SAFETY: `adopt` took it from the prealloc, and `self` was its only owner.
        unsafe { machine.frames().free(self.own, 0) }
        given
    }

    /// Adds the stack to the head of a chain.
    pub fn chain(mut self, head: &mut Option<Held>) {
        self.next = head.take().map(|held| held.0);
        *head = Some(self);
    }

    /// Takes the stack at the head of a chain.
    pub fn unchain(head: &mut Option<Held>) -> Option<Held> {
        let mut first = head.take()?;
        *head = first.next.take().map(Held);
        Some(first)
    }

    /// The stacks of a chain.
    pub fn chain_iter(head: &Option<Held>) -> impl Iterator<Item = &Stack> {
        core::iter::successors(head.as_deref(), |stack| {
            // SAFETY: a chain owns all of its stacks, and the chain is borrowed.
            stack.next.map(|next| unsafe { next.as_ref() })
        })
    }
}

impl Deref for Held {
    type Target = Stack;
    #[inline]
    fn deref(&self) -> &Stack {
        // SAFETY: `adopt` made it, and the memory is this stack's (M2, Q6).
        unsafe { self.0.as_ref() }
    }
}

impl DerefMut for Held {
    #[inline]
    fn deref_mut(&mut self) -> &mut Stack {
        // SAFETY: as above; each stack has one `Held`.
        unsafe { self.0.as_mut() }
    }
}
