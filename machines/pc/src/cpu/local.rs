//! What each CPU has for itself, reached through GS.
//!
//! A [`Local`] lies in the direct map (the boot CPU's in the image) and never
//! moves. Other CPUs read it, give it work, and look at its counters, so all
//! of it is atomics; the tables of the CPU are `trap`'s.

use super::MAX;
use crate::instructions::wrmsr;
use crate::trap::gates::Gates;
use crate::{memory, vm};
use core::arch::asm;
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ops::Range;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering::*};
use vmalloc::machine::frames::{Frames, Want};
use vmalloc::units::PAGE_SIZE;
use vmalloc::{Caller, Req};

/// Pages of a stack.
const STACK_PAGES: usize = 4;

/// What a CPU has counted since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Flushes of everything.
    pub flushes: AtomicU64,
    /// Ranges flushed page by page.
    pub ranges: AtomicU64,
    /// Interrupts sent to other CPUs, to flush.
    pub kicks_sent: AtomicU64,
    /// Interrupts received, to flush.
    pub kicks: AtomicU64,
    /// Ticks.
    pub ticks: AtomicU64,
    /// Page faults.
    pub faults: AtomicU64,
    /// NMIs.
    pub nmis: AtomicU64,
}

/// Adds one to a counter of this CPU, which its interrupts write to as well.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// One CPU's own.
#[repr(C, align(64))]
pub struct Local {
    // The first three are read by assembler: `gs:0`, `gs:8`, `gs:16`.
    this: AtomicPtr<Local>,
    index: AtomicU32,
    apic: AtomicU32,
    /// The lowest byte of the guard below the stack.
    guard: AtomicUsize,
    stack: AtomicUsize,
    started: AtomicBool,
    idle: AtomicBool,
    /// Interrupts that are being handled here.
    pub(super) interrupts: AtomicU32,
    /// NMIs that are being handled here.
    nmis: AtomicU32,
    /// A function to call (0 = none), and its argument.
    work: AtomicUsize,
    argument: AtomicUsize,
    /// The tick has left something for a task.
    pub due: AtomicBool,
    /// What it has counted.
    pub counters: Counters,
    /// Tables and trap stacks.
    pub gates: UnsafeCell<Gates>,
}

// SAFETY: all of it is atomics, but for `gates`, which its own CPU sets up once
// and only the CPU itself looks at from then on.
unsafe impl Sync for Local {}

// SAFETY: zero bytes are a `Local`: of atomics, and of tables that are not in use.
static BOOT: Local = unsafe { MaybeUninit::zeroed().assume_init() };
static ALL: [AtomicPtr<Local>; MAX] = [const { AtomicPtr::new(null_mut()) }; MAX];

/// The [`Local`] of a CPU that has started.
pub fn of(cpu: u32) -> &'static Local {
    let local = ALL[cpu as usize].load(Acquire);
    assert!(!local.is_null(), "CPU {cpu} has not started");
    // SAFETY: it never moves, and was whole before it was stored.
    unsafe { &*local }
}

/// The boot CPU's tables and trap stacks, which lie in the image's data.
pub fn boot_gates() -> Range<usize> {
    let start = BOOT.gates.get().addr();
    start..start + size_of::<Gates>()
}

/// The boot CPU's: before anything asks which CPU it is on.
pub fn init_boot() {
    BOOT.set_up(0);
    BOOT.enter();
}

/// The [`Local`] of a CPU that is to be started, with a stack.
pub fn make(index: u32) -> &'static Local {
    const ORDER: u8 = size_of::<Local>().div_ceil(PAGE_SIZE).next_power_of_two().trailing_zeros() as u8;
    let want = Want::bookkeeping(super::node_of(index)).order(ORDER);
    let flags = vmalloc_x86_64::interrupts::off();
    let block = vm().machine().zones().alloc(want);
    vmalloc_x86_64::interrupts::restore(flags);
    let Some(block) = block else { panic!("no memory for CPU {index}") };
    let at: NonNull<Local> = memory::direct(block.phys()).cast();
    // SAFETY: a block of our own, large enough and page-aligned; zero bytes are
    // a `Local`. In place: it is larger than a stack.
    let local = unsafe {
        at.write_bytes(0, 1);
        at.as_ref()
    };
    local.set_up(index);
    local.new_stack();
    local
}

impl Local {
    fn set_up(&'static self, index: u32) {
        let this = core::ptr::from_ref(self).cast_mut();
        self.this.store(this, Relaxed);
        self.index.store(index, Relaxed);
        ALL[index as usize].store(this, Release);
    }

    /// Makes this the calling CPU's.
    pub fn enter(&'static self) {
        const GS_BASE: u32 = 0xc000_0101;
        // SAFETY: nothing else uses GS.
        unsafe { wrmsr(GS_BASE, core::ptr::from_ref(self).expose_provenance() as u64) }
    }

