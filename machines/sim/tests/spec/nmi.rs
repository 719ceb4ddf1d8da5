//! NMIs in the middle of calls: none waits, and nothing of what it does is lost
//! (L4, R6).

use crate::common::*;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use vmalloc::machine::format::{Entry, MemType, Prot};
use vmalloc::machine::frames::{Frames, Want};
use vmalloc::machine::{Context, Machine};
use vmalloc::table::X86_64;
use vmalloc::units::{Node, Pfn};
use vmalloc::{AllocError, Config, FreeError, Gfp, Policy, Req, Vmalloc, What};
use vmalloc_sim::Sim;

type Instance = Vmalloc<Sim<X86_64>>;

/// What an NMI finds.
#[derive(Clone, Copy)]
struct Prey {
    /// An area of CPU 0, of a page.
    near: At,
    /// An area of CPU 1, of several slices.
    far: At,
    /// A short mapping of `held`, of CPU 0.
    ram: At,
    /// A frame to be given up.
    frame: Pfn,
    /// A frame that stays.
    held: Pfn,
}

// SAFETY: addresses are mere numbers here.
unsafe impl Send for Prey {}
// SAFETY: as above.
unsafe impl Sync for Prey {}

const FAR: usize = 150;

/// What the NMIs of a test did.
#[derive(Default)]
struct Tally {
    came: AtomicUsize,
    refused: AtomicUsize,
    freed: AtomicUsize,
    /// Memory may be short: there are other reasons to refuse.
    short: bool,
    /// Areas, to be freed by the test.
    made: Mutex<Vec<usize>>,
}

impl Tally {
    fn note(&self, made: Result<At, AllocError>) {
        match made {
            Ok(area) => self.made.lock().unwrap().push(addr(area).0),
            Err(AllocError::WrongContext(Context::Nmi)) => _ = self.refused.fetch_add(1, Relaxed),
            Err(AllocError::WouldWait(Context::Nmi, _) | AllocError::NoFrames { .. } | AllocError::NoTables { .. })
                if self.short => {}
            Err(error) => panic!("{error}"),
        }
    }
}

type Handler = fn(&Instance, &Prey, &Tally);

fn allocates(vm: &Instance, prey: &Prey, tally: &Tally) {
    for request in [Req::pages(1), Req::pages(200), Req::pages(520)] {
        tally.note(vm.alloc(request));
    }
    tally.note(vm.reserve(Req::pages(9)));
    // SAFETY: P1: the test holds it.
    match unsafe { vm.map_ram(&[prey.held], None) } {
        // SAFETY: V1: it was mapped just now.
        Ok(ram) => unsafe { vm.unmap_ram(ram, 1) }.unwrap(),
        refused => tally.note(refused),
    }
    match vm.alloc_frame(Gfp::KERNEL, None) {
        // SAFETY: P3: taken just now.
        Ok(frame) => unsafe { vm.free_frame(frame) },
        Err(error) => tally.note(Err(error)),
    }
}

fn frees(vm: &Instance, prey: &Prey, tally: &Tally) {
    // SAFETY: V1: nobody uses the areas; P3: the test gives its hold to the NMI.
    unsafe {
        vm.free(prey.near).unwrap();
        vm.free(prey.far).unwrap();
        assert_eq!(vm.unmap_ram(prey.ram, 2), Err(FreeError::WrongSize { pages: 1, given: 2 }));
        vm.unmap_ram(prey.ram, 1).unwrap();
        for dead in [prey.near, prey.far] {
            assert!(matches!(vm.free(dead), Err(FreeError::DoubleFree { .. })), "told at once");
        }
        assert!(vm.find(addr(prey.far).0).is_none());
        vm.free_frame(prey.frame);
    }
    tally.freed.fetch_add(1, Relaxed);
}

fn purges(vm: &Instance, _: &Prey, _: &Tally) {
    vm.purge();
    vm.reclaim(usize::MAX);
    vm.unmap_aliases();
    vm.tick();
    vm.work();
}

