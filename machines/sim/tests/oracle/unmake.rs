//! Freeing what lives.

use super::hand::Hand;
use super::model::Area;
use core::ptr::NonNull;
use vmalloc::machine::format::Format;
use vmalloc::machine::{Context, Machine};
use vmalloc::units::{PAGE_SIZE, Pfn};
use vmalloc::{FreeError, Kind, Policy};

/// The pointer to an address of a region.
pub fn pointer(at: usize) -> NonNull<u8> {
    NonNull::new(core::ptr::without_provenance_mut(at)).expect("no region holds address 0")
}

impl<F: Format, const ALIASES: bool> Hand<'_, F, ALIASES> {
    /// Frees some area, after a look at it.
    pub fn free_any(&self) {
        let count = self.model().count();
        if count == 0 {
            return;
        }
        let start = self.model().start(self.below(count));
        let pages = self.model().area(start).pages;
        self.look(start);
        self.look(start + self.below(pages) * PAGE_SIZE);
        self.free(start);
    }

    pub fn free(&self, start: usize) {
        // What interrupts do from here on, they do to an area that is gone.
        let (area, free) = self.model().leave(start);
        let strict = self.vm.policy() == Policy::Strict && self.sim().context() == Context::Task;
        let freed = self.free_as(area.kind, start, area.pages);
        let stolen = self.model().freeing.pop().is_some_and(|freeing| freeing.stolen);
        match freed {
            Ok(()) if !stolen => {}
            Err(FreeError::DoubleFree { start: at, .. }) if stolen && at.0 == start => {}
            // Its run was back in the arena before this call looked.
            Err(FreeError::NotAnArea(at)) if stolen && at.0 == start => {}
            other => panic!("free: {area:x?}, {}: {other:x?}", if stolen { "freed by another" } else { "live" }),
        }
        if strict && !stolen {
            self.model().flushed(&area, free);
        }
        self.take_back(&area.lent());
        self.use_after(&area);
    }

    /// Frames that were lent are the driver's alone again: it gives some of them
    /// up at once, while CPUs still reach them. Not from an interrupt, for the
    /// call that it came into may be about to lend them.
    pub fn take_back(&self, frames: &[Pfn]) {
        frames.iter().for_each(|&frame| self.model().frame(frame).lent -= 1);
        if self.sim().context() == Context::HardIrq {
            return;
        }
        for frame in frames.iter().filter(|_| self.one_in(2)) {
            let held = self.model().held.iter().position(|held| held == frame);
            held.into_iter().for_each(|n| self.give_up(n));
        }
    }

    /// Uses what was freed: that faults, or nobody else notices.
    fn use_after(&self, area: &Area) {
        for page in [area.start, area.start, area.end() - PAGE_SIZE] {
            self.look_in_passing(page);
        }
        if self.one_in(4) && self.sim().context() != Context::HardIrq {
            self.write(area.start);
        }
    }

    /// Frees an area of `kind` the way that its kind is freed.
    pub fn free_as(&self, kind: Kind, start: usize, pages: usize) -> Result<(), FreeError> {
        let at = pointer(start);
        // SAFETY: V1: what is used later is used to see it caught.
        unsafe {
            match kind {
                Kind::Vmap => self.vm.vunmap(at),
                Kind::MapRam => self.vm.unmap_ram(at, pages),
                Kind::Ioremap => self.vm.iounmap(pointer(start + self.below(PAGE_SIZE))),
                _ => self.vm.free(at),
            }
        }
    }
}
