//! What a caller sees.

use crate::common::*;
use vmalloc_scullv::{Access, Command, Error, Geometry, How, Input, MAX_SIZE, Output, Parameters, What};

#[test]
fn there_are_four_devices_of_order_4_and_qset_500_unless_told_otherwise() {
    let vm = vm(16);
    let scullv = Scullv::new(&vm, Parameters::default()).unwrap();
    assert_eq!(scullv.devices().len(), 4);
    assert_eq!(first(&scullv).status().geometry, Geometry::DEFAULT);
    assert_eq!((Geometry::DEFAULT.quantum(), Geometry::DEFAULT.qset()), (65536, 500));
}

#[test]
fn a_read_or_write_ends_at_the_end_of_its_quantum() {
    let vm = vm(16);
    let scullv = one(&vm, 1, 3);
    let device = first(&scullv);
    assert_eq!(write(device, 0, &[7; 20_000]), Ok(8192));
    assert_eq!(write(device, 8000, &[8; 1000]), Ok(192));
    assert_eq!(write(device, 8192, &[9; 1000]), Ok(1000));
    assert_eq!(read(device, 0, 20_000).len(), 8192);
    assert_eq!(read(device, 8191, 10), [8]);
    assert_eq!(read(device, 8192, 20_000), [9; 1000], "and at the size");
}

#[test]
fn a_hole_and_the_end_read_no_bytes() {
    let vm = vm(16);
    let scullv = one(&vm, 0, 4);
    let device = first(&scullv);
    write(device, 10 * 4096 + 5, b"x").unwrap();
    assert_eq!(device.status().size, 10 * 4096 + 6);
    assert_eq!(read(device, 0, 10), b"", "a hole");
    assert_eq!(read(device, 10 * 4096, 10), b"\0\0\0\0\0x", "what is beside the bytes is cleared");
    assert_eq!(read(device, 10 * 4096 + 6, 10), b"", "the end");
    assert_eq!(read(device, u64::MAX, 10), b"", "past everything");
}

#[test]
fn nothing_written_changes_nothing() {
    let vm = vm(16);
    let scullv = one(&vm, 0, 4);
    assert_eq!(write(first(&scullv), 100, b""), Ok(0));
    assert_eq!((first(&scullv).status().size, first(&scullv).status().pages), (0, 0));
}

#[test]
fn opening_for_writing_only_trims_and_opening_otherwise_does_not() {
    let vm = vm(16);
    let scullv = one(&vm, 0, 4);
    write(first(&scullv), 0, b"bytes").unwrap();
    for access in [Access::ReadOnly, Access::ReadWrite] {
        scullv.open(0, access).unwrap();
        assert_eq!(read(first(&scullv), 0, 9), b"bytes");
    }
    scullv.open(0, Access::WriteOnly).unwrap();
    assert_eq!((first(&scullv).status().size, first(&scullv).status().pages, area_pages(&vm)), (0, 0, 0));
}

#[test]
fn a_trim_takes_over_what_ioctl_has_set_and_nothing_else_does() {
    let vm = vm(16);
    let scullv = one(&vm, 0, 4);
    write(first(&scullv), 0, b"x").unwrap();
    let file = scullv.open(0, Access::ReadWrite).unwrap();
    let set = |what, value| file.ioctl(Command::Of(what, How::Tell).number(), value, &mut Input(&[]));
    assert_eq!((set(What::Order, 2), set(What::Qset, 9)), (Ok(0), Ok(0)));
    let is = || (first(&scullv).status().geometry.order(), first(&scullv).status().geometry.qset());
    write(first(&scullv), 5000, b"x").unwrap();
    first(&scullv).resize(1).unwrap();
    assert_eq!(is(), (0, 4), "not by writing, not by cutting");
    scullv.open(0, Access::WriteOnly).unwrap();
    assert_eq!(is(), (2, 9));
    assert_eq!(write(first(&scullv), 0, &[1; 20_000]), Ok(16384));
}

