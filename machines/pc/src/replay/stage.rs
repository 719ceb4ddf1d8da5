//! This machine as a stage.

use crate::cpu::{self, MAX};
use crate::machine::Pc;
use crate::trap::{self, HOOK, Vector};
use crate::{clock, memory, vm};
use core::arch::asm;
use core::fmt;
use core::hint::spin_loop;
use core::ops::Range;
use core::ptr::{self, null_mut};
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering::Relaxed};
use vmalloc::Vmalloc;
use vmalloc::units::{PAGE_SIZE, Pfn};
use vmalloc_replay::pattern::Page;
use vmalloc_replay::stage::Stage;

/// Steps between two words about how far the replay is.
const WORD_EVERY: u64 = 500;

/// This machine.
pub struct Bare {
    device: Range<u64>,
    steps: AtomicU64,
}

/// An address that faulted, and what the hardware was asked for.
pub struct Unreachable(usize);

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page fault at {:#x}, which is {}", self.0, vm().whatis(self.0))
    }
}

/// What each CPU's interrupt is to run.
static PENDING: [AtomicPtr<&mut dyn FnMut()>; MAX] = [const { AtomicPtr::new(null_mut()) }; MAX];

impl Bare {
    /// With a device at these physical addresses.
    pub fn new(device: Range<u64>) -> Bare {
        HOOK.set(run_pending);
        Bare { device, steps: AtomicU64::new(0) }
    }
}

fn run_pending() {
    let pending = PENDING[cpu::index() as usize].swap(null_mut(), Relaxed);
    if !pending.is_null() {
        // SAFETY: `in_interrupt` put it there, on this CPU, and is waiting.
        unsafe { (*pending)() }
    }
}

impl Stage for Bare {
    type Machine = Pc;
    type Fault = Unreachable;

    /// The timer ticks.
    const TICK: u64 = 0;

    fn vm(&self) -> &Vmalloc<Pc> {
        vm()
    }

    fn in_interrupt<R: Send>(&self, act: impl FnOnce() -> R + Send) -> R {
        let (mut act, mut result) = (Some(act), None);
        let mut run = || result = act.take().map(|act| act());
        let mut run: &mut dyn FnMut() = &mut run;
        // SAFETY: forgets how long the closure lives; nobody has it when this
        // function ends.
        let pending =
            unsafe { core::mem::transmute::<*mut &mut dyn FnMut(), *mut &'static mut dyn FnMut()>(&raw mut run) };
        PENDING[cpu::index() as usize].store(pending, Relaxed);
        // SAFETY: its handler runs what is pending, and nothing else.
        unsafe { asm!("int {}", const Vector::Call as u8) };
        result.expect("the interrupt comes where it is called")
    }

    fn store(&self, at: usize, page: &Page) -> Result<(), Unreachable> {
        reachable(at)?;
        // SAFETY: a page of a live area of ours.
        unsafe { ptr::copy_nonoverlapping(page.as_ptr(), ptr::with_exposed_provenance_mut(at), PAGE_SIZE) }
        Ok(())
    }

    fn load(&self, at: usize, page: &mut Page) -> Result<(), Unreachable> {
        reachable(at)?;
        // SAFETY: as for storing.
        unsafe { ptr::copy_nonoverlapping(ptr::with_exposed_provenance(at), page.as_mut_ptr(), PAGE_SIZE) }
        Ok(())
    }

    fn store_frame(&self, frame: Pfn, page: &Page) {
        let to = memory::direct(frame.phys());
        // SAFETY: D1, and the frame is ours alone.
        unsafe { ptr::copy_nonoverlapping(page.as_ptr(), to.as_ptr(), PAGE_SIZE) }
    }

    fn load_frame(&self, frame: Pfn, page: &mut Page) {
        let from = memory::direct(frame.phys());
        // SAFETY: as for storing.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), page.as_mut_ptr(), PAGE_SIZE) }
    }

    fn device(&self) -> Range<u64> {
        self.device.clone()
    }

    fn region_start(&self, region: u32) -> usize {
        if region == 0 { vm().machine().region().start } else { memory::MODULES.start }
    }

    fn now(&self) -> u64 {
        clock::ns()
    }

    fn wait(&self, _looks: u32) {
        spin_loop();
        do_what_is_due();
    }

    fn stepped(&self) {
        let steps = self.steps.fetch_add(1, Relaxed) + 1;
        if steps.is_multiple_of(WORD_EVERY) {
            println!("@progress done={steps}");
        }
        do_what_is_due();
    }

    fn phase(&self, number: u32) {
        println!("@phase number={number}");
    }
}

/// One load, which may fault; the rest of the page is mapped as it is.
fn reachable(at: usize) -> Result<(), Unreachable> {
    trap::load(at).map(|_| ()).map_err(|fault| Unreachable(fault.at))
}

/// What the tick has left for a task: its CPU is busy here, not in its loop.
fn do_what_is_due() {
    let here = cpu::here();
    if here.due.load(Relaxed) && here.due.swap(false, Relaxed) {
        vm().work();
    }
}
