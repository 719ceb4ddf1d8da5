//! The replay: a script, done for real on a machine, checked byte by byte.
//!
//! ```text
//!   script   what is to be done
//!   parcel   a script handed to another machine, with room to play it
//!   stage    what a replay needs of a machine beyond the library
//!   worker   one CPU's share, done: makes, fills, checks, frees
//!   slots    where each area is, and who may use it
//!   pattern  bytes that tell which page of which area they belong to
//!   tally, latency, peak      what happened, how long it took, how much there was
//! ```
//!
//! The engine has no memory of its own: a process brings vectors, a kernel
//! brings what it has. It is the same on each machine, so that what one of
//! them finds can be compared with what another one does.
#![no_std]

pub mod latency;
pub mod parcel;
pub mod pattern;
pub mod peak;
pub mod script;
pub mod slots;
pub mod stage;
pub mod tally;
pub mod worker;

#[cfg(test)]
extern crate std;
