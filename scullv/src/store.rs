//! What a device's lock guards: size, geometry, index, sets and quanta.
//!
//! # Rules
//! D1–D4 of the crate, and
//! - W1. A write into a hole prepares all that it needs, quantum, set and
//!   nodes, with the bytes in it, and then links it. A refusal, a fault in
//!   user memory among them, gives it back and has changed nothing.

use crate::error::{Error, NoPage};
use crate::geometry::{Geometry, MAX_SIZE, Place};
use crate::index::{Index, Stock};
use crate::memory::{Link, Memory, table_pages};
use crate::user::{Fault, User};
use vmalloc::error::Broken;
use vmalloc::machine::Addressable;
use vmalloc::units::PAGE_SIZE;
use vmalloc::{FrameRef, Vmalloc};

/// A device's bytes.
pub(crate) struct Store<'v, M: Addressable> {
    memory: Memory<'v, M>,
    geometry: Geometry,
    size: u64,
    index: Index,
    /// Pages held: quanta, sets and nodes.
    pages: usize,
    budget: usize,
}

/// What a write into a hole needs.
struct Need {
    item: u64,
    slot: usize,
    /// The set of the item, if there is one.
    set: Option<Link>,
    nodes: usize,
    pages: usize,
}

impl<'v, M: Addressable> Store<'v, M> {
    pub const fn new(vm: &'v Vmalloc<M>, geometry: Geometry, budget: usize) -> Store<'v, M> {
        Store { memory: Memory(vm), geometry, size: 0, index: Index::new(), pages: 0, budget }
    }

    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Copies out what is at `position`, to the end of its quantum at most.
    pub fn read(&self, position: u64, user: &mut impl User, to: usize, count: usize) -> Result<usize, Error> {
        let place = self.geometry.place(position);
        let Some(quantum) = self.quantum(place).filter(|_| position < self.size) else { return Ok(0) };
        let left = clip(self.size - position).min(quantum.len() - place.offset);
        let bytes = &quantum[place.offset..][..count.min(left)];
        user.copy_out(to, bytes)?;
        Ok(bytes.len())
    }

    /// Copies in what goes to `position`, to the end of its quantum at most.
    pub fn write(&mut self, position: u64, user: &mut impl User, from: usize, count: usize) -> Result<usize, Error> {
        if count == 0 {
            return Ok(0);
        }
        let room = MAX_SIZE.checked_sub(position).filter(|&room| room > 0).ok_or(Error::TooLarge)?;
        let place = self.geometry.place(position);
        let count = count.min(self.geometry.quantum() - place.offset).min(clip(room));
        let mut fill = |quantum: &mut [u8]| user.copy_in(from, &mut quantum[place.offset..][..count]);
        match self.quantum_mut(place) {
            Some(quantum) => fill(quantum)?,
            None => self.plant(place, fill)?,
        }
        self.size = self.size.max(position + count as u64);
        Ok(count)
    }

    /// Puts a quantum where there is a hole (W1).
    fn plant(&mut self, place: Place, fill: impl FnOnce(&mut [u8]) -> Result<(), Fault>) -> Result<(), Error> {
        let need = self.need(place);
        let left = self.budget - self.pages;
        if need.pages > left {
            return Err(Error::NoSpace { pages: need.pages, left });
        }
        let mut quantum = self.memory.quantum(self.geometry.quantum())?;
        fill(&mut quantum)?;
        let mut stock = Stock::lay_in(self.memory, need.nodes)?;
        let set = match need.set {
            Some(set) => set,
            None => {
                let set = self.memory.table(self.geometry.qset() as usize)?.into_link();
                self.index.plant(self.memory, need.item, set, &mut stock);
                set
            }
        };
        // Nothing from here on can fail.
        // SAFETY: B1: the item's set. B2: `self` is borrowed alone.
        let links = unsafe { self.links_mut(set) };
        links[need.slot] = Link::of_area(quantum.into_raw());
        self.pages += need.pages;
        Ok(())
    }

    fn need(&self, place: Place) -> Need {
        let set = self.index.set(self.memory, place.item);
        let (nodes, tables) = match set {
            Some(_) => (0, 0),
            None => {
                let nodes = self.index.missing(self.memory, place.item);
                (nodes, nodes + table_pages(self.geometry.qset() as usize))
            }
        };
        Need { item: place.item, slot: place.slot, set, nodes, pages: self.geometry.pages() + tables }
    }

    /// Empties the device, which is of `geometry` from now on.
    pub fn trim(&mut self, geometry: Geometry) {
        self.cut(0);
        self.geometry = geometry;
    }

    /// Makes the device end at `size`; what lies beyond is gone, and what is
    /// new is a hole.
    pub fn resize(&mut self, size: u64) {
        if size < self.size {
            let place = self.geometry.place(size);
            if let Some(last) = self.quantum_mut(place).filter(|_| place.offset > 0) {
                last[place.offset..].fill(0);
            }
            self.cut(size);
        }
        self.size = size;
    }

    /// Makes zeros of the bytes from `start` to `end`. With `frees` the quanta that lie there as a whole are
    /// given back, but for the last one of a set, which would be empty (D1).
    pub fn punch(&mut self, start: u64, end: u64, frees: bool) {
        let quantum = self.geometry.quantum() as u64;
        let mut at = start;
        while let Some((first, _)) = self.next_quantum(at).filter(|&(first, _)| first < end) {
            let next = first.saturating_add(quantum);
            let whole = start <= first && next <= end;
            if !(frees && whole && self.unplant(self.geometry.place(first))) {
                let (from, to) = (start.max(first) - first, end.min(next) - first);
                if let Some(bytes) = self.quantum_mut(self.geometry.place(first)) {
                    bytes[from as usize..to as usize].fill(0);
                }
            }
            at = next;
        }
    }

    /// Gives a quantum back, if it is not the only one of its set.
    fn unplant(&mut self, place: Place) -> bool {
        let (memory, geometry) = (self.memory, self.geometry);
        let Some(set) = self.index.set(memory, place.item) else { return false };
        // SAFETY: B1: the item's set. B2: `self` is borrowed alone.
        let links = unsafe { self.links_mut(set) };
        if links.iter().filter(|link| !link.is_none()).count() < 2 {
            return false;
        }
        self.pages -= free_quanta(memory, &mut links[place.slot..=place.slot], geometry.quantum()) * geometry.pages();
        true
    }

    /// Puts a quantum of zeros where `position` lies in a hole, and lets the device end at `size` at least,
    /// which lies beyond (D2). Returns where the next quantum begins.
    pub fn reserve(&mut self, position: u64, size: u64) -> Result<u64, Error> {
        let place = self.geometry.place(position);
        if self.quantum(place).is_none() {
            self.plant(place, |_| Ok(()))?;
        }
        self.size = self.size.max(size);
        Ok(self.geometry.position(place.item, place.slot).saturating_add(self.geometry.quantum() as u64))
    }

    /// Gives back every quantum that begins at or after `size`.
    fn cut(&mut self, size: u64) {
        let (memory, geometry) = (self.memory, self.geometry);
        let place = geometry.place(size);
        let (mut quanta, mut sets) = (0, 0);
        let keep = place.slot + usize::from(place.offset > 0);
        let nodes = self.index.cut(memory, place.item, &mut |item, set| {
            let keep = if item == place.item { keep } else { 0 };
            // SAFETY: B1: a set of this geometry (D4). B2: `self` is borrowed alone.
            let links = unsafe { memory.links_mut(set, geometry.qset() as usize) };
            quanta += free_quanta(memory, &mut links[keep..], geometry.quantum());
            let empty = links[..keep].iter().all(|link| link.is_none());
            if empty {
                sets += 1;
                // SAFETY: B1; the index clears the link to it.
                drop(unsafe { memory.unlinked(set, geometry.qset() as usize) });
            }
            empty
        });
        self.pages -= quanta * geometry.pages() + sets * table_pages(geometry.qset() as usize) + nodes;
        self.size = self.size.min(size);
    }

    /// A hold on the frame behind `position`.
    pub fn frame(&self, position: u64) -> Result<FrameRef<'v, M>, NoPage> {
        if position - position % PAGE_SIZE as u64 >= self.size {
            return Err(NoPage::BeyondSize);
        }
        let place = self.geometry.place(position);
        let quantum = self.quantum(place).ok_or(NoPage::Hole)?;
        let page = quantum[place.offset..].as_ptr().addr();
        self.memory.0.frame_ref(page).ok_or(NoPage::NotHeld)
    }

