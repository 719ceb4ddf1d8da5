//! Areas of an instance on this machine: real loads and stores.

mod common;

use common::{is_writable, maps_in};
use std::ptr::NonNull;
use std::sync::mpsc;
use vmalloc::area::What;
use vmalloc::machine::Machine;
use vmalloc::machine::format::{MemType, Prot};
use vmalloc::units::{PAGE_SIZE, Pfn};
use vmalloc::{AllocError, Caller, FreeError, Gfp, Kind, Placement, Policy, Req, Vmalloc};
use vmalloc_hosted::{BUDGET_SPENT, Builder, Hosted, builder, in_interrupt, is_readable, prefer};
use vmalloc_process::in_child;

fn small() -> Builder {
    builder().memory(64 << 20).region(1 << 30).cpus(4)
}

fn instance() -> Vmalloc<Hosted> {
    small().build().unwrap()
}

/// The first byte of page `n` of an area.
fn page(area: NonNull<u8>, n: usize) -> *mut u8 {
    area.as_ptr().wrapping_add(n * PAGE_SIZE)
}

fn free(vm: &Vmalloc<Hosted>, area: NonNull<u8>) {
    // SAFETY: V1: the tests free what they made and use it no more.
    unsafe { vm.free(area) }.unwrap();
}

/// Everything that was taken has come back, but for what `init` took.
fn assert_empty(vm: &Vmalloc<Hosted>) {
    vm.purge();
    vm.check().unwrap();
    let stats = vm.stats();
    assert_eq!((stats.areas, stats.pages, stats.waiting_pages), (0, 0, 0));
}

#[test]
fn an_area_is_memory_and_its_guard_is_not() {
    for placement in [Placement::Classes, Placement::Lowest] {
        let vm = small().placement(placement).build().unwrap();
        let mut areas: Vec<_> = (1..40).map(|n| vm.area(Req::pages(n)).unwrap()).collect();
        for (n, area) in (1u8..).zip(&mut areas) {
            assert!(area.iter().all(|&byte| byte == 0));
            area.fill(n);
        }
        for (n, area) in (1u8..).zip(&areas) {
            assert!(area.iter().all(|&byte| byte == n));
            let guard = area.as_ptr_range().end;
            assert!(!is_readable(guard), "{placement:?}, {n} pages");
            assert!(matches!(vm.whatis(guard.addr()), What::Guard { below: Some(_), past: 0, .. }));
        }
        drop(areas);
        assert_empty(&vm);
    }
}

#[test]
fn the_frames_behind_an_area_can_be_mapped_a_second_time() {
    let vm = instance();
    let mut area = vm.area(Req::pages(5)).unwrap();
    let frames: Vec<Pfn> = area.frames().collect();
    // SAFETY: P1: the area holds its frames during the call.
    let alias = unsafe { vm.vmap(&frames, Req::bytes(0).prot(Prot::RO)) }.unwrap();
    area[4 * PAGE_SIZE] = 42;
    // SAFETY: mapped just now.
    assert_eq!(unsafe { page(alias, 4).read() }, 42);
    assert!(!is_writable(page(alias, 0)));
    assert!(!is_readable(page(alias, 5)));
    drop(area);
    vm.purge();
    let others: Vec<Pfn> = std::iter::from_fn(|| vm.alloc_frame(Gfp::KERNEL, None).ok()).collect();
    assert!(!others.is_empty() && others.iter().all(|frame| !frames.contains(frame)));
    // SAFETY: P3.
    others.iter().for_each(|&frame| unsafe { vm.free_frame(frame) });
    // SAFETY: the mapping counts as a holder of the frames.
    assert_eq!(unsafe { page(alias, 4).read() }, 42);
    // SAFETY: used no more.
    unsafe { vm.vunmap(alias) }.unwrap();
    assert_empty(&vm);
    assert!(!is_readable(page(alias, 4)));
}

