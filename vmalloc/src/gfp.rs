//! GFP: the frames that a request may use, and what it may do to get them.
//!
//! Source: the traditional `gfp_t`. The names and their meanings are the traditional ones; the bit
//! values are not. The flags answer two questions:
//!
//! - *where*: [`Gfp::DMA`], [`Gfp::DMA32`] and [`Gfp::HIGHMEM`] name the highest zone that is
//!   allowed (Normal without any of them), and [`Gfp::THISNODE`] forbids other nodes;
//! - *how hard*: [`Gfp::WAIT`] allows a wait for a flush, [`Gfp::RESERVE`] allows the atomic
//!   reserve, and [`Gfp::NORETRY`] gives up after the first purge.

bitflags::bitflags! {
    /// The frames that an allocation may use, and what it may do to get them.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Gfp: u16 {
        /// Frames below 16 MiB only.
        const DMA = 1 << 0;
        /// Frames below 4 GiB only.
        const DMA32 = 1 << 1;
        /// Also frames without a direct mapping.
        const HIGHMEM = 1 << 2;
        /// The memory is cleared before the call returns.
        const ZERO = 1 << 3;
        /// No log line on failure.
        const NOWARN = 1 << 4;
        /// Only one more try after the first shortage.
        const NORETRY = 1 << 5;
        /// Only frames of the requested node.
        const THISNODE = 1 << 6;
        /// The caller may wait.
        const WAIT = 1 << 7;
        /// The caller may use the atomic reserve.
        const RESERVE = 1 << 8;
        /// The usual request. It may wait.
        const KERNEL = Self::WAIT.bits();
        /// For callers that must not wait. It may use the reserve.
        const ATOMIC = Self::RESERVE.bits();
        /// For callers that do not want to wait. It neither waits nor uses the reserve.
        const NOWAIT = 0;
    }
}

impl Gfp {
    /// The highest zone that is allowed.
    pub const fn zone(self) -> ZoneKind {
        if self.contains(Gfp::DMA) {
            ZoneKind::Dma
        } else if self.contains(Gfp::DMA32) {
            ZoneKind::Dma32
        } else if self.contains(Gfp::HIGHMEM) {
            ZoneKind::HighMem
        } else {
            ZoneKind::Normal
        }
    }
}

/// The zones of physical memory, from the lowest addresses up. A request that names a zone may get
/// frames of any lower zone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ZoneKind {
    /// Below 16 MiB.
    Dma,
    /// Below 4 GiB.
    Dma32,
    /// All other memory that the direct mapping covers.
    Normal,
    /// Memory without a direct mapping (on 32-bit machines).
    HighMem,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_zone_named_wins() {
        assert_eq!(Gfp::KERNEL.zone(), ZoneKind::Normal);
        assert_eq!((Gfp::KERNEL | Gfp::HIGHMEM).zone(), ZoneKind::HighMem);
        assert_eq!((Gfp::DMA32 | Gfp::HIGHMEM).zone(), ZoneKind::Dma32);
        assert_eq!((Gfp::DMA | Gfp::DMA32).zone(), ZoneKind::Dma);
    }

    #[test]
    fn atomic_and_nowait_never_wait_and_only_atomic_uses_the_reserve() {
        assert!(Gfp::KERNEL.contains(Gfp::WAIT));
        assert!(!Gfp::ATOMIC.contains(Gfp::WAIT) && Gfp::ATOMIC.contains(Gfp::RESERVE));
        assert!(!Gfp::NOWAIT.contains(Gfp::WAIT) && !Gfp::NOWAIT.contains(Gfp::RESERVE));
    }
}
