//! Every fallible step of every operation, refused in turn.
//!
//! A refusal is an error and changes nothing: the rules hold, and once all is
//! flushed, addresses, areas and frames are as they were.

use crate::common::{At, PAGE, REGION, Rig, State, boot, quiet};
use vmalloc::gfp::Gfp;
use vmalloc::machine::Machine;
use vmalloc::machine::faulty::Faults;
use vmalloc::machine::format::MemType;
use vmalloc::machine::frames::Frames;
use vmalloc::units::{Node, Pfn};
use vmalloc::{AllocError, Config, InitError, Policy, Req, Vmalloc};
use vmalloc_sim::Bank;

/// Something that can be refused: what it made is undone again.
struct Operation {
    name: &'static str,
    /// Frames that the caller brings.
    frames: usize,
    run: fn(&Rig, &[Pfn], Gfp) -> Result<(), AllocError>,
}

const fn op(name: &'static str, frames: usize, run: fn(&Rig, &[Pfn], Gfp) -> Result<(), AllocError>) -> Operation {
    Operation { name, frames, run }
}

fn made(rig: &Rig, req: Req, gfp: Gfp) -> Result<(), AllocError> {
    let at = rig.alloc(req.gfp(gfp))?;
    rig.give(at).expect("it was made a moment ago");
    Ok(())
}

fn freed(rig: &Rig, made: Result<At, AllocError>) -> Result<(), AllocError> {
    made.map(|at| rig.give(at).expect("it was made a moment ago"))
}

const OPERATIONS: [Operation; 21] = [
    op("1 page", 0, |rig, _, gfp| made(rig, Req::pages(1), gfp)),
    op("64 pages", 0, |rig, _, gfp| made(rig, Req::pages(64), gfp)),
    op("129 pages", 0, |rig, _, gfp| made(rig, Req::pages(129), gfp)),
    op("600 pages", 0, |rig, _, gfp| made(rig, Req::pages(600), gfp)),
    op("2000 pages", 0, |rig, _, gfp| made(rig, Req::pages(2000), gfp)),
    op("a stack", 0, |rig, _, gfp| made(rig, Req::stack(4), gfp | Gfp::ZERO)),
    op("an aligned area", 0, |rig, _, gfp| made(rig, Req::pages(3).align(PAGE << 6), gfp)),
    op("an area aligned to more than a slot", 0, |rig, _, gfp| made(rig, Req::pages(3).align(PAGE << 11), gfp)),
    op("an area in a range", 0, |rig, _, gfp| {
        made(rig, Req::pages(140).within(REGION.start + (5 << 30)..REGION.start + (6 << 30)), gfp)
    }),
    op("a cleared area", 0, |rig, _, gfp| made(rig, Req::pages(130), gfp | Gfp::ZERO)),
    op("an area of the other node", 0, |rig, _, gfp| made(rig, Req::pages(140).node(Node(1)), gfp)),
    op("an area of one node only", 0, |rig, _, gfp| made(rig, Req::pages(140).node(Node(1)), gfp | Gfp::THISNODE)),
    op("an area of low memory", 0, |rig, _, gfp| made(rig, Req::pages(140), gfp | Gfp::DMA32)),
    op("an owning area", 0, |rig, _, gfp| rig.area(Req::pages(140).gfp(gfp)).map(drop)),
    op("vmap", 130, |rig, frames, gfp| {
        // SAFETY: P1: the caller holds the frames.
        let at = unsafe { rig.vmap(frames, Req::bytes(0).gfp(gfp)) }?;
        rig.unmap(at).expect("it was made a moment ago");
        Ok(())
    }),
    op("vmap that takes the frames over", 130, |rig, frames, gfp| {
        // SAFETY: P2: a hold of its own for the area to take over.
        let mine = unsafe { rig.vmap(frames, Req::bytes(0).gfp(gfp)) }?;
        let held: Vec<_> = (0..frames.len()).map(|page| rig.hold_frame(crate::common::page_of(mine, page).0)).collect();
        let held: Vec<_> = held.into_iter().map(|frame| frame.expect("a live page")).collect();
        // SAFETY: P2: as above.
        let taken = unsafe { rig.vmap_owned(&held, Req::bytes(0).gfp(gfp)) };
        rig.unmap(mine).expect("it was made a moment ago");
        if taken.is_err() {
            rig.give_frames(&held);
        }
        freed(rig, taken)
    }),
    op("map_ram", 20, |rig, frames, _| {
        // SAFETY: P4: the caller holds the frames.
        let at = unsafe { rig.map_ram(frames, None) }?;
        rig.unmap_pages(at, frames.len()).expect("it was made a moment ago");
        Ok(())
    }),
    op("ioremap", 0, |rig, _, _| {
        let at = rig.ioremap(DEVICE.first.phys() + 0x123, 90 * PAGE, MemType::Uncached)?;
        rig.unmap_device(at).expect("it was made a moment ago");
        Ok(())
    }),
    op("reserve", 0, |rig, _, gfp| freed(rig, rig.reserve(Req::pages(1000).gfp(gfp)))),
    op("a reservation that is filled", 0, |rig, _, gfp| {
        let mut parts = rig.reservation(Req::pages(90).gfp(gfp))?;
        parts.fill(5..75, &Req::bytes(0).gfp(gfp | Gfp::ZERO))
    }),
    op("congruent areas", 0, |rig, _, gfp| {
        let parts = [(0, 512 * PAGE), (2048 * PAGE, 512 * PAGE)];
        let base = rig.reserve_at_offsets(&parts, 512 * PAGE, Req::bytes(0).gfp(gfp))?;
        parts.iter().for_each(|part| rig.give(crate::common::at(base + part.0)).expect("it was made a moment ago"));
        Ok(())
    }),
];

