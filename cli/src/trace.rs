//! Traces: what a real kernel's vmalloc did, one event a line.
//!
//! A trace is read and judged as a whole before anything runs: [`load`]
//! returns a [`Script`] in which nothing is left to doubt, or
//! an error that names file, line and reason.
//!
//! ```text
//!   file ──source──▶ lines ──line──▶ events ──script──▶ Script
//!         unpacked, UTF-8   numbers          who is live
//! ```
//!
//! # Words
//! - **event**: one line, typed: [`Event`];
//! - **script**: the trace with addresses replaced by area numbers, so that it
//!   can be replayed at other addresses, and by several CPUs at once.

pub mod error;
pub mod ftrace;
pub mod line;
pub mod packed;
pub mod script;
pub mod source;

use error::TraceError;
use ftrace::Converter;
use script::{Builder, Script};
use std::io::Read;
use std::ops::Range;
use std::path::Path;

/// What a line begins with that is for people.
const COMMENT: char = '#';

/// One line of a trace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event<'a> {
    /// Nanoseconds since the recorded machine was switched on.
    pub time_ns: u64,
    /// The CPU that it happened on.
    pub cpu: u32,
    /// What happened.
    pub op: Op<'a>,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op<'a> {
    /// An area was made.
    Alloc(Alloc<'a>),
    /// An area was given back.
    Free { addr: u64, size: u64, kind: Kind },
    /// An area was given back from interrupt context: its free follows.
    Defer { addr: u64 },
    /// The addresses of freed areas were made usable again.
    Purge,
    /// Frames were mapped for a short time: in a block, or in an area of their own.
    MapRam { addr: u64, pages: u64, own: bool },
    /// ... and unmapped.
    UnmapRam { addr: u64, pages: u64 },
    /// Areas at fixed distances from each other were made.
    PcpuAlloc(Pcpu),
    /// ... and given back.
    PcpuFree(Pcpu),
    /// The workload entered a new phase.
    Mark(&'a str),
    /// An allocation failed on the recorded machine.
    Fail,
}

/// An area as the recorded kernel made it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Alloc<'a> {
    /// Its first byte.
    pub addr: u64,
    /// Bytes of address space, with the guard.
    pub size: u64,
    /// Its alignment, a power of two.
    pub align: u64,
    /// What it was for.
    pub kind: Kind,
    /// Bytes asked for, where the trace knows.
    pub req: Option<u64>,
    /// Whether it was a device's registers (`VM_IOREMAP`).
    pub device: bool,
    /// Whether cleared memory was asked for (`__GFP_ZERO`).
    pub zeroed: bool,
    /// Where it had to lie: whole pages.
    pub within: Range<u64>,
    /// Who asked.
    pub caller: &'a str,
}

/// What an area was for, in the trace's words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `vmalloc`: memory of its own.
    Vmalloc,
    /// `vmap`: frames of somebody.
    Vmap,
    /// `vm_area`: a device, or addresses alone.
    VmArea,
    /// `vb`: a block that the recorded kernel cut into short-lived mappings.
    Block,
    /// `?`: made before the recorder could see what for.
    Unknown,
}

/// The areas of a per-CPU chunk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Pcpu {
    /// Bytes of each.
    pub size: u64,
    /// How many.
    pub parts: u64,
    /// The alignment of each.
    pub align: u64,
}

/// Reads the trace at `path`, plain or compressed; `-` is stdin.
pub fn load(path: &Path) -> Result<Script, TraceError> {
    let (name, file) = source::open(path)?;
    read(&name, file)
}

/// Reads the trace `from`, which errors call `name`.
pub fn read(name: &str, from: impl Read) -> Result<Script, TraceError> {
    let mut lines = source::Lines::new(name, from)?;
    let (mut script, mut ftrace) = (Builder::default(), None);
    while let Some((number, text)) = lines.next_line()? {
        if text.starts_with(COMMENT) {
            continue;
        }
        // The first line says which form all have.
        let judged = match ftrace.get_or_insert_with(|| ftrace::is_one(text).then(Converter::default)) {
            Some(converter) => match converter.line(text) {
                Ok(None) => continue,
                Ok(Some(text)) => line::parse(&text).and_then(|event| script.push(number, &event)),
                Err(reason) => Err(reason),
            },
            None => line::parse(text).and_then(|event| script.push(number, &event)),
        };
        judged.map_err(|reason| lines.blame(reason))?;
    }
    script.finish().map_err(|reason| lines.blame(reason))
}
