//! A device: a store behind its lock, and the count of its mappings.

use crate::error::{Error, NoPage};
use crate::geometry::{Geometry, MAX_SIZE};
use crate::mapping::Mapping;
use crate::store::Store;
use crate::user::{User, Wait};
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use vmalloc::error::Broken;
use vmalloc::lock_api::{RawRwLock, RwLock};
use vmalloc::machine::Addressable;
use vmalloc::units::PAGE_SIZE;
use vmalloc::{FrameRef, Vmalloc};

/// A device.
pub struct Device<'v, M: Addressable, R: RawRwLock> {
    store: RwLock<R, Store<'v, M>>,
    /// Raised under the lock, shared; read by who has it alone. So what sees
    /// none sees none until it lets the lock go.
    mappings: AtomicU32,
}

/// How a device is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status {
    /// Its size in bytes.
    pub size: u64,
    /// Its order and qset.
    pub geometry: Geometry,
    /// Pages that it holds: quanta, sets and index.
    pub pages: usize,
    /// Its mappings.
    pub mappings: u32,
}

impl<'v, M: Addressable, R: RawRwLock> Device<'v, M, R> {
    /// An empty device that may hold `budget` bytes, its tables included.
    pub const fn new(vm: &'v Vmalloc<M>, geometry: Geometry, budget: usize) -> Self {
        Device { store: RwLock::new(Store::new(vm, geometry, budget / PAGE_SIZE)), mappings: AtomicU32::new(0) }
    }

    /// Reads up to `count` bytes at `position` into `user`'s memory at `to`,
    /// and returns how many: not past the end of the quantum, and none in a
    /// hole or at the end of the device.
    ///
    /// # Errors
    /// [`Error::Fault`], [`Error::Interrupted`].
    pub fn read(&self, position: u64, user: &mut impl User, to: usize, count: usize) -> Result<usize, Error> {
        let store = interruptible(user, || self.store.try_read(), || self.store.read())?;
        store.read(position, user, to, count)
    }

    /// Writes up to `count` bytes at `position` from `user`'s memory at `from`,
    /// and returns how many: not past the end of the quantum. What was not
    /// there is made, and all that was written before stays whatever happens.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::NoMemory`], [`Error::TooLarge`], [`Error::Interrupted`]:
    /// nothing has changed. [`Error::Fault`]: neither size nor holes have changed, but where
    /// there was data, some of the new bytes may be in place.
    pub fn write(&self, position: u64, user: &mut impl User, from: usize, count: usize) -> Result<usize, Error> {
        let mut store = interruptible(user, || self.store.try_write(), || self.store.write())?;
        store.write(position, user, from, count)
    }

    /// Empties the device, and makes it be of `geometry`.
    ///
    /// # Errors
    /// [`Error::Busy`].
    pub fn trim(&self, geometry: Geometry) -> Result<(), Error> {
        let mut store = self.store.write();
        self.check_unmapped()?;
        store.trim(geometry);
        Ok(())
    }

    /// Makes the device end at `size`: cuts it, or lets it end in a hole.
    ///
    /// # Errors
    /// [`Error::Busy`] where bytes would go, [`Error::TooLarge`].
    pub fn resize(&self, size: u64) -> Result<(), Error> {
        if size > MAX_SIZE {
            return Err(Error::TooLarge);
        }
        let mut store = self.store.write();
        if size < store.size() {
            self.check_unmapped()?;
        }
        store.resize(size);
        Ok(())
    }

    /// Makes zeros of `bytes` bytes from `start` on, and gives back the quanta that lie there as a whole
    /// (`FALLOC_FL_PUNCH_HOLE`): all but one of each item, and none while the device is mapped. Its size
    /// stays.
    pub fn punch(&self, start: u64, bytes: u64) {
        let mut store = self.store.write();
        let end = start.saturating_add(bytes).min(store.size());
        if start < end {
            store.punch(start, end, self.mappings.load(Relaxed) == 0);
        }
    }

    /// Fills the holes in `bytes` bytes from `start` on with zeros that take memory, so that a write there
    /// cannot fail for want of it (`fallocate`). With `grows` the device ends behind them at least;
    /// without, what lies beyond its end stays a hole.
    ///
    /// # Errors
    /// [`Error::TooLarge`]; [`Error::NoSpace`], [`Error::NoMemory`] with the holes before filled.
    pub fn reserve(&self, start: u64, bytes: u64, grows: bool) -> Result<(), Error> {
        let end = start.checked_add(bytes).filter(|&end| end <= MAX_SIZE).ok_or(Error::TooLarge)?;
        let (mut at, mut store) = (start, self.store.write());
        let end = if grows { end } else { end.min(store.size()) };
        while at < end {
            at = store.reserve(at, at + 1)?;
        }
        if grows && end > store.size() {
            store.resize(end);
        }
        Ok(())
    }

    /// Maps the device (`mmap`): until the mapping is dropped, and its clones
    /// are, the device is neither trimmed nor cut.
    pub fn map(&self) -> Mapping<'_, 'v, M, R> {
        let _shared = self.store.read();
        self.mappings.fetch_add(1, Relaxed);
        Mapping::counted(self)
    }

    pub(crate) fn unmap(&self) {
        self.mappings.fetch_sub(1, Relaxed);
    }

    pub(crate) fn frame(&self, position: u64) -> Result<FrameRef<'v, M>, NoPage> {
        self.store.read().frame(position)
    }

    /// Where data begins, at or after `position` (`SEEK_DATA`).
    pub fn next_data(&self, position: u64) -> Option<u64> {
        self.store.read().next_data(position)
    }

    /// Where a hole begins, at or after `position` (`SEEK_HOLE`); the end of
    /// the device counts as one.
    pub fn next_hole(&self, position: u64) -> Option<u64> {
        self.store.read().next_hole(position)
    }

    /// How it is, at one moment.
    pub fn status(&self) -> Status {
        let store = self.store.read();
        let mappings = self.mappings.load(Relaxed);
        Status { size: store.size(), geometry: store.geometry(), pages: store.pages(), mappings }
    }

    /// Walks everything and names the rule that is broken, if one is.
    ///
    /// # Errors
    /// The rule.
    pub fn check(&self) -> Result<(), Broken> {
        self.store.read().check()
    }

    pub(crate) fn with_store<T>(&self, look: impl FnOnce(&Store<'v, M>) -> T) -> T {
        look(&self.store.read())
    }

    fn check_unmapped(&self) -> Result<(), Error> {
        match self.mappings.load(Relaxed) {
            0 => Ok(()),
            mappings => Err(Error::Busy { mappings }),
        }
    }
}

/// Takes the device's lock. A caller that can be interrupted tries and waits by itself, so
/// that a signal ends the call; one that cannot waits by the lock. A lock that is free is
/// taken without a look at signals.
fn interruptible<G>(
    user: &mut impl User,
    try_lock: impl Fn() -> Option<G>,
    lock: impl FnOnce() -> G,
) -> Result<G, Error> {
    loop {
        if let Some(guard) = try_lock() {
            return Ok(guard);
        }
        match user.wait() {
            Wait::Block => return Ok(lock()),
            Wait::Again => {}
            Wait::Interrupted => return Err(Error::Interrupted),
        }
    }
}
