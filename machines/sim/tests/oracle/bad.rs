//! Frees that must be refused, named, and change nothing.

use super::hand::Hand;
use super::unmake::pointer;
use vmalloc::machine::format::Format;
use vmalloc::machine::{Context, Machine};
use vmalloc::units::{PAGE_SIZE, VirtAddr};
use vmalloc::{FreeError, Kind};

impl<F: Format, const ALIASES: bool> Hand<'_, F, ALIASES> {
    pub fn free_badly(&self) {
        let before = (self.interrupts(), self.vm.stats());
        match self.below(4) {
            0 | 1 => self.free_twice(),
            2 => self.free_inside(),
            _ => self.free_otherwise(),
        }
        let after = self.vm.stats();
        if self.interrupts() == before.0 {
            assert_eq!((before.1.areas, before.1.pages), (after.areas, after.pages), "free: refused, and done");
            assert_eq!(before.1.counts, after.counts, "free: refused, and counted");
        }
    }

    /// Frees what was freed before, or is being freed right now.
    pub fn free_twice(&self) {
        let freed = {
            let model = self.model();
            let count = model.freed().len();
            if count == 0 {
                return;
            }
            // The latest are the most dangerous.
            let back = if self.one_in(2) { self.below(count) } else { self.below(count.min(3)) };
            model.freed()[count - 1 - back]
        };
        // A slot that is freed here, and reused before the free that was
        // interrupted goes on, would be that one's: too late for anybody.
        let mapping = self.model().mapping;
        if self.model().may_be_made_again(freed.start) || mapping && freed.kind == Kind::MapRam {
            return;
        }
        let result = self.quietly(|| self.free_as(freed.kind, freed.start, freed.pages));
        match result {
            Err(FreeError::DoubleFree { start, .. }) if start.0 == freed.start => {}
            Err(FreeError::NotAnArea(at)) if at.0 == freed.start => {}
            Err(FreeError::WrongKind(Kind::MapRam)) if mapping => {}
            // The call that this interrupts has just made an area over it, and not returned it yet.
            Err(FreeError::NotItsStart { start, .. }) if self.is_unknown_to_the_model(start) => {}
            // The free that was under way lost the race, and has to say so: the latest,
            // for an earlier one had taken its area before there was another here.
            Ok(()) => {
                let mut model = self.model();
                let latest = model.freeing.iter_mut().rfind(|f| f.start == freed.start && !f.stolen);
                latest.unwrap_or_else(|| panic!("free: a double free of {freed:x?} was accepted")).stolen = true;
            }
            other => panic!("free: a double free of {freed:x?}: {other:x?}"),
        }
    }

    /// Frees an address that is no area's start.
    fn free_inside(&self) {
        let page = self.some_page();
        let at = page + self.pick(&[0, 1, 8]);
        let known = self.model().around(at).map(|area| (area.start, area.end()));
        if known.is_some_and(|(start, _)| start == at) || self.model().freed().iter().any(|freed| freed.start == at) {
            return;
        }
        // A call looks from inside its CPU: what interrupts do before, it sees.
        // SAFETY: it is refused.
        let result = self.quietly(|| unsafe { self.vm.free(pointer(at)) });
        let right = match (result, known) {
            (Err(FreeError::NotItsStart { addr, start }), Some((known, _))) => addr.0 == at && start.0 == known,
            (Err(FreeError::NotAnArea(addr)), None) => addr.0 == at,
            (Err(FreeError::NotAnArea(addr)), Some((_, end))) => addr.0 == at && at >= end,
            // Longer ago than the oracle remembers.
            (Err(FreeError::DoubleFree { start, .. }), None) => start == VirtAddr(at),
            (Err(FreeError::NotItsStart { start, .. }), None) => self.is_unknown_to_the_model(start),
            _ => false,
        };
        assert!(right, "free: of {at:#x}, in {known:x?}: {result:x?}");
    }

    /// Whether an area may be at `start` that the model does not know: in an interrupt, if the call
    /// that it came into has made one.
    fn is_unknown_to_the_model(&self, start: VirtAddr) -> bool {
        let unknown = self.model().around(start.0).is_none();
        unknown && self.sim().context() == Context::HardIrq
    }

    /// Frees an area as one of another kind, or of another size.
    fn free_otherwise(&self) {
        let (start, kind, pages) = {
            let model = self.model();
            if model.count() == 0 {
                return;
            }
            let area = model.area(model.start(self.below(model.count())));
            (area.start, area.kind, area.pages)
        };
        let other = if matches!(kind, Kind::Vmap) { Kind::Vmalloc } else { Kind::Vmap };
        let result = self.quietly(|| self.free_as(other, start, pages));
        assert_eq!(result, Err(FreeError::WrongKind(kind)), "free: of {start:#x} as {other:?}");
        if kind == Kind::MapRam {
            let result = self.quietly(|| self.free_as(kind, start, pages + 1));
            assert_eq!(result, Err(FreeError::WrongSize { pages, given: pages + 1 }), "free: of {start:#x}");
        }
        self.look(start + self.below(pages) * PAGE_SIZE);
    }
}
