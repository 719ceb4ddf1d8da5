//! Errors, and the numbers that C programs know them by.

use crate::user::Fault;
use core::fmt;
use vmalloc::AllocError;

/// Why a call was refused. Nothing has changed then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// User memory could not be reached (EFAULT).
    Fault,
    /// No such command, or not of this device (ENOTTY).
    NoCommand(u32),
    /// A number that order, qset or the count of devices cannot be (EINVAL).
    BadValue {
        /// Which of them.
        what: &'static str,
        /// What was given.
        value: i64,
        /// The least that is allowed.
        least: u32,
        /// The most that is allowed.
        most: u32,
    },
    /// No position of a file (EINVAL).
    BadPosition,
    /// None of SEEK_SET, SEEK_CUR and SEEK_END (EINVAL).
    BadWhence(u32),
    /// The device is mapped, and must stay as it is (EBUSY).
    Busy {
        /// Mappings that there are.
        mappings: u32,
    },
    /// The device's budget is spent (ENOSPC).
    NoSpace {
        /// Pages needed.
        pages: usize,
        /// Pages that the budget still has.
        left: usize,
    },
    /// The instance has no memory (ENOMEM).
    NoMemory(AllocError),
    /// At or past the largest size (EFBIG).
    TooLarge,
    /// A signal came while the call waited for the device (EINTR).
    Interrupted,
    /// The file is not open for this (EBADF).
    NotOpenForThis,
    /// No device has this number (ENXIO).
    NoDevice(usize),
}

impl Error {
    /// Linux's number for it.
    pub const fn errno(&self) -> i32 {
        match self {
            Error::Interrupted => 4,
            Error::NoDevice(_) => 6,
            Error::NotOpenForThis => 9,
            Error::NoMemory(_) => 12,
            Error::Fault => 14,
            Error::Busy { .. } => 16,
            Error::BadValue { .. } | Error::BadPosition | Error::BadWhence(_) => 22,
            Error::NoCommand(_) => 25,
            Error::TooLarge => 27,
            Error::NoSpace { .. } => 28,
        }
    }
}

impl From<Fault> for Error {
    fn from(_: Fault) -> Error {
        Error::Fault
    }
}

impl From<AllocError> for Error {
    fn from(why: AllocError) -> Error {
        Error::NoMemory(why)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Error::Fault => f.write_str("bad address in user memory"),
            Error::NoCommand(number) => write!(f, "{number:#x} is no command of the device"),
            Error::BadValue { what, value, least, most } => {
                write!(f, "{what} {value} is not between {least} and {most}")
            }
            Error::BadPosition => f.write_str("no position of a file"),
            Error::BadWhence(whence) => write!(f, "a seek from nowhere ({whence})"),
            Error::Busy { mappings } => write!(f, "the device is mapped ({mappings} mappings)"),
            Error::NoSpace { pages, left } => write!(f, "{pages} pages needed, {left} left of the device's budget"),
            Error::NoMemory(why) => why.fmt(f),
            Error::TooLarge => f.write_str("at or past the largest size of a file"),
            Error::Interrupted => f.write_str("interrupted while it waited for the device"),
            Error::NotOpenForThis => f.write_str("the file is not open for this"),
            Error::NoDevice(index) => write!(f, "there is no device {index}"),
        }
    }
}

impl core::error::Error for Error {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Error::NoMemory(why) => Some(why),
            _ => None,
        }
    }
}

/// Why a page of a mapping cannot be had: SIGBUS for who touched it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoPage {
    /// It begins at or past the size.
    BeyondSize,
    /// Nothing was written there.
    Hole,
    /// The machine's frames have no descriptors, so none can be held.
    NotHeld,
}

impl fmt::Display for NoPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NoPage::BeyondSize => "beyond the size of the device",
            NoPage::Hole => "a hole of the device",
            NoPage::NotHeld => "a frame that cannot be held",
        })
    }
}

impl core::error::Error for NoPage {}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::string::ToString;

    #[test]
    fn errors_have_the_numbers_that_c_programs_know() {
        let refused = Error::NoMemory(AllocError::NoFrames { wanted: 4, got: Some(1), node: None });
        let errors = [
            (Error::Interrupted, 4),
            (Error::NoDevice(4), 6),
            (Error::NotOpenForThis, 9),
            (refused, 12),
            (Error::Fault, 14),
            (Error::Busy { mappings: 1 }, 16),
            (Error::BadValue { what: "order", value: -1, least: 0, most: 18 }, 22),
            (Error::BadPosition, 22),
            (Error::BadWhence(7), 22),
            (Error::NoCommand(0), 25),
            (Error::TooLarge, 27),
            (Error::NoSpace { pages: 17, left: 3 }, 28),
        ];
        for (error, number) in errors {
            assert_eq!(error.errno(), number, "{error}");
        }
    }

    #[test]
    fn errors_say_their_numbers_and_their_cause() {
        let spent = Error::NoSpace { pages: 17, left: 3 };
        assert_eq!(spent.to_string(), "17 pages needed, 3 left of the device's budget");
        let refused = Error::NoMemory(AllocError::NotInitialised);
        let cause = core::error::Error::source(&refused).map(ToString::to_string);
        assert_eq!(cause, Some(refused.to_string()));
    }
}
