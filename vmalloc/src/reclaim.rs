//! What comes after a free: closing, grace, reclaiming; ticks and pressure.
//!
//! # One purge
//! 1. The remote frees are drained: what other CPUs freed becomes stale here (R1).
//! 2. The open batch is sealed: a tag, a flush of this CPU, kicks (G1).
//! 3. At grace the batch is expired.
//! 4. It is drained slot by slot: entries are collected, frames go to the
//!    magazine, the slot is free again; table pages become free memory (G3).
//!
//! Steps 1–4 are taken a bit at a time by the calls that need something, and by
//! the tick; [`Vmalloc::purge`] takes them all, for all CPUs.

use crate::batch::Batch;
use crate::cache::Evict;
use crate::cpu::{CpuGuard, PerCpu, SLICE, Visit};
use crate::flush::{Grace, Holds, Pending};
use crate::instance::{Core, Vmalloc};
use crate::machine::frames::Frames;
use crate::machine::{Context, Flush, Level, Machine};
use crate::space::chunk::ChunkRef;
use crate::space::class::Class;
use crate::space::slot::slots_of;
use crate::stats::{count, uncount};
use crate::sync::{Ordering::Relaxed, breaks};
use crate::units::{CpuSet, PageRange, VirtAddr};

/// Ticks after which an open batch closes (G4).
const OLD: u8 = 2;

/// What the flush of a closing is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Covers {
    /// Nothing was sealed.
    Nothing,
    /// These pages alone: no barrier for others (G1 ranges).
    Pages(PageRange),
    /// Whatever was cleared before it.
    Everything,
}

/// What a tick found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tick {
    /// More is to be done: call [`Vmalloc::work`] from a task soon.
    pub work: bool,
}

impl<'v, M: Machine> CpuGuard<'v, M> {
    /// Step 1: what was posted becomes stale here (R1), a slice of slots, and of
    /// entries that their freer left alone (R6), at a time (L3); and frames that
    /// were dropped are taken in. True = there is more.
    pub(crate) fn drain_remote_frees(&mut self) -> bool {
        self.take_dropped();
        let mut work = 0;
        while work < SLICE {
            if let Some(deferred) = self.deferred.take() {
                work += self.retire_deferred(deferred);
                continue;
            }
            let cpu = self.cpu;
            let Some((chunk, posted)) = cpu.remote_frees.next(&mut self.drained) else { return false };
            let raced = chunk.receive(posted, |live| {
                let deferred = self.take_deferred(chunk, posted, live);
                self.receive(chunk, live & !deferred);
                deferred
            });
            if raced != 0 {
                self.raced(chunk, raced);
            }
            work += posted.count_ones() as usize;
        }
        self.has_drained()
    }

    /// Claimed slots that live are freed: those that may stay cached do, the
    /// others become stale. Returns the pages of those.
    #[inline]
    pub(crate) fn receive(&mut self, chunk: ChunkRef, mut slots: u64) -> usize {
        let mut pages = 0;
        for slot in slots_of(slots) {
            if chunk.slot(slot).is_plain() && self.accept_remote(chunk, slot) {
                slots &= !(1 << slot);
            } else {
                pages += chunk.slot(slot).bound_pages();
            }
        }
        if slots != 0 {
            self.open.add(chunk, slots, pages);
        }
        pages
    }

    /// A slot was posted that had been freed here at the same moment: it was
    /// counted twice.
    #[cold]
    fn raced(&mut self, chunk: ChunkRef, slots: u64) {
        let counters = &self.cpu.counters;
        for slot in slots_of(slots) {
            count(&counters.raced_frees, 1);
            uncount(&counters.remote_frees, 1);
            uncount(&counters.free_pages, chunk.slot(slot).pages() as u64);
        }
        let line = format_args!("double free, by two CPUs at once, in the chunk at {}", chunk.address(0));
        self.vm.machine().log(Level::Error, line);
    }

    /// What a free owes: for every half slice of work that was left to the open batch
    /// about a slice of step 4, more than it can leave itself, so that the expired
    /// batch is empty before the open one is full; and step 2, when it is (G4, L3).
    #[inline]
    pub(crate) fn reclaim_step(&mut self) {
        if self.open.is_due() {
            self.reclaim_now();
        }
    }

