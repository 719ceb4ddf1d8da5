//! Sums, holes, growth and the picture, of small listings.

use super::growth::Growth;
use super::holes::Holes;
use super::summary::{Sum, Summary};
use super::*;
use std::fmt::Write;

const CAS: &str = "\
0xffffae2a4fe90000-0xffffae2a4ff9a000 1089536 cache_start+0x1b0/0x7a0 [cas] pages=265 vmalloc N0=200 N1=65
0xffffae2a50b02000-0xffffae2a50c28000 1204224 ram_init+0x2d/0x70 [cas] pages=293 vmalloc N0=293
0xffffae2a50c28000-0xffffae2a50c2a000    8192 ram_init+0x44/0x70 phys=0xfed00000 ioremap
0xffffae2a50e58000-0xffffae2a52313000 21737472 ram_init+0x2d/0x70 [cas] pages=5306 vmalloc vpages
0xffffae2a60000000-0xffffae2a62000000 33554432 pcpu_get_vm_areas+0x0/0x550 vmalloc
0xffffae2a62000000-0xffffae2a62008000   32768 unpurged vm_area
0xffffae2a62100000-0xffffae2a62110000   65536 vm_map_ram
0xffffffffc0000000-0xffffffffc0003000   12288 load+0x1/0x2 pages=2 vmalloc N1=2
";

fn summary(text: &str) -> Summary {
    summed_top(text, 20)
}

fn summed_top(text: &str, top: usize) -> Summary {
    Summary::new("list", Areas::new("list", text.as_bytes()).unwrap(), top).unwrap()
}

/// Name, areas, bytes, pages.
fn rows(text: &str, by: By) -> Vec<(String, u64, u64, u64)> {
    let rows = summary(text).rows(by).into_iter();
    rows.map(|row| (row.name, row.sum.areas, row.sum.bytes, row.sum.pages)).collect()
}

fn row(name: &str, areas: u64, bytes: u64, pages: u64) -> (String, u64, u64, u64) {
    (name.to_owned(), areas, bytes, pages)
}

#[test]
fn callers_are_summed_by_function_and_module_the_largest_first() {
    let expected = [
        row("pcpu_get_vm_areas", 1, 33_554_432, 0),
        row("ram_init [cas]", 2, 22_941_696, 5599),
        row("cache_start [cas]", 1, 1_089_536, 265),
        row("(no caller)", 1, 65_536, 0),
        row("load", 1, 12_288, 2),
        row("ram_init", 1, 8192, 0),
    ];
    assert_eq!(rows(CAS, By::Caller), expected);
}

#[test]
fn modules_kinds_nodes_and_sizes_are_summed() {
    let modules =
        [row("(kernel)", 3, 33_574_912, 2), row("cas", 3, 24_031_232, 5864), row("(no caller)", 1, 65_536, 0)];
    assert_eq!(rows(CAS, By::Module), modules);
    let kinds = [
        row("vmalloc", 4, 35_860_480, 560),
        row("vmalloc vpages", 1, 21_737_472, 5306),
        row("vm_map_ram", 1, 65_536, 0),
        row("ioremap", 1, 8192, 0),
    ];
    assert_eq!(rows(CAS, By::Kind), kinds);
    let nodes = [row("N0", 2, 493 * 4096, 493), row("N1", 2, 67 * 4096, 67), row("(no node)", 1, 5306 * 4096, 5306)];
    assert_eq!(rows(CAS, By::Node), nodes);
    let sizes = [
        row("up to 8 KiB", 1, 8192, 0),
        row("up to 16 KiB", 1, 12_288, 2),
        row("up to 64 KiB", 1, 65_536, 0),
        row("up to 2 MiB", 2, 2_293_760, 558),
        row("up to 32 MiB", 2, 55_291_904, 5306),
    ];
    assert_eq!(rows(CAS, By::Size), sizes);
}

#[test]
fn totals_are_of_live_areas_with_and_without_their_guards() {
    let got = summary(CAS);
    assert_eq!(got.live, Sum { areas: 7, bytes: 57_671_680, pages: 5866 });
    assert_eq!(got.unpurged, Sum { areas: 1, bytes: 32_768, pages: 0 });
    assert_eq!((got.guards, got.hidden, got.page_bytes()), (5, 0, 4096), "neither vm_map_ram nor per-CPU chunks");
    assert_eq!(got.bytes_without_guards(), got.live.bytes - 5 * 4096);
    for by in [By::Caller, By::Module, By::Kind, By::Size] {
        let mut all = Sum::default();
        got.rows(by).iter().for_each(|row| all.add(row.sum));
        assert_eq!(all, got.live, "{by:?}");
    }
}

