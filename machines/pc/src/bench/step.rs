//! Loops, instruction by instruction.
//!
//! With the trap flag set the CPU traps after each instruction; the gate's stub
//! counts by address and goes back. What handlers do is not counted: a trap
//! clears the flag. The tick is off, for to it this is a long time.
//!
//! # Source
//! Intel SDM vol. 3B §18.3.1.4 (single-step exception).

use super::cases::Coded;
use super::{Bare, suite};
use crate::boot::settings;
use crate::{clock, cpu, instructions, trap, vm};
use core::arch::naked_asm;
use core::ptr::{NonNull, from_ref, with_exposed_provenance, with_exposed_provenance_mut};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use vmalloc::Req;
use vmalloc_suite::{Case, Error};

/// Pages that are made while steps are counted, about: a load or two.
const PAGES: usize = 4096;

// SAFETY: link.ld defines them so; only their addresses are used.
unsafe extern "C" {
    static text_start: u8;
    static rodata_start: u8;
}

/// First address that is counted, and how many are.
static BASE: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);
/// Where the counters are, one an address.
static COUNTERS: AtomicUsize = AtomicUsize::new(0);

/// Whether loops are stepped through: the very ones that are counted without.
static STEPPING: AtomicBool = AtomicBool::new(false);

/// Loops begin, or have ended: sets or clears the trap flag, if they are stepped
/// through.
#[inline(always)]
pub(super) fn trap_loops(on: bool) {
    if STEPPING.load(Relaxed) {
        instructions::trap_each(on)
    }
}

/// Steps through loops of `case`; the tick is off.
fn step_through(case: Case, loops: usize) -> Result<(), Error> {
    STEPPING.store(true, Relaxed);
    let ran = suite(&Bare).run(case, loops);
    STEPPING.store(false, Relaxed);
    ran
}

/// Steps through the loops of `case`, when it is warm.
pub fn run(case: Case, loops: Option<usize>) -> Result<(), Error> {
    let usual = (PAGES / case.weight()).max(2);
    let loops = loops.unwrap_or(usual);
    let counters = Counters::new()?;
    clock::tick_every(0);
    // Warm is what has been through two batches: chunks are made until then.
    let ran = suite(&Bare).run(case, loops.max(2 * usual)).and_then(|()| step_through(case, loops));
    clock::tick_every(settings().tick);
    println!("@steps name={} loops={loops}", Coded(case));
    counters.tell();
    ran
}

/// Steps through frees of areas that CPU 1 has made.
pub fn remote(loops: Option<usize>) -> Result<(), Error> {
    let loops = loops.unwrap_or(PAGES);
    let counters = Counters::new()?;
    let freed = free_remotely(loops);
    println!("@steps name=remote loops={loops}");
    counters.tell();
    freed
}

fn free_remotely(loops: usize) -> Result<(), Error> {
    let list = vm().alloc(Req::bytes(loops * size_of::<usize>()))?;
    LIST.store(list.addr().get(), Relaxed);
    // A tick of CPU 1 would take what is posted, and the next free would post the chunk anew: the slower
    // the host, the more of them.
    run_on_1(
        |loops| {
            clock::tick_every(0);
            make(loops)
        },
        loops,
    );
    clock::tick_every(0);
    instructions::trap_each(true);
    let freed = (0..loops).try_for_each(|n| free_nth(list, n));
    instructions::trap_each(false);
    let tick = settings().tick;
    clock::tick_every(tick);
    run_on_1(|tick| clock::tick_every(tick as u32), tick as usize);
    // SAFETY: V1: both CPUs are done with it.
    unsafe { vm().free(list) }?;
    freed
}

fn run_on_1(work: fn(usize), with: usize) {
    cpu::on(1, work, with);
    cpu::wait(1);
}

/// Instructions that lock the bus, in so many frees of areas that
/// another CPU has made, or in so many pairs on this one.
pub fn locked(loops: usize, remote: bool) -> Result<u32, Error> {
    let counters = Counters::new()?;
    if remote {
        free_remotely(loops)?;
    } else {
        suite(&Bare).run(Case::FixSize(1), loops)?;
        clock::tick_every(0);
        let ran = step_through(Case::FixSize(1), loops);
        clock::tick_every(settings().tick);
        ran?;
    }
    Ok(counters.met().filter(|(_, _, locked)| *locked).map(|(_, n, _)| n).sum())
}

/// Where CPU 1 puts the areas that it makes.
static LIST: AtomicUsize = AtomicUsize::new(0);

