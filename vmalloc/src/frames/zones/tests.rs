//! Zones beside a model with one flag per frame, from which it derives everything else.

extern crate std;

use super::*;
use crate::frames::descriptor::KINDS;
use crate::testing::{TestLock, TestZones, ram};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::vec::Vec;

/// The border of DMA, holes, two nodes that share blocks, and HighMem from 6144 on, with one block
/// of the largest order.
const MAP: [MemoryRange; 5] =
    [ram(3001, 700, 0), ram(3800, 700, 0), ram(4500, 640, 1), ram(5140, 2100, 0), ram(7300, 777, 1)];
const HIGH: u64 = 6144;

fn want(order: u8, zone: ZoneKind) -> Want {
    Want { order, zone, node: Node(0), this_node: false, next: None }
}

fn summary(zones: &Zones<TestLock>) -> (Vec<ZoneStats>, usize) {
    (zones.stats().collect(), zones.free_now())
}

/// Takes all frames that requests for single frames can get.
fn exhaust(zones: &Zones<TestLock>, zone: ZoneKind) -> Vec<Pfn> {
    core::iter::from_fn(|| zones.alloc(want(0, zone))).collect()
}

type ModelHome = (u8, ZoneKind);

/// The home and a flag for each frame of RAM; true = allocated.
#[derive(Clone)]
struct Model {
    frames: Vec<Option<(ModelHome, bool)>>,
}

impl Model {
    fn new() -> Model {
        let mut frames = std::vec![None; 8192];
        for range in MAP {
            for frame in range.first.0..range.first.0 + range.frames as u64 {
                frames[frame as usize] = Some(((range.node.0, Model::zone(frame)), false));
            }
        }
        Model { frames }
    }

    fn zone(frame: u64) -> ZoneKind {
        match frame {
            HIGH.. => ZoneKind::HighMem,
            4096.. => ZoneKind::Dma32,
            _ => ZoneKind::Dma,
        }
    }

    fn at(&self, frame: u64) -> Option<(ModelHome, bool)> {
        *self.frames.get(frame as usize)?
    }

    fn home(&self, frame: u64) -> ModelHome {
        self.at(frame).expect("a frame of RAM").0
    }

    fn numbered(&self) -> impl Iterator<Item = (u64, ModelHome, bool)> {
        self.frames.iter().zip(0..).filter_map(|(frame, n)| frame.map(|(home, out)| (n, home, out)))
    }

    fn count(&self, home: ModelHome, out: bool) -> usize {
        self.frames.iter().filter(|&&frame| frame == Some((home, out))).count()
    }

    fn total(&self, home: ModelHome) -> usize {
        self.count(home, true) + self.count(home, false)
    }

    fn reserve(&self, (node, zone): ModelHome) -> usize {
        let above: usize = KINDS.iter().filter(|&&k| k > zone).map(|&k| self.total((node, k))).sum();
        (above / 256).min(self.total((node, zone)) / 4)
    }

    fn room(&self, home: ModelHome, want: Want) -> usize {
        let kept = if want.zone > home.1 { self.reserve(home) } else { 0 };
        self.count(home, false).saturating_sub(kept)
    }

    /// Whether the aligned block has one home and all of its flags are `out`.
    fn block(&self, first: u64, order: u8, out: bool) -> bool {
        let all = self.at(first).filter(|&(_, is)| is == out);
        let aligned = first.is_multiple_of(1 << order);
        all.is_some() && aligned && (first..first + (1 << order)).all(|frame| self.at(frame) == all)
    }

    /// The number of maximal free blocks of each order.
    fn blocks(&self, home: ModelHome) -> [usize; ORDERS] {
        let mut counts = [0; ORDERS];
        let mut end = 0;
        for (frame, _, _) in self.numbered().filter(|&(_, at, out)| at == home && !out) {
            if frame >= end {
                let order = (0..=MAX_ORDER).rev().find(|&order| self.block(frame, order, false)).unwrap();
                counts[order as usize] += 1;
                end = frame + (1 << order);
            }
        }
        counts
    }

