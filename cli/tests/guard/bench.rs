//! `vmalloc bench guard`, short, with tools that are always there.

use crate::common::{Place, Run};
use serde_json::Value;
use std::fs;

const SHORT: [&str; 8] = ["--live", "10,50", "--replace", "2000", "--rounds", "1", "--sizes", "1"];

fn bench(place: &Place, args: &[&str]) -> Run {
    place.ran(place.vmalloc().args(["bench", "guard"]).args(SHORT).args(args))
}

#[test]
fn glibc_and_a_library_that_guards_nothing_are_measured() {
    let place = Place::new();
    let run = bench(&place, &["--only", "glibc,all", "--json", "figures.json", "--svg", "plot.svg"]);
    assert_eq!(run.code, Some(0), "{}", run.err);
    let figures: Value = serde_json::from_slice(&fs::read(place.path("figures.json")).unwrap()).unwrap();
    let loads = figures["loads"].as_array().unwrap();
    assert_eq!(loads.iter().map(|load| load["live"].as_u64().unwrap()).collect::<Vec<_>>(), [10, 10, 50, 50]);
    for load in loads {
        assert!(load["ns"].as_f64().unwrap() > 0.0 && load["mappings"].as_u64().unwrap() > 5, "{load}");
        assert!(run.out.contains(load["tool"].as_str().unwrap()));
    }
    assert_eq!((&loads[0]["slowdown"], loads[1]["name"].as_str()), (&Value::from(1.0), Some("all")));
    let plot = fs::read_to_string(place.path("plot.svg")).unwrap();
    assert_eq!((plot.matches("<polyline").count(), plot.matches("<circle").count()), (2, 4), "{plot}");
    // What guards nothing has named nothing, and harms nobody.
    let bugs = &figures["bugs"][1];
    assert_eq!([&bugs["bugs"], &bugs["named"], &bugs["correct"], &bugs["accused"]], [28, 0, 4, 0]);
}

#[test]
fn a_tool_that_is_not_there_is_told_with_what_brings_it() {
    let run = bench(&Place::bare(), &["--only", "all"]);
    assert_eq!(run.code, Some(0), "{}", run.err);
    assert!(run.out.contains("vmalloc guard --all is absent: VMALLOC_GUARD_LIB names what cannot"), "{}", run.out);
}

#[test]
fn a_tool_that_nobody_knows_is_refused() {
    let place = Place::new();
    bench(&place, &["--only", "glibc,asan"]).refused("--only asan: one of glibc, all, every-1000");
    place.ran(place.vmalloc().args(["bench", "guard", "--live", "0"])).refused("--live 0");
    place.ran(place.vmalloc().args(["bench", "guard", "--sizes", "0"])).refused("--sizes 0");
}
