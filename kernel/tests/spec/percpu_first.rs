//! The first chunk of objects by CPU: static, reserved and dynamic.

use crate::common::*;
use vmalloc::units::VirtAddr;
use vmalloc_kernel::percpu::{FirstChunk, Group, PerCpu, PerCpuPtr};
use vmalloc_kernel::{Error, GfpFlags, Kern};

/// Three CPUs in two groups, whose units are 32 KiB.
const GROUPS: [Group; 2] = [Group { offset: 0, cpus: 2 }, Group { offset: 1 << 20, cpus: 1 }];
/// A page and a bit, so that the image ends inside of a page.
const STATIC: usize = PAGE + 40;
const RESERVED: usize = 2000;
const DYNAMIC: usize = 3000;
const UNIT: usize = 8 * PAGE;

type Objects<'k> = PerCpu<'k, 'k, Machine, Recorder>;

fn allocator<'k>(kernel: &'k Tested<'k>) -> Objects<'k> {
    PerCpu::new(kernel, &GROUPS, 8).unwrap()
}

fn image() -> Vec<u8> {
    (0..STATIC).map(|n| (n % 251) as u8).collect()
}

fn set_up<'k>(percpu: &Objects<'k>, reserved: usize, dynamic: usize) -> Result<PerCpuPtr, Error> {
    percpu.setup_first_chunk(&FirstChunk { image: &image(), reserved, dynamic })
}

fn address<'k>(percpu: &Objects<'k>, object: PerCpuPtr, cpu: u32) -> usize {
    number(percpu.per_cpu_ptr(object, cpu).unwrap())
}

fn free<'k>(percpu: &Objects<'k>, object: PerCpuPtr) -> Result<(), Error> {
    // SAFETY: Y1: simulated memory is used through the simulator alone.
    unsafe { percpu.free_percpu(object) }
}

/// The offset of an object in its unit, where all units have it in the first chunk.
fn offset<'k>(percpu: &Objects<'k>, statics: PerCpuPtr, object: PerCpuPtr) -> usize {
    let at = |cpu| address(percpu, object, cpu).wrapping_sub(address(percpu, statics, cpu));
    assert_eq!((at(1), at(2)), (at(0), at(0)));
    at(0)
}

#[test]
fn each_cpu_has_a_copy_of_the_static_variables() {
    let rig = quiet();
    let kernel = rig.kernel();
    let before = rig.state();
    {
        let percpu = allocator(&kernel);
        let statics = set_up(&percpu, RESERVED, DYNAMIC).unwrap();
        let told = format!("percpu: 8 4K pages/cpu s{STATIC} r{RESERVED} d{DYNAMIC}");
        assert_eq!(kernel.host().said(), [(Kern::Info, told)]);
        for cpu in 0..3 {
            let mut bytes = vec![0; STATIC];
            let at = address(&percpu, statics, cpu);
            assert_eq!((kernel.vread(&mut bytes, at), bytes == image()), (Ok(STATIC), true));
            assert_eq!(rig.sim.load(0, VirtAddr(at + PAGE)).map(|word| word as u8), Ok(image()[PAGE]));
            rig.sim.store(0, VirtAddr(at), u64::from(cpu)).unwrap();
        }
        assert!(matches!(free(&percpu, statics), Err(Error::DoubleFree(_))), "nobody frees variables");
    }
    assert_eq!(rig.state().0, before.0, "all went with the allocator");
}

