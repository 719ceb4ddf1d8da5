//! Chunks: up to 64 slots, and the masks that say what each one is.
//!
//! A chunk's header is one bookkeeping frame. A *class* chunk is a run of
//! units cut into slots of one stride; a *run* chunk is 64 slots whose areas
//! lie wherever the arena put them.
//!
//! Each slot is in one state, one bit in one mask:
//!
//! ```text
//!   free ──take──▶ live ──retire──▶ stale[batch] ──give, after grace──▶ free
//!                 ▲ │                    ▲ ▲
//!                 │ ├─claim──▶ claimed ──┘ │ drained by the owner
//!                 │ └─keep──▶ cached ─cool───┘
//!                 └──revive────┘
//! ```
//!
//! # Rules
//! - **C1** Headers are type-stable: once a frame is one, it stays one while
//!   the instance lives, so that a finder may read it at any time.
//! - **C2** `free`, `live`, `cached`, `stale[0]`, `stale[1]` are disjoint; only
//!   the owner (the CPU whose CPU's chunks holds the chunk) writes them. A *bare* slot is
//!   stale, and nothing waits in its entries: it is given without a look at them.
//! - **R1** A freer that is not the owner claims (`claimed.fetch_or`; set
//!   already = double free), clears the entries, then posts
//!   (`posted.fetch_or`; if it was 0, it pushes the chunk to the owner's remote frees).
//!   The owner takes `posted` only after it has popped the chunk and read the
//!   link; then live → stale, then the claims are dropped.
//! - **R4** A stale slot is not given before a claim on it is dropped. Two
//!   CPUs that free one slot at the same moment may both win, the owner and a
//!   claimer; the claimer then posts what is no longer live. The flush that
//!   makes the slot clean shows the owner every claim that was given before.
//! - **R5** A cached slot is used again without a flush. So its freer says that the
//!   slot does not live and then looks for claims and holds; claimers and
//!   holders say what they do and then look whether it lives. All of it is
//!   sequentially consistent, so one of the two sees the other.
//! - **R2** Finders read `live & !claimed` between two equal reads of the
//!   chunk's sequence, which moves before a chunk's units are given up, and
//!   when its header has become another one.
//!
//! # Locks
//! None: the owner's words belong to whoever is inside the owner's CPU.

mod claims;
mod leaves;

use super::class::{CLASSES, Class, MAX_SLOTS};
use super::slot::{Label, Slot};
use crate::area::RegionId;
use crate::machine::Machine;
use crate::sync::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::*, between_seqcst, breaks, fence};
use crate::units::{PAGE_SHIFT, PAGE_SIZE, Pfn, VirtAddr};
use core::ops::Deref;
use core::ptr::{NonNull, null_mut};

/// Batches that may hold slots of a chunk at a time: the open and the sealed one.
pub const BATCHES: usize = 2;
/// Leaf tables under a class chunk at most: 16 MiB and a unit, at 2 MiB each.
pub const MAX_LEAVES: usize = 10;

/// Slots that a header has room for: few where a model explores them all.
const SLOTS: usize = if cfg!(loom) { 2 } else { MAX_SLOTS };

/// The class index that run chunks carry: the one behind the last class.
pub const RUNS: u8 = CLASSES as u8;

/// The words that other CPUs write (R1), in a cache-line pair of their own.
#[repr(align(128))]
#[derive(Debug, Default)]
pub struct Remote {
    claimed: AtomicU64,
    posted: AtomicU64,
    /// Of those, whose entries are left to the owner (R6).
    deferred: AtomicU64,
    next: AtomicPtr<Chunk>,
}

/// A chunk's header. See the [module](self).
#[repr(C)]
#[derive(Debug)]
pub struct Chunk {
    /// Clean slots.
    free: AtomicU64,
    live: AtomicU64,
    /// Freed, and still bound.
    cached: AtomicU64,
    stale: [AtomicU64; BATCHES],
    /// Stale, and nothing waits in their entries.
    bare: AtomicU64,
    /// The first slot's address, or 0 in a run chunk.
    base: AtomicUsize,
    /// Reciprocal of the stride: slot = page × reciprocal >> 32.
    reciprocal: AtomicU32,
    stride: AtomicU32,
    sequence: AtomicU32,
    owner: AtomicU32,
    all: AtomicU64,
    frame: u64,
    class: AtomicU8,
    region: AtomicU8,
    /// Which of its CPU's lists holds it.
    pub(super) list: AtomicU8,
    pub(super) next: AtomicPtr<Chunk>,
    pub(super) previous: AtomicPtr<Chunk>,
    next_in_batch: [AtomicPtr<Chunk>; BATCHES],
    /// The entry of its first page, where one leaf table maps all of them.
    entries: AtomicUsize,
    leaves: [AtomicUsize; MAX_LEAVES],
    remote: Remote,
    slots: [Slot; SLOTS],
    /// The frames of `leaves`.
    frames: [AtomicU64; MAX_LEAVES],
}

