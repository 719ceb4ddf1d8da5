//! The end: one code for each way to end, and the panic.
//!
//! QEMU's exit device turns `code` into the exit status `code << 1 | 1`: what
//! dies without a word ends with another one (a triple fault with 0).

use crate::cpu::{apic, local};
use crate::{cpu, instructions, serial};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

/// How the image ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Code {
    /// Everything that was run was right; QEMU exits with 33.
    Passed = 0x10,
    /// A command or a test failed; QEMU exits with 35.
    Failed = 0x11,
    /// A panic or an unexpected trap; QEMU exits with 37.
    Panicked = 0x12,
}

/// The CPU that has last words, plus one; 0 = none.
static ENDING: AtomicU32 = AtomicU32::new(0);

/// Port of the exit device.
const PORT: u16 = 0xf4;

/// Ends QEMU.
pub fn exit(code: Code) -> ! {
    // SAFETY: the device ends the machine, or is not there.
    unsafe { instructions::outl(PORT, code as u32) }
    instructions::halt()
}

/// Last words are about to be printed. The first CPU that has any goes on, every
/// other one stops; who has some about his own last words ends at once.
pub fn begin() {
    let me = cpu::index() + 1;
    match ENDING.compare_exchange(0, me, SeqCst, SeqCst) {
        Ok(_) => (0..cpu::count()).filter(|cpu| cpu + 1 != me).for_each(|cpu| apic::nmi(local::of(cpu).apic())),
        Err(first) if first == me => die(),
        Err(_) => instructions::halt(),
    }
}

/// Whether somebody's last words are being printed.
pub fn is_ending() -> bool {
    ENDING.load(SeqCst) != 0
}

/// Ends after the last words.
pub fn die() -> ! {
    exit(Code::Panicked)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    begin();
    serial::seize();
    println!("CPU {}: {info}", cpu::index());
    die()
}
