//! Arrays of pages: the traditional `vm_struct.pages`.
//!
//! The library keeps frames in the entries of their pages, so that a free needs no
//! memory and copies no list. An array is made where somebody asks for one: a page or
//! less of it lies in the slab, which never uses HIGHMEM, more in an area of its own
//! ([`PageArray::is_vpages`]), which the listing shows as any other.

use crate::error::Error;
use crate::host::Host;
use crate::kernel::Kernel;
use crate::memory::Place;
use vmalloc::machine::Machine;
use vmalloc::units::{PAGE_SIZE, Pfn};

/// Bytes of an element.
pub const ELEMENT: usize = size_of::<u64>();

/// An array of frames, one a page. 0 is none, so that cleared memory is an array
/// without frames; others are the frame's number and one more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageArray {
    pub(crate) at: usize,
    pub(crate) len: usize,
}

impl PageArray {
    /// Its first byte.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Its elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its bytes.
    pub fn bytes(&self) -> usize {
        self.len * ELEMENT
    }

    /// Whether it lies in an area of its own (`VM_VPAGES`), and not in the slab.
    pub fn is_vpages(&self) -> bool {
        self.bytes() > PAGE_SIZE
    }

    fn place(&self, n: usize) -> Place {
        let at = self.at + n * ELEMENT;
        if self.is_vpages() { Place::Area(at) } else { Place::Direct(at) }
    }
}

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// Element `n` of an array; `None` where it holds no frame, or has no such element.
    ///
    /// # Cost
    /// A load; for one that lies in an area a walk before it.
    pub fn page_of(&self, array: &PageArray, n: usize) -> Option<Pfn> {
        if n >= array.len {
            return None;
        }
        let mut bytes = [0; ELEMENT];
        self.read_place(array.place(n), &mut bytes).ok()?;
        u64::from_ne_bytes(bytes).checked_sub(1).map(Pfn)
    }

    /// Element `n`, which the array has, becomes `frame`.
    pub(crate) fn set_page(&self, array: &PageArray, n: usize, frame: Pfn) -> Result<(), Error> {
        self.write_place(array.place(n), &(frame.0 + 1).to_ne_bytes())
    }

    /// Elements from `n` on, as many as there is room for and the array has.
    pub(crate) fn pages_from<'f>(&self, array: &PageArray, n: usize, into: &'f mut [Pfn]) -> Result<&'f [Pfn], Error> {
        let wanted = into.len().min(array.len.saturating_sub(n));
        for (i, place) in into[..wanted].iter_mut().enumerate() {
            *place = self.page_of(array, n + i).ok_or(Error::BadArgument(n + i))?;
        }
        Ok(&into[..wanted])
    }
}
