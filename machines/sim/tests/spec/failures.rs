//! Refusals: the line in the log, the machine's last resort, and the numbers of the error.

use crate::common::{PAGE, REGION, Rig, START, boot, lines_up, quiet};
use std::sync::{Arc, Mutex};
use vmalloc::area::RegionId;
use vmalloc::error::Shortage;
use vmalloc::gfp::Gfp;
use vmalloc::machine::format::{MemType, Prot};
use vmalloc::machine::frames::Frames;
use vmalloc::machine::{Context, Level, Machine};
use vmalloc::units::{Node, Pfn};
use vmalloc::{AllocError, Caller, Config, Placement, Req};
use vmalloc_sim::Bank;

/// The log lines that warn.
fn warnings(rig: &Rig) -> Vec<String> {
    rig.sim.take_log().into_iter().filter(|line| line.0 == Level::Warn).map(|line| line.1).collect()
}

/// The one line that `call` logs, which it does not succeed without.
fn line_of<T>(rig: &Rig, call: impl FnOnce() -> Result<T, AllocError>) -> String {
    rig.sim.advance(10_000_000_000);
    assert!(call().is_err());
    let lines = warnings(rig);
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines.into_iter().next().expect("there is one")
}

#[test]
fn each_line_of_a_failure_names_the_call_its_size_and_its_caller() {
    let rig = boot(quiet(1), Config::region(REGION));
    let far = [Pfn(1 << 50)];
    let own = rig.frames(1);
    let twice = [own[0], own[0]];
    let (file, line) = lines_up(0);
    // SAFETY: P1, P2, P4: nothing is mapped.
    let lines = unsafe {
        [
            line_of(&rig, || rig.alloc(Req::bytes(0))),
            line_of(&rig, || rig.alloc(Req::bytes(usize::MAX))),
            line_of(&rig, || rig.alloc(Req::stack(usize::MAX >> 13))),
            line_of(&rig, || rig.vmap(&far, Req::pages(0))),
            line_of(&rig, || rig.vmap_owned(&twice, Req::pages(0))),
            line_of(&rig, || rig.map_ram(&far, None)),
            line_of(&rig, || rig.ioremap(0x1000, 0, MemType::Uncached)),
            line_of(&rig, || rig.ioremap(u64::MAX, 2, MemType::Uncached)),
            line_of(&rig, || rig.ioremap(1 << 60, 8192, MemType::Uncached)),
            line_of(&rig, || rig.reserve(Req::pages(1 << 30))),
            line_of(&rig, || rig.reserve_at_offsets(&[(0, 0)], PAGE, Req::bytes(0))),
            line_of(&rig, || rig.alloc_frame(Gfp::KERNEL, Some(Node(9)))),
        ]
    };
    let calls = [
        "vmalloc",
        "vmalloc",
        "vmalloc",
        "vmap",
        "vmap",
        "vm_map_ram",
        "ioremap",
        "ioremap",
        "ioremap",
        "reserve",
        "reserve",
        "frame",
    ];
    for (n, (text, call)) in lines.iter().zip(calls).enumerate() {
        assert!(text.starts_with(&format!("{call}: allocation failure: ")), "{text}");
        let at = format!(", by {file}:{}: ", line + 4 + n as u32);
        assert!(text.contains(&at), "no {at:?} in {text}");
    }
    assert!(lines[1].contains(&format!(" {} bytes", usize::MAX)) && lines[8].contains(" 8192 bytes"), "{lines:?}");
    let asked_by = Req::bytes(0).caller(Caller::Return(0xffff_ffff_8123_4567));
    let line = line_of(&rig, || rig.alloc(asked_by));
    assert!(line.contains(", by 0xffffffff81234567: "), "{line}");
    rig.give_frames(&own);
}

#[test]
fn who_gives_up_a_frame_that_is_nobodys_is_named() {
    let rig = boot(quiet(1), Config::region(REGION));
    let (file, line) = lines_up(0);
    // SAFETY: P3: it is refused.
    unsafe { rig.free_frame(Pfn(1 << 30)) };
    let lines = rig.complaints();
    assert!(lines.len() == 1 && lines[0].contains(&format!(", by {file}:{}", line + 2)), "{lines:?}");
}

/// A frame of a device.
const DEVICE: Pfn = Pfn(0xfe00_0000 >> 12);

#[test]
fn memory_does_not_mix_with_what_is_none_and_is_no_device() {
    let rig = boot(quiet(1), Config::region(REGION));
    let own = rig.frames(2);
    let reserved = rig.reserve(Req::pages(4)).unwrap();
    // SAFETY: P1: nobody counts the holders of a device's frames.
    let device = unsafe { rig.vmap(&[DEVICE, DEVICE.offset(1)], Req::pages(0)) }.expect("none of it is memory");
    rig.unmap(device).unwrap();
    let before = rig.settled();
    let lists = [([own[0], DEVICE], DEVICE), ([DEVICE, own[1]], own[1])];
    for (frames, odd) in lists {
        let refused = Err(AllocError::Mixed(odd));
        // SAFETY: P1, P5, P6: nothing is mapped.
        let (mapped, part) = unsafe {
            let part = rig.map_part(reserved.addr().get(), &frames, Prot::RW, MemType::WriteBack);
            (rig.vmap(&frames, Req::pages(0)), part)
        };
        assert_eq!((mapped.map(drop), part), (refused, refused));
    }
    let memory = own[1].phys();
    assert_eq!(rig.ioremap(memory + 5, 1, MemType::Uncached), Err(AllocError::IsRam(own[1])));
    let careless = Req::pages(1).prot(Prot::WRITE | Prot::EXEC);
    assert_eq!(rig.alloc(careless.clone()), Err(AllocError::WriteExec));
    // SAFETY: P1: nothing is mapped.
    assert_eq!(unsafe { rig.vmap(&own, careless.clone()) }, Err(AllocError::WriteExec));
    assert_eq!(rig.reserve(careless), Err(AllocError::WriteExec));
    assert_eq!(rig.settled(), before);
    rig.give(reserved).unwrap();
    rig.give_frames(&own);
}

