//! One tool: test, tidy, bench.
fn main() {}
