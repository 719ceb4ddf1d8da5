//! The command line.

pub mod convert;
pub mod guard;
pub mod layout;
pub mod scullv;
pub mod show;
pub mod size;

use crate::qemu::Board;
use crate::qemu::tools::Source;
use clap::{Args, Parser, Subcommand, ValueEnum};
use convert::{CONVERT_EXAMPLES, Convert};
use guard::{GUARD_BENCH_EXAMPLES, GUARD_EXAMPLES, Guard, GuardBench};
use layout::{LAYOUT_EXAMPLES, Layout};
use scullv::{SCULLV_EXAMPLES, Scullv, ScullvBench};
use show::{SHOW_EXAMPLES, Show};
use size::size;
use std::path::{Path, PathBuf};
use vmalloc::area::{Placement, Policy};
use vmalloc::units::MAX_CPUS;

/// A kernel's vmalloc, as a library, and what can be done with it here.
#[derive(Debug, Parser)]
#[command(name = "vmalloc", version, propagate_version = true)]
pub struct Options {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Do what a real kernel's vmalloc did, and check every byte
    ///
    /// Replays a trace recorded from a real Linux 6.12: every area is made and
    /// filled with a pattern of its own, every free happens on the CPU that
    /// the trace names and checks the pattern first. What is live at the end
    /// is checked, listed if you like, and freed; nothing may remain.
    #[command(after_long_help = REPLAY_EXAMPLES)]
    Replay(Replay),
    /// Start the bare-metal machine, and talk to its shell
    ///
    /// Builds the image of a kernel that has nothing but the library, and
    /// starts it in QEMU: several CPUs, real page tables, real TLB shootdown.
    /// The terminal is its serial line; help lists the shell's commands.
    #[command(after_long_help = BOOT_EXAMPLES)]
    Boot(Boot),
    /// Measure: Linux's own cases, to the instruction, beside Linux's figures
    ///
    /// The image that is built to be measured does not hear the library's
    /// events, which the leak detector of the other one needs.
    #[command(subcommand)]
    Bench(Bench),
    /// Print the calls behind a vmalloc, with their arguments, as they happen
    ///
    /// Makes an area on a simulated machine by the traditional functions, in the
    /// form that they had in a kernel's age, and prints each of them as it is
    /// entered.
    #[command(after_long_help = CHAIN_EXAMPLES)]
    Chain(Chain),
    /// Show who holds a kernel's vmalloc space, from its /proc/vmallocinfo
    ///
    /// Reads a listing of any kernel since 2.6 and sums it by caller, module, kind,
    /// node and size; names the largest areas and the holes between them; draws the
    /// address space. Of two listings it shows what grew.
    #[command(after_long_help = SHOW_EXAMPLES)]
    Show(Show),
    /// Make a trace of what Linux's own tools have recorded
    ///
    /// Reads the text of the three vmalloc events of ftrace and trace-cmd, and writes a trace that
    /// replay plays.
    #[command(after_long_help = CONVERT_EXAMPLES)]
    Convert(Convert),
    /// Show where the parts of an address space lie, on several machines
    ///
    /// Computes direct map, vmalloc, permanent kmap, fixmap and what else there is from
    /// the machine's memory and from boot parameters, with sizes and holes.
    #[command(after_long_help = LAYOUT_EXAMPLES)]
    Layout(Layout),
    /// Mount the memory device of Linux Device Drivers, for all programs to use
    ///
    /// Each device is a file whose bytes lie in vmalloc'd areas of this
    /// program. Beside them, scullvmem lists the devices, vmallocinfo the areas,
    /// and meminfo the memory.
    #[command(after_long_help = SCULLV_EXAMPLES)]
    Scullv(Scullv),
    /// Run a program, and find its overruns and uses after free
    ///
    /// The program is not changed: a library that is loaded before it gives each
    /// allocation pages of its own, with guards around them, and unmaps it when it is
    /// freed. What goes wrong is told with who allocated and who freed; then the
    /// program dies as it would have.
    #[command(after_long_help = GUARD_EXAMPLES)]
    Guard(Guard),
    /// Print what a shell needs to complete this command's words
    ///
    /// For bash: vmalloc completions bash > /etc/bash_completion.d/vmalloc
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual's page of this command, or of one of its commands
    ///
    /// To read it: vmalloc man replay | man -l -
    Man {
        /// replay, boot, bench, ... [default: the command as a whole]
        command: Option<String>,
    },
}

