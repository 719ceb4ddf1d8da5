//! Addresses by themselves: taking an area, finding it, giving it up.
//!
//! ```text
//!   get_vm_area ─▶ addresses ─ map_vm_area, vm_area_map_pages ─▶ some pages bound
//!                     ▲                                               │
//!                     └── unmap_kernel_range, vm_area_unmap_pages ────┤
//!   free_vm_area ◀────────────── remove_vm_area ◀─────────────────────┘
//! ```
//!
//! What is bound in such an area stays its caller's: the entries hold no frames.
//!
//! Source: `get_vm_area`, `__get_vm_area_node`, `remove_vm_area`, `free_vm_area`.

use crate::array::PageArray;
use crate::call::Value;
use crate::error::{Error, lacks_addresses};
use crate::flags::VmFlags;
use crate::gfp::GfpFlags;
use crate::host::{Host, Kern};
use crate::kernel::{Kernel, page_align};
use crate::records::{Built, Record};
use crate::request::{Age, Request};
use crate::vm_struct::VmStruct;
use core::ptr::{NonNull, with_exposed_provenance_mut};
use vmalloc::area::Guard;
use vmalloc::area::Req;
use vmalloc::machine::{Context, Machine};
use vmalloc::units::{PAGE_SHIFT, PAGE_SIZE, PageRange, VirtAddr};
use vmalloc::{AllocError, Gfp, Kind};

/// The widest alignment of a device's area: log2 of 128 pages
/// (`IOREMAP_MAX_ORDER`).
const IOREMAP_MAX_ORDER: u32 = 7 + PAGE_SHIFT;

