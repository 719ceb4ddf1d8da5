//! `libvmalloc_guard.so`: malloc and its family over the next allocator, to be preloaded.
//!
//! Each function asks whether this allocation is due, or this address may be owned; everything else is
//! the next allocator's: a load, a comparison, a jump.
//!
//! # The next allocator
//! Its functions are looked up by name when one is first called (`next.rs`). The lookup may itself allocate:
//! then a small piece of memory of our own serves, of which nothing is ever given back.
//!
//! Callers that come to the C library's own functions past this library are sent back (`own.rs`).
//!
//! # Handlers
//! `sigaction`, `signal` and their kin put what the program sets for SIGSEGV and SIGBUS below the guard's
//! handler.
//!
//! # Forks
//! The guard's handlers of a fork are set before all others.
//!
//! # Limits
//! A program that allows itself less gets back what the guard has in reserve.

mod family;
mod forks;
mod limits;
mod next;
mod own;
mod signals;

/// Before the program's own first code.
#[used]
#[unsafe(link_section = ".init_array")]
static LOADED: extern "C" fn() = loaded;

extern "C" fn loaded() {
    guard::raw::look_at_stderr();
    next::attend();
    own::attend();
    signals::attend();
    guard::raw::begin();
}

/// The heap of this library itself. It never calls the program's.
#[global_allocator]
static HEAP: guard::raw::Heap = guard::raw::Heap;
