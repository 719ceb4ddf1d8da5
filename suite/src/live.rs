//! What a case keeps while it runs: areas that live, frames that are mapped.

use crate::{Error, Ground, Suite};
use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use vmalloc::machine::Machine;
use vmalloc::units::Pfn;
use vmalloc::{Gfp, Req, Vmalloc};

/// Areas that live, in an area that holds their addresses (C2). Dropping it
/// frees them all (C1).
pub(crate) struct Live<'s, 'v, M: Machine, G: Ground> {
    suite: &'s Suite<'v, M, G>,
    table: NonNull<u8>,
    len: usize,
}

impl<'s, 'v, M: Machine, G: Ground> Live<'s, 'v, M, G> {
    /// Room for `most` addresses.
    pub(crate) fn with_room(suite: &'s Suite<'v, M, G>, most: usize) -> Result<Self, Error> {
        let table = suite.vm.alloc(Req::bytes(most * size_of::<u64>()))?;
        Ok(Live { suite, table, len: 0 })
    }

    /// One more area of one page.
    pub(crate) fn grow(&mut self) -> Result<(), Error> {
        let area = self.suite.vm.alloc(Req::pages(1))?;
        self.suite.ground.store(self.place(self.len), area.expose_provenance().get() as u64);
        self.len += 1;
        Ok(())
    }

    /// Frees the areas, the youngest first, and the list.
    pub(crate) fn finish(self) -> Result<(), Error> {
        let mut live = ManuallyDrop::new(self);
        live.free_all()
    }

    fn free_all(&mut self) -> Result<(), Error> {
        let mut result = Ok(());
        for at in (0..self.len).rev() {
            let word = self.suite.ground.load(self.place(at)) as usize;
            let area = NonNull::new(core::ptr::with_exposed_provenance_mut(word));
            result = result.and(area.map_or(Ok(()), |area| self.suite.free(area)));
        }
        self.len = 0;
        result.and(self.suite.free(self.table))
    }

    fn place(&self, at: usize) -> NonNull<u8> {
        // SAFETY: the table was made with room for as many words as were
        // promised, and nobody stores more.
        unsafe { self.table.add(at * size_of::<u64>()) }
    }
}

impl<M: Machine, G: Ground> Drop for Live<'_, '_, M, G> {
    fn drop(&mut self) {
        // The first error is on its way to the caller already.
        let _later = self.free_all();
    }
}

/// Frames for the time of a case.
pub(crate) struct Held<'v, M: Machine> {
    vm: &'v Vmalloc<M>,
    frames: [Pfn; Error::MOST_FRAMES],
    len: usize,
}

impl<'v, M: Machine> Held<'v, M> {
    pub(crate) fn take(vm: &'v Vmalloc<M>, frames: usize) -> Result<Self, Error> {
        if frames > Error::MOST_FRAMES {
            return Err(Error::TooManyFrames(frames));
        }
        let mut held = Held { vm, frames: [Pfn(0); Error::MOST_FRAMES], len: 0 };
        while held.len < frames {
            held.frames[held.len] = vm.alloc_frame(Gfp::KERNEL, None)?;
            held.len += 1;
        }
        Ok(held)
    }

    pub(crate) fn frames(&self) -> &[Pfn] {
        &self.frames[..self.len]
    }
}

impl<M: Machine> Drop for Held<'_, M> {
    fn drop(&mut self) {
        self.vm.unmap_aliases();
        for &frame in self.frames() {
            // SAFETY: P3: they were taken for this, and their mappings and all
            // aliases are gone.
            unsafe { self.vm.free_frame(frame) }
        }
    }
}
