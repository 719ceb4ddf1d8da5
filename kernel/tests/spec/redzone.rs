//! Redzones: a write past the bytes that were asked for, inside the last page.

use crate::common::*;
use std::sync::{Arc, Mutex};
use vmalloc::Config;
use vmalloc::error::Broken;
use vmalloc::units::{Pfn, VirtAddr};
use vmalloc_kernel::{Bare, Error, GfpFlags, Kern, Kernel, Pgprot, Request, VmFlags};
use vmalloc_sim::{Rates, Sim};

/// Writes one byte of an area, whatever it was asked for.
fn poke(rig: &Rig, at: usize, byte: u8) {
    rig.sim.write_bytes(rig.sim.cpu(), VirtAddr(at), &[byte]).expect("a page of an area");
}

fn watched(rig: &Rig) -> Tested<'_> {
    rig.kernel().with_redzones()
}

#[test]
fn a_write_past_an_area_is_told_when_it_is_freed_with_address_area_and_caller() {
    let rig = quiet();
    rig.sim.set_symbolizer(|pc, f| write!(f, "bch2_sort+{pc:#x}/0x90"));
    let kernel = watched(&rig);
    let by = Request { caller: vmalloc::Caller::Return(0x21), ..kernel.request(5000) };
    let area = kernel.__vmalloc_node(&by).map(number).unwrap();
    poke(&rig, area + 4999, 0x55);
    poke(&rig, area + 5002, 0);
    let before = rig.state();
    assert_eq!(kernel.find_vm_area(area).unwrap().nr_pages, 2);
    let inside = vfree(&kernel, area + PAGE).unwrap_err();
    assert!(!matches!(inside, Error::OutOfBounds { .. }), "{inside:?}: no area starts there");
    kernel.host().said();
    let refused = Err(Error::OutOfBounds { at: area + 5002, start: area, size: 5000 });
    assert_eq!(vfree(&kernel, area), refused);
    let line = format!(
        "BUG: vmalloc-out-of-bounds at {:#x}: 0x00, 2 bytes past the area of 5000 bytes at {area:#x} by bch2_sort+0x21/0x90",
        area + 5002
    );
    assert_eq!(kernel.host().said(), [(Kern::Err, line)]);
    assert_eq!(rig.state(), before, "a refused free changes nothing");
    vfree(&kernel, area).expect("it was told");
    let stats = kernel.redzone_stats();
    assert_eq!((stats.written, stats.checked, stats.caught, stats.left_out), (1, 2, 1, 0));
}

#[test]
fn each_byte_of_the_tail_is_watched_and_none_before_it() {
    let rig = quiet();
    let kernel = watched(&rig);
    let area = kernel.vmalloc(PAGE + 3).map(number).unwrap();
    for at in area..area + PAGE + 3 {
        poke(&rig, at, 0x41);
    }
    assert_eq!(kernel.check(), Ok(()));
    let mut canary = [0; PAGE - 3];
    rig.sim.read_bytes(0, VirtAddr(area + PAGE + 3), &mut canary).unwrap();
    assert!(canary.iter().all(|byte| byte & 0x80 != 0), "neither 0 nor a letter");
    assert!(canary.windows(2).all(|pair| pair[0] != pair[1]), "what is moved by a byte is another");
    for at in area + PAGE + 3..area + 2 * PAGE {
        for byte in [0, 0x41] {
            poke(&rig, at, byte);
            assert_eq!(kernel.check(), Err(Broken { rule: "J8", at }));
            assert_eq!(kernel.check_redzones(), 1);
        }
    }
    assert_eq!(kernel.redzone_stats().caught, 2 * (PAGE - 3));
    vfree(&kernel, area).unwrap();
}

#[test]
fn overruns_are_told_on_demand_once_each_and_check_names_the_rule_and_repairs_nothing() {
    let rig = quiet();
    let kernel = watched(&rig);
    let areas = [100, 5000, 9000].map(|size| (size, kernel.vmalloc(size).map(number).unwrap()));
    assert_eq!((kernel.check(), kernel.check_redzones()), (Ok(()), 0));
    areas.iter().skip(1).for_each(|&(size, area)| poke(&rig, area + size, 1));
    let broken = kernel.check().unwrap_err();
    assert_eq!((broken.rule, kernel.check()), ("J8", Err(broken)));
    assert_eq!(kernel.host().said(), []);
    assert_eq!((kernel.check_redzones(), kernel.host().said().len()), (2, 2));
    assert_eq!((kernel.check_redzones(), kernel.check()), (0, Ok(())));
    areas.iter().for_each(|&(_, area)| vfree(&kernel, area).unwrap());
    assert_eq!(kernel.redzone_stats().caught, 2);
}

