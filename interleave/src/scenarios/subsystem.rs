//! The subsystem around an instance on several CPUs: objects of its slab, areas that move, and
//! blocks that wait for a grace period.

use super::Scenario;
use crate::rig::{Rig, Trial, act, pointer};
use std::cell::Cell;
use std::ptr::NonNull;
use std::rc::Rc;
use vmalloc::Vmalloc;
use vmalloc::internals::interleave::Rule;
use vmalloc::table::X86_64;
use vmalloc::units::{PAGE_SIZE, Pfn, VirtAddr};
use vmalloc_kernel::{Bare, Error, GfpFlags, Kernel};
use vmalloc_sim::Sim;

pub const ALL: &[Scenario] = &[
    Scenario {
        name: "two CPUs free one object of the slab",
        cpus: 2,
        run: freed_twice,
        notices: &[Rule::LookedAtBefore],
    },
    Scenario {
        name: "objects of the slab come and go on two CPUs",
        cpus: 2,
        run: come_and_go,
        notices: &[Rule::TakenInTwo],
    },
    Scenario {
        name: "an area moves to a larger one while another CPU purges",
        cpus: 2,
        run: moves,
        notices: &[Rule::IgnoreCounts],
    },
    Scenario {
        name: "blocks begin to wait for a grace period on two CPUs",
        cpus: 2,
        run: wait_for_grace,
        notices: &[Rule::HeadStored],
    },
    Scenario {
        name: "a barrier waits for blocks that another CPU is freeing",
        cpus: 2,
        run: barrier,
        notices: &[Rule::BarrierEarly],
    },
];

/// The subsystem on this machine.
pub type Subsystem = Kernel<'static, Sim<X86_64>, Bare>;

/// The subsystem around the instance of `rig`, until [`end`]. After a panic it is left alone.
pub fn begin(rig: &Rig) -> &'static Subsystem {
    let vm: *const Vmalloc<Sim<X86_64>> = &raw const ***rig;
    // SAFETY: the instance lives until the rig is finished, or for ever after a panic.
    Box::leak(Box::new(Kernel::new(unsafe { &*vm }, Bare)))
}

/// Ends the subsystem, which frees what it still has, and looks at the machine.
pub fn end(rig: Rc<Rig>, kernel: &'static Subsystem) {
    // SAFETY: `begin` has made a box of it, and the race is over.
    drop(unsafe { Box::from_raw(core::ptr::from_ref(kernel).cast_mut()) });
    rig.finish(false);
}

fn object(kernel: &Subsystem, size: usize) -> usize {
    kernel.kmalloc(size, GfpFlags::KERNEL).expect("memory").addr().get()
}

fn free(kernel: &Subsystem, at: usize) -> Result<(), Error> {
    // SAFETY: Y1: scripts use no object after this.
    unsafe { kernel.kfree(pointer(at).as_ptr()) }
}

/// CPU 0 and CPU 1 free the same object, of a page where others are out: one of them does.
fn freed_twice(trial: &mut Trial) {
    let rig = trial.quiet(2);
    let kernel = begin(&rig);
    let (at, other) = (object(kernel, 64), object(kernel, 64));
    let freed = Rc::new(Cell::new(0));
    let frees = || {
        let freed = Rc::clone(&freed);
        act(move |_: &Rig| match free(kernel, at) {
            Ok(()) => freed.set(freed.get() + 1),
            Err(error) => assert_eq!(error, Error::DoubleFree(at), "free: a live object"),
        })
    };
    let scripts = vec![frees(), frees()];
    trial.race(&rig, scripts);
    assert_eq!(freed.get(), 1, "free: one object");
    free(kernel, other).expect("free: a live object");
    end(rig, kernel);
}

/// Each CPU makes objects and frees them in another order: nobody else writes to them.
fn come_and_go(trial: &mut Trial) {
    let rig = trial.quiet(2);
    let kernel = begin(&rig);
    let mut script = |mark: u8| {
        let sizes = [0; 6].map(|_| [16, 64, 2000, 5000][trial.random.below(4) as usize]);
        let pauses = trial.random.below(3);
        act(move |rig: &Rig| {
            let objects = sizes.map(|size| (NonNull::as_ptr(pointer(object(kernel, size))), size));
            for (at, size) in objects {
                // SAFETY: the object is the script's, and has so many bytes.
                unsafe { at.write_bytes(mark, size) };
                rig.pause_for(pauses);
            }
            for (at, size) in objects {
                // SAFETY: as above.
                let bytes = unsafe { core::slice::from_raw_parts(at, size) };
                assert!(bytes.iter().all(|&byte| byte == mark), "content: of a live object");
                assert!(free(kernel, at.addr()).is_ok(), "free: a live object");
            }
        })
    };
    let scripts = vec![script(1), script(2)];
    trial.race(&rig, scripts);
    end(rig, kernel);
}

