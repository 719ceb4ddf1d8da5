//! A report is written in any case, and writing it changes nothing for the program.

mod common;

use common::*;

const HEAD: &str = "
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
extern char **environ;
static sigjmp_buf back;
static pid_t process;
static void jumps(int s) { siglongjmp(back, 1); }
static void tells(int s) { if (getpid() == process) write(1, \"here\\n\", 5); else write(1, \"there\\n\", 6); }
static void bug(void) { char *volatile block = malloc(64); free(block); block[5] = 1; }
";

fn bug(main: &str, settings: &[(&str, &str)]) -> Option<End> {
    run(&format!("{HEAD} int main(void) {{ {main} return 0; }}"), settings)
}

#[test]
fn a_program_whose_stderr_nobody_reads_ends_as_it_would_have() {
    let closed = "int ends[2]; pipe(ends); close(ends[0]); dup2(ends[1], 2);";
    let Some(end) = bug(&format!("{closed} bug();"), &[]) else { return };
    assert_eq!(end.signal, Some(libc::SIGSEGV));
    let Some(end) = bug(&format!("{closed} void *volatile left = malloc(10);"), &[("VMALLOC_GUARD_LEAKS", "1")]) else {
        return;
    };
    assert_eq!((end.code, end.signal), (Some(0), None));
}

#[test]
fn a_report_that_may_not_be_written_to_its_file_goes_to_stderr() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("report.json");
    let settings = [("VMALLOC_GUARD_REPORT", path.to_str().expect("text"))];
    let Some(end) = bug("struct rlimit none = { 0, 0 }; setrlimit(RLIMIT_FSIZE, &none); bug();", &settings) else {
        return;
    };
    assert_eq!((end.reports(), end.signal), (1, Some(libc::SIGSEGV)), "{}", end.errors);
}

#[test]
fn a_program_that_writes_over_its_environment_reports_where_it_was_told_to() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("report.json");
    let settings = [("VMALLOC_GUARD_REPORT", path.to_str().expect("text"))];
    let main = "free(malloc(1)); for (char **v = environ; *v; v++) memset(*v, 'x', strlen(*v)); clearenv(); bug();";
    let Some(end) = bug(main, &settings) else { return };
    assert_eq!((end.errors.as_str(), end.signal), ("", Some(libc::SIGSEGV)));
    let written = std::fs::read_to_string(&path).expect("a report");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&written).expect("JSON")["kind"], "use-after-free");
}

#[test]
fn a_handler_that_jumps_away_waits_for_the_report_and_later_bugs_have_theirs() {
    let main = "signal(SIGSEGV, jumps); signal(SIGALRM, jumps);
        for (volatile int n = 0; n < 4; n++) {
            struct itimerval soon = { { 0, 0 }, { 0, 3000 } }, none = { { 0, 0 }, { 0, 0 } };
            char *volatile block = malloc(64);
            free(block);
            if (!sigsetjmp(back, 1)) { setitimer(ITIMER_REAL, &soon, 0); block[5] = 1; }
            setitimer(ITIMER_REAL, &none, 0);
        }
        for (volatile int n = 0; n < 3; n++) if (!sigsetjmp(back, 1)) bug();";
    let Some(end) = bug(main, &[]) else { return };
    // Those of the first four may be jumped away from before they have failed.
    assert!((3..=7).contains(&end.reports()), "{}", end.errors);
    assert_eq!((end.code, end.signal), (Some(0), None), "{}", end.errors);
}

#[test]
fn no_handler_of_the_program_runs_in_the_copy_that_writes() {
    let main = "process = getpid(); setpgid(0, 0); signal(SIGINT, tells); signal(SIGSEGV, jumps);
        pid_t child = fork();
        if (child == 0) {
            signal(SIGINT, SIG_IGN);
            for (int n = 0; n < 100; n++) { usleep(500); if (getppid() == process) killpg(process, SIGINT); }
            _exit(0);
        }
        for (volatile int n = 0; n < 5; n++) if (!sigsetjmp(back, 1)) bug();
        waitpid(child, 0, 0);";
    let Some(end) = bug(main, &[]) else { return };
    assert!(end.out.contains("here") && !end.out.contains("there"), "{end:?}");
}

