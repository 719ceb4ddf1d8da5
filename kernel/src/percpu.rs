//! Objects by CPU: each has its bytes once in the unit of every CPU (`alloc_percpu`).
//!
//! ```text
//!   chunk   ┌ group 0 ─────────────┐            ┌ group 1 ───────────┐
//!           │ unit 0 │ unit 1 │ …  │    gap     │ unit 4 │ unit 5 │… │
//!           └────────┴────────┴────┘            └────────┴────────┴──┘
//!           base                                base + offset of the group
//!   object  the same offset in each unit; its pages are populated when it is made
//! ```
//!
//! The parts of a chunk are reserved at the same distances
//! ([`Vmalloc::reserve_at_offsets`](vmalloc::Vmalloc::reserve_at_offsets)), so that the units of all
//! chunks lie alike. Pages stay until the chunk is given up: when it is empty, and another is too.
//! The leak detector is told of objects: it scans their bytes, and never reports them.
//!
//! # Rules
//! - **PC3** A caller populates a page alone: it sets the page's bit in `populating` under the lock,
//!   and nobody takes bytes of such a page (J1).
//! - **PC4** A chunk that has no object out, and of which nobody populates a page, is given up by
//!   one caller: the one that unlinks it under the lock.
//! - **PC6** A frame that was a record once stays one, spare or of another chunk, as long as the
//!   allocator is there. So a free of an object whose chunk was given up reads a record, and is refused.
//!
//! # Source
//! `pcpu_alloc`, `free_percpu`, `per_cpu_ptr`.

mod chunk;
mod first;
mod pages;

use crate::error::Error;
use crate::gfp::GfpFlags;
use crate::host::{Host, Kern};
use crate::kernel::Kernel;
use crate::sync::breaks;
use chunk::{Chunk, GRAIN, MOST_PAGES, list_of};
use core::fmt;
use core::ops::Range;
use core::ptr::{NonNull, null_mut};
pub use first::FirstChunk;
use vmalloc::Gfp;
use vmalloc::lock_api::Mutex;
use vmalloc::machine::Machine;
use vmalloc::units::PAGE_SIZE;

/// The most groups of a chunk.
pub const MAX_GROUPS: usize = 16;
/// The largest object (`PCPU_MIN_UNIT_SIZE`).
const LARGEST: usize = 32 << 10;
/// Lists, by the free run that is known: 0 to 8,192 bits.
const LISTS: usize = 15;
/// The list of the first chunk's reserved part (PC5).
const RESERVED: usize = LISTS;
/// Chunks of a list that are looked at.
const LOOKS: usize = 4;

/// CPUs whose units lie side by side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Group {
    /// The distance of its first unit from the chunk's base.
    pub offset: usize,
    /// Its CPUs.
    pub cpus: u32,
}

/// An object by CPU. It stands for an address in each unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PerCpuPtr {
    chunk: NonNull<Chunk>,
    base: usize,
    offset: usize,
}

impl PerCpuPtr {
    /// The object as words, for whoever keeps them in memory of its own.
    pub fn into_words(self) -> [u64; 3] {
        [self.chunk.expose_provenance().get(), self.base, self.offset].map(|word| word as u64)
    }

    /// The object of these words; `None` where the first is 0.
    pub fn from_words(words: [u64; 3]) -> Option<PerCpuPtr> {
        let [chunk, base, offset] = words.map(|word| word as usize);
        let chunk = NonNull::new(core::ptr::with_exposed_provenance_mut(chunk))?;
        Some(PerCpuPtr { chunk, base, offset })
    }
}

/// The chunks. See the [module](self).
pub struct PerCpu<'k, 'v, M: Machine, H: Host> {
    kernel: &'k Kernel<'v, M, H>,
    groups: &'k [Group],
    unit_pages: usize,
    chunks: Mutex<M::Lock, Chunks>,
}

/// What is asked for: bits, their alignment, and whether the caller must not wait.
#[derive(Clone, Copy)]
struct Wanted {
    bits: usize,
    align: usize,
    atomic: bool,
}

/// A chunk, the first bit, and the pages to be populated (PC3).
type Taken = (NonNull<Chunk>, usize, u8);

/// What the lock guards.
struct Chunks {
    lists: [*mut Chunk; LISTS + 1],
    has_first: bool,
    /// Chunks without an object.
    empty: usize,
    /// Records of chunks that were given up (PC6).
    spare: *mut Chunk,
}

// SAFETY: the pointers lead to records in the allocator's own frames, which its lock guards.
unsafe impl Send for Chunks {}
// SAFETY: as above: what is inside is behind the lock.
unsafe impl<M: Machine, H: Host> Sync for PerCpu<'_, '_, M, H> {}

