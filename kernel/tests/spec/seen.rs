//! What there is to be seen beside the listing: widths, sums, holes.

use crate::common::*;
use vmalloc::area::RegionId;
use vmalloc::table::X86_32;
use vmalloc::units::{Node, Pfn};
use vmalloc::{Caller, Config, Kind};
use vmalloc_kernel::{Account, Filter, Fragmentation, HOLE_SIZES, Kernel, Pgprot, Request, VmFlags};
use vmalloc_sim::{Bank, Booted, Rates, Sim};

const LOW: usize = 0xf800_0000;

#[test]
fn on_32_bits_vmallocinfo_has_addresses_of_8_digits() {
    let device = Bank { first: Pfn(0xe0000), frames: 16, node: None };
    let sim = Sim::<X86_32>::builder().node(32 << 20).bank(device).rates(Rates::NEVER).build();
    let rig = Booted::new(sim, Config::region(LOW..LOW + (16 << 20))).unwrap();
    rig.sim().set_symbolizer(|pc, f| write!(f, "init+{pc:#x}/0x40"));
    let kernel = Kernel::new(&*rig, Recorder::default());
    let by = |size, pc| Request { caller: Caller::Return(pc), ..kernel.request(size) };
    let first = kernel.__vmalloc_node(&by(PAGE, 0x10)).map(number).unwrap();
    let second = kernel.__vmalloc_node(&by(PAGE, 0x20)).map(number).unwrap();
    let mapped = kernel.ioremap(0xe000_0000, PAGE).unwrap();
    // SAFETY: Y1: nobody uses it.
    unsafe { kernel.vfree(at(second)) }.unwrap();
    let mut text = String::new();
    kernel.vmallocinfo(&mut text).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let range = |start: usize| format!("{start:#x}-{:#x}    8192", start + 2 * PAGE);
    assert_eq!(range(first).len(), "0xf8001000-0xf8003000    8192".len());
    let whole = format!("{} init+0x10/0x40 pages=1 vmalloc N0=1", range(first));
    assert!(lines.contains(&whole.as_str()), "{text}");
    assert!(lines.iter().any(|line| line.ends_with(" phys=0xe0000000 ioremap")), "{text}");
    assert_eq!(lines.last(), Some(&format!("{} unpurged vm_area", range(second)).as_str()));
    // SAFETY: Y1: nobody uses them.
    unsafe {
        kernel.vfree(at(first)).unwrap();
        kernel.iounmap(mapped.as_ptr()).unwrap();
    }
}

#[test]
fn meminfo_tells_the_range_the_pages_that_areas_own_and_the_widest_hole() {
    let bytes = 64 << 20;
    let rig = boot(Sim::builder().node(32 << 20).rates(Rates::NEVER), Config::region(START..START + bytes));
    let kernel = rig.kernel();
    let before = kernel.meminfo();
    assert_eq!((before.vmalloc_total, before.vmalloc_used), (bytes, 0));
    let areas: Vec<usize> = [1, 5, 700].map(|pages| kernel.vmalloc(pages * PAGE).map(number).unwrap()).into();
    let some = frames(&rig, 3);
    // SAFETY: P4: they are held for longer.
    let shown = unsafe { kernel.vmap(&some, vmalloc_kernel::VmFlags::MAP, vmalloc_kernel::Pgprot::KERNEL) }.unwrap();
    let info = kernel.meminfo();
    assert_eq!(info.vmalloc_used, 706 * PAGE, "frames of somebody else are not counted");
    let widest = rig.widest_hole(RegionId(0)).unwrap();
    assert_eq!(info.vmalloc_chunk, widest * PAGE);
    let kilobytes = [bytes, info.vmalloc_used, info.vmalloc_chunk].map(|bytes| format!("{:8} kB", bytes >> 10));
    let [total, used, chunk] = kilobytes;
    let text = format!("VmallocTotal:   {total}\nVmallocUsed:    {used}\nVmallocChunk:   {chunk}\n");
    assert_eq!(info.to_string(), text);
    // SAFETY: Y1: nobody uses it.
    unsafe { kernel.vunmap(shown.as_ptr()) }.unwrap();
    give_frames(&rig, &some);
    areas.iter().for_each(|&area| vfree(&kernel, area).unwrap());
    rig.purge();
    assert!(kernel.meminfo().vmalloc_chunk > info.vmalloc_chunk);
}

