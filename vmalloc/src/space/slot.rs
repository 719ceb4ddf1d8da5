//! Slots: the record of one area.
//!
//! A slot is the library's `vm_struct`: 56 bytes in the header of its chunk. The caller that makes
//! or frees the area writes it. Anybody may read it at any time without a lock: a finder copies the
//! fields and drops the copy if the slot's **sequence** has moved (R2).
//!
//! - R2: A finder reads the fields as relaxed atomics between two equal, even reads of the
//!   sequence. It gets a snapshot, never a reference.
//! - W1: `PLAIN` means that the entries are those of ordinary memory, so that any usual request
//!   may reuse them. It is set when the area is made or freed. `KEPT` means that the area was freed
//!   and its entries are still present.
//! - **U1** A slot with `BUILDING` set is not an area yet: finders report it as *changing*, and
//!   nobody can free it (the traditional `VM_UNINITIALIZED`).

#[cfg(all(test, not(loom)))]
mod tests;

use crate::area::{Caller, Guard, Info, Kind, RegionId};
use crate::space::arena::{MAX_GRAINS, WINDOW};
use crate::sync::{AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering::*, between_seqcst, breaks, fence};
use crate::units::{Node, PAGE_SIZE, PageRange, VirtAddr};
use core::panic::Location;

const KIND: u16 = 0x7;
const NO_GUARD: u16 = 1 << 3;
/// The caller is an even return address; the stored word has the lowest bit set.
const CALLER_IS_EVEN: u16 = 1 << 4;
/// Some frames of the area were handed out: a free releases its frames by count (G3).
const SHARED: u16 = 1 << 5;
/// The area is being made (U1).
const BUILDING: u16 = 1 << 6;
/// The entries are plain (W1). This bit may be set in `meta` or in `freed`.
const PLAIN: u16 = 1 << 7;
const NODE_SHIFT: u32 = 8;

// Flags of the freer, in a word of their own:
const HAS_FREER: u16 = 1 << 0;
const FREER_IS_EVEN: u16 = 1 << 1;
/// The area was freed with its entries present (W1).
const KEPT: u16 = 1 << 2;
/// Some entries of the area were unexpected and have been logged (T2).
const REPORTED: u16 = 1 << 4;

/// The bits of the number of a run's first grain.
const START_BITS: u32 = 36;
/// The run is so long that its length is stored in multiples of [`COARSE`].
const LONG: usize = 1 << (63 - START_BITS);
/// The multiple that the length of a long run is.
const COARSE: usize = 32;

const _: () = assert!(MAX_GRAINS == 1 << START_BITS && WINDOW / COARSE < LONG);

/// The record of one area.
#[derive(Debug, Default)]
pub struct Slot {
    sequence: AtomicU32,
    /// Written by the caller that makes the area, and by any caller that gets hold of its frames.
    meta: AtomicU16,
    /// Written by the freer. A word of its own needs no lock.
    freed: AtomicU16,
    bytes: AtomicUsize,
    pages: AtomicUsize,
    caller: AtomicUsize,
    freer: AtomicUsize,
    /// In a device area: the physical address. In a reservation: the bytes from the start of its
    /// run. In a cached slot: the link to the slot that was
    /// cached next ([`SlotCache`](super::cache::SlotCache)).
    phys: AtomicU64,
    /// In an area with a run of its own: the first grain ([`START_BITS`]), and above it the number of
    /// grains, or [`LONG`] and the number of [`COARSE`] grains ([`Slot::storable`]). In a
    /// cached slot: the link to the slot that was cached before.
    run: AtomicU64,
}

/// The fields that a new area writes into its slot.
#[derive(Clone, Copy, Debug)]
pub struct Label {
    /// The bytes of the request.
    pub bytes: usize,
    /// The pages of the area.
    pub pages: usize,
    /// The kind of the area.
    pub kind: Kind,
    /// The guard of the area.
    pub guard: Guard,
    /// The caller of the request.
    pub caller: Caller,
    /// The node of the request.
    pub node: Node,
    /// The physical address of a device area; of a reservation, [`Slot::offset`].
    pub phys: Option<u64>,
}

/// A copy of a slot, made by [`Slot::snapshot`].
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    meta: u16,
    freed: u16,
    bytes: usize,
    /// The pages of the area.
    pub pages: usize,
    caller: usize,
    freer: usize,
    phys: u64,
    /// The slot's sequence at the time of the copy.
    pub sequence: u32,
}

impl Slot {
    /// Begins an area. The slot is *building* until [`Slot::publish`] (U1).
    #[inline]
    pub fn begin(&self, label: &Label) {
        self.label(label, BUILDING)
    }

