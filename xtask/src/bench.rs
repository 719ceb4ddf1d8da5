//! `cargo xtask bench`: the library under callgrind, as tables.
//!
//! Instructions are exact, and the same on every machine with the same
//! compiler; time is not. What is counted: `vmalloc/benches/space.rs` (the
//! address layer) and `vmalloc/benches/pairs.rs` (whole calls).

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
Instructions a pair, random replacement. The address layer alone takes and gives addresses: lists of chunks, chunk, unit
table, arena, batches of 128 slots. Beside it (design, section 7): prototype 177-226, `offset-allocator` 532-676,
Linux 716-1,680. Whole calls go through an instance: request, entering the CPU, look-up by address, label and
caller, batches of 512 pages, flushes, grace, chunks and their tables; the span is theirs, after 8,000,000.
Bars: the layer at most 350 instructions, the span at most 1.10.
";

/// Cases of `pairs`: loops, the bar (a third of Linux's figure) and the goal.
const PAIRS_CASES: [(&str, usize, usize, Option<usize>); 17] = [
    ("fix_size 1", 40_000, 1_120, Some(450)),
    ("fix_size 4", 20_000, 1_626, None),
    ("fix_size 16", 10_000, 3_840, Some(850)),
    ("fix_size 64", 4_000, 13_095, None),
    ("fix_size 256", 2_000, 48_734, None),
    ("fix_size 512", 2_000, 96_000, Some(12_000)),
    ("fix_size 1024", 1_000, 192_804, None),
    ("full_fit", 40_000, 1_140, Some(450)),
    ("long_busy_list", 8_000, 20_700, Some(3_000)),
    ("random_size", 8_000, 10_400, Some(1_600)),
    ("fix_align", 20_000, 1_780, Some(650)),
    ("random_size_align", 20_000, 1_880, Some(650)),
    ("map_ram 1", 40_000, 328, Some(250)),
    ("map_ram 4", 20_000, 437, None),
    ("map_ram 16", 10_000, 876, None),
    ("map_ram 64", 4_000, 2_626, Some(900)),
    ("map_ram 256", 2_000, 8_910, None),
];
const PAIRS_HEAD: &str = "\
| case | Unmap | bar | goal | Park | Keep |
|---|---:|---:|---:|---:|---:|
";
const PAIRS_BESIDE: &str = "
Instructions of whole calls, an allocation and its free, by policy, one CPU, the tick on; pinning, flushing and
clearing pages cost nothing here. The bar is a third of Linux 6.12's figure, the goal that of the design (section 7),
both for Unmap. Park and Keep may bind 8 MiB.
";

/// Builds, measures, prints.
pub fn run(project: &Project, what: Option<&str>) -> Result<ExitCode> {
    match what {
        None => {
            space(project)?;
            pairs(project)?;
        }
        Some("space") => space(project)?,
        Some("pairs") => pairs(project)?,
        Some(what) => bail!("no bench {what}; there are: space pairs"),
    }
    if has_valgrind() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("\nNo valgrind here, so nothing was counted: apt-get install valgrind");
    Ok(ExitCode::FAILURE)
}

/// Whole calls.
fn pairs(project: &Project) -> Result<()> {
    let pairs = build(project.cargo(), "pairs")?;
    let mut rows = String::new();
    for (case, loops, bar, goal) in PAIRS_CASES.into_iter().filter(|_| has_valgrind()) {
        let cost = |policy| {
            let said = output(callgrind(&pairs).arg(case).arg(loops.to_string()).arg(policy))?;
            Ok::<f64, anyhow::Error>(number(&said, "Collected :")? / loops as f64)
        };
        let (unmap, park, keep) = (cost("unmap")?, cost("park")?, cost("keep")?);
        let goal = goal.map_or("–".into(), |goal| goal.to_string());
        rows += &format!("| {case} | {unmap:.0} | {bar} | {goal} | {park:.0} | {keep:.0} |\n");
    }
    print!("{PAIRS_HEAD}{rows}{PAIRS_BESIDE}");
    Ok(())
}

/// The address layer.
fn space(project: &Project) -> Result<()> {
    let mut cargo = project.cargo();
    let flags = format!("{} --cfg internals", std::env::var("RUSTFLAGS").unwrap_or_default());
    // In a folder of its own: the flag would rebuild everything in the other.
    cargo.env("RUSTFLAGS", flags.trim()).env("CARGO_TARGET_DIR", "target/internals");
    let space = build(cargo, "space")?;
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
    Ok(())
}

/// The bench program `name`, built.
fn build(mut cargo: Command, name: &str) -> Result<PathBuf> {
    cargo.args(["build", "--profile", "image", "-p", "vmalloc", "--bench", name, "--message-format", "json"]);
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
    let said = measure(callgrind(space), what, [live, pages, 4 * live, PAIRS])?;
    Ok(number(&said, "Collected :")? / PAIRS as f64)
}

/// The program, of which what is called `measured` is counted.
fn callgrind(program: &Path) -> Command {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=measured*"]).arg(program);
    valgrind
}

fn span(said: &str) -> Result<f64> {
    number(said, "span ")
}

fn measure(mut command: Command, what: &str, numbers: [usize; 4]) -> Result<String> {
    output(command.arg(what).args(numbers.map(|n| n.to_string())))
}

/// Runs the bench, and returns all that it, or valgrind, said.
fn output(command: &mut Command) -> Result<String> {
    let output = command.output()?;
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
