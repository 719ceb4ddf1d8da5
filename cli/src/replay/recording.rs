//! A run as a trace: what was made, freed and purged, and where.
//!
//! The lines are those that a trace of Linux has (traces/README.md), so that the file can be
//! replayed. Each is written under one lock, by the worker to whom it happens: an area is
//! written before anybody can free it, and its end before its addresses can serve another.
//!
//! | Here | In the file |
//! |---|---|
//! | a make, a free | `alloc`, `free` of its kind; `vb` for a block, `map_ram` for a short-lived mapping |
//! | a free in an interrupt | `defer` and `free` together: nothing waits here |
//! | a short-lived mapping | has an area of its own (`own=1`), and lies in no block |
//! | what the library flushes by itself | nothing: a purge is one that the script asks for |
//! | a step of several rounds | each round in its turn; of the last, not the frees that clear up |

use crate::output::{begin, unwritten};
use crate::trace::script::{Area, BLOCK_CALLER, Make, Script};
use anyhow::{Context, Result};
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use vmalloc::units::PAGE_SIZE;
use vmalloc_replay::stage::Told;

const PAGE: u64 = PAGE_SIZE as u64;
/// GFP_KERNEL, as the recorded kernel had it; and with `__GFP_ZERO`.
const PLAIN: u64 = 0xcc0;
const ZEROED: u64 = 0xdc0;

/// A file that a run is written to.
pub struct Recording<'s> {
    path: PathBuf,
    script: &'s Script,
    cpus: u32,
    lines: Mutex<Lines>,
}

struct Lines {
    out: BufWriter<File>,
    /// The first line that could not be written says why.
    written: io::Result<()>,
    ended: bool,
    freed: Freed,
}

/// What was freed since the last purge: so many areas, from where to where.
struct Freed {
    areas: usize,
    start: usize,
    end: usize,
}

impl Freed {
    const NOTHING: Freed = Freed { areas: 0, start: usize::MAX, end: 0 };

    fn add(&mut self, area: &Area, at: usize) {
        let end = self.end.max(at + size(area) as usize);
        *self = Freed { areas: self.areas + 1, start: self.start.min(at), end };
    }
}

impl<'s> Recording<'s> {
    /// Begins the file at `path`, of a run of `script` on so many CPUs.
    pub fn begin(path: &Path, script: &'s Script, cpus: u32) -> Result<Recording<'s>> {
        let out = begin(path)?;
        let lines = Lines { out: BufWriter::new(out), written: Ok(()), ended: false, freed: Freed::NOTHING };
        Ok(Recording { path: path.to_owned(), script, cpus, lines: Mutex::new(lines) })
    }

    /// Writes what happens `now` in a step of `cpu`, on a machine with these regions.
    pub fn note(&self, regions: &[Range<usize>], now: impl Fn() -> u64, cpu: u32, told: Told<'_>) {
        let mut lines = self.lines();
        lines.ended |= told == Told::End;
        if lines.ended || lines.written.is_err() {
            return;
        }
        let (time, cpu) = (now(), cpu % self.cpus);
        let task = format_args!("task=vmalloc:{}", std::process::id());
        let line = |op: &dyn fmt::Display| format!("{time} {cpu} {op} {task}\n");
        if let Told::Freed(area, at) | Told::Deferred(area, at) = told {
            lines.freed.add(area, at);
        }
        let text = match told {
            Told::Deferred(area, at) => {
                let defer = format!("defer addr={at:#x} caller={}", self.caller(area));
                line(&defer) + &line(&self.free(area, at, "vfree_deferred"))
            }
            Told::Made(area, at) => line(&self.alloc(area, at, regions)),
            Told::Freed(area, at) => line(&self.free(area, at, by(area.make))),
            Told::Purge => {
                let Freed { areas, start, end } = std::mem::replace(&mut lines.freed, Freed::NOTHING);
                line(&format_args!("purge areas={areas} start={start:#x} end={end:#x}"))
            }
            Told::Refused => line(&"fail"),
            Told::Phase(number) => format!("{time} {cpu} mark text={}\n", self.script.marks[number as usize]),
            Told::End => return,
        };
        lines.written = lines.out.write_all(text.as_bytes());
    }

    /// Ends the file.
    pub fn finish(self) -> Result<()> {
        let mut lines = self.lines.into_inner().unwrap_or_else(PoisonError::into_inner);
        lines.written.and_then(|()| lines.out.flush()).with_context(|| unwritten(&self.path))
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alloc(&self, area: &Area, at: usize, regions: &[Range<usize>]) -> String {
        let (pages, caller) = (area.page_count(), self.caller(area));
        let flags = u8::from(area.make == Make::Ioremap);
        let gfp = if area.zeroed { ZEROED } else { PLAIN };
        match area.make {
            Make::MapRam => format!("map_ram addr={at:#x} count={pages} caller={caller} own=1"),
            Make::Pcpu(parts) => format!("pcpu_alloc size={} nr={parts} align={}", pages as u64 * PAGE, area.align),
            _ => {
                let Range { start, end } = bounds(area, regions);
                format!(
                    "alloc addr={at:#x} size={} align={} kind={} req={} flags={flags:#x} gfp={gfp:#x} vstart={start:#x} vend={:#x} caller={caller}",
                    size(area),
                    area.align,
                    self.kind(area),
                    area.bytes,
                    end - 1
                )
            }
        }
    }

    fn free(&self, area: &Area, at: usize, by: &str) -> String {
        let (pages, caller) = (area.page_count(), self.caller(area));
        match area.make {
            Make::MapRam => format!("unmap_ram addr={at:#x} count={pages} caller={caller}"),
            Make::Pcpu(parts) => format!("pcpu_free size={} nr={parts} align={}", pages as u64 * PAGE, area.align),
            _ => format!("free addr={at:#x} size={} kind={} by={by} caller={caller}", size(area), self.kind(area)),
        }
    }

    fn kind(&self, area: &Area) -> &'static str {
        match area.make {
            Make::Vmap => "vmap",
            Make::Reserve if self.caller(area) == BLOCK_CALLER && !area.guard => "vb",
            Make::Ioremap | Make::Reserve => "vm_area",
            Make::Vmalloc | Make::MapRam | Make::Pcpu(_) => "vmalloc",
        }
    }

    fn caller(&self, area: &Area) -> &'s str {
        &self.script.callers[area.caller as usize]
    }
}

/// Bytes of address space, with the guard.
fn size(area: &Area) -> u64 {
    (area.page_count() as u64 + u64::from(area.guard)) * PAGE
}

/// Where the area had to lie.
fn bounds(area: &Area, regions: &[Range<usize>]) -> Range<u64> {
    let region = &regions[area.place.region as usize];
    let (from, to) = area.place.within.unwrap_or((0, region.len() as u64));
    region.start as u64 + from..region.start as u64 + to
}

fn by(make: Make) -> &'static str {
    match make {
        Make::Vmalloc => "vfree",
        Make::Vmap => "vunmap",
        Make::Ioremap | Make::Reserve | Make::MapRam | Make::Pcpu(_) => "remove",
    }
}
