//! The machine for the tests of page tables: boxed frames, and MMUs that walk them as the manual
//! says.

extern crate std;

mod pae;

use super::{PteRange, Table, Walker, X86_32, X86_64, address_of, cut, pages_of, table_bits};
use crate::machine::format::{Entry, Format, MemType};
use crate::machine::frames::{Frames, Want};
use crate::machine::{Level, Machine};
use crate::sync::plain::{AtomicU32, AtomicU64, Ordering::SeqCst};
use crate::testing::{Host, Source};
use crate::units::{PAGE_SIZE, PageRange, Pfn, VirtAddr};
use core::cell::UnsafeCell;
use core::ops::Range;
use core::ptr::NonNull;
use std::boxed::Box;
use std::collections::BTreeSet;
use std::string::{String, ToString};
use std::sync::Mutex;
use std::vec::Vec;

const FRAMES: u64 = 256;

#[repr(align(4096))]
struct Frame(UnsafeCell<[u8; PAGE_SIZE]>);

// SAFETY: the bytes are accessed through raw pointers and atomics only.
unsafe impl Sync for Frame {}

/// [`FRAMES`] frames. An access to a frame that is not in use panics.
pub struct Held<F> {
    memory: Box<[Frame]>,
    held: Mutex<BTreeSet<u64>>,
    log: Mutex<Vec<String>>,
    interrupt: Mutex<Option<(usize, Interrupt<F>)>>,
}

/// A machine of such frames with one table format.
pub type Boxed<F> = Host<F, Held<F>>;
/// The work of another CPU in the middle of a call.
type Interrupt<F> = Box<dyn FnOnce(&Boxed<F>) + Send>;

impl<F> Held<F> {
    /// The number of frames in use, without the root.
    fn held(&self) -> usize {
        self.held.lock().unwrap().len() - 1
    }

    fn pointer(&self, phys: u64) -> *mut u8 {
        let frame = &self.memory[phys as usize / PAGE_SIZE];
        // SAFETY: the offset lies inside the frame.
        unsafe { frame.0.get().cast::<u8>().add(phys as usize % PAGE_SIZE) }
    }
}

impl<F: Format> Host<F, Held<F>> {
    /// A machine whose root, in frame 0, is the only frame in use.
    pub fn new(levels: u8) -> Boxed<F> {
        let frames = Held {
            memory: (0..FRAMES).map(|_| Frame(UnsafeCell::new([0; PAGE_SIZE]))).collect(),
            held: Mutex::new(BTreeSet::from([0])),
            log: Mutex::default(),
            interrupt: Mutex::default(),
        };
        Host { levels, ..Host::over(frames) }
    }

    /// The number of frames in use, without the root.
    pub fn held(&self) -> usize {
        self.frames.held()
    }

    /// The lines logged since the last call.
    pub fn logged(&self) -> Vec<String> {
        core::mem::take(&mut self.frames.log.lock().unwrap())
    }

    /// Runs `work` on another CPU after `moment` more accesses to frames.
    pub fn interrupt_at(&self, moment: usize, work: impl FnOnce(&Boxed<F>) + Send + 'static) {
        *self.frames.interrupt.lock().unwrap() = Some((moment, Box::new(work)));
    }

    /// Whether that work has run.
    pub fn was_interrupted(&self) -> bool {
        self.frames.interrupt.lock().unwrap().is_none()
    }

    fn pass_moment(&self) {
        let mut interrupt = self.frames.interrupt.lock().unwrap();
        match interrupt.take() {
            Some((0, work)) => {
                drop(interrupt);
                work(self)
            }
            later => *interrupt = later.map(|(moments, work)| (moments - 1, work)),
        }
    }

    /// The words of `frame`.
    pub fn words(&self, frame: Pfn) -> [u64; 512] {
        core::array::from_fn(|n| self.word64(frame.phys() + 8 * n as u64).load(SeqCst))
    }

