//! What is shown of address spaces, from outside.

use crate::common::{command, scratch};
use serde_json::Value;

/// The table of `vmalloc layout` with `args`.
#[track_caller]
fn table(args: &[&str]) -> String {
    let run = command(&[&["layout"], args].concat());
    assert_eq!((run.code, run.err.as_str()), (0, ""), "{args:?}");
    run.out
}

/// The row of the part `name`.
#[track_caller]
fn row<'o>(out: &'o str, name: &str) -> Vec<&'o str> {
    let rows = out.lines().map(|line| line.trim_matches(['│', ' ']));
    let row = rows.filter_map(|row| row.strip_prefix(name)).next();
    row.unwrap_or_else(|| panic!("{name} in\n{out}")).split_whitespace().collect()
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&table(&[&["--json"], args].concat())).expect("JSON")
}

#[test]
fn x86_32_is_shown_with_sizes_and_holes() {
    let out = table(&["x86-32", "--mem", "2G"]);
    assert!(out.starts_with("x86-32: 884.0 MiB of memory in the direct map, 1.14 GiB high\n"), "{out}");
    assert_eq!(row(&out, "vmalloc")[..4], ["0xf7bfe000", "0xff3fe000", "125,829,120", "120.0"]);
    assert_eq!(row(&out, "pkmap")[..2], ["0xff400000", "0xff800000"]);
    assert_eq!(row(&out, "(hole)")[..3], ["0xf73fe000", "0xf7bfe000", "8,388,608"]);
    assert!(out.ends_with("high_memory is 0xf73fe000.\n"), "{out}");
}

#[test]
fn boot_parameters_move_the_parts() {
    let reserved = table(&["x86-32", "--mem", "2G", "--vmalloc", "192M"]);
    assert_eq!(row(&reserved, "vmalloc")[..2], ["0xf33fe000", "0xff3fe000"]);
    assert!(reserved.ends_with("high_memory is 0xf2bfe000.\n"), "{reserved}");
    let high = table(&["x86-32", "--mem", "512M", "--highmem", "256M", "--pae"]);
    assert!(high.starts_with("x86-32 PAE: 256.0 MiB of memory in the direct map, 256.0 MiB high\n"), "{high}");
    let none = table(&["x86-32", "--mem", "2G", "--no-highmem"]);
    assert_eq!(row(&none, "vmalloc")[1], "0xff7fe000");
    assert!(!none.contains("pkmap") && none.contains(" not used\n"), "{none}");
    assert!(table(&["x86-32", "--mem", "64M", "--highmem", "0"]).contains("64.0 MiB of memory in the direct map\n"));
}

#[test]
fn the_other_machines_have_their_own_parts() {
    for (args, start, end) in [
        (&["x86-64"][..], "0xffffc90000000000", "0xffffe90000000000"),
        (&["x86-64", "--levels", "5"], "0xffa0000000000000", "0xffd2000000000000"),
        (&["arm32", "--mem", "1G"], "0xf0800000", "0xff800000"),
        (&["arm64"], "0xffff800080000000", "0xfffffbfff0000000"),
        (&["riscv"], "0xffffffc600000000", "0xffffffd600000000"),
        (&["riscv", "--mode", "sv48"], "0xffff8f8000000000", "0xffffaf8000000000"),
    ] {
        assert_eq!(row(&table(args), "vmalloc")[..2], [start, end], "{args:?}");
    }
    assert_eq!(row(&table(&["x86-64", "--levels", "5"]), "vmalloc")[3..5], ["12.50", "PiB"]);
}

#[test]
fn a_layout_is_written_as_json_whose_names_are_explained() {
    let layout = json(&["x86-32", "--mem", "2G"]);
    assert_eq!((&layout["machine"], &layout["high_memory"]), (&"x86-32".into(), &"0xf73fe000".into()));
    assert_eq!(layout["memory"]["low"].as_u64().unwrap() + layout["memory"]["high"].as_u64().unwrap(), 2 << 30);
    let vmalloc = &layout["parts"][2];
    assert_eq!(
        (&vmalloc["name"], &vmalloc["start"], &vmalloc["bytes"]),
        (&"vmalloc".into(), &"0xf7bfe000".into(), &125_829_120.into())
    );
    assert_eq!(layout["holes"].as_array().unwrap().len(), 3);
    assert_eq!(json(&["arm64"])["memory"], Value::Null);
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let section = readme.split("# `vmalloc layout`").nth(1).expect("a section of its own");
    for object in [&layout, vmalloc, &layout["memory"]] {
        for name in object.as_object().unwrap().keys() {
            assert!(section.contains(&format!("`{name}`")), "{name}");
        }
    }
}

#[test]
fn a_layout_is_drawn_with_a_colour_for_each_part() {
    let path = scratch("layout.svg");
    table(&["x86-32", "--mem", "2G", "--svg", path.to_str().unwrap()]);
    let picture = std::fs::read_to_string(path).unwrap();
    for part in ["<svg xmlns=", "vmalloc: 120.0 MiB", "pkmap: 4.0 MiB", "fixmap: 1.0 MiB", "</svg>"] {
        assert!(picture.contains(part), "{part}: {picture}");
    }
    for colour in ["#009e73", "#0072b2", "#e69f00", "#cc79a7", "#d55e00"] {
        assert!(picture.matches(colour).count() > 1, "{colour} stands in the legend and is drawn: {picture}");
    }
    let run = command(&["layout", "arm64", "--svg", "/no/such/folder/a.svg"]);
    assert_eq!((run.code, run.out.as_str()), (2, ""));
    assert!(run.err.starts_with("vmalloc: /no/such/folder/a.svg: cannot be written"), "{}", run.err);
}

#[test]
fn what_no_machine_is_laid_out_like_is_exit_code_2_with_the_numbers() {
    for (args, message) in [
        (&["x86-32", "--mem", "8G"][..], "8 GiB of memory; from 4 KiB to 4 GiB can be named"),
        (&["x86-32", "--mem", "2G", "--vmalloc", "1G"], "vmalloc= of 1 GiB; from 4 KiB to 939 MiB leave a direct map"),
        (
            &["x86-32", "--mem", "2G", "--highmem", "2G"],
            "highmem= of 2 GiB, with 2 GiB of memory; 64 MiB have to be left for the direct map",
        ),
        (&["x86-32", "--mem", "2G", "--cpus", "0"], "0 CPUs; the fixmap has slots for 1 to 512"),
        (&["x86-64", "--levels", "3"], "3 levels; there are 4 or 5"),
        (&["arm32", "--mem", "1G", "--vmalloc", "8M"], "vmalloc= of 8 MiB; from 16 MiB to 976 MiB leave a direct map"),
    ] {
        let run = command(&[&["layout"], args].concat());
        assert_eq!((run.code, run.out.as_str(), run.err), (2, "", format!("vmalloc: {message}\n")), "{args:?}");
    }
    for odd in [
        &[][..],
        &["x86-32"],
        &["vax"],
        &["arm64", "--mem", "1G"],
        &["x86-64", "--pae"],
        &["riscv", "--mode", "sv57"],
        &["x86-32", "--mem", "2G", "--no-highmem", "--highmem", "1G"],
        &["x86-32", "--mem", "much"],
    ] {
        let run = command(&[&["layout"], odd].concat());
        assert_eq!((run.code, run.out.as_str()), (2, ""), "{odd:?}: {}", run.err);
    }
    assert!(table(&["--help"]).contains("vmalloc layout x86-32 --mem 2G"), "examples");
}