    /// Pays, and leaves.
    #[inline(never)]
    pub(crate) fn reclaim_step_and_leave(mut self) {
        self.reclaim_now();
    }

    #[inline(never)]
    fn reclaim_now(&mut self) {
        self.poll();
        // Of one-page areas twice what was left since; of the largest that are
        // freed at once, more than one, or one in a chunk of its own.
        self.reclaim(SLICE + 2);
        self.open.step();
        if self.open.pages >= self.core.batch_pages {
            self.seal();
        }
    }

    /// Step 2: closes the open batch, unless it is empty or the other is not.
    pub(crate) fn seal(&mut self) -> Covers {
        let index = self.open.index;
        let tables = !self.tables[index].is_empty();
        if self.sealed.is_some() || self.expired.is_some() || !(tables || self.open.waits()) {
            return Covers::Nothing;
        }
        let narrow = if tables { None } else { self.narrow() };
        let batch = core::mem::replace(&mut self.open, Batch::new(index ^ 1));
        self.core.waiting.fetch_add(batch.pages, Relaxed);
        count(&self.cpu.counters.closes, 1);
        let (core, mut asked) = (self.core, CpuSet::EMPTY);
        // Where a flush of the machine's is for all, nobody has to be asked.
        let epochs = core.epochs().take(if M::MIRRORED { 0 } else { usize::MAX });
        let holds = Holds { tables, aliases: batch.has_aliases, narrow };
        let pending = core.flush_epochs.seal_and_ask(batch, holds, || self.flush(), epochs, |cpu| asked.insert(cpu));
        self.kick(asked);
        self.sealed = Some(pending);
        self.poll();
        narrow.map_or(Covers::Everything, Covers::Pages)
    }

    /// The pages of the open batch, if it is a single small area: Strict's, or
    /// what a shortage or a tick finds (G1 ranges). Not while there are aliases.
    fn narrow(&mut self) -> Option<PageRange> {
        let (chunk, slot) = self.open.only().filter(|_| self.core.flush_epochs.has_no_aliases())?;
        let pages = chunk.slot(slot).pages();
        (pages <= SLICE).then(|| PageRange::new(self.core.address_of(chunk, slot), pages))
    }

    fn kick(&self, asked: CpuSet) {
        if !asked.is_empty() {
            count(&self.cpu.counters.kicks, asked.iter().count() as u64);
            self.vm.machine().kick(&asked);
        }
    }

    /// Flushes this CPU, or everywhere where the machine can.
    fn flush(&mut self) {
        count(&self.cpu.counters.flushes, 1);
        self.vm.flush_here(self.core);
    }

    /// Step 3: the sealed batch is expired if grace has come.
    #[inline]
    pub(crate) fn poll(&mut self) {
        if let Some(pending) = self.sealed.take() {
            match pending.reclaim(&self.core.grace()) {
                Ok(batch) => self.expired = Some(batch),
                Err(pending) => self.sealed = Some(pending),
            }
        }
    }

    /// Gives up empty chunks: a quarter of them (the tick), or all; a few at a
    /// time (L3). True = there are more.
    pub(crate) fn release_empties(&mut self, all: bool) -> bool {
        let mut units = 0;
        for region in self.core.regions.iter().map(|region| region.id) {
            for class in Class::all() {
                let empties = self.cpu_chunks(region).empties(class);
                if empties == 0 && !all {
                    continue;
                }
                let surplus = if all { usize::MAX } else { empties.saturating_sub(class.spares()).div_ceil(4) };
                for _ in 0..surplus {
                    if units >= SLICE {
                        return true;
                    }
                    let Some(chunk) = self.cpu_chunks(region).take_empty(Some(class), all) else { break };
                    units += chunk.units() as usize;
                    self.release_chunk(chunk);
                }
            }
        }
        false
    }

    /// What is due on this CPU by time: bounded, for interrupts too.
    pub(crate) fn tick(&mut self) -> bool {
        let remote_frees = self.drain_remote_frees();
        self.poll();
        self.reclaim(SLICE);
        let waits = self.open.waits() || !self.tables[self.open.index].is_empty();
        self.open.ticks = if waits { (self.open.ticks + 1).min(OLD) } else { 0 };
        if self.open.ticks == OLD {
            self.seal();
        }
        self.release_empties(false);
        self.core.regions.iter().for_each(|region| _ = self.sweep(region.id));
        let more = self.age();
        more || remote_frees || self.expired.is_some() || self.is_pressed()
    }

