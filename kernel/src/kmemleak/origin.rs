//! Who allocates, and what is scanned from: what the host says.

use super::object::{MAX_TRACE, Origin, Place};
use crate::host::Host;
use core::fmt::{self, Write};

/// What a root is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RootKind {
    /// The kernel's own data (`.data`, `.bss`).
    Data,
    /// A CPU's own data.
    PerCpu,
    /// A task's stack: not scanned after `stack=off`.
    Stack,
    /// Registers of a task or a CPU, as they were saved.
    Registers,
}

/// Memory from which references lead to objects, and which is none itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Root {
    pub(super) kind: RootKind,
    pub(super) start: usize,
    pub(super) bytes: usize,
    pub(super) place: Place,
}

impl Root {
    /// `bytes` bytes from `start` on, which are read there.
    ///
    /// # Safety
    /// Y8, as long as the host names it, and during the step of a scan in which it stops.
    pub const unsafe fn memory(kind: RootKind, start: usize, bytes: usize) -> Root {
        Root { kind, start, bytes, place: Place::Direct }
    }

    /// `bytes` bytes from `start` on in an area of the instance, which may be freed at any time:
    /// a task's stack.
    pub const fn in_area(kind: RootKind, start: usize, bytes: usize) -> Root {
        Root { kind, start, bytes, place: Place::Area }
    }
}

/// The current task, as the host knows it.
pub(super) fn origin_of(host: &impl Host) -> Origin {
    let mut stack = [0; MAX_TRACE];
    let frames = host.stack(&mut stack).min(MAX_TRACE);
    let mut origin = Origin::new("", host.pid(), &stack[..frames]);
    let comm = fmt::from_fn(|f| host.comm(f));
    // A host that cannot say its name has none.
    let _ = write!(origin, "{comm}");
    origin
}
