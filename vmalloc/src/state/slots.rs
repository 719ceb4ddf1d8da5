//! All slots of an instance, by address. A finder walks them without a lock (R2).

use crate::area::Info;
use crate::machine::Machine;
use crate::space::chunk::{Chunk, ChunkRef};
use crate::space::slot::slots_of;
use crate::state::core::{Core, Ctx};
use crate::state::lookup::SlotRef;
use crate::state::region::{Region, UnitEntry};
use crate::units::VirtAddr;

impl<'v, M: Machine> Ctx<'v, M> {
    /// All slots that contain, contained or may contain an area, by address.
    pub(crate) fn slots(self) -> impl Iterator<Item = SlotRef> + use<'v, M> {
        by_address(self.core).flat_map(move |region| Slots { ctx: self, region, grain: 0, chunk: None })
    }

    /// The live areas, by address.
    pub(crate) fn areas(self) -> impl Iterator<Item = Info> + use<'v, M> {
        self.slots().filter_map(|slot| slot.area())
    }
}

/// The regions, lowest first.
fn by_address<M: Machine>(core: &Core<M>) -> impl Iterator<Item = &Region<M::Lock>> {
    let mut after = 0;
    core::iter::from_fn(move || {
        let next = core.regions.iter().filter(|region| region.base.0 >= after).min_by_key(|region| region.base)?;
        after = next.base.0 + next.bytes;
        Some(next)
    })
}

/// The state of a slot, as a finder sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    Free,
    Live,
    /// Freed, and not flushed yet.
    Stale,
}

impl Chunk {
    /// The state of a slot, as a finder sees it.
    pub(crate) fn state(&self, slot: u32) -> State {
        if self.areas() >> slot & 1 != 0 {
            State::Live
        } else if self.free_slots() >> slot & 1 != 0 {
            State::Free
        } else {
            State::Stale
        }
    }
}

/// The slots of a region, by address.
struct Slots<'v, M: Machine> {
    ctx: Ctx<'v, M>,
    region: &'v Region<M::Lock>,
    grain: usize,
    /// A class chunk, its sequence, and the index of its next slot.
    chunk: Option<(ChunkRef, u32, u32)>,
}

impl<M: Machine> Iterator for Slots<'_, M> {
    type Item = SlotRef;

    fn next(&mut self) -> Option<SlotRef> {
        loop {
            if let Some((chunk, life, index)) = self.chunk {
                let left = chunk.all_slots() & u64::MAX.checked_shl(index).unwrap_or(0);
                if let Some(index) = slots_of(left).next() {
                    self.chunk = Some((chunk, life, index + 1));
                    return Some(SlotRef::in_chunk(chunk, life, index));
                }
                self.chunk = None;
            }
            let (grain, value) = self.region.units.next(self.ctx.machine, self.grain)?;
            let entry = UnitEntry(value);
            let chunk = entry.chunk()?;
            let life = chunk.sequence();
            self.grain = grain + 1;
            if entry.slot().is_some() {
                // Its area may begin inside the unit.
                let last = VirtAddr(self.region.address(grain + 1).0 - 1);
                let Some(slot) = SlotRef::at(self.region, entry, last) else { continue };
                let (start, grains) = slot.slot().run();
                if slot.is_same() {
                    self.grain = (start + grains).max(grain + 1);
                }
                return Some(slot);
            }
            let units = chunk.units();
            // If the header has become another chunk, its size does not apply here.
            if chunk.sequence() == life {
                self.grain = grain + units.max(1);
                self.chunk = Some((chunk, life, 0));
            }
        }
    }
}
