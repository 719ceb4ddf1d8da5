//! A case, instruction by instruction: what was executed, and how often.
//!
//! The guest traps after each instruction of the loops and counts by address;
//! here the addresses get names, and the instructions that lock the bus are
//! told from others.

use crate::qemu::record::Record;
use addr2line::Loader;
use anyhow::{Result, anyhow, ensure};
use std::collections::BTreeMap;
use std::path::Path;

/// What the guest calls frees of areas that another CPU made.
pub const REMOTE: &str = "remote";
/// Functions that take locks.
const LOCKS: [&str; 2] = ["lock_api::", "spin::"];
/// Functions that lock lines which no other CPU writes: a CPU's own flag and
/// counters.
const OWN: [&str; 3] =
    ["vmalloc::state::enter::CpuGuard::enter", "vmalloc::state::enter::CpuGuard::preempt_point", "pc::cpu::local::"];

/// Locked instructions a loop.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Locked {
    /// That take a lock.
    pub locks: f64,
    /// On lines of the CPU's own.
    pub own: f64,
    /// On lines that CPUs share.
    pub shared: f64,
}

/// What was executed in some loops.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Steps {
    /// The case, or whatever it was.
    pub name: String,
    /// Loops.
    pub loops: u64,
    /// How often each address was executed.
    pub at: BTreeMap<u64, Step>,
}

/// An address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Step {
    /// How often it was executed.
    pub count: u64,
    /// Whether the instruction there locks the bus.
    pub locked: bool,
}

/// All that the guest has stepped through.
pub fn read(records: &[Record]) -> Result<Vec<Steps>> {
    let mut all: Vec<Steps> = Vec::new();
    for record in records {
        match record.name.as_str() {
            "steps" => {
                let (name, loops) = (record.text("name")?.to_owned(), record.number("loops")?);
                all.push(Steps { name, loops, at: BTreeMap::new() });
            }
            "step" => {
                let step = Step { count: record.number("n")?, locked: record.number("locked")? != 0 };
                let steps = all.last_mut().ok_or_else(|| anyhow!("the guest says @step before @steps"))?;
                steps.at.insert(record.number("at")?, step);
            }
            _ => {}
        }
    }
    Ok(all)
}

impl Steps {
    /// What is locked, a loop: locks that are taken, and instructions on lines
    /// that other CPUs write as well.
    ///
    /// # Errors
    /// Nothing was locked on the CPU's own lines: then the functions that do so
    /// have other names by now, and all would count as shared.
    pub fn locked(&self, symbols: &Symbols) -> Result<Locked> {
        let mut locked = Locked::default();
        for (&at, step) in self.at.iter().filter(|(_, step)| step.locked) {
            let names = symbols.functions(at)?;
            let any = |of: &[&str]| names.iter().any(|name| of.iter().any(|start| name.starts_with(start)));
            let n = step.count as f64 / self.loops as f64;
            if any(&LOCKS) {
                locked.locks += n;
            } else if any(&OWN) {
                locked.own += n;
            } else {
                locked.shared += n;
            }
        }
        ensure!(locked.own > 0.0, "{}: whoever enters a CPU locks its flag, but not in {OWN:?}", self.name);
        Ok(locked)
    }

    /// Instructions a loop by what `name` says of their addresses, the most
    /// first; those that it has no name for are left out.
    pub fn by(&self, name: impl Fn(u64, &Step) -> Result<Option<String>>) -> Result<Vec<(String, f64)>> {
        let mut sums: BTreeMap<String, u64> = BTreeMap::new();
        for (&at, step) in &self.at {
            if let Some(name) = name(at, step)? {
                *sums.entry(name).or_default() += step.count;
            }
        }
        let mut sums: Vec<_> = sums.into_iter().map(|(name, n)| (name, n as f64 / self.loops as f64)).collect();
        sums.sort_by(|a, b| b.1.total_cmp(&a.1));
        Ok(sums)
    }
}

/// What the image's addresses are called.
pub struct Symbols(Loader);

impl Symbols {
    /// Those of `image`.
    pub fn load(image: &Path) -> Result<Symbols> {
        Ok(Symbols(Loader::new(image).map_err(|why| anyhow!("{}: {why}", image.display()))?))
    }

    /// The function that the instruction belongs to, inlined or not; those of
    /// the language's own library count as their callers'.
    pub fn function(&self, at: u64) -> Result<String> {
        let names = self.functions(at)?;
        let own = |name: &&String| !name.starts_with("core::") && !name.contains(" as core::");
        Ok(names.iter().find(own).or(names.first()).cloned().unwrap_or_else(|| format!("{at:#x}")))
    }

