//! Objects by CPU on two CPUs: their bytes, their pages, and chunks that come and go.

use super::Scenario;
use super::subsystem::{Subsystem, begin, end};
use crate::rig::{Rig, Trial, act};
use std::rc::Rc;
use vmalloc::internals::interleave::Rule;
use vmalloc::machine::Machine;
use vmalloc::table::X86_64;
use vmalloc::units::{PAGE_SIZE, Pfn, VirtAddr};
use vmalloc_kernel::percpu::{Group, PerCpu, PerCpuPtr};
use vmalloc_kernel::{Bare, Error, GfpFlags};
use vmalloc_sim::Sim;

pub const ALL: &[Scenario] = &[
    Scenario {
        name: "objects by CPU come and go on two CPUs, and chunks with them",
        cpus: 2,
        run: come_and_go,
        notices: &[Rule::BytesTakenInTwo, Rule::SurplusInTwo],
    },
    Scenario {
        name: "two CPUs take objects by CPU until memory is out",
        cpus: 2,
        run: exhaust,
        notices: &[Rule::PagesToldEarly],
    },
    Scenario {
        name: "an object by CPU is freed again after its chunk was given up",
        cpus: 2,
        run: freed_again,
        notices: &[Rule::RecordFreed],
    },
];

/// Two CPUs whose units lie side by side.
static GROUPS: [Group; 1] = [Group { offset: 0, cpus: 2 }];

type Objects = PerCpu<'static, 'static, Sim<X86_64>, Bare>;

fn begin_objects(rig: &Rig, unit_pages: usize) -> (&'static Subsystem, &'static Objects) {
    let kernel = begin(rig);
    let objects = PerCpu::new(kernel, &GROUPS, unit_pages).expect("groups");
    (kernel, Box::leak(Box::new(objects)))
}

fn end_objects(rig: Rc<Rig>, (kernel, objects): (&'static Subsystem, &'static Objects)) {
    // SAFETY: `begin_objects` has made a box of it, and the race is over.
    drop(unsafe { Box::from_raw(core::ptr::from_ref(objects).cast_mut()) });
    end(rig, kernel);
}

fn free(objects: &Objects, object: PerCpuPtr) -> Result<(), Error> {
    // SAFETY: Y1: simulated memory is used through the simulator, which judges each use.
    unsafe { objects.free_percpu(object) }
}

/// The first word and the last word of the object, in both units.
fn words(objects: &Objects, object: PerCpuPtr, size: usize) -> [VirtAddr; 4] {
    let at = |cpu| objects.per_cpu_ptr(object, cpu).expect("a unit").addr().get();
    [at(0), at(0) + size - 8, at(1), at(1) + size - 8].map(VirtAddr)
}

/// Each CPU makes objects, which begin with zeroes and hold its number until it frees them.
fn come_and_go(trial: &mut Trial) {
    let rig = trial.quiet(2);
    let both = begin_objects(&rig, 1);
    let objects = both.1;
    let mut script = |cpu: u32| {
        let sizes = [0; 4].map(|_| [8, 64, 2000, 4096][trial.random.below(4) as usize]);
        let pauses = trial.random.below(3);
        act(move |rig: &Rig| {
            for _ in 0..2 {
                let made = sizes.map(|size| {
                    let object = objects.alloc_percpu(size, 8, GfpFlags::KERNEL).expect("memory");
                    for word in words(objects, object, size) {
                        assert!(rig.sim.load(cpu, word) == Ok(0) || size == 8, "content: a new object is clear");
                        rig.sim.store(cpu, word, u64::from(cpu) + 1).expect("content: it is there");
                    }
                    rig.pause_for(pauses);
                    (object, size)
                });
                for (object, size) in made {
                    for word in words(objects, object, size) {
                        assert_eq!(rig.sim.load(cpu, word), Ok(u64::from(cpu) + 1), "content: of a live object");
                    }
                    free(objects, object).expect("free: a live object");
                }
            }
        })
    };
    let scripts = vec![script(0), script(1)];
    trial.race(&rig, scripts);
    assert!(rig.areas().count() <= 1, "leak: more chunks than one are empty");
    end_objects(rig, both);
}

/// Each CPU takes objects until it gets none, and frees them: nobody gets one without its pages.
fn exhaust(trial: &mut Trial) {
    let rig = trial.quiet(2);
    let both = begin_objects(&rig, 2);
    let objects = both.1;
    let first = objects.alloc_percpu(8, 8, GfpFlags::KERNEL).expect("memory");
    let mut held: Vec<Pfn> = std::iter::from_fn(|| rig.frame()).collect();
    let few = trial.random.below(8) as usize;
    held.drain(held.len() - few..).for_each(|frame| rig.give_frame(frame));
    let script = |cpu: u32| {
        act(move |rig: &Rig| {
            let size = 1500;
            let make = || objects.alloc_percpu(size, 8, GfpFlags::KERNEL | GfpFlags::NOWARN).ok();
            let made: Vec<PerCpuPtr> = std::iter::from_fn(make).take(6).collect();
            for &object in &made {
                let words = words(objects, object, size & !7);
                words.iter().for_each(|&word| rig.sim.store(cpu, word, 1).expect("content: it is there"));
            }
            made.into_iter().for_each(|object| free(objects, object).expect("free: a live object"));
        })
    };
    trial.race(&rig, vec![script(0), script(1)]);
    free(objects, first).expect("free: a live object");
    held.into_iter().for_each(|frame| rig.give_frame(frame));
    end_objects(rig, both);
}

/// Takes all memory that is free here, and writes ones to it.
fn fill(rig: &Rig, taken: &mut Vec<Pfn>) {
    while let Some(frame) = rig.frame() {
        // SAFETY: the frame is the script's.
        unsafe { rig.sim.virt(frame).as_ptr().write_bytes(0xff, PAGE_SIZE) };
        taken.push(frame);
    }
}

/// Gives it back: nobody has written to it.
fn give_filled(rig: &Rig, taken: Vec<Pfn>) {
    for frame in taken {
        // SAFETY: the frame is the script's.
        let bytes = unsafe { core::slice::from_raw_parts(rig.sim.virt(frame).as_ptr(), PAGE_SIZE) };
        assert!(bytes.iter().all(|&byte| byte == 0xff), "content: somebody wrote to {frame:?}");
        rig.give_frame(frame);
    }
}

/// CPU 0 frees objects, whose chunks are given up, and frees them again: that is refused. Both CPUs
/// fill all memory that becomes free.
fn freed_again(trial: &mut Trial) {
    let rig = trial.quiet(2);
    let both = begin_objects(&rig, 1);
    let objects = both.1;
    let made = [0; 3].map(|_| objects.alloc_percpu(PAGE_SIZE, 8, GfpFlags::KERNEL).expect("memory"));
    let held: Vec<Pfn> = std::iter::from_fn(|| rig.frame()).collect();
    let frees = act(move |rig: &Rig| {
        made.iter().for_each(|&object| free(objects, object).expect("free: a live object"));
        let mut taken = Vec::new();
        fill(rig, &mut taken);
        for object in made {
            assert!(matches!(free(objects, object), Err(Error::DoubleFree(_))), "free: it was freed");
        }
        give_filled(rig, taken);
    });
    let fills = act(|rig: &Rig| {
        let mut taken = Vec::new();
        for _ in 0..4 {
            fill(rig, &mut taken);
            rig.pause();
        }
        give_filled(rig, taken);
    });
    trial.race(&rig, vec![frees, fills]);
    held.into_iter().for_each(|frame| rig.give_frame(frame));
    end_objects(rig, both);
}
