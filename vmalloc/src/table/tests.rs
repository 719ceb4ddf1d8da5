//! Tests beyond the model: garbage in the tables, races for tables, and words bit by bit.

extern crate std;

mod large;
mod pae;

use super::testing::{Boxed, Mmu, around};
use super::{Foreign, LeafTable, PteRange, Walker, X86_32, X86_64, X86Pae};
use crate::error::Broken;
use crate::machine::format::{Entry, Format, MemType, Prot};
use crate::machine::frames::Frames;
use crate::units::{PAGE_SIZE, PageRange, Pfn, VirtAddr};
use std::format;
use std::string::String;
use std::vec::Vec;

/// A walker after the tables of `ranges` were linked.
fn prepared<'m, F: Mmu>(machine: &'m Boxed<F>, ranges: &[PageRange]) -> Walker<'m, Boxed<F>> {
    // SAFETY: T1: the tests use no table after giving it back.
    let walker = unsafe { Walker::new(machine) };
    for &range in ranges {
        let mut prealloc = machine.prealloc(walker.missing(range));
        walker.link_tables(range, &mut prealloc);
    }
    walker
}

fn map<F: Mmu>(walker: Walker<'_, Boxed<F>>, range: PageRange, first: u64) {
    let mut first = Pfn(first);
    for piece in walker.pieces(range) {
        assert_eq!(piece.map_run(first, Prot::RW, MemType::WriteBack), piece.pages());
        first = first.offset(piece.pages() as u64);
    }
}

/// Parks `range` and takes its frames. Returns the frames and the reports.
fn unmap<F: Mmu>(walker: Walker<'_, Boxed<F>>, range: PageRange) -> (Vec<u64>, Vec<String>) {
    let (mut frames, mut unexpected) = (Vec::new(), Vec::new());
    for piece in walker.pieces(range) {
        piece.park(|at, word| unexpected.push(format!("park {at}: {word:#x}")));
    }
    for piece in walker.pieces(range) {
        let mut places = [Pfn(0); 1024];
        let taken = piece.take_frames(&mut places, |at, word| unexpected.push(format!("take {at}: {word:#x}")));
        frames.extend(places[..taken].iter().map(|frame| frame.0));
    }
    (frames, unexpected)
}

/// For each level from 2 up, the first address behind a border between two of its entries.
const BORDERS_4: &[usize] = &[0xffff_c900_0020_0000, 0xffff_c900_4000_0000, 0xffff_c980_0000_0000];
const BORDERS_5: &[usize] =
    &[0xffa0_0000_0020_0000, 0xffa0_0000_4000_0000, 0xffa0_0080_0000_0000, 0xffa1_0000_0000_0000];
const BORDERS_32: &[usize] = &[0xf7c0_0000];
const BORDERS_PAE: &[usize] = &[0xf7a0_0000, 0xc000_0000];

/// Words that no format writes above level 1. They are not present and not zero: a frame, a large
/// page, a link without write permission, a marked link.
const BAD_LINKS: [u64; 4] = [0x1000, 0x12_3450_00e2, 0x1020, 0x1222];

