//! The mounted devices, used through the kernel as programs use them.
//!
//! - `tools`: dd, cp, cat, cmp, sha256sum, truncate
//! - `programs`: ioctl from C and from Python
//! - `refused`: bad pointers, sizes, commands and values; what is not allowed
//! - `files`: times, room, lost bytes, and what options change
//! - `life`: background, signals, a killed server, what is left behind
//! - `random`: a model, and many steps beside it (SCULLV_MOUNT_OPS)
//! - `crowd`: 8 writers and 8 readers (SCULLV_SECONDS)
//!
//! Where nothing can be mounted, each test says so and does nothing.

mod common;
mod crowd;
mod files;
mod life;
mod programs;
mod random;
mod refused;
mod tools;
