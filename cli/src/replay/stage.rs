//! The stage: what a replay needs of a machine beyond the library.
//!
//! The engine makes and frees areas through the library alone. What differs
//! between machines is how a program reaches memory, who runs where, and what
//! an interrupt is; that is here.

use super::pattern::Page;
use std::ops::Range;
use vmalloc::Vmalloc;
use vmalloc::machine::Machine;
use vmalloc::units::Pfn;

/// A machine with an instance on it, ready for programs.
pub trait Stage: Sync {
    /// The machine.
    type Machine: Machine;

    /// Whether each CPU can have a thread of its own.
    const THREADS: bool;

    /// The instance.
    fn vm(&self) -> &Vmalloc<Self::Machine>;

    /// Runs `act` on `cpu`.
    fn on<R>(&self, cpu: u32, act: impl FnOnce() -> R) -> R;

    /// Runs `act` as an interrupt handler of the CPU that this is.
    fn in_interrupt<R>(&self, act: impl FnOnce() -> R) -> R;

    /// Stores a page at the page-aligned address `at` of a live area.
    ///
    /// # Errors
    /// What the machine says, where the store faults.
    fn store(&self, at: usize, page: &Page) -> Result<(), String>;

    /// Loads a page.
    ///
    /// # Errors
    /// As for [`Stage::store`].
    fn load(&self, at: usize, page: &mut Page) -> Result<(), String>;

    /// Stores into a frame that is ours, past all mappings.
    fn store_frame(&self, frame: Pfn, page: &Page);

    /// Loads from a frame that is ours, past all mappings.
    fn load_frame(&self, frame: Pfn, page: &mut Page);

    /// Physical addresses of a device that nobody else uses.
    fn device(&self) -> Range<u64>;

    /// The first address of a region.
    fn region_start(&self, region: u32) -> usize;

    /// A little time passes for the CPU that this is.
    fn pass_time(&self);

    /// Mappings of the process, where there is one.
    fn vmas(&self) -> Option<Vmas> {
        None
    }

    /// Ends the instance, and says what is left of it.
    fn close(self) -> Remains;
}

/// Mappings of the process that the machine uses and may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vmas {
    pub used: usize,
    pub allowed: usize,
}

/// What an instance left behind when it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Remains {
    /// Frames that were not given back: of areas, of tables, of bookkeeping.
    pub frames: usize,
    /// Mappings of the process that are still there.
    pub vmas: usize,
}
