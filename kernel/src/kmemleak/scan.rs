//! A scan: a value that is advanced step by step.
//!
//! ```text
//!   drain ──▶ reset ──▶ roots ──▶ grey ──▶ checksums ──▶ grey again ──▶ count
//! ```
//!
//! A step is bounded, so a scan may be advanced a little at a time, and be dropped in the middle:
//! the next one begins anew. One that was begun later ends all others.

use super::object::{Object, ObjectRef, Place};
use super::origin::RootKind;
use super::read::{CHUNK, Piece, direct, piece_of};
use super::{Kmemleak, State};
use crate::host::{Host, Kern};
use crate::kernel::Kernel;
use crate::sync::breaks;
use arrayvec::ArrayVec;
use vmalloc::What;
use vmalloc::machine::Machine;
use vmalloc::units::PAGE_SIZE;

/// Objects that a step looks at.
pub const OBJECTS: usize = 64;
/// The age from which an object is suspected, when a scan begins.
const MIN_AGE_NS: u64 = 5_000_000_000;
const WORD: usize = size_of::<usize>();

/// How far a scan is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// It goes on.
    More,
    /// It is over, and has found so many new suspects.
    Done(usize),
    /// Another one was begun, or the detector is off: it found nothing.
    Overtaken,
}

/// A scan.
#[derive(Debug)]
pub struct Scan {
    id: u64,
    began_ns: u64,
    stacks: bool,
    step: Step,
    found: usize,
}

/// What comes next.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Objects that wait for a scan which was dropped wait no more.
    Drain,
    /// Objects from this address on get their first colour.
    Reset(usize),
    /// The root with this number is scanned, from an offset on.
    Root(usize, usize),
    /// Grey objects are scanned. Again = after the checksums.
    Grey {
        reader: Option<Reader>,
        again: bool,
    },
    /// The sum of an object, or else of the next one at or above the address.
    Sum(usize, Option<(Reader, u32)>),
    /// New suspects from this address on are counted.
    Count(usize),
    Done,
}

/// An object that is being read.
#[derive(Clone, Copy, Debug)]
struct Reader {
    start: usize,
    serial: u64,
    place: Place,
    offset: usize,
}

impl Reader {
    fn of(object: ObjectRef) -> Reader {
        Reader { start: object.start, serial: object.serial, place: object.place, offset: 0 }
    }
}

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// Begins a scan; `None` where no detector is, or it is off.
    pub fn kmemleak_begin(&self) -> Option<Scan> {
        let leaks = self.leaks?;
        self.begin_at(leaks, leaks.now(self.machine()))
    }

    /// Begins a scan at this time of the machine's clock.
    pub(super) fn begin_at(&self, leaks: &Kmemleak<M::Lock>, began_ns: u64) -> Option<Scan> {
        let begin = |state: &mut State| {
            state.scan += 1;
            state.scanned_ns = began_ns;
            Scan { id: state.scan, began_ns, stacks: state.stacks, step: Step::Drain, found: 0 }
        };
        leaks.locked(self.machine(), |state| state.on.then(|| begin(state))).flatten()
    }

    /// A whole scan: the new suspects that it found.
    ///
    /// # Cost
    /// O(bytes of objects and roots): [`Kernel::kmemleak_begin`] and [`Scan::advance`] do it in slices.
    pub fn kmemleak_scan(&self) -> usize {
        let Some(mut scan) = self.kmemleak_begin() else { return 0 };
        loop {
            match scan.advance(self, usize::MAX) {
                Progress::More => (),
                Progress::Done(found) => return found,
                Progress::Overtaken => return 0,
            }
        }
    }
}

/// The first word at or behind `at`; where there is none, the last address.
fn aligned(at: usize) -> usize {
    at.checked_next_multiple_of(WORD).unwrap_or(usize::MAX)
}

impl Scan {
    /// Whether no other has begun since.
    pub(super) fn is_last(&self, state: &State) -> bool {
        state.scan == self.id
    }

    /// Goes on for at most `steps` steps. The scan that is over tells the log of new suspects.
    ///
    /// # Cost
    /// A step reads at most [`CHUNK`] bytes, or looks at [`OBJECTS`] objects.
    pub fn advance<M: Machine, H: Host>(&mut self, kernel: &Kernel<'_, M, H>, steps: usize) -> Progress {
        let Some(leaks) = kernel.leaks else { return Progress::Overtaken };
        for _ in 0..steps {
            if matches!(self.step, Step::Done) {
                return Progress::Done(self.found);
            }
            let is_ours = leaks.locked(kernel.machine(), |state| state.on && self.is_last(state));
            if is_ours != Some(true) {
                return Progress::Overtaken;
            }
            self.step = self.next(kernel, leaks);
            if matches!(self.step, Step::Done) && self.found > 0 {
                let found = self.found;
                let line =
                    format_args!("kmemleak: {found} new suspected memory leaks (see /sys/kernel/debug/kmemleak)");
                kernel.printk(Kern::Info, line);
            }
        }
        if matches!(self.step, Step::Done) { Progress::Done(self.found) } else { Progress::More }
    }

