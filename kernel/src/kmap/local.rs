//! kmap_local: 16 pages a CPU, for a few instructions.
//!
//! They are slots of the fixmap. A CPU's newest mapping is unmapped first, so an interrupt may
//! map and unmap in the middle of a task's use; the task stays on its CPU until it has unmapped
//! all (J13). No other CPU uses the addresses, so unmapping flushes this CPU's translation of
//! the page, and asks nobody else. What another CPU may have guessed reaches the frame and not
//! its next holder: the library keeps a frame that is given up until all CPUs have flushed.
//!
//! Source: `kmap_local_page_prot`, `kunmap_local`.

use super::{Place, Window, fix_to_virt, pointer, virt_to_fix};
use crate::error::Error;
use crate::flags::Pgprot;
use crate::host::{Host, Kern};
use crate::kernel::Kernel;
use crate::sync::{AtomicUsize, Ordering::Relaxed};
use arrayvec::ArrayVec;
use core::ptr::NonNull;
use vmalloc::machine::{Flush, Machine};
use vmalloc::units::{MAX_CPUS, PAGE_SIZE, PageRange, Pfn, VirtAddr};

/// Slots of a CPU.
pub const KM_MAX_IDX: usize = 16;

/// The slots of all CPUs.
pub struct KmapLocal<'k, M: Machine, H: Host> {
    stacks: ArrayVec<Stack<'k, M, H>, MAX_CPUS>,
    kernel: &'k Kernel<'k, M, H>,
    place: Place,
    first: usize,
}

/// The slots of a CPU.
struct Stack<'k, M: Machine, H: Host> {
    window: Window<'k, M, H>,
    /// Slots in use. Its CPU alone writes it: an interrupt leaves it as it was.
    depth: AtomicUsize,
}

impl<'k, M: Machine, H: Host> KmapLocal<'k, M, H> {
    /// Takes the slots of the fixmap below `place.at` from `first` on, 16 for each CPU.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for numbers that are none; what the library refuses where their addresses
    /// are not all free in the region.
    pub fn new(kernel: &'k Kernel<'k, M, H>, place: Place, first: usize) -> Result<Self, Error> {
        let mut stacks = ArrayVec::new();
        for cpu in 0..(kernel.machine().cpus() as usize).min(MAX_CPUS) {
            let last = first.checked_add((cpu + 1) * KM_MAX_IDX - 1).filter(|last| *last <= place.at / PAGE_SIZE);
            let last = last.filter(|_| first > 0).ok_or(Error::BadArgument(first))?;
            let window = Window::new(kernel, place.region, fix_to_virt(place.at, last), KM_MAX_IDX)?;
            stacks.push(Stack { window, depth: AtomicUsize::new(0) });
        }
        Ok(KmapLocal { stacks, kernel, place, first })
    }

    /// An address of `frame` for this CPU: that of the direct mapping, or a slot's. From any
    /// context but an NMI.
    ///
    /// # Errors
    /// [`Error::TooLarge`] where all 16 slots are in use; [`Error::Alloc`] for a frame that no
    /// entry can name. Nothing has changed then.
    ///
    /// # Safety
    /// Y3, until [`KmapLocal::kunmap_local`], and J13: no other CPU uses the address.
    pub unsafe fn kmap_local_page(&self, frame: Pfn, prot: Pgprot) -> Result<NonNull<u8>, Error> {
        if frame < self.place.high_from {
            return Ok(self.kernel.machine().virt(frame));
        }
        self.kernel.host.migrate_disable();
        // SAFETY: Y3 and J13, handed on.
        let mapped = unsafe { self.push(frame, prot) };
        if mapped.is_err() {
            self.kernel.host.migrate_enable();
        }
        mapped
    }

