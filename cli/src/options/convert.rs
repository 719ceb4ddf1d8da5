//! The command line of `vmalloc convert`.

use clap::Args;
use std::path::PathBuf;

pub const CONVERT_EXAMPLES: &str = "\
Examples:
  trace-cmd record -e vmalloc sleep 10; trace-cmd report > events.txt
  vmalloc convert events.txt --output events.trace; vmalloc replay events.trace
          Linux's own recording (6.4 and later), as a trace, and replayed
  vmalloc convert events.txt --start before.vmallocinfo --output events.trace
          What was live before is known from a listing made then: /proc/vmallocinfo, or
          crash's kmem -v. Without it, frees of such areas are counted and passed over
  vmalloc replay events.txt
          Without a file between

Exit codes:
  0  converted
  1  it cannot be written
  2  the recording, the listing or the command line cannot be used";

/// What to convert.
#[derive(Debug, Args)]
pub struct Convert {
    /// What ftrace's `trace` or trace-cmd report has printed, plain or compressed; - is stdin
    pub recording: PathBuf,
    /// A listing of the areas that were there before it
    #[arg(long, value_name = "LISTING")]
    pub start: Option<PathBuf>,
    /// Write the trace to this file [default: stdout]
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}
