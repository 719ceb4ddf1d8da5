//! Units: the type of a number says what it counts.
//!
//! | Type | Counts |
//! |---|---|
//! | [`VirtAddr`] | bytes of virtual address space, from 0 |
//! | [`Pfn`] | frames of physical memory, from physical address 0 |
//! | [`PageRange`] | whole pages of virtual address space |
//! | [`Node`] | memory nodes (NUMA) |
//! | [`CpuSet`] | CPUs, by index |
//!
//! The features `x86_64` and `memory_addresses` convert them to and from the types of these crates
//! (`units::foreign`).

#[cfg(any(feature = "x86_64", feature = "memory_addresses"))]
pub mod foreign;

use core::fmt;
use core::ops::Range;

/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in a page and in a frame.
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;
/// The most CPUs that one instance serves.
pub const MAX_CPUS: usize = 256;

/// The pages that `bytes` bytes need; `None` if rounding up overflows.
pub const fn pages_for(bytes: usize) -> Option<usize> {
    match bytes.checked_add(PAGE_SIZE - 1) {
        Some(sum) => Some(sum >> PAGE_SHIFT),
        None => None,
    }
}

/// A virtual address. The type does not prove that the address is mapped or canonical.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct VirtAddr(pub usize);

impl VirtAddr {
    /// The address `pages` pages above. It wraps around after the last page.
    #[inline]
    pub const fn add_pages(self, pages: usize) -> VirtAddr {
        VirtAddr(self.0.wrapping_add(pages << PAGE_SHIFT))
    }

    /// The first byte of the page that contains this address.
    #[inline]
    pub const fn page_start(self) -> VirtAddr {
        VirtAddr(self.0 & !(PAGE_SIZE - 1))
    }
}

impl fmt::Debug for VirtAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for VirtAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// The number of a frame: its physical address divided by [`PAGE_SIZE`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Pfn(pub u64);

impl Pfn {
    /// The physical address of the frame's first byte.
    #[inline]
    pub const fn phys(self) -> u64 {
        self.0 << PAGE_SHIFT
    }

    /// The frame that contains the physical address `phys`.
    #[inline]
    pub const fn containing(phys: u64) -> Pfn {
        Pfn(phys >> PAGE_SHIFT)
    }

    /// The frame `n` frames above, modulo 2⁶⁴.
    #[inline]
    pub const fn offset(self, n: u64) -> Pfn {
        Pfn(self.0.wrapping_add(n))
    }
}

impl fmt::Debug for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pfn {:#x}", self.0)
    }
}

impl fmt::Display for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A run of whole pages of virtual address space.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageRange {
    /// The first byte of the first page.
    pub start: VirtAddr,
    /// The number of pages.
    pub pages: usize,
}

impl PageRange {
    /// `pages` pages from the page-aligned `start`.
    #[inline]
    pub const fn new(start: VirtAddr, pages: usize) -> PageRange {
        debug_assert!(start.0.is_multiple_of(PAGE_SIZE));
        PageRange { start, pages }
    }

    /// The first byte after the range; 0 if the range ends with the last page.
    #[inline]
    pub const fn end(self) -> VirtAddr {
        self.start.add_pages(self.pages)
    }

    /// The length in bytes.
    #[inline]
    pub const fn bytes(self) -> usize {
        self.pages << PAGE_SHIFT
    }

    /// Whether `addr` lies in the range.
    #[inline]
    pub const fn contains(self, addr: VirtAddr) -> bool {
        addr.0.wrapping_sub(self.start.0) < self.bytes()
    }

    /// The addresses of the range.
    pub const fn addresses(self) -> Range<usize> {
        self.start.0..self.end().0
    }

    /// The range, cut into parts of at most `pages` pages, in order.
    ///
    /// # Panics
    /// If `pages` is 0.
    pub fn slices(self, pages: usize) -> impl Iterator<Item = PageRange> {
        (0..self.pages)
            .step_by(pages)
            .map(move |at| PageRange::new(self.start.add_pages(at), pages.min(self.pages - at)))
    }
}

impl fmt::Debug for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{} ({} pages)", self.start, self.end(), self.pages)
    }
}

/// The number of a memory node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Node(pub u8);

/// A set of CPU indices below [`MAX_CPUS`].
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuSet([u64; MAX_CPUS / 64]);

impl CpuSet {
    /// The empty set.
    pub const EMPTY: CpuSet = CpuSet([0; MAX_CPUS / 64]);

    /// Adds `cpu` to the set.
    ///
    /// # Panics
    /// If `cpu` is not below [`MAX_CPUS`].
    pub fn insert(&mut self, cpu: u32) {
        self.0[cpu as usize / 64] |= 1 << (cpu % 64);
    }

    /// Whether `cpu` is in the set.
    pub fn contains(&self, cpu: u32) -> bool {
        self.0.get(cpu as usize / 64).is_some_and(|word| word >> (cpu % 64) & 1 != 0)
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&w| w == 0)
    }

    /// The CPUs of the set, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0..MAX_CPUS as u32).filter(|&cpu| self.contains(cpu))
    }
}

impl fmt::Debug for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_round_up_to_pages_and_overflow_is_none() {
        assert_eq!(pages_for(0), Some(0));
        assert_eq!(pages_for(1), Some(1));
        assert_eq!(pages_for(4096), Some(1));
        assert_eq!(pages_for(4097), Some(2));
        assert_eq!(pages_for(usize::MAX), None);
    }

    #[test]
    fn a_range_is_cut_into_slices_that_tile_it() {
        let range = PageRange::new(VirtAddr(0x10000), 150);
        let cut: [usize; 3] = core::array::from_fn(|i| range.slices(64).nth(i).unwrap().pages);
        assert_eq!(cut, [64, 64, 22]);
        assert_eq!(range.slices(64).last().unwrap().end(), range.end());
    }

    #[test]
    fn a_cpu_set_holds_what_was_put_in() {
        let mut set = CpuSet::EMPTY;
        assert!(set.is_empty());
        for cpu in [0, 63, 64, 255] {
            set.insert(cpu);
        }
        assert!(set.iter().eq([0, 63, 64, 255]));
    }
}
