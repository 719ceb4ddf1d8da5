//! A unikernel in the shape of Hermit: four CPUs, interrupts between them, a list of free frames
//! that is as long as memory is fragmented, stacks of tasks.
//!
//!     cargo run --manifest-path examples/hermit/Cargo.toml
//!
//! `frames.rs`, `machine.rs` and `stacks.rs` are what such a kernel has or adds to embed `vmalloc`.
//! `stubs.rs` stands for its hardware: CPUs are threads, and an interrupt arrives when they are on.

mod frames;
mod machine;
mod stacks;
mod stubs;

use machine::VM;
use stacks::{TaskStacks, TrapStacks};
use std::sync::Mutex;
use vmalloc::AllocError;

const TASKS: usize = 300;

/// Tasks that wait for a CPU: each runs on another one than made it, mostly.
static READY: Mutex<Vec<TaskStacks>> = Mutex::new(Vec::new());

fn main() {
    machine::boot();
    let free = frames::free();
    stubs::run_on_all_cpus(|cpu| {
        machine::cpu_up();
        let done = run(cpu);
        VM.cpu_offline();
        done.expect("memory for the stacks of tasks");
    });
    stubs::enter_cpu(0);
    machine::cpu_up();
    drop(std::mem::take(&mut *READY.lock().expect("a list")));
    VM.purge();
    VM.reclaim(usize::MAX);
    VM.check().expect("every rule holds");
    let stats = VM.stats();
    assert_eq!((stats.areas, stats.pages, stats.waiting_pages), (0, 0, 0));
    let held = stats.table_frames + stats.bookkeeping_frames + stats.pooled_frames + stats.reserve_frames;
    assert_eq!(frames::free() + held, frames::given(), "no frame is lost");
    let (kicks, flushes) = stubs::interrupts();
    println!("{} tasks, {kicks} interrupts, {flushes} flushes of a CPU", TASKS * stubs::CPUS as usize);
    println!("{} of {free} frames are free, in {} fragments", frames::free(), frames::fragments());
}

/// A CPU: makes tasks, ends those of others, and sleeps now and then.
fn run(cpu: u32) -> Result<(), AllocError> {
    let traps = TrapStacks::new()?;
    for n in 0..TASKS {
        let task = TaskStacks::new(1 + n % 16)?;
        let other = {
            let mut ready = READY.lock().expect("a list");
            ready.push(task);
            if ready.len() > 20 { Some(ready.swap_remove(0)) } else { None }
        };
        if let Some(task) = other {
            task.run(cpu);
        }
        if n % 10 == 0 {
            machine::timer();
        }
        if n % 50 == 0 {
            machine::idle();
        }
    }
    drop(traps);
    Ok(())
}
