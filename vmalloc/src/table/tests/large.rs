//! Large pages: entries above level 1 that the library maps, in the functions that map pages.

use super::*;
use crate::table::Gap;

const RW: (Prot, MemType) = (Prot::RW, MemType::WriteBack);
const AT_2: usize = 0xffff_c900_4000_0000;
const AT_3: usize = 0xffff_c980_0000_0000;

/// A walker for pages of `LEVEL`, and the `number` of them before `border`, whose tables are linked.
fn large<const LEVEL: u8>(
    machine: &Boxed<X86_64>,
    border: usize,
    number: usize,
) -> (Walker<'_, Boxed<X86_64>, LEVEL>, PteRange<X86_64, LEVEL>) {
    let (walker, pages) = (Walker::at_level(machine), number << PteRange::<X86_64, LEVEL>::ORDER);
    let range = around(border, pages, pages);
    let mut prealloc = machine.prealloc(walker.missing(range));
    walker.link_tables(range, &mut prealloc);
    assert!(prealloc.is_empty());
    (walker, walker.piece(range).unwrap())
}

/// A walker for pages of level 1.
fn small(machine: &Boxed<X86_64>) -> Walker<'_, Boxed<X86_64>> {
    Walker::at_level(machine)
}

fn no_report(at: VirtAddr, word: u64) {
    panic!("{at}: {word:#x}")
}

fn goes_through_all_states<const LEVEL: u8>(border: usize) {
    let (machine, each) = (Boxed::<X86_64>::new(4), 1 << PteRange::<X86_64, LEVEL>::ORDER);
    let (walker, pages) = large::<LEVEL>(&machine, border, 6);
    let frames = [3, 1, 4, 15, 9, 2].map(|n| Pfn(n * each));
    let last =
        |n: usize| small(&machine).translate(VirtAddr(pages.start().0 + ((n + 1) * each as usize - 1) * PAGE_SIZE));
    let mapped = |n: usize| Some((frames[n].offset(each - 1), Prot::RW));
    assert_eq!(pages.map(&frames, RW.0, RW.1), 6);
    assert!((0..6).all(|n| last(n) == mapped(n)), "a page inside is mapped to the frame inside");
    assert!(pages.frames().map(|(_, frame)| frame).eq(frames));
    assert!(pages.is_plain(|_| true));
    pages.park(no_report);
    assert!((0..6).all(|n| last(n).is_none()));
    assert_eq!(small(&machine).entry(pages.start()), Entry::Parked(frames[0]));
    pages.restore(no_report);
    assert!((0..6).all(|n| last(n) == mapped(n)), "the same frames");
    let whole = PageRange::new(pages.start(), 6 * each as usize);
    assert_eq!(walker.check(whole), Ok(()));
    pages.park(no_report);
    assert_eq!(walker.check(whole), Ok(()));
    let mut taken = [Pfn(0); 6];
    assert_eq!(pages.take_frames(&mut taken, no_report), 6);
    assert_eq!(taken, frames);
    assert_eq!(pages.map_run(frames[0], RW.0, RW.1), 6);
    assert!((0..6).all(|n| last(n) == Some((frames[0].offset((n as u64 + 1) * each - 1), Prot::RW))));
    pages.clear(no_report);
    assert_eq!(small(&machine).entry(pages.start()), Entry::Absent);
    assert!(machine.words(walker.leaf(pages.start()).unwrap().0).iter().all(|&word| word == 0));
}

#[test]
fn a_large_page_is_mapped_parked_restored_taken_and_cleared_by_the_functions_for_pages() {
    goes_through_all_states::<2>(AT_2);
    goes_through_all_states::<3>(AT_3);
}

#[test]
fn the_order_of_the_frames_is_that_of_the_range() {
    assert_eq!(PteRange::<X86_64>::ORDER, 0);
    assert_eq!((PteRange::<X86_64, 2>::ORDER, PteRange::<X86_64, 3>::ORDER), (9, 18));
}

