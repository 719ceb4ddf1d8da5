//! Stacks of threads on two CPUs, of which each keeps some.

use super::Scenario;
use super::subsystem::{Subsystem, begin, end};
use crate::rig::{Rig, Trial, act, pointer};
use std::rc::Rc;
use vmalloc::error::Shortage;
use vmalloc::internals::interleave::Rule;
use vmalloc::table::X86_64;
use vmalloc::units::{PAGE_SIZE, VirtAddr};
use vmalloc_kernel::Bare;
use vmalloc_kernel::stacks::Stacks;
use vmalloc_sim::Sim;

pub const ALL: &[Scenario] = &[Scenario {
    name: "two CPUs take stacks and give them back while kept ones go",
    cpus: 2,
    run: come_and_go,
    notices: &[Rule::KeptTakenUnseen],
}];

/// Pages of a stack.
const PAGES: usize = 2;

type Cache = Stacks<'static, 'static, Sim<X86_64>, Bare>;

fn begin_stacks(rig: &Rig) -> (&'static Subsystem, &'static Cache) {
    let kernel = begin(rig);
    (kernel, Box::leak(Box::new(Stacks::new(kernel, PAGES))))
}

fn end_stacks(rig: Rc<Rig>, (kernel, stacks): (&'static Subsystem, &'static Cache)) {
    // SAFETY: `begin_stacks` has made a box of it, and the race is over.
    drop(unsafe { Box::from_raw(core::ptr::from_ref(stacks).cast_mut()) });
    end(rig, kernel);
}

/// A stack of this CPU's, which was clear and holds `number` from now on.
fn take(rig: &Rig, stacks: &Cache, number: u64) -> usize {
    let at = stacks.alloc_thread_stack(None).expect("memory").addr().get();
    for page in 0..PAGES {
        let word = VirtAddr(at + page * PAGE_SIZE + 64);
        assert_eq!(rig.sim.load(rig.sim.cpu(), word), Ok(0), "content: a new stack is clear");
        rig.sim.store(rig.sim.cpu(), word, number).expect("content: a live stack");
    }
    at
}

fn give(rig: &Rig, stacks: &Cache, at: usize, number: u64) {
    for page in 0..PAGES {
        let word = VirtAddr(at + page * PAGE_SIZE + 64);
        assert_eq!(rig.sim.load(rig.sim.cpu(), word), Ok(number), "content: somebody else has this stack");
    }
    // SAFETY: Y1: the script uses it no more.
    unsafe { stacks.free_thread_stack(pointer(at)) }.expect("free: a live stack");
}

/// Each CPU takes stacks and gives them back; CPU 1 meets a shortage in between, for which all that
/// is kept is given up.
fn come_and_go(trial: &mut Trial) {
    let rig = trial.quiet(2);
    let both = begin_stacks(&rig);
    let stacks = both.1;
    let pauses = trial.random.below(3);
    let script = |cpu: u64| {
        act(move |rig: &Rig| {
            for round in 0..3 {
                let number = (cpu << 32) | (round + 1);
                let made = [take(rig, stacks, number), take(rig, stacks, number)];
                rig.pause_for(pauses);
                made.into_iter().for_each(|at| give(rig, stacks, at, number));
                if cpu == 1 {
                    assert!(stacks.give_up(Shortage::Frames(1)) <= 4 * PAGES, "each CPU keeps two");
                }
            }
        })
    };
    let scripts = vec![script(0), script(1)];
    trial.race(&rig, scripts);
    stacks.flush();
    assert_eq!(rig.areas().count(), 0, "leak: a stack that nobody has");
    end_stacks(rig, both);
}
