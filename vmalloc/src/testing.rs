//! The test machine: pages of the host, and CPUs without interrupts. The tests of single structures
//! run on it, and so do the benches, which include this file.
//!
//! [`Host`] is the machine. Its [`Source`] provides the frames and their memory: [`HostPages`]
//! takes single pages from the host, [`Ram`] has zones over a range. No MMU reads the entries.
//! [`NoTables`] is a format without tables.

extern crate std;

use crate::frames::{MemoryRange, STORAGE_ALIGN, Zones};
use crate::machine::faulty::{Faults, FaultyFrames};
use crate::machine::format::{Entry, Format, MemType, Prot};
use crate::machine::frames::{Frames, Want};
use crate::machine::prealloc::Prealloc;
use crate::machine::{Context, Flush, Level, Machine, Pinned, Run};
use crate::units::{CpuSet, Node, PAGE_SIZE, PageRange, Pfn, VirtAddr};
use core::fmt;
use core::marker::PhantomData;
use core::ptr::{NonNull, with_exposed_provenance_mut};
use std::alloc::{Layout, alloc, dealloc};
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

/// A lock that spins.
pub type TestLock = spin::Mutex<()>;
/// A machine of counted host pages, without tables.
pub type PageMachine = Host<NoTables, HostPages>;
/// A machine of zones with memory that refuse on request, without tables.
pub type ZoneMachine = Host<NoTables, TestZones>;
/// Zones that refuse on request.
pub type TestZones = Ram<FaultyFrames<Zones<TestLock>>>;

/// The frames of a machine and their memory.
///
/// # Safety
/// M2 for the result of `bytes`.
pub unsafe trait Source<F>: Sync + Sized {
    /// The type of the allocator.
    type Frames: Frames;
    /// Whether a request to clear a page does so.
    const CLEARS: bool = true;
    /// [`Machine::ALIASES`]. A machine without aliases is told of mappings ([`Machine::MIRRORED`]).
    const ALIASES: bool = true;

    /// The allocator.
    fn frames(&self) -> &Self::Frames;
    /// The address of the frame's bytes.
    fn bytes(machine: &Host<F, Self>, frame: Pfn) -> NonNull<u8>;
    /// Called by `pin`. Returns the value that `unpin` gets.
    #[inline]
    fn pin(&self) -> usize {
        0
    }
    /// Called by `unpin`.
    #[inline]
    fn unpin(&self, _saved: usize) {}
    /// Writes a line to the log.
    fn log(&self, _level: Level, _line: fmt::Arguments<'_>) {}
    /// [`Machine::page_limit`].
    fn page_limit(&self) -> usize {
        self.frames().total()
    }
    /// [`Machine::mirror`].
    fn mirror(&self, _run: Run) -> Result<(), i32> {
        Ok(())
    }
    /// [`Machine::unmapped`].
    fn unmapped(&self, _pages: PageRange) {}
    /// [`Machine::flush_everywhere`].
    fn flush_everywhere(&self) -> bool {
        false
    }
    /// Clears the page at `at` where its frame has no other address.
    fn zero(&self, _at: VirtAddr) {}
}

/// The machine.
pub struct Host<F, S> {
    pub frames: S,
    pub levels: u8,
    pub root: Pfn,
    pub cpus: u32,
    pub format: PhantomData<fn() -> F>,
}

impl<F: Format, S: Source<F>> Host<F, S> {
    /// A machine with one CPU. If there are tables, the root is frame 0.
    pub fn over(frames: S) -> Host<F, S> {
        Host { frames, levels: F::LEVELS, root: Pfn(0), cpus: 1, format: PhantomData }
    }

    /// A machine with one CPU and an empty root, for a whole instance.
    #[allow(dead_code, reason = "the benches call it")]
    pub fn rooted(frames: S) -> Host<F, S> {
        let root = frames.frames().alloc(Want::bookkeeping(Node(0))).expect("the host has pages");
        let machine = Host { root, ..Host::over(frames) };
        // SAFETY: M2: the root belongs to this machine.
        unsafe { machine.virt(root).as_ptr().write_bytes(0, PAGE_SIZE) };
        machine
    }

