//! What Linux denies a process later than the machine has tried it.

mod common;

use vmalloc::machine::format::Prot;
use vmalloc::units::Pfn;
use vmalloc::{Policy, Req, Vmalloc};
use vmalloc_hosted::{BuildError, Hosted, Refusal, builder, is_readable};
use vmalloc_process::{deny, in_child};

/// `mov eax, 42; ret`
const CODE: [u8; 6] = [0xb8, 42, 0, 0, 0, 0xc3];

fn runs(vm: &Vmalloc<Hosted>, frames: &[Pfn]) -> bool {
    // SAFETY: P1: the area that has them lives.
    let Ok(at) = (unsafe { vm.vmap(frames, Req::bytes(0).prot(Prot::RX)) }) else { return false };
    // SAFETY: the code above was written there.
    let code: extern "C" fn() -> i32 = unsafe { std::mem::transmute(at.as_ptr()) };
    let right = code() == 42;
    // SAFETY: V1: nobody runs there any more.
    right && unsafe { vm.vunmap(at) }.is_ok()
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_view_that_executes_is_had_where_nothing_may_become_executable() {
    let status = in_child(|| {
        // The instance is the child's own.
        let vm = builder().memory(16 << 20).region(64 << 20).build().unwrap();
        // SAFETY: no pointers: PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN.
        if unsafe { libc::prctl(65, 1, 0, 0, 0) } != 0 {
            return 77;
        }
        let mut code = vm.area(Req::pages(3)).unwrap();
        code[..CODE.len()].copy_from_slice(&CODE);
        let frames: Vec<Pfn> = code.frames().collect();
        let all = (0..3).all(|_| runs(&vm, &frames));
        drop(code);
        vm.purge();
        u8::from(!(all && vm.check().is_ok() && vm.areas().count() == 0))
    });
    assert!(libc::WIFEXITED(status), "{status:#x}");
    match libc::WEXITSTATUS(status) {
        77 => eprintln!("SKIPPED: this Linux has no MDWE"),
        code => assert_eq!(code, 0),
    }
}

#[test]
fn a_limit_that_linux_answers_by_a_signal_is_an_error() {
    let status = in_child(|| {
        let limit = libc::rlimit { rlim_cur: 1 << 20, rlim_max: 1 << 20 };
        // SAFETY: it is readable.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) }, 0);
        let refused = builder().memory(16 << 20).build().err();
        let right = refused == Some(BuildError::FileLimit { bytes: 16 << 20, limit: 1 << 20 });
        u8::from(!(right && builder().memory(1 << 20).region(1 << 24).build().is_ok()))
    });
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{status:#x}");
}

/// The child's exit code, with this limit.
fn limited(of: libc::__rlimit_resource_t, bytes: u64, then: impl FnOnce() -> bool) -> i32 {
    let status = in_child(|| {
        let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
        // SAFETY: it is readable.
        assert_eq!(unsafe { libc::setrlimit(of, &limit) }, 0);
        u8::from(!then())
    });
    assert!(libc::WIFEXITED(status), "a signal: {status:#x}");
    libc::WEXITSTATUS(status)
}

#[test]
fn a_heap_without_room_for_the_records_is_an_error_and_no_abort() {
    let refused = |of| move || builder().memory(16 << 20).region(1 << 42).build().err() == Some(of);
    let of_region = refused(BuildError::NoRecords { of: "region's pages" });
    assert_eq!(limited(libc::RLIMIT_DATA, 100 << 20, of_region), 0);
    let frames = || builder().memory(4 << 30).region(1 << 24).build().err();
    let of_frames = move || frames() == Some(BuildError::NoRecords { of: "frames" });
    assert_eq!(limited(libc::RLIMIT_DATA, 12 << 20, of_frames), 0);
    let fits = || builder().memory(16 << 20).region(1 << 30).build().is_ok_and(|vm| vm.area(Req::pages(3)).is_ok());
    assert_eq!(limited(libc::RLIMIT_DATA, 100 << 20, fits), 0);
}

#[test]
fn addresses_that_are_limited_are_an_error_that_names_the_limit() {
    let refused = || {
        let why = builder().memory(16 << 20).region(1 << 36).build().err();
        let vm = builder().memory(1 << 24).region(1 << 24).build();
        let why_then = vm.map(|vm| vm.machine().refusal(libc::ENOMEM));
        why == Some(BuildError::Addresses { what: "region", limit: 4 << 30 })
            && why_then == Ok(Refusal::Addresses { limit: 4 << 30 })
    };
    assert_eq!(limited(libc::RLIMIT_AS, 4 << 30, refused), 0);
}

/// MADV_GUARD_INSTALL, MADV_POPULATE_READ and MADV_REMOVE.
const GUARD: u64 = 102;
const POPULATE: u64 = 22;
const REMOVE: u64 = 9;

/// A system call, and which argument of which value is denied, if not all are.
type Denied = (i64, Option<(u8, u64)>);

/// Areas beside each other, a view that may only be read, and memory that is given back: what the machine's
/// abilities are for. A child must not panic, since other threads' locks are held there for ever.
fn works(vm: &Vmalloc<Hosted>) -> bool {
    let all = (1..9).map(|pages| vm.area(Req::pages(pages))).collect::<Result<Vec<_>, _>>();
    let Ok(mut areas) = all else { return false };
    let all_written = areas.iter_mut().all(|area| {
        area.fill(9);
        let after = area.as_ptr().wrapping_add(area.len());
        area.iter().all(|&byte| byte == 9) && !is_readable(after)
    });
    let frames: Vec<Pfn> = areas[2].frames().collect();
    // SAFETY: P1: the area has them.
    let Ok(view) = (unsafe { vm.vmap(&frames, Req::bytes(0).prot(Prot::RO)) }) else { return false };
    // SAFETY: three pages.
    let seen = unsafe { view.read() } == 9;
    // SAFETY: V1.
    let ended = unsafe { vm.vunmap(view) }.is_ok();
    drop(areas);
    vm.purge();
    all_written && seen && ended && vm.check().is_ok() && vm.areas().count() == 0
}

#[test]
fn each_call_of_linux_that_is_denied_after_it_has_worked_has_its_other_way() {
    let (madvise, mprotect, fallocate) = (libc::SYS_madvise, libc::SYS_mprotect, libc::SYS_fallocate);
    let denials: [&[Denied]; 7] = [
        &[(libc::SYS_mremap, None)],
        &[(madvise, Some((2, GUARD)))],
        &[(mprotect, None)],
        &[(madvise, Some((2, POPULATE)))],
        &[(fallocate, None)],
        &[(fallocate, None), (madvise, Some((2, REMOVE)))],
        &[(libc::SYS_mremap, None), (mprotect, None), (madvise, Some((2, GUARD))), (fallocate, None)],
    ];
    for denied in denials {
        for error in [libc::EPERM, libc::ENOSYS, libc::EINVAL] {
            let status = in_child(|| {
                let vm = builder().memory(16 << 20).region(64 << 20).policy(Policy::Unmap).build().unwrap();
                if !works(&vm) {
                    return 1;
                }
                denied.iter().for_each(|&(number, argument)| deny(number, argument, error));
                let mut again = (0..3).all(|_| works(&vm));
                let denies_holes = denied.iter().any(|&(_, argument)| argument == Some((2, REMOVE)));
                again &= vm.machine().resident().unwrap() < 1 << 20 || denies_holes;
                u8::from(!again)
            });
            assert_eq!(status, 0, "{denied:?}, {error}");
        }
    }
}

#[test]
fn memory_that_is_locked_from_now_on_has_areas_and_guards_all_the_same() {
    let status = in_child(|| {
        let vm = builder().memory(16 << 20).region(64 << 20).policy(Policy::Unmap).build().unwrap();
        // SAFETY: it changes no memory.
        if unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) } != 0 {
            return 77;
        }
        u8::from(!(works(&vm) && works(&vm)))
    });
    assert!(libc::WIFEXITED(status), "{status:#x}");
    match libc::WEXITSTATUS(status) {
        77 => eprintln!("SKIPPED: nothing can be locked here"),
        code => assert_eq!(code, 0),
    }
}
