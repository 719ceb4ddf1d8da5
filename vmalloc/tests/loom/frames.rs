//! Who holds a frame (Q3, Q4), and who walks to entries of tables (T1 looks).

use super::explore;
use loom::sync::atomic::{AtomicBool, Ordering::*};
use loom::thread;
use std::sync::Arc;
use vmalloc::internals::{FlushEpochs, Looks};
use vmalloc::internals::{hold, release};
use vmalloc::machine::frames::Page;

/// Broken by a relaxed `fetch_sub` in `release`, and by one that only acquires.
#[test]
fn of_three_holders_one_is_the_last_and_sees_what_the_others_did() {
    explore(4, || {
        let page = Arc::new(Page::default());
        let used: Arc<[AtomicBool; 3]> = Arc::default();
        (1..3).for_each(|_| hold(&page));
        let end = |n: usize| {
            let (page, used) = (page.clone(), used.clone());
            move || {
                used[n].store(true, Relaxed);
                let last = release(&page);
                assert!(!last || used.iter().all(|used| used.load(Relaxed)), "Q4");
                last
            }
        };
        let others = [thread::spawn(end(0)), thread::spawn(end(1))];
        let last = end(2)() as u32 + others.into_iter().map(|other| other.join().unwrap() as u32).sum::<u32>();
        assert_eq!((last, page.extra.load(Relaxed)), (1, 0), "Q3");
    });
}

/// The area whose frame somebody looks up is freed at the same moment. Broken by a
/// `hold` for which a count between the two steps of the last `release` is one that
/// is stuck, and by a `was_last` that always says yes, or puts 0 back with a store.
#[test]
fn a_frame_that_is_held_during_its_last_release_is_given_back_once() {
    explore(5, || {
        let page = Arc::new(Page::default());
        let finder = thread::spawn({
            let page = page.clone();
            move || {
                hold(&page);
                release(&page)
            }
        });
        let given = release(&page) as u32 + finder.join().unwrap() as u32;
        assert_eq!((given, page.extra.load(Relaxed)), (1, 0), "Q3");
    });
}

/// CPU 0 unlinks a table and flushes all CPUs at once, while CPU 1 walks to it, which
/// is inside no CPU. Broken by `have_ended` with a batch in place of the exchange, and
/// by `during` that calls `look` before it says so, or after it has said that it ended.
#[test]
fn a_table_that_somebody_walks_to_is_not_reused_after_a_flush_of_all_cpus() {
    explore(5, || {
        let (flush_epochs, looks): (FlushEpochs, Arc<[Looks; 2]>) = Default::default();
        let linked = Arc::new(AtomicBool::new(true));
        let reused = Arc::new(AtomicBool::new(false));
        let walker = thread::spawn({
            let (looks, linked, reused) = (looks.clone(), linked.clone(), reused.clone());
            move || {
                looks[1].during(|| {
                    if linked.load(Relaxed) {
                        assert!(!reused.load(Relaxed), "T1");
                    }
                });
            }
        });
        linked.store(false, Relaxed);
        let batch = flush_epochs.seal((), true);
        let everywhere = || Looks::are_over(looks.iter(), thread::yield_now);
        let flushed = flush_epochs.flush_everywhere(everywhere);
        let reclaimed = batch.reclaim(&flush_epochs.grace_so_far()).is_ok();
        assert_eq!(flushed, reclaimed);
        reused.store(reclaimed, Relaxed);
        walker.join().unwrap();
        assert!(flush_epochs.flush_everywhere(everywhere), "nobody looks any more");
    });
}
