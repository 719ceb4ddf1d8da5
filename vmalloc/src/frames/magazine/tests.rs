//! Magazines of two CPUs and a depot beside a multiset of frames.

extern crate std;

use super::*;
use crate::testing::{TestLock, ZoneMachine, ram};
use proptest::prelude::*;
use std::vec::Vec;

const WANT: Want = Want { order: 0, zone: ZoneKind::HighMem, node: Node(0), this_node: false, next: None };

/// Empties a magazine, a few frames at a time (L3).
fn drain(magazine: &mut Magazine, machine: &ZoneMachine) {
    while magazine.len() != 0 {
        let (before, given) = (magazine.len(), magazine.give_some(machine));
        assert!((1..=MAX_BULK).contains(&given) && magazine.len() + given == before, "L3");
    }
    assert_eq!(magazine.give_some(machine), 0);
}

struct World {
    machine: ZoneMachine,
    depot: Depot<TestLock>,
    magazines: [Magazine; 2],
    /// The frames that callers hold.
    held: Vec<Pfn>,
    /// The frames of the stacks themselves.
    own: usize,
}

#[derive(Clone, Debug)]
enum Step {
    Pop(usize),
    Take(usize, usize),
    Push(usize, usize),
    Accept(usize, usize, usize),
    Drain(usize),
    Trim(usize),
    Reopen(usize),
    FailNext(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0usize..2).prop_map(Step::Pop),
        6 => (0usize..2, 0..=MAX_BULK).prop_map(|(cpu, n)| Step::Take(cpu, n)),
        6 => (0usize..2, 0usize..40).prop_map(|(cpu, n)| Step::Push(cpu, n)),
        6 => (0usize..2, 0..=MAX_BULK, any::<usize>()).prop_map(|(cpu, n, k)| Step::Accept(cpu, n, k % (n + 1))),
        1 => (0usize..2).prop_map(Step::Drain),
        1 => (0usize..100).prop_map(Step::Trim),
        1 => (0usize..2).prop_map(Step::Reopen),
        2 => (1u64..4).prop_map(Step::FailNext),
    ];
    prop::collection::vec(step, 1..120)
}

/// Adds `frames` through the room for `n`, or one by one.
///
/// # Safety
/// As for [`Magazine::push`], for each frame.
unsafe fn accept(magazine: &mut Magazine, machine: &ZoneMachine, depot: &Depot<TestLock>, n: usize, frames: &[Pfn]) {
    match magazine.room(machine, depot, n) {
        Some(places) => {
            places[..frames.len()].copy_from_slice(frames);
            // SAFETY: the caller's promise.
            unsafe { magazine.accept(n, frames.len()) }
        }
        // SAFETY: as above.
        None => frames.iter().rev().for_each(|&frame| unsafe { magazine.push(machine, depot, frame) }),
    }
}

impl World {
    fn new(frames: usize, nodes: u8, cpus: u32) -> World {
        let share = frames / nodes as usize;
        let map: Vec<_> = (0..nodes).map(|n| ram(100 + n as u64 * share as u64, share, n)).collect();
        let machine = ZoneMachine::new(&map, cpus);
        let depot = Depot::new();
        let stacks = Depot::<TestLock>::stacks_for(&machine, 0);
        // SAFETY: the world drops the depot with the machine (Q6).
        let opened = unsafe { depot.open(&machine, &mut machine.prealloc(stacks), stacks) };
        assert_eq!(opened, stacks);
        let mut world =
            World { machine, depot, magazines: [const { Magazine::new() }; 2], held: Vec::new(), own: stacks };
        (0..2).for_each(|cpu| world.open(cpu));
        world
    }

    fn open(&mut self, cpu: usize) {
        let mut prealloc = crate::machine::prealloc::Prealloc::new();
        if prealloc.fill(&self.machine, Node(0), 2).is_ok() {
            // SAFETY: the world drops the magazines with the machine (Q6).
            assert!(unsafe { self.magazines[cpu].open(&self.machine, &mut prealloc, Node(0)) });
            self.own += 2;
        }
        prealloc.trim(&self.machine, 0);
    }