const DEVICE: Bank = Bank { first: Pfn(1 << 20), frames: 256, node: None };
const GFPS: [Gfp; 5] =
    [Gfp::KERNEL, Gfp::NOWAIT, Gfp::ATOMIC, Gfp::KERNEL.union(Gfp::NORETRY), Gfp::NOWAIT.union(Gfp::NORETRY)];

fn machine() -> vmalloc_sim::Builder<vmalloc::table::X86_64> {
    quiet(2).node(32 << 20).node(32 << 20).bank(DEVICE)
}

fn config() -> Config {
    Config::region(REGION).atomic_reserve(8)
}

/// Refuses one step after the other by `arm`, until a run comes through.
/// Returns how many runs ended in an error.
fn refuse(rig: &Rig, op: &Operation, gfp: Gfp, arm: fn(&Faults, u64)) -> usize {
    let frames = rig.frames(op.frames);
    (op.run)(rig, &frames, gfp).expect("nothing is refused yet");
    let before = restored(rig);
    let mut refused = 0;
    for n in 1.. {
        let struck = rig.sim.faults().refused();
        arm(rig.sim.faults(), n);
        let result = (op.run)(rig, &frames, gfp);
        rig.sim.faults().fail_at(0);
        refused += result.is_err() as usize;
        if rig.sim.faults().refused() == struck {
            assert_eq!(result, Ok(()), "{}, {gfp:?}: nothing was refused", op.name);
            break;
        }
        assert_eq!(restored(rig), before, "{}, {gfp:?}: step {n} was refused: {result:?}", op.name);
    }
    rig.give_frames(&frames);
    refused
}

/// The state, once the worker has laid the reserve in again.
fn restored(rig: &Rig) -> State {
    let settled = rig.settled();
    rig.work();
    State { held: rig.stats().reserve_frames, free: settled.free + settled.held, ..settled }
}

#[test]
fn one_refusal_of_any_step_is_an_error_or_another_way_and_changes_nothing() {
    for gfp in GFPS {
        for op in &OPERATIONS {
            let rig = boot(machine(), config());
            let refused = refuse(&rig, op, gfp, Faults::fail_at);
            assert!(refused == 0 || !gfp.contains(Gfp::WAIT), "{}, {gfp:?}: a purge, and it goes on", op.name);
        }
    }
}