/// What [`Kernel::remove_vm_area`] leaves to its caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Removed {
    /// The area as it was.
    pub area: VmStruct,
    /// The array of its pages, and the frames in it, are the caller's to free.
    pub pages: Option<PageArray>,
}

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// Takes `size` bytes of addresses, and a guard; nothing is bound.
    ///
    /// # Errors
    /// As [`Kernel::__get_vm_area_node`].
    ///
    /// # Source
    /// `get_vm_area`.
    #[track_caller]
    pub fn get_vm_area(&self, size: usize, flags: VmFlags) -> Result<VmStruct, Error> {
        let _call = self.enter("get_vm_area", &[("size", Value::Number(size)), ("flags", Value::Flags(flags))]);
        let request = Request { vm_flags: flags, gfp_mask: GfpFlags::KERNEL, ..self.request(size) };
        self.take_area(&request, Age::Today)
    }

    /// Takes addresses for `request.size` bytes within its bounds; nothing is bound.
    /// VM_IOREMAP areas are aligned to their size, rounded up to a power of two, a page
    /// at least and 128 pages at most.
    ///
    /// # Errors
    /// [`Error::Alloc`]: EINVAL for no bytes or an alignment that is no power of two,
    /// EBUSY where no hole is wide enough, which is told, or before `init`;
    /// [`Error::WrongContext`] in an interrupt. Nothing has changed then.
    ///
    /// # Source
    /// `__get_vm_area_node`.
    pub fn __get_vm_area_node(&self, request: &Request) -> Result<VmStruct, Error> {
        self.tell_get_area(request);
        self.take_area(request, Age::Today)
    }

    /// The hook of `__get_vm_area_node`, with all that it is asked for.
    fn tell_get_area(&self, request: &Request) {
        let [start, end] = request.range_arguments();
        let flags = ("flags", Value::Flags(request.vm_flags));
        let (gfp, caller) = (request.gfp_argument(), request.caller_argument());
        let arguments = [
            request.size_argument(),
            request.align_argument(),
            flags,
            start,
            end,
            request.node_argument(),
            gfp,
            caller,
        ];
        drop(self.enter("__get_vm_area_node", &arguments));
    }

    /// As [`Kernel::__get_vm_area_node`], with the messages of `age`.
    pub(crate) fn get_area_as(&self, request: &Request, age: Age) -> Result<VmStruct, Error> {
        self.tell_get_area(request);
        self.take_area(request, age)
    }

    pub(crate) fn take_area(&self, request: &Request, age: Age) -> Result<VmStruct, Error> {
        self.not_in_interrupt()?;
        let size = page_align(request.size).ok_or(AllocError::TooLarge { bytes: request.size, limit: usize::MAX })?;
        let at = self.vm.reserve(self.reservation(request, size)?).map_err(|error| {
            self.no_addresses(&error, (request, size), age);
            Error::from(error)
        })?;
        let start = at.addr().get();
        let record = Record::new(start, request.vm_flags.difference(VmFlags::NO_GUARD), Built::ByParts, request.size);
        let kept = self.keep_record(record, request.gfp_mask);
        kept.inspect_err(|_| self.give_addresses(start))?;
        self.find_vm_area(start).ok_or(Error::NoArea(start))
    }

    /// What the library is asked for.
    fn reservation(&self, request: &Request, size: usize) -> Result<Req, Error> {
        let align = if request.vm_flags.contains(VmFlags::IOREMAP) { ioremap_align(size) } else { request.align };
        if !align.is_power_of_two() {
            return Err(AllocError::BadAlign(align).into());
        }
        let gfp = request.gfp_mask.library().difference(Gfp::ZERO) | Gfp::NOWARN;
        let req = Req::bytes(size).align(align.max(PAGE_SIZE)).gfp(gfp).caller(request.caller);
        let guard = if request.vm_flags.contains(VmFlags::NO_GUARD) { Guard::None } else { Guard::After };
        let req = request.node.map_or(req.clone(), |node| req.node(node)).guard(guard);
        Ok(if request.bounds() == self.bounds() { req } else { req.within(request.bounds()) })
    }

    /// Says that no hole was wide enough.
    fn no_addresses(&self, error: &AllocError, (request, size): (&Request, usize), age: Age) {
        if !lacks_addresses(error) || !self.may_warn(request.gfp_mask) {
            return;
        }
        let guarded = size + if request.vm_flags.contains(VmFlags::NO_GUARD) { 0 } else { PAGE_SIZE };
        let (start, end) = (request.start, request.end);
        match age {
            Age::V2_6 => self.printk(
                Kern::Warning,
                format_args!("allocation failed: out of vmalloc space - use vmalloc=<size> to increase size."),
            ),
            Age::V3_0 | Age::V4 => self.printk(
                Kern::Warning,
                format_args!("vmap allocation for size {guarded} failed: use vmalloc=<size> to increase size."),
            ),
            Age::Today => self.printk(
                Kern::Warning,
                format_args!(
                    "vmalloc_node_range for size {guarded} failed: Address range restricted to {start:#x} - {end:#x}"
                ),
            ),
        }
    }

    /// Takes the area that starts at `at` off the list and unmaps what is bound of it.
    /// Its addresses serve nobody before the next flush. Frames, and the array of
    /// them, are the caller's.
    ///
    /// # Errors
    /// [`Error::NoArea`] where no area by parts starts there; [`Error::WrongContext`] in an NMI in
    /// the middle of a call of the library. Nothing has changed then.
    ///
    /// # Safety
    /// Y1.
    ///
    /// # Source
    /// `remove_vm_area`.
    pub unsafe fn remove_vm_area(&self, at: usize) -> Result<Removed, Error> {
        let _call = self.enter("remove_vm_area", &[("addr", Value::Address(at))]);
        let area = self.find_vm_area(at).filter(|area| area.addr == at).ok_or(Error::NoArea(at))?;
        let record = self.claim_record(at, |record| record.built == Built::ByParts)?.ok_or(Error::NoArea(at))?;
        self.unmap_all(&record, area.area_size())?;
        self.give_addresses(at);
        Ok(Removed { area, pages: record.array })
    }

    /// Removes an area, which has to be the one that starts where it says, and frees
    /// what is kept of it.
    ///
    /// # Errors
    /// [`Error::NoArea`] where it is not, which was a bug of the caller's there. Nothing
    /// has changed then.
    ///
    /// # Safety
    /// Y1.
    ///
    /// # Source
    /// `free_vm_area`.
    pub unsafe fn free_vm_area(&self, area: &VmStruct) -> Result<(), Error> {
        let is_same = |now: VmStruct| (now.addr, now.size, now.caller) == (area.addr, area.size, area.caller);
        if !self.find_vm_area(area.addr).is_some_and(is_same) {
            return Err(Error::NoArea(area.addr));
        }
        // SAFETY: Y1, handed on.
        let removed = unsafe { self.remove_vm_area(area.addr)? };
        if let Some(array) = removed.pages {
            self.free_array(&array);
        }
        Ok(())
    }

    /// Unmaps what is bound of an area by parts whose record is marked, which ends that (J14).
    ///
    /// # Errors
    /// [`Error::WrongContext`]; the area is as it was then.
    pub(crate) fn unmap_all(&self, record: &Record, bytes: usize) -> Result<(), Error> {
        let pages = PageRange::new(VirtAddr(record.start), bytes >> PAGE_SHIFT);
        self.host.flush_cache_vunmap(pages);
        // SAFETY: P5: the record is marked, so nobody else maps or frees it.
        let unmapped = unsafe { self.vm.unmap_part(record.start, pages.pages) };
        self.end_claim(record, unmapped.is_ok());
        match unmapped {
            Ok(_) => Ok(()),
            Err(AllocError::WrongContext(context)) => Err(Error::WrongContext(context)),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives the addresses of an area by parts back, of which nothing is bound.
    pub(crate) fn give_addresses(&self, start: usize) {
        let at = NonNull::new(with_exposed_provenance_mut(start));
        // SAFETY: V1: nothing is bound, and nobody knows it any more.
        let freed = at.map(|at| unsafe { self.vm.free(at) });
        debug_assert!(matches!(freed, Some(Ok(()))), "the reservation is ours: {freed:?}");
    }

    /// Areas are made by tasks: an interrupt was a bug there.
    pub(crate) fn not_in_interrupt(&self) -> Result<(), Error> {
        match self.machine().context() {
            context @ (Context::HardIrq | Context::Softirq | Context::Nmi) => Err(Error::WrongContext(context)),
            Context::Task | Context::Atomic => Ok(()),
        }
    }

    /// Whether an area by parts holds all of the range, and its flags are as `asked`
    /// says.
    pub(crate) fn area_by_parts(&self, pages: PageRange) -> Result<Record, Error> {
        let info = self.vm.find(pages.start.0).filter(|info| info.kind == Kind::Reserved);
        let info = info.ok_or(Error::NoArea(pages.start.0))?;
        let (start, end) = (pages.start.0, pages.end().0);
        let area_end = info.range().end().0;
        if pages.pages > (area_end - start) >> PAGE_SHIFT {
            return Err(Error::OutsideArea { start, end, area: info.start.0, area_end });
        }
        self.record_of(&info).ok_or(Error::NoArea(start))
    }
}

/// The alignment of a device's area of `size` bytes.
fn ioremap_align(size: usize) -> usize {
    // fls(size): the position of the highest bit, counted from 1.
    let fls = usize::BITS - size.leading_zeros();
    let exact = fls - size.is_power_of_two() as u32;
    1 << exact.clamp(PAGE_SHIFT, IOREMAP_MAX_ORDER)
}
