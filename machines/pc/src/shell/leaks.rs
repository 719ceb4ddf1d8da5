//! The leak detector: which areas nothing points to any more.
//!
//! This machine hands no events on, so that they cost its allocations nothing: each scan adopts the
//! areas that it meets for the first time. So an area is suspected by the second scan that meets it, five seconds
//! after the first, unless its address is in the image's data, on a stack, in what a CPU has for
//! itself, or in an area that is reached from there. The last area of the shell, `$`, is.

use super::Done;
use super::words::{Complaint, Words};
use crate::machine::Pc;
use crate::serial::Console;
use crate::{cpu, memory, vm};
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use spin::{Mutex, Once};
use vmalloc_kernel::kmemleak::{Kmemleak, Root, RootKind};
use vmalloc_kernel::{Host, Kernel};

static LEAKS: Kmemleak<Mutex<()>> = Kmemleak::new();

/// Where a scan begins: in the data, in what other CPUs have for themselves, on all stacks.
struct Roots {
    /// What lies below on the stack of the caller is the detector's own.
    caller: AtomicUsize,
}

impl Host for Roots {
    fn root(&self, n: usize) -> Option<Root> {
        let Some(n) = n.checked_sub(1) else {
            let data = memory::data();
            // SAFETY: Y8: the image stays.
            return Some(unsafe { Root::memory(RootKind::Data, data.start, data.len()) });
        };
        let cpu = u32::try_from(n / 2).ok().filter(|&cpu| cpu < cpu::count())?;
        if n.is_multiple_of(2) {
            let own = cpu::own_bytes(cpu);
            // SAFETY: Y8: it never moves, and stays.
            return Some(unsafe { Root::memory(RootKind::PerCpu, own.start, own.len()) });
        }
        let (stack, caller) = (cpu::stack_of(cpu), self.caller.load(Relaxed));
        let start = if stack.contains(&caller) { caller } else { stack.start };
        Some(Root::in_area(RootKind::Stack, start, stack.end - start))
    }
}

fn kernel() -> &'static Kernel<'static, Pc, Roots> {
    static KERNEL: Once<Kernel<'static, Pc, Roots>> = Once::new();
    KERNEL.call_once(|| Kernel::new(vm(), Roots { caller: AtomicUsize::new(0) }).with_kmemleak(&LEAKS))
}

pub fn kmemleak<'t>(words: &mut Words<'t>) -> Done<'t> {
    // The words are the shell's, whose frame they lie in.
    kernel().host().caller.store(core::ptr::from_ref(words).addr(), Relaxed);
    let command = words.rest();
    if command.is_empty() {
        // The console refuses nothing.
        let _printed = kernel().kmemleak(&mut Console);
        return Ok(());
    }
    if command == "scan" {
        adopt();
    }
    kernel().kmemleak_write(command).map_err(Complaint::NoScan)
}

/// Areas that were made since the last scan are objects as well. Stacks are roots, and no more.
fn adopt() {
    kernel().kmemleak_adopt();
    let stacks = (0..cpu::count()).map(|cpu| cpu::stack_of(cpu).start);
    stacks.filter(|&start| start != 0).for_each(|start| kernel().kmemleak_no_scan(start));
}