    fn step(&mut self, step: &Step) {
        let World { machine, depot, magazines, held, .. } = self;
        match *step {
            Step::Pop(cpu) => held.extend(magazines[cpu].pop()),
            Step::Take(cpu, n) => self.take(cpu, n),
            // SAFETY: `held` has frames of the source that nobody else has.
            Step::Push(cpu, n) => (0..n).filter_map(|_| held.pop()).for_each(|frame| unsafe {
                let before = magazines[cpu].len();
                magazines[cpu].push(machine, depot, frame);
                assert!(magazines[cpu].len() <= before + 1);
            }),
            Step::Accept(cpu, n, k) => {
                let some = held.split_off(held.len() - k.min(held.len()));
                // SAFETY: as above.
                unsafe { accept(&mut magazines[cpu], machine, depot, n, &some) }
            }
            Step::Drain(cpu) => drain(&mut magazines[cpu], machine),
            Step::Trim(keep) => {
                while depot.frames() > keep {
                    let (before, given) = (depot.frames(), depot.trim(machine, keep));
                    assert!((1..=MAX_BULK).contains(&given) && depot.frames() + given == before, "L3");
                }
                assert_eq!(depot.trim(machine, keep), 0);
            }
            Step::Reopen(cpu) => {
                self.own -= if magazines[cpu].stacks.is_some() { 2 } else { 0 };
                magazines[cpu].close(machine);
                self.open(cpu);
            }
            Step::FailNext(n) => machine.frames.zones.faults.fail_at(n),
        }
        self.check();
    }

    fn take(&mut self, cpu: usize, n: usize) {
        let magazine = &mut self.magazines[cpu];
        match magazine.reserve(&self.machine, &self.depot, WANT, n) {
            Ok(()) => {
                let top = magazine.top(n).to_vec();
                // Half of them are committed and half popped: both take the same frames.
                magazine.commit(n / 2);
                let popped: Vec<_> = (n / 2..n).map(|_| magazine.pop().unwrap()).collect();
                assert_eq!(top[n / 2..], popped);
                self.held.extend(top);
            }
            Err(have) => assert!(have < n && have == magazine.len()),
        }
    }

    /// Q7: each frame is in one place, and none is lost.
    fn check(&self) {
        let source = &self.machine.frames;
        let magazines = self.magazines.iter().map(Magazine::len).sum::<usize>();
        let places = [source.zones.free_now(), self.own, self.depot.frames(), magazines, self.held.len()];
        assert_eq!(places.iter().sum::<usize>(), source.zones.total(), "{places:?}");
        assert_eq!((source.inner().check(), source.inner().bad_frees()), (Ok(()), 0));
        let open = self.magazines.iter().filter_map(|magazine| magazine.stacks.as_ref());
        assert!(open.flat_map(|s| [&s.loaded, &s.spare]).all(|stack| stack.len() <= CAPACITY));
    }

