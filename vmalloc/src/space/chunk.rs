//! Chunks: up to 64 slots, and the masks that hold the state of each.
//!
//! A chunk's header is one bookkeeping frame. A *class* chunk is a run of units, cut into slots of
//! one stride. A *run* chunk has 64 slots whose areas lie wherever the arena placed them.
//!
//! A slot is in one state, which is one bit in one mask:
//!
//! ```text
//!   free ──take──▶ live ──retire──▶ stale[batch] ──give, after grace──▶ free
//!                 ▲ │                    ▲ ▲
//!                 │ ├─claim──▶ claimed ──┘ │ drained by the owner
//!                 │ └─cache──▶ cached ─evict─┘
//!                 └──uncache───┘
//! ```
//!
//! # Rules
//! - **C1** Headers are type-stable. A frame that became a header stays one while the instance
//!   lives, so a finder may read it at any time.
//! - **C2** `free`, `live`, `cached`, `stale[0]` and `stale[1]` are disjoint. Only the owner writes
//!   them: the CPU that has the chunk in its bins. A *bare* slot is a stale one with no frames in
//!   its entries; the owner gives it without a look at them.
//! - **R1** Another CPU frees a slot in three steps. It claims the slot (`claimed.fetch_or`; a bit
//!   that is already set means a double free). It clears or parks the entries. It posts the slot
//!   (`posted.fetch_or`; if that word was 0, it also pushes the chunk onto the owner's remote
//!   frees). The owner pops the chunk, reads its link, and takes `posted` after that. It makes the
//!   slots stale and then drops the claims.
//! - **R4** A stale slot is not given while there is a claim on it. If the owner and another CPU
//!   free one slot at the same moment, both may succeed; the other CPU then posts a slot that is no
//!   longer live. The flush that makes the slot clean also makes every claim taken before it
//!   visible to the owner.
//! - **R5** A cached slot is reused without a flush. So the owner first clears the slot's *live*
//!   bit and then looks for claims and holds, while a claimer or holder first writes its mark and
//!   then reads *live*. All of these accesses are sequentially consistent, so at least one side
//!   sees the other.
//! - **R2** Finders read `live & !claimed` between two equal reads of the chunk's sequence. The
//!   sequence changes before the chunk's units are given up, and again when the header becomes
//!   another chunk.
//!
//! # Locks
//! None. The owner's words belong to the caller inside the owner's CPU.

mod claims;
mod header;
mod leaves;
mod places;

pub use header::ChunkRef;

use super::class::{CLASSES, Class, MAX_SLOTS};
use super::slot::{Label, Slot};
use crate::area::RegionId;
use crate::sync::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::*, between_seqcst, breaks, fence};
use crate::units::{PAGE_SIZE, Pfn, VirtAddr};
use core::ptr::null_mut;

/// The batches that can hold slots of a chunk at one time: the open one and the sealed one.
pub const BATCHES: usize = 2;
/// The most leaf tables under a class chunk of 8 MiB and a unit, at 2 MiB each.
pub const MAX_LEAVES: usize = 6;

/// Slots in a header. A loom model explores all of them, so it gets few.
const SLOTS: usize = if cfg!(loom) { 2 } else { MAX_SLOTS };

/// The class index of run chunks: one more than the last class.
pub const RUNS: u8 = CLASSES as u8;

/// The words that other CPUs write (R1), in cache lines of their own.
#[repr(align(128))]
#[derive(Debug, Default)]
pub struct Remote {
    claimed: AtomicU64,
    posted: AtomicU64,
    /// Posted slots whose entries the owner has to park (R6).
    deferred: AtomicU64,
    next: AtomicPtr<Chunk>,
}

