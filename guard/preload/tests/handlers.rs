//! A program's own handlers stay below the guard's, and get everything that they would get.

mod common;

use common::*;
use std::os::unix::process::ExitStatusExt;

const HEAD: &str = "
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static sigjmp_buf back;
static char *volatile block;
static int times;
static void jumps(int s, siginfo_t *i, void *c) { times++; siglongjmp(back, i->si_signo == s && c ? 1 : 2); }
static void plain(int s) { write(1, \"own\\n\", 4); _exit(40 + (s == SIGSEGV)); }
static void gives_up(int s) { write(1, \"own\\n\", 4); signal(s, SIG_DFL); }
static void bug(void) { block = malloc(64); free(block); block[5] = 1; }
";

/// Standard output, errors, exit code and signal of a program with this `main`.
fn run(main: &str) -> Option<(String, String, Option<i32>, Option<i32>)> {
    let (_folder, program) = compiled(&format!("{HEAD}int main(void) {{ {main} }}"))?;
    let end = ran(&mut guarded(&program, &[("VMALLOC_GUARD", "all")]));
    Some((text(&end.stdout), text(&end.stderr), end.status.code(), end.status.signal()))
}

#[test]
fn a_handler_set_before_or_after_the_first_allocation_is_called_after_the_report() {
    for first in ["", "free(malloc(1));"] {
        let Some((out, errors, code, _)) = run(&format!("{first} signal(SIGSEGV, plain); bug(); return 0;")) else {
            return;
        };
        assert!(errors.starts_with("vmalloc-guard: use after free: a write to "), "{errors}");
        assert_eq!((out.as_str(), code), ("own\n", Some(41)));
    }
}

#[test]
fn a_handler_that_jumps_goes_on() {
    let main = "struct sigaction a = { .sa_sigaction = jumps, .sa_flags = SA_SIGINFO };
        sigaction(SIGSEGV, &a, 0);
        if (sigsetjmp(back, 1) == 0) bug();
        if (times == 1 && sigsetjmp(back, 1) == 0) bug();
        if (times == 2 && sigsetjmp(back, 1) == 0) *(volatile int *)8 = 1;
        return times;";
    let Some((_, errors, code, _)) = run(main) else { return };
    assert_eq!((errors.matches("vmalloc-guard: ").count(), code), (2, Some(3)), "{errors}");
}

#[test]
fn who_asks_for_the_handler_gets_its_own() {
    let main = "struct sigaction a; free(malloc(1)); sigaction(SIGSEGV, 0, &a);
        if (a.sa_handler != SIG_DFL) return 1;
        if (signal(SIGSEGV, plain) != SIG_DFL) return 2;
        sigaction(SIGSEGV, 0, &a);
        if (a.sa_handler != plain || !(a.sa_flags & SA_RESTART)) return 3;
        if (signal(SIGSEGV, SIG_IGN) != plain) return 4;
        raise(SIGSEGV);
        return 5;";
    let Some((_, errors, code, _)) = run(main) else { return };
    assert_eq!((errors.as_str(), code), ("", Some(5)));
}

#[test]
fn a_fault_elsewhere_is_not_ours() {
    let Some((_, errors, code, signal)) = run("free(malloc(1)); *(volatile int *)8 = 1; return 0;") else { return };
    assert_eq!((errors.as_str(), code, signal), ("", None, Some(libc::SIGSEGV)));
    let Some((_, errors, _, signal)) = run("free(malloc(1)); kill(getpid(), SIGSEGV); return 0;") else { return };
    assert_eq!((errors.as_str(), signal), ("", Some(libc::SIGSEGV)));
}

#[test]
fn a_handler_for_once_is_called_once() {
    let main = "struct sigaction a = { .sa_handler = plain, .sa_flags = SA_RESETHAND };
        struct sigaction b = { .sa_sigaction = jumps, .sa_flags = SA_SIGINFO | SA_RESETHAND | SA_NODEFER };
        sigaction(SIGSEGV, &b, 0);
        if (sigsetjmp(back, 1) == 0) bug();
        bug();
        return 0;";
    let Some((_, errors, code, signal)) = run(main) else { return };
    assert_eq!((errors.matches("vmalloc-guard: ").count(), code, signal), (2, None, Some(libc::SIGSEGV)), "{errors}");
}

#[test]
fn a_small_stack_for_handlers_is_enough() {
    let main = "stack_t s = { .ss_sp = aligned_alloc(4096, 8192), .ss_size = 8192 };
        struct sigaction a = { .sa_handler = plain, .sa_flags = SA_ONSTACK };
        sigaltstack(&s, 0);
        sigaction(SIGSEGV, &a, 0);
        bug();
        return 0;";
    let Some((_, errors, code, _)) = run(main) else { return };
    assert!(errors.contains("allocated by thread ") && errors.contains(" bug "), "{errors}");
    assert_eq!(code, Some(41));
}

#[test]
fn a_fault_that_is_met_again_after_the_handler_is_told_once() {
    for flags in ["0", "SA_RESETHAND"] {
        let main = format!(
            "struct sigaction a = {{ .sa_handler = gives_up, .sa_flags = {flags} }};
            sigaction(SIGSEGV, &a, 0); bug(); return 0;"
        );
        let Some((out, errors, _, signal)) = run(&main) else { return };
        let reports = errors.matches("vmalloc-guard: ").count();
        assert_eq!((out.as_str(), reports, signal), ("own\n", 1, Some(libc::SIGSEGV)), "{flags}: {errors}");
    }
}