fn make(loops: usize) {
    let list = with_exposed_provenance_mut::<usize>(LIST.load(Relaxed));
    for n in 0..loops {
        let area = vm().alloc(Req::pages(1)).map_or(0, |area| area.expose_provenance().get());
        // SAFETY: the list has room for so many.
        unsafe { list.add(n).write(area) }
    }
}

#[inline(always)]
fn free_nth(list: NonNull<u8>, n: usize) -> Result<(), Error> {
    // SAFETY: CPU 1 has filled the list, and is done.
    let area = NonNull::new(with_exposed_provenance_mut(unsafe { list.cast::<usize>().add(n).read() }));
    // SAFETY: V1: it was made for this.
    Ok(area.map_or(Ok(()), |area| unsafe { vm().free(area) })?)
}

/// A counter for each address of the image's code.
pub(super) struct Counters {
    area: NonNull<u8>,
}

impl Counters {
    pub(super) fn new() -> Result<Counters, Error> {
        // SAFETY: addresses only.
        let [start, end] = unsafe { [&text_start, &rodata_start] }.map(|at| from_ref(at).addr());
        let area = vm().alloc(Req::bytes((end - start) * size_of::<u32>()).zeroed())?;
        BASE.store(start, Relaxed);
        BYTES.store(end - start, Relaxed);
        COUNTERS.store(area.addr().get(), Relaxed);
        // SAFETY: `count` is such a handler, and the flag is not set.
        unsafe { trap::handle_single_steps(count as *const () as u64) };
        Ok(Counters { area })
    }

    /// Nothing was counted.
    pub(super) fn clear(&self) {
        // SAFETY: the area holds so many; nobody counts now.
        unsafe { self.area.cast::<u32>().write_bytes(0, BYTES.load(Relaxed)) }
    }

    /// A record for each address that was met.
    pub(super) fn tell(&self) {
        let base = BASE.load(Relaxed);
        for (at, n, locked) in self.met() {
            println!("@step at={:#x} n={n} locked={}", base + at, locked as u8);
        }
    }

    /// What was met in the image's code: where, how often, and whether it locks
    /// the bus.
    fn met(&self) -> impl Iterator<Item = (usize, u32, bool)> {
        let (base, bytes) = (BASE.load(Relaxed), BYTES.load(Relaxed));
        // SAFETY: the area holds so many; nobody counts any more.
        let counts = unsafe { core::slice::from_raw_parts(self.area.cast::<u32>().as_ptr(), bytes) };
        // SAFETY: the image's code is readable.
        let code = unsafe { core::slice::from_raw_parts(with_exposed_provenance::<u8>(base), bytes) };
        let met = counts.iter().enumerate().filter(|(_, n)| **n > 0);
        met.map(|(at, &n)| (at, n, locks(&code[at..])))
    }
}

impl Drop for Counters {
    fn drop(&mut self) {
        // SAFETY: V1: nobody steps any more, so nobody counts.
        if let Err(why) = unsafe { vm().free(self.area) } {
            println!("bench: {why}");
        }
    }
}

/// Whether the instruction at the beginning of `code` locks the bus: it has the
/// prefix, or exchanges with memory.
///
/// # Source
/// Intel SDM vol. 2A §2.1 (prefixes), vol. 2 (XCHG).
fn locks(code: &[u8]) -> bool {
    const LOCK: u8 = 0xf0;
    const PREFIXES: [u8; 10] = [LOCK, 0x66, 0xf2, 0xf3, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65];
    let is_prefix = |byte: &&u8| PREFIXES.contains(byte) || (0x40..=0x4f).contains(*byte);
    let prefixes = code.iter().take_while(|byte| is_prefix(byte)).count();
    let exchanges = matches!(code[prefixes..], [0x86 | 0x87, mode, ..] if mode >> 6 != 3);
    code[..prefixes].contains(&LOCK) || exchanges
}

/// What the gate of single steps calls: counts where the interrupted code is.
#[unsafe(naked)]
extern "C" fn count() {
    naked_asm!(
        "push rax",
        "push rcx",
        "mov rax, [rsp + 16]",
        "sub rax, [rip + {base}]",
        "cmp rax, [rip + {bytes}]",
        "jae 2f",
        "mov rcx, [rip + {counters}]",
        "inc dword ptr [rcx + 4 * rax]",
        "2:",
        "pop rcx",
        "pop rax",
        "iretq",
        base = sym BASE,
        bytes = sym BYTES,
        counters = sym COUNTERS,
    )
}
