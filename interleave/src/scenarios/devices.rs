//! Two CPUs that map a device, or memory, with two memory types.

use super::Scenario;
use super::subsystem::{Subsystem, begin, end};
use crate::rig::{DEVICE, Rig, Trial, act, pointer};
use std::cell::Cell;
use std::rc::Rc;
use vmalloc::internals::interleave::Rule;
use vmalloc::machine::format::MemType;
use vmalloc::units::{PAGE_SIZE, Pfn};
use vmalloc_kernel::{Error, Pgprot, VmFlags};

pub const ALL: &[Scenario] = &[
    Scenario {
        name: "two CPUs map a device with two memory types: one of them does",
        cpus: 2,
        run: conflict,
        notices: &[Rule::DeviceUnclaimed],
    },
    Scenario {
        name: "two CPUs map frames with two memory types: one of them does",
        cpus: 2,
        run: conflict_of_memory,
        notices: &[Rule::DeviceUnclaimed],
    },
];

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

/// Each CPU maps with its index, and one of the two is refused. Returns the other one's index, and the
/// address of what it mapped.
fn one_of_two<F>(trial: &mut Trial, rig: &Rc<Rig>, map: F) -> (usize, usize)
where
    F: Fn(usize) -> Result<usize, Error> + Copy + 'static,
{
    let mapped = Rc::new([Cell::new(0), Cell::new(0)]);
    let script = |cpu: usize| {
        let mapped = Rc::clone(&mapped);
        act(move |_: &Rig| match map(cpu) {
            Ok(at) => mapped[cpu].set(at),
            Err(error) => assert!(matches!(error, Error::OtherMemory { .. }), "claim: {error}"),
        })
    };
    let scripts = vec![script(0), script(1)];
    trial.race(rig, scripts);
    let has = [0, 1].map(|cpu: usize| mapped[cpu].get());
    assert_eq!(has.iter().filter(|&&at| at != 0).count(), 1, "claim: one of the two maps");
    let first = usize::from(has[0] == 0);
    (first, has[first])
}

/// Both map the same pages, and one is refused; after its end the other type is free to be mapped.
fn conflict(trial: &mut Trial) {
    let rig = trial.quiet(2);
    let kernel = begin(&rig);
    let by_frames = [0; 2].map(|_| trial.random.below(2) == 1);
    let types = [MemType::WriteCombining, MemType::UncachedMinus];
    let (first, at) = one_of_two(trial, &rig, move |cpu| map(kernel, types[cpu], by_frames[cpu]));
    unmap(kernel, at, by_frames[first]);
    let other = map(kernel, types[1 - first], false).expect("claim: nobody has it any more");
    unmap(kernel, other, false);
    rig.sim.take_log();
    end(rig, kernel);
}

/// Maps frames with a memory type, as an area of their own or as pages of the area at `part`.
fn map_frames(kernel: &Subsystem, frames: &[Pfn], memory: MemType, part: Option<usize>) -> Result<usize, Error> {
    let prot = Pgprot { memory, ..Pgprot::KERNEL };
    match part {
        // SAFETY: Y3: nobody uses the area.
        Some(at) => unsafe { kernel.map_kernel_range_noflush(at, prot, frames) }.map(|()| at),
        // SAFETY: Y5: the frames are there until the end.
        None => unsafe { kernel.vmap(frames, VmFlags::empty(), prot) }.map(|at| at.addr().get()),
    }
}

fn unmap_frames(kernel: &Subsystem, at: usize, is_part: bool) {
    // SAFETY: Y1, Y3: nobody uses them.
    let ended = unsafe {
        if is_part { kernel.unmap_kernel_range(at, 2 * PAGE_SIZE) } else { kernel.vunmap(pointer(at).as_ptr()) }
    };
    ended.expect("free: a live mapping");
}

/// As [`conflict`], of two frames of memory, one of which both map.
fn conflict_of_memory(trial: &mut Trial) {
    let rig = trial.quiet(2);
    let kernel = begin(&rig);
    let [shared, a, b] = [0; 3].map(|_| rig.frame().expect("memory"));
    let lists = [[shared, a], [b, shared]];
    let areas = [0; 2].map(|_| kernel.get_vm_area(2 * PAGE_SIZE, VmFlags::empty()).expect("addresses"));
    let parts = areas.map(|area| (trial.random.below(2) == 1).then_some(area.addr));
    let types = [MemType::WriteCombining, MemType::WriteBack];
    let (first, at) = one_of_two(trial, &rig, move |cpu| map_frames(kernel, &lists[cpu], types[cpu], parts[cpu]));
    unmap_frames(kernel, at, parts[first].is_some());
    let other = map_frames(kernel, &lists[1 - first], types[1 - first], None).expect("claim: nobody has it any more");
    unmap_frames(kernel, other, false);
    // SAFETY: Y1: nobody uses them.
    areas.iter().for_each(|area| unsafe { kernel.free_vm_area(area) }.expect("free: an area by parts"));
    [shared, a, b].into_iter().for_each(|frame| rig.give_frame(frame));
    rig.sim.take_log();
    end(rig, kernel);
}
