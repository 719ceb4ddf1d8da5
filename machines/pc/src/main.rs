//! vmalloc on a bare x86-64 machine.
//!
//! The image that QEMU boots by PVH. It is both a test bed, where real TLBs go
//! stale on several CPUs and every instruction can be counted, and the example
//! of a machine that can be copied: `machine.rs` is all that ties a kernel to
//! the library.
//!
//! ```text
//!   boot     from the loader to here: start info, command line, the story
//!   memory   memory map, direct map, the image's protections, fixmap, zones
//!   cpu      per-CPU data, APIC, ACPI, starting CPUs, idle, work for CPUs
//!   trap     gates, stacks, page faults that say what an address was
//!   machine  the glue: `impl Machine for Pc`
//!   replay   what a recorded kernel did, done here
//!   devices  the memory devices, as files
//!   subsystem  the traditional subsystem: its host here, its leak detector
//!   shell    commands, from the command line or the serial line
//!   bench    Linux's cases, counted
//!   tests    what is tried on the machine itself
//! ```
//!
//! # Exit codes
//! What is written to QEMU's exit device ([`exit`]): passed, failed, panicked.
//! Any other end is a crash.
#![no_std]
#![no_main]

#[macro_use]
mod serial;

mod bench;
mod boot;
mod clock;
mod cpu;
mod devices;
mod exit;
mod instructions;
mod machine;
mod memory;
mod replay;
mod runtime;
mod shell;
mod subsystem;
mod tests;
mod tlb;
mod trap;

use machine::vm;
