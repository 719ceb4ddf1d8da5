//! The listing in the form of `/proc/vmallocinfo`, with what the records know.
//!
//! ```text
//!   0x<start>-0x<end> <size> <caller> pages=N phys=… ioremap sparse vmalloc vmap user
//!       dma-coherent vpages N<node>=<pages>
//! ```
//!
//! Each word only where it holds, in this order; all areas by address; those that are not
//! whole yet are left out; at the end those that wait for a flush. A machine of 32 bits has
//! addresses of 8 digits.

use crate::flags::VmFlags;
use crate::host::{Host, Kern};
use crate::kernel::Kernel;
use crate::vm_struct::VmStruct;
use arrayvec::ArrayString;
use core::fmt::{self, Write};
use vmalloc::frames::MAX_NODES;
use vmalloc::machine::Machine;
use vmalloc::machine::format::Format;
use vmalloc::machine::frames::Frames;
use vmalloc::units::PAGE_SIZE;
use vmalloc::{Caller, Info, Kind};

/// The characters of an address with 8 digits, and with 16: those of the machine's pointers, and
/// of its physical addresses.
const NARROW: usize = 10;
const WIDE: usize = 18;

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

    /// Logs what `at` lies in, if it is an area: ` %u-page vmalloc region starting at %#lx
    /// allocated at %pS`. True if it did. It waits for nobody: it logs nothing where another
    /// caller has the lock of the areas' records.
    ///
    /// # Cost
    /// O(1). Source: `vmalloc_dump_obj`.
    pub fn vmalloc_dump_obj(&self, at: usize) -> bool {
        let Some(info) = self.vm.find(at).filter(|info| info.kind != Kind::MapRam) else { return false };
        let Some(record) = self.record_without_waiting(&info) else { return false };
        let VmStruct { nr_pages, addr, caller, .. } = VmStruct::new(&info, record.as_ref());
        let caller = Symbol(self.machine(), caller);
        let line = format_args!(" {nr_pages}-page vmalloc region starting at {addr:#x} allocated at {caller}");
        self.printk(Kern::Info, line);
        true
    }

    fn list_area(&self, out: &mut dyn Write, info: &Info) -> fmt::Result {
        let (start, size) = (info.start.0, info.size());
        let width = if u32::try_from(start + size).is_ok() { NARROW } else { WIDE };
        let range = format_args!("{start:#0width$x}-{:#0width$x} {size:7}", start + size);
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
            let width = if M::Table::MAX_PFN <= 1 << 20 { NARROW } else { WIDE };
            write!(out, " phys={:#0width$x}", area.phys_addr)?;
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
pub(crate) struct Symbol<'a, M>(pub(crate) &'a M, pub(crate) Caller);

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Bare;

    #[test]
    fn an_object_is_not_dumped_while_another_caller_has_the_records_lock() {
        let vm = vmalloc_hosted::builder().memory(16 << 20).build().expect("memory");
        let kernel = Kernel::new(&vm, Bare);
        let area = kernel.vmalloc_user(5000).expect("an area");
        let at = area.addr().get();
        assert!(kernel.vmalloc_dump_obj(at));
        let held = kernel.records.lock();
        assert!(!kernel.vmalloc_dump_obj(at), "it would wait");
        drop(held);
        assert!(kernel.vmalloc_dump_obj(at + 4999));
        // SAFETY: Y1: nobody uses it.
        unsafe { kernel.vfree(area.as_ptr()) }.expect("it lives");
        assert!(!kernel.vmalloc_dump_obj(at), "no area any more");
    }
}