    /// A prealloc of `n` frames.
    pub fn prealloc(&self, n: usize) -> Prealloc {
        let mut prealloc = Prealloc::new();
        prealloc.fill(self, Node(0), n).expect("frames enough for a test");
        prealloc
    }
}

// SAFETY: M1: nobody else maps. M2: the source's. M3, M4, M7, M9: one thread at a time is a CPU.
// M5: it may wait. M6: nothing is cached. M8: no method calls back.
unsafe impl<F: Format, S: Source<F>> Machine for Host<F, S> {
    type Table = F;
    type Frames = S::Frames;
    type Lock = TestLock;

    const ALIASES: bool = S::ALIASES;
    const MIRRORED: bool = !S::ALIASES;

    #[inline]
    fn frames(&self) -> &S::Frames {
        self.frames.frames()
    }
    fn root(&self) -> Pfn {
        self.root
    }
    #[inline]
    fn virt(&self, f: Pfn) -> NonNull<u8> {
        S::bytes(self, f)
    }
    fn cpus(&self) -> u32 {
        self.cpus
    }
    #[inline]
    fn pin(&self) -> Pinned {
        Pinned { cpu: 0, saved: self.frames.pin() }
    }
    #[inline]
    unsafe fn unpin(&self, was: Pinned) {
        self.frames.unpin(was.saved)
    }
    fn context(&self) -> Context {
        Context::Task
    }
    fn flush(&self, _what: Flush<'_>) {}
    fn kick(&self, _cpus: &CpuSet) {}
    fn levels(&self) -> u8 {
        self.levels
    }
    fn page_limit(&self) -> usize {
        self.frames.page_limit()
    }
    fn mirror(&self, run: Run) -> Result<(), i32> {
        self.frames.mirror(run)
    }
    fn unmapped(&self, pages: PageRange) {
        self.frames.unmapped(pages)
    }
    fn flush_everywhere(&self, _what: Flush<'_>) -> bool {
        self.frames.flush_everywhere()
    }
    fn zero(&self, f: Pfn, at: VirtAddr) {
        if !S::ALIASES {
            self.frames.zero(at)
        } else if S::CLEARS {
            // SAFETY: the library holds `f`, so M2 makes the page writable.
            unsafe { self.virt(f).as_ptr().write_bytes(0, PAGE_SIZE) }
        }
    }
    fn log(&self, level: Level, line: fmt::Arguments<'_>) {
        self.frames.log(level, line)
    }
}

const PAGE: Layout = match Layout::from_size_align(PAGE_SIZE, PAGE_SIZE) {
    Ok(layout) => layout,
    Err(_) => panic!("a page is aligned to its size"),
};

/// Single pages of the host, counted. A frame's number is its address.
pub struct HostPages {
    pub out: spin::Mutex<usize>,
    /// The byte that fills a page before anybody clears it.
    pub dirt: Option<u8>,
}

impl Default for HostPages {
    fn default() -> HostPages {
        HostPages { out: spin::Mutex::new(0), dirt: Some(0xa5) }
    }
}

impl HostPages {
    /// The number of allocated frames.
    pub fn out(&self) -> usize {
        *self.out.lock()
    }
}

// SAFETY: F1, F2, F4: the host's allocator returns aligned pages, each once. F3: it takes no lock
// of the library. F5, F6: there are no descriptors and no zones.
unsafe impl Frames for HostPages {
    fn total(&self) -> usize {
        1 << 22
    }
    fn free_now(&self) -> usize {
        self.total()
    }
    fn is_ram(&self, _: Pfn) -> bool {
        false
    }
    fn alloc(&self, want: Want) -> Option<Pfn> {
        assert_eq!(want.order, 0, "bookkeeping frames are single");
        // SAFETY: the size of a page is not 0.
        let page = NonNull::new(unsafe { alloc(PAGE) })?;
        if let Some(dirt) = self.dirt {
            // SAFETY: the page has just been allocated.
            unsafe { page.as_ptr().write_bytes(dirt, PAGE_SIZE) };
        }
        *self.out.lock() += 1;
        Some(Pfn::containing(page.as_ptr().expose_provenance() as u64))
    }
    unsafe fn free(&self, first: Pfn, _order: u8) {
        *self.out.lock() -= 1;
        // SAFETY: the caller's frame came from `alloc`.
        unsafe { dealloc(with_exposed_provenance_mut(first.phys() as usize), PAGE) }
    }
}

// SAFETY: M2: frames are host pages until they are freed.
unsafe impl<F> Source<F> for HostPages {
    type Frames = HostPages;
    #[inline]
    fn frames(&self) -> &HostPages {
        self
    }
    #[inline]
    fn bytes(_: &Host<F, HostPages>, frame: Pfn) -> NonNull<u8> {
        host_page(frame)
    }
}

#[inline]
fn host_page(frame: Pfn) -> NonNull<u8> {
    debug_assert!(frame.0 != 0, "frame 0 is nobody's");
    // SAFETY: no page of the host lies at 0.
    unsafe { NonNull::new_unchecked(with_exposed_provenance_mut(frame.phys() as usize)) }
}

/// A machine without aliases: host pages for its bookkeeping, and pages that are their own frames,
/// which lose what was stored in them when a flush takes them away.
pub struct Window {
    pub bookkeeping: HostPages,
    /// The pages that can be reached, by address, and whether anything was stored in them.
    pub reached: spin::Mutex<BTreeMap<VirtAddr, bool>>,
    /// Those that the next flush takes away.
    pub going: spin::Mutex<Vec<PageRange>>,
    pub limit: usize,
    /// Refuses mappings.
    pub faults: Faults,
}

impl Window {
    pub fn new(limit: usize) -> Window {
        Window {
            bookkeeping: HostPages::default(),
            reached: Default::default(),
            going: Default::default(),
            limit,
            faults: Faults::new(),
        }
    }

