//! Mappings: the frames of a device, for somebody's page tables.

use crate::device::Device;
use crate::error::NoPage;
use core::fmt;
use vmalloc::FrameRef;
use vmalloc::lock_api::RawRwLock;
use vmalloc::machine::Addressable;

/// A device that is mapped (`vm_area_struct` with the device's operations):
/// a clone is what `fork` or a split makes of it, a drop is `close`.
pub struct Mapping<'d, 'v, M: Addressable, R: RawRwLock> {
    device: &'d Device<'v, M, R>,
}

impl<'d, 'v, M: Addressable, R: RawRwLock> Mapping<'d, 'v, M, R> {
    /// The mapping that the device has just counted.
    pub(crate) fn counted(device: &'d Device<'v, M, R>) -> Self {
        Mapping { device }
    }

    /// The frame that holds the byte at `position` of the device, and a hold
    /// on it: it stays allocated until that is dropped, whatever becomes of the
    /// device.
    ///
    /// # Errors
    /// [`NoPage`]: SIGBUS, for who touched the page.
    pub fn fault(&self, position: u64) -> Result<FrameRef<'v, M>, NoPage> {
        self.device.frame(position)
    }
}

impl<M: Addressable, R: RawRwLock> Clone for Mapping<'_, '_, M, R> {
    fn clone(&self) -> Self {
        self.device.map()
    }
}

impl<M: Addressable, R: RawRwLock> Drop for Mapping<'_, '_, M, R> {
    fn drop(&mut self) {
        self.device.unmap();
    }
}

impl<M: Addressable, R: RawRwLock> fmt::Debug for Mapping<'_, '_, M, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mapping")
    }
}
