//! The hardware, and what of Hermit this kernel uses: CPUs are threads, memory is a static array, and
//! interrupts are words. A CPU takes its interrupts when it turns them on, and while it waits.

use std::cell::{Cell, UnsafeCell};
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use vmalloc::lock_api;
use vmalloc::units::PAGE_SIZE;

/// Whether privileged instructions can be executed. A kernel has no such constant.
pub const BARE: bool = false;
pub const CPUS: u32 = 4;
pub const MEMORY_FRAMES: u64 = 8192;

#[repr(align(4096))]
struct Memory(UnsafeCell<[u8; MEMORY_FRAMES as usize * PAGE_SIZE]>);
// SAFETY: whoever holds a frame uses it alone.
unsafe impl Sync for Memory {}
static MEMORY: Memory = Memory(UnsafeCell::new([0; MEMORY_FRAMES as usize * PAGE_SIZE]));

/// Where the physical address is mapped.
pub fn memory(phys: u64) -> NonNull<u8> {
    assert!(phys < MEMORY_FRAMES * PAGE_SIZE as u64, "{phys:#x} is no memory");
    // SAFETY: it lies in the array, which is not null.
    unsafe { NonNull::new_unchecked(MEMORY.0.get().cast::<u8>().add(phys as usize)) }
}

static PENDING: [AtomicBool; CPUS as usize] = [const { AtomicBool::new(false) }; CPUS as usize];
static HANDLER: OnceLock<fn()> = OnceLock::new();
static KICKS: AtomicUsize = AtomicUsize::new(0);
static FLUSHES: AtomicUsize = AtomicUsize::new(0);
static RUNNING: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static CPU: Cell<u32> = const { Cell::new(0) };
    static MASKED: Cell<bool> = const { Cell::new(false) };
    static HANDLING: Cell<bool> = const { Cell::new(false) };
}

/// `core_local::core_id`.
pub fn core_id() -> u32 {
    CPU.get()
}

pub fn enter_cpu(cpu: u32) {
    CPU.set(cpu);
}

/// The handler of the interrupt that `ipi_tlb_flush` sends.
pub fn install(handler: fn()) {
    HANDLER.set(handler).expect("once");
}

/// `apic::ipi_tlb_flush`.
pub fn ipi_tlb_flush(cpu: u32) {
    KICKS.fetch_add(1, Relaxed);
    PENDING[cpu as usize].store(true, Release);
}

/// Takes the interrupt that is pending.
pub fn open_window() {
    if PENDING[core_id() as usize].swap(false, AcqRel) {
        let handling = HANDLING.replace(true);
        HANDLER.get().expect("`boot` installs it")();
        HANDLING.set(handling);
    }
    std::thread::yield_now();
}

/// `pause`, in a loop that waits for another CPU.
pub fn pause() {
    if MASKED.get() { std::thread::yield_now() } else { open_window() }
}

pub fn in_handler() -> bool {
    HANDLING.get()
}

pub fn interrupts_off() -> usize {
    MASKED.replace(true) as usize
}

pub fn restore(masked: usize) {
    MASKED.set(masked != 0);
    if masked == 0 && !HANDLING.get() && PENDING[core_id() as usize].load(Relaxed) {
        open_window();
    }
}

pub fn are_interrupts_on() -> bool {
    !MASKED.get()
}

/// `wrmsr`.
pub fn wrmsr(_register: u32, _value: u64) {}

/// `sti; hlt` until something comes, or for a while.
pub fn halt() {
    (0..100).for_each(|_| open_window());
}

pub fn count_flush() {
    FLUSHES.fetch_add(1, Relaxed);
}

/// Interrupts between CPUs, and flushes.
pub fn interrupts() -> (usize, usize) {
    (KICKS.load(Relaxed), FLUSHES.load(Relaxed))
}

/// Runs `work` on each CPU. One that has finished takes interrupts until the last has.
pub fn run_on_all_cpus(work: fn(u32)) {
    RUNNING.store(CPUS as usize, SeqCst);
    std::thread::scope(|scope| {
        for cpu in 0..CPUS {
            scope.spawn(move || {
                enter_cpu(cpu);
                work(cpu);
                RUNNING.fetch_sub(1, SeqCst);
                while RUNNING.load(SeqCst) > 0 {
                    open_window();
                }
            });
        }
    });
}

/// The kernel's spinlock.
pub struct Spin(AtomicBool);

// SAFETY: the word is set by one caller at a time.
unsafe impl lock_api::RawMutex for Spin {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Spin = Spin(AtomicBool::new(false));
    type GuardMarker = lock_api::GuardSend;

    fn lock(&self) {
        while !self.try_lock() {
            std::thread::yield_now();
        }
    }
    fn try_lock(&self) -> bool {
        !self.0.swap(true, Acquire)
    }
    unsafe fn unlock(&self) {
        self.0.store(false, Release);
    }
}
