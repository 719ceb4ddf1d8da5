//! A map from pages to records: the tree, and the pool that the records lie in.
//!
//! Whoever adds a record makes sure first that nothing is lacking, outside of the
//! lock ([`Kernel::stocked`]). Then adding cannot fail.

use crate::error::Error;
use crate::gfp::GfpFlags;
use crate::host::Host;
use crate::kernel::Kernel;
use crate::pool::Pool;
use crate::radix::{Radix, key_of};
use core::ptr::{NonNull, with_exposed_provenance_mut};
use vmalloc::lock_api::{Mutex, RawMutex};
use vmalloc::machine::Machine;
use vmalloc::units::Pfn;

/// The map.
pub(crate) struct Map<T> {
    tree: Radix,
    pool: Pool<T>,
}

impl<T> Map<T> {
    pub(crate) const fn new() -> Map<T> {
        Map { tree: Radix::new(), pool: Pool::new() }
    }

    /// Frames that are lacking before a record for the page of `at` can be added.
    fn lacks<M: Machine>(&self, machine: &M, at: usize) -> usize {
        self.tree.lacks(machine, key_of(at)) + self.pool.is_empty() as usize
    }

    /// Gives the map a cleared frame; `Err` = nothing is lacking any more.
    fn give<M: Machine>(&mut self, machine: &M, at: usize, frame: Pfn) -> Result<(), Pfn> {
        if self.pool.is_empty() {
            self.pool.give(machine, frame);
            return Ok(());
        }
        if self.lacks(machine, at) == 0 { Err(frame) } else { self.tree.give(frame) }
    }

    /// Adds a record for the page of `at`; nothing is lacking.
    pub(crate) fn add<M: Machine>(&mut self, machine: &M, at: usize, record: T) -> Option<NonNull<T>> {
        let record = self.pool.take(record)?;
        let was = self.tree.set(machine, key_of(at), record.as_ptr().expose_provenance());
        debug_assert_eq!(was, 0, "one record a page");
        Some(record)
    }

    /// Takes the record for the page of `at` out.
    pub(crate) fn remove<M: Machine>(&mut self, machine: &M, at: usize) -> Option<T> {
        let record = record_of(self.tree.set(machine, key_of(at), 0))?;
        // SAFETY: X3: `add` took it from the pool, and nothing names it any more.
        Some(unsafe { self.pool.put(record) })
    }

    /// The record for the page of `at`.
    pub(crate) fn get<M: Machine>(&self, machine: &M, at: usize) -> Option<NonNull<T>> {
        record_of(self.tree.get(machine, key_of(at)))
    }

    /// The last record for a page at or below that of `at`, of those at most `span` pages
    /// below it.
    pub(crate) fn at_or_below<M: Machine>(&self, machine: &M, at: usize, span: usize) -> Option<NonNull<T>> {
        record_of(self.tree.at_or_below(machine, key_of(at), span)?)
    }

    /// The first record, in the order of pages.
    pub(crate) fn first<M: Machine>(&self, machine: &M) -> Option<NonNull<T>> {
        record_of(self.tree.first(machine)?)
    }

    /// Takes the map apart: calls `give` for each of its frames.
    pub(crate) fn take_apart<M: Machine>(&mut self, machine: &M, give: &mut dyn FnMut(Pfn)) {
        self.tree.take_apart(machine, give);
        self.pool.take_apart(machine, give);
    }
}

fn record_of<T>(word: usize) -> Option<NonNull<T>> {
    NonNull::new(with_exposed_provenance_mut(word))
}

/// What has a map to be stocked.
pub(crate) trait Mapped {
    /// The records.
    type Record;
    /// The map.
    fn map(&mut self) -> &mut Map<Self::Record>;
}

impl<T> Mapped for Map<T> {
    type Record = T;

