//! Sections, locks and what the machine is told of: each rule, broken by hand.

use crate::bench::{Bench, bench};
use vmalloc::error::Shortage;
use vmalloc::gfp::Gfp;
use vmalloc::lock_api::Mutex;
use vmalloc::machine::format::{Format, MemType, Prot, Word};
use vmalloc::machine::frames::{Frames, Want};
use vmalloc::machine::{Context, Flush, Machine};
use vmalloc::table::X86_64;
use vmalloc::units::{Node, PageRange, Pfn, VirtAddr};
use vmalloc_sim::{BOUNDS, REACHED_UNDER_LOCK, Rates, STEPS, Sim, SoloLock, Watched, What, Why};

const AT: VirtAddr = VirtAddr(0xffff_c900_0000_0000);

fn quiet() -> Bench<X86_64> {
    bench(Sim::builder().cpus(2).rates(Rates::NEVER))
}

fn lock() -> Mutex<SoloLock, ()> {
    Mutex::new(())
}

/// What a section that does `act` panics with.
fn section(b: &Bench<X86_64>, act: impl FnOnce(&Sim<X86_64>)) -> String {
    b.story(|sim| b.pinned(|| act(sim)))
}

#[test]
fn two_locks_at_once_are_noticed() {
    let (b, region, depot) = (quiet(), lock(), lock());
    b.pinned(|| drop((region.lock(), ())));
    let story = section(&b, |_| {
        let _region = region.lock();
        let _depot = depot.lock();
    });
    assert!(story.contains("L2: CPU 0 takes a lock and holds 1 already"), "{story}");
}

#[test]
fn the_source_that_is_called_under_a_lock_is_noticed() {
    let (b, region) = (quiet(), lock());
    let frame = b.take();
    let story = section(&b, |sim| {
        let _region = region.lock();
        // SAFETY: the frame is out.
        unsafe { sim.frames().free(frame, 0) }
    });
    assert!(story.contains("F3") && story.contains("holds a lock"), "{story}");
    let story = section(&b, |sim| {
        let _region = region.lock();
        sim.frames().alloc(Want::bookkeeping(Node(0)));
    });
    assert!(story.contains("F3") && story.contains("holds a lock"), "{story}");
}

#[test]
fn a_lock_that_outlives_its_pin_is_noticed() {
    let (b, region) = (quiet(), lock());
    let story = section(&b, |_| core::mem::forget(region.lock()));
    assert!(story.contains("L2: CPU 0 ends its section and holds 1 locks"), "{story}");
}

#[test]
fn who_waits_or_asks_for_help_in_the_middle_of_a_section_is_noticed() {
    let (b, region) = (quiet(), lock());
    // Who waits to come in has done nothing yet.
    b.pinned(|| b.sim.relax());
    b.sim.relax();
    let frame = b.take();
    let story = section(&b, |sim| {
        sim.virt(frame);
        sim.relax();
    });
    assert!(story.contains("L2: CPU 0 waits in a section"), "{story}");
    let b = quiet();
    let frame = b.take();
    let story = section(&b, |sim| {
        sim.virt(frame);
        sim.exhausted(Shortage::Frames(1), Context::Task, Gfp::KERNEL);
    });
    assert!(story.contains("L2: CPU 0 asks for help in a section"), "{story}");
    let b = quiet();
    let story = b.story(|sim| {
        let _region = region.lock();
        sim.relax();
    });
    assert!(story.contains("L2: CPU 0 waits and holds 1 locks"), "{story}");
}

#[test]
fn a_section_that_is_too_long_is_noticed_and_two_short_ones_are_none() {
    let b = quiet();
    let frame = b.take();
    let most = BOUNDS.of(What::Reached);
    for _ in 0..2 {
        b.pinned(|| (0..most).for_each(|_| _ = b.sim.virt(frame)));
    }
    assert_eq!(b.sim.longest_section().of(What::Reached), most);
    let one_more = |sim: &Sim<X86_64>| (0..=most).for_each(|_| _ = sim.virt(frame));
    b.sim.unbounded(|| b.pinned(|| one_more(&b.sim)));
    let story = section(&b, one_more);
    assert!(
        story.contains(&format!("L3: a section on CPU 0 did {{read: 0, written: 0, reached: {}", most + 1)),
        "{story}"
    );
}

