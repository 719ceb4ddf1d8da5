//! Where the parts of an address space lie.

use vmalloc_kernel::layout::{Arm32, Arm64, Layout, LayoutError, Memory, Part, Riscv, X86_32, X86_64};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// From where to where the part of that name lies.
#[track_caller]
fn part(layout: &Layout, name: &str) -> (u64, u64) {
    let part = layout.part(name).unwrap_or_else(|| panic!("{name} in {layout:x?}"));
    (part.start, part.end)
}

fn laid(machine: X86_32) -> Layout {
    machine.layout().expect("a layout")
}

const TWO_GIB: X86_32 = X86_32::new(2 * GIB);

#[test]
fn x86_32_has_its_parts_where_the_sample_has_them() {
    let layout = laid(TWO_GIB);
    let parts: Vec<_> = layout.parts().iter().map(|part| (part.name, part.start, part.end)).collect();
    assert_eq!(
        parts,
        [
            ("user space", 0, 0xc000_0000),
            ("direct map", 0xc000_0000, 0xf73f_e000),
            ("vmalloc", 0xf7bf_e000, 0xff3f_e000),
            ("pkmap", 0xff40_0000, 0xff80_0000),
            ("LDT", 0xff80_0000, 0xffc0_0000),
            ("CPU-entry area", 0xffc0_0000, 0xffef_e000),
            ("fixmap", 0xffef_f000, 0xffff_f000),
        ]
    );
    assert_eq!(layout.high_memory(), Some(0xf73f_e000));
    let holes: Vec<_> = layout.holes().map(|hole| (hole.start, hole.bytes())).collect();
    assert_eq!(holes, [(0xf73f_e000, 8 * MIB), (0xff3f_e000, 0x2000), (0xffef_e000, 0x1000)]);
    let direct = part(&layout, "direct map");
    assert_eq!((direct.1 - direct.0) / MIB, 883, "megabytes of memory in the direct map");
    assert_eq!(layout.part("vmalloc").map(|part| part.bytes()), Some(120 * MIB));
    let low = 0x373f_e000;
    assert_eq!(layout.memory, Some(Memory { low, high: 2 * GIB - low, unused: 0 }));
}

#[test]
fn the_vmalloc_parameter_reserves_so_much_and_the_hole() {
    let layout = laid(X86_32 { vmalloc: Some(192 * MIB), ..TWO_GIB });
    assert_eq!(layout.high_memory(), Some(0xf2bf_e000), "200 MiB below VMALLOC_END");
    assert_eq!(part(&layout, "vmalloc"), (0xf33f_e000, 0xff3f_e000));
    let odd = laid(X86_32 { vmalloc: Some(192 * MIB + 1), ..TWO_GIB });
    assert_eq!(part(&odd, "vmalloc"), (0xf33f_d000, 0xff3f_e000), "whole pages, and as many as were asked for");
    assert_eq!(part(&laid(X86_32 { vmalloc: Some(120 * MIB), ..TWO_GIB }), "vmalloc"), part(&laid(TWO_GIB), "vmalloc"));
}

#[test]
fn less_memory_gives_a_larger_vmalloc_area() {
    let small = laid(X86_32::new(256 * MIB));
    assert_eq!(small.high_memory(), Some(0xd000_0000), "all of it is low");
    assert_eq!(part(&small, "vmalloc"), (0xd080_0000, 0xff3f_e000));
    assert_eq!(small.memory, Some(Memory { low: 256 * MIB, high: 0, unused: 0 }));
    let sizes = [64, 128, 512, 883, 884, 4096].map(|mib| laid(X86_32::new(mib * MIB)).part("vmalloc").unwrap().bytes());
    assert!(sizes.is_sorted_by(|a, b| a >= b), "{sizes:?}");
    assert!(sizes[3] > 120 * MIB && sizes[4..] == [120 * MIB; 2], "{sizes:?}");
}

