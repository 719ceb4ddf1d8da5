//! `planted-run -- COMMAND PREFIX…`: runs every planted bug under a tool, and says which it found.

use anyhow::{Context, Result, ensure};
use clap::Parser;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use vmalloc_planted::tally::{Count, Told, is_good, is_share};
use vmalloc_planted::tool::{Outcome, Tool, Verdict};
use vmalloc_planted::{Case, Kind, Program, SIZES, cases, compile};

const EXAMPLES: &str = "\
Examples:
  planted-run -- vmalloc guard --all --
          Every kind, size and way, in C and in Rust
  planted-run --language C --size 1 --size 4096 --json found.json -- vmalloc guard --all --
          Some of them, and each run as JSON
  planted-run --seeds 100 --share 0.1 -- vmalloc guard --every 10 --
          Each with 100 seeds: a tenth is to be found, within 5 standard deviations

Exit codes:
  0  every bug was found (or the share that was expected), and no correct program accused
  1  not so
  2  the runs could not be made";

/// Runs every planted bug under a tool, and says which it found.
#[derive(Parser)]
#[command(after_long_help = EXAMPLES)]
struct Options {
    /// Bytes of the allocations [default: nine sizes from 1 to 1048576]
    #[arg(long = "size", value_name = "BYTES")]
    sizes: Vec<usize>,
    /// Only the program in this language: C or Rust
    #[arg(long)]
    language: Option<String>,
    /// Only this kind; may be given several times
    #[arg(long = "kind")]
    kinds: Vec<String>,
    /// Only this way; may be given several times
    #[arg(long = "way")]
    ways: Vec<String>,
    /// Run each so often, each time with another VMALLOC_GUARD_SEED, counted from 1 on
    #[arg(long, value_name = "N", requires = "share")]
    seeds: Option<u64>,
    /// The share of the bugs that is to be found
    #[arg(long, value_name = "SHARE")]
    share: Option<f64>,
    /// Write each run to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What programs are run under; without it, alone
    #[arg(last = true)]
    prefix: Vec<OsString>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("planted-run: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> Result<bool> {
    let folder = tempfile::tempdir()?;
    let sizes = if options.sizes.is_empty() { &SIZES[..] } else { &options.sizes };
    let mut outcomes = Vec::new();
    for program in programs(options, folder.path())? {
        for case in cases(program.language, sizes).into_iter().filter(|case| options.want(case)) {
            let first = outcomes.len() as u64 + 1;
            outcomes.extend(runs(options, first, &program, case, folder.path())?);
        }
    }
    ensure!(!outcomes.is_empty(), "nothing to run: no such kind or way");
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_string_pretty(&outcomes)? + "\n")
            .with_context(|| path.display().to_string())?;
    }
    Ok(told(options, &outcomes))
}

impl Options {
    fn want(&self, case: &Case) -> bool {
        let among = |words: &[String], word| words.is_empty() || words.iter().any(|one| one == word);
        among(&self.kinds, case.kind.word()) && among(&self.ways, case.way.word())
    }
}

/// The runs of one case: one, or one a seed. Each case has seeds of its own, from `first` on: what is
/// found of one says nothing of the others then.
fn runs(options: &Options, first: u64, program: &Program, case: Case, folder: &Path) -> Result<Vec<Outcome>> {
    let seeds = first..first + options.seeds.unwrap_or(1);
    let runs = seeds.map(|seed| {
        let env = vec![("VMALLOC_GUARD_SEED".into(), seed.to_string().into())];
        Tool { prefix: options.prefix.clone(), env, words: None }.run(program, case, folder)
    });
    runs.collect()
}

/// The one in C, compiled into `folder`, and the one in Rust, which lies beside this program.
fn programs(options: &Options, folder: &Path) -> Result<Vec<Program>> {
    let wanted = |language: &str| options.language.as_ref().is_none_or(|only| only.eq_ignore_ascii_case(language));
    let mut programs = Vec::new();
    if wanted("C") {
        let path = folder.join("planted");
        compile(None, &path)?;
        programs.push(Program { language: "C", path });
    }
    if wanted("Rust") {
        let path = std::env::current_exe()?.with_file_name("planted");
        ensure!(path.is_file(), "{} is not there: cargo build -p vmalloc-planted", path.display());
        programs.push(Program { language: "Rust", path });
    }
    ensure!(!programs.is_empty(), "--language {}: C or Rust", options.language.as_deref().unwrap_or_default());
    Ok(programs)
}

/// Prints, and says whether it is as it should be.
fn told(options: &Options, outcomes: &[Outcome]) -> bool {
    let Some(share) = options.share else {
        print!("{}", Told(outcomes));
        return outcomes.iter().all(is_good);
    };
    let bugs = Count::of(outcomes, |outcome| outcome.case.kind != Kind::None);
    let accused = outcomes.iter().filter(|outcome| outcome.verdict == Verdict::Accused).count();
    let found = bugs.good as f64 / bugs.all as f64;
    println!("{bugs} bugs found: {found:.4}, expected {share}; {accused} correct programs accused");
    accused == 0 && is_share(bugs.good, bugs.all, share)
}
