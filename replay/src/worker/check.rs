//! Filling areas, and checking what is in them.

use super::make::Live;
use super::{Failure, Odd, Worker, caller};
use crate::script::{AreaId, Make};
use crate::slots::Noted;
use crate::stage::{Stage, Told};
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
    pub(super) fn prepare(&mut self, live: &Live<'_>) -> Result<(), Failure<S::Fault>> {
        self.look_up(live)?;
        let pages = live.area.page_count();
        match live.area.make {
            Make::Vmalloc if live.area.zeroed => self.check_cleared(live).and_then(|()| self.fill(live, 0)),
            Make::Vmalloc | Make::Ioremap => self.fill(live, 0),
            Make::Vmap | Make::MapRam => {
                self.check_pages(live, 0)?;
                self.fill(live, pages)
            }
            Make::Reserve | Make::Pcpu(_) => Ok(()),
        }
    }

    /// Checks an area and gives it back.
    pub(super) fn give_back(&mut self, id: AreaId, at: usize, deferred: bool) -> Result<(), Failure<S::Fault>> {
        let live = self.live(id, at);
        let looked = self.look_up(&live);
        let checked = match live.area.make {
            Make::Vmalloc | Make::Ioremap => self.check_pages(&live, 0),
            Make::Vmap | Make::MapRam => self.check_pages(&live, live.area.page_count()),
            Make::Reserve | Make::Pcpu(_) => Ok(()),
        };
        self.tell(if deferred { Told::Deferred(live.area, at) } else { Told::Freed(live.area, at) });
        self.release(&live, deferred)?;
        let frames = self.check_frames(&live, live.area.page_count());
        self.free_frames(live.frames);
        looked.and(checked).and(frames)
    }

    /// Whether the library knows the area as what was asked for.
    fn look_up(&self, live: &Live<'_>) -> Result<(), Failure<S::Fault>> {
        live.parts().try_for_each(|at| self.odd(live, at).map_or(Ok(()), |what| Err(Failure::Odd { at, what })))
    }

    fn odd(&self, live: &Live<'_>, at: usize) -> Option<Odd> {
        let (area, bytes) = (live.area, live.area.bytes as usize);
        let Some(info) = self.round.stage.vm().find(at + bytes - 1) else { return Some(Odd::Unknown) };
        if info.start.0 != at {
            Some(Odd::Start(info.start.0))
        } else if info.bytes != bytes {
            Some(Odd::Bytes(info.bytes, bytes))
        } else if !at.is_multiple_of(area.align as usize) {
            Some(Odd::Align(area.align))
        } else if area.make != Make::MapRam && info.caller != caller(area.caller) {
            Some(Odd::Caller(info.caller))
        } else {
            None
        }
    }

    /// Writes the pattern's pages from `first` on, through the addresses.
    fn fill(&mut self, live: &Live<'_>, first: usize) -> Result<(), Failure<S::Fault>> {
        for (index, at) in live.pages().enumerate() {
            self.pattern(live.id).fill(first + index, self.desk.page);
            self.round.stage.store(at, self.desk.page).map_err(Failure::Fault)?;
            self.desk.tally.bytes_written += PAGE_SIZE as u64;
        }
        Ok(())
    }

    fn check_cleared(&mut self, live: &Live<'_>) -> Result<(), Failure<S::Fault>> {
        let mut wrong = 0;
        for at in live.pages() {
            self.load(From::Address(at))?;
            wrong += self.desk.page.iter().filter(|byte| **byte != 0).count() as u64;
        }
        self.judge(live.at, live.area.page_count(), wrong)
    }

    fn check_pages(&mut self, live: &Live<'_>, first: usize) -> Result<(), Failure<S::Fault>> {
        self.compare(live, live.pages().map(From::Address), first)
    }

    fn check_frames(&mut self, live: &Live<'_>, first: usize) -> Result<(), Failure<S::Fault>> {
        self.compare(live, live.frames.iter().map(Noted::get).map(From::Frame), first)
    }

    fn compare(
        &mut self,
        live: &Live<'_>,
        pages: impl Iterator<Item = From>,
        first: usize,
    ) -> Result<(), Failure<S::Fault>> {
        let (mut wrong, mut count) = (0, 0);
        for from in pages {
            self.load(from)?;
            wrong += self.pattern(live.id).wrong(first + count, self.desk.page);
            count += 1;
        }
        self.judge(live.at, count, wrong)
    }

    fn load(&mut self, from: From) -> Result<(), Failure<S::Fault>> {
        match from {
            From::Address(at) => self.round.stage.load(at, self.desk.page).map_err(Failure::Fault),
            From::Frame(frame) => {
                self.round.stage.load_frame(frame, self.desk.page);
                Ok(())
            }
        }
    }

    fn judge(&mut self, at: usize, pages: usize, wrong: u64) -> Result<(), Failure<S::Fault>> {
        self.desk.tally.bytes_verified += (pages * PAGE_SIZE) as u64;
        self.desk.tally.bytes_wrong += wrong;
        if wrong == 0 { Ok(()) } else { Err(Failure::Wrong { wrong, at }) }
    }
}
