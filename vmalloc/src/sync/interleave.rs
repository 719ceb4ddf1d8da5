//! The hooks of a scheduler (`--cfg interleave`): a step before each access of an atomic, a look at
//! frames that become free memory, and rules that the library breaks on demand.
//!
//! A wrapper has the size of the atomic inside it, and all bits zero mean the same, because both
//! lie in cleared frames. The hooks are functions and the same for all threads. A proof keeps its
//! state per thread itself.

use crate::units::Pfn;
use core::mem::transmute;
use core::ptr::null_mut;
use core::sync::atomic as real;
use core::sync::atomic::Ordering::Relaxed;

/// A rule that the library breaks on demand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// R2: a call that has looked a slot up does not test whether its chunk is still the same.
    ChunkReborn,
    /// R1: a claim tests twice whether the area is still the same, and is dropped only if the first
    /// test fails. A free moves the slot's sequence.
    ClaimDecidedTwice,
    /// R1: a claim that came too late is kept, on the area that is there by then.
    LateClaimKept,
    /// R4: a stale slot is given while there is a claim on it.
    GiveClaimed,
    /// R1: claims are dropped before their slots are stale.
    UnclaimEarly,
    /// R6: the claim on a slot whose entries are left to its owner is dropped before the owner
    /// parks them.
    UnclaimDeferred,
    /// R1: the link to the next chunk is read after the posted slots were taken.
    LinkAfterPosted,
    /// G3: the test for aliases runs before the last hold is released.
    LookBeforeRelease,
    /// Q5: a count between the two steps of its last release sticks.
    HoldSticks,
    /// U1: a frame is held without a second look at the entry of its page.
    HoldUnchecked,
    /// E1: an unfinished area is forgotten if it cannot be undone at once, in an NMI or under a
    /// claim.
    HoleForgotten,
    /// L4: a caller that visits another CPU does not hold its own.
    VisitAlone,
    /// L4: one that enters every CPU leaves the last one out.
    QuiesceAllButOne,
    /// U1: an area is published before its pages are cleared.
    PublishUncleared,
    /// G3: batches are reclaimed without grace.
    EarlyReclaim,
    /// G1: a batch is sealed under the present epoch, whose flushes may have happened.
    SealOld,
    /// G1: the CPU that seals a batch publishes without a flush.
    SkipFlush,
    /// G5: idle CPUs are skipped for batches with table pages.
    SkipIdle,
    /// R1: a remote free loses its claim.
    DropClaim,
    /// G3: frames become free while other areas hold them.
    IgnoreCounts,
    /// G3: frames become free while CPUs may still reach them through aliases.
    IgnoreAliases,
    /// G6: the guard is mapped too.
    MapGuard,
    /// G6: a cached slot is reused for any number of pages.
    AnySize,
    /// W1: a cached slot is reused with any protection.
    AnyProt,
    /// W3: an area is cached although frames of it were handed out.
    CacheShared,
    /// W2: cached pages are not counted and never given back.
    ForgetCached,
    /// G2: an area grows over pages that it gave back and that CPUs may still reach.
    GrowStale,
    /// G2: a new protection is not flushed for.
    ProtectUnflushed,
    /// Of the subsystem: a free looks at an object in one section, and takes it back in the next
    /// one without another look.
    LookedAtBefore,
    /// Of the subsystem: an allocation looks for an object in one section, and takes the next one
    /// in another, but returns what it saw first.
    TakenInTwo,
    /// Of the subsystem: a block that waits for a grace period takes the place of those that came
    /// meanwhile.
    HeadStored,
    /// Of the subsystem: the barrier does not wait for blocks that other CPUs are freeing.
    BarrierEarly,
    /// Of the subsystem: entries of the permanent kmap become clean without a flush.
    EntriesUnflushed,
    /// Of the subsystem: a user of an entry of the permanent kmap is counted in another section than
    /// the one that finds the entry.
    UserCountedLate,
    /// Of the subsystem: a flush of the permanent kmap returns at once while another CPU changes
    /// entries.
    FlushWaitsNot,
    /// Of the subsystem: bytes of a chunk of objects by CPU are found in one section and taken in
    /// another.
    BytesTakenInTwo,
    /// Of the subsystem: a chunk of objects by CPU is found empty in one section and given up in
    /// another.
    SurplusInTwo,
    /// Of the subsystem: pages of objects by CPU count as there before they are populated.
    PagesToldEarly,
    /// Of the subsystem: the record of a chunk of objects by CPU is free memory when the chunk is given
    /// up, and a free does not test whether it is still the chunk's.
    RecordFreed,
    /// Of the subsystem: a stack that a CPU keeps is looked at, and then taken without another look.
    KeptTakenUnseen,
    /// Of the subsystem: a scan for leaks reads what it has looked up before, and does not test
    /// whether it is still there.
    ScannedUnchecked,
    /// Of the subsystem: a mapping of a device is not claimed while it is made.
    DeviceUnclaimed,
}

