//! `cargo xtask bench`: the address layer under callgrind, as a table.
//!
//! Instructions are exact, and the same on every machine with the same
//! compiler; time is not. What is counted: `vmalloc/benches/space.rs`.

use crate::project::Project;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// Live areas, and the most pages of one.
const CASES: [(usize, usize); 4] = [(15_000, 10), (100_000, 10), (15_000, 256), (100_000, 256)];
/// Replacements after which the span is measured.
const REPLACEMENTS: usize = 8_000_000;
/// Pairs that are counted, after as many replacements as areas live, and more.
const PAIRS: usize = 100_000;
const HEAD: &str = "\
| live areas | pages | address layer alone | whole calls (free, reserve) | span over live pages with guards |
|---:|---:|---:|---:|---:|
";
const BESIDE: &str = "
Instructions a pair, random replacement. The address layer alone takes and gives addresses: shelf, chunk, unit
table, arena, loads of 128 slots. Beside it (design, section 7): prototype 177-226, `offset-allocator` 532-676,
Linux 716-1,680. Whole calls go through an instance: request, entering the CPU, look-up by address, label and
caller, loads of 512 pages, flushes, grace, chunks and their tables; the span is theirs, after 8,000,000.
Bars: the layer at most 350 instructions, the span at most 1.10.
";

/// Builds, measures, prints.
pub fn run(project: &Project) -> Result<ExitCode> {
    let space = build(project)?;
    let counts = has_valgrind();
    let mut rows = String::new();
    for (live, pages) in CASES {
        eprintln!("{live} areas of 1..{pages} pages");
        let span = span(&measure(Command::new(&space), "calls", [live, pages, REPLACEMENTS, 0])?)?;
        let [layer, calls] = ["layer", "calls"].map(|what| match counts {
            true => instructions(&space, what, live, pages).map(|n| format!("{n:.0}")),
            false => Ok("–".into()),
        });
        rows += &format!("| {live} | 1..{pages} | {} | {} | {span:.3} |\n", layer?, calls?);
    }
    print!("{HEAD}{rows}{BESIDE}");
    if !counts {
        println!("\nNo valgrind here, so nothing was counted: apt-get install valgrind");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// The bench program, built.
fn build(project: &Project) -> Result<PathBuf> {
    let mut cargo = project.cargo();
    cargo.args(["build", "--release", "-p", "vmalloc", "--bench", "space", "--message-format", "json"]);
    let answer = cargo.stderr(Stdio::inherit()).output().context("cargo build")?;
    ensure!(answer.status.success(), "the bench does not build");
    executable(&String::from_utf8(answer.stdout)?)
}

/// The program that cargo says it has built.
fn executable(messages: &str) -> Result<PathBuf> {
    let built = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let path = built.filter_map(|message| Some(PathBuf::from(message["executable"].as_str()?))).next_back();
    path.context("cargo named no program")
}

fn has_valgrind() -> bool {
    Command::new("valgrind").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// Instructions of a pair, on average.
fn instructions(space: &Path, what: &str, live: usize, pages: usize) -> Result<f64> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=measured_*"]).arg(space);
    let said = measure(valgrind, what, [live, pages, 4 * live, PAIRS])?;
    Ok(number(&said, "Collected :")? / PAIRS as f64)
}

fn span(said: &str) -> Result<f64> {
    number(said, "span ")
}

/// Runs the bench, and returns all that it, or valgrind, said.
fn measure(mut command: Command, what: &str, numbers: [usize; 4]) -> Result<String> {
    let output = command.arg(what).args(numbers.map(|n| n.to_string())).output()?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{command:?}: {}\n{said}", output.status);
    }
    Ok(said.into_owned())
}

/// The number that follows `word`.
fn number(said: &str, word: &str) -> Result<f64> {
    let (_, rest) = said.split_once(word).with_context(|| format!("no {word:?} in:\n{said}"))?;
    let number = rest.split_whitespace().next().unwrap_or_default();
    number.parse().with_context(|| format!("{word}{number}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_the_last_that_cargo_names() {
        let messages =
            "{\"executable\":null}\nwarning\n{\"executable\":\"/t/space-1\"}\n{\"reason\":\"build-finished\"}";
        assert_eq!(executable(messages).unwrap(), Path::new("/t/space-1"));
        assert!(executable("{}").is_err());
    }

    #[test]
    fn figures_are_read_from_what_was_said() {
        let said = "span 1.0435\n==7== Events    : Ir\n==7== Collected : 5461 \n==7==";
        assert_eq!((span(said).unwrap(), number(said, "Collected :").unwrap()), (1.0435, 5461.0));
        assert!(span("spanned").is_err() && span("span wide").is_err());
    }
}
