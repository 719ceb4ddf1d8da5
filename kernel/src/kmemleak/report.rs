//! The report: `/sys/kernel/debug/kmemleak`.
//!
//! ```text
//!   unreferenced object 0x%08lx (size %zu):
//!     comm "%s", pid %d, jiffies %lu
//!     hex dump (first %zu bytes):
//!       6b 6b …                                          kk…
//!     backtrace (crc %x):
//!       %pS
//! ```

use super::object::Object;
use super::read::Piece;
use super::{Colour, Kmemleak};
use crate::host::Host;
use crate::kernel::Kernel;
use core::fmt::{self, Write};
use vmalloc::Caller;
use vmalloc::machine::Machine;

/// Bytes that are shown.
const SHOWN: usize = 32;
/// Bytes of a line.
const IN_LINE: usize = 16;
/// Nanoseconds of a jiffy: 250 in a second.
const JIFFY_NS: u64 = 4_000_000;

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// Prints the objects that were reported and are suspected still.
    ///
    /// # Errors
    /// Those of `out`.
    ///
    /// # Cost
    /// A search an object; no lock while anything is printed. Source: the file `kmemleak` in debugfs.
    pub fn kmemleak(&self, out: &mut dyn Write) -> fmt::Result {
        let Some(leaks) = self.leaks else { return Ok(()) };
        let mut from = 0;
        while let Some((object, shown)) = self.next_reported(leaks, from) {
            let start = object.start;
            writeln!(out, "unreferenced object 0x{start:08x} (size {}):", object.size)?;
            self.print_origin(out, &object)?;
            self.print_bytes(out, &shown)?;
            self.print_trace(out, &object)?;
            let Some(next) = start.checked_add(1) else { break };
            from = next;
        }
        Ok(())
    }

    /// A copy of the next object to be printed, and its first bytes.
    fn next_reported(&self, leaks: &Kmemleak<M::Lock>, from: usize) -> Option<(Object, Piece)> {
        let mut from = from;
        loop {
            let seen = leaks.locked(self.machine(), |state| {
                let (mut found, scanned_ns) = (None, state.scanned_ns);
                let next = state.each_from(from, |object| {
                    if found.is_none() && object.reported && object.is_suspect(scanned_ns) {
                        found = Some((object.start, object.serial));
                    }
                });
                (found, next)
            });
            let (found, next) = seen?;
            if let Some((start, serial)) = found {
                let copy = self.copy_of(leaks, start, serial);
                return copy.or_else(|| self.next_reported(leaks, start.checked_add(1)?));
            }
            from = next?;
        }
    }

    /// A copy of an object and its first bytes, if it is still there.
    pub(super) fn copy_of(&self, leaks: &Kmemleak<M::Lock>, start: usize, serial: u64) -> Option<(Object, Piece)> {
        let copy = leaks.locked(self.machine(), |state| Some(Object::clone(&*state.store.same(start, serial)?)))??;
        let piece = self.first_bytes(leaks, &copy, SHOWN)?;
        Some((copy, piece))
    }

    pub(super) fn print_origin(&self, out: &mut dyn Write, object: &Object) -> fmt::Result {
        let (comm, pid) = (object.origin.comm(), object.origin.pid);
        writeln!(out, "  comm \"{comm}\", pid {pid}, jiffies {}", object.born_ns / JIFFY_NS)
    }

    fn print_bytes(&self, out: &mut dyn Write, piece: &Piece) -> fmt::Result {
        let mut bytes = arrayvec::ArrayVec::<u8, SHOWN>::new();
        bytes.extend(piece.bytes().take(SHOWN));
        writeln!(out, "  hex dump (first {} bytes):", bytes.len())?;
        for line in bytes.chunks(IN_LINE) {
            out.write_str("    ")?;
            line.iter().try_for_each(|byte| write!(out, "{byte:02x} "))?;
            write!(out, "{:1$} ", "", (IN_LINE - line.len()) * 3)?;
            let shown = |byte: &u8| if byte.is_ascii_graphic() || *byte == b' ' { *byte as char } else { '.' };
            line.iter().map(shown).try_for_each(|c| out.write_char(c))?;
            out.write_char('\n')?;
        }
        Ok(())
    }

    /// The stack of the allocation; where nobody told it, who asked for the area.
    pub(super) fn print_trace(&self, out: &mut dyn Write, object: &Object) -> fmt::Result {
        writeln!(out, "  backtrace (crc {:x}):", object.checksum)?;
        for &pc in &object.origin.trace {
            writeln!(out, "    {}", fmt::from_fn(|f| self.machine().symbol(pc, f)))?;
        }
        match object.caller.filter(|_| object.origin.trace.is_empty()) {
            Some(Caller::At(place)) => writeln!(out, "    {}:{}", place.file(), place.line()),
            Some(Caller::Return(pc)) => writeln!(out, "    {}", fmt::from_fn(|f| self.machine().symbol(pc, f))),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Colour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Colour::White => "white",
            Colour::Grey => "grey",
            Colour::Black => "black",
        })
    }
}
