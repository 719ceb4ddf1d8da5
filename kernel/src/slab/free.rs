//! Objects come back: `kfree`, and what an object is.

use super::class::CLASSES;
use super::sheet::{Sheet, SheetRef};
use super::{Slab, ZERO_SIZE_PTR};
use crate::call::Value;
use crate::error::Error;
use crate::host::Host;
use crate::kernel::Kernel;
use crate::sync::breaks;
use vmalloc::machine::Machine;

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// Frees what [`Kernel::kmalloc`] and its siblings returned. Null and
    /// [`ZERO_SIZE_PTR`] are nothing.
    ///
    /// # Errors
    /// [`Error::NotSlab`], [`Error::NotItsStart`], [`Error::DoubleFree`]. Nothing has
    /// changed then.
    ///
    /// # Safety
    /// Y1.
    ///
    /// # Cost
    /// The slab's lock, and a search of five levels. Source: `kfree`.
    pub unsafe fn kfree(&self, at: *const u8) -> Result<(), Error> {
        let at = at.addr();
        let _call = self.enter("kfree", &[("objp", Value::Address(at))]);
        self.put_object(at)
    }

    /// [`Kernel::kfree`], without a word to the hooks.
    pub(crate) fn put_object(&self, at: usize) -> Result<(), Error> {
        if at == 0 || at == ZERO_SIZE_PTR.addr().get() {
            return Ok(());
        }
        if self.leaks.is_some() {
            let leaving = self.begin_free(at);
            let put = self.put_untracked(at);
            self.end_free(leaving, put.is_ok());
            return put;
        }
        self.put_untracked(at)
    }

    #[inline(always)]
    fn put_untracked(&self, at: usize) -> Result<(), Error> {
        let machine = self.machine();
        if breaks!(LookedAtBefore) {
            let (sheet, n) = self.locked(&self.slab, |slab| slab.object(machine, at))??;
            return self.locked(&self.slab, |slab| slab.take_back(machine, sheet, n)).map(drop);
        }
        if let Some(gone) = self.locked(&self.slab, |slab| slab.put(machine, at))?? {
            self.give_block(gone.first, gone.order);
        }
        Ok(())
    }

    /// The bytes that an object really has; 0 of null and [`ZERO_SIZE_PTR`].
    ///
    /// # Errors
    /// As [`Kernel::kfree`].
    ///
    /// # Cost
    /// The slab's lock, and a search. Source: `ksize`.
    pub fn ksize(&self, at: *const u8) -> Result<usize, Error> {
        let at = at.addr();
        if at == 0 || at == ZERO_SIZE_PTR.addr().get() {
            return Ok(0);
        }
        let machine = self.machine();
        self.locked(&self.slab, |slab| slab.object(machine, at).map(|(sheet, _)| sheet.object_bytes()))?
    }

    /// Whether the slab's memory holds `at`.
    pub(crate) fn is_slab(&self, at: usize) -> bool {
        let machine = self.machine();
        at == ZERO_SIZE_PTR.addr().get()
            || self.locked(&self.slab, |slab| slab.find(machine, at).is_some()).unwrap_or(false)
    }

    /// The physical address behind an address of the slab's memory: where an address
    /// of the direct mapping lies, an addition away. Addresses of areas have none: of
    /// those [`Kernel::vmalloc_to_page`] tells the frame, page by page.
    ///
    /// # Errors
    /// [`Error::NotSlab`].
    ///
    /// # Cost
    /// The slab's lock, and a search. Source: `virt_to_phys`.
    pub fn virt_to_phys(&self, at: usize) -> Result<u64, Error> {
        let machine = self.machine();
        let phys = |sheet: SheetRef| sheet.first.phys() + (at - sheet.base) as u64;
        self.locked(&self.slab, |slab| slab.find(machine, at).map(phys))?.ok_or(Error::NotSlab(at))
    }

    /// Gives everything back that the slab has.
    pub(crate) fn free_slab(&mut self) {
        let machine = self.machine();
        let slab = self.slab.get_mut();
        while let Some(record) = slab.sheets.first(machine) {
            // SAFETY: J6: what the map names is a sheet, and nobody else is inside.
            let sheet = unsafe { SheetRef::new(record) };
            let (first, order) = (sheet.first, sheet.order);
            slab.sheets.remove(machine, sheet.base);
            give_block(self.vm, first, order);
        }
        let vm = self.vm;
        // SAFETY: P3: the frames are the slab's.
        let mut give = |frame| unsafe { vm.free_frame(frame) };
        slab.sheets.take_apart(machine, &mut give);
    }

    /// Gives the frames of a block back.
    pub(super) fn give_block(&self, first: vmalloc::units::Pfn, order: u8) {
        give_block(self.vm, first, order)
    }
}

/// One by one: somebody may have mapped some of them, and they wait for their flush.
fn give_block<M: Machine>(vm: &vmalloc::Vmalloc<M>, first: vmalloc::units::Pfn, order: u8) {
    for n in 0..1u64 << order {
        // SAFETY: P3: the block was the slab's, and nothing of it is out.
        unsafe { vm.free_frame(first.offset(n)) }
    }
}

impl Slab {
    /// The object that starts at `at`, its sheet and which one it is.
    fn object<M: Machine>(&self, machine: &M, at: usize) -> Result<(SheetRef, usize), Error> {
        let sheet = self.find(machine, at).ok_or(Error::NotSlab(at))?;
        match sheet.object_at(at) {
            None => Err(Error::NotSlab(at)),
            Some((_, start)) if start != at => Err(Error::NotItsStart { at, start }),
            Some((n, _)) if !sheet.is_out(n) => Err(Error::DoubleFree(at)),
            Some((n, _)) => Ok((sheet, n)),
        }
    }

    /// An object comes back, and the sheet with it if it was the last.
    fn put<M: Machine>(&mut self, machine: &M, at: usize) -> Result<Option<Sheet>, Error> {
        let (sheet, n) = self.object(machine, at)?;
        Ok(self.take_back(machine, sheet, n))
    }

    /// The `n`-th object of the sheet, which is out, comes back.
    fn take_back<M: Machine>(&mut self, machine: &M, mut sheet: SheetRef, n: usize) -> Option<Sheet> {
        if sheet.class as usize == CLASSES {
            return self.remove(machine, sheet);
        }
        let was_full = !sheet.has_room();
        sheet.put(n);
        if sheet.used == 0 && self.has_another(sheet) {
            return self.remove(machine, sheet);
        }
        if was_full {
            self.push(sheet);
        }
        None
    }

    /// Whether its list has one more sheet: the last one is kept, so that an object
    /// that comes and goes does not cost a frame each time.
    fn has_another(&mut self, sheet: SheetRef) -> bool {
        let list = *self.list(sheet);
        match core::ptr::NonNull::new(list) {
            // SAFETY: J6: what is listed is a sheet.
            Some(first) => first != sheet.record() || unsafe { SheetRef::new(first) }.has_next(),
            None => false,
        }
    }
}
