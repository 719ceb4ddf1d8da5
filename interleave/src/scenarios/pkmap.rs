//! The permanent kmap on two CPUs: frames that all CPUs reach through few entries, which become
//! clean by one flush.

use super::Scenario;
use crate::rig::{Rig, START, Trial, act};
use std::cell::Cell;
use std::rc::Rc;
use vmalloc::Vmalloc;
use vmalloc::area::RegionId;
use vmalloc::internals::interleave::Rule;
use vmalloc::table::X86_64;
use vmalloc::units::{Pfn, VirtAddr};
use vmalloc_kernel::kmap::{Pkmap, Place};
use vmalloc_kernel::{Host, Kernel};
use vmalloc_sim::Sim;

pub const ALL: &[Scenario] = &[
    Scenario {
        name: "two CPUs map and unmap frames through a permanent kmap that wraps",
        cpus: 2,
        run: wraps,
        notices: &[Rule::EntriesUnflushed],
    },
    Scenario {
        name: "two CPUs use one frame through a permanent kmap that is cleaned",
        cpus: 2,
        run: shares,
        notices: &[Rule::UserCountedLate],
    },
    Scenario {
        name: "two CPUs sleep for the only entry of a permanent kmap",
        cpus: 2,
        run: sleeps,
        notices: &[Rule::EntriesUnflushed],
    },
    Scenario {
        name: "a flush of the permanent kmap waits for a CPU that maps an entry",
        cpus: 2,
        run: flushes,
        notices: &[Rule::FlushWaitsNot],
    },
];

/// Where the entries lie.
const ENTRIES: usize = START + (8 << 20);

/// A task that sleeps lets the other CPU go on.
struct Sleeps(Sim<X86_64>);

impl Host for Sleeps {
    fn pkmap_wait(&self) {
        self.0.serve_kick_of(self.0.cpu());
        crate::engine::wait();
    }
}

type Subsystem = Kernel<'static, Sim<X86_64>, Sleeps>;
type Entries = Pkmap<'static, Sim<X86_64>, Sleeps>;

/// A subsystem around the instance of `rig`, and a kmap of `entries` entries for all frames,
/// until [`end`]. After a panic they are left alone.
fn begin(rig: &Rig, entries: usize) -> (&'static Subsystem, &'static Entries) {
    let vm: *const Vmalloc<Sim<X86_64>> = &raw const ***rig;
    // SAFETY: the instance lives until the rig is finished, or for ever after a panic.
    let kernel: &'static Subsystem = Box::leak(Box::new(Kernel::new(unsafe { &*vm }, Sleeps(rig.sim.clone()))));
    let place = Place { region: RegionId(0), at: ENTRIES, high_from: Pfn(0) };
    let pkmap = Pkmap::new(kernel, place, entries).expect("addresses that nobody has");
    (kernel, Box::leak(Box::new(pkmap)))
}

/// Ends both, and looks at the machine.
fn end(rig: Rc<Rig>, (kernel, pkmap): (&'static Subsystem, &'static Entries), frames: &[Pfn]) {
    // SAFETY: `begin` has made boxes of them, and the race is over.
    unsafe {
        drop(Box::from_raw(core::ptr::from_ref(pkmap).cast_mut()));
        drop(Box::from_raw(core::ptr::from_ref(kernel).cast_mut()));
    }
    frames.iter().for_each(|&frame| rig.give_frame(frame));
    rig.finish(false);
}

fn map(pkmap: &Entries, frame: Pfn) -> VirtAddr {
    // SAFETY: Y3: scripts hold their frames until the end.
    VirtAddr(unsafe { pkmap.kmap(frame) }.expect("a task").addr().get())
}

fn unmap(pkmap: &Entries, frame: Pfn) {
    // SAFETY: Y1: simulated memory is used through the simulator, which judges each use.
    unsafe { pkmap.kunmap(frame) }.expect("it is mapped");
}

