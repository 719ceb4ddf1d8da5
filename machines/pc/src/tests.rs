//! Tests on the machine itself: through its own page tables and TLBs.
//!
//! `tests` runs all, `tests NAME` those whose name has NAME in it. Each prints
//! a line for people and a record for programs.

mod machine;

use crate::clock;

/// Something was not as it has to be; what, has been printed.
#[derive(Debug)]
pub struct Wrong;

/// How a test ends.
pub type Outcome = Result<(), Wrong>;

struct Test {
    name: &'static str,
    run: fn() -> Outcome,
}

/// Ends a test, with a text, unless something is true.
macro_rules! check {
    ($that:expr, $($text:tt)*) => {
        if !$that {
            println!("  {}:{}: {}", file!(), line!(), format_args!($($text)*));
            return Err($crate::tests::Wrong);
        }
    };
}
use check;

/// A list of tests, each named as its function.
macro_rules! tests {
    ($($module:ident: $($name:ident)*;)*) => {
        &[$($(Test { name: stringify!($name), run: $module::$name }),*),*]
    };
}

const ALL: &[Test] = tests! {
    machine:
        every_cpu_does_what_it_is_given
        an_nmi_comes_to_a_cpu_that_is_idle
        a_probe_survives_a_page_fault;
};

/// Runs the tests whose name has `name` in it; true if all were right, and
/// there was one.
pub fn run(name: &str) -> bool {
    let mut ran = 0;
    let mut right = 0;
    for test in ALL.iter().filter(|test| test.name.contains(name)) {
        let start = clock::ns();
        let ended = (test.run)();
        let (ms, word) = ((clock::ns() - start) / 1_000_000, if ended.is_ok() { "ok" } else { "failed" });
        println!("{word:<6} {} ({ms} ms)", test.name);
        println!("@test name={} result={word} ms={ms}", test.name);
        ran += 1;
        right += ended.is_ok() as u32;
    }
    println!("{right} of {ran} tests were right");
    ran > 0 && right == ran
}
