use crate::marks::*;
use std::ops::Range;
use std::sync::atomic::Ordering::SeqCst;

fn marks(pages: usize) -> Marks {
    let marks = Marks::new(pages).expect("addresses");
    marks.cover(pages).expect("memory");
    marks
}

fn drained(marks: &Marks) -> Vec<Range<usize>> {
    let mut all = Vec::new();
    marks.drain(|run| all.push(run));
    all
}

#[test]
fn masks_name_each_page_once() {
    let all: Vec<_> = masks(62..129).collect();
    assert_eq!(all, [(0, 0b11 << 62), (1, u64::MAX), (2, 1)]);
    assert_eq!(masks(5..5).map(|(_, mask)| mask).sum::<u64>(), 0);
}

#[test]
fn runs_of_bits_come_from_below() {
    let of = |bits| runs(bits).collect::<Vec<_>>();
    assert_eq!(of(0), []);
    assert_eq!(of(!1), vec![1..64]);
    assert_eq!(of(1 << 63 | 0b1101), [0..1, 2..4, 63..64]);
}

#[test]
fn what_goes_is_drained_once_from_below_and_stays_marked() {
    let marks = marks(100_000);
    for run in [99_000..99_001, 4090..4100, 3..5, 62..66] {
        marks.enqueue(run);
    }
    assert_eq!(drained(&marks), [3..5, 62..64, 64..66, 4090..4096, 4096..4100, 99_000..99_001]);
    assert_eq!(drained(&marks), []);
    assert!(marks.has(4099, |group| group.going.load(SeqCst)));
    marks.clear(3..5, |group| &group.going);
    marks.enqueue_again(3..63);
    assert_eq!(drained(&marks), vec![62..64]);
}

#[test]
fn what_is_gone_leaves_the_marks_of_the_pages_in_between() {
    let marks = marks(200);
    marks.set(60..70, |group| &group.bound);
    marks.enqueue(60..62);
    marks.enqueue(65..70);
    marks.gone(60..70);
    let bound: Vec<usize> = (0..200).filter(|&page| marks.has(page, |group| group.bound.load(SeqCst))).collect();
    assert_eq!(bound, [62, 63, 64]);
    assert!(!marks.any(0..200, |group| group.going.load(SeqCst)));
}

#[test]
fn a_page_that_goes_is_not_live() {
    let marks = marks(200);
    marks.set(60..70, |group| &group.bound);
    assert!(marks.any(0..61, Group::live) && !marks.any(70..200, Group::live));
    marks.enqueue(60..69);
    assert!(!marks.any(0..69, Group::live) && marks.has(69, Group::live));
}
