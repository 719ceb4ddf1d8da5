//! scullv: the memory device of *Linux Device Drivers*, on vmalloc.
//!
//! A **device** is a file whose bytes live in **quanta**: areas of
//! `PAGE_SIZE << order` bytes, taken from an instance of the library when they
//! are first written. `qset` quanta make an **item**; the item's **set** is the
//! table that says where they are, and an **index** finds the set of an item.
//! Where nothing was written there is a **hole**: no quantum, no set, no index.
//!
//! ```text
//!   position ─► item, slot, offset          (geometry: order, qset)
//!
//!   device ─► index ─┬─► set of item 0 ─┬─► quantum     4096 << order bytes,
//!     size           │                  └─► quantum     vmalloc'd, zeroed
//!     order, qset    └─► set of item 9 ───► quantum
//! ```
//!
//! The [`guide`] mounts it.
//!
//! # What a caller sees
//! - A read or write moves at most one quantum's rest a call; the caller loops.
//! - A hole reads 0 bytes. [`Device::next_data`] tells where it ends.
//! - Opening for writing only **trims**: the device is emptied, and takes over
//!   order and qset from the [`Settings`], which `ioctl` changes.
//! - A **mapping** shows the frames of the quanta themselves. While there is
//!   one, a device is neither trimmed nor cut.
//!
//! # Rules (checked by [`Device::check`])
//! - D1. What is linked leads to data: no node without a set, no set without a
//!   quantum.
//! - D2. No quantum begins at or past the size.
//! - D3. The pages charged are the pages held, and not more than the budget.
//! - D4. Sets and quanta of a device are all of its one geometry.
//!
//! # Locks
//! One for each device, of the type that the embedder names: readers share it,
//! whoever changes the device has it alone. The settings are one atomic word.
//! The instance's own locks are inside. There is no other.
//!
//! # Unsafe code rests on
//! - B1. A set, a node or a quantum that is linked was taken from the instance,
//!   is owned by the one link to it, and was cleared when it was taken.
//! - B2. A link that lies in a [`Device`] is read under its lock, and written or
//!   followed for writing only by who has the lock alone.
//!
//! Nothing here waits for anything but these locks and, for frames, a flush of
//! the instance. A read or write that waits for a device's lock ends with EINTR when
//! a signal comes for its caller ([`User::wait`]). An asynchronous request is done at
//! once, and reported a little later ([`Later`]).
#![no_std]

mod aio;
mod device;
mod driver;
mod error;
mod file;
mod geometry;
mod index;
mod ioctl;
mod listing;
mod mapping;
mod memory;
mod store;
mod user;

pub use aio::{Completion, Later, REPORT_NS, Request, Submitted, Transfer};
pub use device::{Device, Status};
pub use driver::{Parameters, Scullv};
pub use error::{Error, NoPage};
pub use file::{Access, File};
pub use geometry::{Geometry, MAX_ORDER, MAX_QSET, MAX_SIZE};
pub use ioctl::{Command, How, Settings, What};
pub use mapping::Mapping;
pub use user::{Fault, Input, Output, User, Wait};
pub use vmalloc::lock_api::RawRwLock;

/// The guide: the device mounted, what differs there, what it costs.
#[cfg(any(doc, doctest))]
#[doc = include_str!("../docs/scullv.md")]
pub mod guide {}