#[test]
fn modules_get_the_reserved_part_alone_and_others_the_dynamic_part_first() {
    let rig = quiet();
    let kernel = rig.kernel();
    let percpu = allocator(&kernel);
    let statics = set_up(&percpu, RESERVED, DYNAMIC).unwrap();
    kernel.host().said();
    let mut modules = Vec::new();
    let refused = loop {
        match percpu.alloc_reserved_percpu(100, 8) {
            Ok(object) => modules.push(object),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::NoRoom { .. }));
    let told = "percpu: allocation failed, size=100 align=8 atomic=0, alloc from reserved chunk failed";
    assert_eq!(kernel.host().said(), [(Kern::Warning, told.to_string())]);
    assert_eq!(modules.len(), RESERVED / 104);
    for &object in &modules {
        let at = offset(&percpu, statics, object);
        assert!(at >= STATIC && at + 100 <= STATIC + RESERVED, "{at}");
        rig.assert_zero(address(&percpu, object, 2), 100);
    }
    let areas = rig.areas().count();
    let mut others = Vec::new();
    while rig.areas().count() == areas {
        others.push(percpu.alloc_percpu(100, 4, GFP).unwrap());
    }
    let beyond = others.pop().unwrap();
    assert_ne!(address(&percpu, beyond, 0) & !(UNIT - 1), address(&percpu, statics, 0) & !(UNIT - 1));
    assert_eq!(others.len(), DYNAMIC / 100, "all of it");
    for &object in &others {
        let at = offset(&percpu, statics, object);
        assert!(at >= STATIC + RESERVED && at + 100 <= STATIC + RESERVED + DYNAMIC, "{at}");
    }
    let again = offset(&percpu, statics, modules[3]);
    free(&percpu, modules.swap_remove(3)).unwrap();
    let module = percpu.alloc_reserved_percpu(60, 8).unwrap();
    assert_eq!(offset(&percpu, statics, module), again, "what a module gave up serves the next");
    modules.push(module);
    modules.into_iter().chain(others).chain([beyond]).for_each(|object| free(&percpu, object).unwrap());
    assert_eq!(rig.areas().count(), areas + 2, "the first chunk stays, and one that is empty");
    let at = offset(&percpu, statics, percpu.alloc_reserved_percpu(RESERVED - 8, 8).unwrap());
    assert!(at < STATIC + 8, "the whole part is free again");
    assert_eq!(rig.check(), Ok(()));
}

#[test]
fn where_nothing_is_reserved_modules_are_served_like_others() {
    let rig = quiet();
    let kernel = rig.kernel();
    let percpu = allocator(&kernel);
    let without = percpu.alloc_reserved_percpu(8, 8).unwrap();
    free(&percpu, without).unwrap();
    let statics = set_up(&percpu, 0, DYNAMIC).unwrap();
    let object = percpu.alloc_reserved_percpu(100, 8).unwrap();
    assert!((STATIC..STATIC + DYNAMIC).contains(&offset(&percpu, statics, object)));
}

#[test]
fn who_must_not_wait_is_served_by_the_first_chunk_before_any_other_was() {
    let rig = quiet();
    let kernel = rig.kernel();
    let percpu = allocator(&kernel);
    set_up(&percpu, RESERVED, DYNAMIC).unwrap();
    for _ in 0..DYNAMIC / 100 {
        percpu.alloc_percpu(100, 4, GfpFlags::ATOMIC).unwrap();
    }
    assert!(percpu.alloc_percpu(100, 4, GfpFlags::ATOMIC).is_err());
}

#[test]
fn a_first_chunk_that_does_not_fit_or_is_the_second_is_refused_and_changes_nothing() {
    let rig = quiet();
    let kernel = rig.kernel();
    let percpu = allocator(&kernel);
    let before = rig.state();
    for (reserved, dynamic) in [(UNIT, 0), (0, UNIT - STATIC + 4), (usize::MAX, usize::MAX), (0, usize::MAX)] {
        assert!(matches!(set_up(&percpu, reserved, dynamic), Err(Error::BadArgument(_))));
    }
    let nothing = FirstChunk { image: &[], reserved: 0, dynamic: 0 };
    assert!(matches!(percpu.setup_first_chunk(&nothing), Err(Error::BadArgument(_))));
    assert_eq!(rig.state(), before);
    let first = set_up(&percpu, RESERVED, UNIT - STATIC - RESERVED).unwrap();
    let held = |rig: &Rig| (rig.areas().count(), rig.stats().areas);
    let held_before = held(&rig);
    assert!(matches!(set_up(&percpu, RESERVED, DYNAMIC), Err(Error::BadArgument(_))));
    assert_eq!((held(&rig), rig.check()), (held_before, Ok(())));
    let object = percpu.alloc_reserved_percpu(RESERVED - 8, 8).unwrap();
    assert!(offset(&percpu, first, object) >= STATIC);
}

#[test]
#[cfg(debug_assertions)]
fn a_refusal_of_any_step_leaves_no_first_chunk_and_it_can_be_set_up_later() {
    let rig = quiet();
    let kernel = rig.kernel();
    let mut refusals = 0;
    for step in 1.. {
        let percpu = allocator(&kernel);
        let before = rig.areas().count();
        rig.sim.faults().fail_from(step);
        let made = set_up(&percpu, RESERVED, DYNAMIC);
        rig.sim.faults().fail_at(0);
        assert_eq!(rig.check(), Ok(()));
        if made.is_ok() {
            break;
        }
        refusals += 1;
        assert_eq!(rig.areas().count(), before);
        set_up(&percpu, RESERVED, DYNAMIC).expect("nothing was lost");
    }
    assert!(refusals > 1, "{refusals}");
}
