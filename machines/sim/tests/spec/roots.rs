//! M1: what `init` links in the root is linked for good, so that every address
//! space may copy it.

use crate::common::{PAGE, Rig, START, boot, busy, page_of, quiet};
use std::ops::Range;
use vmalloc::gfp::Gfp;
use vmalloc::machine::Machine;
use vmalloc::machine::format::Format;
use vmalloc::table::{X86_32, X86Pae};
use vmalloc::{Config, Placement, Policy, Req};
use vmalloc_sim::Sim;

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

/// Four CPUs with a root each make, use and free areas, and what was freed serves
/// others: nobody reaches it by what was copied.
fn four_roots_agree<F: Format>(rig: &Rig<F>, span: usize) {
    for round in 0..12 {
        rig.sim.set_cpu(round % 4);
        let pages = span + round as usize * span / 8;
        let area = rig.alloc(Req::pages(pages)).unwrap();
        rig.stamp(area, pages, round as u64);
        (0..4).for_each(|cpu| rig.check_stamps(cpu, area, pages, round as u64));
        rig.give(area).unwrap();
        rig.purge();
        rig.reclaim(usize::MAX);
        // Whatever was a table is somebody's now.
        let frames: Vec<_> =
            std::iter::from_fn(|| rig.alloc_frame(Gfp::KERNEL | Gfp::NOWARN, None).ok()).take(3000).collect();
        for &frame in &frames {
            // SAFETY: M2: the frame is ours. Any word of it is a present entry.
            unsafe { rig.sim.virt(frame).write_bytes(0x63, PAGE) }
        }
        (0..4).for_each(|cpu| rig.sim.assert_faults(cpu, page_of(area, pages / 2)));
        rig.give_frames(&frames);
        rig.purge();
        assert_eq!(rig.check(), Ok(()));
    }
}

#[test]
fn m1_with_four_roots_no_cpu_reaches_a_table_page_that_was_given_back() {
    for (policy, placement) in [(Policy::Unmap, Placement::Lowest), (Policy::Strict, Placement::Classes)] {
        let start = 0xf800_0000;
        let config = Config::region(start..start + (64 << 20)).placement(placement).policy(policy);
        let two = Sim::<X86_32>::builder().cpus(4).roots(4).seed(9).node(32 << 20);
        four_roots_agree(&boot(two, config.clone()), 1024);
        let three = Sim::<X86Pae>::builder().cpus(4).roots(4).seed(9).node(32 << 20);
        four_roots_agree(&boot(three, config), 512);
        let config = Config::region(START..START + (64 << 20)).placement(placement).policy(policy);
        four_roots_agree(&boot(busy(4).roots(4).node(32 << 20), config), 512);
    }
}

#[test]
fn m1_two_levels_have_all_leaf_tables_after_init_and_keep_them() {
    let start = 0xf800_0000;
    let vm = boot(Sim::<X86_32>::builder().cpus(2).roots(2), Config::region(start..start + (40 << 20)));
    vm.sim.copy_root();
    let root = root_of(vm.machine());
    let tables = vm.stats().table_frames;
    assert_eq!(tables, 10);
    for _ in 0..4 {
        let area = vm.alloc(Req::pages(3000)).unwrap();
        vm.stamp(area, 3000, 1);
        vm.check_stamps(1, area, 3000, 1);
        vm.give(area).unwrap();
        vm.purge();
        (0..50).for_each(|_| _ = vm.tick());
        assert_eq!((root_of(vm.machine()), vm.stats().table_frames), (root.clone(), tables));
    }
    assert_eq!(vm.stats().counts.tables_pruned, 0);
}

#[test]
fn m1_with_pae_a_region_fills_its_entries_of_four_and_the_leaf_tables_come_and_go() {
    let start = 0xb800_0000;
    let vm = boot(Sim::<X86Pae>::builder().cpus(2).roots(2).node(64 << 20), Config::region(start..start + (256 << 20)));
    let root = root_of(vm.machine());
    // Frames, and present: the root's links have no other bits.
    assert!(root[2..4].iter().all(|&link| link & 0xfff == 1) && root[2] != root[3], "{:#x?}", &root[..4]);
    assert!(root.iter().enumerate().all(|(n, &link)| link == 0 || n == 2 || n == 3), "the root has four entries");
    assert_eq!(vm.stats().table_frames, 2);
    for round in 0..4 {
        let area = vm.alloc(Req::pages(3000).within(0xbff0_0000..0xc100_0000)).unwrap();
        vm.stamp(area, 3000, round);
        vm.check_stamps(1, area, 3000, round);
        vm.give(area).unwrap();
        vm.purge();
        assert_eq!(root_of(vm.machine()), root);
    }
    assert!(vm.stats().counts.tables_pruned > 0);
}
