//! The replay, from outside: exit codes, reports, figures.

use crate::common::{replay, report, scratch, trace};
use serde_json::Value;

fn number(report: &Value, name: &str) -> u64 {
    report[name].as_u64().unwrap_or_else(|| panic!("no number {name} in {report:#}"))
}

/// Nothing went wrong, and nothing was left.
fn assert_clean(name: &str, code: i32, report: &Value) {
    let zero = ["events_failed", "bytes_wrong", "rules_broken", "leaked_areas", "leaked_frames", "leaked_vmas"];
    for field in zero {
        assert_eq!(number(report, field), 0, "{name}: {field}: {}", report["errors"]);
    }
    assert_eq!((code, &report["ok"]), (0, &Value::Bool(true)), "{name}");
    assert_eq!(number(report, "events_done"), number(report, "events_total"), "{name}");
}

#[test]
fn a_boot_is_replayed_on_real_memory_and_ends_as_linux_lists_it() {
    let (boot, list) = (trace("boot.txt.gz"), trace("boot.vmallocinfo.gz"));
    let (run, report) = report("boot", &[&boot, "--expect", &list, "--strict-expect"]);
    assert_clean("boot", run.code, &report);
    assert_eq!(number(&report, "events_done"), 1475);
    assert_eq!(["expect_matched", "expect_missing", "expect_extra"].map(|name| number(&report, name)), [371, 0, 0]);
    assert_eq!(number(&report, "areas_at_end"), 371);
    assert!(number(&report, "bytes_verified") > 30 << 20, "all that was written: {report:#}");
    assert!(report["span_ratio"].as_f64().unwrap() >= 1.0 && report["elapsed_s"].as_f64().unwrap() > 0.0);
    assert!((1..=number(&report, "vmas_allowed")).contains(&number(&report, "vmas_used")));
    for (call, count) in [("alloc", 679), ("free_irq", 119), ("purge", 342), ("ioremap", 12), ("pcpu_alloc", 1)] {
        assert_eq!(report["latency_ns"][call]["count"], count, "{call}");
    }
    assert!(run.out.contains("All went well") && run.out.contains("371 of 371"), "{}", run.out);
}

#[test]
fn the_built_in_trace_is_replayed_whole() {
    let list = trace("mix.vmallocinfo.gz");
    let (run, report) = report("mix", &["--expect", &list]);
    assert_clean("mix", run.code, &report);
    let word = |word: &str| report["events"][word].as_u64().unwrap();
    assert_eq!(["alloc", "map_ram", "unmap_ram", "defer"].map(word), [8014, 641, 641, 3552]);
    // One stack was made between the end of the trace and the listing.
    assert_eq!(["expect_matched", "expect_missing", "expect_extra"].map(|name| number(&report, name)), [475, 1, 0]);
    assert!(
        run.out.contains("in the listing, but not live here:\n      20480 kernel_clone+0xc2 vmalloc\n"),
        "{}",
        run.out
    );
}

#[test]
fn every_policy_and_placement_goes_well_on_both_machines() {
    let boot = trace("boot.txt.gz");
    for machine in ["hosted", "sim"] {
        for (policy, placement) in
            [("unmap", "classes"), ("unmap", "lowest"), ("strict", "classes"), ("strict", "lowest")]
        {
            let name = format!("boot-{machine}-{policy}-{placement}");
            let choice = ["--machine", machine, "--policy", policy, "--placement", placement];
            let (run, report) = report(&name, &[&[boot.as_str()][..], &choice].concat());
            assert_clean(&name, run.code, &report);
            assert_eq!(report["policy"], policy);
        }
    }
}

#[test]
fn cpus_are_counted_round_and_loops_repeat() {
    let boot = trace("boot.txt.gz");
    for cpus in ["1", "3", "8"] {
        let name = format!("boot-cpus-{cpus}");
        let (run, report) = report(&name, &[&boot, "--cpus", cpus, "--loops", "3"]);
        assert_clean(&name, run.code, &report);
        assert_eq!(number(&report, "events_done"), 3 * 1475);
    }
}

