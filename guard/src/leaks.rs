//! What is left at the exit, by who made it.
//!
//! Counted without a heap: a group for each number of a backtrace, in memory that is taken for that.

use crate::engine::Engine;
use crate::os;
use crate::report::{self, Subject};
use crate::slot::State;
use crate::stderr;
use core::fmt;

/// The most groups that are told.
const MOST: usize = 100;

/// Allocations of one backtrace.
#[derive(Clone, Copy, Default, Debug)]
pub struct Group {
    /// The number of the backtrace.
    pub trace: u32,
    /// The bytes together.
    pub bytes: usize,
    /// The allocations.
    pub count: usize,
}

/// What is left.
pub struct Leaks<'e> {
    groups: &'e [Group],
}

impl Leaks<'_> {
    /// Counts what lives, the largest group first.
    pub fn count(engine: &Engine) -> Leaks<'_> {
        let Some(groups) = room(engine.depot.most()) else { return Leaks { groups: &[] } };
        for slot in engine.slots.all().filter(|slot| slot.state() == State::Live) {
            let trace = slot.made().trace;
            if let Some(group) = groups.get_mut(trace as usize) {
                *group = Group { trace, bytes: group.bytes + slot.place().size, count: group.count + 1 };
            }
        }
        groups.sort_unstable_by_key(|group| (core::cmp::Reverse(group.bytes), group.trace));
        Leaks { groups }
    }

    /// Bytes and allocations of all groups.
    pub fn sum(&self) -> (usize, usize) {
        let all = self.groups.iter();
        all.fold((0, 0), |(bytes, count), group| (bytes + group.bytes, count + group.count))
    }

    /// Calls `f` with each group that is told.
    pub fn each(&self, f: &mut dyn FnMut(&Group) -> fmt::Result) -> fmt::Result {
        self.groups.iter().filter(|group| group.count > 0).take(MOST).try_for_each(f)
    }
}

/// Clear groups, in memory of their own.
fn room<'a>(len: usize) -> Option<&'a mut [Group]> {
    let at = os::memory(len * size_of::<Group>())?.cast::<Group>();
    // SAFETY: clear bytes are groups of nothing; nobody else has the memory.
    Some(unsafe { core::slice::from_raw_parts_mut(at.as_ptr(), len) })
}

/// The list is written at the exit.
pub fn attend() {
    stderr::keep();
    // SAFETY: the function may run at any time.
    unsafe { libc::atexit(at_exit) };
}

extern "C" fn at_exit() {
    report::write(&Subject::Leaks);
}