fn looks(vm: &Instance, prey: &Prey, _: &Tally) {
    assert!(vm.find(addr(prey.far).0 + 5000).is_some());
    let frame = vm.hold_frame(addr(prey.far).0 + 5000).expect("it lives");
    assert_eq!(vm.frame_at(addr(prey.far).0 + 5000), Some(frame));
    // SAFETY: P3: the hold of just now.
    unsafe { vm.free_frame(frame) };
    vm.stats();
    let _ = vm.check();
    vm.list(&mut String::new()).unwrap();
    vm.on_kick();
    vm.set_policy(vm.policy());
}

/// All at once, the way an NMI handler would not.
fn does_it_all(vm: &Instance, prey: &Prey, tally: &Tally) {
    looks(vm, prey, tally);
    purges(vm, prey, tally);
    frees(vm, prey, tally);
    allocates(vm, prey, tally);
    purges(vm, prey, tally);
}

const HANDLERS: [(&str, Handler); 5] =
    [("allocates", allocates), ("frees", frees), ("purges", purges), ("looks", looks), ("does it all", does_it_all)];

/// A machine of 3 CPUs with so much memory and a promised reserve.
fn small(policy: Policy, memory: u64) -> Rig {
    let region = START..START + (1 << 28);
    boot(quiet(3).node(memory), Config::region(region).atomic_reserve(6).policy(policy))
}

fn prey(rig: &Rig) -> Prey {
    let near = rig.alloc(Req::pages(1)).unwrap();
    let far = rig.sim.on(1, || rig.alloc(Req::pages(FAR))).unwrap();
    let frames = rig.frames(2);
    // SAFETY: P4: held until the end of the round.
    let ram = unsafe { rig.map_ram(&frames[1..], None) }.unwrap();
    Prey { near, far, ram, frame: frames[0], held: frames[1] }
}

/// After a round: what of the prey is left is freed, and nothing remains.
fn clean(rig: &Rig, prey: Prey, tally: &Tally, was_freed: bool) {
    let free = |at: At| rig.give(at);
    for made in std::mem::take(&mut *tally.made.lock().unwrap()) {
        free(at(made)).unwrap();
    }
    if !was_freed {
        free(prey.near).unwrap();
        free(prey.far).unwrap();
        rig.unmap_pages(prey.ram, 1).unwrap();
        rig.give_frames(&[prey.frame]);
    }
    rig.give_frames(&[prey.held]);
    rig.purge();
    assert_eq!(rig.check(), Ok(()));
    assert_eq!((rig.stats().areas, rig.stats().pages, rig.stats().waiting_pages), (0, 0, 0));
    let noted = rig.sim.noted();
    assert_eq!((noted.publishes - noted.claims, noted.pages), (0, 0), "each area was published and claimed");
}

/// Lets an NMI come at each step of `act` in turn, one a round, on CPU 0; with each
/// handler.
fn at_every_step(policy: Policy, prepare: fn(&Rig), act: fn(&Rig)) {
    HANDLERS.into_iter().for_each(|handler| at_each(&small(policy, 8 << 20), false, handler, prepare, act));
}

fn at_each(rig: &Rig, short: bool, (name, handler): (&str, Handler), prepare: fn(&Rig), act: fn(&Rig)) {
    let before = rig.settled();
    let tally = Arc::new(Tally { short, ..Tally::default() });
    for step in 1.. {
        prepare(rig);
        let prey = prey(rig);
        let (came, freed) = (tally.came.load(Relaxed), tally.freed.load(Relaxed));
        let theirs = Arc::clone(&tally);
        rig.set_nmi(step, move |vm| {
            theirs.came.fetch_add(1, Relaxed);
            handler(vm, &prey, &theirs);
        });
        act(rig);
        rig.set_nmi(0, |_| {});
        clean(rig, prey, &tally, tally.freed.load(Relaxed) > freed);
        if tally.came.load(Relaxed) == came {
            break;
        }
    }
    let refused = tally.refused.load(Relaxed);
    assert!(name != "allocates" || refused > 0, "{name}: no NMI came inside a call");
    let after = rig.settled();
    assert_eq!(after.free + after.held, before.free + before.held, "{name}");
}

fn nothing(_: &Rig) {}