#[test]
fn pages_of_64_kib_are_recognized_from_what_areas_say() {
    let arm = "0xffff800080000000-0xffff800080050000 327680 f+0x1/0x2 pages=4 vmalloc N0=4\n\
               0xffff800080050000-0xffff800080070000 131072 f+0x1/0x2 pages=1 vmalloc N0=1\n";
    assert_eq!((summary(arm).page_bytes(), summary(arm).bytes_without_guards()), (65_536, 5 * 65_536));
}

#[test]
fn the_largest_are_the_first_of_their_size() {
    let mut text = String::new();
    for at in 0..500u64 {
        let size = (1 + at % 7) * 4096;
        let start = 0x1000_0000 + at * 0x10_0000;
        writeln!(text, "{start:#x}-{:#x} {size} f{at} vmap", start + size).unwrap();
    }
    let callers = |top: usize| -> Vec<String> {
        summed_top(&text, top).largest().map(|area| area.caller.as_ref().unwrap().place.clone()).collect()
    };
    assert_eq!(callers(3), ["f6", "f13", "f20"]);
    assert_eq!(callers(100).len(), 100);
    assert_eq!(callers(72)[71], "f5", "71 have the largest size");
}

#[test]
fn holes_are_between_areas_whatever_their_order_and_none_is_between_two_regions() {
    let got = summary(CAS);
    let holes = Holes::between(&got.spans, 2);
    let largest = [0xffff_ae2a_5231_3000..0xffff_ae2a_6000_0000, 0xffff_ae2a_4ff9_a000..0xffff_ae2a_50b0_2000];
    assert_eq!((holes.count, holes.largest.as_slice()), (4, &largest[..]));
    assert_eq!(holes.bytes, 0xdced000 + 0xb68000 + 0x22e000 + 0xf8000);
    let rows: Vec<_> = holes.rows().map(|row| (row.name, row.sum.areas, row.sum.bytes)).collect();
    let sizes = [("up to 1 MiB", 1, 0xf8000), ("up to 4 MiB", 1, 0x22e000), ("up to 16 MiB", 1, 0xb68000)];
    assert_eq!(rows[..3], sizes.map(|(name, count, bytes)| (name.to_owned(), count, bytes)));
    assert_eq!(rows[3..], [("up to 256 MiB".to_owned(), 1, 0xdced000)]);
    let reversed: String = CAS.lines().rev().map(|line| format!("{line}\n")).collect();
    assert_eq!(Holes::between(&summary(&reversed).spans, 2), holes);
    let overlapping = "0x10000-0x20000 65536 f\n0x12000-0x14000 8192 g\n0x30000-0x40000 65536 f";
    let largest = Holes::between(&summary(overlapping).spans, 2).largest;
    assert_eq!((largest.len(), largest[0].clone()), (1, 0x20000..0x30000));
}

#[test]
fn nothing_is_drawn_of_an_instance_without_areas_and_its_snapshot_is_empty() {
    let picture = drawn("nothing", "").unwrap();
    assert!(picture.contains("nothing: 0 areas") && fills(&picture).is_empty(), "{picture}");
    let snapshot: serde_json::Value = serde_json::from_str(&snapshot("nothing", "").unwrap()).unwrap();
    assert_eq!((&snapshot["areas"], &snapshot["list"]), (&0.into(), &serde_json::Value::Array(vec![])));
}

#[test]
fn what_grew_stands_first_with_what_is_new_and_what_is_gone() {
    let line = |at: u64, pages: u64, caller: &str| {
        let (start, size) = (at << 24, (pages + 1) * 4096);
        format!("{start:#x}-{:#x} {size} {caller}+0x1/0x2 pages={pages} vmalloc\n", start + size)
    };
    let before = [line(1, 1, "leaks"), line(2, 8, "was"), line(3, 2, "same"), line(4, 4, "less")].concat();
    let after = [line(1, 1, "leaks"), line(2, 9, "leaks"), line(3, 2, "same"), line(4, 3, "less"), line(5, 1, "fresh")]
        .concat();
    let growth = Growth::between(&summary(&before), &summary(&after), By::Caller);
    let names = |changes: &[growth::Change]| changes.iter().map(|change| change.name.clone()).collect::<Vec<_>>();
    assert_eq!(
        (names(&growth.grown), names(&growth.shrunk)),
        (vec!["leaks".into(), "fresh".into()], vec!["was".into(), "less".into()])
    );
    assert_eq!(growth.same, 1);
    let leaks = &growth.grown[0];
    assert_eq!((leaks.before.areas, leaks.after.areas, leaks.after.bytes - leaks.before.bytes), (1, 2, 40_960));
    assert!(growth.grown[1].is_new() && !leaks.is_new() && growth.shrunk[0].is_gone() && !growth.shrunk[1].is_gone());
    let moved = Growth::between(&summary(&before), &summary(&before.replace("0x", "0x1")), By::Caller);
    assert_eq!((moved.grown, moved.shrunk), (vec![], vec![]), "where an area lies is no growth");
}

