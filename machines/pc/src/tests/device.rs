//! The memory devices, through the translation of the hardware.

use super::{Outcome, Wrong, check, note};
use crate::devices::{self, Devices};
use crate::{cpu, memory, vm};
use vmalloc::units::PAGE_SIZE;
use vmalloc_scullv::{Error, Input, Output};

/// Bytes that a CPU writes: records of this size, at places of its own.
const RECORD: usize = 1000;
const RECORDS: usize = 50;
/// Far out, so that the index has its full height.
const FAR: u64 = 1 << 62;

fn all() -> Result<&'static Devices, Wrong> {
    devices::all().map_err(|why| {
        println!("  {why}");
        Wrong
    })
}

/// Where a CPU's record is, in pieces that cross quanta.
fn place(cpu: usize, record: usize) -> u64 {
    let near = ((record * cpu::MAX + cpu) * 20_000) as u64;
    if record.is_multiple_of(2) { near } else { FAR + near }
}

fn byte(cpu: usize, record: usize) -> u8 {
    (cpu * 31 + record) as u8 | 1
}

pub fn all_cpus_write_and_read_devices() -> Outcome {
    let devices = all()?.devices();
    cpu::on_all(|cpu| note(write(cpu)));
    cpu::on_all(|_| note((0..cpu::count() as usize).try_for_each(read)));
    for device in devices {
        check!(device.check().is_ok(), "{:?}", device.check());
        check!(device.trim(device.status().geometry).is_ok(), "a device is busy");
        check!(device.status().pages == 0, "{} pages are left", device.status().pages);
    }
    Ok(())
}

fn write(cpu: usize) -> Outcome {
    let devices = all()?.devices();
    for record in 0..RECORDS {
        let (device, bytes) = (&devices[record % devices.len()], [byte(cpu, record); RECORD]);
        let mut done = 0;
        while done < RECORD {
            let at = place(cpu, record) + done as u64;
            match device.write(at, &mut Input(&bytes), done, RECORD - done) {
                Ok(some) => done += some,
                // On a small machine all CPUs together may want more than there is.
                Err(Error::NoMemory(_)) => break,
                Err(why) => check!(false, "{why}"),
            }
        }
    }
    Ok(())
}

/// What is there is right; what there was no memory for is a hole.
fn read(of: usize) -> Outcome {
    let devices = all()?.devices();
    for record in 0..RECORDS {
        let (device, mut bytes) = (&devices[record % devices.len()], [0; RECORD]);
        let count = device.read(place(of, record), &mut Output(&mut bytes), 0, RECORD).unwrap_or(0);
        let right = bytes[..count].iter().all(|&found| found == byte(of, record) || found == 0);
        check!(right, "record {record} of CPU {of} is not what it wrote");
    }
    Ok(())
}

pub fn a_mapped_device_shows_its_frames_and_is_busy() -> Outcome {
    let device = &all()?.devices()[0];
    let geometry = device.status().geometry;
    for page in 0..20 {
        let bytes = [page as u8 + 1; PAGE_SIZE];
        let written = device.write((page * PAGE_SIZE) as u64, &mut Input(&bytes), 0, PAGE_SIZE);
        check!(written == Ok(PAGE_SIZE), "{written:?}");
    }
    let mapping = device.map();
    for page in 0..20 {
        let Ok(frame) = mapping.fault((page * PAGE_SIZE) as u64) else { return Err(Wrong) };
        // SAFETY: D1, and the frame is held.
        let found = unsafe { memory::direct(frame.frame().phys()).read_volatile() };
        check!(found == page as u8 + 1, "{:?}, page {page}, has {found}", frame.frame());
    }
    let busy = device.trim(geometry);
    check!(busy == Err(Error::Busy { mappings: 1 }), "{busy:?}");
    drop(mapping);
    let trimmed = device.trim(geometry);
    check!(trimmed.is_ok(), "{trimmed:?}");
    vm().purge();
    Ok(())
}
