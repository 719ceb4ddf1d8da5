//! What the documentation says of files, beside the files.

#[test]
fn the_machine_to_copy_has_fewer_than_120_lines() {
    let lines = include_str!("../examples/kernel.rs").lines().count();
    assert!(lines < 120, "{lines} lines");
}

#[test]
fn the_readme_says_what_breaks_with_each_rule_that_a_function_can_break() {
    let readme = include_str!("../../README.md");
    for rule in ["F1", "F3", "M2", "M3", "M4", "M5", "M6", "M7", "M9"] {
        assert!(readme.contains(&format!("({rule})")), "nothing is said of {rule}");
    }
}
