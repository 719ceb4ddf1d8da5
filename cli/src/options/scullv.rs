//! The command line of `vmalloc scullv`.

use super::size::size;
use clap::Args;
use std::path::PathBuf;

pub const SCULLV_EXAMPLES: &str = "\
Examples:
  vmalloc scullv /mnt
          Mounts scullv0..3 and goes on in the background; umount /mnt, or
          SIGTERM, ends it
  cp picture.jpg /mnt/scullv0; cmp picture.jpg /mnt/scullv0; cat /mnt/scullvmem
          Uses one of them. Opening for writing only empties a device first
  python3 -c \"import fcntl; print(fcntl.ioctl(open('/mnt/scullv0'), 0x4b08, 40))\"
          ioctl, with the original's numbers: 40 quanta an item, from the next
          trim on
  vmalloc scullv /mnt --order 0 --budget 64M --foreground
          Quanta of a page; each device holds 64 MiB at most; stays in front
  vmalloc scullv --selftest
          Mounts, tries everything out step by step, unmounts

Signals:
  SIGINT, SIGTERM  unmount
  SIGUSR1          statistics, to stderr or to the log

Exit codes:
  0   the devices are mounted, or were unmounted in order, or the test passed
  1   something went wrong while they were served, or the test failed
  2   the command line cannot be used, or nothing can be mounted here or there
  77  the test was skipped: nothing can be mounted here";

/// What to mount.
#[derive(Debug, Args)]
pub struct Scullv {
    /// The folder to mount on
    #[arg(required_unless_present = "selftest")]
    pub mountpoint: Option<PathBuf>,
    /// How many devices
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub devices: usize,
    /// Quanta are of 4096 << ORDER bytes, to begin with
    #[arg(long, default_value_t = 4)]
    pub order: u32,
    /// Quanta in an item, to begin with
    #[arg(long, default_value_t = 500)]
    pub qset: u32,
    /// Memory for all devices, such as 512M, 1.5G or 64MiB
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = size)]
    pub memory: u64,
    /// What each device may hold of it at most [default: all]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub budget: Option<u64>,
    /// Only O_TRUNC empties a device: opening it for writing only does not
    #[arg(long)]
    pub keep: bool,
    /// Let all users in, not only who has mounted
    #[arg(long)]
    pub allow_other: bool,
    /// Stay in front, and say everything on stderr
    #[arg(long)]
    pub foreground: bool,
    /// Where the background process writes messages and statistics
    #[arg(long, value_name = "FILE", conflicts_with = "foreground")]
    pub log: Option<PathBuf>,
    /// Mount in a folder of its own, try everything out, and unmount
    #[arg(long, conflicts_with = "mountpoint")]
    pub selftest: bool,
    /// This is the background process
    #[arg(long, hide = true, conflicts_with = "foreground")]
    pub daemon: bool,
}

/// How to measure the mounted device.
#[derive(Debug, Args)]
pub struct ScullvBench {
    /// Bytes to write and to read each time, such as 512M, 1.5G or 64MiB
    #[arg(long, value_name = "SIZE", default_value = "128M", value_parser = size)]
    pub size: u64,
    /// How often; the best counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Write the figures to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}
