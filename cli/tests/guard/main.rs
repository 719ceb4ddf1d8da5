//! `vmalloc guard`, from outside, with a library that only says that it was loaded.

mod bench;
mod common;
mod environment;
mod refused;
mod started;
