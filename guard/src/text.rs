//! Reports for people.

use crate::finding::{Access, Finding, Kind, Record};
use crate::leaks::Leaks;
use crate::report::Story;
use crate::slot::Event;
use crate::symbols::Frame;
use crate::trace::Trace;
use core::fmt::{self, Write};

/// What is wrong.
pub fn finding(story: &mut Story<'_>, found: &Finding) -> fmt::Result {
    write!(story.out, "vmalloc-guard: {}: ", found.kind.words())?;
    headline(story.out, found)?;
    writeln!(story.out, "\nprocess {}, thread {}:", story.process, found.thread)?;
    trace(story, &found.here.trace(), true)?;
    let Some(Record { made, freed, .. }) = found.record else { return Ok(()) };
    freed.map_or(Ok(()), |freed| event(story, "freed", freed, found.now))?;
    event(story, "allocated", made, found.now)
}

fn headline(out: &mut dyn Write, found: &Finding) -> fmt::Result {
    let Finding { address, bytes, access, .. } = found;
    let access = match access {
        Access::Read => "a read of",
        Access::Write => "a write to",
        Access::Unknown => "an access to",
    };
    match found.kind {
        Kind::Overrun => write!(out, "{access} {address:#x}, {} past the end of", Bytes(*bytes))?,
        Kind::Underrun => write!(out, "{access} {address:#x}, {} before the start of", Bytes(*bytes))?,
        Kind::UseAfterFree => write!(out, "{access} {address:#x}, {} into", Bytes(*bytes))?,
        Kind::DoubleFree => write!(out, "of {address:#x}, the start of")?,
        Kind::InvalidFree => write!(out, "of {address:#x}, not the start of")?,
        Kind::Canary => write!(out, "{} from {address:#x} on, beside", Bytes(*bytes))?,
    }
    match found.record {
        Some(record) => allocation(out, &record, found.now),
        None => out.write_str(" an allocation"),
    }
}

fn allocation(out: &mut dyn Write, record: &Record, now: u64) -> fmt::Result {
    let (size, start) = (Bytes(record.place.size), record.place.start);
    write!(out, " an allocation of {size} at {start:#x}, {} ms old", now.saturating_sub(record.made.when))?;
    record.freed.map_or(Ok(()), |freed| write!(out, ", freed {} ms ago", now.saturating_sub(freed.when)))
}

fn event(story: &mut Story<'_>, what: &str, event: Event, now: u64) -> fmt::Result {
    writeln!(story.out, "{what} by thread {}, {} ms ago:", event.thread, now.saturating_sub(event.when))?;
    trace(story, &story.engine.depot.trace(event.trace), false)
}

fn trace(story: &mut Story<'_>, trace: &Trace, is_exact: bool) -> fmt::Result {
    story.frames(trace, is_exact, &mut |out, n, frame| writeln!(out, "  {n:2} {}", Line(frame)))
}

/// What is left at the exit.
pub fn leaks(story: &mut Story<'_>, leaks: &Leaks<'_>) -> fmt::Result {
    let (bytes, count) = leaks.sum();
    writeln!(story.out, "vmalloc-guard: left at the exit: {} in {count} allocations", Bytes(bytes))?;
    leaks.each(&mut |group| {
        writeln!(story.out, "{} in {} allocations by:", Bytes(group.bytes), group.count)?;
        trace(story, &story.engine.depot.trace(group.trace), false)
    })
}

struct Bytes(usize);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} byte{}", self.0, if self.0 == 1 { "" } else { "s" })
    }
}

struct Line<'a>(&'a Frame);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Frame { address, module, offset, symbol, file, line } = self.0;
        write!(f, "{address:#x} {}", symbol.as_deref().unwrap_or("?"))?;
        match (file, module) {
            (Some(file), _) => write!(f, " {file}")?,
            (None, Some(module)) => write!(f, " ({module}+{offset:#x})")?,
            (None, None) => (),
        }
        line.map_or(Ok(()), |line| write!(f, ":{line}"))
    }
}
