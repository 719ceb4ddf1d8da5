//! The machine's own calls, on real memory: what is bound can be used, what is
//! not faults, and what Linux refuses is refused in order.

mod common;

use common::{frame, is_writable, maps_in, page, run, run_at};
use std::os::fd::FromRawFd;
use std::ptr::NonNull;
use vmalloc::machine::format::Prot;
use vmalloc::machine::frames::Frames;
use vmalloc::machine::{Flush, Level, Machine, Run};
use vmalloc::units::{PAGE_SIZE, PageRange, Pfn, VirtAddr};
use vmalloc_hosted::{BUDGET_SPENT, Builder, Hosted, builder, is_readable};

fn small() -> Builder {
    builder().memory(64 << 20).region(64 << 20)
}

fn machine() -> Hosted {
    small().machine().unwrap()
}

/// Unmaps and flushes.
fn unbind(machine: &Hosted, pages: PageRange) -> bool {
    machine.unmapped(pages);
    machine.flush_everywhere(Flush::Everything)
}

#[test]
fn a_bound_page_is_the_frame_and_so_is_a_second_binding_of_it() {
    let machine = machine();
    let (first, second) = (run(&machine, 3, 2, 100), run(&machine, 9, 1, 101));
    machine.mirror(first).unwrap();
    machine.mirror(second).unwrap();
    let byte = page(first.pages, 1);
    // SAFETY: bound just now.
    unsafe {
        byte.write(7);
        assert_eq!(page(second.pages, 0).read(), 7);
        assert_eq!(machine.virt(Pfn(101)).read(), 7);
        machine.zero(Pfn(101), VirtAddr(byte.addr()));
        assert_eq!(byte.read(), 0);
    }
}

#[test]
fn what_was_never_bound_faults() {
    let machine = machine();
    for range in machine.regions() {
        assert!(!is_readable(std::ptr::with_exposed_provenance(range.start)));
        assert!(!is_readable(std::ptr::with_exposed_provenance(range.end - 1)));
    }
}

#[test]
fn protections_hold() {
    let machine = machine();
    let text = Run { prot: Prot::RX, ..run(&machine, 0, 1, 50) };
    let data = Run { prot: Prot::RO, ..run(&machine, 2, 1, 60) };
    machine.mirror(text).unwrap();
    machine.mirror(data).unwrap();
    for sealed in [text, data] {
        assert!(is_readable(page(sealed.pages, 0)) && !is_writable(page(sealed.pages, 0)));
    }
    // SAFETY: the frame is nobody's, and holds one instruction: ret.
    unsafe {
        machine.virt(Pfn(50)).write(0xc3);
        std::mem::transmute::<*mut u8, extern "C" fn()>(page(text.pages, 0))();
    }
}

#[cfg(debug_assertions)]
#[test]
fn a_flush_ends_all_access_in_one_call_for_neighbours_with_guards_between() {
    let machine = machine();
    let base = machine.vmas().used;
    let runs: Vec<Run> = (0..10).map(|i| run(&machine, 3 * i, 2, frame(i))).collect();
    runs.iter().for_each(|&r| machine.mirror(r).unwrap());
    runs.iter().rev().for_each(|r| machine.unmapped(r.pages));
    // One call comes through, a second would not.
    machine.faults().fail_at(2);
    assert!(machine.flush_everywhere(Flush::Everything));
    machine.faults().fail_at(0);
    assert!(runs.iter().all(|r| !is_readable(page(r.pages, 0))));
    assert_eq!(machine.vmas().used, base);
}

#[test]
fn a_live_area_between_two_freed_ones_stays() {
    let machine = machine();
    let runs = [run(&machine, 0, 1, 10), run(&machine, 1, 1, 30), run(&machine, 2, 1, 50)];
    runs.iter().for_each(|&r| machine.mirror(r).unwrap());
    // SAFETY: bound just now.
    unsafe { page(runs[1].pages, 0).write(9) };
    machine.unmapped(runs[0].pages);
    assert!(unbind(&machine, runs[2].pages));
    // SAFETY: bound still.
    assert_eq!(unsafe { page(runs[1].pages, 0).read() }, 9);
    assert!(!is_readable(page(runs[0].pages, 0)) && !is_readable(page(runs[2].pages, 0)));
}

