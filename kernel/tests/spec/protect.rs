//! Protections that change, and the direct mapping's with them. The machine judges that no CPU can
//! execute a frame and store to it directly (J20).

use crate::common::*;
use vmalloc::AllocError;
use vmalloc::machine::Context;
use vmalloc::machine::format::{Entry, Prot};
use vmalloc::units::{Pfn, VirtAddr};
use vmalloc_kernel::{DirectMap, Errno, Error, Pgprot, Request, VmFlags};
use vmalloc_sim::Why;

/// What is done, what the pages allow then, and what the host was told.
type Step<'a> = (Change, Prot, &'a [(Pfn, DirectMap)]);
type Change = fn(&Tested<'_>, usize, usize) -> Result<(), Error>;

// SAFETY: Y9: simulated memory is used through the simulator, which judges each use.
const RO: Change = |kernel, at, pages| unsafe { kernel.set_memory_ro(at, pages) };
// SAFETY: Y9: simulated memory is used through the simulator, which judges each use.
const RW: Change = |kernel, at, pages| unsafe { kernel.set_memory_rw(at, pages) };
// SAFETY: Y9: simulated memory is used through the simulator, which judges each use.
const X: Change = |kernel, at, pages| unsafe { kernel.set_memory_x(at, pages) };
// SAFETY: Y9: simulated memory is used through the simulator, which judges each use.
const NX: Change = |kernel, at, pages| unsafe { kernel.set_memory_nx(at, pages) };
// SAFETY: Y9: simulated memory is used through the simulator, which judges each use.
const ROX: Change = |kernel, at, pages| unsafe { kernel.set_memory_rox(at, pages) };

/// A kernel whose host changes the machine's direct mapping.
fn kernel(rig: &Rig) -> Tested<'_> {
    let kernel = rig.kernel();
    *kernel.host().direct.lock().unwrap() = Some(rig.sim.clone());
    kernel
}

fn allowed(rig: &Rig, at: usize) -> Prot {
    match rig.sim.entry(VirtAddr(at), 1) {
        Entry::Leaf { prot, .. } => prot,
        other => panic!("{at:#x} is {other:?}"),
    }
}

/// What the host was told of the direct mapping since the last look.
fn directs(kernel: &Tested<'_>) -> Vec<(Pfn, DirectMap)> {
    std::mem::take(&mut *kernel.host().directs.lock().unwrap())
}

#[test]
fn set_memory_ro_and_its_siblings_change_the_pages_and_the_direct_mapping_of_their_frames() {
    let rig = rig(2);
    let kernel = kernel(&rig);
    let area = kernel.vmalloc(4 * PAGE).map(number).unwrap();
    rig.stamp(area, 4, 7);
    let frames: Vec<_> = (1..3).map(|n| rig.frame_at(area + n * PAGE).unwrap()).collect();
    let told = |to| frames.iter().map(|&frame| (frame, to)).collect::<Vec<_>>();
    let steps: [Step<'_>; 8] = [
        (RO, Prot::RO, &told(DirectMap::ReadOnly)),
        (X, Prot::RX, &told(DirectMap::ReadOnly)),
        (NX, Prot::RO, &told(DirectMap::ReadOnly)),
        (RW, Prot::RW, &told(DirectMap::Default)),
        (ROX, Prot::RX, &told(DirectMap::ReadOnly)),
        (RO, Prot::RX, &told(DirectMap::ReadOnly)),
        (NX, Prot::RO, &told(DirectMap::ReadOnly)),
        (RW, Prot::RW, &told(DirectMap::Default)),
    ];
    for (n, (change, prot, direct)) in steps.into_iter().enumerate() {
        change(&kernel, area + PAGE, 2).unwrap();
        let pages = [0, 1, 2, 3].map(|page| allowed(&rig, area + page * PAGE));
        assert_eq!(pages, [Prot::RW, prot, prot, Prot::RW], "step {n}");
        assert_eq!(directs(&kernel), direct, "step {n}");
        let stored = rig.sim.store(1, VirtAddr(area + PAGE), 7 ^ 1).map_err(|fault| fault.why);
        assert_eq!(stored, if prot == Prot::RW { Ok(()) } else { Err(Why::ReadOnly) }, "step {n}");
    }
    rig.check_stamps(area, 4, 7);
    let view = kernel.find_vm_area(area).unwrap();
    assert!(view.flags.contains(VmFlags::ALLOC | VmFlags::FLUSH_RESET_PERMS));
    assert_eq!((view.nr_pages, view.requested_size), (4, 4 * PAGE));
    vfree(&kernel, area).unwrap();
    assert_eq!(rig.sim.odd_directs(), 0);
}

