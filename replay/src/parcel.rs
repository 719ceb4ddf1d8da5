//! The parcel: a script handed to a machine, with room to play it.
//!
//! ```text
//!   head │ areas │ steps │ room (zeros) │ device (zeros)
//!   └──── words ─────────┘
//! ```
//!
//! Whoever plays it has no memory of his own, so that his figures are those of
//! the replay alone; what he needs lies in the parcel. Both sides are built
//! from the same source for the same kind of machine.

use crate::latency::Latency;
use crate::pattern::Page;
use crate::script::{Area, Step, WORDS_A_STEP, WORDS_AN_AREA};
use crate::slots::{self, Noted, Slot};
use crate::tally::Tally;
use crate::worker::{Desk, Part, most_frames, most_parts};
use core::mem::align_of;
use core::ops::Range;
use core::ptr::NonNull;
use vmalloc::units::{PAGE_SIZE, Pfn};

const MAGIC: u64 = u64::from_le_bytes(*b"vreplay1");
const WORD: usize = size_of::<u64>();
/// Words before the areas.
const HEAD: usize = 8;
/// A device has at most as many bytes.
const DEVICE: u64 = 64 << 20;

/// How a script is to be played.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Manner {
    /// CPUs; those of the trace are counted round.
    pub cpus: u32,
    /// How often.
    pub loops: u32,
    /// What patterns follow from.
    pub seed: u64,
}

/// What a parcel begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// How it is to be played.
    pub manner: Manner,
    areas: usize,
    steps: usize,
    /// Bytes that the room takes.
    room: usize,
    /// Bytes of the device.
    device: usize,
}

/// The bytes at hand are no parcel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoParcel;

impl Head {
    /// What a parcel with this script begins with.
    pub fn new(areas: &[Area], steps: &[Step], manner: Manner) -> Head {
        let devices = areas.iter().filter(|area| area.make == crate::script::Make::Ioremap);
        let bytes: u64 = devices.map(|area| area.page_count() as u64 * PAGE_SIZE as u64).sum();
        let device = bytes.clamp(PAGE_SIZE as u64, DEVICE) as usize;
        let room = room(areas, steps.len(), manner.cpus as usize);
        Head { manner, areas: areas.len(), steps: steps.len(), room, device }
    }

    fn words(&self) -> [u64; HEAD] {
        let Manner { cpus, loops, seed } = self.manner;
        let [areas, steps, room, device] = [self.areas, self.steps, self.room, self.device].map(|n| n as u64);
        [MAGIC, u64::from(cpus) | u64::from(loops) << 32, seed, areas, steps, room, device, 0]
    }

    fn of(words: [u64; HEAD]) -> Option<Head> {
        let [magic, counts, seed, areas, steps, room, device, _] = words;
        let manner = Manner { cpus: counts as u32, loops: (counts >> 32) as u32, seed };
        let [areas, steps, room, device] = [areas, steps, room, device].map(|n| n as usize);
        (magic == MAGIC && manner.cpus > 0).then_some(Head { manner, areas, steps, room, device })
    }

    /// Bytes up to the room.
    fn script(&self) -> usize {
        (HEAD + self.areas * WORDS_AN_AREA + self.steps * WORDS_A_STEP) * WORD
    }

    /// Where the device lies.
    fn device(&self) -> Range<usize> {
        let start = (self.script() + self.room).next_multiple_of(PAGE_SIZE);
        start..start + self.device.next_multiple_of(PAGE_SIZE)
    }

    /// Bytes of the whole parcel.
    pub fn bytes(&self) -> usize {
        self.device().end
    }
}

/// The words of a parcel, up to the room; all further bytes are zero.
pub fn words(head: &Head, areas: &[Area], steps: &[Step]) -> impl Iterator<Item = u64> {
    let areas = areas.iter().flat_map(Area::words);
    head.words().into_iter().chain(areas).chain(steps.iter().map(Step::word))
}

/// Bytes that playing such a script takes.
fn room(areas: &[Area], steps: usize, cpus: usize) -> usize {
    let player = desk(areas) + size_of::<Player<usize>>();
    let lists = size_of_val(areas) + steps * size_of::<Step>() + areas.len() * size_of::<Slot>();
    let notes = slots::frames(areas) * size_of::<Noted>();
    // What alignment may waste, for each list.
    lists + notes + cpus * player + 8 * align_of::<u64>()
}

