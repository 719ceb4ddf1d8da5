//! M1: what `init` links in the root is linked for good, so that every address
//! space may copy it.

use crate::common::{PAGE, START, boot, quiet};
use std::ops::Range;
use vmalloc::machine::Machine;
use vmalloc::{Config, Req};

/// One entry of the root each.
const ENTRY: usize = 1 << 39;

fn root_of(machine: &impl Machine) -> Vec<u64> {
    let words = machine.virt(machine.root()).cast::<u64>();
    // SAFETY: M2: the root is a table of 512 entries.
    unsafe { std::slice::from_raw_parts(words.as_ptr(), 512) }.to_vec()
}

#[test]
fn m1_the_root_is_whole_after_init_and_never_changes() {
    let (wide, low): (Range<usize>, Range<usize>) = (START..START + 3 * ENTRY, START - ENTRY / 2..START);
    let vm = boot(quiet(2), Config::region(wide).add_region(low));
    let root = root_of(vm.machine());
    assert_eq!(root.iter().filter(|&&entry| entry != 0).count(), 4);
    let stats = vm.stats();
    assert_eq!(stats.init_frames, stats.bookkeeping_frames + stats.table_frames);
    for entry in 0..3 {
        let start = START + entry * ENTRY + ENTRY / 2;
        let area = vm.alloc(Req::pages(700).within(start..start + (16 << 20))).unwrap();
        assert_eq!(root_of(vm.machine()), root);
        // SAFETY: V1: nobody uses it.
        unsafe { vm.free(area) }.unwrap();
        vm.purge();
        assert_eq!(root_of(vm.machine()), root, "after its tables were pruned");
    }
    assert!(vm.stats().counts.tables_pruned > 0);
}

#[test]
fn m1_regions_under_one_entry_of_the_root_share_a_table() {
    let middle = START + ENTRY / 2;
    let vm = boot(quiet(1), Config::region(START..middle).add_region(middle..START + ENTRY));
    assert_eq!(vm.stats().table_frames, 1);
    assert_eq!(PAGE * vm.stats().reserve_frames, 0, "what was laid in twice went back");
}