    /// As [`Slot::begin`], for an area that is complete as soon as its slot is live.
    #[inline(always)]
    pub fn begin_whole(&self, label: &Label) {
        self.label(label, 0)
    }

    /// As [`Slot::begin`], for an area that reuses the plain entries of the last one.
    #[inline(always)]
    pub fn begin_again(&self, label: &Label) {
        self.label(label, PLAIN | BUILDING)
    }

    /// Marks the area under construction as plain (W1).
    pub fn mark_plain(&self) {
        self.meta.store(self.meta.load(Relaxed) | PLAIN, Relaxed);
    }

    /// Marks the area as not plain: its entries change (W1).
    pub fn unmark_plain(&self) {
        self.meta.fetch_and(!PLAIN, SeqCst);
    }

    #[inline(always)]
    fn label(&self, label: &Label, flags: u16) {
        let (caller, even) = word_of(label.caller);
        let even = if even { CALLER_IS_EVEN } else { 0 };
        let guard = if label.guard == Guard::None { NO_GUARD } else { 0 };
        let meta = label.kind as u16 | guard | even | flags | (label.node.0 as u16) << NODE_SHIFT;
        self.change(|slot| {
            slot.meta.store(meta, Relaxed);
            slot.freed.store(0, Relaxed);
            slot.bytes.store(label.bytes, Relaxed);
            slot.pages.store(label.pages, Relaxed);
            slot.caller.store(caller, Relaxed);
            if let Some(phys) = label.phys {
                slot.phys.store(phys, Relaxed);
            }
        });
    }

    /// Completes the area: it is no longer *building*.
    #[inline]
    pub fn publish(&self) {
        self.meta.store(self.meta.load(Relaxed) & !BUILDING, Release);
    }

    /// Stores the freer. If two CPUs free the slot at the same moment, one of them is stored (R4).
    /// The sequence stays as it is, because two writers would break it.
    #[inline]
    pub fn freed_by(&self, caller: Caller) {
        self.freed_with(caller, 0)
    }

    /// Stores the freer and marks the entries as plain; with `kept`, as present too (W1).
    #[inline]
    pub fn freed_plain_by(&self, caller: Caller, kept: bool) {
        self.freed_with(caller, if kept { PLAIN | KEPT } else { PLAIN })
    }

    #[inline(always)]
    fn freed_with(&self, caller: Caller, flags: u16) {
        if breaks!(ClaimDecidedTwice) {
            self.sequence.fetch_add(2, Release);
        }
        let (word, even) = word_of(caller);
        let even = if even { FREER_IS_EVEN } else { 0 };
        self.freer.store(word, Relaxed);
        self.freed.store(HAS_FREER | even | flags, Release);
    }

    /// Whether the entries are plain (W1).
    #[inline]
    pub fn is_plain(&self) -> bool {
        (self.meta.load(Acquire) | self.freed.load(Acquire)) & PLAIN != 0
    }

    /// Whether it records a free.
    pub fn is_freed(&self) -> bool {
        self.freed.load(Relaxed) & HAS_FREER != 0
    }

    /// Whether the area was freed with its entries present (W1).
    #[inline]
    pub fn is_kept(&self) -> bool {
        self.freed.load(Acquire) & KEPT != 0
    }

    /// Marks that unexpected entries of the area have been logged (T2).
    #[cold]
    pub fn mark_reported(&self) {
        self.freed.fetch_or(REPORTED, Relaxed);
    }

    /// Whether unexpected entries of the area have been logged.
    #[inline]
    pub fn is_reported(&self) -> bool {
        self.freed.load(Relaxed) & REPORTED != 0
    }

    /// Changes fields under the sequence. Only the caller that makes the area does this; two
    /// writers at a time would leave the sequence odd.
    #[inline(always)]
    fn change(&self, change: impl FnOnce(&Slot)) {
        let sequence = self.sequence.load(Relaxed);
        self.sequence.store(sequence.wrapping_add(1), Relaxed);
        fence(Release);
        change(self);
        self.sequence.store(sequence.wrapping_add(2), Release);
    }

    /// A copy of the slot, or `None` while a writer changes it (R2).
    pub fn snapshot(&self) -> Option<Snapshot> {
        let sequence = self.sequence.load(Acquire);
        let copy = Snapshot {
            sequence,
            meta: self.meta.load(Relaxed),
            freed: self.freed.load(Acquire),
            bytes: self.bytes.load(Relaxed),
            pages: self.pages.load(Relaxed),
            caller: self.caller.load(Relaxed),
            freer: self.freer.load(Relaxed),
            phys: self.phys.load(Relaxed),
        };
        fence(Acquire);
        (sequence & 1 == 0 && self.sequence.load(Relaxed) == sequence).then_some(copy)
    }

