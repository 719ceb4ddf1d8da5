//! The simulated machine itself, without the library above it.

mod bench;
mod contract;
mod direct;
mod sections;
mod stale;
