//! Memory of the instance: tables of words, and quanta.
//!
//! A **table** (a set, a node of the index) of up to a page is a frame, reached
//! through the direct mapping: it costs no addresses and no guard. A larger set
//! is an area, as a quantum is. Either is named by a [`Link`], one word, so that
//! tables can name tables.

use core::mem::forget;
use core::ptr::{NonNull, with_exposed_provenance_mut};
use core::slice;
use vmalloc::machine::{Addressable, Machine};
use vmalloc::units::{PAGE_SIZE, Pfn};
use vmalloc::{AllocError, Area, Gfp, Req, Vmalloc};

/// Words in a page: the width of a node.
pub(crate) const NODE: usize = PAGE_SIZE / size_of::<usize>();

/// Where a table or a quantum lies: nowhere, in a frame (its number, shifted,
/// with the low bit set), or at the address of an area.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub(crate) struct Link(usize);

impl Link {
    pub const NONE: Link = Link(0);

    pub fn is_none(self) -> bool {
        self == Link::NONE
    }

    fn of_frame(frame: Pfn) -> Link {
        Link((frame.0 as usize) << 1 | 1)
    }

    fn frame(self) -> Option<Pfn> {
        (self.0 & 1 == 1).then_some(Pfn(self.0 as u64 >> 1))
    }

    pub fn of_area(start: NonNull<u8>) -> Link {
        Link(start.as_ptr().expose_provenance())
    }
}

/// An instance, as the device uses it.
pub(crate) struct Memory<'v, M: Machine>(pub &'v Vmalloc<M>);

impl<M: Machine> Clone for Memory<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: Machine> Copy for Memory<'_, M> {}

/// A table that is linked nowhere yet; given back when dropped.
pub(crate) struct Table<'v, M: Machine> {
    memory: Memory<'v, M>,
    link: Link,
    words: usize,
}

/// Pages of a table.
pub(crate) fn table_pages(words: usize) -> usize {
    words.div_ceil(NODE)
}

impl<'v, M: Machine> Memory<'v, M> {
    /// A table of `words` links, all of them nowhere.
    pub fn table(self, words: usize) -> Result<Table<'v, M>, AllocError> {
        let gfp = Gfp::KERNEL | Gfp::ZERO | Gfp::NOWARN;
        let link = if words <= NODE {
            Link::of_frame(self.0.alloc_frame(gfp, None)?)
        } else {
            Link::of_area(self.0.alloc(Req::pages(table_pages(words)).gfp(gfp | Gfp::HIGHMEM))?)
        };
        Ok(Table { memory: self, link, words })
    }

    /// Takes a table over again, to be dropped.
    ///
    /// # Safety
    /// B1, and the link to it has been cleared.
    pub unsafe fn unlinked(self, link: Link, words: usize) -> Table<'v, M> {
        Table { memory: self, link, words }
    }

    /// Where a linked table or quantum begins.
    pub fn start(self, link: Link) -> *mut u8 {
        match link.frame() {
            Some(frame) => self.0.machine().virt(frame).as_ptr(),
            None => with_exposed_provenance_mut(link.0),
        }
    }

    /// The links of a table.
    ///
    /// # Safety
    /// B1 for `words` words; B2: shared while `'t` lasts.
    pub unsafe fn links<'t>(self, table: Link, words: usize) -> &'t [Link] {
        // SAFETY: B1: so many words, cleared when taken. B2.
        unsafe { slice::from_raw_parts(self.start(table).cast(), words) }
    }

    /// The links of a table, to be changed.
    ///
    /// # Safety
    /// B1 for `words` words; B2: alone while `'t` lasts.
    pub unsafe fn links_mut<'t>(self, table: Link, words: usize) -> &'t mut [Link] {
        // SAFETY: as above.
        unsafe { slice::from_raw_parts_mut(self.start(table).cast(), words) }
    }
}

impl<'v, M: Addressable> Memory<'v, M> {
    /// A quantum, cleared.
    pub fn quantum(self, bytes: usize) -> Result<Area<'v, M>, AllocError> {
        self.0.area(Req::bytes(bytes).gfp(Gfp::KERNEL | Gfp::HIGHMEM | Gfp::NOWARN))
    }

    /// The bytes of a quantum.
    ///
    /// # Safety
    /// B1 for `bytes` bytes; B2: shared while `'t` lasts.
    pub unsafe fn bytes<'t>(self, quantum: Link, bytes: usize) -> &'t [u8] {
        // SAFETY: B1: so many bytes, cleared when taken. B2.
        unsafe { slice::from_raw_parts(self.start(quantum), bytes) }
    }

    /// The bytes of a quantum, to be changed.
    ///
    /// # Safety
    /// B1 for `bytes` bytes; B2: alone while `'t` lasts.
    pub unsafe fn bytes_mut<'t>(self, quantum: Link, bytes: usize) -> &'t mut [u8] {
        // SAFETY: as above.
        unsafe { slice::from_raw_parts_mut(self.start(quantum), bytes) }
    }

    /// Gives a quantum back.
    ///
    /// # Safety
    /// B1 for `bytes` bytes, and the link to it has been cleared.
    pub unsafe fn free_quantum(self, quantum: Link, bytes: usize) {
        let Some(start) = NonNull::new(self.start(quantum)) else { return };
        // SAFETY: O1: it was an area of ours of so many bytes, and nobody has it any more.
        drop(unsafe { Area::from_raw(self.0, start, bytes) });
    }
}

impl<M: Machine> Table<'_, M> {
    /// Gives the table up to a link.
    pub fn into_link(self) -> Link {
        let link = self.link;
        forget(self);
        link
    }

    /// Its links, to be set before it is linked itself.
    pub fn links_mut(&mut self) -> &mut [Link] {
        // SAFETY: B1: ours, of so many words. B2: nobody else knows it.
        unsafe { self.memory.links_mut(self.link, self.words) }
    }
}

impl<M: Machine> Drop for Table<'_, M> {
    fn drop(&mut self) {
        let vm = self.memory.0;
        if let Some(frame) = self.link.frame() {
            // SAFETY: P3: `table` took it, and it is linked nowhere.
            return unsafe { vm.free_frame(frame) };
        }
        let Some(start) = NonNull::new(self.memory.start(self.link)) else { return };
        // SAFETY: V1: as above.
        let freed = unsafe { vm.free(start) };
        debug_assert!(freed.is_ok(), "B1: a table of {} words: {freed:?}", self.words);
    }
}
