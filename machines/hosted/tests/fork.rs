//! A child process owns nothing of its parent's memory.

mod common;

use common::{frame, page, run};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use vmalloc::machine::format::Prot;
use vmalloc::machine::{Flush, Machine, Run};
use vmalloc::units::Pfn;
use vmalloc::{AllocError, FreeError, Gfp, Req};
use vmalloc_hosted::{builder, in_interrupt, is_readable};
use vmalloc_process::in_child;

#[test]
fn an_access_in_a_child_faults_and_changes_nothing_here() {
    let machine = builder().memory(16 << 20).region(16 << 20).machine().unwrap();
    // With a cover, without one, and protected: three ways to be bound.
    let plain = run(&machine, 0, 4, frame(1));
    let covered = run(&machine, 5, 4, frame(2));
    let sealed = Run { prot: Prot::RO, ..run(&machine, 1000, 4, frame(3)) };
    for r in [plain, covered, sealed] {
        machine.mirror(r).unwrap();
    }
    let store = |at: *mut u8| {
        // SAFETY: bound memory of this process; in the child it faults.
        move || unsafe {
            at.write_volatile(99);
            0
        }
    };
    for at in [page(plain.pages, 0), page(covered.pages, 3), machine.virt(Pfn(3)).as_ptr()] {
        // SAFETY: as above.
        unsafe { at.write(1) };
        let status = in_child(store(at));
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV, "{status:#x}");
        // SAFETY: as above.
        assert_eq!(unsafe { at.read() }, 1);
    }
    let at = page(sealed.pages, 0);
    assert!(is_readable(at));
    let status = in_child(|| is_readable(at).into());
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0);
}

#[test]
fn a_child_made_at_any_moment_of_a_binding_has_nothing_either() {
    let machine = builder().memory(16 << 20).region(16 << 20).machine().unwrap();
    machine.mirror(run(&machine, 0, 1, 10)).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                for prot in [Prot::RW, Prot::RO] {
                    let area = Run { prot, ..run(&machine, 2, 8, frame(1)) };
                    machine.mirror(area).unwrap();
                    machine.unmapped(area.pages);
                    assert!(machine.flush_everywhere(Flush::Everything));
                }
            }
        });
        for _ in 0..200 {
            let at = [0, 2, 9].map(|n| page(run(&machine, n, 1, 0).pages, 0));
            let status = in_child(|| at.iter().any(|&at| is_readable(at)).into());
            assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{status:#x}");
        }
        stop.store(true, Relaxed);
    });
}

#[test]
fn in_a_child_every_call_is_refused_and_a_drop_gives_nothing_back() {
    let vm = builder().memory(16 << 20).region(16 << 20).build().unwrap();
    let mut area = vm.area(Req::bytes(40_000)).unwrap();
    area.fill(7);
    let mut filled = vm.reservation(Req::pages(4)).unwrap();
    filled.fill(1..3, &Req::pages(1)).unwrap();
    let at = vm.alloc(Req::pages(3)).unwrap();
    let (start, bytes) = (area.start().0, area.bytes());
    let status = in_child(|| {
        let absent = Err(AllocError::NotInitialised);
        let refused = [vm.alloc(Req::pages(1)).map(drop), vm.alloc_frame(Gfp::KERNEL, None).map(drop)] == [absent; 2];
        // SAFETY: V1: it is the parent's, and refused.
        let kept = unsafe { vm.free(at) } == Err(FreeError::NotInitialised);
        let nothing = vm.areas().count() == 0 && vm.purge() == 0 && vm.find(start).is_none();
        // What lies there by now is the child's own.
        let addresses = std::ptr::with_exposed_provenance_mut(start & !4095);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        // SAFETY: the child does not have what lay there.
        let own = unsafe { libc::mmap(addresses, bytes, libc::PROT_READ, flags, -1, 0) };
        // SAFETY: each is dropped once in this process.
        unsafe {
            drop(std::ptr::read(&area));
            drop(std::ptr::read(&filled));
            drop(std::ptr::read(&vm));
        }
        u8::from(refused && kept && nothing && own != libc::MAP_FAILED && is_readable(own.cast()))
    });
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 1, "{status:#x}");
    assert!(area.iter().all(|&byte| byte == 7));
    drop((area, filled));
    // SAFETY: V1: nobody uses it.
    unsafe { vm.free(at) }.unwrap();
    vm.purge();
    assert_eq!((vm.areas().count(), vm.check()), (0, Ok(())));
}

#[test]
fn a_child_cannot_give_away_memory_that_its_parent_uses_by_now() {
    let vm = builder().memory(16 << 20).region(16 << 20).build().unwrap();
    drop(vm.area(Req::pages(100)).unwrap());
    // An interrupt makes frames free and gives nothing back.
    in_interrupt(|| vm.purge());
    let status = in_child(|| {
        vm.purge();
        vm.reclaim(usize::MAX);
        u8::from(vm.machine().give_back().is_ok())
    });
    assert_eq!(status, 0);
    let held = vm.machine().resident().unwrap();
    assert!(held >= 100 << 12, "{held} bytes: the child has punched holes");
}
