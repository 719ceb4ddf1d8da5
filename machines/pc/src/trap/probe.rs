//! Loads and stores that survive a page fault.
//!
//! Each is one instruction with a label (entry.s). When it faults, the handler
//! lets it go on at `probe_failed`.

use super::Frame;
use crate::instructions::cr2;
use core::ptr::from_ref;

/// An access that faulted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The address.
    pub at: usize,
}

#[repr(C)]
struct Probed {
    failed: u64,
    value: u64,
}

// SAFETY: entry.s defines them so.
unsafe extern "C" {
    fn probe_load(at: usize) -> Probed;
    fn probe_store(at: usize, value: u64) -> Probed;
    static probe_load_at: u8;
    static probe_store_at: u8;
    static probe_failed: u8;
}

/// The 8 bytes at `at`.
///
/// # Errors
/// Nothing can be read there.
pub fn load(at: usize) -> Result<u64, Fault> {
    // SAFETY: a load changes nothing, and may fail.
    let probed = unsafe { probe_load(at) };
    if probed.failed == 0 { Ok(probed.value) } else { Err(Fault { at: cr2() }) }
}

/// Stores 8 bytes at `at`.
///
/// # Errors
/// Nothing can be written there.
///
/// # Safety
/// Whoever owns what is there wants it.
pub unsafe fn store(at: usize, value: u64) -> Result<(), Fault> {
    // SAFETY: the caller's; it may fail.
    let probed = unsafe { probe_store(at, value) };
    if probed.failed == 0 { Ok(()) } else { Err(Fault { at: cr2() }) }
}

/// Whether `frame` is of a probe; then it goes on behind it.
pub fn fix(frame: &mut Frame) -> bool {
    // SAFETY: addresses only.
    let (load, store, failed) =
        unsafe { (from_ref(&probe_load_at), from_ref(&probe_store_at), from_ref(&probe_failed)) };
    let ours = [load, store].iter().any(|probe| probe.addr() as u64 == frame.rip);
    if ours {
        frame.rip = failed.addr() as u64;
    }
    ours
}
