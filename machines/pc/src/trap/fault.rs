//! Reports: what a page fault says, and what nobody expected.

use super::Frame;
use crate::cpu::Local;
use crate::exit::{self, die};
use crate::instructions::cr2;
use crate::subsystem::kernel;
use crate::{serial, vm};
use vmalloc::units::PAGE_SIZE;

/// A page fault that nobody had prepared for.
pub fn report(here: &Local, frame: &Frame) -> ! {
    exit::begin();
    serial::seize();
    let at = cr2();
    let stack = kernel().stack_guard_hit(at, what(here, at));
    if stack.is_none() {
        println!("BUG: unable to handle page fault for address: {at:#018x}");
    }
    let named = stack.map_or(at, |stack| stack.start.0);
    println!("#PF: {} {} {}", mode(frame.error), access(frame.error), reason(frame.error));
    println!("what it is: {}", vm().whatis(named));
    place(here, frame)
}

/// An exception that nobody expects.
pub fn unexpected(frame: &Frame) -> ! {
    exit::begin();
    serial::seize();
    println!("BUG: trap {} ({}), error {:#x}", frame.vector, name(frame.vector), frame.error);
    place(Local::here(), frame)
}

fn place(here: &Local, frame: &Frame) -> ! {
    println!("CPU {} at rip {:#x}, rsp {:#x}, flags {:#x}", here.index(), frame.rip, frame.rsp, frame.flags);
    println!("rax {:#x} rbx {:#x} rcx {:#x} rdx {:#x}", frame.rax, frame.rbx, frame.rcx, frame.rdx);
    println!("rsi {:#x} rdi {:#x} rbp {:#x}", frame.rsi, frame.rdi, frame.rbp);
    let room = (frame.rsp as usize).saturating_sub(here.stack().start);
    if room < PAGE_SIZE {
        println!("{room} bytes of the stack are left");
    }
    die()
}

/// Whose stack it is above the guard that has `at`.
fn what(here: &Local, at: usize) -> &'static str {
    if here.guard().contains(&at) { "CPU" } else { "TASK" }
}

fn mode(error: u64) -> &'static str {
    if error & 1 << 2 != 0 { "user" } else { "supervisor" }
}

fn access(error: u64) -> &'static str {
    match (error & 1 << 4 != 0, error & 1 << 1 != 0) {
        (true, _) => "instruction fetch",
        (_, true) => "write access",
        _ => "read access",
    }
}

fn reason(error: u64) -> &'static str {
    if error & 1 != 0 { "(permissions violation)" } else { "(not-present page)" }
}

fn name(vector: u64) -> &'static str {
    match vector {
        0 => "divide error",
        3 => "breakpoint",
        6 => "invalid opcode",
        8 => "double fault",
        13 => "general protection",
        17 => "alignment",
        18 => "machine check",
        _ => "unexpected",
    }
}