impl Command {
    /// The files that it will write.
    pub fn outputs(&self) -> Vec<&Path> {
        let paths: &[&Option<PathBuf>] = match self {
            Command::Replay(options) => return outputs_of(options).collect(),
            Command::Chain(Chain { json, .. }) => &[json],
            Command::Show(Show { svg, .. }) => &[svg],
            Command::Convert(Convert { output, .. }) => &[output],
            Command::Layout(Layout { svg, .. }) => &[svg],
            Command::Scullv(Scullv { log, .. }) => &[log],
            Command::Bench(Bench::Linux(LinuxBench { json, .. })) => &[json],
            Command::Bench(Bench::Hosted(HostedBench { json, .. })) => &[json],
            Command::Bench(Bench::Scullv(ScullvBench { json, .. })) => &[json],
            Command::Bench(Bench::Guard(GuardBench { json, svg, .. })) => &[json, svg],
            Command::Bench(_) | Command::Boot(_) | Command::Guard(_) => &[],
            Command::Completions { .. } | Command::Man { .. } => &[],
        };
        paths.iter().filter_map(|path| path.as_deref()).collect()
    }
}

/// The files that a replay will write.
pub fn outputs_of(options: &Replay) -> impl Iterator<Item = &Path> {
    let Replay { json, svg, snapshot, trace_out, .. } = options;
    [json, svg, snapshot, trace_out].into_iter().filter_map(|path| path.as_deref())
}

const CHAIN_EXAMPLES: &str = "\
Examples:
  vmalloc chain 10000
          Three pages, as they are made today: one path, without an array
  vmalloc chain 10000 --age 2.6
          As 2.6 did: addresses, an array of pages, page by page, the mapping
  vmalloc chain 2100000 --age 3.0
          513 pages: their array is larger than a page, and made by vmalloc again
  vmalloc chain 4096 --age 4.x --node 0 --json calls.json
          Of a node by name; the calls as JSON, too

Exit codes:
  0  the area was made
  1  it was refused: the line on stderr says why
  2  the command line cannot be used";

const BOOT_EXAMPLES: &str = "\
Examples:
  vmalloc boot
          The shell: type help. poweroff ends the machine, Ctrl-A x ends it at
          once
  vmalloc boot -c \"vmalloc 1M; vmallocinfo; mem\"
          Runs these commands, and powers off
  vmalloc boot --cpus 8 --memory 1G --nodes 2 --la57 -c \"stress 10\"
          All CPUs of two nodes at once for ten seconds, with five levels
  vmalloc boot --machine microvm --policy strict --script commands.txt
          The commands of a file, one a line
  vmalloc boot --install
          Installs QEMU first, if it is missing

Exit codes:
  0  the image has said that everything it ran was right
  1  it has not: a command failed, or it panicked, crashed or took too long,
     or was ended by Ctrl-A x
  2  the command line cannot be used, or there is no image or no QEMU";

const REPLAY_EXAMPLES: &str = "\
Examples:
  vmalloc replay
          The trace that comes with the program: forks, module loads, mounts,
          network namespaces, bpf, swap; on real memory, one thread a CPU
  vmalloc replay traces/boot.txt.gz --expect traces/boot.vmallocinfo.gz
          Does a boot, then compares what is live with Linux's own listing
  vmalloc replay --machine sim --policy strict --cpus 2 --seed 7
          On simulated CPUs whose TLBs go stale; the seed repeats the run
  vmalloc replay --machine pc --cpus 2
          In a kernel without anything else, on CPUs with real TLBs (QEMU)
  vmalloc replay --cpus 1 --historic 2.6
          The same trace by 2.6's list beside it: span, search steps, flushes, time
  vmalloc replay --placement lowest --svg map.svg --snapshot areas.json
          Draws the address space at the end, and writes its areas as JSON
  vmalloc replay --trace-out mine.txt; vmalloc replay mine.txt
          Records where this allocator has put the areas, and replays that
  vmalloc replay --loops 100 --json report.json --quiet
          A longer run for the figures, without a word

Exit codes:
  0  all went well: no event failed, no byte was wrong, no rule was broken,
     nothing leaked
  1  something did not: the report says what
  2  the trace, the listing or the command line cannot be used, or a file cannot be written
  130  Ctrl-C ended it: the report says what was done until then";