#[test]
fn the_highmem_parameter_makes_exactly_so_much_memory_high() {
    let small = laid(X86_32 { highmem: Some(256 * MIB), ..X86_32::new(512 * MIB) });
    assert_eq!(small.memory, Some(Memory { low: 256 * MIB, high: 256 * MIB, unused: 0 }));
    assert_eq!(part(&small, "direct map"), (0xc000_0000, 0xd000_0000));
    let large = laid(X86_32 { highmem: Some(512 * MIB), ..TWO_GIB });
    let low = 0x373f_e000;
    assert_eq!(large.memory, Some(Memory { low, high: 512 * MIB, unused: 2 * GIB - 512 * MIB - low }));
    assert_eq!(laid(X86_32 { highmem: Some(0), ..X86_32::new(64 * MIB) }).memory.unwrap().high, 0);
    let least = laid(X86_32 { highmem: Some(448 * MIB + 4095), ..X86_32::new(512 * MIB) });
    assert_eq!(least.memory, Some(Memory { low: 64 * MIB, high: 448 * MIB, unused: 0 }), "64 MiB is enough");
}

#[test]
fn without_high_memory_vmalloc_ends_two_pages_below_the_ldt() {
    let layout = laid(X86_32 { has_highmem: false, ..TWO_GIB });
    assert_eq!((layout.part("pkmap"), part(&layout, "vmalloc").1), (None, 0xff7f_e000));
    let low = 0xff7f_e000 - 0xc000_0000 - 128 * MIB;
    assert_eq!(layout.memory, Some(Memory { low, high: 0, unused: 2 * GIB - low }));
}

#[test]
fn with_pae_leaf_tables_cover_2_mib_and_the_pkmap_has_512_entries() {
    let pae = X86_32 { pae: true, memory: 64 * GIB, ..TWO_GIB };
    let layout = laid(pae);
    assert_eq!((pae.pkmap_entries(), TWO_GIB.pkmap_entries()), (512, 1024));
    assert_eq!((layout.machine, laid(TWO_GIB).machine), ("x86-32 PAE", "x86-32"));
    assert_eq!(part(&layout, "CPU-entry area"), (0xffe0_0000, 0xffef_e000));
    assert_eq!(part(&layout, "LDT"), (0xffc0_0000, 0xffe0_0000));
    assert_eq!(part(&layout, "pkmap"), (0xffa0_0000, 0xffc0_0000));
    assert_eq!(part(&layout, "vmalloc"), (0xf81f_e000, 0xff9f_e000));
}

#[test]
fn more_cpus_have_more_fixmap_slots_and_move_what_lies_below() {
    let many = laid(X86_32 { cpus: 64, ..TWO_GIB });
    assert_eq!(part(&many, "fixmap"), (0xffff_f000 - (128 + 64 * 16) * 4096, 0xffff_f000));
    assert_eq!(part(&many, "pkmap"), (0xff00_0000, 0xff40_0000));
}

#[test]
fn arm32_begins_vmalloc_at_the_next_multiple_of_8_mib() {
    let layout = |mib: u64| Arm32 { memory: mib * MIB, vmalloc: None }.layout().unwrap();
    assert_eq!(
        (layout(2048).high_memory(), part(&layout(2048), "vmalloc")),
        (Some(0xf000_0000), (0xf080_0000, 0xff80_0000))
    );
    assert_eq!(part(&layout(513), "vmalloc"), (0xe080_0000, 0xff80_0000), "a hole of 7 MiB");
    assert_eq!(part(&layout(512), "vmalloc"), (0xe080_0000, 0xff80_0000), "a hole of 8 MiB");
    let wide = Arm32 { memory: GIB, vmalloc: Some(512 * MIB) }.layout().unwrap();
    assert_eq!(part(&wide, "vmalloc"), (0xdf80_0000, 0xff80_0000));
    assert_eq!(wide.memory, Some(Memory { low: 496 * MIB, high: GIB - 496 * MIB, unused: 0 }));
    let odd = Arm32 { memory: GIB, vmalloc: Some(512 * MIB + 1) }.layout().unwrap();
    assert_eq!(odd.memory.unwrap().low, 496 * MIB - 4096, "whole pages, and as many as were asked for");
    let all = Arm32 { memory: 4 * GIB, vmalloc: None }.layout().unwrap();
    assert_eq!(picture(&all), "c0000000-f0000000 direct map\nf0000000-f0800000 hole\nf0800000-ff800000 vmalloc\n");
    let least = Arm32 { memory: 4096 + 5, vmalloc: Some(16 * MIB) }.layout().unwrap();
    assert_eq!(picture(&least), "c0000000-c0001000 direct map\nc0001000-c0800000 hole\nc0800000-ff800000 vmalloc\n");
}