    /// Stores into the page at `at`. Returns whether it was clear.
    pub fn store(&self, at: VirtAddr) -> bool {
        !self.reached.lock().insert(at, true).expect("a page that can be reached")
    }
}

// SAFETY: M2: `virt` is for bookkeeping, in host pages.
unsafe impl<F> Source<F> for Window {
    type Frames = HostPages;
    const ALIASES: bool = false;
    fn frames(&self) -> &HostPages {
        &self.bookkeeping
    }
    fn bytes(_: &Host<F, Window>, frame: Pfn) -> NonNull<u8> {
        host_page(frame)
    }
    fn page_limit(&self) -> usize {
        self.limit
    }
    fn mirror(&self, run: Run) -> Result<(), i32> {
        assert_eq!(run.first, Pfn::containing(run.pages.start.0 as u64), "a page is its own frame");
        if self.faults.strike() {
            return Err(12);
        }
        for page in run.pages.slices(1) {
            assert_eq!(self.reached.lock().insert(page.start, false), None, "{page:?} is mapped twice");
        }
        Ok(())
    }
    fn unmapped(&self, pages: PageRange) {
        self.going.lock().push(pages)
    }
    fn flush_everywhere(&self) -> bool {
        for page in self.going.lock().drain(..).flat_map(|pages| pages.slices(1)) {
            self.reached.lock().remove(&page.start);
        }
        true
    }
    fn zero(&self, at: VirtAddr) {
        *self.reached.lock().get_mut(&at).expect("a page that can be reached") = false
    }
}

impl Default for PageMachine {
    fn default() -> PageMachine {
        Host::over(HostPages::default())
    }
}

impl PageMachine {
    /// Frees a frame that came out of a prealloc.
    pub fn take_back(&self, frame: Pfn) {
        // SAFETY: a prealloc gets its frames from `alloc`, and the test gives the frame up.
        unsafe { self.frames.free(frame, 0) }
    }
}

#[repr(align(4096))]
struct Page(#[allow(dead_code, reason = "it is reached by its address")] [u8; PAGE_SIZE]);

/// Zones, their storage, and the memory of their frames if there is any.
pub struct Ram<Z> {
    pub zones: Z,
    _storage: Vec<u128>,
    /// The memory of the frames. The vector is never filled, so that the host allocates pages only
    /// when they are used.
    pages: Vec<Page>,
    /// The address at which frame 0 would be.
    zero: usize,
}

impl<Z: Frames + From<Zones<TestLock>>> Ram<Z> {
    /// Zones whose frames are only numbers.
    pub fn new(map: &[MemoryRange], highmem_from: Option<Pfn>) -> Ram<Z> {
        let mut storage = vec![u128::MAX; Zones::<TestLock>::storage_for(map).div_ceil(16)];
        let zones = Zones::new();
        let at = NonNull::from(storage.as_mut_slice()).cast();
        const { assert!(STORAGE_ALIGN <= align_of::<u128>()) };
        // SAFETY: the vector is long enough, is aligned and stays (Z1). Nobody uses the frames
        // (Z2), and there is one caller (Z3).
        unsafe { zones.init(map, highmem_from, at) }.expect("a map that is sound");
        Ram { zones: zones.into(), _storage: storage, pages: Vec::new(), zero: 0 }
    }

    /// Zones whose frames have memory.
    pub fn with_memory(map: &[MemoryRange]) -> Ram<Z> {
        let base = map.iter().map(|range| range.first).min().expect("a range");
        let end = map.iter().map(|range| range.first.0 + range.frames as u64).max().expect("a range");
        let mut pages = Vec::<Page>::with_capacity((end - base.0) as usize);
        let zero = pages.as_mut_ptr().expose_provenance().wrapping_sub(base.phys() as usize);
        Ram { pages, zero, ..Ram::new(map, None) }
    }
}

impl<Z> Ram<Z> {
    /// The address of the bytes of a frame that has memory.
    #[inline]
    pub fn at(&self, frame: Pfn) -> NonNull<u8> {
        debug_assert!(self.pages.capacity() > 0, "these frames are mere numbers");
        // SAFETY: the frame lies in the map, so its page lies in `pages`.
        unsafe { NonNull::new_unchecked(with_exposed_provenance_mut(self.zero.wrapping_add(frame.phys() as usize))) }
    }
}

impl TestZones {
    pub fn inner(&self) -> &Zones<TestLock> {
        self.zones.inner()
    }
}

// SAFETY: M2: each frame of the map has a page.
unsafe impl<F> Source<F> for TestZones {
    type Frames = FaultyFrames<Zones<TestLock>>;
    fn frames(&self) -> &Self::Frames {
        &self.zones
    }
    fn bytes(machine: &Host<F, TestZones>, frame: Pfn) -> NonNull<u8> {
        machine.frames.at(frame)
    }
}

impl ZoneMachine {
    /// A machine with `cpus` CPUs and dirty memory.
    pub fn new(map: &[MemoryRange], cpus: u32) -> ZoneMachine {
        let frames = TestZones::with_memory(map);
        for frame in map.iter().flat_map(|range| (0..range.frames as u64).map(|n| range.first.offset(n))) {
            // SAFETY: the frame lies in the map, and nobody uses it yet.
            unsafe { frames.at(frame).as_ptr().write_bytes(0xff, PAGE_SIZE) }
        }
        Host { cpus, ..Host::over(frames) }
    }
}

/// A range of frames for a map.
pub const fn ram(first: u64, frames: usize, node: u8) -> MemoryRange {
    MemoryRange { first: Pfn(first), frames, node: Node(node) }
}

/// The format of a machine without page tables. Its entries only name frames, for the links of a
/// [`Prealloc`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoTables;

// SAFETY: T0: no MMU reads it, and nothing in it is present.
unsafe impl Format for NoTables {
    type Word = u64;
    const NAME: &'static str = "none";
    const LEVELS: u8 = 1;
    const MAX_LEVELS: u8 = 1;
    const LEAF_LEVELS: u8 = 1;
    const INDEX_BITS: u32 = 0;
    const MAX_PFN: u64 = u64::MAX >> 1;
    const ABSENT: u64 = 0;
    const HIDES: bool = false;

    fn leaf(frame: Pfn, _prot: Prot, _memory: MemType, _level: u8) -> u64 {
        Self::leaf_like(1, frame)
    }
    fn leaf_like(form: u64, frame: Pfn) -> u64 {
        frame.0 << 1 | form
    }
    fn table(_frame: Pfn, _level: u8) -> u64 {
        unreachable!("no tables here")
    }
    fn decode(word: u64, _level: u8) -> Entry {
        if word == 0 { Entry::Absent } else { Entry::Parked(Pfn(word >> 1)) }
    }
    fn park(word: u64) -> u64 {
        word
    }
}
