//! How positions fall into items, quanta and bytes.
//!
//! A [`Geometry`] is always in range, so nothing computed from it overflows: an
//! item has at most 2³⁰ × 2²⁰ bytes, and a position is below 2⁶³.

use vmalloc::units::{PAGE_SHIFT, PAGE_SIZE};

/// The largest order: quanta of 1 GiB.
pub const MAX_ORDER: u32 = 18;
/// The largest number of quanta in an item.
pub const MAX_QSET: u32 = 1 << 20;
/// The largest size of a device, as `loff_t` has it.
pub const MAX_SIZE: u64 = i64::MAX as u64;

/// Order and qset of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    order: u32,
    qset: u32,
}

impl Geometry {
    /// What the device has always had, and what RESET goes back to: quanta of
    /// 64 KiB, 500 of them in an item.
    pub const DEFAULT: Geometry = Geometry { order: 4, qset: 500 };

    /// Quanta of `PAGE_SIZE << order` bytes, `qset` of them in an item; `None`
    /// beyond [`MAX_ORDER`] and [`MAX_QSET`], or for a qset of 0.
    pub const fn new(order: u32, qset: u32) -> Option<Geometry> {
        if order <= MAX_ORDER && qset >= 1 && qset <= MAX_QSET { Some(Geometry { order, qset }) } else { None }
    }

    /// log2 of the pages in a quantum.
    pub const fn order(self) -> u32 {
        self.order
    }

    /// Quanta in an item.
    pub const fn qset(self) -> u32 {
        self.qset
    }

    /// Bytes in a quantum.
    pub const fn quantum(self) -> usize {
        PAGE_SIZE << self.order
    }

    /// Bytes in an item.
    pub const fn item(self) -> u64 {
        (self.qset as u64) << (PAGE_SHIFT + self.order)
    }

    /// Pages in a quantum.
    pub(crate) const fn pages(self) -> usize {
        1 << self.order
    }

    /// Where the byte at `position` lies.
    pub(crate) fn place(self, position: u64) -> Place {
        let within = position % self.item();
        let (slot, offset) = (within >> (PAGE_SHIFT + self.order), within as usize & (self.quantum() - 1));
        Place { item: position / self.item(), slot: slot as usize, offset }
    }

    /// The position of the first byte of a quantum; past every size where it
    /// would be past [`MAX_SIZE`].
    pub(crate) fn position(self, item: u64, slot: usize) -> u64 {
        item.saturating_mul(self.item()).saturating_add((slot as u64) << (PAGE_SHIFT + self.order))
    }
}

/// Where a byte lies: in which item, which quantum of it, how far into that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub item: u64,
    pub slot: usize,
    pub offset: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_an_item_a_quantum_and_an_offset() {
        let geometry = Geometry::new(1, 3).unwrap();
        assert_eq!((geometry.quantum(), geometry.item()), (8192, 24576));
        let at = |position| {
            let Place { item, slot, offset } = geometry.place(position);
            (item, slot, offset)
        };
        assert_eq!([at(0), at(8191), at(8192)], [(0, 0, 0), (0, 0, 8191), (0, 1, 0)]);
        assert_eq!([at(24575), at(24576), at(100_000)], [(0, 2, 8191), (1, 0, 0), (4, 0, 1696)]);
    }

    #[test]
    fn the_last_byte_of_all_has_a_place_in_every_geometry() {
        for (order, qset) in [(0, 1), (0, MAX_QSET), (4, 500), (MAX_ORDER, 1), (MAX_ORDER, MAX_QSET), (7, 3)] {
            let geometry = Geometry::new(order, qset).unwrap();
            let Place { item, slot, offset } = geometry.place(MAX_SIZE - 1);
            assert_eq!(geometry.position(item, slot) + offset as u64, MAX_SIZE - 1, "{geometry:?}");
            assert!(slot < qset as usize && offset < geometry.quantum());
        }
        assert_eq!(Geometry::DEFAULT.position(u64::MAX, 0), u64::MAX);
    }

    #[test]
    fn what_is_out_of_range_is_no_geometry() {
        for (order, qset) in [(MAX_ORDER + 1, 1), (0, 0), (0, MAX_QSET + 1), (u32::MAX, u32::MAX)] {
            assert_eq!(Geometry::new(order, qset), None);
        }
        assert_eq!(Geometry::new(4, 500), Some(Geometry::DEFAULT));
    }
}