#[test]
fn a_section_that_does_too_much_in_all_is_noticed_though_of_nothing_too_much() {
    let b = quiet();
    let (frame, source) = (b.take(), b.sim.frames());
    // To ask for a frame is a touch, and so is the frame.
    let touch = |reached: u64, asked: u64| {
        (0..reached).for_each(|_| _ = b.sim.virt(frame));
        (0..asked).for_each(|_| _ = source.alloc(Want::bookkeeping(Node(0))));
    };
    let reached = BOUNDS.of(What::Reached);
    let asked = (4 * STEPS - reached) / 2;
    b.pinned(|| touch(reached, asked));
    assert_eq!(b.sim.busiest_section().steps(), STEPS);
    let story = section(&b, |_| touch(reached, asked + 1));
    assert!(story.contains(&format!("L3: a section on CPU 0 took {} steps of a page", STEPS + 1)), "{story}");
}

#[test]
fn a_lock_under_which_too_many_frames_are_reached_is_noticed() {
    let (b, region) = (quiet(), lock());
    let frame = b.take();
    let hold = |frames: u64| {
        let _region = region.lock();
        (0..frames).for_each(|_| _ = b.sim.virt(frame));
    };
    b.pinned(|| hold(REACHED_UNDER_LOCK / 3));
    b.pinned(|| hold(REACHED_UNDER_LOCK));
    assert_eq!(b.sim.longest_hold().of(What::Reached), REACHED_UNDER_LOCK);
    let story = section(&b, |_| hold(REACHED_UNDER_LOCK + 1));
    assert!(story.contains("L3: CPU 0 took 351 steps under one lock"), "{story}");
}

#[test]
fn each_cpu_has_sections_of_its_own() {
    let b = quiet();
    let frame = b.take();
    let half = BOUNDS.of(What::Reached) / 2 + 1;
    let reach = || (0..half).for_each(|_| _ = b.sim.virt(frame));
    // One goes on in the middle of the other's.
    b.pinned(|| {
        b.sim.on(1, || b.pinned(reach));
        reach();
    });
    assert_eq!(b.sim.longest_section().of(What::Reached), half);
}

#[test]
fn a_page_that_is_cleared_inside_a_section_is_noticed() {
    let b = quiet();
    let frame = b.map(AT);
    b.sim.zero(frame, AT);
    let story = section(&b, |sim| sim.zero(frame, AT));
    assert!(story.contains("L3: CPU 0 clears a page"), "{story}");
}

/// Writes an entry as the library does: the machine is not told.
fn write(b: &Bench<X86_64>, at: VirtAddr, frame: Pfn) {
    type Entry = <Watched<X86_64> as Format>::Word;
    let entry = Watched::<X86_64>::leaf(frame, Prot::RW, MemType::WriteBack, 1);
    let table = b.sim.virt(b.table_of(at, 2)).cast::<Entry>();
    // SAFETY: W1: the table is the bench's, and the index lies in it.
    unsafe { Entry::store(table.add(at.0 >> 12 & 511).as_ptr(), entry) }
}

#[test]
fn a_page_that_the_machine_was_not_told_of_is_none_for_programs() {
    let b = quiet();
    b.map(AT);
    let (page, frame, other) = (AT.add_pages(3), b.take(), b.take());
    write(&b, page, frame);
    assert_eq!(b.sim.load(1, page).map_err(|fault| fault.why), Err(Why::Untold));
    b.sim.sync(PageRange::new(page, 1));
    assert!(b.sim.load(1, page).is_ok());
    // Nor is it when it was bound before, to this frame or to another.
    for frame in [frame, other] {
        b.retire(page);
        b.sim.unmapped(PageRange::new(page, 1));
        (0..2).for_each(|cpu| b.sim.on(cpu, || b.sim.flush(Flush::Everything)));
        b.collect(page);
        write(&b, page, frame);
        assert_eq!(b.sim.load(1, page).map_err(|fault| fault.why), Err(Why::Untold));
        b.sim.sync(PageRange::new(page, 1));
        assert!(b.sim.load(1, page).is_ok());
    }
}

#[test]
fn entries_are_counted_however_the_library_comes_to_them() {
    let b = quiet();
    b.map(AT);
    let frame = b.take();
    b.pinned(|| (0..5).for_each(|n| write(&b, AT.add_pages(n), frame)));
    assert_eq!(b.sim.longest_section().of(What::Written), 5);
}

#[test]
#[should_panic(expected = "help is asked for in Atomic, told as Task")]
fn a_machine_that_is_asked_for_help_where_nobody_may_wait_is_told() {
    let sim = Sim::<X86_64>::builder().rates(Rates::NEVER).build();
    sim.set_context(Context::Atomic);
    sim.exhausted(Shortage::Frames(1), Context::Task, Gfp::KERNEL);
}

#[test]
#[should_panic(expected = "nobody may wait")]
fn a_machine_that_is_asked_for_help_by_who_does_not_wait_is_told() {
    let sim = Sim::<X86_64>::builder().rates(Rates::NEVER).build();
    sim.exhausted(Shortage::Frames(1), Context::Task, Gfp::NOWAIT);
}