    /// Does a step, and returns the one after it.
    fn next<M: Machine, H: Host>(&mut self, kernel: &Kernel<'_, M, H>, leaks: &Kmemleak<M::Lock>) -> Step {
        let machine = kernel.machine();
        match self.step {
            Step::Drain => {
                let drain = |state: &mut State| (0..OBJECTS).all(|_| state.store.pop_grey().is_some());
                if leaks.locked(machine, drain) == Some(true) { Step::Drain } else { Step::Reset(0) }
            }
            Step::Reset(from) => kernel.reset(leaks, from).map_or(Step::Root(0, 0), Step::Reset),
            Step::Root(n, offset) => self.root(kernel, leaks, n, offset),
            Step::Grey { reader, again } => kernel.scan_grey(leaks, reader, again),
            Step::Sum(from, sum) => kernel.sum(leaks, from, sum),
            Step::Count(from) => {
                let counted = leaks.locked(machine, |state| state.each_from(from, |o| self.count(o)));
                counted.flatten().map_or(Step::Done, Step::Count)
            }
            Step::Done => Step::Done,
        }
    }

    fn count(&mut self, object: &mut Object) {
        if object.is_suspect(self.began_ns) && !object.reported && object.leaving == 0 {
            object.reported = true;
            self.found += 1;
        }
    }

    /// Scans a chunk of a root.
    fn root<M: Machine, H: Host>(
        &self,
        kernel: &Kernel<'_, M, H>,
        leaks: &Kmemleak<M::Lock>,
        n: usize,
        offset: usize,
    ) -> Step {
        let Some(root) = kernel.host.root(n) else { return Step::Grey { reader: None, again: false } };
        let (end, aligned) = (root.start.saturating_add(root.bytes), aligned(root.start));
        let mut at = aligned.saturating_add(offset);
        let stop = at.saturating_add(CHUNK).min(end);
        if root.kind == RootKind::Stack && !self.stacks || at >= stop {
            return Step::Root(n + 1, 0);
        }
        while at < stop {
            let bytes = piece_of(at, stop - at);
            // SAFETY: Y8: the host names the root.
            let piece = unsafe { kernel.read_at(root.place, at, bytes) };
            leaks.locked(kernel.machine(), |state| state.look_at(&piece));
            at += bytes;
        }
        Step::Root(n, at - aligned)
    }
}

impl Object {
    /// Whether it is suspected by a scan that began at `began_ns`.
    pub(super) fn is_suspect(&self, began_ns: u64) -> bool {
        self.is_white() && self.born_ns.saturating_add(MIN_AGE_NS) <= began_ns
    }
}

impl State {
    /// Calls `f` for objects from `from` on, [`OBJECTS`] at most; the address to go on from.
    pub(super) fn each_from(&mut self, from: usize, mut f: impl FnMut(&mut Object)) -> Option<usize> {
        let mut from = from;
        for _ in 0..OBJECTS {
            let mut object = self.store.at_or_above(from)?;
            f(&mut object);
            from = object.start.checked_add(1)?;
        }
        Some(from)
    }

    fn look_at(&mut self, piece: &Piece) {
        piece.words().iter().for_each(|&word| self.store.found(word));
    }