/// Areas of each CPU wait, some of them among the frees posted to other CPUs, and some in open batches.
fn litter(rig: &Rig) {
    for cpu in 0..3 {
        let areas = rig.sim.on(cpu, || [1, 140].map(|pages| rig.alloc(Req::pages(pages)).unwrap()));
        for (n, area) in areas.into_iter().enumerate() {
            rig.sim.on((cpu + n as u32) % 3, || rig.give(area)).unwrap();
        }
    }
}

#[test]
fn an_nmi_at_any_step_of_an_allocation_and_a_free_is_served_or_refused() {
    for policy in [Policy::Unmap, Policy::Park, Policy::Strict] {
        at_every_step(policy, nothing, |rig| {
            let areas = [1, 140, 513].map(|pages| rig.alloc(Req::pages(pages)).unwrap());
            areas.into_iter().for_each(|area| rig.give(area).unwrap());
        });
    }
}

#[test]
fn an_nmi_at_any_step_of_a_remote_free_is_served_or_refused() {
    for policy in [Policy::Unmap, Policy::Keep] {
        at_every_step(policy, nothing, |rig| {
            let area = rig.sim.on(2, || rig.alloc(Req::pages(140))).unwrap();
            rig.give(area).unwrap();
            rig.sim.on(2, || rig.tick());
        });
    }
}

#[test]
fn an_nmi_at_any_step_of_a_mapping_is_served_or_refused() {
    at_every_step(Policy::Unmap, nothing, |rig| {
        let frames = rig.frames(3);
        let mapped = rig.map(&frames).unwrap();
        // SAFETY: P4: held until the end.
        let ram = unsafe { rig.map_ram(&frames, None) }.unwrap();
        rig.unmap(mapped).unwrap();
        rig.unmap_pages(ram, 3).unwrap();
        rig.give_frames(&frames);
    });
}

#[test]
fn an_nmi_at_any_step_of_a_purge_and_its_visits_is_served_or_refused() {
    for policy in [Policy::Unmap, Policy::Keep] {
        at_every_step(policy, litter, |rig| _ = rig.purge());
    }
}

#[test]
fn an_nmi_at_any_step_of_a_reclaim_is_served_or_refused() {
    at_every_step(Policy::Unmap, litter, |rig| _ = rig.reclaim(usize::MAX));
}

#[test]
fn an_nmi_at_any_step_of_a_tick_and_the_work_is_served_or_refused() {
    at_every_step(Policy::Unmap, litter, |rig| {
        (0..3).for_each(|_| _ = rig.tick());
        rig.work();
    });
}

#[test]
fn an_nmi_at_any_step_of_the_reserves_refill_is_served_or_refused() {
    fn spend(rig: &Rig) {
        let gfp = Gfp::ATOMIC | Gfp::NOWARN;
        let frames: Vec<_> = std::iter::from_fn(|| rig.alloc_frame(gfp, None).ok()).collect();
        assert_eq!(rig.stats().reserve_frames, 0);
        rig.give_frames(&frames);
    }
    at_every_step(Policy::Unmap, spend, |rig| {
        rig.work();
        assert_eq!(rig.stats().reserve_frames, 6);
    });
}

#[test]
fn an_nmi_at_any_step_of_a_shortage_is_served_or_refused() {
    for handler in HANDLERS {
        at_each(&small(Policy::Keep, 3 << 20), true, handler, litter, |rig| {
            let req = Req::pages(100).gfp(Gfp::KERNEL | Gfp::NOWARN);
            let areas: Vec<_> = std::iter::from_fn(|| rig.alloc(req.clone()).ok()).collect();
            areas.into_iter().for_each(|area| rig.give(area).unwrap());
        });
    }
}

#[test]
fn an_nmi_at_any_step_of_questions_and_of_another_policy_is_served_or_refused() {
    at_every_step(Policy::Keep, nothing, |rig| {
        let area = rig.alloc(Req::pages(1)).unwrap();
        rig.stats();
        let _ = rig.check();
        let frame = rig.hold_frame(addr(area).0).unwrap();
        rig.give_frames(&[frame]);
        rig.give(area).unwrap();
        rig.set_policy(Policy::Unmap);
        rig.set_policy(Policy::Keep);
        rig.unmap_aliases();
    });
}

