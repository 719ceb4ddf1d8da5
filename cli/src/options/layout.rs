//! `vmalloc layout`.

use super::size;
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

pub const LAYOUT_EXAMPLES: &str = "\
Examples:
  vmalloc layout x86-32 --mem 2G
          Four parts above 3 GiB: direct map, vmalloc, permanent kmap, fixmap
  vmalloc layout x86-32 --mem 2G --vmalloc 192M
          Booted with vmalloc=192M: what vmalloc gains the direct map loses
  vmalloc layout x86-32 --mem 16G --pae --highmem 1G
          Three levels of tables; exactly 1 GiB of memory is high
  vmalloc layout arm32 --mem 512M
          Little memory: a large vmalloc space
  vmalloc layout x86-64 --levels 5 --svg map.svg
          12.5 PiB of vmalloc, drawn
  vmalloc layout riscv --mode sv48 --json | jq '.parts[0].start'
          The same as JSON; cli/README.md explains its names

Exit codes:
  0  the layout was shown
  1  the picture, or the report, could not be written
  2  there is no layout with these parameters: the line on stderr says why";

/// Which address space to show.
#[derive(Debug, Args)]
pub struct Layout {
    /// The machine.
    #[command(subcommand)]
    pub machine: Machine,
    /// Print JSON instead of a table
    #[arg(long, global = true)]
    pub json: bool,
    /// Draw the address space into this file
    #[arg(long, value_name = "FILE", global = true)]
    pub svg: Option<PathBuf>,
}

/// A machine, and what it is booted with.
#[derive(Debug, Subcommand)]
pub enum Machine {
    /// 32-bit x86: 3 GiB for programs, 1 GiB for the kernel
    #[command(name = "x86-32")]
    X86_32(X86_32),
    /// 64-bit x86
    #[command(name = "x86-64")]
    X86_64 {
        /// Levels of its page tables: 4 or 5
        #[arg(long, default_value_t = 4)]
        levels: u8,
    },
    /// 32-bit ARM
    Arm32 {
        /// Physical memory, with K, M or G
        #[arg(long, value_name = "SIZE", value_parser = size)]
        mem: u64,
        /// The boot parameter vmalloc= [default: 240M]
        #[arg(long, value_name = "SIZE", value_parser = size)]
        vmalloc: Option<u64>,
    },
    /// 64-bit ARM, pages of 4 KiB and addresses of 48 bits
    Arm64,
    /// 64-bit RISC-V
    Riscv {
        /// How addresses are translated
        #[arg(long, value_enum, default_value_t = Mode::Sv39)]
        mode: Mode,
    },
}

/// A 32-bit x86 machine.
#[derive(Debug, Args)]
pub struct X86_32 {
    /// Physical memory, with K, M or G
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub mem: u64,
    /// The boot parameter vmalloc= [default: 120M]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub vmalloc: Option<u64>,
    /// The boot parameter highmem=: exactly so much memory is high [default: what is left]
    #[arg(long, value_name = "SIZE", value_parser = size_or_0)]
    pub highmem: Option<u64>,
    /// A kernel without high memory
    #[arg(long, conflicts_with = "highmem")]
    pub no_highmem: bool,
    /// Entries of 64 bits: up to 64 GiB of memory
    #[arg(long)]
    pub pae: bool,
    /// CPUs that the kernel has fixmap slots for
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub cpus: u32,
}

/// How a RISC-V machine translates addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Mode {
    /// Three levels
    Sv39,
    /// Four levels
    Sv48,
}

/// Bytes, or none.
fn size_or_0(text: &str) -> Result<u64, String> {
    if text == "0" { Ok(0) } else { size(text) }
}
