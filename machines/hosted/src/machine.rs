//! [`Hosted`]: the process as a machine.

use crate::budget::Vmas;
use crate::builder::BuildError;
use crate::cpu;
use crate::frames::FileFrames;
use crate::mirror::Mirror;
use crate::refusal::{self, Refusal};
use parking_lot::{RawMutex, RwLock};
use std::fmt;
use std::io::{self, Write};
use std::ops::Range;
use std::ptr::{NonNull, with_exposed_provenance_mut};
use std::thread;
use vmalloc::machine::event::Event;
use vmalloc::machine::format::Prot;
use vmalloc::machine::frames::{Frames, Want};
use vmalloc::machine::{Addressable, Context, Flush, Level, Machine, Pinned, Run};
use vmalloc::table::X86_64;
use vmalloc::units::{CpuSet, Node, PAGE_SIZE, PageRange, Pfn, VirtAddr};

/// Prints the function that an address lies in.
pub type Symbolizer = Box<dyn Fn(usize, &mut fmt::Formatter<'_>) -> fmt::Result + Send + Sync>;
/// Takes a line of the log.
pub type LogSink = Box<dyn Fn(Level, fmt::Arguments<'_>) + Send + Sync>;

/// Where frames come from. Where debug assertions are compiled in, they are refused on
/// request.
#[cfg(debug_assertions)]
type Source = vmalloc::machine::faulty::FaultyFrames<FileFrames>;
#[cfg(not(debug_assertions))]
type Source = FileFrames;

/// A Linux process as the machine under an instance.
pub struct Hosted {
    frames: Source,
    root: Pfn,
    cpus: u32,
    ram: usize,
    mirror: Mirror,
    log: RwLock<Option<LogSink>>,
    symbolizer: RwLock<Option<Symbolizer>>,
}

impl Hosted {
    /// The machine whose first `ram` bytes of memory are RAM, the rest a device.
    pub(crate) fn new(mirror: Mirror, ram: usize, cpus: u32) -> Result<Hosted, BuildError> {
        cpu::prepare();
        let frames = FileFrames::new(ram / PAGE_SIZE)?.ok_or(BuildError::NoRecords { of: "frames" })?;
        let root = frames.alloc(Want::bookkeeping(Node(0))).ok_or(BuildError::NoRoom { memory: ram })?;
        Ok(Hosted {
            frames: Source::from(frames),
            root,
            cpus,
            ram,
            mirror,
            log: RwLock::default(),
            symbolizer: RwLock::default(),
        })
    }

    /// The addresses of the regions, in the order in which they were named.
    pub fn regions(&self) -> impl Iterator<Item = Range<usize>> {
        self.mirror.regions()
    }

    /// The simulated device: its physical address and length in bytes.
    pub fn device(&self) -> (u64, usize) {
        (self.ram as u64, self.mirror.memory() - self.ram)
    }

    /// Bytes of RAM.
    pub fn ram(&self) -> usize {
        self.ram
    }

    /// VMAs used, allowed, and the limit.
    pub fn vmas(&self) -> Vmas {
        self.mirror.vmas()
    }

    /// What the number of [`AllocError::Refused`](vmalloc::AllocError::Refused) means, by what the process has now.
    ///
    /// # Cost
    /// It may read the list of the process's mappings.
    pub fn refusal(&self, number: i32) -> Refusal {
        Refusal::new(number, self.vmas(), (self.mirror.memory() / PAGE_SIZE) as u64)
    }

    /// Whether guards cost no VMA: Linux has them for files (6.15).
    pub fn has_guards(&self) -> bool {
        self.mirror.has_guards()
    }

    /// Bytes of memory that Linux holds for this machine: pages that were touched, and not given back since.
    ///
    /// # Errors
    /// Linux does not tell.
    pub fn resident(&self) -> io::Result<usize> {
        self.mirror.resident().map_err(io::Error::from_raw_os_error)
    }

    /// Gives the memory of free frames back to Linux, which takes it again when it is next touched. Returns how
    /// many bytes. A purge, a reclaim and an idle [`Ticker`](crate::Ticker) do it by themselves; frames in
    /// magazines are in use to this call, until [`Vmalloc::reclaim`](vmalloc::Vmalloc::reclaim).
    ///
    /// # Errors
    /// Linux lets nobody punch holes here: what was refused stays as it was, and each later call tries it again. In
    /// the child of a fork: the memory is the parent's.
    ///
    /// # Cost
    /// A system call for each block of adjacent frames, of at most 4 MiB, that were used since they were last
    /// given back.
    pub fn give_back(&self) -> io::Result<usize> {
        if self.is_elsewhere() {
            return Err(io::Error::other("the instance is another process's"));
        }
        // A signal handler in the middle of it must not allocate: the lock that it would wait for is this thread's.
        cpu::enter();
        let given = self.file_frames().give_back(|first, frames| self.mirror.punch(first, frames));
        cpu::leave();
        given.map(|frames| frames * PAGE_SIZE).map_err(io::Error::from_raw_os_error)
    }

    /// What a purge made free goes back to Linux, unless somebody may not wait.
    #[cold]
    fn purged(&self) {
        if cpu::context() == Context::Task && !cpu::is_inside() {
            // A refusal leaves all as it was, and the next purge tries again.
            let _ = self.give_back();
        }
    }

    #[cfg(debug_assertions)]
    fn file_frames(&self) -> &FileFrames {
        self.frames.inner()
    }
    #[cfg(not(debug_assertions))]
    fn file_frames(&self) -> &FileFrames {
        &self.frames
    }

    /// How often Linux refused to take a mapping away. Nothing is reused until
    /// a later flush has taken it away after all.
    pub fn refused_unmaps(&self) -> u64 {
        self.mirror.refusals()
    }

    /// Makes calls to Linux fail, for tests: in a build with debug assertions.
    #[cfg(debug_assertions)]
    pub fn faults(&self) -> &vmalloc::machine::faulty::Faults {
        self.mirror.faults()
    }

    /// Sends the log to `sink`. Without one, damage alone is told, on stderr: a refused call has its error.
    pub fn set_log(&self, sink: LogSink) {
        *self.log.write() = Some(sink);
    }

    /// Lets `symbolizer` print callers in listings, instead of addresses.
    pub fn set_symbolizer(&self, symbolizer: Symbolizer) {
        *self.symbolizer.write() = Some(symbolizer);
    }
}

impl fmt::Debug for Hosted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hosted")
            .field("ram", &self.ram)
            .field("device", &self.device())
            .field("cpus", &self.cpus)
            .field("guards", &self.has_guards())
            .field("vmas", &self.vmas())
            .finish_non_exhaustive()
    }
}

