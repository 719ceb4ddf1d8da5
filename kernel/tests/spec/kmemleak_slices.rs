//! A scan in slices, and what happens between them.

use crate::kmemleak::*;
use std::sync::{Arc, Mutex};
use vmalloc::{Req, Vmalloc};
use vmalloc_kernel::kmemleak::{CHUNK, FIRST_SCAN_NS, OBJECTS, Progress, SCAN_PERIOD_NS, Scan};

/// Advances a scan a step at a time, with `between` after each; the steps.
fn steps(scan: &mut Scan, kernel: &Tested<'_>, mut between: impl FnMut(usize)) -> (usize, Progress) {
    for step in 1.. {
        match scan.advance(kernel, 1) {
            Progress::More => between(step),
            end => return (step, end),
        }
    }
    unreachable!()
}

#[test]
fn a_step_reads_a_chunk_or_looks_at_so_many_objects() {
    let rig = rig();
    let kernel = rig.kernel();
    let alone = steps(&mut kernel.kmemleak_begin().unwrap(), &kernel, |_| ()).0;
    let area = kernel.vzalloc(1 << 20).map(number).unwrap();
    rig.point(0, area);
    rig.sim.advance(6 * SECOND);
    let scanned = steps(&mut kernel.kmemleak_begin().unwrap(), &kernel, |_| ()).0;
    let least = (1 << 20) / CHUNK;
    assert!((least..least + 8).contains(&(scanned - alone)), "{scanned} steps, {alone} without the area");
    // White, it is summed up.
    rig.point(0, 0);
    let summed = steps(&mut kernel.kmemleak_begin().unwrap(), &kernel, |_| ()).0;
    assert!((least..least + 8).contains(&(summed - alone)), "{summed} steps, {alone} without the area");
    let objects = 10 * OBJECTS;
    (0..objects).for_each(|_| kernel.kmemleak_ignore(object(&kernel)));
    // They are reset, looked through for white ones, and counted.
    let many = steps(&mut kernel.kmemleak_begin().unwrap(), &kernel, |_| ()).0;
    assert!((30..=34).contains(&(many - summed)), "{many} steps, {summed} without the objects");
}

#[test]
fn areas_that_are_freed_between_two_steps_are_not_read() {
    let rig = rig();
    let kernel = rig.kernel();
    let mut areas: Vec<usize> = (0..20).map(|_| kernel.vzalloc(pages(20)).map(number).unwrap()).collect();
    let mut objects: Vec<usize> = (0..20).map(|_| object(&kernel)).collect();
    areas.iter().zip(&objects).enumerate().for_each(|(n, (&area, &object))| {
        rig.point(n, area);
        rig.store(area + pages(19), object);
        set(object, 0, area + pages(10));
    });
    let mut scan = kernel.kmemleak_begin().unwrap();
    let (count, end) = steps(&mut scan, &kernel, |step| {
        if step % 7 == 0 {
            areas.pop().into_iter().for_each(|area| vfree(&kernel, area));
            rig.vm().purge();
        }
        if step % 11 == 0 {
            objects.pop().into_iter().for_each(|object| kfree(&kernel, object));
            // Its record and its memory serve another.
            objects.insert(0, self::object(&kernel));
        }
    });
    assert!(count > 100 && areas.len() < 10, "{count} steps, {} areas left", areas.len());
    assert_eq!(end, Progress::Done(0));
    areas.iter().for_each(|&area| rig.assert_colours(&[(area, Colour::Grey)]));
}

#[test]
fn what_is_freed_while_it_waits_to_be_scanned_leaves_the_others_waiting() {
    let rig = rig();
    let kernel = rig.kernel();
    let mut parents: Vec<usize> = (0..40).map(|_| object(&kernel)).collect();
    let children: Vec<usize> = parents.iter().map(|_| object(&kernel)).collect();
    parents.iter().zip(&children).enumerate().for_each(|(n, (&parent, &child))| {
        set(parent, 0, child);
        rig.point(n, parent);
    });
    rig.sim.advance(6 * SECOND);
    let mut scan = kernel.kmemleak_begin().unwrap();
    let waits = |parents: &[usize]| parents.iter().all(|&one| rig.colour(one) == Some(Colour::Grey));
    while !waits(&parents) {
        assert_eq!(scan.advance(&kernel, 1), Progress::More);
    }
    for n in [30, 20, 10] {
        kfree(&kernel, parents.swap_remove(n));
        rig.point(n, 0);
        // The records serve others.
        (0..2).for_each(|_| kernel.kmemleak_not_leak(object(&kernel)));
    }
    assert_eq!(scan.advance(&kernel, usize::MAX), Progress::Done(3));
    let grey = children.iter().filter(|&&child| rig.colour(child) == Some(Colour::Grey)).count();
    assert_eq!((grey, waits(&parents)), (37, true));
}

