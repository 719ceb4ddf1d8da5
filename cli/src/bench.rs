//! `vmalloc bench`: what things cost, beside what they cost elsewhere.
//!
//! ```text
//!   linux    Linux's cases, to the instruction     profile  where they are spent
//!   figures  Linux's, as shipped                   steps    a case, instruction by instruction
//!   measured what the guest counted                events   what instructions do not show
//! ```

mod events;
mod figures;
mod linux;
mod measured;
mod profile;
mod row;
mod steps;
mod table;

use crate::options;
use crate::qemu::Guest;
use crate::qemu::record::{Line, Record};
use crate::qemu::tools::Tools;
use anyhow::{Context, Result, ensure};
use std::time::Duration;
use vmalloc_suite::Case;

/// Memory of an exact machine: two sets of `full_fit`, and what may wait.
const MEMORY: u64 = 1 << 30;
const PATIENCE: Duration = Duration::from_secs(900);

/// What is to be measured, and with what.
pub struct Bench {
    what: options::Bench,
    tools: Tools,
}

/// Checks what was asked for, and builds what it needs.
pub fn prepare(what: options::Bench) -> Result<Bench> {
    let source = match &what {
        options::Bench::Linux(options) => {
            let case = options.case.as_ref().map(|case| case.parse::<Case>());
            case.transpose()?;
            &options.source
        }
        options::Bench::Profile(options) => {
            if options.case != "remote" {
                options.case.parse::<Case>()?;
            }
            &options.source
        }
    };
    let tools = Tools::find(source)?;
    Ok(Bench { what, tools })
}

impl Bench {
    /// Measures and prints; whether all went well.
    pub fn run(&self) -> Result<bool> {
        match &self.what {
            options::Bench::Linux(options) => linux::run(options, &self.tools),
            options::Bench::Profile(options) => profile::run(options, &self.tools),
        }
    }
}

/// Runs `commands` on a machine whose clock counts instructions, and returns
/// what it told programs.
fn listen(tools: &Tools, cpus: u32, settings: Vec<String>, commands: Vec<String>) -> Result<Vec<Record>> {
    let exact = Guest { exact: true, memory: MEMORY, time_limit: Some(PATIENCE), ..Guest::default() };
    let guest = Guest { cpus, settings, commands, ..exact };
    let mut said = String::new();
    let outcome = guest.run(tools, &mut |line| {
        if let Line::Text(text) = line {
            said += text;
            said.push('\n');
        }
    });
    let outcome = outcome.context("a machine that counts instructions")?;
    ensure!(outcome.passed, "not all went well on the machine:\n{said}");
    Ok(outcome.records)
}
