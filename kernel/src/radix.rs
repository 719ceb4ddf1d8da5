//! A map from page numbers to words, in frames: a radix tree.
//!
//! A node is a frame of words; the last level holds values, the others name nodes.
//! 0 is nothing. A node that was linked stays until the tree is taken apart: a kernel
//! uses the same addresses again and again.
//!
//! Nothing is allocated under the tree's lock. Whoever inserts asks before how many
//! frames are lacking ([`Radix::lacks`]), gives them, and then inserts, which cannot
//! fail.
//!
//! # Locks
//! None: the owner's.
//!
//! # Contract
//! - **X1** The machine is the same for ever, and frames given to the tree are the
//!   tree's, cleared, and reached by the direct mapping.

use arrayvec::ArrayVec;
use core::ptr::NonNull;
use vmalloc::machine::Machine;
use vmalloc::units::{PAGE_SHIFT, PAGE_SIZE, Pfn};

/// log2 of the words in a node.
const BITS: u32 = PAGE_SHIFT - size_of::<usize>().trailing_zeros();
const WORDS: usize = 1 << BITS;
/// Bits of a page number that tell pages apart: with five levels of tables those of
/// 57-bit addresses.
const KEY_BITS: u32 = if usize::BITS == 64 { 57 - PAGE_SHIFT } else { usize::BITS - PAGE_SHIFT };
const LEVELS: usize = KEY_BITS.div_ceil(BITS) as usize;

/// The tree.
#[derive(Debug)]
pub(crate) struct Radix {
    root: Option<Pfn>,
    spare: ArrayVec<Pfn, LEVELS>,
}

/// A page's number, as the tree counts: equal for no two canonical addresses.
pub(crate) fn key_of(at: usize) -> usize {
    (at >> PAGE_SHIFT) & ((1 << KEY_BITS) - 1)
}

impl Radix {
    pub(crate) const fn new() -> Radix {
        Radix { root: None, spare: ArrayVec::new_const() }
    }

    /// Frames that are lacking to insert at `key`.
    pub(crate) fn lacks<M: Machine>(&self, machine: &M, key: usize) -> usize {
        let mut node = self.root;
        let mut linked = 0;
        while let Some(frame) = node {
            linked += 1;
            node = if linked == LEVELS { None } else { child(Node::at(machine, frame).read(index(key, linked))) };
        }
        (LEVELS - linked).saturating_sub(self.spare.len())
    }

    /// Gives the tree a cleared frame (X1); `Err` = it has enough.
    pub(crate) fn give(&mut self, frame: Pfn) -> Result<(), Pfn> {
        self.spare.try_push(frame).map_err(|full| full.element())
    }

    /// The value at `key`; 0 = none.
    pub(crate) fn get<M: Machine>(&self, machine: &M, key: usize) -> usize {
        self.leaf(machine, key).map_or(0, |leaf| leaf.read(index(key, LEVELS)))
    }

    /// Sets the value at `key`, and returns the one before. Of a value that is not 0
    /// nothing may be lacking.
    pub(crate) fn set<M: Machine>(&mut self, machine: &M, key: usize, value: usize) -> usize {
        let Some(root) = self.root.or_else(|| self.spare.pop()) else { return 0 };
        self.root = Some(root);
        let mut node = Node::at(machine, root);
        for level in 1..LEVELS {
            let at = index(key, level);
            let next = match child(node.read(at)) {
                Some(next) => next,
                None if value == 0 => return 0,
                None => {
                    debug_assert!(!self.spare.is_empty(), "`lacks` was asked");
                    let Some(next) = self.spare.pop() else { return 0 };
                    node.write(at, link(next));
                    next
                }
            };
            node = Node::at(machine, next);
        }
        let was = node.read(index(key, LEVELS));
        node.write(index(key, LEVELS), value);
        was
    }

    /// The value of the last key at or below `key`, of those at most `span` below it.
    ///
    /// # Cost
    /// A descent, and a word a key; one descent more for each leaf that it goes on to.
    pub(crate) fn at_or_below<M: Machine>(&self, machine: &M, key: usize, span: usize) -> Option<usize> {
        let lowest = key.saturating_sub(span);
        let mut key = key;
        loop {
            let first = (key & !(WORDS - 1)).max(lowest);
            if let Some(leaf) = self.leaf(machine, key) {
                let words = (index(first, LEVELS)..=index(key, LEVELS)).rev().map(|at| leaf.read(at));
                if let Some(value) = words.into_iter().find(|&value| value != 0) {
                    return Some(value);
                }
            }
            key = first.checked_sub(1).filter(|&key| key >= lowest)?;
        }
    }

    /// The node that holds the value of `key`, where there is one.
    fn leaf<M: Machine>(&self, machine: &M, key: usize) -> Option<Node> {
        let mut node = Node::at(machine, self.root?);
        for level in 1..LEVELS {
            node = Node::at(machine, child(node.read(index(key, level)))?);
        }
        Some(node)
    }

    /// The first value, in the order of keys.
    pub(crate) fn first<M: Machine>(&self, machine: &M) -> Option<usize> {
        first_in(machine, self.root?, 1)
    }

    /// Takes the tree apart: calls `give` for each of its frames.
    pub(crate) fn take_apart<M: Machine>(&mut self, machine: &M, give: &mut dyn FnMut(Pfn)) {
        if let Some(root) = self.root.take() {
            free_node(machine, root, 1, give);
        }
        self.spare.drain(..).for_each(give);
    }
}

/// Which word of a node of `level` leads to `key`.
fn index(key: usize, level: usize) -> usize {
    key >> ((LEVELS - level) as u32 * BITS) & (WORDS - 1)
}

fn link(frame: Pfn) -> usize {
    (frame.0 as usize) << 1 | 1
}

fn child(word: usize) -> Option<Pfn> {
    (word & 1 != 0).then_some(Pfn(word as u64 >> 1))
}

/// A node, for whoever holds the owner's lock.
struct Node(NonNull<usize>);

impl Node {
    /// The node in `frame`, which is one of the tree's.
    fn at<M: Machine>(machine: &M, frame: Pfn) -> Node {
        Node(machine.virt(frame).cast())
    }

    fn read(&self, at: usize) -> usize {
        debug_assert!(at < WORDS && WORDS * size_of::<usize>() == PAGE_SIZE);
        // SAFETY: X1: the frame is a node, in which the word lies, and the owner's lock
        // keeps others out.
        unsafe { self.0.add(at).read() }
    }

    fn write(&self, at: usize, value: usize) {
        debug_assert!(at < WORDS);
        // SAFETY: X1, as for reading.
        unsafe { self.0.add(at).write(value) }
    }
}

fn first_in<M: Machine>(machine: &M, frame: Pfn, level: usize) -> Option<usize> {
    let node = Node::at(machine, frame);
    let mut words = (0..WORDS).map(|at| node.read(at)).filter(|&word| word != 0);
    if level == LEVELS { words.next() } else { words.find_map(|word| first_in(machine, child(word)?, level + 1)) }
}

fn free_node<M: Machine>(machine: &M, frame: Pfn, level: usize, give: &mut dyn FnMut(Pfn)) {
    let node = Node::at(machine, frame);
    if level < LEVELS {
        let children = (0..WORDS).filter_map(|at| child(node.read(at)));
        children.for_each(|next| free_node(machine, next, level + 1, give));
    }
    give(frame);
}
