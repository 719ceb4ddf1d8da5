//! `docs/BEHAVIOUR.md` names functions and tests that exist, in every row.

use std::fs;
use std::path::{Path, PathBuf};

const PAGE: &str = include_str!("../../docs/BEHAVIOUR.md");

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All Rust text below a folder.
fn text_below(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            text += &text_below(&path);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            text += &fs::read_to_string(path).unwrap();
        }
    }
    text
}

/// The cells of each row of the tables: behaviour, functions, tests.
fn rows() -> Vec<[&'static str; 3]> {
    let lines = PAGE.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| Behaviour"));
    lines.map(|line| line.trim_matches('|').split(" | ").collect::<Vec<_>>().try_into().expect(line)).collect()
}

/// What stands in back-ticks.
fn named(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Whether `text` has such a type.
fn has_type(text: &str, owner: &str) -> bool {
    let kinds = ["pub struct", "pub enum", "pub trait"];
    kinds.iter().any(|kind| [" {", "<", "(", ";", ":"].iter().any(|end| text.contains(&format!("{kind} {owner}{end}"))))
}

/// Whether `text` has such a function or field.
fn has_member(text: &str, name: &str) -> bool {
    ["fn NAME(", "fn NAME<", "pub NAME: "].iter().any(|form| text.contains(&form.replace("NAME", name)))
}

#[test]
fn every_row_names_functions_and_tests_that_exist() {
    let source = ["kernel/src", "vmalloc/src", "scullv/src"].map(|folder| text_below(&root().join(folder))).concat();
    let mut missing = Vec::new();
    for [behaviour, functions, tests] in rows() {
        let (functions, tests) = (named(functions), named(tests));
        if functions.is_empty() || tests.is_empty() {
            missing.push(format!("{behaviour}: names no function, or no test"));
        }
        for function in functions {
            let (owner, name) = function.split_once("::").expect("a type and its function");
            if !(has_type(&source, owner) && has_member(&source, name)) {
                missing.push(format!("{behaviour}: {function}"));
            }
        }
        missing.extend(tests.into_iter().filter(|test| !is_test(test)).map(|test| format!("{behaviour}: {test}")));
    }
    assert_eq!(missing, [""; 0]);
}

/// Whether there is a test of that name in the file that its path says.
fn is_test(path: &str) -> bool {
    let (folder, file, name) = match path.split("::").collect::<Vec<_>>()[..] {
        ["unit", file, name] => ("kernel/src", file, name),
        ["sim", file, name] => ("machines/sim/tests/spec", file, name),
        ["scullv", file, name] => ("scullv/tests/device", file, name),
        [file, name] => ("kernel/tests/spec", file, name),
        _ => return false,
    };
    let text = fs::read_to_string(root().join(folder).join(file).with_extension("rs")).unwrap_or_default();
    ["#[test]\nfn NAME()", "#[test]\n    fn NAME()"].iter().any(|form| text.contains(&form.replace("NAME", name)))
}

#[test]
fn every_test_of_this_crate_is_named_in_a_row_or_proves_what_no_row_tells() {
    // Bad input, and what holds for all rows.
    const BESIDE: [&str; 10] = [
        "kzalloc_and_kcalloc_clear_and_overflow_is_refused",
        "no_bytes_are_zero_size_ptr_which_kfree_takes_as_it_takes_null",
        "get_free_pages_gives_adjacent_frames_and_refuses_highmem",
        "the_slab_takes_highmem_off_with_a_warning",
        "kmalloc_node_takes_frames_of_the_node",
        "protections_reach_the_entries",
        "the_traditional_names_do_what_they_always_did",
        "the_traditional_names_over_a_subsystem_do_the_same_and_its_redzones_watch",
        "a_node_whose_number_fits_no_byte_is_refused_as_any_that_there_is_not",
        "every_row_names_functions_and_tests_that_exist",
    ];
    let mut forgotten = Vec::new();
    for file in fs::read_dir(root().join("kernel/tests/spec")).unwrap().map(Result::unwrap) {
        let text = fs::read_to_string(file.path()).unwrap();
        let tests = text.split("#[test]\nfn ").skip(1).filter_map(|rest| rest.split('(').next());
        forgotten.extend(tests.filter(|test| !PAGE.contains(test) && !BESIDE.contains(test)).map(str::to_owned));
    }
    assert_eq!(forgotten, ["every_test_of_this_crate_is_named_in_a_row_or_proves_what_no_row_tells"]);
}
