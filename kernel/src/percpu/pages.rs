//! The memory of chunks: reserved, populated page by page for all CPUs, and given up.

use super::chunk::{Chunk, MOST_PAGES, Part};
use super::{MAX_GROUPS, PerCpu, PerCpuPtr};
use crate::error::Error;
use crate::gfp::GfpFlags;
use crate::host::Host;
use crate::sync::breaks;
use core::ptr::NonNull;
use vmalloc::machine::Machine;
use vmalloc::machine::format::{MemType, Prot};
use vmalloc::units::PAGE_SIZE;
use vmalloc::{Caller, Req};

impl<M: Machine, H: Host> PerCpu<'_, '_, M, H> {
    /// Adds a chunk without pages.
    pub(super) fn create(&self, gfp: GfpFlags) -> Result<(), Error> {
        let mut chunk = self.make(gfp)?;
        let added = self.locked(|chunks| {
            chunks.empty += 1;
            // SAFETY: PC4: it is whole, and nobody else knows it yet.
            chunks.push(unsafe { chunk.as_mut() });
        });
        added.inspect_err(|_| self.destroy(chunk))
    }

    /// A chunk without pages, which nobody knows.
    pub(super) fn make(&self, gfp: GfpFlags) -> Result<NonNull<Chunk>, Error> {
        let vm = self.kernel.vm;
        let mut parts = [(0, 0); MAX_GROUPS];
        for (part, group) in parts.iter_mut().zip(self.groups) {
            *part = (group.offset, group.cpus as usize * self.unit_pages * PAGE_SIZE);
        }
        let mut chunk = self.record(0, gfp)?;
        let like = Req::bytes(0).gfp(gfp.library()).caller(Caller::here());
        let reserved = vm.reserve_at_offsets(&parts[..self.groups.len()], PAGE_SIZE, like);
        let base = reserved.inspect_err(|_| self.give_record(chunk))?;
        // SAFETY: PC4: nobody else changes it; PC6: a free may read it, under the lock.
        self.locked(|_| unsafe { chunk.as_mut() }.base = base)?;
        Ok(chunk)
    }

    /// A record, of a chunk at `base`, which nobody knows.
    pub(super) fn record(&self, base: usize, gfp: GfpFlags) -> Result<NonNull<Chunk>, Error> {
        if let Some(spare) = self.locked(|chunks| chunks.take_spare(base, self.unit_pages))? {
            return Ok(spare);
        }
        let frame = self.kernel.bookkeeping_frame(gfp.library())?;
        let at = self.kernel.machine().virt(frame).cast::<Chunk>();
        // SAFETY: the frame is ours, has room for a record, and nobody else knows it.
        unsafe { at.write(Chunk::new(base, frame, self.unit_pages)) };
        Ok(at)
    }

    /// Keeps a record that nobody needs any more for the next chunk (PC6).
    pub(super) fn give_record(&self, mut record: NonNull<Chunk>) {
        if breaks!(RecordFreed) {
            // SAFETY: PC4: this caller alone has it.
            return self.kernel.give_frame(unsafe { record.as_ref() }.frame);
        }
        // SAFETY: PC4, and the lock is held.
        let kept = self.locked(|chunks| chunks.keep_spare(unsafe { record.as_mut() }));
        debug_assert!(kept.is_ok(), "J2: this call held the lock before");
    }

