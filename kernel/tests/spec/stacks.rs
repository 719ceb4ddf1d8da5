//! Stacks of threads.

use crate::common::*;
use std::collections::{BTreeMap, BTreeSet};
use std::ptr::{NonNull, from_ref, with_exposed_provenance};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use vmalloc::area::{Req, What};
use vmalloc::machine::frames::Frames;
use vmalloc::machine::{Context, Machine as _};
use vmalloc::units::{Node, Pfn, VirtAddr};
use vmalloc::{AllocError, Config, Gfp, Kind};
use vmalloc_kernel::stacks::{NR_CACHED_STACKS, Stacks};
use vmalloc_kernel::{Error, Kern, Notifiers};
use vmalloc_sim::{Rates, Sim};

type Cache<'k> = Stacks<'k, 'k, Machine, Recorder>;

/// 16 KiB, as on x86-64.
const PAGES: usize = 4;
const STACK: usize = PAGES * PAGE;
const GIVEN: [Option<Node>; 2] = [Some(Node(0)), Some(Node(1))];

/// Two CPUs and two nodes, and nothing happens by chance.
fn nodes() -> Rig {
    let machine = Sim::builder().cpus(2).node(32 << 20).node(32 << 20).rates(Rates::NEVER);
    boot(machine, Config::region(REGION))
}

fn alloc(stacks: &Cache<'_>, node: Option<Node>) -> usize {
    number(stacks.alloc_thread_stack(node).expect("a stack"))
}

fn free(stacks: &Cache<'_>, stack: usize) -> Result<(), Error> {
    // SAFETY: Y1: simulated memory is used through the simulator, which judges each use.
    unsafe { stacks.free_thread_stack(NonNull::new(at(stack).cast_mut()).unwrap()) }
}

fn used(stacks: &Cache<'_>, stack: usize) -> Result<usize, Error> {
    // SAFETY: Y2: the test holds the stack.
    unsafe { stacks.used(NonNull::new(at(stack).cast_mut()).unwrap()) }
}

/// Uses `bytes` bytes of a stack from its top.
fn push(rig: &Rig, stack: usize, bytes: usize) {
    rig.sim.store(rig.sim.cpu(), VirtAddr(stack + STACK - bytes), 0xbad).expect("a live stack");
}

/// The nodes of a stack's frames.
fn nodes_of(rig: &Rig, stack: usize) -> [Node; PAGES] {
    let frame = |page| rig.frame_at(stack + page * PAGE).expect("a live page");
    std::array::from_fn(|page| rig.machine().frames().node_of(frame(page)))
}

fn live(rig: &Rig) -> usize {
    rig.areas().filter(|area| area.kind == Kind::Stack).count()
}

#[test]
fn a_freed_stack_is_kept_and_given_out_again_cleared() {
    let rig = quiet();
    let kernel = rig.kernel();
    let stacks = Stacks::new(&kernel, PAGES);
    let first = alloc(&stacks, None);
    rig.assert_zero(first, STACK);
    for seed in 1..4 {
        (0..STACK / 8).for_each(|n| rig.sim.store(0, VirtAddr(first + 8 * n), seed).unwrap());
        free(&stacks, first).unwrap();
        assert_eq!(live(&rig), 1, "it is kept");
        rig.check_stamps(first + STACK - PAGE, 1, seed);
        assert_eq!(alloc(&stacks, None), first);
        rig.assert_zero(first, STACK);
    }
    assert_eq!(stacks.bytes(), STACK);
}

#[test]
fn a_cpu_keeps_two_stacks_and_the_third_is_freed() {
    let rig = quiet();
    let kernel = rig.kernel();
    let stacks = Stacks::new(&kernel, PAGES);
    let mut made: Vec<_> = (0..4).map(|_| alloc(&stacks, None)).collect();
    made.iter().for_each(|&stack| free(&stacks, stack).unwrap());
    assert_eq!((NR_CACHED_STACKS, live(&rig)), (2, 2));
    assert!(matches!(rig.whatis(made[2]), What::Freed { .. }));
    let mut again = [alloc(&stacks, None), alloc(&stacks, None)];
    made.truncate(2);
    made.sort();
    again.sort();
    made.sort();
    again.sort();
    assert_eq!(made, again, "each of those that are kept is given out once");
    assert_eq!(live(&rig), 2);
    alloc(&stacks, None);
    assert_eq!(live(&rig), 3);
}

