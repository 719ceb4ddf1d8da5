//! Closing a batch against what other CPUs do (G1, G3, G5, G7).

use super::explore;
use loom::sync::atomic::{AtomicBool, Ordering::*};
use loom::thread;
use std::sync::Arc;
use vmalloc::internals::{CpuEpoch, FlushEpochs, Holds, Pending};
use vmalloc::units::{PageRange, VirtAddr};

/// A CPU, a page's entry, and what the CPU remembers of it.
struct Walker {
    flush_epochs: Arc<FlushEpochs>,
    epochs: Arc<[CpuEpoch; 2]>,
    /// Whether the entry is there to be walked.
    entry: Arc<AtomicBool>,
    /// Whether the page was given to somebody else.
    reused: Arc<AtomicBool>,
    held: bool,
}

impl Walker {
    /// An access, or a speculative walk.
    fn walk(&mut self) {
        self.held |= self.entry.load(Relaxed);
        assert!(!(self.held && self.reused.load(Relaxed)), "a stale translation of a page that was reused");
    }

    /// `f`, whose flush forgets everything; an awake CPU uses what it holds until
    /// then, and each walks again at once.
    fn served(&mut self, awake: bool, f: impl FnOnce(&FlushEpochs, &CpuEpoch, &mut dyn FnMut(Option<PageRange>))) {
        let (flush_epochs, epochs) = (self.flush_epochs.clone(), self.epochs.clone());
        f(&flush_epochs, &epochs[1], &mut |what| {
            if awake {
                self.walk();
            }
            self.held &= what.is_some_and(|pages| pages != page(0));
            self.walk();
        });
    }

    fn sleep(&mut self) {
        self.served(true, |flush_epochs, epoch, flush| flush_epochs.sleep(epoch, flush));
    }

    fn wake(&mut self) {
        self.served(false, |flush_epochs, epoch, flush| flush_epochs.wake(epoch, flush));
    }

    fn leave(&mut self) {
        self.flush_epochs.leave(&self.epochs[1]);
    }

    fn on_kick(&mut self) {
        self.served(true, |flush_epochs, epoch, flush| flush_epochs.catch_up(epoch, flush));
    }
}

/// What the batch over the page is like.
#[derive(Clone, Copy, PartialEq)]
enum Closed {
    Plain,
    /// It holds table pages.
    WithTables,
    /// It is the page alone, and everybody is told so.
    Small,
    /// A small batch over another page is sealed after it.
    BeforeSmall,
    /// Both.
    SmallBeforeSmall,
}

/// A page; 0 is the one that is walked.
fn page(number: usize) -> PageRange {
    PageRange::new(VirtAddr(0x1000 * (1 + number)), 1)
}

/// What is raced with.
struct Case {
    /// What CPU 1 does.
    story: fn(&mut Walker),
    sealed: Closed,
    /// CPU 1 has been asked already, for an earlier batch.
    asked: bool,
}

/// CPU 0 closes a batch, and `meanwhile` happens before it flushes. Says whom it kicks.
fn seal(
    flush_epochs: &FlushEpochs,
    epochs: &[CpuEpoch; 2],
    holds: Holds,
    meanwhile: impl FnOnce(),
) -> (Pending<()>, usize) {
    let mut kicks = 0;
    let flush = || {
        meanwhile();
        flush_epochs.flush(&epochs[0], |_| ());
    };
    let pending = flush_epochs.seal_batch((), holds);
    flush();
    flush_epochs.ask(&pending, epochs.iter(), |_| kicks += 1);
    (pending, kicks)
}

/// CPU 0 closes a batch over a page that CPU 1 walks: reclaimed, the page is
/// somebody else's. What is wrong panics in [`Walker::walk`].
fn close_against(case: Case) {
    let Case { story, sealed, asked } = case;
    let preemptions = if sealed == Closed::SmallBeforeSmall { 5 } else { 4 };
    explore(preemptions, move || {
        let flush_epochs = Arc::new(FlushEpochs::default());
        let epochs: Arc<[CpuEpoch; 2]> = Arc::default();
        let (entry, reused) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
        epochs.iter().for_each(|epoch| flush_epochs.wake(epoch, |_| ()));
        let mut walker = Walker {
            flush_epochs: flush_epochs.clone(),
            epochs: epochs.clone(),
            entry: entry.clone(),
            reused: reused.clone(),
            held: false,
        };
        if asked {
            let _before = seal(&flush_epochs, &epochs, Holds::default(), || ());
        }
        let other = thread::spawn(move || story(&mut walker));
        entry.store(false, Relaxed);
        let small = matches!(sealed, Closed::Small | Closed::SmallBeforeSmall);
        let narrow = small.then(|| page(0));
        let holds = Holds { tables: sealed == Closed::WithTables, narrow, ..Holds::default() };
        let (batch, kicks) = seal(&flush_epochs, &epochs, holds, || {
            if matches!(sealed, Closed::BeforeSmall | Closed::SmallBeforeSmall) {
                let _after = flush_epochs.seal_narrow((), page(1));
            }
        });
        let batch = batch.reclaim(&flush_epochs.grace(epochs.iter()));
        reused.store(batch.is_ok(), Relaxed);
        other.join().unwrap();
        if let Err(batch) = batch {
            // G7: whoever was not kicked was flushing already, for this batch.
            if kicks > 0 {
                flush_epochs.catch_up(&epochs[1], |_| ());
            }
            assert!(batch.reclaim(&flush_epochs.grace(epochs.iter())).is_ok(), "grace comes");
        }
    });
}

