//! vmalloc for programs in C, on the machine of a Linux process.
//!
//! `vmalloc.h` has instances and areas as programs in Rust have them. `vmalloc/kernel.h` has the
//! traditional subsystem by its names, for the source of kernel modules, over one instance of the process; it is written by
//! hand, over `vmalloc/abi.h`. cbindgen writes the other two from these sources.
//!
//! ```text
//!   instance   an allocator with memory of its own: made, tended, ended
//!   area       memory: asked for, freed           frames   pages by themselves, and mapped
//!   query      what an address is, the listing, the check, the sums
//!   kernel     what kernel.h calls: areas, mappings, the slab, pages, objects by CPU, scopes, RCU
//!   ─────────
//!   border     where each call enters and leaves Rust
//!   number     errors by number and by text       text     what is written into buffers of C
//! ```
//!
//! What stands above the line calls what stands below it.
//!
//! # Contracts
//! What a caller in C promises:
//! - **CP1** An instance is null, or `vmalloc_new` returned it, and nobody gives it to
//!   `vmalloc_delete` before all other calls on it have returned.
//! - **CP2** A pointer to a structure, an array or a text is null, or leads to as much of it as the
//!   call reads or writes, which nobody else writes meanwhile.
//! - **CP3** Nobody uses the area or the mapping any more (V1).
//! - **CP4** The caller holds each frame until its mapping has ended, and gives up only what it
//!   holds (P1, P3, P4).
//! - **CP5** A function that the caller hands over may be called with what was handed over with it,
//!   by any thread that makes a call, and it returns.

mod area;
mod border;
mod frames;
mod instance;
mod kernel;
mod number;
mod query;
mod text;
