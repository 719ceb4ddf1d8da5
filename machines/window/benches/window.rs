//! What the window costs beside `mmap`, and what it costs the process: CPU time of the thread, minima,
//! in one run.
//!
//! ```sh
//! cargo bench -p vmalloc-window
//! ```
//!
//! A line that has an aim says whether it is reached.

use std::time::Instant;
use vmalloc::{Policy, Req, Vmalloc};
use vmalloc_window::{Window, builder};

const PAGE: usize = 4096;
const GIB: usize = 1 << 30;
/// Pairs of a sample, and samples of a minimum.
const PAIRS: usize = 2000;
const SAMPLES: usize = 150;

const MADV_GUARD_INSTALL: i32 = 102;
const MADV_GUARD_REMOVE: i32 = 103;

fn cpu_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Nanoseconds that each of some actions takes at least, measured in turns so that all see the same
/// weather.
fn minima(actions: &mut [&mut dyn FnMut()]) -> Vec<f64> {
    let mut best = vec![f64::MAX; actions.len()];
    for _ in 0..SAMPLES {
        for (best, action) in best.iter_mut().zip(actions.iter_mut()) {
            let begin = cpu_ns();
            (0..PAIRS).for_each(|_| action());
            *best = best.min((cpu_ns() - begin) as f64 / PAIRS as f64);
        }
    }
    best
}

fn instance(window: usize, memory: usize, policy: Policy) -> Vmalloc<Window> {
    builder().window(window).memory(memory).policy(policy).build().expect("a process has room")
}

/// An area of a page that is written once and freed.
fn pair(vm: &Vmalloc<Window>) {
    let area = vm.alloc(Req::pages(1)).expect("memory enough");
    // SAFETY: V1: it lives until it is freed, and nobody else has it.
    unsafe {
        area.as_ptr().write_volatile(1);
        vm.free(area).expect("it lives");
    }
}

/// Memory of this process alone, for loads and stores.
fn map(bytes: usize) -> *mut u8 {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: without MAP_FIXED a mapping replaces nothing.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    assert_ne!(at, libc::MAP_FAILED);
    at.cast()
}

fn advise(at: *mut u8, bytes: usize, how: i32) {
    // SAFETY: the callers' own memory.
    assert_eq!(unsafe { libc::madvise(at.cast(), bytes, how) }, 0);
}

fn mapped_pair() {
    let at = map(PAGE);
    // SAFETY: mapped just now, and nobody else has it.
    unsafe {
        at.write_volatile(1);
        libc::munmap(at.cast(), PAGE);
    }
}

/// A page between guards.
fn bare_page() -> *mut u8 {
    let all = map(2 << 20);
    advise(all, 2 << 20, libc::MADV_NOHUGEPAGE);
    advise(all, 2 << 20, MADV_GUARD_INSTALL);
    all.wrapping_add(1 << 20)
}

fn bare_pair(page: *mut u8) {
    advise(page, PAGE, MADV_GUARD_REMOVE);
    // SAFETY: it has no guard, and nobody else has it.
    unsafe { page.write_volatile(1) };
    advise(page, PAGE, MADV_GUARD_INSTALL);
}

fn verdict(value: f64, aim: f64) -> String {
    format!("{value:.2} (aim {aim:.2}: {})", if value <= aim { "reached" } else { "missed" })
}

fn pairs() {
    let (unmap, strict) = (instance(8 * GIB, GIB, Policy::Unmap), instance(8 * GIB, GIB, Policy::Strict));
    // An instance that serves has areas.
    for vm in [&unmap, &strict] {
        vm.alloc(Req::pages(1)).expect("memory enough");
    }
    let page = bare_page();
    let found = minima(&mut [&mut mapped_pair, &mut || bare_pair(page), &mut || pair(&unmap), &mut || pair(&strict)]);
    let [mmap, bare, unmap, strict] = found[..] else { unreachable!("four actions") };
    println!("a pair of one written page                        ns");
    println!("  mmap, touch, munmap                          {mmap:6.0}");
    println!("  MADV_GUARD_REMOVE, touch, MADV_GUARD_INSTALL {bare:6.0}");
    println!("  Unmap                                        {unmap:6.0}  {} of mmap", verdict(unmap / mmap, 0.5));
    println!(
        "  Strict                                       {strict:6.0}  {} of the bare sum",
        verdict(strict / bare, 1.15)
    );
}

fn mappings() -> usize {
    std::fs::read_to_string("/proc/self/maps").expect("Linux tells").lines().count()
}

fn areas_by_mappings() {
    println!("\nareas        mappings of the process");
    let vm = instance(16 * GIB, 8 * GIB, Policy::Unmap);
    let mut first = None;
    let mut live = 0;
    for wanted in [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000] {
        while live < wanted {
            vm.alloc(Req::pages(1)).expect("memory enough");
            live += 1;
        }
        let now = mappings();
        let same = *first.get_or_insert(now) == now;
        println!("{wanted:9}    {now}{}", if same { "" } else { "  (aim: unchanged: missed)" });
    }
}

/// KiB of page tables.
fn tables() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find(|line| line.starts_with("VmPTE")).expect("it is always there");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

/// Milliseconds until `fork` has returned here, at least.
fn fork_ms() -> f64 {
    let once = || {
        let begin = Instant::now();
        // SAFETY: the child leaves at once.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                libc::_exit(0);
            }
            let took = begin.elapsed();
            assert_eq!(libc::waitpid(child, std::ptr::null_mut(), 0), child);
            took.as_secs_f64() * 1e3
        }
    };
    (0..5).map(|_| once()).fold(f64::MAX, f64::min)
}

/// Areas of 64 pages, of which one in sixteen is touched, or of one page.
fn tables_and_forks() {
    println!("\nareas             span GiB   page tables MiB   bookkeeping MiB   fork ms");
    println!("none                  0.0   {:15.1}   {:15.1}   {:7.2}", tables() as f64 / 1024.0, 0.0, fork_ms());
    for (pages, gib) in [(64, 1), (64, 16), (64, 64), (1, 1), (1, 4)] {
        let vm = instance(160 * GIB, 80 * GIB, Policy::Unmap);
        let before = tables();
        let areas = gib * GIB / PAGE / pages;
        for n in 0..areas {
            let area = vm.alloc(Req::pages(pages)).expect("memory enough");
            if n % 16 == 0 {
                // SAFETY: it lives.
                unsafe { area.as_ptr().write_volatile(1) };
            }
        }
        let usage = vm.machine().usage();
        let (span, own) = (usage.open as f64 / GIB as f64, usage.frames as f64 * PAGE as f64 / (1 << 20) as f64);
        let tables = (tables() - before) as f64 / 1024.0;
        println!("{gib:3} GiB by {pages:2} pages {span:7.1}   {tables:15.1}   {own:15.1}   {:7.2}", fork_ms());
    }
}

fn main() {
    pairs();
    areas_by_mappings();
    tables_and_forks();
}
