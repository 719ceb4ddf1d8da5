//! The leak detector in a process: the example `leak` does what it says, and threads are in nobody's way.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use std::thread;
use vmalloc::{Config, Req, Vmalloc};
use vmalloc_hosted::{Hosted, builder};
use vmalloc_kernel::kmemleak::{Colour, Kmemleak, Origin, Root, RootKind};
use vmalloc_kernel::{GfpFlags, Host, Kernel, WithEvents};

#[path = "../examples/leak.rs"]
#[allow(dead_code)]
mod leak;

#[test]
fn the_program_that_forgets_is_found_and_the_one_that_keeps_is_not() {
    assert_eq!(leak::run(false).unwrap(), "");
    let report = leak::run(true).unwrap();
    let suspects: Vec<&str> = report.lines().filter(|line| line.starts_with("unreferenced object 0x")).collect();
    assert_eq!(suspects.len(), 2, "{report}");
    for (bytes, count) in [("(size 128):", 1), ("(size 8192):", 1)] {
        assert_eq!(suspects.iter().filter(|line| line.ends_with(bytes)).count(), count, "{report}");
    }
    let here = format!("  comm \"leak\", pid {}, jiffies ", std::process::id());
    assert_eq!(report.lines().filter(|line| line.starts_with(&here)).count(), 2, "{report}");
    assert!(report.contains("examples/leak.rs:"), "it says who asked for the area: {report}");
}

/// A host whose data are these words.
struct Words<'w>(&'w [AtomicUsize]);

impl Host for Words<'_> {
    fn root(&self, n: usize) -> Option<Root> {
        let start = self.0.as_ptr().expose_provenance();
        // SAFETY: Y8: the words outlive the host.
        (n == 0).then(|| unsafe { Root::memory(RootKind::Data, start, size_of_val(self.0)) })
    }
}

#[test]
fn threads_allocate_and_free_while_others_scan_and_the_detector_knows_what_is_left() {
    let leaks = Kmemleak::new();
    let hears = |machine: &Hosted, event| {
        leaks.note(machine, event, Origin::default);
        Ok(())
    };
    let machine = builder().memory(128 << 20).region(1 << 30).cpus(4).machine().unwrap();
    let vm = Vmalloc::new(WithEvents::new(machine, hears));
    let region = vm.machine().inner().regions().next().unwrap();
    // SAFETY: N1, N2: the region is the machine's, and nobody has the instance.
    unsafe { vm.init(Config::region(region)) }.unwrap();
    let held = [const { AtomicUsize::new(0) }; 3];
    let kernel = Kernel::new(&vm, Words(&held)).with_kmemleak(&leaks);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let scans = scope.spawn(|| {
            let mut scans = 0;
            while !over.load(Acquire) {
                kernel.kmemleak_scan();
                scans += 1;
            }
            scans
        });
        let work = |n: usize| {
            let (kernel, held) = (&kernel, &held);
            move || {
                for round in 0..3000 {
                    let object = kernel.kmalloc(8 + 40 * (round % 9), GfpFlags::KERNEL).unwrap();
                    let area = vm_area(kernel, 1 + round % 5);
                    held[n].store(area, Release);
                    // SAFETY: the area is this thread's, and so is the object.
                    unsafe {
                        std::ptr::with_exposed_provenance_mut::<usize>(area).write(object.addr().get());
                        kernel.kfree(object.as_ptr()).unwrap();
                        if round < 2999 {
                            kernel.vfree(std::ptr::with_exposed_provenance(area)).unwrap();
                        }
                    }
                }
            }
        };
        let workers: Vec<_> = (0..3).map(|n| scope.spawn(work(n))).collect();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        over.store(true, Release);
        assert!(scans.join().unwrap() > 3);
    });
    kernel.kmemleak_scan();
    // Nothing is known but the areas that are left, and these are held.
    assert_eq!(leaks.len(vm.machine()), 3);
    for area in &held {
        let area = area.load(Acquire);
        assert_eq!(leaks.colour(vm.machine(), area), Some(Colour::Grey));
        // SAFETY: V1: nobody uses it.
        unsafe { kernel.vfree(std::ptr::with_exposed_provenance(area)) }.unwrap();
    }
    assert_eq!((leaks.len(vm.machine()), vm.check()), (0, Ok(())));
}

/// An area of the library's own.
fn vm_area<M: vmalloc::machine::Machine>(kernel: &Kernel<'_, M, Words<'_>>, pages: usize) -> usize {
    kernel.vm().alloc(Req::pages(pages)).unwrap().as_ptr().expose_provenance()
}
