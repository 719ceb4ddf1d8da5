//! Making areas, and giving them back.

use super::{Failure, Worker, caller};
use crate::latency::Call;
use crate::pattern::Pattern;
use crate::script::{Area, AreaId, Make};
use crate::slots::Noted;
use crate::stage::Stage;
use core::ptr::{self, NonNull};
use core::sync::atomic::Ordering::Relaxed;
use vmalloc::area::{Guard, RegionId, Req};
use vmalloc::error::{AllocError, FreeError};
use vmalloc::gfp::Gfp;
use vmalloc::machine::format::MemType;
use vmalloc::units::PAGE_SIZE;

/// An area of the script that has been made.
pub(super) struct Live<'r> {
    pub id: AreaId,
    pub area: &'r Area,
    /// Its first byte; of a chunk, that of the first part.
    pub at: usize,
    /// The frames that are ours and mapped there.
    pub frames: &'r [Noted],
}

impl Live<'_> {
    /// The first byte of each part; of all but chunks, of the whole.
    pub fn parts(&self) -> impl Iterator<Item = usize> + use<> {
        let (at, bytes) = (self.at, self.area.bytes as usize);
        (0..self.area.parts()).map(move |part| at + part * bytes)
    }

    /// The first byte of each page.
    pub fn pages(&self) -> impl Iterator<Item = usize> + use<> {
        let at = self.at;
        (0..self.area.page_count()).map(move |page| at + page * PAGE_SIZE)
    }
}

fn refused<F>(what: &'static str, area: &Area) -> impl FnOnce(AllocError) -> Failure<F> {
    let bytes = area.bytes;
    move |why| Failure::Refused { what, bytes, why }
}

/// What came of asking for `area`: where it is.
fn made<F>(what: &'static str, area: &Area, at: Result<NonNull<u8>, AllocError>) -> Result<usize, Failure<F>> {
    at.map(|at| at.as_ptr().expose_provenance()).map_err(refused(what, area))
}

