//! From the loader to the first command.
//!
//! ```text
//!   start.s  32 bits → 64 bits, on static tables
//!   boot_main, on a static stack:
//!     start info and command line are copied
//!     memory   own tables, with the direct map; zones
//!     vmalloc  the instance; from here on stacks are areas
//!   main_on_stack, on an area: traps, other CPUs, the commands
//! ```

mod info;
mod line;

pub use info::{MapEntry, StartInfo};
pub use line::{FlushBy, Line, policy};

use crate::cpu::local::Local;
use crate::exit::{Code, exit};
use crate::{clock, cpu, machine, memory, serial, shell, tlb, trap};
use core::arch::global_asm;
use core::ops::Range;
use line::Settings;
use spin::Once;

global_asm!(include_str!("boot/start.s"), options(att_syntax));

// SAFETY: start.s defines it so; it does not return.
unsafe extern "C" {
    fn call_on_stack(entry: extern "C" fn() -> !, top: usize) -> !;
}

static LINE: Once<Line> = Once::new();
static SETTINGS: Once<Settings> = Once::new();
static MODULE: Once<Range<u64>> = Once::new();

/// The command line.
pub fn line() -> &'static Line {
    static EMPTY: Line = Line::EMPTY;
    LINE.get().unwrap_or(&EMPTY)
}

/// What it sets.
pub fn settings() -> Settings {
    SETTINGS.get().copied().unwrap_or(Settings::DEFAULT)
}

/// What the loader brought along (QEMU's `-initrd`), for whoever wants it.
pub fn module() -> &'static [u8] {
    memory::slice(module_memory())
}

/// Where it lies: memory that is nobody else's.
pub fn module_memory() -> Range<u64> {
    MODULE.get().cloned().unwrap_or(0..0)
}

/// Called by start.s, on the boot CPU.
#[unsafe(no_mangle)]
extern "C" fn boot_main(start_info: u32) -> ! {
    serial::init();
    cpu::init_boot();
    // SAFETY: the loader's address, and the static tables map it.
    let info = unsafe { StartInfo::read(start_info as u64) };
    let line = LINE.call_once(|| info.line.clone());
    // A test must not run with other settings than its author thinks.
    SETTINGS.call_once(|| line.settings().unwrap_or_else(|why| panic!("the command line: {why}")));
    tlb::init_cpu();
    memory::init(&info);
    MODULE.call_once(|| info.module.clone());
    trap::init(cpu::here());
    tlb::init();
    let vm = machine::init();
    tlb::check_cpu();
    vm.cpu_online();
    cpu::here().new_stack();
    // SAFETY: the stack is new, and the boot stack is used no more.
    unsafe { call_on_stack(main_on_stack, cpu::here().stack().end) }
}

extern "C" fn main_on_stack() -> ! {
    cpu::apic::init();
    clock::init();
    cpu::start_others();
    vmalloc_x86_64::interrupts::on();
    println!("{}", memory::Summary);
    clock::tick_every(settings().tick);
    let right = match line().commands() {
        Some(commands) => shell::run(commands),
        None => shell::talk(),
    };
    exit(if right { Code::Passed } else { Code::Failed })
}

/// Called by start.s, on every other CPU, on its own stack.
#[unsafe(no_mangle)]
extern "C" fn other_main(local: &'static Local) -> ! {
    cpu::other(local)
}
