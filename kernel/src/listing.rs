//! The listing in the form of `/proc/vmallocinfo`, with what the records know.
//!
//! ```text
//!   0x<start>-0x<end> <size> <caller> pages=N phys=… ioremap sparse vmalloc vmap user
//!       dma-coherent vpages N<node>=<pages>
//! ```
//!
//! Each word only where it holds, in this order; all areas by address; those that are not
//! whole yet are left out; at the end those that wait for a flush.

use crate::flags::VmFlags;
use crate::host::Host;
use crate::kernel::Kernel;
use crate::vm_struct::VmStruct;
use arrayvec::ArrayString;
use core::fmt::{self, Write};
use vmalloc::frames::MAX_NODES;
use vmalloc::machine::Machine;
use vmalloc::machine::frames::Frames;
use vmalloc::units::PAGE_SIZE;
use vmalloc::{Caller, Info, Kind};

/// Flags by their words, in the order of the listing.
const WORDS: [(VmFlags, &str); 6] = [
    (VmFlags::IOREMAP, " ioremap"),
    (VmFlags::SPARSE, " sparse"),
    (VmFlags::ALLOC, " vmalloc"),
    (VmFlags::MAP, " vmap"),
    (VmFlags::USERMAP, " user"),
    (VmFlags::DMA_COHERENT, " dma-coherent"),
];

impl<M: Machine, H: Host> Kernel<'_, M, H> {
    /// Prints all areas.
    ///
    /// # Errors
    /// Those of `out`.
    ///
    /// # Cost
    /// O(1) an area and a page of memory; the records' lock an area.
    pub fn vmallocinfo(&self, out: &mut dyn Write) -> fmt::Result {
        for info in self.vm.areas() {
            self.list_area(out, &info)?;
        }
        let mut unpurged = Unpurged { out, line: ArrayString::new() };
        self.vm.list(&mut unpurged)
    }

    fn list_area(&self, out: &mut dyn Write, info: &Info) -> fmt::Result {
        let (start, size) = (info.start.0, info.size());
        let range = format_args!("{start:#018x}-{:#018x} {size:7}", start + size);
        if info.kind == Kind::MapRam {
            return writeln!(out, "{range} vm_map_ram");
        }
        let area = self.vm_struct(info);
        if area.flags.contains(VmFlags::UNINITIALIZED) {
            return Ok(());
        }
        write!(out, "{range} {}", Symbol(self.machine(), area.caller))?;
        if area.nr_pages > 0 {
            write!(out, " pages={}", area.nr_pages)?;
        }
        if area.phys_addr != 0 {
            write!(out, " phys={:#018x}", area.phys_addr)?;
        }
        let words = WORDS.iter().filter(|(flag, _)| area.flags.contains(*flag));
        words.into_iter().try_for_each(|(_, word)| out.write_str(word))?;
        if area.pages.is_some_and(|pages| pages.is_vpages()) {
            out.write_str(" vpages")?;
        }
        self.list_nodes(out, &area)?;
        writeln!(out)
    }

    /// ` N<node>=<pages>` for each node that frames of the area's own are of.
    fn list_nodes(&self, out: &mut dyn Write, area: &VmStruct) -> fmt::Result {
        let mut pages = [0usize; MAX_NODES];
        let frames = (0..area.nr_pages).filter_map(|page| self.vm.frame_at(area.addr + page * PAGE_SIZE));
        frames.for_each(|frame| pages[self.machine().frames().node_of(frame).0 as usize % MAX_NODES] += 1);
        let present = pages.iter().enumerate().filter(|(_, pages)| **pages > 0);
        present.into_iter().try_for_each(|(node, pages)| write!(out, " N{node}={pages}"))
    }
}

/// A caller, as the machine prints it.
struct Symbol<'a, M>(&'a M, Caller);

impl<M: Machine> fmt::Display for Symbol<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Caller::At(place) => write!(f, "{}:{}", place.file(), place.line()),
            Caller::Return(pc) => self.0.symbol(pc, f),
        }
    }
}

/// Hands on the lines of the library's listing that are of no live area. They are short;
/// what is longer than the buffer is none of them.
struct Unpurged<'o> {
    out: &'o mut dyn Write,
    line: ArrayString<96>,
}

impl Write for Unpurged<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive('\n') {
            let _ = self.line.try_push_str(part);
            if part.ends_with('\n') {
                if self.line.ends_with(" unpurged vm_area\n") {
                    self.out.write_str(&self.line)?;
                }
                self.line.clear();
            }
        }
        Ok(())
    }
}