    fn stats(&self) -> Vec<ZoneStats> {
        let homes = (0..2).flat_map(|node| KINDS.map(|zone| (node, zone)));
        let stats = homes.map(|home| ZoneStats {
            node: Node(home.0),
            zone: home.1,
            total: self.total(home),
            free: self.count(home, false),
            reserve: self.reserve(home),
            blocks: self.blocks(home),
        });
        stats.filter(|zone| zone.total > 0).collect()
    }

    fn nodes(want: Want) -> Vec<u8> {
        let all = if want.node.0 == 1 { [1, 0] } else { [0, 1] };
        if want.this_node { Vec::from([want.node.0]) } else { Vec::from(all) }
    }

    /// The homes that serve `want`, in order.
    fn homes(want: Want) -> Vec<ModelHome> {
        let zones = KINDS.into_iter().rev().filter(|&zone| zone <= want.zone);
        Model::nodes(want).into_iter().flat_map(|node| zones.clone().map(move |zone| (node, zone))).collect()
    }

    /// The frame at which `node` continues the request, if it can.
    fn hinted(&self, want: Want, node: u8) -> Option<u64> {
        let hint = want.next?.0;
        let home = self.block(hint, want.order, false).then(|| self.home(hint))?;
        let allowed = home.0 == node && home.1 <= want.zone && self.room(home, want) >= 1 << want.order;
        allowed.then_some(hint)
    }

    /// The result that `alloc` must return: the home, and the frame if there is no choice.
    fn answer(&self, want: Want) -> Option<(ModelHome, Option<u64>)> {
        Model::nodes(want).into_iter().find_map(|node| {
            if let Some(hint) = self.hinted(want, node) {
                return Some((self.home(hint), Some(hint)));
            }
            let homes = Model::homes(want).into_iter().filter(|home| home.0 == node);
            let mut fit = homes.filter(|&home| {
                let large = self.blocks(home)[want.order as usize..].iter().any(|&blocks| blocks > 0);
                large && self.room(home, want) >= 1 << want.order
            });
            fit.next().map(|home| (home, None))
        })
    }

    fn take(&mut self, first: u64, order: u8) {
        for frame in first..first + (1 << order) {
            assert!(!self.set(frame, true), "F1: frame {frame}");
        }
    }

