//! Areas: requests for them, and reports about them.
//!
//! A [`Req`] is a request. An [`Info`] is a snapshot of one area (the traditional `vm_struct`). A
//! [`What`] is the answer to "what is this address?".

use crate::gfp::Gfp;
use crate::machine::format::{MemType, Prot};
use crate::units::{Node, PAGE_SHIFT, PAGE_SIZE, PageRange, VirtAddr, pages_for};
use core::fmt;
use core::ops::Range;
use core::panic::Location;

/// The purpose of an area. It decides which call frees the area, and what happens to its frames.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Memory that the area owns (`vmalloc`).
    Vmalloc = 0,
    /// A thread's stack. It owns its memory, and grows down towards the unmapped page below it,
    /// which belongs to it.
    Stack = 1,
    /// Frames that belong to somebody else (`vmap`).
    Vmap = 2,
    /// Frames that the caller handed over with the call. They are freed with the area (`vmap` with
    /// `VM_MAP_PUT_PAGES`).
    VmapOwned = 3,
    /// Frames mapped for a short time (`vm_map_ram`).
    MapRam = 4,
    /// A device (`ioremap`).
    Ioremap = 5,
    /// Addresses only (`get_vm_area`).
    Reserved = 6,
    /// Addresses, of which some pages are filled with frames of the area's own
    /// ([`Mapping::fill`](crate::Mapping::fill)).
    Sparse = 7,
}

impl Kind {
    /// The kind with the number `n`.
    pub const fn from_u8(n: u8) -> Option<Kind> {
        Some(match n {
            0 => Kind::Vmalloc,
            1 => Kind::Stack,
            2 => Kind::Vmap,
            3 => Kind::VmapOwned,
            4 => Kind::MapRam,
            5 => Kind::Ioremap,
            6 => Kind::Reserved,
            7 => Kind::Sparse,
            _ => return None,
        })
    }

    /// Whether the call that made the area allocated its frames.
    pub const fn allocates(self) -> bool {
        matches!(self, Kind::Vmalloc | Kind::Stack)
    }

    /// Whether the frames are the area's own: allocated for it, or taken over.
    pub const fn owns(self) -> bool {
        self.allocates() || matches!(self, Kind::VmapOwned)
    }

    /// Whether the entries of a freed area of this kind keep its frames until the flush.
    pub(crate) const fn keeps(self) -> bool {
        !matches!(self, Kind::MapRam | Kind::Reserved)
    }

    /// Whether every page of an area of this kind is mapped.
    pub(crate) const fn is_whole(self) -> bool {
        !matches!(self, Kind::Reserved | Kind::Sparse)
    }

    /// Units below an area with a run of its own that nobody maps (G6).
    pub(crate) fn guards_below(self) -> usize {
        (self == Kind::Stack) as usize
    }

    /// The word in the traditional listing.
    pub const fn word(self) -> &'static str {
        match self {
            Kind::Vmalloc | Kind::Stack => "vmalloc",
            Kind::Vmap | Kind::VmapOwned => "vmap",
            Kind::MapRam => "vm_map_ram",
            Kind::Ioremap => "ioremap",
            Kind::Reserved | Kind::Sparse => "",
        }
    }
}

/// Whether an unmapped page follows the area.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Guard {
    /// One page after the area. The area's size includes it.
    #[default]
    After,
    /// No guard is promised.
    None,
}

/// The code that asked for an area.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Caller {
    /// A place in Rust source (`#[track_caller]`).
    At(&'static Location<'static>),
    /// A return address.
    Return(usize),
}

impl Caller {
    /// The caller of the function that calls this one.
    #[track_caller]
    #[inline]
    pub fn here() -> Caller {
        Caller::At(Location::caller())
    }

    /// The address that the listing passes to the symbol hook.
    pub fn address(self) -> usize {
        match self {
            Caller::At(place) => core::ptr::from_ref(place).expose_provenance(),
            Caller::Return(pc) => pc,
        }
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Caller::At(place) => write!(f, "{}:{}", place.file(), place.line()),
            Caller::Return(pc) => write!(f, "{pc:#x}"),
        }
    }
}

/// What a free does with the mapping, and when the area becomes unreachable.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum Policy {
    /// A free clears the entries at once. A TLB may still translate to the same frames until its
    /// next flush. Neither the addresses nor the frames are reused before that.
    #[default]
    Unmap = 0,
    /// As `Unmap`, with a flush at once: a use after free faults.
    Strict = 1,
    /// A CPU caches freed areas of common sizes: their entries are parked, which means not present,
    /// and keep their frames. The next area of that size then needs no frames and no flush. A use
    /// after free faults, except on a CPU whose TLB still has the old translation; that CPU may
    /// reach the same frame for a long time. On a machine whose entries cannot hide their frames
    /// (32 bits) or are mirrored (a process), this policy is `Unmap`.
    Park = 2,
    /// A CPU caches freed areas of common sizes and leaves them mapped. The next area of that size
    /// then costs nothing per page. A use after free is not caught until the area is evicted from
    /// the cache.
    Keep = 3,
}