    fn map(&mut self) -> &mut Map<T> {
        self
    }
}

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// Calls `add` under the lock, when a record for the page of `at` can be added.
    ///
    /// # Errors
    /// [`Error::Alloc`] where there are no frames; then `add` was not called.
    pub(crate) fn stocked<L: RawMutex, S: Mapped, R>(
        &self,
        lock: &Mutex<L, S>,
        (at, gfp): (usize, GfpFlags),
        add: impl FnOnce(&mut S) -> R,
    ) -> Result<R, Error> {
        let machine = self.machine();
        let mut add = Some(add);
        loop {
            let done = self.locked(lock, |owner| match owner.map().lacks(machine, at) {
                0 => Ok(add.take().map(|add| add(owner))),
                lacking => Err(lacking),
            })?;
            match done {
                Ok(Some(result)) => return Ok(result),
                Ok(None) => return Err(Error::BadArgument(at)),
                Err(lacking) => self.stock(lock, at, gfp, lacking)?,
            }
        }
    }

    fn stock<L: RawMutex, S: Mapped>(
        &self,
        lock: &Mutex<L, S>,
        at: usize,
        gfp: GfpFlags,
        lacking: usize,
    ) -> Result<(), Error> {
        for _ in 0..lacking {
            let frame = self.bookkeeping_frame(gfp.library())?;
            if let Err(frame) = self.locked(lock, |owner| owner.map().give(self.machine(), at, frame))? {
                self.give_frame(frame);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Bare;
    extern crate std;
    use std::collections::BTreeMap;
    use vmalloc::Config;
    use vmalloc::table::X86_64;
    use vmalloc::units::PAGE_SIZE;
    use vmalloc_sim::{Booted, Rates, Sim};

    const START: usize = 0xffff_c900_0000_0000;

    /// Adds a record with the number `value` for the page of `at`.
    fn add<M: Machine>(kernel: &Kernel<'_, M>, map: &Mutex<M::Lock, Map<[u64; 2]>>, at: usize, value: u64) {
        let machine = kernel.machine();
        let place = (at, GfpFlags::KERNEL);
        let added = kernel.stocked(map, place, |map| map.add(machine, at, [value; 2]).is_some());
        assert_eq!(added, Ok(true));
    }

    fn read(record: Option<NonNull<[u64; 2]>>) -> Option<u64> {
        // SAFETY: the record is the map's, which nobody else uses.
        record.map(|record| unsafe { record.read()[0] })
    }

    #[test]
    fn a_map_finds_what_a_tree_of_the_standard_library_finds() {
        let sim: Sim<X86_64> = Sim::builder().rates(Rates::NEVER).build();
        let booted = Booted::new(sim.clone(), Config::region(START..START + (1 << 30))).unwrap();
        let kernel = Kernel::new(&booted, Bare);
        let map = Mutex::new(Map::<[u64; 2]>::new());
        let (mut model, mut rng) = (BTreeMap::new(), 3u64);
        // Pages of both halves, some side by side and some far apart.
        let bases = [0, 0x7fff_f000_0000, START, 0xffff_ffff_ff00_0000];
        for value in 0..3000u64 {
            rng = rng.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let dice = (rng >> 33) as usize;
            let at = bases[dice % 4] + (dice / 4 % 700) * PAGE_SIZE;
            let map_now = || kernel.locked(&map, |map| read(map.get(&sim, at))).unwrap();
            assert_eq!(map_now(), model.get(&at).copied());
            let below = kernel.locked(&map, |map| read(map.at_or_below(&sim, at + 5, 40))).unwrap();
            let nearest = model.range(at.saturating_sub(40 * PAGE_SIZE)..=at).next_back().map(|(_, &value)| value);
            assert_eq!(below, nearest, "{at:#x}");
            if model.remove(&at).is_some() {
                assert!(kernel.locked(&map, |map| map.remove(&sim, at)).unwrap().is_some());
                assert_eq!(kernel.locked(&map, |map| map.remove(&sim, at)).unwrap(), None);
            } else {
                add(&kernel, &map, at, value);
                model.insert(at, value);
            }
        }
        assert_eq!(kernel.locked(&map, |map| read(map.first(&sim))).unwrap(), model.values().next().copied());
        let mut map = map.into_inner();
        map.take_apart(&sim, &mut |frame| kernel.give_frame(frame));
        drop(kernel);
        drop(booted);
        sim.assert_no_leaks();
    }
}
