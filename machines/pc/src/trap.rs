//! Traps: what the hardware calls.
//!
//! entry.s saves the registers on the interrupted stack, below its red zone,
//! and calls [`trap_handler`], which first of all does what idle CPUs owe (G5).
//!
//! # What a trap costs
//! The image is compiled like any program, with SSE, so a trap saves the SSE
//! state: 512 bytes by `fxsave64` and back. The command `trapcost` measures it
//! ([`cost`]): counted by `-icount shift=0`, an interrupt that does nothing is
//! about 105 instructions there and back, a fifth of which copy the frame off the
//! IST stack; `fxsave64` and `fxrstor64` count as one each, but take far more time than others.

mod fault;
pub mod gates;
mod probe;

pub use probe::{Fault, load, store};

use crate::cpu::local::count;
use crate::cpu::{Local, apic};
use crate::{clock, exit, vm};
use core::arch::{asm, global_asm};
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicUsize, Ordering::*};

global_asm!(include_str!("trap/entry.s"), options(att_syntax));

/// The vectors of interrupts, and those of exceptions that are expected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Vector {
    /// Cannot be held off.
    Nmi = 2,
    /// An address that cannot be reached.
    PageFault = 14,
    /// Does nothing: to be measured.
    Nothing = 47,
    /// The timer.
    Tick = 48,
    /// Another CPU wants translations to be forgotten.
    Kick = 49,
    /// There is work.
    Wake = 50,
    /// Another CPU runs `interrupt_with`'s function here.
    Call = 51,
    /// The controller changed its mind.
    Spurious = 63,
}

/// Registers, as entry.s pushes them.
#[repr(C)]
#[derive(Debug)]
pub struct Frame {
    r15_to_r12: [u64; 4],
    rbp: u64,
    rbx: u64,
    r11_to_r8: [u64; 4],
    rdi: u64,
    rsi: u64,
    rdx: u64,
    rcx: u64,
    rax: u64,
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    flags: u64,
    rsp: u64,
    ss: u64,
}

/// Gives the calling CPU its tables.
pub fn init(local: &'static Local) {
    // SAFETY: its own CPU, once, and nobody else looks at them.
    unsafe { (*local.gates.get()).load() }
    set_memory_types();
}

/// Memory types as the library's formats name them: those of the kernels.
fn set_memory_types() {
    use vmalloc_x86_64::cpu::{PAT, PAT_MSR};
    // SAFETY: nothing is mapped with a type that changes by this: the first and
    // the fourth stay what they were.
    unsafe { crate::instructions::wrmsr(PAT_MSR, PAT) }
}

/// From now on the code at `to` is called after each instruction that runs with
/// the trap flag set.
///
/// # Safety
/// That of [`gates::set`], for a vector that comes only with the flag.
pub unsafe fn handle_single_steps(to: u64) {
    const DEBUG: usize = 1;
    // SAFETY: the caller's.
    unsafe { gates::set(DEBUG, to) }
}

/// Called by entry.s, interrupts off.
#[unsafe(no_mangle)]
extern "C" fn trap_handler(frame: &mut Frame) {
    let here = Local::here();
    const NMI: u64 = Vector::Nmi as u64;
    const PAGE_FAULT: u64 = Vector::PageFault as u64;
    if frame.vector == NMI {
        return here.in_nmi(|| nmi(here));
    }
    here.wake();
    match frame.vector {
        PAGE_FAULT => page_fault(here, frame),
        32.. => here.in_interrupt(|| interrupt(here, frame.vector)),
        _ => fault::unexpected(frame),
    }
}

fn page_fault(here: &Local, frame: &mut Frame) {
    count(&here.counters.faults);
    if !probe::fix(frame) {
        fault::report(here, frame)
    }
}

fn interrupt(here: &Local, vector: u64) {
    const TICK: u64 = Vector::Tick as u64;
    const KICK: u64 = Vector::Kick as u64;
    const CALL: u64 = Vector::Call as u64;
    const QUIET: u64 = Vector::Nothing as u64;
    match vector {
        TICK => tick(here),
        KICK => {
            count(&here.counters.kicks);
            vm().on_kick();
        }
        CALL => HOOK.call(),
        _ => (),
    }
    if vector != QUIET && vector != Vector::Spurious as u64 {
        apic::end_of_interrupt();
    }
}

fn tick(here: &Local) {
    count(&here.counters.ticks);
    if vm().tick().work {
        here.due.store(true, Relaxed);
    }
    TICK_HOOK.call();
}

fn nmi(here: &Local) {
    count(&here.counters.nmis);
    if exit::is_ending() {
        crate::instructions::halt();
    }
    NMI_HOOK.call();
}

/// A function that tests hang into a handler.
pub struct Hook(AtomicUsize);

/// Called by each tick, after the library's.
pub static TICK_HOOK: Hook = Hook::new();
/// Called by an NMI.
pub static NMI_HOOK: Hook = Hook::new();
/// Called by the interrupt [`Vector::Call`].
pub static HOOK: Hook = Hook::new();

impl Hook {
    const fn new() -> Hook {
        Hook(AtomicUsize::new(0))
    }

    /// From now on `f` is called.
    pub fn set(&self, f: fn()) {
        self.0.store(f as usize, Release);
    }

    /// From now on nothing is called; a call may still be under way.
    pub fn clear(&self) {
        self.0.store(0, Release);
    }

    #[inline]
    fn call(&self) {
        let f = self.0.load(Acquire);
        if f != 0 {
            // SAFETY: `set` put it there.
            unsafe { core::mem::transmute::<usize, fn()>(f)() }
        }
    }
}

/// What a trap costs, in counts of the clock: an interrupt that does nothing,
/// there and back; and of that, saving the SSE state.
pub fn cost() -> (u64, u64) {
    const ROUNDS: u64 = 1000;
    let measure = |f: &dyn Fn()| {
        let start = clock::instructions();
        (0..ROUNDS).for_each(|_| f());
        (clock::instructions() - start) / ROUNDS
    };
    // SAFETY: the handler does nothing.
    let trap = measure(&|| unsafe { asm!("int {}", const Vector::Nothing as u8) });
    let saving = measure(&save_and_restore);
    let empty = measure(&|| ());
    (trap - empty, saving - empty)
}

fn save_and_restore() {
    #[repr(align(16))]
    struct Area(#[expect(dead_code, reason = "the instructions use it")] [u8; 512]);
    let mut area = MaybeUninit::<Area>::uninit();
    let at = area.as_mut_ptr();
    // SAFETY: restores what it saved.
    unsafe { asm!("fxsave64 [{0}]", "fxrstor64 [{0}]", in(reg) at, options(nostack)) }
}
