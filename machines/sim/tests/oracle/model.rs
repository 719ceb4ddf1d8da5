//! What the oracle believes: too simple to be wrong.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use vmalloc::Kind;
use vmalloc::area::Guard;
use vmalloc::machine::format::Prot;
use vmalloc::units::{PAGE_SIZE, Pfn};

/// Freed areas that are remembered, to be freed again.
const FREED: usize = 64;

/// A live area.
#[derive(Clone, Debug)]
pub struct Area {
    pub start: usize,
    pub pages: usize,
    pub bytes: usize,
    pub kind: Kind,
    pub guard: Guard,
    pub prot: Prot,
    /// By page; none for a reservation.
    pub frames: Vec<Pfn>,
    /// Of a reservation: the pages that are bound by hand.
    pub parts: BTreeMap<usize, Pfn>,
    /// The pages whose protection was changed since they were bound.
    protected: BTreeMap<usize, Prot>,
    /// The most pages that it has had: their addresses are its own still.
    reach: usize,
    /// Where `starts` holds it.
    place: usize,
}

impl Area {
    pub fn new(start: usize, bytes: usize, kind: Kind) -> Area {
        let pages = bytes.div_ceil(PAGE_SIZE);
        Area {
            start,
            pages,
            bytes,
            kind,
            guard: Guard::After,
            prot: Prot::RW,
            frames: Vec::new(),
            parts: BTreeMap::new(),
            protected: BTreeMap::new(),
            reach: pages,
            place: 0,
        }
    }

    pub fn end(&self) -> usize {
        self.start + self.pages * PAGE_SIZE
    }

    pub fn reach(&self) -> usize {
        self.reach
    }

    /// First address after the guard.
    pub fn extent(&self) -> usize {
        self.start + self.reach * PAGE_SIZE + if self.guard == Guard::After { PAGE_SIZE } else { 0 }
    }

    /// The lowest address that is its own: a stack has the page below it, which
    /// another area may have for a guard.
    pub fn floor(&self) -> usize {
        self.start - if self.kind == Kind::Stack { PAGE_SIZE } else { 0 }
    }

    /// Whether the area counts its frames' holders.
    fn holds(&self) -> bool {
        !matches!(self.kind, Kind::Ioremap | Kind::MapRam)
    }

    /// The frames that the driver has to hold while the area lives (P4), or a part of it (P6).
    pub fn lent(&self) -> Vec<Pfn> {
        if self.kind == Kind::MapRam { self.frames.clone() } else { self.parts.values().copied().collect() }
    }

    /// The protection of the page that holds `at`.
    fn prot_of(&self, at: usize) -> Prot {
        self.protected.get(&((at - self.start) / PAGE_SIZE)).copied().unwrap_or(self.prot)
    }

    /// The frame of the page that holds `at`.
    pub fn frame_of(&self, at: usize) -> Option<Pfn> {
        let page = (at - self.start) / PAGE_SIZE;
        self.frames.get(page).or_else(|| self.parts.get(&page)).copied()
    }
}

/// A frame that was seen.
#[derive(Clone, Copy, Default, Debug)]
pub struct Frame {
    /// What its spot says, where it is known.
    pub word: Option<u64>,
    /// Live areas and callers that have it.
    pub holders: u32,
    /// Mappings for a short time that have it (P4).
    pub lent: u32,
    /// Times that it was handed out.
    pub life: u32,
}

/// The page of an area that was freed.
#[derive(Clone, Copy, Debug)]
pub struct Gone {
    pub frame: Pfn,
    pub life: u32,
    /// Which free it was.
    pub free: u64,
}

/// An area that was freed.
#[derive(Clone, Copy, Debug)]
pub struct Freed {
    pub start: usize,
    pub pages: usize,
    pub kind: Kind,
}

/// What a page is.
#[derive(Clone, Copy, Debug)]
pub enum Page {
    Bound {
        frame: Pfn,
        prot: Prot,
    },
    /// A guard, a reservation, or nobody's: it faults.
    Barred,
    Gone(Gone),
}

/// A free that is under way, and whether another call got there first.
#[derive(Clone, Copy, Debug)]
pub struct Freeing {
    pub start: usize,
    pub stolen: bool,
    /// Interrupts that were making an area when it began.
    making: usize,
}