impl Policy {
    /// The policy with the number `n`, which is below 4.
    #[inline]
    pub(crate) const fn from_u8(n: u8) -> Policy {
        match n % 4 {
            1 => Policy::Strict,
            2 => Policy::Park,
            3 => Policy::Keep,
            _ => Policy::Unmap,
        }
    }
}

/// The choice of addresses for areas.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Placement {
    /// By size, in slots that each CPU keeps for itself. This is the fast one.
    #[default]
    Classes,
    /// In the lowest hole that fits, as historic kernels did. For small (32-bit) regions.
    Lowest,
}

/// The index of a region in an instance.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct RegionId(pub u8);

/// A request for an area.
#[derive(Clone, Debug)]
pub struct Req {
    pub(crate) bytes: usize,
    pub(crate) align: usize,
    pub(crate) gfp: Gfp,
    pub(crate) node: Option<Node>,
    pub(crate) region: RegionId,
    pub(crate) within: Option<(usize, usize)>,
    /// `Plan::usual` leaves it to `Plan::checked`.
    pub(crate) unusual: bool,
    pub(crate) prot: Prot,
    pub(crate) memory: MemType,
    pub(crate) guard: Guard,
    pub(crate) kind: Kind,
    pub(crate) caller: Option<Caller>,
}

impl Req {
    /// `bytes` bytes, rounded up to pages, with the usual choices: page alignment, [`Gfp::KERNEL`]
    /// with highmem, region 0, read and write, a guard page.
    pub const fn bytes(bytes: usize) -> Req {
        Req {
            bytes,
            align: PAGE_SIZE,
            gfp: Gfp::KERNEL.union(Gfp::HIGHMEM),
            node: None,
            region: RegionId(0),
            within: None,
            unusual: false,
            prot: Prot::RW,
            memory: MemType::WriteBack,
            guard: Guard::After,
            kind: Kind::Vmalloc,
            caller: None,
        }
    }

    /// `pages` whole pages.
    pub const fn pages(pages: usize) -> Req {
        Req::bytes(pages.saturating_mul(PAGE_SIZE))
    }

    /// What `map_ram` asks for: no guard.
    #[inline(always)]
    pub(crate) const fn ram(pages: usize, node: Option<Node>) -> Req {
        let mut req = Req::pages(pages).guard(Guard::None);
        req.node = node;
        req
    }

    /// A cleared stack of `pages` pages. It is aligned to its size rounded up to a power of two,
    /// and at least to two pages. The page below it is never mapped, whatever else lies there.
    pub const fn stack(pages: usize) -> Req {
        let mut req = Req::pages(pages).zeroed();
        req.kind = Kind::Stack;
        let align = match req.bytes.checked_next_power_of_two() {
            Some(align) => align,
            None => 1 << (usize::BITS - 1),
        };
        req.align(align)
    }

    /// The start is a multiple of `align` bytes, a power of two. A stack is aligned to at least two
    /// pages: it then gets an aligned class, in which the page below each slot is never mapped
    /// (K7).
    pub const fn align(mut self, align: usize) -> Req {
        let small = matches!(self.kind, Kind::Stack) && align.is_power_of_two() && align < 2 * PAGE_SIZE;
        self.align = if small { 2 * PAGE_SIZE } else { align };
        self
    }

    /// The frames to use, and how hard to try for them; [`Gfp::ZERO`] for cleared memory.
    pub const fn gfp(mut self, gfp: Gfp) -> Req {
        self.gfp = gfp;
        self
    }

    /// Cleared memory.
    pub const fn zeroed(mut self) -> Req {
        self.gfp = self.gfp.union(Gfp::ZERO);
        self
    }

    /// Frames of `node` if possible.
    pub const fn node(mut self, node: Node) -> Req {
        self.node = Some(node);
        self
    }

    /// Addresses in `region`.
    pub const fn region(mut self, region: RegionId) -> Req {
        self.region = region;
        self
    }

    /// Addresses inside `range` of the region only, including the guard.
    pub const fn within(mut self, range: Range<usize>) -> Req {
        self.within = Some((range.start, range.end));
        self.unusual = true;
        self
    }

    /// The allowed accesses. Stores and execution at once have to be meant: [`Prot::RWX`].
    pub const fn prot(mut self, prot: Prot) -> Req {
        self.prot = prot;
        self.unusual |= prot.is_careless();
        self
    }

    /// The caching of the memory.
    pub const fn memory(mut self, memory: MemType) -> Req {
        self.memory = memory;
        self
    }

    /// Whether a guard page follows.
    pub const fn guard(mut self, guard: Guard) -> Req {
        self.guard = guard;
        self
    }

    /// The code that asks, if the place of the call itself would say nothing.
    pub const fn caller(mut self, caller: Caller) -> Req {
        self.caller = Some(caller);
        self
    }

    #[inline]
    pub(crate) fn page_count(&self) -> Option<usize> {
        pages_for(self.bytes)
    }
}

