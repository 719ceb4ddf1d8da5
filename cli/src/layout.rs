//! `vmalloc layout`: where the parts of a machine's address space lie.

use crate::options::layout::{self as options, Machine, Mode};
use crate::report::picture::{Block, MOST_KINDS, Picture};
use crate::report::table::{bytes, grouped, numbers};
use anyhow::Result;
use serde_json::{Value as Json, json};
use std::fmt::{self, Write};
use vmalloc_kernel::layout::{Arm32, Arm64, Layout, LayoutError, MAX_PARTS, Memory, Part, Riscv, X86_32, X86_64};

/// The colours of parts, by their order.
const COLOURS: [&str; MAX_PARTS] =
    ["#999999", "#009e73", "#0072b2", "#e69f00", "#cc79a7", "#b8a800", "#d55e00", "#56b4e9"];
const _: () = assert!(MAX_PARTS <= MOST_KINDS, "a picture has as many kinds as a layout has parts");

/// A layout, and how to show it.
pub struct Laid {
    options: options::Layout,
    layout: Layout,
}

/// Computes the layout.
pub fn prepare(options: options::Layout) -> Result<Laid> {
    let layout = laid(&options.machine)?;
    Ok(Laid { options, layout })
}

fn laid(machine: &Machine) -> Result<Layout, LayoutError> {
    match machine {
        Machine::X86_32(of) => X86_32 {
            vmalloc: of.vmalloc,
            highmem: of.highmem,
            pae: of.pae,
            has_highmem: !of.no_highmem,
            cpus: of.cpus,
            ..X86_32::new(of.mem)
        }
        .layout(),
        Machine::X86_64 { levels } => X86_64 { levels: *levels }.layout(),
        Machine::Arm32 { mem, vmalloc } => Arm32 { memory: *mem, vmalloc: *vmalloc }.layout(),
        Machine::Arm64 => Ok(Arm64.layout()),
        Machine::Riscv { mode: Mode::Sv39 } => Ok(Riscv::Sv39.layout()),
        Machine::Riscv { mode: Mode::Sv48 } => Ok(Riscv::Sv48.layout()),
    }
}

impl Laid {
    /// Draws and prints.
    pub fn run(&self) -> Result<bool> {
        if let Some(path) = &self.options.svg {
            crate::output::write(path, &drawn(&self.layout))?;
        }
        super::print(&self.text()?)?;
        Ok(true)
    }

    fn text(&self) -> Result<String> {
        if self.options.json {
            return Ok(serde_json::to_string_pretty(&as_json(&self.layout))? + "\n");
        }
        let mut out = String::new();
        write_table(&mut out, &self.layout)?;
        Ok(out)
    }
}

fn write_table(out: &mut String, layout: &Layout) -> fmt::Result {
    writeln!(out, "{}\n", title(layout))?;
    let mut table = numbers(&["part", "from", "to", "bytes", ""], 4);
    for part in layout.all() {
        let name = if part.is_hole() { "  (hole)" } else { part.name };
        let [start, end] = [part.start, part.end].map(|at| address(layout, at));
        table.add_row([name.to_owned(), start, end, grouped(part.bytes()), bytes(part.bytes())]);
    }
    writeln!(out, "{table}")?;
    let Some(at) = layout.high_memory() else { return Ok(()) };
    writeln!(out, "\nhigh_memory is {}.", address(layout, at))
}

/// The machine and its memory.
fn title(layout: &Layout) -> String {
    let Some(Memory { low, high, unused }) = layout.memory else { return layout.machine.to_owned() };
    let mut title = format!("{}: {} of memory in the direct map", layout.machine, bytes(low));
    for (some, what) in [(high, "high"), (unused, "not used")] {
        if some > 0 {
            title += &format!(", {} {what}", bytes(some));
        }
    }
    title
}

/// An address, in as many digits as the machine's have.
fn address(layout: &Layout, at: u64) -> String {
    let is_narrow = layout.parts().iter().all(|part| part.end <= 1 << 32);
    if is_narrow { format!("{at:#010x}") } else { format!("{at:#018x}") }
}

fn as_json(layout: &Layout) -> Json {
    let part = |part: &Part| {
        let [start, end] = [part.start, part.end].map(|at| address(layout, at));
        json!({ "name": part.name, "start": start, "end": end, "bytes": part.bytes() })
    };
    let holes = layout.holes().map(|hole| part(&hole)).collect::<Vec<_>>();
    let memory = |Memory { low, high, unused }| json!({ "low": low, "high": high, "unused": unused });
    json!({
        "machine": layout.machine,
        "memory": layout.memory.map(memory),
        "high_memory": layout.high_memory().map(|at| address(layout, at)),
        "parts": layout.parts().iter().map(part).collect::<Vec<_>>(),
        "holes": holes,
    })
}

fn drawn(layout: &Layout) -> String {
    let block = |(kind, part): (usize, &Part)| Block { start: part.start, bytes: part.bytes(), kind };
    let legend = |(part, colour): (&Part, &'static str)| (format!("{}: {}", part.name, bytes(part.bytes())), colour);
    Picture {
        title: &title(layout),
        note: "",
        what: "parts",
        legend: &layout.parts().iter().zip(COLOURS).map(legend).collect::<Vec<_>>(),
        colours: &COLOURS,
        blocks: &layout.parts().iter().enumerate().map(block).collect::<Vec<_>>(),
    }
    .draw()
}
