//! `vmalloc chain`: the calls behind a vmalloc, as they happen on the simulator.
//!
//! What is printed comes from the entry hooks of the functions that are called, and
//! from nowhere else. On a function's way out its depth ends.

use crate::options::{AgeName, Chain};
use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value as Json, json};
use std::cell::RefCell;
use std::fmt::Write;
use std::sync::Mutex;
use vmalloc::Config;
use vmalloc::table::X86_64;
use vmalloc::units::PAGE_SIZE;
use vmalloc_kernel::{Call, Error, Host, Kernel, Request};
use vmalloc_sim::{Booted, Rates, Sim};

/// Where Linux has its areas on x86-64.
const START: usize = 0xffff_c900_0000_0000;
/// As far as they may lie.
const BYTES: usize = 1 << 39;

/// A call that was heard.
#[derive(Clone, Debug)]
struct Heard {
    depth: usize,
    text: String,
    json: Json,
}

/// Writes down what it hears.
#[derive(Default)]
struct Listener {
    heard: Mutex<Vec<Heard>>,
    depth: Mutex<usize>,
    /// The function whose entry it does not hear.
    deaf_to: Option<&'static str>,
}

impl Listener {
    fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
        of.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Host for Listener {
    fn entered(&self, call: &Call<'_>) {
        let mut depth = Self::lock(&self.depth);
        if self.deaf_to != Some(call.name) {
            Self::lock(&self.heard).push(Heard { depth: *depth, text: call.to_string(), json: told(call, *depth) });
        }
        *depth += 1;
    }

    fn left(&self, _name: &'static str) {
        *Self::lock(&self.depth) -= 1;
    }

    fn printk(&self, _level: vmalloc_kernel::Kern, line: std::fmt::Arguments<'_>) -> bool {
        eprintln!("{line}");
        true
    }
}

/// A call as JSON.
fn told(call: &Call<'_>, depth: usize) -> Json {
    let arguments: Map<String, Json> =
        call.arguments.iter().map(|(name, value)| ((*name).to_owned(), json!(value.to_string()))).collect();
    json!({ "function": call.name, "depth": depth, "arguments": arguments })
}

/// What came of a chain.
struct Done {
    calls: Vec<Heard>,
    /// The address, or why there is none.
    made: Result<usize, Error>,
}

/// The most memory that a simulated machine gets here.
const MOST_MEMORY: u64 = 64 << 30;

/// Checks all that is given.
pub fn prepare(options: Chain) -> Result<Chain> {
    ensure!(options.age != AgeName::V2_6 || options.node.is_none(), "--node: 2.6 has no function that takes a node");
    ensure!(options.memory <= MOST_MEMORY, "--memory: at most 64G are simulated here");
    Ok(options)
}

impl Chain {
    /// Runs the chain and prints it; false where it was refused.
    pub fn run(&self) -> Result<bool> {
        run(self)
    }
}

fn run(options: &Chain) -> Result<bool> {
    let done = record(options, None)?;
    if let Some(path) = &options.json {
        let calls: Vec<&Json> = done.calls.iter().map(|call| &call.json).collect();
        let address = done.made.ok().map(|address| format!("{address:#x}"));
        let error = done.made.err().map(|error| error.to_string());
        let age = crate::options::word(options.age);
        let report = json!({ "bytes": options.bytes, "age": age, "calls": calls, "address": address, "error": error });
        crate::output::write(path, &(serde_json::to_string_pretty(&report)? + "\n"))?;
    }
    super::print(&printed(&done)?)?;
    if let Err(error) = &done.made {
        eprintln!("vmalloc: refused: {error} (-{:?})", error.errno());
    }
    Ok(done.made.is_ok())
}

fn printed(done: &Done) -> Result<String> {
    let mut out = String::new();
    for call in &done.calls {
        writeln!(out, "{:indent$}{}", "", call.text, indent = 2 * call.depth)?;
    }
    match done.made {
        Ok(address) => writeln!(out, "= {address:#x}")?,
        Err(_) => writeln!(out, "= NULL")?,
    }
    Ok(out)
}

/// Makes the area on a machine of its own, and frees it again.
fn record(options: &Chain, deaf_to: Option<&'static str>) -> Result<Done> {
    let memory = options.memory.next_multiple_of(PAGE_SIZE as u64);
    let sim: Sim<X86_64> = Sim::builder().node(memory).rates(Rates::NEVER).build();
    let booted = Booted::new(sim.clone(), Config::region(START..START + BYTES)).context("the library cannot begin")?;
    let done = {
        let kernel = Kernel::new(&booted, Listener { deaf_to, ..Listener::default() });
        let made = RefCell::new(None);
        // A block of the slab may be as large as one is: a single call of its source.
        sim.unbounded(|| *made.borrow_mut() = Some(call(options, &kernel)));
        let made = made.into_inner().context("the chain was called")?;
        let calls = std::mem::take(&mut *Listener::lock(&kernel.host().heard));
        if let Ok(address) = made {
            // SAFETY: Y1: nobody has used it.
            unsafe { kernel.vfree(std::ptr::with_exposed_provenance(address)) }?;
        }
        Done { calls, made }
    };
    drop(booted);
    ensure!(sim.leaked_frames() == 0, "{} frames leaked", sim.leaked_frames());
    Ok(done)
}

/// Calls the first function of the chain.
fn call(options: &Chain, kernel: &Kernel<'_, Sim<X86_64>, Listener>) -> Result<usize, Error> {
    let (bytes, node) = (options.bytes, options.node.map(vmalloc::units::Node));
    let made = match (options.age, node) {
        (AgeName::V2_6, _) => kernel.v2_6().vmalloc(bytes),
        (AgeName::V3_0, None) => kernel.v3_0().vmalloc(bytes),
        (AgeName::V3_0, node) => kernel.v3_0().vmalloc_node(bytes, node),
        (AgeName::V4, None) => kernel.v4().vmalloc(bytes),
        (AgeName::V4, node) => kernel.v4().__vmalloc_node_flags(bytes, node, vmalloc_kernel::GfpFlags::KERNEL),
        (AgeName::Today, None) => kernel.vmalloc(bytes),
        (AgeName::Today, node) => kernel.__vmalloc_node(&Request { node, ..kernel.request(bytes) }),
    };
    made.map(|at| at.addr().get())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(age: AgeName, bytes: usize) -> Chain {
        Chain { bytes, age, node: None, memory: 64 << 20, json: None }
    }

    fn names(age: AgeName, deaf_to: Option<&'static str>) -> Vec<String> {
        let done = record(&options(age, 10000), deaf_to).unwrap();
        done.calls.iter().map(|call| call.json["function"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn each_line_comes_from_its_functions_hook() {
        for age in [AgeName::V2_6, AgeName::V3_0, AgeName::V4, AgeName::Today] {
            let all = names(age, None);
            for left_out in ["vmalloc", "__vmalloc_node", "map_vm_area", "alloc_page", "kmalloc"] {
                let rest: Vec<_> = all.iter().filter(|&name| name != left_out).cloned().collect();
                assert_eq!(names(age, Some(left_out)), rest, "{age:?} without {left_out}");
            }
        }
    }

    #[test]
    fn what_no_function_takes_is_refused_before_anything_is_made() {
        let asked = Chain { node: Some(0), ..options(AgeName::V2_6, 1) };
        assert_eq!(prepare(asked).unwrap_err().to_string(), "--node: 2.6 has no function that takes a node");
        let asked = Chain { memory: 1 << 50, ..options(AgeName::V2_6, 1) };
        assert!(prepare(asked).is_err());
    }

    #[test]
    fn a_chain_that_is_refused_ends_with_null() {
        let done = record(&options(AgeName::V2_6, 0), None).unwrap();
        assert!(done.made.is_err());
        let expected =
            "vmalloc(size=0)\n  __vmalloc(size=0, gfp_mask=GFP_KERNEL|__GFP_HIGHMEM, prot=PAGE_KERNEL)\n= NULL\n";
        assert_eq!(printed(&done).unwrap(), expected);
    }
}
