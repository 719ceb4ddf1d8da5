//! Bytes: of the slab, and of areas through the frames behind them.
//!
//! Not every machine lets the code that calls it load from an area's address: the
//! simulator does not, nor does a kernel that prepares another one's memory. So the
//! subsystem reaches an area's bytes page by page, through the frame behind each, by
//! the direct mapping or by the host's `kmap`.

use crate::error::Error;
use crate::host::Host;
use crate::kernel::Kernel;
use core::ptr::with_exposed_provenance_mut;
use vmalloc::machine::Machine;
use vmalloc::units::{PAGE_SIZE, VirtAddr};

/// Where bytes lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// In the slab: the address can be used as it is.
    Direct(usize),
    /// In an area.
    Area(usize),
}

impl Place {
    pub(crate) fn plus(self, bytes: usize) -> Place {
        match self {
            Place::Direct(at) => Place::Direct(at + bytes),
            Place::Area(at) => Place::Area(at + bytes),
        }
    }
}

/// Bytes that are copied at a time.
const BUFFER: usize = 256;

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// Which kind of memory `at` is.
    pub(crate) fn place_of(&self, at: usize) -> Place {
        if self.is_slab(at) { Place::Direct(at) } else { Place::Area(at) }
    }

    /// Reads bytes of an object or an area that its caller holds.
    pub(crate) fn read_place(&self, place: Place, into: &mut [u8]) -> Result<(), Error> {
        self.each_page(place, into.len(), |at, range| {
            let into = &mut into[range];
            // SAFETY: Y2: the bytes are memory that the caller holds.
            unsafe { at.copy_to_nonoverlapping(into.as_mut_ptr(), into.len()) }
        })
    }

    /// Writes bytes of an object or an area that its caller holds.
    pub(crate) fn write_place(&self, place: Place, from: &[u8]) -> Result<(), Error> {
        self.each_page(place, from.len(), |at, range| {
            let from = &from[range];
            // SAFETY: Y2: the bytes are memory that the caller holds alone.
            unsafe { at.copy_from_nonoverlapping(from.as_ptr(), from.len()) }
        })
    }

    /// Clears `bytes` bytes of an object or an area that its caller holds.
    pub(crate) fn wipe(&self, place: Place, bytes: usize) -> Result<(), Error> {
        // SAFETY: Y2: the bytes are memory that the caller holds alone.
        self.each_page(place, bytes, |at, range| unsafe { at.write_bytes(0, range.len()) })
    }

    /// Copies `bytes` bytes from one place to another.
    pub(crate) fn copy_place(&self, from: Place, to: Place, bytes: usize) -> Result<(), Error> {
        let mut buffer = [0; BUFFER];
        for done in (0..bytes).step_by(BUFFER) {
            let part = &mut buffer[..BUFFER.min(bytes - done)];
            self.read_place(from.plus(done), part)?;
            self.write_place(to.plus(done), part)?;
        }
        Ok(())
    }

    /// Calls `f` for each page's part of `bytes` bytes, with where it can be reached and
    /// which of the bytes it is. Y2: the caller holds what lies there.
    fn each_page(
        &self,
        place: Place,
        bytes: usize,
        mut f: impl FnMut(*mut u8, core::ops::Range<usize>),
    ) -> Result<(), Error> {
        let at = match place {
            Place::Direct(at) => {
                f(with_exposed_provenance_mut(at), 0..bytes);
                return Ok(());
            }
            Place::Area(at) => at,
        };
        let mut done = 0;
        while done < bytes {
            let here = VirtAddr(at + done);
            let offset = here.0 % PAGE_SIZE;
            let part = (PAGE_SIZE - offset).min(bytes - done);
            let frame = self.vm.frame_at(here.0).ok_or(Error::NoArea(here.0))?;
            // The offset lies in the frame.
            self.with_bytes(frame, |page| f(page.as_ptr().wrapping_add(offset), done..done + part))?;
            done += part;
        }
        Ok(())
    }
}