#[cfg(debug_assertions)]
#[test]
fn frames_in_several_runs_are_mapped_in_the_order_in_which_they_are_given() {
    let vm = instance();
    let mut area = vm.area(Req::pages(6)).unwrap();
    (0..6).for_each(|n| area[n * PAGE_SIZE] = n as u8);
    let frames: Vec<Pfn> = area.frames().collect();
    let order = [0, 1, 4, 5, 2, 3];
    // SAFETY: P1: the area holds its frames for longer.
    let alias = unsafe { vm.vmap(&order.map(|n| frames[n]), Req::bytes(0)) }.unwrap();
    // SAFETY: mapped just now.
    let seen = [0, 1, 2, 3, 4, 5].map(|n| unsafe { page(alias, n).read() });
    assert_eq!(seen, order.map(|n| n as u8));
    assert!(!is_readable(page(alias, 6)));
    // SAFETY: used no more.
    unsafe { vm.vunmap(alias) }.unwrap();
    // How many calls of Linux that takes: each of them may be refused.
    let refused = |order: [usize; 6], n| {
        vm.machine().faults().fail_at(n);
        // SAFETY: P1: the area holds its frames for longer.
        let made = unsafe { vm.vmap(&order.map(|n| frames[n]), Req::bytes(0)) };
        vm.machine().faults().fail_at(0);
        // SAFETY: nobody has used it.
        made.map(|alias| unsafe { vm.vunmap(alias) }.unwrap()).is_err()
    };
    let calls = |order| (1..).take_while(|&n| refused(order, n)).count();
    assert_eq!(calls(order), calls([0, 1, 2, 3, 4, 5]) + 2, "two runs more are two mappings more");
    drop(area);
    assert_empty(&vm);
}

#[test]
fn under_strict_a_use_after_free_faults_at_once() {
    let vm = small().policy(Policy::Strict).build().unwrap();
    for pages in [1, 5, 300] {
        let area = vm.alloc(Req::pages(pages)).unwrap();
        assert!(is_readable(page(area, pages - 1)));
        free(&vm, area);
        assert!(!(0..pages).any(|n| is_readable(page(area, n))), "{pages} pages");
    }
    assert_empty(&vm);
}

#[test]
fn whoever_waits_for_a_flush_of_everything_is_told_that_it_came() {
    let vm = instance();
    let area = vm.alloc(Req::pages(3)).unwrap();
    free(&vm, area);
    assert!(vm.unmap_aliases());
    assert!(!(0..3).any(|n| is_readable(page(area, n))));
    assert_empty(&vm);
}

#[test]
fn a_device_is_mapped_where_it_is() {
    let vm = small().device(1 << 20).build().unwrap();
    let (phys, bytes) = vm.machine().device();
    let registers = vm.ioremap(phys + 0x2008, 16, MemType::Uncached).unwrap();
    // SAFETY: mapped just now; the device is memory of the machine's.
    unsafe {
        registers.cast::<u64>().write_volatile(0x1234);
        assert_eq!(vm.machine().virt(Pfn::containing(phys + 0x2008)).add(8).cast::<u64>().read(), 0x1234);
    }
    let beyond = vm.ioremap(phys + bytes as u64, 16, MemType::Uncached);
    assert_eq!(beyond, Err(AllocError::Refused(libc::ENXIO)));
    // SAFETY: used no more.
    unsafe { vm.iounmap(registers) }.unwrap();
    assert_empty(&vm);
}

#[test]
fn a_second_region_is_one_more_reservation() {
    let vm = small().region(64 << 20).build().unwrap();
    let modules = vm.machine().regions().nth(1).unwrap();
    let text = vm.alloc(Req::pages(2).region(vmalloc::area::RegionId(1))).unwrap();
    assert!(modules.contains(&text.addr().get()) && is_writable(page(text, 1)));
    free(&vm, text);
    let addresses = vm.reserve(Req::pages(10)).unwrap();
    assert!(!is_readable(addresses.as_ptr()));
    free(&vm, addresses);
    assert_empty(&vm);
}

#[test]
fn the_budget_is_an_error_with_its_number_and_frees_make_room() {
    let vm = small().vma_budget(64).build().unwrap();
    let mut live = Vec::new();
    let error = loop {
        // Frames that are taken by turns are not adjacent, so each area costs a VMA.
        match vm.area(Req::pages(3)) {
            Ok(area) => live.push(area),
            Err(error) => break error,
        }
    };
    assert_eq!(error, AllocError::Refused(BUDGET_SPENT));
    let vmas = vm.machine().vmas();
    assert!(vmas.used <= vmas.allowed && live.len() > 20, "{vmas:?} {}", live.len());
    live.truncate(live.len() / 2);
    for _ in 0..10 {
        live.push(vm.area(Req::pages(3)).unwrap());
    }
    live.clear();
    assert_empty(&vm);
    assert_eq!(vm.machine().vmas().used, maps_in(vm.machine().regions().next().unwrap()) + 2);
}