#[test]
fn guards_fault_on_both_sides_of_live_areas_and_cost_nothing_where_linux_can() {
    let machine = machine();
    const N: usize = 100;
    let runs: Vec<Run> = (0..N).map(|i| run(&machine, 7 * i + 1, 5, frame(i))).collect();
    let base = machine.vmas().used;
    runs.iter().for_each(|&r| machine.mirror(r).unwrap());
    for r in &runs {
        let guards = [r.pages.start.0 - PAGE_SIZE, r.pages.end().0, r.pages.end().0 + PAGE_SIZE];
        assert!(guards.iter().all(|&g| !is_readable(std::ptr::with_exposed_provenance(g))), "{r:?}");
        assert!((0..5).all(|i| is_readable(page(r.pages, i)) && is_writable(page(r.pages, i))));
    }
    let each = if machine.has_guards() { N } else { 2 * N - 1 };
    assert_eq!(machine.vmas().used - base, each + 1);
    assert_eq!(maps_in(machine.regions().next().unwrap()), each + 2);
}

#[test]
fn the_count_of_vmas_is_the_one_of_linux_after_any_history() {
    let machine = machine();
    let fixed = machine.vmas().used - 1;
    let region = machine.regions().next().unwrap();
    let mut live: Vec<Run> = Vec::new();
    let mut random = 1u64;
    for step in 0..3000 {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let (at, len) = ((random >> 40) as usize % 600, 1 + (random >> 33) as usize % 5);
        // Sometimes frames that continue a neighbour's: Linux merges those.
        let first = if step % 3 == 0 { frame(step % 80) } else { 1000 + at as u64 };
        let prot = if step % 5 == 0 { Prot::RO } else { Prot::RW };
        let new = Run { prot, ..run(&machine, at, len, first) };
        let hit = |r: &Run| r.pages.start < new.pages.end() && new.pages.start < r.pages.end();
        match live.iter().position(hit) {
            Some(old) => assert!(unbind(&machine, live.swap_remove(old).pages)),
            None => {
                machine.mirror(new).unwrap();
                live.push(new);
            }
        }
        if step % 50 == 0 {
            assert_eq!(machine.vmas().used - fixed, maps_in(region.clone()), "step {step}");
        }
    }
    assert!(live.iter().all(|r| (0..r.pages.pages).all(|i| is_readable(page(r.pages, i)))));
}

#[cfg(debug_assertions)]
#[test]
fn an_unmapping_that_linux_refuses_stays_queued_and_is_tried_again() {
    let machine = machine();
    let area = run(&machine, 4, 3, 20);
    machine.mirror(area).unwrap();
    machine.unmapped(area.pages);
    for tries in 1..=3 {
        machine.faults().fail_at(1);
        assert!(!machine.flush_everywhere(Flush::Everything));
        assert_eq!(machine.refused_unmaps(), tries);
        assert!(is_readable(page(area.pages, 0)), "still bound: nothing may be reused");
    }
    assert!(machine.flush_everywhere(Flush::Everything));
    assert!(!is_readable(page(area.pages, 0)));
}

#[cfg(debug_assertions)]
#[test]
fn a_flush_that_may_not_fail_tries_until_it_is_done() {
    let machine = machine();
    let area = run(&machine, 4, 3, 20);
    machine.mirror(area).unwrap();
    machine.unmapped(area.pages);
    machine.faults().fail_at(1);
    machine.flush(Flush::Everything);
    assert_eq!(machine.refused_unmaps(), 1);
    assert!(!is_readable(page(area.pages, 0)));
}

#[cfg(debug_assertions)]
#[test]
fn a_binding_that_fails_at_any_step_leaves_nothing_reachable() {
    let machine = machine();
    // Before frame 0 there is nothing to cover the gap with: the area will.
    let neighbours = [run(&machine, 0, 1, 300), run(&machine, 5, 1, 0)];
    neighbours.iter().for_each(|&r| machine.mirror(r).unwrap());
    let before = machine.vmas();
    let area = Run { prot: Prot::RO, ..run(&machine, 2, 2, 900) };
    let mut steps = 0;
    for n in 1.. {
        machine.faults().fail_at(n);
        let result = machine.mirror(area);
        if result.is_ok() {
            break;
        }
        machine.faults().fail_at(0);
        steps = n;
        assert_eq!(result, Err(libc::ENOMEM));
        assert!((0..6).all(|i| is_readable(page(run(&machine, i, 1, 0).pages, 0)) == (i == 0 || i == 5)));
        assert_eq!(machine.vmas(), before);
    }
    assert_eq!(steps, if machine.has_guards() { 4 } else { 2 }, "alias, two guards, protection");
    machine.faults().fail_at(0);
    assert!(is_readable(page(area.pages, 1)) && !is_readable(page(area.pages, 2)));
}