    /// Copies the record of a free, of an area at `start`, which is over. Does nothing while another
    /// caller does the same.
    pub fn remember(&self, of: &Slot, start: VirtAddr, region: RegionId) {
        let sequence = self.sequence.load(Relaxed) & !1;
        if self.sequence.compare_exchange(sequence, sequence + 1, Relaxed, Relaxed).is_err() {
            return;
        }
        fence(Release);
        self.meta.store(of.meta.load(Relaxed), Relaxed);
        self.freed.store(of.freed.load(Relaxed), Relaxed);
        self.bytes.store(of.bytes.load(Relaxed), Relaxed);
        self.pages.store(of.pages.load(Relaxed), Relaxed);
        self.caller.store(of.caller.load(Relaxed), Relaxed);
        self.freer.store(of.freer.load(Relaxed), Relaxed);
        self.phys.store(of.phys.load(Relaxed), Relaxed);
        self.run.store(start.0 as u64 | region.0 as u64, Relaxed);
        self.sequence.store(sequence.wrapping_add(2), Release);
    }

    /// Owner: forgets the last free, as the chunk or the run is given up.
    pub fn forget(&self) {
        self.freed.store(0, Relaxed);
    }

    /// Whether [`Slot::remember`] copied a record here of an area with some of `pages`.
    pub fn remembers(&self, pages: PageRange) -> bool {
        let start = VirtAddr(self.run.load(Relaxed) as usize).page_start();
        start < pages.end() && pages.start < start.add_pages(self.pages())
    }

    /// The area whose record [`Slot::remember`] copied here.
    pub fn remembered(&self) -> Option<Info> {
        let (sequence, place) = (self.sequence(), self.run.load(Relaxed) as usize);
        let copy = self.snapshot().filter(|copy| copy.sequence == sequence && copy.is_freed())?;
        Some(copy.info(VirtAddr(place).page_start(), RegionId((place % PAGE_SIZE) as u8)))
    }

    /// The sequence. It moves whenever the slot gets a new area.
    #[inline]
    pub fn sequence(&self) -> u32 {
        self.sequence.load(Acquire)
    }

    /// The pages of the area; 0 before the first area.
    #[inline]
    pub fn pages(&self) -> usize {
        self.pages.load(Relaxed)
    }

    /// The pages of the area that may be mapped: none if it only reserves addresses, and none of
    /// them was ever mapped.
    #[inline]
    pub fn mapped_pages(&self) -> usize {
        if !self.kind().is_whole() && !self.is_shared() { 0 } else { self.pages() }
    }

    /// The kind and the pages of an area that is complete.
    #[inline]
    pub fn built(&self) -> Option<(Kind, usize)> {
        let meta = self.meta.load(Acquire);
        (meta & BUILDING == 0).then(|| (kind_of(meta), self.pages()))
    }

    /// The pages of the area, if it owns all of its frames and has handed none out.
    #[inline]
    pub fn own_pages(&self) -> Option<usize> {
        const { assert!(Kind::Vmalloc as u32 == 0 && Kind::Stack as u32 == 1) };
        let meta = self.meta.load(Acquire);
        (meta & (KIND | SHARED) <= Kind::Stack as u16).then(|| self.pages())
    }

    /// The pages of the area, if it is complete, owns all of its frames, has plain entries (W1) and
    /// has handed no frame out (W3).
    #[inline]
    pub fn plain_pages(&self) -> Option<usize> {
        let meta = self.meta.load(SeqCst) & (KIND | SHARED | BUILDING | PLAIN);
        (meta ^ PLAIN <= Kind::Stack as u16).then(|| self.pages())
    }

    /// The kind of the area.
    #[inline]
    pub fn kind(&self) -> Kind {
        kind_of(self.meta.load(Relaxed))
    }

    /// Whether the area is being made (U1).
    #[inline]
    pub fn is_building(&self) -> bool {
        self.meta.load(Acquire) & BUILDING != 0
    }

    /// Whether frames of the area were handed out (G3).
    #[inline]
    pub fn is_shared(&self) -> bool {
        self.meta.load(SeqCst) & SHARED != 0
    }

    /// Marks that frames of the area are handed out, so that a free releases them by count (G3).
    pub fn share(&self) {
        self.meta.fetch_or(SHARED, SeqCst);
        between_seqcst();
    }

