//! 32-bit x86: four parts above 3 GiB, low to high.
//!
//! ```text
//!   c0000000     direct map, up to high_memory
//!                8 MiB hole
//!   VMALLOC      up to PKMAP_BASE − 2 pages; without high memory LDT_BASE − 2 pages
//!   PKMAP_BASE   permanent kmap: a table of entries, 1,024, with PAE 512
//!   LDT_BASE
//!   CPU-entry area
//!   fixmap       up to fffff000
//! ```
//!
//! The upper bases are computed from the top: each is the one above it less a page, rounded down
//! to what a leaf table covers.

use super::{GIB, Layout, LayoutError, MIB, Memory, PAGE, Part};

/// 3 GiB are user space's, and 1 GiB is the kernel's.
const PAGE_OFFSET: u64 = 0xc000_0000;
/// The first address behind the fixmap.
pub(crate) const FIXADDR_TOP: u64 = 0xffff_f000;
/// Behind the direct map.
const HOLE: u64 = 8 * MIB;
/// What vmalloc and the hole get unless `vmalloc=` says otherwise.
const RESERVE: u64 = 128 * MIB;
/// Below the part that follows vmalloc.
const GAP: u64 = 2 * PAGE;
/// The least direct map that a parameter may leave.
const LEAST_LOW: u64 = 64 * MIB;
/// Fixmap slots that do not depend on the number of CPUs: 1 and on. Those of CPUs follow.
const COMMON_SLOTS: u64 = 128;
/// Fixmap slots of a CPU: those of kmap_local.
const CPU_SLOTS: u64 = 16;
/// CPUs for which the fixmap leaves room for the rest.
const MOST_CPUS: u32 = 512;

/// A 32-bit x86 machine, and what it is booted with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct X86_32 {
    /// Bytes of memory.
    pub memory: u64,
    /// `vmalloc=`: the bytes of vmalloc space; the hole comes on top.
    pub vmalloc: Option<u64>,
    /// `highmem=`: exactly so much memory is high, however much could be low.
    pub highmem: Option<u64>,
    /// Whether entries have 64 bits: three levels, 64 GiB of memory, leaf tables of 2 MiB.
    pub pae: bool,
    /// Whether the kernel serves high memory; without it memory that the direct map does not
    /// reach is not used, and there is no pkmap.
    pub has_highmem: bool,
    /// CPUs that the kernel has fixmap slots for.
    pub cpus: u32,
}

impl X86_32 {
    /// A machine with so much memory, booted without parameters, of 8 CPUs at most.
    pub const fn new(memory: u64) -> X86_32 {
        X86_32 { memory, vmalloc: None, highmem: None, pae: false, has_highmem: true, cpus: 8 }
    }

    /// Entries of the permanent kmap.
    pub const fn pkmap_entries(&self) -> u32 {
        if self.pae { 512 } else { 1024 }
    }

    /// Where the parts lie.
    ///
    /// # Errors
    /// [`LayoutError`] names the parameter, and what could be served.
    pub fn layout(&self) -> Result<Layout, LayoutError> {
        let tops = self.tops()?;
        let memory = self.split(self.most_low(&tops)?)?;
        let high_memory = PAGE_OFFSET + memory.low;
        let parts = [
            Part::new("user space", 0, PAGE_OFFSET),
            Part::new("direct map", PAGE_OFFSET, high_memory),
            Part::new("vmalloc", high_memory + HOLE, tops.vmalloc_end),
            Part::new("pkmap", tops.pkmap, tops.pkmap_end),
            Part::new("LDT", tops.ldt, tops.cpu_entry),
            Part::new("CPU-entry area", tops.cpu_entry, tops.fixmap - PAGE),
            Part::new("fixmap", tops.fixmap, FIXADDR_TOP),
        ];
        Ok(Layout::new(if self.pae { "x86-32 PAE" } else { "x86-32" }, Some(memory), &parts))
    }

    /// The bases above vmalloc.
    fn tops(&self) -> Result<Tops, LayoutError> {
        if !(1..=MOST_CPUS).contains(&self.cpus) {
            return Err(LayoutError::Cpus { cpus: self.cpus, most: MOST_CPUS });
        }
        let covered = if self.pae { 2 * MIB } else { 4 * MIB };
        let below = |next: u64| (next - PAGE) & !(covered - 1);
        let fixmap = FIXADDR_TOP - (COMMON_SLOTS + CPU_SLOTS * u64::from(self.cpus)) * PAGE;
        let cpu_entry = below(fixmap);
        let ldt = below(cpu_entry);
        let pkmap = if self.has_highmem { below(ldt) } else { ldt };
        let pkmap_end = if self.has_highmem { pkmap + u64::from(self.pkmap_entries()) * PAGE } else { pkmap };
        Ok(Tops { vmalloc_end: pkmap - GAP, pkmap, pkmap_end, ldt, cpu_entry, fixmap })
    }

    /// The largest direct map (`MAXMEM`).
    fn most_low(&self, tops: &Tops) -> Result<u64, LayoutError> {
        let room = tops.vmalloc_end - PAGE_OFFSET;
        let Some(vmalloc) = self.vmalloc else { return Ok(room - RESERVE) };
        let most = (room - HOLE - LEAST_LOW) & !(MIB - 1);
        if !(PAGE..=most).contains(&vmalloc) {
            return Err(LayoutError::Vmalloc { bytes: vmalloc, least: PAGE, most });
        }
        Ok(room - HOLE - vmalloc.next_multiple_of(PAGE))
    }

    /// Which memory is low, and which high.
    fn split(&self, most_low: u64) -> Result<Memory, LayoutError> {
        let most = if self.pae { 64 * GIB } else { 4 * GIB };
        if !(PAGE..=most).contains(&self.memory) {
            return Err(LayoutError::Memory { bytes: self.memory, most });
        }
        let memory = self.memory & !(PAGE - 1);
        let Some(highmem) = self.highmem else {
            let low = memory.min(most_low);
            let rest = memory - low;
            let high = if self.has_highmem { rest } else { 0 };
            return Ok(Memory { low, high, unused: rest - high });
        };
        if !self.has_highmem {
            return Err(LayoutError::NoHighmem { bytes: highmem });
        }
        let high = highmem & !(PAGE - 1);
        let left = memory.checked_sub(high).filter(|left| *left >= LEAST_LOW);
        let left = left.ok_or(LayoutError::Highmem { bytes: highmem, memory, least_low: LEAST_LOW })?;
        let low = left.min(most_low);
        Ok(Memory { low, high, unused: left - low })
    }
}

/// Bases above vmalloc, and where vmalloc and the pkmap end.
struct Tops {
    vmalloc_end: u64,
    pkmap: u64,
    pkmap_end: u64,
    ldt: u64,
    cpu_entry: u64,
    fixmap: u64,
}
