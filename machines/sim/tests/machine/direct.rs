//! The machine notices a frame that can be stored to directly and executed through a page.

use crate::bench::{Bench, bench};
use vmalloc::machine::format::Prot;
use vmalloc::machine::{Flush, Machine};
use vmalloc::table::X86_64;
use vmalloc::units::{Pfn, VirtAddr};
use vmalloc_sim::{Direct, Rates, Sim};

const AT: VirtAddr = VirtAddr(0xffff_c900_0000_0000);
const WRITABLE: &str = "writable by way of the direct mapping";

/// Two CPUs, and a frame that can only be read directly, which both know.
fn sealed() -> (Bench<X86_64>, Pfn) {
    let b = bench(Sim::builder().cpus(2).rates(Rates::NEVER));
    let frame = b.take();
    b.sim.set_direct(frame, Direct::ReadOnly);
    (0..2).for_each(|cpu| b.sim.on(cpu, || b.sim.flush(Flush::Everything)));
    (b, frame)
}

#[test]
fn a_frame_that_is_executed_before_all_cpus_know_that_it_is_read_only_is_noticed() {
    let b = bench::<X86_64>(Sim::builder().cpus(2).rates(Rates::NEVER));
    let frame = b.take();
    b.sim.set_direct(frame, Direct::ReadOnly);
    b.bind(AT, frame, Prot::RX);
    b.sim.on(0, || b.sim.flush(Flush::Everything));
    assert!(b.story(|sim| _ = sim.load(0, AT)).contains(WRITABLE), "CPU 1 may still store to it");
    b.sim.on(1, || b.sim.flush(Flush::Everything));
    b.sim.load(0, AT).unwrap();
}

#[test]
fn a_direct_mapping_that_is_writable_while_a_cpu_may_execute_is_noticed() {
    let (b, frame) = sealed();
    b.bind(AT, frame, Prot::RX);
    b.sim.load(1, AT).unwrap();
    b.sim.set_direct(frame, Direct::Gone);
    assert!(b.story(|sim| _ = sim.virt(frame)).contains("no direct mapping any more"));
    assert!(b.story(|sim| sim.set_direct(frame, Direct::Writable)).contains(WRITABLE));
    let (b, frame) = sealed();
    b.bind(AT, frame, Prot::RX);
    b.sim.load(1, AT).unwrap();
    b.bind(AT, frame, Prot::RO);
    b.sim.on(1, || b.sim.flush(Flush::Everything));
    b.sim.set_direct(frame, Direct::Writable);
    assert_eq!(b.sim.odd_directs(), 0);
}
