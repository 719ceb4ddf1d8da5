//! Locked memory, and Linux without guards: pages are closed by `mprotect`, at the price of mappings.
//! Each test runs in a child process, since a lock is the whole process's.

mod common;

use common::*;
use vmalloc::machine::format::Prot;
use vmalloc::units::PAGE_SIZE;
use vmalloc::{AllocError, Policy, Req};
use vmalloc_process::in_child;
use vmalloc_window::{BUDGET_SPENT, builder};

/// Areas come and go, clear and guarded.
fn come_and_go(policy: Policy, act: impl Fn(*mut u8, usize)) {
    let vm = builder().window(64 << 20).memory(16 << 20).policy(policy).build().expect("a process has room");
    for round in 0..400 {
        let pages = 1 + round % 6;
        let at = vm.alloc(Req::pages(pages)).expect("memory enough");
        let clear = policy == Policy::Keep || {
            // SAFETY: it lives.
            (0..pages).all(|page| unsafe { word(at, page).read() } == 0)
        };
        assert!(clear, "{policy:?}, round {round}");
        act(at.as_ptr(), pages * PAGE_SIZE);
        // SAFETY: it lives.
        unsafe { at.as_ptr().write_bytes(0x11, pages * PAGE_SIZE) };
        assert!(!is_readable(at.as_ptr().wrapping_add(pages * PAGE_SIZE)), "{policy:?}, round {round}: no guard");
        // SAFETY: V1: nobody uses it.
        unsafe { vm.free(at) }.unwrap();
        assert!(policy != Policy::Strict || !is_readable(at.as_ptr()), "round {round}: readable after the free");
    }
    vm.purge();
    assert_eq!(vm.check(), Ok(()));
    assert_eq!(vm.machine().refusals(), (None, 0), "{policy:?}");
}

/// Runs `f` in a child; a panic there is a failure here.
fn passes(f: impl FnOnce()) {
    let status = in_child(|| std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).is_err() as u8);
    assert_eq!(status, 0);
}

const POLICIES: [Policy; 3] = [Policy::Strict, Policy::Unmap, Policy::Keep];

fn locked_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmLck")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Whether this process may lock all its memory. `how` may be MCL_FUTURE alone.
fn lock_all(how: i32) -> bool {
    // SAFETY: no memory of anybody's changes.
    unsafe { libc::mlockall(how) == 0 }
}

#[test]
fn areas_that_their_users_lock_come_and_go() {
    for policy in POLICIES {
        passes(|| {
            come_and_go(policy, |at, bytes| {
                // SAFETY: it lives.
                assert_eq!(unsafe { libc::mlock(at.cast(), bytes) }, 0);
            })
        });
    }
}

#[test]
fn a_process_that_locks_all_its_memory_pays_for_what_it_uses() {
    for policy in POLICIES {
        passes(|| {
            if !lock_all(libc::MCL_CURRENT | libc::MCL_FUTURE) {
                return println!("not allowed here");
            }
            come_and_go(policy, |_, _| ());
            let resident = || std::fs::read_to_string("/proc/self/statm").unwrap();
            let pages = |statm: &str| statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap();
            let before = pages(&resident());
            let vm = builder().window(1 << 30).memory(256 << 20).policy(policy).build().expect("a process has room");
            let mut area = vm.area(Req::pages(100)).expect("memory enough");
            area.fill(1);
            assert!(pages(&resident()) < before + 2000, "{} of {locked} KiB", resident(), locked = locked_kib());
        });
    }
}