    /// The first quantum that begins at or after the one that holds
    /// `position`, by its place and its link.
    fn next_quantum(&self, position: u64) -> Option<(u64, Link)> {
        let place = self.geometry.place(position);
        let mut item = place.item;
        loop {
            let found = self.index.next(self.memory, item)?;
            let from = if found.item == place.item { place.slot } else { 0 };
            // SAFETY: B1: a set. B2: `self` is borrowed.
            let links = unsafe { self.links(found.set) };
            if let Some(slot) = (from..links.len()).find(|&slot| !links[slot].is_none()) {
                return Some((self.geometry.position(found.item, slot), links[slot]));
            }
            item = found.item + 1;
        }
    }

    /// Where the next data at or after `position` begins, below the size.
    pub fn next_data(&self, position: u64) -> Option<u64> {
        if position >= self.size {
            return None;
        }
        self.next_quantum(position).map(|(start, _)| start.max(position)).filter(|&at| at < self.size)
    }

    /// Where the next hole at or after `position` begins; one begins at the
    /// size.
    pub fn next_hole(&self, position: u64) -> Option<u64> {
        if position >= self.size {
            return None;
        }
        let mut at = position;
        while let Some((start, _)) = self.next_quantum(at).filter(|&(start, _)| start <= at) {
            at = start.saturating_add(self.geometry.quantum() as u64);
            if at >= self.size {
                break;
            }
        }
        Some(at.min(self.size))
    }