/// Writes each bad word at each level, left of a border, in a range that goes on behind the border.
fn plant_each<F: Mmu>(levels: u8, borders: &[usize], then: impl Fn(&Boxed<F>, Walker<'_, Boxed<F>>, PageRange, &str)) {
    for (level, &border) in (2..).zip(borders) {
        for word in BAD_LINKS.map(|word| if F::MAX_PFN == 1 << 20 { word as u32 as u64 } else { word }) {
            let machine = Boxed::<F>::new(levels);
            let range = around(border, 2, 4);
            let walker = prepared(&machine, &[range]);
            map(walker, range, 100);
            F::plant(&machine, range.start, level, word);
            then(&machine, walker, range, &format!("bad entry at level {level} for {}: {word:#x}", range.start));
        }
    }
}

fn a_bad_link_is_cleared<F: Mmu>(levels: u8, borders: &[usize]) {
    plant_each::<F>(levels, borders, |machine, walker, range, line| {
        assert_eq!(walker.entry(range.start), Entry::Bad);
        assert_eq!(walker.translate(range.start), None);
        assert_eq!(walker.leaf(range.start), None);
        assert_eq!(walker.unlink(range.start), None);
        assert_eq!(walker.check(range), Err(Broken { rule: "T2", at: range.start.0 }));
        assert!(machine.logged().is_empty(), "looking reports nothing");
        assert_eq!(unmap(walker, range), ([102, 103].into(), [].into()), "the walk goes on behind the border");
        assert_eq!(machine.logged(), [line]);
        assert_eq!(walker.entry(range.start), Entry::Absent);
        assert_eq!(walker.check(range), Ok(()));
    })
}

#[test]
fn a_bad_link_is_reported_with_its_level_and_cleared_and_the_walk_goes_on() {
    a_bad_link_is_cleared::<X86_64>(4, BORDERS_4);
    a_bad_link_is_cleared::<X86_64>(5, BORDERS_5);
    a_bad_link_is_cleared::<X86_32>(2, BORDERS_32);
    a_bad_link_is_cleared::<X86Pae>(3, BORDERS_PAE);
}

fn a_bad_link_is_replaced<F: Mmu>(levels: u8, borders: &[usize]) {
    plant_each::<F>(levels, borders, |machine, walker, range, line| {
        let mut prealloc = machine.prealloc(walker.missing(range));
        assert!(!prealloc.is_empty());
        walker.link_tables(range, &mut prealloc);
        assert!(prealloc.is_empty());
        assert_eq!(machine.logged(), [line]);
        assert_eq!(walker.missing(range), 0);
        assert_eq!(walker.translate(range.start), None);
        assert_eq!(walker.translate(range.start.add_pages(2)).map(|(frame, _)| frame), Some(Pfn(102)));
        assert_eq!(walker.check(range), Ok(()));
    })
}

#[test]
fn prepare_reports_a_bad_link_and_links_a_table_over_it() {
    a_bad_link_is_replaced::<X86_64>(4, BORDERS_4);
    a_bad_link_is_replaced::<X86_64>(5, BORDERS_5);
    a_bad_link_is_replaced::<X86_32>(2, BORDERS_32);
    a_bad_link_is_replaced::<X86Pae>(3, BORDERS_PAE);
}

fn a_bad_link_is_torn_down<F: Mmu>(levels: u8, borders: &[usize]) {
    plant_each::<F>(levels, borders, |machine, walker, range, line| {
        unmap(walker, PageRange::new(range.start.add_pages(2), 2));
        walker.free_tables(walker.widened(range), &mut |_| {});
        // With a widened range, the entry's first page is not the range's.
        let without_address = |line: &str| line.split(' ').filter(|word| !word.ends_with(':')).collect::<String>();
        let logged: Vec<_> = machine.logged().iter().map(|line| without_address(line)).collect();
        assert_eq!(logged, [without_address(line)]);
        assert_eq!(walker.entry(range.start), Entry::Absent);
        let root = machine.words(Pfn(0));
        assert!(root.iter().all(|&word| word == 0), "all tables that could be reached are gone");
    })
}

#[test]
fn tear_down_reports_a_bad_link_and_goes_on() {
    a_bad_link_is_torn_down::<X86_64>(4, BORDERS_4);
    a_bad_link_is_torn_down::<X86_64>(5, BORDERS_5);
    a_bad_link_is_torn_down::<X86_32>(2, BORDERS_32);
    a_bad_link_is_torn_down::<X86Pae>(3, BORDERS_PAE);
}

fn a_bad_leaf_is_cleared<F: Mmu>(levels: u8, border: usize, bad: &[u64]) {
    for &word in bad {
        let machine = Boxed::<F>::new(levels);
        let range = around(border, 2, 4);
        let walker = prepared(&machine, &[range]);
        map(walker, range, 100);
        let at = range.start.add_pages(1);
        F::plant(&machine, at, 1, word);
        assert_eq!((walker.entry(at), walker.translate(at)), (Entry::Bad, None), "{word:#x}");
        assert_eq!(walker.check(range), Err(Broken { rule: "T2", at: at.0 }));
        let (frames, unexpected) = unmap(walker, range);
        assert_eq!(frames, [100, 102, 103]);
        assert_eq!(unexpected, [format!("park {at}: {word:#x}"), format!("take {at}: 0x0")]);
        assert_eq!(walker.entry(at), Entry::Absent);
    }
}

#[test]
fn a_bad_leaf_is_reported_and_cleared_and_the_walk_goes_on() {
    // A user page, a table, an unmarked word that is not present, a mark on a present page, spare
    // bits.
    let wide = [0x1167, 0x1023, 0x1162, 0x1363, 0x1563, 1 << 52 | 0x1163];
    a_bad_leaf_is_cleared::<X86_64>(4, BORDERS_4[0], &wide);
    a_bad_leaf_is_cleared::<X86Pae>(3, BORDERS_PAE[0], &wide);
    a_bad_leaf_is_cleared::<X86_32>(2, BORDERS_32[0], &[0x1167, 0x1023, 0x1162, 0x1363, 0x1563]);
}

#[test]
fn a_bad_leaf_is_reported_and_cleared_by_take_frames_and_restore_too() {
    let machine = Boxed::<X86_64>::new(4);
    let range = around(BORDERS_4[0], 3, 3);
    let walker = prepared(&machine, &[range]);
    let piece = walker.pieces(range).next().unwrap();
    piece.map(&[Pfn(7), Pfn(8), Pfn(9)], Prot::RW, MemType::WriteBack);
    piece.park(|_, _| panic!("they are leaves"));
    X86_64::plant(&machine, range.start, 1, 0x10);
    let mut unexpected = Vec::new();
    piece.restore(|at, word| unexpected.push((at, word)));
    assert_eq!(unexpected, [(range.start, 0x10)]);
    piece.park(|_, _| {});
    X86_64::plant(&machine, range.start, 1, 0x20);
    let mut frames = [Pfn(0); 3];
    let taken = piece.take_frames(&mut frames, |at, word| unexpected.push((at, word)));
    assert_eq!(unexpected[1..], [(range.start, 0x20)]);
    assert_eq!(frames[..taken], [Pfn(8), Pfn(9)]);
    assert!((0..3).all(|n| walker.entry(range.start.add_pages(n)) == Entry::Absent));
}

#[test]
fn mapping_stops_before_the_first_entry_in_use_and_overwrites_none() {
    for used in 0..9 {
        let machine = Boxed::<X86_64>::new(4);
        let range = around(BORDERS_4[0], 9, 9);
        let walker = prepared(&machine, &[range]);
        map(walker, PageRange::new(range.start.add_pages(used), 1), 77);
        let frames: Vec<_> = (0..9).map(Pfn).collect();
        let piece = walker.pieces(range).next().unwrap();
        assert_eq!(piece.map(&frames, Prot::RW, MemType::WriteBack), used, "T2");
        let bound = |n| walker.translate(range.start.add_pages(n)).map(|(frame, _)| frame.0);
        let expected = |n| if n == used { Some(77) } else { (n < used).then_some(n as u64) };
        assert!((0..9).all(|n| bound(n) == expected(n)));
    }
}

#[test]
fn what_formats_do_to_many_words_is_what_they_do_to_each() {
    fn check<F: Mmu>() {
        let leaf = |n| F::leaf(Pfn(n), Prot::RW, MemType::WriteBack, 1);
        let leaves = [1, 2, 3, 4].map(leaf);
        assert!(F::park_all(leaves, 1) == Some(leaves.map(F::park)));
        assert_eq!(F::parked_all(leaves.map(F::park), 1), Some([1, 2, 3, 4].map(Pfn)));
        for unexpected in 0..4 {
            for word in [F::ABSENT, F::table(Pfn(5), 2), F::park(leaf(6))] {
                let mut words = leaves;
                words[unexpected] = word;
                assert!(F::park_all(words, 1).is_none());
                assert_eq!(F::parked_all(words.map(F::park), 1), None);
            }
        }
    }
    check::<X86_64>();
    check::<X86_32>();
    check::<X86Pae>();
}

#[test]
fn complaints_have_the_traditional_form() {
    let machine = Boxed::<X86_64>::new(4);
    prepared(&machine, &[]).report_bad_entry(1, VirtAddr(0xffff_c900_0000_1000), 0x1167);
    assert_eq!(machine.logged(), ["bad entry at level 1 for 0xffffc90000001000: 0x1167"]);
}

#[test]
fn a_leaf_that_is_not_exact_breaks_t3_and_nothing_else() {
    let machine = Boxed::<X86_64>::new(4);
    let range = around(BORDERS_4[0], 1, 1);
    let walker = prepared(&machine, &[range]);
    // Writable but clean: the MMU would write the entry.
    X86_64::plant(&machine, range.start, 1, X86_64::leaf(Pfn(5), Prot::RW, MemType::WriteBack, 1) ^ 0x40);
    assert_eq!(walker.check(range), Err(Broken { rule: "T3", at: range.start.0 }));
    walker.pieces(range).for_each(|piece| piece.park(|_, _| panic!("it is a leaf")));
    assert_eq!(walker.check(range), Err(Broken { rule: "T3", at: range.start.0 }), "waiting");
}

#[test]
fn a_table_in_use_is_not_unlinked() {
    let machine = Boxed::<X86_64>::new(4);
    let range = around(BORDERS_4[0], 0, 4);
    let walker = prepared(&machine, &[range]);
    map(walker, PageRange::new(range.start, 1), 9);
    assert_eq!(walker.unlink(range.start.add_pages(3)), None);
    let word = X86_64::leaf(Pfn(9), Prot::RW, MemType::WriteBack, 1);
    assert_eq!(machine.logged(), [format!("bad entry at level 1 for {}: {word:#x}", range.start)]);
    assert_eq!(walker.missing(range), 0);
}

#[test]
fn tables_needed_is_exact_for_the_worst_place() {
    fn check<F: Mmu>(levels: u8, border: usize, most: usize) {
        let machine = Boxed::<F>::new(levels);
        let walker = prepared(&machine, &[]);
        assert_eq!(walker.tables_needed(0), 0);
        assert!(walker.tables_needed(usize::MAX) > usize::MAX >> F::INDEX_BITS, "it saturates");
        for pages in (1..most).step_by(most / 999 + 1) {
            let worst = walker.missing(around(border, 1, pages));
            assert_eq!(walker.tables_needed(pages), worst, "{pages} pages");
            assert!(walker.missing(around(border, 0, pages)) <= worst);
        }
    }
    check::<X86_64>(4, BORDERS_4[2], 5_000_000);
    check::<X86_64>(5, BORDERS_5[3], 5_000_000);
    check::<X86_32>(2, BORDERS_32[0], 20_000);
    check::<X86Pae>(3, BORDERS_PAE[1], 260_000);
}

#[test]
fn the_last_page_of_the_address_space_is_a_page_like_others() {
    let machine = Boxed::<X86_64>::new(4);
    let range = PageRange { start: VirtAddr((2 * PAGE_SIZE).wrapping_neg()), pages: 2 };
    let walker = prepared(&machine, &[range]);
    map(walker, range, 20);
    assert_eq!(walker.translate(VirtAddr(usize::MAX)), Some((Pfn(21), Prot::RW)));
    assert_eq!(walker.check(range), Ok(()));
    assert_eq!(unmap(walker, range), ([20, 21].into(), [].into()));
    let mut freed = 0;
    walker.free_tables(walker.widened(range), &mut |_| freed += 1);
    assert_eq!(freed, 3);
}

#[test]
fn whoever_loses_the_race_for_a_table_takes_the_winners_and_keeps_its_frame() {
    for moment in 0.. {
        let machine = Boxed::<X86_64>::new(4);
        let range = around(BORDERS_4[2], 1, 2);
        let walker = prepared(&machine, &[]);
        let missing = walker.missing(range);
        let mut prealloc = machine.prealloc(missing);
        machine.interrupt_at(moment, move |machine| {
            prepared(machine, &[range]);
        });
        walker.link_tables(range, &mut prealloc);
        assert_eq!(walker.missing(range), 0);
        let left = prealloc.len();
        while let Some(frame) = prealloc.take(&machine) {
            assert!(machine.words(frame).iter().all(|&word| word == 0), "a prealloc is cleared memory");
            // SAFETY: it came from the prealloc and was never linked.
            unsafe { machine.frames.free(frame, 0) }
        }
        assert_eq!(machine.held(), missing, "each table is linked once");
        if !machine.was_interrupted() {
            assert_eq!((left, moment > missing), (0, true), "each table was raced for");
            return;
        }
    }
}

#[test]
fn a_leaf_table_can_be_kept_as_a_number() {
    let machine = Boxed::<X86_64>::new(4);
    let range = around(BORDERS_4[0], 8, 8);
    let walker = prepared(&machine, &[range]);
    let raw = walker.leaf(range.start).unwrap().1.into_raw();
    // SAFETY: T1: `walker` keeps it linked.
    let table = unsafe { LeafTable::<X86_64>::from_raw(raw) };
    assert_eq!(Some(table), walker.leaf(range.start).map(|(_, table)| table));
    let piece = PteRange::new(table, range.start.add_pages(6), 2);
    assert_eq!(piece.map(&[Pfn(3), Pfn(1)], Prot::RO, MemType::WriteBack), 2);
    assert_eq!((piece.start(), piece.pages()), (range.start.add_pages(6), 2));
    assert_eq!(walker.translate(range.start.add_pages(6)), Some((Pfn(3), Prot::RO)));
    assert_eq!(walker.translate(range.start.add_pages(7)), Some((Pfn(1), Prot::RO)));
}

#[test]
#[should_panic(expected = "lie in one table")]
fn a_range_does_not_reach_beyond_its_table() {
    let machine = Boxed::<X86_64>::new(4);
    let range = around(BORDERS_4[0], 2, 2);
    let table = prepared(&machine, &[range]).leaf(range.start).unwrap().1;
    PteRange::new(table, range.start, 3);
}

#[test]
#[should_panic(expected = "a frame for each page")]
fn a_piece_takes_as_many_frames_as_it_has_pages() {
    let machine = Boxed::<X86_64>::new(4);
    let range = around(BORDERS_4[0], 2, 2);
    let piece = prepared(&machine, &[range]).pieces(range).next().unwrap();
    piece.map(&[Pfn(1)], Prot::RW, MemType::WriteBack);
}

#[test]
fn words_of_64_bits_are_those_of_the_manual() {
    let leaf = |prot, memory| X86_64::leaf(Pfn(0x1_2345_6789), prot, memory, 1);
    assert_eq!(leaf(Prot::RW, MemType::WriteBack), 0x8000_1234_5678_9163);
    assert_eq!(leaf(Prot::RO, MemType::WriteBack), 0x8000_1234_5678_9121);
    assert_eq!(leaf(Prot::RX, MemType::WriteBack), 0x0000_1234_5678_9121);
    assert_eq!(leaf(Prot::RW, MemType::WriteCombining), 0x8000_1234_5678_916b);
    assert_eq!(leaf(Prot::RW, MemType::UncachedMinus), 0x8000_1234_5678_9173);
    assert_eq!(leaf(Prot::RW, MemType::Uncached), 0x8000_1234_5678_917b);
    assert_eq!(leaf(Prot::RW, MemType::WriteThrough), 0x8000_1234_5678_91fb);
    assert_eq!(X86_64::table(Pfn(0x1_2345_6789), 2), 0x1234_5678_9023);
    assert_eq!(X86_64::park(0x8000_1234_5678_9163), 0x800f_edcb_a987_6362);
}

#[test]
fn words_of_32_bits_are_those_of_the_manual() {
    let leaf = |prot, memory| X86_32::leaf(Pfn(0xc_ba98), prot, memory, 1);
    assert_eq!(leaf(Prot::RW, MemType::WriteBack), 0xcba9_8163);
    assert_eq!(leaf(Prot::RX, MemType::UncachedMinus), 0xcba9_8131);
    assert_eq!(leaf(Prot::RO, MemType::WriteThrough), 0xcba9_81b9);
    assert_eq!(X86_32::table(Pfn(0xc_ba98), 2), 0xcba9_8023);
    assert_eq!(X86_32::park(0xcba9_8163), 0xcba9_8362);
}

/// Every frame at a power of two, the frame below it, and the last one.
fn frames_of<F: Format>() -> impl Iterator<Item = Pfn> {
    let powers = (0..64).map(|n| 1u64 << n).take_while(|&n| n <= F::MAX_PFN);
    powers.flat_map(|n| [n - 1, n]).filter(|&n| n < F::MAX_PFN).map(Pfn)
}

fn decoding_inverts<F: Mmu>() {
    for frame in frames_of::<F>() {
        for level in 2..=F::MAX_LEVELS {
            assert_eq!(F::decode(F::table(frame, level), level), Entry::Table(frame));
        }
        assert_eq!(F::decode(F::table(frame, 2), 1), Entry::Bad, "a table at level 1");
        for prot in [Prot::RO, Prot::RW, Prot::RX, Prot::WRITE | Prot::EXEC] {
            let told = if F::HAS_NX { prot } else { prot | Prot::EXEC };
            let word = F::leaf(frame, prot, MemType::Uncached, 1);
            assert_eq!(F::decode(word, 1), Entry::Leaf { frame, prot: told });
            assert_eq!(F::decode(F::park(word), 1), Entry::Parked(frame));
            assert!(F::park(F::park(word)) == word);
            // A word that the MMU accepts there is the embedder's.
            let above = match F::HAS_NX {
                true if prot == (Prot::WRITE | Prot::EXEC) => Entry::Table(frame),
                false if prot.contains(Prot::WRITE) => Entry::Table(frame),
                _ => Entry::Restricted,
            };
            for level in 2..=F::MAX_LEVELS {
                assert_eq!(F::decode(word, level), above, "a leaf at level {level}");
                assert_eq!(F::decode(F::park(word), level), Entry::Bad);
            }
        }
    }
    for level in 1..=F::MAX_LEVELS {
        assert_eq!(F::decode(F::ABSENT, level), Entry::Absent);
    }
}

#[test]
fn decoding_inverts_all_that_the_formats_write_at_its_level_and_refuses_it_at_others() {
    decoding_inverts::<X86_64>();
    decoding_inverts::<X86_32>();
}

#[test]
fn one_flipped_bit_is_bad_where_all_entries_agree_on_it() {
    let leaf = X86_64::leaf(Pfn(5), Prot::RW, MemType::WriteBack, 1);
    let bad = |word: u64, level| (0..64).filter(move |n| X86_64::decode(word ^ 1 << n, level) == Entry::Bad);
    assert!(bad(leaf, 1).eq([0, 2, 5, 8, 9, 10, 11].into_iter().chain(52..63)));
    assert!(bad(X86_64::park(leaf), 1).eq([0, 2, 5, 8, 9, 10, 11].into_iter().chain(52..63)));
    assert!(bad(X86_64::table(Pfn(5), 2), 2).eq([0]));
}

#[test]
fn a_table_with_any_flags_is_one_unless_it_restricts_and_a_large_page_is_foreign() {
    fn check<F: Mmu>(word: impl Fn(u64) -> F::Word, top: u32, restricts: &[u32]) {
        for level in 2..=F::MAX_LEVELS {
            for n in (1..12).chain(top..64) {
                let says = F::decode(word((5 << 12 | 0x23) ^ 1 << n), level);
                let expected = match n {
                    7 => Entry::Foreign,
                    n if restricts.contains(&n) => Entry::Restricted,
                    _ => Entry::Table(Pfn(5)),
                };
                assert_eq!(says, expected, "bit {n} at level {level}");
            }
        }
    }
    check::<X86_64>(|word| word, 52, &[1, 63]);
    check::<X86_32>(|word| word as u32, 64, &[1]);
}

/// Entries that an embedder may have above the leaf tables: pages of 1 GiB, 2 MiB and 4 MiB, also
/// read-only, a read-only table, and a table that forbids execution.
const FOREIGN_LINKS: [u64; 5] = [0x12_4000_00e3, 0x12_4000_01a1, 0x1001, 1 << 63 | 0x1023, 0x12_4000_0087];

fn a_foreign_link_is_left_alone<F: Mmu>(levels: u8, borders: &[usize]) {
    for (level, &border) in (2..).zip(borders) {
        for word in FOREIGN_LINKS.map(|word| if F::HAS_NX { word } else { word as u32 as u64 & !0x22 | 0x81 }) {
            let machine = Boxed::<F>::new(levels);
            let range = around(border, 2, 4);
            let walker = prepared(&machine, &[range]);
            assert_eq!(walker.foreign(range), None);
            F::plant(&machine, range.start, level, word);
            let restricts = word & 0x80 == 0;
            assert_eq!(walker.foreign(range), Some(Foreign { at: range.start, level, restricts }));
            let before = machine.all_words();
            let mut prealloc = machine.prealloc(1);
            walker.link_tables(range, &mut prealloc);
            assert_eq!(prealloc.len(), 1, "nothing is linked over {word:#x}");
            assert_eq!(walker.pieces(range).map(|piece| piece.pages()).sum::<usize>(), 2, "the walk goes on");
            assert_eq!(walker.unlink(range.start), None);
            assert_eq!(walker.check(range), Err(Broken { rule: "T2", at: range.start.0 }));
            prealloc.trim(&machine, 0);
            assert_eq!((machine.all_words(), machine.logged()), (before, Vec::new()));
            walker.free_tables(walker.widened(range), &mut |_| {});
            assert_eq!(F::planted(&machine, range.start, level), word, "at level {level}, after the tear-down");
        }
    }
}

#[test]
fn what_the_embedder_has_above_the_leaf_tables_is_never_touched() {
    a_foreign_link_is_left_alone::<X86_64>(4, BORDERS_4);
    a_foreign_link_is_left_alone::<X86_64>(5, BORDERS_5);
    a_foreign_link_is_left_alone::<X86_32>(2, BORDERS_32);
    a_foreign_link_is_left_alone::<X86Pae>(3, &BORDERS_PAE[..1]);
}

#[test]
fn a_table_that_was_linked_with_other_flags_is_the_embedder_s_and_stays() {
    for level in 2..=4 {
        let machine = Boxed::<X86_64>::new(4);
        let range = around(BORDERS_4[0], 0, 2);
        let walker = prepared(&machine, &[range]);
        let word = X86_64::planted(&machine, range.start, level) | 1 << 9;
        X86_64::plant(&machine, range.start, level, word);
        map(walker, range, 5);
        assert_eq!(unmap(walker, range), ([5, 6].into(), [].into()));
        assert_eq!(walker.unlink(range.start).is_some(), level != 2);
        walker.free_tables(walker.widened(range), &mut |_| {});
        assert_eq!(X86_64::planted(&machine, range.start, level), word);
    }
}

#[test]
fn a_table_that_was_written_over_is_linked_again() {
    for (level, &border) in (2..).zip(BORDERS_5) {
        for word in [0, 0x1000] {
            let machine = Boxed::<X86_64>::new(5);
            let range = around(border, 0, 2);
            let walker = prepared(&machine, &[range]);
            map(walker, range, 5);
            let (frame, _) = walker.leaf(range.start).unwrap();
            X86_64::plant(&machine, range.start, level, word);
            let mut prealloc = machine.prealloc(4);
            walker.relink(range.start, frame, &mut prealloc);
            assert_eq!(prealloc.len(), 4 - (level as usize - 2), "upper tables are new");
            assert_eq!(machine.logged(), [format!("bad entry at level {level} for {}: {word:#x}", range.start)]);
            assert_eq!(walker.translate(range.start.add_pages(1)), Some((Pfn(6), Prot::RW)));
        }
    }
}
