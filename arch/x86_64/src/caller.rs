//! Return addresses, for callers that `#[track_caller]` cannot see.
//!
//! Where a trait stands in between, as `GlobalAlloc` does for every `Vec`, all callers look like one.
//! A kernel that is built with frame pointers passes a return address instead:
//! `Req::caller(Caller::Return(pc))` and `Vmalloc::free_by`. `Machine::symbol` names it in listings.
//!
//! ```text
//!   rbp ─▶ │ caller's rbp │ return address │ …     of the function that asks: level 0
//!              └────────▶ │ its caller's   │ …     of its caller: level 1
//! ```

use core::arch::asm;

/// What a function with a frame pointer has at it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Frame {
    above: *const Frame,
    return_address: usize,
}

/// The return address of the calling function (`level` 0), of its caller (1), and so on; 0 beyond
/// the last frame, whose link is null.
///
/// # Safety
/// - X1. Each function on the stack up to that level keeps a frame pointer (`-C
///   force-frame-pointers=yes`, for `core` and `alloc` too), and the first one has a null link.
#[inline(always)]
pub unsafe fn return_address(level: usize) -> usize {
    let frame: *const Frame;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rbp", out(reg) frame, options(nomem, nostack, preserves_flags)) }
    // SAFETY: X1.
    unsafe { walk(frame, level) }
}

/// The return address `level` frames above `frame`.
///
/// # Safety
/// - X1. The links lead through frames, to null.
unsafe fn walk(mut frame: *const Frame, level: usize) -> usize {
    for _ in 0..level {
        if frame.is_null() {
            return 0;
        }
        // SAFETY: X1.
        frame = unsafe { (*frame).above };
    }
    // SAFETY: X1.
    unsafe { frame.as_ref() }.map_or(0, |frame| frame.return_address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::ptr::null;

    #[test]
    fn each_level_is_one_frame_up_and_beyond_the_last_is_nothing() {
        let first = Frame { above: null(), return_address: 0x30 };
        let second = Frame { above: &raw const first, return_address: 0x20 };
        let third = Frame { above: &raw const second, return_address: 0x10 };
        // SAFETY: X1: these are the links of three frames.
        let told = [0, 1, 2, 3, 4, 9].map(|level| unsafe { walk(&raw const third, level) });
        assert_eq!(told, [0x10, 0x20, 0x30, 0, 0, 0]);
    }
}
