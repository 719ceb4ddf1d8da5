//! Slots: where each area of the script is, and who may use it.
//!
//! ```text
//!   awaited ──made──▶ live ──given back──▶ gone
//!      └────refused──────────────────────▶ gone
//! ```
//!
//! Workers meet here and nowhere else: whoever gives an area back waits until
//! its maker has put it into the slot. Makers wait for nobody, and the script
//! names every maker before its user, so there is always somebody who can go
//! on.

use crate::script::{Area, AreaId};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::*};
use vmalloc::units::Pfn;

/// No area begins at these addresses.
const AWAITED: usize = 0;
const GONE: usize = 1;

/// Where one area is.
#[derive(Debug)]
pub struct Slot {
    at: AtomicUsize,
    /// Where its frames are noted.
    first: usize,
}

/// The number of a frame that is mapped somewhere.
#[derive(Debug)]
pub struct Noted(AtomicU64);

impl Noted {
    /// No frame yet.
    pub const fn nothing() -> Noted {
        Noted(AtomicU64::new(0))
    }

    /// Notes `frame`: by whoever makes the area.
    pub fn set(&self, frame: Pfn) {
        self.0.store(frame.0, Relaxed);
    }

    /// What was noted: for whoever makes the area, or has taken it.
    pub fn get(&self) -> Pfn {
        Pfn(self.0.load(Relaxed))
    }
}

/// All slots of a round.
#[derive(Clone, Copy, Debug)]
pub struct Slots<'a> {
    slots: &'a [Slot],
    frames: &'a [Noted],
}

/// Slots for `areas` that are still to be made, in their order. Their frames
/// are noted one area after the other.
pub fn awaited(areas: &[Area]) -> impl Iterator<Item = Slot> + '_ {
    areas.iter().scan(0, |next, area| {
        let first = *next;
        *next += area.frames();
        Some(Slot { at: AtomicUsize::new(AWAITED), first })
    })
}

/// The frames that all of `areas` may have mapped at once.
pub fn frames(areas: &[Area]) -> usize {
    areas.iter().map(Area::frames).sum()
}

impl<'a> Slots<'a> {
    /// The slots that [`awaited`] made, and as many notes as [`frames`] says.
    pub fn new(slots: &'a [Slot], frames: &'a [Noted]) -> Slots<'a> {
        Slots { slots, frames }
    }

    /// Where the frames of `area`, which is `id`, are noted.
    pub fn frames(&self, id: AreaId, area: &Area) -> &'a [Noted] {
        let first = self.slot(id).first;
        &self.frames[first..first + area.frames()]
    }

    /// The area was made, and lies at `at`; or was refused, with `None`.
    pub fn put(&self, id: AreaId, at: Option<usize>) {
        self.slot(id).at.store(at.unwrap_or(GONE), Release);
    }

    /// Takes the area out, once it is there: it is the caller's alone then.
    /// `None`: it never came, or `wait`, which is told how often has been
    /// looked, says that it never will.
    pub fn take(&self, id: AreaId, wait: impl Fn(u32) -> bool) -> Option<usize> {
        let mut looks = 0;
        while self.slot(id).at.load(Relaxed) == AWAITED {
            looks += 1;
            if !wait(looks) {
                return None;
            }
        }
        self.empty(id)
    }

    /// Takes out all that is live.
    pub fn drain(&self) -> impl Iterator<Item = (AreaId, usize)> + use<'a> {
        let slots = *self;
        (0..self.slots.len() as u32).map(AreaId).filter_map(move |id| Some((id, slots.empty(id)?)))
    }

    fn empty(&self, id: AreaId) -> Option<usize> {
        let at = self.slot(id).at.swap(GONE, Acquire);
        (at != AWAITED && at != GONE).then_some(at)
    }

    fn slot(&self, id: AreaId) -> &'a Slot {
        &self.slots[id.0 as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::{Make, Place};
    use std::time::Duration;
    use std::vec::Vec;

    fn areas<const N: usize>(makes: [(Make, u64); N]) -> [Area; N] {
        let place = Place::ANYWHERE;
        makes.map(|(make, pages)| Area {
            make,
            bytes: pages << 12,
            guard: false,
            align: 4096,
            zeroed: false,
            place,
            caller: 0,
        })
    }

    #[test]
    fn an_area_is_taken_once() {
        let slots: Vec<Slot> = awaited(&areas([(Make::Vmalloc, 1); 3])).collect();
        let slots = Slots::new(&slots, &[]);
        slots.put(AreaId(0), Some(0x1000));
        slots.put(AreaId(1), None);
        slots.put(AreaId(2), Some(0x2000));
        assert_eq!(slots.take(AreaId(0), |_| false), Some(0x1000));
        assert_eq!(slots.take(AreaId(0), |_| false), None, "gone");
        assert_eq!(slots.take(AreaId(1), |_| false), None, "refused");
        assert_eq!(slots.drain().collect::<Vec<_>>(), [(AreaId(2), 0x2000)]);
        assert_eq!(slots.drain().count(), 0);
    }

    #[test]
    fn each_mapping_has_its_own_notes() {
        let areas = areas([(Make::Vmap, 2), (Make::Vmalloc, 9), (Make::MapRam, 3)]);
        let slots: Vec<Slot> = awaited(&areas).collect();
        let notes: Vec<Noted> = (0..frames(&areas)).map(|_| Noted::nothing()).collect();
        let slots = Slots::new(&slots, &notes);
        assert_eq!(notes.len(), 5);
        for id in 0..3 {
            slots.frames(AreaId(id), &areas[id as usize]).iter().for_each(|note| note.set(Pfn(id.into())));
        }
        assert_eq!(notes.iter().map(|note| note.get().0).collect::<Vec<_>>(), [0, 0, 2, 2, 2]);
    }

    #[test]
    fn a_taker_waits_for_its_maker_or_for_the_end() {
        let slots: Vec<Slot> = awaited(&areas([(Make::Vmalloc, 1)])).collect();
        let slots = Slots::new(&slots, &[]);
        assert!(slots.take(AreaId(0), |looks| looks < 10).is_none());
        std::thread::scope(|scope| {
            let taker = scope.spawn(|| slots.take(AreaId(0), |_| true));
            std::thread::sleep(Duration::from_millis(30));
            slots.put(AreaId(0), Some(0x3000));
            assert_eq!(taker.join().unwrap(), Some(0x3000));
        });
    }
}