/// How to replay.
#[derive(Debug, Args)]
pub struct Replay {
    /// The trace, plain or compressed (gzip, zstd, xz); - is stdin; without it, the one that is built in
    pub trace: Option<PathBuf>,
    /// What is under the library
    #[arg(long, value_enum, default_value_t = MachineName::Hosted)]
    pub machine: MachineName,
    /// When a freed area becomes unreachable
    #[arg(long, value_enum, default_value_t = PolicyName::Unmap)]
    pub policy: PolicyName,
    /// Where areas are put
    #[arg(long, value_enum, default_value_t = PlacementName::Classes)]
    pub placement: PlacementName,
    /// CPUs; events of CPUs beyond them go to CPU modulo N [default: as many
    /// as the trace has]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MAX_CPUS as i64))]
    pub cpus: Option<u32>,
    /// How often to replay, on the same instance
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub loops: u32,
    /// Chooses the patterns and, on the simulator, who runs when
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Physical memory, such as 512M, 1.5G or 64MiB
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = size)]
    pub memory: u64,
    /// Compare what is live at the end with this listing (/proc/vmallocinfo),
    /// plain or compressed
    #[arg(long, value_name = "FILE")]
    pub expect: Option<PathBuf>,
    /// With --expect: a difference makes the exit code 1
    #[arg(long, requires = "expect")]
    pub strict_expect: bool,
    /// Print the listing of what is live at the end
    #[arg(long)]
    pub info: bool,
    /// Write the report to this file, as JSON; - is stdout, and then nothing else is printed
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Draw the address space at the end into this file
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Write the areas at the end, their sums and the holes to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub snapshot: Option<PathBuf>,
    /// Write what is made, freed and purged, and where, to this file: a trace
    /// that can be replayed
    #[arg(long, value_name = "FILE")]
    pub trace_out: Option<PathBuf>,
    /// Print nothing but errors, and what was asked for by name
    #[arg(long, short)]
    pub quiet: bool,
    /// Play it by the address allocator of an old kernel, too, and print both beside each other
    #[arg(long, value_name = "AGE", value_enum)]
    pub historic: Option<HistoricName>,
    #[command(flatten)]
    pub source: Source,
}

/// What to make, and as whom.
#[derive(Debug, Args)]
pub struct Chain {
    /// Bytes to ask for
    pub bytes: usize,
    /// The kernel whose functions are called
    #[arg(long, value_enum, default_value_t = AgeName::Today)]
    pub age: AgeName,
    /// The node to ask for; 2.6 had no such function [default: any]
    #[arg(long, value_name = "N")]
    pub node: Option<u8>,
    /// Physical memory, such as 512M, 1.5G or 64MiB
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = size)]
    pub memory: u64,
    /// Write the calls to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Which kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum AgeName {
    /// vmlist, map_vm_area
    #[value(name = "2.6")]
    V2_6,
    /// __vmalloc_node, kmemleak
    #[value(name = "3.0")]
    V3_0,
    /// __vmalloc_node_range, areas that are not whole yet
    #[value(name = "4.x")]
    V4,
    /// The library's one path
    #[value(name = "today")]
    Today,
}

/// Which kernel's address allocator.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum HistoricName {
    /// First fit over one list, and a flush with each free
    #[value(name = "2.6")]
    V2_6,
    /// A search that begins where the last one ended, and lazy frees
    #[value(name = "3.0")]
    V3_0,
}

/// What to boot.
#[derive(Debug, Args)]
pub struct Boot {
    /// Run these commands of the shell, with ; between them, and power off
    #[arg(short, value_name = "COMMANDS", conflicts_with = "script")]
    pub commands: Option<String>,
    /// Run the commands of this file, one a line, and power off
    #[arg(long, value_name = "FILE")]
    pub script: Option<PathBuf>,
    /// A file that the machine gets as its module: the shell's load writes it to a device
    #[arg(long, value_name = "FILE", conflicts_with = "script")]
    pub module: Option<PathBuf>,
    /// The board
    #[arg(long, value_enum, default_value_t)]
    pub machine: Board,
    /// CPUs
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=MAX_CPUS as i64))]
    pub cpus: u32,
    /// Physical memory, such as 512M, 1.5G or 64MiB
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = size)]
    pub memory: u64,
    /// Nodes that memory and CPUs are spread over
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=8))]
    pub nodes: u32,
    /// Addresses of five levels, instead of four
    #[arg(long)]
    pub la57: bool,
    /// When a freed area becomes unreachable [default: the image's]
    #[arg(long, value_enum)]
    pub policy: Option<PolicyName>,
    /// Another setting of the image, as placement=lowest, region=64M, flush=none
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    pub settings: Vec<String>,
    /// End the machine after so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub time_limit: Option<u64>,
    #[command(flatten)]
    pub source: Source,
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Linux's own vmalloc cases, instructions an operation, beside Linux's
    ///
    /// Boots the bare-metal machine where a tick of its clock is an
    /// instruction, so that two runs print the same, byte for byte.
    Linux(LinuxBench),
    /// One case, instruction by instruction: which functions they are spent in
    Profile(Profile),
    /// 1, 2, 4 and 8 CPUs at once: operations a second, and what they share
    Threads(ThreadsBench),
    /// The longest single call, by kind and size, among 100,000 live areas
    Latency(OnMachine),
    /// A process: pairs by policy, beside mmap, malloc and mimalloc
    Hosted(HostedBench),
    /// The mounted memory device, MiB a second, beside tmpfs and another mount
    Scullv(ScullvBench),
    /// Guarded programs: bugs found, slowdown, memory and mappings, beside other tools
    ///
    /// Tools that are not installed are told with the package that has them.
    #[command(after_long_help = GUARD_BENCH_EXAMPLES)]
    Guard(GuardBench),
}

