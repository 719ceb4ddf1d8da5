//! Faults: our handler comes first, and the program's own after it.
//!
//! ```text
//!   SIGSEGV, SIGBUS ─▶ ours: is the address owned? a report ─▶ below: the program's own handler,
//!                                                             or death by the signal, core and all
//! ```
//!
//! Where the library is preloaded, `sigaction` and `signal` are its own: what the program sets goes
//! *below*. Linux keeps the program's flags and mask, so everything that Linux does for its handler it
//! does for ours: whether it has a stack of its own, and which signals are kept out. Elsewhere the
//! guard looks from time to time whether it still comes first, and puts what it finds below.
//!
//! # Rules
//! - **X1** Without an owned address nothing happens here, but that the program's own handler is called.
//! - **X2** A signal that Linux would have killed the program for does so: the default is restored, and
//!   the faulting instruction runs again.

use crate::finding::{Access, Finding};
use crate::process;
use crate::report;
use crate::trace::{Mark, Registers};
use core::ffi::{c_int, c_void};
use core::mem::{MaybeUninit, zeroed};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicUsize, Ordering::*};
use libc::{SA_ONSTACK, SA_RESETHAND, SA_SIGINFO, SIG_DFL, SIG_IGN, SIGBUS, SIGSEGV, sigaction, siginfo_t};

/// The call of the C library that sets a handler.
pub type SetHandler = unsafe extern "C" fn(c_int, *const sigaction, *mut sigaction) -> c_int;

/// Whether `signal` is one of ours.
pub fn is_ours(signal: c_int) -> bool {
    matches!(signal, SIGSEGV | SIGBUS)
}

/// What the program has set for a signal.
struct Below {
    handler: AtomicUsize,
    flags: AtomicI32,
    /// Whether ours has been set.
    is_set: AtomicBool,
    /// All of it, for those who ask.
    action: lock_api::Mutex<vmalloc_window::RawLock, MaybeUninit<sigaction>>,
}

impl Below {
    const fn new() -> Below {
        Below {
            handler: AtomicUsize::new(SIG_DFL),
            flags: AtomicI32::new(0),
            is_set: AtomicBool::new(false),
            action: lock_api::Mutex::const_new(
                <vmalloc_window::RawLock as lock_api::RawMutex>::INIT,
                MaybeUninit::zeroed(),
            ),
        }
    }

    fn put(&self, action: &sigaction) {
        self.handler.store(action.sa_sigaction, Relaxed);
        self.flags.store(action.sa_flags, Relaxed);
    }
}

static BELOW: [Below; 2] = [const { Below::new() }; 2];
/// The next `sigaction`, where the library has one of its own; 0 = the C library's.
static NEXT: AtomicUsize = AtomicUsize::new(0);
/// Times that somebody asked whether ours comes first.
static ASKED: AtomicU32 = AtomicU32::new(0);

fn below(signal: c_int) -> &'static Below {
    &BELOW[(signal == SIGBUS) as usize]
}

/// `sigaction` is the library's own: this is the next one.
pub fn interposed(next: SetHandler) {
    NEXT.store(next as usize, Release);
}

fn next() -> SetHandler {
    match NEXT.load(Acquire) {
        0 => libc::sigaction,
        // SAFETY: `interposed` stored it.
        next => unsafe { core::mem::transmute::<usize, SetHandler>(next) },
    }
}

/// Our handler in place of what was set, with the flags and the mask of that.
fn ours_above(was: &sigaction) -> sigaction {
    let mut ours = *was;
    let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = on_fault;
    ours.sa_sigaction = handler as usize;
    ours.sa_flags = (was.sa_flags | SA_SIGINFO) & !SA_RESETHAND;
    if matches!(was.sa_sigaction, SIG_DFL | SIG_IGN) {
        ours.sa_flags |= SA_ONSTACK;
    }
    ours
}

/// Our handlers come first from now on.
pub fn attend() {
    [SIGSEGV, SIGBUS].into_iter().for_each(rise);
}

/// Now and then: the program may have set its own.
pub fn attend_again() {
    if NEXT.load(Relaxed) == 0 && is_time(ASKED.fetch_add(1, Relaxed)) {
        attend();
    }
}

/// Often at the start of a program, and seldom later.
fn is_time(asked: u32) -> bool {
    asked < 64 || asked.is_multiple_of(64)
}

fn rise(signal: c_int) {
    let below = below(signal);
    let mut action = below.action.lock();
    // SAFETY: it is plain numbers, and the call fills it.
    unsafe {
        let mut was: sigaction = zeroed();
        if next()(signal, core::ptr::null(), &mut was) != 0 || ours_above(&was).sa_sigaction == was.sa_sigaction {
            return;
        }
        below.put(&was);
        action.write(was);
        below.is_set.store(next()(signal, &ours_above(&was), null_mut()) == 0, Release);
    }
}