const _: () = assert!(cfg!(loom) || size_of::<Chunk>() <= PAGE_SIZE, "a header is one frame");

impl Chunk {
    /// A header that is nobody's, in `frame`.
    pub fn new(frame: Pfn) -> Chunk {
        Chunk {
            frame: frame.0,
            free: AtomicU64::new(0),
            live: AtomicU64::new(0),
            cached: AtomicU64::new(0),
            stale: Default::default(),
            bare: AtomicU64::new(0),
            base: AtomicUsize::new(0),
            reciprocal: AtomicU32::new(0),
            stride: AtomicU32::new(0),
            sequence: AtomicU32::new(0),
            owner: AtomicU32::new(0),
            all: AtomicU64::new(0),
            class: AtomicU8::new(RUNS),
            region: AtomicU8::new(0),
            list: AtomicU8::new(0),
            next: AtomicPtr::new(null_mut()),
            previous: AtomicPtr::new(null_mut()),
            next_in_batch: Default::default(),
            entries: AtomicUsize::new(0),
            leaves: Default::default(),
            remote: Remote::default(),
            slots: core::array::from_fn(|_| Slot::default()),
            frames: Default::default(),
        }
    }

    /// Becomes a chunk of `class` at `base`, with `slots` places, all free.
    pub fn become_class(&self, class: Class, slots: usize, base: VirtAddr, region: RegionId, owner: u32) {
        let all = class.mask(slots);
        self.base.store(base.0, Relaxed);
        self.stride.store(class.stride() as u32, Relaxed);
        // Exact for every page of the chunk: see the test.
        self.reciprocal.store((((1u64 << 32) / class.stride() as u64) + 1) as u32, Relaxed);
        self.class.store(class.index() as u8, Relaxed);
        self.forget_leaves();
        self.reset(all, region, owner);
    }

    /// Becomes a run chunk.
    pub fn become_runs(&self, region: RegionId, owner: u32) {
        self.base.store(0, Relaxed);
        self.forget_leaves();
        self.class.store(RUNS, Relaxed);
        self.reset(u64::MAX, region, owner);
    }

    fn reset(&self, all: u64, region: RegionId, owner: u32) {
        self.region.store(region.0, Relaxed);
        self.owner.store(owner, Relaxed);
        self.all.store(all, Relaxed);
        self.live.store(0, Relaxed);
        self.cached.store(0, Relaxed);
        self.bare.store(0, Relaxed);
        self.entries.store(0, Relaxed);
        // Finders that have read what the header was before see it (R2).
        self.sequence.fetch_add(1, Release);
        self.free.store(all, Release);
    }

    /// The frame that the header is in.
    #[inline]
    pub fn frame(&self) -> Pfn {
        Pfn(self.frame)
    }

    /// Puts a given-up header before `next` in a chain.
    pub fn chain(&self, next: Option<ChunkRef>) {
        self.next.store(next.map_or(null_mut(), ChunkRef::as_ptr), Relaxed);
    }

    /// Takes a header out of a chain and tells the next one.
    pub fn unchain(&self) -> Option<ChunkRef> {
        // SAFETY: H2: `chain` stored what `as_ptr` gave.
        unsafe { ChunkRef::from_ptr(self.next.swap(null_mut(), Relaxed)) }
    }

    /// Its sequence (R2).
    #[inline]
    pub fn sequence(&self) -> u32 {
        self.sequence.load(Acquire)
    }

    /// Before the units are given up: finders on their way see it (R2).
    pub fn retire_header(&self) {
        self.free.store(0, Relaxed);
        self.sequence.fetch_add(1, AcqRel);
        // What is written from here on is seen after the sequence has moved.
        fence(Release);
    }

    /// The CPU whose CPU's chunks it is on.
    #[inline]
    pub fn owner(&self) -> u32 {
        self.owner.load(Relaxed)
    }

    /// Its region.
    #[inline]
    pub fn region(&self) -> RegionId {
        RegionId(self.region.load(Relaxed))
    }

