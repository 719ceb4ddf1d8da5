//! A 32-bit machine with 2 GiB: two thirds of its memory have no direct mapping, and vmalloc
//! has 120 MiB of addresses.

use crate::common::{PAGE, number};
use std::fmt;
use std::ptr::NonNull;
use std::sync::Mutex;
use vmalloc::machine::frames::MAX_ORDER;
use vmalloc::table::X86_32;
use vmalloc::units::{Pfn, VirtAddr};
use vmalloc::{Config, Placement};
use vmalloc_kernel::layout::{self, Part};
use vmalloc_kernel::{Errno, Error, Host, Kern, Kernel};
use vmalloc_sim::{Booted, Rates, Sim};

const MIB: usize = 1 << 20;
const CLASSIC: &str = "allocation failed: out of vmalloc space - use vmalloc=<size> to increase size.";

/// Keeps the lines of the log.
#[derive(Default)]
struct Log(Mutex<Vec<(Kern, String)>>);

impl Host for Log {
    fn printk(&self, level: Kern, line: fmt::Arguments<'_>) -> bool {
        self.0.lock().unwrap().push((level, line.to_string()));
        true
    }
}

type Tested<'v> = Kernel<'v, Sim<X86_32>, Log>;

/// A machine as its layout says, booted.
struct Machine {
    sim: Sim<X86_32>,
    booted: Booted<X86_32>,
    vmalloc: Part,
    high_from: Pfn,
}

/// 2 GiB and two CPUs with a root each, booted with `vmalloc=`.
fn boot(vmalloc: Option<u64>) -> Machine {
    let layout = layout::X86_32 { vmalloc, ..layout::X86_32::new(2 << 30) }.layout().expect("a layout");
    // Zones are cut where blocks begin.
    let high_from = Pfn(layout.memory.expect("narrow").low >> 12 >> MAX_ORDER << MAX_ORDER);
    let vmalloc = layout.part("vmalloc").expect("a part of all layouts");
    let machine = Sim::builder().cpus(2).roots(2).rates(Rates::NEVER).node(2 << 30).highmem(high_from);
    let (sim, region) = (machine.build(), vmalloc.start as usize..vmalloc.end as usize);
    let config = Config::region(region).placement(Placement::Lowest);
    let booted = Booted::new(sim.clone(), config).expect("memory for the bookkeeping");
    Machine { sim, booted, vmalloc, high_from }
}

impl Machine {
    fn kernel(&self) -> Tested<'_> {
        Kernel::new(&self.booted, Log::default())
    }

    /// A number of its own in the first and the last page, by way of either CPU.
    fn stamp(&self, at: usize, pages: usize) {
        for page in [at, at + (pages - 1) * PAGE] {
            self.sim.store((page / PAGE % 2) as u32, VirtAddr(page), page as u64).expect("a live page");
        }
    }

    #[track_caller]
    fn check(&self, at: usize, pages: usize) {
        for page in [at, at + (pages - 1) * PAGE] {
            assert_eq!(self.sim.load((page / PAGE % 2) as u32, VirtAddr(page)), Ok(page as u64));
        }
    }

    fn end(self) {
        assert_eq!(self.booted.check(), Ok(()));
        drop(self.booted);
        self.sim.assert_no_leaks();
    }
}

/// Areas of `bytes` until there is no more, and what the last was refused with.
fn all_of(kernel: &Tested<'_>, machine: &Machine, bytes: usize) -> (Vec<usize>, Error) {
    let mut areas = Vec::new();
    loop {
        match kernel.v2_6().vmalloc(bytes).map(number) {
            Ok(at) => areas.push(at),
            Err(error) => return (areas, error),
        }
        machine.stamp(areas[areas.len() - 1], bytes / PAGE);
    }
}

fn vfree(kernel: &Tested<'_>, at: usize) {
    let at: *const u8 = NonNull::<u8>::with_exposed_provenance(at.try_into().unwrap()).as_ptr();
    // SAFETY: Y1: simulated memory is used through the simulator, which judges each use.
    unsafe { kernel.vfree(at) }.expect("it lives");
}

#[test]
fn the_120_mib_of_a_machine_with_high_memory_are_used_up_with_the_classic_message() {
    let mut made = Vec::new();
    for (vmalloc, mib) in [(None, 120), (Some(192 << 20), 192)] {
        let machine = boot(vmalloc);
        assert_eq!(machine.vmalloc.bytes() as usize, mib * MIB);
        let kernel = machine.kernel();
        let (areas, error) = all_of(&kernel, &machine, 2 * MIB);
        assert_eq!(
            (error.errno(), kernel.host().0.lock().unwrap().first()),
            (Errno::EBUSY, Some(&(Kern::Warning, CLASSIC.to_owned())))
        );
        // Each has a guard page, and an array of two pages and its guard.
        assert_eq!(areas.len(), (mib * MIB - PAGE) / (2 * MIB + 4 * PAGE), "no addresses are lost");
        areas.iter().for_each(|&at| machine.check(at, 2 * MIB / PAGE));
        let frames = areas.iter().map(|&at| kernel.vm().frame_at(at + MIB).expect("a page of it"));
        assert!(frames.min().is_some_and(|lowest| lowest >= machine.high_from), "high memory serves areas first");
        // One that is freed makes room for one.
        vfree(&kernel, areas[7]);
        let again = kernel.v2_6().vmalloc(2 * MIB).map(number);
        assert_eq!(again, Ok(areas[7]), "the lowest hole, after a flush");
        assert!(kernel.v2_6().vmalloc(2 * MIB).is_err());
        areas.iter().for_each(|&at| vfree(&kernel, at));
        made.push(areas.len());
        drop(kernel);
        machine.end();
    }
    assert!(made[1] - made[0] >= 35, "the parameter that the message names helps: {made:?}");
}

#[test]
fn a_churn_of_36_kb_areas_survives_in_120_mib() {
    const PAGES: usize = 9;
    let machine = boot(None);
    let kernel = machine.kernel();
    let (mut live, mut rng, mut made) = (Vec::new(), 5u64, 0);
    // Four fifths of what the addresses are good for, eight times over.
    let most = 120 * MIB / ((PAGES + 1) * PAGE) * 4 / 5;
    while made < 8 * most {
        rng = rng.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let dice = (rng >> 33) as usize;
        machine.sim.set_cpu((dice % 2) as u32);
        if live.len() == most || (live.len() > most / 2 && dice % 5 < 2) {
            let at: usize = live.swap_remove(dice / 5 % live.len());
            machine.check(at, PAGES);
            vfree(&kernel, at);
        } else {
            let at = kernel.vmalloc(PAGES * PAGE).map(number).expect("there is room");
            machine.stamp(at, PAGES);
            live.push(at);
            made += 1;
        }
    }
    assert_eq!(kernel.host().0.lock().unwrap().len(), 0, "nobody complains");
    let lowest = machine.vmalloc.start as usize;
    let highest = live.iter().max().expect("many live");
    assert!(highest - lowest < 120 * MIB);
    live.iter().for_each(|&at| vfree(&kernel, at));
    machine.booted.purge();
    let whole = kernel.vmalloc(64 * MIB).map(number).expect("holes join again");
    vfree(&kernel, whole);
    drop(kernel);
    machine.end();
}