#[test]
fn areas_of_each_age_are_watched_but_not_what_user_space_may_map_nor_whole_pages() {
    let rig = quiet();
    let kernel = watched(&rig);
    let size = 2 * PAGE + 10;
    let ages = [kernel.v2_6().vmalloc(size), kernel.v3_0().vmalloc(size), kernel.v4().vmalloc(size)];
    for area in ages.map(|made| made.map(number).unwrap()) {
        poke(&rig, area + size, 7);
        assert_eq!(vfree(&kernel, area), Err(Error::OutOfBounds { at: area + size, start: area, size }));
        vfree(&kernel, area).unwrap();
    }
    let user = kernel.vmalloc_user(size).map(number).unwrap();
    let whole = kernel.vmalloc(2 * PAGE).map(number).unwrap();
    let past = rig.alloc(vmalloc::Req::bytes(size)).map(number).unwrap();
    [user, past].iter().for_each(|area| poke(&rig, area + size, 7));
    let flags = [user, whole, past].map(|area| kernel.find_vm_area(area).unwrap().flags.contains(VmFlags::KASAN));
    assert_eq!(flags, [false; 3]);
    [user, whole, past].iter().for_each(|&area| vfree(&kernel, area).unwrap());
}

#[test]
fn vrealloc_looks_at_the_tail_and_watches_that_of_the_new_size() {
    let rig = quiet();
    let kernel = watched(&rig);
    // SAFETY: Y4: the tests use simulated memory through the simulator.
    let vrealloc = |area: usize, size| unsafe { kernel.vrealloc(at(area), size, GFP) };
    let mut area = kernel.vmalloc(5000).map(number).unwrap();
    poke(&rig, area + 5000, 1);
    assert_eq!(vrealloc(area, 6000), Err(Error::OutOfBounds { at: area + 5000, start: area, size: 5000 }));
    for size in [6000, 8192, 100, 40 * PAGE + 5, 3 * PAGE + 1] {
        area = vrealloc(area, size).unwrap().map(number).unwrap();
        let is_watched = kernel.find_vm_area(area).unwrap().flags.contains(VmFlags::KASAN);
        assert_eq!(is_watched, size % PAGE != 0, "{size} bytes");
        poke(&rig, area + size - 1, 0x41);
        assert_eq!(kernel.check(), Ok(()), "{size} bytes are the caller's");
        if size % PAGE != 0 {
            poke(&rig, area + size, 0x41);
            assert_eq!(kernel.check_redzones(), 1, "behind {size} bytes");
        }
    }
    assert_eq!(vrealloc(area, 0), Ok(None));
}

#[cfg(debug_assertions)]
#[test]
fn a_refused_vrealloc_leaves_the_area_watched_with_its_old_size() {
    // Each size, with one refusal and with all from one on: how many calls are refused.
    let refusals =
        [(40 * PAGE, false), (400 * PAGE, false), (40 * PAGE, true), (400 * PAGE, true)].map(|(size, all)| {
            let refused_at = |n: &u64| is_refused_and_changes_nothing(size, *n, all);
            (1..).take_while(refused_at).count()
        });
    assert!(refusals[2..].iter().all(|&refused| refused >= 2), "{refusals:?}");
}

