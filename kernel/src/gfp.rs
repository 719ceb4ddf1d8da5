//! The traditional `gfp_t`: its bits, its names, and what the library makes of them.
//!
//! | Flag | What it does here |
//! |---|---|
//! | `__GFP_DMA`, `__GFP_DMA32`, `__GFP_HIGHMEM` | the highest zone that will do |
//! | `__GFP_DIRECT_RECLAIM` | the call may wait for flushes, purge, and ask [`Machine::exhausted`] |
//! | `__GFP_HIGH` | the promised reserve may be used |
//! | `__GFP_IO`, `__GFP_FS` | missing while the call may wait: a NOIO or NOFS scope is entered, in which [`Machine::exhausted`] is asked ([`scope`](crate::scope)) |
//! | `__GFP_NORETRY` | one try after the first purge; the machine is not asked |
//! | `__GFP_RETRY_MAYFAIL` | every step is tried, and then the call fails: what the library always does. `kvmalloc` lets the slab try as hard |
//! | `__GFP_NOFAIL` | tried again each tick until it succeeds ([`Kernel::__vmalloc`](crate::Kernel::__vmalloc)) |
//! | `__GFP_NOWARN` | no message |
//! | `__GFP_ZERO` | cleared |
//! | `__GFP_THISNODE` | no other node |
//! | `__GFP_ACCOUNT`, `__GFP_COMP`, `__GFP_KSWAPD_RECLAIM` | accepted, without effect: nobody is charged, blocks are single frames, and there is no other reclaimer |
//!
//! Source: the bit values and names are those that tools parse in `mode:0x…(…)`.
//!
//! [`Machine::exhausted`]: vmalloc::machine::Machine::exhausted

use core::fmt;
use vmalloc::Gfp;

bitflags::bitflags! {
    /// What an allocation may use and do, with the traditional values.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct GfpFlags: u32 {
        /// `__GFP_DMA`: below 16 MiB.
        const DMA = 0x1;
        /// `__GFP_HIGHMEM`: frames without a direct mapping will do.
        const HIGHMEM = 0x2;
        /// `__GFP_DMA32`: below 4 GiB.
        const DMA32 = 0x4;
        /// `__GFP_HIGH`: may use the reserve.
        const HIGH = 0x20;
        /// `__GFP_IO`: reclaim may start I/O.
        const IO = 0x40;
        /// `__GFP_FS`: reclaim may call into file systems.
        const FS = 0x80;
        /// `__GFP_ZERO`: cleared memory.
        const ZERO = 0x100;
        /// `__GFP_DIRECT_RECLAIM`: the caller may wait.
        const DIRECT_RECLAIM = 0x400;
        /// `__GFP_KSWAPD_RECLAIM`: others may be woken.
        const KSWAPD_RECLAIM = 0x800;
        /// `__GFP_NOWARN`: no message.
        const NOWARN = 0x2000;
        /// `__GFP_RETRY_MAYFAIL`: tries hard, and may fail.
        const RETRY_MAYFAIL = 0x4000;
        /// `__GFP_NOFAIL`: never fails.
        const NOFAIL = 0x8000;
        /// `__GFP_NORETRY`: does not try hard.
        const NORETRY = 0x10000;
        /// `__GFP_COMP`: a block of one piece.
        const COMP = 0x40000;
        /// `__GFP_THISNODE`: no other node.
        const THISNODE = 0x200000;
        /// `__GFP_ACCOUNT`: charged to the caller.
        const ACCOUNT = 0x400000;
    }
}

impl GfpFlags {
    /// `__GFP_RECLAIM`.
    pub const RECLAIM: GfpFlags = GfpFlags::DIRECT_RECLAIM.union(GfpFlags::KSWAPD_RECLAIM);
    /// `GFP_KERNEL`.
    pub const KERNEL: GfpFlags = GfpFlags::RECLAIM.union(GfpFlags::IO).union(GfpFlags::FS);
    /// `GFP_NOFS`.
    pub const NOFS: GfpFlags = GfpFlags::RECLAIM.union(GfpFlags::IO);
    /// `GFP_NOIO`.
    pub const NOIO: GfpFlags = GfpFlags::RECLAIM;
    /// `GFP_ATOMIC`.
    pub const ATOMIC: GfpFlags = GfpFlags::HIGH.union(GfpFlags::KSWAPD_RECLAIM);
    /// `GFP_NOWAIT`.
    pub const NOWAIT: GfpFlags = GfpFlags::KSWAPD_RECLAIM;
    /// What a nested request of the subsystem's own keeps of its caller's flags.
    /// Source: `GFP_RECLAIM_MASK`, as `__vmalloc_area_node` uses it.
    pub const RECLAIM_MASK: GfpFlags = GfpFlags::KERNEL
        .union(GfpFlags::HIGH)
        .union(GfpFlags::NOWARN)
        .union(GfpFlags::RETRY_MAYFAIL)
        .union(GfpFlags::NOFAIL)
        .union(GfpFlags::NORETRY);