    /// The words of all frames in use.
    pub fn all_words(&self) -> Vec<(u64, [u64; 512])> {
        let held = self.frames.held.lock().unwrap().clone();
        held.into_iter().map(|frame| (frame, self.words(Pfn(frame)))).collect()
    }

    /// The 64 bits at the physical address `phys`.
    pub fn word64(&self, phys: u64) -> &AtomicU64 {
        // SAFETY: aligned, in our memory, and table words are atomics to all.
        unsafe { AtomicU64::from_ptr(self.frames.pointer(phys).cast()) }
    }

    /// The 32 bits at the physical address `phys`.
    pub fn word32(&self, phys: u64) -> &AtomicU32 {
        // SAFETY: aligned, in our memory, and table words are atomics to all.
        unsafe { AtomicU32::from_ptr(self.frames.pointer(phys).cast()) }
    }
}

// SAFETY: F1: `held` decides. F2: single frames only.
unsafe impl<F> Frames for Held<F> {
    fn total(&self) -> usize {
        FRAMES as usize
    }
    fn free_now(&self) -> usize {
        FRAMES as usize - self.held() - 1
    }
    fn is_ram(&self, frame: Pfn) -> bool {
        frame.0 < FRAMES
    }
    fn alloc(&self, _: Want) -> Option<Pfn> {
        let mut held = self.held.lock().unwrap();
        (1..FRAMES).find(|&n| held.insert(n)).map(Pfn)
    }
    unsafe fn free(&self, first: Pfn, order: u8) {
        assert_eq!(order, 0);
        assert!(self.held.lock().unwrap().remove(&first.0), "{first:?} is free already");
        // SAFETY: nobody else uses the frame. Its contents must not pass for a table.
        unsafe { self.pointer(first.phys()).write_bytes(0xff, PAGE_SIZE) }
    }
}

// SAFETY: M2: frames are reachable for ever.
unsafe impl<F: Format> Source<F> for Held<F> {
    type Frames = Self;
    fn frames(&self) -> &Self {
        self
    }
    fn bytes(machine: &Boxed<F>, f: Pfn) -> NonNull<u8> {
        machine.pass_moment();
        assert!(machine.frames.held.lock().unwrap().contains(&f.0), "{f:?} is nobody's");
        NonNull::new(machine.frames.pointer(f.phys())).unwrap()
    }
    fn log(&self, level: Level, line: core::fmt::Arguments<'_>) {
        assert_eq!(level, Level::Error);
        self.log.lock().unwrap().push(line.to_string());
    }
}

/// The result of a memory access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    pub frame: Pfn,
    pub write: bool,
    pub exec: bool,
    pub memory: MemType,
}

/// A format with an MMU, which is written from the manual and not from the format.
pub trait Mmu: Format {
    /// Walks as the CPU does for a supervisor access to `at`.
    fn access(machine: &Boxed<Self>, at: VirtAddr) -> Option<Seen>
    where
        Self: Sized;
    /// The physical address of the entry of `level` for `at`.
    fn locate(machine: &Boxed<Self>, at: VirtAddr, level: u8) -> u64
    where
        Self: Sized;
    /// Overwrites the entry of `level` for `at`.
    fn plant(machine: &Boxed<Self>, at: VirtAddr, level: u8, word: u64)
    where
        Self: Sized;
    /// The entry of `level` for `at`.
    fn planted(machine: &Boxed<Self>, at: VirtAddr, level: u8) -> u64
    where
        Self: Sized;
    /// The first addresses behind a border of leaf tables, a border of upper tables, and a border
    /// of root entries.
    fn borders(levels: u8) -> [usize; 3];
    /// Whether the format can forbid execution.
    const HAS_NX: bool;
}

