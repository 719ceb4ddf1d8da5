//! What is written: text, JSON, and what is left at the exit; and C programs with threads and forks.

mod common;

use common::*;
use serde_json::Value;

const BUG: &str = "
#include <stdlib.h>
static char *volatile block;
static char *make(void) { return malloc(100); }
static void end(char *p) { free(p); }
int main(void) { block = make(); end(block); return block[7]; }
";

#[test]
fn json_has_three_backtraces_with_places() {
    let Some((folder, program)) = compiled(BUG) else { return };
    let path = folder.path().join("bug-%p.json");
    let settings = [("VMALLOC_GUARD", "all"), ("VMALLOC_GUARD_REPORT", path.to_str().expect("text"))];
    let end = ran(&mut guarded(&program, &settings));
    assert_eq!(text(&end.stderr), "");
    let found = std::fs::read_dir(folder.path()).expect("a folder").flatten().map(|entry| entry.path());
    let found = found.into_iter().find(|path| path.extension().is_some_and(|end| end == "json")).expect("a report");
    let report: Value = serde_json::from_slice(&std::fs::read(found).expect("read")).expect("JSON");
    assert_eq!((&report["kind"], &report["size"]), (&"use-after-free".into(), &100.into()));
    assert_eq!((&report["bytes"], &report["access"]), (&7.into(), &"read".into()));
    for (story, function) in [("allocated", "make"), ("freed", "end"), ("here", "main")] {
        let first = &report[story]["backtrace"][0];
        assert_eq!(first["symbol"], function, "{report:#}");
        assert!(first["file"].as_str().is_some_and(|file| file.ends_with("program.c")), "{first}");
        assert!(first["line"].is_u64() && first["offset"].is_string() && first["module"].is_string(), "{first}");
        assert!(report[story]["thread"].is_u64());
    }
}

#[test]
fn what_is_left_at_the_exit_is_listed_by_caller() {
    let source = "
#include <stdlib.h>
static void *kept[16];
static void *one(void) { return malloc(1000); }
static void *two(void) { return malloc(10); }
int main(void) { for (int i = 0; i < 5; i++) kept[i] = one(); for (int i = 5; i < 16; i++) kept[i] = two(); free(kept[0]); return 3; }
";
    let Some((_folder, program)) = compiled(source) else { return };
    let end = ran(&mut guarded(&program, &[("VMALLOC_GUARD", "all"), ("VMALLOC_GUARD_LEAKS", "1")]));
    let errors = text(&end.stderr);
    assert_eq!(end.status.code(), Some(3));
    assert!(errors.starts_with("vmalloc-guard: left at the exit: "), "{errors}");
    let large = errors.find("4000 bytes in 4 allocations by:").expect(&errors);
    let small = errors.find("110 bytes in 11 allocations by:").expect(&errors);
    assert!(large < small && errors[large..small].contains(" one "), "{errors}");
}

#[test]
fn threads_that_allocate_and_fork_are_served() {
    let source = "
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
static pthread_key_t key;
static void at_end(void *p) { free(p); free(strdup(\"end\")); }
static void work(int n) {
    void *all[50] = { 0 };
    for (int i = 0; i < 2000; i++) {
        int k = (i * 7 + n) % 50;
        switch (i % 6) {
        case 0: free(all[k]); all[k] = malloc(i); break;
        case 1: free(all[k]); all[k] = calloc(i, 3); break;
        case 2: all[k] = realloc(all[k], i + 1); break;
        case 3: free(all[k]); if (posix_memalign(&all[k], 64 << i % 9, i)) _exit(9); break;
        case 4: free(all[k]); all[k] = aligned_alloc(32, i * 32); break;
        case 5: if (all[k]) memset(all[k], 1, malloc_usable_size(all[k])); break;
        }
    }
    for (int k = 0; k < 50; k++) free(all[k]);
}
static void *thread(void *p) { pthread_setspecific(key, strdup(\"x\")); work((long)p); return p; }
int main(void) {
    pthread_t t[8]; int bad = 0;
    pthread_key_create(&key, at_end);
    for (long i = 0; i < 8; i++) pthread_create(&t[i], 0, thread, (void *)i);
    for (int i = 0; i < 20; i++) {
        int status, pid = fork();
        if (pid == 0) { work(i); _exit(0); }
        waitpid(pid, &status, 0);
        bad += status != 0;
    }
    for (int i = 0; i < 8; i++) pthread_join(t[i], 0);
    return bad;
}
";
    let Some((_folder, program)) = compiled(source) else { return };
    for how in ["all", "every=10"] {
        let end = ran(&mut guarded(&program, &[("VMALLOC_GUARD", how), ("VMALLOC_GUARD_QUARANTINE", "300")]));
        assert_eq!((end.status.code(), text(&end.stderr).as_str()), (Some(0), ""), "{how}: {end:?}");
    }
}

#[test]
fn a_process_with_few_addresses_goes_on() {
    let Some((_folder, program)) = compiled("int main(void) { for (int i = 0; i < 99; i++) malloc(i); return 5; }")
    else {
        return;
    };
    for kib in ["100000", "3000000"] {
        let script = format!("ulimit -v {kib}; exec {}", program.display());
        let mut command = plain("sh");
        let under = format!("LD_PRELOAD={} VMALLOC_GUARD=all", library().display());
        let script = script.replace("exec ", &format!("exec env {under} "));
        let end = ran(command.args(["-c", &script]));
        assert_eq!((end.status.code(), text(&end.stderr).as_str()), (Some(5), ""), "{kib}");
    }
}
