//! The machine's contract, kept and checked.
//!
//! What the contract asks of the caller is checked here too: pins end in
//! order and on their own CPU (M4), direct mappings are asked for frames that
//! are held (M2), and a loop that waits does not wait for ever.

use crate::cache::Cached;
use crate::cpu::{Power, Symbolizer};
use crate::history::Event;
use crate::judge::accuse;
use crate::order::tell;
use crate::section::What;
use crate::walk::{covered, overlap};
use crate::{Core, ORDER, Sim, SoloLock, Watched, turn};
use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;
use vmalloc::error::Shortage;
use vmalloc::gfp::Gfp;
use vmalloc::machine::event::Event as Told;
use vmalloc::machine::format::{Entry, Format, Prot};
use vmalloc::machine::frames::Frames;
use vmalloc::machine::{Context, Flush, Level, Machine, Pinned};
use vmalloc::units::{CpuSet, Node, PAGE_SHIFT, PAGE_SIZE, PageRange, Pfn, VirtAddr};

/// Turns of a waiting loop that are taken for a deadlock.
const PATIENCE: u64 = 1_000_000;
/// Simulated nanoseconds of a turn.
const TURN_NS: u64 = 100;

// SAFETY: M1 is the driver's; M2: `direct` answers frames that are out only,
// and they are memory until the machine is dropped; M3: a constant; M4: one
// host thread runs all CPUs, interrupts come only where nothing is pinned, and
// end before `pin` or `unpin` returns; M5: pinned is never Task; M6: `flush`
// forgets both caches, unless sabotaged; M7: `relax`, `step` and unpinning
// serve kicks; M8: handlers run where interrupts may come; M9: checked at each
// access.
unsafe impl<F: Format, const ALIASES: bool> Machine for Sim<F, ALIASES> {
    type Table = Watched<F>;
    type Frames = Core<F>;
    type Lock = SoloLock;
    const ALIASES: bool = ALIASES;

    fn frames(&self) -> &Core<F> {
        self
    }

    fn root(&self) -> Pfn {
        self.root
    }

    fn virt(&self, frame: Pfn) -> NonNull<u8> {
        self.touch();
        tell(What::Reached, 1);
        if self.state().directs.is_gone(frame) {
            accuse(&format!("M2: the bytes of {frame:?} were asked for, which has no direct mapping any more"));
        }
        self.memory.direct(frame).unwrap_or_else(|why| panic!("M2: the bytes of {frame:?}, {why}, were asked for"))
    }

    fn cpus(&self) -> u32 {
        self.cpus
    }

    fn page_limit(&self) -> usize {
        if ALIASES { self.frames().total() } else { self.window_limit }
    }

    fn pin(&self) -> Pinned {
        self.touch();
        self.maybe_interrupt();
        let cpu = self.running();
        let s = &mut *self.state();
        let saved = s.cpu(cpu).pins;
        s.cpu(cpu).begin_section(cpu);
        s.cpu(cpu).pins += 1;
        Pinned { cpu, saved }
    }

    unsafe fn unpin(&self, was: Pinned) {
        {
            let cpu = self.running();
            let s = &mut *self.state();
            let pins = core::mem::replace(&mut s.cpu(cpu).pins, was.saved);
            if (was.cpu, was.saved + 1) != (cpu, pins) {
                accuse(&format!("M4: {was:?} was ended on CPU {cpu}, which was pinned {pins} deep"));
            }
            let unbounded = s.unbounded;
            s.cpu(cpu).end_section(cpu, unbounded);
        }
        self.touch();
        self.maybe_interrupt();
        self.maybe_migrate();
    }

    fn context(&self) -> Context {
        let s = &mut *self.state();
        match (&s.cpus[self.running() as usize], s.context) {
            (cpu, _) if cpu.in_nmi => Context::Nmi,
            (cpu, _) if cpu.interrupts > 0 => Context::HardIrq,
            (cpu, Context::Task) if cpu.pins > 0 || cpu.masked => Context::Atomic,
            (_, context) => context,
        }
    }

    fn flush(&self, what: Flush<'_>) {
        self.touch();
        let s = &mut *self.state();
        s.counters.flushes += 1;
        let cpu = self.running();
        #[cfg(interleave)]
        if s.sabotage.is_some_and(|how| how.skips(cpu, s.cpu(cpu).power)) {
            self.record(s, Event::FlushSkipped);
            return;
        }
        let highest = self.levels;
        #[cfg(interleave)]
        let highest = if s.sabotage == Some(crate::Sabotage::KeepTables) { 1 } else { highest };
        match what {
            Flush::Everything => {
                self.record(s, Event::Flushed);
                s.window.flushed(|_| true);
                s.directs.flushed(cpu);
                self.forget(s, cpu, |entry| entry.level <= highest);
            }
            Flush::Ranges(ranges) => ranges.iter().for_each(|&range| {
                self.record(s, Event::FlushedPages(range));
                s.window.flushed(|page| numbers(range).contains(&page));
                let hit = |entry: &Cached| overlap(covered::<F>(entry.level, entry.prefix), range);
                self.forget(s, cpu, |entry| entry.level <= highest && hit(entry));
            }),
        }
    }

    fn kick(&self, cpus: &CpuSet) {
        self.touch();
        let s = &mut *self.state();
        for cpu in cpus.iter() {
            s.history.note(cpu, Event::Kicked);
            let state = s.cpu(cpu);
            // One that is on its way online gets it as soon as it listens.
            state.kicked = state.power != Power::Offline || state.masked;
        }
    }

    fn levels(&self) -> u8 {
        self.levels
    }

