//! The tree of objects, by address: a treap.
//!
//! A search tree by the start of the objects that is a heap by a hash of it as well. So its
//! shape depends on nothing but which objects there are, and its depth is a few times log2 of
//! their number, with nothing to keep in balance.
//!
//! # Rules
//! - **O2** No two objects of the tree overlap.

use super::object::ObjectRef;

/// The tree.
#[derive(Default)]
pub(super) struct Tree {
    root: Option<ObjectRef>,
}

impl Tree {
    pub(super) const fn new() -> Tree {
        Tree { root: None }
    }

    /// The object that holds `at`.
    pub(super) fn holding(&self, at: usize) -> Option<ObjectRef> {
        self.at_or_below(at).filter(|object| at < object.end())
    }

    /// The object that starts at `at`.
    pub(super) fn get(&self, at: usize) -> Option<ObjectRef> {
        self.at_or_below(at).filter(|object| object.start == at)
    }

    /// An object that overlaps `size` bytes from `start` on.
    pub(super) fn overlapping(&self, start: usize, size: usize) -> Option<ObjectRef> {
        let end = start.saturating_add(size);
        self.at_or_below(end.saturating_sub(1)).filter(|object| object.end() > start)
    }

    fn at_or_below(&self, at: usize) -> Option<ObjectRef> {
        let (mut next, mut best) = (self.root, None);
        while let Some(object) = next {
            if object.start <= at {
                (best, next) = (Some(object), object.links.right);
            } else {
                next = object.links.left;
            }
        }
        best
    }

    /// The first object that starts at or above `at`.
    pub(super) fn at_or_above(&self, at: usize) -> Option<ObjectRef> {
        let (mut next, mut best) = (self.root, None);
        while let Some(object) = next {
            if object.start >= at {
                (best, next) = (Some(object), object.links.left);
            } else {
                next = object.links.right;
            }
        }
        best
    }

    /// Adds an object that overlaps no other (O2).
    pub(super) fn add(&mut self, object: ObjectRef) {
        self.root = Some(insert(self.root, object));
    }

    /// Takes an object out.
    pub(super) fn remove(&mut self, object: ObjectRef) {
        self.root = without(self.root, object);
    }
}

fn insert(root: Option<ObjectRef>, mut new: ObjectRef) -> ObjectRef {
    match root {
        Some(mut top) if priority(top) >= priority(new) => {
            if new.start < top.start {
                top.links.left = Some(insert(top.links.left, new));
            } else {
                top.links.right = Some(insert(top.links.right, new));
            }
            top
        }
        _ => {
            (new.links.left, new.links.right) = split(root, new.start);
            new
        }
    }
}

/// The objects below `at`, and the others.
fn split(root: Option<ObjectRef>, at: usize) -> (Option<ObjectRef>, Option<ObjectRef>) {
    let Some(mut top) = root else { return (None, None) };
    if top.start < at {
        let (below, rest) = split(top.links.right, at);
        top.links.right = below;
        (root, rest)
    } else {
        let (below, rest) = split(top.links.left, at);
        top.links.left = rest;
        (below, root)
    }
}

/// One tree of two, of which the first is below the second.
fn join(below: Option<ObjectRef>, above: Option<ObjectRef>) -> Option<ObjectRef> {
    let (Some(mut low), Some(mut high)) = (below, above) else { return below.or(above) };
    if priority(low) >= priority(high) {
        low.links.right = join(low.links.right, above);
        below
    } else {
        high.links.left = join(below, high.links.left);
        above
    }
}

fn without(root: Option<ObjectRef>, gone: ObjectRef) -> Option<ObjectRef> {
    let mut top = root?;
    if top == gone {
        return join(top.links.left, top.links.right);
    }
    if gone.start < top.start {
        top.links.left = without(top.links.left, gone);
    } else {
        top.links.right = without(top.links.right, gone);
    }
    root
}

/// Its place in the heap.
fn priority(object: ObjectRef) -> u64 {
    let mixed = (object.start as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}
