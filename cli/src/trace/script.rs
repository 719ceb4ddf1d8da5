//! The script: a trace in which addresses have become area numbers.
//!
//! An allocator under test puts areas elsewhere than the recorded kernel did,
//! and several CPUs replay at once; so each event names its area by number,
//! and only sizes, alignments, ranges and callers are kept. While it is built
//! the trace is judged: see [`live`] for the rules.
//!
//! ```text
//!   alloc addr=A ...   ──▶  Make(#7)
//!   defer addr=A       ──▶  Defer(#7)   the area is given back here ...
//!   free  addr=A ...   ──▶  Settled(#7) ... and the recorded kernel's worker
//!                           got round to it there
//! ```

mod live;
mod regions;

use super::error::Reason;
use super::{Alloc, Event, Kind, Op, Pcpu};
use live::Live;
use regions::Ranges;
use std::collections::HashMap;
use std::ops::Range;
use vmalloc::units::PAGE_SIZE;
pub use vmalloc_replay::script::{Act, Area, AreaId, Make, Place, Step};

const PAGE: u64 = PAGE_SIZE as u64;
/// What stands for a caller that the trace does not know.
pub const NO_CALLER: &str = "?";
/// The blocks of `vm_map_ram` and per-CPU chunks are reservations here, and
/// the recorded kernel lists them as other kinds; so their callers' names bring
/// the words along that its listing has. No caller is known for a block.
pub const BLOCK_CALLER: &str = "vm_map_ram";
/// The recorded kernel's own caller of all chunks; the trace leaves it out.
pub const PCPU_CALLER: &str = "pcpu_get_vm_areas+0x0 vmalloc";

/// A whole trace, judged.
#[derive(Default)]
pub struct Script {
    /// The regions that areas lay in; the largest is first.
    pub regions: Vec<Range<u64>>,
    /// All areas, by [`AreaId`].
    pub areas: Vec<Area>,
    /// What is to be done, in order.
    pub steps: Vec<Step>,
    /// The callers' names, by [`Area::caller`].
    pub callers: Vec<String>,
    /// The names of the workload's phases, by [`Act::Mark`].
    pub marks: Vec<String>,
}

impl Script {
    /// What of it is played.
    pub fn played(&self) -> vmalloc_replay::script::Script<'_> {
        vmalloc_replay::script::Script { areas: &self.areas, steps: &self.steps }
    }
}

/// Builds a script event by event.
#[derive(Default)]
pub struct Builder {
    script: Script,
    live: Live,
    ranges: Ranges,
    callers: HashMap<String, u32>,
    now: u64,
}

impl Builder {
    /// Adds the event of line `line`, if it can follow those before it.
    pub fn push(&mut self, line: usize, event: &Event<'_>) -> Result<(), Reason> {
        if event.time_ns < self.now {
            return Err(Reason::TimeGoesBack { from: self.now, to: event.time_ns });
        }
        self.now = event.time_ns;
        let act = self.act(line, &event.op)?;
        self.script.steps.push(Step { cpu: event.cpu, act });
        Ok(())
    }

    /// The script, when all events have been added.
    pub fn finish(mut self) -> Result<Script, Reason> {
        if self.script.steps.is_empty() {
            return Err(Reason::Empty);
        }
        let layout = self.ranges.layout();
        for area in &mut self.script.areas {
            area.place = layout.place(area.place);
        }
        self.script.regions = layout.regions;
        Ok(self.script)
    }

