//! Why a call was refused, and the number that the traditional interface has for it.

use crate::quota::OVER_QUOTA;
use core::fmt;
use vmalloc::error::Shortage;
use vmalloc::machine::Context;
use vmalloc::machine::format::MemType;
use vmalloc::units::Pfn;
use vmalloc::{AllocError, FreeError};

/// The traditional error numbers of this subsystem, as positive numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i32)]
pub enum Errno {
    /// A fatal signal ended the call.
    EINTR = 4,
    /// The argument list is too long: more than there is memory in all.
    E2BIG = 7,
    /// No memory.
    ENOMEM = 12,
    /// No addresses, or a page is in use.
    EBUSY = 16,
    /// An argument that can never be right.
    EINVAL = 22,
    /// Outside of the area.
    ERANGE = 34,
    /// Over a quota.
    EDQUOT = 122,
}

/// Why a call was refused. Nothing has changed then, unless the function says what.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// The library refused to make or map something.
    Alloc(AllocError),
    /// The library refused to free something.
    Free(FreeError),
    /// More pages than the machine has.
    ExceedsTotal {
        /// Pages asked for.
        pages: usize,
        /// Pages that the machine has.
        total: usize,
    },
    /// `count` objects of `size` bytes are more bytes than there are.
    Overflow {
        /// Objects asked for.
        count: usize,
        /// Bytes of each.
        size: usize,
    },
    /// More bytes than the function ever serves.
    TooLarge {
        /// Bytes asked for.
        bytes: usize,
        /// The most that it serves.
        limit: usize,
    },
    /// No area starts here that these functions know.
    NoArea(usize),
    /// The address is no page's start.
    NotAligned(usize),
    /// Pages outside of the area.
    OutsideArea {
        /// The first byte asked for.
        start: usize,
        /// The first byte behind.
        end: usize,
        /// The area's first byte.
        area: usize,
        /// The first byte behind the area, without its guard.
        area_end: usize,
    },
    /// The area has not the flags that the function asks for.
    WrongFlags {
        /// The flags that the area has.
        has: u32,
        /// One of these is needed, or none of these is allowed.
        about: u32,
    },
    /// A flag that this function refuses, or `count` of pages that is none.
    BadArgument(usize),
    /// The slab gave no object out at this address.
    NotSlab(usize),
    /// The address is inside of an object of the slab.
    NotItsStart {
        /// The address given.
        at: usize,
        /// Where the object starts.
        start: usize,
    },
    /// The object, or the area, was freed before.
    DoubleFree(usize),
    /// No chunk of objects by CPU has room for so many bytes, and none may be made here.
    NoRoom {
        /// Bytes asked for.
        bytes: usize,
        /// Their alignment.
        align: usize,
    },
    /// A frame has a descriptor, and must not be mapped by number alone.
    HasDescriptor(Pfn),
    /// Nobody has an address of the frame by `kmap`.
    NotMapped(Pfn),
    /// A page that is not the newest that this CPU has by `kmap_local`.
    NotNewest {
        /// The page.
        at: usize,
        /// The newest; 0 = there is none.
        newest: usize,
    },
    /// A frame that no direct mapping reaches, and no temporary one.
    NotReachable(Pfn),
    /// Adjacent frames that the direct mapping does not show side by side.
    NotContiguous(Pfn),
    /// A frame of those is mapped with another memory type already.
    OtherMemory {
        /// What was asked for.
        requested: MemType,
        /// What there is.
        got: MemType,
    },
    /// Somebody has written past the area, which was told; it lives on.
    OutOfBounds {
        /// The first byte that was written.
        at: usize,
        /// The area's first byte.
        start: usize,
        /// The bytes that were asked for.
        size: usize,
    },
    /// Not from here.
    WrongContext(Context),
    /// A fatal signal waits for the task.
    Interrupted,
}

impl Error {
    /// The traditional number, positive.
    pub const fn errno(&self) -> Errno {
        match self {
            Error::Alloc(error) => errno_of(error),
            Error::ExceedsTotal { .. } => Errno::E2BIG,
            Error::Overflow { .. } | Error::TooLarge { .. } | Error::NotContiguous(_) => Errno::ENOMEM,
            Error::NoRoom { .. } => Errno::EBUSY,
            Error::OutsideArea { .. } => Errno::ERANGE,
            Error::WrongContext(_) | Error::OtherMemory { .. } => Errno::EBUSY,
            Error::Interrupted => Errno::EINTR,
            _ => Errno::EINVAL,
        }
    }
}

/// Whether no hole was wide enough, or none that is flushed.
pub(crate) const fn lacks_addresses(error: &AllocError) -> bool {
    matches!(error, AllocError::NoAddresses { .. } | AllocError::WouldWait(_, Shortage::Addresses { .. }))
}