#[test]
fn a_file_seeks_from_the_start_from_where_it_is_and_from_the_end() {
    let vm = vm(16);
    let scullv = one(&vm, 0, 4);
    write_all(first(&scullv), 0, &[1; 100]);
    let mut file = scullv.open(0, Access::ReadWrite).unwrap();
    assert_eq!([file.seek(7, 0), file.seek(3, 1), file.seek(-4, 1)], [Ok(7), Ok(10), Ok(6)]);
    assert_eq!([file.seek(-1, 2), file.seek(1000, 2)], [Ok(99), Ok(1100)]);
    assert_eq!([file.seek(-1, 0), file.seek(-1101, 1), file.seek(-101, 2)], [Err(Error::BadPosition); 3]);
    assert_eq!([file.seek(0, 3), file.seek(0, u32::MAX)], [Err(Error::BadWhence(3)), Err(Error::BadWhence(u32::MAX))]);
    assert_eq!(file.seek(0, 1), Ok(1100), "a refused seek does not move");
    assert_eq!(file.seek(i64::MAX, 0), Ok(MAX_SIZE));
    assert_eq!([file.seek(1, 1), file.seek(i64::MAX, 1), file.seek(i64::MAX, 2)], [Err(Error::BadPosition); 3]);
}

#[test]
fn a_file_reads_and_writes_where_it_is_and_only_what_it_was_opened_for() {
    let vm = vm(16);
    let scullv = one(&vm, 0, 4);
    let mut out = scullv.open(0, Access::WriteOnly).unwrap();
    assert_eq!(out.write(&mut Input(b"hello world"), 0, 6), Ok(6));
    assert_eq!(out.write(&mut Input(b"hello world"), 6, 5), Ok(5));
    let mut buffer = [0; 32];
    assert_eq!(out.read(&mut Output(&mut buffer), 0, 32), Err(Error::NotOpenForThis));
    let mut file = scullv.open(0, Access::ReadOnly).unwrap();
    assert_eq!(file.read(&mut Output(&mut buffer), 0, 5), Ok(5));
    assert_eq!(file.read(&mut Output(&mut buffer), 5, 27), Ok(6));
    assert_eq!(&buffer[..11], b"hello world");
    assert_eq!(file.read(&mut Output(&mut buffer), 0, 5), Ok(0));
    assert_eq!(file.write(&mut Input(b"x"), 0, 1), Err(Error::NotOpenForThis));
    assert_eq!(file.truncate(0), Err(Error::NotOpenForThis));
    assert_eq!(read(first(&scullv), 0, 32), b"hello world");
}

#[test]
fn a_cut_device_grows_again_with_zeros() {
    let vm = vm(16);
    let scullv = one(&vm, 0, 2);
    let device = first(&scullv);
    write_all(device, 0, &[5; 5 * PAGE]);
    device.resize(PAGE as u64 + 10).unwrap();
    assert_eq!((area_pages(&vm), device.check()), (2, Ok(())));
    device.resize(3 * PAGE as u64).unwrap();
    let mut expected = vec![0; PAGE];
    expected[..10].fill(5);
    assert_eq!(read(device, PAGE as u64, PAGE), expected);
    assert_eq!(read(device, 2 * PAGE as u64, PAGE), b"", "what is new is a hole");
    assert_eq!(device.resize(MAX_SIZE + 1), Err(Error::TooLarge));
    device.resize(MAX_SIZE).unwrap();
    assert_eq!((device.status().size, device.check()), (MAX_SIZE, Ok(())));
}

#[test]
fn data_and_holes_are_found_however_far_they_lie_apart() {
    let vm = vm(16);
    let scullv = one(&vm, 0, 2);
    let device = first(&scullv);
    assert_eq!((device.next_data(0), device.next_hole(0)), (None, None));
    write_all(device, PAGE as u64, &[1; 3 * PAGE]);
    write(device, FAR + 77, b"x").unwrap();
    let page = PAGE as u64;
    assert_eq!([device.next_data(0), device.next_data(page + 5)], [Some(page), Some(page + 5)]);
    assert_eq!([device.next_hole(0), device.next_hole(page)], [Some(0), Some(4 * page)]);
    assert_eq!([device.next_data(4 * page), device.next_data(FAR + 77)], [Some(FAR), Some(FAR + 77)]);
    assert_eq!([device.next_data(FAR + 78), device.next_hole(FAR)], [None, Some(FAR + 78)], "the end is a hole");
}

#[test]
fn what_is_far_out_costs_what_it_touches() {
    let vm = vm(16);
    for (order, qset, pages) in [(4, 500, 16), (0, 1, 1), (2, 1000, 4)] {
        let scullv = one(&vm, order, qset);
        let device = first(&scullv);
        write(device, FAR, b"far").unwrap();
        let status = device.status();
        assert_eq!((status.size, read(device, FAR, 10)), (FAR + 3, b"far".to_vec()));
        assert!(status.pages <= pages + 2 + 6, "{} pages for one quantum of {pages}", status.pages);
        write(device, 0, b"near").unwrap();
        assert!(device.status().pages <= 2 * (pages + 2 + 6), "{} pages for two", device.status().pages);
        assert_eq!((read(device, 0, 4), read(device, FAR, 10)), (b"near".to_vec(), b"far".to_vec()));
        device.resize(FAR - 1).unwrap();
        assert_eq!(device.check(), Ok(()));
        device.resize(4).unwrap();
        assert!(device.status().pages <= pages + 2, "the index is lower again: {} pages", device.status().pages);
        assert_eq!((read(device, 0, 10), device.check()), (b"near".to_vec(), Ok(())));
    }
}