/// Bytes that a desk takes, with what alignment may waste.
fn desk(areas: &[Area]) -> usize {
    let lists = most_frames(areas) * size_of::<Pfn>() + most_parts(areas) * size_of::<Part>();
    size_of::<Page>() + size_of::<Latency>() + lists + 4 * align_of::<u64>()
}

/// A parcel that has been opened.
pub struct Parcel {
    /// How it is to be played.
    pub manner: Manner,
    /// The script's areas.
    pub areas: &'static [Area],
    /// The script's steps.
    pub steps: &'static [Step],
    /// The slots, to be filled before each round.
    pub slots: &'static mut [Slot],
    /// Notes of frames.
    pub notes: &'static [Noted],
    /// Where the device lies, in bytes from the start.
    pub device: Range<usize>,
    room: Room,
}

impl Parcel {
    /// Opens the parcel in the `bytes` bytes at `at`.
    ///
    /// # Errors
    /// There is none, or it was made for something else.
    ///
    /// # Safety
    /// The bytes are the caller's, for ever, aligned to 8, and were never opened before.
    pub unsafe fn open(at: NonNull<u8>, bytes: usize) -> Result<Parcel, NoParcel> {
        if bytes < HEAD * WORD {
            return Err(NoParcel);
        }
        // SAFETY: the caller's; what is read lies within the bytes.
        let read = |word: usize| unsafe { at.cast::<u64>().add(word).read() };
        let head = Head::of(core::array::from_fn(read)).filter(|head| head.bytes() <= bytes).ok_or(NoParcel)?;
        // SAFETY: as above, and nobody else knows of the room.
        let mut room = Room { next: unsafe { at.add(head.script()) }, left: head.room };
        let area = |number: usize| {
            let first = HEAD + number * WORDS_AN_AREA;
            Area::of(core::array::from_fn(|word| read(first + word)))
        };
        let areas: &'static [Area] = room.list((0..head.areas).map(area))?;
        let first = HEAD + head.areas * WORDS_AN_AREA;
        let steps = room.list((0..head.steps).map(|number| Step::of(read(first + number), head.areas)))?;
        let slots = room.list(slots::awaited(areas).map(Some))?;
        let notes = room.list((0..slots::frames(areas)).map(|_| Some(Noted::nothing())))?;
        Ok(Parcel { manner: head.manner, areas, steps, slots, notes, device: head.device(), room })
    }

    /// The players, one for each CPU.
    ///
    /// # Errors
    /// They were given out before.
    pub fn players<F: 'static>(&mut self) -> Result<&'static mut [Player<F>], NoParcel> {
        const { assert!(size_of::<Player<F>>() <= size_of::<Player<usize>>(), "what the room is made for") }
        let (areas, cpus) = (self.areas, self.manner.cpus);
        let mut desks = self.room.split(cpus as usize * desk(areas))?;
        self.room.list((0..cpus).map(|_| desks.player(areas).ok()))
    }
}

/// One CPU's, while a script is played.
pub struct Player<F> {
    page: &'static mut Page,
    frames: &'static mut [Pfn],
    parts: &'static mut [Part],
    /// What it has measured.
    pub latency: &'static mut Latency,
    /// What it has counted.
    pub tally: Tally<F>,
}

impl<F> Player<F> {
    /// What it works with.
    pub fn desk(&mut self) -> Desk<'_, F> {
        let Player { page, frames, parts, latency, tally } = self;
        Desk { page, frames, parts, latency, tally }
    }
}

/// Bytes that were zero, and are given out.
struct Room {
    next: NonNull<u8>,
    left: usize,
}

impl Room {
    fn player<F>(&mut self, areas: &[Area]) -> Result<Player<F>, NoParcel> {
        let frames = self.list((0..most_frames(areas)).map(|_| Some(Pfn(0))))?;
        let parts = self.list((0..most_parts(areas)).map(|_| Some((0, 0))))?;
        // SAFETY: numbers all of them, and nobody has written to the room's rest.
        let (page, latency) = unsafe { (self.zeroed()?, self.zeroed()?) };
        Ok(Player { page, frames, parts, latency, tally: Tally::default() })
    }

    /// A room of `bytes` bytes, out of this one.
    fn split(&mut self, bytes: usize) -> Result<Room, NoParcel> {
        let next = self.take::<u64>(bytes.div_ceil(WORD))?;
        Ok(Room { next: next.cast(), left: bytes })
    }