#[derive(Default)]
pub struct Model {
    live: BTreeMap<usize, Area>,
    starts: Vec<usize>,
    frames: HashMap<Pfn, Frame>,
    gone: HashMap<usize, Gone>,
    freed: VecDeque<Freed>,
    pub freeing: Vec<Freeing>,
    /// Interrupts that are making an area.
    pub making: usize,
    /// A mapping for a short time is being made: it is whole before its maker knows.
    pub mapping: bool,
    /// Frames that the driver holds, once for each hold.
    pub held: Vec<Pfn>,
    pub live_pages: usize,
    frees: u64,
    stamps: u64,
}

impl Model {
    pub fn areas(&self) -> impl Iterator<Item = &Area> {
        self.live.values()
    }

    pub fn count(&self) -> usize {
        self.starts.len()
    }

    pub fn start(&self, n: usize) -> usize {
        self.starts[n]
    }

    pub fn area(&self, start: usize) -> &Area {
        &self.live[&start]
    }

    /// The area whose pages or guard hold `at`.
    pub fn around(&self, at: usize) -> Option<&Area> {
        self.live.range(..=at).next_back().map(|(_, area)| area).filter(|area| at < area.extent())
    }

    /// An address in `range` where `bytes` bytes would lie over nothing, with
    /// `below` bytes below it.
    pub fn gap(&self, range: &Range<usize>, below: usize, bytes: usize, align: usize) -> Option<usize> {
        let mut at = (range.start + below).next_multiple_of(align);
        for area in self.live.values().filter(|area| area.floor() < range.end) {
            if at + bytes <= area.floor() {
                break;
            }
            at = at.max((area.extent() + below).next_multiple_of(align));
        }
        (at + bytes <= range.end).then_some(at)
    }

    pub fn page(&self, at: usize) -> Page {
        match self.around(at).and_then(|area| Some((area.frame_of(at)?, area.prot_of(at)))) {
            Some((frame, prot)) => Page::Bound { frame, prot },
            None => self.gone.get(&(at & !(PAGE_SIZE - 1))).map_or(Page::Barred, |&gone| Page::Gone(gone)),
        }
    }

    /// A CPU may reach `frame` by `page` until the next flush.
    fn goes(&mut self, page: usize, frame: Pfn) {
        let life = self.frame(frame).life;
        self.gone.insert(page, Gone { frame, life, free: self.frees });
    }

    /// Pages of the reservation at `start` are bound from `first` on; the frames are lent.
    pub fn bind(&mut self, start: usize, first: usize, frames: &[Pfn]) {
        frames.iter().for_each(|&frame| self.frame(frame).lent += 1);
        let area = self.live.get_mut(&start).expect("a live area");
        area.parts.extend(frames.iter().enumerate().map(|(n, &frame)| (first + n, frame)));
    }

    /// Pages of a reservation were bound for a moment, by a call that was refused.
    pub fn bound_in_vain(&mut self, start: usize, first: usize, frames: &[Pfn]) {
        self.frees += 1;
        for (n, &frame) in frames.iter().enumerate() {
            if !self.live[&start].parts.contains_key(&(first + n)) {
                self.goes(start + (first + n) * PAGE_SIZE, frame);
            }
        }
    }

    /// Pages of a reservation are bound no more. Returns their frames, which stay lent.
    pub fn unbind(&mut self, start: usize, pages: Range<usize>) -> Vec<Pfn> {
        self.frees += 1;
        let area = self.live.get_mut(&start).expect("a live area");
        area.protected.retain(|page, _| !pages.contains(page));
        let taken: Vec<_> = pages.filter_map(|page| Some((page, area.parts.remove(&page)?))).collect();
        taken.iter().for_each(|&(page, frame)| self.goes(start + page * PAGE_SIZE, frame));
        taken.into_iter().map(|(_, frame)| frame).collect()
    }

    /// Pages of the area at `start` have another protection from now on.
    pub fn protect(&mut self, start: usize, pages: Range<usize>, prot: Prot) {
        let area = self.live.get_mut(&start).expect("a live area");
        area.protected.extend(pages.map(|page| (page, prot)));
    }

