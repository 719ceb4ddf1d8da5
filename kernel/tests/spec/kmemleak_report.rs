//! What is reported, and in which words.

use crate::kmemleak::*;
use vmalloc::Req;

fn report(kernel: &Tested<'_>) -> String {
    let mut text = String::new();
    kernel.kmemleak(&mut text).unwrap();
    text
}

#[test]
fn a_suspect_is_reported_to_the_letter() {
    let rig = rig();
    let kernel = rig.kernel();
    rig.sim.set_symbolizer(|pc, f| write!(f, "init_module+{:#x}/0x80", pc & 0xff));
    rig.sim.advance(2 * SECOND);
    let lost = kernel.kmalloc(40, GFP).map(number).unwrap();
    set(lost, 0, 0x6b6b_6b6b_6b6b_6b6b);
    set(lost, 1, 0x2021_2223_7e7f_0061);
    (2..8).for_each(|n| set(lost, n, 0xa5));
    let tiny = kernel.kzalloc(8, GFP).map(number).unwrap();
    set(tiny, 0, 0x4241);
    rig.scan(&kernel);
    let (first, second) = (lost.min(tiny), lost.max(tiny));
    let text = |at: usize| {
        if at == tiny {
            return format!(
                "unreferenced object 0x{tiny:08x} (size 8):\n  comm \"insmod\", pid 1234, jiffies 500\n  \
                 hex dump (first 8 bytes):\n    41 42 00 00 00 00 00 00                          AB......\n  \
                 backtrace (crc {:x}):\n    init_module+0x10/0x80\n    init_module+0x20/0x80\n",
                crc(&[0x41, 0x42, 0, 0, 0, 0, 0, 0])
            );
        }
        let mut bytes = [0u64; 8];
        bytes.copy_from_slice(&[0x6b6b_6b6b_6b6b_6b6b, 0x2021_2223_7e7f_0061, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5]);
        format!(
            "unreferenced object 0x{lost:08x} (size 64):\n  comm \"insmod\", pid 1234, jiffies 500\n  \
             hex dump (first 32 bytes):\n    6b 6b 6b 6b 6b 6b 6b 6b 61 00 7f 7e 23 22 21 20  kkkkkkkka..~#\"! \n    \
             a5 00 00 00 00 00 00 00 a5 00 00 00 00 00 00 00  ................\n  \
             backtrace (crc {:x}):\n    init_module+0x10/0x80\n    init_module+0x20/0x80\n",
            crc(bytes.map(u64::to_le_bytes).as_flattened())
        )
    };
    assert_eq!(report(&kernel), text(first) + &text(second));
}

/// CRC-32 bit by bit, beginning at 0.
fn crc(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0u32, |crc, &byte| {
        (0..8).fold(crc ^ byte as u32, |crc, _| if crc & 1 != 0 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

#[test]
fn of_an_area_made_past_the_facade_the_report_names_who_asked_the_library() {
    let rig = rig();
    let kernel = rig.kernel();
    let area = rig.vm().alloc(Req::pages(1).zeroed()).map(number).unwrap();
    let line = line!() - 1;
    rig.scan(&kernel);
    let text = report(&kernel);
    assert!(text.starts_with(&format!("unreferenced object 0x{area:08x} (size 4096):\n")), "{text}");
    assert!(text.contains("  comm \"kthreadd\", pid 2, jiffies 0\n"), "{text}");
    assert!(text.ends_with(&format!("  backtrace (crc 0):\n    {}:{line}\n", file!())), "{text}");
    // Here and now it is made again, by another.
    kernel.kmemleak_update_trace(area);
    let text = report(&kernel);
    assert!(text.contains("comm \"insmod\", pid 1234") && text.ends_with("0xffffffff81000020\n"), "{text}");
    // Of an area of the facade's its host knows the stack.
    kernel.kmemleak_free(area);
    let area = kernel.vzalloc(PAGE).map(number).unwrap();
    rig.scan(&kernel);
    let text = report(&kernel);
    assert!(text.ends_with("  backtrace (crc 0):\n    0xffffffff81000010\n    0xffffffff81000020\n"), "{text}");
    assert!(text.starts_with(&format!("unreferenced object 0x{area:08x} (size 4096):\n")), "{text}");
}

#[test]
fn an_object_is_suspected_when_it_was_five_seconds_old_as_the_scan_began() {
    let rig = rig();
    let kernel = rig.kernel();
    let lost = object(&kernel);
    rig.sim.advance(5 * SECOND - 1);
    assert_eq!(kernel.kmemleak_scan(), 0);
    assert_eq!((rig.colour(lost), report(&kernel)), (Some(Colour::White), String::new()));
    rig.sim.advance(1);
    assert!(kernel.kmemleak_begin().is_some());
    assert_eq!(report(&kernel), "", "the scan that tells of it has not ended");
    assert_eq!(kernel.kmemleak_scan(), 1);
    assert!(report(&kernel).contains(&format!("{lost:08x}")));
}

#[test]
fn new_suspects_are_told_of_once() {
    let rig = rig();
    let kernel = rig.kernel();
    let lost = [object(&kernel), object(&kernel)];
    rig.sim.advance(6 * SECOND);
    assert_eq!(kernel.kmemleak_scan(), 2);
    let line = "kmemleak: 2 new suspected memory leaks (see /sys/kernel/debug/kmemleak)";
    assert_eq!(kernel.host().said(), [line]);
    assert_eq!(kernel.kmemleak_scan(), 0);
    assert_eq!(kernel.host().said(), [""; 0]);
    // One is found again, and leaves the report; lost anew, it is there again without a word.
    rig.point(0, lost[0]);
    kernel.kmemleak_scan();
    assert!(!report(&kernel).contains(&format!("{:08x}", lost[0])));
    rig.point(0, 0);
    assert_eq!(kernel.kmemleak_scan(), 0);
    assert!(lost.iter().all(|at| report(&kernel).contains(&format!("{at:08x}"))));
}

#[test]
fn a_long_name_and_a_deep_stack_are_cut() {
    let origin = Origin::new("a_name_of_more_than_15", 1, &[7; 40]);
    assert_eq!(format!("{origin:?}").matches('7').count(), 16);
    assert!(format!("{origin:?}").contains("\"a_name_of_more_\""));
}
