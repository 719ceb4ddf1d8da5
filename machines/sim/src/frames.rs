//! The frames, watched: who has them, and who can still reach them.
//!
//! The library's own zones do the work. Around them it is checked that a
//! frame which changes hands is reachable by nobody, neither through a TLB
//! nor as a table (G3); that the calls are pinned (F3); and that a frame is
//! given back once, by who has it. Fresh frames are full of dirt that looks
//! like present entries: what wants them clear must clear them.

use crate::history::Event;
use crate::judge::accuse;
use crate::order::{self, InSource, tell};
use crate::section::What;
use crate::{Core, ORDER, Sim};
use vmalloc::gfp::ZoneKind;
use vmalloc::machine::format::Format;
use vmalloc::machine::frames::{Frames, Page, Want};
use vmalloc::units::{Node, PAGE_SIZE, Pfn, VirtAddr};

/// What fresh frames are full of.
pub const DIRT: u8 = 0xa5;

impl<F: Format> Sim<F> {
    /// Which fallible step is refused.
    #[cfg(debug_assertions)]
    pub fn faults(&self) -> &vmalloc::machine::faulty::Faults {
        &self.zones.faults
    }

    /// Entries of TLBs that name `frame`, of CPUs that are awake.
    pub fn tlb_refs(&self, frame: Pfn) -> u32 {
        self.memory.meta(frame).map_or(0, |m| m.tlb.load(ORDER))
    }

    /// Entries of paging-structure caches that name `frame`, of CPUs that are
    /// not offline.
    pub fn table_refs(&self, frame: Pfn) -> u32 {
        self.memory.meta(frame).map_or(0, |m| m.tables.load(ORDER))
    }

    /// Panics, with the story, if a CPU that is awake reaches `frame` through
    /// any page but `page`, or a CPU that is not offline walks it as a table.
    pub fn assert_reached_only_at(&self, frame: Pfn, page: Option<VirtAddr>) {
        if self.tlb_refs(frame) + self.table_refs(frame) != 0 {
            self.judge_frame(&self.state(), frame, page, "given to a new holder");
        }
    }

    /// Frames that somebody has, roots excepted.
    pub fn leaked_frames(&self) -> usize {
        self.memory.out().filter(|(frame, _)| !self.roots.contains(frame)).count()
    }

    /// Panics, with their stories, unless all frames were given back.
    pub fn assert_no_leaks(&self) {
        let leaked: Vec<_> = self.memory.out().map(|(frame, _)| frame).filter(|f| !self.roots.contains(f)).collect();
        if let [first, ..] = leaked[..] {
            let since = self.memory.meta(first).map_or(0, |m| m.since.load(ORDER));
            let story = self.state().history.story(VirtAddr(0), &[first]);
            accuse(&format!(
                "leak: {} frames are out; {first:?} since event #{since}; events of that frame:\n{story}",
                leaked.len()
            ));
        }
    }
}

// SAFETY: F1–F6 are those of the zones.
unsafe impl<F: Format> Frames for Core<F> {
    fn total(&self) -> usize {
        self.zones.total()
    }

    fn free_now(&self) -> usize {
        self.zones.free_now()
    }

    fn is_ram(&self, frame: Pfn) -> bool {
        self.zones.is_ram(frame)
    }

    fn free_for(&self, want: Want) -> Option<usize> {
        self.zones.free_for(want)
    }

    fn alloc(&self, want: Want) -> Option<Pfn> {
        let _in_source = self.enter_source();
        self.touch();
        let first = self.zones.alloc(want)?;
        self.taken(first, want.order);
        Some(first)
    }

    unsafe fn free(&self, first: Pfn, order: u8) {
        let _in_source = self.enter_source();
        self.touch();
        self.given(first, order);
        // SAFETY: the caller's promise, handed on.
        unsafe { self.zones.free(first, order) }
    }

    fn alloc_bulk(&self, want: Want, into: &mut [Pfn]) -> usize {
        let _in_source = self.enter_source();
        self.touch();
        let got = self.zones.alloc_bulk(want, into);
        into[..got].iter().for_each(|&frame| self.taken(frame, 0));
        got
    }

    unsafe fn free_bulk(&self, frames: &[Pfn]) {
        let _in_source = self.enter_source();
        self.touch();
        frames.iter().for_each(|&frame| self.given(frame, 0));
        // SAFETY: the caller's promise, handed on.
        unsafe { self.zones.free_bulk(frames) }
    }

    fn nodes(&self) -> usize {
        self.zones.nodes()
    }

    fn highest_zone(&self) -> ZoneKind {
        self.zones.highest_zone()
    }

    fn end(&self) -> Pfn {
        self.zones.end()
    }

    fn is_out(&self, frame: Pfn) -> bool {
        self.zones.is_out(frame)
    }

    fn node_of(&self, frame: Pfn) -> Node {
        self.zones.node_of(frame)
    }

    fn page(&self, frame: Pfn) -> Option<&Page> {
        self.zones.page(frame).filter(|_| self.described)
    }
}

impl<F: Format> Core<F> {
    /// The source is called, which wants a pin and no lock (F3).
    fn enter_source(&self) -> InSource {
        let cpu = self.running();
        if self.state().cpu(cpu).pins == 0 {
            accuse(&format!("F3: CPU {cpu} asks for frames and is not pinned"));
        }
        order::enter_source(cpu)
    }

    /// A block goes out, dirty.
    fn taken(&self, first: Pfn, order: u8) {
        // However large it is, it is cut out of a larger one in as many steps as there are orders.
        tell(What::Moved, order as u64 + 1);
        let since = self.record(&mut self.state(), Event::Taken { frame: first, order });
        for frame in (0..1 << order).map(|n| first.offset(n)) {
            self.hand_over(frame, true, since);
            let bytes = self.memory.bytes(frame).expect("zones hold memory");
            // SAFETY: the frame was just taken: nobody else uses it.
            unsafe { bytes.write_bytes(DIRT, PAGE_SIZE) }
        }
    }

    /// A block comes back.
    fn given(&self, first: Pfn, order: u8) {
        tell(What::Moved, 1 << order);
        let since = self.record(&mut self.state(), Event::Given { frame: first, order });
        (0..1 << order).for_each(|n| self.hand_over(first.offset(n), false, since));
    }

    fn hand_over(&self, frame: Pfn, out: bool, since: u64) {
        let what = if out { "handed out" } else { "given back" };
        let Some(meta) = self.memory.meta(frame) else {
            return accuse(&format!("F1: {frame:?} was {what}, where no memory is"));
        };
        if meta.out.swap(out, ORDER) == out {
            let story = self.state().history.story(VirtAddr(0), &[frame]);
            accuse(&format!("F1: {frame:?} was {what} twice; events of the frame:\n{story}"));
        }
        meta.since.store(since, ORDER);
        if meta.tlb.load(ORDER) + meta.tables.load(ORDER) != 0 {
            self.judge_frame(&self.state(), frame, None, what);
        }
    }
}