    /// The function whose code has the instruction, whatever it is inlined from.
    pub fn whole(&self, at: u64) -> Result<String> {
        let names = self.functions(at)?;
        Ok(names.last().cloned().unwrap_or_else(|| format!("{at:#x}")))
    }

    /// The place in the source that the instruction comes from.
    pub fn line(&self, at: u64) -> Result<String> {
        let place = self.0.find_location(at).map_err(|why| anyhow!("{at:#x}: {why}"))?;
        Ok(place.map_or_else(
            || format!("{at:#x}"),
            |place| format!("{}:{}", short(place.file.unwrap_or("?")), place.line.unwrap_or(0)),
        ))
    }

    /// The functions that the instruction is inlined into, its own first.
    fn functions(&self, at: u64) -> Result<Vec<String>> {
        let mut names = Vec::new();
        let wrong = |why| anyhow!("{at:#x}: {why}");
        let mut frames = self.0.find_frames(at).map_err(|why| anyhow!("{at:#x}: {why}"))?;
        while let Some(frame) = frames.next().map_err(wrong)? {
            if let Some(function) = frame.function {
                names.push(plain(&function.demangle()?));
            }
        }
        if names.is_empty() {
            names.extend(self.0.find_symbol(at).map(plain));
        }
        Ok(names)
    }
}

/// A function's name without what its types are made of, and without its hash.
fn plain(name: &str) -> String {
    let name = match name.rsplit_once("::h") {
        Some((front, hash)) if hash.len() == 16 => front,
        _ => name,
    };
    let mut depth = 0;
    let mut before = ' ';
    let mut out = String::new();
    for c in name.chars() {
        match c {
            // At the beginning it is a type that has the function.
            '<' if !out.is_empty() => depth += 1,
            '>' if before != '-' && depth > 0 => depth -= 1,
            '<' | '>' => {}
            _ if depth == 0 => out.push(c),
            _ => {}
        }
        before = c;
    }
    out.replace("::::", "::")
}

/// A path from the last `src` folder's parent on.
fn short(path: &str) -> &str {
    let cut = path.rfind("/src/").map_or(0, |src| path[..src].rfind('/').map_or(0, |at| at + 1));
    &path[cut..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(lines: &[&str]) -> Result<Vec<Steps>> {
        read(&lines.iter().map(|line| Record::parse(line).unwrap()).collect::<Vec<_>>())
    }

    #[test]
    fn steps_belong_to_the_case_before_them() {
        let all = steps(&["@steps name=a loops=2", "@step at=0x10 n=6 locked=0", "@steps name=b loops=1"]).unwrap();
        assert_eq!(all.iter().map(|steps| steps.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(all[0].at, BTreeMap::from([(0x10, Step { count: 6, locked: false })]));
        assert_eq!((all[0].loops, all[1].at.len()), (2, 0));
        assert!(steps(&["@step at=0x10 n=6 locked=0"]).is_err());
    }

    #[test]
    fn instructions_are_summed_by_name_the_most_first() {
        let all = steps(&["@steps name=a loops=2", "@step at=1 n=2 locked=0", "@step at=2 n=6 locked=1"]).unwrap();
        let sums = all[0].by(|at, _| Ok(Some(if at == 1 { "f".into() } else { "g".into() }))).unwrap();
        assert_eq!(sums, [("g".to_owned(), 3.0), ("f".to_owned(), 1.0)]);
        let locked = all[0].by(|_, step| Ok(step.locked.then(|| "locked".to_owned()))).unwrap();
        assert_eq!(locked, [("locked".to_owned(), 3.0)]);
    }

    #[test]
    fn names_are_told_without_types_and_hashes() {
        assert_eq!(plain("vmalloc::cpu::Here<M>::take_slot::h0123456789abcdef"), "vmalloc::cpu::Here::take_slot");
        assert_eq!(plain("core::ops::FnOnce<fn() -> bool>::call"), "core::ops::FnOnce::call");
        assert_eq!(plain("a::b::<impl c::D<u8>>::e"), "a::b::e");
        assert_eq!(plain("<a::B<u8> as c::D>::e"), "a::B as c::D::e");
        assert_eq!(short("/x/y/vmalloc/src/space/slot.rs"), "vmalloc/src/space/slot.rs");
        assert_eq!(short("a.s"), "a.s");
    }
}
