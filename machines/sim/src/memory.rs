//! Physical memory: banks of frames, and what the machine knows of each frame.
//!
//! The bytes are one allocation that the host clears when they are touched, and one of windows,
//! whose pages are cleared when they are mapped.
//! A frame is *out* while somebody holds it; only frames that are out have a
//! direct mapping, and high memory and devices never have one.

use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use vmalloc::machine::format::Word;
use vmalloc::units::{Node, PAGE_SIZE, Pfn};

/// A run of frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bank {
    /// The first frame.
    pub first: Pfn,
    /// How many there are.
    pub frames: u64,
    /// The node they belong to; `None` for a device.
    pub node: Option<Node>,
}

impl Bank {
    /// The first frame number after the bank.
    pub const fn end(&self) -> Pfn {
        Pfn(self.first.0 + self.frames)
    }
}

/// What the machine knows of a frame.
#[derive(Debug, Default)]
pub(crate) struct Meta {
    /// Entries of TLBs, of CPUs that are awake, that name the frame.
    pub(crate) tlb: AtomicU32,
    /// Entries of paging-structure caches, of CPUs that are not offline.
    pub(crate) tables: AtomicU32,
    /// Whether the direct mapping covers it.
    direct: bool,
    /// Whether somebody holds it.
    pub(crate) out: AtomicBool,
    /// The event that changed `out`.
    pub(crate) since: AtomicU64,
}

#[derive(Debug)]
pub(crate) struct Memory {
    banks: Vec<Bank>,
    meta: Box<[Meta]>,
    block: Block,
    windows: Block,
}

/// Bytes of adjacent frames.
#[derive(Debug)]
struct Block {
    start: NonNull<u8>,
    layout: Layout,
    frames: usize,
}

// SAFETY: the blocks are owned, and its bytes are touched as memory is: by raw
// accesses of whoever holds a frame. The simulated CPUs are one host thread.
unsafe impl Send for Memory {}
// SAFETY: as for Send.
unsafe impl Sync for Memory {}

impl Memory {
    pub(crate) fn new(mut banks: Vec<Bank>, windows: Vec<Bank>, highmem: Pfn) -> Memory {
        // SAFETY: the layout of a block is not empty.
        let block = Block::new(&banks, |layout| unsafe { std::alloc::alloc_zeroed(layout) });
        // SAFETY: as above; nobody reads a page that was not mapped.
        let cleared_late = Block::new(&windows, |layout| unsafe { std::alloc::alloc(layout) });
        banks.extend(windows);
        let direct = |bank: &Bank, frame| bank.node.is_some() && Pfn(frame) < highmem;
        let all = banks.iter().flat_map(|b| (b.first.0..b.end().0).map(move |frame| direct(b, frame)));
        let meta = all.map(|direct| Meta { direct, ..Meta::default() }).collect();
        Memory { banks, meta, block, windows: cleared_late }
    }

    pub(crate) fn ram(&self) -> impl Iterator<Item = &Bank> {
        self.banks.iter().filter(|b| b.node.is_some())
    }

    /// The frames that are out.
    pub(crate) fn out(&self) -> impl Iterator<Item = (Pfn, &Meta)> {
        let frames = self.ram().flat_map(|b| (b.first.0..b.end().0).map(Pfn));
        frames.filter_map(|f| Some((f, self.meta(f)?))).filter(|(_, meta)| meta.out.load(super::ORDER))
    }

    pub(crate) fn meta(&self, frame: Pfn) -> Option<&Meta> {
        self.index(frame).map(|at| &self.meta[at])
    }

    /// The bytes of `frame`, direct mapping or not; `None` where no memory is.
    pub(crate) fn bytes(&self, frame: Pfn) -> Option<NonNull<u8>> {
        self.index(frame).map(|at| self.bytes_of(at))
    }

    /// The bytes of a frame by its index.
    fn bytes_of(&self, at: usize) -> NonNull<u8> {
        match at.checked_sub(self.block.frames) {
            Some(at) => self.windows.frame(at),
            None => self.block.frame(at),
        }
    }

