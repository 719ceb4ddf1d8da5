//! The traditional names over a static of the embedder's.

use crate::common::REGION;
use std::sync::{Mutex, PoisonError};
use vmalloc::table::X86_64;
use vmalloc::units::{Pfn, VirtAddr};
use vmalloc::{Config, Gfp, Vmalloc};
use vmalloc_sim::{Bank, Rates, Sim};

/// Device memory above all RAM.
const DEVICE: Bank = Bank { first: Pfn(1 << 20), frames: 16, node: None };

/// The traditional names over a static, as an embedder has it.
mod kernel {
    use std::ops::Deref;
    use std::sync::LazyLock;
    use vmalloc::Vmalloc;
    use vmalloc::table::X86_64;
    use vmalloc_sim::Sim;

    /// A kernel's static is const; a simulated machine has to be built first.
    pub struct Late(LazyLock<Vmalloc<Sim<X86_64>>>);

    impl Deref for Late {
        type Target = Vmalloc<Sim<X86_64>>;

        fn deref(&self) -> &Self::Target {
            &self.0
        }
    }

    pub static VM: Late = Late(LazyLock::new(super::instance));

    vmalloc_kernel::traditional_names!(VM);
}

/// The same over a subsystem with redzones.
mod watched {
    use std::ops::Deref;
    use std::sync::LazyLock;
    use vmalloc::table::X86_64;
    use vmalloc_kernel::{Bare, Kernel};
    use vmalloc_sim::Sim;

    pub struct Late(LazyLock<Kernel<'static, Sim<X86_64>, Bare>>);

    impl Deref for Late {
        type Target = Kernel<'static, Sim<X86_64>, Bare>;

        fn deref(&self) -> &Self::Target {
            &self.0
        }
    }

    pub static KERNEL: Late =
        Late(LazyLock::new(|| Kernel::new(Box::leak(Box::new(super::instance())), Bare).with_redzones()));

    vmalloc_kernel::traditional_names!(kernel KERNEL);
}

/// The tests share the instances and their logs.
static TURN: Mutex<()> = Mutex::new(());

/// An instance of its own.
fn instance() -> Vmalloc<Sim<X86_64>> {
    let vm = Vmalloc::new(Sim::builder().rates(Rates::NEVER).node(64 << 20).bank(DEVICE).build());
    // SAFETY: N1, N2: the machine is new, and nobody else has it yet.
    unsafe { vm.init(Config::region(REGION)) }.expect("memory for the bookkeeping");
    vm.machine().online_all(|| vm.cpu_online());
    vm
}

#[test]
fn the_traditional_names_over_a_subsystem_do_the_same_and_its_redzones_watch() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let vm = watched::KERNEL.vm();
    let area = watched::vmalloc(5000);
    vm.machine().take_log();
    vm.machine().write_bytes(0, VirtAddr(area.addr() + 5001), &[0x41]).unwrap();
    // SAFETY: nobody uses it.
    unsafe { watched::vfree(area) };
    let log = vm.machine().take_log();
    assert!(log.len() == 1 && log[0].1.contains("vmalloc-out-of-bounds"), "{log:?}");
    assert_eq!(vm.areas().count(), 1, "that free was refused");
    // SAFETY: as above.
    unsafe { watched::vfree(area) };
    assert!(watched::vmalloc(0).is_null());
    let areas = [watched::vzalloc(9), watched::vmalloc_node(4096, -1), watched::vzalloc_node(9, 0)];
    let low = watched::vmalloc_32(9);
    assert!(!low.is_null() && areas.iter().all(|area| !area.is_null()));
    assert_eq!(vm.machine().load(0, VirtAddr(areas[0].addr())), Ok(0));
    let frames: Vec<_> = (0..2).map(|_| vm.alloc_frame(Gfp::KERNEL, None).unwrap()).collect();
    // SAFETY: the frames are held until the end, and areas are freed once.
    unsafe {
        let (mapped, ram) = (watched::vmap(&frames), watched::vm_map_ram(&frames, -1));
        let io = watched::ioremap(DEVICE.first.phys() + 4, 4);
        assert_eq!(vm.areas().count(), 7);
        areas.iter().chain([&low]).for_each(|&area| watched::vfree(area));
        watched::vunmap(mapped);
        watched::vm_unmap_ram(ram, 2);
        watched::iounmap(io);
        watched::vm_unmap_aliases();
        frames.iter().for_each(|&frame| vm.free_frame(frame));
    }
    assert_eq!((vm.areas().count(), watched::KERNEL.check()), (0, Ok(())));
    vm.machine().take_log();
    // SAFETY: null is nothing; what was freed before is refused, and told.
    unsafe {
        watched::vfree(std::ptr::null());
        watched::vunmap(std::ptr::null());
        watched::iounmap(std::ptr::null());
        watched::vm_unmap_ram(std::ptr::null(), 1);
        assert_eq!(vm.machine().take_log(), []);
        watched::vfree(areas[0]);
    }
    let log = vm.machine().take_log();
    assert!(log.iter().any(|line| line.1.starts_with("Trying to vfree() nonexistent vm area")), "{log:?}");
}

#[test]
fn a_node_whose_number_fits_no_byte_is_refused_as_any_that_there_is_not() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // 256 is not node 0, nor 300 node 44.
    for on in [1, 44, 255, 256, 300, i32::MAX] {
        assert!(kernel::vmalloc_node(4096, on).is_null(), "node {on}");
        assert!(kernel::vzalloc_node(4096, on).is_null(), "node {on}");
        assert!(watched::vmalloc_node(4096, on).is_null(), "node {on}");
        assert!(watched::vzalloc_node(4096, on).is_null(), "node {on}");
    }
}

#[test]
fn the_traditional_names_do_what_they_always_did() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
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