#[test]
fn a_seed_repeats_a_simulated_run() {
    let boot = trace("boot.txt.gz");
    let figures = |name: &str, seed: &str| {
        let (_, report) = report(name, &[&boot, "--machine", "sim", "--seed", seed]);
        ["flushes", "kicks", "span_pages", "peak_pages", "bytes_verified"].map(|field| number(&report, field))
    };
    assert_eq!(figures("seed-a", "7"), figures("seed-b", "7"));
}

#[test]
fn too_little_memory_ends_with_the_allocators_own_error_and_a_report() {
    let (run, report) = report("small", &[&trace("boot.txt.gz"), "--memory", "8M"]);
    assert_eq!((run.code, &report["ok"]), (1, &Value::Bool(false)), "{}", run.err);
    let error = report["errors"][0].as_str().unwrap();
    assert!(error.contains("out of memory"), "{error}");
    assert!(run.out.contains(error) && run.out.contains("events were not done"), "{}", run.out);
    let done = number(&report, "events_done");
    assert!(done > 0 && done < number(&report, "events_total"));
    for field in ["bytes_wrong", "leaked_areas", "leaked_frames", "leaked_vmas"] {
        assert_eq!(number(&report, field), 0, "{field}: what was made is given back");
    }
}

#[test]
fn info_prints_the_listing_in_linux_form_and_quiet_nothing_else() {
    let run = replay(&[&trace("boot.txt.gz"), "--info", "--quiet"]);
    assert_eq!((run.code, run.err.as_str()), (0, ""));
    let live = |line: &&str| !line.contains("unpurged");
    assert_eq!(run.out.lines().filter(live).count(), 371, "{}", run.out);
    let stack = run.out.lines().find(|line| line.contains("kernel_clone+0xc2")).expect("a stack");
    assert!(stack.starts_with("0x") && stack.ends_with("  20480 kernel_clone+0xc2 pages=4 vmalloc N0=4"), "{stack}");
    assert_eq!(replay(&[&trace("boot.txt.gz"), "-q"]).out, "");
}

#[test]
fn differences_are_printed_and_count_only_when_asked() {
    let list = scratch("other.vmallocinfo");
    std::fs::write(&list, "0x1000-0x2000 40960000 nobody+0x1/0x2 pages=9999 vmalloc N0=9999\n").unwrap();
    let (boot, list) = (trace("boot.txt.gz"), list.to_str().unwrap().to_owned());
    let run = replay(&[&boot, "--expect", &list]);
    assert_eq!(run.code, 0, "{}", run.err);
    assert!(run.out.contains("in the listing, but not live here:\n   40960000 nobody+0x1 vmalloc\n"), "{}", run.out);
    assert!(run.out.contains("live here, but not in the listing:\n") && run.out.contains("more\n"));
    assert_eq!(replay(&[&boot, "--expect", &list, "--strict-expect"]).code, 1);
}

#[test]
fn the_trace_is_placed_as_an_old_kernel_would_and_both_stand_beside_each_other() {
    let boot = trace("boot.txt.gz");
    for age in ["2.6", "3.0"] {
        let (run, report) = report(&format!("historic-{age}"), &[&boot, "--historic", age]);
        assert_clean(age, run.code, &report);
        let past = &report["historic"];
        assert_eq!((&past["age"], number(past, "refused")), (&Value::from(age), 0));
        assert!(number(past, "steps") > number(past, "made"), "a real walk over a list: {past:#}");
        assert!(number(past, "span_pages") > 0 && past["elapsed_s"].as_f64().unwrap() > 0.0);
        let title = run.out.lines().find(|line| line.contains("placed")).expect("a table");
        assert!(title.contains("here") && title.contains(age), "{title}");
        for row in ["address span", "search steps", "flushes", "ns a call"] {
            assert!(run.out.contains(row), "{row}");
        }
    }
}

#[test]
fn every_name_of_the_report_is_explained() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let (boot, list) = (trace("boot.txt.gz"), trace("boot.vmallocinfo.gz"));
    let (_, report) = report("names", &[&boot, "--expect", &list]);
    let inner = ["frames_held", "latency_ns"].map(|name| report[name].as_object().unwrap().keys());
    for name in report.as_object().unwrap().keys().chain(inner.into_iter().flatten()) {
        assert!(readme.contains(&format!("`{name}`")), "{name}");
    }
}

