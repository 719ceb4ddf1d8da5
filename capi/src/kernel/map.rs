//! Pages, mapped side by side: `vmap`, `vm_map_ram`, `vmalloc_to_page`.

use super::page::Page;
use super::{Subsystem, call, node, told};
use crate::number::Failure;
use std::ffi::{c_int, c_uint, c_ulong, c_void};
use std::ptr::{NonNull, null_mut};
use std::slice;
use vmalloc::units::Pfn;
use vmalloc_kernel::{Pgprot, VmFlags};

/// The frames of an array of pages.
///
/// # Safety
/// CP2.
unsafe fn frames(it: &Subsystem, pages: *const *mut Page, count: usize) -> Result<Vec<Pfn>, Failure> {
    if pages.is_null() || count > isize::MAX as usize / size_of::<*mut Page>() {
        return Err(Failure::argument("the array of pages is null, or longer than there can be one"));
    }
    // SAFETY: CP2.
    unsafe { slice::from_raw_parts(pages, count) }.iter().map(|&page| it.pages.frame(page)).collect()
}

/// Maps `count` pages side by side (`vmap`); `prot` is 0 (`PAGE_KERNEL`) or 1 (`PAGE_KERNEL_RO`).
///
/// # Safety
/// CP2, CP4.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_kernel_vmap(
    pages: *const *mut Page,
    count: c_uint,
    vm_flags: c_ulong,
    prot: c_ulong,
) -> *mut c_void {
    call(|it| {
        // SAFETY: CP2.
        let frames = unsafe { frames(it, pages, count as usize) }?;
        let flags = u32::try_from(vm_flags).ok().and_then(VmFlags::from_bits);
        let flags = flags.ok_or_else(|| Failure::argument("a VM_ flag that there is not"))?;
        let prot = *[Pgprot::KERNEL, Pgprot::KERNEL_RO]
            .get(prot as usize)
            .ok_or_else(|| Failure::argument("a protection that there is not"))?;
        // SAFETY: Y5: CP4.
        Ok(unsafe { it.kernel.vmap(&frames, flags, prot) }?.as_ptr().cast())
    })
}

/// Unmaps what `vmap` mapped (`vunmap`). Null is nothing; the log is told what is refused.
///
/// # Safety
/// CP3.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_kernel_vunmap(at: *const c_void) {
    // SAFETY: Y1: CP3. It tells the log itself.
    call(|it| Ok(unsafe { it.kernel.vunmap(at.cast()) }?));
}

/// Maps `count` pages side by side for a short time (`vm_map_ram`).
///
/// # Safety
/// CP2, CP4.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_kernel_map_ram(pages: *const *mut Page, count: c_uint, on: c_int) -> *mut c_void {
    call(|it| {
        // SAFETY: CP2.
        let frames = unsafe { frames(it, pages, count as usize) }?;
        // SAFETY: P4: CP4.
        Ok(unsafe { it.instance.vm().map_ram(&frames, node(on)) }?.as_ptr().cast())
    })
}

/// Unmaps what `vm_map_ram` mapped, `count` pages as then (`vm_unmap_ram`). The log is told what is refused.
///
/// # Safety
/// CP3.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_kernel_unmap_ram(at: *const c_void, count: c_uint) {
    told("vm_unmap_ram", at.cast(), |it| {
        let at = NonNull::new(at.cast_mut().cast()).ok_or_else(|| Failure::argument("the address is null"))?;
        // SAFETY: V1: CP3.
        Ok(unsafe { it.instance.vm().unmap_ram(at, count as usize) }?)
    });
}

/// The page behind an address of an area (`vmalloc_to_page`); null where none is.
#[unsafe(no_mangle)]
pub extern "C" fn vmalloc_kernel_to_page(at: *const c_void) -> *mut Page {
    call(|it| Ok(it.kernel.vmalloc_to_page(at.addr()).map_or(null_mut(), |frame| it.pages.page(frame))))
}
