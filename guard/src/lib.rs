//! Finds overruns and uses after free in any program, in one line, with the story of who allocated and
//! who freed.
//!
//! ```
//! #[global_allocator]
//! static ALLOCATOR: vmalloc_guard::Guarded = vmalloc_guard::Guarded::sampled(1000);
//! # fn main() { assert_eq!(vec![1; 100].len(), 100) }
//! ```
//!
//! One of a thousand allocations gets pages of its own, between pages that nobody may reach. An access
//! beyond them faults where it happens; so does one after the free, for the pages are closed then and
//! stay out of use for long. The report says what was done to which allocation, and has three
//! backtraces: of the access, of the allocation and of the free. Then the program dies as it would
//! have. A guarded allocation is an area of `vmalloc-window`, which costs no mapping.
//!
//! # Rules
//! - A correct program runs as it did. What cannot be guarded is the other allocator's: out of memory,
//!   out of addresses, beyond the budget, in a signal handler in the middle of a call.
//! - Nothing here allocates from the heap that it stands on, and no thread-local value has a destructor:
//!   it serves before `main`, in signal handlers, at the end of threads, and in children.
//!
//! # From below to above
//! | module | what it is |
//! |---|---|
//! | `os`, `limits`, `table`, `here` | Linux, what it allows, tables that grow in place, what a thread knows of itself |
//! | `place`, `unwind`, `trace`, `depot` | where bytes lie in their pages, backtraces, backtraces by number |
//! | `slot`, `slots` | what is known of an allocation, the quarantine, addresses to slots |
//! | `engine`, `finding` | allocating and freeing, and the judgement of what is wrong |
//! | `process`, `actions`, `fault` | the one guard of a process, the program's handlers and its own |
//! | `copy`, `scratch`, `symbols`, `text`, `json`, `leaks`, `stderr`, `report` | writing it down |
//! | `guarded`, `raw` | the allocator for Rust, and the same for C |

mod actions;
#[cfg(target_arch = "x86_64")]
mod aside;
mod copy;
mod depot;
mod engine;
mod fault;
mod finding;
mod guarded;
mod here;
mod json;
mod leaks;
mod limits;
mod os;
mod place;
mod process;
pub mod raw;
mod report;
mod scratch;
mod settings;
mod slot;
mod slots;
mod stderr;
mod symbols;
mod table;
mod text;
mod trace;
#[cfg(target_arch = "x86_64")]
mod unwind;

pub use guarded::Guarded;
pub use settings::{Path, Settings, Side};

/// Which bugs it finds and what it costs, beside electric-fence, scudo with GWP-ASan and valgrind.
#[cfg(any(doc, doctest))]
#[doc = include_str!("../docs/guard.md")]
pub mod beside {}

/// The README's examples are run.
#[doc = include_str!("../README.md")]
#[cfg(doctest)]
mod readme {}