#[test]
fn refusals_that_last_are_an_error_and_change_nothing() {
    for gfp in GFPS {
        for op in &OPERATIONS {
            let rig = boot(machine(), config());
            let refused = refuse(&rig, op, gfp, Faults::fail_from);
            assert!(refused > 0, "{}, {gfp:?}: every step can fail, and none did", op.name);
        }
    }
}

#[test]
fn a_first_call_that_is_refused_leaves_nothing_behind_when_the_instance_ends() {
    for op in &OPERATIONS {
        for n in 1.. {
            let rig = boot(machine(), config());
            let frames = rig.frames(op.frames);
            let struck = rig.sim.faults().refused();
            rig.sim.faults().fail_from(n);
            let result = (op.run)(&rig, &frames, Gfp::NOWAIT);
            rig.sim.faults().fail_at(0);
            let through = rig.sim.faults().refused() == struck;
            assert_eq!(rig.check(), Ok(()), "{}: step {n}: {result:?}", op.name);
            rig.give_frames(&frames);
            if through {
                assert_eq!(result, Ok(()), "{}: nothing was refused", op.name);
                break;
            }
        }
    }
}

#[test]
fn a_refused_area_is_flushed_before_its_half_is_reused() {
    // The frames run out in the middle of the third slice: the first two were
    // reachable for everybody.
    let rig = crate::common::rig(4);
    for round in 0..40 {
        rig.sim.set_cpu(round % 4);
        rig.sim.faults().fail_from(3);
        let refused = rig.alloc(Req::pages(500).gfp(Gfp::NOWAIT));
        rig.sim.faults().fail_at(0);
        assert!(refused.is_err());
        (0..8).for_each(|cpu| rig.sim.speculate(cpu % 4));
        let at = rig.alloc(Req::pages(500)).expect("memory enough");
        rig.stamp(at, 500, round as u64);
        rig.check_stamps((round + 1) % 4, at, 500, round as u64);
        rig.give(at).unwrap();
        assert_eq!(rig.check(), Ok(()));
    }
}

#[test]
fn a_refused_frame_is_an_error_and_changes_nothing() {
    for gfp in [Gfp::NOWAIT, Gfp::KERNEL, Gfp::KERNEL | Gfp::DMA32, Gfp::KERNEL | Gfp::ZERO] {
        let rig = boot(machine(), Config::region(REGION));
        let before = rig.settled();
        rig.sim.faults().fail_from(1);
        let refused = rig.alloc_frame(gfp | Gfp::NOWARN, None);
        rig.sim.faults().fail_at(0);
        assert!(matches!(refused, Err(AllocError::NoFrames { wanted: 1, .. })), "{refused:?}");
        assert_eq!(rig.settled(), before);
        rig.give_frames(&[rig.alloc_frame(gfp, None).expect("nothing is refused any more")]);
    }
}

#[test]
fn a_refused_init_gives_everything_back_and_may_be_called_again() {
    let sim = machine().build();
    let vm = Vmalloc::new(sim.clone());
    let free = sim.frames().free_now();
    for n in 1.. {
        sim.faults().fail_at(n);
        // SAFETY: N1, N2: the machine is new, and nobody else uses it.
        let result = unsafe { vm.init(config().policy(Policy::Strict)) };
        sim.faults().fail_at(0);
        let Err(error) = result else { break };
        let InitError::NoMemory { wanted, got: Some(got) } = error else { panic!("{error}") };
        assert_eq!(got as u64, n - 1);
        assert!(got < wanted);
        assert_eq!(sim.frames().free_now(), free, "step {n} was refused");
        assert_eq!(vm.alloc(Req::pages(1)), Err(AllocError::NotInitialised));
    }
    assert!(sim.faults().refused() > 8, "the promised reserve alone takes eight steps");
    // SAFETY: as above.
    assert_eq!(unsafe { vm.init(config()) }, Err(InitError::Twice));
    drop(vm);
    sim.assert_no_leaks();
}
