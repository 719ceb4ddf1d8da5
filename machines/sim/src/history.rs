//! What happened lately, to tell both sides of a story, and a fingerprint of
//! everything that ever happened, to tell whether two runs were the same.

use crate::cache::How;
use crate::rng::mix;
use crate::walk::overlap;
use core::fmt;
use std::collections::VecDeque;
use vmalloc::units::{PageRange, Pfn, VirtAddr};

/// Events that are remembered.
const KEPT: usize = 1 << 14;
/// Characters of a CPU's column.
const COLUMN: usize = 46;
/// Events that a story tells at most.
const TOLD: usize = 40;

/// Something that happened to a page, a frame or a CPU.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// The CPU picked up the translation of a page.
    Page { at: VirtAddr, frame: Pfn, how: How },
    /// The CPU picked up where the table for these addresses is.
    Table { level: u8, at: VirtAddr, frame: Pfn, how: How },
    /// A program used a translation whose entry waits for grace.
    UsedAfterFree { at: VirtAddr, frame: Pfn },
    /// The entries of these pages were written.
    Written(PageRange),
    /// The CPU discarded everything.
    Flushed,
    /// The CPU discarded what it held of these pages.
    FlushedPages(PageRange),
    /// The CPU was told to flush, and did not: sabotage.
    #[cfg(interleave)]
    FlushSkipped,
    /// A block of frames was taken.
    Taken { frame: Pfn, order: u8 },
    /// A block of frames was given back.
    Given { frame: Pfn, order: u8 },
    /// The CPU was asked for `on_kick`.
    Kicked,
    /// The CPU ran `on_kick`.
    KickServed,
    /// An interrupt came.
    Interrupted,
    /// The CPU came online.
    Online,
    /// The CPU went offline.
    Offline,
    /// The CPU fell asleep.
    Idle,
    /// The CPU woke up.
    Awake,
    /// An entry was overwritten by hand.
    Poked { at: VirtAddr, level: u8 },
    /// The driver says what the CPU does next.
    Told { what: &'static str, at: VirtAddr },
}

impl Event {
    /// Whether it has to do with `pages` or with one of `frames`.
    fn concerns(&self, pages: PageRange, frames: &[Pfn]) -> bool {
        match *self {
            Event::Page { at, frame, .. } | Event::UsedAfterFree { at, frame } => {
                pages.contains(at) || frames.contains(&frame)
            }
            Event::Table { frame, .. } => frames.contains(&frame),
            Event::Written(range) | Event::FlushedPages(range) => overlap(range, pages),
            Event::Taken { frame, order } | Event::Given { frame, order } => {
                frames.iter().any(|f| (frame.0..frame.0 + (1 << order)).contains(&f.0))
            }
            Event::Poked { at, .. } | Event::Told { at, .. } => pages.contains(at),
            Event::Kicked | Event::KickServed | Event::Interrupted => false,
            Event::Flushed => true,
            #[cfg(interleave)]
            Event::FlushSkipped => true,
            Event::Online | Event::Offline | Event::Idle | Event::Awake => true,
        }
    }

