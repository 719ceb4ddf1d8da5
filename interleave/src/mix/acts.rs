//! One CPU's acts.

use super::Left;
use super::world::{Live, What, World};
use crate::engine;
use crate::random::Random;
use crate::rig::Rig;
use std::cell::{RefCell, RefMut};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};
use vmalloc::area::Guard;
use vmalloc::gfp::Gfp;
use vmalloc::machine::format::Entry;
use vmalloc::units::{PAGE_SIZE, Pfn, VirtAddr};
use vmalloc::{AllocError, Policy, Req};

/// Mappings that may live at a time: more would leave no memory for others.
const MOST: usize = 24;

/// One CPU, and its chance, on a machine with aliases or without.
pub struct Hand<const ALIASES: bool> {
    cpu: u32,
    world: Rc<RefCell<World>>,
    random: Random,
    /// Areas for NMIs to free.
    left: Arc<Mutex<Vec<Left>>>,
}

impl<const ALIASES: bool> Hand<ALIASES> {
    pub fn new(cpu: u32, world: Rc<RefCell<World>>, left: Arc<Mutex<Vec<Left>>>, seed: u64) -> Self {
        Hand { cpu, world, left, random: Random::new(seed.wrapping_mul(64) + cpu as u64) }
    }

    fn world(&self) -> RefMut<'_, World> {
        self.world.borrow_mut()
    }

    fn left(&self) -> MutexGuard<'_, Vec<Left>> {
        self.left.lock().expect("no panic under it")
    }

    /// Does one thing.
    pub fn act(&mut self, rig: &Rig<ALIASES>) {
        match self.random.below(33) {
            0..=4 => self.make(rig),
            5..=11 => self.end_one(rig),
            12 | 13 => self.map_short(rig),
            14 => self.map_again(rig),
            15 => self.map_owned(rig),
            16 => self.bare_or_device(rig),
            17 | 18 => self.hold(rig),
            19 => self.give_held(rig),
            20 | 21 => self.free_dead(rig),
            22 => self.look(rig),
            23 if self.random.one_in(2) => self.leave_to_nmis(rig),
            23 => _ = rig.purge(),
            24 => _ = rig.reclaim(self.random.below(8) as usize),
            25 | 26 => _ = rig.tick(),
            27 => _ = rig.work(),
            28 => self.sleep(rig),
            29 => self.leave(rig),
            30 => rig.set_policy(self.random.pick(&[Policy::Unmap, Policy::Park, Policy::Keep, Policy::Strict])),
            31 => self.shrink(rig),
            _ => rig.sim.faults().fail_at(self.random.below(6)),
        }
        rig.pause_for(self.random.below(2));
    }

    /// Ends everything that lives.
    pub fn end_all(mut self, rig: &Rig<ALIASES>) {
        while !self.world().is_empty() {
            self.end_one(rig);
            self.give_held(rig);
        }
        let left = core::mem::take(&mut *self.left());
        left.into_iter().for_each(|left| _ = rig.give(left.at));
        let refused = core::mem::take(&mut self.world().refused);
        for area in refused {
            // Perhaps the other free has done it after all.
            let _ = self.unmap(rig, &area);
            self.give_lent(rig, &area);
        }
    }

    fn make(&mut self, rig: &Rig<ALIASES>) {
        let pages = self.random.pick(&[1, 1, 2, 3, 16, 70, 140, 300]);
        let req = match self.random.below(6) {
            0 => Req::stack(pages),
            1 => Req::pages(pages).guard(Guard::None),
            2 => Req::pages(pages).gfp(Gfp::ATOMIC),
            3 => Req::pages(pages).gfp(Gfp::KERNEL | Gfp::ZERO),
            _ => Req::pages(pages),
        };
        let since = self.world().now();
        let Some(at) = expect_area(rig.make(req)) else { return };
        let stamp = self.world().stamp();
        self.begin(rig, since, Live { at, pages, what: What::Own(stamp) });
    }

    /// A new area is known, unless its address is contested.
    fn begin(&mut self, rig: &Rig<ALIASES>, since: u64, area: Live) {
        if self.world().is_contested(area.at, since) {
            let _ = self.unmap(rig, &area);
            return self.give_lent(rig, &area);
        }
        engine::at_once(|| self.begin_now(rig, area));
    }

    fn begin_now(&self, rig: &Rig<ALIASES>, area: Live) {
        if let What::Own(stamp) = area.what {
            self.check_fresh(rig, &area);
            rig.stamp(area.at, area.pages.min(4), stamp);
        }
        if let What::Map(frames) | What::Short(frames) = &area.what {
            for (n, frame) in frames.iter().enumerate() {
                let stored = rig.sim.store(self.cpu, VirtAddr(area.at).add_pages(n), frame.0);
                stored.unwrap_or_else(|fault| panic!("content: a live mapping: {fault}"));
            }
        }
        self.world().live.push(area);
    }

    /// Its frames are nobody else's.
    fn check_fresh(&self, rig: &Rig<ALIASES>, area: &Live) {
        let taken = self.world().taken();
        for n in 0..area.pages {
            let page = VirtAddr(area.at).add_pages(n);
            let (_, entry) = rig.sim.peek(page);
            let Entry::Leaf { frame, .. } = entry else { panic!("content: {page} of a new area: {entry:?}") };
            assert!(!taken.contains(&frame), "frame: {frame:?} of a new area is held");
            rig.sim.assert_reached_only_at(frame, Some(page));
        }
    }

    fn pick(&mut self) -> Option<Live> {
        let count = self.world().live.len() as u64;
        let n = self.random.below(count) as usize;
        let mut world = self.world();
        (count > 0).then(|| world.live.swap_remove(n))
    }

    fn end_one(&mut self, rig: &Rig<ALIASES>) {
        let Some(area) = self.pick() else { return };
        engine::at_once(|| self.check(rig, &area));
        self.world().dies(area.at);
        let ended = self.unmap(rig, &area);
        self.world().settle(area.at);
        match ended {
            Ok(()) => self.give_lent(rig, &area),
            Err(_) if self.world().was_contested(area.at) => self.world().refused.push(area),
            Err(why) => panic!("free: the live {area:x?} was refused: {why}"),
        }
    }

    /// An area of memory gives its last pages back, and lives on.
    fn shrink(&mut self, rig: &Rig<ALIASES>) {
        let Some(mut area) = self.pick() else { return };
        if let What::Own(_) = area.what
            && area.pages > 1
        {
            let left = 1 + self.random.below(area.pages as u64 - 1) as usize;
            self.world().busy.push(area.at);
            rig.shorten(area.at, left).unwrap_or_else(|why| panic!("free: the live {area:x?} does not shrink: {why}"));
            self.world().busy.retain(|&at| at != area.at);
            area.pages = left;
            engine::at_once(|| self.check(rig, &area));
        }
        self.world().live.push(area);
    }

    fn check(&self, rig: &Rig<ALIASES>, area: &Live) {
        match &area.what {
            What::Own(stamp) => rig.check_stamps(area.at, area.pages.min(4), *stamp),
            What::Map(frames) | What::Short(frames) => {
                for (n, frame) in frames.iter().enumerate() {
                    let read = rig.sim.load(self.cpu, VirtAddr(area.at).add_pages(n));
                    assert_eq!(read, Ok(frame.0), "content: page {n} of {area:x?}");
                }
            }
            What::Bare | What::Device => {}
        }
    }

    fn unmap(&self, rig: &Rig<ALIASES>, area: &Live) -> Result<(), vmalloc::FreeError> {
        match area.what {
            What::Own(_) | What::Bare => rig.give(area.at),
            What::Map(_) => rig.unmap(area.at),
            What::Short(_) => rig.unmap_short(area.at, area.pages),
            What::Device => rig.unmap_device(area.at),
        }
    }

    /// The frames that were held for it are given up.
    fn give_lent(&self, rig: &Rig<ALIASES>, area: &Live) {
        if let What::Short(frames) = &area.what {
            frames.iter().for_each(|&frame| rig.give_frame(frame));
        }
    }

    fn frames(&mut self, rig: &Rig<ALIASES>) -> Vec<Pfn> {
        let wanted = self.random.pick(&[1, 1, 2, 5]);
        (0..wanted).map_while(|_| rig.frame()).collect()
    }

    fn map_short(&mut self, rig: &Rig<ALIASES>) {
        let frames = self.frames(rig);
        if frames.is_empty() || self.world().live.len() >= MOST {
            return frames.iter().for_each(|&frame| rig.give_frame(frame));
        }
        let since = self.world().now();
        match expect_mapping::<ALIASES>(rig.map_short(&frames)) {
            Some(at) => self.begin(rig, since, Live { at, pages: frames.len(), what: What::Short(frames) }),
            None => frames.iter().for_each(|&frame| rig.give_frame(frame)),
        }
    }

    /// The frames of a mapping for a short time are mapped once more; or new ones,
    /// which are given up while they are mapped.
    fn map_again(&mut self, rig: &Rig<ALIASES>) {
        let frames = match self.short() {
            Some(area) => self.hold_all(rig, &area),
            None => self.frames(rig),
        };
        if frames.is_empty() {
            return;
        }
        let since = self.world().now();
        let made = expect_mapping::<ALIASES>(rig.map(&frames));
        frames.iter().for_each(|&frame| rig.give_frame(frame));
        if let Some(at) = made {
            self.begin(rig, since, Live { at, pages: frames.len(), what: What::Map(frames) });
        }
    }

    /// A mapping for a short time, which goes on living.
    fn short(&mut self) -> Option<Live> {
        let n = self.random.below(4) as usize;
        let world = self.world();
        world.live.iter().filter(|area| matches!(area.what, What::Short(_))).nth(n).cloned()
    }

    /// Holds on all frames of an area, or none: somebody else may end it meanwhile.
    fn hold_all(&self, rig: &Rig<ALIASES>, area: &Live) -> Vec<Pfn> {
        let pages = (0..area.pages).map(|n| area.at + n * PAGE_SIZE);
        let held: Vec<_> = pages.map_while(|at| rig.hold_frame(at)).collect();
        if held.len() == area.pages {
            return held;
        }
        held.iter().for_each(|&frame| rig.give_frame(frame));
        Vec::new()
    }

    fn map_owned(&mut self, rig: &Rig<ALIASES>) {
        let frames = self.frames(rig);
        if frames.is_empty() {
            return;
        }
        let since = self.world().now();
        match expect_mapping::<ALIASES>(rig.map_for_ever(&frames)) {
            Some(at) => {
                let stamp = self.world().stamp();
                self.begin(rig, since, Live { at, pages: frames.len(), what: What::Own(stamp) });
            }
            None => frames.iter().for_each(|&frame| rig.give_frame(frame)),
        }
    }

    fn bare_or_device(&mut self, rig: &Rig<ALIASES>) {
        let pages = self.random.pick(&[1, 3, 64, 700]);
        let since = self.world().now();
        let (made, pages, what) = match self.random.below(2) {
            0 => (expect_area(rig.reserve_pages(pages)), pages, What::Bare),
            _ => (expect_mapping::<ALIASES>(rig.map_device(2)), 2, What::Device),
        };
        if let Some(at) = made {
            self.begin(rig, since, Live { at, pages, what });
        }
    }

    fn hold(&mut self, rig: &Rig<ALIASES>) {
        let at = match self.random.below(3) {
            0 => self.world().dead(0),
            _ => self.world().live.last().map(|area| area.at),
        };
        if let Some(frame) = at.and_then(|at| rig.hold_frame(at)) {
            self.world().held.push(frame);
        }
    }

    fn give_held(&mut self, rig: &Rig<ALIASES>) {
        let frame = self.world().held.pop();
        if let Some(frame) = frame {
            rig.give_frame(frame);
        }
    }

    fn free_dead(&mut self, rig: &Rig<ALIASES>) {
        let back = self.random.below(4) as usize;
        let Some(at) = self.world().dead(back) else { return };
        if self.left().iter().any(|left| !left.dead && left.at == at) {
            return;
        }
        self.world().contest(at);
        self.left().push(Left::dead(at));
        let _ = match self.random.below(3) {
            0 => rig.unmap(at),
            1 => rig.unmap_short(at, 1),
            _ => rig.give(at),
        };
        self.world().settle(at);
        let mut left = self.left();
        if let Some(ours) = left.iter().position(|left| left.dead && left.at == at) {
            left.swap_remove(ours);
        }
    }

    /// Looks at addresses, dead ones too.
    fn look(&mut self, rig: &Rig<ALIASES>) {
        let live = self.world().live.last().map(|area| area.at);
        let dead = self.world().dead(self.random.clone().below(4) as usize);
        for at in [live, dead, Some(Rig::<ALIASES>::START + 5)].into_iter().flatten() {
            let _ = (rig.whatis(at), rig.frame_at(at), rig.find(at + PAGE_SIZE));
        }
        if self.random.one_in(4) {
            let mut listing = String::new();
            rig.list(&mut listing).expect("a string takes everything");
        }
    }

    /// An area is left to NMIs, which free it.
    fn leave_to_nmis(&mut self, rig: &Rig<ALIASES>) {
        let pages = self.random.pick(&[1, 3, 140]);
        let since = self.world().now();
        let Some(at) = expect_area(rig.make(Req::pages(pages))) else { return };
        if self.world().is_contested(at, since) {
            let _ = rig.give(at);
        } else {
            self.left().push(Left::new(at, true));
        }
    }

    fn sleep(&mut self, rig: &Rig<ALIASES>) {
        // The machine learns that it sleeps when the call is over, so nothing may come in
        // between: loom has these races.
        rig.sim.sleep(self.cpu, || engine::at_once(|| rig.idle_enter()));
        rig.pause_for(1 + self.random.below(6));
        rig.sim.wake(self.cpu, || rig.idle_exit());
    }

    fn leave(&mut self, rig: &Rig<ALIASES>) {
        rig.sim.offline(self.cpu, || engine::at_once(|| rig.cpu_offline()));
        rig.pause_for(1 + self.random.below(6));
        rig.sim.online(self.cpu, || rig.cpu_online());
    }
}

/// The area, or nothing where there was none to be had.
fn expect_area(made: Result<usize, AllocError>) -> Option<usize> {
    match made {
        Ok(at) => Some(at),
        Err(
            AllocError::NoFrames { .. }
            | AllocError::NoAddresses { .. }
            | AllocError::NoTables { .. }
            | AllocError::WouldWait(..),
        ) => None,
        Err(why) => panic!("refusal: {why}"),
    }
}

/// The same of a call that maps frames which its caller names: without aliases it is refused.
fn expect_mapping<const ALIASES: bool>(made: Result<usize, AllocError>) -> Option<usize> {
    if ALIASES {
        return expect_area(made);
    }
    assert_eq!(made, Err(AllocError::NoAliases), "refusal: of a second mapping");
    None
}
