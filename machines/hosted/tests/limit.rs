//! At the process's real limit. One test at a time, since everybody's mappings
//! count.

mod common;

use common::{page, run};
use std::sync::{Arc, Mutex};
use vmalloc::machine::{Flush, Machine};
use vmalloc::units::{PAGE_SIZE, PageRange};
use vmalloc::{AllocError, Placement, Policy, Req};
use vmalloc_hosted::{BUDGET_SPENT, BuildError, Hosted, Refusal, builder, is_readable};
use vmalloc_process::in_child;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Makes mappings of its own until Linux refuses.
struct Filler {
    start: *mut u8,
    bytes: usize,
}

impl Filler {
    fn new(limit: usize) -> Filler {
        let bytes = 2 * limit * PAGE_SIZE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: new addresses, used by nobody but here.
        unsafe {
            let start = libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0);
            assert_ne!(start, libc::MAP_FAILED);
            let splits = |i: usize| libc::mprotect(start.add(2 * i * PAGE_SIZE), PAGE_SIZE, libc::PROT_READ) == 0;
            assert!(!(1..limit).all(splits), "the limit was never reached");
            Filler { start: start.cast(), bytes }
        }
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        // SAFETY: its own addresses.
        unsafe { libc::munmap(self.start.cast(), self.bytes) };
    }
}

/// Binds single pages until that is refused, and says how many there are.
fn fill(machine: &Hosted) -> usize {
    let refused = |n: &usize| machine.mirror(run(machine, 2 * n, 1, 100 + (n % 2) as u64 * 50)).err();
    let (n, number) = (0..).find_map(|n| refused(&n).map(|number| (n, number))).unwrap();
    assert_eq!(number, BUDGET_SPENT);
    n
}

#[test]
fn the_limit_is_an_error_for_us_and_no_disaster_for_others() {
    let _alone = ONE_AT_A_TIME.lock();
    let machine = builder().memory(16 << 20).region(1 << 30).machine().unwrap();
    let limit = machine.vmas().limit;
    let wide = run(&machine, 200_000, 3, 600);
    machine.mirror(wide).unwrap();

    // What is ours is spent; the rest of the process can still go on.
    let bound = fill(&machine);
    if machine.has_guards() {
        assert!(bound > limit - limit / 16 - 300, "{bound} areas of {limit} mappings");
    }
    assert!(is_readable(page(run(&machine, 2 * bound - 2, 1, 0).pages, 0)));
    assert!(!is_readable(page(run(&machine, 2 * bound - 1, 1, 0).pages, 0)));
    let thread = std::thread::spawn(|| in_child(|| 0));
    assert_eq!(thread.join().unwrap(), 0);

    // Somebody else takes all that Linux allows: cutting a mapping in three is refused.
    let middle = PageRange::new(wide.pages.start.add_pages(1), 1);
    let filler = Filler::new(limit);
    machine.unmapped(middle);
    assert!(!machine.flush_everywhere(Flush::Everything));
    assert_eq!(machine.refused_unmaps(), 1);
    assert!(is_readable(page(middle, 0)));
    drop(filler);
    assert!(machine.flush_everywhere(Flush::Everything));
    assert!(!is_readable(page(middle, 0)) && is_readable(page(wide.pages, 2)));
}

