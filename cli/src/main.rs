//! The command vmalloc.
fn main() {}
