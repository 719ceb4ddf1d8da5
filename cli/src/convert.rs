//! `vmalloc convert`: what Linux's own tools have recorded, as a trace; and a trace that was begun on a
//! running machine, without what it frees of before.

use crate::listing::reader::Areas;
use crate::options::convert::Convert;
use crate::output;
use crate::trace::error::TraceError;
use crate::trace::ftrace::{Converter, Late, is_one};
use crate::trace::line;
use crate::trace::source::{self, Lines};
use anyhow::Result;
use std::ops::Range;
use std::path::Path;
use vmalloc::units::PAGE_SIZE;

const PAGE: u64 = PAGE_SIZE as u64;

/// What comes of it.
pub struct Converted {
    options: Convert,
    text: String,
    events: usize,
    late: Late,
}

/// Reads all that is given, and converts it.
pub fn prepare(options: Convert) -> Result<Converted> {
    let mut converter = Converter::default();
    let before = options.start.as_deref().map(|path| begin(&mut converter, path)).transpose()?.unwrap_or_default();
    let (name, from) = source::open(&options.recording)?;
    let mut lines = Lines::new(&name, from)?;
    let mut events = Vec::new();
    while let Some((_, line)) = lines.next_line()? {
        let taken = match is_one(line) {
            true => converter.line(line),
            // What stands around the events: a header of ftrace's, of trace-cmd's.
            false if line.starts_with('#') || (events.is_empty() && line::parse(line).is_err()) => Ok(None),
            false => converter.own(line),
        };
        events.extend(taken.map_err(|reason| lines.blame(reason))?);
    }
    let Some(first) = events.first() else { return Err(TraceError::NoEvents { file: name }.into()) };
    let time = first.split(' ').next().unwrap_or("0");
    let before = before.iter().map(|area| area.line(time, converter.within));
    let text = before.chain(events.iter().cloned()).map(|line| line + "\n").collect();
    Ok(Converted { options, text, events: events.len(), late: converter.late })
}

/// An area that was there before.
struct Before {
    addr: u64,
    size: u64,
    caller: String,
}

impl Before {
    /// Its allocation, at the time of the first event. A listing does not say where it had to lie: where the
    /// first new one had to, if it does.
    fn line(&self, time: &str, within: Option<(u64, u64)>) -> String {
        let Before { addr, size, caller } = self;
        let (last, own) = (addr + size - 1, (*addr, addr + size - 1));
        let (start, end) = within.filter(|&(start, end)| start <= *addr && last <= end).unwrap_or(own);
        format!(
            "{time} 0 alloc addr={addr:#x} size={size} align=1 kind=? vstart={start:#x} vend={end:#x} caller={caller} task=-"
        )
    }
}

/// The live areas of a listing.
fn begin(converter: &mut Converter, path: &Path) -> Result<Vec<Before>, TraceError> {
    let (name, from) = source::open(path)?;
    let mut before = Vec::new();
    for area in Areas::new(&name, from)? {
        let area = area?;
        let whole = |addresses: &Range<u64>| area.size > 0 && (addresses.start | area.size).is_multiple_of(PAGE);
        let Some(addresses) = area.addresses.clone().filter(|addresses| area.is_live() && whole(addresses)) else {
            continue;
        };
        converter.begin(addresses.start, area.size);
        let caller = area.caller.map_or("?".to_owned(), |caller| caller.to_string().replace(' ', ""));
        before.push(Before { addr: addresses.start, size: area.size, caller });
    }
    Ok(before)
}

impl Converted {
    /// Writes it, and says what was left out.
    pub fn run(self) -> Result<bool> {
        match &self.options.output {
            Some(path) => output::write(path, &self.text)?,
            None => crate::print_raw(&self.text)?,
        }
        let Converted { events, late: Late { frees, others }, .. } = self;
        eprintln!(
            "vmalloc: {events} events; passed over: {frees} frees of what was made before, {others} other events"
        );
        Ok(true)
    }
}