    /// What the library is asked for.
    pub fn library(self) -> Gfp {
        const PAIRS: [(GfpFlags, Gfp); 9] = [
            (GfpFlags::DMA, Gfp::DMA),
            (GfpFlags::DMA32, Gfp::DMA32),
            (GfpFlags::HIGHMEM, Gfp::HIGHMEM),
            (GfpFlags::ZERO, Gfp::ZERO),
            (GfpFlags::NOWARN, Gfp::NOWARN),
            (GfpFlags::NORETRY, Gfp::NORETRY),
            (GfpFlags::THISNODE, Gfp::THISNODE),
            (GfpFlags::DIRECT_RECLAIM, Gfp::WAIT),
            (GfpFlags::HIGH, Gfp::RESERVE),
        ];
        let named = PAIRS.iter().filter(|pair| self.contains(pair.0));
        named.fold(Gfp::empty(), |all, pair| all | pair.1)
    }

    /// Whether a low zone is named, so that HIGHMEM must not be added.
    pub const fn names_a_zone(self) -> bool {
        self.intersects(GfpFlags::DMA.union(GfpFlags::DMA32))
    }
}

/// Names, the widest first.
const NAMES: [(GfpFlags, &str); 21] = [
    (GfpFlags::KERNEL, "GFP_KERNEL"),
    (GfpFlags::NOFS, "GFP_NOFS"),
    (GfpFlags::ATOMIC, "GFP_ATOMIC"),
    (GfpFlags::NOIO, "GFP_NOIO"),
    (GfpFlags::NOWAIT, "GFP_NOWAIT"),
    (GfpFlags::DMA, "GFP_DMA"),
    (GfpFlags::HIGHMEM, "__GFP_HIGHMEM"),
    (GfpFlags::DMA32, "GFP_DMA32"),
    (GfpFlags::HIGH, "__GFP_HIGH"),
    (GfpFlags::IO, "__GFP_IO"),
    (GfpFlags::FS, "__GFP_FS"),
    (GfpFlags::NOWARN, "__GFP_NOWARN"),
    (GfpFlags::RETRY_MAYFAIL, "__GFP_RETRY_MAYFAIL"),
    (GfpFlags::NOFAIL, "__GFP_NOFAIL"),
    (GfpFlags::NORETRY, "__GFP_NORETRY"),
    (GfpFlags::COMP, "__GFP_COMP"),
    (GfpFlags::ZERO, "__GFP_ZERO"),
    (GfpFlags::THISNODE, "__GFP_THISNODE"),
    (GfpFlags::ACCOUNT, "__GFP_ACCOUNT"),
    (GfpFlags::DIRECT_RECLAIM, "__GFP_DIRECT_RECLAIM"),
    (GfpFlags::KSWAPD_RECLAIM, "__GFP_KSWAPD_RECLAIM"),
];

impl fmt::Display for GfpFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut left, mut first) = (*self, true);
        for (flags, name) in NAMES {
            if left.contains(flags) && !left.is_empty() {
                write!(f, "{}{name}", if first { "" } else { "|" })?;
                (left, first) = (left.difference(flags), false);
            }
        }
        if first { f.write_str("none") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::string::ToString;

    #[test]
    fn masks_are_printed_with_the_names_and_numbers_that_tools_parse() {
        let usual = GfpFlags::KERNEL | GfpFlags::HIGHMEM;
        assert_eq!((usual.bits(), usual.to_string().as_str()), (0xcc2, "GFP_KERNEL|__GFP_HIGHMEM"));
        assert_eq!((GfpFlags::KERNEL.bits(), GfpFlags::ATOMIC.bits()), (0xcc0, 0x820));
        assert_eq!((GfpFlags::NOFS.bits(), GfpFlags::NOIO.bits()), (0xc40, 0xc00));
        assert_eq!((GfpFlags::NOFS | GfpFlags::ZERO).to_string(), "GFP_NOFS|__GFP_ZERO");
        assert_eq!((GfpFlags::NOWAIT | GfpFlags::NOWARN).to_string(), "GFP_NOWAIT|__GFP_NOWARN");
        assert_eq!(GfpFlags::empty().to_string(), "none");
    }

    #[test]
    fn what_may_wait_waits_and_what_is_atomic_uses_the_reserve() {
        assert_eq!(GfpFlags::KERNEL.library(), Gfp::KERNEL);
        assert_eq!(GfpFlags::ATOMIC.library(), Gfp::ATOMIC);
        assert_eq!(GfpFlags::NOWAIT.library(), Gfp::NOWAIT);
        assert_eq!((GfpFlags::NOFS | GfpFlags::NORETRY).library(), Gfp::KERNEL | Gfp::NORETRY);
    }
}