/// Broken by publishing before the flush, by `now` read after the flush, and by
/// `asked` cleared after `now` is read (then nobody kicks, and grace never
/// comes).
#[test]
fn closing_races_with_the_answer_to_a_kick() {
    close_against(Case {
        story: |cpu| {
            cpu.walk();
            cpu.on_kick();
            cpu.walk();
        },
        sealed: Closed::Plain,
        asked: true,
    });
}

/// Broken by taking the pages of the youngest batch for all that there is to
/// discard, and by pages that are read without a look at their tag after.
#[test]
fn closing_small_loads_races_with_the_answer_to_a_kick() {
    for sealed in [Closed::Small, Closed::BeforeSmall, Closed::SmallBeforeSmall] {
        close_against(Case {
            story: |cpu| {
                cpu.walk();
                cpu.on_kick();
                cpu.walk();
            },
            sealed,
            asked: false,
        });
    }
}

/// Broken by `wake` without its fence, and by `ask` and `grace` that both have none:
/// the closer skips a CPU that has not seen its tag.
#[test]
fn closing_races_with_idle_entry_and_exit() {
    close_against(Case {
        story: |cpu| {
            cpu.walk();
            cpu.sleep();
            cpu.wake();
            cpu.walk();
        },
        sealed: Closed::Plain,
        asked: false,
    });
}

/// Broken by a `wake` that does not flush.
#[test]
fn closing_races_with_a_cpu_that_goes_offline_and_comes_back() {
    close_against(Case {
        story: |cpu| {
            cpu.walk();
            cpu.leave();
            cpu.wake();
            cpu.walk();
        },
        sealed: Closed::Plain,
        asked: false,
    });
}

/// An idle CPU still walks, speculatively: a batch with table pages waits for
/// it. Broken by closing it as a plain one.
#[test]
fn a_load_with_table_pages_waits_for_idle_cpus() {
    close_against(Case {
        story: |cpu| {
            cpu.walk();
            cpu.sleep();
            cpu.walk();
            cpu.wake();
            cpu.walk();
        },
        sealed: Closed::WithTables,
        asked: false,
    });
}

/// CPU 0 unmaps a page that holds nothing, and gives its frame up; CPU 1, which
/// still may reach it, is its last holder, and uses it again if it finds no
/// alias. Broken by an `end` that tells its tag last or in no order, and by asking for the tag
/// before whether a batch is open.
#[test]
fn giving_up_a_frame_races_with_closing_the_load_that_knows_of_its_alias() {
    explore(3, || {
        let flush_epochs = Arc::new(FlushEpochs::default());
        let epochs: Arc<[CpuEpoch; 2]> = Arc::default();
        let (entry, reused) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
        let given = Arc::new(AtomicBool::new(false));
        epochs.iter().for_each(|epoch| flush_epochs.wake(epoch, |_| ()));
        let mut walker = Walker {
            flush_epochs: flush_epochs.clone(),
            epochs: epochs.clone(),
            entry: entry.clone(),
            reused,
            held: false,
        };
        let other = thread::spawn({
            let given = given.clone();
            move || {
                walker.walk();
                walker.on_kick();
                let last = given.load(Acquire);
                walker.flush_epochs.grace(walker.epochs.iter());
                walker.reused.store(last && walker.flush_epochs.has_no_aliases(), Relaxed);
                walker.walk();
            }
        });
        entry.store(false, Relaxed);
        flush_epochs.note_alias();
        given.store(true, Release);
        let (batch, _) = seal(&flush_epochs, &epochs, Holds { aliases: true, ..Holds::default() }, || ());
        other.join().unwrap();
        flush_epochs.catch_up(&epochs[1], |_| ());
        assert!(batch.reclaim(&flush_epochs.grace(epochs.iter())).is_ok());
        assert!(flush_epochs.has_no_aliases(), "all have flushed since");
    });
}
