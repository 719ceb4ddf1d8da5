//! Making areas, and giving them back.

use super::{Failure, Worker};
use crate::replay::latency::Call;
use crate::replay::pattern::Pattern;
use crate::replay::setup::caller;
use crate::replay::slots::Live;
use crate::replay::stage::Stage;
use crate::trace::script::{Area, AreaId, Make};
use std::ptr::{self, NonNull};
use std::sync::atomic::Ordering::Relaxed;
use vmalloc::area::{Guard, RegionId, Req};
use vmalloc::error::{AllocError, FreeError};
use vmalloc::gfp::Gfp;
use vmalloc::machine::format::MemType;
use vmalloc::units::{PAGE_SIZE, Pfn};

/// Pages of `area` (of each part), without guards.
pub(super) fn page_count(area: &Area) -> usize {
    (area.bytes as usize).div_ceil(PAGE_SIZE)
}

fn refused(what: &'static str, area: &Area) -> impl FnOnce(AllocError) -> Failure {
    let bytes = area.bytes;
    move |why| Failure::Refused { what, bytes, why }
}

impl<S: Stage> Worker<'_, S> {
    pub(super) fn vmalloc(&mut self, area: &Area) -> Result<Live, Failure> {
        let gfp = if area.zeroed { Gfp::KERNEL | Gfp::HIGHMEM | Gfp::ZERO } else { Gfp::KERNEL | Gfp::HIGHMEM };
        let (vm, req) = (self.round.stage.vm(), self.request(area).gfp(gfp));
        let at = self.latency.timed(Call::Alloc, || vm.alloc(req));
        at.map(Live::from).map_err(refused("alloc", area))
    }

    pub(super) fn reserve(&mut self, area: &Area) -> Result<Live, Failure> {
        let (vm, req) = (self.round.stage.vm(), self.request(area));
        let at = self.latency.timed(Call::Reserve, || vm.reserve(req));
        at.map(Live::from).map_err(refused("reserve", area))
    }

    pub(super) fn ioremap(&mut self, area: &Area) -> Result<Live, Failure> {
        let (vm, bytes, by) = (self.round.stage.vm(), area.bytes as usize, caller(area.caller));
        let phys = self.device(area).map_err(refused("ioremap", area))?;
        let at = self.latency.timed(Call::Ioremap, || vm.ioremap_for(phys, bytes, MemType::UncachedMinus, by));
        at.map(Live::from).map_err(refused("ioremap", area))
    }

    pub(super) fn map(&mut self, id: AreaId, area: &Area) -> Result<Live, Failure> {
        let (vm, req, node) = (self.round.stage.vm(), self.request(area), None);
        let frames = self.frames(id, area)?;
        let at = if area.make == Make::MapRam {
            // SAFETY: P1: the frames are ours until the area is gone.
            self.latency.timed(Call::MapRam, || unsafe { vm.map_ram(&frames, node) })
        } else {
            // SAFETY: as above.
            self.latency.timed(Call::Vmap, || unsafe { vm.vmap(&frames, req) })
        };
        match at {
            Ok(at) => Ok(Live { at: vec![at], frames }),
            Err(why) => {
                self.free_frames(&frames);
                Err(refused("map", area)(why))
            }
        }
    }

    pub(super) fn chunk(&mut self, area: &Area, parts: u32) -> Result<Live, Failure> {
        let (vm, like, bytes) = (self.round.stage.vm(), self.request(area), area.bytes as usize);
        let parts: Vec<(usize, usize)> = (0..parts as usize).map(|part| (part * bytes, bytes)).collect();
        let base = self.latency.timed(Call::PcpuAlloc, || vm.congruent(&parts, area.align as usize, like));
        let base = base.map_err(refused("per-CPU chunk", area))?;
        let starts =
            parts.iter().filter_map(|(offset, _)| NonNull::new(ptr::with_exposed_provenance_mut(base + offset)));
        Ok(Live { at: starts.collect(), frames: Vec::new() })
    }

    /// Gives back what `live` is; in interrupt context, if it is `deferred`.
    pub(super) fn release(&mut self, area: &Area, live: &Live, deferred: bool) -> Result<(), Failure> {
        let stage = self.round.stage;
        let act = || live.at.iter().try_for_each(|&at| self.free_call(area, at));
        let call = call_of(area.make, deferred);
        let start = std::time::Instant::now();
        let freed = if deferred { stage.in_interrupt(act) } else { act() };
        self.latency.note(call, start.elapsed());
        self.round.peak.shrink(area.pages());
        freed.map_err(|why| Failure::NotFreed { what: area.make.word(), at: live.start(), why })
    }

    fn free_call(&self, area: &Area, at: NonNull<u8>) -> Result<(), FreeError> {
        let vm = self.round.stage.vm();
        // SAFETY: V1: the area was taken out of its slot, so it is ours alone, and
        // nothing of it is used any more.
        unsafe {
            match area.make {
                Make::Vmalloc | Make::Reserve | Make::Pcpu(_) => vm.free(at),
                Make::Vmap => vm.vunmap(at),
                Make::Ioremap => vm.iounmap(at),
                Make::MapRam => vm.unmap_ram(at, page_count(area)),
            }
        }
    }

    /// As many frames as `area` has pages, filled with its first pattern.
    fn frames(&mut self, id: AreaId, area: &Area) -> Result<Vec<Pfn>, Failure> {
        let vm = self.round.stage.vm();
        let mut frames = Vec::new();
        for index in 0..page_count(area) {
            match vm.alloc_frame(Gfp::KERNEL, None) {
                Ok(frame) => frames.push(frame),
                Err(why) => {
                    self.free_frames(&frames);
                    return Err(refused("frames to map", area)(why));
                }
            }
            self.pattern(id).fill(index, &mut self.page);
            self.round.stage.store_frame(frames[index], &self.page);
        }
        self.tally.bytes_written += (frames.len() * PAGE_SIZE) as u64;
        Ok(frames)
    }

    pub(super) fn free_frames(&self, frames: &[Pfn]) {
        for &frame in frames {
            // SAFETY: P3: they came from `alloc_frame`, and nothing of ours maps
            // or uses them any more.
            unsafe { self.round.stage.vm().free_frame(frame) }
        }
    }

    /// Physical addresses for a device of the size of `area`, each used once
    /// before any is used again.
    fn device(&self, area: &Area) -> Result<u64, AllocError> {
        let (range, pages) = (self.round.stage.device(), page_count(area) as u64);
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
