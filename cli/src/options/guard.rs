//! `vmalloc guard`, and what is measured of it.

use clap::{ArgGroup, Args, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;

pub const GUARD_EXAMPLES: &str = "\
Examples:
  vmalloc guard -- ./server --port 8080
          Every allocation of the program: it dies at the first byte that it
          touches past the end, before the start or after the free, and says
          who allocated and who freed
  vmalloc guard --every 1000 -- ./server
          One allocation in 1,000, by chance: cheap enough to leave it on
  vmalloc guard --report /tmp/bug-%p.json -- make test
          What was found as JSON, one file a process, rather than on stderr
  vmalloc guard --side end --live 20000 -- ./parser < crash.txt
          Each at the end of its last page, at most 20,000 guarded at once
  vmalloc guard --leaks -- ./tool input
          What is left at the end, by caller

The program is found in PATH. Its children are guarded, too, and programs that it
starts. A program that is linked statically, or that runs with rights of its own
(set-uid, set-gid, file capabilities), cannot be guarded and is refused.

The library libvmalloc_guard.so is looked for in VMALLOC_GUARD_LIB, beside this
command, and in lib of the folder above. Settings that are not given here are taken
from the environment: VMALLOC_GUARD (all, or every=N), VMALLOC_GUARD_LIVE,
VMALLOC_GUARD_SIDE, VMALLOC_GUARD_SEED, VMALLOC_GUARD_REPORT, VMALLOC_GUARD_LEAKS.

Exit codes:
  those of the program, which takes this command's place
  2  the program was not started: the line on stderr says why";

pub const GUARD_BENCH_EXAMPLES: &str = "\
Examples:
  vmalloc bench guard
          All tools, 100, 10,000 and 100,000 live objects
  vmalloc bench guard --only glibc,all,electric-fence --live 100,10000 --rounds 7
          Three of them: glibc is what slowdowns are told of
  vmalloc bench guard --only glibc,all --live 1000000 --replace 1000000
          A million live objects

Tools, by the names that --only takes: glibc, all, every-1000, electric-fence,
scudo-all, scudo-1000, valgrind. --svg draws one line a tool.";

/// What to guard, and how.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("how-many").args(["all", "every"]))]
pub struct Guard {
    /// Guard every allocation, while there is room; this is the default
    #[arg(long)]
    pub all: bool,
    /// Guard one allocation in N, by chance
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub every: Option<u32>,
    /// Guard at most M at once; others get unguarded memory [default: the library's]
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u64).range(1..))]
    pub live: Option<u64>,
    /// Write what is found to this file, as JSON; %p in its name is the process
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// List what is left when the program exits, by caller
    #[arg(long)]
    pub leaks: bool,
    /// Where the bytes lie in their pages [default: the library's]
    #[arg(long, value_enum)]
    pub side: Option<Side>,
    /// Chooses what is guarded and where it lies, so that a run can be repeated
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// The program, and what it is given
    #[arg(trailing_var_arg = true, required = true, value_name = "PROGRAM")]
    pub program: Vec<OsString>,
}

/// Where an allocation lies in its pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Side {
    /// At the end of the last page: an overrun faults at once
    End,
    /// At the start of the first page: an underrun faults at once
    Start,
    /// One or the other
    Chance,
}

/// How to measure guarded programs.
#[derive(Debug, Args)]
pub struct GuardBench {
    /// Objects that live at once, with commas between
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [100, 10_000, 100_000])]
    pub live: Vec<u64>,
    /// Objects that are replaced in each run
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub replace: u64,
    /// How often each is run; the least counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Bytes of the allocations that the planted bugs are about, with commas between
    #[arg(long, value_name = "BYTES", value_delimiter = ',', default_values_t = [1, 100, 65_536])]
    pub sizes: Vec<usize>,
    /// Only these, by name, with commas between [default: all]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Draw what a replacement takes into this file
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Write the figures to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}
