//! Objects: what the detector knows of a block of memory, and its colour.
//!
//! | Colour | When | Scanned | Reported |
//! |---|---|---|---|
//! | white | fewer references were found than `min_count` | no | yes, if old enough |
//! | grey | as many were found, or none is needed (`min_count` 0) | yes | no |
//! | black | it is to be ignored (`min_count` -1) | no | no |

use arrayvec::{ArrayString, ArrayVec};
use core::fmt::{self, Write};
use core::ops::{Deref, DerefMut, Range};
use core::ptr::NonNull;
use vmalloc::Caller;

/// Frames of a stack that are kept of an allocation.
pub const MAX_TRACE: usize = 16;
/// `min_count` of an object that is never reported.
pub(super) const GREY: i32 = 0;
/// `min_count` of an object that is ignored.
pub(super) const BLACK: i32 = -1;

/// What the last scan found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Colour {
    /// Too few references were found: it is suspected.
    White,
    /// It was reached, or needs no references.
    Grey,
    /// It is ignored.
    Black,
}

/// How its bytes can be reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// At its address, as long as the detector has not heard of its end.
    Direct,
    /// Page by page, through the instance: it lies in an area.
    Area,
}

/// By whom, and from where, an object was allocated.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    comm: ArrayString<16>,
    pub(super) pid: u32,
    pub(super) trace: ArrayVec<usize, MAX_TRACE>,
}

impl Origin {
    /// The task `comm` with the number `pid`, with the return addresses of its stack. What is
    /// longer than 15 bytes or [`MAX_TRACE`] frames is cut.
    pub fn new(comm: &str, pid: u32, stack: &[usize]) -> Origin {
        let mut origin = Origin { pid, ..Origin::default() };
        // A long name is cut where the traditional one is.
        let _ = origin.write_str(comm);
        origin.trace.extend(stack.iter().copied().take(MAX_TRACE));
        origin
    }

    pub(super) fn comm(&self) -> &str {
        &self.comm
    }
}

/// Writes the task's name.
impl Write for Origin {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut letters = text.chars();
        let room = self.comm.capacity() - 1;
        letters.try_for_each(|c| if self.comm.len() + c.len_utf8() > room { None } else { self.comm.try_push(c).ok() });
        Ok(())
    }
}

/// A block of memory.
#[derive(Clone)]
pub(super) struct Object {
    pub(super) start: usize,
    pub(super) size: usize,
    pub(super) place: Place,
    /// References that it has if it is in use; [`GREY`] and [`BLACK`] are none.
    pub(super) min_count: i32,
    /// References of these that the subsystem itself holds, where no scan sees them: the
    /// `vm_struct`'s.
    pub(super) held: i32,
    /// References that the scan has found.
    pub(super) count: i32,
    /// The library's own events tell its end.
    pub(super) by_event: bool,
    /// Callers that are freeing its memory, of whom all but one will be refused: nothing reads it.
    pub(super) leaving: u32,
    pub(super) no_scan: bool,
    pub(super) reported: bool,
    pub(super) checksum: u32,
    pub(super) born_ns: u64,
    /// Tells it from an earlier object at the same address.
    pub(super) serial: u64,
    /// Who asked for it, where a library's event said so.
    pub(super) caller: Option<Caller>,
    pub(super) origin: Origin,
    /// Parts that are scanned alone, if there are any.
    pub(super) areas: Option<NonNull<ScanArea>>,
    pub(super) links: Links,
}

/// Where an object is kept.
#[derive(Clone, Default)]
pub(super) struct Links {
    pub(super) left: Option<ObjectRef>,
    pub(super) right: Option<ObjectRef>,
    /// The next one that waits to be scanned.
    pub(super) grey: Option<ObjectRef>,
    pub(super) waits: bool,
    /// It was freed while it waited.
    pub(super) gone: bool,
}

/// A part of an object that is scanned, from its start.
pub(super) struct ScanArea {
    pub(super) range: Range<usize>,
    pub(super) next: Option<NonNull<ScanArea>>,
}

impl Object {
    pub(super) fn colour(&self) -> Colour {
        match self.min_count {
            BLACK => Colour::Black,
            min_count if self.count < min_count => Colour::White,
            _ => Colour::Grey,
        }
    }

    pub(super) fn is_white(&self) -> bool {
        self.colour() == Colour::White
    }

    pub(super) fn end(&self) -> usize {
        self.start.saturating_add(self.size)
    }

    /// The next bytes at or behind `offset` that are scanned.
    pub(super) fn part_from(&self, offset: usize) -> Option<Range<usize>> {
        if self.areas.is_none() {
            return (offset < self.size).then_some(offset..self.size);
        }
        let ahead = self.parts().filter(|part| part.end > offset && !part.is_empty());
        let part = ahead.min_by_key(|part| part.start)?;
        Some(part.start.max(offset)..part.end)
    }

    /// It has so many bytes from here on. Parts behind them become empty: they stay, so that no
    /// more than was named is scanned.
    pub(super) fn set_size(&mut self, size: usize) {
        self.size = size;
        let mut next = self.areas;
        while let Some(mut area) = next {
            // SAFETY: O1: the parts of an object are the store's.
            let area = unsafe { area.as_mut() };
            area.range = area.range.start.min(size)..area.range.end.min(size);
            next = area.next;
        }
    }

    fn parts(&self) -> impl Iterator<Item = Range<usize>> {
        let mut next = self.areas;
        core::iter::from_fn(move || {
            // SAFETY: O1: the parts of an object are the store's.
            let area = unsafe { next?.as_ref() };
            next = area.next;
            Some(area.range.clone())
        })
    }
}

/// An object of the store, for whoever holds its lock.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct ObjectRef(NonNull<Object>);

impl ObjectRef {
    /// # Safety
    /// - O1. The record is an object of the store whose lock the caller holds, as long as this
    ///   is used. So are the objects and parts that it leads to.
    pub(super) unsafe fn new(record: NonNull<Object>) -> ObjectRef {
        ObjectRef(record)
    }

    pub(super) fn record(self) -> NonNull<Object> {
        self.0
    }
}

impl Deref for ObjectRef {
    type Target = Object;

    fn deref(&self) -> &Object {
        // SAFETY: O1.
        unsafe { self.0.as_ref() }
    }
}

impl DerefMut for ObjectRef {
    fn deref_mut(&mut self) -> &mut Object {
        // SAFETY: O1, and no other reference lasts beyond an expression.
        unsafe { self.0.as_mut() }
    }
}
