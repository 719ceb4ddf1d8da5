//! What each command does.

use crate::cpu;
use crate::memory::{self, Summary};
use crate::serial::Console;
use crate::vm;
use core::ptr::NonNull;
use vmalloc::Req;
use vmalloc::machine::frames::Frames;
use vmalloc::units::PAGE_SIZE;

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// It was right.
    Right,
    /// It failed; what it printed says why.
    Wrong,
    /// It was the last one.
    PowerOff,
}

struct Command {
    name: &'static str,
    about: &'static str,
    run: fn(&str) -> Ended,
}

const ALL: &[Command] = &[
    Command { name: "help", about: "this list", run: help },
    Command { name: "mem", about: "memory, CPUs and what the library keeps", run: mem },
    Command { name: "vmalloc", about: "BYTES: allocates an area", run: alloc },
    Command { name: "vfree", about: "ADDRESS: frees an area", run: free },
    Command { name: "vmallocinfo", about: "the areas", run: vmallocinfo },
    Command { name: "map", about: "the regions of the address space", run: map },
    Command { name: "tests", about: "[NAME]: the tests, or those of this name", run: tests },
    Command { name: "stress", about: "SECONDS: all operations on all CPUs", run: stress },
    Command { name: "crash", about: "[NAME]: dies, of what is named", run: crash },
    Command { name: "bench", about: "[CASE] [policy=P] [loops=N]: what Linux's cases cost", run: bench },
    Command { name: "replay", about: "plays the script that came along", run: replay },
    Command { name: "trapcost", about: "what a trap costs", run: trapcost },
    Command { name: "poweroff", about: "ends", run: |_| Ended::PowerOff },
];

/// Runs one command; an empty line is right.
pub fn run(line: &str) -> Ended {
    let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
    match ALL.iter().find(|command| command.name == name) {
        Some(command) => (command.run)(rest.trim()),
        None if name.is_empty() => Ended::Right,
        None => {
            println!("no command {name}; help lists them");
            Ended::Wrong
        }
    }
}

fn help(_: &str) -> Ended {
    for Command { name, about, .. } in ALL {
        println!("{name:<10} {about}");
    }
    Ended::Right
}

fn mem(_: &str) -> Ended {
    let frames = vm().machine().zones();
    println!("{Summary}");
    println!("{} of {} frames free", frames.free_now(), frames.total());
    println!("{:#?}", vm().stats());
    for cpu in 0..cpu::count() {
        println!("CPU {cpu}: {:?}", cpu::counters(cpu));
    }
    Ended::Right
}

fn alloc(size: &str) -> Ended {
    let Some(bytes) = crate::boot::size(size) else {
        println!("how many bytes? {size:?}");
        return Ended::Wrong;
    };
    match vm().alloc(Req::bytes(bytes)) {
        Ok(at) => println!("{:#x}, {} pages", at.addr(), bytes.div_ceil(PAGE_SIZE)),
        Err(why) => {
            println!("{why}");
            return Ended::Wrong;
        }
    }
    Ended::Right
}

fn free(address: &str) -> Ended {
    let at = usize::from_str_radix(address.trim_start_matches("0x"), 16).ok();
    let Some(at) = at.and_then(|at| NonNull::new(core::ptr::with_exposed_provenance_mut(at))) else {
        println!("what address? {address:?}");
        return Ended::Wrong;
    };
    // SAFETY: V1: whoever types it knows.
    if let Err(why) = unsafe { vm().free(at) } {
        println!("{why}");
        return Ended::Wrong;
    }
    Ended::Right
}

fn vmallocinfo(_: &str) -> Ended {
    // The console refuses nothing.
    let _printed = vm().list(&mut Console);
    Ended::Right
}

fn map(_: &str) -> Ended {
    for (name, range) in memory::map() {
        println!("{:#018x}-{:#018x} {name}", range.start, range.end);
    }
    Ended::Right
}

fn tests(name: &str) -> Ended {
    if crate::tests::run(name) { Ended::Right } else { Ended::Wrong }
}

fn stress(seconds: &str) -> Ended {
    match seconds.parse() {
        Ok(seconds) if crate::tests::stress(seconds).is_ok() => Ended::Right,
        _ => Ended::Wrong,
    }
}

fn crash(name: &str) -> Ended {
    crate::tests::crash(name);
    Ended::Right
}

fn bench(words: &str) -> Ended {
    if crate::bench::run(words) { Ended::Right } else { Ended::Wrong }
}

fn replay(_: &str) -> Ended {
    match crate::replay::run() {
        Ok(()) => Ended::Right,
        Err(why) => {
            println!("{why}");
            Ended::Wrong
        }
    }
}

fn trapcost(_: &str) -> Ended {
    let (trap, saving) = crate::trap::cost();
    println!("a trap, there and back: {trap} counts; of these, {saving} save and restore the SSE state");
    println!("@trap cost={trap} saving={saving}");
    Ended::Right
}
