//! The command `vmalloc`.

mod listing;
mod trace;

/// The trace of a boot that this repository brings.
const BOOT: &[u8] = include_bytes!("../../traces/boot.txt.gz");
/// The trace of many workloads that this repository brings.
const MIX: &[u8] = include_bytes!("../../traces/mix.txt.gz");

fn main() {}
