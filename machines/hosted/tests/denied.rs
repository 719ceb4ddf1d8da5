//! What Linux denies a process later than the machine has tried it.

mod common;

use vmalloc::machine::format::Prot;
use vmalloc::units::Pfn;
use vmalloc::{Req, Vmalloc};
use vmalloc_hosted::{BuildError, Hosted, builder};
use vmalloc_process::in_child;

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
        let right = refused == Some(BuildError::Refused { what: "memory file", number: libc::EFBIG });
        u8::from(!(right && builder().memory(1 << 20).region(1 << 24).build().is_ok()))
    });
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{status:#x}");
}
