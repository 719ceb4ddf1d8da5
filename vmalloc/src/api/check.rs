//! Checking: every rule that can be seen from outside, on everything.
//!
//! For tests and debuggers: O(everything), and only while nobody else calls.

use crate::api::instance::Vmalloc;
use crate::area::{Guard, Kind, Policy};
use crate::error::Broken;
use crate::machine::Machine;
use crate::machine::format::{Entry, Prot};
use crate::state::core::{Core, Ctx};
use crate::state::enter::CpuGuard;
use crate::state::lookup::Found;
use crate::state::region::Region;
use crate::state::stats::Stats;
use crate::state::visit::Visit;
use crate::sync::Ordering::Relaxed;
use crate::units::{PAGE_SIZE, VirtAddr};

impl<M: Machine> Vmalloc<M> {
    /// Checks the instance: lists of chunks (S1, C2), arenas (A rules), entries
    /// against areas (G2, G6), counters against areas; and that no CPU has allocated or freed
    /// without its [`Vmalloc::cpu_online`] (M9), unless threads share the CPUs.
    ///
    /// # Errors
    /// The first rule found broken, and where.
    ///
    /// # Cost
    /// O(everything). Call it while nobody else calls.
    pub fn check(&self) -> Result<(), Broken> {
        let Some(ctx) = self.ctx() else { return Ok(()) };
        let core = ctx.core;
        for index in 0..core.cpus() {
            let busy = Broken { rule: "L1", at: index as usize };
            let mut here = Visit::enter(ctx, index).map_err(|_| busy)?;
            for region in &core.regions {
                here.cpu_chunks(region.id).check()?;
            }
            let sound = here.batches().all(|batch| batch.waiting_frames.is_sound(self.machine().frames()));
            Broken::unless(sound, "Q1", index as usize)?;
            let here = here.cpu;
            let announced =
                M::THREADS || !here.epoch.is_offline() || here.served.load(Relaxed) == here.counters.served();
            Broken::unless(announced, "M9", index as usize)?;
        }
        for region in &core.regions {
            check_arena(ctx, region)?;
            ctx.walker().check(region.pages())?;
        }
        self.check_cached(ctx)?;
        self.check_areas(ctx)
    }

    /// The pages of a cached slot are mapped, as its form says, and nothing behind it is (W1,
    /// G6); and it is counted (W2).
    fn check_cached(&self, ctx: Ctx<'_, M>) -> Result<(), Broken> {
        let is_half_retired = |found: &Found| {
            let mut victims = (0..ctx.core.cpus()).filter_map(|index| Visit::enter(ctx, index).ok()?.cached.evicting);
            victims.any(|evicting| (evicting.chunk, evicting.slot) == (found.chunk, found.index))
        };
        let (mut slots, mut pages) = (0, 0);
        for found in ctx.slots().filter(|found| found.chunk.cached_slots() >> found.index & 1 != 0) {
            let slot = found.slot();
            (slots, pages) = (slots + 1, pages + slot.pages());
            let entry = |page: usize| ctx.walker().entry(found.start.add_pages(page));
            let right = |page: usize| match entry(page) {
                Entry::Leaf { prot, .. } => slot.is_kept() && prot.contains(Prot::RW),
                Entry::Parked(_) => !slot.is_kept() || is_half_retired(&found),
                _ => false,
            };
            let at = |page: usize| found.start.add_pages(page).0;
            (0..slot.pages()).try_for_each(|page| Broken::unless(right(page), "W1", at(page)))?;
            Broken::unless(entry(slot.pages()) == Entry::Absent, "G6", at(slot.pages()))?;
        }
        let stats = self.stats();
        Broken::unless((stats.cached_slots, stats.cached_pages) == (slots, pages), "W2", stats.cached_pages)
    }

