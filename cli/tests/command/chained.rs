//! `vmalloc chain`: the calls, as text and as JSON, and what it refuses.

use crate::common::{command, scratch};
use serde_json::Value;

#[test]
fn the_chain_of_2_6_is_printed_with_its_arguments_and_ends_with_the_address() {
    let run = command(&["chain", "10000", "--age", "2.6"]);
    assert_eq!((run.code, run.err.as_str()), (0, ""));
    let lines: Vec<&str> = run.out.lines().collect();
    let page = "    alloc_page(gfp_mask=GFP_KERNEL|__GFP_HIGHMEM)";
    let expected = [
        "vmalloc(size=10000)",
        "  __vmalloc(size=10000, gfp_mask=GFP_KERNEL|__GFP_HIGHMEM, prot=PAGE_KERNEL)",
        "    get_vm_area(size=12288, flags=VM_ALLOC)",
        "    kmalloc(size=24, flags=GFP_KERNEL|__GFP_ZERO)",
        page,
        page,
        page,
    ];
    assert_eq!(lines[..7], expected);
    assert!(lines[7].starts_with("    map_vm_area(area=0xffffc900"), "{}", lines[7]);
    assert!(lines[8].starts_with("= 0xffffc900") && lines.len() == 9, "{}", run.out);
}

#[test]
fn each_age_prints_its_own_chain() {
    let ages: [(&[&str], &[&str]); 4] = [
        (&["--age", "2.6"], &["vmalloc", "__vmalloc", "get_vm_area", "kmalloc", "alloc_page", "map_vm_area"]),
        (
            &["--age", "3.0"],
            &[
                "vmalloc",
                "__vmalloc_node",
                "__get_vm_area_node",
                "__vmalloc_area_node",
                "kmalloc",
                "alloc_page",
                "map_vm_area",
                "kmemleak_alloc",
            ],
        ),
        (
            &["--age", "4.x"],
            &[
                "vmalloc",
                "__vmalloc_node_flags",
                "__vmalloc_node",
                "__vmalloc_node_range",
                "__get_vm_area_node",
                "__vmalloc_area_node",
                "kmalloc",
                "alloc_page",
                "map_vm_area",
                "clear_vm_uninitialized_flag",
                "kmemleak_vmalloc",
            ],
        ),
        (&[], &["vmalloc", "__vmalloc_node", "__vmalloc_node_range", "kmemleak_vmalloc"]),
    ];
    for (age, chain) in ages {
        let run = command(&[&["chain", "4096"], age].concat());
        let calls = run.out.lines().filter_map(|line| line.trim().split_once('(')).map(|(name, _)| name);
        assert_eq!(calls.collect::<Vec<_>>(), chain, "{age:?}");
    }
}

#[test]
fn the_calls_are_written_as_json() {
    let json = scratch("chain.json");
    let run = command(&["chain", "4096", "--age", "4.x", "--json", json.to_str().unwrap()]);
    assert_eq!(run.code, 0, "{}", run.err);
    let report: Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!((&report["bytes"], &report["age"]), (&Value::from(4096), &Value::from("4.x")));
    let names: Vec<&str> =
        report["calls"].as_array().unwrap().iter().map(|c| c["function"].as_str().unwrap()).collect();
    let last = ["alloc_page", "map_vm_area", "clear_vm_uninitialized_flag", "kmemleak_vmalloc"];
    assert!(names.ends_with(&last), "{names:?}");
    assert_eq!(report["calls"][1]["arguments"]["flags"], "GFP_KERNEL");
    assert_eq!(report["error"], Value::Null);
}

#[test]
fn a_refusal_is_exit_code_1_and_a_bad_command_line_2() {
    let refused = command(&["chain", "0", "--age", "3.0"]);
    assert_eq!((refused.code, refused.err.as_str()), (1, "vmalloc: refused: an area of zero bytes (-EINVAL)\n"));
    assert!(refused.out.ends_with("= NULL\n"));
    let odd = command(&["chain", "5", "--age", "2.6", "--node", "0"]);
    let line = "vmalloc: --node: 2.6 has no function that takes a node\n";
    assert_eq!((odd.code, odd.out.as_str(), odd.err.as_str()), (2, "", line));
    assert_eq!(command(&["chain", "many"]).code, 2);
}