/// The areas of a listing, sorted: size and what follows, but for addresses. A trace does not
/// say which device is mapped.
fn areas_of(listing: &str) -> Vec<String> {
    let live = listing.lines().filter(|line| !line.contains("unpurged"));
    let words = live.map(|line| line.split_whitespace().skip(1).filter(|word| !word.starts_with("phys=")));
    let mut areas: Vec<String> = words.map(|words| words.collect::<Vec<_>>().join(" ")).collect();
    areas.sort_unstable();
    areas
}

/// Replays `trace` with `args`, and returns the listing at the end.
fn listed(trace: &str, args: &[&str]) -> String {
    let run = replay(&[&[trace, "--info", "--quiet"], args].concat());
    assert_eq!((run.code, run.err.as_str()), (0, ""), "{trace} {args:?}");
    run.out
}

#[test]
fn a_run_is_written_as_a_trace_which_replays_to_the_same_listing() {
    for name in ["boot.txt.gz", "mix.txt.gz"] {
        for (machine, loops) in [("hosted", "1"), ("sim", "1"), ("hosted", "2")] {
            let file = scratch(&format!("{name}-{machine}-{loops}.trace")).display().to_string();
            let first = listed(&trace(name), &["--machine", machine, "--loops", loops, "--trace-out", &file]);
            let again = scratch(&format!("{name}-{machine}-{loops}-again.trace")).display().to_string();
            let second = listed(&file, &["--machine", machine, "--trace-out", &again]);
            assert!(areas_of(&first).len() > 300, "{name} on {machine}");
            assert_eq!(areas_of(&first), areas_of(&second), "{name} on {machine}");
            let third = listed(&again, &["--machine", "hosted"]);
            assert_eq!(areas_of(&first), areas_of(&third), "{name}: what was written of what was written");
        }
    }
}

#[test]
fn a_written_trace_has_each_area_where_it_was() {
    let file = scratch("where.trace").display().to_string();
    let listing = listed(&trace("mix.txt.gz"), &["--machine", "sim", "--trace-out", &file]);
    let text = std::fs::read_to_string(&file).unwrap();
    let count = |op: &str| text.lines().filter(|line| line.split(' ').nth(2) == Some(op)).count();
    assert_eq!(["map_ram", "unmap_ram", "defer", "mark"].map(count), [641, 641, 3552, 75]);
    for line in listing.lines().filter(|line| !line.contains("unpurged") && !line.contains("pcpu_get")) {
        let start = line.split('-').next().unwrap();
        assert!(text.contains(&format!(" addr={start} ")), "{line}");
    }
}

#[test]
fn a_trace_that_cannot_be_written_is_an_error_and_the_bare_machine_tells_none() {
    let full = replay(&[&trace("boot.txt.gz"), "--trace-out", "/dev/full"]);
    assert_eq!(full.code, 1);
    assert!(full.err.starts_with("vmalloc: /dev/full: cannot be written"), "{}", full.err);
    let file = scratch("bare.trace").display().to_string();
    let bare = replay(&[&trace("boot.txt.gz"), "--machine", "pc", "--trace-out", &file]);
    assert_eq!(
        (bare.code, bare.err.as_str()),
        (2, "vmalloc: --trace-out: the bare-metal machine tells no addresses\n")
    );
}

/// Pages that areas of a listing own, and those of the lines that `which` picks.
fn owned_pages(listing: &str, which: impl Fn(&str) -> bool) -> u64 {
    let lines = listing.lines().filter(|line| !line.contains("unpurged") && which(line));
    let pages = lines.filter_map(|line| line.split(" pages=").nth(1)?.split(' ').next());
    pages.map(|pages| pages.parse::<u64>().unwrap()).sum()
}

