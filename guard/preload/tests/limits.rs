//! Programs that may have little have what they would have without the guard, and it finds their bugs.

mod common;

use common::*;

const HEAD: &str = r#"
#define _GNU_SOURCE
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
static void bug(void) { char *volatile block = malloc(64); free(block); block[5] = 1; }
static int has(size_t mebibytes) {
    void **all = calloc(mebibytes, sizeof *all);
    size_t n = 0;
    while (n < mebibytes && (all[n] = malloc(1 << 20))) n++;
    int has_all = n == mebibytes;
    while (n > 0) free(all[--n]);
    free(all);
    return has_all;
}
static void *nothing(void *p) { return p; }
"#;

fn source(main: &str) -> String {
    format!("{HEAD} int main(void) {{ {main} return 0; }}")
}

/// Runs a program that may have this number of KiB of addresses.
fn limited(kibibytes: usize, how: &str, main: &str) -> Option<End> {
    let (_folder, program) = compiled(&source(main))?;
    let script = format!("ulimit -c 0; ulimit -v {kibibytes}; {}", program.display());
    let end = ran(guarded("sh", &[("VMALLOC_GUARD", how)]).args(["-c", &script]));
    Some(End { out: text(&end.stdout), errors: text(&end.stderr), code: end.status.code(), signal: None })
}

#[test]
fn most_of_the_addresses_that_a_process_may_have_are_the_programs() {
    for kibibytes in [600_000, 1_500_000, 3_000_000, 6_000_000, 20_000_000] {
        for how in ["all", "every=1000"] {
            let main = format!("return has({}) ? 0 : 1;", kibibytes / 1024 * 7 / 10);
            let Some(end) = limited(kibibytes, how, &main) else { return };
            assert_eq!((end.errors.as_str(), end.code), ("", Some(0)), "{kibibytes} KiB, {how}");
        }
    }
}

#[test]
fn in_a_small_window_bugs_are_found_after_all_of_it_was_used() {
    let main = "for (int n = 0; n < 100000; n++) { char *volatile p = malloc(n % 100 + 1); free(p); } bug();";
    let Some(end) = limited(600_000, "all", main) else { return };
    assert_eq!(end.reports(), 1, "{end:?}");
}

#[test]
fn a_program_that_limits_its_addresses_later_has_as_many_as_it_says() {
    for call in ["setrlimit(RLIMIT_AS, &limit)", "prlimit(0, RLIMIT_AS, &limit, 0)"] {
        let main = format!(
            "for (int n = 0; n < 1000; n++) free(malloc(n));
            struct rlimit limit = {{ 1ul << 30, 1ul << 30 }};
            if ({call}) return 1;
            if (!has(700)) return 2;
            pthread_t other;
            if (pthread_create(&other, 0, nothing, 0) || pthread_join(other, 0)) return 3;
            for (int n = 0; n < 100000; n++) {{ char *p = malloc(n % 5000 + 1); if (!p) return 4; *p = 1; free(p); }}
            bug();"
        );
        let Some(end) = run(&source(&main), &[]) else { return };
        assert_eq!((end.reports(), end.code, end.signal), (1, None, Some(libc::SIGSEGV)), "{}", end.errors);
    }
}

#[test]
fn a_program_that_locks_all_of_its_memory_does_not_lock_the_window() {
    let main = r#"free(malloc(1));
        mlockall(MCL_CURRENT | MCL_FUTURE);
        long pages = 0;
        FILE *file = fopen("/proc/self/statm", "r");
        fscanf(file, "%ld", &pages);
        if (pages > 25000) return 1;
        for (int n = 0; n < 1000; n++) { char *p = malloc(1000); memset(p, 1, 1000); if (n % 2) free(p); }"#;
    let Some(end) = run(&source(main), &[]) else { return };
    assert_eq!((end.errors.as_str(), end.code), ("", Some(0)));
}

#[test]
fn a_program_that_may_only_read_and_write_goes_on_with_the_memory_that_it_has() {
    let main = r#"char *kept = malloc(100);
        for (int n = 0; n < 100; n++) free(malloc(100));
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
        for (int n = 0; n < 100; n++) free(malloc(100));
        free(kept);
        write(1, "done", 4);
        syscall(SYS_exit, 0);"#;
    for how in ["all", "every=2"] {
        let Some(end) = run(&source(main), &[("VMALLOC_GUARD", how)]) else { return };
        assert_eq!((end.out.as_str(), end.code), ("done", Some(0)), "{how}: {end:?}");
    }
}
