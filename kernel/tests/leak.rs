//! The example `leak` does what it says.

#[path = "../examples/leak.rs"]
#[allow(dead_code)]
mod leak;

#[test]
fn the_program_that_forgets_is_found_and_the_one_that_keeps_is_not() {
    assert_eq!(leak::run(false).unwrap(), "");
    let report = leak::run(true).unwrap();
    let suspects: Vec<&str> = report.lines().filter(|line| line.starts_with("unreferenced object 0x")).collect();
    assert_eq!(suspects.len(), 2, "{report}");
    for (bytes, count) in [("(size 128):", 1), ("(size 8192):", 1)] {
        assert_eq!(suspects.iter().filter(|line| line.ends_with(bytes)).count(), count, "{report}");
    }
    let here = format!("  comm \"leak\", pid {}, jiffies ", std::process::id());
    assert_eq!(report.lines().filter(|line| line.starts_with(&here)).count(), 2, "{report}");
    assert!(report.contains("examples/leak.rs:"), "it says who asked for the area: {report}");
}
