//! A leak, and how it is found: a program that keeps its memory on a shelf, and one that forgets
//! some of it.
//!
//!     cargo run -p vmalloc-kernel --example leak
//!
//! The shelf is all that the detector looks at from the outside: what nothing on it leads to is lost,
//! however it was made.

use std::error::Error;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use vmalloc::machine::event::Event;
use vmalloc::{Config, Req, Vmalloc};
use vmalloc_hosted::{Hosted, builder};
use vmalloc_kernel::kmemleak::{FIRST_SCAN_NS, Kmemleak, Origin, Progress, Root, RootKind, SCAN_PERIOD_NS};
use vmalloc_kernel::{GfpFlags, Host, Kernel, WithEvents};

/// Where the program keeps the addresses of what it holds.
type Shelf = [AtomicUsize; 16];

fn main() -> Result<(), Box<dyn Error>> {
    println!("A program that keeps what it allocates:\n{}", run(false)?);
    println!("One that forgets:\n{}", run(true)?);
    Ok(())
}

/// Runs the program, and returns the detector's report.
pub fn run(forgets: bool) -> Result<String, Box<dyn Error>> {
    let (leaks, shelf) = (Kmemleak::new(), Shelf::default());
    // The machine hands its events to the detector. A kernel's own machine does so in its `note`.
    let hears = |machine: &Hosted, event: Event| {
        leaks.note(machine, event, || Origin::new("leak", std::process::id(), &[]));
        Ok(())
    };
    let vm = Vmalloc::new(WithEvents::new(builder().memory(64 << 20).machine()?, hears));
    let region = vm.machine().inner().regions().next().unwrap_or_default();
    // SAFETY: N1: the region is a reservation of the machine's own. N2: nobody has the instance yet.
    unsafe { vm.init(Config::region(region)) }?;
    let kernel = Kernel::new(&vm, Program(&shelf)).with_kmemleak(&leaks);

    // An area with a list of objects in it.
    let table = kernel.vzalloc(20_000)?.cast::<usize>();
    shelf[0].store(table.addr().get(), Relaxed);
    for n in 0..10 {
        let object = kernel.kzalloc(100, GfpFlags::KERNEL)?;
        // SAFETY: the area has more words than that.
        unsafe { table.add(n * 250).write(object.addr().get()) };
    }
    // An area of the library's own, of which the functions of the subsystem know nothing.
    let buffer = vm.alloc(Req::bytes(5000).zeroed())?;
    shelf[1].store(buffer.addr().get(), Relaxed);

    if forgets {
        shelf[1].store(0, Relaxed);
        // SAFETY: as above.
        unsafe { table.add(7 * 250).write(0) };
    }
    scan(&kernel)
}

/// Two scans by time. The program does not wait for them: it says how late it is.
fn scan<M: vmalloc::machine::Machine>(kernel: &Kernel<'_, M, Program<'_>>) -> Result<String, Box<dyn Error>> {
    let now = kernel.vm().machine().clock_ns().unwrap_or(0);
    for later in [0, FIRST_SCAN_NS, FIRST_SCAN_NS + SCAN_PERIOD_NS] {
        // Slices of ten steps, between which the program could do something else.
        while kernel.kmemleak_tick(now + later, 10) == Some(Progress::More) {}
    }
    let mut report = String::new();
    kernel.kmemleak(&mut report)?;
    Ok(report)
}

/// What the detector asks of a program.
struct Program<'s>(&'s Shelf);

impl Host for Program<'_> {
    fn comm(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("leak")
    }
    fn pid(&self) -> u32 {
        std::process::id()
    }
    fn root(&self, n: usize) -> Option<Root> {
        let start = self.0.as_ptr().expose_provenance();
        // SAFETY: Y8: the shelf outlives the subsystem.
        (n == 0).then(|| unsafe { Root::memory(RootKind::Data, start, size_of::<Shelf>()) })
    }
}
