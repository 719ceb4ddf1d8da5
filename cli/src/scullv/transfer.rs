//! Whole reads and writes, over a device that moves a quantum at a time.
//!
//! The kernel's page cache wants what it asked for: a read that comes back short
//! is the end of the file to it, and what is missing is zeros. So the mount
//! calls the device until it has all, and fills holes with zeros. A program
//! on the mount never sees where a quantum ends; code that calls the device
//! itself does.

use parking_lot::RawRwLock;
use vmalloc_hosted::Hosted;
use vmalloc_scullv::{Error, Input, Output};

/// A device of this process.
pub type Device<'v> = vmalloc_scullv::Device<'v, Hosted, RawRwLock>;

/// Reads into all of `buffer`, holes as zeros, and returns how many bytes
/// there were before the end of the device.
pub fn read(device: &Device<'_>, position: u64, buffer: &mut [u8]) -> Result<usize, Error> {
    let mut done = 0;
    while done < buffer.len() {
        let (at, rest) = (position + done as u64, &mut buffer[done..]);
        let count = rest.len();
        done += match device.read(at, &mut Output(rest), 0, count)? {
            0 => {
                let size = device.status().size;
                let end = device.next_data(at).unwrap_or(size);
                if at >= size {
                    break;
                }
                let zeros = usize::try_from(end - at).map_or(count, |hole| hole.min(count));
                rest[..zeros].fill(0);
                zeros
            }
            some => some,
        };
    }
    Ok(done)
}

/// Writes all of `bytes`, or as many as there is room for.
pub fn write(device: &Device<'_>, position: u64, bytes: &[u8]) -> Result<usize, Error> {
    let mut done = 0;
    while done < bytes.len() {
        let rest = &bytes[done..];
        match device.write(position + done as u64, &mut Input(rest), 0, rest.len()) {
            Ok(some) => done += some,
            // What was written counts; the next call learns why there was no more.
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes all of `bytes`, or says why not all: the page cache does not ask again for what a short write of
/// its own leaves out.
pub fn write_all(device: &Device<'_>, position: u64, bytes: &[u8]) -> Result<usize, Error> {
    let mut done = 0;
    while done < bytes.len() {
        done += write(device, position + done as u64, &bytes[done..])?;
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmalloc::Vmalloc;
    use vmalloc_scullv::Geometry;

    fn with_device(budget: usize, test: impl FnOnce(&Device<'_>)) {
        let vm: Vmalloc<Hosted> = vmalloc_hosted::builder().memory(8 << 20).build().unwrap();
        test(&Device::new(&vm, Geometry::new(0, 3).unwrap(), budget));
    }

    #[test]
    fn what_the_device_does_by_the_quantum_is_done_as_a_whole() {
        with_device(usize::MAX, |device| {
            let bytes: Vec<u8> = (0..50_000).map(|n| (n % 251) as u8).collect();
            assert_eq!(device.write(10, &mut Input(&bytes), 0, bytes.len()), Ok(4086), "the device itself");
            assert_eq!(write(device, 10, &bytes), Ok(50_000));
            let mut back = vec![0xee; 60_000];
            assert_eq!(read(device, 10, &mut back), Ok(50_000), "to the end, and not further");
            assert!(back[..50_000] == bytes);
        });
    }

    #[test]
    fn holes_are_zeros_up_to_the_end() {
        with_device(usize::MAX, |device| {
            write(device, 20_000, b"x").unwrap();
            device.resize(1 << 62).unwrap();
            let mut back = vec![0xee; 30_000];
            assert_eq!(read(device, 0, &mut back), Ok(30_000));
            assert!(back.iter().enumerate().all(|(at, &byte)| byte == if at == 20_000 { b'x' } else { 0 }));
            assert_eq!(read(device, (1 << 62) - 3, &mut back), Ok(3));
            assert_eq!(read(device, 1 << 62, &mut back), Ok(0));
        });
    }

    #[test]
    fn a_write_that_ends_early_tells_how_far_it_came_and_then_why() {
        with_device(5 * 4096, |device| {
            assert_eq!(write(device, 0, &[1; 40_000]), Ok(3 * 4096), "3 quanta, a set; the next item needs 3 pages");
            assert_eq!(write(device, 3 * 4096, b"x").map_err(|e| e.errno()), Err(28));
            assert_eq!(write_all(device, 0, &[2; 40_000]).map_err(|e| e.errno()), Err(28));
            assert_eq!(write_all(device, 0, &[3; 3 * 4096]), Ok(3 * 4096));
        });
    }
}