#[test]
fn what_cannot_be_protected_is_refused_by_name_and_nothing_changes() {
    let rig = quiet();
    let kernel = kernel(&rig);
    let area = kernel.vmalloc(3 * PAGE).map(number).unwrap();
    RO(&kernel, area, 1).unwrap();
    directs(&kernel);
    let refused = X(&kernel, area, 3).unwrap_err();
    assert_eq!(
        (refused, refused.errno()),
        (AllocError::WriteExec.into(), Errno::EINVAL),
        "pages 1 and 2 can be written"
    );
    assert_eq!(RO(&kernel, area + 1, 1), Err(Error::NotAligned(area + 1)));
    for (at, pages) in [(area, 0), (area, 4), (area + PAGE, usize::MAX)] {
        assert_eq!(RO(&kernel, at, pages).unwrap_err().errno(), Errno::ERANGE);
    }
    assert_eq!(RO(&kernel, START, 1).unwrap_err(), Error::NoArea(START));
    let sparse = kernel.get_vm_area(2 * PAGE, VmFlags::SPARSE).unwrap().addr;
    assert_eq!(RW(&kernel, sparse, 2), Err(AllocError::NotMapped(VirtAddr(sparse)).into()));
    rig.sim.set_context(Context::Softirq);
    assert_eq!(RW(&kernel, area, 3), Err(Error::WrongContext(Context::Softirq)));
    rig.sim.set_context(Context::Task);
    assert_eq!([0, 1, 2].map(|page| allowed(&rig, area + page * PAGE)), [Prot::RO, Prot::RW, Prot::RW]);
    assert_eq!(directs(&kernel), []);
    vfree(&kernel, sparse).unwrap();
    vfree(&kernel, area).unwrap();
    let careless = Pgprot { prot: Prot::WRITE | Prot::EXEC, ..Pgprot::KERNEL };
    let request = Request { prot: careless, ..kernel.request(PAGE) };
    assert_eq!(kernel.__vmalloc_node_range(&request), Err(AllocError::WriteExec.into()));
    kernel.host().said();
    // PAGE_KERNEL_EXEC says by its name that both are meant.
    let request = Request { prot: Pgprot::KERNEL_EXEC, ..kernel.request(PAGE) };
    let both = kernel.__vmalloc_node_range(&request).map(number).unwrap();
    assert_eq!(allowed(&rig, both), Prot::WRITE | Prot::EXEC);
    directs(&kernel);
    RW(&kernel, both, 1).unwrap();
    assert_eq!(allowed(&rig, both), Prot::WRITE | Prot::EXEC, "it can be written already");
    assert_eq!(directs(&kernel), [], "nobody stores directly to what can be executed");
    NX(&kernel, both, 1).unwrap();
    assert_eq!(allowed(&rig, both), Prot::RW);
    vfree(&kernel, both).unwrap();
}

