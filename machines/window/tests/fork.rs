//! Forks: a child has its own copy of everything, and goes on.

mod common;

use common::*;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use vmalloc::error::Broken;
use vmalloc::{Policy, Req, Vmalloc};
use vmalloc_process::{in_child, seconds};
use vmalloc_window::{AtFork, Stopped, Window, builder};

#[test]
fn a_child_works_on_its_own_copy_and_leaves_with_its_own_code() {
    for policy in [Policy::Keep, Policy::Unmap, Policy::Strict] {
        let vm = instance(32, policy);
        let mut kept = vm.area(Req::bytes(40_000)).expect("memory enough");
        kept.fill(7);
        let before = vm.stats();
        let used = in_child(|| {
            for _ in 0..50 {
                let mut area = vm.area(Req::bytes(40_000)).expect("memory enough");
                area.fill(9);
                std::mem::forget(area);
            }
            // SAFETY: the child's own copy; it frees what its parent made.
            unsafe { vm.free(std::ptr::NonNull::from(&kept[0])) }.expect("it lives here too");
            vm.purge();
            (is_readable(kept.as_ptr()) || vm.check().is_err()) as u8
        });
        assert_eq!(used, 0, "{policy:?}");
        assert!(kept.iter().all(|&byte| byte == 7) && vm.stats() == before, "{policy:?}");
        // A child that returns from `main` drops what its parent made.
        let left = in_child(|| {
            // SAFETY: the parent's values are another process's; nobody uses these again.
            unsafe {
                drop(std::ptr::read(&kept));
                drop(std::ptr::read(&vm));
            }
            7
        });
        assert!(libc::WIFEXITED(left) && libc::WEXITSTATUS(left) == 7, "{policy:?}: {left:#x}");
        let mut next = vm.area(Req::bytes(40_000).zeroed()).expect("memory enough");
        assert!(next.iter().all(|&byte| byte == 0));
        next.fill(3);
        drop(next);
        assert_eq!(vm.check(), Ok(()));
    }
}

static VM: OnceLock<Vmalloc<Window>> = OnceLock::new();
static AT_FORK: AtFork = AtFork::new();

extern "C" fn prepare() {
    VM.get().into_iter().for_each(|vm| assert!(AT_FORK.prepare(vm)));
}

extern "C" fn parent() {
    AT_FORK.parent();
}

extern "C" fn child() {
    AT_FORK.child();
}

/// What a thread does until it is told to stop: areas with its mark, and looks at frames.
fn allocate(vm: &Vmalloc<Window>, mark: u8, stop: &AtomicBool, count: &AtomicU64) {
    let mut areas = Vec::new();
    while !stop.load(Relaxed) {
        let mut area = vm.area(Req::pages(1 + areas.len() % 7)).expect("memory enough");
        area.fill(mark);
        areas.push(area);
        if areas.len() > 40 {
            areas.drain(..30).for_each(|area| assert!(area.iter().all(|&byte| byte == mark)));
        }
        assert!(areas.iter().all(|area| vm.frame_at(area.start().0).is_some()));
        count.fetch_add(1, Relaxed);
    }
}

/// What a child does: what lived goes on living, and it makes areas of its own.
fn go_on(vm: &Vmalloc<Window>) -> u8 {
    for pages in (1..9).cycle().take(400) {
        let Ok(at) = vm.alloc(Req::pages(pages)) else { return 1 };
        // SAFETY: it lives, and nobody uses it after the free.
        unsafe {
            at.as_ptr().write_bytes(5, pages * 4096);
            if vm.free(at).is_err() {
                return 2;
            }
        }
    }
    vm.purge();
    if vm.stats().waiting_pages > 0 {
        return 3;
    }
    // What others were making at that moment is counted already, and nobody will publish it.
    match vm.check() {
        Ok(()) | Err(Broken { rule: "counters", .. }) => 0,
        Err(_) => 4,
    }
}

#[test]
fn children_of_a_process_with_eight_allocating_threads_go_on() {
    for policy in [Policy::Unmap, Policy::Strict] {
        let vm = VM.get_or_init(|| {
            // SAFETY: the handlers may run in any thread, and allocate nothing.
            assert_eq!(unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) }, 0);
            builder().window(1 << 30).memory(256 << 20).build().expect("a process has room")
        });
        vm.set_policy(policy);
        let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
        let begin = std::time::Instant::now();
        let (mut children, mut failed) = (0, None);
        std::thread::scope(|scope| {
            for mark in 1..=8 {
                let (stop, count) = (&stop, &count);
                scope.spawn(move || allocate(vm, mark, stop, count));
            }
            while failed.is_none() && (begin.elapsed() < seconds() / 2 || children < 20) {
                let status = in_child(|| go_on(vm));
                failed = failed.or((status != 0).then_some(status));
                children += 1;
            }
            stop.store(true, Relaxed);
        });
        assert_eq!(failed, None, "{policy:?}: a status, of {children} children");
        vm.purge();
        assert_eq!((vm.check(), vm.stats().areas), (Ok(()), 0));
        println!("{policy:?}: {children} children beside {} areas", count.into_inner());
    }
}

#[test]
fn while_an_instance_is_stopped_its_own_thread_is_refused_and_others_wait() {
    let vm = instance(32, Policy::Unmap);
    let made = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stopped = Stopped::new(&vm).expect("nobody is inside");
        assert!(Stopped::new(&vm).is_err() && vm.alloc(Req::pages(1)).is_err());
        scope.spawn(|| {
            drop(vm.area(Req::pages(1)).expect("memory enough"));
            made.store(true, Relaxed);
        });
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(!made.load(Relaxed));
        drop(stopped);
    });
    assert!(made.load(Relaxed));
}

#[test]
fn a_thread_that_has_not_stopped_an_instance_does_not_resume_it() {
    let vm: &'static Vmalloc<Window> = Box::leak(Box::new(instance(32, Policy::Unmap)));
    let at_fork = AtFork::new();
    assert!(at_fork.prepare(vm));
    std::thread::scope(|scope| _ = scope.spawn(|| [at_fork.parent(), at_fork.child()]));
    assert!(vm.alloc(Req::pages(1)).is_err());
    at_fork.parent();
    assert!(vm.area(Req::pages(1)).is_ok());
}

#[test]
fn a_fork_in_a_signal_handler_in_the_middle_of_a_fork_leaves_the_instance_stopped() {
    let vm: &'static Vmalloc<Window> = Box::leak(Box::new(instance(32, Policy::Unmap)));
    let at_fork = AtFork::new();
    assert!(at_fork.prepare(vm));
    for _ in 0..2 {
        assert!(!at_fork.prepare(vm), "in the middle of what is a call");
        at_fork.parent();
        assert!(vm.alloc(Req::pages(1)).is_err());
    }
    at_fork.parent();
    assert!(vm.area(Req::pages(1)).is_ok());
}
