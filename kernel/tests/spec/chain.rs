//! The chain of calls by name and parameters, in the form of each age.

use crate::common::*;
use std::ptr::NonNull;
use std::sync::Mutex;
use vmalloc::machine::format::MemType;
use vmalloc::table::X86_64;
use vmalloc::{Caller, FreeError};
use vmalloc_kernel::{Error, GfpFlags, Host, Kernel, Pgprot, Tracked, VmFlags};
use vmalloc_sim::Booted;

/// The place of the call two lines above, as calls print it.
#[track_caller]
fn here(up: u32) -> String {
    let place = std::panic::Location::caller();
    format!("{}:{}", place.file(), place.line() - up)
}

fn settle(kernel: &Tested<'_>, made: Result<NonNull<u8>, Error>) -> usize {
    let address = number(made.expect("memory"));
    vfree(kernel, address).expect("it was made");
    address
}

#[test]
fn in_2_6_vmalloc_calls_vmalloc_get_vm_area_the_array_each_page_and_map_vm_area() {
    let rig = quiet();
    let kernel = rig.kernel();
    let address = kernel.v2_6().vmalloc(10000).map(number).unwrap();
    let array = kernel.find_vm_area(address).unwrap().pages.unwrap();
    let page = "    alloc_page(gfp_mask=GFP_KERNEL|__GFP_HIGHMEM)";
    let expected = [
        "vmalloc(size=10000)",
        "  __vmalloc(size=10000, gfp_mask=GFP_KERNEL|__GFP_HIGHMEM, prot=PAGE_KERNEL)",
        "    get_vm_area(size=12288, flags=VM_ALLOC)",
        "    kmalloc(size=24, flags=GFP_KERNEL|__GFP_ZERO)",
        page,
        page,
        page,
        &format!("    map_vm_area(area={address:#x}, prot=PAGE_KERNEL, pages={:#x})", array.at()),
    ];
    assert_eq!(kernel.host().calls(), expected);
    vfree(&kernel, address).unwrap();
}

#[test]
fn a_function_whose_hook_is_left_out_is_missing_from_the_chain() {
    let rig = quiet();
    let kernel = rig.kernel();
    settle(&kernel, kernel.v2_6().vmalloc(10000));
    let all = kernel.host().names();
    for name in ["vmalloc", "__vmalloc", "get_vm_area", "kmalloc", "alloc_page", "map_vm_area"] {
        *kernel.host().deaf_to.lock().unwrap() = Some(name);
        settle(&kernel, kernel.v2_6().vmalloc(10000));
        let left: Vec<String> = all.iter().filter(|&call| call != name).cloned().collect();
        assert_eq!(kernel.host().names(), left, "without {name}");
    }
}

#[test]
fn in_3_0_vmalloc_calls_vmalloc_node_the_area_its_pages_and_kmemleak_alloc() {
    let rig = quiet();
    let kernel = rig.kernel();
    let address = kernel.v3_0().vmalloc(5000).map(number).unwrap();
    let caller = here(1);
    let array = kernel.find_vm_area(address).unwrap().pages.unwrap();
    let gfp = "GFP_KERNEL|__GFP_HIGHMEM";
    let (start, end) = (REGION.start, REGION.end);
    let expected = [
        "vmalloc(size=5000)".to_owned(),
        format!("  __vmalloc_node(size=5000, align=1, gfp_mask={gfp}, prot=PAGE_KERNEL, node=-1, caller={caller})"),
        format!(
            "    __get_vm_area_node(size=8192, align=1, flags=VM_ALLOC, start={start:#x}, end={end:#x}, node=-1, \
             gfp_mask={gfp}, caller={caller})"
        ),
        format!(
            "    __vmalloc_area_node(area={address:#x}, gfp_mask={gfp}, prot=PAGE_KERNEL, node=-1, caller={caller})"
        ),
        "      kmalloc(size=16, flags=GFP_KERNEL|__GFP_ZERO)".to_owned(),
        format!("      alloc_page(gfp_mask={gfp})"),
        format!("      alloc_page(gfp_mask={gfp})"),
        format!("      map_vm_area(area={address:#x}, prot=PAGE_KERNEL, pages={:#x})", array.at()),
        format!("    kmemleak_alloc(ptr={address:#x}, size=5000, min_count=3, gfp={gfp})"),
    ];
    assert_eq!(kernel.host().calls(), expected);
    let tracked = Tracked { at: address, bytes: 5000, min_count: 3, gfp: USUAL };
    assert_eq!(*kernel.host().tracked.lock().unwrap(), [tracked]);
    vfree(&kernel, address).unwrap();
    assert_eq!(*kernel.host().untracked.lock().unwrap(), [address]);
}

