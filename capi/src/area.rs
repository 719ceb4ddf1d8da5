//! Areas of memory.

use crate::border::serve;
use crate::instance::Instance;
use crate::number::Failure;
use std::ffi::{c_int, c_void};
use std::ptr::NonNull;
use vmalloc::area::Guard;
use vmalloc::units::pages_for;
use vmalloc::{Caller, Gfp, Req};

/// The bytes are 0.
pub const VMALLOC_ZERO: u32 = 1;
/// A stack: its bytes are 0, and the page below it is never mapped.
pub const VMALLOC_STACK: u32 = 2;
/// No unmapped page follows.
pub const VMALLOC_NO_GUARD: u32 = 4;
/// The call waits for no flush.
pub const VMALLOC_NOWAIT: u32 = 8;
/// The log is not told where the request is refused.
pub const VMALLOC_NOWARN: u32 = 16;
const ALL: u32 = 31;

/// A request for an area. 0 is the usual choice for all but the size.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Bytes. They are rounded up to pages.
    pub size: usize,
    /// The start is a multiple of so many bytes, a power of two; 0 = of a page.
    pub align: usize,
    /// `VMALLOC_ZERO` and its siblings.
    pub flags: u32,
    /// Who asks, for listings: `VMALLOC_HERE`, or another address of code, or null.
    pub by: *const c_void,
}

impl Request {
    fn library(&self) -> Result<Req, Failure> {
        let has = |flag: u32| self.flags & flag != 0;
        if has(!ALL) {
            return Err(Failure::argument("a flag that no request has"));
        }
        if has(VMALLOC_STACK) && has(VMALLOC_NO_GUARD) {
            return Err(Failure::argument("a stack has its guard below, whatever is asked for"));
        }
        let pages = pages_for(self.size).unwrap_or(usize::MAX);
        let req = if has(VMALLOC_STACK) { Req::stack(pages) } else { Req::bytes(self.size) };
        let req = if self.align > 0 { req.align(self.align) } else { req };
        let guard = if has(VMALLOC_NO_GUARD) { Guard::None } else { Guard::After };
        Ok(req.gfp(self.gfp()).guard(guard).caller(caller(self.by)))
    }

    fn gfp(&self) -> Gfp {
        let asked = |flags: u32, gfp: Gfp| if self.flags & flags != 0 { gfp } else { Gfp::empty() };
        let waits = Gfp::KERNEL - asked(VMALLOC_NOWAIT, Gfp::WAIT);
        waits | Gfp::HIGHMEM | asked(VMALLOC_ZERO | VMALLOC_STACK, Gfp::ZERO) | asked(VMALLOC_NOWARN, Gfp::NOWARN)
    }
}

/// Who made a call.
pub fn caller(by: *const c_void) -> Caller {
    Caller::Return(by.addr())
}

/// An address that C named.
pub fn not_null(at: *mut c_void) -> Result<NonNull<u8>, Failure> {
    NonNull::new(at.cast()).ok_or_else(|| Failure::argument("the address is null"))
}

/// An area of `size` bytes for `by`, whose bytes may be anything. Null where it was refused.
///
/// # Safety
/// CP1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_alloc(vm: *mut Instance, size: usize, by: *const c_void) -> *mut c_void {
    // SAFETY: CP1, handed on.
    unsafe { serve(vm, |vm| Ok(vm.vm().alloc(Req::bytes(size).caller(caller(by)))?.as_ptr().cast())) }
}

/// An area as `request` says. Null where it was refused.
///
/// # Safety
/// CP1, CP2.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_alloc_with(vm: *mut Instance, request: *const Request) -> *mut c_void {
    // SAFETY: CP2.
    let request = unsafe { request.as_ref() };
    let alloc = |vm: &Instance| {
        let request = request.ok_or_else(|| Failure::argument("the request is null"))?;
        Ok(vm.vm().alloc(request.library()?)?.as_ptr().cast())
    };
    // SAFETY: CP1, handed on.
    unsafe { serve(vm, alloc) }
}

/// Frees an area, on behalf of `by`. Null is nothing. Returns 0, or why it was refused.
///
/// # Safety
/// CP1, CP3.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_free(vm: *mut Instance, at: *mut c_void, by: *const c_void) -> c_int {
    let free = |vm: &Instance| {
        // SAFETY: V1: CP3.
        let freed = NonNull::new(at.cast()).map(|at| unsafe { vm.vm().free_by(at, caller(by)) });
        Ok(freed.transpose().map(|_| 0)?)
    };
    // SAFETY: CP1, handed on.
    unsafe { serve(vm, free) }
}

/// Gives the pages beyond the first `size` bytes of an area back: it starts where it did. Returns 0,
/// or why it was refused.
///
/// # Safety
/// CP1; CP3, for these pages; and nobody else frees, shrinks or grows the area meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_shrink(vm: *mut Instance, at: *mut c_void, size: usize) -> c_int {
    // SAFETY: V1: CP3.
    let shrink = |vm: &Instance| Ok(unsafe { vm.vm().shrink(not_null(at)?, size) }.map(|()| 0)?);
    // SAFETY: CP1, handed on.
    unsafe { serve(vm, shrink) }
}

/// Gives an area more pages behind its last one, so that it has `size` bytes: it starts where it
/// did. Returns 0, or why it was refused: `VMALLOC_ERROR_NOSPC` where too few pages behind it are free.
///
/// # Safety
/// CP1; and nobody else frees, shrinks or grows the area meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_grow(vm: *mut Instance, at: *mut c_void, size: usize) -> c_int {
    // SAFETY: V1: nobody uses pages behind an area.
    let grow = |vm: &Instance| Ok(unsafe { vm.vm().grow(not_null(at)?, Req::bytes(size)) }.map(|()| 0)?);
    // SAFETY: CP1, handed on.
    unsafe { serve(vm, grow) }
}
