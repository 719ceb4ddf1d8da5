//! vmalloc in a Linux process: a memfd is physical memory.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use vmalloc::Req;
//! let vm = vmalloc_hosted::builder().memory(1 << 30).build()?;
//! let mut buffer = vm.area(Req::bytes(5000))?;
//! buffer[4999] = 1;
//! # Ok(())
//! # }
//! ```
//!
//! The [`guide`] says more: when to use it, what it costs, what Linux does to it.
//!
//! | What a kernel has | What it is here |
//! |---|---|
//! | physical memory | a file in memory, mapped once as a whole (the direct map) |
//! | a device | the end of that file, beyond what the frame allocator knows |
//! | page tables | the same entries in the same frames, but no MMU reads them |
//! | the MMU | the process's: each binding is one `mremap` (`mirror.rs`) |
//! | a TLB flush | what was unmapped since the last one goes, in few calls; for all threads at once |
//! | a CPU | an index that belongs to one thread while it lives; surplus threads share them ([`prefer`]) |
//! | an interrupt | a thread that says so ([`in_interrupt`]) |
//! | an NMI | a signal handler in the middle of a call |
//!
//! # Signal handlers
//! A handler may call everything, and is never made to wait for the call that it
//! interrupts: in the middle of one, on any instance, allocations are refused
//! ([`WrongContext`](vmalloc::AllocError::WrongContext)), and what is freed is taken
//! apart by a later call. Elsewhere it is a caller like any other, and then must not
//! have interrupted the process's own heap, from which queues may grow. It puts
//! `errno` back.
//!
//! # fork, exec, core dumps
//! A child gets neither memory nor areas: they are MADV_DONTFORK from their
//! first moment on, and an access in the child faults. The file descriptor is
//! close-on-exec. Areas are in core dumps like other memory.
//!
//! # VMAs
//! An area costs one VMA where its frames are adjacent, which the library
//! sees to where it can, and its guard costs none where Linux has guards for
//! files (6.15), else one. Before `vm.max_map_count` is reached, allocations
//! are refused with [`BUDGET_SPENT`] ([`Hosted::vmas`]; [`Hosted::refusal`] says it with
//! its numbers).

mod ability;
mod budget;
mod builder;
mod cpu;
mod frames;
mod machine;
mod mirror;
mod os;
mod process;
mod refusal;
mod ring;
mod shape;
mod shared;
mod ticker;

pub use budget::Vmas;
pub use builder::{BuildError, Builder, builder};
pub use cpu::{in_interrupt, prefer};
pub use machine::{Hosted, LogSink, Symbolizer};
pub use mirror::BUDGET_SPENT;
pub use os::is_readable;
pub use refusal::Refusal;
pub use ring::Ring;
pub use shared::SharedArea;
pub use ticker::Ticker;

/// The guide for programs: when to use it, what it costs, what Linux does to it.
#[cfg(any(doc, doctest))]
#[doc = include_str!("../docs/process.md")]
pub mod guide {}

/// The examples of the front page are compiled, and the one for programs is run.
#[doc = include_str!("../../../README.md")]
#[cfg(doctest)]
mod front_page {}

/// And so is that of the README.
#[doc = include_str!("../README.md")]
#[cfg(doctest)]
mod readme {}