/// A chunk's header. See the [module](self).
#[repr(C)]
#[derive(Debug)]
pub struct Chunk {
    /// Free slots. Their entries are clean.
    free: AtomicU64,
    live: AtomicU64,
    /// Freed, with their frames still in their entries.
    cached: AtomicU64,
    stale: [AtomicU64; BATCHES],
    /// Stale, with no frames in their entries.
    bare: AtomicU64,
    /// The first slot's address, or 0 in a run chunk.
    base: AtomicUsize,
    /// The reciprocal of the stride: slot = page × reciprocal >> 32.
    reciprocal: AtomicU32,
    stride: AtomicU32,
    sequence: AtomicU32,
    owner: AtomicU32,
    all: AtomicU64,
    frame: u64,
    class: AtomicU8,
    region: AtomicU8,
    /// The list of its bin that holds it.
    pub(super) list: AtomicU8,
    pub(super) next: AtomicPtr<Chunk>,
    pub(super) previous: AtomicPtr<Chunk>,
    next_in_batch: [AtomicPtr<Chunk>; BATCHES],
    /// The address of the entry of the first page, if one leaf table maps all pages.
    entries: AtomicUsize,
    leaves: [AtomicUsize; MAX_LEAVES],
    remote: Remote,
    slots: [Slot; SLOTS],
    /// The frames of `leaves`.
    frames: [AtomicU64; MAX_LEAVES],
}

const _: () = assert!(cfg!(loom) || size_of::<Chunk>() <= PAGE_SIZE, "a header is one frame");

impl Chunk {
    /// A header in `frame` that belongs to no chunk yet.
    #[cfg(any(test, loom))]
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

    /// Turns the header into a chunk of `class` at `base` with room for `slots` slots, all free.
    pub fn become_class(&self, class: Class, slots: usize, base: VirtAddr, region: RegionId, owner: u32) {
        let all = class.mask(slots);
        self.base.store(base.0, Relaxed);
        self.stride.store(class.stride() as u32, Relaxed);
        // The reciprocal is exact for every page of a chunk; a test tries them all.
        self.reciprocal.store((((1u64 << 32) / class.stride() as u64) + 1) as u32, Relaxed);
        self.class.store(class.index() as u8, Relaxed);
        self.forget_leaves();
        self.reset(all, region, owner);
    }