#[test]
fn no_table_is_linked_where_a_large_page_stands_mapped_or_parked() {
    for parked in [false, true] {
        let machine = Boxed::<X86_64>::new(4);
        let (walker, page) = large::<2>(&machine, AT_2, 1);
        assert_eq!(page.map(&[Pfn(512)], RW.0, RW.1), 1);
        if parked {
            page.park(no_report);
        }
        let (at, word) = (page.start(), X86_64::planted(&machine, page.start(), 2));
        let (before, inside) = (machine.all_words(), PageRange::new(at.add_pages(7), 3));
        assert_eq!(small(&machine).foreign(inside), Some(Foreign { at: inside.start, level: 2, restricts: false }));
        let mut prealloc = machine.prealloc(1);
        small(&machine).link_tables(inside, &mut prealloc);
        assert_eq!(prealloc.len(), 1, "nothing is linked over it");
        let gap = small(&machine).piece(inside).err();
        assert_eq!(gap, Some(Gap { at: inside.start, pages: 505, level: 2, word }));
        assert_eq!((small(&machine).leaf(at), small(&machine).unlink(at)), (None, None));
        assert_eq!(machine.logged(), [""; 0]);
        small(&machine).relink(at, Pfn(99), &mut prealloc);
        assert_eq!(machine.logged(), [format!("bad entry at level 2 for {at}: {word:#x}")]);
        assert_eq!(walker.unlink(at), None);
        assert_eq!(machine.logged(), [format!("bad entry at level 2 for {at}: {word:#x}")], "its table is in use");
        small(&machine).free_tables(walker.widened(inside), &mut |_| panic!("its tables stay"));
        prealloc.trim(&machine, 0);
        assert_eq!(machine.all_words(), before);
    }
}

#[test]
fn a_large_page_is_mapped_neither_over_a_table_nor_over_the_embedder_s_or_another() {
    for word in FOREIGN_LINKS.into_iter().chain([X86_64::table(Pfn(0), 2), X86_64::leaf(Pfn(512), RW.0, RW.1, 2)]) {
        let machine = Boxed::<X86_64>::new(4);
        let (_, pages) = large::<2>(&machine, AT_2, 4);
        let third = pages.part(2, 1).start();
        X86_64::plant(&machine, third, 2, word);
        assert_eq!(pages.map_run(Pfn(0), RW.0, RW.1), 2, "T2: up to {word:#x}");
        assert_eq!(X86_64::planted(&machine, third, 2), word);
        assert_eq!(X86_64::planted(&machine, pages.part(3, 1).start(), 2), 0);
    }
}

#[test]
fn what_is_no_large_page_of_the_library_s_is_reported_and_left_and_what_is_bad_is_cleared() {
    let others = FOREIGN_LINKS.into_iter().chain([X86_64::table(Pfn(0), 2)]).map(|word| (word, word));
    for (word, left) in others.chain(BAD_LINKS.map(|word| (word, 0))) {
        let machine = Boxed::<X86_64>::new(4);
        let (_, pages) = large::<2>(&machine, AT_2, 3);
        assert_eq!(pages.map_run(Pfn(1024), RW.0, RW.1), 3);
        let (middle, mut told) = (pages.part(1, 1).start(), Vec::new());
        X86_64::plant(&machine, middle, 2, word);
        pages.park(|at, word| told.push((at, word)));
        let mut frames = [Pfn(0); 3];
        assert_eq!(pages.take_frames(&mut frames, |at, word| told.push((at, word))), 2);
        assert_eq!(frames[..2], [Pfn(1024), Pfn(2048)]);
        assert_eq!(told, [(middle, word), (middle, left)]);
        assert_eq!(X86_64::planted(&machine, middle, 2), left);
    }
}

#[test]
fn a_frame_that_is_no_multiple_of_a_large_page_s_is_refused() {
    let machine = Boxed::<X86_64>::new(4);
    let (_, pages) = large::<2>(&machine, AT_2, 5);
    assert_eq!(pages.map(&[0, 512, 1024 + 256, 1536, 2048].map(Pfn), RW.0, RW.1), 2);
    assert_eq!(pages.part(2, 3).map_run(Pfn(511), RW.0, RW.1), 0);
    assert!((2..5).all(|n| X86_64::planted(&machine, pages.part(n, 1).start(), 2) == 0));
}

#[test]
#[should_panic(expected = "lie in one table")]
fn a_large_page_does_not_begin_in_the_middle_of_another() {
    let machine = Boxed::<X86_64>::new(4);
    let (walker, pages) = large::<2>(&machine, AT_2, 2);
    PteRange::new(walker.leaf(pages.start()).unwrap().1, pages.start().add_pages(1), 1);
}

