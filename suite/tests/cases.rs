//! Every case on the simulated machine, which panics at a stale use.

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use vmalloc::table::X86_64;
use vmalloc::units::{PAGE_SIZE, VirtAddr};
use vmalloc::{AllocError, Config, Policy};
use vmalloc_sim::{Booted, Rates, Sim};
use vmalloc_suite::{Case, Error, Ground, Random, Results, Suite};

const REGION: Range<usize> = 0xffff_c900_0000_0000..0xffff_c980_0000_0000;
const LOOPS: usize = 12;

/// Memory through the simulated CPUs, and notes of what is stored where.
struct Watched {
    sim: Sim<X86_64>,
    /// Where areas were touched.
    touched: Mutex<Vec<usize>>,
    clock: AtomicU64,
    /// Whether each page that is touched has to be clear.
    clear: AtomicBool,
    /// Looks at the clock until a grace period has passed.
    grace: u64,
}

impl Ground for Watched {
    fn store(&self, at: NonNull<u8>, word: u64) {
        let at = VirtAddr(at.addr().get());
        if self.clear.load(Relaxed) {
            assert_eq!(self.sim.load(self.sim.cpu(), at), Ok(0), "a cleared page");
        }
        self.sim.store(self.sim.cpu(), at, word).expect("an area is writable");
        if word == 1 {
            self.touched.lock().unwrap().push(at.0);
        }
    }

    fn load(&self, at: NonNull<u8>) -> u64 {
        self.sim.load(self.sim.cpu(), VirtAddr(at.addr().get())).expect("an area is readable")
    }

    /// A different time at each look.
    fn now(&self) -> u64 {
        self.clock.fetch_add(7, Relaxed) + 7
    }

    fn grace_begins(&self) -> u64 {
        self.clock.load(Relaxed) + 7 * self.grace
    }

    fn grace_has_passed(&self, number: u64) -> bool {
        self.now() >= number
    }
}

/// An instance with 192 MiB on a machine of its own.
fn set_up(policy: Policy) -> (Booted<X86_64>, Watched) {
    let sim = Sim::builder().rates(Rates::NEVER).node(192 << 20).build();
    let booted = Booted::new(sim.clone(), Config::region(REGION).policy(policy)).expect("memory for the bookkeeping");
    (
        booted,
        Watched { sim, touched: Mutex::default(), clock: AtomicU64::new(0), clear: AtomicBool::new(false), grace: 5 },
    )
}

fn suite<'v>(vm: &'v Booted<X86_64>, ground: &'v Watched) -> Suite<'v, Sim<X86_64>, Watched> {
    Suite::new(vm, ground, 1, REGION)
}

/// Nothing lives, nothing waits, and the machine has its frames back.
fn assert_nothing_left(vm: Booted<X86_64>, ground: &Watched) {
    vm.purge();
    assert_eq!((vm.stats().areas, vm.stats().waiting_pages), (0, 0));
    assert_eq!(vm.check(), Ok(()));
    drop(vm);
    ground.sim.assert_no_leaks();
}

/// Runs `case`, and returns the addresses that were touched.
fn touched(case: Case, loops: usize) -> Vec<usize> {
    let (vm, ground) = set_up(Policy::Unmap);
    ground.clear.store(case.clears(), Relaxed);
    suite(&vm, &ground).run(case, loops).unwrap();
    assert_nothing_left(vm, &ground);
    ground.touched.into_inner().unwrap()
}

#[test]
fn every_case_leaves_nothing_behind_under_every_policy() {
    for policy in [Policy::Unmap, Policy::Strict, Policy::Park, Policy::Keep] {
        for case in Case::ALL {
            let (vm, ground) = set_up(policy);
            assert_eq!(suite(&vm, &ground).run(case, 2), Ok(()), "{case}");
            assert_nothing_left(vm, &ground);
        }
    }
}