    /// Sets the flag of a frame of RAM and returns its old value.
    fn set(&mut self, frame: u64, out: bool) -> bool {
        let (_, flag) = self.frames[frame as usize].as_mut().expect("a frame of RAM");
        core::mem::replace(flag, out)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Alloc(Want),
    Bulk(Want, usize),
    /// Any frame and order; most of these are refused.
    Free(u64, u8),
    /// At the n-th allocated frame.
    FreeOut(usize, u8),
    FreeBulk(usize, usize),
}

fn wants(orders: impl Strategy<Value = u8>) -> impl Strategy<Value = Want> {
    let zone = prop::sample::select(&KINDS[..]);
    let next = prop::option::of((3000u64..8100).prop_map(Pfn));
    (orders, zone, 0u8..2, prop::bool::weighted(0.3), next).prop_map(|(order, zone, node, this_node, next)| Want {
        order,
        zone,
        node: Node(node),
        this_node,
        next,
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => wants(prop_oneof![3 => 0u8..4, 1 => 0..=MAX_ORDER]).prop_map(Step::Alloc),
        3 => (wants(Just(0u8)), 0usize..300).prop_map(|(want, n)| Step::Bulk(want, n)),
        1 => (2990u64..8100, 0..=MAX_ORDER + 1).prop_map(|(frame, order)| Step::Free(frame, order)),
        4 => (any::<usize>(), 0u8..4).prop_map(|(nth, order)| Step::FreeOut(nth, order)),
        2 => (any::<usize>(), 0usize..300).prop_map(|(nth, n)| Step::FreeBulk(nth, n)),
    ]
}

struct Pair {
    real: TestZones,
    model: Model,
    bad: usize,
}

impl Pair {
    fn new() -> Pair {
        Pair { real: TestZones::new(&MAP, Some(Pfn(HIGH))), model: Model::new(), bad: 0 }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Alloc(want) => self.alloc(want),
            Step::Bulk(want, n) => self.bulk(want, n),
            Step::Free(frame, order) => self.free(frame, order),
            Step::FreeOut(nth, order) => {
                let frame = self.out_from(nth).next();
                if let Some(frame) = frame {
                    self.free(frame >> order << order, order);
                }
            }
            Step::FreeBulk(nth, n) => self.free_bulk(nth, n),
        }
        self.compare();
    }

    fn compare(&self) {
        assert_eq!(self.real.inner().check(), Ok(()));
        assert_eq!(self.real.inner().stats().collect::<Vec<_>>(), self.model.stats());
        assert_eq!(self.real.zones.free_now(), self.model.numbered().filter(|&(_, _, out)| !out).count());
        assert_eq!(self.real.inner().bad_frees(), self.bad);
    }

    fn alloc(&mut self, want: Want) {
        match (self.real.zones.alloc(want), self.model.answer(want)) {
            (None, None) => {}
            (Some(frame), Some((home, exactly))) => {
                assert_eq!(self.model.home(frame.0), home, "{want:?} got {frame:?}");
                assert_eq!(exactly.unwrap_or(frame.0), frame.0, "the run continues");
                assert!(self.model.block(frame.0, want.order, false), "F2");
                self.model.take(frame.0, want.order);
            }
            (real, model) => panic!("{want:?}: {real:?}, and the model says {model:?}"),
        }
    }

    fn bulk(&mut self, want: Want, n: usize) {
        let mut into = std::vec![Pfn(0); n];
        let got = self.real.zones.alloc_bulk(want, &mut into);
        let homes = Model::homes(want);
        let room: usize = homes.iter().map(|&home| self.model.room(home, want)).sum();
        assert_eq!(got, room.min(n));
        if let Some(hint) = self.model.hinted(want, want.node.0).filter(|_| n > 0) {
            assert_eq!(into[0].0, hint, "the run continues");
        }
        for frame in &into[..got] {
            assert!(homes.contains(&self.model.home(frame.0)), "F6");
            self.model.take(frame.0, 0);
        }
    }

    fn out_from(&self, nth: usize) -> impl Iterator<Item = u64> + '_ {
        let out = || self.model.numbered().filter(|&(_, _, out)| out).map(|(frame, ..)| frame);
        out().skip(nth % out().count().max(1))
    }

    fn free(&mut self, first: u64, order: u8) {
        let sound = order <= MAX_ORDER && self.model.block(first, order, true);
        self.bad += !sound as usize;
        // SAFETY: the frames are mere numbers, and wrong ones are the test.
        unsafe { self.real.zones.free(Pfn(first), order) }
        if sound {
            (first..first + (1 << order)).for_each(|frame| _ = self.model.set(frame, false));
        }
    }

