//! The devices as a program sees them that uses them: files, `ioctl`, `mmap`.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{NonNull, null_mut};
use vmalloc_scullv::{Command, How, What};

/// A command whose argument is a value; its result.
pub fn by_value(device: &File, command: Command, value: i32) -> io::Result<i32> {
    // SAFETY: the devices take no address with these commands, so none is followed.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), command.number().into(), libc::c_long::from(value)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A command whose argument points to a number; the number afterwards.
pub fn through(device: &File, command: Command, mut number: i32) -> io::Result<i32> {
    // SAFETY: the number is there, to be read and written.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), command.number().into(), &raw mut number) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(number) }
}

/// What the devices' next order is.
pub fn order(device: &File) -> io::Result<i32> {
    by_value(device, Command::Of(What::Order, How::Query), 0)
}

/// The beginning of a file, mapped to be shared with all who use it.
pub struct Mapped {
    start: NonNull<u8>,
    bytes: usize,
}

impl Mapped {
    /// Maps the first `bytes` bytes.
    pub fn new(file: &File, bytes: usize) -> io::Result<Mapped> {
        let (access, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let start = unsafe { libc::mmap(null_mut(), bytes, access, shared, file.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Mapped { start, bytes })
    }

    /// Loads the byte at `at`.
    pub fn load(&self, at: usize) -> u8 {
        assert!(at < self.bytes);
        // SAFETY: inside of the mapping.
        unsafe { self.start.add(at).read_volatile() }
    }

    /// Stores `byte` at `at`.
    pub fn store(&self, at: usize, byte: u8) {
        assert!(at < self.bytes);
        // SAFETY: inside of the mapping.
        unsafe { self.start.add(at).write_volatile(byte) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: ours, and not used any more. What was stored reaches the file in any case.
        unsafe {
            libc::msync(self.start.as_ptr().cast(), self.bytes, libc::MS_SYNC);
            libc::munmap(self.start.as_ptr().cast(), self.bytes);
        }
    }
}