#[test]
fn what_one_cpu_keeps_no_other_cpu_is_given() {
    let rig = nodes();
    let kernel = rig.kernel();
    let stacks = Stacks::new(&kernel, PAGES);
    let stack = alloc(&stacks, None);
    rig.sim.on(1, || free(&stacks, stack)).unwrap();
    let other = alloc(&stacks, None);
    assert_ne!(other, stack, "CPU 1 freed it, and keeps it");
    assert_eq!(rig.sim.on(1, || alloc(&stacks, None)), stack);
}

#[test]
fn a_stack_of_another_node_is_not_reused() {
    let rig = nodes();
    let kernel = rig.kernel();
    let stacks = Stacks::new(&kernel, PAGES);
    let node_of = |stack| {
        let nodes = nodes_of(&rig, stack);
        assert_eq!(nodes, [nodes[0]; PAGES]);
        nodes[0]
    };
    for (mine, other) in [(GIVEN[0], GIVEN[1]), (GIVEN[1], GIVEN[0])] {
        let stack = alloc(&stacks, mine);
        free(&stacks, stack).unwrap();
        let elsewhere = alloc(&stacks, other);
        assert_ne!(elsewhere, stack);
        assert_eq!((node_of(stack), node_of(elsewhere)), (mine.unwrap(), other.unwrap()));
        assert_eq!(alloc(&stacks, mine), stack, "it was still there");
        free(&stacks, stack).unwrap();
        assert_eq!(alloc(&stacks, None), stack, "any node will do");
        // Both nodes have one: each is found behind the other.
        [stack, elsewhere].iter().for_each(|&stack| free(&stacks, stack).unwrap());
        assert_eq!([mine, other].map(|node| alloc(&stacks, node)), [stack, elsewhere]);
        stacks.flush();
    }
}

#[test]
fn a_stack_whose_frames_are_of_two_nodes_is_not_kept() {
    let rig = nodes();
    let kernel = rig.kernel();
    let stacks = Stacks::new(&kernel, PAGES);
    let here = Gfp::KERNEL | Gfp::THISNODE | Gfp::NOWARN;
    let mut held: Vec<_> = std::iter::from_fn(|| rig.alloc_frame(here, GIVEN[1]).ok()).collect();
    let mut pure = Vec::new();
    // The node has some frames left, and at last not enough.
    let mixed = loop {
        give_frames(&rig, &[held.pop().expect("frames of node 1")]);
        rig.reclaim(usize::MAX);
        let stack = alloc(&stacks, GIVEN[1]);
        let nodes = nodes_of(&rig, stack);
        match nodes.iter().all(|node| *node == nodes[0]) {
            true => pure.push(stack),
            false => break stack,
        }
    };
    let before = live(&rig);
    free(&stacks, mixed).unwrap();
    assert_eq!(live(&rig), before - 1);
    give_frames(&rig, &held);
    pure.iter().for_each(|&stack| free(&stacks, stack).unwrap());
}

#[test]
fn a_stack_whose_protection_was_changed_is_not_kept() {
    let rig = quiet();
    let kernel = rig.kernel();
    let stacks = Stacks::new(&kernel, PAGES);
    let stack = alloc(&stacks, None);
    // SAFETY: Y9: nobody uses it.
    unsafe { kernel.set_memory_ro(stack, 1) }.unwrap();
    push(&rig, stack, 64);
    rig.sim.set_context(Context::HardIrq);
    assert_eq!(free(&stacks, stack), Err(Error::WrongContext(Context::HardIrq)), "its free has to wait");
    assert_eq!((live(&rig), stacks.deepest()), (1, 0));
    rig.sim.set_context(Context::Task);
    free(&stacks, stack).unwrap();
    assert_eq!((live(&rig), stacks.deepest()), (0, 64));
}

#[test]
fn a_stack_is_freed_from_where_nobody_may_wait_and_not_made_in_an_interrupt() {
    let rig = quiet();
    let kernel = rig.kernel();
    for context in [Context::Atomic, Context::Softirq, Context::HardIrq, Context::Nmi] {
        let stacks = Stacks::new(&kernel, PAGES);
        let made = [(); 3].map(|()| alloc(&stacks, None));
        rig.sim.set_context(context);
        made.iter().for_each(|&stack| free(&stacks, stack).unwrap());
        assert_eq!(live(&rig), NR_CACHED_STACKS, "{context:?}");
        if context != Context::Atomic {
            assert_eq!(stacks.alloc_thread_stack(None), Err(Error::WrongContext(context)));
            assert_eq!(live(&rig), NR_CACHED_STACKS);
        } else {
            assert!(made[..2].contains(&alloc(&stacks, None)), "one that is kept needs no waiting");
        }
        rig.sim.set_context(Context::Task);
        drop(stacks);
        rig.areas().for_each(|area| vfree(&kernel, area.start.0).unwrap());
    }
}

