//! The library's addresses, and those of the crates `x86_64` and `memory_addresses`.
#![cfg(target_arch = "x86_64")]

use vmalloc::units::foreign::BadAddress;
use vmalloc::units::{Pfn, VirtAddr};
use x86_64::structures::paging::{Page, PhysFrame};

/// The two halves of four levels, at their edges.
const CANONICAL: [u64; 5] = [0, 0x1234_5678, 0x7fff_ffff_ffff, 0xffff_8000_0000_0000, u64::MAX];
const NOT_CANONICAL: [u64; 3] = [0x8000_0000_0000, 0xffff_7fff_ffff_ffff, 1 << 63];

fn ours(at: u64) -> VirtAddr {
    VirtAddr(at as usize)
}

#[test]
fn a_canonical_address_goes_there_and_back() {
    for at in CANONICAL {
        assert_eq!(x86_64::VirtAddr::try_from(ours(at)).map(VirtAddr::from), Ok(ours(at)));
        assert_eq!(memory_addresses::VirtAddr::try_from(ours(at)).map(VirtAddr::from), Ok(ours(at)));
    }
}

#[test]
fn an_address_that_is_not_canonical_is_refused_and_named() {
    for at in NOT_CANONICAL {
        assert_eq!(x86_64::VirtAddr::try_from(ours(at)), Err(BadAddress(ours(at))));
        assert_eq!(memory_addresses::VirtAddr::try_from(ours(at)).err(), Some(BadAddress(ours(at))));
        assert_eq!(Page::try_from(ours(at & !0xfff)).err(), Some(BadAddress(ours(at & !0xfff))));
    }
    assert_eq!(format!("{:?}", BadAddress(ours(1 << 47))), "BadAddress(0x800000000000)");
}

#[test]
fn a_page_is_its_start_and_nothing_else_is() {
    for at in [0, 0x1000, 0x7fff_ffff_f000, 0xffff_c900_0000_0000, 0xffff_ffff_ffff_f000] {
        let page = Page::try_from(ours(at)).unwrap();
        assert_eq!((page.start_address().as_u64(), VirtAddr::from(page)), (at, ours(at)));
        for inside in [1, 8, 0xfff] {
            assert_eq!(Page::try_from(ours(at + inside)).err(), Some(BadAddress(ours(at + inside))));
        }
    }
}

#[test]
fn a_frame_is_the_address_of_its_first_byte() {
    for n in [0, 1, 0x1234, (1 << 40) - 1] {
        let (frame, at) = (Pfn(n), n << 12);
        let theirs = PhysFrame::try_from(frame).unwrap();
        assert_eq!((theirs.start_address().as_u64(), Pfn::from(theirs)), (at, frame));
        assert_eq!(x86_64::PhysAddr::try_from(frame).unwrap().as_u64(), at);
        assert_eq!(memory_addresses::PhysAddr::try_from(frame).unwrap().as_u64(), at);
        assert_eq!(Pfn::try_from(x86_64::PhysAddr::new(at)), Ok(frame));
        assert_eq!(Pfn::try_from(memory_addresses::PhysAddr::new(at)), Ok(frame));
    }
    for inside in [1, 0x800, 0xfff, 0x1001] {
        let (one, other) = (x86_64::PhysAddr::new(inside), memory_addresses::PhysAddr::new(inside));
        assert_eq!(Pfn::try_from(one), Err(BadAddress(one)));
        assert_eq!(Pfn::try_from(other), Err(BadAddress(other)));
    }
}

#[test]
fn a_frame_beyond_52_bits_of_addresses_is_refused() {
    for n in [1 << 40, 1 << 51, 1 << 52, u64::MAX] {
        assert_eq!(PhysFrame::try_from(Pfn(n)).err(), Some(BadAddress(Pfn(n))));
        assert_eq!(x86_64::PhysAddr::try_from(Pfn(n)).err(), Some(BadAddress(Pfn(n))));
        assert_eq!(memory_addresses::PhysAddr::try_from(Pfn(n)).err(), Some(BadAddress(Pfn(n))));
    }
}