    /// Turns the header into a run chunk.
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
        // A finder that read the header's old contents sees the change (R2).
        self.sequence.fetch_add(1, Release);
        self.free.store(all, Release);
    }

    /// The header's frame.
    #[inline]
    pub fn frame(&self) -> Pfn {
        Pfn(self.frame)
    }

    /// Links an unused header before `next`.
    pub fn chain(&self, next: Option<ChunkRef>) {
        self.next.store(next.map_or(null_mut(), ChunkRef::as_ptr), Relaxed);
    }

    /// Unlinks an unused header and returns the next one.
    pub fn unchain(&self) -> Option<ChunkRef> {
        // SAFETY: H2: `chain` stored what `as_ptr` returned.
        unsafe { ChunkRef::from_ptr(self.next.swap(null_mut(), Relaxed)) }
    }

    /// The chunk's sequence (R2).
    #[inline]
    pub fn sequence(&self) -> u32 {
        self.sequence.load(Acquire)
    }

    /// Moves the sequence before the chunk's units are given up, so that a finder inside the chunk
    /// notices (R2).
    pub fn retire_header(&self) {
        self.free.store(0, Relaxed);
        self.sequence.fetch_add(1, AcqRel);
        // A CPU that sees a later write also sees the new sequence.
        fence(Release);
    }

    /// The CPU that owns the chunk.
    #[inline]
    pub fn owner(&self) -> u32 {
        self.owner.load(Relaxed)
    }

    /// The chunk's region.
    #[inline]
    pub fn region(&self) -> RegionId {
        RegionId(self.region.load(Relaxed))
    }

    /// The chunk's class; `None` for a run chunk.
    #[inline]
    pub fn class(&self) -> Option<Class> {
        Class::checked(self.class.load(Relaxed))
    }

    /// Whether it is a run chunk.
    #[inline]
    pub fn is_runs(&self) -> bool {
        self.class.load(Relaxed) == RUNS
    }

    /// The chunk's bin: its class, or the last bin for a run chunk.
    #[inline]
    pub(super) fn bin(&self) -> usize {
        self.class.load(Relaxed) as usize
    }

    /// The number of units under a class chunk; 0 for a run chunk.
    pub fn units(&self) -> usize {
        let places = MAX_SLOTS - self.all.load(Relaxed).leading_zeros() as usize;
        self.class().map_or(0, |class| class.units(places))
    }

    /// The slot with this number.
    #[inline]
    pub fn slot(&self, slot: u32) -> &Slot {
        &self.slots[slot as usize % SLOTS]
    }

    /// Owner: takes a free slot. The caller makes it live next, or puts it back.
    #[cfg(any(test, loom))]
    pub fn take(&self) -> Option<u32> {
        let free = self.free.load(Relaxed);
        if free == 0 {
            return None;
        }
        let bit = free & free.wrapping_neg();
        self.free.store(free ^ bit, Relaxed);
        Some(bit.trailing_zeros())
    }

    /// Owner: the free slot to take next.
    #[inline]
    pub fn next_free(&self) -> Option<u32> {
        let free = self.free.load(Relaxed);
        (free != 0).then(|| free.trailing_zeros())
    }

    /// Owner: takes the slot that [`Chunk::next_free`] returned.
    #[inline]
    pub fn take_this(&self, slot: u32) {
        self.free.store(self.free.load(Relaxed) & !(1 << slot), Relaxed);
    }

    /// Owner: makes a taken slot live, so that finders see its area.
    #[inline]
    pub fn make_live(&self, slot: u32) {
        self.live.store(self.live.load(Relaxed) | 1 << slot, Release);
    }

    /// Owner: makes a taken slot live, with an area that is being built (U1).
    #[inline(always)]
    pub fn begin(&self, slot: u32, label: &Label) {
        self.slot(slot).begin(label);
        self.make_live(slot);
    }

    /// Owner: as [`Chunk::begin`], for a cached slot. The area reuses the slot's entries.
    #[inline(always)]
    pub fn begin_again(&self, slot: u32, label: &Label) {
        self.uncache(slot);
        self.slot(slot).begin_again(label);
        self.make_live(slot);
    }

    /// Owner: puts back a taken slot.
    pub fn put_back(&self, slot: u32) {
        self.live.store(self.live.load(Relaxed) & !(1 << slot), Release);
        self.free.store(self.free.load(Relaxed) | 1 << slot, Relaxed);
    }

    /// Owner: makes live slots stale in `batch`. Returns true if they are the first of this chunk
    /// in the batch.
    #[inline]
    pub fn retire(&self, slots: u64, batch: usize) -> bool {
        self.live.store(self.live.load(Relaxed) & !slots, Release);
        let stale = self.stale[batch % BATCHES].load(Relaxed);
        self.stale[batch % BATCHES].store(stale | slots, Relaxed);
        stale == 0
    }

    /// Owner: makes a live slot cached. Returns false if another CPU has claimed it: the slot must
    /// then not be reused before that claim is dropped (R4, R5).
    #[inline]
    pub fn cache(&self, slot: u32) -> bool {
        self.cached.store(self.cached.load(Relaxed) | 1 << slot, Relaxed);
        // On x86 an exchange is a cheaper barrier than a fence.
        self.live.swap(self.live.load(Relaxed) & !(1 << slot), SeqCst);
        between_seqcst();
        self.remote.claimed.load(SeqCst) >> slot & 1 == 0
    }

    /// Owner: makes a live slot cached, runs `park` on its entries, and looks for others only after
    /// that. Returns true if the slot may be reused without a flush: nobody has claimed it,
    /// `handed_out` says that nobody holds its frames, and none of its entries was reported (R5).
    #[inline(always)]
    pub fn cache_alone(&self, slot: u32, park: impl FnOnce(), handed_out: impl FnOnce(&Slot) -> bool) -> bool {
        let alone = self.cache(slot);
        park();
        let area = self.slot(slot);
        alone && !handed_out(area) && !area.is_reported()
    }

    /// Owner: takes a cached slot out of the *cached* mask.
    #[inline]
    pub fn uncache(&self, slot: u32) {
        self.cached.store(self.cached.load(Relaxed) & !(1 << slot), Relaxed);
    }

    /// Owner: makes a cached slot, whose entries are parked, stale in `batch`. Returns true if it
    /// is the first of this chunk in the batch.
    pub fn evict(&self, slot: u32, batch: usize) -> bool {
        self.uncache(slot);
        self.retire(1 << slot, batch)
    }

    /// The cached slots.
    #[inline]
    pub fn cached_slots(&self) -> u64 {
        self.cached.load(Relaxed)
    }

    /// Owner: the live slots, including claimed ones.
    #[inline]
    pub fn live_slots(&self) -> u64 {
        self.live.load(Relaxed)
    }

    /// Owner: the slots that are stale in `batch`.
    #[inline]
    pub fn stale(&self, batch: usize) -> u64 {
        self.stale[batch % BATCHES].load(Relaxed)
    }

    /// Owner: marks stale slots as bare.
    #[inline(always)]
    pub fn mark_bare(&self, slots: u64) {
        self.bare.store(self.bare.load(Relaxed) | slots, Relaxed);
    }

    /// Owner: takes the bare slots of `batch` that nobody has claimed. A claimed one stays stale
    /// until [`Chunk::give`] or [`Chunk::postpone`].
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

    /// Owner: makes a stale slot of `batch` free again, after grace. Returns the slots that were
    /// free before.
    #[inline]
    pub fn give(&self, slot: u32, batch: usize) -> u64 {
        // `take_bare` skips a bare slot while a claim is on it, even a claim that is taken back at
        // once. The slot then comes here.
        self.bare.store(self.bare.load(Relaxed) & !(1 << slot), Relaxed);
        self.give_all(1 << slot, batch)
    }

    /// Owner: [`Chunk::give`] for many slots.
    #[inline]
    pub fn give_all(&self, slots: u64, batch: usize) -> u64 {
        let free = self.free.load(Relaxed);
        self.stale[batch].store(self.stale[batch].load(Relaxed) & !slots, Relaxed);
        self.free.store(free | slots, Relaxed);
        free
    }

    /// Owner: moves a stale slot of `batch` to the other batch (R4). Returns true if it is the
    /// first of this chunk there.
    pub fn postpone(&self, slot: u32, batch: usize) -> bool {
        self.stale[batch].store(self.stale[batch].load(Relaxed) & !(1 << slot), Relaxed);
        self.retire(1 << slot, batch ^ 1)
    }

    /// Owner: the free slots.
    #[inline]
    pub fn free_slots(&self) -> u64 {
        self.free.load(Relaxed)
    }

    /// All slots of the chunk.
    pub fn all_slots(&self) -> u64 {
        self.all.load(Relaxed)
    }

    /// Whether all slots are free.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.free.load(Relaxed) == self.all.load(Relaxed)
    }

    /// The slots that hold areas, as a finder sees them (R2).
    #[inline]
    pub fn areas(&self) -> u64 {
        self.live.load(SeqCst) & !self.remote.claimed.load(Acquire)
    }

    /// The link to the next chunk in the owner's remote frees.
    pub fn next_remote(&self) -> &AtomicPtr<Chunk> {
        &self.remote.next
    }

    /// The link to the next chunk in `batch`.
    pub fn next_in_batch(&self, batch: usize) -> &AtomicPtr<Chunk> {
        &self.next_in_batch[batch]
    }

    /// Whether the masks are disjoint and name slots of the chunk only (C2).
    pub fn masks_agree(&self) -> bool {
        let masks = [&self.free, &self.live, &self.cached, &self.stale[0], &self.stale[1]];
        let masks = masks.map(|mask| mask.load(Relaxed));
        let union = masks.iter().fold(0, |all, mask| all | mask);
        let sum: u32 = masks.iter().map(|mask| mask.count_ones()).sum();
        let bare = self.bare.load(Relaxed) & !(self.stale(0) | self.stale(1));
        sum == union.count_ones() && union & !self.all.load(Relaxed) == 0 && bare == 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
