//! Events: what the machine is told, and what it may refuse.

use crate::common::{At, REGION, Rig, boot, busy, quiet, rig};
use vmalloc::machine::format::MemType;
use vmalloc::units::Pfn;
use vmalloc::{AllocError, Config, Placement, Policy, Req};
use vmalloc_sim::{Bank, OVER_QUOTA};

const DEVICE: Bank = Bank { first: Pfn(1 << 20), frames: 16, node: None };
const POLICIES: [Policy; 4] = [Policy::Unmap, Policy::Strict, Policy::Park, Policy::Keep];

/// xorshift64*
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }
}

/// An area, and how it is freed.
#[derive(Clone, Copy)]
enum Made {
    Area(At),
    Mapped(At),
    Ram(At, usize),
}

fn free(rig: &Rig, made: Made) {
    match made {
        Made::Area(at) => rig.give(at),
        Made::Mapped(at) => rig.unmap(at),
        Made::Ram(at, pages) => rig.unmap_pages(at, pages),
    }
    .expect("it lives");
}

#[test]
fn areas_that_were_published_and_not_claimed_are_those_that_live() {
    for (placement, policy) in
        [Placement::Classes, Placement::Lowest].into_iter().flat_map(|p| POLICIES.map(|q| (p, q)))
    {
        let rig = boot(busy(2), Config::region(REGION).placement(placement).policy(policy));
        let (mut random, mut live, given) = (Random(7 + policy as u64), Vec::new(), rig.frames(100));
        for act in 0..2000 {
            rig.sim.set_cpu(random.below(2) as u32);
            let pages = 1 + random.below(if act % 10 == 0 { 100 } else { 4 });
            live.push(match random.below(6) {
                0 => Made::Mapped(rig.map(&given[..pages]).expect("addresses")),
                // SAFETY: P4: the frames are held until the end.
                1 => Made::Ram(unsafe { rig.map_ram(&given[..pages], None) }.expect("addresses"), pages),
                2 => Made::Area(rig.reserve(Req::pages(pages)).expect("addresses")),
                _ => Made::Area(rig.alloc(Req::pages(pages)).expect("memory enough")),
            });
            while live.len() > 20 + random.below(20) {
                free(&rig, live.swap_remove(random.below(live.len())));
            }
            if act % 100 == 0 {
                let _ = rig.alloc(Req::bytes(0));
                let noted = rig.sim.noted();
                assert_eq!(noted.publishes - noted.claims, rig.areas().count() as u64);
                assert_eq!(noted.pages, rig.areas().map(|area| area.pages).sum::<usize>());
                assert_eq!((noted.failures, noted.refusals), (act / 100 + 1, 0));
            }
        }
        let before = rig.sim.noted();
        rig.purge();
        let after = rig.sim.noted();
        assert_eq!(after.purges, before.purges + 1);
        assert_eq!(after.retired as u64, rig.stats().counts.reclaimed_pages);
        live.into_iter().for_each(|made| free(&rig, made));
        rig.give_frames(&given);
    }
}

#[test]
fn an_area_that_the_machine_refuses_at_last_is_undone_and_the_caller_is_told_its_number() {
    for policy in POLICIES {
        let rig = boot(quiet(1).node(64 << 20).bank(DEVICE), Config::region(REGION).policy(policy));
        let given = rig.frames(140);
        // So that there are cached slots.
        for pages in [2, 140] {
            let cached = rig.alloc(Req::pages(pages)).expect("memory enough");
            rig.give(cached).expect("it lives");
        }
        rig.sim.set_quota(Some(1));
        let before = (rig.stats().areas, rig.stats().pages, rig.areas().count(), rig.sim.noted().pages);
        for pages in [2, 140] {
            let given = &given[..pages];
            // SAFETY: P1, P2, P4: the frames are held, and a refusal does not take them over.
            let refused = unsafe {
                [
                    rig.alloc(Req::pages(pages)),
                    rig.alloc(Req::pages(pages).zeroed()),
                    rig.vmap(given, Req::bytes(0)),
                    rig.vmap_owned(given, Req::bytes(0)),
                    rig.map_ram(given, None),
                    rig.reserve(Req::pages(pages)),
                    rig.ioremap(DEVICE.first.phys(), 2 << 12, MemType::Uncached),
                ]
            };
            assert_eq!(refused, [Err(AllocError::Refused(OVER_QUOTA)); 7], "{pages} pages, {policy:?}");
        }
        let after = (rig.stats().areas, rig.stats().pages, rig.areas().count(), rig.sim.noted().pages);
        assert_eq!((after, rig.check()), (before, Ok(())));
        rig.sim.set_quota(None);
        let area = rig.alloc(Req::pages(140)).expect("memory enough");
        rig.give(area).expect("it lives");
        rig.give_frames(&given);
    }
}

#[test]
fn a_quota_is_open_again_when_its_areas_are_freed() {
    let rig = rig(1);
    rig.sim.set_quota(Some(10));
    let area = rig.alloc(Req::pages(10)).expect("all of the quota");
    assert_eq!(rig.alloc(Req::pages(1)), Err(AllocError::Refused(OVER_QUOTA)));
    rig.give(area).expect("it lives");
    let area = rig.alloc(Req::pages(10)).expect("all of the quota");
    rig.give(area).expect("it lives");
    assert_eq!((rig.sim.noted().publishes, rig.sim.noted().claims, rig.sim.noted().failures), (2, 2, 1));
}

#[test]
fn a_quota_knows_what_areas_have_that_shrink_and_grow() {
    let rig = boot(quiet(2), Config::region(REGION));
    rig.sim.set_quota(Some(20));
    let area = rig.alloc(Req::pages(18)).expect("within the quota");
    // SAFETY: V1: nobody uses what it gives back.
    let shrink = |pages: usize| unsafe { rig.shrink(area, pages << 12) }.expect("it lives");
    // SAFETY: V1: nobody uses what is behind it.
    let grow = |pages: usize| unsafe { rig.grow(area, Req::pages(pages)) };
    shrink(3);
    assert_eq!(rig.sim.noted().pages, 3);
    let other = rig.alloc(Req::pages(10)).expect("the area has given it up");
    let before = rig.picture();
    assert_eq!(grow(11), Err(AllocError::Refused(OVER_QUOTA)));
    assert_eq!(rig.picture(), before);
    assert_eq!(grow(10), Ok(()));
    assert_eq!((rig.sim.noted().pages, rig.sim.noted().refusals), (20, 1));
    rig.give(other).expect("it lives");
    // Where it fails on the way the opposite is told.
    let all: Vec<_> = std::iter::from_fn(|| rig.alloc_frame(vmalloc::Gfp::KERNEL, None).ok()).collect();
    assert!(matches!(grow(18), Err(AllocError::NoFrames { .. })));
    assert_eq!(rig.sim.noted().pages, 10);
    rig.give_frames(&all);
    rig.give(area).expect("it lives");
    assert_eq!(rig.sim.noted().pages, 0);
    rig.settled();
}