#[test]
fn the_widest_hole_is_what_one_area_can_have_and_no_page_more() {
    let config = Config::region(START..START + (16 << 20)).placement(vmalloc::Placement::Lowest);
    let rig = boot(Sim::builder().node(32 << 20).rates(Rates::NEVER), config);
    let kernel = rig.kernel();
    let keep = kernel.vmalloc(300 * PAGE).map(number).unwrap();
    let widest = rig.widest_hole(RegionId(0)).unwrap();
    assert!(rig.widest_hole(RegionId(1)).is_none());
    assert!(kernel.vmalloc(widest * PAGE).is_err(), "with its guard it is a page too wide");
    let area = kernel.vmalloc((widest - 1) * PAGE).map(number).unwrap();
    assert_eq!(rig.widest_hole(RegionId(0)), Some(0));
    [keep, area].iter().for_each(|&area| vfree(&kernel, area).unwrap());
}

#[test]
fn fragmentation_tells_the_holes_by_size_and_how_much_lies_outside_of_the_widest() {
    let config = Config::region(START..START + (16 << 20)).placement(vmalloc::Placement::Lowest);
    let config = config.add_region(START + (1 << 30)..START + (1 << 30) + (16 << 20));
    let rig = boot(Sim::builder().node(32 << 20).rates(Rates::NEVER), config);
    let kernel = rig.kernel();
    // Each area has a guard, and the first page of a region is nobody's.
    let sizes = [1, 1, 1, 2, 1, 3, 1, 6, 1, 7, 3];
    let areas = sizes.map(|pages| kernel.vmalloc(pages * PAGE).map(number).unwrap());
    let stack = rig.alloc(vmalloc::Req::stack(4)).map(number).unwrap();
    let whole = kernel.fragmentation(RegionId(0)).unwrap();
    // 38 pages are the areas', and 6 the stack's, which has a guard below as well.
    let picture = "4052 pages free, 4051 in the widest hole, 0 % elsewhere\n           1 pages and more: 1\n        2048 pages and more: 1\n";
    assert_eq!(whole.to_string(), picture);
    areas.iter().skip(1).step_by(2).for_each(|&area| vfree(&kernel, area).unwrap());
    rig.purge();
    // The first page, holes of 2, 3, 4, 7 and 8 pages, and what is behind the stack.
    let broken = kernel.fragmentation(RegionId(0)).unwrap();
    let picture = "4076 pages free, 4051 in the widest hole, 0 % elsewhere\n           1 pages and more: 1\n           2 pages and more: 2\n           4 pages and more: 2\n           8 pages and more: 1\n        2048 pages and more: 1\n";
    assert_eq!(broken.to_string(), picture);
    assert_eq!((broken.free, broken.widest), (whole.free + 24, whole.widest));
    let mut holes = [0; HOLE_SIZES];
    [(0, 1), (1, 2), (2, 2), (3, 1), (11, 1)].iter().for_each(|&(size, count)| holes[size] = count);
    assert_eq!(broken.holes, holes);
    let shares = [(100, 100, 0), (100, 75, 25), (1000, 1, 99), (3, 0, 100), (0, 0, 0), (usize::MAX, 1, 99)];
    for (free, widest, percent) in shares {
        assert_eq!(Fragmentation { free, widest, ..broken }.percent(), percent, "{widest} of {free}");
    }
    let other = kernel.fragmentation(RegionId(1)).unwrap();
    assert_eq!(other.to_string().lines().count(), 2, "one hole: {other}");
    assert_eq!((other.free, kernel.fragmentation(RegionId(3))), (4096, None));
    assert_eq!(HOLE_SIZES, 52);
    areas.iter().step_by(2).chain([&stack]).for_each(|&area| vfree(&kernel, area).unwrap());
}

#[test]
fn pages_are_counted_by_the_node_of_their_frames() {
    let rig = boot(Sim::builder().node(32 << 20).node(32 << 20).rates(Rates::NEVER), Config::region(REGION));
    let kernel = rig.kernel();
    let on = |node, pages: usize| kernel.vmalloc_node(pages * PAGE, Some(Node(node))).map(number).unwrap();
    let areas = [on(0, 3), on(1, 5), on(1, 2)];
    assert_eq!([0, 1, 2].map(|node| kernel.nr_vmalloc(Node(node))), [3, 7, 0]);
    let both = [0, 1].map(|node| rig.alloc_frame(vmalloc::Gfp::KERNEL, Some(Node(node))).unwrap());
    // SAFETY: Y5: they are given up by that.
    let owned = unsafe { kernel.vmap(&both, VmFlags::MAP_PUT_PAGES, Pgprot::KERNEL) }.map(number).unwrap();
    let mut text = String::new();
    kernel.vmallocinfo(&mut text).unwrap();
    let mut ends: Vec<&str> = text.lines().map(|line| line.split_once("pages=").unwrap().1).collect();
    ends.sort_unstable();
    assert_eq!(ends, ["2 vmalloc N1=2", "2 vmap N0=1 N1=1", "3 vmalloc N0=3", "5 vmalloc N1=5"]);
    assert_eq!([0, 1].map(|node| kernel.nr_vmalloc(Node(node))), [4, 8]);
    vfree(&kernel, owned).unwrap();
    vfree(&kernel, areas[1]).unwrap();
    assert_eq!([0, 1].map(|node| kernel.nr_vmalloc(Node(node))), [3, 2]);
    let filter = Filter { node: Some(Node(1)), ..Filter::default() };
    let mut table = [Account::NONE; 4];
    let accounted = kernel.account_by_caller(&filter, &mut table);
    assert_eq!((accounted.callers, table[0].areas, table[0].pages), (1, 1, 2));
    [areas[0], areas[2]].iter().for_each(|&area| vfree(&kernel, area).unwrap());
}