/// Parts and holes, by address, in hexadecimal.
fn picture(layout: &Layout) -> String {
    let part = |part: Part| format!("{:x}-{:x} {}\n", part.start, part.end, part.name);
    layout.all().map(part).collect()
}

#[test]
fn machines_with_many_addresses_have_all_parts_and_holes_where_the_texts_have_them() {
    let four = "\
ffff888000000000-ffffc88000000000 direct map
ffffc88000000000-ffffc90000000000 hole
ffffc90000000000-ffffe90000000000 vmalloc
ffffe90000000000-ffffea0000000000 hole
ffffea0000000000-ffffeb0000000000 vmemmap
ffffeb0000000000-ffffffff80000000 hole
ffffffff80000000-ffffffffa0000000 kernel image
ffffffffa0000000-ffffffffff000000 modules
";
    let five = "\
ff11000000000000-ff91000000000000 direct map
ff91000000000000-ffa0000000000000 hole
ffa0000000000000-ffd2000000000000 vmalloc
ffd2000000000000-ffd4000000000000 hole
ffd4000000000000-ffd6000000000000 vmemmap
ffd6000000000000-ffffffff80000000 hole
ffffffff80000000-ffffffffa0000000 kernel image
ffffffffa0000000-ffffffffff000000 modules
";
    let arm = "\
ffff000000000000-ffff800000000000 linear map
ffff800000000000-ffff800080000000 modules
ffff800080000000-fffffbfff0000000 vmalloc
fffffbfff0000000-fffffc0000000000 hole
fffffc0000000000-fffffe0000000000 vmemmap
";
    let sv39 = "ffffffc600000000-ffffffd600000000 vmalloc\nffffffd600000000-fffffff600000000 direct map\n";
    let sv48 = "ffff8f8000000000-ffffaf8000000000 vmalloc\nffffaf8000000000-ffffef8000000000 direct map\n";
    let [x86_64, la57] = [4, 5].map(|levels| X86_64 { levels }.layout().unwrap());
    let layouts = [(x86_64, four), (la57, five), (Arm64.layout(), arm)];
    for (layout, expected) in layouts.into_iter().chain([(Riscv::Sv39.layout(), sv39), (Riscv::Sv48.layout(), sv48)]) {
        assert_eq!(picture(&layout), expected, "{}", layout.machine);
        assert_eq!((layout.memory, layout.high_memory()), (None, None), "{}", layout.machine);
    }
}

#[test]
fn x86_64_has_its_parts_by_its_levels() {
    let four = X86_64 { levels: 4 }.layout().unwrap();
    assert_eq!(part(&four, "direct map"), (0xffff_8880_0000_0000, 0xffff_c880_0000_0000));
    assert_eq!(part(&four, "vmalloc"), (0xffff_c900_0000_0000, 0xffff_e900_0000_0000));
    assert_eq!(four.part("vmalloc").unwrap().bytes(), 32 * TIB);
    assert_eq!(part(&four, "vmemmap"), (0xffff_ea00_0000_0000, 0xffff_eb00_0000_0000));
    assert_eq!(part(&four, "modules"), (0xffff_ffff_a000_0000, 0xffff_ffff_ff00_0000));
    let five = X86_64 { levels: 5 }.layout().unwrap();
    assert_eq!(part(&five, "vmalloc"), (0xffa0_0000_0000_0000, 0xffd2_0000_0000_0000));
    assert_eq!(five.part("vmalloc").unwrap().bytes(), 12800 * TIB, "12.5 PiB");
    assert_eq!(part(&five, "modules"), part(&four, "modules"));
    assert_eq!(X86_64 { levels: 3 }.layout(), Err(LayoutError::Levels { levels: 3 }));
}

#[test]
fn arm64_has_modules_below_vmalloc() {
    let layout = Arm64.layout();
    assert_eq!(part(&layout, "modules"), (0xffff_8000_0000_0000, 0xffff_8000_8000_0000));
    assert_eq!(part(&layout, "vmalloc"), (0xffff_8000_8000_0000, 0xffff_fbff_f000_0000));
    assert_eq!(layout.part("vmalloc").unwrap().bytes().div_ceil(TIB), 124);
}