/// A snapshot of an area: a copy of the traditional `vm_struct`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Info {
    /// The address of the first byte.
    pub start: VirtAddr,
    /// The bytes of the request.
    pub bytes: usize,
    /// The pages of the request, without the guard.
    pub pages: usize,
    /// The purpose of the area.
    pub kind: Kind,
    /// Whether a guard page follows.
    pub guard: Guard,
    /// The code that asked for it.
    pub caller: Caller,
    /// The code that freed it, if it was freed.
    pub freer: Option<Caller>,
    /// The node of the request.
    pub node: Node,
    /// The physical address of an [`Kind::Ioremap`] area.
    pub phys: Option<u64>,
    /// The region of the area.
    pub region: RegionId,
}

impl Info {
    /// The pages of the area, without the guard.
    pub fn range(&self) -> PageRange {
        PageRange::new(self.start, self.pages)
    }

    /// The bytes of address space, with the guard: the traditional `size`.
    pub fn size(&self) -> usize {
        self.pages.saturating_add((self.guard == Guard::After) as usize) << PAGE_SHIFT
    }
}

/// The answer to "what is this address?".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// In no region of this instance.
    NotOurs,
    /// In a region and not in use: never allocated, or given back long ago.
    Free,
    /// In an area that is just being made or freed.
    Changing,
    /// In a live area.
    Inside {
        /// The area.
        area: Info,
        /// The bytes from its start.
        offset: usize,
    },
    /// In an area that was freed, and whose addresses have not been reused.
    Freed {
        /// The area before the free.
        was: Info,
        /// Whether every CPU has flushed since then, so that any use faults.
        flushed: bool,
    },
    /// In the unmapped pages between live areas.
    Guard {
        /// The live area below, if there is one.
        below: Option<Info>,
        /// The bytes from the end of `below`.
        past: usize,
        /// The live area above, if there is one.
        above: Option<Info>,
        /// The bytes to the start of `above`.
        short: usize,
    },
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::NotOurs => f.write_str("outside of all regions"),
            What::Free => f.write_str("free addresses"),
            What::Changing => f.write_str("an area that is being made or unmade"),
            What::Inside { area, offset } => {
                write!(
                    f,
                    "{offset:#x} bytes into the area of {} bytes at {} by {:?}",
                    area.bytes, area.start, area.caller
                )
            }
            What::Freed { was, flushed } => {
                let when = if *flushed { "" } else { ", not flushed yet" };
                write!(f, "in the freed area of {} bytes at {} by {:?}{when}", was.bytes, was.start, was.caller)?;
                was.freer.map_or(Ok(()), |by| write!(f, ", freed by {by:?}"))
            }
            What::Guard { below, past, above, short } => match (below, above) {
                (Some(area), None) => write_beside(f, (*past, "past the end of"), area),
                (Some(area), Some(next)) if next.kind != Kind::Stack && (past < short || area.kind == Kind::Stack) => {
                    write_beside(f, (*past, "past the end of"), area)
                }
                (_, Some(area)) => write_beside(f, (*short, "below"), area),
                (None, None) => f.write_str("guard"),
            },
        }
    }
}

/// Writes which side of an area a guard address lies on, and how far away. The area is the stack
/// that grows down to it if there is one, else the nearer area.
fn write_beside(f: &mut fmt::Formatter<'_>, (bytes, side): (usize, &str), area: &Info) -> fmt::Result {
    let what = if area.kind == Kind::Stack { "stack" } else { "area" };
    let Info { bytes: size, start, caller, .. } = area;
    write!(f, "guard: {bytes:#x} bytes {side} the {what} of {size} bytes at {start} by {caller:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_is_aligned_to_its_own_size_and_cleared() {
        let req = Req::stack(3);
        assert_eq!((req.bytes, req.align, req.kind), (3 * PAGE_SIZE, 4 * PAGE_SIZE, Kind::Stack));
        assert!(req.gfp.contains(Gfp::ZERO));
        assert_eq!([Req::stack(1), Req::stack(8).align(1)].map(|req| req.align), [2 * PAGE_SIZE; 2], "K7");
        assert_eq!(
            [0, 3 * PAGE_SIZE].map(|wrong| Req::stack(8).align(wrong).align),
            [0, 3 * PAGE_SIZE],
            "to be refused"
        );
        assert_eq!(Req::stack(usize::MAX).align, 1 << (usize::BITS - 1));
    }

    #[test]
    fn kinds_go_to_numbers_and_back() {
        for n in 0..=7 {
            assert_eq!(Kind::from_u8(n).map(|k| k as u8), Some(n));
        }
        assert_eq!(Kind::from_u8(8), None);
    }

    #[test]
    fn the_size_counts_the_guard() {
        let info = Info {
            start: VirtAddr(0x1000),
            bytes: 5000,
            pages: 2,
            kind: Kind::Vmalloc,
            guard: Guard::After,
            caller: Caller::Return(1),
            freer: None,
            node: Node(0),
            phys: None,
            region: RegionId(0),
        };
        assert_eq!(info.size(), 12288);
        let bare = Info { guard: Guard::None, ..info };
        assert_eq!(bare.size(), 8192);
    }
}
