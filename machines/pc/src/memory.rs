//! Memory: where everything lies, and what is whose.
//!
//! ```text
//!               4 levels                5 levels
//!   direct      0xffff888000000000      0xff11000000000000   all RAM, large pages
//!   vmalloc     0xffffc90000000000      0xffa0000000000000   region 0
//!   image       0xffffffff80200000      as left              text RX, rodata R, data RW
//!   modules     0xffffffffa0000000      as left              region 1
//!   fixmap      0xffffffffff400000      as left              devices
//! ```
//!
//! # Rules
//! - **D1** The direct map covers all RAM of the memory map and the first
//!   2 MiB, writable but for frames of which somebody wants it otherwise ([`set_direct_map`]), never
//!   executable. [`direct()`] is the address of a byte there; on the
//!   static tables of the start it is the physical address itself.
//! - **D2** No page of the root table in use is both writable and executable.
//! - **D3** Frames come from [`early`] until the zones have taken over what is
//!   left; none comes from both.

mod direct;
mod early;
mod ram;
mod tables;

use crate::boot::StartInfo;
use crate::cpu::acpi;
use crate::instructions;
use crate::vm;
use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
pub use direct::set_direct_map;
use early::Early;
use ram::Ram;
use spin::{Mutex, Once};
use tables::Tables;
pub use tables::data;
use vmalloc::frames::{STORAGE_ALIGN, Zones};
use vmalloc::machine::frames::Frames;
use vmalloc::units::{PAGE_SIZE, Pfn};

/// Where the image is linked: addresses of what lies at 0.
const IMAGE: usize = 0xffff_ffff_8000_0000;
/// Region 1.
pub const MODULES: Range<usize> = 0xffff_ffff_a000_0000..0xffff_ffff_ff00_0000;
const FIXMAP: usize = 0xffff_ffff_ff40_0000;
/// The first MiB is the firmware's, and the trampoline's.
const LOW: Range<u64> = 0..1 << 20;

/// Where D1's map begins: 0 on the static tables.
static DIRECT: AtomicUsize = AtomicUsize::new(0);
static TABLES: Once<Mutex<Tables>> = Once::new();
static ROOT: Once<Pfn> = Once::new();

/// Devices that have a page of their own in the fixmap.
#[derive(Clone, Copy)]
pub enum Fixed {
    /// The CPU's interrupt controller.
    Apic = 0,
}

/// Levels of the page tables in use: start.s took as many as the CPU has.
pub fn levels() -> u8 {
    const LA57: u64 = 1 << 12;
    if instructions::cr4() & LA57 != 0 { 5 } else { 4 }
}

/// Region 0: as large as the library serves, or as the kernels have it.
pub fn vmalloc_region() -> Range<usize> {
    match levels() {
        4 => 0xffff_c900_0000_0000..0xffff_e900_0000_0000,
        _ => 0xffa0_0000_0000_0000..0xffa2_0000_0000_0000,
    }
}

fn direct_base() -> usize {
    if levels() == 4 { 0xffff_8880_0000_0000 } else { 0xff11_0000_0000_0000 }
}

/// Where the byte at the physical address `at` is (D1).
#[inline(always)]
pub fn direct(at: u64) -> NonNull<u8> {
    let at = core::ptr::with_exposed_provenance_mut(DIRECT.load(Relaxed) + at as usize);
    // SAFETY: the static tables' address 0 is never asked for: what lies there
    // is the firmware's.
    unsafe { NonNull::new_unchecked(at) }
}

/// The bytes of a range of RAM that nobody writes.
pub fn slice(range: Range<u64>) -> &'static [u8] {
    // SAFETY: D1, and nobody writes them.
    unsafe { core::slice::from_raw_parts(direct(range.start).as_ptr(), (range.end - range.start) as usize) }
}

/// The root table's frame.
pub fn root() -> Pfn {
    ROOT.get().copied().unwrap_or(Pfn(0))
}

/// Maps the device at `phys` into its page of the fixmap, uncached.
pub fn fix(device: Fixed, phys: u64) {
    if let Some(tables) = TABLES.get() {
        tables.lock().map_device(fixed(device), phys);
    }
}

/// Where a device's page is.
#[inline]
pub fn fixed(device: Fixed) -> usize {
    FIXMAP + device as usize * PAGE_SIZE
}

/// Takes memory over: own tables, then the zones.
pub fn init(info: &StartInfo) {
    let ram = Ram::of(&info.map);
    let mut early = Early::after_image(&ram, &info.module);
    let mut tables = Tables::new(&mut early);
    tables.map_image(&mut early);
    tables.map_fixmap(FIXMAP, &mut early);
    tables.map_direct(direct_base(), LOW, &mut early);
    ram.ranges().for_each(|range| tables.map_direct(direct_base(), range, &mut early));
    // SAFETY: the image and the direct map are in it; what was made on the
    // static tables is reached through the direct map from here on.
    unsafe { instructions::set_cr3(tables.root()) }
    DIRECT.store(direct_base(), Relaxed);
    ROOT.call_once(|| Pfn::containing(tables.root()));
    let topology = acpi::read(info.rsdp, &mut |range| tables.map_direct(direct_base(), range, &mut early));
    let topology = crate::cpu::set_topology(topology);
    TABLES.call_once(|| Mutex::new(tables));
    hand_over(ram, [LOW, early.used(), info.module.clone()], topology);
}

/// What is left of RAM becomes the zones' (D3).
fn hand_over(mut ram: Ram, used: [Range<u64>; 3], topology: &acpi::Topology) {
    used.into_iter().for_each(|range| ram.remove(range));
    let bytes = Zones::<Mutex<()>>::storage_for(&ram.by_node(topology)).next_multiple_of(PAGE_SIZE);
    let storage = ram.take_top(bytes as u64);
    const { assert!(STORAGE_ALIGN <= PAGE_SIZE) };
    // SAFETY: Z1: as long as asked for, page-aligned, and taken out of RAM.
    // Z2: what is used was removed. Z3: the boot CPU alone runs.
    let taken = unsafe { vm().machine().zones().init(&ram.by_node(topology), None, direct(storage)) };
    taken.unwrap_or_else(|bad| panic!("{bad}"));
}

/// The machine in a line.
pub struct Summary;

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zones = vm().machine().zones();
        let (mib, cpus) = (zones.total() * PAGE_SIZE / (1 << 20), crate::cpu::count());
        write!(f, "vmalloc-pc: {cpus} CPUs, {mib} MiB on {} nodes, {} levels, ", zones.nodes(), levels())?;
        f.write_str(if crate::cpu::apic::is_x2() { "x2APIC" } else { "APIC" })
    }
}

/// The regions of the address space, lowest first, by name.
pub fn map() -> [(&'static str, Range<usize>); 5] {
    let end = |frames: usize| direct_base() + frames * PAGE_SIZE;
    let top = TABLES.get().map_or(0, |tables| tables.lock().direct_end());
    let image = tables::image();
    [
        ("direct map", direct_base()..end(top)),
        ("vmalloc", vm().machine().region()),
        ("image", image),
        ("modules", MODULES),
        ("fixmap", FIXMAP..FIXMAP + PAGE_SIZE),
    ]
}
