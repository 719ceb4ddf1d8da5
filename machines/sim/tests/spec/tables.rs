//! Table pages of large areas go back, however many they are (T1).

use vmalloc::table::X86_64;
use vmalloc::{Config, Req};
use vmalloc_sim::{Booted, Rates, Sim};

const START: usize = 0xffff_c900_0000_0000;

fn booted() -> Booted<X86_64> {
    let sim = Sim::<X86_64>::builder().cpus(2).node(32 << 20).rates(Rates::NEVER).build();
    Booted::new(sim, Config::region(START..START + (1 << 40))).unwrap()
}

#[test]
fn the_table_pages_of_a_large_area_all_go_back_at_the_purge() {
    let vm = booted();
    let before = vm.stats().table_frames;
    for bytes in [1 << 21, 64 << 20, 1 << 30, 3 << 30] {
        let area = vm.reserve(Req::bytes(bytes)).unwrap();
        assert!(vm.stats().table_frames - before >= bytes >> 21);
        // SAFETY: V1.
        unsafe { vm.free(area) }.unwrap();
        vm.purge();
        assert!(vm.stats().table_frames - before <= 4, "upper tables stay, {:?}", vm.stats());
        assert_eq!((vm.check(), vm.stats().reserved_pages), (Ok(()), 0));
    }
}

#[test]
fn a_neighbour_keeps_the_table_page_that_it_shares() {
    let vm = booted();
    let large = vm.reserve(Req::bytes(200 << 20)).unwrap();
    let small = vm.alloc(Req::pages(600)).unwrap();
    // SAFETY: V1.
    unsafe { vm.free(large) }.unwrap();
    vm.purge();
    assert_eq!(vm.check(), Ok(()), "all pages of the neighbour are bound");
    // SAFETY: V1.
    unsafe { vm.free(small) }.unwrap();
}

#[test]
fn the_bookkeeping_of_an_area_is_counted() {
    let vm = booted();
    assert_eq!(vm.stats().bytes_an_area(), None);
    for _ in 0..4000 {
        vm.alloc(Req::pages(1)).unwrap();
    }
    let bytes = vm.stats().bytes_an_area().unwrap();
    assert!((64..=100).contains(&bytes), "a header of 4096 bytes has 64 slots: {bytes} bytes");
}
