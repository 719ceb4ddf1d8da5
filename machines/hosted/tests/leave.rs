//! An instance leaves nothing behind. Alone in its process: it looks at all of
//! the process's mappings and open files.

mod common;

use common::{frame, maps, maps_in, run};
use std::ops::Range;
use vmalloc::machine::{Flush, Machine};
use vmalloc_hosted::builder;

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn a_machine_dropped_with_live_and_waiting_bindings_unmaps_them() {
    let live = |n| {
        let machine = builder().memory(16 << 20).device(4096).region(16 << 20).region(1 << 20).machine().unwrap();
        for i in 0..n {
            machine.mirror(run(&machine, 3 * i, 2, frame(i % 20))).unwrap();
        }
        machine.unmapped(run(&machine, 0, 2, 0).pages);
        assert!(machine.flush_everywhere(Flush::Everything));
        machine.unmapped(run(&machine, 3, 2, 0).pages);
        assert!(maps().len() > n);
        machine
    };
    // Once before, for all that is made once a process.
    drop(live(100));
    let before = (maps().len(), open_files());
    let machine = live(100);
    assert_eq!(open_files(), before.1, "the file is closed once it is mapped");
    let regions: Vec<Range<usize>> = machine.regions().collect();
    drop(machine);
    assert_eq!((maps().len(), open_files()), before);
    assert!(regions.into_iter().all(|region| maps_in(region) == 0));
    assert!(!maps().iter().any(|line| line.contains("memfd:vmalloc")));
}