impl<S: Stage> Worker<'_, S> {
    pub(super) fn vmalloc(&mut self, area: &Area) -> Result<usize, Failure<S::Fault>> {
        let gfp = if area.zeroed { Gfp::KERNEL | Gfp::HIGHMEM | Gfp::ZERO } else { Gfp::KERNEL | Gfp::HIGHMEM };
        let (vm, req) = (self.round.stage.vm(), self.request(area).gfp(gfp));
        made("alloc", area, self.timed(Call::Alloc, || vm.alloc(req)))
    }

    pub(super) fn reserve(&mut self, area: &Area) -> Result<usize, Failure<S::Fault>> {
        let (vm, req) = (self.round.stage.vm(), self.request(area));
        made("reserve", area, self.timed(Call::Reserve, || vm.reserve(req)))
    }

    pub(super) fn ioremap(&mut self, area: &Area) -> Result<usize, Failure<S::Fault>> {
        let (vm, bytes, by) = (self.round.stage.vm(), area.bytes as usize, caller(area.caller));
        let phys = self.device(area).map_err(refused("ioremap", area))?;
        made("ioremap", area, self.timed(Call::Ioremap, || vm.ioremap_for(phys, bytes, MemType::UncachedMinus, by)))
    }

    pub(super) fn map(&mut self, id: AreaId, area: &Area) -> Result<usize, Failure<S::Fault>> {
        let (vm, req) = (self.round.stage.vm(), self.request(area));
        let notes = self.round.slots.frames(id, area);
        self.take_frames(id, area, notes)?;
        let list = core::mem::take(&mut self.desk.frames);
        list.iter_mut().zip(notes).for_each(|(frame, note)| *frame = note.get());
        let frames = &list[..notes.len()];
        let at = if area.make == Make::MapRam {
            // SAFETY: P1, P4: the frames are ours until the area is gone.
            self.timed(Call::MapRam, || unsafe { vm.map_ram(frames, None) })
        } else {
            // SAFETY: as above.
            self.timed(Call::Vmap, || unsafe { vm.vmap(frames, req) })
        };
        self.desk.frames = list;
        if at.is_err() {
            self.free_frames(notes);
        }
        made("map", area, at)
    }

    pub(super) fn chunk(&mut self, area: &Area) -> Result<usize, Failure<S::Fault>> {
        let (vm, like, bytes) = (self.round.stage.vm(), self.request(area), area.bytes as usize);
        let list = core::mem::take(&mut self.desk.parts);
        list.iter_mut().enumerate().for_each(|(part, at)| *at = (part * bytes, bytes));
        let parts = &list[..area.parts()];
        let base = self.timed(Call::PcpuAlloc, || vm.reserve_at_offsets(parts, area.align as usize, like));
        self.desk.parts = list;
        base.map_err(refused("per-CPU chunk", area))
    }

    /// Gives back what `live` is; in interrupt context, if it is `deferred`.
    pub(super) fn release(&mut self, live: &Live<'_>, deferred: bool) -> Result<(), Failure<S::Fault>> {
        let stage = self.round.stage;
        let act = || live.parts().try_for_each(|at| free_call(stage, live.area, at));
        let call = call_of(live.area.make, deferred);
        let freed = self.timed(call, || if deferred { stage.in_interrupt(act) } else { act() });
        self.round.peak.shrink(live.area.pages());
        freed.map_err(|why| Failure::NotFreed { what: live.area.make.word(), at: live.at, why })
    }

    /// As many frames as `area` has pages, filled with its first pattern.
    fn take_frames(&mut self, id: AreaId, area: &Area, notes: &[Noted]) -> Result<(), Failure<S::Fault>> {
        let vm = self.round.stage.vm();
        for (index, note) in notes.iter().enumerate() {
            match vm.alloc_frame(Gfp::KERNEL, None) {
                Ok(frame) => note.set(frame),
                Err(why) => {
                    self.free_frames(&notes[..index]);
                    return Err(refused("frames to map", area)(why));
                }
            }
            self.pattern(id).fill(index, self.desk.page);
            self.round.stage.store_frame(note.get(), self.desk.page);
        }
        self.desk.tally.bytes_written += (notes.len() * PAGE_SIZE) as u64;
        Ok(())
    }

    pub(super) fn free_frames(&self, frames: &[Noted]) {
        for note in frames {
            // SAFETY: P3: they came from `alloc_frame`, and nothing of ours maps
            // or uses them any more.
            unsafe { self.round.stage.vm().free_frame(note.get()) }
        }
    }

    /// Physical addresses for a device of the size of `area`, each used once
    /// before any is used again.
    fn device(&self, area: &Area) -> Result<u64, AllocError> {
        let (range, pages) = (self.round.stage.device(), area.page_count() as u64);
        let room = (range.end - range.start) / PAGE_SIZE as u64;
        if pages > room {
            return Err(AllocError::TooLarge { bytes: area.bytes as usize, limit: (range.end - range.start) as usize });
        }
        let first = self.round.device_pages.fetch_add(pages, Relaxed) % room;
        Ok(range.start + first.min(room - pages) * PAGE_SIZE as u64)
    }

    fn request(&self, area: &Area) -> Req {
        let req = Req::bytes(area.bytes as usize)
            .align(area.align as usize)
            .region(RegionId(area.place.region as u8))
            .guard(if area.guard { Guard::After } else { Guard::None })
            .caller(caller(area.caller));
        match area.place.within {
            None => req,
            Some((start, end)) => {
                let base = self.round.stage.region_start(area.place.region);
                req.within(base + start as usize..base + end as usize)
            }
        }
    }

    pub(super) fn pattern(&self, id: AreaId) -> Pattern {
        Pattern::new(self.round.seed, self.round.number, id.0)
    }
}

fn free_call<S: Stage>(stage: &S, area: &Area, at: usize) -> Result<(), FreeError> {
    let vm = stage.vm();
    let Some(at) = NonNull::new(ptr::with_exposed_provenance_mut(at)) else { return Ok(()) };
    // SAFETY: V1: the area was taken out of its slot, so it is ours alone, and
    // nothing of it is used any more.
    unsafe {
        match area.make {
            Make::Vmalloc | Make::Reserve | Make::Pcpu(_) => vm.free(at),
            Make::Vmap => vm.vunmap(at),
            Make::Ioremap => vm.iounmap(at),
            Make::MapRam => vm.unmap_ram(at, area.page_count()),
        }
    }
}

fn call_of(make: Make, deferred: bool) -> Call {
    match make {
        Make::Vmalloc if deferred => Call::FreeIrq,
        Make::Vmalloc => Call::Free,
        Make::Vmap => Call::Vunmap,
        Make::Ioremap => Call::Iounmap,
        Make::Reserve => Call::Release,
        Make::MapRam => Call::UnmapRam,
        Make::Pcpu(_) => Call::PcpuFree,
    }
}