    /// The items: address of each, the set it has, and where that lies.
    pub fn items(&self) -> impl Iterator<Item = Item<'_>> {
        let first = self.index.next(self.memory, 0);
        let head = Item { at: core::ptr::from_ref(self.index.head()).addr(), set: 0, quanta: &[] };
        let head = first.is_none_or(|found| found.item > 0).then_some(head);
        let all = core::iter::successors(first, |found| self.index.next(self.memory, found.item + 1));
        head.into_iter().chain(all.map(|found| Item {
            at: core::ptr::from_ref(found.link).addr(),
            set: self.memory.start(found.set).addr(),
            // SAFETY: B1: a set. B2: `self` is borrowed.
            quanta: unsafe { self.links(found.set) },
        }))
    }

    /// Where a quantum begins.
    pub fn address(&self, quantum: Link) -> usize {
        self.memory.start(quantum).addr()
    }

    /// Compares what is counted with what is there.
    pub fn check(&self) -> Result<(), Broken> {
        let broken = |rule, at: u64| Err(Broken { rule, at: at as usize });
        let (nodes, sound) = self.index.census(self.memory);
        if !sound {
            return broken("D1", 0);
        }
        let (mut pages, mut item) = (nodes, 0);
        while let Some(found) = self.index.next(self.memory, item) {
            // SAFETY: B1: a set. B2: `self` is borrowed.
            let links = unsafe { self.links(found.set) };
            let quanta = links.iter().filter(|link| !link.is_none()).count();
            let last = links.iter().rposition(|link| !link.is_none());
            let Some(last) = last else { return broken("D1", found.item) };
            if self.geometry.position(found.item, last) >= self.size {
                return broken("D2", found.item);
            }
            pages += quanta * self.geometry.pages() + table_pages(links.len());
            item = found.item + 1;
        }
        if pages == self.pages && pages <= self.budget { Ok(()) } else { broken("D3", pages as u64) }
    }

    fn quantum(&self, place: Place) -> Option<&[u8]> {
        let set = self.index.set(self.memory, place.item)?;
        // SAFETY: B1: a set. B2: `self` is borrowed.
        let quantum = unsafe { self.links(set) }[place.slot];
        // SAFETY: B1: a quantum of this geometry (D4). B2: as above.
        (!quantum.is_none()).then(|| unsafe { self.memory.bytes(quantum, self.geometry.quantum()) })
    }

    fn quantum_mut(&mut self, place: Place) -> Option<&mut [u8]> {
        let set = self.index.set(self.memory, place.item)?;
        // SAFETY: B1: a set. B2: `self` is borrowed.
        let quantum = unsafe { self.links(set) }[place.slot];
        // SAFETY: B1: a quantum of this geometry (D4). B2: `self` is borrowed alone.
        (!quantum.is_none()).then(|| unsafe { self.memory.bytes_mut(quantum, self.geometry.quantum()) })
    }

    /// # Safety
    /// B1, B2.
    unsafe fn links(&self, set: Link) -> &[Link] {
        // SAFETY: the caller's, and D4.
        unsafe { self.memory.links(set, self.geometry.qset() as usize) }
    }

    /// # Safety
    /// B1, B2.
    unsafe fn links_mut(&mut self, set: Link) -> &mut [Link] {
        // SAFETY: the caller's, and D4.
        unsafe { self.memory.links_mut(set, self.geometry.qset() as usize) }
    }
}

impl<M: Addressable> Drop for Store<'_, M> {
    fn drop(&mut self) {
        self.cut(0);
    }
}

/// An item, for the listing.
pub(crate) struct Item<'t> {
    /// Where it lies: the link to its set stands for it.
    pub at: usize,
    /// Where its set lies; 0 for the head that has none.
    pub set: usize,
    pub quanta: &'t [Link],
}

/// Gives the quanta of these links back, and tells how many.
fn free_quanta<M: Addressable>(memory: Memory<'_, M>, links: &mut [Link], bytes: usize) -> usize {
    let mut freed = 0;
    for link in links.iter_mut().filter(|link| !link.is_none()) {
        let quantum = core::mem::take(link);
        // SAFETY: B1: a quantum of so many bytes (D4), and the link is cleared.
        unsafe { memory.free_quantum(quantum, bytes) };
        freed += 1;
    }
    freed
}

/// As many bytes as an address space has, at most.
fn clip(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