    /// What `virt` answers: only for a frame of RAM that is out and that the
    /// direct mapping covers.
    pub(crate) fn direct(&self, frame: Pfn) -> Result<NonNull<u8>, &'static str> {
        let at = self.index(frame).ok_or("where no memory is")?;
        let meta = &self.meta[at];
        match meta.out.load(super::ORDER) {
            _ if !meta.direct => Err("that the direct mapping does not cover"),
            true => Ok(self.bytes_of(at)),
            false => Err("that nobody holds"),
        }
    }

    /// Whether the direct mapping covers `frame`.
    pub(crate) fn is_direct(&self, frame: Pfn) -> bool {
        self.meta(frame).is_some_and(|meta| meta.direct)
    }

    /// The `index`-th entry of the table in `frame`.
    pub(crate) fn entry<W: Word>(&self, frame: Pfn, index: usize) -> Option<NonNull<W>> {
        debug_assert!(index * size_of::<W>() < PAGE_SIZE);
        // SAFETY: the entry lies in the frame.
        self.bytes(frame).map(|at| unsafe { at.cast::<W>().add(index) })
    }

    fn index(&self, frame: Pfn) -> Option<usize> {
        let mut before = 0;
        for bank in &self.banks {
            if let Some(at) = frame.0.checked_sub(bank.first.0).filter(|&at| at < bank.frames) {
                return Some(before + at as usize);
            }
            before += bank.frames as usize;
        }
        None
    }
}

impl Block {
    fn new(banks: &[Bank], alloc: impl Fn(Layout) -> *mut u8) -> Block {
        let frames = banks.iter().map(|b| b.frames as usize).sum::<usize>();
        // One frame more, to align within: an aligned request would not be
        // served lazily by the host.
        let layout = Layout::from_size_align((frames + 1) * PAGE_SIZE, 16).expect("memory that fits the host");
        let start = NonNull::new(alloc(layout)).unwrap_or_else(|| std::alloc::handle_alloc_error(layout));
        Block { start, layout, frames }
    }

    fn frame(&self, at: usize) -> NonNull<u8> {
        assert!(at < self.frames, "frame {at} of {}", self.frames);
        let start = self.start.addr().get().next_multiple_of(PAGE_SIZE) - self.start.addr().get();
        // SAFETY: the block has one frame more than it is asked for, to align within.
        unsafe { self.start.add(start + at * PAGE_SIZE) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { std::alloc::dealloc(self.start.as_ptr(), self.layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_banks() -> Memory {
        let ram = Bank { first: Pfn(16), frames: 4, node: Some(Node(0)) };
        let device = Bank { first: Pfn(1000), frames: 2, node: None };
        let window = Bank { first: Pfn(2000), frames: 3, node: None };
        Memory::new(vec![ram, device], vec![window], Pfn(18))
    }

    #[test]
    fn frames_are_aligned_cleared_and_apart_and_there_are_none_between_banks() {
        let memory = two_banks();
        let at = |f| memory.bytes(Pfn(f)).map(|p| p.addr().get());
        assert!(at(16).unwrap().is_multiple_of(PAGE_SIZE));
        assert_eq!(at(17), at(16).map(|a| a + PAGE_SIZE));
        assert_eq!(at(1001), at(16).map(|a| a + 5 * PAGE_SIZE));
        assert_eq!(at(2002), at(2000).map(|a| a + 2 * PAGE_SIZE));
        assert!(at(2000).unwrap().is_multiple_of(PAGE_SIZE));
        assert_eq!((at(15), at(20), at(1002), at(2003)), (None, None, None, None));
        // SAFETY: the last byte of the last frame is inside the block.
        assert_eq!(unsafe { memory.bytes(Pfn(1001)).unwrap().add(PAGE_SIZE - 1).read() }, 0);
    }

    #[test]
    fn only_low_ram_that_is_out_is_mapped_directly() {
        let memory = two_banks();
        assert_eq!(memory.direct(Pfn(16)), Err("that nobody holds"));
        memory.meta(Pfn(16)).unwrap().out.store(true, crate::ORDER);
        assert!(memory.direct(Pfn(16)).is_ok());
        assert_eq!(memory.direct(Pfn(18)), Err("that the direct mapping does not cover"));
        assert_eq!(memory.direct(Pfn(1000)), Err("that the direct mapping does not cover"));
        assert_eq!(memory.direct(Pfn(20)), Err("where no memory is"));
        assert_eq!(memory.out().map(|(f, _)| f).collect::<Vec<_>>(), [Pfn(16)]);
    }
}
