//! Errors: enums that carry their numbers and print them.

use crate::area::{Info, Kind, RegionId};
use crate::machine::Context;
use crate::units::{Node, Pfn, VirtAddr};
use core::fmt;

/// The reason why an allocation or a mapping was refused. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AllocError {
    /// The request was for zero bytes.
    ZeroSize,
    /// The request is larger than the memory, or than the address space.
    TooLarge {
        /// The bytes of the request.
        bytes: usize,
        /// The largest size that would be accepted.
        limit: usize,
    },
    /// The alignment is no power of two, or is wider than the region.
    BadAlign(usize),
    /// There is no such region.
    NoRegion {
        /// The region of the request.
        region: RegionId,
        /// The number of regions.
        regions: usize,
    },
    /// The range does not lie in the region.
    BadRange {
        /// The first address of the request.
        start: VirtAddr,
        /// The end of the range of the request.
        end: VirtAddr,
    },
    /// No hole in the region is wide enough.
    NoAddresses {
        /// The pages needed, including the guard.
        pages: usize,
        /// The pages of the widest hole in the range of the request.
        widest: usize,
    },
    /// There are not enough frames.
    NoFrames {
        /// The number of frames needed.
        wanted: usize,
        /// The number of frames found in the zones and nodes of the request, if the source knows.
        got: Option<usize>,
        /// The node of the request, if it names one.
        node: Option<Node>,
    },
    /// There is no frame for a page table or for bookkeeping.
    NoTables {
        /// The number of frames needed.
        wanted: usize,
        /// The number of frames found with a direct mapping, if the source knows.
        got: Option<usize>,
    },
    /// The entry of this page was in use: somebody else maps in the region.
    InUse(VirtAddr),
    /// A table of the embedder's above this page forbids writing or execution.
    Restricted(VirtAddr),
    /// This page is not mapped, or its entry is none that the library writes.
    NotMapped(VirtAddr),
    /// Stores and execution at once, without [`Prot::BOTH`](crate::machine::format::Prot::BOTH).
    WriteExec,
    /// No entry of the format can name this frame.
    BadFrame(Pfn),
    /// This frame is RAM, and a device was asked for.
    IsRam(Pfn),
    /// This frame is RAM where the first one is none, or none where the first one is.
    Mixed(Pfn),
    /// The area would own this frame twice, but could free it only once.
    SameFrame(Pfn),
    /// The area would own this frame, but the machine's source has not allocated it.
    NotOut(Pfn),
    /// The machine cannot map a frame at a second address ([`Machine::ALIASES`]): the call maps
    /// frames that its caller names. Allocate an area and copy into it, or use another machine.
    ///
    /// [`Machine::ALIASES`]: crate::machine::Machine::ALIASES
    NoAliases,
    /// There is no such node.
    BadNode {
        /// The node of the request.
        node: Node,
        /// The number of nodes.
        nodes: usize,
    },
    /// A flush would give back what is short, but the caller must not wait for it.
    WouldWait(Context, Shortage),
    /// The call is not possible here: it has interrupted another call on this CPU, which holds what
    /// it needs; or it waits for a flush, and the caller must not.
    WrongContext(Context),
    /// `init` has not been called, or the instance is that of a parent process.
    NotInitialised,
    /// The machine refused, with its own error number.
    Refused(i32),
}

