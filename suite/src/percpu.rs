//! Objects by CPU: many are made, then all are freed.

use crate::{Case, Error, Ground, Random, Suite};
use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use vmalloc::Req;
use vmalloc::machine::Machine;
use vmalloc_kernel::percpu::{Group, PerCpu, PerCpuPtr};
use vmalloc_kernel::{Bare, GfpFlags, Kernel};

/// Pages of a CPU's unit.
const UNIT_PAGES: usize = 8;
/// Bytes of an object at most.
const MOST_BYTES: usize = 1024;
/// An object is aligned to 2 to this power at most.
const MOST_SHIFT: usize = 11;
/// What the list has of an object.
const WORDS: usize = 3;

type Objects<'k, 'v, M> = PerCpu<'k, 'v, M, Bare>;

impl<M: Machine, G: Ground> Suite<'_, M, G> {
    /// A loop an object: as many as live at once are made, and then freed.
    #[inline(never)]
    pub(crate) fn pcpu(&self, loops: usize) -> Result<(), Error> {
        let kernel = Kernel::new(self.vm, Bare);
        let groups = [Group { offset: 0, cpus: self.cpus }];
        let objects = PerCpu::new(&kernel, &groups, UNIT_PAGES)?;
        let (mut random, mut left, most) = (Random::new(self.seed), loops, Case::Pcpu.lives());
        let mut made = Made::with_room(self, &objects, loops.min(most))?;
        self.repeat(loops.div_ceil(most), || {
            let now = left.min(most);
            left -= now;
            (0..now).try_for_each(|_| made.grow(&mut random))?;
            made.free_all()
        })?;
        made.finish()
    }
}

/// Objects that live, in an area that lists them (C2). Dropping it frees them all (C1).
struct Made<'s, 'v, 'k, M: Machine, G: Ground> {
    suite: &'s Suite<'v, M, G>,
    objects: &'s Objects<'k, 'v, M>,
    table: NonNull<u8>,
    len: usize,
}

impl<'s, 'v, 'k, M: Machine, G: Ground> Made<'s, 'v, 'k, M, G> {
    fn with_room(suite: &'s Suite<'v, M, G>, objects: &'s Objects<'k, 'v, M>, most: usize) -> Result<Self, Error> {
        let table = suite.vm.alloc(Req::bytes(most.max(1) * WORDS * size_of::<u64>()))?;
        Ok(Made { suite, objects, table, len: 0 })
    }

    fn grow(&mut self, random: &mut Random) -> Result<(), Error> {
        let (size, align) = (random.up_to(MOST_BYTES), 1 << random.up_to(MOST_SHIFT));
        let object = self.objects.alloc_percpu(size, align, GfpFlags::KERNEL)?;
        for (n, word) in object.into_words().into_iter().enumerate() {
            self.suite.ground.store(self.place(self.len, n), word);
        }
        self.len += 1;
        Ok(())
    }

    /// Frees the objects, the oldest first.
    fn free_all(&mut self) -> Result<(), Error> {
        let mut result = Ok(());
        for at in 0..core::mem::take(&mut self.len) {
            let words = [0, 1, 2].map(|n| self.suite.ground.load(self.place(at, n)));
            // SAFETY: Y1: the words are those of an object that lives, and nobody else has it.
            let freed = PerCpuPtr::from_words(words).map(|object| unsafe { self.objects.free_percpu(object) });
            result = result.and(freed.unwrap_or(Ok(())).map_err(Error::from));
        }
        result
    }

    /// Frees the objects and the list.
    fn finish(self) -> Result<(), Error> {
        ManuallyDrop::new(self).end()
    }

    fn end(&mut self) -> Result<(), Error> {
        self.free_all().and(self.suite.free(self.table))
    }

    fn place(&self, at: usize, word: usize) -> NonNull<u8> {
        // SAFETY: the table was made with room for as many objects as live at once.
        unsafe { self.table.add((at * WORDS + word) * size_of::<u64>()) }
    }
}

impl<M: Machine, G: Ground> Drop for Made<'_, '_, '_, M, G> {
    fn drop(&mut self) {
        // The first error is on its way to the caller already.
        let _later = self.end();
    }
}
