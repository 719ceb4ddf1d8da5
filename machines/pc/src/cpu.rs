//! CPUs: how they start, what each has, and how work is given to them.
//!
//! The boot CPU runs the commands. Each other one runs [`serve`]: it waits for
//! work ([`on`]), does it, and is idle in between.
//!
//! # Idle (G5)
//! ```text
//!   idle := true ── idle_enter ── sti; hlt ── …an interrupt or NMI… ── idle := false ── idle_exit
//! ```
//! Whatever wakes the CPU calls [`Local::wake`] first, before it follows any
//! pointer but its own stack and its own [`Local`], which lies in the direct
//! map. An NMI that came into an idle CPU puts it back to idle afterwards; the
//! flag is set before `idle_enter` and cleared before `idle_exit`, so that this is right wherever the NMI comes.

pub mod acpi;
pub mod apic;
pub mod local;
mod smp;

pub use local::{Counters, Local, boot_gates};

use crate::vm;
use acpi::Topology;
use core::hint::spin_loop;
use core::mem::offset_of;
use core::ops::Range;
use core::ptr::from_ref;
use core::sync::atomic::{AtomicU32, Ordering::*};
use spin::Once;
use vmalloc::units::Node;
use vmalloc_x86_64::interrupts;

/// CPUs that are served.
pub const MAX: usize = 64;

static TOPOLOGY: Once<Topology> = Once::new();
/// CPUs that have started.
static STARTED: AtomicU32 = AtomicU32::new(1);

/// Gives the boot CPU its [`Local`].
pub fn init_boot() {
    local::init_boot();
}

/// Notes what ACPI said.
pub fn set_topology(mut topology: Topology) -> &'static Topology {
    topology.boot_first(apic::boot_id());
    TOPOLOGY.call_once(|| topology)
}

fn topology() -> &'static Topology {
    TOPOLOGY.call_once(Topology::default)
}

/// CPUs that may ever start: what the library is told.
pub fn possible() -> u32 {
    topology().cpus().len().max(1) as u32
}

/// CPUs that run.
pub fn count() -> u32 {
    STARTED.load(Acquire)
}

/// The calling CPU's index: 0 is the boot CPU.
#[inline(always)]
pub fn index() -> u32 {
    Local::index_here()
}

/// The calling CPU's own.
#[inline]
pub fn here() -> &'static Local {
    Local::here()
}

/// The memory node of a CPU.
pub fn node_of(cpu: u32) -> Node {
    topology().cpus().get(cpu as usize).map_or(Node(0), |cpu| cpu.node)
}

/// What a CPU has counted since the start.
pub fn counters(cpu: u32) -> &'static Counters {
    &local::of(cpu).counters
}

/// What a CPU that has started has for itself, as bytes, without its tables and trap stacks.
pub fn own_bytes(cpu: u32) -> Range<usize> {
    let start = from_ref(local::of(cpu)).expose_provenance();
    start..start + offset_of!(Local, gates)
}

/// The stack of a CPU that has started.
pub fn stack_of(cpu: u32) -> Range<usize> {
    local::of(cpu).stack()
}

/// Starts all other CPUs, one after the other.
pub fn start_others() {
    for (found, index) in topology().cpus().iter().zip(0..).skip(1) {
        smp::start(found.apic, index);
        STARTED.store(index + 1, Release);
    }
}

/// Where each other CPU comes to.
pub fn other(local: &'static Local) -> ! {
    local.enter();
    crate::tlb::init_cpu();
    crate::trap::init(local);
    apic::init();
    crate::tlb::check_cpu();
    vm().cpu_online();
    crate::clock::tick_every(crate::boot::settings().tick);
    local.started();
    interrupts::on();
    serve(local)
}

/// Does what it is given, for ever.
fn serve(local: &'static Local) -> ! {
    loop {
        if !local.run_work() {
            idle(local);
        }
    }
}

/// Runs `f(arg)` on `cpu`, another one than the caller's, as soon as what it
/// was given before is done.
pub fn on(cpu: u32, f: fn(usize), arg: usize) {
    assert!(cpu != index(), "nobody waits for himself");
    let target = local::of(cpu);
    while !target.give_work(f, arg) {
        spin_loop();
    }
    apic::wake(target.apic());
}

/// Waits until `cpu` has done what it was given.
pub fn wait(cpu: u32) {
    while local::of(cpu).has_work() {
        spin_loop();
    }
}

/// Runs `f` on all CPUs at once, this one too, and waits for all.
pub fn on_all(f: fn(usize)) {
    let me = index();
    let others = || (0..count()).filter(|&cpu| cpu != me);
    others().for_each(|cpu| on(cpu, f, cpu as usize));
    f(me as usize);
    others().for_each(wait);
}

/// Waits for an interrupt, at least until the next tick.
pub fn idle(local: &Local) {
    let flags = interrupts::off();
    if !local.is_wanted() {
        local.sleep();
        crate::instructions::wait_for_interrupt();
        local.wake();
    }
    interrupts::restore(flags);
}