    fn sync(&self, pages: PageRange) {
        {
            let s = &mut *self.state();
            self.record(s, Event::Written(pages));
            for page in numbers(pages) {
                s.cleared.remove(&page);
                if let (_, Entry::Leaf { frame, .. }) = self.truth(VirtAddr(page << PAGE_SHIFT), 1) {
                    s.told.tell(page, frame);
                    if !ALIASES && s.window.mapped(page) {
                        self.lose(frame);
                    }
                }
            }
            s.used(pages.start);
            s.used(pages.end());
        }
        self.touch();
    }

    fn protect(&self, pages: PageRange, _prot: Prot) -> Result<(), i32> {
        self.state().protecting.extend(numbers(pages));
        self.touch();
        Ok(())
    }

    fn unmapped(&self, pages: PageRange) {
        {
            let s = &mut *self.state();
            self.record(s, Event::Written(pages));
            let is_absent = |&page: &usize| self.truth(VirtAddr(page << PAGE_SHIFT), 1).1 == Entry::Absent;
            let is_mapped = |&page: &usize| matches!(self.truth(VirtAddr(page << PAGE_SHIFT), 1).1, Entry::Leaf { .. });
            if let Some(page) = numbers(pages).find(is_mapped) {
                accuse(&format!("page {page:#x} is said to be unmapped, and its entry says that it is mapped"));
            }
            s.told.forget(numbers(pages));
            s.window.unmapped(numbers(pages));
            s.cleared.extend(numbers(pages).filter(is_absent));
        }
        self.touch();
    }

    fn relax(&self) {
        {
            let s = &mut *self.state();
            s.cpu(self.running()).waits(self.running(), "waits");
            s.clock += TURN_NS;
            s.turns += 1;
            if s.turns >= PATIENCE {
                let kicked = s.cpus.iter().map(|c| c.kicked).collect::<Vec<_>>();
                accuse(&format!("CPU {} waits for ever; kicks that nobody serves: {kicked:?}", self.running()));
                // A panic is under way, and one of its destructors waits: nobody could end that.
                std::process::abort();
            }
        }
        if turn::is_racing() {
            self.serve_kick(self.running());
            turn::wait();
        } else {
            self.serve_kicks();
        }
        self.touch();
        self.maybe_interrupt();
    }

    fn node_of(&self, cpu: u32) -> Node {
        Node((cpu * self.nodes / self.cpus) as u8)
    }

    fn zero(&self, frame: Pfn, at: VirtAddr) {
        self.state().cpu(self.running()).clears(self.running());
        if ALIASES && self.memory.is_direct(frame) {
            // SAFETY: M2, the library holds the frame.
            unsafe { self.virt(frame).write_bytes(0, PAGE_SIZE) }
        } else if let Err(fault) = self.write_bytes(self.cpu(), at, &[0; PAGE_SIZE]) {
            accuse(&format!("{frame:?} was to be cleared through {at}: {fault}"));
        }
    }

    fn exhausted(&self, short: Shortage, context: Context, gfp: Gfp) -> bool {
        self.state().cpu(self.running()).waits(self.running(), "asks for help");
        let here = self.context();
        if (here, context) != (Context::Task, Context::Task) || !gfp.contains(Gfp::WAIT) {
            accuse(&format!("help is asked for in {here:?}, told as {context:?} with {gfp:?}: nobody may wait"));
        }
        let appeal = self.state().on_shortage.clone();
        appeal.is_some_and(|appeal| appeal(short, gfp))
    }

    fn clock_ns(&self) -> Option<u64> {
        Some(self.state().clock)
    }

    fn note(&self, event: Told) -> Result<(), i32> {
        let s = &mut *self.state();
        if let Told::Protect(pages, _) = event {
            numbers(pages).for_each(|page| _ = s.protecting.remove(&page));
            self.judge_pages(s, numbers(pages));
        }
        s.noted.tell(event)
    }

    fn log(&self, level: Level, line: fmt::Arguments<'_>) {
        self.state().log.push((level, line.to_string()));
    }

    fn symbol(&self, pc: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let print: Option<Symbolizer> = self.state().symbolizer.clone();
        match print {
            Some(print) => print(pc, f),
            None => write!(f, "{pc:#x}"),
        }
    }
}

/// The numbers of pages.
fn numbers(pages: PageRange) -> Range<usize> {
    let first = pages.start.0 >> PAGE_SHIFT;
    first..first + pages.pages
}

impl<F: Format> Core<F> {
    /// What was stored in the page that is this frame is lost.
    fn lose(&self, frame: Pfn) {
        let bytes = self.memory.bytes(frame).expect("a page of a window");
        // SAFETY: it is memory of the machine's, and the page was mapped by this call.
        unsafe { bytes.write_bytes(0, PAGE_SIZE) }
    }

    /// Something that the library does: other CPUs may do something as well.
    pub(crate) fn touch(&self) {
        turn::step();
        let due = self.nmi.load(ORDER);
        if due != 0 {
            self.nmi.store(due - 1, ORDER);
            if due == 1 {
                self.non_maskable();
            }
        }
        let left = self.fuse.load(ORDER);
        self.fuse.store(left.wrapping_sub(1), ORDER);
        if left == 0 {
            let s = &mut *self.state();
            self.fuse.store(s.rng.below(2 * s.rates.speculate), ORDER);
            if s.rates.speculate == 0 {
                self.fuse.store(u64::MAX, ORDER);
                return;
            }
            let cpu = s.rng.below(s.cpus.len() as u64) as u32;
            self.guess(s, cpu);
        }
    }
}
