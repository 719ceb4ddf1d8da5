//! Two CPUs that map a device with two memory types.

use super::Scenario;
use super::subsystem::{Subsystem, begin, end};
use crate::rig::{DEVICE, Rig, Trial, act, pointer};
use std::cell::Cell;
use std::rc::Rc;
use vmalloc::internals::interleave::Rule;
use vmalloc::machine::format::MemType;
use vmalloc::units::PAGE_SIZE;
use vmalloc_kernel::{Error, Pgprot};

pub const ALL: &[Scenario] = &[Scenario {
    name: "two CPUs map a device with two memory types: one of them does",
    cpus: 2,
    run: conflict,
    notices: &[Rule::DeviceUnclaimed],
}];

/// Maps two pages of the device with a memory type, as a device or by frames.
fn map(kernel: &Subsystem, memory: MemType, by_frames: bool) -> Result<usize, Error> {
    let made = match by_frames {
        // SAFETY: Y6: the device is there until the end.
        true => unsafe {
            kernel.vmap_pfn(&[DEVICE.first.offset(1), DEVICE.first], Pgprot { memory, ..Pgprot::KERNEL })
        },
        false if memory == MemType::WriteCombining => {
            kernel.ioremap_wc(DEVICE.first.0 * PAGE_SIZE as u64, 2 * PAGE_SIZE)
        }
        false => kernel.ioremap(DEVICE.first.0 * PAGE_SIZE as u64, 2 * PAGE_SIZE),
    };
    made.map(|at| at.addr().get())
}

fn unmap(kernel: &Subsystem, at: usize, by_frames: bool) {
    let at = pointer(at).as_ptr();
    // SAFETY: Y1: nobody uses it.
    let ended = unsafe { if by_frames { kernel.vunmap(at) } else { kernel.iounmap(at) } };
    ended.expect("free: a live mapping");
}

/// Both map the same pages, and one is refused; after its end the other type is free to be mapped.
fn conflict(trial: &mut Trial) {
    let rig = trial.quiet(2);
    let kernel = begin(&rig);
    let mapped = Rc::new([Cell::new(0), Cell::new(0)]);
    let by_frames = [0; 2].map(|_| trial.random.below(2) == 1);
    let types = [MemType::WriteCombining, MemType::UncachedMinus];
    let script = |cpu: usize| {
        let mapped = Rc::clone(&mapped);
        act(move |_: &Rig| match map(kernel, types[cpu], by_frames[cpu]) {
            Ok(at) => mapped[cpu].set(at),
            Err(error) => assert!(matches!(error, Error::OtherMemory { .. }), "claim: {error}"),
        })
    };
    let scripts = vec![script(0), script(1)];
    trial.race(&rig, scripts);
    let has = [0, 1].map(|cpu: usize| mapped[cpu].get());
    assert_eq!(has.iter().filter(|&&at| at != 0).count(), 1, "claim: one of the two maps the device");
    let first = usize::from(has[0] == 0);
    unmap(kernel, has[first], by_frames[first]);
    let other = map(kernel, types[1 - first], false).expect("claim: nobody has it any more");
    unmap(kernel, other, false);
    rig.sim.take_log();
    end(rig, kernel);
}