    /// The calling CPU's.
    #[inline]
    pub fn here() -> &'static Local {
        let this: *const Local;
        // SAFETY: GS points to this CPU's (`enter`), which begins with its own
        // address.
        unsafe {
            asm!("mov {}, gs:0", out(reg) this, options(pure, readonly, nostack, preserves_flags));
            &*this
        }
    }

    /// The calling CPU's index.
    #[inline(always)]
    pub fn index_here() -> u32 {
        let index;
        // SAFETY: as for `here`; not `pure`: the caller may have moved.
        unsafe { asm!("mov {:e}, gs:8", out(reg) index, options(readonly, nostack, preserves_flags)) }
        index
    }

    /// Its index.
    pub fn index(&self) -> u32 {
        self.index.load(Relaxed)
    }

    /// Its interrupt controller's number.
    pub fn apic(&self) -> u32 {
        self.apic.load(Relaxed)
    }

    /// Notes its interrupt controller's number.
    pub fn set_apic(&self, id: u32) {
        self.apic.store(id, Relaxed);
    }

    /// A stack for it: an area with guards.
    pub fn new_stack(&self) {
        let caller = Caller::here();
        match vm().alloc(Req::stack(STACK_PAGES).caller(caller)) {
            Ok(at) => self.stack.store(at.addr().get(), Relaxed),
            Err(why) => panic!("no stack: {why}"),
        }
        self.guard.store(self.stack().start - PAGE_SIZE, Relaxed);
    }

    /// Its stack; empty while it is on the boot stack.
    pub fn stack(&self) -> Range<usize> {
        let start = self.stack.load(Relaxed);
        start..if start == 0 { 0 } else { start + STACK_PAGES * PAGE_SIZE }
    }

    /// The guard below its stack.
    pub fn guard(&self) -> Range<usize> {
        let start = self.guard.load(Relaxed);
        start..if start == 0 { 0 } else { start + PAGE_SIZE }
    }

    /// It runs.
    pub fn started(&self) {
        self.started.store(true, Release);
    }

    /// Whether it runs.
    pub fn has_started(&self) -> bool {
        self.started.load(Acquire)
    }

    /// Puts work into its mailbox; false if there is some.
    pub fn give_work(&self, f: fn(usize), argument: usize) -> bool {
        if self.has_work() {
            return false;
        }
        self.argument.store(argument, Relaxed);
        self.work.store(f as usize, Release);
        true
    }

    /// Whether it has something to do.
    pub fn has_work(&self) -> bool {
        self.work.load(Acquire) != 0
    }

    /// Whether it should not sleep.
    pub fn is_wanted(&self) -> bool {
        self.has_work() || self.due.load(Relaxed)
    }

    /// Does what it was given, and what the tick left; true if that was
    /// anything.
    pub fn run_work(&self) -> bool {
        let due = self.run_due();
        let work = self.work.load(Acquire);
        if work != 0 {
            // SAFETY: `give_work` put it there.
            let f = unsafe { core::mem::transmute::<usize, fn(usize)>(work) };
            f(self.argument.load(Relaxed));
            self.work.store(0, Release);
        }
        due || work != 0
    }

    /// Does what the tick left; true if that was anything.
    pub fn run_due(&self) -> bool {
        let due = self.due.swap(false, Relaxed);
        if due {
            vm().work();
        }
        due
    }

    /// Idle entry, interrupts off (G5).
    pub fn sleep(&self) {
        self.idle.store(true, SeqCst);
        vm().idle_enter();
    }

    /// Idle exit, interrupts off, if it was idle (G5).
    #[inline]
    pub fn wake(&self) {
        if self.idle.load(Relaxed) {
            self.idle.store(false, SeqCst);
            vm().idle_exit();
        }
    }

    /// Whether it is idle, or about to be.
    pub fn is_idle(&self) -> bool {
        self.idle.load(SeqCst)
    }

    /// Runs `f` as an interrupt's handler.
    pub fn in_interrupt(&self, f: impl FnOnce()) {
        self.interrupts.store(self.interrupts.load(Relaxed) + 1, Relaxed);
        f();
        self.interrupts.store(self.interrupts.load(Relaxed) - 1, Relaxed);
    }

    /// Whether an interrupt is being handled here.
    pub fn is_in_interrupt(&self) -> bool {
        self.interrupts.load(Relaxed) > 0
    }

    /// Runs `f` as an NMI's handler, between the checks of G5.
    pub fn in_nmi(&self, f: impl FnOnce()) {
        vm().idle_exit();
        self.nmis.store(self.nmis.load(Relaxed) + 1, Relaxed);
        f();
        self.nmis.store(self.nmis.load(Relaxed) - 1, Relaxed);
        if self.idle.load(SeqCst) {
            vm().idle_enter();
        }
    }

    /// Whether an NMI is being handled here.
    pub fn is_in_nmi(&self) -> bool {
        self.nmis.load(Relaxed) > 0
    }
}
