//! An open file: what other code in a kernel calls.

use crate::device::Device;
use crate::error::Error;
use crate::geometry::MAX_SIZE;
use crate::ioctl::Settings;
use crate::user::User;
use vmalloc::lock_api::RawRwLock;
use vmalloc::machine::Addressable;

/// What a file is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Reading.
    ReadOnly,
    /// Writing: the device is trimmed when it is opened.
    WriteOnly,
    /// Both.
    ReadWrite,
}

/// An open device, and a position in it.
pub struct File<'s, 'v, M: Addressable, R: RawRwLock> {
    device: &'s Device<'v, M, R>,
    settings: &'s Settings,
    access: Access,
    position: u64,
}

const SEEK_SET: u32 = 0;
const SEEK_CUR: u32 = 1;
const SEEK_END: u32 = 2;

impl<'s, 'v, M: Addressable, R: RawRwLock> File<'s, 'v, M, R> {
    pub(crate) fn new(device: &'s Device<'v, M, R>, settings: &'s Settings, access: Access) -> Self {
        File { device, settings, access, position: 0 }
    }

    /// The device.
    pub fn device(&self) -> &'s Device<'v, M, R> {
        self.device
    }

    /// Reads at the position, as [`Device::read`] does, and moves it.
    ///
    /// # Errors
    /// Those of [`Device::read`], and [`Error::NotOpenForThis`].
    pub fn read(&mut self, user: &mut impl User, to: usize, count: usize) -> Result<usize, Error> {
        let done = self.read_at(self.position, user, to, count)?;
        self.position += done as u64;
        Ok(done)
    }

    pub(crate) fn read_at(&self, position: u64, user: &mut impl User, to: usize, count: usize) -> Result<usize, Error> {
        match self.access {
            Access::WriteOnly => Err(Error::NotOpenForThis),
            _ => self.device.read(position, user, to, count),
        }
    }

    /// Writes at the position, as [`Device::write`] does, and moves it.
    ///
    /// # Errors
    /// Those of [`Device::write`], and [`Error::NotOpenForThis`].
    pub fn write(&mut self, user: &mut impl User, from: usize, count: usize) -> Result<usize, Error> {
        let done = self.write_at(self.position, user, from, count)?;
        self.position += done as u64;
        Ok(done)
    }

    pub(crate) fn write_at(
        &self,
        position: u64,
        user: &mut impl User,
        from: usize,
        count: usize,
    ) -> Result<usize, Error> {
        match self.access {
            Access::ReadOnly => Err(Error::NotOpenForThis),
            _ => self.device.write(position, user, from, count),
        }
    }

    /// Moves the position (`llseek`), and returns it.
    ///
    /// # Errors
    /// [`Error::BadWhence`]; [`Error::BadPosition`] before the start or past
    /// [`MAX_SIZE`].
    pub fn seek(&mut self, offset: i64, whence: u32) -> Result<u64, Error> {
        let base = match whence {
            SEEK_SET => 0,
            SEEK_CUR => self.position,
            SEEK_END => self.device.status().size,
            _ => return Err(Error::BadWhence(whence)),
        };
        let to = base.checked_add_signed(offset).filter(|&to| to <= MAX_SIZE).ok_or(Error::BadPosition)?;
        self.position = to;
        Ok(to)
    }

    /// Makes the device end at `size` (`ftruncate`); a size of 0 trims it.
    ///
    /// # Errors
    /// Those of [`Device::resize`] and [`Device::trim`], and
    /// [`Error::NotOpenForThis`].
    pub fn truncate(&mut self, size: u64) -> Result<(), Error> {
        match size {
            _ if self.access == Access::ReadOnly => Err(Error::NotOpenForThis),
            0 => self.device.trim(self.settings.get()),
            _ => self.device.resize(size),
        }
    }

    /// Does a command, as [`Settings::ioctl`] does.
    ///
    /// # Errors
    /// Those of [`Settings::ioctl`].
    pub fn ioctl(&self, number: u32, argument: usize, user: &mut impl User) -> Result<i32, Error> {
        self.settings.ioctl(number, argument, user)
    }
}
