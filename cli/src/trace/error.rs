//! Why a trace, or a listing, cannot be used.

use std::io;
use thiserror::Error;

/// A file that cannot be used, and why.
#[derive(Debug, Error)]
pub enum TraceError {
    /// It could not be opened.
    #[error("{file}: cannot be opened: {cause}")]
    Open { file: String, cause: io::Error },
    /// It could not be read to its end.
    #[error("{file}:{line}: cannot be read on: {cause}")]
    Read { file: String, line: usize, cause: io::Error },
    /// The compressed data is damaged.
    #[error("{file}:{line}: the {packing} data is damaged or cut short here: {cause}")]
    Packed { file: String, line: usize, packing: &'static str, cause: io::Error },
    /// A listing without a line of one.
    #[error("{file}: the listing has no areas: lines that begin with 0x<start>-0x<end> and a size in bytes")]
    NoAreas { file: String },
    /// A recording without an event of ours.
    #[error(
        "{file}: no event of alloc_vmap_area, free_vmap_area_noflush or purge_vmap_area_lazy, as trace-cmd report prints them"
    )]
    NoEvents { file: String },
    /// A line is not right.
    #[error("{file}:{line}: {reason}")]
    Line { file: String, line: usize, reason: Reason },
}

/// What is wrong with a line.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Reason {
    #[error("no text: it has bytes that are not UTF-8")]
    NotUtf8,
    #[error("no text: a line of more than {0} bytes")]
    TooLong(usize),
    #[error("the file has no events")]
    Empty,
    #[error("an event needs a time, a CPU and an operation; this line is {0:?}")]
    NoEvent(String),
    #[error("the {what} is not a number: {text:?}")]
    NotANumber { what: &'static str, text: String },
    #[error("the time goes back from {from} ns to {to} ns: sort the trace by its first column")]
    TimeGoesBack { from: u64, to: u64 },
    #[error("unknown operation {0:?}")]
    UnknownOp(String),
    #[error("not of the form key=value: {0:?}")]
    NotAPair(String),
    #[error("the key {0:?} occurs twice")]
    TwoOf(String),
    #[error("the key {key:?} is missing from {op:?}")]
    Missing { op: &'static str, key: &'static str },
    #[error("unknown kind {0:?} (known: vmalloc, vmap, vm_area, vb, ?)")]
    UnknownKind(String),
    #[error("{0} is 0")]
    Zero(&'static str),
    #[error("{what} is {value}: more than any machine can have")]
    Huge { what: &'static str, value: u64 },
    #[error("{what} is {value}: not a multiple of the page size, 4096")]
    NotPages { what: &'static str, value: u64 },
    #[error("align is {0}: not a power of two")]
    BadAlign(u64),
    #[error("addr {addr:#x} is not aligned to {align}")]
    Misaligned { addr: u64, align: u64 },
    #[error("vstart {start:#x} is not below vend {end:#x}")]
    BadRange { start: u64, end: u64 },
    #[error("the area {addr:#x}-{end:#x} is not inside vstart..vend")]
    OutsideRange { addr: u64, end: u64 },
    #[error("req is {req} bytes, which an area of {size} bytes cannot hold")]
    ReqTooLarge { req: u64, size: u64 },
    #[error("the area {addr:#x}-{end:#x} overlaps {other:#x}-{other_end:#x}, which is live since line {since}")]
    Overlap { addr: u64, end: u64, other: u64, other_end: u64, since: usize },
    #[error(
        "{addr:#x} is freed, but no area was ever there; `vmalloc convert` leaves out what a trace frees of before its begin"
    )]
    NeverAllocated { addr: u64 },
    #[error("{addr:#x} is freed, but line {at} has freed it already")]
    FreedBefore { addr: u64, at: usize },
    #[error("{addr:#x} is freed, but the area there starts at {start:#x}")]
    NotItsStart { addr: u64, start: u64 },
    #[error("the area at {addr:#x} has {has} {unit}, but is freed with {given}")]
    WrongSize { addr: u64, has: u64, given: u64, unit: &'static str },
    #[error("the area at {addr:#x} is freed as another kind than it was made as")]
    WrongKind { addr: u64 },
    #[error("the area at {addr:#x} waits for its deferred free since line {since}, and is given back again")]
    DeferredBefore { addr: u64, since: usize },
    #[error("{addr:#x}-{end:#x} is mapped outside of all live blocks")]
    NoBlock { addr: u64, end: u64 },
    #[error("the block at {addr:#x} is freed while the mapping at {mapping:#x} is live")]
    BlockInUse { addr: u64, mapping: u64 },
    #[error("a per-CPU chunk of this shape is freed, but none is live")]
    NoChunk,
    #[error("more areas than this program can number")]
    TooMany,
    #[error("not a line of a vmallocinfo listing: {0:?}; expected 0x<start>-0x<end> and a size in bytes")]
    NoListing(String),
    #[error("after an area's range its size is expected, in bytes, not {0:?}")]
    NoSize(String),
}
