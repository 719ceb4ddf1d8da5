//! Whole traces: which are refused, where, and what the others become.

use super::*;
use crate::trace::read;
use vmalloc::units::PAGE_SIZE;

/// An allocation of `pages` pages and its guard at page `at`.
fn alloc(at: u64, pages: u64) -> String {
    named(at, pages + 1, "vmalloc", &format!("req={}", pages * PAGE))
}

fn named(at: u64, size: u64, kind: &str, more: &str) -> String {
    let (addr, size) = (at * PAGE, size * PAGE);
    format!(
        "alloc addr={addr:#x} size={size} align=1 kind={kind} {more} vstart=0x0 vend=0xffffff caller=f+0x1 task=t:1"
    )
    .replace("  ", " ")
}

fn free(at: u64, pages: u64) -> String {
    sized(at, pages + 1, "vmalloc", "vfree")
}

fn sized(at: u64, size: u64, kind: &str, by: &str) -> String {
    format!("free addr={:#x} size={} kind={kind} by={by} caller=g task=t:1", at * PAGE, size * PAGE)
}

/// The trace of these operations: one nanosecond each, on CPU 0.
fn trace(ops: &[String]) -> String {
    ops.iter().enumerate().map(|(at, op)| format!("{at} 0 {op}\n")).collect()
}

fn script(ops: &[String]) -> Result<Script, String> {
    read("t", trace(ops).as_bytes()).map_err(|error| error.to_string())
}

fn acts(ops: &[String]) -> Vec<Act> {
    script(ops).unwrap().steps.into_iter().map(|step| step.act).collect()
}

fn refused(ops: &[String]) -> String {
    script(ops).err().expect("this trace cannot be")
}

#[test]
fn addresses_become_numbers_even_when_they_are_used_again() {
    let (a, b) = (AreaId(0), AreaId(1));
    let got = acts(&[alloc(1, 1), free(1, 1), alloc(1, 1), free(1, 1)]);
    assert_eq!(got, [Act::Make(a), Act::Free(a), Act::Make(b), Act::Free(b)]);
}

#[test]
fn a_deferred_area_is_given_back_at_the_defer() {
    let a = AreaId(0);
    let late = sized(1, 2, "vmalloc", "vfree_deferred");
    let got = acts(&[alloc(1, 1), "defer addr=0x1000 caller=f".into(), late.clone()]);
    assert_eq!(got, [Act::Make(a), Act::Defer(a), Act::Settled(a)]);
    assert_eq!(acts(&[alloc(1, 1), late]), [Act::Make(a), Act::Free(a)], "the defer itself was not recorded");
}

#[test]
fn sizes_are_split_into_bytes_and_a_guard() {
    let asked = |size: u64, kind: &str, more: &str| {
        let made = script(&[named(1, size, kind, more)])?;
        Ok((made.areas[0].bytes, made.areas[0].guard))
    };
    assert_eq!(asked(2, "vmalloc", "req=100"), Ok((100, true)));
    assert_eq!(asked(2, "vmalloc", "req=4097"), Ok((4097, false)));
    assert_eq!(asked(4, "vmalloc", "req=100"), Ok((3 * PAGE, true)), "rounded up by the recorded kernel");
    assert_eq!(asked(4, "?", ""), Ok((3 * PAGE, true)));
    assert_eq!(asked(1, "?", ""), Ok((PAGE, false)));
    assert_eq!(asked(4, "vb", "req=4096"), Ok((4 * PAGE, false)));
    let e: Result<(u64, bool), String> = asked(2, "vmap", "req=8193");
    assert_eq!(e.unwrap_err(), "t:1: req is 8193 bytes, which an area of 8192 bytes cannot hold");
    assert_eq!(asked(2, "vmap", "req=0").unwrap_err(), "t:1: req is 0");
}

