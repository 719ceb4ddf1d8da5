//! Memory goes back to Linux: what is free after a purge is in nobody's books. Counted, not timed.

use std::fs;
use std::iter;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use vmalloc::machine::Machine;
use vmalloc::machine::format::Prot;
use vmalloc::units::{PAGE_SIZE, Pfn};
use vmalloc::{Policy, Req, Vmalloc};
use vmalloc_hosted::{Hosted, builder};
use vmalloc_process::{assert_no_area_is_left, frames_in_all};

const MIB: usize = 1 << 20;

fn instance(policy: Policy) -> Vmalloc<Hosted> {
    builder().memory(1024 * MIB).cpus(2).policy(policy).build().unwrap()
}

fn resident(vm: &Vmalloc<Hosted>) -> usize {
    vm.machine().resident().unwrap()
}

/// Bytes that this process has mapped of an instance's memory, as often as they are mapped.
fn mapped(vm: &Vmalloc<Hosted>) -> usize {
    let direct = vm.machine().virt(Pfn(0)).addr().get();
    let ours: Vec<_> = vm.machine().regions().chain(iter::once(direct..direct + vm.machine().ram())).collect();
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut is_ours, mut bytes) = (false, 0);
    for line in smaps.lines() {
        if let Some(kib) = line.strip_prefix("Rss:").filter(|_| is_ours) {
            bytes += kib.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10;
        } else if let Some(start) = line.split_once('-').and_then(|(start, _)| usize::from_str_radix(start, 16).ok()) {
            is_ours = ours.iter().any(|range| range.contains(&start));
        }
    }
    bytes
}

/// Writes 64 MiB in areas of different sizes, and frees them.
fn use_and_free(vm: &Vmalloc<Hosted>) {
    let mut areas = Vec::new();
    let mut bytes = 0;
    while bytes < 64 * MIB {
        let mut area = vm.area(Req::pages(1 + areas.len() * 7919 % 200)).unwrap();
        area.fill(1);
        bytes += area.len();
        areas.push(area);
    }
    assert!(resident(vm) > 63 * MIB, "{}", resident(vm));
}

#[test]
fn what_was_freed_and_purged_is_given_back_to_linux_whatever_the_policy() {
    for policy in [Policy::Keep, Policy::Unmap, Policy::Strict] {
        let vm = instance(policy);
        use_and_free(&vm);
        vm.purge();
        assert!(resident(&vm) < 2 * MIB, "{policy:?}: {} bytes", resident(&vm));
        assert_eq!(vm.machine().give_back().unwrap(), 0, "all was given back");
        assert_eq!(vm.check(), Ok(()));
    }
}

#[test]
fn memory_is_given_back_while_others_allocate_and_every_byte_stays_right() {
    let vm = builder().memory(8 * MIB).cpus(3).policy(Policy::Unmap).build().unwrap();
    let frames = frames_in_all(&vm);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers = [0u8, 1].map(|thread| scope.spawn(move_worker(&vm, thread)));
        scope.spawn(|| {
            while !done.load(Relaxed) {
                vm.reclaim(usize::MAX);
                vm.machine().give_back().unwrap();
            }
        });
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        done.store(true, Relaxed);
    });
    assert_no_area_is_left(&vm, frames);
}

/// Makes areas of half of the memory, and looks at their bytes before it frees them.
fn move_worker(vm: &Vmalloc<Hosted>, thread: u8) -> impl FnOnce() + Send + '_ {
    move || {
        for round in 0..300u32 {
            let mut areas: Vec<_> = (0..9).map(|n| vm.area(Req::pages(1 + n * 7)).unwrap()).collect();
            let mark = thread << 7 | (round % 100 + 1) as u8;
            for area in &mut areas {
                assert!(area.iter().all(|&byte| byte == 0), "not clear");
                area.fill(mark);
            }
            assert!(areas.iter().all(|area| area.iter().all(|&byte| byte == mark)), "somebody else's bytes");
        }
    }
}

#[test]
fn a_purge_in_a_signal_handler_or_an_interrupt_gives_nothing_back_and_waits_for_nobody() {
    let vm = instance(Policy::Unmap);
    use_and_free(&vm);
    vmalloc_hosted::in_interrupt(|| vm.purge());
    assert!(resident(&vm) > 32 * MIB);
    vm.reclaim(usize::MAX);
    assert!(resident(&vm) < 2 * MIB);
}

#[cfg(debug_assertions)]
#[test]
fn where_linux_refuses_to_punch_the_other_way_is_taken_and_else_all_stays_as_it_was() {
    let vm = instance(Policy::Unmap);
    use_and_free(&vm);
    let faults = vm.machine().faults();
    faults.fail_from(1);
    assert!(vm.machine().give_back().is_err());
    faults.fail_at(0);
    let before = resident(&vm);
    // The first way is refused, the second is not.
    faults.fail_at(1);
    assert!(vm.machine().give_back().unwrap() > 0);
    assert!(resident(&vm) < before);
    vm.purge();
    use_and_free(&vm);
    assert_eq!(vm.check(), Ok(()));
}

#[test]
fn a_page_of_an_area_is_mapped_once() {
    let vm = instance(Policy::Unmap);
    let area = vm.area(Req::bytes(64 * MIB)).unwrap();
    let with = mapped(&vm);
    drop(area);
    vm.reclaim(usize::MAX);
    let (without, left) = (mapped(&vm), resident(&vm));
    assert!((64 * MIB..66 * MIB).contains(&with), "{with} bytes are mapped for 64 MiB");
    assert!(without < 2 * MIB && left < 2 * MIB, "{without} bytes are mapped of nothing, {left} held");
}

#[test]
fn an_area_that_may_not_be_written_is_clear_all_the_same() {
    let vm = instance(Policy::Keep);
    for _ in 0..100 {
        let used = vm.alloc(Req::pages(3)).unwrap();
        let sealed = vm.alloc(Req::pages(3).zeroed().prot(Prot::RO)).unwrap();
        // SAFETY: three pages each, of which one may be read; V1.
        unsafe {
            used.write_bytes(7, 3 * PAGE_SIZE);
            assert!(std::slice::from_raw_parts(sealed.as_ptr(), 3 * PAGE_SIZE).iter().all(|&byte| byte == 0));
            vm.free(used).unwrap();
            vm.free(sealed).unwrap();
        }
        let both = vm.area(Req::pages(3)).unwrap();
        assert!(both.iter().all(|&byte| byte == 0));
    }
}
