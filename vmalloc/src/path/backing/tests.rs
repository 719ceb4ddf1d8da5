//! A machine without aliases: what it refuses, and what it does.

extern crate std;

use crate::machine::format::{MemType, Prot};
use crate::table::X86_64;
use crate::testing::{Host, Window};
use crate::units::Pfn;
use crate::{AllocError, Config, Gfp, Req, Vmalloc};
use std::vec::Vec;

type InPlace = Host<X86_64, Window>;

/// An instance on a machine without aliases. Its region can be named by entries.
fn in_place() -> Vmalloc<InPlace> {
    let vm = Vmalloc::new(Host::rooted(Window::default()));
    // SAFETY: N1, N2: it is a new machine, and nobody else has it.
    unsafe { vm.init(Config::region(1 << 32..1 << 33)) }.expect("a sound configuration");
    vm
}

#[test]
fn a_machine_without_aliases_refuses_to_map_given_frames_by_name_and_changes_nothing() {
    let vm = in_place();
    let frames: Vec<Pfn> = (0..3).map(|_| vm.alloc_frame(Gfp::KERNEL, None).expect("a frame")).collect();
    let reserved = vm.reserve(Req::pages(4)).expect("addresses").addr().get();
    let before = (vm.stats(), vm.machine().frames.0.out(), vm.areas().count());
    // SAFETY: P1, P2, P4–P6: the frames are ours, and nobody else uses the reservation.
    let refused = unsafe {
        [
            vm.vmap(&frames, Req::pages(0)).map(drop),
            vm.vmap_owned(&frames, Req::pages(0)).map(drop),
            vm.map_ram(&frames, None).map(drop),
            vm.map_part(reserved, &frames, Prot::RW, MemType::WriteBack),
            vm.ioremap(0x10_0000, 4096, MemType::Uncached).map(drop),
        ]
    };
    assert_eq!(refused, [Err(AllocError::NoAliases); 5]);
    let mut after = vm.stats();
    after.counts.failures = before.0.counts.failures;
    assert_eq!((after, vm.machine().frames.0.out(), vm.areas().count()), before);
    // SAFETY: P3: they are ours, and nobody maps them.
    frames.into_iter().for_each(|frame| unsafe { vm.free_frame(frame) });
    assert_eq!(vm.check(), Ok(()));
}
