//! [`Window`]: the process as a machine whose pages are their own frames.

use crate::budget::{Mappings, Refusal};
use crate::builder::bookkeeping;
use crate::cpu;
use crate::lock::{Held, RawLock};
use crate::os;
use crate::source::{self, Source};
use crate::space::Space;
use core::fmt::{self, Write};
use core::ops::Range;
use core::ptr::{NonNull, with_exposed_provenance_mut};
use vmalloc::machine::format::Prot;
use vmalloc::machine::frames::{Frames, Want};
use vmalloc::machine::{Addressable, Context, Flush, Level, Machine, Pinned, Run};
use vmalloc::table::X86_64;
use vmalloc::units::{CpuSet, Node, PAGE_SIZE, PageRange, Pfn, VirtAddr};

/// Takes a line of the log. It must not allocate if the machine serves an allocator.
pub type LogSink = fn(Level, fmt::Arguments<'_>);

/// A Linux process as the machine under an instance.
pub struct Window {
    source: Source,
    space: Space,
    root: Pfn,
    cpus: u32,
    pages: usize,
    log: LogSink,
}

/// What the machine holds beside the window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Usage {
    /// Bytes of the window below the boundary: addresses that were used once.
    pub open: usize,
    /// Frames of bookkeeping that were ever used.
    pub frames: usize,
    /// Those of them that are free.
    pub free_frames: usize,
}

impl Window {
    /// The machine; `None` where there is no frame for the root table.
    pub(crate) fn new(source: Source, space: Space, cpus: u32, pages: usize, log: LogSink) -> Option<Window> {
        let root = source.alloc(Want::bookkeeping(Node(0)))?;
        Some(Window { source, space, root, cpus, pages, log })
    }

    /// The window's addresses.
    pub fn region(&self) -> Range<usize> {
        self.space.range().addresses()
    }

    /// The mappings that this machine has, may have, and the limit.
    pub fn mappings(&self) -> Mappings {
        self.space.budget().mappings()
    }

    /// What Linux, or the budget of mappings, refused last, and how often either did. Pages that could
    /// not be taken away are not reused until a later flush has taken them away after all. A signal handler in
    /// the middle of a call that is being refused is told how often alone.
    pub fn refusals(&self) -> (Option<Refusal>, u64) {
        cpu::pinned(|is_nested| self.space.budget().last(!is_nested))
    }

    /// Whether pages are closed by guards, which cost no mapping: Linux has them (6.13).
    pub fn has_guards(&self) -> bool {
        self.space.has_guards()
    }

    /// What the machine holds.
    pub fn usage(&self) -> Usage {
        let (frames, free_frames) = self.source.used();
        Usage { open: self.space.open(), frames, free_frames }
    }

    /// Gives up the addresses of the window behind `bytes`, but for those that were ever open: for a process
    /// that may have fewer from now on. Areas that need others are refused; a reservation of them
    /// (`Req::within`) keeps the instance from trying. Returns the addresses that are not the window's any
    /// more: they are mapped until the caller unmaps them. In a signal handler in the middle of a call there are
    /// none.
    pub fn cut(&self, bytes: usize) -> Range<usize> {
        cpu::pinned(|is_nested| if is_nested { self.region().end..self.region().end } else { self.cut_alone(bytes) })
    }

    fn cut_alone(&self, bytes: usize) -> Range<usize> {
        let behind = self.space.cut(bytes);
        let frames = self.source.cut(bookkeeping(self.region().len()));
        let start = with_exposed_provenance_mut(frames.start.0);
        // SAFETY: O1: they were ours, and nobody has used them.
        NonNull::new(start).into_iter().for_each(|start| unsafe { os::release(start, frames.bytes()) });
        behind.addresses()
    }

    /// Makes calls to Linux fail, for tests: in a build with debug assertions.
    #[cfg(debug_assertions)]
    pub fn faults(&self) -> &vmalloc::machine::faulty::Faults {
        self.space.faults()
    }

    /// Calls `f` with each lock of the machine, in the order in which they may be taken.
    pub(crate) fn each_lock(&self, f: &mut dyn FnMut(&dyn Held)) {
        self.space.each_lock(f);
        self.source.each_lock(f);
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window")
            .field("region", &self.space.range())
            .field("cpus", &self.cpus)
            .field("guards", &self.has_guards())
            .field("mappings", &self.mappings())
            .field("usage", &self.usage())
            .finish_non_exhaustive()
    }
}

