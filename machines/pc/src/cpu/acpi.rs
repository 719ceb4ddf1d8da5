//! ACPI's tables: which CPUs and which memory nodes there are.
//!
//! ```text
//!   RSDP ─▶ XSDT (8-byte pointers) or RSDT (4-byte) ─▶ MADT: CPUs
//!                                                  └─▶ SRAT: nodes of CPUs, of memory
//! ```
//!
//! Nothing but these two is read. A table that is too short or whose sum is
//! wrong counts as absent; without a MADT there is the boot CPU alone.
//!
//! # Source
//! ACPI 6.4 §5.2.5 (RSDP), §5.2.7–8, §5.2.12 (MADT), §5.2.16 (SRAT).

use super::MAX;
use crate::memory;
use arrayvec::ArrayVec;
use core::ops::Range;
use vmalloc::frames::MAX_NODES;
use vmalloc::units::Node;

/// Ranges of memory with a node, at most.
const MAX_MEMORY: usize = 32;
/// Bytes of a table's header.
const HEADER: usize = 36;

/// A CPU that may be started.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Its interrupt controller's number.
    pub apic: u32,
    /// Its memory node.
    pub node: Node,
}

/// What the tables say.
#[derive(Debug, Default)]
pub struct Topology {
    cpus: ArrayVec<Found, MAX>,
    memory: ArrayVec<(Range<u64>, Node), MAX_MEMORY>,
}

impl Topology {
    /// The CPUs, by index: the boot CPU first.
    pub fn cpus(&self) -> &[Found] {
        &self.cpus
    }

    /// The node of the memory at `at`, and where the next node may begin.
    pub fn node_at(&self, at: u64) -> (Node, u64) {
        let inside = self.memory.iter().find(|(range, _)| range.contains(&at));
        let next = self.memory.iter().map(|(range, _)| range.start).filter(|&start| start > at).min();
        match inside {
            Some((range, node)) => (*node, range.end),
            None => (Node(0), next.unwrap_or(u64::MAX)),
        }
    }

    /// Puts the boot CPU, of this number, first.
    pub fn boot_first(&mut self, apic: u32) {
        match self.cpus.iter().position(|cpu| cpu.apic == apic) {
            Some(at) => self.cpus[..=at].rotate_right(1),
            None => self.cpus.clear(),
        }
    }

    fn add_cpu(&mut self, apic: u32, flags: u32) {
        const ENABLED: u32 = 1;
        if flags & ENABLED != 0 && !self.cpus.is_full() {
            self.cpus.push(Found { apic, node: Node(0) });
        }
    }

    fn add_node_of_cpu(&mut self, apic: u32, domain: u32, flags: u32) {
        if let Some(cpu) = self.cpus.iter_mut().find(|cpu| cpu.apic == apic && flags & 1 != 0) {
            cpu.node = node(domain);
        }
    }

    fn add_memory(&mut self, range: Range<u64>, domain: u32, flags: u32) {
        if flags & 1 != 0 && !range.is_empty() && !self.memory.is_full() {
            self.memory.push((range, node(domain)));
        }
    }

    /// Entries of the MADT: 0 = local APIC, 9 = local x2APIC.
    fn read_madt(&mut self, table: Table) {
        for entry in table.entries(44) {
            match entry.byte(0) {
                0 => self.add_cpu(entry.byte(3) as u32, entry.u32(4)),
                9 => self.add_cpu(entry.u32(4), entry.u32(8)),
                _ => (),
            }
        }
    }

    /// Entries of the SRAT: 0 = a CPU, 1 = memory, 2 = a CPU with an x2APIC.
    fn read_srat(&mut self, table: Table) {
        for entry in table.entries(48) {
            match entry.byte(0) {
                // The domain's upper bytes are elsewhere, and zero for those
                // that are served.
                0 => self.add_node_of_cpu(entry.byte(3) as u32, entry.byte(2) as u32, entry.u32(4)),
                1 => {
                    let (start, bytes) = (entry.u64(8), entry.u64(16));
                    self.add_memory(start..start.saturating_add(bytes), entry.u32(2), entry.u32(28));
                }
                2 => self.add_node_of_cpu(entry.u32(8), entry.u32(4), entry.u32(12)),
                _ => (),
            }
        }
    }
}

fn node(domain: u32) -> Node {
    Node(if (domain as usize) < MAX_NODES { domain as u8 } else { 0 })
}

/// Reads the tables; `cover` makes a range of memory reachable.
pub fn read(rsdp: Option<u64>, cover: &mut dyn FnMut(Range<u64>)) -> Topology {
    let mut topology = Topology::default();
    let Some(root) = rsdp.and_then(|at| root(at, cover)) else { return topology };
    let (root, width) = root;
    let pointers = (HEADER..root.bytes.len()).step_by(width);
    let pointers = pointers.map(|at| if width == 8 { root.u64(at) } else { root.u32(at) as u64 });
    let tables: ArrayVec<Table, 32> = pointers.take(32).filter_map(|at| Table::at(at, cover)).collect();
    let named = |name: &[u8]| tables.iter().copied().find(|table| &table.bytes[..4] == name);
    named(b"APIC").into_iter().for_each(|madt| topology.read_madt(madt));
    named(b"SRAT").into_iter().for_each(|srat| topology.read_srat(srat));
    topology
}

/// The table of tables, and the width of its pointers.
fn root(rsdp: u64, cover: &mut dyn FnMut(Range<u64>)) -> Option<(Table, usize)> {
    cover(rsdp..rsdp + 36);
    let rsdp = Table { bytes: memory::slice(rsdp..rsdp + 36) };
    if &rsdp.bytes[..8] != b"RSD PTR " {
        return None;
    }
    let new = (rsdp.byte(15) >= 2 && rsdp.u64(24) != 0).then(|| Table::at(rsdp.u64(24), cover)).flatten();
    let old = || Table::at(rsdp.u32(16) as u64, cover).map(|table| (table, 4));
    new.map(|table| (table, 8)).or_else(old)
}

/// A table, or an entry of one.
#[derive(Clone, Copy)]
struct Table {
    bytes: &'static [u8],
}

impl Table {
    /// The table at `at`, if its sum is right.
    fn at(at: u64, cover: &mut dyn FnMut(Range<u64>)) -> Option<Table> {
        cover(at..at + HEADER as u64);
        let len = Table { bytes: memory::slice(at..at + HEADER as u64) }.u32(4) as u64;
        if !(HEADER as u64..1 << 20).contains(&len) {
            return None;
        }
        cover(at..at + len);
        let bytes = memory::slice(at..at + len);
        (bytes.iter().fold(0, |sum: u8, &byte| sum.wrapping_add(byte)) == 0).then_some(Table { bytes })
    }

    /// Its entries from `at` on: each begins with its kind and its length.
    fn entries(self, mut at: usize) -> impl Iterator<Item = Table> {
        core::iter::from_fn(move || {
            let len = *self.bytes.get(at + 1)? as usize;
            let bytes = self.bytes.get(at..at + len).filter(|entry| entry.len() >= 2)?;
            at += len;
            Some(Table { bytes })
        })
    }

    /// The byte at `at`; 0 where the table is too short, here and below.
    fn byte(self, at: usize) -> u8 {
        self.bytes.get(at).copied().unwrap_or(0)
    }

    fn u32(self, at: usize) -> u32 {
        u32::from_le_bytes(core::array::from_fn(|i| self.byte(at + i)))
    }

    fn u64(self, at: usize) -> u64 {
        u64::from_le_bytes(core::array::from_fn(|i| self.byte(at + i)))
    }
}