#[cfg(debug_assertions)]
#[test]
fn each_refusal_of_linux_is_an_error_that_changes_nothing() {
    let vm = instance();
    let keep = vm.area(Req::pages(2)).unwrap();
    assert_eq!(vm.purge(), 0);
    for n in 1.. {
        let before = vm.stats();
        vm.machine().faults().fail_at(n);
        let result = vm.alloc(Req::pages(200).prot(Prot::RO));
        vm.machine().faults().fail_at(0);
        match result {
            Ok(area) => {
                free(&vm, area);
                break;
            }
            Err(error) => assert_eq!(error, AllocError::Refused(libc::ENOMEM)),
        }
        vm.purge();
        vm.check().unwrap();
        let after = vm.stats();
        assert_eq!((after.areas, after.pages, after.waiting_pages), (before.areas, before.pages, 0));
    }
    drop(keep);
    assert_empty(&vm);
}

#[test]
fn wrong_frees_are_named_and_change_nothing() {
    let vm = instance();
    let area = vm.alloc(Req::pages(3)).unwrap();
    let foreign = NonNull::from(&0u8);
    let inside = NonNull::new(page(area, 1)).unwrap();
    // SAFETY: each of these is refused.
    let wrong = |at| unsafe { vm.free(at) }.unwrap_err();
    assert!(matches!(wrong(foreign), FreeError::NotAnArea(_)));
    assert!(matches!(wrong(inside), FreeError::NotItsStart { .. }));
    free(&vm, area);
    assert!(matches!(wrong(area), FreeError::DoubleFree { .. }));
    for cpu in 0..4 {
        prefer(cpu);
        assert!(matches!(wrong(area), FreeError::DoubleFree { .. }), "on CPU {cpu}");
    }
    assert_empty(&vm);
}

#[test]
fn two_instances_know_nothing_of_each_other() {
    let (one, two) = (instance(), instance());
    let (a, b) = (one.alloc(Req::pages(4)).unwrap(), two.alloc(Req::pages(4)).unwrap());
    // SAFETY: allocated just now.
    unsafe {
        page(a, 0).write(1);
        page(b, 0).write(2);
        assert_eq!(page(a, 0).read(), 1);
        assert!(one.free(b).is_err());
    }
    assert_eq!(two.whatis(a.addr().get()), What::NotOurs);
    drop(one);
    assert!(!is_readable(a.as_ptr()) && is_readable(b.as_ptr()));
    free(&two, b);
    assert_empty(&two);
}

#[test]
fn a_child_cannot_reach_an_area() {
    let vm = instance();
    let mut area = vm.area(Req::pages(8)).unwrap();
    area[0] = 5;
    let at = area.as_mut_ptr();
    let status = in_child(|| {
        // SAFETY: the parent's memory: here it faults.
        unsafe { at.write_volatile(6) };
        0
    });
    assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV);
    assert_eq!(area[0], 5);
}

#[test]
fn a_free_from_an_interrupt_never_waits_even_under_strict() {
    let vm = small().policy(Policy::Strict).build().unwrap();
    let area = vm.alloc(Req::pages(3)).unwrap();
    in_interrupt(|| free(&vm, area));
    let again = in_interrupt(|| vm.alloc(Req::pages(3).gfp(Gfp::ATOMIC))).unwrap();
    free(&vm, again);
    assert_empty(&vm);
}

#[test]
fn threads_allocate_and_free_each_others_areas_and_every_byte_is_right() {
    const ROUNDS: usize = 3000;
    let vm = small().memory(256 << 20).build().unwrap();
    std::thread::scope(|scope| {
        let (pass, took): (Vec<_>, Vec<_>) = (0..4).map(|_| mpsc::sync_channel::<(usize, usize, u8)>(64)).unzip();
        for (t, inbox) in took.into_iter().enumerate() {
            let (vm, next) = (&vm, pass[(t + 1) % 4].clone());
            scope.spawn(move || {
                prefer(t as u32);
                let check_and_free = |(start, pages, value): (usize, usize, u8)| {
                    let area = NonNull::new(std::ptr::with_exposed_provenance_mut::<u8>(start)).unwrap();
                    for n in 0..pages {
                        // SAFETY: the sender gave the area to us.
                        assert_eq!(unsafe { page(area, n).read() }, value);
                    }
                    free(vm, area);
                };
                for round in 0..ROUNDS {
                    let pages = 1 + (round * 7 + t) % 12;
                    let area = vm.alloc(Req::pages(pages)).unwrap();
                    let value = (round + t) as u8;
                    // SAFETY: allocated just now.
                    (0..pages).for_each(|n| unsafe { page(area, n).write(value) });
                    let parcel = (area.as_ptr().expose_provenance(), pages, value);
                    if let Err(mpsc::TrySendError::Full(parcel) | mpsc::TrySendError::Disconnected(parcel)) =
                        next.try_send(parcel)
                    {
                        check_and_free(parcel);
                    }
                    inbox.try_iter().for_each(check_and_free);
                }
                drop(next);
                inbox.iter().for_each(check_and_free);
            });
        }
        drop(pass);
    });
    let counts = vm.stats().counts;
    assert_eq!(counts.allocs, 4 * ROUNDS as u64);
    assert!(counts.remote_frees > 0, "{counts:?}");
    assert_empty(&vm);
}