impl Chunks {
    fn push(&mut self, chunk: &mut Chunk) {
        let head = &mut self.lists[chunk.list()];
        (chunk.previous, chunk.next) = (null_mut(), *head);
        // SAFETY: PC4: what is linked is a record.
        if let Some(next) = unsafe { chunk.next.as_mut() } {
            next.previous = chunk;
        }
        *head = chunk;
    }

    /// The record of a chunk that was given up waits for the next one (PC6).
    fn keep_spare(&mut self, chunk: &mut Chunk) {
        chunk.next = core::mem::replace(&mut self.spare, chunk);
    }

    /// A record that waits, for a chunk at `base` which nobody knows.
    fn take_spare(&mut self, base: usize, unit_pages: usize) -> Option<NonNull<Chunk>> {
        let mut spare = NonNull::new(self.spare)?;
        // SAFETY: PC6: it is a record, and the lock is held.
        let record = unsafe { spare.as_mut() };
        self.spare = record.next;
        *record = Chunk::new(base, record.frame, unit_pages);
        Some(spare)
    }

    fn unlink(&mut self, chunk: &mut Chunk, list: usize) {
        // SAFETY: PC4, as in `push`, for both.
        match unsafe { chunk.previous.as_mut() } {
            Some(previous) => previous.next = chunk.next,
            None => self.lists[list] = chunk.next,
        }
        // SAFETY: as above.
        if let Some(next) = unsafe { chunk.next.as_mut() } {
            next.previous = chunk.previous;
        }
    }

    /// Unlinks a chunk that is given up (PC4).
    fn unlink_empty(&mut self, chunk: &mut Chunk) {
        self.unlink(chunk, chunk.list());
        self.empty -= 1;
    }

    /// Unlinks one of several empty chunks.
    fn take_surplus(&mut self) -> Option<NonNull<Chunk>> {
        for list in 0..if self.empty > 1 { LISTS } else { 0 } {
            let mut next = self.lists[list];
            while let Some(mut at) = NonNull::new(next) {
                // SAFETY: PC4: what is linked is a record, and the lock is held.
                let chunk = unsafe { at.as_mut() };
                if chunk.is_empty() {
                    self.unlink_empty(chunk);
                    return Some(at);
                }
                next = chunk.next;
            }
        }
        None
    }

    /// Calls `change`, and puts the chunk into the list that it belongs to then.
    fn relisted<R>(&mut self, chunk: &mut Chunk, change: impl FnOnce(&mut Chunk) -> R) -> R {
        let (list, was_empty) = (chunk.list(), chunk.is_empty());
        let result = change(chunk);
        self.empty = self.empty + usize::from(chunk.is_empty()) - usize::from(was_empty);
        if chunk.list() != list {
            self.unlink(chunk, list);
            self.push(chunk);
        }
        result
    }

    /// Takes bytes. `reserved`: of the reserved part, if there is one. An error has the list that was
    /// looked at last.
    fn take(&mut self, reserved: bool, wanted: Wanted) -> Result<Taken, usize> {
        if reserved && !self.lists[RESERVED].is_null() {
            return self.search(RESERVED..RESERVED + 1, wanted).ok_or(RESERVED);
        }
        let known = self.take_known(wanted);
        known.or_else(|| if wanted.atomic { self.search(0..LISTS, wanted) } else { None }).ok_or(0)
    }

    /// Takes bytes of a free run that is known, of the shorter ones first.
    fn take_known(&mut self, Wanted { bits, align, atomic }: Wanted) -> Option<Taken> {
        for list in list_of(bits)..LISTS {
            let mut next = self.lists[list];
            for _ in 0..LOOKS {
                let Some(mut at) = NonNull::new(next) else { break };
                // SAFETY: PC4: what is linked is a record, and the lock is held.
                let chunk = unsafe { at.as_mut() };
                if let Some(start) = chunk.fits(bits, align, atomic) {
                    let absent = self.relisted(chunk, |chunk| {
                        chunk.mark(start, bits);
                        chunk.begin_populating(start, bits)
                    });
                    return Some((at, start, absent));
                }
                next = chunk.next;
            }
        }
        None
    }

    /// Takes bytes of any free run: a caller that must not wait has no other chance.
    fn search(&mut self, lists: Range<usize>, Wanted { bits, align, atomic }: Wanted) -> Option<Taken> {
        for list in lists {
            let mut next = self.lists[list];
            while let Some(mut at) = NonNull::new(next) {
                // SAFETY: PC4: what is linked is a record, and the lock is held.
                let chunk = unsafe { at.as_mut() };
                next = chunk.next;
                let taken = self.relisted(chunk, |chunk| {
                    let start = chunk.take(bits, align, atomic)?;
                    Some((start, chunk.begin_populating(start, bits)))
                });
                if let Some((start, absent)) = taken {
                    return Some((at, start, absent));
                }
            }
        }
        None
    }
}

