//! The machine notices what is stale, and nothing else: a simulator that
//! cannot fail proves nothing.

use crate::bench::{Bench, bench};
use vmalloc::machine::event::Event;
use vmalloc::machine::format::{Entry, Format, Prot};
use vmalloc::machine::prealloc::Prealloc;
use vmalloc::machine::{Flush, Machine};
use vmalloc::table::{X86_32, X86_64, X86Pae};
use vmalloc::units::{PAGE_SIZE, PageRange, VirtAddr};
use vmalloc_sim::{DIRT, Rates, Sim, Why};

const AT: VirtAddr = VirtAddr(0xffff_c900_0000_0000);

/// Two CPUs; nothing happens by chance.
fn quiet() -> Bench<X86_64> {
    bench(Sim::builder().cpus(2).rates(Rates::NEVER))
}

#[test]
fn a_page_that_was_mapped_anew_is_not_reached_through_the_old_translation() {
    let b = quiet();
    let old = b.map(AT);
    b.sim.store(1, AT, 7).unwrap();
    let new = b.take();
    b.bind(AT, new, Prot::RW);
    let story = b.story(|sim| _ = sim.load(1, AT));
    assert!(story.contains("bound to another frame before grace"), "{story}");
    assert!(story.contains(&format!("CPU 1 reaches {old:?}")) && story.contains("by Access"), "{story}");
    assert!(story.contains(&format!("Leaf {{ frame: {new:?}")), "{story}");
    assert!(story.contains(&format!("CPU 0 took {new:?}")), "{story}");
}

#[test]
fn a_use_after_free_before_grace_is_served_the_same_frame_and_counted() {
    let b = quiet();
    b.map(AT);
    b.sim.store(0, AT, 7).unwrap();
    b.retire(AT);
    assert_eq!(b.sim.load(0, AT), Ok(7));
    assert_eq!(b.sim.counters().used_after_free, 1);
    // The other CPU has not seen it, and cannot any more.
    assert_eq!(b.sim.load(1, AT).unwrap_err().why, Why::NotPresent { level: 1 });
    b.sim.audit();
}

#[test]
fn a_page_that_was_mapped_anew_and_freed_again_is_not_reached_either() {
    let b = quiet();
    b.map(AT);
    b.sim.load(1, AT).unwrap();
    b.map(AT);
    b.retire(AT);
    assert!(b.story(|sim| _ = sim.load(1, AT)).contains("bound to another frame, and freed"));
}

#[test]
fn a_page_that_was_collected_is_reached_by_nobody() {
    let b = quiet();
    b.map(AT);
    b.sim.load(0, AT).unwrap();
    b.retire(AT);
    b.sim.audit();
    b.collect(AT);
    assert!(b.story(|sim| _ = sim.load(0, AT)).contains("collected before grace"));
    assert!(b.story(|sim| sim.audit()).contains("collected before grace"));
    b.flush(0);
    b.sim.audit();
    assert_eq!(b.sim.load(0, AT).unwrap_err().why, Why::NotPresent { level: 1 });
}

#[test]
fn a_flush_is_of_one_cpu_and_leaves_the_others_stale() {
    let b = quiet();
    b.map(AT);
    b.sim.load(0, AT).unwrap();
    b.sim.load(1, AT).unwrap();
    b.retire(AT);
    b.flush(0);
    b.collect(AT);
    assert!(b.sim.load(0, AT).is_err());
    assert!(b.story(|sim| _ = sim.load(1, AT)).contains("CPU 1 reaches"));
}

#[test]
fn a_protection_that_changed_without_a_flush_is_noticed() {
    let b = quiet();
    let frame = b.map(AT);
    b.sim.store(0, AT, 1).unwrap();
    b.bind(AT, frame, Prot::RO);
    assert!(b.story(|sim| _ = sim.store(0, AT, 2)).contains("protection was changed"));
    b.flush(0);
    assert_eq!(b.sim.store(0, AT, 2).unwrap_err().why, Why::ReadOnly);
    assert_eq!(b.sim.load(0, AT), Ok(1));
}

#[test]
fn the_old_protection_may_be_used_until_the_change_is_said_to_be_over_and_not_after() {
    let b = quiet();
    let frame = b.map(AT);
    b.sim.store(1, AT, 1).unwrap();
    let over = Event::Protect(PageRange::new(AT, 1), Prot::RO);
    b.sim.protect(PageRange::new(AT, 1), Prot::RO).unwrap();
    b.bind(AT, frame, Prot::RO);
    b.sim.audit();
    b.sim.store(1, AT, 2).unwrap();
    assert!(b.story(|sim| _ = sim.note(over)).contains("protection was changed"));
    b.sim.on(1, || b.sim.flush(Flush::Everything));
    b.sim.note(over).unwrap();
    assert_eq!(b.sim.store(1, AT, 3).unwrap_err().why, Why::ReadOnly);
}

