//! The permanent kmap: entries that all CPUs share.
//!
//! ```text
//!            kmap                      kunmap
//!   clean ─────────▶ used, count 2 ─────────────▶ unused, count 1
//!     ▲               ▲  │ kmap: count + 1           │       │
//!     │               └──┘ kunmap: count − 1         │       │ kmap of the same frame
//!     │   wrap: all unused ones, one flush           │       └──▶ count 2
//!     └──────────────────────────────────────────────┘
//! ```
//!
//! A frame has one entry, whoever maps it. The table is behind a lock, and nothing is mapped or
//! waited for under it (J1): one task at a time **changes** entries, outside of the lock, and
//! others who would have to wait for it as they wait for a clean entry.
//!
//! An unused entry is still mapped, so the table holds its frame: it may be freed after
//! `kunmap`, and goes back at the wrap. [`Pkmap::flush_unused`] makes the wrap come early.
//!
//! Source: `kmap`, `kunmap`, `kmap_flush_unused`, `page_address`.

use super::{Place, Window, pointer};
use crate::error::Error;
use crate::flags::Pgprot;
use crate::host::{Host, Kern};
use crate::kernel::Kernel;
use crate::sync::breaks;
use core::ptr::NonNull;
use vmalloc::lock_api::Mutex;
use vmalloc::machine::frames::Frames;
use vmalloc::machine::{Context, Machine};
use vmalloc::units::{PAGE_SIZE, Pfn};

/// Entries.
pub const LAST_PKMAP: usize = 1024;
/// Entries with PAE.
pub const LAST_PKMAP_PAE: usize = 512;

/// Lists of frames, by their hash.
const LISTS: usize = 128;
/// The end of a list.
const NONE: u16 = u16::MAX;

/// The permanent kmap. It has some 16 KiB of its own.
pub struct Pkmap<'k, M: Machine, H: Host> {
    window: Window<'k, M, H>,
    table: Mutex<M::Lock, Table>,
    place: Place,
}

#[derive(Clone, Copy)]
struct Slot {
    frame: Pfn,
    /// J12.
    count: u32,
    /// The next of its list.
    next: u16,
}

struct Table {
    slots: [Slot; LAST_PKMAP],
    lists: [u16; LISTS],
    entries: usize,
    /// The entry that was given out last.
    last: usize,
    /// Unused entries were flushed, and the search goes on at entry 0.
    flushed: bool,
    /// A task changes entries.
    changing: bool,
}

/// What came of a search.
enum Taken {
    /// The frame is mapped.
    There(usize),
    /// A clean entry, for the caller to map; it changes entries until it has.
    Clean(usize),
    /// The search wrapped, and there are unused entries; the caller changes entries until it
    /// has flushed them.
    Wrapped,
    /// All are used, or somebody else changes entries.
    Wait,
}

impl Table {
    fn new(entries: usize) -> Table {
        let slot = Slot { frame: Pfn(0), count: 0, next: NONE };
        let last = entries.saturating_sub(1);
        Table { slots: [slot; LAST_PKMAP], lists: [NONE; LISTS], entries, last, flushed: false, changing: false }
    }

    /// The entry of `frame`, which is no clean one.
    fn find(&self, frame: Pfn) -> Option<usize> {
        let listed = |at: u16| (at != NONE).then_some(at);
        let mut list =
            core::iter::successors(listed(self.lists[hash(frame)]), |&at| listed(self.slots[at as usize].next));
        list.find(|&at| self.slots[at as usize].frame == frame).map(usize::from)
    }

    fn take(&mut self, frame: Pfn) -> Taken {
        if let Some(at) = self.find(frame) {
            self.slots[at].count += u32::from(!breaks!(UserCountedLate));
            return Taken::There(at);
        }
        if self.changing {
            return Taken::Wait;
        }
        for _ in 0..self.entries {
            let next = (self.last + 1) % self.entries;
            if next == 0 && !self.flushed && self.slots[..self.entries].iter().any(|slot| slot.count == 1) {
                (self.flushed, self.changing) = (true, true);
                return Taken::Wrapped;
            }
            (self.last, self.flushed) = (next, false);
            if self.slots[next].count == 0 {
                self.changing = true;
                return Taken::Clean(next);
            }
        }
        Taken::Wait
    }

