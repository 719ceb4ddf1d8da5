//! What PAE has beyond the other formats: entries of two halves, a root of four bare links, and
//! frames above 4 GiB.

use super::*;
use crate::machine::format::Word;
use crate::sync::plain::{AtomicBool, AtomicU64, Ordering::Relaxed};
use crate::table::X86Pae;
use core::cell::Cell;
use std::thread;

type Halves = <X86Pae as Format>::Word;

/// Frames above 4 GiB that differ in both halves of their entries.
const HIGH: [Pfn; 2] = [Pfn(0x1_2345_6789), Pfn(0x6_0ba9_8765)];

fn leaf(frame: Pfn, prot: Prot) -> u64 {
    X86Pae::leaf(frame, prot, MemType::WriteBack, 1).word()
}

#[test]
fn words_of_pae_are_those_of_the_manual() {
    assert_eq!(leaf(HIGH[0], Prot::RW), 0x8000_1234_5678_9163);
    assert_eq!(leaf(HIGH[0], Prot::RX), 0x0000_1234_5678_9121);
    assert_eq!(X86Pae::park(Halves::new(0x8000_1234_5678_9163)).word(), 0x800f_edcb_a987_6362);
    assert_eq!(X86Pae::leaf(Pfn(0x1200), Prot::RW, MemType::WriteBack, 2).word(), 0x8000_0000_0120_05e3);
    assert_eq!(X86Pae::table(Pfn(0xc_ba98), 2).word(), 0xcba9_8023);
    assert_eq!(X86Pae::table(Pfn(0xc_ba98), 3).word(), 0xcba9_8001, "the root's have no other bits");
}

#[test]
fn below_the_root_entries_mean_what_they_mean_on_x86_64() {
    for frame in frames_of::<X86_64>().chain(HIGH) {
        for (prot, level) in
            [Prot::RO, Prot::RW, Prot::RX, Prot::WRITE | Prot::EXEC].into_iter().flat_map(|p| [(p, 1), (p, 2)])
        {
            let frame = if level == 1 { frame } else { Pfn(frame.0 & !511) };
            let word = X86Pae::leaf(frame, prot, MemType::Uncached, level);
            for word in [word, X86Pae::park(word), X86Pae::ABSENT] {
                assert_eq!(X86Pae::decode(word, level), X86_64::decode(word.word(), level));
                assert!(X86Pae::park(X86Pae::park(word)) == word);
            }
        }
    }
    for level in [2, 3] {
        assert_eq!(X86Pae::decode(X86Pae::table(Pfn(0xf_ffff), level), level), Entry::Table(Pfn(0xf_ffff)));
    }
    assert_eq!(X86Pae::decode(X86Pae::table(Pfn(5), 2), 1), Entry::Bad, "a table at level 1");
}

#[test]
fn a_link_of_the_root_has_no_reserved_bit_or_is_the_embedder_s() {
    for n in 0..64 {
        let says = X86Pae::decode(Halves::new(0x5001 ^ 1 << n), 3);
        let expected = match n {
            0 => Entry::Bad,
            3 | 4 | 9..=11 => Entry::Table(Pfn(5)),
            12..=51 => Entry::Table(Pfn(5 ^ 1 << (n - 12))),
            _ => Entry::Foreign,
        };
        assert_eq!(says, expected, "bit {n}");
    }
    let machine = Boxed::<X86Pae>::new(3);
    let range = around(BORDERS_PAE[1], 2, 4);
    let walker = prepared(&machine, &[range]);
    X86Pae::plant(&machine, range.start, 3, 0x5083);
    assert_eq!(walker.foreign(range), Some(Foreign { at: range.start, level: 3, restricts: false }));
    let before = machine.all_words();
    walker.link_tables(range, &mut machine.prealloc(0));
    assert_eq!((walker.unlink(range.start), machine.all_words()), (None, before));
}

#[test]
#[should_panic(expected = "a table lies below 4 GiB")]
fn no_table_lies_above_4_gib() {
    X86Pae::table(Pfn(1 << 20), 2);
}