impl AllocError {
    /// The same error of a call that already had `more` frames.
    pub(crate) fn beyond(self, more: usize) -> AllocError {
        match self {
            AllocError::NoFrames { wanted, got, node } => {
                AllocError::NoFrames { wanted, got: got.map(|got| (got + more).min(wanted - 1)), node }
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
            AllocError::NoRegion { region, regions } => write!(f, "no region {}: there are {regions}", region.0),
            AllocError::BadRange { start, end } => write!(f, "{start}-{end} is no range of the region"),
            AllocError::NoAddresses { pages, widest } => {
                write!(f, "no gap of {pages} pages; the widest is {widest} pages")
            }
            AllocError::NoFrames { wanted, got, node } => {
                write!(f, "out of memory: {wanted} frames wanted")?;
                node.map_or(Ok(()), |node| write!(f, " of node {}", node.0))?;
                to_be_had(got, f)
            }
            AllocError::NoTables { wanted, got } => {
                write!(f, "out of memory for tables: {wanted} frames wanted")?;
                to_be_had(got, f)
            }
            AllocError::InUse(at) => write!(f, "the page at {at} is mapped already, by somebody else"),
            AllocError::Restricted(at) => {
                write!(f, "a table above the page at {at}, of somebody else, forbids writing or execution")
            }
            AllocError::NotMapped(at) => write!(f, "the page at {at} is not mapped"),
            AllocError::WriteExec => f.write_str("to be written and executed at once, which has to be asked for"),
            AllocError::BadFrame(frame) => write!(f, "no entry can name {frame:?}"),
            AllocError::IsRam(frame) => write!(f, "{frame:?} is RAM and no device"),
            AllocError::Mixed(frame) => write!(f, "{frame:?} is memory among what is none, or none among memory"),
            AllocError::SameFrame(frame) => write!(f, "{frame:?} is given twice, and can be taken over once"),
            AllocError::NotOut(frame) => write!(f, "{frame:?} is no frame that was given out"),
            AllocError::NoAliases => f.write_str("given frames cannot be mapped on this machine: allocate, and copy"),
            AllocError::BadNode { node, nodes } => write!(f, "no node {}: there are {nodes}", node.0),
            AllocError::WouldWait(context, short) => write!(f, "{short:?} wait for a flush, and {context:?} must not"),
            AllocError::WrongContext(context) => write!(f, "not possible from here ({context:?})"),
            AllocError::NotInitialised => f.write_str("the instance is not initialised, or is another process's"),
            AllocError::Refused(number) => write!(f, "the machine refused with error {number}"),
        }
    }
}

/// What was found, if anybody knows.
pub(crate) fn to_be_had(got: Option<usize>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    got.map_or(Ok(()), |got| write!(f, ", {got} to be had"))
}

impl core::error::Error for AllocError {}

/// The reason why a free was refused. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FreeError {
    /// No area holds this address, and none did.
    NotAnArea(VirtAddr),
    /// An area holds the address, but starts elsewhere.
    NotItsStart {
        /// The address of the call.
        addr: VirtAddr,
        /// The start of the area.
        start: VirtAddr,
    },
    /// The area was freed before.
    ///
    /// If two CPUs free one area at the same moment, at least one of them succeeds. If one of them
    /// is the area's owner, both may: the area is then freed once, and the owner logs the second
    /// free when it finds it. A free of a dead address that races with a free of a new area at that
    /// address may cause the latter to be refused. That changes nothing, and it can be repeated.
    DoubleFree {
        /// The start of the area.
        start: VirtAddr,
        /// The area before the first free.
        was: Info,
    },
    /// The area is of a kind that another call frees.
    WrongKind(Kind),
    /// The number of pages differs from that of the mapping.
    WrongSize {
        /// The pages of the area.
        pages: usize,
        /// The pages of the call.
        given: usize,
    },
    /// `init` has not been called, or the instance is that of a parent process.
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
            FreeError::NotInitialised => f.write_str("the instance is not initialised, or is another process's"),
        }
    }
}

impl core::error::Error for FreeError {}

/// The resource that ran short, for [`Machine::exhausted`](crate::machine::Machine).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shortage {
    /// Pages of address space.
    Addresses {
        /// The pages needed, including the guard.
        pages: usize,
        /// The pages of the widest hole in the range of the request.
        widest: usize,
    },
    /// The number of frames needed.
    Frames(usize),
    /// The number of frames needed for tables or bookkeeping.
    Tables(usize),
}

/// A broken rule that `check` has found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Broken {
    /// The name of the rule, as in the headers of the modules.
    pub rule: &'static str,
    /// The place: an address, an index, or a frame number.
    pub at: usize,
}

impl Broken {
    /// `Ok` if `rule` holds at `at`.
    pub(crate) fn unless(holds: bool, rule: &'static str, at: usize) -> Result<(), Broken> {
        if holds { Ok(()) } else { Err(Broken { rule, at }) }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = if self.rule == "M9" { ": a CPU makes calls, and is not online" } else { "" };
        write!(f, "rule {} is broken at {:#x}{why}", self.rule, self.at)
    }
}

impl fmt::Debug for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Broken {{ rule: {:?}, at: {:#x} }}", self.rule, self.at)
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

    #[test]
    fn addresses_are_in_hex_in_debug_too_and_each_cause_has_its_own_name() {
        let e = AllocError::BadRange { start: VirtAddr(0x1000), end: VirtAddr(0x2000) };
        assert_eq!(std::format!("{e:?}"), "BadRange { start: 0x1000, end: 0x2000 }");
        let [ram, unnameable] = [AllocError::IsRam(Pfn(0x10)), AllocError::BadFrame(Pfn(0x10))].map(|e| e.to_string());
        assert_eq!((&*ram, &*unnameable), ("pfn 0x10 is RAM and no device", "no entry can name pfn 0x10"));
    }
}