/// A table for `AT` that CPU 1 remembers, and that is linked no more.
fn unlinked(b: &Bench<X86_64>) -> vmalloc::units::Pfn {
    b.map(AT);
    b.sim.load(1, AT).unwrap();
    b.retire(AT);
    b.sim.on(1, || b.sim.flush(Flush::Everything));
    // Now it remembers the table again, and no page.
    assert!(b.sim.load(1, AT).is_err());
    b.collect(AT);
    let table = b.table_of(AT, 2);
    b.sim.poke(AT, 2, X86_64::ABSENT);
    table
}

#[test]
fn a_table_that_is_linked_no_more_may_be_walked_while_nothing_in_it_is_present() {
    let b = quiet();
    let table = unlinked(&b);
    assert_eq!(b.sim.table_refs(table), 1);
    assert_eq!(b.sim.load(1, AT).unwrap_err().why, Why::NotPresent { level: 1 });
    // CPU 0 does not remember it.
    assert_eq!(b.sim.load(0, AT).unwrap_err().why, Why::NotPresent { level: 2 });
    b.sim.audit();
}

#[test]
fn a_table_page_that_was_reused_is_not_walked() {
    let b = quiet();
    let table = unlinked(&b);
    let other = VirtAddr(AT.0 + (1 << 30));
    b.reach(other, 2);
    b.sim.poke(other, 2, X86_64::table(table, 2));
    b.sim.audit();
    let data = b.take();
    b.bind(VirtAddr(other.0 + 0x5000), data, Prot::RW);
    // Anywhere in the range of the old table: the page itself is absent.
    let story = b.story(|sim| _ = sim.load(1, AT));
    assert!(story.contains("the table page was reused while it could be walked"), "{story}");
    assert!(b.story(|sim| sim.audit()).contains("level 2"));
}

#[test]
fn a_table_page_that_became_data_is_not_walked() {
    let b = quiet();
    let table = unlinked(&b);
    // SAFETY: M2, the frame is held.
    unsafe { b.sim.virt(table).add(4000).write(1) }
    assert!(b.story(|sim| _ = sim.load(1, AT)).contains("reused while it could be walked"));
}

#[test]
fn a_table_that_is_preallocated_may_be_walked_whatever_its_level() {
    let b = quiet();
    unlinked(&b);
    let table = b.table_of(AT, 3);
    b.sim.poke(AT, 3, X86_64::ABSENT);
    // SAFETY: M2, the table is held.
    let bytes = unsafe { core::slice::from_raw_parts(b.sim.virt(table).as_ptr(), PAGE_SIZE) };
    assert!(bytes.iter().all(|&byte| byte == 0));
    let mut prealloc = Prealloc::new();
    let below = b.take();
    b.clear(below);
    prealloc.put(&b.sim, below);
    prealloc.put(&b.sim, table);
    assert_eq!(b.sim.table_refs(table), 1);
    b.sim.audit();
    assert!(b.sim.load(1, AT).is_err());
}

#[test]
fn another_table_at_the_place_of_one_that_is_remembered_is_noticed() {
    let b = quiet();
    unlinked(&b);
    b.reach(AT, 1);
    assert!(b.story(|sim| _ = sim.load(1, AT)).contains("another table was linked"));
}

#[test]
fn a_frame_does_not_change_hands_while_a_cpu_reaches_it() {
    let b = quiet();
    let frame = b.map(AT);
    b.sim.load(1, AT).unwrap();
    b.retire(AT);
    assert_eq!(b.sim.tlb_refs(frame), 1);
    let story = b.story(|_| b.give(frame));
    assert!(story.contains("the frame was given back") && story.contains("CPU 1"), "{story}");
}

#[test]
fn a_table_page_does_not_change_hands_while_a_cpu_reaches_it() {
    let b = quiet();
    let table = unlinked(&b);
    assert!(b.story(|_| b.give(table)).contains("link from"));
}

#[test]
fn frames_that_nobody_reaches_come_and_go() {
    let b = quiet();
    let table = unlinked(&b);
    b.flush(1);
    assert_eq!(b.sim.table_refs(table), 0);
    b.give(table);
    let fresh = b.take();
    assert_eq!(b.sim.tlb_refs(fresh), 0);
    b.give(fresh);
}