#[test]
fn riscv_ends_vmalloc_where_the_direct_map_begins() {
    let (three, four) = (Riscv::Sv39.layout(), Riscv::Sv48.layout());
    assert_eq!(part(&three, "vmalloc"), (0xffff_ffc6_0000_0000, 0xffff_ffd6_0000_0000));
    assert_eq!(part(&four, "vmalloc"), (0xffff_8f80_0000_0000, 0xffff_af80_0000_0000));
    for layout in [three, four] {
        assert_eq!(part(&layout, "vmalloc").1, part(&layout, "direct map").0);
    }
}

#[test]
fn a_parameter_that_leaves_no_layout_is_refused_with_what_would_do() {
    let x86 = |machine: X86_32| machine.layout().unwrap_err().to_string();
    for (error, said) in [
        (x86(X86_32::new(0)), "0 bytes of memory; from 4 KiB to 4 GiB can be named"),
        (x86(X86_32::new(8 * GIB)), "8 GiB of memory; from 4 KiB to 4 GiB can be named"),
        (x86(X86_32 { pae: true, ..X86_32::new(128 * GIB) }), "128 GiB of memory; from 4 KiB to 64 GiB can be named"),
        (
            x86(X86_32 { vmalloc: Some(GIB + 1), ..TWO_GIB }),
            "vmalloc= of 1073741825 bytes; from 4 KiB to 939 MiB leave a direct map",
        ),
        (
            x86(X86_32 { vmalloc: Some(GIB + 4096), ..TWO_GIB }),
            "vmalloc= of 1048580 KiB; from 4 KiB to 939 MiB leave a direct map",
        ),
        (
            x86(X86_32 { highmem: Some(3 * GIB), ..TWO_GIB }),
            "highmem= of 3 GiB, with 2 GiB of memory; 64 MiB have to be left for the direct map",
        ),
        (x86(X86_32 { cpus: 513, ..TWO_GIB }), "513 CPUs; the fixmap has slots for 1 to 512"),
        (x86(X86_32 { vmalloc: Some(GIB), ..TWO_GIB }), "vmalloc= of 1 GiB; from 4 KiB to 939 MiB leave a direct map"),
        (
            x86(X86_32 { highmem: Some(2 * GIB), ..TWO_GIB }),
            "highmem= of 2 GiB, with 2 GiB of memory; 64 MiB have to be left for the direct map",
        ),
        (
            x86(X86_32 { highmem: Some(MIB), has_highmem: false, ..TWO_GIB }),
            "highmem= of 1 MiB, in a kernel without high memory",
        ),
        (x86(X86_32 { cpus: 0, ..TWO_GIB }), "0 CPUs; the fixmap has slots for 1 to 512"),
        (
            Arm32 { memory: GIB, vmalloc: Some(8 * MIB) }.layout().unwrap_err().to_string(),
            "vmalloc= of 8 MiB; from 16 MiB to 976 MiB leave a direct map",
        ),
        (
            Arm32 { memory: 5 * GIB, vmalloc: None }.layout().unwrap_err().to_string(),
            "5 GiB of memory; from 4 KiB to 4 GiB can be named",
        ),
    ] {
        assert_eq!(error, said);
    }
}

#[test]
fn parts_do_not_overlap_and_with_the_holes_leave_nothing_out() {
    let some = [0, 16, 64, 900, 4096].map(|mib| Some(mib * MIB));
    let bits = [false, true];
    let mut laid = 0;
    for memory in [4097, 100 * MIB + 1, 883 * MIB, 3 * GIB, 64 * GIB] {
        for (vmalloc, highmem) in some.iter().flat_map(|&v| some.map(|h| (v, h))).chain([(None, None)]) {
            for (pae, has_highmem, cpus) in bits.iter().flat_map(|&p| bits.map(|h| (p, h, 1 + 511 * u32::from(p ^ h))))
            {
                let Ok(layout) = (X86_32 { memory, vmalloc, highmem, pae, has_highmem, cpus }).layout() else {
                    continue;
                };
                let all: Vec<Part> = layout.all().collect();
                assert!(all.iter().all(|part| part.bytes() > 0 && part.start % 4096 == 0), "{all:x?}");
                assert!(all.windows(2).all(|pair| pair[0].end == pair[1].start), "{all:x?}");
                assert_eq!(layout.parts().len() + layout.holes().count(), all.len());
                let told = layout.memory.unwrap();
                assert_eq!(told.low + told.high + told.unused, memory & !4095, "{layout:x?}");
                laid += 1;
            }
        }
    }
    assert!(laid > 50, "{laid}");
}