    /// Whether more pages wait for flushes than should (G4): in the sealed
    /// batches of all CPUs, and in the open one of this.
    #[inline]
    pub(crate) fn is_pressed(&self) -> bool {
        let (waiting, most) = (self.core.waiting.load(Relaxed) + self.open.pages, self.core.waiting_pages);
        waiting > most && waiting - self.expired.as_ref().map_or(0, |expired| expired.gone) > most
    }
}

impl<M: Machine> Core<M> {
    /// How far grace has come.
    pub(crate) fn grace(&self) -> Grace {
        let grace = if M::MIRRORED { self.flush_epochs.grace_so_far() } else { self.flush_epochs.grace(self.epochs()) };
        if breaks!(EarlyReclaim) {
            return Grace::STOLEN;
        }
        if breaks!(SkipIdle) { grace.ignoring_idle() } else { grace }
    }
}

impl<M: Machine> Vmalloc<M> {
    /// Flushes the calling CPU and says so, or everywhere where the machine
    /// can do that.
    pub(crate) fn flush_here(&self, core: &Core<M>) {
        let everywhere = || self.machine().flush_everywhere(Flush::Everything) && self.nobody_looks(core);
        if core.flush_epochs.flush_everywhere(everywhere) || M::MIRRORED {
            return;
        }
        self.pinned(|cpu| match core.cpu(cpu) {
            cpu if cpu.looks.are_under_way() => cpu.epoch.put_off(),
            cpu => core.flush_epochs.flush(&cpu.epoch, |what| self.flush_machine(what)),
        });
    }

    /// The calling CPU, which is `cpu`, flushes if it is behind; in the middle of a
    /// look when that is over (T1 looks).
    pub(crate) fn catch_up(&self, core: &Core<M>, cpu: &PerCpu) {
        if !cpu.looks.are_under_way() {
            core.flush_epochs.catch_up(&cpu.epoch, |what| self.flush_machine(what));
        } else if core.flush_epochs.is_behind(&cpu.epoch) {
            cpu.epoch.put_off();
        }
    }

    /// Discards `what`, `None` = everything, on this CPU.
    fn flush_machine(&self, what: Option<PageRange>) {
        if breaks!(SkipFlush) {
            return;
        }
        match what {
            Some(pages) => self.machine().flush(Flush::Ranges(&[pages])),
            None => self.machine().flush(Flush::Everything),
        }
    }

    /// The CPU's answer to a kick: flushes if it is behind. From any context,
    /// NMI included; takes no lock. Where an NMI has interrupted a look at entries
    /// ([`Vmalloc::hold_frame`] and its like), that call flushes when it is over.
    ///
    /// # Cost
    /// Three batches, or a flush.
    pub fn on_kick(&self) {
        let Some(core) = self.core() else { return };
        self.pinned_anew(|cpu| self.catch_up(core, core.cpu(cpu)));
    }

    /// The calling CPU takes part from here on. It holds no translation of the
    /// regions that is older than its last [`Vmalloc::cpu_offline`] (M9).
    pub fn cpu_online(&self) {
        self.with_ear(|core, epoch| core.flush_epochs.wake(epoch, |what| self.flush_machine(what)));
    }

    /// The calling CPU leaves, and touches no area until it is online again.
    /// What it keeps is drained by the next purge of any CPU.
    pub fn cpu_offline(&self) {
        self.with_ear(|core, epoch| {
            core.flush_epochs.sleep(epoch, |what| self.flush_machine(what));
            core.flush_epochs.leave(epoch);
        });
    }

    /// The calling CPU goes idle: nobody needs to kick it until
    /// [`Vmalloc::idle_exit`], before which it touches no area (G5).
    pub fn idle_enter(&self) {
        self.with_ear(|core, epoch| core.flush_epochs.sleep(epoch, |what| self.flush_machine(what)));
    }

