//! Table pages of large areas go back, however many they are (T1).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use vmalloc::machine::format::MemType;
use vmalloc::table::X86_64;
use vmalloc::{Config, Req};
use vmalloc_sim::{Booted, Rates, Sim};

/// Where no memory is.
const DEVICE: u64 = 1 << 40;
const START: usize = 0xffff_c900_0000_0000;

fn booted(cpus: u32) -> Booted<X86_64> {
    let sim = Sim::<X86_64>::builder().cpus(cpus).node(32 << 20).rates(Rates::NEVER).build();
    Booted::new(sim, Config::region(START..START + (1 << 40))).unwrap()
}

#[test]
fn the_table_pages_of_a_large_area_all_go_back_at_the_purge() {
    let vm = booted(2);
    let before = vm.stats().table_frames;
    for bytes in [1 << 21, 8 << 20, 64 << 20, 1 << 30] {
        let area = vm.ioremap(DEVICE, bytes, MemType::Uncached).unwrap();
        assert!(vm.stats().table_frames - before >= bytes >> 21);
        // SAFETY: V1.
        unsafe { vm.iounmap(area) }.unwrap();
        vm.purge();
        assert!(vm.stats().table_frames - before <= 4, "upper tables stay, {:?}", vm.stats());
        assert_eq!((vm.check(), vm.stats().reserved_pages), (Ok(()), 0));
    }
}

#[test]
fn the_tick_gives_table_pages_back_a_few_at_a_time() {
    let vm = booted(1);
    let area = vm.ioremap(DEVICE, 256 << 20, MemType::Uncached).unwrap();
    let before = vm.stats().table_frames;
    // SAFETY: V1.
    unsafe { vm.iounmap(area) }.unwrap();
    for n in 0..2000 {
        let had = vm.stats().table_frames;
        vm.tick();
        assert!(had - vm.stats().table_frames <= 16, "L3, at tick {n}");
    }
    assert!(before - vm.stats().table_frames >= 128, "{} of {before} are left", vm.stats().table_frames);
    assert_eq!(vm.check(), Ok(()));
}

/// How many things an idle tick does: the next one is interrupted by no NMI.
fn things_of_a_tick(vm: &Booted<X86_64>) -> u64 {
    let comes = |n| {
        let came = Arc::new(AtomicBool::new(false));
        let tells = Arc::clone(&came);
        vm.set_nmi(n, move |_| tells.store(true, Relaxed));
        vm.tick();
        vm.set_nmi(0, |_| {});
        came.load(Relaxed)
    };
    (1..).take_while(|&n| comes(n)).count() as u64
}

#[test]
fn a_tick_looks_for_empty_table_pages_until_all_are_gone_and_no_longer() {
    let vm = booted(1);
    let idle = things_of_a_tick(&vm);
    let area = vm.ioremap(DEVICE, 256 << 20, MemType::Uncached).unwrap();
    // SAFETY: V1.
    unsafe { vm.iounmap(area) }.unwrap();
    (0..4).for_each(|_| _ = vm.tick());
    assert!(things_of_a_tick(&vm) > idle, "it looks for them");
    (0..2000).for_each(|_| _ = vm.tick());
    vm.purge();
    assert_eq!(things_of_a_tick(&vm), idle);
}

#[test]
fn a_reservation_has_no_table_pages() {
    let vm = booted(2);
    let before = vm.stats().table_frames;
    let area = vm.reserve(Req::bytes(3 << 30)).unwrap();
    assert_eq!(vm.stats().table_frames, before);
    // SAFETY: V1.
    unsafe { vm.free(area) }.unwrap();
    vm.purge();
    assert_eq!((vm.check(), vm.stats().reserved_pages), (Ok(()), 0));
}

#[test]
fn a_neighbour_keeps_the_table_page_that_it_shares() {
    let vm = booted(2);
    let large = vm.ioremap(DEVICE, 200 << 20, MemType::Uncached).unwrap();
    let small = vm.alloc(Req::pages(600)).unwrap();
    // SAFETY: V1.
    unsafe { vm.iounmap(large) }.unwrap();
    vm.purge();
    assert_eq!(vm.check(), Ok(()), "all pages of the neighbour are bound");
    // SAFETY: V1.
    unsafe { vm.free(small) }.unwrap();
}

#[test]
fn the_bookkeeping_of_an_area_is_counted() {
    let vm = booted(2);
    assert_eq!(vm.stats().bytes_an_area(), None);
    for _ in 0..4000 {
        vm.alloc(Req::pages(1)).unwrap();
    }
    let bytes = vm.stats().bytes_an_area().unwrap();
    assert!((64..=100).contains(&bytes), "a header of 4096 bytes has 64 slots: {bytes} bytes");
}
