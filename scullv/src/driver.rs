//! The driver: the devices, and the settings that they share.

use crate::device::Device;
use crate::error::Error;
use crate::file::{Access, File};
use crate::geometry::{Geometry, MAX_ORDER, MAX_QSET};
use crate::ioctl::Settings;
use core::ptr::NonNull;
use core::{fmt, slice};
use vmalloc::lock_api::RawRwLock;
use vmalloc::machine::Addressable;
use vmalloc::units::{PAGE_SIZE, Pfn};
use vmalloc::{Gfp, Vmalloc};

/// What the driver is loaded with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parameters {
    /// How many devices.
    pub devices: usize,
    /// The order of their quanta, to begin with.
    pub order: u32,
    /// The quanta of their items, to begin with.
    pub qset: u32,
    /// Bytes that each may hold, its tables included; `usize::MAX` for as many
    /// as the instance has.
    pub budget: usize,
}

impl Default for Parameters {
    fn default() -> Parameters {
        Parameters { devices: 4, order: Geometry::DEFAULT.order(), qset: Geometry::DEFAULT.qset(), budget: usize::MAX }
    }
}

/// The devices. They lie in a frame of the instance, which bounds their number
/// ([`Scullv::MOST`]).
pub struct Scullv<'v, M: Addressable, R: RawRwLock> {
    vm: &'v Vmalloc<M>,
    frame: Pfn,
    devices: NonNull<Device<'v, M, R>>,
    count: usize,
    settings: Settings,
}

// SAFETY: it owns its devices, as a slice would.
unsafe impl<'v, M: Addressable, R: RawRwLock> Send for Scullv<'v, M, R> where Device<'v, M, R>: Send {}
// SAFETY: as above.
unsafe impl<'v, M: Addressable, R: RawRwLock> Sync for Scullv<'v, M, R> where Device<'v, M, R>: Sync {}

impl<'v, M: Addressable, R: RawRwLock> Scullv<'v, M, R> {
    /// The most devices that there can be.
    pub const MOST: usize = PAGE_SIZE / size_of::<Device<'v, M, R>>();

    /// Loads the driver.
    ///
    /// # Errors
    /// [`Error::BadValue`], [`Error::NoMemory`].
    pub fn new(vm: &'v Vmalloc<M>, with: Parameters) -> Result<Self, Error> {
        const { assert!(align_of::<Device<'v, M, R>>() <= PAGE_SIZE) };
        let bad = |what, value: usize, least, most| Err(Error::BadValue { what, value: value as i64, least, most });
        let Some(geometry) = Geometry::new(with.order, with.qset) else {
            return match Geometry::new(with.order, 1) {
                None => bad("order", with.order as usize, 0, MAX_ORDER),
                Some(_) => bad("qset", with.qset as usize, 1, MAX_QSET),
            };
        };
        if with.devices == 0 || with.devices > Self::MOST {
            return bad("devices", with.devices, 1, Self::MOST as u32);
        }
        let frame = vm.alloc_frame(Gfp::KERNEL, None)?;
        let devices: NonNull<Device<'v, M, R>> = vm.machine().virt(frame).cast();
        for index in 0..with.devices {
            // SAFETY: M2: the frame is ours, page-aligned, and `MOST` devices fit.
            unsafe { devices.add(index).write(Device::new(vm, geometry, with.budget)) };
        }
        Ok(Scullv { vm, frame, devices, count: with.devices, settings: Settings::new(geometry) })
    }

    /// The devices, by number.
    pub fn devices(&self) -> &[Device<'v, M, R>] {
        // SAFETY: `new` made them, and only `drop` takes them away.
        unsafe { slice::from_raw_parts(self.devices.as_ptr(), self.count) }
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The instance that the memory comes from.
    pub fn vm(&self) -> &'v Vmalloc<M> {
        self.vm
    }

    /// Opens device `index`. For writing only, it is trimmed.
    ///
    /// # Errors
    /// [`Error::NoDevice`]; [`Error::Busy`] where a trim is refused.
    pub fn open(&self, index: usize, access: Access) -> Result<File<'_, 'v, M, R>, Error> {
        let device = self.devices().get(index).ok_or(Error::NoDevice(index))?;
        if access == Access::WriteOnly {
            device.trim(self.settings.get())?;
        }
        Ok(File::new(device, &self.settings, access))
    }
}

impl<M: Addressable, R: RawRwLock> Drop for Scullv<'_, M, R> {
    fn drop(&mut self) {
        let all = core::ptr::slice_from_raw_parts_mut(self.devices.as_ptr(), self.count);
        // SAFETY: they are ours, and nobody borrows them.
        unsafe { core::ptr::drop_in_place(all) };
        // SAFETY: P3: `new` took it, and nothing is in it any more.
        unsafe { self.vm.free_frame(self.frame) };
    }
}

impl<M: Addressable, R: RawRwLock> fmt::Debug for Scullv<'_, M, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let devices = self.devices().iter().map(Device::status);
        f.debug_list().entries(devices).finish()
    }
}