    fn act(&mut self, line: usize, op: &Op<'_>) -> Result<Act, Reason> {
        Ok(match *op {
            Op::Alloc(ref alloc) => {
                let id = self.next_id()?;
                self.live.alloc(line, id, alloc)?;
                let area = self.alloc(alloc)?;
                self.add(area)
            }
            Op::Free { addr, size, kind } => {
                let (id, deferred) = self.live.free(line, addr, size, kind)?;
                if deferred { Act::Settled(id) } else { Act::Free(id) }
            }
            Op::Defer { addr } => Act::Defer(self.live.defer(line, addr)?),
            Op::Purge => Act::Purge,
            Op::MapRam { addr, pages, own } => {
                let id = self.next_id()?;
                if own {
                    self.live.map_own(line, id, addr, pages)?
                } else {
                    self.live.map(line, id, addr, pages)?
                }
                let area = self.plain(Make::MapRam, pages * PAGE);
                self.add(area)
            }
            Op::UnmapRam { addr, pages } => Act::Free(self.live.unmap(line, addr, pages)?),
            Op::PcpuAlloc(chunk) => {
                let id = self.next_id()?;
                self.live.add_chunk(id, chunk);
                let area = self.chunk(chunk)?;
                self.add(area)
            }
            Op::PcpuFree(chunk) => Act::Free(self.live.remove_chunk(chunk)?),
            Op::Mark(text) => {
                self.script.marks.push(text.to_owned());
                Act::Mark(self.script.marks.len() as u32 - 1)
            }
            Op::Fail => Act::Fail,
        })
    }

    fn next_id(&self) -> Result<AreaId, Reason> {
        u32::try_from(self.script.areas.len()).map(AreaId).map_err(|_| Reason::TooMany)
    }

    fn add(&mut self, area: Area) -> Act {
        let id = AreaId(self.script.areas.len() as u32);
        self.script.areas.push(area);
        Act::Make(id)
    }

    fn alloc(&mut self, alloc: &Alloc<'_>) -> Result<Area, Reason> {
        let (bytes, guard) = asked(alloc)?;
        let (make, caller) = match alloc.kind {
            Kind::Vmalloc | Kind::Unknown => (Make::Vmalloc, alloc.caller),
            Kind::Vmap => (Make::Vmap, alloc.caller),
            Kind::VmArea if alloc.device => (Make::Ioremap, alloc.caller),
            Kind::VmArea => (Make::Reserve, alloc.caller),
            Kind::Block => (Make::Reserve, BLOCK_CALLER),
        };
        Ok(Area {
            guard,
            align: alloc.align.max(PAGE),
            zeroed: alloc.zeroed,
            place: self.ranges.add(&alloc.within),
            caller: self.intern(caller),
            ..self.plain(make, bytes)
        })
    }

    fn chunk(&mut self, chunk: Pcpu) -> Result<Area, Reason> {
        let parts = u32::try_from(chunk.parts).map_err(|_| Reason::Huge { what: "nr", value: chunk.parts })?;
        let (align, caller) = (chunk.align.max(PAGE), self.intern(PCPU_CALLER));
        Ok(Area { align, caller, ..self.plain(Make::Pcpu(parts), chunk.size) })
    }

    /// An area without wishes.
    fn plain(&mut self, make: Make, bytes: u64) -> Area {
        let caller = self.intern(NO_CALLER);
        Area { make, bytes, guard: false, align: PAGE, zeroed: false, place: Place::ANYWHERE, caller }
    }

    fn intern(&mut self, caller: &str) -> u32 {
        if let Some(&known) = self.callers.get(caller) {
            return known;
        }
        let new = self.script.callers.len() as u32;
        self.script.callers.push(caller.to_owned());
        self.callers.insert(caller.to_owned(), new);
        new
    }
}

/// The bytes that were asked for, and whether a guard follows: the recorded
/// size counts it. Blocks have none.
fn asked(alloc: &Alloc<'_>) -> Result<(u64, bool), Reason> {
    let most = alloc.size - PAGE;
    match alloc.req {
        _ if alloc.kind == Kind::Block => Ok((alloc.size, false)),
        Some(0) => Err(Reason::Zero("req")),
        Some(req) if req > alloc.size => Err(Reason::ReqTooLarge { req, size: alloc.size }),
        Some(req) if req > most => Ok((req, false)),
        Some(req) if req > most.saturating_sub(PAGE) => Ok((req, true)),
        _ if most == 0 => Ok((alloc.size, false)),
        _ => Ok((most, true)),
    }
}

#[cfg(test)]
mod tests;