/// The functions that a proof installs.
#[derive(Clone, Copy, Debug)]
pub struct Hooks {
    /// Called before each access of an atomic: another CPU may run here.
    pub step: fn(),
    /// Called when frames become free memory.
    pub pooled: fn(&[Pfn]),
    /// Returns whether the library must break the rule.
    pub breaks: fn(Rule) -> bool,
}

static STEP: real::AtomicPtr<()> = real::AtomicPtr::new(null_mut());
static POOLED: real::AtomicPtr<()> = real::AtomicPtr::new(null_mut());
static BREAKS: real::AtomicPtr<()> = real::AtomicPtr::new(null_mut());

/// Installs `hooks` for all threads.
pub fn install(hooks: Hooks) {
    STEP.store(hooks.step as *mut (), Relaxed);
    POOLED.store(hooks.pooled as *mut (), Relaxed);
    BREAKS.store(hooks.breaks as *mut (), Relaxed);
}

#[inline(always)]
fn step() {
    let at = STEP.load(Relaxed);
    if !at.is_null() {
        // SAFETY: only `install` stores there, and it stores a function of this type.
        (unsafe { transmute::<*mut (), fn()>(at) })()
    }
}

pub(crate) fn pooled(frames: &[Pfn]) {
    let at = POOLED.load(Relaxed);
    if !at.is_null() {
        // SAFETY: as in `step`.
        (unsafe { transmute::<*mut (), fn(&[Pfn])>(at) })(frames)
    }
}

/// Returns whether the rule must be broken.
pub fn breaks(rule: Rule) -> bool {
    let at = BREAKS.load(Relaxed);
    // SAFETY: as in `step`.
    !at.is_null() && (unsafe { transmute::<*mut (), fn(Rule) -> bool>(at) })(rule)
}

/// The atomics of `core`, with a step before each access.
#[allow(missing_docs)]
pub mod atomic {
    use super::{real, step};
    pub use core::sync::atomic::Ordering;

    pub fn fence(order: Ordering) {
        real::fence(order)
    }

    macro_rules! accesses {
        ($name:ident, $t:ty $(, $g:ident)?) => {
            impl$(<$g>)? $name$(<$g>)? {
                pub const fn new(value: $t) -> Self {
                    Self(real::$name::new(value))
                }
                pub fn get_mut(&mut self) -> &mut $t {
                    self.0.get_mut()
                }
                pub fn load(&self, order: Ordering) -> $t {
                    step();
                    self.0.load(order)
                }
                pub fn store(&self, value: $t, order: Ordering) {
                    step();
                    self.0.store(value, order)
                }
                pub fn swap(&self, value: $t, order: Ordering) -> $t {
                    step();
                    self.0.swap(value, order)
                }
                pub fn compare_exchange(
                    &self,
                    current: $t,
                    new: $t,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$t, $t> {
                    step();
                    self.0.compare_exchange(current, new, success, failure)
                }
                pub fn compare_exchange_weak(
                    &self,
                    current: $t,
                    new: $t,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$t, $t> {
                    self.compare_exchange(current, new, success, failure)
                }
                pub fn fetch_update(
                    &self,
                    success: Ordering,
                    failure: Ordering,
                    mut update: impl FnMut($t) -> Option<$t>,
                ) -> Result<$t, $t> {
                    let mut previous = self.load(failure);
                    while let Some(next) = update(previous) {
                        match self.compare_exchange(previous, next, success, failure) {
                            done @ Ok(_) => return done,
                            Err(now) => previous = now,
                        }
                    }
                    Err(previous)
                }
                /// # Safety
                /// As in `core`.
                pub const unsafe fn from_ptr<'a>(at: *mut $t) -> &'a Self {
                    // SAFETY: the wrapper is transparent over the atomic of `core` and has the same
                    // contract.
                    unsafe { &*at.cast() }
                }
            }
        };
    }

    macro_rules! numbers {
        ($($name:ident $t:ty),*) => {$(
            #[repr(transparent)]
            #[derive(Debug, Default)]
            pub struct $name(real::$name);
            accesses!($name, $t);
            numbers!(@ $name $t: fetch_add fetch_sub fetch_or fetch_and fetch_xor fetch_max fetch_min);
        )*};
        (@ $name:ident $t:ty: $($op:ident)*) => {
            impl $name {
                $(pub fn $op(&self, value: $t, order: Ordering) -> $t {
                    step();
                    self.0.$op(value, order)
                })*
            }
        };
    }
    numbers!(AtomicU8 u8, AtomicU16 u16, AtomicU32 u32, AtomicU64 u64, AtomicUsize usize);

    #[repr(transparent)]
    #[derive(Debug, Default)]
    pub struct AtomicBool(real::AtomicBool);
    accesses!(AtomicBool, bool);

    #[repr(transparent)]
    #[derive(Debug)]
    pub struct AtomicPtr<T>(real::AtomicPtr<T>);
    accesses!(AtomicPtr, *mut T, T);

    impl<T> Default for AtomicPtr<T> {
        fn default() -> Self {
            Self::new(core::ptr::null_mut())
        }
    }
}
