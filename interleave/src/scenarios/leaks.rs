//! A scan for leaks on one CPU, while another one frees what it reads.

use super::Scenario;
use super::subsystem::Subsystem;
use crate::rig::{Rig, Trial, act, pointer};
use std::rc::Rc;
use vmalloc::Vmalloc;
use vmalloc::internals::interleave::Rule;
use vmalloc::machine::Machine;
use vmalloc::table::X86_64;
use vmalloc::units::{PAGE_SIZE, Pfn, VirtAddr};
use vmalloc_kernel::kmemleak::{Colour, Kmemleak};
use vmalloc_kernel::{Bare, GfpFlags, Kernel};
use vmalloc_sim::Sim;

pub const ALL: &[Scenario] = &[
    Scenario {
        name: "a scan for leaks reads areas that another CPU frees",
        cpus: 2,
        run: areas,
        notices: &[Rule::ScannedUnchecked],
    },
    Scenario {
        name: "a scan for leaks reads objects of the slab that another CPU frees",
        cpus: 2,
        run: objects,
        notices: &[Rule::ScannedUnchecked],
    },
];

type Leaks = Kmemleak<<Sim<X86_64> as Machine>::Lock>;

fn begin(rig: &Rig) -> (&'static Subsystem, &'static Leaks) {
    let vm: *const Vmalloc<Sim<X86_64>> = &raw const ***rig;
    let leaks: &'static Leaks = Box::leak(Box::new(Kmemleak::new()));
    // SAFETY: the instance lives until the rig is finished, or for ever after a panic.
    let kernel = Kernel::new(unsafe { &*vm }, Bare).with_kmemleak(leaks);
    (Box::leak(Box::new(kernel)), leaks)
}

fn end(rig: Rc<Rig>, (kernel, leaks): (&'static Subsystem, &'static Leaks)) {
    // SAFETY: `begin` has made boxes of them, and the race is over.
    let mut leaks = unsafe {
        drop(Box::from_raw(core::ptr::from_ref(kernel).cast_mut()));
        Box::from_raw(core::ptr::from_ref(leaks).cast_mut())
    };
    leaks.give_back(&rig.sim);
    rig.finish(false);
}

fn object(kernel: &Subsystem) -> usize {
    kernel.kzalloc(64, GfpFlags::KERNEL).expect("memory").addr().get()
}

fn free(kernel: &Subsystem, at: usize) {
    // SAFETY: Y1: scripts use no object after this.
    unsafe { kernel.kfree(pointer(at).as_ptr()) }.expect("free: a live object");
}

/// CPU 0 scans: an object that no object names, which is scanned, is white.
fn scans(kernel: &'static Subsystem, leaks: &'static Leaks, lost: usize, times: usize) -> crate::rig::Act {
    act(move |rig: &Rig| {
        for _ in 0..times {
            kernel.kmemleak_scan();
            assert_eq!(leaks.colour(&rig.sim, lost), Some(Colour::White), "scan: it read what is another's");
            rig.pause();
        }
    })
}

/// CPU 1 makes an area that is scanned, frees it, and writes the lost object's address to all
/// frames that it then gets.
fn areas(trial: &mut Trial) {
    let rig = trial.quiet(2);
    let both = begin(&rig);
    let kernel = both.0;
    let lost = object(kernel);
    let area = || {
        let at = kernel.vzalloc(2 * PAGE_SIZE).expect("memory").addr().get();
        kernel.kmemleak_not_leak(at);
        at
    };
    // Their frames come back to CPU 1.
    let firsts = rig.sim.on(1, || [area(), area(), area()]);
    let frees = act(move |rig: &Rig| {
        for at in firsts {
            // SAFETY: Y1: the script uses it no more.
            unsafe { kernel.vfree(pointer(at).as_ptr()) }.expect("free: a live area");
            rig.purge();
            let frames: Vec<Pfn> = (0..4).map_while(|_| rig.frame()).collect();
            for &frame in &frames {
                // SAFETY: the frame is the script's.
                unsafe { rig.sim.virt(frame).cast::<usize>().write(lost) };
            }
            rig.pause();
            frames.into_iter().for_each(|frame| rig.give_frame(frame));
            rig.sim.load(1, VirtAddr(at)).expect_err("content: it was freed");
        }
    });
    trial.race(&rig, vec![scans(kernel, both.1, lost, 2), frees]);
    free(kernel, lost);
    end(rig, both);
}

/// CPU 1 frees objects that are scanned; the next ones are not scanned, and name the lost object.
fn objects(trial: &mut Trial) {
    let rig = trial.quiet(2);
    let both = begin(&rig);
    let kernel = both.0;
    let lost = object(kernel);
    let scanned = [0; 3].map(|_| object(kernel));
    scanned.iter().for_each(|&at| kernel.kmemleak_not_leak(at));
    let frees = act(move |rig: &Rig| {
        for at in scanned {
            free(kernel, at);
            let other = object(kernel);
            kernel.kmemleak_ignore(other);
            // SAFETY: the object is the script's.
            unsafe { pointer(other).cast::<usize>().write(lost) };
            rig.pause();
            free(kernel, other);
        }
    });
    trial.race(&rig, vec![scans(kernel, both.1, lost, 2), frees]);
    free(kernel, lost);
    end(rig, both);
}