#[test]
fn areas_that_lived_when_all_was_locked_and_unlocked_are_closed_in_either_state() {
    passes(|| {
        let vm = builder().window(64 << 20).memory(16 << 20).policy(Policy::Strict).build().expect("room");
        let mut areas: Vec<_> = (1..40).map(|pages| vm.area(Req::pages(pages)).expect("memory enough")).collect();
        let before = vm.machine().mappings().used;
        let mut third = || {
            let gone: Vec<usize> = areas
                .drain(..13)
                .map(|mut area| {
                    area.fill(1);
                    area.start().0
                })
                .collect();
            assert!(gone.iter().all(|&at| !is_readable(byte(at))));
            assert!(areas.iter().all(|area| is_readable(area.as_ptr())));
        };
        third();
        if !lock_all(libc::MCL_CURRENT) {
            return;
        }
        third();
        assert!(vm.machine().mappings().used > before);
        // SAFETY: no memory of anybody's changes.
        assert_eq!(unsafe { libc::munlockall() }, 0);
        third();
        // What was closed by `mprotect` is opened again by those who need it, and has guards after that.
        let all: Vec<_> = (1..40).map(|pages| vm.area(Req::pages(pages)).expect("memory enough")).collect();
        assert!(all.iter().all(|area| area.iter().all(|&byte| byte == 0)));
        drop(all);
        assert!(vm.machine().mappings().used <= before + 2, "{:?}", vm.machine().mappings());
        assert_eq!(vm.check(), Ok(()));
    });
}

#[test]
fn without_guards_areas_cost_mappings_which_end_with_an_error_that_has_the_numbers() {
    static TOLD: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());
    let log = |_, line: std::fmt::Arguments<'_>| TOLD.lock().unwrap().push(line.to_string());
    let closed = builder().window(1 << 30).memory(512 << 20).policy(Policy::Strict).without_guards().log(log);
    let vm = closed.mappings(1000).build().expect("a process has room");
    let told = std::mem::take(&mut *TOLD.lock().unwrap());
    assert!(told.len() == 1 && told[0].contains("Linux 6.13"), "{told:?}");
    let areas: Vec<_> = (0..2000).map_while(|_| vm.area(Req::pages(1)).ok()).collect();
    assert!((450..500).contains(&areas.len()), "{} areas", areas.len());
    let (counted, real) = (vm.machine().mappings(), maps_in(vm.machine().region()));
    assert!(counted.used <= 1000 && real <= counted.used && real > 900, "{real} mappings, {counted:?}");
    assert_eq!(vm.alloc(Req::pages(1)), Err(AllocError::Refused(BUDGET_SPENT)));
    let (refusal, count) = vm.machine().refusals();
    let text = refusal.expect("just now").to_string();
    assert!(count > 0 && text.contains("EDQUOT") && text.contains("vm.max_map_count is "), "{text}");
    assert!(TOLD.lock().unwrap().iter().any(|line| line.contains("EDQUOT")));
    for area in &areas {
        assert!(is_readable(area.as_ptr()) && !is_readable(area.as_ptr().wrapping_add(PAGE_SIZE)));
    }
    let gone: Vec<usize> = areas.into_iter().map(|area| area.start().0).collect();
    assert!(gone.iter().all(|&at| !is_readable(byte(at))));
    vm.purge();
    assert_eq!((vm.check(), maps_in(vm.machine().region())), (Ok(()), 1));
}

#[test]
fn a_process_with_little_address_space_is_told_what_could_not_be_had() {
    passes(|| {
        let limit = libc::rlimit { rlim_cur: 2_000_000_000, rlim_max: 2_000_000_000 };
        // SAFETY: the limit is this child's.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
        let refused = builder().build().map(drop).unwrap_err().to_string();
        assert!(refused.contains("no addresses for the ") && refused.contains("ENOMEM"), "{refused}");
        let area = |bytes| builder().window(bytes).build().expect("a smaller one fits").area(Req::pages(9)).is_ok();
        assert!(area(256 << 20));
    });
}

#[test]
fn a_process_that_may_have_little_data_is_refused_with_linuxs_number() {
    passes(|| {
        let vm = builder().window(1 << 30).log(|_, _| ()).build().expect("a process has room");
        let limit = libc::rlimit { rlim_cur: 100_000_000, rlim_max: 100_000_000 };
        // SAFETY: the limit is this child's.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_DATA, &limit) }, 0);
        let areas: Vec<_> = (0..1000).map_while(|_| vm.area(Req::pages(64)).ok()).collect();
        assert!((50..1000).contains(&areas.len()), "{} areas", areas.len());
        assert_eq!(vm.alloc(Req::pages(64)), Err(AllocError::Refused(libc::ENOMEM)));
        let text = vm.machine().refusals().0.expect("just now").to_string();
        assert!(text.starts_with("mprotect of 512 pages at 0x") && text.contains("ENOMEM"), "{text}");
        drop(areas);
        vm.purge();
        assert!(vm.check().is_ok() && vm.area(Req::pages(64)).is_ok());
    });
}

