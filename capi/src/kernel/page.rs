//! Pages: `struct page`, `alloc_page`, `__free_page`.
//!
//! A page has a structure in one array, the memory map, at the index of its frame. What is in it belongs to
//! whoever holds the page. The array takes memory where it is written to.

use super::{call, gfp, node, told};
use crate::number::Failure;
use std::alloc::{Layout, alloc_zeroed};
use std::ffi::{c_int, c_uint, c_ulong, c_void};
use std::ptr::{NonNull, null_mut};
use vmalloc::machine::Machine;
use vmalloc::machine::frames::Frames;
use vmalloc::units::{PAGE_SIZE, Pfn};
use vmalloc_hosted::Hosted;
use vmalloc_kernel::GfpFlags;

/// What `kernel.h` calls `struct page`, which says what is in its words. All of it is the page's
/// holder's to use.
pub struct Page {
    _words: [u64; 8],
}

/// The structures of all pages.
pub struct MemMap {
    first: NonNull<Page>,
    pages: usize,
}

// SAFETY: a structure is its holder's, whatever thread that is; here nobody looks into one.
unsafe impl Send for MemMap {}
// SAFETY: as above.
unsafe impl Sync for MemMap {}

impl MemMap {
    /// One for each page of RAM.
    pub fn new(machine: &Hosted) -> Result<MemMap, Failure> {
        let pages = machine.ram() / PAGE_SIZE;
        let wanted = Layout::array::<Page>(pages).ok().filter(|layout| layout.size() > 0);
        // SAFETY: the size is not 0.
        let first = wanted.and_then(|layout| NonNull::new(unsafe { alloc_zeroed(layout) }));
        first.map(|first| MemMap { first: first.cast(), pages }).ok_or_else(|| Failure::argument("no memory map"))
    }

    /// The structure of a frame; null where it is none of RAM.
    pub fn page(&self, frame: Pfn) -> *mut Page {
        match usize::try_from(frame.0) {
            Ok(n) if n < self.pages => self.first.as_ptr().wrapping_add(n),
            _ => null_mut(),
        }
    }

    /// The frame of a structure.
    pub fn frame(&self, page: *const Page) -> Result<Pfn, Failure> {
        let offset = page.addr().wrapping_sub(self.first.addr().get());
        if !offset.is_multiple_of(size_of::<Page>()) || offset / size_of::<Page>() >= self.pages {
            return Err(Failure::argument("no page has its structure there"));
        }
        Ok(Pfn((offset / size_of::<Page>()) as u64))
    }
}

/// The structure of the first frame of RAM (`mem_map`): those of the others follow it.
#[unsafe(no_mangle)]
pub extern "C" fn vmalloc_kernel_mem_map() -> *mut Page {
    call(|it| Ok(it.pages.first.as_ptr()))
}

/// A page (`alloc_pages_node`, of order 0); null where there is none.
#[unsafe(no_mangle)]
pub extern "C" fn vmalloc_kernel_alloc_page(flags: c_uint, on: c_int) -> *mut Page {
    call(|it| Ok(it.pages.page(it.kernel.alloc_page(gfp(flags)?, node(on))?)))
}

/// Puts a page into each of the `count` places that is null (`alloc_pages_bulk`). Returns how many places
/// have one, from the first on.
///
/// # Safety
/// CP2.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_kernel_alloc_pages_bulk(
    flags: c_uint,
    count: c_ulong,
    pages: *mut *mut Page,
) -> c_ulong {
    let filled: usize = call(|it| {
        let flags = gfp(flags)? | GfpFlags::NOWARN;
        for n in 0..count as usize {
            // SAFETY: CP2: the array has as many places.
            let place = unsafe { &mut *pages.add(n) };
            if place.is_null() {
                let Ok(frame) = it.kernel.alloc_page(flags, None) else { return Ok(n) };
                *place = it.pages.page(frame);
            }
        }
        Ok(count as usize)
    });
    filled as c_ulong
}

/// Gives a page up (`__free_page`). The log is told what is refused.
///
/// # Safety
/// CP4.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_kernel_free_page(page: *mut Page) {
    told("__free_page", page.cast(), |it| {
        let frame = it.pages.frame(page)?;
        if !it.instance.vm().machine().frames().is_out(frame) {
            return Err(vmalloc::AllocError::NotOut(frame).into());
        }
        // SAFETY: P3: CP4.
        unsafe { it.instance.vm().free_frame(frame) };
        Ok(())
    });
}

/// Where the bytes of a page are (`page_address`); null where it is no page.
#[unsafe(no_mangle)]
pub extern "C" fn vmalloc_kernel_page_address(page: *const Page) -> *mut c_void {
    call(|it| Ok(it.instance.vm().machine().virt(it.pages.frame(page)?).as_ptr().cast()))
}

/// The page whose bytes are there (`virt_to_page`): of memory by `page_address` or of the slab; null where
/// none are.
#[unsafe(no_mangle)]
pub extern "C" fn vmalloc_kernel_virt_to_page(at: *const c_void) -> *mut Page {
    call(|it| {
        let base = it.instance.vm().machine().virt(Pfn(0)).addr().get();
        Ok(it.pages.page(Pfn((at.addr().wrapping_sub(base) / PAGE_SIZE) as u64)))
    })
}

/// `1 << order` pages whose bytes are adjacent (`__get_free_pages`); null where there are none.
#[unsafe(no_mangle)]
pub extern "C" fn vmalloc_kernel_get_free_pages(flags: c_uint, order: c_uint) -> *mut c_void {
    call(|it| Ok(it.kernel.__get_free_pages(gfp(flags)?, order)?.as_ptr().cast()))
}

/// Frees them (`free_pages`). The log is told what is refused.
///
/// # Safety
/// CP3.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_kernel_free_pages(at: *const c_void, order: c_uint) {
    // SAFETY: Y1: CP3.
    told("free_pages", at.cast(), |it| Ok(unsafe { it.kernel.free_pages(at.cast(), order) }?));
}
