//! Refusals: the line in the log, the machine's last resort, and the numbers of the error.

use crate::common::{PAGE, REGION, Rig, boot, lines_up, quiet};
use vmalloc::gfp::Gfp;
use vmalloc::machine::Level;
use vmalloc::machine::format::MemType;
use vmalloc::units::Pfn;
use vmalloc::{Caller, Config, Req};

/// The log lines that warn.
fn warnings(rig: &Rig) -> Vec<String> {
    rig.sim.take_log().into_iter().filter(|line| line.0 == Level::Warn).map(|line| line.1).collect()
}

/// The one line that `call` logs, which it does not succeed without.
fn line_of<T>(rig: &Rig, call: impl FnOnce() -> Result<T, vmalloc::AllocError>) -> String {
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
            line_of(&rig, || rig.alloc_frame(Gfp::KERNEL, Some(vmalloc::units::Node(9)))),
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
