//! Slots: where each area of the script is, and who may use it.
//!
//! ```text
//!   Awaited ──made──▶ Live ──given back──▶ Gone
//!      └────refused──────────────────────▶ Gone
//! ```
//!
//! Workers meet here and nowhere else: whoever gives an area back waits until
//! its maker has put it into the slot. Makers wait for nobody, and the script
//! names every maker before its user, so there is always somebody who can go
//! on.

use crate::trace::script::AreaId;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use vmalloc::units::Pfn;

/// Looks before a waiting worker begins to sleep between them.
const EAGER_LOOKS: u32 = 1000;
const NAP: Duration = Duration::from_micros(20);

/// What an area of the script has become.
#[derive(Debug)]
pub struct Live {
    /// Its first byte; of a chunk, that of each part.
    pub at: Vec<NonNull<u8>>,
    /// The frames that are ours and mapped there.
    pub frames: Vec<Pfn>,
}

impl Live {
    /// Its first byte; of a chunk, that of the first part.
    pub fn start(&self) -> usize {
        self.at[0].as_ptr().addr()
    }
}

impl From<NonNull<u8>> for Live {
    fn from(at: NonNull<u8>) -> Live {
        Live { at: vec![at], frames: Vec::new() }
    }
}

// SAFETY: the pointers are addresses of areas, which belong to whoever took
// them out of the slot, on whatever thread.
unsafe impl Send for Live {}

#[derive(Debug)]
enum Slot {
    Awaited,
    Live(Live),
    Gone,
}

/// All slots of a round.
pub struct Slots(Vec<Mutex<Slot>>);

impl Slots {
    /// Slots for `count` areas that are still to be made.
    pub fn new(count: usize) -> Slots {
        Slots((0..count).map(|_| Mutex::new(Slot::Awaited)).collect())
    }

    /// The area was made; or refused, with `None`.
    pub fn put(&self, id: AreaId, live: Option<Live>) {
        *self.lock(id) = live.map_or(Slot::Gone, Slot::Live);
    }

    /// Takes the area out, once it is there. `None`: it never came, or
    /// `stopped` says that it never will.
    pub fn take(&self, id: AreaId, stopped: impl Fn() -> bool) -> Option<Live> {
        let mut looks = 0;
        loop {
            {
                let mut slot = self.lock(id);
                if !matches!(*slot, Slot::Awaited) {
                    return Slots::empty(&mut slot);
                }
            }
            if stopped() {
                return None;
            }
            looks += 1;
            if looks < EAGER_LOOKS { std::thread::yield_now() } else { std::thread::sleep(NAP) }
        }
    }

    /// Takes out all that is live.
    pub fn drain(&self) -> impl Iterator<Item = (AreaId, Live)> {
        (0..self.0.len() as u32).map(AreaId).filter_map(|id| Slots::empty(&mut self.lock(id)).map(|live| (id, live)))
    }

    fn empty(slot: &mut Slot) -> Option<Live> {
        match std::mem::replace(slot, Slot::Gone) {
            Slot::Live(live) => Some(live),
            Slot::Awaited | Slot::Gone => None,
        }
    }

    fn lock(&self, id: AreaId) -> MutexGuard<'_, Slot> {
        // No slot is left half-changed, whoever panicked.
        self.0[id.0 as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area() -> Option<Live> {
        Some(Live { at: vec![NonNull::dangling()], frames: vec![] })
    }

    #[test]
    fn an_area_is_taken_once() {
        let slots = Slots::new(3);
        slots.put(AreaId(0), area());
        slots.put(AreaId(1), None);
        slots.put(AreaId(2), area());
        assert!(slots.take(AreaId(0), || false).is_some());
        assert!(slots.take(AreaId(0), || false).is_none(), "gone");
        assert!(slots.take(AreaId(1), || false).is_none(), "refused");
        assert_eq!(slots.drain().map(|(id, _)| id).collect::<Vec<_>>(), [AreaId(2)]);
        assert_eq!(slots.drain().count(), 0);
    }

    #[test]
    fn a_taker_waits_for_its_maker_or_for_the_end() {
        let slots = Slots::new(1);
        assert!(slots.take(AreaId(0), || true).is_none());
        let slots = Slots::new(1);
        std::thread::scope(|scope| {
            let taker = scope.spawn(|| slots.take(AreaId(0), || false).is_some());
            std::thread::sleep(Duration::from_millis(30));
            slots.put(AreaId(0), area());
            assert!(taker.join().unwrap());
        });
    }
}