    /// The counts of objects from `from` on begin anew, and those that are grey without a
    /// reference wait. Adds the areas among them.
    fn reset(&mut self, from: usize, areas: &mut ArrayVec<(usize, u64), OBJECTS>) -> Option<usize> {
        let mut from = from;
        for _ in 0..OBJECTS {
            let mut object = self.store.at_or_above(from)?;
            object.count = object.held;
            if object.colour() == super::Colour::Grey {
                self.store.push_grey(object);
            }
            if object.place == Place::Area {
                areas.push((object.start, object.serial));
            }
            from = object.start.checked_add(1)?;
        }
        Some(from)
    }
}

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// Gives objects their first colour, and forgets areas that are no more.
    fn reset(&self, leaks: &Kmemleak<M::Lock>, from: usize) -> Option<usize> {
        let mut areas = ArrayVec::new();
        let next = leaks.locked(self.machine(), |state| state.reset(from, &mut areas)).flatten();
        for (start, serial) in areas {
            if !matches!(self.vm.whatis(start), What::Inside { .. } | What::Changing) {
                leaks.forget(self.machine(), start, |object| object.serial == serial);
            }
        }
        next
    }

    /// Scans a chunk of a grey object, or takes the next one.
    fn scan_grey(&self, leaks: &Kmemleak<M::Lock>, reader: Option<Reader>, again: bool) -> Step {
        let machine = self.machine();
        let Some(mut reader) = reader else {
            let next = leaks.locked(machine, |state| state.store.pop_grey().map(Reader::of)).flatten();
            return match next {
                Some(reader) => Step::Grey { reader: Some(reader), again },
                None if again => Step::Count(0),
                None => Step::Sum(0, None),
            };
        };
        let mut read = 0;
        while read < CHUNK {
            let part = leaks.locked(machine, |state| {
                let object = state.store.same(reader.start, reader.serial).filter(|object| !object.no_scan)?;
                object.part_from(reader.offset)
            });
            let Some(part) = part.flatten() else { return Step::Grey { reader: None, again } };
            let at = aligned(reader.start + part.start);
            let end = reader.start + part.end;
            let bytes = piece_of(at, end.saturating_sub(at));
            reader.offset = (at + bytes - reader.start).max(part.start + 1);
            self.with_piece(leaks, &reader, (at, bytes), |state, piece| state.look_at(piece));
            read += bytes.max(WORD);
        }
        Step::Grey { reader: Some(reader), again }
    }

    /// Sums up a chunk of a white object, or looks for the next one.
    fn sum(&self, leaks: &Kmemleak<M::Lock>, from: usize, sum: Option<(Reader, u32)>) -> Step {
        let machine = self.machine();
        let Some((mut reader, mut crc)) = sum else {
            let next = leaks.locked(machine, |state| state.next_white(from));
            return match next.flatten() {
                Some(Ok(reader)) => Step::Sum(from, Some((reader, 0))),
                Some(Err(from)) => Step::Sum(from, None),
                None => Step::Grey { reader: None, again: true },
            };
        };
        let mut read = 0;
        while read < CHUNK {
            let size =
                leaks.locked(machine, |state| Some(state.store.same(reader.start, reader.serial)?.size)).flatten();
            let Some(left) = size.map(|size| size.saturating_sub(reader.offset)) else {
                return Step::Sum(reader.start.saturating_add(1), None);
            };
            if left == 0 {
                leaks.locked(machine, |state| state.compare(&reader, crc));
                return Step::Sum(reader.start.saturating_add(1), None);
            }
            let at = reader.start + reader.offset;
            let bytes = piece_of(at, left);
            let summed =
                self.with_piece(leaks, &reader, (at, bytes), |_, piece| super::read::crc32(crc, piece.bytes()));
            crc = summed.unwrap_or(crc);
            (reader.offset, read) = (reader.offset + bytes, read + bytes);
        }
        Step::Sum(from, Some((reader, crc)))
    }

    /// Reads a piece of an object, and calls `f` with it under the lock, if the object is still there.
    fn with_piece<R>(
        &self,
        leaks: &Kmemleak<M::Lock>,
        reader: &Reader,
        (at, bytes): (usize, usize),
        f: impl FnOnce(&mut State, &Piece) -> R,
    ) -> Option<R> {
        let unchecked = breaks!(ScannedUnchecked);
        let unheld = if unchecked { self.vm.frame_at(at) } else { None };
        if unheld.is_some() {
            // A reader that is interrupted for long.
            (0..6).for_each(|_| self.machine().relax());
        }
        let mut piece = match reader.place {
            Place::Area => self.read_piece(at, bytes),
            Place::Direct => Piece::EMPTY,
        };
        let used = leaks.locked(self.machine(), |state| {
            if !unchecked {
                state.store.same(reader.start, reader.serial)?;
            }
            if let (Place::Area, Some(frame)) = (reader.place, unheld) {
                // SAFETY: none: this is what a proof has to notice.
                unsafe { piece.fill(self.machine().virt(frame).add(at % PAGE_SIZE), bytes) };
            }
            if let (Place::Direct, Some(from)) = (reader.place, direct(at)) {
                // SAFETY: Y8: the detector has not heard of its end, and whoever ends it waits for
                // the lock.
                unsafe { piece.fill(from, bytes) };
            }
            Some(f(state, &piece))
        });
        used.flatten()
    }
}

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// The first bytes of an object, at most `most` and a piece.
    pub(super) fn first_bytes(&self, leaks: &Kmemleak<M::Lock>, object: &Object, most: usize) -> Option<Piece> {
        let reader = Reader { start: object.start, serial: object.serial, place: object.place, offset: 0 };
        let bytes = piece_of(object.start, object.size.min(most));
        self.with_piece(leaks, &reader, (object.start, bytes), |_, piece| *piece)
    }
}

impl State {
    /// The next white object at or above `from`, or else where to go on.
    fn next_white(&mut self, from: usize) -> Option<Result<Reader, usize>> {
        let mut from = from;
        for _ in 0..OBJECTS {
            let object = self.store.at_or_above(from)?;
            if object.is_white() {
                return Some(Ok(Reader::of(object)));
            }
            from = object.start.checked_add(1)?;
        }
        Some(Err(from))
    }

    /// An object whose bytes have another sum than before is in use.
    fn compare(&mut self, reader: &Reader, crc: u32) {
        let Some(mut object) = self.store.same(reader.start, reader.serial) else { return };
        if object.is_white() && core::mem::replace(&mut object.checksum, crc) != crc {
            object.count = object.min_count;
            self.store.push_grey(object);
        }
    }
}