    /// The event as numbers: which kind, and two that matter most.
    fn digest(&self) -> [u64; 3] {
        match *self {
            Event::Page { at, frame, how } => [how as u64, at.0 as u64, frame.0],
            Event::Table { level, at, frame, how } => [2 + how as u64, at.0 as u64 + level as u64, frame.0],
            Event::UsedAfterFree { at, frame } => [4, at.0 as u64, frame.0],
            Event::Written(r) => [5, r.start.0 as u64, r.pages as u64],
            Event::Flushed => [6, 0, 0],
            Event::FlushedPages(r) => [7, r.start.0 as u64, r.pages as u64],
            #[cfg(interleave)]
            Event::FlushSkipped => [8, 0, 0],
            Event::Taken { frame, order } => [9, frame.0, order as u64],
            Event::Given { frame, order } => [10, frame.0, order as u64],
            Event::Kicked => [11, 0, 0],
            Event::KickServed => [12, 0, 0],
            Event::Interrupted => [13, 0, 0],
            Event::Online => [14, 0, 0],
            Event::Offline => [15, 0, 0],
            Event::Idle => [16, 0, 0],
            Event::Awake => [17, 0, 0],
            Event::Poked { at, level } => [18, at.0 as u64, level as u64],
            Event::Told { what, at } => [19, what.len() as u64, at.0 as u64],
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = |how| if how == How::Access { "an access" } else { "speculation" };
        match *self {
            Event::Page { at, frame, how } => write!(f, "picked up {at} -> {frame:?} by {}", by(how)),
            Event::Table { level, at, frame, how } => {
                write!(f, "picked up the level {} table of {at}: {frame:?}, by {}", level - 1, by(how))
            }
            Event::UsedAfterFree { at, frame } => write!(f, "used {at} -> {frame:?} after its free, before grace"),
            Event::Written(range) => write!(f, "wrote the entries of {range:?}"),
            Event::Flushed => f.write_str("flushed everything"),
            Event::FlushedPages(range) => write!(f, "flushed {range:?}"),
            #[cfg(interleave)]
            Event::FlushSkipped => f.write_str("was told to flush, and did not (sabotage)"),
            Event::Taken { frame, order } => write!(f, "took {frame:?}, order {order}"),
            Event::Given { frame, order } => write!(f, "gave back {frame:?}, order {order}"),
            Event::Kicked => f.write_str("was kicked"),
            Event::KickServed => f.write_str("served a kick"),
            Event::Interrupted => f.write_str("was interrupted"),
            Event::Online => f.write_str("came online"),
            Event::Offline => f.write_str("went offline"),
            Event::Idle => f.write_str("fell asleep"),
            Event::Awake => f.write_str("woke up"),
            Event::Told { what, at } => write!(f, "── {what} {at}"),
            Event::Poked { at, level } => write!(f, "overwrote the level {level} entry of {at} by hand"),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct History {
    kept: VecDeque<(u64, u32, Event)>,
    seen: u64,
    print: u64,
}

impl History {
    /// Notes that `cpu` did `event`, and returns the event's number.
    pub(crate) fn note(&mut self, cpu: u32, event: Event) -> u64 {
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.seen += 1;
        self.kept.push_back((self.seen, cpu, event));
        self.print = event.digest().iter().fold(self.print ^ cpu as u64, |print, &n| mix(print.wrapping_add(n)));
        self.seen
    }

    /// A number that two runs share if the same events happened in both.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.print
    }

    /// The number of the last event.
    pub(crate) fn now(&self) -> u64 {
        self.seen
    }

    /// Pages whose entries were written after event `since`, latest first, as
    /// far as that is remembered.
    pub(crate) fn written_since(&self, since: u64) -> impl Iterator<Item = PageRange> {
        let later = self.kept.iter().rev().take_while(move |&&(n, ..)| n > since);
        later.filter_map(|&(_, _, event)| if let Event::Written(pages) = event { Some(pages) } else { None })
    }

    /// The last `count` events, in a column for each of `cpus` CPUs.
    pub(crate) fn columns(&self, cpus: usize, count: usize) -> String {
        let mut told = String::new();
        // Guesses are many, and matter little.
        let matters = |event: &Event| {
            !matches!(event, Event::Page { how: How::Speculation, .. } | Event::Table { how: How::Speculation, .. })
        };
        let kept: Vec<_> = self.kept.iter().filter(|(_, _, event)| matters(event)).collect();
        for (n, cpu, event) in &kept[kept.len().saturating_sub(count)..] {
            let before = (0..*cpu as usize).map(|_| format!("{:COLUMN$}│ ", "")).collect::<String>();
            let after = if (*cpu as usize) + 1 < cpus { "│" } else { "" };
            told += &format!("{n:>7} {before}{:COLUMN$}{after}\n", event.to_string());
        }
        told
    }

    /// The last events that have to do with the page of `at` or with `frames`,
    /// one a line.
    pub(crate) fn story(&self, at: VirtAddr, frames: &[Pfn]) -> String {
        let page = PageRange::new(at.page_start(), 1);
        let told = self.kept.iter().rev().filter(|(_, _, event)| event.concerns(page, frames)).take(TOLD);
        let mut lines: Vec<_> = told.map(|(n, cpu, event)| format!("    #{n} CPU {cpu} {event}\n")).collect();
        lines.reverse();
        lines.concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_story_tells_of_the_page_and_the_frames_and_of_nothing_else() {
        let mut history = History::default();
        let page = |n: usize| VirtAddr(n * 0x1000);
        history.note(0, Event::Taken { frame: Pfn(8), order: 1 });
        history.note(0, Event::Taken { frame: Pfn(20), order: 0 });
        history.note(1, Event::Page { at: page(5), frame: Pfn(9), how: How::Speculation });
        history.note(1, Event::Page { at: page(6), frame: Pfn(20), how: How::Access });
        history.note(0, Event::FlushedPages(PageRange::new(page(4), 2)));
        let story = history.story(VirtAddr(0x5123), &[Pfn(9)]);
        let told = ["#1 CPU 0 took pfn 0x8, order 1", "#3 CPU 1 picked up 0x5000", "#5 CPU 0 flushed 0x4000-0x6000"];
        assert!(told.iter().all(|line| story.contains(line)), "{story}");
        assert_eq!(story.lines().count(), 3);
    }

    #[test]
    fn the_fingerprint_depends_on_who_did_what_in_which_order() {
        let print = |events: &[(u32, Event)]| {
            let mut history = History::default();
            events.iter().for_each(|&(cpu, event)| {
                history.note(cpu, event);
            });
            history.fingerprint()
        };
        let (a, b) = ((0, Event::Flushed), (1, Event::Kicked));
        assert_eq!(print(&[a, b]), print(&[a, b]));
        assert_ne!(print(&[a, b]), print(&[b, a]));
        assert_ne!(print(&[a]), print(&[(1, Event::Flushed)]));
    }

    #[test]
    fn old_events_are_forgotten_and_still_count_in_the_fingerprint() {
        let mut history = History::default();
        for _ in 0..KEPT + 10 {
            history.note(0, Event::Flushed);
        }
        assert_eq!((history.kept.len(), history.now()), (KEPT, KEPT as u64 + 10));
    }
}
