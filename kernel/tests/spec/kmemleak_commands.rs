//! Commands, and scans by time.

use crate::kmemleak::*;
use vmalloc_kernel::kmemleak::{Boot, CommandError, FIRST_SCAN_NS, Progress, SCAN_PERIOD_NS};

fn report(kernel: &Tested<'_>) -> String {
    let mut text = String::new();
    kernel.kmemleak(&mut text).unwrap();
    text
}

#[test]
fn scan_scans_and_clear_takes_the_suspects_of_now_off() {
    let rig = rig();
    let kernel = rig.kernel();
    let lost = object(&kernel);
    rig.sim.advance(6 * SECOND);
    assert_eq!(kernel.kmemleak_write("scan\n"), Ok(()));
    assert!(report(&kernel).contains(&format!("{lost:08x}")));
    let later = object(&kernel);
    kernel.kmemleak_write("clear").unwrap();
    assert_eq!(report(&kernel), "");
    rig.scan(&kernel);
    rig.assert_colours(&[(lost, Colour::Grey), (later, Colour::White)]);
    assert!(!report(&kernel).contains(&format!("{lost:08x}")));
}

#[test]
fn clear_leaves_what_is_referenced_now_and_a_scan_by_time_ends_where_none_are_to_come() {
    let rig = rig();
    let kernel = rig.kernel();
    let lost = object(&kernel);
    assert_eq!(rig.scan(&kernel), 1);
    rig.point(0, lost);
    rig.scan(&kernel);
    kernel.kmemleak_write("clear").unwrap();
    rig.point(0, 0);
    rig.scan(&kernel);
    rig.assert_colours(&[(lost, Colour::White)]);
    kernel.kmemleak_write("scan=100").unwrap();
    assert_eq!(kernel.kmemleak_tick(1000 * SECOND, 1), Some(Progress::More));
    kernel.kmemleak_write("scan=0").unwrap();
    assert_eq!(kernel.kmemleak_tick(1000 * SECOND, 1), None);
}

#[test]
fn off_is_for_good_and_takes_clear_alone() {
    let rig = rig();
    let kernel = rig.kernel();
    let lost = object(&kernel);
    rig.scan(&kernel);
    kernel.kmemleak_write("off").unwrap();
    assert_eq!((rig.scan(&kernel), kernel.kmemleak_tick(u64::MAX, 1)), (0, None));
    let later = object(&kernel);
    assert_eq!(rig.colour(later), None);
    for command in ["scan", "scan=on", "stack=on", "off", "dump=0x1000", "nonsense"] {
        assert_eq!(kernel.kmemleak_write(command), Err(CommandError::Off));
    }
    // What was found can be read until it is cleared.
    assert!(report(&kernel).contains(&format!("{lost:08x}")));
    kernel.kmemleak_write("clear").unwrap();
    assert_eq!((report(&kernel), rig.leaks().len(&rig.sim)), (String::new(), 0));
}

#[test]
fn the_boot_parameter_is_on_or_off_and_off_is_for_good() {
    for wrong in ["", "of", "ON", "on ", "1"] {
        assert_eq!(wrong.parse::<Boot>(), Err(CommandError::Unknown), "{wrong:?}");
    }
    for (value, objects, scanned) in [("on", 1, Ok(())), ("off", 0, Err(CommandError::Off))] {
        let rig = rig();
        rig.leaks().boot(&rig.sim, value.parse().unwrap());
        let kernel = rig.kernel();
        object(&kernel);
        assert_eq!((rig.leaks().len(&rig.sim), kernel.kmemleak_write("scan")), (objects, scanned), "{value}");
        rig.leaks().boot(&rig.sim, Boot::On);
        assert_eq!(kernel.kmemleak_write("scan"), scanned, "{value}");
    }
}

#[test]
fn stacks_are_scanned_unless_told() {
    let rig = rig();
    let kernel = rig.kernel();
    let (held, plain) = (object(&kernel), object(&kernel));
    rig.stack[3].store(held, SeqCst);
    rig.point(3, plain);
    for (command, colour) in [("scan", Colour::Grey), ("stack=off", Colour::White), ("stack=on", Colour::Grey)] {
        kernel.kmemleak_write(command).unwrap();
        rig.scan(&kernel);
        rig.assert_colours(&[(held, colour), (plain, Colour::Grey)]);
    }
}

#[test]
fn what_is_no_command_is_refused_and_changes_nothing() {
    let rig = rig();
    let kernel = rig.kernel();
    let numbers = ["scan=", "scan=-1", "scan=++5", "scan=+", "dump=", "dump=xyz", "dump=-1"];
    let signs = ["dump=0x", "dump=0x+5", "dump=++5", "dump=+0x+5"];
    for command in ["", "scans", "stack=maybe", "off=1", "=", "clear=all"].iter().chain(&numbers).chain(&signs) {
        assert_eq!(kernel.kmemleak_write(command), Err(CommandError::Unknown), "{command}");
    }
    assert!(CommandError::Unknown.to_string().contains("stack=off, scan=on"));
    assert_eq!(kernel.host().said(), [""; 0]);
}