#[test]
fn entries_that_are_not_present_are_never_remembered() {
    let b = quiet();
    b.reach(AT, 1);
    for _ in 0..3 {
        assert_eq!(b.sim.load(0, AT).unwrap_err().why, Why::NotPresent { level: 1 });
    }
    let frame = b.map(AT);
    assert!(b.sim.load(0, AT).is_ok());
    b.flush(0);
    b.retire(AT);
    assert!(b.sim.load(0, AT).is_err());
    assert_eq!(b.sim.tlb_refs(frame), 0);
    let below = VirtAddr(AT.0 - (1 << 39));
    assert_eq!(b.sim.load(0, below).unwrap_err().why, Why::NotPresent { level: 4 });
    b.map(below);
    assert!(b.sim.load(0, below).is_ok());
}

#[test]
fn a_flush_of_ranges_spares_the_rest_and_drops_the_links_above() {
    let b = quiet();
    let far = VirtAddr(AT.0 + (1 << 39));
    let frames = [AT, AT.add_pages(1), far].map(|at| {
        let frame = b.map(at);
        b.sim.load(0, at).unwrap();
        frame
    });
    let (near_table, far_table) = (b.table_of(AT, 2), b.table_of(far, 2));
    b.sim.flush(Flush::Ranges(&[PageRange::new(AT, 1)]));
    assert_eq!(frames.map(|f| b.sim.tlb_refs(f)), [0, 1, 1]);
    assert_eq!([near_table, far_table].map(|f| b.sim.table_refs(f)), [0, 1]);
}

#[test]
fn the_last_pages_of_the_address_space_are_flushed_too() {
    let b = quiet();
    let last = VirtAddr(0_usize.wrapping_sub(0x1000));
    let frame = b.map(last);
    b.sim.load(0, last).unwrap();
    b.sim.flush(Flush::Ranges(&[PageRange::new(last, 1)]));
    assert_eq!((b.sim.tlb_refs(frame), b.sim.table_refs(b.table_of(last, 2))), (0, 0));
}

#[test]
fn a_cpu_that_sleeps_still_speculates() {
    let b = quiet();
    let frame = b.map(AT);
    b.sim.load(0, AT).unwrap();
    b.sim.sleep(1, || {});
    let table = b.table_of(AT, 2);
    assert_eq!(b.sim.table_refs(table), 1);
    (0..100).for_each(|_| b.sim.speculate(1));
    assert_eq!(b.sim.table_refs(table), 2);
    // What it remembers of pages does no harm, so it is not counted …
    assert_eq!(b.sim.tlb_refs(frame), 1);
    // … until it wakes up.
    b.sim.wake(1, || {});
    assert_eq!(b.sim.tlb_refs(frame), 2);
}

#[test]
fn a_cpu_that_is_offline_does_not_speculate() {
    let b = quiet();
    b.map(AT);
    b.sim.load(0, AT).unwrap();
    b.sim.offline(1, || {});
    (0..100).for_each(|_| b.sim.speculate(1));
    assert_eq!(b.sim.table_refs(b.table_of(AT, 2)), 1);
    assert!(b.story(|sim| _ = sim.load(1, AT)).contains("Offline"));
}

/// CPU 1 sleeps, or is offline, with a translation that is stale by now.
fn stale_while<F: Fn(&Bench<X86_64>)>(leave: F) -> Bench<X86_64> {
    let b = quiet();
    let frame = b.map(AT);
    b.sim.load(1, AT).unwrap();
    leave(&b);
    b.retire(AT);
    b.collect(AT);
    b.sim.audit();
    b.give(frame);
    b
}

#[test]
fn a_cpu_that_sleeps_may_remember_stale_pages_until_it_wakes_up() {
    let b = stale_while(|b| b.sim.sleep(1, || {}));
    b.sim.wake(1, || b.sim.flush(Flush::Everything));
    let b = stale_while(|b| b.sim.sleep(1, || {}));
    assert!(b.story(|sim| sim.wake(1, || {})).contains("collected before grace"));
}

#[test]
fn a_cpu_may_remember_anything_while_offline_but_nothing_stale_when_it_is_back() {
    let b = stale_while(|b| b.sim.offline(1, || {}));
    b.sim.online(1, || b.sim.flush(Flush::Everything));
    let b = stale_while(|b| b.sim.offline(1, || {}));
    assert!(b.story(|sim| sim.online(1, || {})).contains("collected before grace"));
}

#[test]
fn a_cpu_that_sleeps_may_not_remember_a_table_that_is_reused() {
    let b = quiet();
    let table = unlinked(&b);
    b.sim.sleep(1, || {});
    assert!(b.story(|_| b.give(table)).contains("Idle"));
}

