//! The store: objects in frames of their own, the tree of them, and those that wait to be
//! scanned.
//!
//! # Rules
//! - **O1** What the tree, the list of waiting objects and an object's parts lead to is a record
//!   of the store, which its lock guards.
//! - **O3** An object that is freed while it waits stays a record until it is taken off the list.

use super::object::{Links, Object, ObjectRef, ScanArea};
use super::tree::Tree;
use crate::pool::Pool;
use core::ops::Range;
use vmalloc::machine::Machine;
use vmalloc::units::Pfn;

/// Objects and their parts.
pub(super) struct Store {
    tree: Tree,
    objects: Pool<Object>,
    parts: Pool<ScanArea>,
    grey: Option<ObjectRef>,
    serial: u64,
    /// The lowest start of all objects that there were, inverted, and their highest end: a detector that
    /// is a static lies in a root, and must not lead to an object itself.
    not_lowest: usize,
    highest: usize,
    len: usize,
}

// SAFETY: O1: the pointers lead to records in the store's own frames.
unsafe impl Send for Store {}

/// What an object that cannot be added overlaps.
#[derive(Debug)]
pub(super) struct Overlaps(pub(super) Range<usize>);

impl Store {
    pub(super) const fn new() -> Store {
        let (objects, parts) = (Pool::new(), Pool::new());
        Store { tree: Tree::new(), objects, parts, grey: None, serial: 0, not_lowest: 0, highest: 0, len: 0 }
    }

    /// Objects.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether a frame has to be given before an object can be added.
    pub(super) fn lacks_object(&self) -> bool {
        self.objects.is_empty()
    }

    /// Whether a frame has to be given before a part can be added.
    pub(super) fn lacks_part(&self) -> bool {
        self.parts.is_empty()
    }

    /// Gives the store a frame for objects (X2).
    pub(super) fn give_for_objects<M: Machine>(&mut self, machine: &M, frame: Pfn) {
        self.objects.give(machine, frame);
    }

    /// Gives the store a frame for parts (X2).
    pub(super) fn give_for_parts<M: Machine>(&mut self, machine: &M, frame: Pfn) {
        self.parts.give(machine, frame);
    }

    /// Adds an object; nothing is lacking.
    pub(super) fn add(&mut self, object: Object) -> Result<(), Overlaps> {
        if let Some(there) = self.tree.overlapping(object.start, object.size) {
            return Err(Overlaps(there.start..there.end()));
        }
        self.serial += 1;
        let (start, end) = (object.start, object.end());
        let fresh = Object { serial: self.serial, leaving: 0, areas: None, links: Links::default(), ..object };
        let Some(record) = self.objects.take(fresh) else { return Ok(()) };
        (self.not_lowest, self.highest) = (self.not_lowest.max(!start), self.highest.max(end));
        self.len += 1;
        // SAFETY: O1: it came from the pool.
        self.tree.add(unsafe { ObjectRef::new(record) });
        Ok(())
    }

    /// Takes an object out, and returns what was known of it, without its parts.
    pub(super) fn remove(&mut self, mut object: ObjectRef) -> Object {
        self.tree.remove(object);
        self.len -= 1;
        self.drop_parts(object);
        let copy = Object::clone(&object);
        if object.links.waits {
            object.links.gone = true;
        } else {
            self.give_back(object);
        }
        copy
    }

    fn give_back(&mut self, object: ObjectRef) {
        // SAFETY: X3: it came from there, and O3: nothing leads to it any more.
        drop(unsafe { self.objects.put(object.record()) });
    }

    fn drop_parts(&mut self, mut object: ObjectRef) {
        while let Some(part) = object.areas {
            // SAFETY: X3, O1: the part is the object's alone.
            object.areas = unsafe { self.parts.put(part) }.next;
        }
    }

    /// The object has so many bytes from here on, if it overlaps no other then (O2).
    pub(super) fn resize(&mut self, mut object: ObjectRef, size: usize) {
        let next = self.tree.at_or_above(object.start.saturating_add(1));
        let room = next.map_or(usize::MAX, |next| next.start - object.start);
        object.set_size(size.min(room));
        self.highest = self.highest.max(object.end());
    }

    /// Adds a part that is scanned to an object; nothing is lacking.
    pub(super) fn add_part(&mut self, mut object: ObjectRef, range: Range<usize>) {
        let part = ScanArea { range, next: object.areas };
        object.areas = self.parts.take(part).or(object.areas);
    }

    /// The object that starts at `at`.
    pub(super) fn get(&self, at: usize) -> Option<ObjectRef> {
        self.tree.get(at)
    }

    /// The object that holds `at`.
    pub(super) fn holding(&self, at: usize) -> Option<ObjectRef> {
        if (!self.not_lowest..self.highest).contains(&at) { self.tree.holding(at) } else { None }
    }

    /// An object that overlaps these bytes.
    pub(super) fn overlapping(&self, start: usize, size: usize) -> Option<ObjectRef> {
        self.tree.overlapping(start, size)
    }

    /// The first object that starts at or above `at`.
    pub(super) fn at_or_above(&self, at: usize) -> Option<ObjectRef> {
        self.tree.at_or_above(at)
    }

    /// The serial of the object that was added last.
    pub(super) fn latest(&self) -> u64 {
        self.serial
    }

    /// The object with this start and serial, if it is still there and is not being freed.
    pub(super) fn same(&self, start: usize, serial: u64) -> Option<ObjectRef> {
        self.get(start).filter(|object| object.serial == serial && object.leaving == 0)
    }

    /// Puts a grey object among those that wait to be scanned.
    pub(super) fn push_grey(&mut self, mut object: ObjectRef) {
        if !object.links.waits {
            object.links.waits = true;
            object.links.grey = self.grey.replace(object);
        }
    }

    /// The next object that waits.
    pub(super) fn pop_grey(&mut self) -> Option<ObjectRef> {
        while let Some(mut object) = self.grey {
            self.grey = object.links.grey.take();
            object.links.waits = false;
            if !object.links.gone {
                return Some(object);
            }
            self.give_back(object);
        }
        None
    }

    /// A word was found: if it leads into an object, that has one reference more, and waits to be
    /// scanned when it has enough. A reference of an object to itself is never one: only grey ones are scanned.
    pub(super) fn found(&mut self, word: usize) {
        let Some(mut object) = self.holding(word).filter(|object| object.is_white()) else { return };
        object.count += 1;
        if !object.is_white() {
            self.push_grey(object);
        }
    }

    /// Calls `give` for each frame. The store is empty then.
    pub(super) fn take_apart<M: Machine>(&mut self, machine: &M, give: &mut dyn FnMut(Pfn)) {
        self.objects.take_apart(machine, give);
        self.parts.take_apart(machine, give);
        *self = Store { serial: self.serial, ..Store::new() };
    }
}
