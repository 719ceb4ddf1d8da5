//! Each step of each chain refused in turn: an error, and nothing changed.

use crate::common::*;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use vmalloc::{AllocError, Config, Placement};
use vmalloc_kernel::{Errno, Error, GfpFlags, Kern, Pgprot, Request};
use vmalloc_sim::{Rates, Sim};

type Make = fn(&Tested<'_>) -> Result<NonNull<u8>, Error>;

/// Calls `make` with its n-th and all later asks for frames refused, for every n, until
/// it comes through.
fn each_refusal(make: Make) {
    let rig = quiet();
    let kernel = rig.kernel();
    // What is kept for good is made before: the tree's nodes, a sheet a class.
    vfree(&kernel, number(make(&kernel).unwrap())).unwrap();
    let before = rig.state();
    for n in 1.. {
        rig.sim.faults().fail_from(n);
        let made = make(&kernel);
        rig.sim.faults().fail_at(0);
        match made {
            Ok(area) => {
                assert!(n > 1, "it asks for frames");
                vfree(&kernel, number(area)).unwrap();
                break;
            }
            Err(error) => assert_eq!(error.errno(), Errno::ENOMEM, "{error}"),
        }
        assert_eq!(rig.state(), before, "refusal {n} changed something");
    }
    assert_eq!(rig.state(), before);
}

#[test]
fn in_2_6_each_refusal_takes_everything_back() {
    each_refusal(|kernel| kernel.v2_6().vmalloc(20 * PAGE));
}

#[test]
fn in_3_0_each_refusal_takes_everything_back() {
    each_refusal(|kernel| kernel.v3_0().vmalloc(20 * PAGE));
}

#[test]
fn in_4_x_each_refusal_takes_everything_back() {
    each_refusal(|kernel| kernel.v4().vmalloc(20 * PAGE));
}

#[test]
fn today_each_refusal_takes_everything_back() {
    each_refusal(|kernel| kernel.vmalloc(20 * PAGE));
}

#[test]
fn with_a_nested_array_each_refusal_takes_everything_back() {
    each_refusal(|kernel| kernel.v2_6().vmalloc(530 * PAGE));
}

#[test]
fn where_page_i_is_refused_i_pages_are_freed() {
    let rig = quiet();
    let kernel = rig.kernel();
    rig.reclaim(usize::MAX);
    let free = vmalloc::machine::Machine::frames(&rig.sim);
    let most = vmalloc::machine::frames::Frames::free_now(free);
    // More than there is, and not more than the machine has.
    let before = rig.state();
    let refused = kernel.v2_6().__vmalloc((most - 20) * PAGE, USUAL | GfpFlags::NOWARN, Pgprot::KERNEL).unwrap_err();
    assert_eq!(refused.errno(), Errno::ENOMEM);
    let calls = kernel.host().names();
    let pages = calls.iter().filter(|name| *name == "alloc_page").count();
    assert!(pages > most / 2, "it was refused late: after {pages} pages");
    assert_eq!(calls.last().map(String::as_str), Some("vfree"), "the nested array goes last");
    let after = rig.state();
    assert_eq!(after.0, before.0);
}

#[test]
fn a_fatal_signal_ends_the_call_and_not_one_that_must_not_fail() {
    let rig = quiet();
    let kernel = rig.kernel();
    let before = rig.state();
    kernel.host().dying.store(true, SeqCst);
    assert_eq!(kernel.v4().vmalloc(4 * PAGE), Err(Error::Interrupted));
    assert_eq!(rig.state().0, before.0);
    let request = Request { gfp_mask: USUAL | GfpFlags::NOFAIL, ..kernel.request(4 * PAGE) };
    let area = kernel.v4().__vmalloc_node(&request).map(number).unwrap();
    vfree(&kernel, area).unwrap();
}

#[test]
fn areas_are_made_by_tasks_and_not_in_interrupts() {
    let rig = quiet();
    let kernel = rig.kernel();
    rig.sim.set_context(vmalloc::machine::Context::HardIrq);
    let refused = kernel.v2_6().vmalloc(PAGE).unwrap_err();
    assert_eq!(refused, Error::WrongContext(vmalloc::machine::Context::HardIrq));
    rig.sim.set_context(vmalloc::machine::Context::Task);
}

/// A region of 64 pages, in which the lowest hole is taken.
fn few_addresses() -> Config {
    Config::region(START..START + 64 * PAGE).placement(Placement::Lowest)
}

fn narrow() -> Rig {
    boot(Sim::builder().rates(Rates::NEVER), few_addresses())
}

fn said(kernel: &Tested<'_>) -> Vec<(Kern, String)> {
    kernel.host().said()
}

#[test]
fn exhaustion_is_told_in_the_words_of_each_age_at_most_once_in_ten_seconds() {
    let rig = narrow();
    let kernel = rig.kernel();
    let size = 70 * PAGE;
    let quarter = (0..3).map(|_| kernel.vmalloc(15 * PAGE).map(number).unwrap()).collect::<Vec<_>>();
    let refused = |error: Result<NonNull<u8>, Error>| assert_eq!(error.unwrap_err().errno(), Errno::EBUSY);
    let _ = size;
    let mut lines = Vec::new();
    let makes: [Make; 3] = [|k| k.v2_6().vmalloc(40 * PAGE), |k| k.v3_0().vmalloc(40 * PAGE), |k| k.vmalloc(40 * PAGE)];
    for make in makes {
        refused(make(&kernel));
        refused(make(&kernel));
        lines.push(said(&kernel)[0].clone());
        rig.sim.advance(11_000_000_000);
    }
    let warning = |text: String| (Kern::Warning, text);
    let bytes = 41 * PAGE;
    let end = START + 64 * PAGE;
    let expected = [
        "allocation failed: out of vmalloc space - use vmalloc=<size> to increase size.".to_owned(),
        format!("vmap allocation for size {bytes} failed: use vmalloc=<size> to increase size."),
        format!("vmalloc_node_range for size {bytes} failed: Address range restricted to {START:#x} - {end:#x}"),
    ];
    assert_eq!(lines, expected.map(warning));
    refused(kernel.v4().vmalloc(40 * PAGE));
    refused(kernel.v4().vmalloc(40 * PAGE));
    assert_eq!(said(&kernel).len(), 1, "one message in ten seconds");
    quarter.iter().for_each(|&area| vfree(&kernel, area).unwrap());
}

#[test]
fn warn_alloc_tells_task_message_mode_in_hex_and_names_nodes_stack_and_memory() {
    let rig = quiet();
    let kernel = rig.kernel();
    rig.sim.faults().fail_from(1);
    rig.reclaim(usize::MAX);
    rig.sim.faults().fail_from(1);
    assert!(kernel.v4().vmalloc(200 * PAGE).is_err());
    rig.sim.faults().fail_at(0);
    let lines = said(&kernel);
    let first =
        "insmod: vmalloc: allocation failure: 819200 bytes, mode:0xcc2(GFP_KERNEL|__GFP_HIGHMEM), nodemask=(null)";
    assert_eq!(lines[0], (Kern::Warning, first.to_owned()));
    assert_eq!([&lines[1].1, &lines[2].1], ["Call Trace:", "Mem-Info:"]);
    assert!(lines[4].1.ends_with(" pages RAM"), "{lines:?}");
    rig.sim.faults().fail_from(1);
    assert!(kernel.v4().vmalloc(200 * PAGE).is_err());
    rig.sim.faults().fail_at(0);
    assert_eq!(said(&kernel), [], "at most one in ten seconds");
}

#[test]
fn more_than_the_machine_has_is_told_and_nowarn_is_silent() {
    let rig = quiet();
    let kernel = rig.kernel();
    let size = (64 << 20) + PAGE;
    assert!(kernel.__vmalloc(size, GFP | GfpFlags::NOWARN).is_err());
    assert_eq!(said(&kernel), []);
    assert!(kernel.__vmalloc(size, GFP).is_err());
    let text =
        format!("insmod: vmalloc error: size {size}, exceeds total pages, mode:0xcc0(GFP_KERNEL), nodemask=(null)");
    assert_eq!(said(&kernel)[0].1, text);
    assert!(kernel.vmalloc(0).is_err() && kernel.vmalloc(0).is_err());
    assert_eq!(said(&kernel).len(), 1, "no bytes are told once");
}

/// The first lines of what was said.
fn heads(kernel: &Tested<'_>) -> Vec<String> {
    let rest = ", mode:0xcc0(GFP_KERNEL), nodemask=(null)";
    said(kernel).into_iter().filter_map(|(_, line)| Some(line.strip_suffix(rest)?.to_owned())).collect()
}

#[cfg(debug_assertions)]
#[test]
fn each_step_that_is_refused_is_told_by_its_name() {
    let rig = quiet();
    let kernel = rig.kernel();
    let (size, mut told) = (140 * PAGE, std::collections::BTreeSet::new());
    for n in 1.. {
        rig.reclaim(usize::MAX);
        rig.sim.faults().fail_from(n);
        let made = kernel.vmalloc(size);
        rig.sim.faults().fail_at(0);
        told.extend(heads(&kernel));
        rig.sim.advance(11_000_000_000);
        if let Ok(area) = made {
            vfree(&kernel, number(area)).unwrap();
            break;
        }
    }
    let area = kernel.vmalloc(600 * PAGE).map(number).unwrap();
    refuse_array(&rig, &kernel, area);
    told.extend(heads(&kernel));
    vfree(&kernel, area).unwrap();
    let text = |what: &str| format!("insmod: vmalloc error: size {size}, {what}");
    let array = format!("insmod: vmalloc error: size {}, failed to allocated page array size 4800", 600 * PAGE);
    assert_eq!(told, [text("failed to allocate pages"), text("failed to map pages"), array].into());
}

#[test]
fn a_refusal_that_a_flush_would_have_helped_is_ebusy_whatever_is_short() {
    for (config, pages, told) in
        [(Config::region(REGION), 9000, "failed to allocate pages"), (few_addresses(), 50, "Address range restricted")]
    {
        let rig = boot(Sim::builder().cpus(2).rates(Rates::NEVER), config);
        let kernel = rig.kernel();
        let area = kernel.vmalloc(pages * PAGE).map(number).unwrap();
        vfree(&kernel, area).unwrap();
        for gfp in [GfpFlags::ATOMIC, GfpFlags::NOWAIT] {
            let refused = kernel.__vmalloc(pages * PAGE, gfp).map(number).unwrap_err();
            assert!(matches!(refused, Error::Alloc(AllocError::WouldWait(..))), "{refused}");
            assert_eq!(refused.errno(), Errno::EBUSY, "CPU 1 has not flushed yet");
        }
        let lines = said(&kernel);
        assert!(lines.iter().any(|line| line.1.contains(told)), "{lines:?}");
        // Nothing waits any more: what is short is short.
        let area = kernel.vmalloc(pages * PAGE).map(number).unwrap();
        let refused = kernel.__vmalloc(pages * PAGE, GfpFlags::ATOMIC).map(number).unwrap_err();
        assert!(!matches!(refused, Error::Alloc(AllocError::WouldWait(..))), "{refused}");
        vfree(&kernel, area).unwrap();
        rig.state();
    }
}

#[test]
fn atomic_and_nowait_requests_neither_wait_nor_purge_and_are_refused_at_once() {
    let rig = narrow();
    let kernel = rig.kernel();
    let room = kernel.vmalloc(50 * PAGE).map(number).unwrap();
    let before = rig.stats().counts;
    for gfp in [GfpFlags::ATOMIC, GfpFlags::NOWAIT] {
        let area = kernel.__vmalloc(3 * PAGE, gfp).map(number).unwrap();
        vfree(&kernel, area).unwrap();
        assert!(kernel.__vmalloc(50 * PAGE, gfp).is_err());
    }
    let after = rig.stats().counts;
    assert_eq!(before.purges, after.purges);
    assert_eq!(kernel.host().ticks.load(SeqCst), 0);
    vfree(&kernel, room).unwrap();
    rig.state();
}

#[test]
fn an_nmi_in_the_middle_of_a_call_that_frees_an_area_by_parts_is_refused_and_changes_nothing() {
    type Free = fn(&Tested<'_>, usize) -> Result<(), Error>;
    let frees: [Free; 2] = [
        |kernel, area| vfree(kernel, area),
        // SAFETY: Y1: nobody uses it.
        |kernel, area| unsafe { kernel.remove_vm_area(area) }.map(drop),
    ];
    let refused = Arc::new(AtomicUsize::new(0));
    for (n, (which, free)) in (1..40).flat_map(|n| frees.into_iter().enumerate().map(move |free| (n, free))) {
        let rig = quiet();
        let kernel = rig.kernel();
        let area = kernel.v2_6().vmalloc(3 * PAGE).map(number).unwrap();
        rig.stamp(area, 3, 7);
        let frames: Vec<_> = (0..3).map(|page| kernel.vmalloc_to_page(area + page * PAGE).unwrap()).collect();
        let gone = Arc::new(AtomicUsize::new(0));
        let shared = std::ptr::from_ref(&kernel).expose_provenance();
        let (told, counter) = (gone.clone(), refused.clone());
        rig.sim.set_nmi(n, move |_| {
            // SAFETY: the kernel outlives the handler, which is taken off.
            let kernel = unsafe { &*std::ptr::with_exposed_provenance::<Tested<'_>>(shared) };
            match free(kernel, area) {
                Ok(()) => told.store(1, SeqCst),
                Err(error) => {
                    assert!(matches!(error, Error::WrongContext(_)), "{error:?}");
                    counter.fetch_add(1, SeqCst);
                }
            }
        });
        let other = rig.alloc(vmalloc::Req::pages(2)).map(number).unwrap();
        rig.sim.set_nmi(0, |_| ());
        if gone.load(SeqCst) == 0 {
            assert_eq!(kernel.find_vm_area(area).map(|area| area.nr_pages), Some(3), "step {n}");
            rig.check_stamps(area, 3, 7);
            vfree(&kernel, area).unwrap();
        } else if which == 1 {
            // The function leaves them to its caller.
            give_frames(&rig, &frames);
        }
        vfree(&kernel, other).unwrap();
        assert_eq!(kernel.vmlist().count(), 0, "step {n}");
    }
    assert!(refused.load(SeqCst) > 5, "{refused:?} were refused");
}