/// Each CPU stores a number to each of its frames through an entry, and reads it through
/// another; there are fewer entries than frames, and one flushes in between.
fn wraps(trial: &mut Trial) {
    let rig = trial.quiet_by_pages(2);
    let both = begin(&rig, 3);
    let pkmap = both.1;
    let frames: Vec<Pfn> = (0..4).map(|_| rig.frame().expect("memory")).collect();
    let script = |cpu: usize| {
        let mine = [frames[2 * cpu], frames[2 * cpu + 1]];
        act(move |rig: &Rig| {
            let number = |round: u64, frame: Pfn| (round << 32) | frame.0;
            for round in 0..3 {
                for frame in mine {
                    let at = map(pkmap, frame);
                    let read = rig.sim.load(rig.sim.cpu(), at);
                    assert!(round == 0 || read == Ok(number(round - 1, frame)), "content: of {frame:?}: {read:?}");
                    rig.sim.store(rig.sim.cpu(), at, number(round, frame)).expect("content: it is mapped");
                    rig.pause();
                    assert_eq!(rig.sim.load(rig.sim.cpu(), at), Ok(number(round, frame)), "content: of {frame:?}");
                    unmap(pkmap, frame);
                }
                if cpu == 1 && round == 1 {
                    pkmap.flush_unused().expect("a task");
                }
            }
        })
    };
    let scripts = vec![script(0), script(1)];
    trial.race(&rig, scripts);
    end(rig, both, &frames);
}

/// Both CPUs map the same frame, and each has a word of its own in it; the entry is made clean in
/// between, for other frames need it.
fn shares(trial: &mut Trial) {
    let rig = trial.quiet_by_pages(2);
    let both = begin(&rig, 2);
    let pkmap = both.1;
    let frames: Vec<Pfn> = (0..3).map(|_| rig.frame().expect("memory")).collect();
    let script = |cpu: usize| {
        let (shared, mine) = (frames[2], frames[cpu]);
        act(move |rig: &Rig| {
            for round in 0..3 {
                let at = VirtAddr(map(pkmap, shared).0 + cpu * 8);
                rig.sim.store(cpu as u32, at, round).expect("content: it is mapped");
                rig.pause();
                assert_eq!(rig.sim.load(cpu as u32, at), Ok(round), "content: of the shared frame");
                unmap(pkmap, shared);
                map(pkmap, mine);
                unmap(pkmap, mine);
            }
        })
    };
    let scripts = vec![script(0), script(1)];
    trial.race(&rig, scripts);
    pkmap.flush_unused().expect("a task");
    assert_eq!([0, 1].map(|entry| pkmap.count(entry)), [Some(0); 2], "leak: a user of an entry");
    end(rig, both, &frames);
}

/// Each CPU needs the one entry that there is: it sleeps until the other one has used it.
fn sleeps(trial: &mut Trial) {
    let rig = trial.quiet_by_pages(2);
    let both = begin(&rig, 1);
    let pkmap = both.1;
    let frames: Vec<Pfn> = (0..4).map(|_| rig.frame().expect("memory")).collect();
    let users = Rc::new(Cell::new(0));
    let script = |cpu: usize| {
        let (mine, users) = ([frames[2 * cpu], frames[2 * cpu + 1]], Rc::clone(&users));
        act(move |rig: &Rig| {
            for (round, frame) in (0..).zip(mine) {
                let at = map(pkmap, frame);
                assert_eq!(users.replace(users.get() + 1), 0, "content: an entry that another CPU uses");
                rig.sim.store(cpu as u32, at, round).expect("content: it is mapped");
                rig.pause();
                assert_eq!(rig.sim.load(cpu as u32, at), Ok(round), "content: of the only entry");
                users.set(0);
                unmap(pkmap, frame);
            }
        })
    };
    let scripts = vec![script(0), script(1)];
    trial.race(&rig, scripts);
    end(rig, both, &frames);
}

/// CPU 0 maps frames; CPU 1 flushes, and what was unused before is mapped no more.
fn flushes(trial: &mut Trial) {
    let rig = trial.quiet_by_pages(2);
    let both = begin(&rig, 4);
    let pkmap = both.1;
    let frames: Vec<Pfn> = (0..3).map(|_| rig.frame().expect("memory")).collect();
    map(pkmap, frames[0]);
    unmap(pkmap, frames[0]);
    let (others, unused) = ([frames[1], frames[2]], frames[0]);
    let maps = act(move |rig: &Rig| {
        for frame in others {
            let at = map(pkmap, frame);
            rig.sim.store(0, at, 1).expect("content: it is mapped");
            unmap(pkmap, frame);
        }
    });
    let pauses = trial.random.below(4);
    let flushes = act(move |rig: &Rig| {
        rig.pause_for(pauses);
        pkmap.flush_unused().expect("a task");
        assert_eq!(pkmap.page_address(unused), None, "flush: an entry that was unused before");
    });
    trial.race(&rig, vec![maps, flushes]);
    end(rig, both, &frames);
}
