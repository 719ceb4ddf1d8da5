//! The first chunk: the kernel's own variables by CPU, its modules' and the first objects.
//!
//! ```text
//!   a unit  ┌ static ────────────┬ reserved ──────────┬ dynamic ─────────┬╌╌╌╌╌╌╌╌┐
//!           │ the image's bytes  │ for modules alone  │ for alloc_percpu │ nobody's
//!           └────────────────────┴────────────────────┴──────────────────┴╌╌╌╌╌╌╌╌┘
//! ```
//!
//! The dynamic part and the reserved part have a record each. All pages are populated from the
//! start, so a caller that must not wait is served before any other has been.
//!
//! # Rules
//! - **PC5** The first chunk stays as long as the allocator. The record of the dynamic part owns the
//!   memory. That of the reserved part is on a list of its own, which `alloc_percpu` never looks at.

use super::chunk::{Chunk, GRAIN, Part, pages_of};
use super::{PerCpu, PerCpuPtr};
use crate::error::Error;
use crate::gfp::GfpFlags;
use crate::host::{Host, Kern};
use core::ops::Range;
use core::ptr::NonNull;
use vmalloc::machine::Machine;
use vmalloc::units::PAGE_SIZE;

const GFP: GfpFlags = GfpFlags::KERNEL;

/// What the first chunk has in each unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FirstChunk<'i> {
    /// What the static variables are at first.
    pub image: &'i [u8],
    /// Bytes for [`PerCpu::alloc_reserved_percpu`] (`PERCPU_MODULE_RESERVE`).
    pub reserved: usize,
    /// Bytes for [`PerCpu::alloc_percpu`] (`PERCPU_DYNAMIC_RESERVE`).
    pub dynamic: usize,
}

impl<M: Machine, H: Host> PerCpu<'_, '_, M, H> {
    /// Sets up the first chunk, and tells the log. Returns what stands for the static variables:
    /// [`PerCpu::per_cpu_ptr`] of it is where a CPU's copy of them begins.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for parts that are no bytes at all, or more than a unit has, and where
    /// there is a first chunk already; those of [`Kernel::vmalloc`](crate::Kernel::vmalloc). Nothing
    /// has changed then.
    ///
    /// # Cost
    /// O(pages) for each CPU.
    ///
    /// # Source
    /// `pcpu_setup_first_chunk`, `pcpu_page_first_chunk`.
    pub fn setup_first_chunk(&self, first: &FirstChunk<'_>) -> Result<PerCpuPtr, Error> {
        let (reserved, dynamic) = self.parts(first)?;
        let chunk = self.make(GFP)?;
        let set_up = self.fill(chunk, first.image, pages_of(0, dynamic.end));
        let set_up = set_up.and_then(|base| self.link_first(chunk, (base, reserved, dynamic)).and(Ok(base)));
        let base = set_up.inspect_err(|_| self.destroy(chunk))?;
        let (pages, statics) = (self.unit_pages, first.image.len());
        let FirstChunk { reserved, dynamic, .. } = first;
        let line = format_args!("percpu: {pages} 4K pages/cpu s{statics} r{reserved} d{dynamic}");
        self.kernel.printk(Kern::Info, line);
        Ok(PerCpuPtr { chunk, base, offset: 0 })
    }

    /// An object as [`PerCpu::alloc_percpu`] makes it, in the reserved part of the first chunk alone;
    /// where there is no such part, anywhere.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cost
    /// As there.
    ///
    /// # Source
    /// `__alloc_reserved_percpu`.
    pub fn alloc_reserved_percpu(&self, size: usize, align: usize) -> Result<PerCpuPtr, Error> {
        self.alloc_told(size, align, GFP, true)
    }

    /// The bits of the reserved part, and of the dynamic one.
    fn parts(&self, first: &FirstChunk<'_>) -> Result<(Range<usize>, Range<usize>), Error> {
        let most = self.unit_pages * PAGE_SIZE / GRAIN;
        let [statics, reserved, dynamic] =
            [first.image.len(), first.reserved, first.dynamic].map(|bytes| bytes.div_ceil(GRAIN).min(most + 1));
        let (start, end) = (statics + reserved, statics + reserved + dynamic);
        if !(1..=most).contains(&end) {
            return Err(Error::BadArgument(end.saturating_mul(GRAIN)));
        }
        Ok((statics..start, start..end))
    }

    /// Populates the pages of a new chunk, and copies the image to each unit; the chunk's base.
    fn fill(&self, mut chunk: NonNull<Chunk>, image: &[u8], pages: u8) -> Result<usize, Error> {
        // SAFETY: PC4: it is not linked, and this call alone has it.
        let record = unsafe { chunk.as_mut() };
        self.populate(record.base, pages, GFP)?;
        record.populated = pages;
        let statics = PerCpuPtr { chunk, base: record.base, offset: 0 };
        self.with_object(statics, image.len(), |at, done, bytes| {
            // SAFETY: so many bytes of the unit are there, and of the image.
            unsafe { at.copy_from_nonoverlapping(NonNull::from_ref(&image[done]), bytes) }
        });
        Ok(record.base)
    }

    /// Links the records of both parts, so that objects are taken there.
    fn link_first(
        &self,
        mut chunk: NonNull<Chunk>,
        (base, reserved, dynamic): (usize, Range<usize>, Range<usize>),
    ) -> Result<(), Error> {
        // SAFETY: PC4: it is not linked, and this call alone has it.
        let main = unsafe { chunk.as_mut() };
        main.become_part(Part::Dynamic, dynamic);
        let modules = if reserved.is_empty() { None } else { Some(self.record(base, GFP)?) };
        let linked = self.locked(|chunks| {
            if core::mem::replace(&mut chunks.has_first, true) {
                return false;
            }
            chunks.push(main);
            if let Some(mut modules) = modules {
                // SAFETY: as above.
                let modules = unsafe { modules.as_mut() };
                modules.populated = main.populated;
                modules.become_part(Part::Reserved, reserved);
                chunks.push(modules);
            }
            true
        });
        if linked == Ok(true) {
            return Ok(());
        }
        modules.into_iter().for_each(|modules| self.give_record(modules));
        Err(linked.err().unwrap_or(Error::BadArgument(0)))
    }
}
