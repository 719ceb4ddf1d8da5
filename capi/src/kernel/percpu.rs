//! Objects by CPU: `alloc_percpu`, `free_percpu`, `per_cpu_ptr`.
//!
//! In C an object is one pointer: the address that it has for CPU 0. Those of the other CPUs lie at fixed distances
//! behind it. The object itself is kept here, by that address.

use super::host::Process;
use super::{call, gfp, told};
use crate::number::{Failure, Number};
use std::collections::HashMap;
use std::ffi::{c_uint, c_void};
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};
use vmalloc::Kind;
use vmalloc::machine::Machine;
use vmalloc::units::PAGE_SIZE;
use vmalloc_hosted::Hosted;
use vmalloc_kernel::Kernel;
use vmalloc_kernel::percpu::{Group, PerCpu, PerCpuPtr};

/// Pages of a CPU's unit.
const UNIT_PAGES: usize = 8;

/// All objects that are out.
pub struct Objects {
    allocator: PerCpu<'static, 'static, Hosted, Process>,
    /// The words of each object, by its address for CPU 0.
    out: Mutex<HashMap<usize, [u64; 3]>>,
}

impl Objects {
    /// None yet.
    pub fn new(kernel: &'static Kernel<'static, Hosted, Process>) -> Result<Objects, Failure> {
        let groups: &'static [Group] = Box::leak(Box::new([Group { offset: 0, cpus: kernel.vm().machine().cpus() }]));
        Ok(Objects { allocator: PerCpu::new(kernel, groups, UNIT_PAGES)?, out: Mutex::default() })
    }

    fn out(&self) -> MutexGuard<'_, HashMap<usize, [u64; 3]>> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `size` bytes for each CPU, cleared (`__alloc_percpu_gfp`); null where there are none.
#[unsafe(no_mangle)]
pub extern "C" fn vmalloc_kernel_alloc_percpu(size: usize, align: usize, flags: c_uint) -> *mut c_void {
    call(|it| {
        let object = it.objects.allocator.alloc_percpu(size, align, gfp(flags)?)?;
        let at = it.objects.allocator.per_cpu_ptr(object, 0).map_or(std::ptr::null_mut(), NonNull::as_ptr);
        it.objects.out().insert(at.addr(), object.into_words());
        Ok(at.cast())
    })
}

/// Frees an object (`free_percpu`). Null is nothing; the log is told what is refused.
///
/// # Safety
/// CP3.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vmalloc_kernel_free_percpu(at: *const c_void) {
    told("free_percpu", at.cast(), |it| {
        if at.is_null() {
            return Ok(());
        }
        let object = it.objects.out().remove(&at.addr()).and_then(PerCpuPtr::from_words);
        let object = object.ok_or_else(|| Failure::new(Number::Noent, "no object by CPU begins there"))?;
        // SAFETY: Y1: CP3; it came from this allocator, and nobody else has found it.
        Ok(unsafe { it.objects.allocator.free_percpu(object) }?)
    });
}

/// The bytes between the addresses of an object for two CPUs that follow each other.
#[unsafe(no_mangle)]
pub extern "C" fn vmalloc_kernel_percpu_stride() -> usize {
    UNIT_PAGES * PAGE_SIZE
}

/// CPUs (`nr_cpu_ids`): those that objects by CPU are made for.
#[unsafe(no_mangle)]
pub extern "C" fn vmalloc_kernel_cpus() -> c_uint {
    call(|it| Ok(it.instance.vm().machine().cpus() as i32)) as c_uint
}

/// Areas and objects by CPU that callers have and nobody has freed. What the subsystem reserves for objects by
/// CPU does not count.
#[unsafe(no_mangle)]
pub extern "C" fn vmalloc_kernel_left() -> usize {
    call(|it| {
        let areas = it.instance.vm().areas().filter(|area| area.kind != Kind::Reserved);
        Ok(areas.count() + it.objects.out().len())
    })
}
