//! What happens when something runs out, and whether it comes back.

use super::{Outcome, Wrong, check};
use crate::vm;
use core::ops::Range;
use core::ptr::NonNull;
use vmalloc::area::RegionId;
use vmalloc::error::AllocError;
use vmalloc::machine::frames::Frames;
use vmalloc::units::PAGE_SIZE;
use vmalloc::{Gfp, Req};

/// Areas in a list whose links are their first words.
struct Chain {
    first: Option<NonNull<u8>>,
    areas: usize,
}

impl Chain {
    /// Areas as `req` says until one is refused, and why.
    fn fill(req: &Req) -> (Chain, AllocError) {
        let mut chain = Chain { first: None, areas: 0 };
        loop {
            match vm().alloc(req.clone()) {
                // SAFETY: new, and large enough for a word.
                Ok(at) => unsafe {
                    at.cast::<Option<NonNull<u8>>>().write(chain.first);
                    chain.first = Some(at);
                    chain.areas += 1;
                },
                Err(why) => return (chain, why),
            }
        }
    }

    fn free(mut self) -> Outcome {
        while let Some(at) = self.first {
            // SAFETY: written by `fill`.
            self.first = unsafe { at.cast::<Option<NonNull<u8>>>().read() };
            // SAFETY: V1: its link was read.
            let freed = unsafe { vm().free(at) };
            check!(freed.is_ok(), "{freed:?}");
            self.areas -= 1;
        }
        check!(self.areas == 0, "{} areas were lost", self.areas);
        Ok(())
    }
}

pub fn frames_run_out_and_come_back() -> Outcome {
    vm().purge();
    let frames = vm().machine().zones();
    let small = vm().machine().region().len() < frames.total() * PAGE_SIZE * 2;
    let req = Req::pages(700).region(RegionId(small as u8));
    // The second time nothing is new: all that was taken is there again.
    let mut most = [0; 2];
    for areas in &mut most {
        let (chain, why) = Chain::fill(&req);
        let right = matches!(why, AllocError::NoFrames { wanted: 700, .. } | AllocError::NoTables { .. });
        *areas = chain.areas;
        let left = frames.free_now();
        chain.free()?;
        check!(right, "{why}");
        check!(left < frames.total() / 8, "{left} of {} frames were left", frames.total());
        // Still no wait, and no surprise, for small ones.
        let few = vm().alloc(Req::pages(3).gfp(Gfp::KERNEL)).map_err(|why| println!("  {why}"));
        // SAFETY: V1: not used.
        let freed = few.is_ok_and(|at| unsafe { vm().free(at) }.is_ok());
        check!(freed, "nothing can be had though all was given back");
        vm().purge();
    }
    check!(most[1] + 2 >= most[0], "first {} areas, then {}", most[0], most[1]);
    Ok(())
}

/// Areas that are placed take whole units of 64 pages; in a region that is
/// small itself (`region=64M`) they are in slots.
pub fn a_small_region_runs_full_and_is_emptied() -> Outcome {
    let region = vm().machine().region();
    runs_full_and_is_emptied(region.end - WINDOW..region.end, |window| Req::pages(63).within(window))?;
    if region.len() > vm().machine().zones().total() * PAGE_SIZE / 2 {
        return Ok(());
    }
    runs_full_and_is_emptied(region, |_| Req::pages(7))
}

/// Bytes at the end of a region: nobody else's, if it is large.
const WINDOW: usize = 8 << 20;

fn runs_full_and_is_emptied(range: Range<usize>, req: fn(Range<usize>) -> Req) -> Outcome {
    let pages = range.len() / PAGE_SIZE;
    let mut most = [0; 2];
    for held in &mut most {
        let (chain, why) = Chain::fill(&req(range.clone()));
        let areas = chain.areas;
        chain.free()?;
        let AllocError::NoAddresses { pages: each, .. } = why else {
            println!("  {why}");
            return Err(Wrong);
        };
        *held = areas * each;
        check!(*held <= pages && *held >= pages / 8 * 7, "{areas} areas of {each} pages in {pages}");
        vm().purge();
    }
    check!(most[0] == most[1], "first {} pages, then {}", most[0], most[1]);
    // It serves large ones again, too.
    let large = vm().alloc(Req::pages(pages / 2).within(range)).map_err(|why| println!("  {why}"));
    let at = large.map_err(|()| Wrong)?;
    // SAFETY: V1: not used.
    let freed = unsafe { vm().free(at) };
    check!(freed.is_ok(), "{freed:?}");
    Ok(())
}