#[test]
fn nothing_is_reused_while_linux_refuses_to_unmap_it() {
    let _alone = ONE_AT_A_TIME.lock();
    let vm = builder().memory(16 << 20).region(1 << 30).placement(Placement::Lowest).build().unwrap();
    let area = vm.area(Req::pages(9)).unwrap();
    let frames: Vec<_> = area.frames().collect();
    assert!(frames.windows(2).all(|pair| pair[1].0 == pair[0].0 + 1), "{frames:?}");
    // Three mappings of adjacent frames side by side: one mapping to Linux, which it has to cut in three.
    // SAFETY: P4: the area holds the frames.
    let [low, middle, high] = [0, 3, 6].map(|n| unsafe { vm.map_ram(&frames[n..n + 3], None) }.unwrap());
    assert_eq!(high.addr().get() - low.addr().get(), 6 * PAGE_SIZE);
    let filler = Filler::new(vm.machine().vmas().limit);
    // SAFETY: V1.
    unsafe { vm.unmap_ram(middle, 3) }.unwrap();
    assert_eq!(vm.purge(), 0);
    assert!(vm.machine().refused_unmaps() > 0 && vm.stats().waiting_pages == 3);
    assert!(is_readable(middle.as_ptr()), "still there, so nobody else may have the address");
    drop(filler);
    let fits = vm.reserve(Req::pages(2)).unwrap();
    assert_ne!(fits, middle);
    assert_eq!(vm.purge(), 3);
    assert!(!is_readable(middle.as_ptr()));
    let fits = vm.reserve(Req::pages(2)).unwrap();
    assert_eq!(fits, middle, "the lowest hole");
    // SAFETY: V1.
    [low, high].into_iter().for_each(|at| unsafe { vm.unmap_ram(at, 3) }.unwrap());
}

#[test]
fn what_stays_mapped_is_given_up_before_the_budget_is_spent() {
    let _alone = ONE_AT_A_TIME.lock();
    let vm = builder().memory(16 << 20).vma_budget(30).policy(Policy::Keep).build().unwrap();
    for pages in 1..6 {
        let areas: Vec<_> = (0..8).map(|_| vm.alloc(Req::pages(pages)).expect("within the budget")).collect();
        for area in areas {
            // SAFETY: V1: nobody uses it.
            unsafe { vm.free(area) }.unwrap();
        }
    }
    let counts = vm.stats().counts;
    assert!(counts.cache_frees == 40 && counts.cache_purged > 0 && counts.failures == 0, "{counts:?}");
}

#[test]
fn out_of_mappings_is_told_with_their_number_and_the_setting_that_limits_them() {
    let _alone = ONE_AT_A_TIME.lock();
    let said = Arc::new(Mutex::new(String::new()));
    let log = Arc::clone(&said);
    let vm = builder().memory(16 << 20).region(1 << 30).policy(Policy::Strict).build().unwrap();
    vm.machine().set_log(Box::new(move |_, line| *log.lock().unwrap() += &format!("{line}\n")));
    let limit = vm.machine().vmas().limit;
    // Linux's limit before the budget's: somebody else has all mappings.
    let filler = Filler::new(limit);
    let built = builder().memory(16 << 20).region(1 << 30).build().err();
    let refused = vm.alloc(Req::pages(3));
    let why = vm.machine().refusal(libc::ENOMEM);
    drop(filler);
    assert_eq!(refused, Err(AllocError::Refused(libc::ENOMEM)));
    let Refusal::Mappings { process, vmas } = why else { panic!("{why:?}") };
    assert!(process + 2 >= limit && vmas.limit == limit, "{why}");
    assert!(matches!(built, Some(BuildError::Mappings { limit: told, .. }) if told == limit), "{built:?}");
    let line = said.lock().unwrap().clone();
    assert!(line.contains("allocation failure: 12288 bytes") && line.contains("of vm.max_map_count"), "{line}");
    assert!(vm.area(Req::pages(3)).is_ok());
}

#[test]
fn a_spent_budget_is_told_with_its_number() {
    let _alone = ONE_AT_A_TIME.lock();
    let said = Arc::new(Mutex::new(String::new()));
    let log = Arc::clone(&said);
    let vm = builder().memory(16 << 20).vma_budget(12).policy(Policy::Strict).build().unwrap();
    vm.machine().set_log(Box::new(move |_, line| *log.lock().unwrap() += &format!("{line}\n")));
    let mut live = Vec::new();
    let refused = std::iter::repeat_with(|| vm.area(Req::pages(3)).map(|area| live.push(area))).find_map(Result::err);
    assert_eq!(refused, Some(AllocError::Refused(BUDGET_SPENT)));
    let line = said.lock().unwrap().clone();
    assert!(line.contains("of the 12 that it may have"), "{line}");
    assert_eq!(line.lines().count(), 1);
}
