//! `vm_struct`: what is known of an area, and the list of all.
//!
//! A [`VmStruct`] is a copy, made when it is asked for, of what the library's slot
//! and the subsystem's record say: there is no list that areas are linked into, and
//! none to lock. [`Kernel::vmlist`] goes through the areas by address all the same.
//!
//! Source: `struct vm_struct` of 3.0 and of 6.12; `vmlist`, which is sorted by address
//! and has a head.

use crate::array::PageArray;
use crate::error::Error;
use crate::flags::{VmFlags, VmFlags30};
use crate::gfp::GfpFlags;
use crate::host::{Host, Kern};
use crate::kernel::Kernel;
use crate::records::Record;
use crate::warn::Once;
use vmalloc::area::Guard;
use vmalloc::machine::Machine;
use vmalloc::units::{PAGE_SIZE, Pfn};
use vmalloc::{Caller, Info, Kind};

/// What is known of an area.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VmStruct {
    /// Its first byte.
    pub addr: usize,
    /// Its bytes, with the guard.
    pub size: usize,
    /// Its flags.
    pub flags: VmFlags,
    /// The array of its pages, where it has one ([`Kernel::pages`]).
    pub pages: Option<PageArray>,
    /// log2 of the pages of a leaf: always 0.
    pub page_order: u32,
    /// Pages that are its own, and freed with it.
    pub nr_pages: usize,
    /// The physical address of a device; of others 0.
    pub phys_addr: u64,
    /// Who asked for it.
    pub caller: Caller,
    /// Bytes that were asked for.
    pub requested_size: usize,
}

impl VmStruct {
    pub(crate) fn new(info: &Info, record: Option<&Record>) -> VmStruct {
        let owned = if info.kind.owns() { info.pages } else { 0 };
        VmStruct {
            addr: info.start.0,
            size: info.size(),
            flags: record.map_or(flags_of(info.kind), |record| record.flags) | guard_flag(info),
            pages: record.and_then(|record| record.array),
            page_order: 0,
            nr_pages: record.map_or(owned, |record| record.nr_pages),
            phys_addr: record.and_then(|record| record.phys).or(info.phys).unwrap_or(0),
            caller: info.caller,
            requested_size: record.map_or(info.bytes, |record| record.requested),
        }
    }

    /// Bytes without the guard (`get_vm_area_size`).
    pub fn area_size(&self) -> usize {
        if self.flags.contains(VmFlags::NO_GUARD) { self.size } else { self.size - PAGE_SIZE }
    }

    /// The first byte behind the area, without its guard.
    pub fn end(&self) -> usize {
        self.addr + self.area_size()
    }

    /// The flags in the form of 3.0: of the later ones nothing is told, but whether the
    /// array lies in an area of its own.
    pub fn flags_3_0(&self) -> VmFlags30 {
        let vpages = self.pages.is_some_and(|pages| pages.is_vpages());
        let flags = VmFlags30::from_bits_truncate(self.flags.bits() & 0x7);
        if vpages { flags | VmFlags30::VPAGES } else { flags }
    }
}

/// What the kind of an area of the library's own is as flags.
fn flags_of(kind: Kind) -> VmFlags {
    match kind {
        Kind::Vmalloc | Kind::Stack => VmFlags::ALLOC,
        Kind::Vmap => VmFlags::MAP,
        Kind::VmapOwned => VmFlags::MAP | VmFlags::MAP_PUT_PAGES,
        Kind::Ioremap => VmFlags::IOREMAP,
        Kind::MapRam | Kind::Reserved | Kind::Sparse => VmFlags::empty(),
    }
}

