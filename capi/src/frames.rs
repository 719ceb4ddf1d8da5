//! Page frames by number: by themselves, and mapped side by side.

use crate::area::{caller, not_null};
use crate::border::serve;
use crate::instance::Instance;
use crate::number::Failure;
use std::ffi::{c_int, c_void};
use std::slice;
use vmalloc::machine::Machine;
use vmalloc::machine::frames::Frames;
use vmalloc::units::Pfn;
use vmalloc::{AllocError, Gfp, Req};

/// The frames that C names.
///
/// # Safety
/// CP2.
unsafe fn named(frames: *const u64, count: usize) -> Result<Vec<Pfn>, Failure> {
    if frames.is_null() || count > isize::MAX as usize / size_of::<u64>() {
        return Err(Failure::argument("the array of frames is null, or longer than there can be one"));
    }
    // SAFETY: CP2.
    Ok(unsafe { slice::from_raw_parts(frames, count) }.iter().map(|&frame| Pfn(frame)).collect())
}

/// Takes `count` frames, whose bytes may be anything, and writes their numbers to `frames`. Returns 0,
/// or why it was refused: none is taken then.
///
/// # Safety
/// CP1, CP2.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_frames_alloc(vm: *mut Instance, frames: *mut u64, count: usize) -> c_int {
    let alloc = |vm: &Instance| {
        // SAFETY: CP2: they may be read as well.
        let room = unsafe { named(frames, count) }?.len();
        let mut taken = Vec::new();
        for _ in 0..room {
            match vm.vm().alloc_frame(Gfp::KERNEL | Gfp::HIGHMEM, None) {
                Ok(frame) => taken.push(frame.0),
                Err(error) => {
                    give(vm, &taken);
                    return Err(error.into());
                }
            }
        }
        // SAFETY: CP2.
        unsafe { slice::from_raw_parts_mut(frames, room) }.copy_from_slice(&taken);
        Ok(0)
    };
    // SAFETY: CP1, handed on.
    unsafe { serve(vm, alloc) }
}

fn give(vm: &Instance, frames: &[u64]) {
    // SAFETY: P3: they are held, and held no more.
    frames.iter().for_each(|&frame| unsafe { vm.vm().free_frame(Pfn(frame)) });
}

/// Gives up one hold on each of these frames. Returns 0, or why it was refused: a number that is no
/// frame which is held. None is given up then.
///
/// # Safety
/// CP1, CP2, CP4.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_frames_free(vm: *mut Instance, frames: *const u64, count: usize) -> c_int {
    let free = |vm: &Instance| {
        // SAFETY: CP2.
        let frames = unsafe { named(frames, count) }?;
        let source = vm.vm().machine().frames();
        match frames.iter().find(|&&frame| !source.is_out(frame)) {
            Some(&frame) => Err(AllocError::NotOut(frame).into()),
            None => {
                give(vm, &frames.iter().map(|frame| frame.0).collect::<Vec<_>>());
                Ok(0)
            }
        }
    };
    // SAFETY: CP1, handed on.
    unsafe { serve(vm, free) }
}

/// Writes the number of the frame behind an address of an area to `frame`, and holds it:
/// `vmalloc_frames_free` gives the hold up. Returns 0, or why it was refused.
///
/// # Safety
/// CP1, CP2.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_frame_hold(vm: *mut Instance, at: *const c_void, frame: *mut u64) -> c_int {
    // SAFETY: CP2.
    let frame = unsafe { frame.as_mut() };
    let hold = |vm: &Instance| {
        let into = frame.ok_or_else(|| Failure::argument("the place for the frame is null"))?;
        let not_mapped = AllocError::NotMapped(vmalloc::units::VirtAddr(at.addr()));
        *into = vm.vm().hold_frame(at.addr()).ok_or(not_mapped)?.0;
        Ok(0)
    };
    // SAFETY: CP1, handed on.
    unsafe { serve(vm, hold) }
}

/// Maps `count` frames side by side, for `by`. They stay their holder's, who may give them up: they
/// are free when their last mapping has ended as well. Null where it was refused.
///
/// # Safety
/// CP1, CP2, CP4.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_vmap(
    vm: *mut Instance,
    frames: *const u64,
    count: usize,
    by: *const c_void,
) -> *mut c_void {
    let map = |vm: &Instance| {
        // SAFETY: CP2.
        let frames = unsafe { named(frames, count) }?;
        // SAFETY: P1: CP4.
        Ok(unsafe { vm.vm().vmap(&frames, Req::bytes(0).caller(caller(by))) }?.as_ptr().cast())
    };
    // SAFETY: CP1, handed on.
    unsafe { serve(vm, map) }
}

/// Unmaps what `vmalloc_vmap` mapped. Returns 0, or why it was refused.
///
/// # Safety
/// CP1, CP3.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_vunmap(vm: *mut Instance, at: *mut c_void) -> c_int {
    // SAFETY: V1: CP3.
    let unmap = |vm: &Instance| Ok(unsafe { vm.vm().vunmap(not_null(at)?) }.map(|()| 0)?);
    // SAFETY: CP1, handed on.
    unsafe { serve(vm, unmap) }
}

/// Maps `count` frames side by side for a short time, without a guard: the cheap one. Null where it
/// was refused.
///
/// # Safety
/// CP1, CP2; CP4: they are held until `vmalloc_unmap_ram` has returned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_map_ram(vm: *mut Instance, frames: *const u64, count: usize) -> *mut c_void {
    let map = |vm: &Instance| {
        // SAFETY: CP2.
        let frames = unsafe { named(frames, count) }?;
        // SAFETY: P4: CP4.
        Ok(unsafe { vm.vm().map_ram(&frames, None) }?.as_ptr().cast())
    };
    // SAFETY: CP1, handed on.
    unsafe { serve(vm, map) }
}

/// Unmaps what `vmalloc_map_ram` mapped, `count` pages as then. Returns 0, or why it was refused.
///
/// # Safety
/// CP1, CP3.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_unmap_ram(vm: *mut Instance, at: *mut c_void, count: usize) -> c_int {
    // SAFETY: V1: CP3.
    let unmap = |vm: &Instance| Ok(unsafe { vm.vm().unmap_ram(not_null(at)?, count) }.map(|()| 0)?);
    // SAFETY: CP1, handed on.
    unsafe { serve(vm, unmap) }
}