impl<'k, 'v, M: Machine, H: Host> PerCpu<'k, 'v, M, H> {
    /// Chunks of units of `unit_pages` pages, whose groups are `groups`, by offset. Touches nothing.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for no groups or too many, a number of pages that no unit has, or a
    /// group that begins before the one before it ends.
    pub fn new(kernel: &'k Kernel<'v, M, H>, groups: &'k [Group], unit_pages: usize) -> Result<Self, Error> {
        if groups.is_empty() || groups.len() > MAX_GROUPS || !(1..=MOST_PAGES).contains(&unit_pages) {
            return Err(Error::BadArgument(unit_pages));
        }
        let mut end = 0;
        for group in groups {
            if group.cpus == 0 || group.offset < end || !group.offset.is_multiple_of(PAGE_SIZE) {
                return Err(Error::BadArgument(group.offset));
            }
            end = group.offset.saturating_add(group.cpus as usize * unit_pages * PAGE_SIZE);
        }
        let chunks =
            Mutex::new(Chunks { lists: [null_mut(); LISTS + 1], has_first: false, empty: 0, spare: null_mut() });
        Ok(PerCpu { kernel, groups, unit_pages, chunks })
    }

    /// An object of `size` cleared bytes for each CPU (`__alloc_percpu_gfp`). A caller that must not
    /// wait gets bytes of pages that are there, or nothing.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for a size or an alignment that it never serves, and those of
    /// [`Kernel::vmalloc`]. Nothing has changed then, and the log is told.
    ///
    /// # Cost
    /// The lock twice at most, and O(size) for each CPU.
    pub fn alloc_percpu(&self, size: usize, align: usize, gfp: GfpFlags) -> Result<PerCpuPtr, Error> {
        self.alloc_told(size, align, gfp, false)
    }

    /// `reserved`: for a module, of the part that is reserved for these.
    fn alloc_told(&self, size: usize, align: usize, gfp: GfpFlags, reserved: bool) -> Result<PerCpuPtr, Error> {
        if size == 0 || size > LARGEST.min(self.unit_pages * PAGE_SIZE) || align > PAGE_SIZE || !align.is_power_of_two()
        {
            let line = format_args!("illegal size ({size}) or align ({align}) for percpu allocation");
            self.kernel.printk(Kern::Warning, line);
            return Err(Error::BadArgument(size));
        }
        let atomic = !gfp.library().contains(Gfp::WAIT);
        self.alloc((size, align), gfp, atomic, reserved).map_err(|(error, why)| {
            let atomic = u8::from(atomic);
            let line = format_args!("percpu: allocation failed, size={size} align={align} atomic={atomic}, {why}");
            if !gfp.contains(GfpFlags::NOWARN) {
                self.kernel.printk(Kern::Warning, line);
            }
            error
        })
    }

    fn alloc(
        &self,
        (size, align): (usize, usize),
        gfp: GfpFlags,
        atomic: bool,
        reserved: bool,
    ) -> Result<PerCpuPtr, (Error, &'static str)> {
        const FULL: &str = "atomic alloc failed, no space left";
        let wanted = Wanted { bits: size.div_ceil(GRAIN), align: align.div_ceil(GRAIN), atomic };
        let full = || Error::NoRoom { bytes: size, align };
        let (chunk, start, absent) = loop {
            let found = self.locked(|chunks| chunks.take(reserved, wanted)).map_err(|error| (error, FULL))?;
            match found {
                Ok(found) => break found,
                Err(RESERVED) => return Err((full(), "alloc from reserved chunk failed")),
                Err(_) if atomic => return Err((full(), FULL)),
                Err(_) => self.create(gfp).map_err(|error| (error, "failed to allocate new chunk"))?,
            }
        };
        if breaks!(BytesTakenInTwo) {
            self.changed(chunk, |chunk| chunk.give(start));
            self.changed(chunk, |chunk| chunk.mark(start, wanted.bits));
        }
        // SAFETY: PC4: an object of it is out, which is ours; the base never changes.
        let base = unsafe { (&raw const (*chunk.as_ptr()).base).read() };
        let object = PerCpuPtr { chunk, base, offset: start * GRAIN };
        let populated = if absent == 0 { Ok(()) } else { self.populate(base, absent, gfp) };
        if absent != 0 {
            self.changed(chunk, |chunk| {
                chunk.populating &= !absent;
                chunk.populated |= if populated.is_ok() { absent } else { 0 };
            });
        }
        if let Err(error) = populated {
            self.changed(chunk, |chunk| chunk.give(start));
            return Err((error, "failed to populate"));
        }
        self.clear(object, size);
        self.kernel.track_percpu(self.places(object), size);
        Ok(object)
    }