#[test]
fn kinds_become_what_is_to_be_made() {
    let made = script(&[
        named(1, 2, "?", ""),
        named(3, 2, "vmap", ""),
        named(5, 2, "vm_area", "flags=0x1"),
        named(7, 2, "vm_area", "flags=0x0"),
        named(9, 4, "vb", ""),
        "map_ram addr=0x9000 count=2 caller=?".into(),
        "pcpu_alloc size=8192 nr=3 align=1".into(),
    ])
    .unwrap();
    let makes: Vec<Make> = made.areas.iter().map(|area| area.make).collect();
    use Make::*;
    assert_eq!(makes, [Vmalloc, Vmap, Ioremap, Reserve, Reserve, MapRam, Pcpu(3)]);
    let callers: Vec<&str> = made.areas.iter().map(|area| made.callers[area.caller as usize].as_str()).collect();
    assert_eq!(callers, ["f+0x1", "f+0x1", "f+0x1", "f+0x1", "vm_map_ram", "?", "pcpu_get_vm_areas+0x0 vmalloc"]);
    assert_eq!(made.areas.iter().map(Area::pages).collect::<Vec<_>>(), [2, 2, 2, 2, 4, 2, 6]);
    assert!(made.areas.iter().all(|area| area.align == PAGE_SIZE as u64));
}

#[test]
fn overlapping_areas_are_refused_from_each_side() {
    let live = "0x2000-0x5000, which is live since line 1";
    for (at, pages, range) in [
        (1, 1, "0x1000-0x3000"),
        (2, 2, "0x2000-0x5000"),
        (3, 0, "0x3000-0x4000"),
        (4, 3, "0x4000-0x8000"),
        (1, 9, "0x1000-0xb000"),
    ] {
        let second = named(at, pages + 1, "?", "");
        assert_eq!(refused(&[alloc(2, 2), second]), format!("t:2: the area {range} overlaps {live}"));
    }
    assert!(script(&[alloc(2, 2), alloc(5, 1), named(1, 1, "?", "")]).is_ok(), "neighbours may touch");
}

#[test]
fn frees_of_what_is_not_live_are_refused() {
    assert_eq!(
        refused(&[free(1, 1)]),
        "t:1: 0x1000 is freed, but no area was ever there; `vmalloc convert` leaves out what a trace frees of before its begin"
    );
    assert_eq!(
        refused(&[alloc(1, 1), free(1, 1), free(1, 1)]),
        "t:3: 0x1000 is freed, but line 2 has freed it already"
    );
    assert_eq!(refused(&[alloc(1, 3), free(2, 1)]), "t:2: 0x2000 is freed, but the area there starts at 0x1000");
    assert_eq!(refused(&[alloc(1, 3), free(1, 1)]), "t:2: the area at 0x1000 has 16384 bytes, but is freed with 8192");
    let other = sized(1, 2, "vmap", "vunmap");
    assert_eq!(refused(&[alloc(1, 1), other]), "t:2: the area at 0x1000 is freed as another kind than it was made as");
    assert_eq!(
        refused(&["defer addr=0x1000".into()]),
        "t:1: 0x1000 is freed, but no area was ever there; `vmalloc convert` leaves out what a trace frees of before its begin"
    );
    assert_eq!(
        refused(&["pcpu_free size=4096 nr=1 align=1".into()]),
        "t:1: a per-CPU chunk of this shape is freed, but none is live"
    );
}

#[test]
fn a_second_defer_is_refused() {
    let defer = || "defer addr=0x1000".to_owned();
    assert_eq!(
        refused(&[alloc(1, 1), defer(), defer()]),
        "t:3: the area at 0x1000 waits for its deferred free since line 2, and is given back again"
    );
}

