//! Today: `vmalloc` → `__vmalloc_node` → `__vmalloc_node_range`, which is the library.
//!
//! The library takes a slot, frames and entries in one path, publishes the area when it
//! is whole, and keeps each frame in its page's entry. So there is no array to make and
//! no step to undo; what the old forms do by hand it does for every caller.

use super::v4::MIN_COUNT;
use crate::call::Value;
use crate::error::{Error, lacks_addresses};
use crate::gfp::GfpFlags;
use crate::host::{Host, Kern};
use crate::kernel::{Kernel, page_align};
use crate::quota::OVER_QUOTA;
use crate::records::{Built, Record};
use crate::request::Request;
use crate::scope::{Scope, ScopeGuard};
use crate::warn::Once;
use core::ptr::NonNull;
use vmalloc::area::Guard;
use vmalloc::area::Req;
use vmalloc::error::Shortage;
use vmalloc::machine::Machine;
use vmalloc::machine::format::MemType;
use vmalloc::units::PAGE_SIZE;
use vmalloc::{AllocError, Gfp};

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// `size` bytes of any frames, for reading and writing.
    ///
    /// # Errors
    /// As [`Kernel::__vmalloc_node_range`].
    #[track_caller]
    pub fn vmalloc(&self, size: usize) -> Result<NonNull<u8>, Error> {
        let _call = self.enter("vmalloc", &[("size", Value::Number(size))]);
        self.__vmalloc_node(&Request { gfp_mask: GfpFlags::KERNEL, ..self.request(size) })
    }

    /// `size` bytes with these flags.
    ///
    /// # Errors
    /// As [`Kernel::__vmalloc_node_range`].
    #[track_caller]
    pub fn __vmalloc(&self, size: usize, gfp: GfpFlags) -> Result<NonNull<u8>, Error> {
        let _call = self.enter("__vmalloc", &[("size", Value::Number(size)), ("gfp_mask", Value::Gfp(gfp))]);
        self.__vmalloc_node(&Request { gfp_mask: gfp, ..self.request(size) })
    }

    /// As `request` says, anywhere: its bounds are not looked at.
    ///
    /// # Errors
    /// As [`Kernel::__vmalloc_node_range`].
    pub fn __vmalloc_node(&self, request: &Request) -> Result<NonNull<u8>, Error> {
        let (gfp, node, caller) = (request.gfp_argument(), request.node_argument(), request.caller_argument());
        let arguments = [request.size_argument(), request.align_argument(), gfp, node, caller];
        let _call = self.enter("__vmalloc_node", &arguments);
        let bounds = self.bounds();
        self.__vmalloc_node_range(&Request { start: bounds.start, end: bounds.end, ..*request })
    }

    /// An area as `request` says, within its bounds. HIGHMEM is added, unless a low zone
    /// is named. Flags without `__GFP_FS` or `__GFP_IO` make the call a scope, which holds
    /// for table pages too; `__GFP_NOFAIL` tries again each tick.
    ///
    /// # Errors
    /// EINVAL for no bytes, E2BIG above the machine's pages, EBUSY where no hole is wide
    /// enough, ENOMEM; each is told, but with `__GFP_NOWARN`. Nothing has changed then.
    ///
    /// # Cost
    /// That of [`Vmalloc::alloc`](vmalloc::Vmalloc::alloc), and the hooks.
    ///
    /// # Source
    /// `__vmalloc_node_range`.
    pub fn __vmalloc_node_range(&self, request: &Request) -> Result<NonNull<u8>, Error> {
        let [start, end] = request.range_arguments();
        let flags = ("vm_flags", Value::Flags(request.vm_flags));
        let (gfp, prot) = (request.gfp_argument(), request.prot_argument());
        let (node, caller) = (request.node_argument(), request.caller_argument());
        let arguments = [request.size_argument(), request.align_argument(), start, end, gfp, prot, flags, node, caller];
        let _call = self.enter("__vmalloc_node_range", &arguments);
        self.told_size(request)?;
        let at = self.until_it_succeeds(request)?;
        self.note_flags(at, request).inspect_err(|_| self.undo(at))?;
        self.tell_kmemleak(at, request);
        self.watch(at, request.size, request.gfp_mask);
        Ok(at)
    }

    /// The page-aligned size, which is not 0 and not above what the machine has; else that is told.
    pub(crate) fn told_size(&self, request: &Request) -> Result<usize, Error> {
        let size = request.size;
        self.checked_size(size).inspect_err(|error| match error {
            Error::ExceedsTotal { .. } => {
                self.warn_alloc(request.gfp_mask, format_args!("vmalloc error: size {size}, exceeds total pages"));
            }
            _ if self.first_time(Once::ZeroSize) => self.printk(Kern::Warning, format_args!("vmalloc error: size 0")),
            _ => (),
        })
    }

    fn until_it_succeeds(&self, request: &Request) -> Result<NonNull<u8>, Error> {
        loop {
            let error = match self.try_once(request) {
                Ok(at) => return Ok(at),
                Err(error) => error,
            };
            let tries_on = request.gfp_mask.contains(GfpFlags::NOFAIL) && may_come(&error);
            self.tell_failure(request, &error, tries_on);
            if !tries_on {
                return Err(error.into());
            }
            self.host.sleep_tick();
        }
    }

    fn try_once(&self, request: &Request) -> Result<NonNull<u8>, AllocError> {
        let gfp = self.host.scope().apply(request.gfp_mask);
        let scope = Scope::of(gfp);
        let _scope = (!scope.is_empty()).then(|| ScopeGuard::begin(&self.host, scope));
        self.vm.alloc(self.wanted(request, gfp))
    }

    /// What the library is asked for.
    pub(crate) fn wanted(&self, request: &Request, gfp: GfpFlags) -> Req {
        let highmem = if gfp.names_a_zone() { GfpFlags::empty() } else { GfpFlags::HIGHMEM };
        let req = Req::bytes(request.size).align(request.align.max(PAGE_SIZE)).caller(request.caller);
        let req = req.gfp((gfp | highmem).library() | Gfp::NOWARN).prot(request.prot.prot).memory(request.prot.memory);
        let no_guard = request.vm_flags.contains(crate::flags::VmFlags::NO_GUARD);
        let req = req.guard(if no_guard { Guard::None } else { Guard::After });
        let req = request.node.map_or(req.clone(), |node| req.node(node));
        if request.bounds() == self.bounds() { req } else { req.within(request.bounds()) }
    }

    /// Says which step was refused.
    pub(crate) fn tell_failure(&self, request: &Request, error: &AllocError, tries_on: bool) {
        let (size, gfp) = (request.size, request.gfp_mask);
        let again = if tries_on { ". Retrying." } else { "" };
        match *error {
            _ if lacks_addresses(error) => {
                let (start, end) = (request.start, request.end);
                if self.may_warn(gfp) {
                    let guarded = page_align(size).map_or(size, |bytes| bytes + PAGE_SIZE);
                    let line = format_args!(
                        "vmalloc_node_range for size {guarded} failed: Address range restricted to {start:#x} - {end:#x}"
                    );
                    self.printk(Kern::Warning, line);
                }
                self.warn_alloc(gfp, format_args!("vmalloc error: size {size}, vm_struct allocation failed{again}"));
            }
            AllocError::Refused(OVER_QUOTA) => {
                self.warn_alloc(gfp, format_args!("vmalloc error: size {size}, over the quota{again}"));
            }
            AllocError::NoTables { .. }
            | AllocError::WouldWait(_, Shortage::Tables(_))
            | AllocError::InUse(_)
            | AllocError::Restricted(_)
            | AllocError::Refused(_) => {
                self.warn_alloc(gfp, format_args!("vmalloc error: size {size}, failed to map pages{again}"));
            }
            _ => self.warn_alloc(gfp, format_args!("vmalloc error: size {size}, failed to allocate pages{again}")),
        }
    }

    /// Flags that the library does not know are kept beside it, and what no entry tells.
    fn note_flags(&self, at: NonNull<u8>, request: &Request) -> Result<(), Error> {
        use crate::flags::VmFlags;
        let (flags, start) = (request.vm_flags.difference(VmFlags::NO_GUARD), at.addr().get());
        if flags.is_empty() && request.prot.memory == MemType::WriteBack {
            return self.forget_left_over(start);
        }
        let mut record = Record::new(start, flags | VmFlags::ALLOC, Built::Whole, request.size);
        (record.nr_pages, record.cached) = (request.size.div_ceil(PAGE_SIZE), request.prot.memory);
        self.keep_record(record, request.gfp_mask)
    }

    pub(crate) fn undo(&self, at: NonNull<u8>) {
        // SAFETY: V1: nobody knows it yet.
        let undone = unsafe { self.vm.free(at) };
        debug_assert!(undone.is_ok(), "it was made a moment ago");
    }

    /// The leak detector hears of the page-aligned size.
    pub(crate) fn tell_kmemleak(&self, at: NonNull<u8>, request: &Request) {
        if request.vm_flags.contains(crate::flags::VmFlags::DEFER_KMEMLEAK) {
            return self.kmemleak_free(at.addr().get());
        }
        let (at, size) = (at.addr().get(), request.size.next_multiple_of(PAGE_SIZE));
        let arguments = [("area", Value::Address(at)), ("size", Value::Number(size)), request.gfp_argument()];
        let _call = self.enter("kmemleak_vmalloc", &arguments);
        self.track(at, size, MIN_COUNT, request.gfp_mask);
    }
}

/// Whether another try may end otherwise.
fn may_come(error: &AllocError) -> bool {
    matches!(
        error,
        AllocError::NoAddresses { .. }
            | AllocError::NoFrames { .. }
            | AllocError::NoTables { .. }
            | AllocError::Refused(_)
    )
}
