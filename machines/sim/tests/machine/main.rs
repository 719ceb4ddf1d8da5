//! The simulated machine itself, without the library above it.

mod bench;
mod contract;
mod sections;
mod stale;