#[test]
fn the_listing_names_callers_by_the_symbolizer() {
    let vm = instance();
    let _area = vm.area(Req::bytes(100).caller(Caller::Return(0x1234))).unwrap();
    vm.machine().set_symbolizer(Box::new(|pc, f| write!(f, "somebody+{pc:#x}/0x2000")));
    let mut text = String::new();
    vm.list(&mut text).unwrap();
    assert!(text.contains(" 8192 somebody+0x1234/0x2000 pages=1 vmalloc"), "{text}");
    assert_eq!(vm.areas().filter(|area| area.kind == Kind::Vmalloc).count(), 1);
}

#[test]
fn an_instance_that_cannot_begin_says_why() {
    let error = builder().memory(8 * PAGE_SIZE).region(1 << 20).build().err().unwrap();
    assert!(error.to_string().contains("frames of bookkeeping"), "{error}");
    let error = (0..5).fold(builder(), |b, _| b.region(1 << 20)).build().err().unwrap();
    assert!(error.to_string().contains("5 regions"), "{error}");
}

#[test]
fn pages_that_become_read_only_cannot_be_written_until_they_may_be_again() {
    let vm = instance();
    let area = vm.alloc(Req::pages(8)).unwrap();
    let at = |n| page(area, n).addr();
    // SAFETY: the area is ours.
    (0..8).for_each(|n| unsafe { page(area, n).write(n as u8) });
    let writable = || (0..8).filter(|&n| is_writable(page(area, n).wrapping_add(9))).collect::<Vec<_>>();
    // SAFETY: V2: nobody else uses the area.
    let protect = |n, pages, prot| unsafe { vm.protect(at(n), pages, prot) };
    protect(2, 3, Prot::RO).unwrap();
    assert_eq!(writable(), [0, 1, 5, 6, 7]);
    // SAFETY: live pages.
    assert!((0..8).all(|n| unsafe { page(area, n).read() } == n as u8), "the bytes stay");
    protect(4, 4, Prot::RX).unwrap();
    assert_eq!(writable(), [0, 1]);
    assert_eq!(protect(0, 8, Prot::WRITE | Prot::EXEC), Err(AllocError::WriteExec));
    assert_eq!(protect(0, 9, Prot::RO).map_err(|why| why.to_string().contains("no range")), Err(true));
    assert_eq!(vm.machine().vmas().used, maps_in(vm.machine().regions().next().unwrap()) + 2, "H3");
    protect(0, 8, Prot::RW).unwrap();
    assert_eq!(writable(), [0, 1, 2, 3, 4, 5, 6, 7]);
    protect(1, 1, Prot::RO).unwrap();
    free(&vm, area);
    vm.purge();
    assert!((0..8).all(|n| !is_readable(page(area, n))));
    assert_eq!(vm.check(), Ok(()));
}

#[cfg(debug_assertions)]
#[test]
fn a_protection_that_linux_refuses_is_refused_by_number_and_all_pages_are_as_before() {
    let vm = instance();
    let area = vm.alloc(Req::pages(6)).unwrap();
    // SAFETY: V2: nobody else uses the area.
    let protect = |n, pages, prot| unsafe { vm.protect(page(area, n).addr(), pages, prot) };
    protect(1, 2, Prot::RO).unwrap();
    let vmas = vm.machine().vmas();
    vm.machine().faults().fail_at(1);
    assert_eq!(protect(0, 6, Prot::RX), Err(AllocError::Refused(libc::ENOMEM)));
    vm.machine().faults().fail_at(0);
    assert_eq!(vm.machine().vmas(), vmas);
    let writable: Vec<_> = (0..6).filter(|&n| is_writable(page(area, n))).collect();
    assert_eq!(writable, [0, 3, 4, 5]);
    free(&vm, area);
}
