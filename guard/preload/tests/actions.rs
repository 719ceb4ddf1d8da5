//! Every way to set a handler leads below the guard's, and changes nobody else's.

mod common;

use common::*;

const HEAD: &str = r#"
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
sighandler_t bsd_signal(int, sighandler_t);
static sigjmp_buf back;
static volatile int times;
static void own(int s) { write(1, "own\n", 4); _exit(40); }
static void sets(int s) { times++; signal(SIGSEGV, own); }
static int is_default(void) { struct sigaction a; sigaction(SIGSEGV, 0, &a); return a.sa_handler == SIG_DFL; }
static void asks(int s) { times = is_default(); siglongjmp(back, 1); }
static void bug(void) { char *volatile block = malloc(64); free(block); block[5] = 1; }
"#;

fn run(main: &str) -> Option<End> {
    common::run(&format!("{HEAD}int main(void) {{ free(malloc(1)); {main} return 0; }}"), &[])
}

#[test]
fn each_call_of_the_c_library_that_sets_a_handler_sets_it_below() {
    for call in ["bsd_signal", "ssignal", "sysv_signal", "__sysv_signal", "sigset"] {
        let Some(end) = run(&format!(
            "{call}(SIGSEGV, own);
            struct sigaction a; sigaction(SIGSEGV, 0, &a);
            if (a.sa_handler != own) return 1;
            bug();"
        )) else {
            return;
        };
        assert_eq!((end.reports(), end.out.as_str(), end.code), (1, "own\n", Some(40)), "{call}: {}", end.errors);
    }
}

#[test]
fn their_return_values_and_flags_are_those_of_glibc() {
    let Some(end) = run("struct sigaction a;
        if (sysv_signal(SIGSEGV, own) != SIG_DFL) return 1;
        sigaction(SIGSEGV, 0, &a);
        if ((a.sa_flags & (SA_RESETHAND | SA_NODEFER | SA_RESTART)) != (SA_RESETHAND | SA_NODEFER)) return 2;
        if (sigset(SIGSEGV, SIG_HOLD) != own || sigset(SIGSEGV, SIG_DFL) != SIG_HOLD) return 3;
        if (sigset(SIGSEGV, own) != SIG_DFL) return 4;
        if (siginterrupt(SIGSEGV, 0)) return 5;
        sigaction(SIGSEGV, 0, &a);
        if (a.sa_handler != own || !(a.sa_flags & SA_RESTART)) return 6;
        siginterrupt(SIGSEGV, 1);
        signal(SIGSEGV, own);
        sigaction(SIGSEGV, 0, &a);
        if (a.sa_flags & SA_RESTART) return 7;
        if (signal(SIGSEGV, SIG_ERR) != SIG_ERR) return 8;
        if (sigignore(SIGSEGV)) return 9;
        raise(SIGSEGV);
        return 10;")
    else {
        return;
    };
    assert_eq!((end.errors.as_str(), end.code), ("", Some(10)));
}

#[test]
fn a_handler_for_once_that_was_called_is_the_default_for_who_asks() {
    let Some(end) = run("struct sigaction a = { .sa_handler = asks, .sa_flags = SA_RESETHAND };
        sigaction(SIGSEGV, &a, 0);
        if (sigsetjmp(back, 1) == 0) *(volatile int *)8 = 1;
        return times;")
    else {
        return;
    };
    assert_eq!(end.code, Some(1));
}

#[test]
fn a_child_of_vfork_sets_its_own_handlers_and_not_its_parents() {
    let Some(end) = run(r#"signal(SIGSEGV, own);
        pid_t child = vfork();
        if (child == 0) {
            if (signal(SIGSEGV, SIG_DFL) != own || !is_default()) _exit(1);
            execl("/bin/sh", "sh", "-c", "kill -SEGV $$", (char *)0);
            _exit(2);
        }
        int status;
        waitpid(child, &status, 0);
        if (!WIFSIGNALED(status)) return 1;
        if (is_default()) return 2;
        *(volatile int *)8 = 1;"#)
    else {
        return;
    };
    assert_eq!((end.out.as_str(), end.code), ("own\n", Some(40)));
}

#[test]
fn a_handler_may_set_handlers_in_the_middle_of_setting_them() {
    let Some(end) = run("struct itimerval often = { { 0, 200 }, { 0, 200 } };
        signal(SIGALRM, sets);
        setitimer(ITIMER_REAL, &often, 0);
        while (times < 500) signal(SIGSEGV, SIG_DFL);")
    else {
        return;
    };
    assert_eq!((end.errors.as_str(), end.code, end.signal), ("", Some(0), None));
}
