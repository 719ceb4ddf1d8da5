//! Areas: `vmalloc` and its family, `vfree`, `vrealloc`.

use super::{call, gfp, node, told};
use crate::area::caller;
use crate::number::Failure;
use std::ffi::{c_int, c_uint, c_void};
use std::ptr::{NonNull, null_mut};
use vmalloc_kernel::{Request, VmFlags};

/// An area of `size` bytes for `by` (`vmalloc` and all its siblings). `vm_flags` is 0, or what the name of the
/// function says: `VM_USERMAP`, `VM_ALLOW_HUGE_VMAP`.
#[unsafe(no_mangle)]
pub extern "C" fn vmalloc_kernel_area(
    size: usize,
    align: usize,
    flags: c_uint,
    on: c_int,
    vm_flags: c_uint,
    by: *const c_void,
) -> *mut c_void {
    call(|it| {
        let vm_flags = VmFlags::from_bits(vm_flags).ok_or_else(|| Failure::argument("a VM_ flag that there is not"))?;
        let (gfp_mask, node, caller) = (gfp(flags)?, node(on), caller(by));
        let request = Request { align, gfp_mask, node, vm_flags, caller, ..it.kernel.request(size) };
        Ok(it.kernel.__vmalloc_node_range(&request)?.as_ptr().cast())
    })
}

/// Frees an area, on behalf of `by` (`vfree`). Null is nothing; the log is told what is refused.
///
/// # Safety
/// CP3.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_kernel_vfree(at: *const c_void, by: *const c_void) {
    // SAFETY: Y1: CP3. It tells the log itself.
    call(|it| Ok(unsafe { it.kernel.vfree_by(at.cast(), caller(by)) }?));
}

/// The area with `size` bytes, here or elsewhere (`vrealloc`). Null where it was refused, and for 0 bytes.
///
/// # Safety
/// CP3, for the address that it was given, where another one is returned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_kernel_vrealloc(at: *const c_void, size: usize, flags: c_uint) -> *mut c_void {
    call(|it| {
        // SAFETY: Y4: CP3.
        let moved = unsafe { it.kernel.vrealloc(at.cast(), size, gfp(flags)?) }?;
        Ok(moved.map_or(null_mut(), NonNull::as_ptr).cast())
    })
}

/// Whether areas are carved from there (`is_vmalloc_addr`): 1 or 0.
#[unsafe(no_mangle)]
pub extern "C" fn vmalloc_kernel_is_vmalloc_addr(at: *const c_void) -> c_int {
    call(|it| Ok(c_int::from(it.kernel.is_vmalloc_addr(at.cast()))))
}

/// No stale translation of any page survives this (`vm_unmap_aliases`).
#[unsafe(no_mangle)]
pub extern "C" fn vmalloc_kernel_unmap_aliases() {
    told("vm_unmap_aliases", std::ptr::null(), |it| {
        if it.instance.vm().unmap_aliases() { Ok(()) } else { Err(Failure::argument("a flush was refused")) }
    });
}