/// Fills of the cells of `picture`, and how often each occurs.
fn fills(picture: &str) -> std::collections::BTreeMap<&str, usize> {
    let mut fills = std::collections::BTreeMap::new();
    for (at, key) in picture.match_indices("height=\"14\" fill=\"") {
        let colour = &picture[at + key.len()..][..7];
        *fills.entry(colour).or_default() += 1;
    }
    fills
}

#[test]
fn a_picture_has_each_kind_in_its_colour_and_a_legend() {
    let picture = svg::draw(&summary(CAS));
    assert_eq!(picture, svg::draw(&summary(CAS)), "twice the same");
    for (text, colour) in [
        ("vmalloc: 5, 54.9 MiB", "#0072b2"),
        ("ioremap: 1, 8 KiB", "#d55e00"),
        ("vm_map_ram: 1, 64 KiB", "#cc79a7"),
        ("unpurged (freed): 1, 32 KiB", "#999999"),
    ] {
        assert!(picture.contains(text), "{text}: {picture}");
        assert!(fills(&picture).contains_key(colour), "{text} is drawn");
    }
    assert!(picture.contains("without areas") && picture.contains("ffffae2a4fe00000"), "{picture}");
    assert_eq!(picture.matches("<text").count(), picture.matches("</text>").count());
    assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"));
}

#[test]
fn a_pictures_size_is_bounded_and_the_least_area_is_seen() {
    let mut text = String::new();
    for at in 0..50_000u64 {
        let start = 0xffff_c900_0000_0000 + at * at * 0x3000;
        writeln!(
            text,
            "{start:#x}-{:#x} 8192 f+0x1/0x2 pages=1 {}",
            start + 8192,
            ["vmalloc", "vmap"][at as usize % 2]
        )
        .unwrap();
    }
    let picture = svg::draw(&summary(&text));
    assert!(picture.len() < 3_000_000, "{}", picture.len());
    let far =
        "0xffffc90000000000-0xffffc90000002000 8192 f vmap\n0xffffe8fffffff000-0xffffe90000000000 4096 g ioremap\n";
    let picture = svg::draw(&summary(far));
    assert_eq!(fills(&picture), [("#56b4e9", 1), ("#d55e00", 1), ("#eeeeee", 2)].into());
    assert!(picture.contains("32.00 TiB without areas"), "{picture}");
}

