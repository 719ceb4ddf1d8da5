//! What the oracle found, each by the shortest way there.

use vmalloc::table::X86_64;
use vmalloc::units::VirtAddr;
use vmalloc::{Config, Policy, Req};
use vmalloc_sim::{Booted, Rates, Sim};

const START: usize = 0xffff_c900_0000_0000;

/// Three CPUs with 4 MiB; nothing happens by chance.
fn small() -> Booted<X86_64> {
    let sim = Sim::<X86_64>::builder().cpus(3).node(4 << 20).rates(Rates::NEVER).build();
    Booted::new(sim, Config::region(START..START + (1 << 30)).batch_pages(4096).waiting_pages(4096)).unwrap()
}

#[test]
fn who_may_wait_gets_what_a_purge_frees() {
    let vm = small();
    let all = vm.alloc(Req::pages(800)).unwrap();
    // SAFETY: V1.
    unsafe { vm.free(all) }.unwrap();
    assert!(vm.stats().waiting_pages >= 800);
    vm.alloc(Req::pages(800)).unwrap();
}

#[test]
fn a_batch_that_was_sealed_before_is_no_barrier_for_a_strict_free() {
    let vm = small();
    let (old, new) = (vm.alloc(Req::pages(1)).unwrap(), vm.alloc(Req::pages(1)).unwrap());
    // SAFETY: V1.
    unsafe { vm.free(old) }.unwrap();
    (0..2).for_each(|_| _ = vm.tick());
    // CPU 1 has flushed for that load, CPU 2 has not.
    vm.sim().on(1, || vm.on_kick());
    vm.sim().load(1, VirtAddr(new.addr().get())).unwrap();
    vm.set_policy(Policy::Strict);
    // SAFETY: V1; the load below wants to see a fault.
    unsafe { vm.free(new) }.unwrap();
    vm.sim().assert_faults(1, VirtAddr(new.addr().get()));
}

#[test]
fn an_expired_batch_lets_go_of_a_chunk_that_is_given_up() {
    let vm = small();
    let tick_all = |times| {
        for _ in 0..times {
            (0..3).for_each(|cpu| vm.sim().on(cpu, || vm.on_kick()));
            vm.tick();
        }
    };
    // The last area begins another chunk: the first one is full.
    let mut areas = Vec::new();
    while vm.stats().counts.chunks_made < 2 {
        areas.push(vm.alloc(Req::pages(64)).unwrap());
    }
    for &area in &areas[..areas.len() - 1] {
        // SAFETY: V1.
        unsafe { vm.free(area) }.unwrap();
    }
    // Each tick reclaims one slot; the last one empties the chunk, and the same
    // tick gives it up, while the load still has to find out that it is empty.
    let released = vm.stats().counts.chunks_released;
    while vm.stats().counts.chunks_released == released {
        tick_all(1);
    }
    let other = vm.sim().on(1, || {
        let other = vm.alloc(Req::pages(64)).unwrap();
        // SAFETY: V1.
        unsafe { vm.free(other) }.unwrap();
        other
    });
    vm.tick();
    let what = vm.whatis(other.addr().get());
    assert!(matches!(what, vmalloc::What::Freed { flushed: false, .. }), "nobody has flushed for it: {what:?}");
}