    /// The calling CPU is no longer idle: it flushes if it is behind (G5).
    pub fn idle_exit(&self) {
        self.with_ear(|core, epoch| core.flush_epochs.wake(epoch, |what| self.flush_machine(what)));
    }

    fn with_ear(&self, f: impl FnOnce(&Core<M>, &crate::flush::CpuEpoch)) {
        let Some(core) = self.core() else { return };
        self.pinned_anew(|cpu| f(core, &core.cpu(cpu).epoch));
    }

    /// The timer's call, on every CPU: bounded, from hard interrupts too.
    ///
    /// # Cost
    /// A slice of pages, a few empty chunks and table pages.
    pub fn tick(&self) -> Tick {
        self.on_kick();
        let Some(core) = self.core() else { return Tick { work: false } };
        let work = CpuGuard::enter(self, core).is_ok_and(|mut here| here.tick());
        Tick { work }
    }

    /// The worker's call, from a task: drains what the ticks left, and gives
    /// surplus frames back. Returns the frames given back.
    pub fn work(&self) -> usize {
        let Some(core) = self.core() else { return 0 };
        while let Ok(mut here) = CpuGuard::enter(self, core) {
            if !here.evict_overdue() {
                break;
            }
        }
        while let Ok(mut here) = CpuGuard::enter(self, core) {
            let more = here.drain_remote_frees();
            here.poll();
            if here.reclaim(SLICE) == 0 && !more {
                break;
            }
        }
        self.fill_reserve(core);
        self.trim_depots(core, core.batch_pages)
    }

    /// Gives frames of depots back to the source until at most `keep` are left
    /// in each, a few at a time (L3), and says how many.
    fn trim_depots(&self, core: &Core<M>, keep: usize) -> usize {
        let some = || {
            let _here = CpuGuard::enter(self, core).ok()?;
            Some(core.depots(|depot| depot.trim(self.machine(), keep))).filter(|&given| given > 0)
        };
        core::iter::from_fn(some).sum()
    }

    /// Purges everything on all CPUs: flushes, waits for grace, and makes what
    /// waited usable again. Returns the pages that were reclaimed.
    ///
    /// Waits where [`Machine::context`] says Task; elsewhere it does what can
    /// be done without waiting.
    pub fn purge(&self) -> usize {
        let Some(core) = self.core() else { return 0 };
        self.evict_all(core, Evict::Purged);
        self.flush_all(core)
    }

    /// [`Vmalloc::purge`], but what is cached stays so.
    pub(crate) fn flush_all(&self, core: &Core<M>) -> usize {
        let before = core.redeemed_pages();
        let mut rounds = 0;
        loop {
            // Draining may unlink tables and fill the other batch: until nothing
            // is left, or nothing comes of it any more.
            let tables = core.tables.load(Relaxed);
            let left = self.purge_round(core);
            rounds += 1;
            if !left || (rounds >= PURGE_ROUNDS && core.tables.load(Relaxed) >= tables) {
                return core.redeemed_pages().wrapping_sub(before);
            }
        }
    }

    /// One round; true = something is left that another round may reclaim.
    fn purge_round(&self, core: &Core<M>) -> bool {
        let graced = self.flush_round(core);
        self.visit_each(core, |here| here.release_empties(true));
        for region in &core.regions {
            self.visit_each(core, |here| here.sweep(region.id));
        }
        let mut left = false;
        self.visit_all(core, |here| left |= !here.is_drained());
        left && graced
    }

    /// Closes what can be sealed, waits for grace, and reclaims. False = grace did
    /// not come.
    pub(crate) fn flush_round(&self, core: &Core<M>) -> bool {
        let mut tables = false;
        self.drain_all(core);
        self.visit_all(core, |here| {
            here.seal();
            tables |= here.sealed.as_ref().is_some_and(|sealed| !here.tables[sealed.peek().index].is_empty());
        });
        let graced = self.wait_for_grace(core, tables);
        self.drain_all(core);
        graced
    }

    /// Drains the expired batches of all CPUs, a slice inside one at a time (L3).
    fn drain_all(&self, core: &Core<M>) {
        self.visit_each(core, |here| {
            let more = here.drain_remote_frees();
            here.poll();
            here.reclaim(SLICE) > 0 || more
        });
    }

