//! Holders of frames: the last holder gives the frame back.
//!
//! [`Page::extra`] counts the holders beyond the first. A caller of [`hold`] is a holder already,
//! or knows that the frame cannot be given away meanwhile. A caller of [`release`] is a holder and
//! stops being one.
//!
//! - **Q3** Of n holders exactly one sees `release` return true: the last one. It is then the
//!   frame's only holder until it gives the frame back.
//! - **Q4** Whatever the other holders did to the frame happened before that.
//! - **Q5** A count that has reached its limit stays there. The frame is then never given back,
//!   which is safe.

use crate::frames::magazine::MAX_BULK;
use crate::machine::frames::{Frames, Page};
use crate::sync::Ordering::{AcqRel, Acquire, Relaxed};
use crate::sync::breaks;
use crate::units::Pfn;

/// A count from here on is stuck (Q5).
const STUCK: u32 = 1 << 31;
/// The count between the two steps of the last release.
const NONE: u32 = u32::MAX;
/// The value of a stuck count. It lies far from both ends of the stuck half, so that no number of
/// concurrent calls gets out of it.
const FAR: u32 = STUCK | STUCK >> 1;

/// Adds a holder.
#[inline]
pub fn hold(page: &Page) {
    let before = page.extra.fetch_add(1, Relaxed);
    // A last holder between its two steps has left NONE. The caller is then the first holder again,
    // and the other one sees that it was not the last.
    if before >= STUCK && (before != NONE || breaks!(HoldSticks)) {
        stick(page);
    }
}

/// Removes a holder. Returns true if it was the last one: the caller then owns the frame and gives
/// it back.
#[must_use = "the last holder has to give the frame back"]
#[inline]
pub fn release(page: &Page) -> bool {
    // One test of the sign covers both unusual cases: no holder is left, or the count is stuck.
    (page.extra.fetch_sub(1, AcqRel).wrapping_sub(1) as i32) < 0 && was_last(page)
}

/// Handles a count below zero.
#[inline(never)]
fn was_last(page: &Page) -> bool {
    // Restores the count of a frame with one holder, unless somebody holds the frame again.
    // Acquire, because the NONE may be another last holder's (Q4).
    match page.extra.compare_exchange(NONE, 0, Acquire, Relaxed) {
        Ok(_) => true,
        Err(now) => {
            if now >= STUCK {
                stick(page);
            }
            false
        }
    }
}

#[cold]
#[inline(never)]
fn stick(page: &Page) {
    page.extra.store(FAR, Relaxed);
}

/// A frame that occurs more than once in `frames`, if there is one. The caller holds all of them,
/// so it may write their links.
///
/// # Cost
/// O(frames) if they have descriptors.
pub fn twice<F: Frames>(source: &F, frames: &[Pfn]) -> Option<Pfn> {
    let link = |frame: Pfn| source.page(frame).map(|page| &page.links[0]);
    for (n, &frame) in frames.iter().enumerate() {
        if let Some(link) = link(frame) {
            link.store(n as u32, Relaxed);
        }
    }
    // The last occurrence of a frame has written its link last, unless a concurrent call did.
    let is_last = |n: usize, frame: Pfn| link(frame).is_some_and(|link| link.load(Relaxed) == n as u32);
    let again = |&(n, &frame): &(usize, &Pfn)| !is_last(n, frame) && frames[n + 1..].contains(&frame);
    frames.iter().enumerate().find(again).map(|(_, &frame)| frame)
}

/// The first of `frames` that is RAM where the first of all is none, or none where that is.
pub fn mixed<F: Frames>(source: &F, frames: &[Pfn]) -> Option<Pfn> {
    let is_ram = source.is_ram(*frames.first()?);
    frames.iter().copied().find(|&frame| source.is_ram(frame) != is_ram)
}

/// Adds a holder to each of `frames` that has a descriptor.
pub fn hold_known<F: Frames>(source: &F, frames: &[Pfn]) {
    source.each_page(frames, |_, page| page.into_iter().for_each(hold));
}

/// Removes a holder from each of up to [`MAX_BULK`] `frames` and moves the frames that have none left to the
/// front. Returns how many those are. A frame without a descriptor has no count and is never among
/// them.
pub fn release_all<F: Frames>(source: &F, frames: &mut [Pfn]) -> usize {
    const { assert!(MAX_BULK <= u128::BITS as usize) };
    debug_assert!(frames.len() <= MAX_BULK);
    let mut last = 0u128;
    source.each_page(frames, |n, page| {
        if page.is_some_and(release) {
            last |= 1 << n;
        }
    });
    let mut moved = 0;
    while last != 0 {
        frames[moved] = frames[last.trailing_zeros() as usize];
        (moved, last) = (moved + 1, last & (last - 1));
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestZones, ram};
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
    fn of_many_frames_those_that_are_counted_are_held_and_the_last_holds_are_told() {
        let real = TestZones::new(&[ram(0, 4, 0)], None);
        let extra = || [0, 1, 2, 3].map(|n| real.zones.page(Pfn(n)).unwrap().extra.load(Relaxed));
        hold_known(&real.zones, &[Pfn(1), Pfn(9), Pfn(3)]);
        assert_eq!(extra(), [0, 1, 0, 1]);
        let mut frames = [0, 1, 9, 2, 3].map(Pfn);
        let last = release_all(&real.zones, &mut frames);
        assert_eq!((&frames[..last], extra()), (&[Pfn(0), Pfn(2)][..], [0; 4]));
    }

    #[test]
    fn a_frame_that_is_there_twice_is_told_and_one_that_is_there_once_is_not_counted_or_not() {
        let real = TestZones::new(&[ram(0, 4, 0)], None);
        let twin = |frames: &[u64]| twice(&real.zones, &frames.iter().map(|&n| Pfn(n)).collect::<Vec<_>>());
        // Frame 9 has no descriptor.
        assert_eq!(twin(&[3, 9, 0, 1]), None);
        assert_eq!(twin(&[3, 9, 0, 2, 0]), Some(Pfn(0)));
        assert_eq!(twin(&[9, 3, 9]), Some(Pfn(9)));
    }

    #[test]
    fn c1_who_holds_between_the_two_steps_of_the_last_release_is_the_last_afterwards() {
        let page = Page::default();
        // The first step of a last release, and a hold before the second step.
        assert_eq!(page.extra.fetch_sub(1, AcqRel), 0);
        hold(&page);
        assert!(!was_last(&page), "somebody holds it again");
        assert!(release(&page), "and gives it back");
        assert_eq!(page.extra.load(Relaxed), 0);
    }

    #[test]
    fn c3_a_count_at_its_limit_stays_there() {
        let page = Page::default();
        page.extra.store(STUCK - 1, Relaxed);
        hold(&page);
        hold(&page);
        assert!((0..5).all(|_| !release(&page)));
        assert!(page.extra.load(Relaxed) >= STUCK);
    }
}
