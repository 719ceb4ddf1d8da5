//! The traditional names, over an embedder's own static.

/// Defines functions with the traditional names and signatures over the
/// instance `$vm`: `vmalloc`, `vzalloc`, `vmalloc_node`, `vzalloc_node`,
/// `vmalloc_32`, `vfree`, `vmap`, `vunmap`, `vm_map_ram`, `vm_unmap_ram`,
/// `ioremap`, `iounmap`, `vm_unmap_aliases`. They return null where those did,
/// and log errors where those warned.
///
/// ```ignore
/// pub mod kernel_names { vmalloc_kernel::traditional_names!(super::VM); }
/// ```
///
/// `kernel $kernel` defines the same over a [`Kernel`](crate::Kernel) that is a static, which adds what it has:
/// redzones, records, messages by the traditional words, hooks, the leak detector.
///
/// ```ignore
/// pub mod kernel_names { vmalloc_kernel::traditional_names!(kernel super::KERNEL); }
/// ```
#[macro_export]
macro_rules! traditional_names {
    (kernel $kernel:path) => {
        use core::ptr::{NonNull, null_mut};
        use $crate::vmalloc::machine::{Level, Machine as _};
        use $crate::vmalloc::units::{Node, Pfn};
        use $crate::{Pgprot, VmFlags};

        fn or_null<E>(made: Result<NonNull<u8>, E>) -> *mut u8 {
            made.map_or(null_mut(), NonNull::as_ptr)
        }

        fn node(node: i32) -> Option<Node> {
            // Above all that there are is refused, as any node that there is not.
            (node >= 0).then(|| Node(u8::try_from(node).unwrap_or(u8::MAX)))
        }

        /// Allocates `size` bytes.
        #[track_caller]
        pub fn vmalloc(size: usize) -> *mut u8 {
            or_null($kernel.vmalloc(size))
        }

        /// Allocates `size` cleared bytes.
        #[track_caller]
        pub fn vzalloc(size: usize) -> *mut u8 {
            or_null($kernel.vzalloc(size))
        }

        /// Allocates `size` bytes of the memory of `on`; -1 is any node.
        #[track_caller]
        pub fn vmalloc_node(size: usize, on: i32) -> *mut u8 {
            or_null($kernel.vmalloc_node(size, node(on)))
        }

        /// Allocates `size` cleared bytes of the memory of `on`.
        #[track_caller]
        pub fn vzalloc_node(size: usize, on: i32) -> *mut u8 {
            or_null($kernel.vzalloc_node(size, node(on)))
        }

        /// Allocates `size` bytes below 4 GiB.
        #[track_caller]
        pub fn vmalloc_32(size: usize) -> *mut u8 {
            or_null($kernel.vmalloc_32(size))
        }

        /// Frees what the functions above returned; null is nothing. The subsystem tells what it refuses.
        ///
        /// # Safety
        /// Nobody uses the area any more.
        #[track_caller]
        pub unsafe fn vfree(at: *const u8) {
            // SAFETY: the caller's promise.
            let _ = unsafe { $kernel.vfree(at) };
        }

        /// Maps `frames` side by side.
        ///
        /// # Safety
        /// The caller holds the frames until they are unmapped.
        #[track_caller]
        pub unsafe fn vmap(frames: &[Pfn]) -> *mut u8 {
            // SAFETY: the caller's promise.
            or_null(unsafe { $kernel.vmap(frames, VmFlags::MAP, Pgprot::KERNEL) })
        }

        /// Unmaps what `vmap` mapped; null is nothing.
        ///
        /// # Safety
        /// Nobody uses the area any more.
        #[track_caller]
        pub unsafe fn vunmap(at: *const u8) {
            // SAFETY: the caller's promise.
            let _ = unsafe { $kernel.vunmap(at) };
        }

        /// Maps `frames` for a short time.
        ///
        /// # Safety
        /// The caller holds the frames until they are unmapped.
        #[track_caller]
        pub unsafe fn vm_map_ram(frames: &[Pfn], on: i32) -> *mut u8 {
            // SAFETY: the caller's promise.
            or_null(unsafe { $kernel.vm().map_ram(frames, node(on)) })
        }

        /// Unmaps what `vm_map_ram` mapped, `count` pages as then.
        ///
        /// # Safety
        /// Nobody uses the mapping any more.
        #[track_caller]
        pub unsafe fn vm_unmap_ram(at: *const u8, count: usize) {
            let Some(at) = NonNull::new(at.cast_mut()) else { return };
            // SAFETY: the caller's promise.
            if let Err(error) = unsafe { $kernel.vm().unmap_ram(at, count) } {
                let by = core::panic::Location::caller();
                let line = format_args!("vm_unmap_ram of {count} pages at {at:p}, by {by}: {error}");
                $kernel.vm().machine().log(Level::Warn, line);
            }
        }

        /// Maps `size` bytes of a device at `phys`, uncached (UC−).
        #[track_caller]
        pub fn ioremap(phys: u64, size: usize) -> *mut u8 {
            or_null($kernel.ioremap(phys, size))
        }

        /// Unmaps a device; null is nothing.
        ///
        /// # Safety
        /// Nobody uses the mapping any more.
        #[track_caller]
        pub unsafe fn iounmap(at: *const u8) {
            // SAFETY: the caller's promise.
            let _ = unsafe { $kernel.iounmap(at) };
        }

        /// No stale alias survives this.
        pub fn vm_unmap_aliases() {
            $kernel.vm().unmap_aliases();
        }
    };
    ($vm:path) => {
        use core::ptr::{NonNull, null_mut};
        use $crate::vmalloc::area::Req;
        use $crate::vmalloc::gfp::Gfp;
        use $crate::vmalloc::machine::format::MemType;
        use $crate::vmalloc::machine::{Level, Machine as _};
        use $crate::vmalloc::units::{Node, Pfn};

        fn or_null<E>(made: Result<NonNull<u8>, E>) -> *mut u8 {
            made.map_or(null_mut(), NonNull::as_ptr)
        }

        fn warn(line: core::fmt::Arguments<'_>) {
            $vm.machine().log(Level::Warn, line)
        }

        fn node(node: i32) -> Option<Node> {
            // Above all that there are is refused, as any node that there is not.
            (node >= 0).then(|| Node(u8::try_from(node).unwrap_or(u8::MAX)))
        }

        /// Allocates `size` bytes.
        #[track_caller]
        pub fn vmalloc(size: usize) -> *mut u8 {
            or_null($vm.alloc(Req::bytes(size)))
        }

        /// Allocates `size` cleared bytes.
        #[track_caller]
        pub fn vzalloc(size: usize) -> *mut u8 {
            or_null($vm.alloc(Req::bytes(size).zeroed()))
        }

        /// Allocates `size` bytes of the memory of `on`; -1 is any node.
        #[track_caller]
        pub fn vmalloc_node(size: usize, on: i32) -> *mut u8 {
            let req = Req::bytes(size);
            or_null($vm.alloc(node(on).map_or(req.clone(), |on| req.node(on))))
        }

        /// Allocates `size` cleared bytes of the memory of `on`.
        #[track_caller]
        pub fn vzalloc_node(size: usize, on: i32) -> *mut u8 {
            let req = Req::bytes(size).zeroed();
            or_null($vm.alloc(node(on).map_or(req.clone(), |on| req.node(on))))
        }

        /// Allocates `size` bytes below 4 GiB.
        #[track_caller]
        pub fn vmalloc_32(size: usize) -> *mut u8 {
            or_null($vm.alloc(Req::bytes(size).gfp(Gfp::KERNEL | Gfp::DMA32)))
        }

        /// Frees what the functions above returned; null is nothing.
        ///
        /// # Safety
        /// Nobody uses the area any more.
        #[track_caller]
        pub unsafe fn vfree(at: *const u8) {
            let Some(at) = NonNull::new(at.cast_mut()) else { return };
            // SAFETY: the caller's promise.
            if let Err(error) = unsafe { $vm.free(at) } {
                warn(format_args!("Trying to vfree() {error}, by {}", core::panic::Location::caller()));
            }
        }

        /// Maps `frames` side by side.
        ///
        /// # Safety
        /// The caller holds the frames until they are unmapped.
        #[track_caller]
        pub unsafe fn vmap(frames: &[Pfn]) -> *mut u8 {
            // SAFETY: the caller's promise.
            or_null(unsafe { $vm.vmap(frames, Req::bytes(0)) })
        }

        /// Unmaps what `vmap` mapped; null is nothing.
        ///
        /// # Safety
        /// Nobody uses the area any more.
        #[track_caller]
        pub unsafe fn vunmap(at: *const u8) {
            let Some(at) = NonNull::new(at.cast_mut()) else { return };
            // SAFETY: the caller's promise.
            if let Err(error) = unsafe { $vm.vunmap(at) } {
                warn(format_args!("Trying to vunmap() {error}, by {}", core::panic::Location::caller()));
            }
        }

        /// Maps `frames` for a short time.
        ///
        /// # Safety
        /// The caller holds the frames until they are unmapped.
        #[track_caller]
        pub unsafe fn vm_map_ram(frames: &[Pfn], on: i32) -> *mut u8 {
            // SAFETY: the caller's promise.
            or_null(unsafe { $vm.map_ram(frames, node(on)) })
        }

        /// Unmaps what `vm_map_ram` mapped, `count` pages as then.
        ///
        /// # Safety
        /// Nobody uses the mapping any more.
        #[track_caller]
        pub unsafe fn vm_unmap_ram(at: *const u8, count: usize) {
            let Some(at) = NonNull::new(at.cast_mut()) else { return };
            // SAFETY: the caller's promise.
            if let Err(error) = unsafe { $vm.unmap_ram(at, count) } {
                warn(format_args!(
                    "vm_unmap_ram of {count} pages at {at:p}, by {}: {error}",
                    core::panic::Location::caller()
                ));
            }
        }

        /// Maps `size` bytes of a device at `phys`, uncached (UC−).
        #[track_caller]
        pub fn ioremap(phys: u64, size: usize) -> *mut u8 {
            or_null($vm.ioremap(phys, size, MemType::UncachedMinus))
        }

        /// Unmaps a device; null is nothing.
        ///
        /// # Safety
        /// Nobody uses the mapping any more.
        #[track_caller]
        pub unsafe fn iounmap(at: *const u8) {
            let Some(at) = NonNull::new(at.cast_mut()) else { return };
            // SAFETY: the caller's promise.
            if let Err(error) = unsafe { $vm.iounmap(at) } {
                warn(format_args!("iounmap: bad address {at:p}, by {}: {error}", core::panic::Location::caller()));
            }
        }

        /// No stale alias survives this.
        pub fn vm_unmap_aliases() {
            $vm.unmap_aliases();
        }
    };
}
