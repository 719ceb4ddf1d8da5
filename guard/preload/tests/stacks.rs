//! Allocations on small stacks: the guard needs little more than the C library does.

mod common;

use common::*;

/// Calls `f` on a stack of its own, and tells how much of it was used.
const HEAD: &str = "
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
enum { BYTES = 1 << 18 };
static ucontext_t back, there;
static char *stack;
static int used(void (*f)(void)) {
    if (!stack) stack = mmap(0, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(stack, 0x5a, BYTES);
    getcontext(&there);
    there.uc_stack.ss_sp = stack;
    there.uc_stack.ss_size = BYTES;
    there.uc_link = &back;
    makecontext(&there, f, 0);
    swapcontext(&back, &there);
    int n = 0;
    while (stack[n] == 0x5a) n++;
    return BYTES - n;
}
static void *volatile block[300];
static int n;
static void first(void) { block[0] = malloc(100); }
static void makes(void) { block[n] = malloc(n * 300); }
static void frees(void) { free(block[n]); }
static void grows(void) { block[n] = realloc(block[n], n * 301 + 1); }
";

#[cfg(target_arch = "x86_64")]
#[test]
fn a_few_thousand_bytes_are_enough_the_first_time_too() {
    let main = "int most = used(first);
        for (int turn = 0; turn < 20; turn++) {
            for (n = 0; n < 300; n++) { int now = used(makes); if (now > most) most = now; }
            for (n = 0; n < 300; n++) { int now = used(grows); if (now > most) most = now; }
            for (n = 0; n < 300; n++) { int now = used(frees); if (now > most) most = now; }
        }
        if (most > MOST) { printf(\"%d\\n\", most); return 1; }";
    // A build with little optimisation keeps more on the stack; tables that are read there take 4 KiB.
    let most = if cfg!(debug_assertions) { 8 << 10 } else { 6 << 10 };
    for how in ["all", "every=3"] {
        let source = format!("{HEAD} int main(void) {{ {} return 0; }}", main.replace("MOST", &most.to_string()));
        let Some(end) = run(&source, &[("VMALLOC_GUARD", how)]) else { return };
        assert_eq!(end.code, Some(0), "{how}: {end:?}");
    }
}

/// Threads with the least stack that begin at the same moment, at addresses of code that nobody knows yet.
const MANY: &str = "
#include <pthread.h>
#include <stdlib.h>
static pthread_barrier_t all;
static void deeper(int left, int n);
#define AT(n) __attribute__((noinline)) void at##n(int left) \\
    { void *p = malloc(10 + n); if (left) deeper(left - 1, n + 1); free(p); }
AT(0) AT(1) AT(2) AT(3) AT(4) AT(5) AT(6) AT(7)
static void (*const each[])(int) = {at0, at1, at2, at3, at4, at5, at6, at7};
static void *volatile sink;
static __attribute__((noinline)) void deeper(int left, int n) { each[n & 7](left); sink = 0; }
static void *begin(void *n) { pthread_barrier_wait(&all); deeper(7, (long)n); return 0; }
int main(void) {
    pthread_t thread[8];
    pthread_attr_t small;
    pthread_attr_init(&small);
    if (pthread_attr_setstacksize(&small, 16384)) return 9;
    pthread_barrier_init(&all, 0, 8);
    for (long n = 0; n < 8; n++) if (pthread_create(&thread[n], &small, begin, (void *)n)) return 8;
    for (int n = 0; n < 8; n++) pthread_join(thread[n], 0);
    return 0;
}";

#[cfg(target_arch = "x86_64")]
#[test]
fn threads_with_little_stack_that_begin_at_once_have_enough_of_it() {
    let Some((_folder, program)) = compiled(MANY) else { return };
    for turn in 0..30 {
        let end = ran(&mut guarded(&program, &[("VMALLOC_GUARD", "all")]));
        assert_eq!(end.status.code(), Some(0), "turn {turn}: {end:?}");
    }
}
