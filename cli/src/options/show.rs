//! `vmalloc show`.

use clap::{Args, ValueEnum};
use std::path::PathBuf;

pub const SHOW_EXAMPLES: &str = "\
Examples:
  sudo vmalloc show
          This machine's: totals, tables, the largest areas, holes
  vmalloc show listing.txt --by module --top 5
          The five modules that hold most
  ssh host sudo cat /proc/vmallocinfo | vmalloc show - --svg map.svg
          Of another machine, and a picture of its address space
  vmalloc show before.txt after.txt
          What grew between two listings, by caller: a leak stands on top
  vmalloc show listing.txt --json | jq '.by_caller[0]'
          The same as JSON; cli/README.md explains its names

A listing is read as people paste it: quoted, indented, with a log's stamps, with
lines that a mailer broke, with CRLF, with addresses that the kernel hides; drgn's
and crash's (kmem -v), too.

Exit codes:
  0  the listing was shown
  1  the picture, or the report, could not be written
  2  a listing, or the command line, cannot be used";

/// What to show.
#[derive(Debug, Args)]
pub struct Show {
    /// The listing, plain or compressed (gzip, zstd, xz); - is stdin [default: /proc/vmallocinfo]
    pub listing: Option<PathBuf>,
    /// A later listing: shows what grew since the first, and what shrank
    pub later: Option<PathBuf>,
    /// One table only, or what of two listings is compared [default: all, and by caller]
    #[arg(long, value_enum)]
    pub by: Option<By>,
    /// Rows of a table, and how many of the largest areas and holes
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub top: u32,
    /// Print JSON instead of tables
    #[arg(long)]
    pub json: bool,
    /// Draw the address space into this file
    #[arg(long, value_name = "FILE", conflicts_with = "later")]
    pub svg: Option<PathBuf>,
}

/// What areas are summed by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum By {
    /// The function that asked for them, without its offset
    Caller,
    /// The module that the function is of
    Module,
    /// What they are for: vmalloc, vmap, ioremap, vm_map_ram, ...
    Kind,
    /// The node that their pages are of
    Node,
    /// Their size, in powers of two
    Size,
}

impl By {
    /// All of them, in the order in which they are shown.
    pub const ALL: [By; 5] = [By::Caller, By::Module, By::Kind, By::Node, By::Size];
}
