//! The stage: what a replay needs of a machine beyond the library.
//!
//! The engine makes and frees areas through the library alone. What differs
//! between machines is how a program reaches memory, and what an interrupt is;
//! that is here.

use crate::pattern::Page;
use crate::script::Area;
use core::fmt::Display;
use core::ops::Range;
use vmalloc::Vmalloc;
use vmalloc::machine::Machine;
use vmalloc::machine::frames::Frames;
use vmalloc::units::Pfn;

/// A machine with an instance on it, ready for programs.
pub trait Stage: Sync {
    /// The machine.
    type Machine: Machine;
    /// Why a load or a store failed.
    type Fault: Display + Send;

    /// After so many steps of a worker its CPU ticks; 0: the machine has ticks
    /// of its own.
    const TICK: u64 = 64;

    /// The instance.
    fn vm(&self) -> &Vmalloc<Self::Machine>;

    /// Runs `act` as an interrupt handler of the CPU that this is.
    fn in_interrupt<R: Send>(&self, act: impl FnOnce() -> R + Send) -> R;

    /// Stores a page at the page-aligned address `at` of a live area.
    ///
    /// # Errors
    /// What the machine says, where the store faults.
    fn store(&self, at: usize, page: &Page) -> Result<(), Self::Fault>;

    /// Loads a page.
    ///
    /// # Errors
    /// As for [`Stage::store`].
    fn load(&self, at: usize, page: &mut Page) -> Result<(), Self::Fault>;

    /// Stores into a frame that is ours, past all mappings.
    fn store_frame(&self, frame: Pfn, page: &Page);

    /// Loads from a frame that is ours, past all mappings.
    fn load_frame(&self, frame: Pfn, page: &mut Page);

    /// Physical addresses of a device that nobody else uses.
    fn device(&self) -> Range<u64>;

    /// The first address of a region.
    fn region_start(&self, region: u32) -> usize;

    /// Some clock: latencies are differences of it.
    fn now(&self) -> u64;

    /// Another worker is waited for, and has been looked for so often.
    fn wait(&self, looks: u32);

    /// A step is done, and a little time passes for the CPU that this is.
    fn stepped(&self);

    /// Whether somebody wants no more of it: workers stop then, as after a failure.
    fn is_ended(&self) -> bool {
        false
    }

    /// The workload enters a phase.
    fn phase(&self, number: u32);

    /// Something happens in a step of the script's CPU `cpu`. A stage that records the run
    /// keeps it; others need not know.
    fn told(&self, _cpu: u32, _told: Told<'_>) {}
}

/// What happens in a run, told in an order in which it can happen again: an area is made
/// before anybody can free it, and freed before its addresses can serve another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told<'a> {
    /// This area was made, and begins at this address.
    Made(&'a Area, usize),
    /// This area, which begins at this address, is about to be freed.
    Freed(&'a Area, usize),
    /// As [`Told::Freed`], in an interrupt.
    Deferred(&'a Area, usize),
    /// All CPUs are about to be purged.
    Purge,
    /// An area was refused.
    Refused,
    /// The workload enters the phase of this number.
    Phase(u32),
    /// The script is over; what is left is freed now.
    End,
}

/// Frames that are out of the frame allocator, though nothing lives and
/// nothing of the library's statistics accounts for them; the root table is
/// no such frame.
pub fn unexplained_frames<M: Machine>(vm: &Vmalloc<M>) -> usize {
    let (stats, frames) = (vm.stats(), vm.machine().frames());
    let out = frames.total() - frames.free_now();
    let root = 1;
    let held = stats.pooled_frames + stats.reserve_frames + stats.cached_pages;
    let known = held + stats.table_frames + stats.bookkeeping_frames + root;
    out.saturating_sub(known)
}
