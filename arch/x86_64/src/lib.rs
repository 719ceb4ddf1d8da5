//! The few instructions that a kernel on x86-64 needs to run `vmalloc`.
//!
//! | A machine's method | Here |
//! |---|---|
//! | `pin`, `unpin` | [`interrupts::off`], [`interrupts::restore`] |
//! | `flush(Everything)` | [`tlb::Method::everything`] |
//! | `flush(Ranges)` | [`tlb::Method::pages`] |
//! | `sync` | nothing: see below |
//!
//! Before `cpu_online` each CPU asks [`check_cpu`] whether it has the state that entries rely on:
//! EFER.NXE, CR0.WP, CR4.PGE, CR4.LA57, CR4.PKS and [`PAT`].
//!
//! # Barriers
//! None is needed. The library's stores to entries are released before it
//! takes a tag by a locked instruction, and x86 walkers see stores in the order
//! in which they were made. A not-present entry is never cached, so a new
//! binding needs no flush.
//!
//! # Source
//! Intel SDM vol. 3A §4.10.4 (what invalidates what), §4.10.2–3 (what may be
//! cached), §9.2 (order of stores); vol. 2A, INVPCID.
#![no_std]
#![cfg(target_arch = "x86_64")]

pub mod caller;
pub mod cpu;
pub mod interrupts;
pub mod tlb;

pub use cpu::{PAT, check_cpu};