#[test]
fn a_large_page_that_is_not_exact_breaks_t3() {
    let machine = Boxed::<X86_64>::new(4);
    let (walker, page) = large::<2>(&machine, AT_2, 1);
    // Writable but clean: the MMU would write the entry.
    X86_64::plant(&machine, page.start(), 2, X86_64::leaf(Pfn(512), RW.0, RW.1, 2) ^ 0x40);
    let broken = Err(Broken { rule: "T3", at: page.start().0 });
    assert_eq!(walker.check(PageRange::new(page.start(), 512)), broken);
    page.park(no_report);
    assert_eq!(walker.check(PageRange::new(page.start(), 512)), broken, "waiting");
}

#[test]
fn words_of_large_pages_are_those_of_the_manual() {
    let leaf = |prot, memory| X86_64::leaf(Pfn(0x1_2345_6600), prot, memory, 2);
    assert_eq!(leaf(Prot::RW, MemType::WriteBack), 0x8000_1234_5660_05e3);
    assert_eq!(leaf(Prot::RX, MemType::Uncached), 0x0000_1234_5660_05b9);
    assert_eq!(leaf(Prot::RO, MemType::WriteThrough), 0x8000_1234_5660_15b9, "the PAT is bit 12");
    assert_eq!(X86_64::leaf(Pfn(0x1_2344_0000), Prot::RW, MemType::WriteThrough, 3), 0x8000_1234_4000_15fb);
    assert_eq!(X86_64::park(leaf(Prot::RW, MemType::WriteBack)), 0x800f_edcb_a99f_f7e2);
}

#[test]
fn decoding_inverts_large_pages_at_their_level_and_refuses_them_at_others() {
    for (level, order) in [(2, 9), (3, 18)] {
        for frame in frames_of::<X86_64>().map(|frame| Pfn(frame.0 >> order << order)) {
            for (prot, memory) in [RW, (Prot::RX, MemType::WriteThrough), (Prot::RO, MemType::Uncached)] {
                let word = X86_64::leaf(frame, prot, memory, level);
                let parked = X86_64::park(word);
                assert_eq!(X86_64::decode(word, level), Entry::Leaf { frame, prot });
                assert_eq!(X86_64::decode(parked, level), Entry::Parked(frame));
                assert_eq!(X86_64::park(parked), word);
                assert_eq!(X86_64::park_all([word; 3], level), Some([parked; 3]));
                assert_eq!(X86_64::parked_all([parked; 3], level), Some([frame; 3]));
                assert_eq!(
                    [1, 4, 5].map(|level| X86_64::decode(word, level)),
                    [Entry::Bad, Entry::Foreign, Entry::Foreign]
                );
                assert_eq!([1, 4, 5].map(|level| X86_64::decode(parked, level)), [Entry::Bad; 3]);
            }
        }
    }
    assert_eq!(X86_64::decode(X86_64::leaf(Pfn(512), RW.0, RW.1, 2), 3), Entry::Foreign, "its frame is no multiple");
}

#[test]
fn one_flipped_bit_makes_a_large_page_the_embedder_s_and_a_parked_one_bad() {
    let leaf = X86_64::leaf(Pfn(512), RW.0, RW.1, 2);
    let with = |says: fn(&Entry) -> bool, word: u64| (0..64).filter(move |n| says(&X86_64::decode(word ^ 1 << n, 2)));
    let theirs = |says: &Entry| *says == Entry::Foreign;
    assert!(with(theirs, leaf).eq([2, 5, 8, 9, 10, 11].into_iter().chain(13..21).chain(52..63)));
    let bad = |says: &Entry| *says == Entry::Bad;
    assert!(with(bad, leaf).eq([0]));
    let fixed = [2, 5, 7, 8, 9, 10, 11].into_iter().chain(13..21).chain(52..63);
    assert!(with(bad, X86_64::park(leaf)).eq(fixed));
    for unexpected in 0..4 {
        let mut words = [leaf; 4];
        words[unexpected] ^= 1 << 10;
        assert_eq!(X86_64::park_all(words, 2), None);
        assert_eq!(X86_64::parked_all(words.map(X86_64::park), 2), None);
    }
}
