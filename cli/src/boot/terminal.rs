//! The terminal, lent to the guest: every key goes to it as it is typed.
//!
//! Whatever ends this program by a signal ends the guest first, so that the
//! terminal is given back as it was.

use super::keys::Keys;
use crate::qemu::process::Stopper;
use rustix::termios::{OptionalActions, OutputModes, Termios, isatty, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::{self, Read, Write, stdin};
use std::thread;

/// Says on the guest's line that nothing more will be typed.
const CTRL_D: u8 = 4;
/// Keys that are read at once.
const BURST: usize = 256;

/// A terminal that hands on every key; dropped, it is as it was before.
pub struct Raw(Termios);

impl Raw {
    /// Sets the terminal up, if there is one.
    pub fn enter() -> io::Result<Option<Raw>> {
        if !isatty(stdin()) {
            return Ok(None);
        }
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        // A new line goes to the first column: the guest need not say so.
        raw.output_modes |= OutputModes::OPOST | OutputModes::ONLCR;
        tcsetattr(stdin(), OptionalActions::Flush, &raw)?;
        Ok(Some(Raw(before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Where there is no terminal any more, there is nothing to give back.
        let _ = tcsetattr(stdin(), OptionalActions::Flush, &self.0);
    }
}

/// Ends the guest when this program is told to end.
pub fn stop_at_signals(stopper: Stopper) -> io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    thread::spawn(move || signals.forever().for_each(|_| stopper.stop()));
    Ok(())
}

/// Hands what is typed to the guest, from now on.
pub fn forward_keys(to: impl Write + Send + 'static, stopper: Stopper) {
    thread::spawn(move || forward(to, &stopper));
}

fn forward(mut to: impl Write, stopper: &Stopper) {
    let mut keys = isatty(stdin()).then(Keys::default);
    let mut typed = [0; BURST];
    let mut out = Vec::new();
    // Reading ends with what is typed, writing with the guest.
    while let Ok(count @ 1..) = stdin().read(&mut typed) {
        out.clear();
        let end = match &mut keys {
            Some(keys) => keys.pass(&typed[..count], &mut out),
            None => {
                out.extend_from_slice(&typed[..count]);
                false
            }
        };
        if end {
            return stopper.stop();
        }
        if to.write_all(&out).and_then(|()| to.flush()).is_err() {
            return;
        }
    }
    let _ = to.write_all(&[CTRL_D]).and_then(|()| to.flush());
}
