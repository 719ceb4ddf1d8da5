//! Backtraces over stacks that are none: the program does not fail of them.

mod common;

use common::*;

#[cfg(target_arch = "x86_64")]
#[test]
fn the_first_frame_of_a_coroutine_may_return_to_anywhere() {
    let source = r#"
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
static void *main_stack;
int main(void);
static void entry(void) {
    for (int n = 0; n < 10; n++) free(malloc(50));
    asm volatile("mov %0, %%rsp; jmp back" ::"r"(main_stack));
    __builtin_unreachable();
}
int main(void) {
    void *returns[] = { 0, (void *)0x4141414141414141, (void *)8, (char *)main + 40, (char *)malloc + 20 };
    for (volatile int n = 0; n < 5; n++) {
        char *stack = mmap(0, 131072, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        char *top = stack + 65536 - 8;
        mprotect(stack + 65536, 65536, PROT_NONE);
        *(void **)top = returns[n];
        asm volatile("push %%rbx; push %%rbp; push %%r12; push %%r13; push %%r14; push %%r15; mov %%rsp, %0;"
                     "mov $0x4141414141414141, %%rbp; mov %1, %%rsp; jmp *%2;"
                     ".globl back; back: pop %%r15; pop %%r14; pop %%r13; pop %%r12; pop %%rbp; pop %%rbx"
                     : "=m"(main_stack) : "r"(top), "r"(entry)
                     : "memory", "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "cc");
        puts("back");
    }
    return 0;
}"#;
    let Some(end) = run(source, &[]) else { return };
    assert_eq!((end.out.lines().count(), end.code, end.signal), (5, Some(0), None), "{}", end.errors);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_bug_on_a_broken_stack_is_told() {
    for breaks in [
        "mov $0x4141414141414141, %%rbp",
        "mov $0x7fff00000008, %%rbp",
        "mov %%rsp, %%rbp; add $0x1000000, %%rbp",
        "movq $0x41414141, (%%rsp); movq $0x41, 8(%%rsp)",
    ] {
        let source = format!(
            r#"
#include <stdlib.h>
__attribute__((noinline, optimize("no-omit-frame-pointer"))) static void broken(char *block) {{
    char room[16];
    asm volatile("" ::"r"(room) : "memory");
    asm volatile("{breaks}; movb $1, 5(%0)" ::"r"(block) : "memory");
    asm volatile("" ::"r"(room) : "memory");
}}
int main(void) {{ char *volatile block = malloc(64); free(block); broken(block); return 0; }}"#
        );
        let Some(end) = run(&source, &[]) else { return };
        assert_eq!((end.reports(), end.signal), (1, Some(libc::SIGSEGV)), "{breaks}: {}", end.errors);
        assert!(end.errors.contains(" broken "), "{breaks}: {}", end.errors);
    }
}

#[test]
fn a_double_free_by_a_function_that_broke_its_stack_is_told() {
    let source = r#"
#include <stdlib.h>
#include <string.h>
__attribute__((noinline, optimize("no-omit-frame-pointer,no-stack-protector"))) static void broken(char *block) {
    char room[16];
    memset(room + 16, 0x41, 200);
    free(block);
    asm volatile("" ::"r"(room) : "memory");
}
int main(void) { char *volatile block = malloc(64); free(block); broken(block); return 0; }"#;
    let Some(end) = run(source, &[]) else { return };
    assert_eq!((end.reports(), end.signal), (1, Some(libc::SIGABRT)), "{}", end.errors);
}

#[test]
fn a_backtrace_goes_through_a_signal_handler_and_an_aligned_stack() {
    let source = r#"
#include <signal.h>
#include <stdlib.h>
__attribute__((noinline)) static void touch(char *block) { block[5] = 1; }
static char *volatile block;
static void handler(int s) { touch(block); }
__attribute__((noinline)) static void aligned(int n) {
    char room[n] __attribute__((aligned(64)));
    asm volatile("" ::"r"(room) : "memory");
    raise(SIGUSR1);
    asm volatile("" ::"r"(room) : "memory");
}
int main(void) {
    char stack[65536];
    stack_t other = { .ss_sp = stack, .ss_size = sizeof stack };
    struct sigaction a = { .sa_handler = handler, .sa_flags = SA_ONSTACK };
    sigaltstack(&other, 0);
    sigaction(SIGUSR1, &a, 0);
    block = malloc(64);
    free(block);
    aligned(1000);
    return 0;
}"#;
    let Some(end) = run(source, &[]) else { return };
    let at = |name: &str| end.errors.find(name).unwrap_or_else(|| panic!("{name}: {}", end.errors));
    assert!(at(" touch ") < at(" handler ") && at(" handler ") < at(" aligned ") && at(" aligned ") < at(" main "));
}

#[test]
fn a_broken_stack_does_no_harm_where_the_signals_of_faults_are_kept_out() {
    let source = r#"
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>
__attribute__((noinline, optimize("no-omit-frame-pointer"))) static void inner(void) { free(malloc(10)); }
__attribute__((noinline, optimize("no-omit-frame-pointer"))) static void broken(void) {
    void *volatile *frame = __builtin_frame_address(0), *was = frame[0];
    frame[0] = (void *)0x7fffffffe000;
    inner();
    frame[0] = was;
}
__attribute__((noinline, optimize("no-omit-frame-pointer"))) static void *calls(void *p) { broken(); return p; }
static void handler(int s) { calls(0); write(1, "handled", 7); _exit(3); }
int main(void) {
    sigset_t all, was;
    sigfillset(&all);
    pthread_t thread;
    pthread_sigmask(SIG_BLOCK, &all, &was);
    pthread_create(&thread, 0, calls, 0);
    pthread_join(thread, 0);
    pthread_sigmask(SIG_SETMASK, &was, 0);
    signal(SIGSEGV, handler);
    *(volatile int *)8 = 1;
    return 0;
}"#;
    let Some(end) = run(source, &[]) else { return };
    assert_eq!((end.out.as_str(), end.code, end.reports()), ("handled", Some(3), 0), "{end:?}");
}

#[test]
fn a_caller_that_no_table_describes_is_named() {
    let source = r#"
#include <stdlib.h>
int main(void) { char *volatile block = malloc(64); free(block); block[5] = 1; return 0; }"#;
    let Some((folder, _)) = compiled(source) else { return };
    let bare = folder.path().join("bare");
    let mut cc = std::process::Command::new("cc");
    cc.args(["-fno-builtin", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-w", "-o"]).arg(&bare);
    assert!(cc.arg(folder.path().join("program.c")).status().expect("cc").success());
    let end = ran(&mut guarded(&bare, &[("VMALLOC_GUARD", "all")]));
    assert_eq!(text(&end.stderr).matches(" main ").count(), 3, "{}", text(&end.stderr));
}