#[test]
fn a_boot_owns_the_pages_that_linux_lists_and_those_of_areas_whose_kind_the_trace_does_not_know() {
    let ours = listed(&trace("boot.txt.gz"), &[]);
    let mut linux = String::new();
    let packed = std::fs::File::open(trace("boot.vmallocinfo.gz")).unwrap();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(packed), &mut linux).unwrap();
    // Stacks for interrupts and devices of the first second: recorded as `?`.
    let early = ["irq_init_percpu_irqstack", "acpi_os_map_iomem", "hpet_enable", "memremap"];
    let sizes = linux.lines().filter(|line| early.iter().any(|name| line.contains(name)));
    let bytes = |line: &str| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap();
    let unlisted: u64 = sizes.map(|line| bytes(line) / 4096 - 1).sum();
    assert_eq!((owned_pages(&ours, |_| true), owned_pages(&linux, |_| true), unlisted), (2277, 2255, 22));
    let known = |line: &str| line.contains(" load_module+") || line.contains(" pcpu_create_chunk+");
    assert_eq!(owned_pages(&ours, known), owned_pages(&linux, known));
}

/// Waits until the process has a handler for the signal: one that came before would end it.
fn wait_for_handler(pid: u32, signal: i32) {
    let is_caught = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(caught.trim(), 16).unwrap() >> (signal - 1) & 1 != 0
    };
    while !is_caught() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn ctrl_c_ends_a_replay_which_tells_what_was_done() {
    for machine in ["hosted", "sim"] {
        let json = scratch(&format!("interrupted-{machine}.json"));
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_vmalloc"));
        command
            .args(["replay", &trace("boot.txt.gz"), "--machine", machine, "--loops", "1000000", "--json"])
            .arg(&json);
        let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
        wait_for_handler(child.id(), libc::SIGINT);
        // SAFETY: no pointers; the child is ours and was not waited for.
        assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGINT) }, 0);
        let ended = child.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(130), "{machine}");
        let told = String::from_utf8(ended.stdout).unwrap();
        assert!(told.contains("Interrupted: ") && told.contains(" events were not done."), "{told}");
        let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
        assert_eq!((&report["interrupted"], &report["ok"]), (&Value::Bool(true), &Value::Bool(false)));
        let left = ["events_failed", "bytes_wrong", "rules_broken", "leaked_areas", "leaked_frames", "leaked_vmas"];
        assert_eq!(left.map(|name| number(&report, name)), [0; 6], "{machine}: all is given back");
    }
}

#[test]
fn cpus_beyond_those_that_there_are_are_folded() {
    let text = crate::common::unpacked("boot.txt.gz");
    let far: String = text.lines().map(|line| far_away(line) + "\n").collect();
    let path = scratch("far.txt");
    std::fs::write(&path, far).unwrap();
    let path = path.to_str().unwrap();
    let refused = replay(&[path]);
    let why = "vmalloc: 304 CPUs, but this machine has at most 256: --cpus 256 folds them\n";
    assert_eq!((refused.code, refused.err.as_str()), (2, why));
    let (run, report) = report("far", &[path, "--cpus", "4"]);
    assert_clean("far", run.code, &report);
    let refused = replay(&[&trace("boot.txt.gz"), "--machine", "pc", "--cpus", "65"]);
    let why = "vmalloc: 65 CPUs, but this machine has at most 64: --cpus 64 folds them\n";
    assert_eq!((refused.code, refused.err.as_str()), (2, why));
}

/// An event of a CPU 300 further on.
fn far_away(line: &str) -> String {
    let mut words = line.splitn(3, ' ');
    let mut word = || words.next().unwrap();
    let (time, cpu, rest) = (word(), word(), word());
    format!("{time} {} {rest}", cpu.parse::<u32>().unwrap() + 300)
}

#[test]
fn a_trace_comes_from_stdin_with_comments_and_blank_lines() {
    let text = format!("# a boot\n\n{}\n  # its end\n", crate::common::unpacked("boot.txt.gz"));
    let run = crate::common::replay_stdin(&["-", "--json", "-"], text.as_bytes());
    let report: Value = serde_json::from_str(&run.out).unwrap_or_else(|why| panic!("{why}: {}", run.out));
    assert_clean("stdin", run.code, &report);
    assert_eq!(report["trace"], "-");
}