#[test]
fn pages_that_differ_change_each_for_itself_and_execution_begins_with_a_flush_of_its_own() {
    let rig = quiet();
    let kernel = kernel(&rig);
    let area = kernel.vmalloc(6 * PAGE).map(number).unwrap();
    let all = |rig: &Rig| [0, 1, 2, 3, 4, 5].map(|page| allowed(rig, area + page * PAGE));
    let flushes = |change: Change, at, pages| {
        let before = rig.sim.counters().flushes;
        change(&kernel, at, pages).unwrap();
        rig.sim.counters().flushes - before
    };
    assert_eq!(flushes(RO, area, 6), 1, "pages that are alike");
    assert_eq!(flushes(X, area + 2 * PAGE, 2), 2, "before, and after");
    let (ro, rx, rw) = (Prot::RO, Prot::RX, Prot::RW);
    assert_eq!(all(&rig), [ro, ro, rx, rx, ro, ro]);
    let refused = RW(&kernel, area, 6).unwrap_err();
    assert_eq!((refused, all(&rig)), (AllocError::WriteExec.into(), [ro, ro, rx, rx, ro, ro]));
    RW(&kernel, area + 4 * PAGE, 2).unwrap();
    RO(&kernel, area + PAGE, 4).unwrap();
    assert_eq!(all(&rig), [ro, ro, rx, rx, ro, rw]);
    directs(&kernel);
    NX(&kernel, area, 6).unwrap();
    assert_eq!(all(&rig), [ro, ro, ro, ro, ro, rw]);
    let told: Vec<_> = directs(&kernel).into_iter().map(|(_, to)| to).collect();
    let (only, free) = (DirectMap::ReadOnly, DirectMap::Default);
    assert_eq!(told, [only, only, only, only, only, free], "each as its page");
    NX(&kernel, area + 4 * PAGE, 2).unwrap();
    RW(&kernel, area, 1).unwrap();
    directs(&kernel);
    NX(&kernel, area, 2).unwrap();
    let frames = [0, 1].map(|page| rig.frame_at(area + page * PAGE).unwrap());
    assert_eq!(directs(&kernel), [(frames[1], only), (frames[0], free)], "what cannot be stored to, by no mapping");
    vfree(&kernel, area).unwrap();
    assert_eq!(rig.sim.odd_directs(), 0);
}

#[test]
fn at_no_moment_can_a_cpu_execute_a_frame_and_store_to_it_directly() {
    let rig = rig(4);
    let kernel = kernel(&rig);
    for round in 0..40 {
        let pages = 1 + round % 5;
        let area = match round % 3 {
            0 => kernel.v2_6().vmalloc(pages * PAGE),
            1 => kernel.vzalloc(pages * PAGE),
            _ => kernel.vmalloc(pages * PAGE),
        };
        let area = area.map(number).unwrap();
        rig.stamp(area, pages, round as u64);
        if round % 2 == 0 {
            ROX(&kernel, area, pages).unwrap();
        } else {
            RO(&kernel, area, pages).unwrap();
            X(&kernel, area, pages.div_ceil(2)).unwrap();
        }
        rig.check_stamps(area, pages, round as u64);
        (0..20).for_each(|_| rig.sim.step());
        if round % 4 == 0 {
            NX(&kernel, area, pages).unwrap();
            RW(&kernel, area, pages).unwrap();
            rig.stamp(area, pages, 3);
        }
        vfree(&kernel, area).unwrap();
        assert_eq!(rig.sim.odd_directs(), 0, "round {round}");
        (0..20).for_each(|_| rig.sim.step());
        rig.sim.audit();
    }
}