#[test]
fn an_nmi_on_the_way_into_and_out_of_idleness_is_served_or_refused() {
    at_every_step(Policy::Unmap, litter, |rig| {
        rig.sim.on(1, || rig.purge());
        rig.sim.sleep(0, || rig.idle_enter());
        rig.sim.wake(0, || rig.idle_exit());
    });
}

/// Does something by an NMI inside a call on CPU 0.
fn in_the_middle(rig: &Rig, does: impl Fn(&Instance) + Send + Sync + 'static) {
    let (done, does) = (Arc::new(AtomicUsize::new(0)), Arc::new(does));
    for step in 1.. {
        let (theirs, does) = (Arc::clone(&done), Arc::clone(&does));
        rig.set_nmi(step, move |vm| {
            match vm.alloc(Req::pages(1)) {
                // SAFETY: V1: nobody uses it.
                Ok(made) => unsafe { vm.free(made) }.unwrap(),
                Err(_) => {
                    does(vm);
                    theirs.store(1, Relaxed);
                }
            }
        });
        let other = rig.alloc(Req::pages(1)).unwrap();
        rig.set_nmi(0, |_| {});
        rig.give(other).unwrap();
        if done.load(Relaxed) == 1 {
            return;
        }
    }
}

#[test]
fn in_the_middle_of_a_call_nothing_is_reclaimed_and_that_is_told() {
    let rig = boot(quiet(1), Config::region(REGION));
    in_the_middle(&rig, |vm| assert_eq!((vm.reclaim(usize::MAX), vm.work(), vm.purge()), (0, 0, 0)));
}

/// Frees `area` by an NMI inside a call on CPU 0.
fn free_by_nmi(rig: &Rig, area: At) {
    let address = addr(area).0;
    // SAFETY: V1: nobody uses it.
    in_the_middle(rig, move |vm| unsafe { vm.free(at(address)) }.unwrap());
}

fn waiting(area: At, pages: usize, rig: &Rig) -> usize {
    (0..pages).filter(|&page| matches!(rig.sim.entry(page_of(area, page), 1), Entry::Parked(_))).count()
}

#[test]
fn what_an_nmi_frees_is_counted_at_once_and_taken_apart_by_its_owner_a_slice_at_a_time() {
    const PAGES: usize = 200;
    let rig = boot(quiet(2), Config::region(REGION));
    let area = rig.sim.on(1, || rig.alloc(Req::pages(PAGES))).unwrap();
    let before = rig.stats();
    free_by_nmi(&rig, area);
    let after = rig.stats();
    assert_eq!((after.counts.deferred_frees, after.counts.deferred_pages), (1, PAGES as u64));
    assert_eq!((before.areas - after.areas, before.pages - after.pages), (1, PAGES));
    assert!(matches!(rig.whatis(addr(area).0), What::Freed { flushed: false, .. }));
    assert_eq!(waiting(area, PAGES, &rig), 0, "its entries are left to CPU 1");
    rig.sim.on(0, || rig.tick());
    assert_eq!(waiting(area, PAGES, &rig), 0, "CPU 0 has nothing to do with it");
    for ticks in 1..=2 {
        let more = rig.sim.on(1, || rig.tick()).work;
        assert_eq!(waiting(area, PAGES, &rig), (128 * ticks).min(PAGES), "after {ticks} ticks");
        assert_eq!(more, ticks < 2);
    }
    assert!(matches!(rig.give(area), Err(FreeError::DoubleFree { .. })));
    rig.purge();
    assert_eq!(rig.check(), Ok(()));
}

/// Maps `frame` for a short time on CPU 1, both CPUs use it, and an NMI in the
/// middle of a call on CPU 0 unmaps it.
fn unmapped_by_nmi(rig: &Rig, frame: Pfn) -> At {
    // SAFETY: P4: the test holds it until it is unmapped.
    let ram = rig.sim.on(1, || unsafe { rig.map_ram(&[frame], None) }).unwrap();
    rig.stamp(ram, 1, 3);
    rig.check_stamps(1, ram, 1, 3);
    let address = addr(ram).0;
    // SAFETY: V1: nobody uses it any more.
    in_the_middle(rig, move |vm| unsafe { vm.unmap_ram(at(address), 1) }.unwrap());
    ram
}

