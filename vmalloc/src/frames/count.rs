//! Counted frames: a frame that several areas hold is given back by the last.
//!
//! [`Page::extra`] counts the holders beyond the first. Whoever calls [`hold`]
//! is a holder, or knows one that cannot leave meanwhile; whoever calls
//! [`release`] is a holder and stops being one.
//!
//! - C1. Of n holders, exactly one sees `release` return true: the last.
//! - C2. What the others did to the frame happened before that.
//! - C3. A count that reached its limit stays there: such a frame is never
//!   given back, which is safe.

use crate::machine::frames::Page;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

/// The count that is never left again (C3).
const STUCK: u32 = u32::MAX;

/// One more holder.
pub fn hold(page: &Page) {
    // Refused at the limit, where nothing is to be done.
    let _ = page.extra.fetch_update(Relaxed, Relaxed, |extra| extra.checked_add(1));
}

/// One holder less; true = that was the last one, and the frame is the
/// caller's to give back.
#[must_use = "the last holder has to give the frame back"]
pub fn release(page: &Page) -> bool {
    page.extra.fetch_update(AcqRel, Acquire, left).is_err()
}

/// The holders beyond the first after one has left; `None` for the last.
fn left(extra: u32) -> Option<u32> {
    match extra {
        0 => None,
        STUCK => Some(STUCK),
        _ => Some(extra - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::vec::Vec;

    #[test]
    fn c1_the_last_of_three_holders_gives_back() {
        let page = Page::default();
        hold(&page);
        hold(&page);
        assert_eq!([release(&page), release(&page), release(&page)], [false, false, true]);
        assert_eq!(page.extra.load(Relaxed), 0, "as for a frame with one holder");
    }

    #[test]
    fn c1_holds_with_a_holder_on_each_thread() {
        let page = Page::default();
        (1..4).for_each(|_| hold(&page));
        let last: Vec<bool> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| release(&page))).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(last.iter().filter(|&&last| last).count(), 1);
    }

    #[test]
    fn c3_a_count_at_its_limit_stays_there() {
        let page = Page::default();
        page.extra.store(STUCK - 1, Relaxed);
        hold(&page);
        hold(&page);
        assert!(!release(&page) && !release(&page));
        assert_eq!(page.extra.load(Relaxed), STUCK);
    }
}