#[test]
fn a_later_scan_ends_an_earlier_one_and_begins_anew() {
    let rig = rig();
    let kernel = rig.kernel();
    let list = [0; 10].map(|_| object(&kernel));
    rig.point(0, list[0]);
    list.windows(2).for_each(|pair| set(pair[0], 0, pair[1]));
    let mut first = kernel.kmemleak_begin().unwrap();
    assert_eq!(first.advance(&kernel, 6), Progress::More);
    let mut second = kernel.kmemleak_begin().unwrap();
    assert_eq!(first.advance(&kernel, 1), Progress::Overtaken);
    assert_eq!(second.advance(&kernel, usize::MAX), Progress::Done(0));
    assert_eq!(second.advance(&kernel, 1), Progress::Done(0), "it stays over");
    list.iter().for_each(|&one| rig.assert_colours(&[(one, Colour::Grey)]));
    // One that is dropped in the middle harms nobody.
    kernel.kmemleak_begin().unwrap().advance(&kernel, 6);
    kfree(&kernel, list[9]);
    assert_eq!(kernel.kmemleak_scan(), 0);
    let mut third = kernel.kmemleak_begin().unwrap();
    kernel.kmemleak_write("off").unwrap();
    assert_eq!(third.advance(&kernel, 1), Progress::Overtaken);
}

#[test]
fn a_root_in_an_area_is_read_as_long_as_it_is_there() {
    struct Stack<'r>(&'r AtomicUsize);
    impl Host for Stack<'_> {
        fn root(&self, n: usize) -> Option<Root> {
            (n == 0).then(|| Root::in_area(RootKind::Stack, self.0.load(SeqCst), pages(2)))
        }
    }
    let rig = rig();
    let place = AtomicUsize::new(0);
    let kernel = Kernel::new(rig.vm(), Stack(&place)).with_kmemleak(rig.leaks());
    let held = kernel.kzalloc(64, GFP).map(number).unwrap();
    let stack = rig.vm().alloc(Req::pages(2)).unwrap();
    place.store(number(stack), SeqCst);
    rig.store(number(stack) + pages(1) + 800, held);
    rig.sim.advance(6 * SECOND);
    kernel.kmemleak_scan();
    rig.assert_colours(&[(held, Colour::Grey)]);
    // SAFETY: V1: nobody uses it.
    unsafe { rig.vm().free(stack) }.unwrap();
    rig.vm().purge();
    kernel.kmemleak_scan();
    rig.assert_colours(&[(held, Colour::White)]);
}

#[test]
fn an_nmi_that_frees_an_area_in_the_middle_of_the_detector_is_heard_or_made_up_for() {
    let rig = rig();
    let kernel = rig.kernel();
    let (mut came, mut unheard) = (0, 0);
    for n in 1..60 {
        let area = rig.vm().alloc(Req::pages(2)).unwrap();
        let kept = rig.vm().alloc(Req::pages(1).zeroed()).map(number).unwrap();
        let freed = Arc::new(AtomicBool::new(false));
        let (done, vm, start) = (freed.clone(), std::ptr::from_ref(rig.vm()).addr(), number(area));
        std::ptr::from_ref(rig.vm()).expose_provenance();
        rig.sim.set_nmi(n, move |_| {
            // SAFETY: the instance outlives the test, which takes the handler off.
            let vm = unsafe { &*std::ptr::with_exposed_provenance::<Vmalloc<Told>>(vm) };
            // SAFETY: V1: nobody uses it.
            let gone = unsafe { vm.free(std::ptr::NonNull::new(with_exposed_provenance_mut(start)).unwrap()) };
            done.store(gone.is_ok(), SeqCst);
        });
        rig.point(0, kept);
        kernel.kmemleak_scan();
        rig.sim.set_nmi(0, |_| ());
        if freed.load(SeqCst) {
            came += 1;
            unheard += rig.colour(start).is_some() as usize;
            kernel.kmemleak_scan();
            assert_eq!(rig.colour(start), None, "after {n} steps");
        } else {
            // SAFETY: V1: nobody uses it.
            unsafe { rig.vm().free(area) }.unwrap();
        }
        rig.assert_colours(&[(kept, Colour::Grey)]);
        vfree(&kernel, kept);
        assert_eq!(rig.leaks().len(&rig.sim), 0);
    }
    assert!(came > 20, "{came} NMIs, {unheard} of them unheard");
}

#[cfg(debug_assertions)]
#[test]
fn without_memory_for_an_object_the_detector_is_off_and_the_allocation_is_not_refused() {
    let rig = rig();
    let kernel = rig.kernel();
    let mut made = vec![object(&kernel)];
    // The slab has free objects; the detector wants a frame before long.
    rig.sim.faults().fail_from(1);
    made.extend((0..40).map(|_| object(&kernel)));
    rig.sim.faults().fail_at(0);
    let log = rig.sim.take_log();
    assert_eq!(log.len(), 1, "{log:?}");
    assert_eq!(log[0].1, "kmemleak: no memory for an object; it is off from here on");
    assert!(rig.leaks().len(&rig.sim) < made.len() && kernel.kmemleak_begin().is_none());
    made.iter().for_each(|&one| kfree(&kernel, one));
    assert_eq!(rig.leaks().len(&rig.sim), 0, "frees are heard of");
}

