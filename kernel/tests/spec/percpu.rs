//! Objects by CPU.

use crate::common::*;
use vmalloc::machine::Machine as _;
use vmalloc::units::VirtAddr;
use vmalloc_kernel::percpu::{Group, MAX_GROUPS, PerCpu, PerCpuPtr};
use vmalloc_kernel::{Error, GfpFlags, Kern};

/// Three CPUs in two groups, whose units are 32 KiB.
const GROUPS: [Group; 2] = [Group { offset: 0, cpus: 2 }, Group { offset: 1 << 20, cpus: 1 }];
const UNIT: usize = 8 * PAGE;

fn allocator<'k>(kernel: &'k Tested<'k>) -> PerCpu<'k, 'k, Machine, Recorder> {
    PerCpu::new(kernel, &GROUPS, 8).unwrap()
}

fn address<'k>(percpu: &PerCpu<'k, 'k, Machine, Recorder>, object: PerCpuPtr, cpu: u32) -> usize {
    number(percpu.per_cpu_ptr(object, cpu).unwrap())
}

fn free<'k>(percpu: &PerCpu<'k, 'k, Machine, Recorder>, object: PerCpuPtr) -> Result<(), Error> {
    // SAFETY: Y1: simulated memory is used through the simulator alone.
    unsafe { percpu.free_percpu(object) }
}

#[test]
fn an_object_has_its_own_cleared_bytes_in_the_unit_of_each_cpu() {
    let rig = quiet();
    let before = rig.state();
    {
        let kernel = rig.kernel();
        let percpu = allocator(&kernel);
        for round in 0..3 {
            let object = percpu.alloc_percpu(9000, 64, GFP).unwrap();
            let at = [0, 1, 2].map(|cpu| address(&percpu, object, cpu));
            assert_eq!((at[1] - at[0], at[2] - at[0], at[0] % 64), (UNIT, 1 << 20, 0));
            assert_eq!(percpu.per_cpu_ptr(object, 3), None, "there is no fourth CPU");
            for at in at {
                rig.assert_zero(at, 9000);
                (0..9000 / 8).for_each(|n| rig.sim.store(0, VirtAddr(at + n * 8), round + 1).unwrap());
            }
            free(&percpu, object).unwrap();
            assert!(matches!(free(&percpu, object), Err(Error::DoubleFree(_))));
        }
        assert_eq!(rig.areas().count(), 2, "an empty chunk stays");
    }
    assert_eq!(rig.state().0, before.0, "all went with the allocator");
}

#[test]
fn objects_do_not_overlap_keep_their_words_and_empty_chunks_go() {
    let rig = quiet();
    {
        let kernel = rig.kernel();
        let percpu = allocator(&kernel);
        let (mut live, mut seed) = (Vec::new(), 5u64);
        let mut draw = |below: usize| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as usize % below
        };
        let word = |at: usize| VirtAddr(at & !7);
        for step in 1..4000u64 {
            if draw(100) < 55 {
                let (size, align) = (8 * (1 + draw(128)), 8 << draw(9));
                let object = percpu.alloc_percpu(size, align, GFP).unwrap();
                for cpu in 0..3 {
                    let at = address(&percpu, object, cpu);
                    assert!(at.is_multiple_of(align));
                    rig.assert_zero(at, size);
                    [at, at + size - 8].into_iter().for_each(|at| rig.sim.store(0, word(at), step).unwrap());
                }
                live.push((object, size, step));
            } else if !live.is_empty() {
                let (object, size, step) = live.swap_remove(draw(live.len()));
                for cpu in 0..3 {
                    let at = address(&percpu, object, cpu);
                    for at in [at, at + size - 8] {
                        assert_eq!(rig.sim.load(0, word(at)), Ok(step), "somebody wrote to an object of {size} bytes");
                    }
                }
                free(&percpu, object).unwrap();
            }
        }
        let most = rig.areas().count();
        assert!(most > 4 && live.len() > 100, "{most} parts, {} objects", live.len());
        live.into_iter().for_each(|(object, ..)| free(&percpu, object).unwrap());
        assert_eq!(rig.areas().count(), 2, "one empty chunk stays");
    }
    rig.state();
}

#[test]
fn who_must_not_wait_gets_bytes_of_pages_that_are_there() {
    let rig = quiet();
    let kernel = rig.kernel();
    let percpu = allocator(&kernel);
    let full = "percpu: allocation failed, size=64 align=8 atomic=1, atomic alloc failed, no space left";
    assert!(percpu.alloc_percpu(64, 8, GfpFlags::ATOMIC).is_err());
    assert_eq!(kernel.host().said().last(), Some(&(Kern::Warning, full.to_string())));
    percpu.alloc_percpu(8, 8, GFP).unwrap();
    // One page is there by now.
    let served = (0..100).map_while(|_| percpu.alloc_percpu(64, 8, GfpFlags::ATOMIC | GfpFlags::NOWARN).ok()).count();
    assert_eq!(served, (PAGE - 8) / 64);
    assert_eq!(kernel.host().said(), [], "NOWARN");
}