    /// Its class; `None` for a run chunk.
    #[inline]
    pub fn class(&self) -> Option<Class> {
        Class::checked(self.class.load(Relaxed))
    }

    /// Whether it is a run chunk.
    #[inline]
    pub fn is_runs(&self) -> bool {
        self.class.load(Relaxed) == RUNS
    }

    /// Where shelves keep it: by class, and run chunks behind the last.
    #[inline]
    pub(super) fn bin(&self) -> usize {
        self.class.load(Relaxed) as usize
    }

    /// Units under a class chunk.
    pub fn units(&self) -> u32 {
        let places = MAX_SLOTS - self.all.load(Relaxed).leading_zeros() as usize;
        self.class().map_or(0, |class| class.units(places) as u32)
    }

    /// A slot.
    #[inline]
    pub fn slot(&self, slot: u32) -> &Slot {
        &self.slots[slot as usize % SLOTS]
    }

    /// The address of a slot of a class chunk.
    #[inline]
    pub fn address(&self, slot: u32) -> VirtAddr {
        self.place(slot).0
    }

    /// The slot of a class chunk that holds `at`, if `at` is not past them all.
    #[inline]
    pub fn slot_at(&self, at: VirtAddr) -> Option<u32> {
        let page = at.0.wrapping_sub(self.base.load(Relaxed)) >> PAGE_SHIFT;
        // A finder may read half of one chunk and half of the next: then nothing fits,
        // and nothing overflows.
        let slot = (page as u64).wrapping_mul(self.reciprocal.load(Relaxed) as u64) >> 32;
        (slot < MAX_SLOTS as u64 && self.all.load(Relaxed) >> slot & 1 != 0).then_some(slot as u32)
    }

    /// The slot of a class chunk with an area, by a finder's word (R2), that
    /// starts at `at`; and how many pages that is from the chunk's first.
    #[inline(always)]
    pub fn area_at(&self, at: VirtAddr) -> Option<(u32, usize)> {
        let offset = at.0.wrapping_sub(self.base.load(Relaxed));
        let page = offset >> PAGE_SHIFT;
        let slot = (page as u64).wrapping_mul(self.reciprocal.load(Relaxed) as u64) >> 32;
        let start = (slot as usize).wrapping_mul(self.stride.load(Relaxed) as usize) << PAGE_SHIFT;
        let lives = slot < MAX_SLOTS as u64 && self.areas() >> slot & 1 != 0;
        (lives && start == offset).then_some((slot as u32, page))
    }

    /// The address of a slot of a class chunk, and how many pages that is from the
    /// chunk's first.
    #[inline(always)]
    pub fn place(&self, slot: u32) -> (VirtAddr, usize) {
        let page = slot as usize * self.stride.load(Relaxed) as usize;
        (VirtAddr(self.base.load(Relaxed).wrapping_add(page << PAGE_SHIFT)), page)
    }

    /// The leaf table that maps `at`, as the caller of [`Chunk::cache_leaf`]
    /// left it; 0 before that.
    #[inline]
    pub fn leaf(&self, at: VirtAddr, leaf_shift: u32) -> usize {
        let index = (at.0 >> leaf_shift).wrapping_sub(self.base.load(Relaxed) >> leaf_shift);
        self.leaves.get(index).map_or(0, |leaf| leaf.load(Acquire))
    }

    /// Where the entry of its first page is, if one leaf table maps them all, as the
    /// caller of [`Chunk::cache_entries`] left it; else 0.
    #[inline(always)]
    pub fn entries(&self) -> usize {
        self.entries.load(Acquire)
    }

    /// How many pages `at` is from its first.
    #[inline(always)]
    pub fn page_of(&self, at: VirtAddr) -> usize {
        at.0.wrapping_sub(self.base.load(Relaxed)) >> PAGE_SHIFT
    }

    /// Keeps the entry of its first page at hand: all pages are mapped by one leaf
    /// table.
    pub fn cache_entries(&self, first: usize) {
        self.entries.store(first, Release);
    }

    /// Owner: takes a free slot; it is live (and not built) from here on.
    #[inline]
    pub fn take(&self) -> Option<u32> {
        let free = self.free.load(Relaxed);
        if free == 0 {
            return None;
        }
        let bit = free & free.wrapping_neg();
        self.free.store(free ^ bit, Relaxed);
        Some(bit.trailing_zeros())
    }

    /// Owner: the free slot that is taken next.
    #[inline]
    pub fn next_free(&self) -> Option<u32> {
        let free = self.free.load(Relaxed);
        (free != 0).then(|| free.trailing_zeros())
    }

