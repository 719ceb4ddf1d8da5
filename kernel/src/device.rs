//! Devices: `ioremap` and its siblings, with their messages.
//!
//! | Function | Memory type |
//! |---|---|
//! | `ioremap` | UC−: uncached, unless a range register says write-combining |
//! | `ioremap_uc` | UC |
//! | `ioremap_wc` | WC |
//! | `ioremap_wt` | WT |
//! | `ioremap_cache` | WB |
//!
//! The library maps them. No device is mapped with two memory types at a time
//! ([`memtype`](crate::memtype)).

use crate::call::Value;
use crate::error::Error;
use crate::flags::VmFlags;
use crate::gfp::GfpFlags;
use crate::host::{Host, Kern};
use crate::kernel::Kernel;
use crate::records::{Built, Record};
use crate::vfree::{Pointer, pointer};
use crate::warn::Once;
use core::ptr::NonNull;
use vmalloc::machine::Machine;
use vmalloc::machine::format::MemType;
use vmalloc::units::{PAGE_SIZE, Pfn};
use vmalloc::{AllocError, Caller, Kind};

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// Maps `size` bytes of a device at `phys`, neither of which has to be page-aligned, uncached
    /// (UC−). [`Kernel::iounmap`] ends it.
    ///
    /// # Errors
    /// EINVAL for no bytes, for a range that is memory, told once as `ioremap on RAM at …`, or that
    /// no entry can name, told as `ioremap: invalid physical address …`; E2BIG where it wraps;
    /// EBUSY where the device is mapped with another memory type, told as `ioremap error for …`;
    /// those of `vmalloc`. Nothing has changed then.
    ///
    /// # Cost
    /// O(areas), for the memory types, and O(pages). Source: `ioremap`.
    #[track_caller]
    pub fn ioremap(&self, phys: u64, size: usize) -> Result<NonNull<u8>, Error> {
        self.map_device(phys, size, MemType::UncachedMinus, Caller::here())
    }

    /// As [`Kernel::ioremap`], uncached whatever range registers say.
    ///
    /// # Errors
    /// As there.
    #[track_caller]
    pub fn ioremap_uc(&self, phys: u64, size: usize) -> Result<NonNull<u8>, Error> {
        self.map_device(phys, size, MemType::Uncached, Caller::here())
    }

    /// As [`Kernel::ioremap`], write-combining.
    ///
    /// # Errors
    /// As there.
    #[track_caller]
    pub fn ioremap_wc(&self, phys: u64, size: usize) -> Result<NonNull<u8>, Error> {
        self.map_device(phys, size, MemType::WriteCombining, Caller::here())
    }

    /// As [`Kernel::ioremap`], write-through.
    ///
    /// # Errors
    /// As there.
    #[track_caller]
    pub fn ioremap_wt(&self, phys: u64, size: usize) -> Result<NonNull<u8>, Error> {
        self.map_device(phys, size, MemType::WriteThrough, Caller::here())
    }

    /// As [`Kernel::ioremap`], cached like memory.
    ///
    /// # Errors
    /// As there.
    #[track_caller]
    pub fn ioremap_cache(&self, phys: u64, size: usize) -> Result<NonNull<u8>, Error> {
        self.map_device(phys, size, MemType::WriteBack, Caller::here())
    }

    fn map_device(&self, phys: u64, size: usize, memory: MemType, caller: Caller) -> Result<NonNull<u8>, Error> {
        let arguments = [("phys_addr", Value::Address(phys as usize)), ("size", Value::Number(size))];
        let _call = self.enter("ioremap", &arguments);
        let last = last_byte(phys, size)?;
        let frames = Pfn::containing(phys)..=Pfn::containing(last);
        let made = self.claimed(frames.clone(), memory, || {
            if let Some(got) = self.other_device_memory(&frames, memory) {
                return Err(Error::OtherMemory { requested: memory, got });
            }
            Ok(self.vm.ioremap_for(phys, size, memory, caller)?)
        });
        let at = made.inspect_err(|error| self.tell_device((phys, last), error))?;
        let start = at.addr().get() & !(PAGE_SIZE - 1);
        let mut record = Record::new(start, VmFlags::IOREMAP, Built::Whole, size);
        (record.phys, record.memory) = (Some(phys & !(PAGE_SIZE as u64 - 1)), Some(memory));
        self.keep_record(record, GfpFlags::KERNEL).inspect_err(|_| {
            // SAFETY: V1: nobody knows it yet.
            let undone = unsafe { self.vm.iounmap(at) };
            debug_assert!(undone.is_ok(), "it was mapped a moment ago");
        })?;
        Ok(at)
    }

    fn tell_device(&self, (phys, last): (u64, u64), error: &Error) {
        match *error {
            Error::OtherMemory { requested, got } => {
                let (requested, got, end) = (number_of(requested), number_of(got), last + 1);
                let line = format_args!("ioremap error for {phys:#x}-{end:#x}, requested {requested:#x}, got {got:#x}");
                self.printk(Kern::Err, line);
            }
            Error::Alloc(AllocError::BadFrame(_)) => {
                self.printk(Kern::Warning, format_args!("ioremap: invalid physical address {phys:x}"));
            }
            Error::Alloc(AllocError::IsRam(_)) if self.first_time(Once::OnRam) => {
                self.printk(Kern::Warning, format_args!("ioremap on RAM at {phys:#018x} - {last:#018x}"));
            }
            _ => (),
        }
    }

    /// Ends what `ioremap` began; any address of its first page will do. Null is nothing.
    ///
    /// # Errors
    /// [`Error::Free`] after `iounmap: bad address %p`. Nothing has changed then.
    ///
    /// # Safety
    /// Y1.
    ///
    /// # Source
    /// `iounmap`.
    #[track_caller]
    pub unsafe fn iounmap(&self, at: *const u8) -> Result<(), Error> {
        let _call = self.enter("iounmap", &[("addr", Value::Address(at.addr()))]);
        let Some(start) = pointer(at.addr() & !(PAGE_SIZE - 1)) else { return Ok(()) };
        let is_device = self.vm.find(start.addr().get()).is_some_and(|info| info.kind == Kind::Ioremap);
        if is_device {
            self.take_record(start.addr().get(), |record| record.flags.contains(VmFlags::IOREMAP))?;
        }
        // SAFETY: V1: Y1.
        let ended = unsafe { self.vm.iounmap(start) };
        ended.inspect_err(|_| self.printk(Kern::Err, format_args!("iounmap: bad address {}", Pointer(at.addr()))))?;
        Ok(())
    }
}

/// The last byte of a range that wraps nowhere.
fn last_byte(phys: u64, size: usize) -> Result<u64, Error> {
    let more = (size as u64).checked_sub(1).ok_or(AllocError::ZeroSize)?;
    let too_large = AllocError::TooLarge { bytes: size, limit: u64::MAX.wrapping_sub(phys) as usize };
    Ok(phys.checked_add(more).ok_or(too_large)?)
}

/// The traditional number of a memory type (`enum page_cache_mode`).
const fn number_of(memory: MemType) -> u32 {
    match memory {
        MemType::WriteBack => 0,
        MemType::WriteCombining => 1,
        MemType::UncachedMinus => 2,
        MemType::Uncached => 3,
        MemType::WriteThrough => 4,
    }
}
