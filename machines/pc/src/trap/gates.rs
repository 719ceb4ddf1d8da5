//! Descriptor tables: which stack and which stub a trap gets.
//!
//! | IST | For | Bytes |
//! |---|---|---|
//! | 1 | everything else: left at once (entry.s), unless the stack overflowed | 16 KiB |
//! | 2 | double fault | 8 KiB |
//! | 3 | NMI | 16 KiB |
//! | 4 | machine check | 8 KiB |
//!
//! # Source
//! Intel SDM vol. 3A §3.4.5 (descriptors), §6.14 (64-bit interrupts, IST),
//! §7.7 (64-bit TSS).

use core::arch::asm;
use core::ptr::from_ref;
use core::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// Vectors with a stub.
const VECTORS: usize = 64;
const CODE: u16 = 0x08;
const TASK: u16 = 0x18;

const DOUBLE_FAULT: usize = 8;
const NMI: usize = 2;
const MACHINE_CHECK: usize = 18;

// SAFETY: entry.s defines it so.
unsafe extern "C" {
    static trap_stubs: [u64; VECTORS];
}

#[repr(C, align(16))]
struct Stack<const BYTES: usize>([u8; BYTES]);

impl<const BYTES: usize> Stack<BYTES> {
    fn top(&self) -> u64 {
        (from_ref(self).expose_provenance() + BYTES) as u64
    }
}

/// The task-state segment: the stacks that gates switch to.
#[repr(C, packed(4))]
struct Task {
    reserved: u32,
    stacks: [u64; 3],
    reserved2: u64,
    ist: [u64; 7],
    reserved3: u64,
    reserved4: u16,
    ports: u16,
}

/// One CPU's tables and stacks. Zero bytes are some that are not in use.
pub struct Gates {
    segments: [u64; 5],
    task: Task,
    traps: Stack<16384>,
    double_fault: Stack<8192>,
    nmi: Stack<16384>,
    machine_check: Stack<8192>,
}

/// The interrupt table: the same for all CPUs.
struct Idt(core::cell::UnsafeCell<[[u64; 2]; VECTORS]>);

// SAFETY: the boot CPU fills it while it is alone; from then on it is read.
unsafe impl Sync for Idt {}

static IDT: Idt = Idt(core::cell::UnsafeCell::new([[0; 2]; VECTORS]));
static FILLED: AtomicBool = AtomicBool::new(false);

#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

impl Gates {
    /// Makes these the calling CPU's.
    pub fn load(&'static mut self) {
        if !FILLED.swap(true, SeqCst) {
            fill();
        }
        let stacks = [self.traps.top(), self.double_fault.top(), self.nmi.top(), self.machine_check.top()];
        self.task.ist = core::array::from_fn(|i| stacks.get(i).copied().unwrap_or(0));
        self.task.ports = size_of::<Task>() as u16;
        let task = from_ref(&self.task).expose_provenance() as u64;
        let limit = size_of::<Task>() as u64 - 1;
        // Code of 64 bits, data, an available 64-bit TSS (type 9) in two halves.
        let low = limit | (task & 0xff_ffff) << 16 | 0x89 << 40 | (task >> 24 & 0xff) << 56;
        self.segments = [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, low, task >> 32];
        let segments =
            Pointer { limit: size_of_val(&self.segments) as u16 - 1, base: from_ref(&self.segments).addr() as u64 };
        let gates = Pointer { limit: (VECTORS * 16 - 1) as u16, base: IDT.0.get().addr() as u64 };
        // SAFETY: the tables are whole and stay where they are (`&'static`); code
        // and data segments mean what they meant before.
        unsafe {
            asm!(
                "lgdt [{segments}]", "lidt [{gates}]", "ltr {task:x}",
                "push {code}", "lea {next}, [rip + 2f]", "push {next}", "retfq", "2:",
                segments = in(reg) &segments, gates = in(reg) &gates, task = in(reg) TASK,
                code = in(reg) CODE as u64, next = out(reg) _
            );
        }
    }
}

/// Interrupt gates to the stubs, each with its stack.
fn fill() {
    // SAFETY: the boot CPU is alone (`FILLED`), and entry.s defines the stubs.
    let (gates, stubs) = unsafe { (&mut *IDT.0.get(), &trap_stubs) };
    for (vector, (gate, &stub)) in gates.iter_mut().zip(stubs).enumerate() {
        let ist = match vector {
            DOUBLE_FAULT => 2,
            NMI => 3,
            MACHINE_CHECK => 4,
            _ => 1,
        };
        *gate = self::gate(stub, ist);
    }
}

/// From now on `vector` goes to the code at `to`, on the stack of traps.
///
/// # Safety
/// - `to` is a handler: it ends with `iretq`, leaves all registers as they were,
///   and turns no interrupts on.
/// - The vector does not come while this runs.
pub unsafe fn set(vector: usize, to: u64) {
    // SAFETY: the caller's.
    unsafe { (*IDT.0.get())[vector % VECTORS] = gate(to, 1) };
}

/// An interrupt gate to `to`, with a stack.
const fn gate(to: u64, ist: u64) -> [u64; 2] {
    let low = to & 0xffff | (CODE as u64) << 16 | ist << 32 | 0x8e << 40 | (to >> 16 & 0xffff) << 48;
    [low, to >> 32]
}