    /// Neighbours, and every seventh frame twice.
    fn free_bulk(&mut self, nth: usize, n: usize) {
        let frames: Vec<_> = self.out_from(nth).take(n).collect();
        let twice = frames.iter().step_by(7);
        let all: Vec<_> = frames.iter().chain(twice.clone()).map(|&frame| Pfn(frame)).collect();
        self.bad += twice.count();
        // SAFETY: mere numbers.
        unsafe { self.real.zones.free_bulk(&all) }
        frames.iter().for_each(|frame| _ = self.model.set(*frame, false));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn zones_do_what_a_flag_for_each_frame_says(steps in prop::collection::vec(step(), 1..40)) {
        let mut pair = Pair::new();
        pair.compare();
        steps.iter().for_each(|step| pair.step(step));
    }
}

#[test]
fn before_init_there_is_nothing_and_nothing_can_be_given() {
    let zones = Zones::<TestLock>::new();
    assert_eq!((zones.total(), zones.free_now(), zones.alloc(want(0, ZoneKind::HighMem))), (0, 0, None));
    // SAFETY: mere numbers.
    unsafe { zones.free(Pfn(1), 0) }
    assert_eq!((zones.bad_frees(), zones.check()), (1, Ok(())));
}

#[test]
fn a_second_init_and_a_bad_map_are_refused_and_change_nothing() {
    let real = TestZones::new(&MAP, None);
    let before = summary(real.inner());
    // SAFETY: refused before the storage is touched.
    let again = unsafe { real.inner().init(&MAP, None, NonNull::dangling()) };
    assert_eq!((again, summary(real.inner())), (Err(BadMap::Twice), before));
    let zones = Zones::<TestLock>::new();
    // SAFETY: as above.
    let refused = unsafe { zones.init(&[ram(0, 9, 0), ram(8, 1, 0)], None, NonNull::dangling()) };
    assert_eq!((refused, zones.total()), (Err(BadMap::Overlap(Pfn(8))), 0));
}

#[test]
fn descriptors_take_16_bytes_a_frame() {
    assert_eq!(Zones::<TestLock>::storage_for(&[ram(100, 1000, 0)]), 16_000);
}

#[test]
fn every_frame_is_given_out_once_and_holes_never() {
    let real = TestZones::new(&MAP, Some(Pfn(HIGH)));
    let mut all: BTreeSet<_> = exhaust(real.inner(), ZoneKind::HighMem).into_iter().collect();
    for zone in [ZoneKind::Dma32, ZoneKind::Dma] {
        all.extend(exhaust(real.inner(), zone));
    }
    let frames: BTreeSet<_> = Model::new().numbered().map(|(frame, ..)| Pfn(frame)).collect();
    assert_eq!(all, frames);
    assert_eq!((real.zones.free_now(), real.zones.total()), (0, frames.len()));
}

#[test]
fn single_frames_of_a_fresh_zone_ascend() {
    let real = TestZones::new(&[ram(100, 500, 0)], None);
    let mut frames = [Pfn(0); 300];
    assert_eq!(real.zones.alloc_bulk(Want { next: Some(Pfn(100)), ..want(0, ZoneKind::Normal) }, &mut frames), 300);
    assert!(frames.iter().copied().eq((100..400).map(Pfn)));
}

#[test]
fn ordinary_requests_leave_the_reserve_of_a_lower_zone_alone() {
    let real = TestZones::new(&[ram(4000, 96, 0), ram(4096, 4096, 0)], None);
    let ordinary = exhaust(real.inner(), ZoneKind::Normal);
    assert_eq!(real.zones.free_now(), 16, "4096/256 frames of DMA are left");
    assert_eq!(exhaust(real.inner(), ZoneKind::Dma).len(), 16);
    assert_eq!(ordinary.len(), 96 + 4096 - 16);
}

#[test]
fn memory_of_one_zone_keeps_no_reserve() {
    let real = TestZones::new(&[ram(16, 100, 0)], None);
    assert_eq!(exhaust(real.inner(), ZoneKind::Normal).len(), 100);
}

#[test]
fn the_next_higher_node_helps_out_first_and_this_node_means_it() {
    let real = TestZones::new(&[ram(0, 4, 0), ram(4, 4, 1), ram(8, 4, 2)], None);
    let two = Want { node: Node(2), ..want(0, ZoneKind::Normal) };
    let nodes: Vec<_> = core::iter::from_fn(|| real.zones.alloc(two)).map(|f| real.zones.node_of(f).0).collect();
    assert_eq!(nodes, [2, 2, 2, 2, 0, 0, 0, 0, 1, 1, 1, 1]);
    // SAFETY: mere numbers.
    unsafe { real.zones.free(Pfn(0), 0) }
    assert_eq!(real.zones.alloc(Want { this_node: true, ..two }), None);
    assert_eq!(real.zones.alloc(Want { this_node: true, node: Node(9), ..two }), None, "no such node");
    assert_eq!(real.zones.alloc(Want { node: Node(9), ..two }), Some(Pfn(0)));
}

#[test]
fn a_block_may_come_back_in_pieces_and_pieces_as_a_block() {
    let real = TestZones::new(&[ram(0, 16, 0)], None);
    let fresh = summary(real.inner());
    let block = real.zones.alloc(want(4, ZoneKind::Normal)).unwrap();
    for (frame, order) in [(8, 3), (0, 0), (1, 0), (4, 2), (2, 1)] {
        // SAFETY: mere numbers.
        unsafe { real.zones.free(block.offset(frame), order) }
        assert_eq!(real.inner().check(), Ok(()));
    }
    assert_eq!(summary(real.inner()), fresh);
    (0..16).for_each(|_| _ = real.zones.alloc(want(0, ZoneKind::Normal)));
    // SAFETY: mere numbers.
    unsafe { real.zones.free(Pfn(0), 4) }
    assert_eq!((summary(real.inner()), real.inner().bad_frees()), (fresh, 0));
}

#[test]
fn bad_frees_are_counted_and_change_nothing() {
    let real = TestZones::new(&[ram(100, 50, 0), ram(200, 50, 0)], None);
    let block = real.zones.alloc(want(2, ZoneKind::Normal)).unwrap();
    // SAFETY: mere numbers.
    unsafe { real.zones.free(block.offset(1), 0) }
    let before = summary(real.inner());
    let bad = [
        (block.offset(1), 0, "freed before"),
        (block, 2, "a part was freed before"),
        (block.offset(2), 2, "not aligned"),
        (Pfn(140), 0, "never given out"),
        (Pfn(160), 0, "a hole"),
        (Pfn(99), 0, "below"),
        (Pfn(250), 0, "above"),
        (Pfn(u64::MAX), 0, "far above"),
        (Pfn(248), 3, "partly above"),
        (Pfn(0), 11, "no such order"),
    ];
    for (n, (frame, order, why)) in bad.into_iter().enumerate() {
        // SAFETY: mere numbers.
        unsafe { real.zones.free(frame, order) }
        assert_eq!((real.inner().bad_frees(), summary(real.inner())), (n + 1, before.clone()), "{why}");
        assert_eq!(real.inner().check(), Ok(()));
    }
    // SAFETY: mere numbers.
    unsafe { real.zones.free_bulk(&[Pfn(160), Pfn(140), Pfn(7)]) }
    assert_eq!((real.inner().bad_frees(), summary(real.inner())), (bad.len() + 3, before));
    assert_eq!(real.zones.alloc(want(11, ZoneKind::Normal)), None, "no such order");
}

#[test]
fn pages_are_there_for_ram_only_and_keep_their_address() {
    let real = TestZones::new(&MAP, None);
    assert!(real.zones.page(Pfn(3750)).is_none(), "a hole");
    assert!(real.zones.page(Pfn(1)).is_none(), "outside");
    let page = real.zones.page(Pfn(3001)).unwrap();
    exhaust(real.inner(), ZoneKind::Normal);
    assert!(core::ptr::eq(page, real.zones.page(Pfn(3001)).unwrap()));
}

#[test]
fn highmem_is_the_highest_zone_where_there_is_any() {
    assert_eq!(TestZones::new(&MAP, Some(Pfn(HIGH))).zones.highest_zone(), ZoneKind::HighMem);
    let low = TestZones::new(&MAP, None);
    assert_eq!((low.zones.highest_zone(), low.zones.nodes()), (ZoneKind::Dma32, 2));
}

#[test]
fn threads_on_two_nodes_lose_nothing() {
    let real = TestZones::new(&[ram(0, 2000, 0), ram(2000, 2000, 1)], None);
    let fresh = summary(real.inner());
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let source = &real.zones;
            scope.spawn(move || {
                let want = Want { node: Node(thread % 2), ..want(thread % 3, ZoneKind::Normal) };
                for _ in 0..2000 {
                    let held: Vec<_> = (0..9).filter_map(|_| source.alloc(want)).collect();
                    // SAFETY: mere numbers.
                    held.iter().for_each(|&frame| unsafe { source.free(frame, want.order) });
                }
            });
        }
    });
    assert_eq!((real.inner().check(), summary(real.inner())), (Ok(()), fresh));
    assert_eq!(real.inner().bad_frees(), 0);
}