fn guard_flag(info: &Info) -> VmFlags {
    if info.guard == Guard::None { VmFlags::NO_GUARD } else { VmFlags::empty() }
}

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    pub(crate) fn vm_struct(&self, info: &Info) -> VmStruct {
        VmStruct::new(info, self.record_of(info).as_ref())
    }

    /// The area that holds `at`, interior addresses too. What is mapped for a short
    /// time has no `vm_struct`, and is not found.
    ///
    /// # Cost
    /// O(1) of the library, and the records' lock. Source: `find_vm_area`.
    pub fn find_vm_area(&self, at: usize) -> Option<VmStruct> {
        let info = self.vm.find(at).filter(|info| info.kind != Kind::MapRam)?;
        Some(self.vm_struct(&info))
    }

    /// The frame behind an address of an area, without a hold: it is the caller's to know
    /// that the area lives on. `None` where nothing is bound.
    ///
    /// An entry that makes no sense is warned of, once.
    ///
    /// # Cost
    /// O(1), no lock. Source: `vmalloc_to_page`, `vmalloc_to_pfn`.
    pub fn vmalloc_to_page(&self, at: usize) -> Option<Pfn> {
        let frame = self.vm.frame_at(at);
        if frame.is_none() {
            self.tell_bad_entry(at);
        }
        frame
    }

    #[cold]
    fn tell_bad_entry(&self, at: usize) {
        if self.vm.find(at).is_none() {
            return;
        }
        // SAFETY: Y7: `at` lies in an area, which the caller knows to live on.
        let last = unsafe { self.walk(at) }.up().next();
        let Some(bad) = last.filter(|entry| entry.bad()) else { return };
        if self.first_time(Once::BadEntry) {
            let (level, word) = (bad.level.name(), bad.word());
            self.printk(Kern::Warning, format_args!("vmalloc_to_page: bad {level} ({word:016x}) at {at:#x}"));
        }
    }

    /// The frames behind the area that holds `at`, page by page; `None` for a page where nothing
    /// is bound. Without holds, as [`Kernel::vmalloc_to_page`].
    ///
    /// # Cost
    /// O(1) a page. Source: the page iterators of the Rust bindings of the newest kernels.
    pub fn page_iter(&self, at: usize) -> impl Iterator<Item = Option<Pfn>> + '_ {
        let pages = self.vm.find(at).into_iter().flat_map(|info| (0..info.pages).map(move |n| info.start.add_pages(n)));
        pages.map(|page| self.vm.frame_at(page.0))
    }

    /// All areas, by address. The iterator is no moment's picture, but each of its
    /// items was true at some moment.
    ///
    /// # Cost
    /// O(1) an area. Source: `vmlist`.
    pub fn vmlist(&self) -> impl Iterator<Item = VmStruct> + '_ {
        let lasting = self.vm.areas().filter(|info| info.kind != Kind::MapRam);
        lasting.map(|info| self.vm_struct(&info))
    }

    /// The area with the lowest address: the head of `vmlist`.
    ///
    /// # Cost
    /// O(1).
    pub fn vmlist_head(&self) -> Option<VmStruct> {
        self.vmlist().next()
    }

    /// The area after `area`, by address: `next`.
    ///
    /// # Cost
    /// O(areas): whoever wants all of them uses [`Kernel::vmlist`].
    pub fn next(&self, area: &VmStruct) -> Option<VmStruct> {
        self.vmlist().find(|next| next.addr > area.addr)
    }

    /// The array of the area's pages, made now if it has none: one that the slab has,
    /// for a page or less, or else an area, made by a request of its own. It is freed
    /// with the area, by [`Kernel::vfree`].
    ///
    /// # Errors
    /// [`Error::NoArea`]; [`Error::Alloc`] where there is no memory for it, which is told as
    /// `failed to allocated page array size %lu`, and after which the area is as it was.
    ///
    /// # Cost
    /// O(pages), each with a walk.
    pub fn pages(&self, at: usize, gfp: GfpFlags) -> Result<PageArray, Error> {
        let info = self.vm.find(at).filter(|info| info.start.0 == at).ok_or(Error::NoArea(at))?;
        let area = self.vm_struct(&info);
        if let Some(array) = area.pages {
            return Ok(array);
        }
        let array = self.new_array(info.pages, gfp, None, |bytes, gfp| self.plain_area(bytes, gfp));
        let array = array.inspect_err(|_| self.tell_no_array(&area, info.pages, gfp))?;
        let filled = self.fill_from_entries(&info, &array).and_then(|()| self.keep_array(&area, array, gfp));
        filled.inspect_err(|_| self.free_array(&array))?;
        Ok(array)
    }

    fn tell_no_array(&self, area: &VmStruct, pages: usize, gfp: GfpFlags) {
        let (size, bytes) = (area.requested_size, pages * crate::array::ELEMENT);
        let line = format_args!("vmalloc error: size {size}, failed to allocated page array size {bytes}");
        self.warn_alloc(gfp, line);
    }

    fn fill_from_entries(&self, info: &Info, array: &PageArray) -> Result<(), Error> {
        for page in 0..info.pages {
            if let Some(frame) = self.vm.frame_at(info.start.add_pages(page).0) {
                self.set_page(array, page, frame)?;
            }
        }
        Ok(())
    }

    fn keep_array(&self, area: &VmStruct, array: PageArray, gfp: GfpFlags) -> Result<(), Error> {
        use crate::records::Built;
        if self.with_record(area.addr, |record| record.array = Some(array)).is_some() {
            return Ok(());
        }
        let flags = area.flags.difference(VmFlags::NO_GUARD);
        let mut record = Record::new(area.addr, flags, Built::Whole, area.requested_size);
        (record.array, record.nr_pages) = (Some(array), area.nr_pages);
        self.keep_record(record, gfp)
    }
}