#[test]
fn an_nmi_that_frees_a_stack_in_the_middle_of_any_step_loses_none_and_gives_none_out_twice() {
    let rig = quiet();
    let kernel = rig.kernel();
    let came = Arc::new(AtomicU32::new(0));
    for n in 1..40 {
        let stacks = Stacks::new(&kernel, PAGES);
        let [kept, freed, last] = [(); 3].map(|()| alloc(&stacks, None));
        free(&stacks, kept).unwrap();
        let (cache, done) = (from_ref(&stacks).cast::<Cache<'static>>().expose_provenance(), came.clone());
        rig.sim.set_nmi(n, move |_| {
            // SAFETY: the cache outlives the handler, which is taken off below.
            let stacks = unsafe { &*with_exposed_provenance::<Cache<'static>>(cache) };
            free(stacks, freed).expect("from any context");
            done.fetch_add(1, SeqCst);
        });
        let before = came.load(SeqCst);
        free(&stacks, last).unwrap();
        let mut mine = vec![alloc(&stacks, None), alloc(&stacks, None), alloc(&stacks, None)];
        rig.sim.set_nmi(0, |_| ());
        if came.load(SeqCst) == before {
            mine.push(freed);
        }
        let apart: BTreeSet<_> = mine.iter().collect();
        assert_eq!(apart.len(), mine.len(), "{mine:x?} after {n} steps");
        mine.iter().for_each(|&stack| free(&stacks, stack).unwrap());
        drop(stacks);
        assert_eq!(rig.state().0, [], "after {n} steps");
    }
    assert!(came.load(SeqCst) > 20, "{came:?} of 39 came");
}

#[test]
fn what_is_no_stack_or_is_kept_already_is_refused_and_nothing_changes() {
    let rig = quiet();
    let kernel = rig.kernel();
    let stacks = Stacks::new(&kernel, PAGES);
    let (kept, stack) = (alloc(&stacks, None), alloc(&stacks, None));
    free(&stacks, kept).unwrap();
    let area = number(kernel.vmalloc(STACK).unwrap());
    let wide = number(rig.alloc(Req::stack(2 * PAGES)).unwrap());
    push(&rig, stack, 64);
    let before = (rig.state(), stacks.deepest());
    assert_eq!(free(&stacks, kept), Err(Error::DoubleFree(kept)));
    for wrong in [area, wide, stack + PAGE, stack - PAGE, stack + 8, START + (1 << 38), 4096] {
        assert_eq!(free(&stacks, wrong), Err(Error::NoArea(wrong)));
        assert_eq!(used(&stacks, wrong), Err(Error::NoArea(wrong)));
    }
    assert_eq!((rig.state(), stacks.deepest()), before);
    assert_eq!(alloc(&stacks, None), kept);
    stacks.flush();
    vfree(&kernel, kept).unwrap();
    assert_eq!(free(&stacks, kept), Err(Error::NoArea(kept)));
    [area, wide].iter().for_each(|&at| vfree(&kernel, at).unwrap());
}

#[cfg(debug_assertions)]
#[test]
fn each_refusal_of_a_stack_is_told_and_changes_nothing() {
    let rig = quiet();
    let kernel = rig.kernel();
    let stacks = Stacks::new(&kernel, PAGES);
    let bad = Err(Error::Alloc(AllocError::BadNode { node: Node(1), nodes: 1 }));
    assert_eq!(stacks.alloc_thread_stack(GIVEN[1]), bad);
    assert!(Stacks::new(&kernel, 0).alloc_thread_stack(None).is_err());
    assert!(Stacks::new(&kernel, usize::MAX).alloc_thread_stack(None).is_err());
    kernel.host().said();
    let mut refused = 0;
    for step in 1.. {
        let before = rig.state();
        rig.sim.advance(11_000_000_000);
        rig.sim.faults().fail_from(step);
        let made = stacks.alloc_thread_stack(None);
        rig.sim.faults().fail_at(0);
        match made {
            Ok(_) => break,
            Err(error) => {
                refused += 1;
                assert!(matches!(error, Error::Alloc(_)), "{error}");
                let said = kernel.host().said();
                assert!(said[0].1.starts_with("insmod: vmalloc error: size 16384, "), "{said:?}");
                assert_eq!(rig.state(), before, "step {step}");
            }
        }
    }
    assert!(refused > 0);
}

#[test]
fn a_cpu_that_goes_offline_gives_back_what_it_keeps_and_the_end_gives_back_all() {
    let rig = nodes();
    let before = rig.state().0;
    let kernel = rig.kernel();
    let stacks = Stacks::new(&kernel, PAGES);
    for cpu in [0, 1] {
        let made = [(); 2].map(|()| alloc(&stacks, None));
        rig.sim.on(cpu, || made.iter().for_each(|&stack| free(&stacks, stack).unwrap()));
    }
    assert_eq!(live(&rig), 2);
    let more = [(); 4].map(|()| alloc(&stacks, None));
    rig.sim.on(0, || more[..2].iter().for_each(|&stack| free(&stacks, stack).unwrap()));
    assert_eq!((live(&rig), stacks.flush_cpu(1), live(&rig)), (6, 2, 4));
    assert_eq!((stacks.flush_cpu(1), stacks.flush_cpu(2), stacks.flush_cpu(u32::MAX)), (0, 0, 0));
    assert_eq!((stacks.flush(), stacks.flush()), (2, 0));
    more[2..].iter().for_each(|&stack| free(&stacks, stack).unwrap());
    assert_eq!(live(&rig), 2);
    drop(stacks);
    assert_eq!(rig.state().0, before);
}

#[test]
fn stacks_that_are_kept_go_back_when_memory_is_short() {
    let rig = quiet();
    let kernel = rig.kernel();
    let stacks = Stacks::new(&kernel, PAGES);
    let made = [(); 2].map(|()| alloc(&stacks, None));
    vfree(&kernel, kernel.vmalloc(STACK).map(number).unwrap()).unwrap();
    rig.purge();
    let held: Vec<_> = std::iter::from_fn(|| rig.alloc_frame(Gfp::NOWAIT, None).ok()).collect();
    made.iter().for_each(|&stack| free(&stacks, stack).unwrap());
    assert!(kernel.vmalloc(STACK).is_err(), "they are kept");
    assert_eq!(live(&rig), 2);
    let cache = from_ref(&stacks).cast::<Cache<'static>>().expose_provenance();
    rig.set_shortage(move |_, short| {
        // SAFETY: the cache outlives the handler, which is taken off below.
        let stacks = unsafe { &*with_exposed_provenance::<Cache<'static>>(cache) };
        let give_up = |short| stacks.give_up(short);
        let mut chain = Notifiers::new();
        chain.register(&give_up) && chain.call(short) > 0
    });
    let area = kernel.vmalloc(STACK).map(number).expect("stacks that nobody uses");
    assert_eq!(live(&rig), 0);
    assert!(kernel.vmalloc(3 * STACK).is_err(), "there is no more to be given up");
    rig.set_shortage(|_, _| false);
    vfree(&kernel, area).unwrap();
    give_frames(&rig, &held);
}

#[test]
fn the_mark_of_a_stack_is_where_it_was_written_at_lowest() {
    let rig = quiet();
    let kernel = rig.kernel();
    let stacks = Stacks::new(&kernel, PAGES);
    for bytes in [8, 64, PAGE, PAGE + 8, STACK - PAGE, STACK] {
        let stack = alloc(&stacks, None);
        assert_eq!(used(&stacks, stack), Ok(0), "a stack that is reused begins with none");
        push(&rig, stack, bytes);
        push(&rig, stack, 8);
        assert_eq!(used(&stacks, stack), Ok(bytes));
        free(&stacks, stack).unwrap();
        assert_eq!(stacks.deepest(), bytes);
    }
    let stack = alloc(&stacks, None);
    push(&rig, stack, 16);
    free(&stacks, stack).unwrap();
    assert_eq!(stacks.deepest(), STACK, "the most of all");
}

#[test]
fn a_hit_of_the_page_below_a_stack_is_told_in_the_traditional_words() {
    let rig = quiet();
    let kernel = rig.kernel();
    let stacks = Stacks::new(&kernel, PAGES);
    let stack = alloc(&stacks, None);
    for hit in [stack - 8, stack - 1, stack - PAGE] {
        rig.sim.assert_faults(0, VirtAddr(hit & !7));
        for (what, words) in [("TASK", "TASK stack"), ("", "stack")] {
            let found = kernel.stack_guard_hit(hit, what).expect("the page below a stack");
            assert_eq!((found.start.0, found.kind), (stack, Kind::Stack));
            let end = stack + STACK;
            let line = format!("BUG: {words} guard page was hit at {hit:016x} (stack is {stack:016x}..{end:016x})");
            assert_eq!(kernel.host().said(), [(Kern::Crit, line)]);
        }
    }
}

#[test]
fn a_fault_elsewhere_is_no_hit_of_a_stack() {
    let rig = quiet();
    let kernel = rig.kernel();
    let stacks = Stacks::new(&kernel, PAGES);
    let (stack, gone) = (alloc(&stacks, None), alloc(&stacks, None));
    vfree(&kernel, gone).unwrap();
    let area = number(kernel.vmalloc(3 * PAGE).unwrap());
    let next = number(kernel.vmalloc(3 * PAGE).unwrap());
    let places = [stack, stack + STACK - 1, stack - PAGE - 1, area + 3 * PAGE, area - 1, next - 1, gone - 1, gone, 0];
    for elsewhere in places.into_iter().chain([START, REGION.end, usize::MAX]) {
        assert_eq!(kernel.stack_guard_hit(elsewhere, "TASK"), None, "{elsewhere:#x}");
    }
    assert_eq!(kernel.host().said(), []);
    [area, next].iter().for_each(|&at| vfree(&kernel, at).unwrap());
}

#[test]
fn the_leak_detector_forgets_a_stack_while_it_is_kept() {
    let rig = quiet();
    let kernel = rig.kernel();
    let stacks = Stacks::new(&kernel, PAGES);
    let heard = || {
        let tracked = std::mem::take(&mut *kernel.host().tracked.lock().unwrap());
        let tracked: Vec<_> = tracked.iter().map(|object| (object.at, object.bytes, object.min_count)).collect();
        (tracked, std::mem::take(&mut *kernel.host().untracked.lock().unwrap()))
    };
    let stack = alloc(&stacks, None);
    assert_eq!(heard(), (vec![(stack, STACK, 2)], vec![]));
    free(&stacks, stack).unwrap();
    assert_eq!(heard(), (vec![], vec![stack]));
    assert_eq!(alloc(&stacks, None), stack);
    assert_eq!(heard(), (vec![(stack, STACK, 2)], vec![]));
}

#[test]
fn a_stack_that_is_kept_and_that_nothing_shows_is_freed_and_another_is_made() {
    let machine = Sim::builder().rates(Rates::NEVER).node(64 << 20).highmem(Pfn(4096));
    let rig = boot(machine, Config::region(REGION));
    let kernel = rig.kernel();
    let stacks = Stacks::new(&kernel, PAGES);
    let stack = alloc(&stacks, None);
    assert_eq!(used(&stacks, stack), Err(Error::NotReachable(rig.frame_at(stack).unwrap())));
    rig.stamp(stack, PAGES, 7);
    free(&stacks, stack).unwrap();
    assert_eq!(live(&rig), 1);
    let other = alloc(&stacks, None);
    assert_ne!(other, stack);
    assert_eq!((live(&rig), stacks.deepest()), (1, 0));
    rig.assert_zero(other, STACK);
}

#[test]
fn stacks_by_chance_on_two_cpus_are_each_one_threads_and_come_cleared() {
    let rig = rig(2);
    let kernel = rig.kernel();
    let stacks = Stacks::new(&kernel, PAGES);
    let (mut held, mut seed, mut reused) = (BTreeMap::new(), 7u64, 0);
    let mut draw = |below: usize| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) as usize % below
    };
    for step in 1..2000u64 {
        rig.sim.set_cpu(draw(2) as u32);
        if held.len() < 2 || (held.len() < 12 && draw(2) == 0) {
            let before = live(&rig);
            let stack = alloc(&stacks, None);
            reused += (live(&rig) == before) as usize;
            rig.assert_zero(stack, STACK);
            rig.stamp(stack, PAGES, step);
            assert_eq!(held.insert(stack, step), None, "somebody has {stack:#x}");
        } else {
            let (&stack, &stamp) = held.iter().nth(draw(held.len())).unwrap();
            rig.check_stamps(stack, PAGES, stamp);
            free(&stacks, stack).unwrap();
            held.remove(&stack);
        }
        assert!(live(&rig) <= held.len() + 2 * NR_CACHED_STACKS);
        rig.sim.step();
    }
    assert!(reused > 500, "{reused} were reused");
    held.keys().for_each(|&stack| free(&stacks, stack).unwrap());
    drop(stacks);
    assert_eq!(rig.state().0, []);
}
