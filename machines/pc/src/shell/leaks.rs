//! The leak detector: which areas nothing points to any more.
//!
//! It hears of areas from its first command on, or from the boot on (`kmemleak=on`); the first command
//! adopts those that are older, as if they were made then. An area is suspected by the second scan that meets
//! it, five seconds after it was made or adopted, unless its address is in the image's data, on a stack, in what
//! a CPU has for itself, or in an area that is reached from there. The last area of the shell, `$`, is.
//! The image that is measured hears nothing: there each scan adopts the areas that it meets for the first time.

use super::Done;
use super::words::{Complaint, Words};
use crate::serial::Console;
use crate::subsystem::{kernel, wake_leak_detector};

pub fn kmemleak<'t>(words: &mut Words<'t>) -> Done<'t> {
    // The words are the shell's, whose frame they lie in.
    let shell = core::ptr::from_ref(words).addr();
    let command = words.rest();
    wake_leak_detector(shell, command == "scan");
    if command.is_empty() {
        // The console refuses nothing.
        let _printed = kernel().kmemleak(&mut Console);
        return Ok(());
    }
    kernel().kmemleak_write(command).map_err(Complaint::NoScan)
}