/// CPU 1 has made an area, which CPU 0 makes larger: its frames move to other addresses, and
/// serve nobody else on the way.
fn moves(trial: &mut Trial) {
    let rig = trial.quiet(2);
    let kernel = begin(&rig);
    let at = rig.sim.on(1, || kernel.vmalloc(3 * PAGE_SIZE)).expect("an area").addr().get();
    rig.stamp(at, 3, 5);
    (0..3).for_each(|n| _ = rig.sim.load(1, VirtAddr(at).add_pages(n)).expect("content: a live page"));
    let pauses = trial.random.below(6);
    let moved = Rc::new(Cell::new(at));
    let tells = Rc::clone(&moved);
    let grows = act(move |rig: &Rig| {
        rig.pause_for(pauses);
        // SAFETY: Y4: the old address is used no more.
        let new = unsafe { kernel.vrealloc(pointer(at).as_ptr(), 40 * PAGE_SIZE, GfpFlags::KERNEL) };
        tells.set(new.expect("memory").expect("an area").addr().get());
        rig.check_stamps(tells.get(), 3, 5);
    });
    let takes = act(move |rig: &Rig| {
        for _ in 0..3 {
            rig.purge();
            let new: Vec<Pfn> = (0..3).map_while(|_| rig.frame()).collect();
            new.iter().for_each(|&frame| rig.sim.assert_reached_only_at(frame, None));
            new.into_iter().for_each(|frame| rig.give_frame(frame));
            rig.pause();
        }
    });
    trial.race(&rig, vec![grows, takes]);
    rig.check_stamps(moved.get(), 3, 5);
    // SAFETY: Y1: nobody uses it.
    unsafe { kernel.vfree(pointer(moved.get()).as_ptr()) }.expect("free: it lives");
    end(rig, kernel);
}

/// Each CPU gives blocks up; after the barrier all are freed.
fn wait_for_grace(trial: &mut Trial) {
    let rig = trial.quiet(2);
    let kernel = begin(&rig);
    let blocks: Vec<[usize; 2]> = (0..2).map(|_| [0; 2].map(|_| object(kernel, 64))).collect();
    let script = |blocks: [usize; 2]| {
        act(move |_: &Rig| {
            for at in blocks {
                // SAFETY: Y1: scripts use no block after this.
                unsafe { kernel.kvfree_rcu(pointer(at).as_ptr(), at) }.expect("free: a live block");
            }
        })
    };
    let scripts = blocks.iter().map(|&blocks| script(blocks)).collect();
    trial.race(&rig, scripts);
    kernel.kvfree_rcu_barrier().expect("a task");
    for at in blocks.concat() {
        assert!(free(kernel, at).is_err(), "leak: a block that nobody has freed");
    }
    end(rig, kernel);
}

/// CPU 0 gives blocks up, and frees those that are ready; after the barrier of CPU 1 those of before
/// are free.
fn barrier(trial: &mut Trial) {
    let rig = trial.quiet(2);
    let kernel = begin(&rig);
    let blocks = [0; 3].map(|_| object(kernel, 64));
    let given = Rc::new(Cell::new(0));
    let (gives, sees) = (Rc::clone(&given), Rc::clone(&given));
    let giver = act(move |rig: &Rig| {
        for at in blocks {
            // SAFETY: Y1: the script uses no block after this.
            unsafe { kernel.kvfree_rcu(pointer(at).as_ptr(), at) }.expect("free: a live block");
            gives.set(gives.get() + 1);
            rig.pause();
        }
    });
    let waiter = act(move |rig: &Rig| {
        for _ in 0..3 {
            let before = sees.get();
            kernel.kvfree_rcu_barrier().expect("a task");
            for &at in &blocks[..before] {
                assert!(kernel.ksize(pointer(at).as_ptr()).is_err(), "free: a block of before the barrier");
            }
            rig.pause();
        }
    });
    trial.race(&rig, vec![giver, waiter]);
    kernel.kvfree_rcu_barrier().expect("a task");
    end(rig, kernel);
}