/// SDM §4.9.2, with the PAT as Linux programs it.
fn memory_type(pat: u64, pcd: u64, pwt: u64) -> MemType {
    match 4 * pat + 2 * pcd + pwt {
        0 => MemType::WriteBack,
        1 => MemType::WriteCombining,
        2 => MemType::UncachedMinus,
        3 => MemType::Uncached,
        7 => MemType::WriteThrough,
        n => panic!("PAT slot {n} is not used"),
    }
}

fn bit(word: u64, n: u32) -> u64 {
    word / (1 << n) % 2
}

/// Checks what every present entry of the library must have: supervisor, accessed.
fn assert_preset(word: u64) {
    assert_eq!((bit(word, 2), bit(word, 5)), (0, 1), "{word:#x}");
}

const PAGES_64: [u64; 5] = [1 << 48, 1 << 39, 1 << 30, 1 << 21, 1 << 12];
const FRAME_64: u64 = 0x000f_ffff_ffff_f000;

/// The physical address in the entry of a page of `span` bytes. SDM tables 4-16 and 4-18: below it
/// is the PAT, at bit 12, and then bits that must be 0.
fn large_page(pte: u64, span: u64) -> u64 {
    assert!(span <= 1 << 30, "no page is larger: {pte:#x}");
    assert_eq!(pte & FRAME_64 & (span - 1) & !(1 << 12), 0, "reserved: {pte:#x}");
    pte & FRAME_64 & !(span - 1)
}

impl Mmu for X86_64 {
    // SDM §4.5.4: PML5E, PML4E, PDPTE, PDE and PTE are 8 bytes each, selected by
    // bits 56:48, 47:39, 38:30, 29:21 and 20:12 of the address.
    fn access(machine: &Boxed<X86_64>, at: VirtAddr) -> Option<Seen> {
        let (mut table, mut write, mut exec) = (machine.root().phys(), true, true);
        for &span in &PAGES_64[5 - machine.levels as usize..] {
            let pte = machine.word64(table + 8 * (at.0 as u64 / span % 512)).load(SeqCst);
            if bit(pte, 0) == 0 {
                return None;
            }
            assert_preset(pte);
            write &= bit(pte, 1) == 1;
            exec &= bit(pte, 63) == 0;
            if span == 1 << 12 || bit(pte, 7) == 1 {
                let (base, pat) = if span == 1 << 12 { (pte & FRAME_64, 7) } else { (large_page(pte, span), 12) };
                assert_eq!((bit(pte, 6), bit(pte, 8)), (bit(pte, 1), 1), "dirty with writable only, global");
                let memory = memory_type(bit(pte, pat), bit(pte, 4), bit(pte, 3));
                return Some(Seen { frame: Pfn::containing(base + at.0 as u64 % span), write, exec, memory });
            }
            table = pte & FRAME_64;
        }
        None
    }

    fn locate(machine: &Boxed<X86_64>, at: VirtAddr, level: u8) -> u64 {
        let table = match level {
            top if top == machine.levels => machine.root().phys(),
            _ => machine.word64(Self::locate(machine, at, level + 1)).load(SeqCst) & FRAME_64,
        };
        table + 8 * (at.0 as u64 / PAGES_64[5 - level as usize] % 512)
    }

    fn plant(machine: &Boxed<X86_64>, at: VirtAddr, level: u8, word: u64) {
        machine.word64(Self::locate(machine, at, level)).store(word, SeqCst)
    }

    fn planted(machine: &Boxed<X86_64>, at: VirtAddr, level: u8) -> u64 {
        machine.word64(Self::locate(machine, at, level)).load(SeqCst)
    }

    fn borders(levels: u8) -> [usize; 3] {
        match levels {
            4 => [0xffff_c900_0020_0000, 0xffff_c900_4000_0000, 0xffff_c980_0000_0000],
            _ => [0xffa0_0000_0020_0000, 0xffa0_0080_0000_0000, 0xffa1_0000_0000_0000],
        }
    }

    const HAS_NX: bool = true;
}