    /// The area at `start` has `bytes` bytes from now on, and gives its last pages up.
    pub fn shorten(&mut self, start: usize, bytes: usize) {
        self.frees += 1;
        let area = self.live.get_mut(&start).expect("a live area");
        (area.bytes, area.pages) = (bytes, bytes.div_ceil(PAGE_SIZE));
        let (left, gone) = (area.pages, area.frames.split_off(area.pages));
        area.protected.split_off(&left);
        self.live_pages -= gone.len();
        for (n, frame) in gone.into_iter().enumerate() {
            self.frame(frame).holders -= 1;
            self.goes(start + (left + n) * PAGE_SIZE, frame);
        }
    }

    /// The area at `start` has `bytes` bytes from now on, with `frames` behind its last page.
    pub fn lengthen(&mut self, start: usize, bytes: usize, frames: Vec<Pfn>) {
        let area = self.live.get_mut(&start).expect("a live area");
        self.live_pages += frames.len();
        frames.iter().for_each(|&frame| self.frames.entry(frame).or_default().holders += 1);
        area.frames.extend(frames);
        (area.bytes, area.pages) = (bytes, bytes.div_ceil(PAGE_SIZE));
        area.reach = area.reach.max(area.pages);
        let (end, extent) = (area.end(), area.extent());
        if let Some((_, above)) =
            self.live.range(start + 1..).next().filter(|(_, above)| above.start < extent || above.floor() < end)
        {
            panic!("place: {:x?} grew over {above:x?}", self.live[&start]);
        }
        (start..extent).step_by(PAGE_SIZE).for_each(|page| _ = self.gone.remove(&page));
        self.freed.retain(|freed| !(start..extent).contains(&freed.start));
    }

    pub fn frame(&mut self, frame: Pfn) -> &mut Frame {
        self.frames.entry(frame).or_default()
    }

    /// A word that was never stored before.
    pub fn stamp(&mut self) -> u64 {
        self.stamps += 1;
        self.stamps << 8 | 0x77
    }

    /// `frame` was handed out, for `what`.
    pub fn fresh(&mut self, frame: Pfn, what: &str) {
        let known = self.frame(frame);
        assert_eq!(known.holders, 0, "frame: {frame:?}, handed out for {what}, has {} holders", known.holders);
        *known = Frame { word: None, holders: 0, lent: 0, life: known.life + 1 };
    }

    pub fn hold(&mut self, frame: Pfn) {
        self.frame(frame).holders += 1;
        self.held.push(frame);
    }

    /// Whether the driver may give up this hold: it has another one, or has lent
    /// the frame to nobody (P4).
    pub fn may_give(&self, n: usize) -> bool {
        let frame = self.held[n];
        let is_lent = self.frames.get(&frame).is_some_and(|known| known.lent > 0);
        !is_lent || self.held.iter().filter(|&&held| held == frame).count() > 1
    }

    /// Takes a hold away, to be given up.
    pub fn take_held(&mut self, n: usize) -> Pfn {
        let frame = self.held.swap_remove(n);
        self.frame(frame).holders -= 1;
        frame
    }

    /// `area` is new; its frames gain a holder.
    pub fn enter(&mut self, mut area: Area) {
        let story = |other: &Area| format!("place: {area:x?} lies over {other:x?}");
        if let Some(below) = self.around(area.start) {
            panic!("{}", story(below));
        }
        if let Some((_, above)) = self.live.range(area.start..area.extent()).next() {
            panic!("{}", story(above));
        }
        if let Some(below) = self.around(area.floor()).filter(|below| area.floor() < below.end()) {
            panic!("{}", story(below));
        }
        let next = self.live.range(area.extent()..).next().map(|(_, next)| next);
        if let Some(stack) = next.filter(|next| next.floor() < area.end()) {
            panic!("{}", story(stack));
        }
        for page in (area.floor()..area.extent()).step_by(PAGE_SIZE) {
            self.gone.remove(&page);
        }
        self.freed.retain(|freed| !(area.start..area.extent()).contains(&freed.start));
        if area.holds() {
            area.frames.iter().for_each(|&frame| self.frame(frame).holders += 1);
        }
        area.lent().iter().for_each(|&frame| self.frame(frame).lent += 1);
        area.place = self.starts.len();
        self.starts.push(area.start);
        self.live_pages += area.frames.len();
        self.live.insert(area.start, area);
    }