/// Whether a watched area of 5000 bytes is refused `size` bytes if the machine refuses the `n`-th frame, or
/// `all` from there on. It is as before then: addresses, bytes, the view of it, and its canary.
#[cfg(debug_assertions)]
fn is_refused_and_changes_nothing(size: usize, n: u64, all: bool) -> bool {
    let rig = quiet();
    let kernel = watched(&rig);
    let grown = |area: usize| {
        // SAFETY: Y4.
        unsafe { kernel.vrealloc(at(area), size, GFP | GfpFlags::NOWARN) }
    };
    // What the subsystem keeps for the next time is there before anything is refused.
    let first = grown(kernel.vmalloc(5000).map(number).unwrap()).unwrap().map(number).unwrap();
    vfree(&kernel, first).unwrap();
    let area = kernel.vmalloc(5000).map(number).unwrap();
    (0..5000).for_each(|byte| poke(&rig, area + byte, byte as u8));
    let before = (rig.state().0, kernel.find_vm_area(area));
    assert!(before.1.as_ref().unwrap().flags.contains(VmFlags::KASAN));
    if all {
        rig.sim.faults().fail_from(n)
    } else {
        rig.sim.faults().fail_at(n)
    }
    let resized = grown(area);
    rig.sim.faults().fail_at(0);
    let mut bytes = [0; 5000];
    let kept = resized.as_ref().map_or(area, |moved| number(moved.unwrap()));
    rig.sim.read_bytes(0, VirtAddr(kept), &mut bytes).unwrap();
    assert!((0..5000).all(|byte| bytes[byte] == byte as u8), "{size} bytes, refusal {n}");
    if resized.is_ok() {
        vfree(&kernel, kept).unwrap();
        return false;
    }
    let stats = kernel.redzone_stats();
    // Frames that were stocked on the way stay the subsystem's: that none is lost the rig looks at in the end.
    assert_eq!((rig.state().0, kernel.find_vm_area(area)), before, "{size} bytes, refusal {n}");
    assert_eq!((kernel.check(), stats.caught, stats.left_out), (Ok(()), 0, 0));
    for byte in [5000, 2 * PAGE - 1] {
        poke(&rig, area + byte, 1);
        assert_eq!(kernel.check_redzones(), 1, "byte {byte}, refusal {n}");
    }
    vfree(&kernel, area).unwrap();
    true
}