    /// The run of an area with a run of its own: its first grain and its length.
    #[inline]
    pub fn run(&self) -> (usize, usize) {
        let run = self.run.load(Relaxed);
        let (start, grains) = (run & ((1 << START_BITS) - 1), (run >> START_BITS) as usize);
        (start as usize, if grains < LONG { grains } else { (grains - LONG) * COARSE })
    }

    /// The fewest grains, at least so many, that the run of a slot may have. No run is longer than
    /// [`WINDOW`].
    pub const fn storable(grains: usize) -> usize {
        if grains < LONG { grains } else { grains.next_multiple_of(COARSE) }
    }

    /// The bytes from the start of its run to the area: a reservation may begin inside a unit.
    pub fn offset(&self) -> usize {
        if self.kind() == Kind::Reserved { self.phys.load(Relaxed) as usize } else { 0 }
    }

    /// Stores the run of an area with a run of its own.
    pub fn place(&self, grain: usize, grains: usize) {
        let grains = if grains < LONG { grains } else { LONG + grains / COARSE };
        self.change(|slot| slot.run.store((grains as u64) << START_BITS | grain as u64, Relaxed));
    }

    /// The links of a cached slot: to the slot cached before it, and to the slot cached after it.
    pub(super) fn neighbours(&self) -> (&AtomicU64, &AtomicU64) {
        (&self.run, &self.phys)
    }

    /// Shortens an area that is given up before it was complete to the `pages` pages that are
    /// mapped. Its entries are not plain any more, so no other area reuses them (W1).
    pub fn truncate(&self, pages: usize) {
        self.resize(pages, self.bytes.load(Relaxed))
    }

    /// As [`Slot::truncate`], of an area that lives on with so many pages and bytes.
    pub fn resize(&self, pages: usize, bytes: usize) {
        self.change(|slot| {
            slot.unmark_plain();
            slot.pages.store(pages, Relaxed);
            slot.bytes.store(bytes, Relaxed);
        });
    }

    /// Makes the frames, which were borrowed while the area was made, the area's own.
    pub fn adopt(&self) {
        let meta = self.meta.load(Relaxed);
        self.meta.store(meta & !KIND | Kind::VmapOwned as u16, Relaxed);
    }
}

/// The numbers of the bits that are set in `mask`.
#[inline]
pub fn slots_of(mut mask: u64) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        let slot = mask.trailing_zeros();
        mask &= mask.wrapping_sub(1);
        (slot < 64).then_some(slot)
    })
}

fn kind_of(meta: u16) -> Kind {
    Kind::from_u8((meta & KIND) as u8).unwrap_or(Kind::Reserved)
}

impl Snapshot {
    /// Whether the area was being made (U1).
    pub fn is_building(&self) -> bool {
        self.meta & BUILDING != 0
    }

    /// Whether the area was freed.
    pub fn is_freed(&self) -> bool {
        self.freed & HAS_FREER != 0
    }

    /// The copy as the [`Info`] of an area at `start`.
    pub fn info(&self, start: VirtAddr, region: RegionId) -> Info {
        Info {
            start,
            bytes: self.bytes,
            pages: self.pages,
            kind: kind_of(self.meta),
            guard: if self.meta & NO_GUARD != 0 { Guard::None } else { Guard::After },
            caller: caller(self.caller, self.meta & CALLER_IS_EVEN != 0),
            freer: self.is_freed().then(|| caller(self.freer, self.freed & FREER_IS_EVEN != 0)),
            node: Node((self.meta >> NODE_SHIFT) as u8),
            phys: (kind_of(self.meta) == Kind::Ioremap).then_some(self.phys),
            region,
        }
    }
}

/// A caller as one word. A return address always has its lowest bit set, which tells it from a
/// place; the second value is true if the bit was clear before.
#[inline(always)]
fn word_of(caller: Caller) -> (usize, bool) {
    const { assert!(align_of::<Location<'static>>() > 1, "the lowest bit of a place is clear") };
    match caller {
        Caller::At(_) => (caller.address(), false),
        Caller::Return(pc) => (pc | 1, pc & 1 == 0),
    }
}

fn caller(word: usize, was_even: bool) -> Caller {
    if word & 1 != 0 || word == 0 {
        return Caller::Return(word ^ (was_even && word != 0) as usize);
    }
    // SAFETY: every writer stores the word whole, and every reader loads it whole. An even word
    // that is not 0 is the address of a `Location` with static lifetime (`word_of`).
    Caller::At(unsafe { &*core::ptr::with_exposed_provenance(word) })
}