#[test]
fn bindings_outside_of_regions_or_memory_are_refused() {
    let machine = machine();
    let inside = run(&machine, 0, 2, 0);
    let last = (64 << 20) / PAGE_SIZE as u64 - 1;
    assert_eq!(machine.mirror(Run { first: Pfn(last), ..inside }), Err(libc::ENXIO));
    assert_eq!(machine.mirror(Run { first: Pfn(u64::MAX), ..inside }), Err(libc::ENXIO));
    let end = machine.regions().next().unwrap().end;
    let across = PageRange::new(VirtAddr(end - PAGE_SIZE), 2);
    assert_eq!(machine.mirror(Run { pages: across, ..inside }), Err(libc::EFAULT));
    assert!(!is_readable(page(inside.pages, 0)));
}

#[test]
fn the_budget_refuses_before_linux_does_and_frees_make_room() {
    const BUDGET: usize = 40;
    let machine = small().vma_budget(BUDGET).machine().unwrap();
    let mut live = Vec::new();
    let refusal = loop {
        let next = run(&machine, 100 * live.len(), 1, frame(live.len()));
        match machine.mirror(next) {
            Ok(()) => live.push(next),
            Err(number) => break number,
        }
    };
    assert_eq!(refusal, BUDGET_SPENT);
    assert!(machine.vmas().used <= BUDGET && machine.vmas().used > BUDGET - 2, "{:?}", machine.vmas());
    let next = run(&machine, 100 * live.len(), 1, 9);
    assert!(live.iter().all(|r| is_readable(page(r.pages, 0))) && !is_readable(page(next.pages, 0)));
    // What waits for a flush is taken away where that makes room.
    machine.unmapped(live[3].pages);
    assert_eq!(machine.mirror(next), Ok(()));
    assert!(!is_readable(page(live[3].pages, 0)));
}

#[test]
fn a_device_is_memory_without_descriptors() {
    let machine = small().device(1 << 20).machine().unwrap();
    let (phys, bytes) = machine.device();
    assert_eq!((phys, bytes), (64 << 20, 1 << 20));
    let first = Pfn::containing(phys);
    assert!(machine.frames().page(first).is_none() && machine.frames().page(Pfn(first.0 - 1)).is_some());
    let registers = Run { first, ..run(&machine, 0, 256, 0) };
    machine.mirror(registers).unwrap();
    // SAFETY: bound just now.
    unsafe {
        page(registers.pages, 255).write(3);
        assert_eq!(machine.virt(first.offset(255)).read(), 3);
    }
}

#[test]
fn regions_and_instances_do_not_meet() {
    let two = small().region(1 << 20).machine().unwrap();
    let other = machine();
    assert_eq!((two.regions().count(), other.regions().count()), (2, 1));
    let runs = [run_at(&two, 0, 0, 1, 5), run_at(&two, 1, 0, 1, 6), run_at(&other, 0, 0, 1, 5)];
    two.mirror(runs[0]).unwrap();
    two.mirror(runs[1]).unwrap();
    other.mirror(runs[2]).unwrap();
    for (value, r) in (1u8..).zip(&runs) {
        // SAFETY: bound just now.
        unsafe { page(r.pages, 0).write(value) };
    }
    two.unmapped(runs[1].pages);
    assert!(unbind(&two, runs[0].pages));
    // SAFETY: bound still.
    assert_eq!(unsafe { page(runs[2].pages, 0).read() }, 3);
    assert!(!is_readable(page(runs[0].pages, 0)) && !is_readable(page(runs[1].pages, 0)));
    let used = [two.vmas().used, other.vmas().used];
    drop(two);
    assert_eq!(other.vmas().used, used[1]);
}

#[test]
fn sizes_that_cannot_be_had_are_errors_that_say_so() {
    let says = |b: Builder| b.machine().err().map(|e| e.to_string()).unwrap_or_default();
    assert!(says(builder().memory(usize::MAX)).contains("more than a process can have"));
    assert!(says(builder().region(1 << 60)).starts_with("no region: Cannot allocate memory"));
    assert!(says(builder().memory(0)).contains("too few"));
    let said = says(builder().memory(1 << 40));
    assert!(said.starts_with("1099511627776 bytes of memory, but this computer has "), "{said}");
    assert!(builder().memory(1 << 24).device(1 << 34).machine().is_ok(), "a device is sparse");
}