/// Takes mappings until the process may have no more; they are given back by the drop.
struct Full(Vec<*mut libc::c_void>);

impl Full {
    fn new() -> Full {
        let mut all = Vec::with_capacity(1 << 20);
        let (flags, protections) = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, [libc::PROT_NONE, libc::PROT_READ]);
        loop {
            // SAFETY: without MAP_FIXED a mapping replaces nothing.
            let at = unsafe { libc::mmap(std::ptr::null_mut(), PAGE_SIZE, protections[all.len() % 2], flags, -1, 0) };
            if at == libc::MAP_FAILED || all.len() == all.capacity() {
                return Full(all);
            }
            all.push(at);
        }
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        // SAFETY: nobody else knows them.
        self.0.iter().for_each(|&at| _ = unsafe { libc::munmap(at, PAGE_SIZE) });
    }
}

#[test]
fn pages_that_linux_closed_in_part_and_refused_to_close_on_are_opened_for_their_next_area() {
    passes(|| {
        let quiet = builder().window(64 << 20).memory(16 << 20).policy(Policy::Strict).log(|_, _| ());
        let vm = quiet.build().expect("a process has room");
        let at = vm.alloc(Req::pages(8)).expect("memory enough");
        // SAFETY: it lives.
        let lock = |lock: unsafe extern "C" fn(*const libc::c_void, usize) -> i32| unsafe {
            assert_eq!(lock(at.as_ptr().cast(), 4 * PAGE_SIZE), 0);
        };
        lock(libc::mlock);
        let full = Full::new();
        // SAFETY: V1: nobody uses it.
        unsafe { vm.free(at) }.unwrap();
        let refused = vm.machine().refusals();
        drop(full);
        assert!(refused.1 > 0, "the trial proves nothing: {refused:?}");
        lock(libc::munlock);
        vm.purge();
        assert!(!is_readable(at.as_ptr()));
        let mut next = vm.area(Req::pages(8)).expect("memory enough");
        assert_eq!(next.as_ptr(), at.as_ptr(), "the trial proves nothing");
        next.fill(1);
        drop(next);
        assert_eq!((vm.check(), maps_in(vm.machine().region())), (Ok(()), 2));
    });
}

#[test]
fn pages_that_linux_made_executable_in_part_are_usual_ones_for_their_next_area() {
    passes(|| {
        let quiet = builder().window(64 << 20).memory(16 << 20).policy(Policy::Strict).log(|_, _| ());
        let vm = quiet.build().expect("a process has room");
        // SAFETY: nobody uses it.
        let first = || vm.area(Req::pages(8)).expect("memory enough").as_ptr();
        let at = first();
        // SAFETY: no memory of anybody's changes. Pages of mappings apart: one half is not for children.
        assert_eq!(unsafe { libc::madvise(at.cast_mut().cast(), 4 * PAGE_SIZE, libc::MADV_DONTFORK) }, 0);
        let full = Full::new();
        let refused = vm.alloc(Req::pages(8).prot(Prot::RX)).is_err();
        drop(full);
        vm.purge();
        assert!(refused, "the trial proves nothing");
        let mut next = vm.area(Req::pages(8)).expect("memory enough");
        assert_eq!(next.as_ptr(), at, "the trial proves nothing");
        next.fill(1);
    });
}

#[test]
fn a_thread_that_is_to_end_does_not_end_in_the_middle_of_a_call_that_logs() {
    let refused_after_a_cancel = || {
        let vm = builder().window(64 << 20).memory(16 << 20).without_guards().mappings(1).build().expect("room");
        // SAFETY: this thread ends at the next call of the C library that may end it: there is none.
        unsafe { libc::pthread_cancel(libc::pthread_self()) };
        let refused = vm.alloc(Req::pages(1)) == Err(AllocError::Refused(BUDGET_SPENT));
        if refused && vm.machine().refusals().1 > 0 { 7 } else { 8 }
    };
    let status = in_child(refused_after_a_cancel);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 7, "{status:#x}");
}