#[test]
fn a_loop_counts_what_the_case_says_and_nothing_that_it_lays_in() {
    let loops = LOOPS as u64;
    let (vm, ground) = set_up(Policy::Unmap);
    for case in Case::ALL {
        let (areas, pages) = match case {
            Case::FixSize(pages) | Case::MapRam(pages) => (loops, loops * pages as u64),
            Case::FullFit => (loops, loops),
            Case::LongBusyList => (2 * loops, 101 * loops),
            Case::RandomSize => (loops, second_half(|random| random.up_to(100))),
            Case::FixAlign => (loops, 5 * loops),
            Case::RandomSizeAlign => (
                loops,
                second_half(|random| {
                    random.up_to(22);
                    random.up_to(10)
                }),
            ),
            // 2^0 to 2^38 bytes: of larger powers the region has no multiple but its first
            // page, which is nobody's.
            Case::AlignShift => (39 * loops, 39 * loops),
            // Its objects are told by the test below: an area of theirs is a chunk.
            Case::Pcpu => continue,
            Case::KvfreeRcu1 | Case::KvfreeRcu2 | Case::NoBlock => (loops, loops),
            // The area that has moved is another one.
            Case::Vrealloc => (2 * loops, 5 * loops),
        };
        let cost = suite(&vm, &ground).difference(case, LOOPS).unwrap().cost;
        let counts = cost.counts;
        assert_eq!((counts.allocs, counts.alloc_pages), (areas, pages), "{case}");
        assert_eq!((counts.local_frees, counts.remote_frees, counts.free_pages), (areas, 0, pages), "{case}");
    }
}

#[test]
fn objects_by_cpu_live_all_at_once_and_their_chunks_go() {
    let (vm, ground) = set_up(Policy::Unmap);
    let chunks = |loops| {
        let before = vm.stats().counts;
        suite(&vm, &ground).run(Case::Pcpu, loops).unwrap();
        let made = vm.stats().counts.since(&before);
        assert_eq!(made.allocs, made.local_frees + made.remote_frees);
        // One of the areas is the list.
        made.allocs - 1
    };
    let mut random = Random::new(Random::SEED);
    let bytes: usize = (0..2000).map(|_| (random.up_to(1024), random.up_to(11)).0).sum();
    let fewest = bytes as u64 / (32 << 10);
    assert!((fewest..2 * fewest).contains(&chunks(2000)), "{fewest}");
    let most = chunks(Case::Pcpu.lives());
    assert!((most..most + 20).contains(&chunks(Case::Pcpu.lives() + 5)), "no more live at once");
    assert_nothing_left(vm, &ground);
}

/// What the later loops of `2 * LOOPS` draw.
fn second_half(mut draw: impl FnMut(&mut Random) -> usize) -> u64 {
    let mut random = Random::new(Random::SEED);
    (0..2 * LOOPS).map(|_| draw(&mut random)).skip(LOOPS).sum::<usize>() as u64
}

#[test]
fn aligned_areas_are_aligned_and_cleared() {
    let at = touched(Case::FixAlign, LOOPS);
    assert_eq!(at.len(), LOOPS);
    assert!(at.iter().all(|at| at.is_multiple_of(32 << 10)), "{at:x?}");
    let at = touched(Case::RandomSizeAlign, 200);
    let mut random = Random::new(Random::SEED);
    for at in at {
        let align = 1usize << random.up_to(22);
        random.up_to(10);
        assert!(at.is_multiple_of(align), "{at:#x} for an alignment of {align:#x}");
    }
}

#[test]
fn full_fit_loops_in_holes_between_areas_that_live() {
    let (vm, ground) = set_up(Policy::Unmap);
    let before = vm.stats().counts;
    suite(&vm, &ground).run(Case::FullFit, LOOPS).unwrap();
    let made = vm.stats().counts.since(&before).allocs;
    // Two sets of 32 MiB, their lists, the loops.
    assert_eq!(made, 2 * 8192 + 2 + LOOPS as u64);
    assert_nothing_left(vm, &ground);
}

#[test]
fn full_fit_grows_with_the_cpus_as_linux_sizes_its_sets() {
    let (vm, ground) = set_up(Policy::Unmap);
    let before = vm.stats().counts;
    // fls(4) = 3, and there is not memory for that: C1, C3.
    let why = Suite::new(&*vm, &ground, 4, REGION).run(Case::FullFit, 1).unwrap_err();
    assert!(matches!(why, Error::Alloc(AllocError::NoFrames { .. } | AllocError::NoTables { .. })), "{why}");
    assert!(vm.stats().counts.since(&before).allocs > 45_000);
    assert_nothing_left(vm, &ground);
}

#[cfg(debug_assertions)]
#[test]
fn a_case_that_is_refused_says_so_and_gives_back_what_it_made() {
    for case in Case::ALL {
        for fail_at in [1, 2, 40] {
            let (vm, ground) = set_up(Policy::Unmap);
            ground.sim.faults().fail_at(fail_at);
            let result = suite(&vm, &ground).run(case, LOOPS);
            assert!(!matches!(result, Err(Error::Free(_))), "{case}: {result:?}");
            ground.sim.faults().fail_at(0);
            assert_nothing_left(vm, &ground);
        }
    }
}