impl Mmu for X86_32 {
    // SDM §4.3: PDE and PTE are 4 bytes each, selected by bits 31:22 and 21:12.
    fn access(machine: &Boxed<X86_32>, at: VirtAddr) -> Option<Seen> {
        let va = at.0 as u64;
        let pde = machine.word32(machine.root().phys() + 4 * (va / 0x40_0000)).load(SeqCst) as u64;
        if bit(pde, 0) == 0 {
            return None;
        }
        assert_preset(pde);
        assert_eq!(bit(pde, 7), 0, "a large page: {pde:#x}");
        let pte = machine.word32(pde / 4096 * 4096 + 4 * (va / 4096 % 1024)).load(SeqCst) as u64;
        if bit(pte, 0) == 0 {
            return None;
        }
        assert_preset(pte);
        assert_eq!((bit(pte, 6), bit(pte, 8)), (bit(pte, 1), 1), "dirty with writable only, global");
        let write = bit(pde, 1) + bit(pte, 1) == 2;
        let memory = memory_type(bit(pte, 7), bit(pte, 4), bit(pte, 3));
        Some(Seen { frame: Pfn(pte / 4096), write, exec: true, memory })
    }

    fn locate(machine: &Boxed<X86_32>, at: VirtAddr, level: u8) -> u64 {
        let pde = machine.root().phys() + 4 * (at.0 as u64 / 0x40_0000);
        match level {
            2 => pde,
            _ => machine.word32(pde).load(SeqCst) as u64 / 4096 * 4096 + 4 * (at.0 as u64 / 4096 % 1024),
        }
    }

    fn plant(machine: &Boxed<X86_32>, at: VirtAddr, level: u8, word: u64) {
        machine.word32(Self::locate(machine, at, level)).store(word as u32, SeqCst)
    }

    fn planted(machine: &Boxed<X86_32>, at: VirtAddr, level: u8) -> u64 {
        machine.word32(Self::locate(machine, at, level)).load(SeqCst) as u64
    }

    fn borders(_: u8) -> [usize; 3] {
        [0xc040_0000, 0xf7c0_0000, 0xffc0_0000]
    }

    const HAS_NX: bool = false;
}

/// The `pages` pages that start `before` pages below `border`.
pub fn around(border: usize, before: usize, pages: usize) -> PageRange {
    PageRange::new(VirtAddr(border - before * PAGE_SIZE), pages)
}

impl<'m, M: Machine, const LEVEL: u8> Walker<'m, M, LEVEL> {
    /// A walker for pages that entries of `LEVEL` map.
    pub fn at_level(machine: &'m M) -> Self {
        // T1: the tests use no table after giving it back.
        Walker { machine }
    }
}

impl<M: Machine, const LEVEL: u8> Walker<'_, M, LEVEL> {
    /// The parts of `range` under each linked leaf table.
    pub fn pieces(self, range: PageRange) -> impl Iterator<Item = PteRange<M::Table, LEVEL>> {
        let parts = cut(pages_of(range), table_bits::<M::Table>(LEVEL));
        parts.filter_map(move |part| self.piece(PageRange::new(address_of(part.start), part.len())).ok())
    }

    /// The number of frames that [`Walker::link_tables`] needs for `range` now.
    pub fn missing(&self, range: PageRange) -> usize {
        self.missing_in(self.root(), pages_of(range))
    }

    fn missing_in(&self, table: Table<M::Table>, pages: Range<usize>) -> usize {
        let missing = |part: Range<usize>| match table.entry(part.start).decode() {
            Entry::Table(frame) if table.level > LEVEL + 1 => self.missing_in(self.below(table.level, frame), part),
            Entry::Table(_) => 0,
            _ => (LEVEL..table.level).map(|level| cut(part.clone(), table_bits::<M::Table>(level)).count()).sum(),
        };
        table.parts(pages).map(missing).sum()
    }
}
