//! vmalloc in a Linux process, on private memory: an area needs no mapping of its own.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use vmalloc::Req;
//! let vm = vmalloc_window::builder().build()?;
//! let mut buffer = vm.area(Req::bytes(5000))?;
//! buffer[4999] = 1;
//! # Ok(())
//! # }
//! ```
//!
//! | What a kernel has | What it is here |
//! |---|---|
//! | physical memory | private anonymous pages: each is its own frame, and Linux finds it memory when it is touched |
//! | page tables | the same entries in bookkeeping frames, but no MMU reads them |
//! | the MMU | the process's: pages that nobody may reach have guards (`space.rs`) |
//! | a TLB flush | what was unmapped since the last one gets its guards again, in few calls; for all threads at once |
//! | a CPU | the processor that the thread runs on (`cpu.rs`) |
//! | an NMI | a signal handler in the middle of a call |
//!
//! The window is one reservation of addresses, opened from below; however many areas there are, the
//! process has the same mappings. A frame cannot be mapped at two addresses here, so `vmap`, `map_ram`
//! and `ioremap` are refused ([`NoAliases`](vmalloc::AllocError::NoAliases)).
//!
//! # Under an allocator
//! Nothing here allocates from the process's heap, and no thread-local value has a destructor: a
//! `#[global_allocator]` may stand on it, before `main`, at the end of a thread and after a fork
//! ([`AtFork`]). A log that is chosen ([`Builder::log`]) must keep to that.
//!
//! # Signal handlers
//! A handler may call everything, and is never made to wait for the call that it interrupts: in the
//! middle of one, allocations are refused ([`WrongContext`](vmalloc::AllocError::WrongContext)), and
//! what is freed is taken apart by a later call.
//!
//! # Locked memory, and Linux before 6.13
//! Linux refuses guards there. Pages are closed by `mprotect` then, which costs mappings; before
//! `vm.max_map_count` is reached, allocations are refused with [`BUDGET_SPENT`]
//! ([`Window::mappings`], [`Window::refusals`]).

mod budget;
mod builder;
mod closing;
mod cpu;
mod fork;
mod lock;
mod machine;
mod marks;
mod os;
mod reserve;
mod source;
mod space;
mod stacks;
mod sync;

pub use budget::{Mappings, Refusal};
pub use builder::{BuildError, Builder, builder};
pub use fork::{AtFork, Stopped};
pub use lock::RawLock;
pub use machine::{LogSink, Usage, Window};
pub use source::Source;
pub use space::BUDGET_SPENT;
pub use stacks::{PoolError, PooledStack, StackPool};

/// The README's examples are run.
#[doc = include_str!("../README.md")]
#[cfg(doctest)]
mod readme {}
