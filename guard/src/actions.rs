//! What the program has set for our signals: its actions lie *below* the guard's handler.
//!
//! Where the library is preloaded, the calls that set handlers are its own: what the program sets goes
//! below. Linux keeps the program's flags and mask, so everything that Linux does for its handler it
//! does for ours: whether it has a stack of its own, and which signals are kept out. Elsewhere the
//! guard looks from time to time whether it still comes first, and puts what it finds below.
//!
//! # Rules
//! - **B1** Who asks is told what the program has set, also if that was for once and has been used.
//! - **B2** What another process sets is its own. The child of a vfork(2) has our memory, and Linux's
//!   record of handlers for itself: below stays what it was.
//! - **B3** No signal handler runs in a thread that is in here: it may set handlers itself.

use crate::fault;
use crate::os::{self, Mask};
use core::ffi::c_int;
use core::mem::{MaybeUninit, zeroed};
use core::ptr::{null, null_mut};
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicUsize, Ordering::*};
use libc::{SA_ONSTACK, SA_RESETHAND, SA_RESTART, SA_SIGINFO, SIG_DFL, SIG_IGN, SIGBUS, SIGSEGV, sigaction};
use vmalloc_window::RawLock;

/// The call of the C library that sets a handler.
pub type SetHandler = unsafe extern "C" fn(c_int, *const sigaction, *mut sigaction) -> c_int;

/// Whether `signal` is one of ours.
pub fn is_ours(signal: c_int) -> bool {
    matches!(signal, SIGSEGV | SIGBUS)
}

/// What the program has set for a signal.
pub struct Below {
    handler: AtomicUsize,
    flags: AtomicI32,
    /// All of it, for those who ask.
    action: lock_api::Mutex<RawLock, MaybeUninit<sigaction>>,
}

static BELOW: [Below; 2] = [const { Below::new() }; 2];
/// The next `sigaction`, where the library has one of its own; 0 = the C library's.
static NEXT: AtomicUsize = AtomicUsize::new(0);
/// Times that somebody asked whether ours comes first.
static ASKED: AtomicU32 = AtomicU32::new(0);
/// The process whose actions these are (B2); 0 = ours are not set.
static PROCESS: AtomicU32 = AtomicU32::new(0);

/// What the program has set for `signal`.
pub fn below(signal: c_int) -> &'static Below {
    &BELOW[(signal == SIGBUS) as usize]
}

impl Below {
    const fn new() -> Below {
        Below {
            handler: AtomicUsize::new(SIG_DFL),
            flags: AtomicI32::new(0),
            action: lock_api::Mutex::const_new(<RawLock as lock_api::RawMutex>::INIT, MaybeUninit::zeroed()),
        }
    }

    fn put(&self, to: &mut MaybeUninit<sigaction>, action: &sigaction) {
        self.handler.store(action.sa_sigaction, Relaxed);
        self.flags.store(action.sa_flags, Relaxed);
        to.write(*action);
    }

    /// The handler that is to be called now, and its flags. One for once is used up.
    pub fn take(&self) -> (usize, c_int) {
        let flags = self.flags.load(Relaxed);
        let once = flags & SA_RESETHAND != 0;
        (if once { self.handler.swap(SIG_DFL, Relaxed) } else { self.handler.load(Relaxed) }, flags)
    }