/// The traditional number for an error of the library.
const fn errno_of(error: &AllocError) -> Errno {
    match error {
        AllocError::NoAddresses { .. }
        | AllocError::InUse(_)
        | AllocError::Restricted(_)
        | AllocError::WrongContext(_)
        | AllocError::WouldWait(..)
        | AllocError::NotInitialised => Errno::EBUSY,
        AllocError::ZeroSize
        | AllocError::BadAlign(_)
        | AllocError::BadFrame(_)
        | AllocError::IsRam(_)
        | AllocError::Mixed(_)
        | AllocError::NoRegion { .. }
        | AllocError::NotMapped(_)
        | AllocError::WriteExec
        | AllocError::SameFrame(_)
        | AllocError::NotOut(_)
        | AllocError::NoAliases
        | AllocError::BadNode { .. } => Errno::EINVAL,
        AllocError::BadRange { .. } => Errno::ERANGE,
        AllocError::TooLarge { .. } => Errno::E2BIG,
        AllocError::Refused(OVER_QUOTA) => Errno::EDQUOT,
        AllocError::NoFrames { .. } | AllocError::NoTables { .. } | AllocError::Refused(_) => Errno::ENOMEM,
    }
}

impl From<AllocError> for Error {
    fn from(error: AllocError) -> Error {
        Error::Alloc(error)
    }
}

impl From<FreeError> for Error {
    fn from(error: FreeError) -> Error {
        Error::Free(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Error::Alloc(ref error) => error.fmt(f),
            Error::Free(ref error) => error.fmt(f),
            Error::ExceedsTotal { pages, total } => write!(f, "{pages} pages, but the machine has {total}"),
            Error::Overflow { count, size } => write!(f, "{count} objects of {size} bytes overflow"),
            Error::TooLarge { bytes, limit } => write!(f, "{bytes} bytes, but at most {limit} are served here"),
            Error::NoArea(at) => write!(f, "no area starts at {at:#x}"),
            Error::NotAligned(at) => write!(f, "{at:#x} is not the start of a page"),
            Error::OutsideArea { start, end, area, area_end } => {
                write!(f, "{start:#x}-{end:#x} is not inside of the area {area:#x}-{area_end:#x}")
            }
            Error::WrongFlags { has, about } => write!(f, "flags {has:#x}, where {about:#x} matters"),
            Error::BadArgument(value) => write!(f, "{value:#x} is no argument for this"),
            Error::NotSlab(at) => write!(f, "no object of the slab at {at:#x}"),
            Error::NotItsStart { at, start } => write!(f, "{at:#x} is inside of the object at {start:#x}"),
            Error::DoubleFree(at) => write!(f, "double free of {at:#x}"),
            Error::NoRoom { bytes, align } => write!(f, "no chunk has {bytes} bytes left at a multiple of {align}"),
            Error::HasDescriptor(frame) => write!(f, "{frame:?} is memory with a descriptor"),
            Error::NotMapped(frame) => write!(f, "{frame:?} is mapped by nobody"),
            Error::NotNewest { at, newest } => write!(f, "{at:#x} is not the newest of this CPU, which is {newest:#x}"),
            Error::NotReachable(frame) => write!(f, "{frame:?} has no direct mapping"),
            Error::NotContiguous(frame) => write!(f, "the direct mapping breaks behind {frame:?}"),
            Error::OtherMemory { requested, got } => write!(f, "mapped as {got:?} already, and not as {requested:?}"),
            Error::OutOfBounds { at, start, size } => {
                write!(f, "vmalloc-out-of-bounds: {at:#x} is past the {size} bytes at {start:#x}, and was written to")
            }
            Error::WrongContext(context) => write!(f, "not from here ({context:?})"),
            Error::Interrupted => f.write_str("a fatal signal waits"),
        }
    }
}

impl core::error::Error for Error {}

/// What it says: addresses are in hex.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmalloc::units::VirtAddr;

    #[test]
    fn addresses_are_in_hex_in_debug_too() {
        extern crate std;
        assert_eq!(std::format!("{:?}", Error::NoArea(0x1000)), "Error(no area starts at 0x1000)");
        let full = Error::NoRoom { bytes: 100, align: 8 };
        assert_eq!(std::format!("{full:?}"), "Error(no chunk has 100 bytes left at a multiple of 8)");
    }

    #[test]
    fn each_error_has_the_number_that_callers_look_for() {
        let busy = AllocError::NoAddresses { pages: 9, widest: 4 };
        assert_eq!(Error::from(busy).errno(), Errno::EBUSY);
        assert_eq!(Error::from(AllocError::InUse(VirtAddr(0x1000))).errno(), Errno::EBUSY);
        assert_eq!(Error::from(AllocError::NoTables { wanted: 1, got: Some(0) }).errno(), Errno::ENOMEM);
        assert_eq!(Error::from(AllocError::BadAlign(3)).errno(), Errno::EINVAL);
        assert_eq!(Error::ExceedsTotal { pages: 9, total: 4 }.errno(), Errno::E2BIG);
        assert_eq!(Error::OutsideArea { start: 1, end: 2, area: 3, area_end: 4 }.errno(), Errno::ERANGE);
        assert_eq!([Errno::EBUSY as i32, Errno::ENOMEM as i32, Errno::EINVAL as i32], [16, 12, 22]);
        assert_eq!([Errno::ERANGE as i32, Errno::E2BIG as i32], [34, 7]);
    }
}