#[test]
fn a_cell_is_pale_where_less_than_half_of_it_is_in_use() {
    // Rows are of 4 MiB here, and cells of 8 KiB.
    let spread = |bytes: u64| -> String {
        let line = |at: u64| format!("{:#x}-{:#x} {bytes} f vmap\n", at << 21, (at << 21) + bytes);
        (1..=40).map(line).collect::<String>()
            + "0x40000000-0x40200000 2097152 g ioremap\n0x50000000-0x52000000 33554432 h sparse\n"
    };
    let vmap = |picture: &str| {
        picture
            .lines()
            .filter(|line| line.contains("height=\"14\" fill=\"#56b4e9\""))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let pale = |picture: &str| vmap(picture).iter().filter(|line| line.contains("fill-opacity")).count();
    let (full, little) = (svg::draw(&summary(&spread(1 << 20))), svg::draw(&summary(&spread(512))));
    assert_eq!((vmap(&full).len() > 1, pale(&full)), (true, 0), "{full}");
    assert_eq!((vmap(&little).len() > 1, pale(&little)), (true, vmap(&little).len()), "{little}");
}

#[test]
fn hidden_areas_are_drawn_in_the_order_of_the_listing() {
    let text = "0x(ptrval)-0x(ptrval) 8192 f vmap\n0x(ptrval)-0x(ptrval) 8192 g ioremap\n0x(ptrval)-0x(ptrval) 4096 vm_map_ram\n";
    let picture = svg::draw(&summary(text));
    assert!(picture.contains("addresses are hidden"));
    assert_eq!(fills(&picture).len(), 4, "three kinds and the ground: {picture}");
}

#[test]
fn a_listings_name_is_text_in_the_picture() {
    let areas = Areas::new("a", "0x1000-0x2000 4096 f".as_bytes()).unwrap();
    let picture = svg::draw(&Summary::new("<a & \"b\"\u{1}>", areas, 1).unwrap());
    assert!(picture.contains("&lt;a &amp; &quot;b&quot;?&gt;: 1 areas"), "{picture}");
}

#[test]
fn numbers_that_no_kernel_has_are_summed_without_a_fault() {
    let most = u64::MAX;
    let line = format!("0x1-{most:#x} {} f pages={most} N0={most} N4294967295=7 vmalloc\n", most - 1);
    let text = format!("{line}{line}0x0-0x0 0 g pages=0 vmap\n{line}").replace("0x0-0x0", "0x5-0x5");
    let got = summary(&text);
    assert_eq!((got.live.areas, got.live.bytes, got.live.pages), (4, most, most));
    for by in By::ALL {
        assert!(!got.rows(by).is_empty());
    }
    assert!(svg::draw(&got).ends_with("</svg>\n"));
    assert_eq!(Holes::between(&got.spans, 1).count, 0);
    let mut out = String::new();
    tables::write(&mut out, &got, None, 1).unwrap();
    tables::write_growth(&mut out, [&got, &summary(CAS)], By::Size, 1).unwrap();
}

#[test]
fn a_listing_damaged_at_random_is_shown_and_drawn_or_refused() {
    let mut seed = 7;
    let mut shown = 0;
    for _ in 0..2000 {
        let bytes = crate::listing::tests::damaged(CAS, &mut seed);
        let areas = Areas::new("list", bytes.as_slice()).unwrap();
        let Ok(got) = Summary::new("list", areas, 3) else { continue };
        let mut out = String::new();
        tables::write(&mut out, &got, None, 3).unwrap();
        tables::write_growth(&mut out, [&got, &summary(CAS)], By::Kind, 3).unwrap();
        assert!(json::shown(&got, None, 3).is_object() && svg::draw(&got).ends_with("</svg>\n"));
        shown += 1;
    }
    assert!(shown > 200, "{shown}");
}

/// The totals of `text` are those that the library itself tells of `vm`'s areas.
fn assert_totals<M: vmalloc::machine::Machine>(text: &str, vm: &vmalloc::Vmalloc<M>, pages: usize) {
    let got = summary(text);
    let sizes: usize = vm.areas().map(|area| area.size()).sum();
    let expected = Sum { areas: vm.areas().count() as u64, bytes: sizes as u64, pages: pages as u64 };
    assert_eq!((got.live, got.hidden), (expected, 0), "{text}");
    let guarded = vm.areas().filter(|area| area.kind != vmalloc::Kind::MapRam).count();
    assert_eq!(got.guards, guarded as u64);
    let waiting = text.lines().filter(|line| line.ends_with("unpurged vm_area")).count();
    assert_eq!((got.unpurged.areas, waiting > 0), (waiting as u64, true));
}

#[test]
fn what_the_library_and_the_kernel_list_is_read_with_equal_totals() {
    use vmalloc_sim::{Booted, Rates, Sim};
    const START: usize = 0xffff_c900_0000_0000;
    let sim: Sim<vmalloc::table::X86_64> = Sim::builder().node(64 << 20).rates(Rates::NEVER).build();
    let booted = Booted::new(sim, vmalloc::Config::region(START..START + (1 << 39))).unwrap();
    let kernel = vmalloc_kernel::Kernel::new(&booted, Silent);
    let made: Vec<_> = (1..40).map(|n| kernel.vmalloc(n * 3000).unwrap()).collect();
    let pages: usize = (1..40).map(|n: usize| (n * 3000).div_ceil(4096)).sum();
    let freed = kernel.vmalloc(9000).unwrap();
    // SAFETY: Y1: nobody has used it.
    unsafe { kernel.vfree(std::ptr::with_exposed_provenance(freed.addr().get())) }.unwrap();
    let (mut library, mut subsystem) = (String::new(), String::new());
    booted.list(&mut library).unwrap();
    kernel.vmallocinfo(&mut subsystem).unwrap();
    assert_totals(&library, &booted, pages);
    assert_totals(&subsystem, &booted, pages);
    for area in made {
        // SAFETY: Y1: nobody has used it.
        unsafe { kernel.vfree(std::ptr::with_exposed_provenance(area.addr().get())) }.unwrap();
    }
}

/// A host that says nothing.
struct Silent;

impl vmalloc_kernel::Host for Silent {
    fn printk(&self, _level: vmalloc_kernel::Kern, line: std::fmt::Arguments<'_>) -> bool {
        panic!("nothing is said here: {line}")
    }
}