#[test]
fn an_alignment_that_must_be_served_and_is_not_is_an_error() {
    let (vm, ground) = set_up(Policy::Unmap);
    // Told of a larger region than there is.
    let larger = REGION.start - 4 * (REGION.end - REGION.start)..REGION.end;
    let why = Suite::new(&*vm, &ground, 1, larger).run(Case::AlignShift, 1).unwrap_err();
    assert!(matches!(why, Error::Alloc(_)), "{why}");
    // And of a smaller one.
    let smaller = REGION.start..REGION.start + (1 << 20);
    let why = Suite::new(&*vm, &ground, 1, smaller.start + PAGE_SIZE..smaller.end).run(Case::AlignShift, 1);
    assert_eq!(why, Err(Error::Served { shift: 20 }));
    assert_nothing_left(vm, &ground);
}

#[test]
fn more_frames_than_a_case_holds_are_refused() {
    let (vm, ground) = set_up(Policy::Unmap);
    assert_eq!(suite(&vm, &ground).run(Case::MapRam(257), 1), Err(Error::TooManyFrames(257)));
    assert_nothing_left(vm, &ground);
}

#[test]
fn runs_are_counted_as_passed_failed_or_failed_as_expected() {
    let (vm, ground) = set_up(Policy::Unmap);
    let of = |case: Case| {
        let suite = suite(&vm, &ground);
        let _ = (suite.run(case, 2), suite.run(case, 2));
        suite.results()
    };
    let results = |passed, failed, xfailed| Results { passed, failed, xfailed };
    assert_eq!(of(Case::FixSize(1)), results(2, 0, 0));
    assert_eq!(of(Case::AlignShift), results(0, 0, 2), "some alignments are larger than the region");
    assert_eq!(of(Case::MapRam(257)), results(0, 2, 0));
    assert_eq!(of(Case::NoBlock), results(2, 0, 0));
    assert_eq!(results(3, 0, 1).to_string(), "passed: 3 failed: 0 xfailed: 1");
    assert_nothing_left(vm, &ground);
}

#[cfg(debug_assertions)]
#[test]
fn a_request_that_must_not_wait_may_be_refused_and_the_case_goes_on() {
    let (vm, ground) = set_up(Policy::Unmap);
    vm.reclaim(usize::MAX);
    ground.sim.faults().fail_from(1);
    let suite = suite(&vm, &ground);
    assert_eq!(suite.run(Case::NoBlock, LOOPS), Ok(()));
    ground.sim.faults().fail_at(0);
    assert_eq!((suite.results().xfailed, ground.touched.lock().unwrap().len() < LOOPS), (1, true));
    assert_nothing_left(vm, &ground);
}

#[test]
fn pages_wait_for_their_grace_period_and_are_all_gone_at_the_end() {
    for case in [Case::KvfreeRcu1, Case::KvfreeRcu2] {
        // It passes by the barrier alone.
        let (vm, mut ground) = set_up(Policy::Unmap);
        ground.grace = 1_000_000;
        let began = ground.clock.load(Relaxed);
        suite(&vm, &ground).run(case, LOOPS).unwrap();
        assert!(ground.clock.load(Relaxed) - began > 7_000_000, "{case} waited");
        let mut at = ground.touched.lock().unwrap().clone();
        at.sort();
        at.dedup();
        assert_eq!(at.len(), LOOPS, "no address came twice");
        assert_nothing_left(vm, &ground);
    }
}

#[test]
fn vrealloc_moves_once_and_then_stays() {
    let (vm, ground) = set_up(Policy::Unmap);
    let before = vm.stats().counts;
    suite(&vm, &ground).run(Case::Vrealloc, 1).unwrap();
    let after = vm.stats().counts.since(&before);
    assert_eq!((after.allocs, after.alloc_pages, after.free_pages), (2, 5, 5));
    assert_nothing_left(vm, &ground);
}

#[test]
fn every_area_is_touched_once_between_its_making_and_its_end() {
    assert_eq!(touched(Case::FixSize(16), LOOPS).len(), LOOPS);
    assert_eq!(touched(Case::LongBusyList, LOOPS).len(), 2 * LOOPS);
    for case in [Case::MapRam(64), Case::KvfreeRcu1, Case::KvfreeRcu2, Case::NoBlock, Case::Vrealloc] {
        assert_eq!(touched(case, LOOPS).len(), LOOPS, "{case}");
    }
}
