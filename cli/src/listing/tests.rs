//! What is read of a listing, and what is not.

use super::area::{Area, Caller, Words};
use super::*;

fn areas(text: &str) -> Result<Vec<Area>, String> {
    let all = Areas::new("list", text.as_bytes()).unwrap();
    all.map(|area| area.map_err(|error| error.to_string())).collect()
}

fn area(line: &str) -> Area {
    let mut all = areas(line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
    assert_eq!(all.len(), 1, "{line:?}");
    all.remove(0)
}

/// An area of which a line says `rest`.
fn of(rest: &str) -> Area {
    area(&format!("0x1-0x2 {rest}"))
}

fn entry(rest: &str) -> Option<(u64, String, String)> {
    Entry::of(&of(rest)).map(|entry| (entry.size, entry.caller, entry.kind))
}

const LINE: &str = "0xffffc90000000000-0xffffc90000005000   20480 clone_it+0x10/0x20 pages=4 vmalloc N0=4";
const NEXT: &str = "0xffffc90000008000-0xffffc9000000a000    8192 prog_make+0x36/0xa0 pages=1 vmalloc N0=1";

#[test]
fn a_line_says_who_has_how_much_where_and_what_for() {
    let got =
        area("0xffffc20000347000-0xffffc2000034c000   20480 xt_make+0xfe/0x130 [x_tables] pages=4 vmalloc N0=1 N2=3");
    let caller = Caller { place: "xt_make+0xfe".to_owned(), module: Some("x_tables".to_owned()) };
    assert_eq!((caller.function(), caller.to_string().as_str()), ("xt_make", "xt_make+0xfe [x_tables]"));
    let expected = Area {
        addresses: Some(0xffffc20000347000..0xffffc2000034c000),
        size: 20480,
        caller: Some(caller),
        pages: Some(4),
        phys: None,
        words: Words::VMALLOC,
        nodes: vec![(0, 1), (2, 3)],
    };
    assert_eq!(got, expected);
    assert_eq!(area("0xf7ffe000-0xf8000000    8192 hpet+0x2d/0x1c6 phys=fed00000 ioremap").phys, Some(0xfed0_0000));
    assert_eq!(of("8192 f+0x1/0x2 phys=0x00000000bffe1000 ioremap").phys, Some(0xbffe_1000));
}

#[test]
fn lines_are_reduced_to_size_caller_and_kind() {
    let some = |size, caller: &str, kind: &str| Some((size, caller.to_owned(), kind.to_owned()));
    let clone = entry("  20480 kernel_clone+0xc2/0x430 pages=4 vmalloc N0=4");
    assert_eq!(clone, some(20480, "kernel_clone+0xc2", "vmalloc"));
    assert_eq!(entry("8192 grow+0x186/0x210 [erofs] vmap"), some(8192, "grow+0x186[erofs]", "vmap"));
    assert_eq!(entry("8192 f+0x1a9/0x1e0 phys=0x00000000bffe1000 ioremap"), some(8192, "f+0x1a9", "ioremap"));
    assert_eq!(entry("8192 f+0x1/0x2 pages=1 vmap user"), some(8192, "f+0x1", "vmap"));
    assert_eq!(entry("8192 f+0x1/0x2 pages=1 vmalloc dma-coherent"), some(8192, "f+0x1", "dma-coherent"));
    assert_eq!(entry("1048576 vm_map_ram"), some(1_048_576, "", "vm_map_ram"));
    assert_eq!(entry("8192 ? pages=1 vmalloc"), some(8192, "?", "vmalloc"));
    assert_eq!(entry("4096 f+0x1"), some(4096, "f+0x1", ""));
    assert_eq!(entry("12288 unpurged vm_area"), None);
}

#[test]
fn all_words_are_known_and_those_of_kernels_to_come_are_left_out() {
    let said = |rest: &str| of(rest).words.to_string();
    assert_eq!(said("8192 f+0x1/0x2 pages=1 vmalloc user vpages N0=1"), "vmalloc user vpages");
    assert_eq!(said("8192 f+0x1/0x2 sparse"), "sparse");
    assert_eq!(said("8192 unpurged vm_area"), "unpurged");
    let later = of("8192 f+0x1/0x2 pages=2 vmalloc order=9 sealed N0=2");
    assert_eq!((later.words, later.pages, later.nodes), (Words::VMALLOC, Some(2), vec![(0, 2)]));
    assert_eq!(later.caller.unwrap().place, "f+0x1");
}

#[test]
fn a_caller_may_lack_its_offset_or_be_a_place_in_a_file() {
    let place = |rest: &str| of(rest).caller.unwrap().place;
    assert_eq!(place("8192 boot_it pages=1 vmalloc"), "boot_it");
    assert_eq!(place("8192 cli/src/players.rs:12 pages=1 vmalloc"), "cli/src/players.rs:12");
    assert_eq!(place("8192 0xffffffffa0001234 pages=1 vmalloc"), "0xffffffffa0001234");
    assert_eq!(of("8192 pages=1 vmalloc").caller, None);
}

#[test]
fn hidden_addresses_are_unknown_whichever_way_they_are_hidden() {
    for range in [
        "0x0000000000000000-0x0000000000000000",
        "0x(____ptrval____)-0x(____ptrval____)",
        "0x(ptrval)-0x(ptrval)",
        "0x00000000-0x00000000",
        "0x5f0c3a91-0x12ee9b04",
        "0x0000000038d0ffc9-0x0000000028f9fb14",
    ] {
        let hidden = area(&format!("{range}   20480 clone_it+0x10/0x20 pages=4 vmalloc"));
        assert_eq!((hidden.addresses, hidden.size), (None, 20480), "{range}");
    }
}

#[test]
fn what_people_put_around_a_listing_is_left_out() {
    let whole = vec![area(LINE), area(NEXT)];
    for pasted in [
        format!("{LINE}\r\n{NEXT}\r\n"),
        format!("\u{feff}    {LINE}\n\n\t{NEXT}  "),
        format!("> {LINE}\n>\n>> > {NEXT}\n>{LINE}").replace(&format!("\n>{LINE}"), ""),
        format!(">{LINE}\n|{NEXT}"),
        format!("[   12.345678] {LINE}\n[   12.345679] {NEXT}"),
        format!("<6>[   12.3][  T812] {LINE}\nNov 26 17:32:14 host kernel: [ 12.3] {NEXT}"),
        format!("# cat /proc/vmallocinfo\n{LINE}\n{NEXT}\nroot@host:~#"),
        format!("```\n{LINE}\n{NEXT}\n```\n"),
        format!("/proc/vmallocinfo:{LINE}\n17:{NEXT}"),
        LINE.replace(' ', "\u{a0}") + "\n" + NEXT,
    ] {
        assert_eq!(areas(&pasted).as_ref(), Ok(&whole), "{pasted:?}");
    }
}

#[test]
fn a_line_that_a_mailer_has_broken_anywhere_is_read_whole() {
    let long = "0xffffae2a50b02000-0xffffae2a50c28000 1204224 ram_init+0x2d/0x70 [cas] pages=293 vmalloc user vpages N0=200 N1=93";
    let short = "0xffffae2a50c28000-0xffffae2a50d32000 1089536 cache_start pages=265 vmalloc N0=265";
    for line in [long, short] {
        for (at, _) in line.match_indices(' ') {
            let (before, after) = line.split_at(at);
            for mark in ["", "> "] {
                let broken = format!("{before}\n{mark}{after}\n{NEXT}");
                assert_eq!(areas(&broken), Ok(vec![area(line), area(NEXT)]), "{broken:?}");
            }
        }
    }
    let twice = "0x1000-0x3000\n8192 f+0x1/0x2\npages=1\nvmalloc\nN0=1";
    assert_eq!(areas(twice), Ok(vec![area(&twice.replace('\n', " "))]));
    assert_eq!(areas("0x1000-0x3000 8192 unpurged\nvm_area").unwrap().len(), 1);
}

#[test]
fn a_line_that_a_terminal_has_broken_in_a_word_is_read_whole() {
    let long = "[   12.3] 0xffffae2a50b02000-0xffffae2a50c28000 1204224 ram_init+0x2d/0x70 [cas] pages=293 vmalloc user vpages N0=200 N1=93";
    let second = long.find("ae2a50c28000").unwrap();
    for at in second..long.len() {
        let (before, after) = long.split_at(at);
        let broken = format!("{before}\n{after}\n{NEXT}");
        assert_eq!(areas(&broken), Ok(vec![area(long), area(NEXT)]), "{broken:?}");
    }
    let narrow: Vec<String> =
        long.as_bytes()[second - 2..].chunks(9).map(|part| String::from_utf8(part.to_vec()).unwrap()).collect();
    let broken = format!("{}{}", &long[..second - 2], narrow.join("\n"));
    assert_eq!(areas(&broken), Ok(vec![area(long)]), "{broken:?}");
}

#[test]
fn crashs_table_is_read_without_callers() {
    let new = "   VMAP_AREA         VM_STRUCT                 ADDRESS RANGE                SIZE\n\
               ffff90ba01053ec0  ffff90ba011529c0  ffffab3ec0000000 - ffffab3ec0005000    20480\n";
    let old = "crash> kmem -v\nVM_STRUCT    ADDRESS RANGE       SIZE\nc9efd1a0  f8800000 - f8805000   20480\n";
    for (text, start) in [(new, 0xffff_ab3e_c000_0000), (old, 0xf880_0000)] {
        let got = area(text);
        assert_eq!((got.addresses.clone(), got.size), (Some(start..start + 20480), 20480));
        assert_eq!(Entry::of(&got).unwrap().caller, "?");
    }
    assert!(areas("c9efd1a0  f8800000 - f8805000   20481").is_err(), "a size that is none of the range");
}

#[test]
fn a_line_that_is_none_is_refused_with_its_number_and_what_was_expected() {
    let expected = "expected 0x<start>-0x<end> and a size in bytes";
    let none = |line: usize, text: &str| {
        Err(format!("list:{line}: not a line of a vmallocinfo listing: {text:?}; {expected}"))
    };
    assert_eq!(areas("0x1-0x2 4096 f\nhello\n"), none(2, "hello"));
    for wrong in
        ["nonsense", "8k vmalloc", "-1", "12-13 4096 vmalloc", "0x-0x 4096 f", "N0=4", "0x1-0x22222222222222222 1"]
    {
        assert_eq!(areas(wrong), none(1, wrong));
    }
    for odd in ["vmalloc", "f+0x1/0x2", "pages=2", "more vmalloc", "[mod] [mod]"] {
        assert!(areas(&format!("{LINE}\n{odd}")).is_err(), "{odd}: that was said before");
    }
    let no_size =
        |text: &str| Err(format!("list:1: after an area's range its size is expected, in bytes, not {text:?}"));
    assert_eq!(areas("0x1000-0x2000 8k vmalloc"), no_size("8k"));
    assert_eq!(areas("0x1000-0x2000 -4096 vmalloc"), no_size("-4096"));
    assert_eq!(areas(&format!("0x1000-0x2000\n{LINE}")), no_size(""));
    assert_eq!(areas("\n \n0x1000-0x2000").unwrap_err().replace("list:3", "list:1"), no_size("").unwrap_err());
}

#[test]
fn an_area_shows_its_guard_and_the_size_of_a_page() {
    assert_eq!(of("20480 f+0x1/0x2 pages=4 vmalloc").page_shift(), Some(12));
    assert_eq!(of("327680 f+0x1/0x2 pages=4 vmalloc").page_shift(), Some(16));
    assert_eq!(of("8192 f+0x1/0x2 phys=1000 ioremap").page_shift(), None);
    for odd in ["5000 f pages=4 vmalloc", "0 f pages=0 vmalloc", "8192 f pages=18446744073709551615 vmalloc"] {
        assert_eq!(of(odd).page_shift(), None);
    }
    assert!(of("8192 f+0x1/0x2 pages=1 vmalloc").has_guard());
    assert!(!of("8192 vm_map_ram").has_guard());
    assert!(!of("33554432 pcpu_get_vm_areas+0x0/0x550 vmalloc").has_guard());
}

/// A random number after `seed`.
fn random(seed: &mut u64) -> usize {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed as usize
}

/// `text`, damaged at a few random places.
pub fn damaged(text: &str, seed: &mut u64) -> Vec<u8> {
    const PARTS: [&[u8]; 12] = [
        b"0x",
        b"-",
        b" ",
        b"\n",
        b"[",
        b"]",
        b"=",
        b"N99999999999=1",
        b"18446744073709551615",
        b"+0x",
        b"/",
        b"unpurged",
    ];
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..1 + random(seed) % 6 {
        let at = random(seed) % bytes.len();
        match random(seed) % 4 {
            0 => bytes[at] = random(seed) as u8,
            1 => drop(bytes.splice(at..at, PARTS[random(seed) % PARTS.len()].iter().copied())),
            2 => drop(bytes.drain(at..(at + random(seed) % 30).min(bytes.len() - 1).max(at))),
            _ => bytes[at] = b"0123456789abcdefx-()=[]+N\n >"[random(seed) % 28],
        }
    }
    bytes
}

#[test]
fn listings_damaged_at_random_are_read_or_refused_and_never_more() {
    let base = format!(
        "{LINE}\n{NEXT}\nffff90ba01053ec0  ffffab3ec0000000 - ffffab3ec0005000    20480\n\
         0x(ptrval)-0x(ptrval) 4096 vm_map_ram\n"
    );
    let mut seed = 0x9e37_79b9_7f4a_7c15;
    let (mut read, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let bytes = damaged(&base, &mut seed);
        let lines = bytes.split(|byte| *byte == b'\n').count();
        match Areas::new("list", bytes.as_slice()).and_then(Iterator::collect::<Result<Vec<Area>, _>>) {
            Ok(areas) => {
                assert!(areas.len() <= lines);
                areas.iter().for_each(|area| drop((Entry::of(area), area.page_shift(), area.has_guard())));
                read += 1;
            }
            Err(error) => {
                assert!(error.to_string().starts_with("list:"), "{error}");
                refused += 1;
            }
        }
    }
    assert!(read > 1000 && refused > 1000, "{read} read, {refused} refused");
}