#[test]
fn in_4_x_vmalloc_goes_through_vmalloc_node_range_and_is_uninitialized_until_it_is_whole() {
    let rig = quiet();
    let kernel = rig.kernel();
    let address = kernel.v4().vmalloc(4096).map(number).unwrap();
    let caller = here(1);
    let calls = kernel.host().calls();
    let gfp = "GFP_KERNEL|__GFP_HIGHMEM";
    let (start, end) = (REGION.start, REGION.end);
    assert_eq!(calls[1], "  __vmalloc_node_flags(size=4096, node=-1, flags=GFP_KERNEL)");
    let line = format!(
        "      __vmalloc_node_range(size=4096, align=1, start={start:#x}, end={end:#x}, gfp_mask={gfp}, prot=PAGE_KERNEL, \
         vm_flags=0, node=-1, caller={caller})"
    );
    assert_eq!(calls[3], line);
    assert!(calls[4].contains("flags=VM_ALLOC|VM_UNINITIALIZED"), "{}", calls[4]);
    let names: Vec<&str> = calls.iter().map(|call| call.trim().split('(').next().unwrap()).collect();
    let expected = [
        "vmalloc",
        "__vmalloc_node_flags",
        "__vmalloc_node",
        "__vmalloc_node_range",
        "__get_vm_area_node",
        "__vmalloc_area_node",
        "kmalloc",
        "alloc_page",
        "map_vm_area",
        "clear_vm_uninitialized_flag",
        "kmemleak_vmalloc",
    ];
    assert_eq!(names, expected);
    assert_eq!(kernel.find_vm_area(address).unwrap().flags, VmFlags::ALLOC);
    vfree(&kernel, address).unwrap();
}

#[test]
fn today_vmalloc_ends_in_the_library_and_the_leak_detector_hears_of_the_page_aligned_size() {
    let rig = quiet();
    let kernel = rig.kernel();
    let address = kernel.vmalloc(10000).map(number).unwrap();
    let caller = here(1);
    let (start, end) = (REGION.start, REGION.end);
    let expected = [
        "vmalloc(size=10000)".to_owned(),
        format!("  __vmalloc_node(size=10000, align=1, gfp_mask=GFP_KERNEL, node=-1, caller={caller})"),
        format!(
            "    __vmalloc_node_range(size=10000, align=1, start={start:#x}, end={end:#x}, gfp_mask=GFP_KERNEL, \
             prot=PAGE_KERNEL, vm_flags=0, node=-1, caller={caller})"
        ),
        format!("      kmemleak_vmalloc(area={address:#x}, size=12288, gfp_mask=GFP_KERNEL)"),
    ];
    assert_eq!(kernel.host().calls(), expected);
    vfree(&kernel, address).unwrap();
}

#[test]
fn callers_are_places_in_rust_source_and_return_addresses_from_c() {
    let rig = quiet();
    let kernel = rig.kernel();
    let by_rust = kernel.v3_0().vmalloc(1).map(number).unwrap();
    let line = line!() - 1;
    assert!(matches!(kernel.find_vm_area(by_rust).unwrap().caller, Caller::At(place) if place.line() == line));
    let request = vmalloc_kernel::Request { caller: Caller::Return(0x8123_4567), ..kernel.request(1) };
    let by_c = kernel.v4().__vmalloc_node(&request).map(number).unwrap();
    assert_eq!(kernel.find_vm_area(by_c).unwrap().caller, Caller::Return(0x8123_4567));
    [by_rust, by_c].iter().for_each(|&address| vfree(&kernel, address).unwrap());
}