#[test]
fn a_tick_that_is_overtaken_in_its_last_step_leaves_the_newer_scan_running() {
    type Tick = Box<dyn Fn() + Send>;
    /// Another CPU ticks while a root is looked for.
    struct Beside(AtomicUsize, Arc<Mutex<Option<Tick>>>);
    impl Host for Beside {
        fn root(&self, n: usize) -> Option<Root> {
            if n == 0 && self.0.fetch_add(1, SeqCst) == 0 {
                self.1.lock().unwrap().take().into_iter().for_each(|other| other());
            }
            None
        }
    }
    let rig = rig();
    let other: Arc<Mutex<Option<Tick>>> = Arc::default();
    let kernel = Kernel::new(rig.vm(), Beside(AtomicUsize::new(0), other.clone())).with_kmemleak(rig.leaks());
    let lost = kernel.kzalloc(64, GFP).map(number).unwrap();
    let tick = |now, steps| kernel.kmemleak_tick(now, steps);
    assert_eq!(tick(0, 1), None);
    // Up to the step that looks for the first root.
    let first = FIRST_SCAN_NS.max(6 * SECOND);
    rig.sim.advance(first);
    assert_eq!(tick(first, 2), Some(Progress::More));
    let late = first + SCAN_PERIOD_NS;
    let shared = std::ptr::from_ref(&kernel).expose_provenance();
    *other.lock().unwrap() = Some(Box::new(move || {
        // SAFETY: the kernel outlives the hook, which runs once.
        let kernel = unsafe { &*std::ptr::with_exposed_provenance::<Kernel<'_, Told, Beside>>(shared) };
        assert_eq!(kernel.kmemleak_tick(late, 1), Some(Progress::More), "a scan of its own");
    }));
    let overtaken = tick(late, 1);
    assert_eq!((kernel.host().0.load(SeqCst), overtaken), (1, Some(Progress::Overtaken)));
    assert_eq!(tick(late + 1, usize::MAX), Some(Progress::Done(1)), "the newer one goes on");
    rig.assert_colours(&[(lost, Colour::White)]);
}

#[test]
fn a_root_at_the_end_of_all_addresses_holds_nothing() {
    /// Roots that no memory is behind.
    struct Nowhere;
    impl Host for Nowhere {
        fn root(&self, n: usize) -> Option<Root> {
            let start = usize::MAX - [0, 1, 6, 7, 8, 4096].get(n)?;
            Some(Root::in_area(RootKind::Data, start, [16, usize::MAX][n % 2]))
        }
    }
    let rig = rig();
    let kernel = Kernel::new(rig.vm(), Nowhere).with_kmemleak(rig.leaks());
    let lost = kernel.kzalloc(64, GFP).map(number).unwrap();
    kernel.kmemleak_scan();
    rig.assert_colours(&[(lost, Colour::White)]);
    // Nor is there an area, which a scan is told of in its middle.
    let area = kernel.vmalloc(pages(1)).map(number).unwrap();
    let mut nowhere = kernel.find_vm_area(area).unwrap();
    for (held, addr) in [(false, usize::MAX - 3), (true, usize::MAX - 11)] {
        nowhere.addr = addr;
        let mut scan = kernel.kmemleak_begin().unwrap();
        assert_eq!(scan.advance(&kernel, 2), Progress::More);
        kernel.kmemleak_vmalloc(&nowhere, usize::MAX, GFP);
        if held {
            kernel.kmemleak_not_leak(addr);
        }
        assert!(matches!(scan.advance(&kernel, usize::MAX), Progress::Done(_)));
    }
    // SAFETY: Y1: nobody uses it.
    unsafe { kernel.vfree(std::ptr::with_exposed_provenance(area)) }.unwrap();
}

#[test]
fn of_an_area_that_has_shrunk_no_part_behind_its_end_is_scanned() {
    let rig = rig();
    let kernel = rig.kernel();
    let area = kernel.vzalloc(pages(4)).map(number).unwrap();
    let [before, behind] = [0; 2].map(|_| object(&kernel));
    rig.point(0, area);
    rig.store(area + pages(1), before);
    rig.store(area + pages(3), behind);
    kernel.kmemleak_scan_area(area + pages(1), pages(2) + 8, GFP);
    kernel.kmemleak_scan_area(area + pages(3), 8, GFP);
    kernel.kmemleak_scan();
    rig.assert_colours(&[(before, Colour::Grey), (behind, Colour::Grey)]);
    // SAFETY: Y4: the test uses what is returned.
    unsafe { kernel.vrealloc(std::ptr::with_exposed_provenance(area), pages(2), GFP) }.unwrap();
    assert!(kernel.kmemleak_write(&format!("dump={area}")).is_ok());
    kernel.kmemleak_scan();
    rig.assert_colours(&[(area, Colour::Grey), (before, Colour::Grey), (behind, Colour::White)]);
    // What it grows by later is another memory: it was never named.
    // SAFETY: as above.
    let same = unsafe { kernel.vrealloc(std::ptr::with_exposed_provenance(area), pages(4), GFP) }.unwrap();
    assert_eq!(same.map(number), Some(area));
    rig.store(area + pages(3), behind);
    kernel.kmemleak_scan();
    rig.assert_colours(&[(before, Colour::Grey), (behind, Colour::White)]);
}