#[cfg(interleave)]
#[test]
fn each_sabotage_leaves_something_stale() {
    use vmalloc_sim::Sabotage;
    for how in [Sabotage::SkipFlush { cpu: 1 }, Sabotage::SkipIdleFlush, Sabotage::KeepTables] {
        let b = quiet();
        let table = unlinked(&b);
        b.sim.break_contract(how);
        b.sim.sleep(1, || {});
        b.sim.wake(1, || b.sim.flush(Flush::Everything));
        assert_eq!(b.sim.table_refs(table), 1, "{how:?}");
    }
}

#[test]
fn a_guard_that_was_mapped_by_hand_is_noticed() {
    let b = quiet();
    let frame = b.map(AT);
    let guard = AT.add_pages(1);
    b.sim.assert_faults(0, guard);
    b.bind(guard, frame, Prot::RW);
    let story = b.story(|sim| sim.assert_faults(0, guard));
    assert!(story.contains("guard") && story.contains("overwrote the level 1 entry"), "{story}");
}

/// Pages are found, missed and told apart at each level of a format.
fn walks<F: Format>(levels: u8, at: VirtAddr) {
    let b = bench(Sim::<F>::builder().cpus(2).levels(levels).rates(Rates::NEVER));
    assert_eq!(b.sim.load(0, at).unwrap_err().why, Why::NotPresent { level: levels });
    b.map(at);
    b.map(at.add_pages(1));
    b.sim.store(0, at, 1).unwrap();
    b.sim.store(0, at.add_pages(1), 2).unwrap();
    assert_eq!((b.sim.load(1, at), b.sim.load(1, at.add_pages(1))), (Ok(1), Ok(2)));
    for level in 1..=levels {
        let step = 1usize << (12 + F::INDEX_BITS * (level as u32 - 1));
        let beside = VirtAddr(at.0 ^ step << 1);
        assert_eq!(b.sim.load(1, beside).unwrap_err().why, Why::NotPresent { level });
    }
    let mut across = [0; 10];
    b.sim.write_bytes(0, VirtAddr(at.0 + 4091), b"ten bytes!").unwrap();
    b.sim.read_bytes(1, VirtAddr(at.0 + 4091), &mut across).unwrap();
    assert_eq!(&across, b"ten bytes!");
    b.sim.audit();
}

#[test]
fn tables_of_every_depth_are_walked() {
    walks::<X86_64>(4, AT);
    walks::<X86_64>(5, VirtAddr(0xffa0_0000_0000_0000));
    walks::<X86_32>(2, VirtAddr(0xf840_0000));
    walks::<X86Pae>(3, VirtAddr(0xf840_0000));
}

#[test]
fn an_address_that_the_tables_do_not_translate_faults() {
    let b = quiet();
    assert_eq!(b.sim.load(0, VirtAddr(0x0001_0000_0000_0000)).unwrap_err().why, Why::NotCanonical);
    let b = bench(Sim::<X86_32>::builder().rates(Rates::NEVER));
    assert_eq!(b.sim.load(0, VirtAddr(0x1_0000_0000)).unwrap_err().why, Why::NotCanonical);
}

#[test]
fn a_full_tlb_forgets_at_random_and_counts_stay_right() {
    let b = bench(Sim::<X86_64>::builder().tlb(4).rates(Rates::NEVER));
    let frames: Vec<_> = (0..32).map(|n| b.map(AT.add_pages(n))).collect();
    for n in 0..320 {
        b.sim.load(0, AT.add_pages(n % 32)).unwrap();
    }
    assert_eq!(frames.iter().map(|&f| b.sim.tlb_refs(f)).sum::<u32>(), 4);
    b.flush(0);
    assert_eq!(frames.iter().map(|&f| b.sim.tlb_refs(f)).sum::<u32>(), 0);
}

#[test]
fn entries_are_lost_by_chance_as_well() {
    let b = bench(Sim::<X86_64>::builder().tlb(2).rates(Rates { evict: 1, ..Rates::NEVER }));
    let frame = b.map(AT);
    b.sim.load(0, AT).unwrap();
    let lost = (0..100).any(|_| {
        b.sim.step();
        b.sim.tlb_refs(frame) == 0
    });
    assert!(lost);
}

#[test]
fn a_word_that_no_format_writes_is_not_walked_through() {
    let b = quiet();
    b.map(AT);
    let dirt = u64::from_ne_bytes([DIRT; 8]);
    b.sim.poke(AT, 2, dirt);
    assert_eq!(b.sim.peek(AT), (2, Entry::Foreign));
    assert_eq!(b.sim.load(0, AT).unwrap_err().why, Why::NotPresent { level: 2 });
}
