//! Objects, and what may be an object or an area: `kmalloc`, `kvmalloc`, `kvfree_rcu`.

use super::{call, gfp, node, told};
use std::ffi::{c_int, c_uint, c_void};

/// An object of `size` bytes (`kmalloc_node`).
#[unsafe(no_mangle)]
pub extern "C" fn vmalloc_kernel_kmalloc(size: usize, flags: c_uint, on: c_int) -> *mut c_void {
    call(|it| Ok(it.kernel.kmalloc_node(size, gfp(flags)?, node(on))?.as_ptr().cast()))
}

/// The object with `size` bytes, here or elsewhere (`krealloc`).
///
/// # Safety
/// CP3, for the address that it was given, where another one is returned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_kernel_krealloc(at: *const c_void, size: usize, flags: c_uint) -> *mut c_void {
    // SAFETY: Y4: CP3.
    call(|it| Ok(unsafe { it.kernel.krealloc(at.cast(), size, gfp(flags)?) }?.as_ptr().cast()))
}

/// Frees an object (`kfree`). Null is nothing; the log is told what is refused.
///
/// # Safety
/// CP3.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_kernel_kfree(at: *const c_void) {
    // SAFETY: Y1: CP3.
    told("kfree", at.cast(), |it| Ok(unsafe { it.kernel.kfree(at.cast()) }?));
}

/// The bytes that an object really has (`ksize`).
#[unsafe(no_mangle)]
pub extern "C" fn vmalloc_kernel_ksize(at: *const c_void) -> usize {
    call(|it| Ok(it.kernel.ksize(at.cast())?))
}

/// An object of `size` bytes, or an area (`kvmalloc_node`).
#[unsafe(no_mangle)]
pub extern "C" fn vmalloc_kernel_kvmalloc(size: usize, flags: c_uint, on: c_int) -> *mut c_void {
    call(|it| Ok(it.kernel.kvmalloc_node(size, gfp(flags)?, node(on))?.as_ptr().cast()))
}

/// The block with `size` bytes, here or elsewhere (`kvrealloc`).
///
/// # Safety
/// CP3, for the address that it was given, where another one is returned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_kernel_kvrealloc(at: *const c_void, size: usize, flags: c_uint) -> *mut c_void {
    // SAFETY: Y4: CP3.
    call(|it| Ok(unsafe { it.kernel.kvrealloc(at.cast(), size, gfp(flags)?) }?.as_ptr().cast()))
}

/// Frees an object or an area when all threads that read now have ended that (`kvfree_rcu`). `head` lies in
/// it; null = it has none, and the call may wait (`kvfree_rcu_mightsleep`). The log is told what is refused.
///
/// # Safety
/// CP3, but for threads that read now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_kernel_kvfree_rcu(at: *const c_void, head: *const c_void) {
    told("kvfree_rcu", at.cast(), |it| {
        let freed = match head.addr() {
            // SAFETY: Y1: CP3.
            0 => unsafe { it.kernel.kvfree_rcu_mightsleep(at.cast()) },
            // SAFETY: Y1: CP3.
            head => unsafe { it.kernel.kvfree_rcu(at.cast(), head) },
        };
        Ok(freed?)
    });
}

/// Waits until all is freed that was given to `kvfree_rcu` before (`kvfree_rcu_barrier`).
#[unsafe(no_mangle)]
pub extern "C" fn vmalloc_kernel_kvfree_rcu_barrier() {
    told("kvfree_rcu_barrier", std::ptr::null(), |it| Ok(it.kernel.kvfree_rcu_barrier()?));
}
