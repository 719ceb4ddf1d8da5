//! The serial line: the console.
//!
//! A 16550 at COM1, polled. What one call prints comes out in one piece: the
//! line is locked, interrupts off. A panic takes the line from whoever has it
//! ([`seize`]).

use crate::instructions::{inb, outb};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use spin::Mutex;
use vmalloc_x86_64::interrupts;

const COM1: u16 = 0x3f8;
const LINE_STATUS: u16 = COM1 + 5;
/// In the line status: a byte has come.
const RECEIVED: u8 = 1 << 0;
/// In the line status: a byte may go.
const EMPTY: u8 = 1 << 5;

static LINE: Mutex<Uart> = Mutex::new(Uart);
static SEIZED: AtomicBool = AtomicBool::new(false);

struct Uart;

/// 115,200 baud, 8 bits, no parity, FIFOs on, no interrupts.
pub fn init() {
    let settings = [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 3), (2, 7), (4, 3)];
    for (register, value) in settings {
        // SAFETY: sets up the UART, which is this module's.
        unsafe { outb(COM1 + register, value) }
    }
}

/// From here on lines are printed even if somebody else holds the line: for
/// the last words.
pub fn seize() {
    SEIZED.store(true, Relaxed);
}

/// A byte that has come, if one has.
pub fn read() -> Option<u8> {
    (inb(LINE_STATUS) & RECEIVED != 0).then(|| inb(COM1))
}

/// What `print!` calls.
pub fn print(text: fmt::Arguments<'_>) {
    let flags = interrupts::off();
    // The UART refuses nothing, and a value that cannot be printed is its
    // own author's to notice.
    let _printed = if SEIZED.load(Relaxed) { Uart.write_fmt(text) } else { LINE.lock().write_fmt(text) };
    interrupts::restore(flags);
}

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.send(b'\r');
            }
            self.send(byte);
        }
        Ok(())
    }
}

impl Uart {
    fn send(&mut self, byte: u8) {
        while inb(LINE_STATUS) & EMPTY == 0 {
            core::hint::spin_loop();
        }
        // SAFETY: sends a byte.
        unsafe { outb(COM1, byte) }
    }
}

/// Where `write!` and the library's listings print to: each piece by itself.
pub struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        print(format_args!("{text}"));
        Ok(())
    }
}

/// Prints to the serial line.
macro_rules! print {
    ($($text:tt)*) => { $crate::serial::print(format_args!($($text)*)) };
}

/// Prints a line to the serial line.
macro_rules! println {
    () => { $crate::serial::print(format_args!("\n")) };
    ($($text:tt)*) => { $crate::serial::print(format_args!("{}\n", format_args!($($text)*))) };
}