// SAFETY: M1: the regions are reservations of ours, and there is one root.
// M2: `virt` is the direct map, which lives as long as the machine does.
// M3: `cpus` never changes. M4: indices may be busy, and `busy` is answered; a thread counts its pins.
// M5: a thread may wait unless it says that it may not. M6: `flush` ends when
// all that was unmapped is out of the process. M7: `kick` has nobody to call:
// `flush_everywhere` speaks for all threads. M8: no method calls back. M9: a
// mapping is no CPU's own.
unsafe impl Machine for Hosted {
    type Table = X86_64;
    type Frames = Source;
    type Lock = RawMutex;

    const MIRRORED: bool = true;
    const THREADS: bool = true;

    #[inline]
    fn is_elsewhere(&self) -> bool {
        self.mirror.is_elsewhere()
    }
    #[inline]
    fn frames(&self) -> &Self::Frames {
        &self.frames
    }
    fn root(&self) -> Pfn {
        self.root
    }
    #[inline]
    fn virt(&self, f: Pfn) -> NonNull<u8> {
        self.mirror.direct(f)
    }
    #[inline]
    fn cpus(&self) -> u32 {
        self.cpus
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
        cpu::context()
    }
    /// Threads share their translations, so this is [`Machine::flush_everywhere`];
    /// it cannot fail, and so it tries until it is done.
    fn flush(&self, what: Flush<'_>) {
        while !self.flush_everywhere(what) {
            self.relax();
        }
    }
    fn kick(&self, _cpus: &CpuSet) {}
    fn busy(&self, was: Pinned) -> Pinned {
        cpu::next(was, self.cpus)
    }
    /// Whatever is asked for, all that is queued goes: joined, it takes fewer
    /// calls than in parts.
    fn flush_everywhere(&self, _what: Flush<'_>) -> bool {
        self.mirror.drain()
    }
    fn mirror(&self, run: Run) -> Result<(), i32> {
        self.mirror.bind(run)
    }
    fn protect(&self, pages: PageRange, prot: Prot) -> Result<(), i32> {
        self.mirror.protect(pages, prot)
    }
    fn unmapped(&self, pages: PageRange) {
        self.mirror.cleared(pages);
    }
    fn relax(&self) {
        thread::yield_now();
    }
    /// Through the area's own mapping where that may be written: a page that is mapped at two addresses counts
    /// twice in what Linux says of the process.
    fn zero(&self, f: Pfn, at: VirtAddr) {
        let page = if self.mirror.is_writable(at) { with_exposed_provenance_mut(at.0) } else { self.virt(f).as_ptr() };
        // SAFETY: the library holds `f`; the page at `at` is in an area that is being made, and open.
        unsafe { page.write_bytes(0, PAGE_SIZE) }
    }
    fn clock_ns(&self) -> Option<u64> {
        Some(crate::os::monotonic_ns())
    }
    /// Nothing for areas that come and go: only then the compiler leaves it out there.
    #[inline]
    fn note(&self, event: Event) -> Result<(), i32> {
        match event {
            Event::Purge(_) => self.purged(),
            Event::Failure { error, .. } => refusal::remember(error),
            _ => (),
        }
        Ok(())
    }
    fn log(&self, level: Level, line: fmt::Arguments<'_>) {
        // A signal handler may read while the thread does.
        match &*self.log.read_recursive() {
            Some(sink) => match refusal::take().filter(|_| level == Level::Warn) {
                Some(number) => sink(level, format_args!("{line}: {}", self.refusal(number))),
                None => sink(level, line),
            },
            // A failure is an error of the call's own; damage is nobody's.
            // A stderr that cannot be written is no reason to panic in the middle of a call.
            None if level == Level::Error => _ = writeln!(io::stderr(), "vmalloc: {line}"),
            None => {}
        }
    }
    fn symbol(&self, pc: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.symbolizer.read_recursive() {
            Some(print) => print(pc, f),
            None => write!(f, "{pc:#x}"),
        }
    }
}

// SAFETY: a binding is mirrored before its area is published, and taken away
// after it was freed.
unsafe impl Addressable for Hosted {}
