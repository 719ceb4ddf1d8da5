//! Where text goes: stderr, or what it was where a program closes it before its end, as those of GNU do.
//!
//! A list of what is left is written after that. So where one is wanted, a second descriptor of stderr is
//! kept, with a high number, closed by exec(2). It keeps a pipe open, and does not change which numbers the
//! program gets.

use crate::os::{self, File};
use core::ffi::c_int;
use core::sync::atomic::{AtomicI32, AtomicU64, Ordering::*};
use libc::STDERR_FILENO;

/// Numbers that programs do not look at, where the process may have them.
const NUMBERS: [c_int; 3] = [1000, 250, 100];

static KEPT: AtomicI32 = AtomicI32::new(-1);
/// Which file it is: a program may have closed the number, and opened another file by it.
static FILE: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// From now on there is a second one.
pub fn keep() {
    let (Some(file), Some(kept)) =
        (os::file(STDERR_FILENO), NUMBERS.iter().find_map(|&n| os::second(STDERR_FILENO, n)))
    else {
        return;
    };
    FILE[0].store(file.device, Relaxed);
    FILE[1].store(file.number, Relaxed);
    KEPT.store(kept, Relaxed);
}

/// The descriptor to write to.
pub fn number() -> c_int {
    let (kept, was) = (KEPT.load(Relaxed), FILE.each_ref().map(|part| part.load(Relaxed)));
    let is_kept = |file: File| [file.device, file.number] == was;
    if os::file(STDERR_FILENO).is_none() && os::file(kept).is_some_and(is_kept) { kept } else { STDERR_FILENO }
}
