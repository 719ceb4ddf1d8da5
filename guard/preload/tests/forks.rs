//! Handlers of forks that other code has set, before the guard and after it.

mod common;

use common::*;

/// A program whose handlers of a fork were set by its first constructor, before anything was allocated.
fn run(functions: &str, main: &str) -> Option<End> {
    let head = "
        #include <pthread.h>
        #include <stdlib.h>
        #include <sys/wait.h>
        #include <unistd.h>
        static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
        static void allocate(void) { for (int n = 0; n < 50; n++) free(malloc(100 + n)); }";
    common::run(
        &format!(
            "{head} {functions}
            __attribute__((constructor(101))) static void first(void) {{ pthread_atfork(before, after, after); }}
            int main(void) {{ {main} }}"
        ),
        &[],
    )
}

#[test]
fn a_handler_that_was_set_before_the_first_allocation_may_allocate() {
    let functions = "static void before(void) { allocate(); } static void after(void) { allocate(); }";
    let main = "for (int n = 0; n < 20; n++) {
            int status;
            if (fork() == 0) { allocate(); _exit(7); }
            allocate();
            wait(&status);
            if (status != 7 << 8) return 1;
        }
        return 0;";
    let Some(end) = run(functions, main) else { return };
    assert_eq!((end.errors.as_str(), end.code), ("", Some(0)), "{end:?}");
}

#[test]
fn a_handler_may_wait_for_a_thread_that_allocates() {
    let functions = "static volatile int stop;
        static void before(void) { pthread_mutex_lock(&lock); }
        static void after(void) { pthread_mutex_unlock(&lock); }
        static void *work(void *p) {
            while (!stop) { pthread_mutex_lock(&lock); allocate(); pthread_mutex_unlock(&lock); }
            return 0;
        }";
    let main = "pthread_t all[3];
        for (int n = 0; n < 3; n++) pthread_create(all + n, 0, work, 0);
        for (int n = 0; n < 100; n++) {
            int status;
            if (fork() == 0) { allocate(); _exit(7); }
            wait(&status);
            if (status != 7 << 8) return 1;
        }
        stop = 1;
        for (int n = 0; n < 3; n++) pthread_join(all[n], 0);
        return 0;";
    let Some(end) = run(functions, main) else { return };
    assert_eq!((end.errors.as_str(), end.code), ("", Some(0)), "{end:?}");
}
