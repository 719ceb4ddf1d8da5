//! Where text goes: stderr, as it was when the library was loaded, or the guard was made.
//!
//! A program may close stderr, and another file of its gets the number: text in that would be damage. What
//! is written of a bug goes to stderr whatever it is by then, as what the C library writes does, unless there
//! was none at the start. A list of what is left, which a program without a bug gets, goes to the first
//! stderr alone. GNU's programs close that before their end: so where a list is wanted, a second
//! descriptor is kept, with a high number, closed by exec(2). It keeps a pipe open, and does not change which
//! numbers the program gets.

use crate::os::{self, File};
use core::ffi::c_int;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::*};
use libc::STDERR_FILENO;

/// Numbers that programs do not look at, where the process may have them.
const NUMBERS: [c_int; 3] = [1000, 250, 100];
/// The descriptor of nobody: what is written to it is lost.
const NONE: c_int = -1;

static KEPT: AtomicI32 = AtomicI32::new(NONE);
/// Which file stderr was; all 0 = it was closed.
static FILE: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// What stderr is now is what it was, if nobody has looked before.
pub fn look() {
    static LOOKED: AtomicBool = AtomicBool::new(false);
    if let Some(file) = os::file(STDERR_FILENO).filter(|_| !LOOKED.load(Relaxed)) {
        FILE[0].store(file.device, Relaxed);
        FILE[1].store(file.number, Relaxed);
    }
    LOOKED.store(true, Relaxed);
}

/// From now on there is a second one.
pub fn keep() {
    if first() == STDERR_FILENO {
        let second = NUMBERS.iter().find_map(|&n| os::second(STDERR_FILENO, n));
        KEPT.store(second.unwrap_or(NONE), Relaxed);
    }
}

fn was() -> File {
    File { device: FILE[0].load(Relaxed), number: FILE[1].load(Relaxed) }
}

/// The descriptor for a list.
pub fn first() -> c_int {
    let is_first = |&descriptor: &c_int| os::file(descriptor) == Some(was());
    [STDERR_FILENO, KEPT.load(Relaxed)].into_iter().find(is_first).unwrap_or(NONE)
}

/// The descriptor for what is written of a bug.
pub fn now() -> c_int {
    let had_none = was() == File { device: 0, number: 0 };
    if had_none || os::file(STDERR_FILENO).is_none() { first() } else { STDERR_FILENO }
}
