//! A machine whose events somebody hears.
//!
//! An embedder's own machine hands the library's events on in its
//! [`note`](Machine::note). One that is somebody else's is wrapped: for leak detectors, tracepoints and quotas.

use core::fmt;
use core::ptr::NonNull;
use vmalloc::error::Shortage;
use vmalloc::gfp::Gfp;
use vmalloc::machine::event::Event;
use vmalloc::machine::format::Prot;
use vmalloc::machine::{Addressable, Context, Flush, Level, Machine, Pinned, Run};
use vmalloc::units::{CpuSet, Node, PageRange, Pfn, VirtAddr};

/// The machine `M`, of whose events `E` hears. It may refuse an [`Event::Publish`] by an error number, and an
/// [`Event::Resize`] to more pages; the machine, which has agreed by then, is told that the area ended, or that it
/// has as many pages as before. It is called
/// by any context, with interrupts off perhaps, and calls nothing of the instance.
#[derive(Debug)]
pub struct WithEvents<M, E> {
    machine: M,
    hears: E,
}

impl<M: Machine, E: Fn(&M, Event) -> Result<(), i32> + Sync> WithEvents<M, E> {
    /// `machine`, of whose events `hears` hears after itself.
    pub const fn new(machine: M, hears: E) -> WithEvents<M, E> {
        WithEvents { machine, hears }
    }

    /// The machine inside.
    pub const fn inner(&self) -> &M {
        &self.machine
    }

    /// The machine has agreed to what `hears` refused: it is told of the end.
    #[cold]
    fn take_back(&self, event: Event) {
        let _ = match event {
            Event::Publish { start, pages, caller, .. } => {
                self.machine.note(Event::Claim { start, pages, freer: caller })
            }
            Event::Resize { start, from, to } => self.machine.note(Event::Resize { start, from: to, to: from }),
            _ => Ok(()),
        };
    }
}

// SAFETY: M1 to M9 are those of the machine inside, to which everything is handed on; M8: what
// hears of events calls nothing of the instance.
unsafe impl<M: Machine, E: Fn(&M, Event) -> Result<(), i32> + Sync> Machine for WithEvents<M, E> {
    type Table = M::Table;
    type Frames = M::Frames;
    type Lock = M::Lock;

    const MIRRORED: bool = M::MIRRORED;
    const THREADS: bool = M::THREADS;
    const ALIASES: bool = M::ALIASES;

    #[inline]
    fn is_elsewhere(&self) -> bool {
        self.machine.is_elsewhere()
    }
    #[inline]
    fn frames(&self) -> &M::Frames {
        self.machine.frames()
    }
    fn root(&self) -> Pfn {
        self.machine.root()
    }
    #[inline]
    fn virt(&self, f: Pfn) -> NonNull<u8> {
        self.machine.virt(f)
    }
    #[inline]
    fn cpus(&self) -> u32 {
        self.machine.cpus()
    }
    #[inline]
    fn pin(&self) -> Pinned {
        self.machine.pin()
    }
    #[inline]
    unsafe fn unpin(&self, was: Pinned) {
        // SAFETY: the caller's promise; `pin` and `busy` are the machine's.
        unsafe { self.machine.unpin(was) }
    }
    fn context(&self) -> Context {
        self.machine.context()
    }
    fn flush(&self, what: Flush<'_>) {
        self.machine.flush(what)
    }
    fn kick(&self, cpus: &CpuSet) {
        self.machine.kick(cpus)
    }
    fn levels(&self) -> u8 {
        self.machine.levels()
    }
    fn page_limit(&self) -> usize {
        self.machine.page_limit()
    }
    #[inline]
    fn is_nested(&self) -> bool {
        self.machine.is_nested()
    }
    fn busy(&self, was: Pinned) -> Pinned {
        self.machine.busy(was)
    }
    fn flush_everywhere(&self, what: Flush<'_>) -> bool {
        self.machine.flush_everywhere(what)
    }
    fn mirror(&self, run: Run) -> Result<(), i32> {
        self.machine.mirror(run)
    }
    fn protect(&self, pages: PageRange, prot: Prot) -> Result<(), i32> {
        self.machine.protect(pages, prot)
    }
    fn unmapped(&self, pages: PageRange) {
        self.machine.unmapped(pages)
    }
    fn sync(&self, pages: PageRange) {
        self.machine.sync(pages)
    }
    fn relax(&self) {
        self.machine.relax()
    }
    fn node_of(&self, cpu: u32) -> Node {
        self.machine.node_of(cpu)
    }
    fn zero(&self, f: Pfn, at: VirtAddr) {
        self.machine.zero(f, at)
    }
    fn exhausted(&self, short: Shortage, context: Context, gfp: Gfp) -> bool {
        self.machine.exhausted(short, context, gfp)
    }
    fn clock_ns(&self) -> Option<u64> {
        self.machine.clock_ns()
    }
    #[inline]
    fn note(&self, event: Event) -> Result<(), i32> {
        self.machine.note(event)?;
        (self.hears)(&self.machine, event).inspect_err(|_| self.take_back(event))
    }
    fn log(&self, level: Level, line: fmt::Arguments<'_>) {
        self.machine.log(level, line)
    }
    fn symbol(&self, pc: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.machine.symbol(pc, f)
    }
}

// SAFETY: the areas are the machine's inside.
unsafe impl<M: Addressable, E: Fn(&M, Event) -> Result<(), i32> + Sync> Addressable for WithEvents<M, E> {}