#[test]
fn a_node_and_a_region_that_do_not_exist_are_refused_with_their_numbers() {
    let rig = boot(quiet(2).node(16 << 20).node(16 << 20), Config::region(REGION));
    let own = rig.frames(1);
    let before = rig.settled();
    for node in [2, 3, 255].map(Node) {
        let refused = AllocError::BadNode { node, nodes: 2 };
        assert_eq!(rig.alloc(Req::pages(1).node(node)), Err(refused));
        assert_eq!(rig.reserve(Req::pages(1).node(node)), Err(refused));
        assert_eq!(rig.reserve_at_offsets(&[(0, PAGE)], PAGE, Req::pages(1).node(node)), Err(refused));
        assert_eq!(rig.alloc_frame(Gfp::KERNEL, Some(node)), Err(refused));
        // SAFETY: P1, P4: nothing is mapped.
        let mapped = unsafe { [rig.vmap(&own, Req::pages(1).node(node)), rig.map_ram(&own, Some(node))] };
        assert_eq!(mapped, [Err(refused); 2]);
    }
    let region = RegionId(1);
    assert_eq!(rig.alloc(Req::pages(1).region(region)), Err(AllocError::NoRegion { region, regions: 1 }));
    assert_eq!(rig.settled(), before);
    rig.give_frames(&own);
}

#[test]
fn the_machine_is_asked_for_help_with_the_flags_of_the_call_and_only_where_it_may_wait() {
    let rig = boot(quiet(1), Config::region(REGION));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    rig.sim.set_shortage(move |short, gfp| {
        log.lock().unwrap().push((short, gfp));
        false
    });
    let pages = rig.sim.frames().total() - 10;
    let fail = |gfp| assert!(rig.alloc(Req::pages(pages).gfp(gfp | Gfp::NOWARN)).is_err());
    let asked_for = || asked.lock().unwrap().drain(..).map(|(_, gfp): (Shortage, Gfp)| gfp).collect::<Vec<_>>();
    fail(Gfp::KERNEL | Gfp::ZERO);
    assert_eq!(asked_for(), [Gfp::KERNEL | Gfp::ZERO | Gfp::NOWARN]);
    // The simulator complains by itself where the machine is asked and nobody may wait.
    [Gfp::NOWAIT, Gfp::ATOMIC, Gfp::KERNEL | Gfp::NORETRY].into_iter().for_each(fail);
    for context in [Context::Atomic, Context::Softirq, Context::HardIrq] {
        rig.sim.set_context(context);
        fail(Gfp::KERNEL);
    }
    rig.sim.set_context(Context::Task);
    assert_eq!(asked_for(), []);
    fail(Gfp::KERNEL);
    assert_eq!(asked_for().len(), 1);
}

#[test]
fn frames_in_an_error_are_those_of_the_zone_and_the_node_that_were_asked() {
    // 128 frames below 16 MiB, and two nodes above.
    let bank = |first, frames, node| Bank { first: Pfn(first), frames, node: Some(Node(node)) };
    let machine = quiet(1).bank(bank(256, 128, 0)).bank(bank(0x12_0000, 4096, 0)).bank(bank(0x14_0000, 4096, 1));
    let rig = boot(machine, Config::region(REGION));
    let most = |error| match error {
        AllocError::NoFrames { wanted: 1000, got: Some(got), node } => (got, node),
        error => panic!("{error}"),
    };
    let dma = rig.alloc(Req::pages(1000).gfp(Gfp::KERNEL | Gfp::DMA)).unwrap_err();
    let (got, node) = most(dma);
    assert!((100..=128).contains(&got) && node.is_none(), "{dma}");
    assert!(dma.to_string().contains(&format!("1000 frames wanted, {got} to be had")), "{dma}");
    let held = rig.alloc(Req::pages(3500).node(Node(1)).gfp(Gfp::KERNEL | Gfp::THISNODE)).unwrap();
    let there = rig.alloc(Req::pages(1000).node(Node(1)).gfp(Gfp::KERNEL | Gfp::THISNODE)).unwrap_err();
    let (got, node) = most(there);
    assert!((400..=596).contains(&got) && node == Some(Node(1)), "{there}");
    assert!(there.to_string().contains("1000 frames wanted of node 1"), "{there}");
    rig.give(held).unwrap();
}

#[test]
fn the_widest_hole_in_an_error_is_that_of_the_range_that_was_asked() {
    for placement in [Placement::Lowest, Placement::Classes] {
        let rig = boot(quiet(1), Config::region(REGION).placement(placement));
        // 256 pages, of which the second quarter and the last are taken.
        let from = |pages: usize| START + (64 << 20) + pages * PAGE;
        let within = |pages, first, end| rig.alloc(Req::pages(pages).within(from(first)..from(end)));
        let taken = [within(63, 64, 128).unwrap(), within(63, 192, 256).unwrap()];
        for (first, end, widest) in [(0, 256, 64), (64, 128, 0), (64, 256, 64), (0, 192, 64), (0, 64, 64)] {
            let refused = within(127, first, end);
            assert_eq!(refused, Err(AllocError::NoAddresses { pages: 128, widest }), "{placement:?}, {first}-{end}");
        }
        taken.into_iter().for_each(|area| rig.give(area).unwrap());
    }
}