    /// Calls `f` inside each CPU in turn, again and again as long as it says
    /// that there is more (L3).
    pub(crate) fn visit_each(&self, core: &Core<M>, mut f: impl FnMut(&mut CpuGuard<'_, M>) -> bool) {
        for index in 0..core.cpus() {
            while Visit::enter(self, core, index).is_ok_and(|mut here| f(&mut here)) {}
        }
    }

    /// Calls `f` inside each CPU in turn.
    fn visit_all(&self, core: &Core<M>, mut f: impl FnMut(&mut CpuGuard<'_, M>)) {
        for index in 0..core.cpus() {
            if let Ok(mut here) = Visit::enter(self, core, index) {
                f(&mut here);
            }
        }
    }

    /// Waits until everything sealed so far has had grace; false where it must
    /// not wait, or a flush failed.
    pub(crate) fn wait_for_grace(&self, core: &Core<M>, idle_too: bool) -> bool {
        let barrier = core.flush_epochs.seal((), idle_too);
        self.pinned_anew(|_| self.flush_here(core));
        self.wait_for(core, barrier)
    }

    /// Waits until `barrier` has had grace; false where it must not wait, or a
    /// flush failed. Flushes this CPU meanwhile, if another one asks (L2).
    fn wait_for(&self, core: &Core<M>, mut barrier: Pending<()>) -> bool {
        loop {
            barrier = match barrier.reclaim(&core.grace()) {
                Ok(()) => return true,
                Err(barrier) => barrier,
            };
            if M::MIRRORED || self.machine().context() != Context::Task {
                return false;
            }
            let mut asked = CpuSet::EMPTY;
            core.flush_epochs.ask(&barrier, core.epochs(), |cpu| asked.insert(cpu));
            if !asked.is_empty() {
                self.machine().kick(&asked);
            }
            self.on_kick();
            self.machine().relax();
        }
    }

    /// Strict's free: returns when no CPU can reach what was freed at `at`,
    /// where the caller may wait. A batch that is sealed now will do for a
    /// barrier, on whatever CPU that is, unless it is a small one of other pages;
    /// one that was sealed before is too old.
    pub(crate) fn flush_and_wait(&self, core: &Core<M>, at: VirtAddr) {
        let Ok(mut here) = CpuGuard::enter(self, core) else { return };
        here.poll();
        here.drain();
        let covers = match here.seal() {
            Covers::Nothing => false,
            Covers::Pages(pages) => pages.contains(at),
            Covers::Everything => true,
        };
        let sealed = here.sealed.as_ref().map(Pending::barrier);
        drop(here);
        match sealed {
            _ if !covers => self.wait_for_grace(core, false),
            Some(sealed) => self.wait_for(core, sealed),
            None => true,
        };
        if let Ok(mut here) = CpuGuard::enter(self, core) {
            here.poll();
            here.drain();
        }
    }

    /// No stale alias of any frame survives this call (`vm_unmap_aliases`).
    /// False = it cannot be told: the caller may not wait, or a flush failed.
    pub fn unmap_aliases(&self) -> bool {
        self.core().is_none_or(|core| {
            self.evict_all(core, Evict::Purged);
            self.wait_for_grace(core, true)
        })
    }

    /// Gives up to `frames` frames back to the machine's source, from what is
    /// free, waits for a flush, or lies in stock. Returns how many.
    pub fn reclaim(&self, frames: usize) -> usize {
        let Some(core) = self.core() else { return 0 };
        if CpuGuard::enter(self, core).is_err() {
            return 0;
        }
        let before = self.machine().frames().free_now();
        self.purge();
        if self.machine().frames().free_now() < before.saturating_add(frames) {
            self.drain_stocks(core);
        }
        self.machine().frames().free_now().saturating_sub(before)
    }

    /// Gives what lies in magazines, stocks and depots back to the source.
    pub(crate) fn drain_stocks(&self, core: &Core<M>) {
        let machine = self.machine();
        self.visit_each(core, |here| here.magazine.give_some(machine) > 0);
        self.visit_all(core, |here| here.stock.trim(machine, 0));
        self.trim_depots(core, 0);
    }
}

/// Rounds of a purge in any case: the batches, the tables that they freed, and
/// those of the uppermost runs.
const PURGE_ROUNDS: usize = 4;
