//! The search for the lowest free run of a given length.
//!
//! Windows are searched one after the other. A search from the start of one is one walk down. It enters the left half if that holds a
//! run long enough, else takes the run across the middle if that is long enough, else enters the
//! right half. A search from a later grain walks down to that grain, then up past everything to its
//! right, then down where a run is long enough. A search downwards is a bisection: each search from
//! a grain halves what is left.

use super::block::{Block, ITEMS, Span};
use super::node::{Node, State, lowest_run};
use super::{Arena, WINDOW};
use crate::machine::Machine;
use core::ops::ControlFlow::{self, Break, Continue};

/// The state of a search: `Break` with the start of the run, or `Continue` with the length of the
/// free run that ends where the search stands.
type Outcome = ControlFlow<u32, u32>;

impl Arena {
    /// The lowest start of `len` free grains of one window, at or after `from`.
    pub(super) fn seek<M: Machine>(&self, machine: &M, from: usize, len: usize) -> Option<usize> {
        let (first, from, windows) = (self.places.start, self.places.start + from, self.windows(machine));
        let place = (from / WINDOW..=self.last()).find_map(|n| self.seek_in(machine, (n, windows), from, len))?;
        Some(place - first)
    }

    /// As `seek`, in window `n` alone, and by places.
    pub(super) fn seek_in<M: Machine>(
        &self,
        machine: &M,
        (n, windows): (usize, Option<&Block>),
        from: usize,
        len: usize,
    ) -> Option<usize> {
        let (first, (top, root)) = (n * WINDOW, self.window(windows, n));
        let (end, from) = (self.places.end.saturating_sub(first).min(WINDOW), from.saturating_sub(first));
        if from >= end || len > (self.span.grains() - top.best) as usize {
            return None;
        }
        let (from, len) = (from as u32, len as u32);
        let start = match root.block(machine) {
            Some(block) if top != Node::FREE => {
                let root = Place { machine, block, span: self.span, base: 0 };
                if from == 0 { root.lowest(self.span.own(), len) } else { root.seek(from, len).break_value()? }
            }
            _ => (len <= end as u32 - from).then_some(from)?,
        };
        Some(first + start as usize)
    }

    /// The highest start of `len` free grains of one window, at or below `from`.
    pub(super) fn seek_down<M: Machine>(&self, machine: &M, from: usize, len: usize) -> Option<usize> {
        if self.seek(machine, from, len) == Some(from) {
            return Some(from);
        }
        let (first, from) = (self.places.start, self.places.start + from);
        let mut windows = (first / WINDOW..=self.last().min(from / WINDOW)).rev();
        windows.find_map(|n| self.last_in(machine, n, from, len)).map(|place| place - first)
    }

    /// As `seek_down`, in window `n` alone, and by places.
    fn last_in<M: Machine>(&self, machine: &M, n: usize, from: usize, len: usize) -> Option<usize> {
        // `low` is such a start, and none lies in `high..=from` of this window.
        let mut high = from.min(n * WINDOW + (WINDOW - 1)) + 1;
        let window = (n, self.windows(machine));
        let mut low = self.seek_in(machine, window, self.places.start, len).filter(|&start| start < high)?;
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match self.seek_in(machine, window, middle, len) {
                Some(start) if start < high => low = start,
                _ => high = middle,
            }
        }
        Some(low)
    }
}

/// A block on the way down. It is mixed: neither all free nor all taken.
struct Place<'a, M> {
    machine: &'a M,
    block: &'a Block,
    span: Span,
    /// The block's first grain, counted from the window's start.
    base: u32,
}

impl<'a, M: Machine> Place<'a, M> {
    /// The lower block behind item `item`. The node over it is mixed.
    fn below(&self, item: usize) -> Place<'a, M> {
        Place {
            machine: self.machine,
            block: self.block.item(item).block(self.machine).expect("A3: a mixed node has a block"),
            span: self.span.below(),
            base: self.first(ITEMS + item),
        }
    }

    /// The first grain of node `at`, counted from the window's start.
    fn first(&self, at: usize) -> u32 {
        self.base + self.span.start(at)
    }

    /// The start of the lowest `len` free grains under the mixed node `at`, which has such a run.
    fn lowest(mut self, mut at: usize, len: u32) -> u32 {
        let mut size = self.span.size(at);
        loop {
            while at < ITEMS {
                size /= 2;
                let (left, right) = self.block.pair(at);
                at *= 2;
                if size - left.best < len {
                    at += 1;
                    let before = size - left.tail;
                    if before + size - right.head >= len {
                        return self.first(at) - before;
                    }
                }
            }
            let item = at - ITEMS;
            if self.span.is_words() {
                let bit = lowest_run(!self.block.item(item).0, len);
                return self.first(at) + bit.expect("A1: the node knows of a run in its word");
            }
            if self.block.node(at) == Node::FREE {
                return self.first(at);
            }
            (self, at) = (self.below(item), 1);
        }
    }

    /// Searches for the lowest `len` free grains at or after the block's grain `from`. Continues
    /// with the free run at the block's end.
    fn seek(&self, from: u32, len: u32) -> Outcome {
        let at = ITEMS + self.span.item(from);
        let from_item = from - self.span.start(at);
        let run = if self.span.is_words() {
            self.seek_in_word(at, from_item, len)?
        } else {
            match self.block.node(at).state(self.span.item_size()) {
                Some(State::Free) => self.span.item_size() - from_item,
                Some(State::Taken) => 0,
                None => self.below(at - ITEMS).seek(from_item, len)?,
            }
        };
        if run >= len { Break(self.base + from) } else { self.seek_after(at, run, len) }
    }

    /// Goes on with `seek` after node `at`, at which a free run of `run` grains ends.
    fn seek_after(&self, mut at: usize, mut run: u32, len: u32) -> Outcome {
        while at > self.span.own() {
            let next = at + 1;
            if at.is_multiple_of(2) {
                let (node, size) = (self.block.node(next), self.span.size(next));
                if run + size - node.head >= len {
                    return Break(self.first(next) - run);
                }
                if size - node.best >= len {
                    return Break(Place { ..*self }.lowest(next, len));
                }
                run = if node == Node::FREE { run + size } else { size - node.tail };
            }
            at /= 2;
        }
        Continue(run)
    }

    /// Runs `seek` inside the word of node `at`, from its grain `from`.
    fn seek_in_word(&self, at: usize, from: u32, len: u32) -> Outcome {
        let free = !self.block.item(at - ITEMS).0 & (u64::MAX << from);
        match lowest_run(free, len) {
            Some(bit) => Break(self.first(at) + bit),
            None => Continue(free.leading_ones()),
        }
    }
}
