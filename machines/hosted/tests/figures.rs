//! What bookkeeping costs, as `vmalloc/docs/kernel.md` says it, and that the statistics
//! leave no frame out.
//!
//!     cargo test -p vmalloc-hosted --test figures -- --nocapture

use std::ptr::NonNull;
use vmalloc::machine::Machine;
use vmalloc::machine::frames::Frames;
use vmalloc::units::PAGE_SIZE;
use vmalloc::{Config, Req, Vmalloc};
use vmalloc_hosted::{Hosted, builder};

fn instance(cpus: u32) -> Vmalloc<Hosted> {
    builder().memory(256 << 20).cpus(cpus).build().unwrap()
}

/// Bytes an area of bookkeeping and of tables, for `areas` areas of `pages`
/// pages of addresses.
fn bytes_an_area(areas: usize, pages: usize) -> (usize, usize) {
    let vm = instance(1);
    let before = vm.stats();
    for _ in 0..areas {
        vm.reserve(Req::pages(pages)).unwrap();
    }
    let after = vm.stats();
    let bytes = |frames: usize| frames * PAGE_SIZE / areas;
    assert_eq!(after.bytes_an_area(), Some(bytes(after.bookkeeping_frames - before.bookkeeping_frames)));
    (bytes(after.bookkeeping_frames - before.bookkeeping_frames), bytes(after.table_frames - before.table_frames))
}

#[test]
fn a_small_area_costs_its_slot_and_a_share_of_its_chunk() {
    for pages in [1, 16, 100, 600] {
        let areas = if pages > 16 { 1_000 } else { 10_000 };
        let (bookkeeping, tables) = bytes_an_area(areas, pages);
        println!("{areas} areas of {pages} pages: {bookkeeping} B of bookkeeping and {tables} B of tables each");
        assert!(bookkeeping <= if pages > 16 { 320 } else { 80 }, "{bookkeeping} B");
        assert!(tables <= 24 + 9 * pages, "{tables} B");
    }
}

#[test]
fn init_takes_a_few_frames_a_cpu() {
    for cpus in [1, 4, 64] {
        let stats = instance(cpus).stats();
        println!("{cpus} CPUs: {} frames at init", stats.init_frames);
        assert_eq!(stats.init_frames, stats.bookkeeping_frames + stats.table_frames);
        assert!(stats.init_frames <= 16 + 5 * cpus as usize);
    }
}

/// Frames that are out, but for the machine's root table.
fn frames_out(vm: &Vmalloc<Hosted>) -> usize {
    let frames = vm.machine().frames();
    frames.total() - frames.free_now() - 1
}

fn frames_told(vm: &Vmalloc<Hosted>) -> usize {
    let stats = vm.stats();
    let held = stats.pooled_frames + stats.reserve_frames + stats.table_frames + stats.bookkeeping_frames;
    held + stats.pages + stats.waiting_pages + stats.cached_pages
}

#[test]
fn every_frame_that_is_out_is_in_the_statistics() {
    let vm = Vmalloc::new(builder().memory(64 << 20).cpus(1).machine().unwrap());
    let region = vm.machine().regions().next().unwrap();
    // SAFETY: N1: the machine's own region. N2: nobody else has it.
    unsafe { vm.init(Config::region(region).atomic_reserve(8)) }.unwrap();
    assert_eq!(frames_told(&vm), frames_out(&vm), "at init");
    let mut live: Vec<NonNull<u8>> = Vec::new();
    for round in 0..3_000 {
        // From one page to runs of their own, so that tables come and go.
        let pages = 1 + round * 7919 % [8, 80, 900][round % 3];
        live.push(vm.alloc(Req::pages(pages)).unwrap());
        if live.len() > 12 {
            let area = live.swap_remove(round * 31 % live.len());
            // SAFETY: V1: nobody uses it.
            unsafe { vm.free(area) }.unwrap();
        }
        if round % 50 == 0 {
            vm.purge();
            assert_eq!(frames_told(&vm), frames_out(&vm), "in round {round}");
        }
    }
    assert!(vm.stats().counts.tables_pruned > 0, "nothing was pruned: {:?}", vm.stats());
}
