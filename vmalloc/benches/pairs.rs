//! Whole calls, an allocation and its free, on a machine with real frames: what
//! `cargo xtask bench pairs` counts instructions of.
//!
//!     pairs CASE LOOPS [POLICY]
//!
//! The cases are those of Linux's `test_vmalloc`. Each runs LOOPS times to cached
//! up and then LOOPS times in [`measured`], the function that callgrind is told
//! to collect: everything in it counts, reclaiming, flushes and a tick every
//! 10,000 loops. One CPU, whose flush, pin and clearing of pages cost nothing;
//! no MMU reads the entries, so the store to the first byte is left out.
#![allow(unsafe_code, missing_docs)]

#[path = "../src/testing.rs"]
#[allow(dead_code, reason = "tests of the library use more of it")]
mod testing;

use std::hint::black_box;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use testing::{Host, Ram, Source, TestLock};
use vmalloc::frames::{MemoryRange, Zones};
use vmalloc::table::X86_64;
use vmalloc::units::{Node, PAGE_SIZE, Pfn};
use vmalloc::{Config, Gfp, Policy, Req, Vmalloc, frames, machine, units};

const START: usize = 0xffff_c900_0000_0000;
/// 32 TiB, as x86-64 Linux has.
const BYTES: usize = 1 << 45;
const RAM: MemoryRange = MemoryRange { first: Pfn(1 << 20), frames: 1 << 19, node: Node(0) };
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
const LOOPS_A_TICK: usize = 10_000;
/// Areas that live in `long_busy_list`.
const BUSY: usize = 15_000;
/// Areas of each of the two sets of `full_fit`: 32 MiB.
const SET: usize = (32 << 20) / PAGE_SIZE;

/// One CPU; tables that no MMU reads.
type Bench = Host<X86_64, Memory>;

/// Host memory, touched as it is used.
struct Memory {
    ram: Ram<Zones<TestLock>>,
    /// What pinning reads and writes.
    flags: AtomicU32,
}

// SAFETY: M2: all frames are host memory.
unsafe impl Source<X86_64> for Memory {
    type Frames = Zones<TestLock>;
    const CLEARS: bool = false;

