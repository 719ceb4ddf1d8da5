//! Sums over areas: `/proc/meminfo`, pages by node, and who has how much.
//!
//! Nothing is counted on the way of an allocation: whoever asks goes through the areas. A
//! sum is no moment's picture, but each area in it lived at some moment of the walk.

use crate::host::Host;
use crate::kernel::Kernel;
use crate::vm_struct::VmStruct;
use core::fmt;
use vmalloc::area::RegionId;
use vmalloc::machine::Machine;
use vmalloc::machine::frames::Frames;
use vmalloc::units::{Node, PAGE_SIZE};
use vmalloc::{Caller, Kind};

/// What `/proc/meminfo` says of vmalloc, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemInfo {
    /// Addresses from VMALLOC_START to VMALLOC_END.
    pub vmalloc_total: usize,
    /// Pages that areas have as their own.
    pub vmalloc_used: usize,
    /// The widest hole. Linux says 0 here.
    pub vmalloc_chunk: usize,
}

impl fmt::Display for MemInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "VmallocTotal:   {:8} kB", self.vmalloc_total >> 10)?;
        writeln!(f, "VmallocUsed:    {:8} kB", self.vmalloc_used >> 10)?;
        writeln!(f, "VmallocChunk:   {:8} kB", self.vmalloc_chunk >> 10)
    }
}

/// Which areas a sum is about: those for which each field that is set holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Filter {
    /// Made by this caller.
    pub caller: Option<Caller>,
    /// Of this kind.
    pub kind: Option<Kind>,
    /// Only pages whose frames are of this node, and areas that have any.
    pub node: Option<Node>,
    /// Of so many bytes at least, as they were asked for.
    pub min_bytes: usize,
}

/// What the areas of one caller are together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Account {
    /// Who asked for them.
    pub caller: Caller,
    /// Areas.
    pub areas: usize,
    /// Pages that are their own.
    pub pages: usize,
    /// Bytes that were asked for.
    pub bytes: usize,
}

impl Account {
    /// Nobody's: what a table of accounts is filled with at first.
    pub const NONE: Account = Account { caller: Caller::Return(0), areas: 0, pages: 0, bytes: 0 };

    fn add(&mut self, pages: usize, bytes: usize) {
        self.areas += 1;
        self.pages += pages;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// What [`Kernel::account_by_caller`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Accounted {
    /// Accounts in the table, which are sorted by the callers' addresses.
    pub callers: usize,
    /// What belongs to callers that found no room in the table.
    pub rest: Account,
}

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// What `/proc/meminfo` says of vmalloc.
    ///
    /// # Cost
    /// O(areas), for the pages; the widest hole is O(1).
    pub fn meminfo(&self) -> MemInfo {
        let used: usize = self.vmlist().map(|area| area.nr_pages).sum();
        MemInfo {
            vmalloc_total: self.bounds().len(),
            vmalloc_used: used * PAGE_SIZE,
            vmalloc_chunk: self.vm.widest_hole(RegionId(0)).unwrap_or(0) * PAGE_SIZE,
        }
    }

    /// Pages of `node` that areas have as their own.
    ///
    /// # Cost
    /// O(pages). Source: `NR_VMALLOC`, by node.
    pub fn nr_vmalloc(&self, node: Node) -> usize {
        self.vmlist().map(|area| self.own_pages(&area, Some(node))).sum()
    }

    /// Sums the areas that `filter` names up by their callers, into `table`. Callers that find no
    /// room there are summed up together.
    ///
    /// # Cost
    /// O(log callers) an area, and O(pages) where the filter names a node.
    pub fn account_by_caller(&self, filter: &Filter, table: &mut [Account]) -> Accounted {
        let (mut callers, mut rest) = (0, Account::NONE);
        for info in
            self.vm.areas().filter(|info| info.kind != Kind::MapRam && is_wanted(filter, info.kind, info.caller))
        {
            let area = self.vm_struct(&info);
            let pages = self.own_pages(&area, filter.node);
            if area.requested_size < filter.min_bytes || (filter.node.is_some() && pages == 0) {
                continue;
            }
            let place = table[..callers].binary_search_by_key(&area.caller.address(), |known| known.caller.address());
            match place {
                Ok(place) => table[place].add(pages, area.requested_size),
                Err(place) if callers < table.len() => {
                    table[place..=callers].rotate_right(1);
                    table[place] = Account { caller: area.caller, ..Account::NONE };
                    table[place].add(pages, area.requested_size);
                    callers += 1;
                }
                Err(_) => rest.add(pages, area.requested_size),
            }
        }
        Accounted { callers, rest }
    }

    /// The area's own pages, or those of `node` among them.
    fn own_pages(&self, area: &VmStruct, node: Option<Node>) -> usize {
        let Some(node) = node else { return area.nr_pages };
        let frames = (0..area.nr_pages).filter_map(|page| self.vm.frame_at(area.addr + page * PAGE_SIZE));
        frames.filter(|&frame| self.machine().frames().node_of(frame) == node).count()
    }
}

fn is_wanted(filter: &Filter, kind: Kind, caller: Caller) -> bool {
    filter.kind.is_none_or(|wanted| wanted == kind) && filter.caller.is_none_or(|wanted| wanted == caller)
}