#[test]
fn a_number_may_begin_with_one_plus_sign() {
    let rig = rig();
    let kernel = rig.kernel();
    for command in ["scan=+5", "dump=+5", "dump=+0x5", "dump=0x5", "dump=5"] {
        assert_eq!(kernel.kmemleak_write(command), Ok(()), "{command}");
    }
    assert_eq!(kernel.host().said(), ["kmemleak: no object holds 0x5"; 4]);
}

#[test]
fn dump_tells_the_log_what_is_known_of_an_object() {
    let rig = rig();
    let kernel = rig.kernel();
    let lost = object(&kernel);
    rig.scan(&kernel);
    kernel.host().said();
    kernel.kmemleak_write(&format!("dump={:#x}", lost + 9)).unwrap();
    let expected = [
        format!("kmemleak: object 0x{lost:08x} (size 64), white"),
        "kmemleak:   count 0, min_count 1, reported".to_owned(),
        "kmemleak:   comm \"insmod\", pid 1234, jiffies 0".to_owned(),
        "kmemleak:   backtrace (crc 0):".to_owned(),
        "kmemleak:     0xffffffff81000010".to_owned(),
        "kmemleak:     0xffffffff81000020".to_owned(),
    ];
    assert_eq!(kernel.host().said(), expected);
    kernel.kmemleak_no_scan(lost);
    rig.point(0, lost);
    rig.scan(&kernel);
    kernel.kmemleak_write(&format!("dump={lost}")).unwrap();
    let said = kernel.host().said();
    let expected = [
        format!("kmemleak: object 0x{lost:08x} (size 64), grey"),
        "kmemleak:   count 1, min_count 1, not scanned, reported".to_owned(),
    ];
    assert_eq!(said[..2], expected);
    kernel.kmemleak_ignore(lost);
    kernel.kmemleak_write(&format!("dump={lost}")).unwrap();
    assert!(kernel.host().said()[0].ends_with("(size 64), black"));
    kernel.kmemleak_write("dump=4096").unwrap();
    assert_eq!(kernel.host().said(), ["kmemleak: no object holds 0x1000"]);
}

/// Ticks at `now` until nothing more is due; the scans that ended.
fn ticks(kernel: &Tested<'_>, now: u64) -> usize {
    let mut ended = 0;
    while let Some(progress) = kernel.kmemleak_tick(now, 1) {
        ended += matches!(progress, Progress::Done(_)) as usize;
    }
    ended
}

#[test]
fn the_first_scan_comes_after_sixty_seconds_and_the_others_every_six_hundred() {
    let rig = rig();
    let kernel = rig.kernel();
    assert_eq!((FIRST_SCAN_NS, SCAN_PERIOD_NS), (60 * SECOND, 600 * SECOND));
    let start = 1000 * SECOND;
    let scans = |from: u64, to: u64| -> Vec<u64> {
        (from..to).filter(|second| ticks(&kernel, start + second * SECOND) == 1).collect()
    };
    assert_eq!(scans(0, 1900), [60, 660, 1260, 1860]);
    kernel.kmemleak_write("scan=off").unwrap();
    assert_eq!(kernel.kmemleak_tick(start + 2500 * SECOND, 1), None, "none is begun");
    assert_eq!(scans(1900, 4000), []);
    kernel.kmemleak_write("scan=100").unwrap();
    assert_eq!(scans(4000, 4350), [4000, 4100, 4200, 4300]);
    kernel.kmemleak_write("scan=0").unwrap();
    assert_eq!(scans(4350, 5000), []);
    kernel.kmemleak_write("scan=on").unwrap();
    assert_eq!(scans(5000, 5150), [5000, 5100]);
}

#[test]
fn without_a_detector_nothing_is_known_and_nothing_is_done() {
    let rig = rig();
    let kernel = Kernel::new(rig.vm(), vmalloc_kernel::Bare);
    let one = kernel.kzalloc(64, GFP).unwrap();
    kernel.kmemleak_ignore(number(one));
    kernel.kmemleak_scan_area(number(one), 8, GFP);
    kernel.kmemleak_free_part(number(one), 8);
    // SAFETY: Y8: the object lives on.
    unsafe { kernel.kmemleak_alloc(number(one), 64, 1, GFP) };
    assert_eq!((kernel.kmemleak_scan(), kernel.kmemleak_tick(0, 1)), (0, None));
    assert_eq!(kernel.kmemleak_write("scan"), Err(CommandError::Off));
    assert_eq!((rig.leaks().len(&rig.sim), rig.sim.take_log()), (0, vec![]));
}