    /// A list of what `items` yields.
    fn list<T: 'static>(&mut self, items: impl Iterator<Item = Option<T>>) -> Result<&'static mut [T], NoParcel> {
        let start = self.take::<T>(0)?;
        let mut count = 0;
        for item in items {
            let at = self.take::<T>(1)?;
            // SAFETY: just taken, for this alone.
            unsafe { at.write(item.ok_or(NoParcel)?) };
            count += 1;
        }
        // SAFETY: one after the other, from `start` on, all written.
        Ok(unsafe { core::slice::from_raw_parts_mut(start.as_ptr(), count) })
    }

    /// # Safety
    /// Zero bytes are a `T`.
    unsafe fn zeroed<T: 'static>(&mut self) -> Result<&'static mut T, NoParcel> {
        // SAFETY: just taken, for this alone, and zero; the rest is the caller's.
        Ok(unsafe { self.take::<T>(1)?.as_mut() })
    }

    fn take<T>(&mut self, count: usize) -> Result<NonNull<T>, NoParcel> {
        let waste = self.next.as_ptr().align_offset(align_of::<T>());
        let bytes = count * size_of::<T>();
        self.left = self.left.checked_sub(waste + bytes).ok_or(NoParcel)?;
        // SAFETY: within the room, as was just checked.
        let (at, next) = unsafe { (self.next.add(waste), self.next.add(waste + bytes)) };
        self.next = next;
        Ok(at.cast())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::Call;
    use crate::script::{Act, AreaId, Make, Place};
    use std::boxed::Box;
    use std::vec;
    use std::vec::Vec;

    const AREA: Area = Area {
        make: Make::Vmap,
        bytes: 5000,
        guard: true,
        align: 4096,
        zeroed: false,
        place: Place { region: 0, within: None },
        caller: 7,
    };
    const MANNER: Manner = Manner { cpus: 2, loops: 3, seed: 4 };

    /// A parcel, left where it is for ever.
    fn posted(areas: &[Area], steps: &[Step]) -> (NonNull<u8>, usize) {
        let head = Head::new(areas, steps, MANNER);
        let mut bytes: Vec<u64> = words(&head, areas, steps).collect();
        bytes.resize(head.bytes() / WORD, 0);
        let bytes = Box::leak(bytes.into_boxed_slice());
        (NonNull::from(&mut bytes[0]).cast(), head.bytes())
    }

    #[test]
    fn a_parcel_has_the_script_and_room_for_all_who_play_it() {
        let areas = [AREA, Area { make: Make::Ioremap, bytes: 5 << 12, ..AREA }];
        let steps = vec![Step { cpu: 1, act: Act::Make(AreaId(1)) }; 1001];
        let (at, bytes) = posted(&areas, &steps);
        // SAFETY: leaked, and opened once.
        let mut parcel = unsafe { Parcel::open(at, bytes) }.unwrap();
        assert_eq!((parcel.areas, parcel.steps, parcel.manner), (&areas[..], &steps[..], MANNER));
        assert_eq!((parcel.slots.len(), parcel.notes.len(), parcel.device.len()), (2, 2, 5 << 12));
        assert!(parcel.device.start.is_multiple_of(PAGE_SIZE) && parcel.device.end == bytes);
        let players = parcel.players::<u8>().unwrap();
        assert_eq!(players.len(), 2);
        for desk in players.iter_mut().map(Player::desk) {
            assert_eq!((desk.frames.len(), desk.parts.len(), desk.tally.failed), (2, 1, 0));
            assert_eq!(desk.latency.of(Call::Purge).count(), 0);
            desk.latency.note(Call::Purge, 9);
            desk.page.fill(0xff);
        }
        assert!(parcel.players::<u8>().is_err(), "given out");
    }

    #[test]
    fn what_is_no_parcel_is_refused() {
        let steps = [Step { cpu: 0, act: Act::Free(AreaId(1)) }];
        for (areas, cut, broken) in [(&[AREA][..], 0, 0), (&[AREA; 2], 1, 0), (&[AREA; 2], 0, 1)] {
            let (at, bytes) = posted(areas, &steps);
            // SAFETY: ours.
            unsafe { *at.as_ptr() ^= broken };
            // SAFETY: leaked, and opened once.
            let opened = unsafe { Parcel::open(at, bytes - cut) };
            assert_eq!(opened.err(), Some(NoParcel), "a step of no area, a cut, a broken head");
        }
        // SAFETY: no byte is looked at.
        assert!(unsafe { Parcel::open(NonNull::<u64>::dangling().cast(), 63) }.is_err());
    }
}