#[test]
fn the_bounds_of_the_region_are_readable_back() {
    let rig = quiet();
    let kernel = rig.kernel();
    assert_eq!((kernel.vmalloc_start(), kernel.vmalloc_end()), (REGION.start, REGION.end));
}

#[test]
fn each_age_makes_memory_that_every_cpu_can_use_and_nothing_behind_it() {
    let rig = rig(2);
    let kernel = rig.kernel();
    let made = [
        kernel.v2_6().vmalloc(5 * PAGE),
        kernel.v3_0().vmalloc(5 * PAGE),
        kernel.v4().vmalloc(5 * PAGE),
        kernel.vmalloc(5 * PAGE),
    ];
    let areas: Vec<usize> = made.into_iter().map(|made| number(made.unwrap())).collect();
    for (seed, &area) in areas.iter().enumerate() {
        rig.stamp(area, 5, seed as u64 * 100);
    }
    for (seed, &area) in areas.iter().enumerate() {
        rig.sim.on(1, || rig.check_stamps(area, 5, seed as u64 * 100));
        rig.sim.assert_faults(0, vmalloc::units::VirtAddr(area + 5 * PAGE));
        assert_eq!(kernel.find_vm_area(area).unwrap().size, 6 * PAGE);
    }
    areas.iter().for_each(|&area| vfree(&kernel, area).unwrap());
    rig.state();
}

#[test]
fn an_array_of_more_than_a_page_is_a_nested_vmalloc() {
    let rig = quiet();
    let kernel = rig.kernel();
    let pages = 600;
    let area = kernel.v2_6().vmalloc(pages * PAGE).map(number).unwrap();
    let nested: Vec<String> = kernel.host().calls().into_iter().filter(|call| call.contains("__vmalloc(")).collect();
    let array = format!("    __vmalloc(size={}, gfp_mask=GFP_KERNEL|__GFP_HIGHMEM, prot=PAGE_KERNEL)", pages * 8);
    assert_eq!(nested[1..], [array]);
    assert_eq!(kernel.vmlist().count(), 2, "the array is in the list, too");
    rig.stamp(area, pages, 3);
    rig.check_stamps(area, pages, 3);
    vfree(&kernel, area).unwrap();
    assert_eq!(kernel.vmlist().count(), 0);
}

#[test]
fn no_bytes_and_more_than_the_machine_has_are_refused_before_anything_is_taken() {
    let rig = quiet();
    let kernel = rig.kernel();
    let before = rig.state();
    let too_many = (64 << 20) + PAGE;
    for size in [0, too_many, usize::MAX, usize::MAX - PAGE + 2] {
        let refused =
            [kernel.v2_6().vmalloc(size), kernel.v3_0().vmalloc(size), kernel.v4().vmalloc(size), kernel.vmalloc(size)];
        for refused in refused {
            let errno = refused.unwrap_err().errno() as i32;
            assert_eq!(errno, if size == 0 { 22 } else { 7 }, "{size:#x}");
        }
        assert!(!kernel.host().names().iter().any(|name| name == "__get_vm_area_node" || name == "get_vm_area"));
    }
    assert_eq!(rig.state(), before);
}

#[test]
fn a_node_is_asked_by_name_and_none_is_minus_one() {
    let machine = vmalloc_sim::Sim::builder().cpus(2).node(32 << 20).node(32 << 20);
    let rig = boot(machine.rates(vmalloc_sim::Rates::NEVER), vmalloc::Config::region(REGION));
    let kernel = rig.kernel();
    let area = kernel.v3_0().vmalloc_node(2 * PAGE, Some(vmalloc::units::Node(1))).map(number).unwrap();
    let calls = kernel.host().calls();
    assert!(calls.iter().any(|call| call.trim().starts_with("alloc_pages_node(nid=1, ")), "{calls:#?}");
    use vmalloc::machine::Machine;
    use vmalloc::machine::frames::Frames;
    for page in 0..2 {
        let frame = kernel.vmalloc_to_page(area + page * PAGE).unwrap();
        assert_eq!(rig.sim.frames().node_of(frame), vmalloc::units::Node(1));
    }
    vfree(&kernel, area).unwrap();
    let none = kernel.v3_0().vmalloc_node(PAGE, Some(vmalloc::units::Node(7))).unwrap_err();
    assert_eq!(none.errno() as i32, 22);
}

