//! The traditional names over a static of the embedder's.

use vmalloc::Gfp;
use vmalloc::units::{Pfn, VirtAddr};
use vmalloc_sim::Bank;

/// Device memory above all RAM.
const DEVICE: Bank = Bank { first: Pfn(1 << 20), frames: 16, node: None };

/// The traditional names over a static, as an embedder has it.
mod kernel {
    use crate::common::REGION;
    use std::ops::Deref;
    use std::sync::LazyLock;
    use vmalloc::table::X86_64;
    use vmalloc::{Config, Vmalloc};
    use vmalloc_sim::{Rates, Sim};

    /// A kernel's static is const; a simulated machine has to be built first.
    pub struct Late(LazyLock<Vmalloc<Sim<X86_64>>>);

    impl Deref for Late {
        type Target = Vmalloc<Sim<X86_64>>;

        fn deref(&self) -> &Self::Target {
            &self.0
        }
    }

    pub static VM: Late = Late(LazyLock::new(|| {
        let vm = Vmalloc::new(Sim::builder().rates(Rates::NEVER).node(64 << 20).bank(super::DEVICE).build());
        // SAFETY: N1, N2: the machine is new, and nobody else has it yet.
        unsafe { vm.init(Config::region(REGION)) }.expect("memory for the bookkeeping");
        vm.machine().online_all(|| vm.cpu_online());
        vm
    }));

    vmalloc_kernel::traditional_names!(VM);
}

#[test]
fn the_traditional_names_do_what_they_always_did() {
    let vm = &*kernel::VM;
    assert!(kernel::vmalloc(0).is_null());
    let areas = [kernel::vmalloc(5000), kernel::vzalloc(1), kernel::vmalloc_node(4096, -1), kernel::vmalloc_32(9)];
    assert!(areas.iter().all(|area| !area.is_null()));
    assert_eq!(vm.machine().load(0, VirtAddr(areas[1].addr())), Ok(0));
    let zeroed = kernel::vzalloc_node(4096, 0);
    let frames: Vec<_> = (0..2).map(|_| vm.alloc_frame(Gfp::KERNEL, None).unwrap()).collect();
    // SAFETY: the frames are held until the end, and areas are freed once.
    unsafe {
        let (mapped, ram) = (kernel::vmap(&frames), kernel::vm_map_ram(&frames, -1));
        let io = kernel::ioremap(DEVICE.first.phys() + 4, 4);
        assert_eq!(vm.areas().count(), 8);
        kernel::vfree(zeroed);
        areas.iter().for_each(|&area| kernel::vfree(area));
        kernel::vunmap(mapped);
        kernel::vm_unmap_ram(ram, 2);
        kernel::iounmap(io);
        kernel::vm_unmap_aliases();
        frames.iter().for_each(|&frame| vm.free_frame(frame));
    }
    assert_eq!(vm.areas().count(), 0);
    vm.machine().take_log();
    // SAFETY: null is nothing; what was freed before is refused.
    unsafe {
        kernel::vfree(std::ptr::null());
        kernel::vunmap(std::ptr::null());
        kernel::iounmap(std::ptr::null());
        assert_eq!(vm.machine().take_log(), []);
        kernel::vfree(areas[0]);
    }
    let log = vm.machine().take_log();
    assert!(log[0].1.starts_with("Trying to vfree() double free of"), "{log:?}");
}