/// What to measure on several CPUs.
#[derive(Debug, Args)]
pub struct ThreadsBench {
    /// Only what an operation costs on 1, 2 and 4 CPUs in instructions, which is the same whatever
    /// else the computer does
    #[arg(long)]
    pub exact: bool,
    #[command(flatten)]
    pub source: Source,
}

/// How to measure a process.
#[derive(Debug, Args)]
pub struct HostedBench {
    /// Write the figures to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// How to compare with Linux.
#[derive(Debug, Args)]
pub struct LinuxBench {
    /// One case only, such as "fix_size 16"
    pub case: Option<String>,
    /// Write the figures to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// The table only: neither Linux's flush threshold nor events
    #[arg(long)]
    pub quick: bool,
    #[command(flatten)]
    pub source: Source,
}

/// What to boot.
#[derive(Debug, Args)]
pub struct OnMachine {
    #[command(flatten)]
    pub source: Source,
}

/// What to profile.
#[derive(Debug, Args)]
pub struct Profile {
    /// The case, such as "fix_size 16", or "remote": a free on another CPU
    pub case: String,
    /// When freed areas become unreachable
    #[arg(long, value_enum, default_value_t = PolicyName::Unmap)]
    pub policy: PolicyName,
    /// Loops [default: as many as give about two batches]
    #[arg(long, value_name = "N")]
    pub loops: Option<u32>,
    /// By line of the source, not by function
    #[arg(long)]
    pub lines: bool,
    /// Lines of the table
    #[arg(long, value_name = "N", default_value_t = 40)]
    pub most: usize,
    #[command(flatten)]
    pub source: Source,
}

/// Which machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum MachineName {
    /// This process: real memory, real page tables, a thread a CPU
    Hosted,
    /// Simulated CPUs whose TLBs go stale
    Sim,
    /// A bare-metal machine in QEMU: real tables, TLBs and shootdown
    Pc,
}

/// Which policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum PolicyName {
    /// At the next flush, which many frees share
    Unmap,
    /// At once
    Strict,
    /// When it is needed elsewhere: until then its addresses fault and keep their memory
    Park,
    /// When it is needed elsewhere: until then a use after free is not caught
    Keep,
}

/// Which placement.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum PlacementName {
    /// By size, in slots that each CPU keeps for itself
    Classes,
    /// In the lowest hole that fits
    Lowest,
}

impl From<PolicyName> for Policy {
    fn from(name: PolicyName) -> Policy {
        match name {
            PolicyName::Unmap => Policy::Unmap,
            PolicyName::Strict => Policy::Strict,
            PolicyName::Park => Policy::Park,
            PolicyName::Keep => Policy::Keep,
        }
    }
}

impl From<PlacementName> for Placement {
    fn from(name: PlacementName) -> Placement {
        match name {
            PlacementName::Classes => Placement::Classes,
            PlacementName::Lowest => Placement::Lowest,
        }
    }
}

/// The word that the command line has for `value`.
pub fn word(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |word| word.get_name().to_owned())
}

/// A word of the image's command line.
fn setting(text: &str) -> Result<String, String> {
    let named = text.split_once('=').is_some_and(|(name, value)| !(name.is_empty() || value.is_empty()));
    match named && !text.contains(char::is_whitespace) {
        true => Ok(text.to_owned()),
        false => Err("a name, = and a value, such as placement=lowest".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }
}
