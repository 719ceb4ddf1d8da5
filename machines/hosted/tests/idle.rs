//! An instance that is left alone: a clock gives back what waits and what is cached.

use std::sync::Arc;
use std::time::{Duration, Instant};
use vmalloc::{Policy, Req};
use vmalloc_hosted::{Ticker, builder};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn what_all_threads_left_behind_goes_with_the_ticks() {
    for policy in [Policy::Unmap, Policy::Keep] {
        let vm = Arc::new(builder().memory(64 << 20).region(1 << 30).cpus(4).policy(policy).build().unwrap());
        std::thread::scope(|scope| {
            for thread in 0..4usize {
                let vm = &vm;
                scope.spawn(move || {
                    let request = |n| Req::pages(1 + (n + thread) % 9).zeroed();
                    let areas: Vec<_> = (0..50).map(|n| vm.alloc(request(n)).unwrap()).collect();
                    // SAFETY: V1: nobody uses them.
                    areas.into_iter().for_each(|area| unsafe { vm.free(area) }.unwrap());
                });
            }
        });
        let left = || (vm.stats().cached_pages, vm.stats().waiting_pages);
        let before = left();
        assert!(before.0 + before.1 > 0, "{policy:?}: nothing was left to be given back");
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(left(), before, "without a clock all stays");
        let clock = Ticker::start(Arc::clone(&vm), Duration::from_millis(1)).unwrap();
        let start = Instant::now();
        while left() != (0, 0) {
            assert!(start.elapsed() < PATIENCE, "{policy:?}: {:?} of {before:?} are left", left());
            std::thread::sleep(Duration::from_millis(5));
        }
        let held = || vm.machine().resident().unwrap();
        while held() > 2 << 20 {
            assert!(start.elapsed() < PATIENCE, "{policy:?}: Linux holds {} bytes for it", held());
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(clock);
        assert_eq!(Arc::strong_count(&vm), 1, "its thread has ended");
        assert_eq!(vm.check(), Ok(()));
    }
}

#[test]
fn without_a_clock_the_calls_that_make_areas_tick_when_time_has_passed() {
    let vm = builder().memory(64 << 20).region(1 << 30).cpus(1).policy(Policy::Keep).build().unwrap();
    let areas: Vec<_> = (0..100).map(|n| vm.area(Req::pages(1 + n % 5)).unwrap()).collect();
    drop(areas);
    let cached = vm.stats().cached_pages;
    assert!(cached > 200, "{cached}");
    let start = Instant::now();
    while vm.stats().cached_pages > 0 {
        assert!(start.elapsed() < PATIENCE, "{} of {cached} pages are cached", vm.stats().cached_pages);
        std::thread::sleep(Duration::from_millis(5));
        // One too large to be cached: addresses are looked for, and the clock is looked at.
        drop(vm.area(Req::pages(2000)).unwrap());
    }
    assert_eq!(vm.stats().counts.cache_purged, 0, "it was no shortage");
}