    /// Populates `pages` of each unit of the chunk at `base`, or none (PC3).
    pub(super) fn populate(&self, base: usize, pages: u8, gfp: GfpFlags) -> Result<(), Error> {
        for cpu in 0..self.units() {
            for page in pages_in(pages) {
                if let Err(error) = self.populate_page(base, cpu, page, gfp) {
                    (0..=cpu).for_each(|cpu| self.depopulate(base, cpu, pages));
                    // What was unmapped is mapped again only after a flush (P5).
                    self.kernel.vm.unmap_aliases();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn populate_page(&self, base: usize, cpu: u32, page: usize, gfp: GfpFlags) -> Result<(), Error> {
        let vm = self.kernel.vm;
        let frame = vm.alloc_frame(gfp.library(), None)?;
        // SAFETY: P5, P6: this call populates the page alone, and the frame is held until it is unmapped.
        let mapped = unsafe { vm.map_part(self.page(base, cpu, page), &[frame], Prot::RW, MemType::WriteBack) };
        Ok(mapped.inspect_err(|_| self.kernel.give_frame(frame))?)
    }

    /// Unmaps the pages of a unit that are there, and gives their frames back.
    fn depopulate(&self, base: usize, cpu: u32, pages: u8) {
        let vm = self.kernel.vm;
        for page in pages_in(pages) {
            let at = self.page(base, cpu, page);
            let Some(frame) = vm.frame_at(at) else { continue };
            // SAFETY: P5: no object is out there, and nobody else populates the page.
            let unmapped = unsafe { vm.unmap_part(at, 1) };
            if unmapped == Ok(1) {
                self.kernel.give_frame(frame);
            }
        }
    }

    fn page(&self, base: usize, cpu: u32, page: usize) -> usize {
        let first = PerCpuPtr { chunk: NonNull::dangling(), base, offset: page * PAGE_SIZE };
        self.address(first, cpu).unwrap_or(0)
    }

    /// Gives up a chunk that nobody knows any more (PC4).
    pub(super) fn destroy(&self, chunk: NonNull<Chunk>) {
        // SAFETY: PC4: it is unlinked, and this caller alone has it.
        let (base, part, pages) =
            unsafe { ((*chunk.as_ptr()).base, (*chunk.as_ptr()).part, (*chunk.as_ptr()).populated) };
        // The memory is the other record's (PC5).
        if part != Part::Reserved {
            (0..self.units()).for_each(|cpu| self.depopulate(base, cpu, pages));
            for group in self.groups {
                self.kernel.evict_tracked(base + group.offset, group.cpus as usize * self.unit_pages * PAGE_SIZE);
                let part = NonNull::new(core::ptr::with_exposed_provenance_mut(base + group.offset));
                // SAFETY: V1: no object is out.
                let freed = part.map(|part| unsafe { self.kernel.vm.free(part) });
                debug_assert!(matches!(freed, Some(Ok(()))), "PC4: the part was reserved by `make`");
            }
        }
        self.give_record(chunk);
    }

    /// Clears an object for each CPU.
    pub(super) fn clear(&self, object: PerCpuPtr, size: usize) {
        // SAFETY: so many bytes are the object's, which is the caller's.
        self.with_object(object, size, |at, _, bytes| unsafe { at.write_bytes(0, bytes) });
    }

    /// Calls `f` with the bytes of an object for each CPU, a page at a time, through the direct
    /// mapping of its frame: where they are, how many come before them, and how many they are.
    pub(super) fn with_object(&self, object: PerCpuPtr, size: usize, f: impl Fn(NonNull<u8>, usize, usize)) {
        for cpu in 0..self.units() {
            let Some(start) = self.address(object, cpu) else { return };
            let mut at = start;
            while at < start + size {
                let (inside, end) = (at % PAGE_SIZE, (start + size).min(at - at % PAGE_SIZE + PAGE_SIZE));
                let shown = self.kernel.vm.frame_at(at).map(|frame| {
                    // SAFETY: the bytes lie in the frame.
                    self.kernel.with_bytes(frame, |bytes| f(unsafe { bytes.add(inside) }, at - start, end - at))
                });
                debug_assert!(matches!(shown, Some(Ok(()))), "PC3: its pages are there");
                at = end;
            }
        }
    }
}

/// The numbers of the pages whose bits are set.
fn pages_in(pages: u8) -> impl Iterator<Item = usize> {
    (0..MOST_PAGES).filter(move |page| pages >> page & 1 != 0)
}
