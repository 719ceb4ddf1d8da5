//! Linux's cases on this machine, and what they cost.
//!
//! ```text
//!   bench                       every case, a record each
//!   bench fix_size 16 loops=N   one case
//!     policy=NAME               under another policy than the image's
//!     steps                     instruction by instruction
//!     threads=N                 on N CPUs at once, by the clock
//!   bench remote steps          a free on another CPU than the area's
//!   bench latency               the longest single call, by kind and size
//!     calls=N,M                 instruction by instruction through these calls
//! ```
//!
//! The tick stays on, as it does where Linux's figures come from.

mod cases;
mod latency;
pub mod step;
mod threads;

use crate::boot::policy;
use crate::machine::Pc;
use crate::{clock, cpu, vm};
use core::fmt::Display;
use core::ptr::NonNull;
use vmalloc::Policy;
use vmalloc_suite::{Case, Ground, Suite};

/// Instructions of a grace period: a quarter of a tick.
const GRACE: u64 = 1_000_000;

/// Memory is memory, and time is instructions.
struct Bare;

impl Ground for Bare {
    #[inline(always)]
    fn store(&self, at: NonNull<u8>, word: u64) {
        // SAFETY: a case stores to its own areas, at their beginning or at
        // multiples of a word from there.
        unsafe { at.cast::<u64>().write_volatile(word) }
    }

    #[inline(always)]
    fn load(&self, at: NonNull<u8>) -> u64 {
        // SAFETY: as for storing.
        unsafe { at.cast::<u64>().read_volatile() }
    }

    fn now(&self) -> u64 {
        clock::instructions()
    }

    /// Nobody here reads what is freed after a grace period, so that is a time.
    fn grace_begins(&self) -> u64 {
        clock::instructions() + GRACE
    }

    fn grace_has_passed(&self, number: u64) -> bool {
        clock::instructions() >= number
    }

    #[inline(always)]
    fn begin(&self) {
        step::trap_loops(true)
    }

    #[inline(always)]
    fn end(&self) {
        step::trap_loops(false)
    }
}

/// The cases on this machine.
fn suite<G: Ground>(ground: &G) -> Suite<'_, Pc, G> {
    Suite::new(vm(), ground, cpu::count(), vm().machine().region())
}

/// What is asked for.
#[derive(Clone, Copy)]
struct Order<'a> {
    /// A case, or another word; none = every case.
    what: &'a str,
    /// Its size.
    pages: Option<&'a str>,
    loops: Option<usize>,
    policy: Policy,
    steps: bool,
    /// Numbers of calls.
    calls: &'a str,
    /// CPUs; none = one, and instructions are counted.
    threads: Option<u32>,
}

/// Runs the command with these words; whether all went well.
pub fn run(words: &str) -> bool {
    let order = match Order::read(words) {
        Ok(order) => order,
        Err(word) => {
            println!("bench: {word} is not understood");
            return false;
        }
    };
    let before = vm().policy();
    vm().set_policy(order.policy);
    let well = order.obey();
    vm().set_policy(before);
    well
}

impl<'a> Order<'a> {
    /// Reads the words; the one that is not understood.
    fn read(words: &'a str) -> Result<Order<'a>, &'a str> {
        let mut order =
            Order { what: "", pages: None, loops: None, policy: vm().policy(), steps: false, calls: "", threads: None };
        for word in words.split_whitespace() {
            match word.split_once('=') {
                Some(("loops", n)) => order.loops = Some(n.parse().map_err(|_| word)?),
                Some(("threads", n)) => order.threads = Some(n.parse().map_err(|_| word)?),
                Some(("calls", numbers)) => order.calls = numbers,
                Some(("policy", name)) => order.policy = policy(name).ok_or(word)?,
                Some(_) => return Err(word),
                None if word == "steps" => order.steps = true,
                None if order.what.is_empty() => order.what = word,
                None if order.pages.is_none() => order.pages = Some(word),
                None => return Err(word),
            }
        }
        Ok(order)
    }

    fn obey(self) -> bool {
        match self.what {
            "" => {
                cases::about();
                Case::ALL.into_iter().filter(|&case| !self.one(case)).count() == 0
            }
            "latency" => told(&"latency", latency::run(self.loops, self.calls)),
            "remote" => told(&"remote", step::remote(self.loops)),
            word => match Case::named(word, self.pages) {
                Ok(case) => {
                    cases::about();
                    self.one(case)
                }
                unknown => told(&word, unknown.map(|_| ())),
            },
        }
    }

    fn one(self, case: Case) -> bool {
        let result = match self.threads {
            Some(threads) => threads::run(case, self.loops, threads),
            None if self.steps => step::run(case, self.loops),
            None => cases::run(case, self.loops),
        };
        told(&case, result)
    }
}

/// Whether it went well; if not, says why.
fn told(what: &dyn Display, result: Result<(), impl Display>) -> bool {
    if let Err(why) = &result {
        println!("bench: {what}: {why}");
    }
    result.is_ok()
}
