//! What is counted adds up: nothing is counted twice, and nothing is left out.

use crate::common::{At, REGION, Rig, boot, quiet};
use vmalloc::machine::format::MemType;
use vmalloc::units::Pfn;
use vmalloc::{Config, Counts, FreeError, Placement, Policy, Req};
use vmalloc_sim::{Bank, Rates};

const DEVICE: Bank = Bank { first: Pfn(0xf_0000), frames: 8, node: None };
/// Pages of areas of one slice, of several, and with a run of their own.
const SIZES: [usize; 6] = [1, 3, 128, 129, 512, 700];

type Free = fn(&Rig, At) -> Result<(), FreeError>;

/// Areas of all kinds, each with its pages and the call that frees it.
fn areas(rig: &Rig, lent: &[Pfn]) -> Vec<(At, usize, Free)> {
    let mut all: Vec<(At, usize, Free)> = Vec::new();
    for pages in SIZES {
        all.push((rig.alloc(Req::pages(pages)).unwrap(), pages, |rig, at| rig.give(at)));
        all.push((rig.reserve(Req::pages(pages)).unwrap(), pages, |rig, at| rig.give(at)));
    }
    all.push((rig.alloc(Req::stack(4)).unwrap(), 4, |rig, at| rig.give(at)));
    // SAFETY: P1: the test holds its frames for longer.
    let ram = |frames| unsafe { rig.map_ram(frames, None) }.unwrap();
    all.push((ram(&lent[..2]), 2, |rig, at| rig.unmap_pages(at, 2)));
    all.push((ram(&lent[2..]), 3, |rig, at| rig.unmap_pages(at, 3)));
    all.push((rig.map(&lent[..5]).unwrap(), 5, |rig, at| rig.unmap(at)));
    let device = rig.ioremap(DEVICE.first.0 << 12, 3 << 12, MemType::Uncached).unwrap();
    all.push((device, 3, |rig, at| rig.unmap_device(at)));
    all
}

fn each_policy(check: impl Fn(Policy, Rig)) {
    for policy in [Policy::Unmap, Policy::Strict, Policy::Park, Policy::Keep] {
        for placement in [Placement::Classes, Placement::Lowest] {
            let config = Config::region(REGION).policy(policy).placement(placement);
            check(policy, boot(quiet(2).bank(DEVICE), config));
        }
    }
}

fn counts(rig: &Rig) -> Counts {
    rig.stats().counts
}

#[test]
fn each_area_and_each_of_its_pages_is_counted_once_when_it_is_made_freed_and_reclaimed() {
    each_policy(|policy, rig| {
        let lent = rig.frames(5);
        for cpu in [0, 1] {
            let before = counts(&rig);
            let areas = areas(&rig, &lent);
            let (n, pages) = (areas.len() as u64, areas.iter().map(|(_, pages, _)| *pages as u64).sum::<u64>());
            let made = counts(&rig).since(&before);
            assert_eq!((made.allocs, made.alloc_pages, made.local_frees + made.remote_frees), (n, pages, 0));
            areas.iter().for_each(|&(at, _, free)| rig.sim.on(cpu, || free(&rig, at)).unwrap());
            rig.settled();
            let all = counts(&rig).since(&before);
            let frees = if cpu == 0 { (n, 0) } else { (0, n) };
            assert_eq!((all.local_frees, all.remote_frees, all.free_pages), (frees.0, frees.1, pages), "{policy:?}");
            assert_eq!(all.reclaimed + all.cache_hits, n, "{policy:?} from CPU {cpu}");
            assert_eq!(
                all.cache_frees,
                all.cache_hits + all.cache_aged + all.cache_over + all.cache_purged,
                "{policy:?}"
            );
            if all.cache_hits == 0 {
                let never_bound = SIZES.iter().sum::<usize>() as u64;
                assert_eq!(all.reclaimed_pages, pages - never_bound, "{policy:?} from CPU {cpu}");
            }
            assert_eq!((all.failures, all.raced_frees), (0, 0));
        }
        rig.give_frames(&lent);
    });
}

#[test]
fn a_free_that_ends_on_another_cpu_than_it_began_on_is_counted_there_and_nothing_is_left_waiting() {
    for seed in 0..20 {
        let rates = Rates { migrate: 2, ..Rates::NEVER };
        let rig = boot(quiet(3).rates(rates).seed(seed), Config::region(REGION));
        for pages in SIZES {
            for cpu in [0, 1, 2] {
                rig.sim.set_cpu(cpu);
                let area = rig.alloc(Req::pages(pages)).unwrap();
                rig.sim.set_cpu((cpu + 1) % 3);
                rig.give(area).unwrap();
            }
        }
        let settled = rig.settled();
        assert_eq!((settled.areas.len(), settled.pages, settled.waiting), (0, 0, 0), "seed {seed}");
        let counts = counts(&rig);
        assert_eq!(counts.remote_pages, counts.received_pages, "seed {seed}");
    }
}