#[test]
fn areas_are_summed_up_by_caller_and_by_filters_and_who_finds_no_room_is_summed_up_too() {
    let rig = quiet();
    let kernel = rig.kernel();
    let by = |pc, size| {
        kernel.__vmalloc_node(&Request { caller: Caller::Return(pc), ..kernel.request(size) }).map(number).unwrap()
    };
    let areas = [by(0x30, 5000), by(0x10, 100), by(0x30, 100), by(0x20, 3 * PAGE)];
    let some = frames(&rig, 2);
    // SAFETY: P4: they are held for longer.
    let ram = unsafe { rig.map_ram(&some, None) }.unwrap();
    let sums = |filter: Filter, room: usize| {
        let mut table = vec![Account::NONE; room];
        let accounted = kernel.account_by_caller(&filter, &mut table);
        let all = table[..accounted.callers].iter().chain([&accounted.rest]);
        all.map(|sum| (sum.caller.address(), sum.areas, sum.pages, sum.bytes)).collect::<Vec<_>>()
    };
    let all = Filter::default();
    let three = [(0x10, 1, 1, 100), (0x20, 1, 3, 3 * PAGE), (0x30, 2, 3, 5100), (0, 0, 0, 0)];
    assert_eq!(sums(all, 8), three);
    assert_eq!(sums(all, 3), three);
    let rest = |sums: &[(usize, usize, usize, usize)]| sums.iter().fold((0, 0), |sum, of| (sum.0 + of.1, sum.1 + of.2));
    assert_eq!((rest(&sums(all, 1)), rest(&sums(all, 0))), ((4, 7), (4, 7)), "nothing is left out");
    assert_eq!(sums(Filter { min_bytes: 101, ..all }, 8)[..2], [(0x20, 1, 3, 3 * PAGE), (0x30, 1, 2, 5000)]);
    assert_eq!(sums(Filter { min_bytes: 5000, ..all }, 8)[1], (0x30, 1, 2, 5000), "so many, or more");
    assert_eq!(sums(Filter { min_bytes: 5001, ..all }, 8), [(0x20, 1, 3, 3 * PAGE), (0, 0, 0, 0)]);
    let one = [(0x20, 1, 3, 3 * PAGE), (0, 0, 0, 0)];
    assert_eq!(sums(Filter { caller: Some(Caller::Return(0x20)), ..all }, 8), one);
    assert_eq!(sums(Filter { kind: Some(Kind::Vmalloc), ..all }, 8), three);
    assert_eq!(sums(Filter { kind: Some(Kind::Vmap), ..all }, 8), [(0, 0, 0, 0)]);
    // SAFETY: V1: nobody uses it.
    unsafe { rig.unmap_ram(ram, 2) }.unwrap();
    give_frames(&rig, &some);
    areas.iter().for_each(|&area| vfree(&kernel, area).unwrap());
}

#[test]
fn vmalloc_dump_obj_tells_what_an_address_lies_in() {
    let rig = quiet();
    rig.sim.set_symbolizer(|pc, f| write!(f, "load_module+{pc:#x}/0x1e40"));
    let kernel = rig.kernel();
    let area = Request { caller: Caller::Return(0x9f0), ..kernel.request(5000) };
    let area = kernel.__vmalloc_node(&area).map(number).unwrap();
    assert!(kernel.vmalloc_dump_obj(area + 4711));
    let line = format!(" 2-page vmalloc region starting at {area:#x} allocated at load_module+0x9f0/0x1e40");
    assert_eq!(kernel.host().said(), [(vmalloc_kernel::Kern::Info, line)]);
    assert!(!kernel.vmalloc_dump_obj(area + 2 * PAGE), "the guard");
    let some = frames(&rig, 1);
    // SAFETY: P4: they are held for longer.
    let ram = unsafe { rig.map_ram(&some, None) }.unwrap();
    assert!(!kernel.vmalloc_dump_obj(number(ram)), "of a short-lived mapping nothing is known");
    // SAFETY: V1: nobody uses it.
    unsafe { rig.unmap_ram(ram, 1) }.unwrap();
    give_frames(&rig, &some);
    vfree(&kernel, area).unwrap();
    assert!(!kernel.vmalloc_dump_obj(area));
    assert_eq!(kernel.host().said(), []);
}
