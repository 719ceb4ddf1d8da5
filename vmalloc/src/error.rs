//! Errors: enums that carry their numbers and say them.

use crate::area::{Info, Kind};
use crate::machine::Context;
use crate::units::{Node, Pfn, VirtAddr};
use core::fmt;

/// Why an allocation or a mapping was refused. Nothing has changed then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AllocError {
    /// Zero bytes were asked for.
    ZeroSize,
    /// More than there is memory (or address space) in all.
    TooLarge {
        /// Bytes asked for.
        bytes: usize,
        /// The most that could be had.
        limit: usize,
    },
    /// Not a power of two, or wider than the region.
    BadAlign(usize),
    /// The range does not lie in the region, or no such region.
    BadRange {
        /// First address asked for.
        start: usize,
        /// End of the range asked for.
        end: usize,
    },
    /// No hole in the region is wide enough.
    NoAddresses {
        /// Pages needed, guard included.
        pages: usize,
        /// Pages in the widest hole.
        widest: usize,
    },
    /// The frames ran out.
    NoFrames {
        /// Frames needed.
        wanted: usize,
        /// Frames that could be had.
        got: usize,
        /// The node asked.
        node: Node,
    },
    /// No frame for a page table or for bookkeeping.
    NoTables {
        /// Frames needed.
        wanted: usize,
        /// Frames that could be had.
        got: usize,
    },
    /// A page's entry was in use already: somebody else maps in the region.
    InUse(VirtAddr),
    /// A table above this page forbids writing or execution: the embedder's.
    Restricted(VirtAddr),
    /// A frame that no entry of the format can name.
    BadFrame(Pfn),
    /// A frame that an area is to take over is given twice: it could be given back
    /// once.
    SameFrame(Pfn),
    /// A frame that an area is to take over is none that the machine's source has
    /// given out.
    NotOut(Pfn),
    /// There is no such node.
    BadNode {
        /// The node asked of.
        node: Node,
        /// Nodes that there are.
        nodes: usize,
    },
    /// The memory could come from a flush, but the caller must not wait.
    WouldWait(Context),
    /// Not from here: an interrupted call on this CPU holds what is needed.
    WrongContext(Context),
    /// `init` has not been called.
    NotInitialised,
    /// The machine refused, with its own number.
    Refused(i32),
}

impl AllocError {
    /// The same error of a call that had `more` frames already.
    pub(crate) fn beyond(self, more: usize) -> AllocError {
        match self {
            AllocError::NoFrames { wanted, got, node } => {
                AllocError::NoFrames { wanted, got: (got + more).min(wanted - 1), node }
            }
            error => error,
        }
    }
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            AllocError::ZeroSize => f.write_str("an area of zero bytes"),
            AllocError::TooLarge { bytes, limit } => write!(f, "{bytes} bytes, but only {limit} could ever be had"),
            AllocError::BadAlign(align) => write!(f, "alignment {align}: not a power of two that fits the region"),
            AllocError::BadRange { start, end } => write!(f, "{start:#x}-{end:#x} is no range of the region"),
            AllocError::NoAddresses { pages, widest } => {
                write!(f, "no gap of {pages} pages; the widest is {widest} pages")
            }
            AllocError::NoFrames { wanted, got, node } => {
                write!(f, "out of memory: {wanted} frames wanted of node {}, {got} to be had", node.0)
            }
            AllocError::NoTables { wanted, got } => {
                write!(f, "out of memory for tables: {wanted} frames wanted, {got} to be had")
            }
            AllocError::InUse(at) => write!(f, "the page at {at} is mapped already, by somebody else"),
            AllocError::Restricted(at) => {
                write!(f, "a table above the page at {at}, of somebody else, forbids writing or execution")
            }
            AllocError::BadFrame(frame) => write!(f, "no entry can name {frame:?}"),
            AllocError::SameFrame(frame) => write!(f, "{frame:?} is given twice, and can be taken over once"),
            AllocError::NotOut(frame) => write!(f, "{frame:?} is no frame that was given out"),
            AllocError::BadNode { node, nodes } => write!(f, "no node {}: there are {nodes}", node.0),
            AllocError::WouldWait(context) => write!(f, "would have to wait for a flush, but runs in {context:?}"),
            AllocError::WrongContext(context) => write!(f, "this CPU is inside a call already ({context:?})"),
            AllocError::NotInitialised => f.write_str("the instance is not initialised"),
            AllocError::Refused(number) => write!(f, "the machine refused with error {number}"),
        }
    }
}

impl core::error::Error for AllocError {}

/// Why a free was refused. Nothing has changed then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FreeError {
    /// No area holds this address, and none did.
    NotAnArea(VirtAddr),
    /// An area holds it, but starts elsewhere.
    NotItsStart {
        /// The address given.
        addr: VirtAddr,
        /// The area's start.
        start: VirtAddr,
    },
    /// The area was freed before.
    ///
    /// Where two CPUs free one area at the same moment, one at least succeeds. Both may,
    /// if one of them is its owner: then the area is freed once, and the second free is
    /// logged when its owner finds it. A free of a dead address that races with the free
    /// of a new area in its place may make that one be refused, which changes nothing:
    /// it can be freed again.
    DoubleFree {
        /// The area's start.
        start: VirtAddr,
        /// The area as it was.
        was: Info,
    },
    /// The area is of another kind than the call frees.
    WrongKind(Kind),
    /// The page count differs from the one at the mapping.
    WrongSize {
        /// Pages of the area.
        pages: usize,
        /// Pages the call named.
        given: usize,
    },
    /// `init` has not been called.
    NotInitialised,
}

impl fmt::Display for FreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FreeError::NotAnArea(addr) => write!(f, "nonexistent area ({addr})"),
            FreeError::NotItsStart { addr, start } => {
                write!(f, "bad address ({addr}): {:#x} bytes into the area at {start}", addr.0 - start.0)
            }
            FreeError::DoubleFree { start, was } => {
                write!(f, "double free of {start}: {} bytes, allocated by {:?}", was.bytes, was.caller)?;
                was.freer.map_or(Ok(()), |by| write!(f, ", freed by {by:?}"))
            }
            FreeError::WrongKind(kind) => write!(f, "not for an area of kind {kind:?}"),
            FreeError::WrongSize { pages, given } => write!(f, "an area of {pages} pages, not {given}"),
            FreeError::NotInitialised => f.write_str("the instance is not initialised"),
        }
    }
}

impl core::error::Error for FreeError {}

/// What ran short, told to [`Machine::exhausted`](crate::machine::Machine).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shortage {
    /// Pages of address space.
    Addresses {
        /// Pages needed, guard included.
        pages: usize,
        /// Pages in the widest hole.
        widest: usize,
    },
    /// Frames.
    Frames(usize),
    /// Frames for tables or bookkeeping.
    Tables(usize),
}

/// A rule that `check` found broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Broken {
    /// The rule's name, as the module headers give it.
    pub rule: &'static str,
    /// Where: an address, an index, a frame number.
    pub at: usize,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {} is broken at {:#x}", self.rule, self.at)
    }
}

impl core::error::Error for Broken {}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::string::ToString;

    #[test]
    fn errors_say_their_numbers() {
        let e = AllocError::NoAddresses { pages: 9, widest: 4 };
        assert_eq!(e.to_string(), "no gap of 9 pages; the widest is 4 pages");
        let e = FreeError::NotItsStart { addr: VirtAddr(0x1010), start: VirtAddr(0x1000) };
        assert_eq!(e.to_string(), "bad address (0x1010): 0x10 bytes into the area at 0x1000");
    }
}
