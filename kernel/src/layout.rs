//! Where the parts of a kernel's address space lie, computed from what the machine has and from
//! the parameters that it is booted with.
//!
//! ```text
//!   x86_32   user space · direct map · hole · vmalloc · pkmap · LDT · CPU-entry area · fixmap
//!   arm32    direct map · hole · vmalloc
//!   x86_64   direct map · vmalloc · vmemmap · kernel image · modules, with 4 and 5 levels
//!   arm64    linear map · modules · vmalloc · vmemmap, 4 KiB pages and 48 bits
//!   riscv    vmalloc · direct map, Sv39 and Sv48
//! ```
//!
//! Where addresses are few, memory and vmalloc compete for them: the direct map takes what is left
//! of the kernel's part, at most as much as there is memory. What it does not reach is **high
//! memory**. Where it ends is `high_memory`, and a hole of 8 MiB behind it catches accesses that
//! run over. So a machine with less memory has a larger vmalloc space, and `vmalloc=` takes
//! addresses from the direct map.
//!
//! Addresses are numbers of 64 bits, for a machine of any width tells of any other. Nothing here
//! touches memory.
//!
//! # Rules
//! - **A1** Parts are in the order of their addresses, none is empty, and no two overlap.
//! - **A2** All of memory is told: what the direct map reaches, what is high, what is not used.

mod arm32;
mod arm64;
mod riscv;
mod x86_32;
mod x86_64;

pub use arm32::Arm32;
pub use arm64::Arm64;
pub use riscv::Riscv;
pub use x86_32::X86_32;
pub use x86_64::X86_64;

use arrayvec::ArrayVec;
use core::fmt;

/// Parts of a layout at most.
pub const MAX_PARTS: usize = 8;

/// The name of what lies between two parts.
const HOLE: &str = "hole";

const PAGE: u64 = 4096;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const PIB: u64 = 1 << 50;

/// A part of an address space, or a hole between two parts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// What it is for.
    pub name: &'static str,
    /// Its first address.
    pub start: u64,
    /// The first address behind it.
    pub end: u64,
}

impl Part {
    const fn new(name: &'static str, start: u64, end: u64) -> Part {
        Part { name, start, end }
    }

    /// How many bytes it has.
    pub const fn bytes(&self) -> u64 {
        self.end - self.start
    }

    /// Whether it lies between two parts.
    pub fn is_hole(&self) -> bool {
        self.name == HOLE
    }
}

/// Which memory the direct map reaches, in bytes (A2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Memory {
    /// In the direct map.
    pub low: u64,
    /// Reached by mappings that are made for it.
    pub high: u64,
    /// Not used.
    pub unused: u64,
}

/// An address space.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    /// The machine.
    pub machine: &'static str,
    /// Its memory, where the layout depends on it.
    pub memory: Option<Memory>,
    parts: ArrayVec<Part, MAX_PARTS>,
}

impl Layout {
    /// `parts` are as A1 says; empty ones are left out.
    fn new(machine: &'static str, memory: Option<Memory>, parts: &[Part]) -> Layout {
        let parts: ArrayVec<Part, MAX_PARTS> = parts.iter().copied().filter(|part| part.start != part.end).collect();
        debug_assert!(parts.iter().all(|part| part.start < part.end), "A1: {parts:x?}");
        debug_assert!(parts.windows(2).all(|pair| pair[0].end <= pair[1].start), "A1: {parts:x?}");
        Layout { machine, memory, parts }
    }

    /// The parts, by address.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The part of that name.
    pub fn part(&self, name: &str) -> Option<Part> {
        self.parts.iter().copied().find(|part| part.name == name)
    }

    /// The addresses between parts, by address.
    pub fn holes(&self) -> impl Iterator<Item = Part> + '_ {
        self.all().filter(Part::is_hole)
    }

    /// Parts and holes, by address.
    pub fn all(&self) -> impl Iterator<Item = Part> + '_ {
        let with_hole = |(index, part): (usize, &Part)| {
            let below = index.checked_sub(1).map_or(part.start, |below| self.parts[below].end);
            [Part::new(HOLE, below, part.start), *part]
        };
        self.parts.iter().enumerate().flat_map(with_hole).filter(|part| part.start < part.end)
    }

    /// The first address behind the memory that the direct map reaches (`high_memory`).
    pub fn high_memory(&self) -> Option<u64> {
        let direct = self.part("direct map")?;
        self.memory.map(|_| direct.end)
    }
}

/// Why there is no layout with these parameters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LayoutError {
    /// The machine cannot name so much memory, or there is less than a page.
    Memory {
        /// Bytes asked for.
        bytes: u64,
        /// The most.
        most: u64,
    },
    /// `vmalloc=` is no size that leaves enough for the direct map.
    Vmalloc {
        /// Bytes asked for.
        bytes: u64,
        /// The least.
        least: u64,
        /// The most.
        most: u64,
    },
    /// `highmem=` leaves too little for the direct map.
    Highmem {
        /// Bytes asked for.
        bytes: u64,
        /// All memory.
        memory: u64,
        /// What has to be left of it.
        least_low: u64,
    },
    /// `highmem=`, in a kernel that has none.
    NoHighmem {
        /// Bytes asked for.
        bytes: u64,
    },
    /// Fixmap slots for so many CPUs leave no room for the rest.
    Cpus {
        /// CPUs asked for.
        cpus: u32,
        /// The most.
        most: u32,
    },
    /// Page tables of this machine have not so many levels.
    Levels {
        /// Levels asked for.
        levels: u8,
    },
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            LayoutError::Memory { bytes, most } => {
                write!(f, "{} of memory; from 4 KiB to {} can be named", Bytes(bytes), Bytes(most))
            }
            LayoutError::Vmalloc { bytes, least, most } => {
                let (bytes, least, most) = (Bytes(bytes), Bytes(least), Bytes(most));
                write!(f, "vmalloc= of {bytes}; from {least} to {most} leave a direct map")
            }
            LayoutError::Highmem { bytes, memory, least_low } => {
                let (bytes, memory, least) = (Bytes(bytes), Bytes(memory), Bytes(least_low));
                write!(f, "highmem= of {bytes}, with {memory} of memory; {least} have to be left for the direct map")
            }
            LayoutError::NoHighmem { bytes } => {
                write!(f, "highmem= of {}, in a kernel without high memory", Bytes(bytes))
            }
            LayoutError::Cpus { cpus, most } => write!(f, "{cpus} CPUs; the fixmap has slots for 1 to {most}"),
            LayoutError::Levels { levels } => write!(f, "{levels} levels; there are 4 or 5"),
        }
    }
}

impl core::error::Error for LayoutError {}

/// Bytes in the largest unit that leaves a whole number.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB"), (1, "bytes")];
        let fits = |(unit, _): &(u64, &str)| self.0 >= *unit && self.0.is_multiple_of(*unit);
        let (unit, name) = units.into_iter().find(fits).unwrap_or((1, "bytes"));
        write!(f, "{} {name}", self.0 / unit)
    }
}
