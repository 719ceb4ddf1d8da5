//! Conversions to and from the address types of other crates, each behind a feature of its name:
//! `x86_64` and `memory_addresses`.
//!
//! | From | To | Refused |
//! |---|---|---|
//! | their `VirtAddr`, `Page` | [`VirtAddr`] | |
//! | [`VirtAddr`] | their `VirtAddr` | not canonical |
//! | [`VirtAddr`] | their `Page` | not canonical, or not the start of a page |
//! | their `PhysFrame` | [`Pfn`] | |
//! | their `PhysAddr` | [`Pfn`] | not the start of a frame: [`Pfn::containing`] rounds down |
//! | [`Pfn`] | their `PhysAddr`, `PhysFrame` | beyond what the format can name |

use super::{Pfn, VirtAddr};
#[cfg(feature = "x86_64")]
use x86_64::structures::paging::{Page, PhysFrame};

/// This has no counterpart in the other type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadAddress<A>(pub A);

/// The physical address of a frame, if 64 bits can name it.
fn phys(frame: Pfn) -> Option<u64> {
    (Pfn::containing(frame.phys()) == frame).then(|| frame.phys())
}

/// What always has a counterpart, and what may have none.
macro_rules! conversions {
    ($feature:literal: $($from:ty => $to:ty, |$given:ident| $made:expr;)* $(try $may:ty => $be:ty, |$arg:ident| $tried:expr;)*) => {
        $(#[cfg(feature = $feature)]
        impl From<$from> for $to {
            fn from($given: $from) -> $to {
                $made
            }
        })*
        $(#[cfg(feature = $feature)]
        impl TryFrom<$may> for $be {
            type Error = BadAddress<$may>;
            fn try_from($arg: $may) -> Result<$be, BadAddress<$may>> {
                $tried.ok_or(BadAddress($arg))
            }
        })*
    };
}

conversions! { "x86_64":
    x86_64::VirtAddr => VirtAddr, |at| VirtAddr(at.as_u64() as usize);
    Page => VirtAddr, |page| page.start_address().into();
    PhysFrame => Pfn, |frame| Pfn::containing(frame.start_address().as_u64());
    try VirtAddr => x86_64::VirtAddr, |at| x86_64::VirtAddr::try_new(at.0 as u64).ok();
    try VirtAddr => Page, |at| at.try_into().ok().and_then(|at| Page::from_start_address(at).ok());
    try x86_64::PhysAddr => Pfn, |at| at.is_aligned(4096u64).then(|| Pfn::containing(at.as_u64()));
    try Pfn => x86_64::PhysAddr, |frame| phys(frame).and_then(|at| x86_64::PhysAddr::try_new(at).ok());
    try Pfn => PhysFrame, |frame| frame.try_into().ok().map(PhysFrame::containing_address);
}

conversions! { "memory_addresses":
    memory_addresses::VirtAddr => VirtAddr, |at| VirtAddr(at.as_usize());
    try VirtAddr => memory_addresses::VirtAddr, |at| memory_addresses::VirtAddr::try_new(at.0 as _).ok();
    try memory_addresses::PhysAddr => Pfn, |at| at.as_usize().is_multiple_of(4096).then(|| Pfn::containing(at.as_usize() as u64));
    try Pfn => memory_addresses::PhysAddr, |frame| {
        phys(frame).and_then(|at| memory_addresses::PhysAddr::try_new(at).ok())
    };
}
