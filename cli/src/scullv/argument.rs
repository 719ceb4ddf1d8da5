//! The argument of an ioctl, which the FUSE library does not hand on.
//!
//! Tell and sHift pass a value where other commands have a pointer. The kernel
//! sends it, in the record that lies right before the command's data:
//!
//! ```text
//!   fuse_in_header (40 bytes)
//!   fuse_ioctl_in  fh:8 flags:4 cmd:4 arg:8 in_size:4 out_size:4
//!   data           in_size bytes
//! ```
//!
//! The library hands out the data, a slice of its buffer, and the command and
//! both sizes, so what lies before the data can be recognised.
//!
//! # Rules
//! - A1. The data of an ioctl is a slice of the buffer that the request was
//!   read into, right after its two records. So it is in the version of the
//!   library that the manifest names, and in no other before it was looked at.
//!
//! Source: the FUSE ABI, 7.11 and later.

use std::ptr::with_exposed_provenance;

/// The record, as the kernel writes it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Record {
    fh: u64,
    flags: u32,
    cmd: u32,
    arg: u64,
    in_size: u32,
    out_size: u32,
}

/// The argument of the ioctl `cmd`, whose data and sizes the library handed
/// out; `None` where the record is not what it should be.
pub fn of(cmd: u32, data: &[u8], out_size: u32) -> Option<u64> {
    let at = data.as_ptr().expose_provenance().checked_sub(size_of::<Record>())?;
    let record = with_exposed_provenance::<Record>(at);
    // SAFETY: A1: the record lies before the data, in a buffer that was handed to the kernel whole, which exposed it;
    // nobody writes to it while the request is served.
    let record = unsafe { record.read_unaligned() };
    let known = record.cmd == cmd && record.in_size as usize == data.len() && record.out_size == out_size;
    known.then_some(record.arg)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request as the kernel sends it, in a buffer.
    fn request(record: Record, data: &[u8]) -> Vec<u8> {
        let mut buffer = vec![0; 40];
        buffer.extend(record.fh.to_ne_bytes());
        buffer.extend([record.flags, record.cmd].map(u32::to_ne_bytes).concat());
        buffer.extend(record.arg.to_ne_bytes());
        buffer.extend([record.in_size, record.out_size].map(u32::to_ne_bytes).concat());
        buffer.extend(data);
        buffer
    }

    const RECORD: Record = Record { fh: 1, flags: 2, cmd: 0x4b02, arg: 77, in_size: 0, out_size: 0 };

    #[test]
    fn the_argument_is_found_before_the_data_even_if_there_is_none() {
        assert_eq!(of(0x4b02, &request(RECORD, b"")[72..], 0), Some(77));
        let with_data = Record { cmd: 0x4004_4b01, in_size: 4, arg: 0xffff_ffff_ffff_fff0, ..RECORD };
        assert_eq!(of(0x4004_4b01, &request(with_data, b"data")[72..], 0), Some(0xffff_ffff_ffff_fff0));
    }

    #[test]
    fn a_record_of_something_else_is_not_taken_for_it() {
        let buffer = request(RECORD, b"");
        assert_eq!(of(0x4b04, &buffer[72..], 0), None, "another command");
        assert_eq!(of(0x4b02, &buffer[72..], 4), None, "another size");
        assert_eq!(of(0x4b02, &request(RECORD, b"data")[72..], 0), None, "data that was not announced");
    }
}