// SAFETY: M1: the region is a reservation of ours, and there is one root.
// M2: `virt` is the page of a bookkeeping frame, open for as long as the machine lives.
// M3: `cpus` never changes. M4: indices may be busy, and `busy` is answered; a thread counts its pins.
// M5: a thread may wait. M6: `flush` ends when all that was unmapped cannot be reached. M7: `kick` has
// nobody to call: `flush_everywhere` speaks for all threads. M8: no method calls back. M9: a mapping is
// no CPU's own.
unsafe impl Machine for Window {
    type Table = X86_64;
    type Frames = Source;
    type Lock = RawLock;

    const MIRRORED: bool = true;
    const THREADS: bool = true;
    const ALIASES: bool = false;

    #[inline]
    fn frames(&self) -> &Source {
        &self.source
    }
    fn root(&self) -> Pfn {
        self.root
    }
    #[inline]
    fn virt(&self, f: Pfn) -> NonNull<u8> {
        source::bytes_of(f)
    }
    #[inline]
    fn cpus(&self) -> u32 {
        self.cpus
    }
    fn page_limit(&self) -> usize {
        self.pages
    }
    #[inline]
    fn pin(&self) -> Pinned {
        cpu::enter();
        cpu::first(self.cpus)
    }
    #[inline]
    unsafe fn unpin(&self, _was: Pinned) {
        cpu::leave();
    }
    #[inline]
    fn is_nested(&self) -> bool {
        cpu::is_nested()
    }
    fn context(&self) -> Context {
        Context::Task
    }
    /// Threads share their translations, so this is [`Machine::flush_everywhere`]; it cannot fail, and
    /// so it tries until it is done.
    fn flush(&self, what: Flush<'_>) {
        while !self.flush_everywhere(what) {
            self.relax();
        }
    }
    fn kick(&self, _cpus: &CpuSet) {}
    fn busy(&self, was: Pinned) -> Pinned {
        cpu::next(was, self.cpus)
    }
    /// Whatever is asked for, all that is queued goes: joined, it takes fewer calls than in parts.
    fn flush_everywhere(&self, _what: Flush<'_>) -> bool {
        self.space.drain()
    }
    #[inline]
    fn mirror(&self, run: Run) -> Result<(), i32> {
        self.space.bind(run)
    }
    fn protect(&self, pages: PageRange, prot: Prot) -> Result<(), i32> {
        self.space.protect(pages, prot)
    }
    #[inline]
    fn unmapped(&self, pages: PageRange) {
        self.space.unbind(pages);
    }
    fn relax(&self) {
        cpu::yield_now();
    }
    /// A page is its own frame, so it is cleared where it is.
    fn zero(&self, _f: Pfn, at: VirtAddr) {
        // SAFETY: the library clears pages of an area that it is making, which are bound.
        unsafe { with_exposed_provenance_mut::<u8>(at.0).write_bytes(0, PAGE_SIZE) }
    }
    fn clock_ns(&self) -> Option<u64> {
        Some(os::monotonic_ns())
    }
    fn log(&self, level: Level, line: fmt::Arguments<'_>) {
        (self.log)(level, line)
    }
}

// SAFETY: a run is bound before its area is published, and unbound after it was freed.
unsafe impl Addressable for Window {}

/// A line of the log, without a heap.
struct Line {
    bytes: [u8; 512],
    len: usize,
}

impl Write for Line {
    /// What does not fit is left out.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let len = text.len().min(self.bytes.len() - 1 - self.len);
        self.bytes[self.len..self.len + len].copy_from_slice(&text.as_bytes()[..len]);
        self.len += len;
        Ok(())
    }
}

/// The log where nobody chose another: stderr, in one write.
pub(crate) fn to_stderr(_level: Level, line: fmt::Arguments<'_>) {
    let mut text = Line { bytes: [0; 512], len: 0 };
    // It never fails.
    let _ = write!(text, "vmalloc: {line}");
    text.bytes[text.len] = b'\n';
    os::complain(&text.bytes[..=text.len]);
}
