//! What Linux's own tools have recorded, made into traces.

use crate::common::{Run, command, replay, report, scratch};
use std::fs;

const FTRACE: &str = "\
# tracer: nop
#
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
     kworker/0:1-9       [000] .....   119.000001: free_vmap_area_noflush: va_start=0xffffc90000040000 nr_lazy=5 nr_lazy_max=65536
            bash-812     [001] .....   120.100001: alloc_vmap_area: va_start: 18446683600570023936 size=20480 align=16384 vstart=0xffffc90000000000 vend=0xffffe8ffffffffff failed=0
            bash-812     [001] .....   120.100101: sched_switch: prev_comm=bash next_comm=a
     kworker/0:1-9       [000] .....   120.200002: free_vmap_area_noflush: va_start=0xffffc90000000000 nr_lazy=5 nr_lazy_max=65536
     kworker/0:1-9       [000] .....   120.300003: purge_vmap_area_lazy: start=0xffffc90000000000 end=0xffffc90000005000 num_purged=1
";

fn written(name: &str, text: &str) -> String {
    let path = scratch(name);
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn convert(args: &[&str]) -> Run {
    command(&[&["convert"], args].concat())
}

#[test]
fn the_text_of_ftrace_is_converted_and_replayed_with_and_without_a_listing_of_before() {
    let (events, trace) = (written("events.txt", FTRACE), scratch("events.trace").display().to_string());
    let alone = convert(&[&events, "--output", &trace]);
    let said = "vmalloc: 3 events; passed over: 1 frees of what was made before, 1 other events\n";
    assert_eq!((alone.code, alone.out.as_str(), alone.err.as_str()), (0, "", said));
    let (run, told) = report("ftrace", &[&trace, "--machine", "sim"]);
    assert_eq!((run.code, &told["events_done"]), (0, &3.into()));
    let listing =
        written("before.txt", "0xffffc90000040000-0xffffc90000045000   20480 a+0x1/0x2 [m] pages=4 vmalloc N0=4\n");
    let known = convert(&[&events, "--start", &listing]);
    assert_eq!(known.code, 0, "{}", known.err);
    assert_eq!(known.err, "vmalloc: 4 events; passed over: 0 frees of what was made before, 1 other events\n");
    let lines: Vec<&str> = known.out.lines().collect();
    assert_eq!(lines.len(), 5);
    let first = "119000001000 0 alloc addr=0xffffc90000040000 size=20480 align=1 kind=? vstart=0xffffc90000000000 \
                 vend=0xffffe8ffffffffff caller=a+0x1[m] task=-";
    assert_eq!(lines[0], first);
    let (run, told) = report("known", &[&written("known.trace", &known.out), "--machine", "sim"]);
    assert_eq!((run.code, &told["events_done"]), (0, &5.into()));
    let direct = replay(&[&events, "--machine", "sim", "--quiet"]);
    assert_eq!((direct.code, direct.err.as_str()), (0, ""), "without a file between");
}

#[test]
fn a_trace_that_was_begun_late_is_replayed_when_it_is_converted() {
    let range = "vstart=0xffffc90000000000 vend=0xffffe8ffffffffff caller=f task=a";
    let late = format!(
        "1 0 free addr=0xffffc90000010000 size=20480 kind=vmalloc by=vfree task=a\n\
         2 1 alloc addr=0xffffc90000020000 size=8192 align=4096 kind=vmalloc {range}\n\
         3 1 free addr=0xffffc90000020000 size=8192 kind=vmalloc by=vfree task=a\n"
    );
    let path = written("late.txt", &late);
    let refused = replay(&[&path]);
    assert!(
        refused.code == 2 && refused.err.contains("`vmalloc convert` leaves out what a trace frees of before"),
        "{}",
        refused.err
    );
    let converted = convert(&[&path]);
    assert_eq!(converted.err, "vmalloc: 2 events; passed over: 1 frees of what was made before, 0 other events\n");
    assert_eq!(converted.out.lines().collect::<Vec<_>>(), late.lines().skip(1).collect::<Vec<_>>());
    assert_eq!(replay(&[&written("begun.trace", &converted.out), "--quiet"]).code, 0);
}

#[test]
fn what_cannot_be_converted_is_exit_code_2_with_file_line_and_reason() {
    let none = written("none.txt", "cpus=2\n");
    let run = convert(&[&none]);
    let why =
        "no event of alloc_vmap_area, free_vmap_area_noflush or purge_vmap_area_lazy, as trace-cmd report prints them";
    assert_eq!((run.code, run.err), (2, format!("vmalloc: {none}: {why}\n")));
    let odd = written("odd.txt", &FTRACE.replace("size=20480", "size=many"));
    let run = convert(&[&odd]);
    assert_eq!((run.code, run.err), (2, format!("vmalloc: {odd}:5: the size is not a number: \"many\"\n")));
    assert_eq!(convert(&["no/such/file"]).code, 2);
    let run = convert(&[&none, "--output", "no/such/folder/file"]);
    assert!(run.code == 2 && run.err.contains("cannot be written"), "{}", run.err);
}
