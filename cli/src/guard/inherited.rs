//! What the program inherits from whoever started this command.
//!
//! Before `main`, Rust ignores SIGPIPE and opens /dev/null in place of a closed standard descriptor; before
//! it runs a program it lets SIGPIPE end that. The program is to find what it would have found: so it is noted
//! before Rust begins, and restored when the program takes this command's place.

use std::ffi::c_int;
use std::mem::zeroed;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr::null;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Standard descriptors.
const STANDARD: [c_int; 3] = [libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO];

static IGNORES_PIPES: AtomicBool = AtomicBool::new(false);
static CLOSED: [AtomicBool; 3] = [const { AtomicBool::new(false) }; 3];

/// The loader calls it before `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE: extern "C" fn() = note;

extern "C" fn note() {
    // SAFETY: an action is plain numbers, and the call fills it; a descriptor is only asked for.
    unsafe {
        let mut action: libc::sigaction = zeroed();
        libc::sigaction(libc::SIGPIPE, null(), &mut action);
        IGNORES_PIPES.store(action.sa_sigaction == libc::SIG_IGN, Relaxed);
        for (descriptor, closed) in STANDARD.into_iter().zip(&CLOSED) {
            closed.store(libc::fcntl(descriptor, libc::F_GETFD) < 0, Relaxed);
        }
    }
}

/// The program finds what this command found.
pub fn pass_on(command: &mut Command) {
    // SAFETY: what runs makes calls to Linux, and allocates nothing.
    unsafe { command.pre_exec(restore) };
}

fn restore() -> std::io::Result<()> {
    // SAFETY: no handler; nobody uses what is closed, since it was.
    unsafe {
        if IGNORES_PIPES.load(Relaxed) {
            libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        }
        for (descriptor, _) in STANDARD.into_iter().zip(&CLOSED).filter(|(_, closed)| closed.load(Relaxed)) {
            libc::close(descriptor);
        }
    }
    Ok(())
}