    /// Owner: takes the slot that [`Chunk::next_free`] told.
    #[inline]
    pub fn take_this(&self, slot: u32) {
        self.free.store(self.free.load(Relaxed) & !(1 << slot), Relaxed);
    }

    /// Owner: the slot taken is an area that finders may look at.
    #[inline]
    pub fn make_live(&self, slot: u32) {
        self.live.store(self.live.load(Relaxed) | 1 << slot, Release);
    }

    /// Owner: the slot taken becomes an area that is being built (U1).
    #[inline(always)]
    pub fn begin(&self, slot: u32, label: &Label) {
        self.slot(slot).begin(label);
        self.make_live(slot);
    }

    /// Owner: as [`Chunk::begin`], of a slot that was cached, with its entries.
    #[inline(always)]
    pub fn begin_again(&self, slot: u32, label: &Label) {
        self.uncache(slot);
        self.slot(slot).begin_again(label);
        self.make_live(slot);
    }

    /// Owner: a slot taken goes back unused.
    pub fn put_back(&self, slot: u32) {
        self.live.store(self.live.load(Relaxed) & !(1 << slot), Release);
        self.free.store(self.free.load(Relaxed) | 1 << slot, Relaxed);
    }

    /// Owner: live slots become stale in `load`; true = they are its first.
    #[inline]
    pub fn retire(&self, slots: u64, batch: usize) -> bool {
        self.live.store(self.live.load(Relaxed) & !slots, Release);
        let stale = self.stale[batch % BATCHES].load(Relaxed);
        self.stale[batch % BATCHES].store(stale | slots, Relaxed);
        stale == 0
    }

    /// Owner: a live slot becomes cached. False = somebody else has claimed it at
    /// the same moment: it must not be used again before the claim is dropped
    /// (R4, R5).
    #[inline]
    pub fn cache(&self, slot: u32) -> bool {
        self.cached.store(self.cached.load(Relaxed) | 1 << slot, Relaxed);
        // An exchange is a cheaper barrier than a fence on x86.
        self.live.swap(self.live.load(Relaxed) & !(1 << slot), SeqCst);
        between_seqcst();
        self.remote.claimed.load(SeqCst) >> slot & 1 == 0
    }

    /// Owner: a live slot becomes cached, and `park` does to its entries what has to be
    /// done. Only after that it is looked at what others did, `handed_out` says
    /// whether somebody has got hold of its frames: true = nobody did anything, and
    /// it may be used again without a flush (R5).
    #[inline(always)]
    pub fn cache_alone(&self, slot: u32, park: impl FnOnce(), handed_out: impl FnOnce(&Slot) -> bool) -> bool {
        let alone = self.cache(slot);
        park();
        let area = self.slot(slot);
        alone && !handed_out(area) && !area.is_reported()
    }

    /// Owner: a cached slot is taken, to live again.
    #[inline]
    pub fn uncache(&self, slot: u32) {
        self.cached.store(self.cached.load(Relaxed) & !(1 << slot), Relaxed);
    }

    /// Owner: a cached slot, its entries retired, becomes stale in `load`; true =
    /// it is that one's first.
    pub fn evict(&self, slot: u32, batch: usize) -> bool {
        self.uncache(slot);
        self.retire(1 << slot, batch)
    }

    /// Slots that were freed and are still bound.
    #[inline]
    pub fn cached_slots(&self) -> u64 {
        self.cached.load(Relaxed)
    }

    /// Owner: its live slots, claimed ones too.
    #[inline]
    pub fn live_slots(&self) -> u64 {
        self.live.load(Relaxed)
    }

    /// Owner: stale slots of `load`.
    #[inline]
    pub fn stale(&self, batch: usize) -> u64 {
        self.stale[batch % BATCHES].load(Relaxed)
    }

    /// Owner: in the entries of these stale slots nothing waits.
    #[inline(always)]
    pub fn bare(&self, slots: u64) {
        self.bare.store(self.bare.load(Relaxed) | slots, Relaxed);
    }

    /// Owner: those of `load`, but for claimed ones, which are not bare any more
    /// then: they have to be given.
    #[inline]
    pub fn take_bare(&self, batch: usize) -> u64 {
        let bare = self.bare.load(Relaxed);
        let claimed = if breaks!(GiveClaimed) { 0 } else { self.remote.claimed.load(Relaxed) };
        let slots = bare & self.stale(batch) & !claimed;
        if slots != 0 {
            self.bare.store(bare & !slots, Relaxed);
        }
        slots
    }

