//! Backtraces: who called.
//!
//! They follow from `.eh_frame`, as programs are built without frame pointers: by `unwind.rs`, and where that
//! cannot, by the compiler's library. It allocates nothing, and finds a function's table without a lock
//! (glibc 2.35 and later; before that with the dynamic linker's, which a thread may take twice).
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
        let mut walk = Walk { trace: Trace::EMPTY, from: None, mark };
        if !walk.go_fast() {
            walk.trace = Trace::EMPTY;
            walk.go();
        }
        walk.trace
    }

    /// The frames from the one at `pc` on, from inside of a signal handler. All of them if it is not
    /// among them.
    #[inline(never)]
    pub fn interrupted(pc: usize) -> Trace {
        let mut walk = Walk { trace: Trace::EMPTY, from: Some(pc), mark: Mark(0) };
        walk.go();
        if walk.trace.len > 0 { walk.trace } else { Trace { len: 1, ..Trace::EMPTY }.with(0, pc) }
    }

    fn with(mut self, n: usize, pc: usize) -> Trace {
        self.frames[n] = pc;
        self
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

struct Walk {
    trace: Trace,
    mark: Mark,
    /// Frames before this one are not wanted.
    from: Option<usize>,
}

impl Walk {
    fn go(&mut self) {
        // SAFETY: `visit` gets this walk, which outlives the call.
        unsafe { _Unwind_Backtrace(visit, (&raw mut *self).cast()) };
    }

    /// False if that cannot be.
    #[cfg(target_arch = "x86_64")]
    fn go_fast(&mut self) -> bool {
        crate::unwind::walk(&mut |pc, base| Mark(base) <= self.mark || self.take(pc))
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn go_fast(&mut self) -> bool {
        false
    }

    /// Takes a frame; false = enough.
    fn take(&mut self, pc: usize) -> bool {
        let is_wanted = self.from.take_if(|from| *from == pc).is_some() || self.from.is_none();
        if pc == 0 {
            return false;
        }
        if is_wanted && !(self.trace.len == 0 && is_own(pc)) {
            self.trace.frames[self.trace.len] = pc;
            self.trace.len += 1;
        }
        self.trace.len < DEPTH
    }
}

unsafe extern "C" fn visit(context: *mut c_void, walk: *mut c_void) -> c_int {
    // SAFETY: `go` passed it.
    let walk = unsafe { &mut *walk.cast::<Walk>() };
    // SAFETY: the context is the unwinder's.
    let (pc, base) = unsafe { (_Unwind_GetIP(context), _Unwind_GetCFA(context)) };
    let goes_on = Mark(base) <= walk.mark || walk.take(pc);
    if goes_on { NO_REASON } else { NORMAL_STOP }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_has_the_callers_and_leaves_itself_out_on_request() {
        let all = Trace::here(Mark::here());
        assert!(all.len > 3, "{all:x?}");
        let mut walk = Walk { trace: Trace::EMPTY, from: Some(3), mark: Mark(0) };
        let more: Vec<bool> = [1, 2, 3, 4, 0].map(|pc| walk.take(pc)).into();
        assert_eq!((more, walk.trace.frames()), (vec![true, true, true, true, false], &[3, 4][..]));
    }
}