#[test]
fn an_area_whose_record_finds_no_memory_is_made_and_not_watched() {
    let rig = quiet();
    let kernel = watched(&rig);
    let taken = Arc::new(Mutex::new(Vec::new()));
    let (all, shared) = (taken.clone(), std::ptr::from_ref(&kernel).expose_provenance());
    // The leak detector is told after the area is made, and before it is watched.
    let takes = move || {
        // SAFETY: the kernel outlives the hook, which runs once.
        let vm = unsafe { &*std::ptr::with_exposed_provenance::<Tested<'_>>(shared) }.vm();
        let frame = || vm.alloc_frame(vmalloc::Gfp::KERNEL | vmalloc::Gfp::NOWARN, None).ok();
        all.lock().unwrap().extend(std::iter::from_fn(frame));
    };
    *kernel.host().beside.lock().unwrap() = Some(("tracked", Box::new(takes)));
    let area = kernel.vmalloc(5000).map(number).unwrap();
    give_frames(&rig, &std::mem::take(&mut *taken.lock().unwrap()));
    let stats = kernel.redzone_stats();
    assert_eq!((stats.written, stats.left_out), (0, 1));
    assert!(!kernel.find_vm_area(area).unwrap().flags.contains(VmFlags::KASAN));
    poke(&rig, area + 5000, 1);
    assert_eq!((kernel.check_redzones(), kernel.check()), (0, Ok(())));
    vfree(&kernel, area).unwrap();
}

#[test]
fn a_look_at_an_area_that_is_freed_meanwhile_writes_nothing_to_a_later_one() {
    // A frame is shown by a hook, in which another task frees the area.
    let machine = Sim::builder().rates(Rates::NEVER).node(64 << 20).highmem(Pfn((48 << 20) >> 12));
    let rig = boot(machine, Config::region(REGION));
    let kernel = watched(&rig);
    *kernel.host().shows.lock().unwrap() = Some(rig.sim.clone());
    let area = kernel.v2_6().__vmalloc(5000, GFP, Pgprot::KERNEL).map(number).unwrap();
    assert!(kernel.find_vm_area(area).unwrap().flags.contains(VmFlags::KASAN));
    let last = kernel.vmalloc_to_page(area + PAGE).unwrap();
    let later = Arc::new(Mutex::new(Vec::new()));
    let (made, shared) = (later.clone(), std::ptr::from_ref(&kernel).expose_provenance());
    let beside = move || {
        // SAFETY: the kernel outlives the hook, which runs once.
        let kernel = unsafe { &*std::ptr::with_exposed_provenance::<Tested<'_>>(shared) };
        vfree(kernel, area).unwrap();
        kernel.vm().purge();
        let next = || kernel.vm().alloc(vmalloc::Req::pages(1)).map(number).expect("memory");
        let mut areas = vec![next()];
        while areas.last().and_then(|&area| kernel.vm().frame_at(area)) != Some(last) {
            areas.push(next());
        }
        let at = VirtAddr(*areas.last().unwrap());
        kernel.vm().machine().write_bytes(0, at, &[0x11; PAGE]).unwrap();
        *made.lock().unwrap() = areas;
    };
    *kernel.host().beside.lock().unwrap() = Some(("kmap", Box::new(beside)));
    assert_eq!(kernel.check_redzones(), 0);
    let later = later.lock().unwrap().clone();
    let mut bytes = [0; PAGE];
    rig.sim.read_bytes(0, VirtAddr(*later.last().expect("the frame serves another")), &mut bytes).unwrap();
    assert_eq!(bytes, [0x11; PAGE], "another's memory");
    later.into_iter().for_each(|area| vfree(&kernel, area).unwrap());
}

#[test]
fn a_look_at_an_area_in_whose_place_a_larger_one_is_made_meanwhile_writes_nothing_to_that() {
    let machine = Sim::builder().rates(Rates::NEVER).node(64 << 20).highmem(Pfn((48 << 20) >> 12));
    let rig = boot(machine, Config::region(REGION));
    let kernel = watched(&rig);
    *kernel.host().shows.lock().unwrap() = Some(rig.sim.clone());
    let area = kernel.v2_6().__vmalloc(5000, GFP, Pgprot::KERNEL).map(number).unwrap();
    let last = kernel.vmalloc_to_page(area + PAGE).unwrap();
    let shared = std::ptr::from_ref(&kernel).expose_provenance();
    let beside = move || {
        // SAFETY: the kernel outlives the hook, which runs once.
        let kernel = unsafe { &*std::ptr::with_exposed_provenance::<Tested<'_>>(shared) };
        vfree(kernel, area).unwrap();
        kernel.vm().purge();
        assert_eq!(kernel.vmalloc(8000).map(number), Ok(area), "in its place");
        kernel.vm().machine().write_bytes(0, VirtAddr(area), &[0x11; 8000]).unwrap();
    };
    *kernel.host().beside.lock().unwrap() = Some(("kmap", Box::new(beside)));
    assert_eq!(kernel.check_redzones(), 0);
    let mut bytes = [0; 8000];
    rig.sim.read_bytes(0, VirtAddr(area), &mut bytes).unwrap();
    assert_eq!(bytes, [0x11; 8000], "another's memory");
    let held = [0, 1].map(|page| kernel.vmalloc_to_page(area + page * PAGE));
    assert!(held.contains(&Some(last)), "its frame serves the later one: {held:?}");
    vfree(&kernel, area).unwrap();
}

#[test]
fn without_redzones_nothing_is_written_or_looked_at() {
    let rig = quiet();
    let kernel = rig.kernel();
    let area = kernel.vmalloc(5000).map(number).unwrap();
    poke(&rig, area + 5000, 1);
    assert_eq!((kernel.check(), kernel.check_redzones()), (Ok(()), 0));
    vfree(&kernel, area).unwrap();
    assert_eq!(kernel.redzone_stats(), Default::default());
}

#[test]
fn in_a_process_an_overrun_of_one_byte_is_caught_at_the_free() {
    let vm = vmalloc_hosted::builder().memory(16 << 20).build().unwrap();
    let kernel = Kernel::new(&vm, Bare).with_redzones();
    let area = kernel.vmalloc(5000).unwrap();
    // SAFETY: the last page of the area is the area's.
    unsafe { area.add(5000).write(0x55) };
    // SAFETY: Y1.
    let freed = || unsafe { kernel.vfree(area.as_ptr()) };
    assert_eq!(freed(), Err(Error::OutOfBounds { at: number(area) + 5000, start: number(area), size: 5000 }));
    assert_eq!(freed(), Ok(()));
}