    /// Frees an object (`free_percpu`).
    ///
    /// # Errors
    /// [`Error::DoubleFree`] where none is out there, or its chunk was given up. Nothing has changed
    /// then.
    ///
    /// # Safety
    /// Y1; and it is no object of another allocator.
    pub unsafe fn free_percpu(&self, object: PerCpuPtr) -> Result<(), Error> {
        let PerCpuPtr { mut chunk, base, offset } = object;
        // Before anybody else can be given the bytes.
        let latest = self.kernel.latest_object();
        let (freed, surplus) = self.locked(|chunks| {
            // SAFETY: PC6: it is a record; the lock is held.
            let record = unsafe { chunk.as_mut() };
            let is_another = record.base != base && !breaks!(RecordFreed);
            if is_another || record.object(offset / GRAIN).is_none() {
                return (false, false);
            }
            let freed = chunks.relisted(record, |chunk| chunk.give(offset / GRAIN));
            let surplus = record.is_empty() && chunks.empty > 1;
            if surplus && !breaks!(SurplusInTwo) {
                chunks.unlink_empty(record);
            }
            (freed, surplus)
        })?;
        if !freed {
            return Err(Error::DoubleFree(self.address(object, 0).unwrap_or(0)));
        }
        latest.into_iter().for_each(|latest| self.kernel.forget_percpu(self.places(object), latest));
        if surplus {
            if breaks!(SurplusInTwo) {
                // SAFETY: it was linked a moment ago.
                self.locked(|chunks| chunks.unlink_empty(unsafe { chunk.as_mut() }))?;
            }
            self.destroy(chunk);
            // Callers that found all chunks full at the same moment have added one each.
            while let Some(chunk) = self.locked(|chunks| chunks.take_surplus())? {
                self.destroy(chunk);
            }
        }
        Ok(())
    }

    /// The address of an object in the unit of `cpu` (`per_cpu_ptr`); `None` where no group has it.
    pub fn per_cpu_ptr(&self, object: PerCpuPtr, cpu: u32) -> Option<NonNull<u8>> {
        NonNull::new(core::ptr::with_exposed_provenance_mut(self.address(object, cpu)?))
    }

    /// The addresses of an object, one in each unit.
    fn places(&self, object: PerCpuPtr) -> impl Iterator<Item = usize> {
        (0..self.units()).filter_map(move |cpu| self.address(object, cpu))
    }

    fn address(&self, object: PerCpuPtr, cpu: u32) -> Option<usize> {
        let mut before = 0;
        let group = self.groups.iter().find(|group| {
            before += group.cpus;
            cpu < before
        })?;
        let unit = (cpu + group.cpus - before) as usize * self.unit_pages * PAGE_SIZE;
        Some(object.base + group.offset + unit + object.offset)
    }

    fn locked<R>(&self, f: impl FnOnce(&mut Chunks) -> R) -> Result<R, Error> {
        self.kernel.locked(&self.chunks, f)
    }

    /// Changes the record of a chunk of which this call has an object out.
    fn changed<R>(&self, mut chunk: NonNull<Chunk>, change: impl FnOnce(&mut Chunk) -> R) {
        // SAFETY: PC4: it is linked as long as the object is out; the lock is held.
        let changed = self.locked(|chunks| drop(chunks.relisted(unsafe { chunk.as_mut() }, change)));
        debug_assert!(changed.is_ok(), "J2: this call held the lock before");
    }

    /// Units, one for each CPU.
    fn units(&self) -> u32 {
        self.groups.iter().map(|group| group.cpus).sum()
    }
}

impl<M: Machine, H: Host> Drop for PerCpu<'_, '_, M, H> {
    fn drop(&mut self) {
        let lists = core::mem::replace(&mut self.chunks.get_mut().lists, [null_mut(); LISTS + 1]);
        for mut next in lists {
            while let Some(chunk) = NonNull::new(next) {
                // SAFETY: PC4: it was linked, and nobody has the allocator any more.
                next = unsafe { (*chunk.as_ptr()).next };
                self.destroy(chunk);
            }
        }
        while let Some(spare) = self.chunks.get_mut().take_spare(0, 1) {
            // SAFETY: PC6: it is a record, and nobody has the allocator any more.
            self.kernel.give_frame(unsafe { spare.as_ref() }.frame);
        }
    }
}

impl<M: Machine, H: Host> fmt::Debug for PerCpu<'_, '_, M, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerCpu").field("groups", &self.groups).finish_non_exhaustive()
    }
}
