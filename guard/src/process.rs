//! The one guard of a process: made at the first allocation that needs it, never unmade.
//!
//! ```text
//!   NONE ──the first caller──▶ MAKING ─▶ READY
//!                                    └─▶ REFUSED: no room; the underlying allocator serves
//! ```
//!
//! Whoever comes while it is being made gets nothing, which means the underlying allocator: it may be
//! the same thread, by a way through the C library.
//!
//! # Forks
//! The thread that forks first stops the instance and holds the lists. Until it has forked it is inside,
//! and its signals wait: what other handlers of the fork allocate is the underlying allocator's, and what
//! they free is closed later. In the child of a fork inside of a call, from a signal handler, nobody can
//! tell what that call was doing: there the guard is CRIPPLED, which is to allocate nothing more, and to
//! leave alone what is freed.

use crate::engine::Engine;
use crate::here;
use crate::os::Mask;
use crate::settings::Settings;
use crate::{actions, aside, fault, leaks, report, scratch, stderr};
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::*};
use vmalloc_window::AtFork;

const NONE: u32 = 0;
const MAKING: u32 = 1;
const READY: u32 = 2;
const REFUSED: u32 = 3;

struct Process {
    state: AtomicU32,
    engine: UnsafeCell<MaybeUninit<Engine>>,
    at_fork: AtFork,
    /// The thread that forks, and holds everything; 0 = none.
    holder: AtomicUsize,
    /// The signals that it kept out before.
    mask: UnsafeCell<Mask>,
    crippled: AtomicBool,
    /// The owned addresses: the first, and how many.
    start: AtomicUsize,
    bytes: AtomicUsize,
}

// SAFETY: the engine is written once, by the thread that moved the state from NONE, before it is READY. The
// mask is the holder's.
unsafe impl Sync for Process {}

static PROCESS: Process = Process {
    state: AtomicU32::new(NONE),
    engine: UnsafeCell::new(MaybeUninit::uninit()),
    at_fork: AtFork::new(),
    holder: AtomicUsize::new(0),
    mask: UnsafeCell::new(Mask::none()),
    crippled: AtomicBool::new(false),
    start: AtomicUsize::new(0),
    bytes: AtomicUsize::new(0),
};

/// Whether `at` may be owned: if not, it is the underlying allocator's.
#[inline(always)]
pub fn may_own(at: usize) -> bool {
    at.wrapping_sub(PROCESS.start.load(Relaxed)) < PROCESS.bytes.load(Relaxed)
}

/// Every address takes the slow path from now on.
pub fn own_all() {
    PROCESS.start.store(0, Relaxed);
    PROCESS.bytes.store(usize::MAX, Relaxed);
}

/// The guard, if it is ready.
pub fn engine() -> Option<&'static Engine> {
    // SAFETY: it was written before the state was READY.
    (PROCESS.state.load(Acquire) == READY).then(|| unsafe { (*PROCESS.engine.get()).assume_init_ref() })
}

/// Whether what is freed must be left alone.
pub fn is_crippled() -> bool {
    PROCESS.crippled.load(Relaxed)
}

/// The process may have at most this number of bytes of addresses from now on.
pub fn limit_addresses(bytes: usize) {
    let own = |region: &Range<usize>| PROCESS.bytes.store(region.len(), Relaxed);
    engine().into_iter().for_each(|engine| engine.cut(bytes, own));
}

/// From now on nothing is guarded, and nothing that was is freed.
pub fn cripple() {
    PROCESS.crippled.store(true, Relaxed);
}

/// Makes the guard with these settings, if nobody has. That takes some 24 KiB of stack.
pub fn begin(settings: impl FnOnce() -> Settings) {
    if PROCESS.state.load(Acquire) == NONE {
        make(settings);
    }
}

/// The guard, if this thread's allocation is due. The first caller makes it with these settings.
pub fn due(settings: impl FnOnce() -> Settings) -> Option<&'static Engine> {
    begin(settings);
    if PROCESS.state.load(Acquire) == REFUSED || is_crippled() {
        here::rest();
        return None;
    }
    let engine = engine().filter(|_| !here::is_inside())?;
    let every = engine.settings.every;
    if here::begin(engine.seed, every) && !here::is_due() {
        return None;
    }
    here::draw(every);
    actions::attend_again();
    Some(engine)
}

#[cold]
fn make(settings: impl FnOnce() -> Settings) {
    let (state, order) = (&PROCESS.state, Acquire);
    if scratch::is_on() || state.compare_exchange(NONE, MAKING, order, order).is_err() {
        return;
    }
    let made = here::inside(|| Engine::new(&settings())).flatten();
    let Some(engine) = made else { return state.store(REFUSED, Release) };
    let region = engine.region();
    // SAFETY: this thread moved the state from NONE.
    unsafe { (*PROCESS.engine.get()).write(engine) };
    PROCESS.start.store(region.start, Relaxed);
    PROCESS.bytes.store(region.len(), Relaxed);
    state.store(READY, Release);
    here::inside(attend);
}

// SAFETY: the declaration is that of the C library.
unsafe extern "C" {
    fn pthread_atfork(prepare: extern "C" fn(), parent: extern "C" fn(), child: extern "C" fn()) -> i32;
}

/// The process tells us of faults, of forks, and of its end.
fn attend() {
    attend_forks();
    fault::prime();
    actions::attend();
    stderr::look();
    if engine().is_some_and(|engine| engine.settings.leaks) {
        leaks::attend();
    }
}

/// The process tells us of forks. Whoever comes first is told last before a fork, and first after it: then
/// no other handler of the fork runs while everything is held.
pub fn attend_forks() {
    static ATTENDED: AtomicBool = AtomicBool::new(false);
    if !ATTENDED.swap(true, Relaxed) {
        // SAFETY: the handlers allocate nothing, and may run in any thread.
        unsafe { pthread_atfork(prepare, parent, child) };
    }
}

extern "C" fn prepare() {
    let Some(engine) = engine() else { return };
    let mask = Mask::block_all();
    if here::is_inside() || !PROCESS.at_fork.prepare(&engine.vm) {
        return mask.set();
    }
    here::enter();
    engine.hold();
    actions::hold();
    // SAFETY: the instance is stopped by this thread, so that no other one is here.
    unsafe { *PROCESS.mask.get() = mask };
    PROCESS.holder.store(here::place(), Relaxed);
}

extern "C" fn parent() {
    give_up(|| PROCESS.at_fork.parent());
}

extern "C" fn child() {
    here::forget_thread();
    actions::inherit();
    report::inherit();
    aside::inherit();
    if !give_up(|| PROCESS.at_fork.child()) {
        PROCESS.crippled.store(engine().is_some(), Relaxed);
    }
}

/// Gives up what this thread holds, and starts the instance by `start`; false if it holds nothing.
fn give_up(start: impl FnOnce()) -> bool {
    let is_holder = PROCESS.holder.load(Relaxed) == here::place();
    if is_holder {
        PROCESS.holder.store(0, Relaxed);
        // SAFETY: `prepare` wrote the mask, and held the others, in this thread.
        let mask = unsafe {
            actions::give_up();
            engine().into_iter().for_each(|engine| engine.give_up());
            *PROCESS.mask.get()
        };
        start();
        here::leave();
        mask.set();
    }
    is_holder
}
