//! Who is live while a trace is read: what a kernel could not have done is
//! refused.
//!
//! - Live areas do not overlap.
//! - What is freed is live, is named by its start, and has the size and kind
//!   that it was made with.
//! - A deferred area is given back once: by the free that follows.
//! - Short-lived mappings lie in live blocks, do not overlap, and are gone
//!   before their block is. Those that the trace says to have an area of their
//!   own lie in no other, and are that area.

use super::{AreaId, PAGE};
use crate::trace::error::Reason;
use crate::trace::{Alloc, Kind, Pcpu};
use std::collections::{BTreeMap, HashMap, VecDeque};

/// What is live at this point of the trace.
#[derive(Default)]
pub struct Live {
    areas: Ground,
    maps: Ground,
    chunks: HashMap<Pcpu, VecDeque<AreaId>>,
}

/// Addresses, and what lies where.
#[derive(Default)]
struct Ground {
    held: BTreeMap<u64, Held>,
    freed: HashMap<u64, usize>,
}

#[derive(Clone, Copy)]
struct Held {
    end: u64,
    id: AreaId,
    kind: Kind,
    since: usize,
    deferred: Option<usize>,
}

impl Live {
    /// The area `id` is made by line `line`.
    pub fn alloc(&mut self, line: usize, id: AreaId, alloc: &Alloc<'_>) -> Result<(), Reason> {
        let end = alloc.addr + alloc.size;
        self.areas.add(alloc.addr, Held { end, id, kind: alloc.kind, since: line, deferred: None })
    }

    /// Line `line` gives an area back: which, and whether that was deferred.
    pub fn free(&mut self, line: usize, addr: u64, size: u64, kind: Kind) -> Result<(AreaId, bool), Reason> {
        let held = *self.areas.at(addr)?;
        if held.end - addr != size {
            return Err(Reason::WrongSize { addr, has: held.end - addr, given: size, unit: "bytes" });
        }
        if held.kind != kind && held.kind != Kind::Unknown {
            return Err(Reason::WrongKind { addr });
        }
        if let Some((&mapping, _)) = self.maps.held.range(addr..held.end).next() {
            return Err(Reason::BlockInUse { addr, mapping });
        }
        self.areas.remove(line, addr);
        Ok((held.id, held.deferred.is_some()))
    }

    /// Line `line` gives an area back from interrupt context.
    pub fn defer(&mut self, line: usize, addr: u64) -> Result<AreaId, Reason> {
        let held = self.areas.at(addr)?;
        if let Some(since) = held.deferred.replace(line) {
            return Err(Reason::DeferredBefore { addr, since });
        }
        Ok(held.id)
    }

    /// The mapping `id` of `pages` pages is made by line `line`.
    pub fn map(&mut self, line: usize, id: AreaId, addr: u64, pages: u64) -> Result<(), Reason> {
        let end = addr + pages * PAGE;
        let block = self.areas.held.range(..=addr).next_back().filter(|(_, block)| end <= block.end);
        match block.map(|(_, block)| block.kind) {
            Some(kind @ (Kind::Block | Kind::Unknown)) => {
                self.maps.add(addr, Held { end, id, kind, since: line, deferred: None })
            }
            _ => Err(Reason::NoBlock { addr, end }),
        }
    }

    /// As [`Live::map`], in an area of its own.
    pub fn map_own(&mut self, line: usize, id: AreaId, addr: u64, pages: u64) -> Result<(), Reason> {
        let own = Held { end: addr + pages * PAGE, id, kind: Kind::Block, since: line, deferred: None };
        self.areas.add(addr, own)?;
        self.maps.add(addr, own)
    }

    /// Line `line` gives a mapping back.
    pub fn unmap(&mut self, line: usize, addr: u64, pages: u64) -> Result<AreaId, Reason> {
        let held = *self.maps.at(addr)?;
        let has = (held.end - addr) / PAGE;
        if has != pages {
            return Err(Reason::WrongSize { addr, has, given: pages, unit: "pages" });
        }
        self.maps.remove(line, addr);
        if self.areas.held.get(&addr).is_some_and(|area| area.id == held.id) {
            self.areas.remove(line, addr);
        }
        Ok(held.id)
    }

    /// The chunk `id` is made. The trace does not say where.
    pub fn add_chunk(&mut self, id: AreaId, shape: Pcpu) {
        self.chunks.entry(shape).or_default().push_back(id);
    }

    /// A chunk of this shape is given back: the oldest.
    pub fn remove_chunk(&mut self, shape: Pcpu) -> Result<AreaId, Reason> {
        self.chunks.get_mut(&shape).and_then(VecDeque::pop_front).ok_or(Reason::NoChunk)
    }
}

impl Ground {
    fn add(&mut self, addr: u64, new: Held) -> Result<(), Reason> {
        let below = self.held.range(..new.end).next_back();
        if let Some((&other, held)) = below.filter(|(_, held)| held.end > addr) {
            let (other_end, since) = (held.end, held.since);
            return Err(Reason::Overlap { addr, end: new.end, other, other_end, since });
        }
        self.freed.remove(&addr);
        self.held.insert(addr, new);
        Ok(())
    }

    fn at(&mut self, addr: u64) -> Result<&mut Held, Reason> {
        match self.held.range_mut(..=addr).next_back() {
            Some((&start, held)) if start == addr => Ok(held),
            Some((&start, held)) if addr < held.end => Err(Reason::NotItsStart { addr, start }),
            _ => Err(match self.freed.get(&addr) {
                Some(&at) => Reason::FreedBefore { addr, at },
                None => Reason::NeverAllocated { addr },
            }),
        }
    }

    fn remove(&mut self, line: usize, addr: u64) {
        self.held.remove(&addr);
        self.freed.insert(addr, line);
    }
}