#[test]
fn what_is_never_served_is_refused_by_the_message() {
    let rig = quiet();
    let kernel = rig.kernel();
    let percpu = allocator(&kernel);
    for (size, align) in [(0, 8), ((32 << 10) + 1, 8), (8, 2 * PAGE), (8, 3), (8, 0)] {
        assert_eq!(percpu.alloc_percpu(size, align, GFP), Err(Error::BadArgument(size)));
        let told = format!("illegal size ({size}) or align ({align}) for percpu allocation");
        assert_eq!(kernel.host().said().last(), Some(&(Kern::Warning, told)));
    }
    let group = |offset, cpus| Group { offset, cpus };
    for groups in
        [&[][..], &[group(0, 0)], &[group(100, 1)], &[group(0, 2), group(UNIT, 1)], &[group(0, 1); MAX_GROUPS + 1]]
    {
        assert!(matches!(PerCpu::new(&kernel, groups, 8), Err(Error::BadArgument(_))), "{groups:?}");
    }
    assert!(PerCpu::new(&kernel, &GROUPS, 9).is_err());
    assert_eq!(rig.areas().count(), 0);
}

#[test]
#[cfg(debug_assertions)]
fn a_refusal_of_any_step_is_told_and_leaves_the_objects_that_were_there() {
    let rig = quiet();
    let kernel = rig.kernel();
    let mut reasons = std::collections::BTreeSet::new();
    for step in 1.. {
        let percpu = allocator(&kernel);
        let first = percpu.alloc_percpu(100, 8, GFP).unwrap();
        // Two objects of 30,000 bytes do not fit one chunk.
        percpu.alloc_percpu(20_000, 8, GFP).unwrap();
        rig.sim.faults().fail_from(step);
        let refused = percpu.alloc_percpu(30_000, 8, GFP);
        rig.sim.faults().fail_at(0);
        assert_eq!(rig.check(), Ok(()));
        rig.sim.store(0, VirtAddr(address(&percpu, first, 2)), 7).unwrap();
        if refused.is_err() {
            let (_, line) = kernel.host().said().pop().unwrap();
            reasons.insert(line.rsplit(", ").next().unwrap().to_string());
            percpu.alloc_percpu(30_000, 8, GFP).expect("nothing was lost");
        } else {
            break;
        }
    }
    assert_eq!(reasons.into_iter().collect::<Vec<_>>(), ["failed to allocate new chunk"]);
}

#[test]
fn pages_that_cannot_be_populated_for_all_cpus_are_populated_for_none() {
    let rig = quiet();
    let kernel = rig.kernel();
    let percpu = allocator(&kernel);
    percpu.alloc_percpu(100, 8, GFP).unwrap();
    let taken: Vec<_> = std::iter::from_fn(|| rig.alloc_frame(vmalloc::Gfp::NOWAIT, None).ok()).collect();
    let (few, rest) = taken.split_at(5);
    give_frames(&rig, few);
    let mapped = || (0..8).filter(|n| rig.frame_at(rig.areas().next().unwrap().start.0 + n * PAGE).is_some()).count();
    assert_eq!(mapped(), 1);
    // Four pages by three CPUs.
    assert!(matches!(percpu.alloc_percpu(4 * PAGE, PAGE, GFP), Err(Error::Alloc(_))));
    let told = "percpu: allocation failed, size=16384 align=4096 atomic=0, failed to populate";
    assert_eq!(kernel.host().said(), [(Kern::Warning, told.to_string())]);
    assert_eq!((mapped(), rig.check()), (1, Ok(())));
    give_frames(&rig, rest);
    percpu.alloc_percpu(4 * PAGE, PAGE, GFP).expect("nothing was lost");
    assert_eq!(mapped(), 5);
}

#[test]
fn an_object_whose_chunk_was_given_up_is_refused_and_nothing_is_read_that_is_another_s() {
    let rig = quiet();
    let kernel = rig.kernel();
    let percpu = allocator(&kernel);
    // Each fills a chunk.
    let made = [0; 3].map(|_| percpu.alloc_percpu(32 << 10, 8, GFP).unwrap());
    made.iter().for_each(|&object| free(&percpu, object).unwrap());
    assert_eq!(rig.areas().count(), 2, "one empty chunk stays");
    rig.purge();
    // All memory that is free is somebody else's, and has no zero in it.
    let taken: Vec<_> = std::iter::from_fn(|| rig.alloc_frame(vmalloc::Gfp::NOWAIT, None).ok()).collect();
    let bytes = |frame| rig.machine().virt(frame).as_ptr();
    // SAFETY: the frames are the test's.
    taken.iter().for_each(|&frame| unsafe { bytes(frame).write_bytes(0xff, PAGE) });
    for object in made {
        assert_eq!(free(&percpu, object), Err(Error::DoubleFree(address(&percpu, object, 0))));
    }
    // SAFETY: as above.
    let is_whole =
        |&frame: &_| unsafe { std::slice::from_raw_parts(bytes(frame), PAGE) }.iter().all(|&byte| byte == 0xff);
    assert!(taken.iter().all(is_whole), "a free wrote to memory of another's");
    give_frames(&rig, &taken);
    let again = [0; 3].map(|_| percpu.alloc_percpu(32 << 10, 8, GFP).unwrap());
    again.iter().for_each(|&object| free(&percpu, object).unwrap());
    drop(percpu);
    assert_eq!(rig.state().0, []);
}
