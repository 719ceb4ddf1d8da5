//! The whole allocator on the simulated machine, with several CPUs inside operations
//! at once: a switch is possible before every access of an atomic and every call of
//! the machine.
//!
//! ```text
//! cargo xtask test interleave                       the stage
//! interleave replay SCENARIO SCHEDULER SEED [RULE]  one schedule again, with its story
//! interleave look SCHEDULES [PART]                  so many of each (whose name has PART), and no rule is broken
//! interleave soak SECONDS [SEED]                    the mixes, with fresh seeds
//! ```
//!
//! It is sequentially consistent: what weaker orders allow is loom's. A scenario that
//! was never seen to fail proves nothing, so each rule that it is there for is broken
//! by a switch at run time, and it has to notice.
#![cfg_attr(not(interleave), allow(dead_code, unused))]

#[cfg(interleave)]
mod chooser;
#[cfg(interleave)]
mod command;
#[cfg(interleave)]
mod engine;
#[cfg(interleave)]
mod look;
#[cfg(interleave)]
mod mix;
#[cfg(interleave)]
mod random;
#[cfg(interleave)]
mod rig;
#[cfg(interleave)]
mod scenarios;

#[cfg(interleave)]
fn main() -> std::process::ExitCode {
    command::run(std::env::args().skip(1).collect())
}

#[cfg(not(interleave))]
fn main() {
    eprintln!(
        "built without its switch: run `cargo xtask test interleave`, which builds with RUSTFLAGS=\"--cfg interleave\""
    );
    std::process::exit(2);
}
