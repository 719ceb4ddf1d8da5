//! The border: where each call enters Rust, and leaves it.
//!
//! ```text
//!   C ──▶ border ──▶ Ok(value) ──────▶ the value
//!                    Err(failure) ───▶ null or a negative number, and the thread's last error
//!                    panic ──────────▶ the same, and the instance serves no more
//! ```
//!
//! # Rules
//! - **CB1** Each exported function runs in [`border`] or [`serve`], so no panic crosses into C. Those that do
//!   not read and write a thread's own cells or look into a table, and cannot panic.
//! - **CB2** A panic may have left the instance as no call leaves it. So it is marked, and each later
//!   call on it is refused without a look at it. Its memory stays: whoever has areas may still use
//!   them.

use crate::instance::Instance;
use crate::number::{Failure, Number};
use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;

/// What a call returns where it was refused.
pub trait Answer {
    /// The value that stands for the error.
    fn refused(number: Number) -> Self;
}

impl<T> Answer for *mut T {
    fn refused(_: Number) -> *mut T {
        null_mut()
    }
}

impl Answer for c_int {
    fn refused(number: Number) -> c_int {
        number as c_int
    }
}

impl Answer for usize {
    fn refused(_: Number) -> usize {
        0
    }
}

impl Answer for () {
    fn refused(_: Number) {}
}

/// Runs a call, and makes what C understands of each way in which it may end.
pub fn border<T: Answer>(call: impl FnOnce() -> Result<T, Failure>) -> T {
    caught(call).unwrap_or_else(|failure| T::refused(failure.note()))
}

/// Runs a call on an instance (CB2).
///
/// # Safety
/// CP1.
pub unsafe fn serve<T: Answer>(vm: *const Instance, call: impl FnOnce(&Instance) -> Result<T, Failure>) -> T {
    // SAFETY: CP1.
    let vm = unsafe { vm.as_ref() }.ok_or_else(|| Failure::argument("the instance is null"));
    let served = vm.and_then(|vm| {
        if vm.has_panicked() {
            return Err(fault());
        }
        caught(|| call(vm)).inspect_err(|failure| {
            if failure.is_fault() {
                vm.set_panicked();
            }
        })
    });
    served.unwrap_or_else(|failure| T::refused(failure.note()))
}

fn caught<T>(call: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|payload| {
        // Its drop may panic, too.
        std::mem::forget(payload);
        Err(fault())
    })
}

fn fault() -> Failure {
    Failure::new(Number::Notrecoverable, "the library panicked in a call: what it worked on serves no more")
}

/// Panics in the middle of a call, for tests of CB1 and CB2: no release has it.
///
/// # Safety
/// CP1.
#[cfg(debug_assertions)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_panic(vm: *const Instance) -> c_int {
    // SAFETY: CP1, handed on.
    unsafe { serve(vm, |_| panic!("as the caller wishes")) }
}