    /// Every page of an area is mapped, its guards are not (G6), and the counters
    /// say how many there are.
    fn check_areas(&self, ctx: Ctx<'_, M>) -> Result<(), Broken> {
        let (mut areas, mut pages, mut end) = (0, 0, 0);
        for area in self.areas() {
            Broken::unless(area.start.0 >= end, "S1", area.start.0)?;
            end = area.start.0 + area.size();
            (areas, pages) = (areas + 1, pages + area.pages);
            let mapped = |page: usize| self.frame_at(area.start.add_pages(page).0).is_some();
            let expected = area.kind.is_whole();
            let by_hand = || !expected && ctx.find(area.start).is_some_and(|found| found.slot().is_shared());
            let right = |page: usize| mapped(page) == expected || by_hand();
            (0..area.pages).try_for_each(|page| Broken::unless(right(page), "G2", area.start.add_pages(page).0))?;
            let is_mapped = |at| ctx.walker().translate(at).is_some();
            let (below, beyond) = (VirtAddr(area.start.0 - PAGE_SIZE), area.range().end());
            Broken::unless(area.guard == Guard::None || !is_mapped(beyond), "G6", beyond.0)?;
            Broken::unless(area.kind != Kind::Stack || !is_mapped(below), "G6", below.0)?;
        }
        let stats = self.stats();
        Broken::unless((stats.areas, stats.pages) == (areas, pages), "counters", stats.areas)
    }

    /// The state in numbers. Cheap: a sum over CPUs. A caller that interrupted
    /// another call, an NMI, is not told what lies under locks: 0 reserved pages and
    /// frames in depots and reserve.
    pub fn stats(&self) -> Stats {
        let Some(ctx) = self.ctx() else { return Stats::default() };
        let core = ctx.core;
        let mut stats = CpuGuard::enter(ctx).map(|_here| core.locked_stats()).unwrap_or_default();
        for index in 0..core.cpus() {
            let cpu = core.cpu(index);
            cpu.counters.add_to(&mut stats.counts);
            stats.cached_slots += cpu.cache_size.slots();
            stats.cached_pages += cpu.cache_size.pages();
            if let Ok(here) = Visit::enter(ctx, index) {
                stats.pooled_frames += here.magazine.len() + here.prealloc.len();
                stats.waiting_pages += here.waiting();
            }
        }
        let counts = &stats.counts;
        let posted = counts.remote_pages.wrapping_sub(counts.received_pages) as i64;
        stats.waiting_pages += posted.max(0) as usize;
        let frees = counts.local_frees + counts.remote_frees + counts.deferred_frees;
        Stats {
            policy: match core.policy() {
                policy @ (Policy::Park | Policy::Keep) if (policy as u8) < core.caches_from => Policy::Unmap,
                policy => policy,
            },
            areas: counts.allocs.wrapping_sub(frees) as usize,
            pages: counts.alloc_pages.wrapping_sub(counts.free_pages + counts.deferred_pages) as usize,
            table_frames: core.tables.load(Relaxed),
            bookkeeping_frames: core.bookkeeping.load(Relaxed),
            init_frames: core.init_frames,
            init_bookkeeping: core.init_bookkeeping,
            ..stats
        }
    }
}

fn check_arena<M: Machine>(ctx: Ctx<'_, M>, region: &Region<M::Lock>) -> Result<(), Broken> {
    let _cpu = CpuGuard::enter(ctx).map_err(|_| Broken { rule: "L1", at: 0 })?;
    region.shared.lock().arena.check(ctx.machine)
}

impl<M: Machine> Core<M> {
    /// The numbers that lie under locks, for whoever is inside a CPU (L4).
    fn locked_stats(&self) -> Stats {
        let reserved = |region: &Region<M::Lock>| region.shared.lock().arena.used() << region.grain_shift;
        Stats {
            reserved_pages: self.regions.iter().map(reserved).sum(),
            pooled_frames: self.depots(|depot| depot.frames()),
            reserve_frames: self.reserve.lock().len(),
            ..Stats::default()
        }
    }
}