#[test]
fn pages_above_4_gib_are_mapped_parked_and_taken_back() {
    let machine = Boxed::<X86Pae>::new(3);
    let range = around(BORDERS_PAE[1], 2, 4);
    let walker = prepared(&machine, &[range]);
    assert_eq!(machine.held(), 4, "below two entries of the root");
    map(walker, range, 0x3_0000_0000);
    for n in 0..4 {
        let frame = Pfn(0x3_0000_0000 + n as u64);
        let seen = X86Pae::access(&machine, range.start.add_pages(n)).map(|seen| seen.frame);
        assert_eq!((seen, walker.translate(range.start.add_pages(n))), (Some(frame), Some((frame, Prot::RW))));
    }
    let frames: Vec<_> = (0..4).map(|n| 0x3_0000_0000 + n).collect();
    assert_eq!(unmap(walker, range), (frames, [].into()));
    assert_eq!(walker.check(range), Ok(()));
}

/// What an MMU may read while `new` is written over `old`.
fn between(old: u64, new: u64) -> u64 {
    let (halves, seen) = (Cell::new([old as u32, (old >> 32) as u32]), Cell::new(None));
    let set = |half: usize, word: u32| {
        let mut now = halves.get();
        now[half] = word;
        halves.set(now);
        let [low, high] = now.map(u64::from);
        seen.set(seen.get().or(Some(high << 32 | low)));
    };
    Halves::new(new).write(old as u32, |word| set(0, word), |word| set(1, word));
    assert_eq!(halves.get(), [new as u32, (new >> 32) as u32], "both halves are written");
    seen.get().expect("a first step")
}

#[test]
fn an_entry_is_made_present_by_its_last_half_and_absent_by_its_first() {
    for frame in HIGH {
        for prot in [Prot::RO, Prot::RW, Prot::RX] {
            let mapped = leaf(frame, prot);
            let parked = X86Pae::park(Halves::new(mapped)).word();
            for (old, new) in [(0, mapped), (mapped, 0), (mapped, parked), (parked, mapped), (parked, 0)] {
                let seen = between(old, new);
                assert_eq!(seen & 1, 0, "{old:#x}, {seen:#x}, {new:#x}");
            }
        }
    }
}

#[test]
fn a_page_whose_protection_changes_loses_rights_before_it_gains_others() {
    let prots = [Prot::RO, Prot::RW, Prot::RX];
    for (old, new) in prots.into_iter().flat_map(|old| prots.map(|new| (old, new))) {
        let seen = X86Pae::decode(Halves::new(between(leaf(HIGH[0], old), leaf(HIGH[0], new))), 1);
        let Entry::Leaf { frame, prot } = seen else { panic!("{old:?}, {seen:?}, {new:?}") };
        assert!(frame == HIGH[0] && prot != (Prot::WRITE | Prot::EXEC), "{old:?}, {prot:?}, {new:?}");
    }
}

/// Writes `words` one after the other, again and again, while another thread reads the entry as an
/// MMU does, by one access, and as the library does. What they read has to fit.
fn watch(words: &[u64], fits: impl Fn(u64) -> bool + Sync) {
    const ROUNDS: usize = 300_000;
    let (entry, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let at = entry.as_ptr().cast::<Halves>();
    let address = at.expose_provenance();
    thread::scope(|scope| {
        scope.spawn(|| {
            let at = core::ptr::with_exposed_provenance_mut::<Halves>(address);
            while !over.load(Relaxed) {
                // SAFETY: W1: aligned, and atomics to both.
                let loaded = unsafe { Halves::load(at) }.word();
                for seen in [entry.load(Relaxed), loaded] {
                    assert!(fits(seen), "{seen:#x}");
                }
            }
        });
        for _ in 0..ROUNDS {
            // SAFETY: as above.
            words.iter().for_each(|&word| unsafe { Halves::store(at, Halves::new(word)) });
        }
        over.store(true, Relaxed);
    });
}

#[test]
fn an_entry_that_is_written_or_cleared_by_halves_is_never_present_and_torn() {
    let [a, b] = HIGH.map(|frame| leaf(frame, Prot::RW));
    let park = |word: u64| X86Pae::park(Halves::new(word)).word();
    watch(&[a, 0, b, park(b), b, park(b), 0], |seen| seen & 1 == 0 || seen == a || seen == b);
}