    /// Gives everything back. The source refuses the second free of a frame that is in two places.
    fn end(mut self) {
        self.depot.destroy(&self.machine);
        self.magazines.iter_mut().for_each(|magazine| _ = magazine.close(&self.machine));
        // SAFETY: nobody else has them.
        unsafe { self.machine.frames().free_bulk(&self.held) }
        let source = &self.machine.frames;
        assert_eq!((source.zones.free_now(), source.inner().bad_frees()), (source.zones.total(), 0));
        assert!(self.magazines.iter().all(|magazine| magazine.len() == 0) && self.depot.frames() == 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn no_frame_is_lost_or_in_two_places(
        frames in prop::sample::select(std::vec![6usize, 40, 300, 2_000, 20_000]),
        nodes in 1u8..3,
        steps in steps(),
    ) {
        let mut world = World::new(frames, nodes, 2);
        steps.iter().for_each(|step| world.step(step));
        world.machine.frames.zones.faults.fail_at(0);
        world.end();
    }
}

#[test]
fn a_full_round_goes_through_the_depot_and_comes_back_to_another_cpu() {
    let mut world = World::new(60_000, 1, 2);
    assert!(Depot::<TestLock>::stacks_for(&world.machine, 0) >= 2);
    (0..40).for_each(|_| world.step(&Step::Take(0, 64)));
    let free = world.machine.frames().free_now();
    world.step(&Step::Push(0, 3 * 440));
    assert!(world.depot.frames() > 0);
    assert_eq!(world.machine.frames().free_now(), free, "the source was not asked");
    let stocked = world.depot.frames();
    (0..4).for_each(|_| world.step(&Step::Take(1, 64)));
    assert!(world.depot.frames() < stocked && world.machine.frames().free_now() == free);
    world.end();
}

#[test]
fn what_two_stacks_have_together_is_poured_together_and_the_depot_not_asked() {
    let mut world = World::new(60_000, 1, 2);
    (0..40).for_each(|_| world.step(&Step::Take(0, 64)));
    world.step(&Step::Push(0, 3 * 440));
    let stocked = world.depot.frames();
    let stacks = world.magazines[1].stacks.as_mut().unwrap();
    for stack in [&mut stacks.loaded, &mut stacks.spare] {
        (0..40).for_each(|_| stack.push(world.held.pop().unwrap()));
    }
    world.step(&Step::Take(1, 60));
    assert_eq!((world.magazines[1].len(), world.depot.frames()), (20, stocked));
    world.end();
}

#[test]
fn what_was_pushed_last_comes_first_and_what_was_accepted_keeps_its_order() {
    let mut world = World::new(2_000, 1, 1);
    world.step(&Step::Take(0, 64));
    drain(&mut world.magazines[0], &world.machine);
    let frames = world.held.split_off(10);
    // SAFETY: nobody else has the frames.
    unsafe {
        world.magazines[0].push(&world.machine, &world.depot, frames[0]);
        accept(&mut world.magazines[0], &world.machine, &world.depot, 5, &frames[1..4]);
    }
    assert_eq!(world.magazines[0].top(4), [frames[1], frames[2], frames[3], frames[0]]);
    world.held.extend(&frames[4..]);
    world.end();
}

#[test]
fn a_batch_from_fresh_memory_ascends() {
    let mut world = World::new(20_000, 1, 1);
    world.step(&Step::Take(0, 64));
    assert!(world.held.windows(2).all(|two| two[0].offset(1) == two[1]));
    world.end();
}

#[test]
fn small_memories_are_not_hoarded() {
    let mut world = World::new(256, 1, 1);
    world.step(&Step::Take(0, 1));
    assert!(world.magazines[0].len() <= 8, "a batch");
    (0..3).for_each(|_| world.step(&Step::Take(0, 64)));
    (0..10).for_each(|_| world.step(&Step::Push(0, 39)));
    assert!(world.held.is_empty() && world.magazines[0].len() <= 16, "two stacks of 8");
    world.end();
}

#[test]
fn two_stacks_take_in_all_that_they_have_room_for_before_any_goes_back() {
    let mut world = World::new(256, 1, 1);
    world.step(&Step::Take(0, 64));
    drain(&mut world.magazines[0], &world.machine);
    let stacks = world.magazines[0].stacks.as_mut().unwrap();
    (0..8).for_each(|_| stacks.loaded.push(world.held.pop().unwrap()));
    (0..7).for_each(|_| stacks.spare.push(world.held.pop().unwrap()));
    let free = world.machine.frames().free_now();
    world.step(&Step::Push(0, 1));
    assert_eq!((world.magazines[0].len(), world.machine.frames().free_now()), (16, free), "two stacks of 8");
    world.end();
}

#[test]
fn a_reserve_is_content_with_exactly_what_it_needs() {
    let mut world = World::new(70, 1, 1);
    assert_eq!(world.machine.frames().free_now(), 66);
    world.step(&Step::Take(0, 64));
    assert_eq!(world.held.len(), 64);
    let refused = world.magazines[0].reserve(&world.machine, &world.depot, WANT, 3);
    assert_eq!(refused, Err(2));
    assert_eq!(world.magazines[0].reserve(&world.machine, &world.depot, WANT, 2), Ok(()));
    world.check();
    world.end();
}

#[test]
fn frames_of_other_nodes_go_straight_back() {
    let mut world = World::new(2_000, 2, 1);
    let far = Want { node: Node(1), ..WANT };
    let frames: Vec<_> = (0..4).map(|_| world.machine.frames().alloc(far).unwrap()).collect();
    // SAFETY: nobody else has the frames.
    unsafe {
        world.magazines[0].push(&world.machine, &world.depot, frames[0]);
        accept(&mut world.magazines[0], &world.machine, &world.depot, 3, &frames[1..]);
    }
    assert_eq!(world.magazines[0].len(), 0);
    assert!(!world.magazines[0].serves(far) && world.magazines[0].serves(WANT));
    assert!(!world.magazines[0].serves(Want { this_node: true, ..WANT }));
    world.end();
}

#[test]
fn a_magazine_serves_single_frames_of_the_highest_zone_only() {
    let world = World::new(300, 1, 1);
    let magazine = &world.magazines[0];
    assert!(magazine.serves(WANT) && magazine.serves(Want { this_node: true, ..WANT }), "there is one node only");
    assert!(magazine.serves(Want { zone: ZoneKind::Dma, ..WANT }), "all memory is DMA here");
    assert!(!magazine.serves(WANT.order(1)));
    assert!(!Magazine::new().serves(Want { zone: ZoneKind::Dma, ..WANT }));
    world.end();
}

#[test]
fn a_closed_magazine_has_nothing_and_keeps_nothing() {
    let mut world = World::new(300, 1, 1);
    world.magazines[1].close(&world.machine);
    world.own -= 2;
    let magazine = &mut world.magazines[1];
    assert_eq!((magazine.pop(), magazine.reserve(&world.machine, &world.depot, WANT, 1)), (None, Err(0)));
    assert_eq!(magazine.reserve(&world.machine, &world.depot, WANT, 0), Ok(()));
    let frame = world.machine.frames().alloc(WANT).unwrap();
    // SAFETY: nobody else has the frame.
    unsafe { magazine.push(&world.machine, &world.depot, frame) }
    world.check();
    world.end();
}

#[test]
fn opening_without_two_frames_in_stock_changes_nothing() {
    let machine = ZoneMachine::new(&[ram(0, 10, 0)], 1);
    let mut prealloc = machine.prealloc(1);
    let mut magazine = Magazine::new();
    // SAFETY: the machine outlives both.
    assert!(!unsafe { magazine.open(&machine, &mut prealloc, Node(0)) });
    assert_eq!((prealloc.len(), magazine.len()), (1, 0));
    let depot = Depot::<TestLock>::new();
    // SAFETY: as above.
    assert_eq!(unsafe { depot.open(&machine, &mut prealloc, 3) }, 1, "as many as there are");
    assert_eq!((prealloc.len(), depot.destroy(&machine), machine.frames().free_now()), (0, 0, 10));
}

#[test]
fn each_refusal_of_the_source_leaves_all_frames_where_they_can_be_found() {
    for n in 1..4 {
        let mut world = World::new(2_000, 2, 1);
        world.step(&Step::FailNext(n));
        for _ in 0..6 {
            world.step(&Step::Take(0, 50));
        }
        assert_eq!(world.machine.frames.zones.faults.refused(), 1);
        world.end();
    }
}