/// As `sigaction`, for one of our signals: what the program sets goes below ours.
///
/// # Safety
/// As for `sigaction`.
pub unsafe fn set_below(signal: c_int, new: *const sigaction, old: *mut sigaction) -> c_int {
    let below = below(signal);
    let mut action = below.action.lock();
    if !below.is_set.load(Acquire) {
        // SAFETY: the caller's promise.
        return unsafe { next()(signal, new, old) };
    }
    // SAFETY: the caller's promise; the action was written before it was set.
    unsafe {
        let (was, new) = (action.assume_init(), new.as_ref().copied());
        let done = new.map_or(0, |new| next()(signal, &ours_above(&new), null_mut()));
        if done == 0 {
            new.into_iter().for_each(|new| {
                below.put(&new);
                action.write(new);
            });
            old.as_mut().into_iter().for_each(|old| *old = was);
        }
        done
    }
}

/// Before a fork: nobody is in the middle of a change.
pub fn hold() {
    BELOW.iter().for_each(|below| core::mem::forget(below.action.lock()));
}

/// After a fork.
///
/// # Safety
/// The thread has called [`hold`].
pub unsafe fn give_up() {
    // SAFETY: the caller's promise.
    BELOW.iter().for_each(|below| unsafe { below.action.force_unlock() });
}

/// There may be little stack: a thread's stack for handlers is some 8 KiB, half of which Linux itself fills.
/// So nothing large is kept here, and the backtrace follows in the copy that writes the report.
extern "C" fn on_fault(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let errno = crate::os::errno();
    // SAFETY: Linux passes both.
    let (code, at) = unsafe { ((*info).si_code, (*info).si_addr().addr()) };
    if code > 0 && process::may_own(at) {
        // SAFETY: as above.
        let (by, access) = unsafe { where_and_how(context) };
        let engine = process::engine();
        let finding = engine.and_then(|engine| Finding::fault(engine, at, access, by));
        finding.into_iter().for_each(|finding| report::tell(&finding));
    }
    crate::os::set_errno(errno);
    pass(signal, code, info, context);
}

/// The program's own handler, or what Linux does without one.
fn pass(signal: c_int, code: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let below = below(signal);
    let flags = below.flags.load(Relaxed);
    let once = flags & SA_RESETHAND != 0;
    let handler = if once { below.handler.swap(SIG_DFL, Relaxed) } else { below.handler.load(Relaxed) };
    match handler {
        SIG_IGN if code <= 0 => (),
        SIG_DFL | SIG_IGN => end(signal, code),
        // SAFETY: the program has set it as a handler of this form; what is passed is Linux's.
        _ if flags & SA_SIGINFO != 0 => unsafe {
            core::mem::transmute::<usize, extern "C" fn(c_int, *mut siginfo_t, *mut c_void)>(handler)(
                signal, info, context,
            )
        },
        // SAFETY: as above.
        _ => unsafe { core::mem::transmute::<usize, extern "C" fn(c_int)>(handler)(signal) },
    }
}

/// X2. A signal that somebody sent is sent again: there is no instruction that would.
fn end(signal: c_int, code: c_int) {
    by_default(signal);
    if code <= 0 {
        // SAFETY: no pointers.
        unsafe { libc::raise(signal) };
    }
}

/// Linux does with `signal` what it does without a handler.
pub fn by_default(signal: c_int) {
    // SAFETY: the default action is plain numbers, all clear.
    unsafe {
        let default: sigaction = zeroed();
        next()(signal, &default, null_mut());
    }
}

/// The program ends as the C library ends it for a free that it refuses.
pub fn abort() -> ! {
    // SAFETY: no arguments.
    unsafe { libc::abort() }
}

/// # Safety
/// The context is that of a handler.
#[cfg(target_arch = "x86_64")]
unsafe fn where_and_how(context: *mut c_void) -> (Registers, Access) {
    // SAFETY: the caller's promise.
    let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    // The error code of a page fault: bit 1 is a store. Source: SDM, volume 3, 4.7.
    let is_store = registers[libc::REG_ERR as usize] & 2 != 0;
    let register = |n: i32| registers[n as usize] as usize;
    let by = Registers { pc: register(libc::REG_RIP), sp: register(libc::REG_RSP), bp: register(libc::REG_RBP) };
    (by, if is_store { Access::Write } else { Access::Read })
}

/// # Safety
/// The context is that of a handler.
#[cfg(target_arch = "aarch64")]
unsafe fn where_and_how(context: *mut c_void) -> (Registers, Access) {
    // SAFETY: the caller's promise.
    let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext };
    let by = Registers { pc: registers.pc as usize, sp: registers.sp as usize, bp: registers.regs[29] as usize };
    (by, Access::Unknown)
}

/// Unwinds once, so that what the unwinder prepares at its first call is prepared.
pub fn prime() {
    #[cfg(target_arch = "x86_64")]
    crate::unwind::prime();
    let _ = crate::trace::Trace::here(Mark::here());
}