#[test]
fn threads_bind_and_unbind_side_by_side() {
    let machine = machine();
    let base = machine.vmas().used;
    std::thread::scope(|scope| {
        for t in 0..4 {
            let machine = &machine;
            scope.spawn(move || {
                for round in 0..400 {
                    // Slots of the threads are beside each other, so that they meet at the guards.
                    let slot = 4 * (round % 16) + t;
                    let area = run(machine, 3 * slot, 2, frame(slot));
                    machine.mirror(area).unwrap();
                    let value = (round % 251 + 1) as u8;
                    // SAFETY: bound just now, by this thread alone.
                    unsafe {
                        (0..2).for_each(|i| page(area.pages, i).write(value));
                        assert!((0..2u64).all(|i| machine.virt(area.first.offset(i)).read() == value));
                    }
                    assert!(!is_readable(page(area.pages, 2)), "the guard");
                    assert!(unbind(machine, area.pages));
                    assert!(!is_readable(page(area.pages, 0)) && !is_readable(page(area.pages, 1)));
                }
            });
        }
    });
    assert_eq!(machine.vmas().used, base);
}

#[test]
fn log_lines_and_symbols_go_where_they_are_sent() {
    use std::sync::{Arc, Mutex};
    let machine = machine();
    let seen = Arc::new(Mutex::new(String::new()));
    let sink = seen.clone();
    machine.set_log(Box::new(move |level, line| *sink.lock().unwrap() += &format!("{level:?}: {line}")));
    machine.log(Level::Warn, format_args!("frame {}", 7));
    assert_eq!(*seen.lock().unwrap(), "Warn: frame 7");
    struct Symbol<'a>(&'a Hosted, usize);
    impl std::fmt::Display for Symbol<'_> {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            self.0.symbol(self.1, f)
        }
    }
    assert_eq!(Symbol(&machine, 0x10).to_string(), "0x10");
    machine.set_symbolizer(Box::new(|pc, f| write!(f, "main+{pc:#x}/0x40")));
    assert_eq!(Symbol(&machine, 0x10).to_string(), "main+0x10/0x40");
}

#[test]
fn a_busy_index_fails_over_until_all_were_tried() {
    let machine = small().cpus(3).machine().unwrap();
    assert_eq!(machine.cpus(), 3);
    let first = machine.pin();
    let start = first.cpu;
    let second = machine.busy(first);
    assert_eq!(second.cpu, (start + 1) % 3);
    let third = machine.busy(second);
    assert_eq!(machine.busy(third).cpu, start);
}

#[test]
fn the_direct_map_reaches_each_frame() {
    let machine = machine();
    let last = Pfn((64 << 20) / PAGE_SIZE as u64 - 1);
    let (low, high): (NonNull<u8>, NonNull<u8>) = (machine.virt(Pfn(0)), machine.virt(last));
    assert_eq!(high.addr().get() - low.addr().get(), (64 << 20) - PAGE_SIZE);
    assert!(is_writable(low.as_ptr()) && is_writable(high.as_ptr()));
}

#[test]
fn without_a_sink_damage_alone_is_told_and_a_stderr_that_is_full_panics_nobody() {
    let machine = builder().memory(1 << 20).region(1 << 24).machine().unwrap();
    let log = |level| machine.log(level, format_args!("a line"));
    let mut ends = [0; 2];
    // SAFETY: the array has two places.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    let status = vmalloc_process::in_child(|| {
        // SAFETY: the child's own descriptors, and a C string.
        unsafe {
            libc::dup2(ends[1], 2);
            log(Level::Warn);
            log(Level::Error);
            libc::dup2(libc::open(c"/dev/full".as_ptr(), libc::O_WRONLY), 2);
        }
        log(Level::Error);
        0
    });
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{status:#x}");
    // SAFETY: ours; nobody writes any more.
    let said = unsafe {
        libc::close(ends[1]);
        std::fs::File::from_raw_fd(ends[0])
    };
    assert_eq!(std::io::read_to_string(said).unwrap(), "vmalloc: a line\n");
}
