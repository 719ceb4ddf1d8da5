//! The address layer alone, under random replacement: what `cargo xtask bench`
//! counts instructions of.
//!
//!     space calls|layer LIVE MAX_PAGES WARM_UP PAIRS
//!
//! `calls` goes the whole way through an instance, `layer` through the address
//! layer alone (`space/layer.rs`, in a build with `--cfg internals`). It fills an instance with LIVE areas of 1..MAX_PAGES pages, replaces a random
//! one WARM_UP times, then PAIRS times through [`measured_pair`], the function
//! that callgrind is told to collect. Prints the address span over the pages
//! that live, guards counted: without PAIRS, the mean of eight runs.
//!
//! Areas are *reserved*: no frames, no entries; all else runs as ever: plan,
//! CPU's chunks, look-up, batches, flushes, grace, chunks and the tables under them. One
//! CPU, whose flush is immediate; a tick every 10,000 pairs, which is counted.
#![allow(unsafe_code, missing_docs)]

#[cfg(internals)]
#[path = "space/layer.rs"]
mod layer;
#[cfg(not(internals))]
mod layer {
    pub fn run(_: [usize; 4]) {
        println!("built without the address layer: cargo xtask bench builds with RUSTFLAGS=\"--cfg internals\"");
    }
}
#[path = "../src/testing.rs"]
#[allow(dead_code, reason = "tests of the library use more of it")]
mod testing;

use std::hint::black_box;
use std::ptr::NonNull;
use testing::{Host, HostPages};
use vmalloc::table::X86_64;
use vmalloc::{Config, Req, Vmalloc, frames, machine, units};

const START: usize = 0xffff_c900_0000_0000;
/// 32 TiB, as x86-64 Linux has.
const BYTES: usize = 1 << 45;
/// How many runs a mean is of.
const SEEDS: u64 = 8;
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
const PAIRS_A_TICK: usize = 10_000;

/// One CPU, host pages for frames, tables that no MMU reads.
type Bench = Host<X86_64, HostPages>;

/// What is counted: one area freed, another one reserved.
#[unsafe(no_mangle)]
#[inline(never)]
fn measured_pair(vm: &Vmalloc<Bench>, old: NonNull<u8>, pages: usize) -> NonNull<u8> {
    // SAFETY: V1: nobody uses a reservation.
    unsafe { vm.free(old) }.expect("it lives");
    vm.reserve(Req::pages(pages)).expect("32 TiB are enough")
}

/// What is counted as well.
#[unsafe(no_mangle)]
#[inline(never)]
fn measured_tick(vm: &Vmalloc<Bench>) {
    vm.tick();
}

/// The same steps, not counted.
#[inline(never)]
fn pair(vm: &Vmalloc<Bench>, old: NonNull<u8>, pages: usize) -> NonNull<u8> {
    // SAFETY: V1: nobody uses a reservation.
    unsafe { vm.free(old) }.expect("it lives");
    vm.reserve(Req::pages(pages)).expect("32 TiB are enough")
}

/// xorshift64*
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) as u128 * end as u128) >> 64) as usize
    }
}

/// Address space from the first page of an area to the last guard, over the
/// pages of areas and guards.
fn span(vm: &Vmalloc<Bench>) -> f64 {
    let (mut first, mut end, mut live) = (usize::MAX, 0, 0);
    for area in vm.areas() {
        first = first.min(area.start.0);
        end = end.max(area.start.0 + area.size());
        live += area.size();
    }
    (end - first) as f64 / live as f64
}

fn bench() -> Bench {
    Host::rooted(HostPages { dirt: None, ..HostPages::default() })
}

fn machine() -> Vmalloc<Bench> {
    let vm = Vmalloc::new(bench());
    // SAFETY: N1, N2: the machine is new, and nobody else knows it.
    unsafe { vm.init(Config::region(START..START + BYTES).batch_pages(512)) }.expect("vmalloc");
    vm.cpu_online();
    vm
}

/// The whole way through an instance: the mean span of [`SEEDS`] runs, or of one that is counted.
fn run_calls(case: [usize; 4]) {
    let seeds = if case[3] == 0 { SEEDS } else { 1 };
    let spans: f64 = (0..seeds).map(|n| replace(case, Random(SEED ^ n))).sum();
    println!("span {:.4}", spans / seeds as f64);
}

/// Replaces random areas, and returns the span in the end.
fn replace([live, max_pages, warm_up, pairs]: [usize; 4], mut random: Random) -> f64 {
    let vm = machine();
    let size = |random: &mut Random| 1 + random.below(max_pages);
    let mut areas: Vec<_> = (0..live).map(|_| vm.reserve(Req::pages(size(&mut random))).expect("room")).collect();
    for n in 0..warm_up + pairs {
        let (at, pages) = (random.below(live), size(&mut random));
        let replace = if n < warm_up { pair } else { measured_pair };
        areas[at] = replace(black_box(&vm), areas[at], pages);
        match n % PAIRS_A_TICK {
            0 if n < warm_up => drop(vm.tick()),
            0 => measured_tick(&vm),
            _ => (),
        }
    }
    span(&vm)
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Vec<usize> = words.iter().filter_map(|word| word.parse().ok()).collect();
    match (words.first().map(String::as_str), &numbers[..]) {
        (Some("calls"), &[live, pages, warm_up, pairs]) => run_calls([live, pages, warm_up, pairs]),
        (Some("layer"), &[live, pages, warm_up, pairs]) => layer::run([live, pages, warm_up, pairs]),
        _ => println!("space calls|layer LIVE MAX_PAGES WARM_UP PAIRS; cargo xtask bench runs it under callgrind"),
    }
}