#[test]
fn the_child_of_a_fork_in_the_middle_of_a_report_has_its_own() {
    let source = format!(
        "{HEAD}
        static volatile int stop;
        static void *fails(void *p) {{ while (!stop) if (!sigsetjmp(back, 1)) bug(); return 0; }}
        int main(void) {{
            signal(SIGSEGV, jumps);
            pthread_t other;
            pthread_create(&other, 0, fails, 0);
            for (int n = 0; n < 30; n++) {{
                int status;
                usleep(1000);
                if (fork() == 0) {{ signal(SIGSEGV, SIG_DFL); alarm(20); bug(); }}
                wait(&status);
                if (WTERMSIG(status) != SIGSEGV) _exit(1);
            }}
            _exit(0);
        }}"
    );
    let Some(end) = run(&source, &[]) else { return };
    assert_eq!((end.code, end.signal), (Some(0), None));
    assert!(end.reports() >= 30, "{}", end.reports());
}

#[test]
fn a_program_in_a_folder_whose_name_is_no_text_has_its_symbols() {
    use std::os::unix::ffi::OsStrExt;
    let Some((folder, program)) = compiled(&format!("{HEAD} int main(void) {{ bug(); return 0; }}")) else { return };
    let odd = folder.path().join(std::ffi::OsStr::from_bytes(b"\xff\xfe"));
    std::fs::create_dir(&odd).expect("a folder");
    std::fs::copy(&program, odd.join("program")).expect("a copy");
    let end = ran(&mut guarded(odd.join("program"), &[("VMALLOC_GUARD", "all")]));
    assert!(text(&end.stderr).contains(" bug "), "{}", text(&end.stderr));
}

#[test]
fn what_is_left_is_listed_also_where_a_program_closes_stderr_before_its_end() {
    let leaks = [("VMALLOC_GUARD_LEAKS", "1")];
    let source = format!(
        "{HEAD} static void closes(void) {{ fclose(stderr); }}
        int main(void) {{ free(malloc(1)); atexit(closes); int next = dup(1); void *volatile left = malloc(77); return next; }}"
    );
    let Some(end) = run(&source, &leaks) else { return };
    assert_eq!((end.reports(), end.code), (1, Some(3)), "{}", end.errors);
    let reused = "close(2); for (int n = 3; n < 5000; n++) close(n); int other = dup2(1, 1000); void *volatile left = malloc(7);";
    let Some(end) = bug(reused, &leaks) else { return };
    assert_eq!((end.out.as_str(), end.code), ("", Some(0)));
}

#[test]
fn a_file_of_the_program_that_has_the_number_of_stderr_gets_no_text() {
    let leaks = [("VMALLOC_GUARD_LEAKS", "1")];
    let Some(end) = bug("free(malloc(1)); close(2); dup(1); void *volatile left = malloc(7);", &leaks) else { return };
    assert_eq!((end.out.as_str(), end.reports(), end.code), ("", 1, Some(0)), "{end:?}");
    let fails = "if (argc > 1) { dup(1); void *volatile left = malloc(7); bug(); }
        close(2); execl(argv[0], argv[0], \"again\", (char *)0);";
    let source = format!("{HEAD} int main(int argc, char **argv) {{ {fails} return 0; }}");
    let Some(end) = run(&source, &leaks) else { return };
    assert_eq!((end.out.as_str(), end.signal), ("", Some(libc::SIGSEGV)), "{end:?}");
}

#[test]
fn a_pipe_that_nobody_reads_does_not_keep_the_program() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pipe");
    assert!(plain("mkfifo").arg(&path).status().expect("mkfifo").success());
    let Some(end) = bug("bug();", &[("VMALLOC_GUARD_REPORT", path.to_str().expect("text"))]) else { return };
    assert_eq!((end.reports(), end.signal), (1, Some(libc::SIGSEGV)), "{end:?}");
    let full = "int ends[2]; pipe(ends); dup2(ends[1], 2); fcntl(2, F_SETFL, O_NONBLOCK); while (write(2, ends, 1) == 1); fcntl(2, F_SETFL, 0);";
    let Some(end) = bug(&format!("{full} bug();"), &[]) else { return };
    assert_eq!(end.signal, Some(libc::SIGSEGV), "{end:?}");
}
