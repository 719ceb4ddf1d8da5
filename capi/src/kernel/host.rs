//! What the traditional subsystem asks of a process, and the scopes of its threads.

use super::rcu;
use crate::border::border;
use std::cell::Cell;
use std::ffi::c_uint;
use std::time::Duration;
use std::{fmt, process, thread};
use vmalloc_kernel::{Host, Scope};

thread_local! {
    static SCOPE: Cell<Scope> = const { Cell::new(Scope::empty()) };
}

/// A process: a thread is a task.
pub struct Process;

impl Host for Process {
    fn comm(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let thread = thread::current();
        f.write_str(thread.name().unwrap_or("thread"))
    }

    fn pid(&self) -> u32 {
        process::id()
    }

    fn sleep_tick(&self) {
        thread::sleep(Duration::from_millis(1));
    }

    fn scope(&self) -> Scope {
        SCOPE.get()
    }

    fn set_scope(&self, scope: Scope) {
        SCOPE.set(scope);
    }

    fn rcu_begin(&self) -> u64 {
        rcu::begin()
    }

    fn rcu_passed(&self, number: u64) -> bool {
        rcu::has_passed(number)
    }

    fn synchronize_rcu(&self) {
        rcu::synchronize();
    }
}

/// Puts the thread into a scope as well (`memalloc_nofs_save` and its siblings): 1 NOFS, 2 NOIO, 4 NORECLAIM.
/// Returns which of these it was in already.
#[unsafe(no_mangle)]
pub extern "C" fn vmalloc_kernel_scope_enter(scope: c_uint) -> c_uint {
    let (now, more) = (SCOPE.get(), Scope::from_bits_truncate(scope as u8));
    SCOPE.set(now | more);
    c_uint::from((now & more).bits())
}

/// Takes the thread out of a scope, but for what it `was` in before.
#[unsafe(no_mangle)]
pub extern "C" fn vmalloc_kernel_scope_leave(scope: c_uint, was: c_uint) {
    let [scope, was] = [scope, was].map(|bits| Scope::from_bits_truncate(bits as u8));
    SCOPE.set((SCOPE.get() - scope) | was);
}

/// The flags that a request with these has in the thread's scope (`current_gfp_context`).
#[unsafe(no_mangle)]
pub extern "C" fn vmalloc_kernel_gfp_context(flags: c_uint) -> c_uint {
    border(|| Ok(SCOPE.get().apply(super::gfp(flags)?).bits() as i32)) as c_uint
}
