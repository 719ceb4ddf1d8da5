//! Why Linux, or the machine, refused: the meaning of a number, with the numbers behind it.
//!
//! Linux answers ENOMEM for want of memory, of addresses and of mappings alike. Which it was is found out when
//! somebody asks, by what the process has then.

use crate::budget::{self, MOST, Vmas};
use crate::mirror::BUDGET_SPENT;
use crate::os;
use std::cell::Cell;
use std::fmt;
use std::io;
use vmalloc::AllocError;

/// What the number of [`AllocError::Refused`](vmalloc::AllocError::Refused) means
/// ([`Hosted::refusal`](crate::Hosted::refusal)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The instance has the mappings that it may have, or Linux lets the process have no more.
    Mappings {
        /// Those of the instance.
        vmas: Vmas,
        /// Those of the process.
        process: usize,
    },
    /// The process may have no more addresses (RLIMIT_AS).
    Addresses {
        /// Bytes that it may have.
        limit: u64,
    },
    /// The frames are not in the machine's memory.
    NoSuchFrames {
        /// Frames that there are, RAM and device.
        frames: u64,
    },
    /// Linux lets nobody execute this memory, or use it in this way.
    Forbidden,
    /// Linux's error number, which says all that is known.
    Other(i32),
}

impl Refusal {
    /// What `number` means for a process and an instance that have these.
    pub(crate) fn new(number: i32, vmas: Vmas, frames: u64) -> Refusal {
        let process = || budget::count_vmas();
        match number {
            BUDGET_SPENT => Refusal::Mappings { vmas, process: process() },
            libc::ENOMEM => match (process(), os::address_limit()) {
                (process, _) if process + MOST >= vmas.limit => Refusal::Mappings { vmas, process },
                (_, Some(limit)) => Refusal::Addresses { limit },
                _ => Refusal::Other(number),
            },
            libc::ENXIO => Refusal::NoSuchFrames { frames },
            libc::EACCES | libc::EPERM => Refusal::Forbidden,
            number => Refusal::Other(number),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Refusal::Mappings { vmas, process } => {
                let Vmas { used, allowed, limit } = vmas;
                write!(f, "out of mappings: the instance has {used} of the {allowed} that it may have, ")?;
                write!(f, "the process {process} of the {limit} of vm.max_map_count; make fewer and larger areas, ")?;
                f.write_str("or raise that limit")
            }
            Refusal::Addresses { limit } => {
                write!(f, "out of addresses: the process may have {limit} bytes of them (ulimit -v)")
            }
            Refusal::NoSuchFrames { frames } => write!(f, "no such frames: the machine has {frames}"),
            Refusal::Forbidden => f.write_str("forbidden to this process, by Linux's settings for it"),
            Refusal::Other(number) => io::Error::from_raw_os_error(number).fmt(f),
        }
    }
}

impl std::error::Error for Refusal {}

thread_local! {
    static LAST: Cell<Option<i32>> = const { Cell::new(None) };
}

/// The last call of this thread has failed so: the library tells first, and then logs if it logs this one.
#[cold]
pub fn remember(error: AllocError) {
    LAST.set(match error {
        AllocError::Refused(number) => Some(number),
        _ => None,
    });
}

/// The number that belongs to the line that is logged.
pub fn take() -> Option<i32> {
    LAST.take()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VMAS: Vmas = Vmas { used: 61_400, allowed: 61_401, limit: 65_530 };

    #[test]
    fn a_spent_budget_names_its_mappings_and_the_setting_that_limits_them() {
        let Refusal::Mappings { vmas, process } = Refusal::new(BUDGET_SPENT, VMAS, 0) else { panic!() };
        assert!(vmas == VMAS && process > 3, "{process}");
        let said = Refusal::Mappings { vmas, process: 61_777 }.to_string();
        for part in ["61400 of the 61401", "61777 of the 65530 of vm.max_map_count", "larger areas"] {
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn for_want_of_memory_it_is_looked_what_the_process_is_short_of() {
        let used = Vmas { limit: budget::count_vmas(), ..VMAS };
        assert!(matches!(Refusal::new(libc::ENOMEM, used, 0), Refusal::Mappings { .. }));
        assert_eq!(Refusal::new(libc::ENOMEM, VMAS, 0), Refusal::Other(libc::ENOMEM));
        assert!(Refusal::Other(libc::ENOMEM).to_string().contains("Cannot allocate memory"));
    }

    #[test]
    fn frames_that_do_not_exist_and_what_is_forbidden_are_told_as_such() {
        assert_eq!(Refusal::new(libc::ENXIO, VMAS, 99).to_string(), "no such frames: the machine has 99");
        assert_eq!(Refusal::new(libc::EACCES, VMAS, 99), Refusal::Forbidden);
    }
}