    #[inline]
    fn frames(&self) -> &Self::Frames {
        &self.ram.zones
    }
    #[inline]
    fn bytes(machine: &Bench, frame: Pfn) -> NonNull<u8> {
        machine.frames.ram.at(frame)
    }
    #[inline]
    fn pin(&self) -> usize {
        let saved = self.flags.load(Relaxed);
        self.flags.store(0, Relaxed);
        saved as usize
    }
    #[inline]
    fn unpin(&self, saved: usize) {
        self.flags.store(saved as u32, Relaxed);
    }
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

/// What one loop does.
enum Work {
    /// So many pages.
    Fixed(usize),
    /// 100 pages and 1, freed in the same order.
    Two,
    /// 1..100 pages.
    Random(Random),
    /// 5 pages, aligned to 32 KiB, cleared.
    Aligned,
    /// 1..10 pages, aligned to up to 4 MiB, cleared.
    RandomAligned(Random),
    /// `vm_map_ram` of these frames.
    MapRam(Vec<Pfn>),
}

fn work(vm: &Vmalloc<Bench>, case: &str) -> Option<Work> {
    Some(match case.split_once(' ').unwrap_or((case, "")) {
        ("fix_size", pages) => Work::Fixed(pages.parse().ok()?),
        ("full_fit", _) => {
            let sets: Vec<_> = (0..2 * SET).map(|_| take(vm, Req::pages(1))).collect();
            sets.iter().step_by(2).for_each(|&at| give(vm, at));
            Work::Fixed(1)
        }
        ("long_busy_list", _) => {
            (0..BUSY).for_each(|_| _ = take(vm, Req::pages(1)));
            Work::Two
        }
        ("random_size", _) => Work::Random(Random(SEED)),
        ("fix_align", _) => Work::Aligned,
        ("random_size_align", _) => Work::RandomAligned(Random(SEED)),
        ("map_ram", pages) => {
            let frame = |_| vm.alloc_frame(Gfp::KERNEL, None).expect("memory");
            Work::MapRam((0..pages.parse().ok()?).map(frame).collect())
        }
        _ => return None,
    })
}

#[inline(always)]
fn take(vm: &Vmalloc<Bench>, req: Req) -> NonNull<u8> {
    black_box(vm.alloc(req).expect("memory"))
}

#[inline(always)]
fn give(vm: &Vmalloc<Bench>, at: NonNull<u8>) {
    // SAFETY: V1: nobody uses the area.
    unsafe { vm.free(at) }.expect("it lives");
}

/// Calls `pair` so many times, and the tick every now and then.
#[inline(always)]
fn each(vm: &Vmalloc<Bench>, loops: usize, mut pair: impl FnMut()) {
    for start in (0..loops).step_by(LOOPS_A_TICK) {
        (start..loops.min(start + LOOPS_A_TICK)).for_each(|_| pair());
        vm.tick();
    }
}

#[inline(always)]
fn run(vm: &Vmalloc<Bench>, work: &mut Work, loops: usize) {
    let pair = |req| give(vm, take(vm, req));
    match work {
        Work::Fixed(pages) => each(vm, loops, || pair(Req::bytes(*pages * PAGE_SIZE))),
        Work::Two => each(vm, loops, || {
            let areas = [100, 1].map(|pages| take(vm, Req::bytes(pages * PAGE_SIZE)));
            areas.into_iter().for_each(|at| give(vm, at));
        }),
        Work::Random(random) => each(vm, loops, || pair(Req::bytes((1 + random.below(100)) * PAGE_SIZE))),
        Work::Aligned => each(vm, loops, || pair(Req::bytes(5 * PAGE_SIZE).align(32 << 10).zeroed())),
        Work::RandomAligned(random) => each(vm, loops, || {
            let align = 1 << random.below(23);
            pair(Req::bytes((1 + random.below(10)) * PAGE_SIZE).align(align).zeroed())
        }),
        Work::MapRam(frames) => each(vm, loops, || {
            // SAFETY: P4: nobody gives the frames up.
            let at = unsafe { vm.map_ram(frames, None) }.expect("memory");
            // SAFETY: V1: nobody uses the area.
            unsafe { vm.unmap_ram(black_box(at), frames.len()) }.expect("it lives");
        }),
    }
}

/// What is counted.
#[unsafe(no_mangle)]
#[inline(never)]
fn measured(vm: &Vmalloc<Bench>, work: &mut Work, loops: usize) {
    run(vm, work, loops);
}

/// The same, not counted.
#[inline(never)]
fn warm_up(vm: &Vmalloc<Bench>, work: &mut Work, loops: usize) {
    run(vm, work, loops);
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let (case, loops, policy) = match &words[..] {
        [case, loops] => (case, loops, "unmap"),
        [case, loops, policy] => (case, loops, policy.as_str()),
        _ => return println!("pairs CASE LOOPS [unmap|park|keep]; cargo xtask bench pairs runs it under callgrind"),
    };
    let policy = match policy {
        "park" => Policy::Park,
        "keep" => Policy::Keep,
        _ => Policy::Unmap,
    };
    let vm = Vmalloc::new(Host::rooted(Memory { ram: Ram::with_memory(&[RAM]), flags: AtomicU32::new(0) }));
    // SAFETY: N1, N2: the machine is new, and nobody else knows it.
    unsafe { vm.init(Config::region(START..START + BYTES).policy(policy)) }.expect("vmalloc");
    vm.cpu_online();
    let mut work = work(&vm, case).expect("a case");
    let loops = loops.parse().expect("a number of loops");
    warm_up(&vm, &mut work, loops);
    measured(black_box(&vm), &mut work, loops);
}