    /// The frame is mapped in the entry, for its first user.
    fn add(&mut self, at: usize, frame: Pfn) {
        let list = &mut self.lists[hash(frame)];
        self.slots[at] = Slot { frame, count: 2, next: *list };
        *list = at as u16;
    }

    /// The entry is mapped and unused as before.
    fn put_back(&mut self, at: usize, frame: Pfn) {
        self.add(at, frame);
        self.slots[at].count = 1;
    }

    /// The next unused entry from `from` on, which is clean from here on, and its frame.
    fn take_unused(&mut self, from: usize) -> Option<(usize, Pfn)> {
        let at = (from..self.entries).find(|&at| self.slots[at].count == 1)?;
        let Slot { frame, next, .. } = self.slots[at];
        let list = &mut self.lists[hash(frame)];
        if *list == at as u16 {
            *list = next;
        } else {
            let before = self.slots.iter_mut().find(|slot| slot.count > 0 && slot.next == at as u16);
            before.into_iter().for_each(|slot| slot.next = next);
        }
        self.slots[at] = Slot { frame: Pfn(0), count: 0, next: NONE };
        Some((at, frame))
    }
}

fn hash(frame: Pfn) -> usize {
    frame.0 as usize % LISTS
}

impl<'k, M: Machine, H: Host> Pkmap<'k, M, H> {
    /// Takes the addresses of `entries` entries, 1,024 at most, from `place.at` on.
    ///
    /// # Errors
    /// [`Error::BadArgument`]; what the library refuses where they are not all free.
    pub fn new(kernel: &'k Kernel<'k, M, H>, place: Place, entries: usize) -> Result<Self, Error> {
        if !(1..=LAST_PKMAP).contains(&entries) {
            return Err(Error::BadArgument(entries));
        }
        let window = Window::new(kernel, place.region, place.at, entries)?;
        Ok(Pkmap { window, table: Mutex::new(Table::new(entries)), place })
    }

    /// An address of `frame` for all CPUs: that of the direct mapping, or an entry's. Sleeps
    /// by the host's hook while all entries are used.
    ///
    /// # Errors
    /// [`Error::WrongContext`] for a high frame where nobody may sleep; [`Error::Alloc`] for a
    /// frame that no entry can name. Nothing has changed then.
    ///
    /// # Safety
    /// Y3, until [`Pkmap::kunmap`].
    pub unsafe fn kmap(&self, frame: Pfn) -> Result<NonNull<u8>, Error> {
        let kernel = self.window.kernel;
        if frame < self.place.high_from {
            return Ok(kernel.machine().virt(frame));
        }
        let context = kernel.machine().context();
        if context != Context::Task {
            return Err(Error::WrongContext(context));
        }
        loop {
            match kernel.locked(&self.table, |table| table.take(frame))? {
                Taken::There(at) => {
                    if breaks!(UserCountedLate) {
                        kernel.locked(&self.table, |table| table.slots[at].count += 1)?;
                    }
                    return pointer(self.address(at));
                }
                // SAFETY: Y3, handed on.
                Taken::Clean(at) => return unsafe { self.map(at, frame) },
                Taken::Wrapped => self.changed(self.clean(), |_| ())?,
                Taken::Wait => kernel.host.pkmap_wait(),
            }
        }
    }

    /// Gives the address of a high frame up; a low one has no entry.
    ///
    /// # Errors
    /// [`Error::NotMapped`] where nobody uses an entry of the frame, which is told. Nothing has
    /// changed then.
    ///
    /// # Safety
    /// Y1.
    pub unsafe fn kunmap(&self, frame: Pfn) -> Result<(), Error> {
        if frame < self.place.high_from {
            return Ok(());
        }
        let kernel = self.window.kernel;
        let left = kernel.locked(&self.table, |table| {
            let slot = table.find(frame).map(|at| &mut table.slots[at]).filter(|slot| slot.count > 1)?;
            slot.count -= 1;
            Some(slot.count)
        })?;
        match left {
            None => {
                kernel.printk(Kern::Warning, format_args!("kunmap: {frame:?} is mapped by nobody"));
                return Err(Error::NotMapped(frame));
            }
            Some(1) => kernel.host.pkmap_wake(),
            Some(_) => (),
        }
        Ok(())
    }

