//! Reading areas that others may free meanwhile: `vread`.
//!
//! A dump of a kernel's memory, or a debugger, reads whatever is there now. Each page is
//! read while its frame is held, so that it is nobody else's whatever happens to the area.
//!
//! | At the address is | Read as |
//! |---|---|
//! | a page of an area that holds memory | its bytes |
//! | a page of a device, or of a sparse area | 0 |
//! | a guard, a hole, an area that is not whole yet | 0 |

use crate::error::Error;
use crate::flags::VmFlags;
use crate::host::Host;
use crate::kernel::Kernel;
use vmalloc::machine::Machine;
use vmalloc::units::PAGE_SIZE;
use vmalloc::{Info, Kind};

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// Reads `into.len()` bytes from `at` on, and returns how many of them were read from
    /// areas: 0 where no area is. Devices are not touched.
    ///
    /// # Errors
    /// [`Error::NotReachable`] for a frame that nothing shows; the bytes before it are read.
    ///
    /// # Cost
    /// O(pages), each with a walk and a hold. Source: `vread_iter`.
    pub fn vread(&self, into: &mut [u8], at: usize) -> Result<usize, Error> {
        let mut copied = 0;
        let mut done = 0;
        while done < into.len() {
            let here = at.checked_add(done).ok_or(Error::BadArgument(at))?;
            let part = (PAGE_SIZE - here % PAGE_SIZE).min(into.len() - done);
            copied += self.read_page(here, &mut into[done..done + part])?;
            done += part;
        }
        Ok(copied)
    }

    /// Reads a part of one page.
    fn read_page(&self, at: usize, into: &mut [u8]) -> Result<usize, Error> {
        into.fill(0);
        match self.vm.find(at).map(|info| self.content(&info)) {
            None | Some(Content::Unready) => return Ok(0),
            Some(Content::Unread) => return Ok(into.len()),
            Some(Content::Memory) => (),
        }
        let Some(frame) = self.vm.hold_frame(at) else { return Ok(0) };
        let offset = at % PAGE_SIZE;
        let read = self.with_bytes(frame, |page| {
            // SAFETY: the frame is held, so it is memory that nobody frees; what others
            // write at the same moment may be read torn, as a dump may.
            unsafe { page.add(offset).copy_to_nonoverlapping(core::ptr::NonNull::from(&mut *into).cast(), into.len()) }
        });
        self.give_frame(frame);
        read.map(|()| into.len())
    }

    fn content(&self, info: &Info) -> Content {
        const UNREAD: VmFlags = VmFlags::SPARSE.union(VmFlags::IOREMAP);
        let flags = self.record_of(info).map_or(VmFlags::empty(), |record| record.flags);
        match info.kind {
            _ if flags.contains(VmFlags::UNINITIALIZED) => Content::Unready,
            Kind::Ioremap => Content::Unread,
            _ if flags.intersects(UNREAD) => Content::Unread,
            _ => Content::Memory,
        }
    }
}

/// What an area has for a reader.
enum Content {
    /// Its bytes.
    Memory,
    /// Nothing that may be touched: it reads as 0.
    Unread,
    /// It is not there yet.
    Unready,
}
