//! The loops themselves.

use crate::live::{Held, Live};
use crate::{Case, Error, Ground, Random, Suite};
use core::ptr::NonNull;
use vmalloc::machine::Machine;
use vmalloc::units::PAGE_SIZE;
use vmalloc::{Gfp, Req};

/// Pages of a set of `full_fit`, for each bit of the CPU count: 32 MiB.
const SET_PAGES: usize = 32 << 20 >> 12;
/// Areas that live in `long_busy_list`.
const BUSY: usize = 15_000;
/// `align_shift` wants to be refused.
const QUIET: Gfp = Gfp::KERNEL.union(Gfp::HIGHMEM).union(Gfp::NOWARN);
/// Exponents up to which `random_size_align` aligns: 4 MiB.
const MOST_SHIFT: usize = 22;

impl<M: Machine, G: Ground> Suite<'_, M, G> {
    /// Runs `loops` loops of `case`, and what comes before and after.
    ///
    /// # Errors
    /// See [`Error`]. All that was made has been given back (C1).
    pub fn run(&self, case: Case, loops: usize) -> Result<(), Error> {
        self.refused.set(false);
        let ran = self.run_case(case, loops);
        self.note(case, &ran);
        ran
    }

    fn run_case(&self, case: Case, loops: usize) -> Result<(), Error> {
        let mut random = Random::new(self.seed);
        match case {
            Case::FixSize(pages) => self.pairs(loops, || Req::pages(pages)),
            Case::FullFit => self.full_fit(loops),
            Case::LongBusyList => self.long_busy_list(loops),
            Case::RandomSize => self.pairs(loops, || Req::pages(random.up_to(100))),
            Case::FixAlign => self.pairs(loops, || Req::pages(5).align(32 << 10).zeroed()),
            Case::RandomSizeAlign => self.pairs(loops, || {
                let align = 1 << random.up_to(MOST_SHIFT);
                Req::pages(random.up_to(10)).align(align).zeroed()
            }),
            Case::AlignShift => self.repeat(loops, || self.align_shift()),
            Case::Pcpu => self.pcpu(loops),
            Case::MapRam(pages) => self.map_ram(pages, loops),
            Case::KvfreeRcu1 => self.kvfree_rcu(loops, false),
            Case::KvfreeRcu2 => self.kvfree_rcu(loops, true),
            Case::NoBlock => self.no_block(loops),
            Case::Vrealloc => self.vrealloc(loops),
        }
    }

    pub(crate) fn repeat(&self, loops: usize, mut body: impl FnMut() -> Result<(), Error>) -> Result<(), Error> {
        self.ground.begin();
        let result = (0..loops).try_for_each(|_| body());
        self.ground.end();
        result
    }

    /// A loop an area. Out of line, as the other cases are: together they
    /// would need more of the stack than each.
    #[inline(never)]
    fn pairs(&self, loops: usize, mut next: impl FnMut() -> Req) -> Result<(), Error> {
        self.repeat(loops, || self.pair(next()))
    }

    /// An area made, touched, freed.
    #[inline(always)]
    fn pair(&self, req: Req) -> Result<(), Error> {
        let area = self.vm.alloc(req)?;
        self.ground.store(area, 1);
        self.free(area)
    }

    /// Areas of two sets in turn; then one of the sets is freed.
    #[inline(never)]
    fn full_fit(&self, loops: usize) -> Result<(), Error> {
        let set = SET_PAGES * (u32::BITS - self.cpus.leading_zeros()) as usize;
        let (mut stays, mut goes) = (Live::with_room(self, set)?, Live::with_room(self, set)?);
        for _ in 0..set {
            stays.grow()?;
            goes.grow()?;
        }
        goes.finish()?;
        self.pairs(loops, || Req::pages(1))?;
        stays.finish()
    }

    #[inline(never)]
    fn long_busy_list(&self, loops: usize) -> Result<(), Error> {
        let mut busy = Live::with_room(self, BUSY)?;
        (0..BUSY).try_for_each(|_| busy.grow())?;
        self.repeat(loops, || self.two_pairs())?;
        busy.finish()
    }

    /// 100 pages and 1 page.
    #[inline(always)]
    fn two_pairs(&self) -> Result<(), Error> {
        let large = self.vm.alloc(Req::pages(100))?;
        let small = match self.vm.alloc(Req::pages(1)) {
            Ok(small) => small,
            Err(why) => return self.free(large).and(Err(why.into())),
        };
        self.ground.store(large, 1);
        self.ground.store(small, 1);
        self.free(large).and(self.free(small))
    }

    /// One page at each alignment that there is. A multiple of it that is the
    /// only one in the region may be taken by somebody else; two are not.
    #[inline(never)]
    fn align_shift(&self) -> Result<(), Error> {
        for shift in 0..usize::BITS {
            let multiples = self.multiples(1 << shift);
            match self.vm.alloc(Req::pages(1).align(1 << shift).gfp(QUIET)) {
                Ok(area) => {
                    self.free(area)?;
                    if multiples == 0 {
                        return Err(Error::Served { shift });
                    }
                }
                Err(why) if multiples > 1 => return Err(why.into()),
                Err(_) => self.refused.set(true),
            }
        }
        Ok(())
    }

    /// Multiples of `align` in the region, behind which a page and its guard
    /// have room.
    fn multiples(&self, align: usize) -> usize {
        let last = self.region.end.saturating_sub(2 * PAGE_SIZE);
        match self.region.start.checked_next_multiple_of(align) {
            Some(first) if first <= last => (last - first) / align + 1,
            _ => 0,
        }
    }

    #[inline(never)]
    fn map_ram(&self, pages: usize, loops: usize) -> Result<(), Error> {
        let held = Held::take(self.vm, pages)?;
        self.repeat(loops, || self.map_pair(&held))
    }

    /// A mapping made, touched, undone.
    #[inline(always)]
    fn map_pair(&self, held: &Held<'_, M>) -> Result<(), Error> {
        // SAFETY: P4: they are held until the aliases are flushed.
        let area = unsafe { self.vm.map_ram(held.frames(), None) }?;
        self.ground.store(area, 1);
        // SAFETY: V1: it is not known to anybody else.
        Ok(unsafe { self.vm.unmap_ram(area, held.frames().len()) }?)
    }

    #[inline(always)]
    pub(crate) fn free(&self, area: NonNull<u8>) -> Result<(), Error> {
        // SAFETY: V1: a case tells nobody of its areas.
        Ok(unsafe { self.vm.free(area) }?)
    }
}