    /// Makes all unused entries clean, with one flush, and gives their frames up.
    ///
    /// # Errors
    /// [`Error::WrongContext`] in an NMI, and where another task changes entries and the caller
    /// may not sleep until it has: nothing has changed then. Where the caller may not wait for the
    /// flush, the next [`Pkmap::kmap`] does.
    pub fn flush_unused(&self) -> Result<(), Error> {
        let kernel = self.window.kernel;
        let context = kernel.machine().context();
        if context == Context::Nmi {
            return Err(Error::WrongContext(context));
        }
        while kernel.locked(&self.table, |table| core::mem::replace(&mut table.changing, true))? {
            if context != Context::Task {
                return Err(Error::WrongContext(context));
            }
            if breaks!(FlushWaitsNot) {
                return Ok(());
            }
            // Whoever changes entries may only map one.
            kernel.host.pkmap_wait();
        }
        self.changed(self.clean(), |_| ())
    }

    /// The address of `frame`, where it has one (`page_address`).
    pub fn page_address(&self, frame: Pfn) -> Option<NonNull<u8>> {
        if frame < self.place.high_from {
            return Some(self.window.kernel.machine().virt(frame));
        }
        let found = self.window.kernel.locked(&self.table, |table| table.find(frame)).ok()?;
        pointer(self.address(found?)).ok()
    }

    /// The count of an entry (J12).
    pub fn count(&self, entry: usize) -> Option<u32> {
        let count = |table: &mut Table| table.slots[..table.entries].get(entry).map(|slot| slot.count);
        self.window.kernel.locked(&self.table, count).ok()?
    }

    fn address(&self, entry: usize) -> usize {
        self.place.at + entry * PAGE_SIZE
    }

    /// Maps `frame` in a clean entry; the caller changes entries.
    ///
    /// # Safety
    /// Y3.
    unsafe fn map(&self, entry: usize, frame: Pfn) -> Result<NonNull<u8>, Error> {
        let at = self.address(entry);
        // SAFETY: Y3, handed on; J11: all CPUs have flushed.
        let mapped = self.window.flush().and_then(|()| unsafe { self.window.map(at, frame, Pgprot::KERNEL) });
        if mapped.is_ok() {
            // The table's own hold, which `clean` gives up; a source without descriptors has none.
            self.window.kernel.vm.hold_frame(at);
        }
        self.changed(mapped, |table| table.add(entry, frame))?;
        pointer(at)
    }

    /// Unmaps all unused entries, and flushes; the caller changes entries.
    fn clean(&self) -> Result<(), Error> {
        let kernel = self.window.kernel;
        let mut next = 0;
        while let Some((entry, frame)) = kernel.locked(&self.table, |table| table.take_unused(next))? {
            // SAFETY: Y1: nobody uses it; Y3: the caller alone changes entries.
            if let Err(error) = unsafe { self.window.unmap(self.address(entry)) } {
                kernel.locked(&self.table, |table| table.put_back(entry, frame))?;
                return Err(error);
            }
            if kernel.machine().frames().page(frame).is_some() {
                kernel.give_frame(frame);
            }
            next = entry + 1;
        }
        self.window.flush()
    }

    /// The caller changes entries no more: what it did is written down, and who waits is told.
    fn changed(&self, done: Result<(), Error>, write: impl FnOnce(&mut Table)) -> Result<(), Error> {
        let kernel = self.window.kernel;
        kernel.locked(&self.table, |table| {
            table.changing = false;
            if done.is_ok() {
                write(table);
            }
        })?;
        kernel.host.pkmap_wake();
        done
    }
}

impl<M: Machine, H: Host> Drop for Pkmap<'_, M, H> {
    fn drop(&mut self) {
        let table = self.table.get_mut();
        table.slots.iter_mut().for_each(|slot| slot.count = slot.count.min(1));
        let cleaned = self.clean();
        debug_assert!(cleaned.is_ok(), "nobody else has it");
    }
}
