//! Why a case failed.

use core::fmt;
use vmalloc::{AllocError, FreeError};

/// What a case met that it should not have. It has given back what it made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// An area, a mapping or a frame was refused.
    Alloc(AllocError),
    /// A free was refused.
    Free(FreeError),
    /// An area aligned to 2^shift was served, for which the region has no room.
    Served {
        /// The exponent.
        shift: u32,
    },
    /// The traditional subsystem refused something.
    Traditional(vmalloc_kernel::Error),
    /// The first byte of an area that was resized is another one.
    Lost,
    /// More frames than a case holds ([`Error::MOST_FRAMES`]).
    TooManyFrames(usize),
}

impl Error {
    /// Frames that a case maps at most.
    pub const MOST_FRAMES: usize = 256;
}

impl From<AllocError> for Error {
    fn from(why: AllocError) -> Error {
        Error::Alloc(why)
    }
}

impl From<vmalloc_kernel::Error> for Error {
    fn from(why: vmalloc_kernel::Error) -> Error {
        Error::Traditional(why)
    }
}

impl From<FreeError> for Error {
    fn from(why: FreeError) -> Error {
        Error::Free(why)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Alloc(why) => write!(f, "refused: {why}"),
            Error::Free(why) => write!(f, "not freed: {why}"),
            Error::Served { shift } => write!(f, "an alignment of 2^{shift} bytes was served, which cannot be"),
            Error::Traditional(why) => write!(f, "refused: {why}"),
            Error::Lost => f.write_str("a resized area lost its first byte"),
            Error::TooManyFrames(frames) => write!(f, "{frames} frames; at most {} are held", Error::MOST_FRAMES),
        }
    }
}

impl core::error::Error for Error {}
