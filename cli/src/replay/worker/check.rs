//! Filling areas, and checking what is in them.

use super::make::page_count;
use super::{Failure, Worker};
use crate::replay::setup::caller;
use crate::replay::slots::Live;
use crate::replay::stage::Stage;
use crate::trace::script::{AreaId, Make};
use std::ptr::NonNull;
use vmalloc::units::{PAGE_SIZE, Pfn};

/// Where the bytes of a page are read.
#[derive(Clone, Copy)]
enum From {
    Address(usize),
    Frame(Pfn),
}

impl<S: Stage> Worker<'_, S> {
    /// Looks at a new area, and fills it.
    ///
    /// Mapped frames hold the pattern's pages 0..n already; once they have
    /// been seen through the mapping, pages n..2n go through it.
    pub(super) fn prepare(&mut self, id: AreaId, live: &Live) -> Result<(), Failure> {
        let area = self.round.script.area(id);
        live.at.iter().try_for_each(|&at| self.look_up(id, at))?;
        let (pages, at) = (page_count(area), live.start());
        match area.make {
            Make::Vmalloc if area.zeroed => self.check_cleared(at, pages).and_then(|()| self.fill(id, at, pages, 0)),
            Make::Vmalloc | Make::Ioremap => self.fill(id, at, pages, 0),
            Make::Vmap | Make::MapRam => {
                self.check_pages(id, live, 0)?;
                self.fill(id, at, pages, pages)
            }
            Make::Reserve | Make::Pcpu(_) => Ok(()),
        }
    }

    /// Checks an area and gives it back.
    pub(super) fn give_back(&mut self, id: AreaId, live: Live, deferred: bool) -> Result<(), Failure> {
        let area = self.round.script.area(id);
        let looked = live.at.iter().try_for_each(|&at| self.look_up(id, at));
        let checked = match area.make {
            Make::Vmalloc | Make::Ioremap => self.check_pages(id, &live, 0),
            Make::Vmap | Make::MapRam => self.check_pages(id, &live, page_count(area)),
            Make::Reserve | Make::Pcpu(_) => Ok(()),
        };
        self.release(area, &live, deferred)?;
        let frames = self.check_frames(id, &live, page_count(area));
        self.free_frames(&live.frames);
        looked.and(checked).and(frames)
    }

    /// Whether the library knows the area as what was asked for.
    fn look_up(&self, id: AreaId, at: NonNull<u8>) -> Result<(), Failure> {
        let area = self.round.script.area(id);
        let (at, bytes) = (at.as_ptr().addr(), area.bytes as usize);
        let odd = |what: String| Err(Failure::Odd { at, what });
        match self.round.stage.vm().find(at + bytes - 1) {
            None => odd("nothing is known of it".to_owned()),
            Some(info) if info.start.0 != at => odd(format!("it starts at {}", info.start)),
            Some(info) if info.bytes != bytes => odd(format!("it has {} bytes, not {bytes}", info.bytes)),
            Some(_) if !at.is_multiple_of(area.align as usize) => odd(format!("it is not aligned to {}", area.align)),
            Some(info) if area.make != Make::MapRam && info.caller != caller(area.caller) => {
                odd(format!("it was made by {:?}", info.caller))
            }
            Some(_) => Ok(()),
        }
    }

    /// Writes the pattern's pages from `first` on, through the addresses.
    fn fill(&mut self, id: AreaId, at: usize, pages: usize, first: usize) -> Result<(), Failure> {
        for index in 0..pages {
            self.pattern(id).fill(first + index, &mut self.page);
            let stored = self.round.stage.store(at + index * PAGE_SIZE, &self.page);
            stored.map_err(Failure::Fault)?;
            self.tally.bytes_written += PAGE_SIZE as u64;
        }
        Ok(())
    }

    fn check_cleared(&mut self, at: usize, pages: usize) -> Result<(), Failure> {
        let mut wrong = 0;
        for index in 0..pages {
            self.load(From::Address(at + index * PAGE_SIZE))?;
            wrong += self.page.iter().filter(|byte| **byte != 0).count() as u64;
        }
        self.judge(at, pages, wrong)
    }

    fn check_pages(&mut self, id: AreaId, live: &Live, first: usize) -> Result<(), Failure> {
        let (at, pages) = (live.start(), page_count(self.round.script.area(id)));
        let addresses = (0..pages).map(|index| From::Address(at + index * PAGE_SIZE));
        self.compare(id, at, addresses, first)
    }

    fn check_frames(&mut self, id: AreaId, live: &Live, first: usize) -> Result<(), Failure> {
        self.compare(id, live.start(), live.frames.iter().map(|&frame| From::Frame(frame)), first)
    }

    fn compare(
        &mut self,
        id: AreaId,
        at: usize,
        pages: impl Iterator<Item = From>,
        first: usize,
    ) -> Result<(), Failure> {
        let (mut wrong, mut count) = (0, 0);
        for from in pages {
            self.load(from)?;
            wrong += self.pattern(id).wrong(first + count, &self.page);
            count += 1;
        }
        self.judge(at, count, wrong)
    }

    fn load(&mut self, from: From) -> Result<(), Failure> {
        match from {
            From::Address(at) => self.round.stage.load(at, &mut self.page).map_err(Failure::Fault),
            From::Frame(frame) => {
                self.round.stage.load_frame(frame, &mut self.page);
                Ok(())
            }
        }
    }

    fn judge(&mut self, at: usize, pages: usize, wrong: u64) -> Result<(), Failure> {
        self.tally.bytes_verified += (pages * PAGE_SIZE) as u64;
        self.tally.bytes_wrong += wrong;
        if wrong == 0 { Ok(()) } else { Err(Failure::Wrong { wrong, at }) }
    }
}
