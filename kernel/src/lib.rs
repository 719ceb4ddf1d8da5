//! The traditional vmalloc subsystem, over the library [`vmalloc`].
//!
//! The library gives out areas. Around it a kernel of the traditional kind has more:
//! functions by their names, `vm_struct` and its list, `kmalloc` beside `vmalloc`,
//! steps that callers take one at a time, and messages that tools look for. This crate
//! has them, for whoever ports code that calls them, or reads texts that describe them.
//! `docs/BEHAVIOUR.md` says for each behaviour which function has it and which test
//! shows it.
//!
//! ```text
//!   chain      vmalloc and what it calls, as 2.6, 3.0, 4.x and today
//!   area       addresses by themselves        mapping   parts of them, bound and unbound
//!   vm_struct  what is known of an area       array     its pages as an array
//!   slab       kmalloc and its siblings       vfree     the end of all of them
//!   family     vzalloc, vmalloc_user, …       vrealloc  areas that grow and shrink
//!   kvmalloc   slab or area                   realloc   krealloc, kvrealloc
//!   vmap       frames that are there already
//!   user       areas in user space            vread     whatever is there now
//!   names      functions over a static of the embedder's: `traditional_names!`
//!   walk       page tables, level by level    listing   /proc/vmallocinfo
//!   rcu        frees after a grace period
//!   meminfo    /proc/meminfo, sums by node and caller     fragments   the holes
//!   redzone    writes past an area, in its last page
//!   quota      pages of a group, refused above a limit     tracepoint  three of them, by events
//!   device     ioremap and its siblings       ioremap   devices in areas that callers made
//!   protect    set_memory_ro and its siblings
//!   early      areas before the instance serves
//!   notify     who is asked for help          historic  the allocators of 2.6 and 3.0
//!   kmemleak   memory that nothing points to  events    a machine whose events somebody hears
//!   kmap       kmap, kmap_local, fixmap      layout    where the parts of an address space lie
//!   percpu     objects by CPU                stacks    stacks of threads, a few a CPU kept
//!   ─────────
//!   records, map, radix, pool                 what is kept beside the library
//!   memory     bytes behind addresses         warn      messages
//!   kernel     Kernel: the instance, the host, three locks
//!   ─────────
//!   request, call, host, scope, gfp, flags, error       words
//! ```
//!
//! What stands above a line calls what stands below it.
//!
//! ```
//! use vmalloc_kernel::{Bare, GfpFlags, Kernel};
//!
//! let vm = vmalloc_hosted::builder().memory(16 << 20).build()?;
//! let kernel = Kernel::new(&vm, Bare);
//! let area = kernel.v2_6().vmalloc(10_000)?;
//! let view = kernel.find_vm_area(area.addr().get()).expect("it lives");
//! assert_eq!((view.size, view.nr_pages), (16_384, 3));
//! let object = kernel.kmalloc(100, GfpFlags::KERNEL)?;
//! // SAFETY: Y1: nobody uses them any more.
//! unsafe {
//!     kernel.vfree(area.as_ptr())?;
//!     kernel.kfree(object.as_ptr())?;
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Contracts
//! What a caller of an unsafe function promises:
//! - **Y1** Nobody uses the area, the object or the pages any more.
//! - **Y2** What is read or written by its address is memory that the caller holds; what is
//!   written, alone.
//! - **Y3** The caller holds each frame until its page is unmapped, and nobody else maps,
//!   unmaps or frees the area meanwhile.
//! - **Y4** Nobody else uses the block, and where another address is returned the old one is
//!   used no more.
//! - **Y5** The caller holds each frame during the call, and gives that hold up where the area
//!   takes it over.
//! - **Y6** The memory is a device's, or no memory of the machine's source, which the caller
//!   may map.
//! - **Y7** While an entry of a table is used, the tables that lead to its page stay linked:
//!   the caller holds an area that has the page, or keeps everybody else out.
//! - **Y8** The bytes can be read from the call on, until the leak detector hears that they are
//!   gone. Others may write to them.
//! - **Y9** Nobody needs an access that is taken away, and nobody else frees, shrinks, unmaps or
//!   protects these pages meanwhile.
#![no_std]

mod area;
mod array;
mod call;
mod chain;
mod device;
mod early;
mod error;
mod events;
mod family;
mod flags;
mod fragments;
mod gfp;
pub mod historic;
mod host;
mod ioremap;
mod kernel;
pub mod kmap;
pub mod kmemleak;
mod kvmalloc;
pub mod layout;
mod listing;
mod map;
mod mapping;
mod meminfo;
mod memory;
mod memtype;
mod names;
mod notify;
pub mod percpu;
mod pool;
mod protect;
mod quota;
mod radix;
mod rcu;
mod realloc;
mod records;
mod redzone;
mod request;
mod scope;
mod slab;
pub mod stacks;
mod sync;
mod tracepoint;
mod user;
mod vfree;
mod vm_struct;
mod vmap;
mod vread;
mod vrealloc;
mod walk;
mod warn;

#[doc(hidden)]
pub use ::vmalloc;
pub use area::Removed;
pub use array::PageArray;
pub use call::{Argument, Call, Value};
pub use chain::{V2_6, V3_0, V4};
pub use early::{EarlyAreas, MAX_EARLY};
pub use error::{Errno, Error};
pub use events::WithEvents;
pub use flags::{Pgprot, VmFlags, VmFlags30};
pub use fragments::{Fragmentation, HOLE_SIZES};
pub use gfp::GfpFlags;
pub use host::{Bare, DirectMap, Host, Kern, Tracked};
pub use kernel::Kernel;
pub use meminfo::{Account, Accounted, Filter, MemInfo};
pub use notify::{MAX_NOTIFIERS, Notifier, Notifiers};
pub use quota::{Charge, Group, OVER_QUOTA, Quotas};
pub use rcu::RCU_HEAD;
pub use redzone::{Overrun, RedzoneStats};
pub use request::{Age, Request};
pub use scope::{Scope, ScopeGuard};
pub use slab::ZERO_SIZE_PTR;
pub use tracepoint::{Tracepoint, Tracer};
pub use user::UserMapping;
pub use vm_struct::VmStruct;
pub use walk::{EntryOf, EntryRef, Level, Path};

/// The example of the README is run.
#[doc = include_str!("../README.md")]
#[cfg(doctest)]
mod readme {}