/// What a listing says, addresses checked against the instance and put aside.
fn listed(vm: &Vm, scullv: &Scullv<'_>) -> String {
    let mut text = String::new();
    scullv.list(&mut text).unwrap();
    let hex = |word: &str| usize::from_str_radix(word, 16).unwrap();
    let line = |line: &str| -> String {
        if let Some((number, address)) = line.split_once(':').filter(|_| line.starts_with("    ")) {
            assert_eq!(address.len(), 16);
            let quantum = vm.find(hex(address)).expect("a quantum is an area");
            assert_eq!(quantum.start.0, hex(address));
            return format!("{number}:<{} pages>\n", quantum.pages);
        }
        let Some((item, set)) = line.strip_prefix("  item at ").and_then(|rest| rest.split_once(", qset at ")) else {
            return format!("{line}\n");
        };
        assert!(item.len() == 16 && set.len() == 16 && hex(item) != 0);
        format!("  item, qset{}\n", if hex(set) == 0 { " none" } else { "" })
    };
    text.lines().map(line).collect()
}

#[test]
fn the_listing_is_the_traditional_one() {
    let vm = vm(16);
    let scullv = Scullv::new(&vm, Parameters { devices: 2, order: 1, qset: 3, ..Parameters::default() }).unwrap();
    assert_eq!(
        listed(&vm, &scullv),
        "\nDevice 0: qset 3, order 1, sz 0\n  item, qset none\n\nDevice 1: qset 3, order 1, sz 0\n  item, qset none\n"
    );
    write(&scullv.devices()[0], 8192, b"x").unwrap();
    write(&scullv.devices()[0], 24576, b"x").unwrap();
    write(&scullv.devices()[0], 24576 + 16384, b"x").unwrap();
    write(&scullv.devices()[1], FAR, b"x").unwrap();
    let slot = Geometry::new(1, 3).map(|g| FAR % g.item() / g.quantum() as u64).unwrap();
    assert_eq!(
        listed(&vm, &scullv),
        format!(
            "\nDevice 0: qset 3, order 1, sz 40961\n  item, qset\n  item, qset\n       0:<2 pages>\n       2:<2 pages>\n\
             \nDevice 1: qset 3, order 1, sz 4611686018427387905\n  item, qset none\n  item, qset\n    {slot:4}:<2 pages>\n"
        )
    );
}

#[test]
fn the_areas_of_a_device_are_its_quanta_and_none_is_left_after_a_trim() {
    let vm = vm(16);
    {
        let scullv = one(&vm, 2, 600);
        write_all(first(&scullv), 0, &[1; 100_000]);
        let mut listing = String::new();
        vm.list(&mut listing).unwrap();
        assert_eq!(listing.lines().filter(|line| line.contains("pages=4 vmalloc")).count(), 7, "{listing}");
        assert_eq!(
            listing.lines().filter(|line| line.contains("pages=2 vmalloc")).count(),
            1,
            "a set of 600: {listing}"
        );
        scullv.open(0, Access::WriteOnly).unwrap();
        assert_eq!(vm.areas().count(), 0);
    }
    let used = vm.stats();
    assert_eq!((used.areas, used.pages), (0, 0));
}

#[test]
fn dropping_the_driver_gives_back_every_frame() {
    let vm = vm(16);
    let out = |vm: &Vm| {
        vm.purge();
        vm.reclaim(usize::MAX);
        let (stats, frames) = (vm.stats(), vmalloc::machine::Machine::frames(vm.machine()));
        use vmalloc::machine::frames::Frames;
        frames.total() - frames.free_now() - stats.table_frames - stats.bookkeeping_frames - stats.pooled_frames
    };
    let before = out(&vm);
    for (order, qset) in [(0, 1), (4, 500), (1, 2000)] {
        let scullv = one(&vm, order, qset);
        write_all(first(&scullv), 12_345, &[1; 300_000]);
        write(first(&scullv), FAR, b"x").unwrap();
        assert!(out(&vm) > before);
        drop(scullv);
        assert_eq!((out(&vm), vm.areas().count(), vm.check()), (before, 0, Ok(())));
    }
}