    /// `start` is about to be freed; returns the area and which free it is.
    pub fn leave(&mut self, start: usize) -> (Area, u64) {
        let area = self.live.remove(&start).expect("a live area");
        self.starts.swap_remove(area.place);
        if let Some(&moved) = self.starts.get(area.place) {
            self.live.get_mut(&moved).expect("a live area").place = area.place;
        }
        self.live_pages -= area.frames.len();
        self.frees += 1;
        for (n, &frame) in area.frames.iter().enumerate() {
            let holds = area.holds() as u32;
            let known = self.frames.entry(frame).or_default();
            known.holders -= holds;
            let gone = Gone { frame, life: known.life, free: self.frees };
            self.gone.insert(start + n * PAGE_SIZE, gone);
        }
        for (&page, &frame) in &area.parts {
            self.goes(start + page * PAGE_SIZE, frame);
        }
        if self.freed.len() == FREED {
            self.freed.pop_front();
        }
        self.freed.push_back(Freed { start, pages: area.pages, kind: area.kind });
        self.freeing.push(Freeing { start, stolen: false, making: self.making });
        (area, self.frees)
    }

    /// A call has bound these pages, and has taken them apart again before it
    /// refused: a CPU may still reach them, as it may those of an area that
    /// was freed. What the frames say is the call's.
    pub fn undone(&mut self, pages: &[(usize, Pfn)]) {
        self.frees += 1;
        for &(page, frame) in pages {
            let known = self.frames.entry(frame).or_default();
            let (life, is_nobodys) = (known.life, known.holders == 0);
            let is_known = self.gone.get(&page).is_some_and(|gone| (gone.frame, gone.life) == (frame, life));
            if is_known || self.around(page).is_some() {
                continue;
            }
            if is_nobodys {
                self.frame(frame).word = None;
            }
            self.gone.insert(page, Gone { frame, life, free: self.frees });
        }
    }

    /// Whether an interrupt that came into the free of `start` is making an area:
    /// if another frees `start` now, it may be that area's, and the first free
    /// frees it. No allocator can tell these apart.
    pub fn may_be_made_again(&self, start: usize) -> bool {
        self.freeing.iter().any(|freeing| freeing.start == start && freeing.making < self.making)
    }

    /// The pages of this free fault from now on.
    pub fn flushed(&mut self, area: &Area, free: u64) {
        for page in (area.start..area.end()).step_by(PAGE_SIZE) {
            if self.gone.get(&page).is_some_and(|gone| gone.free == free) {
                self.gone.remove(&page);
            }
        }
    }

    /// The last free that began.
    pub fn frees(&self) -> u64 {
        self.frees
    }

    /// The pages of all frees up to this one fault from now on.
    pub fn flushed_up_to(&mut self, free: u64) {
        self.gone.retain(|_, gone| gone.free > free);
    }

    pub fn freed(&self) -> &VecDeque<Freed> {
        &self.freed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_refused_call_had_built_is_gone_until_a_flush_and_no_guard() {
        let (mut model, page) = (Model::default(), 0x40_0000);
        model.fresh(Pfn(7), "a call");
        model.undone(&[(page, Pfn(7))]);
        assert!(matches!(model.page(page), Page::Gone(Gone { frame: Pfn(7), life: 1, .. })));
        model.flushed_up_to(model.frees());
        assert!(matches!(model.page(page), Page::Barred));
    }

    #[test]
    fn what_a_refused_call_had_built_belongs_to_the_area_that_is_there_now() {
        let (mut model, page) = (Model::default(), 0x40_0000);
        model.enter(Area::new(page, PAGE_SIZE, Kind::Reserved));
        model.undone(&[(page, Pfn(7)), (page + PAGE_SIZE, Pfn(8))]);
        assert!(matches!(model.page(page), Page::Barred));
        model.leave(page);
        assert!(matches!(model.page(page + PAGE_SIZE), Page::Barred));
    }
}