    /// B1.
    fn told(&self, action: &MaybeUninit<sigaction>) -> sigaction {
        // SAFETY: clear bytes are an action; whoever wrote another one wrote all of it.
        sigaction { sa_sigaction: self.handler.load(Relaxed), ..unsafe { action.assume_init() } }
    }
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

/// What Linux does with `signal` now; `None` if it does not tell.
fn now(signal: c_int) -> Option<sigaction> {
    // SAFETY: it is plain numbers, and the call fills it.
    unsafe {
        let mut now: sigaction = zeroed();
        (next()(signal, null(), &mut now) == 0).then_some(now)
    }
}

/// Our handler in place of what was set, with the flags and the mask of that.
fn ours_above(was: &sigaction) -> sigaction {
    let mut ours = *was;
    ours.sa_sigaction = fault::handler();
    ours.sa_flags = (was.sa_flags | SA_SIGINFO) & !SA_RESETHAND;
    if matches!(was.sa_sigaction, SIG_DFL | SIG_IGN) {
        // What is ignored interrupts nothing.
        ours.sa_flags |= SA_ONSTACK | SA_RESTART;
    }
    ours
}

/// Our handlers come first from now on.
pub fn attend() {
    PROCESS.store(os::process(), Relaxed);
    [SIGSEGV, SIGBUS].into_iter().for_each(rise);
}

/// Now and then: the program may have set its own.
pub fn attend_again() {
    if NEXT.load(Relaxed) == 0 && is_time(ASKED.fetch_add(1, Relaxed)) && is_own_process() {
        [SIGSEGV, SIGBUS].into_iter().for_each(rise);
    }
}

/// B2. False also before [`attend`].
fn is_own_process() -> bool {
    PROCESS.load(Relaxed) == os::process()
}

/// Often at the start of a program, and seldom later.
fn is_time(asked: u32) -> bool {
    asked < 64 || asked.is_multiple_of(64)
}

fn rise(signal: c_int) {
    let was = Mask::block_all();
    put_above(signal);
    was.set();
}

fn put_above(signal: c_int) {
    let below = below(signal);
    let mut action = below.action.lock();
    let Some(was) = now(signal).filter(|was| was.sa_sigaction != fault::handler()) else { return };
    below.put(&mut action, &was);
    // SAFETY: our handler may run at any time.
    unsafe { next()(signal, &ours_above(&was), null_mut()) };
}

/// As `sigaction`, for one of our signals: what the program sets goes below ours.
///
/// # Safety
/// As for `sigaction`.
pub unsafe fn set_below(signal: c_int, new: *const sigaction, old: *mut sigaction) -> c_int {
    // SAFETY: the caller's promise.
    let new = unsafe { new.as_ref() }.copied();
    let was = Mask::block_all();
    let set = if is_own_process() { change(signal, new) } else { change_own(signal, new) };
    was.set();
    // SAFETY: the caller's promise.
    set.map_or(-1, |was| unsafe {
        old.as_mut().map_or(0, |old| {
            *old = was;
            0
        })
    })
}

/// What was set before.
fn change(signal: c_int, new: Option<sigaction>) -> Option<sigaction> {
    let below = below(signal);
    let mut action = below.action.lock();
    let now = now(signal)?;
    let was = if now.sa_sigaction == fault::handler() { below.told(&action) } else { now };
    if let Some(new) = new {
        // SAFETY: our handler may run at any time.
        if unsafe { next()(signal, &ours_above(&new), null_mut()) } != 0 {
            return None;
        }
        below.put(&mut action, &new);
    }
    Some(was)
}

/// B2. Nothing of ours changes, so nothing is locked: the process may be a copy of which no other thread
/// is left to give a lock back.
fn change_own(signal: c_int, new: Option<sigaction>) -> Option<sigaction> {
    let now = now(signal)?;
    // SAFETY: it is read while the thread that owns it waits, or from a copy: at worst half of it is new.
    let below_ours = || below(signal).told(unsafe { &*below(signal).action.data_ptr() });
    let was = if now.sa_sigaction == fault::handler() { below_ours() } else { now };
    // SAFETY: the program's.
    let done = new.map_or(0, |new| unsafe { next()(signal, &new, null_mut()) });
    (done == 0).then_some(was)
}

/// Linux does with `signal` what it does without a handler.
pub fn by_default(signal: c_int) {
    // SAFETY: the default action is plain numbers, all clear.
    unsafe {
        let default: sigaction = zeroed();
        next()(signal, &default, null_mut());
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

/// In the child of a fork: the actions are copies, and its own.
pub fn inherit() {
    if PROCESS.load(Relaxed) != 0 {
        PROCESS.store(os::process(), Relaxed);
    }
}