#[test]
fn a_frame_whose_mapping_an_nmi_ended_is_not_given_out_while_a_cpu_reaches_it() {
    let rig = boot(quiet(2), Config::region(REGION).atomic_reserve(0));
    let frame = rig.frames(1)[0];
    let ram = unmapped_by_nmi(&rig, frame);
    rig.give_frames(&[frame]);
    let given: Vec<Pfn> = (0..200).map(|_| rig.frames(1)[0]).collect();
    assert!(!given.contains(&frame), "G3: CPU 1 has it mapped yet");
    rig.purge();
    (0..2).for_each(|cpu| rig.sim.assert_faults(cpu, addr(ram)));
    rig.give_frames(&given);
    assert_eq!(rig.stats().counts.alias_frames, 1, "it waited, and no alias is left");
}

#[test]
fn a_reservation_with_a_part_that_an_nmi_frees_is_unmapped_by_its_owner_and_its_frame_waits() {
    let rig = boot(quiet(2), Config::region(REGION).atomic_reserve(0));
    let (frame, at) = (rig.frames(1)[0], rig.sim.on(1, || rig.reserve(Req::pages(200))).unwrap());
    let page = page_of(at, 150);
    // SAFETY: P5, P6: nobody else knows it, and the frame is held until it is freed.
    unsafe { rig.map_part(page.0, &[frame], Prot::RW, MemType::WriteBack) }.unwrap();
    (0..2).for_each(|cpu| _ = rig.sim.load(cpu, page).unwrap());
    free_by_nmi(&rig, at);
    rig.give_frames(&[frame]);
    let given: Vec<Pfn> = (0..200).map(|_| rig.frames(1)[0]).collect();
    assert!(!given.contains(&frame), "G3: it is bound yet");
    rig.purge();
    (0..2).for_each(|cpu| rig.sim.assert_faults(cpu, page));
    rig.give_frames(&given);
    assert_eq!((rig.check(), rig.stats().areas), (Ok(()), 0));
}

#[test]
fn a_free_by_the_owner_that_an_nmi_overtakes_is_a_double_free_whoever_wins() {
    let mut wins = [0, 0];
    for policy in [Policy::Unmap, Policy::Park, Policy::Keep] {
        let rig = small(policy, 8 << 20);
        let before = rig.settled();
        let came = Arc::new(AtomicUsize::new(0));
        for step in 1.. {
            let area = rig.alloc(Req::pages(1)).unwrap();
            let (address, theirs) = (addr(area).0, Arc::clone(&came));
            let last = came.load(Relaxed);
            let won = Arc::new(AtomicUsize::new(0));
            let nmi = Arc::clone(&won);
            rig.set_nmi(step, move |vm| {
                theirs.fetch_add(1, Relaxed);
                // SAFETY: V1: nobody uses it.
                nmi.store(unsafe { vm.free(at(address)) }.is_ok() as usize, Relaxed);
            });
            let freed = rig.give(area).is_ok();
            rig.set_nmi(0, |_| {});
            assert!(freed || won.load(Relaxed) == 1, "nobody freed it");
            wins[0] += freed as usize;
            wins[1] += won.load(Relaxed);
            rig.purge();
            let both = freed && won.load(Relaxed) == 1;
            assert_eq!(rig.complaints().len(), both as usize, "a double free that nobody was told of is logged");
            assert_eq!((rig.check(), rig.stats().areas, rig.stats().pages), (Ok(()), 0, 0), "step {step}");
            if came.load(Relaxed) == last {
                break;
            }
        }
        let after = rig.settled();
        assert_eq!(after.free + after.held, before.free + before.held);
    }
    assert!(wins[0] > 0 && wins[1] > 0, "{wins:?}");
}

#[test]
fn a_frame_is_given_up_before_the_instance_serves() {
    let sim = quiet(1).build();
    let free = sim.frames().free_now();
    let vm = Vmalloc::new(sim.clone());
    let pin = sim.pin();
    let frame = sim.frames().alloc(Want::bookkeeping(Node(0))).unwrap();
    // SAFETY: the youngest.
    unsafe { sim.unpin(pin) };
    // SAFETY: P3: taken just now.
    unsafe { vm.free_frame(frame) };
    assert_eq!(sim.frames().free_now(), free, "F3: the source was asked by a caller that is pinned");
}