#[test]
fn short_lived_mappings_live_in_blocks() {
    let map = |at: u64, pages: u64| format!("map_ram addr={:#x} count={pages} caller=?", at * PAGE);
    let unmap = |at: u64, pages: u64| format!("unmap_ram addr={:#x} count={pages} caller=f", at * PAGE);
    let block = || named(4, 4, "vb", "");
    assert!(script(&[block(), map(4, 2), map(6, 2), unmap(4, 2), map(4, 1)]).is_ok());
    assert_eq!(refused(&[map(4, 1)]), "t:1: 0x4000-0x5000 is mapped outside of all live blocks");
    assert_eq!(refused(&[block(), map(7, 2)]), "t:2: 0x7000-0x9000 is mapped outside of all live blocks");
    assert_eq!(refused(&[alloc(4, 3), map(4, 1)]), "t:2: 0x4000-0x5000 is mapped outside of all live blocks");
    assert_eq!(
        refused(&[block(), map(4, 2), map(5, 1)]),
        "t:3: the area 0x5000-0x6000 overlaps 0x4000-0x6000, which is live since line 2"
    );
    assert_eq!(refused(&[block(), map(4, 2), unmap(4, 1)]), "t:3: the area at 0x4000 has 2 pages, but is freed with 1");
    assert_eq!(
        refused(&[block(), unmap(4, 1)]),
        "t:2: 0x4000 is freed, but no area was ever there; `vmalloc convert` leaves out what a trace frees of before its begin"
    );
    let early = sized(4, 4, "vb", "?");
    assert_eq!(
        refused(&[block(), map(6, 1), early]),
        "t:3: the block at 0x4000 is freed while the mapping at 0x6000 is live"
    );
}

#[test]
fn a_short_lived_mapping_with_an_area_of_its_own_lies_in_no_other() {
    let map = |at: u64, pages: u64| format!("map_ram addr={:#x} count={pages} caller=? own=1", at * PAGE);
    let unmap = |at: u64| format!("unmap_ram addr={:#x} count=2 caller=?", at * PAGE);
    let a = AreaId(0);
    assert_eq!(acts(&[map(4, 2), unmap(4)]), [Act::Make(a), Act::Free(a)]);
    assert!(script(&[map(4, 2), unmap(4), alloc(4, 3)]).is_ok(), "its addresses are free again");
    let over = "the area 0x4000-0x6000 overlaps";
    assert_eq!(refused(&[alloc(4, 3), map(4, 2)]), format!("t:2: {over} 0x4000-0x8000, which is live since line 1"));
    assert_eq!(refused(&[map(4, 2), map(4, 2)]), format!("t:2: {over} 0x4000-0x6000, which is live since line 1"));
    let freed = sized(4, 2, "vb", "?");
    assert_eq!(refused(&[map(4, 2), freed]), "t:2: the block at 0x4000 is freed while the mapping at 0x4000 is live");
    assert_eq!(refused(&[map(4, 2), unmap(4), unmap(4)]), "t:3: 0x4000 is freed, but line 2 has freed it already");
}

#[test]
fn time_does_not_go_back_and_a_trace_is_not_empty() {
    let late = format!("7 0 {}\n6 0 {}\n", alloc(1, 1), free(1, 1));
    let error = read("t", late.as_bytes()).err().unwrap().to_string();
    assert_eq!(error, "t:2: the time goes back from 7 ns to 6 ns: sort the trace by its first column");
    assert_eq!(refused(&[]), "t:1: the file has no events");
}

#[test]
fn the_traces_of_this_repository_are_sound() {
    const BOOT: &[u8] = include_bytes!("../../../../traces/boot.txt.gz");
    for (name, text, areas) in [("boot", BOOT, 691 + 1), ("mix", crate::MIX, 8014 + 641 + 1)] {
        let script = read(name, text).unwrap();
        assert_eq!(script.areas.len(), areas, "{name}");
        assert_eq!(
            script.regions,
            [0xffff_c900_0000_0000..0xffff_e900_0000_0000, 0xffff_ffff_c000_0000..0xffff_ffff_ff00_0000],
            "{name}"
        );
    }
}