    /// Owner: a stale slot of `load` is clean (after grace): free again.
    /// Returns the free slots before.
    #[inline]
    pub fn give(&self, slot: u32, batch: usize) -> u64 {
        // A claim that was taken back at once may have hidden it from `take_bare`.
        self.bare.store(self.bare.load(Relaxed) & !(1 << slot), Relaxed);
        self.give_all(1 << slot, batch)
    }

    /// Owner: as [`Chunk::give`], for many.
    #[inline]
    pub fn give_all(&self, slots: u64, batch: usize) -> u64 {
        let free = self.free.load(Relaxed);
        self.stale[batch].store(self.stale[batch].load(Relaxed) & !slots, Relaxed);
        self.free.store(free | slots, Relaxed);
        free
    }

    /// Owner: a stale slot of `load` waits for the other batch (R4); true = it
    /// is that one's first.
    pub fn postpone(&self, slot: u32, batch: usize) -> bool {
        self.stale[batch].store(self.stale[batch].load(Relaxed) & !(1 << slot), Relaxed);
        self.retire(1 << slot, batch ^ 1)
    }

    /// Owner: its free slots.
    #[inline]
    pub fn free_slots(&self) -> u64 {
        self.free.load(Relaxed)
    }

    /// All slots that it has.
    pub fn all_slots(&self) -> u64 {
        self.all.load(Relaxed)
    }

    /// Whether all its slots are free.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.free.load(Relaxed) == self.all.load(Relaxed)
    }

    /// Slots that hold areas, by a finder's word (R2).
    #[inline]
    pub fn areas(&self) -> u64 {
        self.live.load(SeqCst) & !self.remote.claimed.load(Acquire)
    }

    /// The next chunk in the owner's remote frees.
    pub fn next_remote(&self) -> &AtomicPtr<Chunk> {
        &self.remote.next
    }

    /// The next chunk in `load`.
    pub fn next_in_batch(&self, batch: usize) -> &AtomicPtr<Chunk> {
        &self.next_in_batch[batch]
    }

    /// Whether the masks are disjoint and within the slots (C2).
    pub fn masks_agree(&self) -> bool {
        let masks = [&self.free, &self.live, &self.cached, &self.stale[0], &self.stale[1]];
        let masks = masks.map(|mask| mask.load(Relaxed));
        let union = masks.iter().fold(0, |all, mask| all | mask);
        let sum: u32 = masks.iter().map(|mask| mask.count_ones()).sum();
        let bare = self.bare.load(Relaxed) & !(self.stale(0) | self.stale(1));
        sum == union.count_ones() && union & !self.all.load(Relaxed) == 0 && bare == 0
    }
}

/// A reference to a header, which is valid for as long as the instance lives
/// (C1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkRef(NonNull<Chunk>);

// SAFETY: all fields of a chunk are atomics.
unsafe impl Send for ChunkRef {}
// SAFETY: as above.
unsafe impl Sync for ChunkRef {}

impl ChunkRef {
    /// Makes the frame `header` a header: in place, which no stack has room for.
    ///
    /// # Safety
    /// - H1. The frame is the instance's for ever (C1), it is cleared, and nobody
    ///   uses it yet.
    pub unsafe fn create<M: Machine>(machine: &M, header: Pfn) -> ChunkRef {
        let at = machine.virt(header).cast::<Chunk>();
        // SAFETY: H1 and M2: a frame is large and aligned enough, and zeros are
        // what all other fields of a new header are.
        unsafe {
            (&raw mut (*at.as_ptr()).frame).write(header.0);
            (&raw mut (*at.as_ptr()).class).write(AtomicU8::new(RUNS));
        }
        ChunkRef(at)
    }

    /// The header that a pointer from [`ChunkRef::as_ptr`] points at; `None`
    /// for null.
    ///
    /// # Safety
    /// - H2. It is null or came from [`ChunkRef::as_ptr`] in this instance.
    #[inline]
    pub unsafe fn from_ptr(at: *mut Chunk) -> Option<ChunkRef> {
        NonNull::new(at).map(ChunkRef)
    }

    /// The header as a link.
    #[inline]
    pub fn as_ptr(self) -> *mut Chunk {
        self.0.as_ptr()
    }
}

impl Deref for ChunkRef {
    type Target = Chunk;

    #[inline]
    fn deref(&self) -> &Chunk {
        // SAFETY: C1: it was a header when the reference was made.
        unsafe { self.0.as_ref() }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
