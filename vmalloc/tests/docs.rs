//! What the documentation says of files, beside the files.

#[test]
fn the_machine_to_copy_has_fewer_than_120_lines() {
    let lines = include_str!("../examples/kernel.rs").lines().count();
    assert!(lines < 120, "{lines} lines");
}

#[test]
fn the_guide_says_what_breaks_with_each_rule_that_a_function_can_break() {
    let guide = include_str!("../docs/kernel.md");
    for rule in ["F1", "F3", "M2", "M3", "M4", "M5", "M6", "M7", "M9"] {
        assert!(guide.contains(&format!("({rule})")), "nothing is said of {rule}");
    }
}

/// The functions of the trait that `source` defines.
fn functions(source: &str) -> impl Iterator<Item = &str> {
    let body = source.split("pub unsafe trait ").nth(1).expect("a trait").split("\n}\n").next().expect("its end");
    body.split("\n    fn ").chain(body.split("\n    unsafe fn ")).skip(1).filter_map(|rest| rest.split('(').next())
}

#[test]
fn the_guide_says_of_each_function_of_the_traits_how_often_it_is_called() {
    let guide = include_str!("../docs/kernel.md");
    let rows: String = guide.lines().filter(|line| line.starts_with("| `")).collect();
    for source in [include_str!("../src/machine.rs"), include_str!("../src/machine/frames.rs")] {
        let mut named = 0;
        for function in functions(source).filter(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')) {
            assert!(rows.contains(&format!("`{function}`")), "no row of the guide has `{function}`");
            named += 1;
        }
        assert!(named > 10, "{named} functions");
    }
}