#[test]
fn protections_reach_the_entries() {
    let rig = quiet();
    let kernel = rig.kernel();
    let area = kernel.v2_6().__vmalloc(PAGE, USUAL, Pgprot::KERNEL_RO).map(number).unwrap();
    let at = vmalloc::units::VirtAddr(area);
    assert!(rig.sim.load(0, at).is_ok());
    assert!(rig.sim.store(0, at, 1).unwrap_err().to_string().ends_with("read only"));
    vfree(&kernel, area).unwrap();
}

#[test]
fn vfree_of_null_is_nothing_and_of_other_addresses_says_which() {
    let rig = quiet();
    let kernel = rig.kernel();
    assert_eq!(vfree(&kernel, 0), Ok(()));
    assert_eq!(vfree(&kernel, START + 0x123), Err(Error::NotAligned(START + 0x123)));
    let nothing = START + 0x10000;
    assert_eq!(vfree(&kernel, nothing), Err(Error::Free(FreeError::NotAnArea(vmalloc::units::VirtAddr(nothing)))));
    let area = kernel.v2_6().vmalloc(3 * PAGE).map(number).unwrap();
    assert!(vfree(&kernel, area + PAGE).is_err());
    vfree(&kernel, area).unwrap();
    assert!(vfree(&kernel, area).is_err(), "a double free");
    let said: Vec<String> = kernel.host().said().into_iter().map(|line| line.1).collect();
    let missing = |at: usize| format!("Trying to vfree() nonexistent vm area ({at:016x})");
    let bad = "Trying to vfree() bad address (ffffc90000000123)".to_owned();
    assert_eq!(said, [bad, missing(nothing), missing(area + PAGE), missing(area)]);
}

#[test]
fn gfp_flags_say_what_the_nested_requests_keep() {
    let rig = quiet();
    let kernel = rig.kernel();
    let gfp = GfpFlags::NOFS | GfpFlags::HIGHMEM | GfpFlags::ZERO | GfpFlags::NOWARN;
    let area = kernel.v2_6().__vmalloc(PAGE, gfp, Pgprot::KERNEL).map(number).unwrap();
    let calls = kernel.host().calls();
    assert!(
        calls.iter().any(|call| call.trim() == "kmalloc(size=8, flags=GFP_NOFS|__GFP_NOWARN|__GFP_ZERO)"),
        "{calls:?}"
    );
    rig.assert_zero(area, PAGE);
    vfree(&kernel, area).unwrap();
}

/// Asks whether the area is there when the leak detector hears that it is gone.
struct Late<'v>(&'v Booted<X86_64>, Mutex<Vec<(usize, bool)>>);

impl Host for Late<'_> {
    fn untracked(&self, at: usize) {
        let is_live = self.0.find(at).is_some();
        self.1.lock().unwrap().push((at, is_live));
    }
}

#[test]
fn the_leak_detector_hears_of_a_free_before_the_address_can_be_another_s_and_of_no_refused_one() {
    let rig = quiet();
    let kernel = Kernel::new(&rig, Late(&rig, Mutex::new(Vec::new())));
    let heard = || std::mem::take(&mut *kernel.host().1.lock().unwrap());
    let whole = kernel.vmalloc(3 * PAGE).map(number).unwrap();
    let parts = kernel.v2_6().vmalloc(3 * PAGE).map(number).unwrap();
    let device = rig.ioremap(0xfe00_0000, PAGE, MemType::Uncached).unwrap();
    let free = |area: usize| {
        // SAFETY: Y1: nobody uses it.
        unsafe { kernel.vfree(at(area)) }
    };
    for area in [whole + PAGE, number(device)] {
        let _ = free(area);
        assert_eq!(heard(), [], "{area:#x} was not freed");
    }
    for area in [whole, parts] {
        free(area).unwrap();
        assert_eq!(heard(), [(area, true)]);
    }
    // SAFETY: V1: nobody uses it.
    unsafe { rig.iounmap(device) }.unwrap();
}
