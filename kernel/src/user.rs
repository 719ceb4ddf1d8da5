//! Areas in user space: `remap_vmalloc_range`.

use crate::call::Value;
use crate::error::Error;
use crate::flags::VmFlags;
use crate::host::Host;
use crate::kernel::{Kernel, page_align};
use vmalloc::machine::Machine;
use vmalloc::units::{PAGE_SIZE, Pfn};

/// A user mapping that is being made: the traditional `vm_area_struct`, as far as this
/// needs it.
pub trait UserMapping {
    /// Its first address.
    fn start(&self) -> usize;
    /// The first one behind it.
    fn end(&self) -> usize;
    /// The page at `at` shows `frame` from here on (`vm_insert_page`): the mapping holds it.
    ///
    /// # Errors
    /// Whatever keeps it from that.
    fn insert(&mut self, at: usize, frame: Pfn) -> Result<(), Error>;
}

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// Shows `bytes` bytes of the area at `at`, from page `pgoff` on, at the user address
    /// `user`, page by page. Each frame is held by the mapping.
    ///
    /// # Errors
    /// EINVAL where addresses are no pages' starts, `pgoff` overflows, the area is neither
    /// VM_USERMAP nor VM_DMA_COHERENT, or the part does not end within the area without its
    /// guard. What [`UserMapping::insert`] refuses; pages before that are shown.
    ///
    /// # Cost
    /// O(pages). Source: `remap_vmalloc_range_partial`.
    pub fn remap_vmalloc_range_partial(
        &self,
        mapping: &mut impl UserMapping,
        user: usize,
        at: usize,
        (pgoff, bytes): (usize, usize),
    ) -> Result<(), Error> {
        let arguments = [
            ("uaddr", Value::Address(user)),
            ("kaddr", Value::Address(at)),
            ("pgoff", Value::Number(pgoff)),
            ("size", Value::Number(bytes)),
        ];
        let _call = self.enter("remap_vmalloc_range_partial", &arguments);
        let bytes = page_align(bytes).ok_or(Error::BadArgument(bytes))?;
        let first = self.checked_part(user, at, (pgoff, bytes))?;
        for done in (0..bytes).step_by(PAGE_SIZE) {
            let page = first + done;
            let frame = self.vm.hold_frame(page).ok_or(Error::NoArea(page))?;
            let shown = mapping.insert(user + done, frame);
            shown.inspect_err(|_| self.give_frame(frame))?;
        }
        Ok(())
    }

    /// The first byte of a part that may be shown.
    fn checked_part(&self, user: usize, at: usize, (pgoff, bytes): (usize, usize)) -> Result<usize, Error> {
        const MAPPABLE: VmFlags = VmFlags::USERMAP.union(VmFlags::DMA_COHERENT);
        if let Some(odd) = [user, at].into_iter().find(|at| !at.is_multiple_of(PAGE_SIZE)) {
            return Err(Error::NotAligned(odd));
        }
        let offset = pgoff.checked_mul(PAGE_SIZE).ok_or(Error::BadArgument(pgoff))?;
        let end = offset.checked_add(bytes).and_then(|end| at.checked_add(end)).ok_or(Error::BadArgument(pgoff))?;
        let area = self.find_vm_area(at).ok_or(Error::NoArea(at))?;
        if !area.flags.intersects(MAPPABLE) {
            return Err(Error::WrongFlags { has: area.flags.bits(), about: MAPPABLE.bits() });
        }
        // EINVAL here, whatever other functions answer to the same.
        if end > area.end() { Err(Error::BadArgument(end)) } else { Ok(at + offset) }
    }

    /// Shows the area at `at`, from page `pgoff` on, in all of a user mapping.
    ///
    /// # Errors
    /// As [`Kernel::remap_vmalloc_range_partial`].
    ///
    /// # Source
    /// `remap_vmalloc_range`.
    pub fn remap_vmalloc_range(&self, mapping: &mut impl UserMapping, at: usize, pgoff: usize) -> Result<(), Error> {
        let (start, end) = (mapping.start(), mapping.end());
        let bytes = end.checked_sub(start).ok_or(Error::BadArgument(end))?;
        self.remap_vmalloc_range_partial(mapping, start, at, (pgoff, bytes))
    }
}