#[test]
fn the_free_of_an_area_with_flush_reset_perms_flushes_at_once_and_gives_the_direct_mapping_back() {
    let rig = quiet();
    let kernel = kernel(&rig);
    let area = kernel.vmalloc(2 * PAGE).map(number).unwrap();
    assert_eq!(kernel.set_vm_flush_reset_perms(area + PAGE), Err(Error::NoArea(area + PAGE)), "none starts there");
    kernel.set_vm_flush_reset_perms(area).unwrap();
    assert!(kernel.find_vm_area(area).unwrap().flags.contains(VmFlags::FLUSH_RESET_PERMS));
    let frames = [0, 1].map(|n| rig.frame_at(area + n * PAGE).unwrap());
    rig.stamp(area, 2, 5);
    let before = (rig.state(), rig.sim.counters().flushes);
    rig.sim.set_context(Context::HardIrq);
    assert_eq!(vfree(&kernel, area), Err(Error::WrongContext(Context::HardIrq)), "not from an interrupt");
    rig.sim.set_context(Context::Task);
    assert_eq!((kernel.host().said(), directs(&kernel)), (vec![], vec![]));
    rig.check_stamps(area, 2, 5);
    vfree(&kernel, area).unwrap();
    assert!(rig.sim.counters().flushes > before.1, "at once");
    let steps = [DirectMap::Invalid, DirectMap::Default];
    let told: Vec<_> = steps.into_iter().flat_map(|to| frames.map(|frame| (frame, to))).collect();
    assert_eq!(directs(&kernel), told);
    assert_eq!(rig.sim.odd_directs(), 0);
    assert_eq!(vfree(&kernel, area).unwrap_err().errno(), Errno::EINVAL, "once");
    kernel.host().said();
    assert_eq!(kernel.set_vm_flush_reset_perms(area), Err(Error::NoArea(area)));
    assert_eq!(before.0.1, rig.state().1 + 2);
}

#[test]
fn frames_that_are_somebody_elses_keep_their_direct_mapping() {
    let rig = quiet();
    let kernel = kernel(&rig);
    let some = frames(&rig, 2);
    // SAFETY: Y5: they are held to the end.
    let mapped = unsafe { kernel.vmap(&some, VmFlags::empty(), Pgprot::KERNEL) }.map(number).unwrap();
    RO(&kernel, mapped, 2).unwrap();
    assert_eq!((allowed(&rig, mapped), directs(&kernel)), (Prot::RO, vec![]));
    RW(&kernel, mapped, 2).unwrap();
    assert_eq!((allowed(&rig, mapped), directs(&kernel)), (Prot::RW, vec![]));
    assert_eq!(kernel.set_vm_flush_reset_perms(mapped).unwrap_err().errno(), Errno::EINVAL);
    // SAFETY: Y1: nobody uses it.
    unsafe { kernel.vunmap(at(mapped)) }.unwrap();
    // SAFETY: Y5: they are given up by that.
    let owned = unsafe { kernel.vmap(&some, VmFlags::MAP_PUT_PAGES, Pgprot::KERNEL) }.map(number).unwrap();
    ROX(&kernel, owned, 2).unwrap();
    assert_eq!(directs(&kernel).len(), 2);
    let flags = VmFlags::MAP | VmFlags::MAP_PUT_PAGES | VmFlags::FLUSH_RESET_PERMS;
    assert_eq!(kernel.find_vm_area(owned).unwrap().flags, flags);
    vfree(&kernel, owned).unwrap();
    directs(&kernel);
    // Of an area by parts the frames are its own.
    let parts = kernel.v2_6().vmalloc(2 * PAGE).map(number).unwrap();
    RO(&kernel, parts, 2).unwrap();
    assert_eq!(directs(&kernel).len(), 2);
    vfree(&kernel, parts).unwrap();
    assert_eq!(rig.sim.odd_directs(), 0);
}

#[test]
fn an_area_whose_direct_mapping_was_changed_is_not_resized_and_is_reset_when_the_subsystem_ends() {
    let rig = quiet();
    let kernel = kernel(&rig);
    let area = kernel.vmalloc(4 * PAGE).map(number).unwrap();
    RO(&kernel, area, 4).unwrap();
    for size in [PAGE, 40 * PAGE] {
        // SAFETY: Y4: it is refused.
        let refused = unsafe { kernel.vrealloc(at(area), size, GFP) }.unwrap_err();
        assert_eq!(refused.errno(), Errno::EINVAL);
    }
    assert_eq!(rig.sim.odd_directs(), 4);
    drop(kernel);
    assert_eq!(rig.sim.odd_directs(), 0);
}
