//! What is named: CPUs that nobody announced, the policy in force, addresses that are no business
//! of the instance.

use crate::common::*;
use vmalloc::error::Broken;
use vmalloc::units::Pfn;
use vmalloc::{Config, Placement, Policy, Req, Vmalloc};
use vmalloc_sim::{Bank, Sim};

#[test]
fn check_names_a_cpu_that_makes_calls_and_was_never_online() {
    let sim: Sim<vmalloc::table::X86_64> = quiet(2).build();
    let vm = Vmalloc::new(sim.clone());
    // SAFETY: N1, N2: the machine is new, and nobody else knows the instance.
    sim.unbounded(|| unsafe { vm.init(Config::region(REGION)) }).unwrap();
    sim.on(0, || vm.cpu_online());
    assert_eq!(vm.check(), Ok(()), "CPU 1 has done nothing yet");
    let area = sim.on(1, || vm.alloc(Req::pages(1))).unwrap();
    let broken = Broken { rule: "M9", at: 1 };
    assert_eq!(vm.check(), Err(broken));
    assert_eq!(broken.to_string(), "rule M9 is broken at 0x1: a CPU makes calls, and is not online");
    sim.on(1, || vm.cpu_online());
    // SAFETY: V1: simulated memory.
    unsafe { vm.free(area) }.unwrap();
    assert_eq!(vm.check(), Ok(()));
    // Nobody serves its kicks.
    sim.on(1, || vm.cpu_offline());
    sim.unbounded(|| drop(vm));
}

#[test]
fn check_names_a_cpu_that_makes_calls_after_it_went_offline() {
    let rig = rig(2);
    let area = rig.sim.on(1, || rig.alloc(Req::pages(1))).unwrap();
    rig.sim.on(1, || rig.cpu_offline());
    assert_eq!(rig.check(), Ok(()), "what it did before is in order");
    rig.sim.on(1, || rig.give(area)).unwrap();
    assert_eq!(rig.check(), Err(Broken { rule: "M9", at: 1 }));
    rig.sim.on(1, || rig.cpu_online());
    assert_eq!(rig.check(), Ok(()));
}

#[test]
fn stats_tell_the_policy_in_force() {
    let told = |end: u64, policy| {
        let bank = Bank { first: Pfn(end - 4096), frames: 4096, node: Some(vmalloc::units::Node(0)) };
        let rig = boot(quiet(1).bank(bank), Config::region(REGION).policy(policy));
        (rig.policy(), rig.stats().policy)
    };
    // Entries hide frames of the lower half of what they can name.
    assert_eq!(told(1 << 39, Policy::Park), (Policy::Park, Policy::Park));
    assert_eq!(told((1 << 39) + 1, Policy::Park), (Policy::Park, Policy::Unmap));
    for policy in [Policy::Unmap, Policy::Strict, Policy::Keep] {
        assert_eq!(told((1 << 39) + 1, policy), (policy, policy));
    }
    let rig = rig(1);
    rig.set_policy(Policy::Strict);
    assert_eq!(rig.stats().policy, Policy::Strict);
    // Only slots of a class are cached, and the placement Lowest has none.
    for policy in [Policy::Park, Policy::Keep] {
        let rig = boot(quiet(1), Config::region(REGION).placement(Placement::Lowest).policy(policy));
        let area = rig.alloc(Req::pages(1)).unwrap();
        rig.give(area).unwrap();
        assert_eq!((rig.policy(), rig.stats().policy, rig.stats().cached_slots), (policy, Policy::Unmap, 0));
    }
}

#[test]
fn an_instance_contains_its_regions_and_nothing_else() {
    let other = REGION.end + (1 << 30)..REGION.end + (2 << 30);
    let rig = boot(quiet(1), Config::region(REGION).add_region(other.clone()));
    for inside in [REGION.start, REGION.end - 1, other.start, other.end - 1] {
        assert!(rig.contains(inside), "{inside:#x}");
    }
    for outside in [0, REGION.start - 1, REGION.end, other.start - 1, other.end, usize::MAX] {
        assert!(!rig.contains(outside), "{outside:#x}");
    }
    let unborn = Vmalloc::new(rig.sim.clone());
    assert!(!unborn.contains(REGION.start));
}
