//! Backtraces: who called.
//!
//! They follow from `.eh_frame`, as programs are built without frame pointers: by `unwind.rs`, and on other
//! processors and before glibc 2.35 by the compiler's library. It allocates nothing, and finds a function's
//! table without a lock (before glibc 2.35 with the dynamic linker's, which a thread may take twice).
//!
//! A trace is return addresses, the youngest first. The frames of the guard itself say nothing: those
//! below a mark on the stack are left out, and where the allocator is a library of its own, so are those
//! of its code.

use core::ffi::{c_int, c_void};
use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering::*};

/// The most frames of a trace.
pub const DEPTH: usize = 16;

/// Return addresses; 0 = none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trace {
    /// The youngest first.
    pub frames: [usize; DEPTH],
    /// How many there are.
    pub len: usize,
}

const NO_REASON: c_int = 0;
const NORMAL_STOP: c_int = 4;

type Visit = unsafe extern "C" fn(context: *mut c_void, argument: *mut c_void) -> c_int;

// SAFETY: the declarations are those of the Itanium C++ ABI, which libgcc and libunwind have.
unsafe extern "C" {
    fn _Unwind_Backtrace(visit: Visit, argument: *mut c_void) -> c_int;
    fn _Unwind_GetIP(context: *mut c_void) -> usize;
    fn _Unwind_GetCFA(context: *mut c_void) -> usize;
}

/// The addresses of the allocator's own code, if it is a library of its own.
static OWN: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

/// Frames at these addresses are left out from now on.
pub fn leave_out(code: Range<usize>) {
    OWN[0].store(code.start, Relaxed);
    OWN[1].store(code.end, Relaxed);
}

fn is_own(pc: usize) -> bool {
    (OWN[0].load(Relaxed)..OWN[1].load(Relaxed)).contains(&pc)
}

impl Trace {
    /// No frames.
    pub const EMPTY: Trace = Trace { frames: [0; DEPTH], len: 0 };

    /// The callers of this function, from the one on that made the mark.
    #[inline(never)]
    pub fn here(mark: Mark) -> Trace {
        let mut walk = Walk { trace: Trace::EMPTY, mark };
        if !walk.go_fast() {
            walk.trace = Trace::EMPTY;
            walk.go();
        }
        walk.trace
    }

    /// The frames from an interrupted one on, as far as they can be walked. Little stack is needed for none.
    #[cold]
    #[inline(never)]
    pub fn interrupted(at: Registers) -> Trace {
        let mut walk = Walk { trace: Trace::EMPTY, mark: Mark(0) };
        walk.take(at.pc);
        #[cfg(target_arch = "x86_64")]
        {
            let mut is_first = true;
            crate::unwind::walk_from(at, &mut |pc, _| core::mem::take(&mut is_first) || walk.take(pc));
        }
        walk.trace
    }

    /// The frames that there are.
    pub fn frames(&self) -> &[usize] {
        &self.frames[..self.len.min(DEPTH)]
    }
}

/// A place on the stack.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Mark(usize);

impl Mark {
    /// In the frame of the caller, or of whoever that is inlined into.
    #[inline(always)]
    pub fn here() -> Mark {
        let local = 0u8;
        Mark(core::hint::black_box(&raw const local).addr())
    }
}

/// Where a thread is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Registers {
    /// Its instruction.
    pub pc: usize,
    /// Its stack.
    pub sp: usize,
    /// What compiled code often keeps a frame's base in.
    pub bp: usize,
}

/// Where a thread is that did something wrong: its backtrace, or what it follows from.
#[derive(Clone, Copy, Debug)]
pub enum Spot {
    /// It is in a call of the guard.
    Called(Trace),
    /// It was interrupted, perhaps with little stack left.
    Interrupted(Registers),
}

impl Spot {
    /// Its backtrace.
    pub fn trace(&self) -> Trace {
        match *self {
            Spot::Called(trace) => trace,
            Spot::Interrupted(at) => Trace::interrupted(at),
        }
    }
}

struct Walk {
    trace: Trace,
    mark: Mark,
}

impl Walk {
    fn go(&mut self) {
        // SAFETY: `visit` gets this walk, which outlives the call.
        unsafe { _Unwind_Backtrace(visit, (&raw mut *self).cast()) };
    }

    /// False if that cannot be.
    #[cfg(target_arch = "x86_64")]
    fn go_fast(&mut self) -> bool {
        crate::unwind::walk(&mut |pc, base| self.is_below(base) || self.take(pc))
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn go_fast(&mut self) -> bool {
        false
    }

    /// Whether a frame is one that the mark leaves out. What comes later is none, wherever its stack is.
    fn is_below(&self, base: usize) -> bool {
        self.trace.len == 0 && Mark(base) <= self.mark
    }

    /// Takes a frame; false = enough.
    fn take(&mut self, pc: usize) -> bool {
        if pc != 0 && !(self.trace.len == 0 && is_own(pc)) {
            self.trace.frames[self.trace.len] = pc;
            self.trace.len += 1;
        }
        pc != 0 && self.trace.len < DEPTH
    }
}

/// Takes a frame into a walk.
///
/// # Safety
/// `walk` is what `Walk::go` passed.
unsafe extern "C" fn visit(context: *mut c_void, walk: *mut c_void) -> c_int {
    // SAFETY: the caller's promise.
    let walk = unsafe { &mut *walk.cast::<Walk>() };
    // SAFETY: the context is the unwinder's.
    let (pc, base) = unsafe { (_Unwind_GetIP(context), _Unwind_GetCFA(context)) };
    let goes_on = walk.is_below(base) || walk.take(pc);
    if goes_on { NO_REASON } else { NORMAL_STOP }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_has_the_callers_and_ends_with_the_first() {
        let all = Trace::here(Mark::here());
        assert!(all.len > 3, "{all:x?}");
        let mut walk = Walk { trace: Trace::EMPTY, mark: Mark(0) };
        let more: Vec<bool> = [1, 2, 0].map(|pc| walk.take(pc)).into();
        assert_eq!((more, walk.trace.frames()), (vec![true, true, false], &[1, 2][..]));
    }
}
