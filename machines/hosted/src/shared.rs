//! Areas without a lifetime: each holds its instance, as an `Arc` does, and goes wherever a thread does.

use crate::machine::Hosted;
use std::fmt;
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice::{from_raw_parts, from_raw_parts_mut};
use std::sync::Arc;
use vmalloc::units::VirtAddr;
use vmalloc::{AllocError, Caller, FreeError, Req, Vmalloc};

/// Memory that frees itself, and keeps its instance alive. `T` is `u8`, or `MaybeUninit<u8>` for bytes that
/// nobody has written yet.
///
/// ```
/// use std::sync::Arc;
/// use vmalloc_hosted::SharedArea;
///
/// let vm = Arc::new(vmalloc_hosted::builder().build()?);
/// let mut area = SharedArea::zeroed(&vm, 100_000)?;
/// let sum = std::thread::spawn(move || {
///     area.fill(1);
///     area.iter().map(|&byte| u64::from(byte)).sum::<u64>()
/// });
/// assert_eq!(sum.join().unwrap(), 100_000);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SharedArea<T = u8> {
    vm: Arc<Vmalloc<Hosted>>,
    start: NonNull<T>,
    bytes: usize,
    owns: PhantomData<T>,
}

// SAFETY: the bytes are its own, and the instance may be shared.
unsafe impl<T: Send> Send for SharedArea<T> {}
// SAFETY: as above; shared access only reads.
unsafe impl<T: Sync> Sync for SharedArea<T> {}

impl SharedArea {
    /// `bytes` bytes, all clear.
    ///
    /// # Errors
    /// See [`AllocError`].
    #[track_caller]
    pub fn zeroed(vm: &Arc<Vmalloc<Hosted>>, bytes: usize) -> Result<SharedArea, AllocError> {
        SharedArea::made(vm, bytes, Req::bytes(bytes).zeroed().caller(Caller::here()))
    }

    /// `bytes` bytes that nobody has written: a large area is not cleared twice.
    ///
    /// # Errors
    /// See [`AllocError`].
    #[track_caller]
    pub fn uninit(vm: &Arc<Vmalloc<Hosted>>, bytes: usize) -> Result<SharedArea<MaybeUninit<u8>>, AllocError> {
        SharedArea::made(vm, bytes, Req::bytes(bytes).caller(Caller::here()))
    }
}

impl SharedArea<MaybeUninit<u8>> {
    /// The same area, whose bytes have all been written.
    ///
    /// # Safety
    /// They have.
    pub unsafe fn assume_init(self) -> SharedArea {
        let this = ManuallyDrop::new(self);
        // SAFETY: it is not dropped, so this is the only one.
        let vm = unsafe { std::ptr::read(&this.vm) };
        SharedArea { vm, start: this.start.cast(), bytes: this.bytes, owns: PhantomData }
    }
}

impl<T> SharedArea<T> {
    fn made(vm: &Arc<Vmalloc<Hosted>>, bytes: usize, req: Req) -> Result<SharedArea<T>, AllocError> {
        const { assert!(size_of::<T>() == 1) };
        let start = vm.alloc(req)?.cast();
        Ok(SharedArea { vm: Arc::clone(vm), start, bytes, owns: PhantomData })
    }

    /// Its first byte.
    pub fn start(&self) -> VirtAddr {
        VirtAddr(self.start.addr().get())
    }

    /// Its instance.
    pub fn vm(&self) -> &Arc<Vmalloc<Hosted>> {
        &self.vm
    }
}

impl<T> Deref for SharedArea<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the bytes are ours, and readable while the area lives; `T` says whether they were written.
        unsafe { from_raw_parts(self.start.as_ptr(), self.bytes) }
    }
}

impl<T> DerefMut for SharedArea<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and we are borrowed exclusively.
        unsafe { from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

impl<T> Drop for SharedArea<T> {
    fn drop(&mut self) {
        // SAFETY: V1: nobody has it any more.
        let freed = unsafe { self.vm.free(self.start.cast()) };
        debug_assert!(matches!(freed, Ok(()) | Err(FreeError::NotInitialised)), "{freed:?}");
    }
}

impl<T> fmt::Debug for SharedArea<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedArea({} bytes at {})", self.bytes, self.start())
    }
}