    /// # Safety
    /// Y3, J13; the task stays on its CPU.
    unsafe fn push(&self, frame: Pfn, prot: Pgprot) -> Result<NonNull<u8>, Error> {
        let (cpu, stack) = self.here()?;
        let depth = stack.depth.load(Relaxed);
        if depth == KM_MAX_IDX {
            return Err(Error::TooLarge { bytes: (depth + 1) * PAGE_SIZE, limit: depth * PAGE_SIZE });
        }
        // First: what interrupts takes the next one.
        stack.depth.store(depth + 1, Relaxed);
        let at = self.address(cpu, depth);
        // SAFETY: Y3, handed on. J11: this CPU has flushed the page, and no other uses it. What
        // interrupts this call maps before or after it, since a page is one section.
        let mapped = unsafe { stack.window.map(at, frame, prot) };
        if mapped.is_err() {
            stack.depth.store(depth, Relaxed);
        }
        mapped.and_then(|()| pointer(at))
    }

    /// Ends this CPU's newest mapping, which is at `at`; an address of the direct mapping has
    /// nothing to end.
    ///
    /// # Errors
    /// [`Error::NotNewest`] for a slot that is not, or is another CPU's, which is told. Nothing
    /// has changed then.
    ///
    /// # Safety
    /// Y1.
    pub unsafe fn kunmap_local(&self, at: NonNull<u8>) -> Result<(), Error> {
        let at = at.addr().get() & !(PAGE_SIZE - 1);
        if !self.is_slot(at) {
            return Ok(());
        }
        let (cpu, stack) = self.here()?;
        let newest = stack.depth.load(Relaxed).checked_sub(1).map(|depth| (depth, self.address(cpu, depth)));
        let Some((depth, _)) = newest.filter(|(_, newest)| *newest == at) else {
            return Err(self.misused(at, cpu, newest.map(|(_, newest)| newest)));
        };
        // SAFETY: Y1, handed on; Y3: the slot is this CPU's newest.
        unsafe { stack.window.unmap(at) }?;
        self.flush_here(at);
        stack.depth.store(depth, Relaxed);
        self.kernel.host.migrate_enable();
        Ok(())
    }

    /// How many slots of this CPU are in use.
    pub fn depth(&self) -> usize {
        self.here().map_or(0, |(_, stack)| stack.depth.load(Relaxed))
    }

    /// Tells of an unmapping in a wrong order.
    fn misused(&self, at: usize, cpu: usize, newest: Option<usize>) -> Error {
        let owner = (virt_to_fix(self.place.at, at) - self.first) / KM_MAX_IDX;
        match newest {
            _ if owner != cpu => {
                self.tell(format_args!("kunmap_local: {at:#x} is CPU {owner}'s, and this is CPU {cpu}"))
            }
            Some(newest) => {
                self.tell(format_args!("kunmap_local: {at:#x} is not CPU {cpu}'s newest, which is {newest:#x}"))
            }
            None => self.tell(format_args!("kunmap_local: {at:#x}, and CPU {cpu} has nothing mapped")),
        }
        Error::NotNewest { at, newest: newest.unwrap_or(0) }
    }

    fn tell(&self, line: core::fmt::Arguments<'_>) {
        self.kernel.printk(Kern::Warning, line);
    }

    /// This CPU, on which the task stays, and its slots.
    fn here(&self) -> Result<(usize, &Stack<'k, M, H>), Error> {
        let machine = self.kernel.machine();
        let was = machine.pin();
        let cpu = was.cpu as usize;
        // SAFETY: our own pin, the youngest.
        unsafe { machine.unpin(was) };
        self.stacks.get(cpu).map(|stack| (cpu, stack)).ok_or(Error::BadArgument(cpu))
    }

    fn address(&self, cpu: usize, depth: usize) -> usize {
        fix_to_virt(self.place.at, self.first + cpu * KM_MAX_IDX + depth)
    }

    /// Whether the page at `at` is a slot of any CPU.
    fn is_slot(&self, at: usize) -> bool {
        let lowest = fix_to_virt(self.place.at, self.first + self.stacks.len() * KM_MAX_IDX - 1);
        (lowest..=fix_to_virt(self.place.at, self.first)).contains(&at)
    }

    /// This CPU forgets the page at `at`.
    fn flush_here(&self, at: usize) {
        let machine = self.kernel.machine();
        let was = machine.pin();
        machine.flush(Flush::Ranges(&[PageRange::new(VirtAddr(at), 1)]));
        // SAFETY: our own pin, the youngest.
        unsafe { machine.unpin(was) };
    }
}
