//! The machine keeps its side of the contract, and notices a caller that does
//! not keep the other.

use crate::bench::{bench, story};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use vmalloc::gfp::ZoneKind;
use vmalloc::machine::format::Prot;
use vmalloc::machine::frames::{Frames, Want};
use vmalloc::machine::{Context, Level, Machine};
use vmalloc::table::{X86_32, X86_64};
use vmalloc::units::{CpuSet, Node, PAGE_SIZE, PageRange, Pfn, VirtAddr};
use vmalloc_sim::{Bank, Builder, DIRT, Rates, Sim};

const AT: VirtAddr = VirtAddr(0xffff_c900_0000_0000);

fn machine() -> Builder<X86_64> {
    Sim::builder().cpus(3).rates(Rates::NEVER)
}

fn only(cpu: u32) -> CpuSet {
    let mut set = CpuSet::EMPTY;
    set.insert(cpu);
    set
}

#[test]
fn pins_nest_and_each_cpu_has_its_own() {
    let b = bench(machine());
    let outer = b.sim.pin();
    let inner = b.sim.pin();
    assert_eq!((outer.cpu, inner.cpu), (0, 0));
    b.sim.on(2, || b.pinned(|| assert_eq!(b.sim.cpu(), 2)));
    // SAFETY: each is the youngest.
    unsafe {
        b.sim.unpin(inner);
        b.sim.unpin(outer);
    }
}

#[test]
fn a_pin_that_is_ended_out_of_order_or_elsewhere_is_noticed() {
    let b = bench(machine());
    let outer = b.sim.pin();
    let _inner = b.sim.pin();
    // SAFETY: wrong on purpose; the simulator only counts.
    assert!(story(|| unsafe { b.sim.unpin(outer) }).contains("M4"));
    let b = bench(machine());
    let pin = b.sim.pin();
    // SAFETY: as above.
    assert!(b.story(|sim| sim.on(1, || unsafe { sim.unpin(pin) })).contains("ended on CPU 1"));
}

#[test]
fn interrupts_come_at_pins_and_never_inside_them() {
    let b = bench(machine().rates(Rates { interrupt: 2, ..Rates::NEVER }));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (sim, log) = (b.sim.clone(), seen.clone());
    let depth = AtomicU32::new(0);
    b.sim.set_interrupt(move |cpu| {
        assert_eq!((sim.cpu(), sim.context()), (cpu, Context::HardIrq));
        let now = depth.fetch_add(1, SeqCst) + 1;
        log.lock().unwrap().push((cpu, now));
        let pin = sim.pin();
        // SAFETY: the youngest.
        unsafe { sim.unpin(pin) }
        depth.fetch_sub(1, SeqCst);
    });
    for _ in 0..50 {
        let pin = b.sim.pin();
        let before = seen.lock().unwrap().len();
        (0..10).for_each(|_| b.pinned(|| ()));
        assert_eq!(seen.lock().unwrap().len(), before, "CPU 0 is pinned");
        // SAFETY: the youngest.
        unsafe { b.sim.unpin(pin) }
    }
    assert!(seen.lock().unwrap().iter().all(|&(cpu, _)| cpu == 0));
    (0..50).for_each(|_| b.sim.step());
    assert!(seen.lock().unwrap().iter().any(|&(cpu, _)| cpu == 2), "a step may interrupt any CPU");
    let seen = seen.lock().unwrap();
    assert!([1, 2].iter().all(|deep| seen.iter().any(|(_, d)| d == deep)), "nested ones come too");
    assert!(seen.iter().all(|&(_, depth)| depth <= 2), "but not deeper");
}

#[test]
fn an_interrupt_that_leaves_its_cpu_pinned_is_noticed() {
    let b = bench(machine().rates(Rates { interrupt: 1, ..Rates::NEVER }));
    let sim = b.sim.clone();
    b.sim.set_interrupt(move |_| _ = sim.pin());
    assert!(b.story(|sim| _ = sim.pin()).contains("left it pinned"));
}

#[test]
fn the_context_is_task_only_where_waiting_is_allowed() {
    let b = bench(machine());
    assert_eq!(b.sim.context(), Context::Task);
    b.pinned(|| assert_eq!(b.sim.context(), Context::Atomic));
    b.sim.sleep(1, || assert_eq!(b.sim.context(), Context::Atomic));
    b.sim.set_context(Context::Softirq);
    b.pinned(|| assert_eq!(b.sim.context(), Context::Softirq));
}

/// Who served kicks, in order.
fn served(sim: &Sim<X86_64>) -> Arc<Mutex<Vec<u32>>> {
    let served = Arc::new(Mutex::new(Vec::new()));
    let log = served.clone();
    sim.set_kick(move |cpu| log.lock().unwrap().push(cpu));
    served
}

#[test]
fn whoever_waits_lets_the_others_serve_their_kicks() {
    let b = bench(machine());
    let served = served(&b.sim);
    b.sim.kick(&only(1));
    b.sim.kick(&only(2));
    assert!(served.lock().unwrap().is_empty(), "a kick does not wait");
    b.sim.relax();
    b.sim.relax();
    assert_eq!(*served.lock().unwrap(), [1, 2], "once each");
}

#[test]
fn a_kick_is_served_in_bounded_time_by_idle_cpus_too_and_never_by_pinned_ones() {
    let b = bench(machine());
    let served = served(&b.sim);
    b.sim.sleep(1, || {});
    let pin = b.sim.on(2, || b.sim.pin());
    let mut both = only(1);
    both.insert(2);
    b.sim.kick(&both);
    (0..1000).for_each(|_| b.sim.step());
    assert_eq!(*served.lock().unwrap(), [1]);
    // SAFETY: the youngest of CPU 2.
    b.sim.on(2, || unsafe { b.sim.unpin(pin) });
    (0..1000).for_each(|_| b.sim.step());
    assert_eq!(*served.lock().unwrap(), [1, 2]);
}

#[test]
fn a_kick_is_lost_on_a_cpu_that_is_offline() {
    let b = bench(machine());
    let served = served(&b.sim);
    // One that was pending when its CPU went, and one that came then.
    b.sim.kick(&only(1));
    b.sim.offline(1, || {});
    b.sim.offline(2, || {});
    b.sim.kick(&only(2));
    b.sim.online(1, || {});
    b.sim.online(2, || {});
    b.sim.serve_kicks();
    assert!(served.lock().unwrap().is_empty());
}

#[test]
fn a_loop_that_waits_for_ever_is_noticed() {
    let b = bench(machine());
    let _pin = b.sim.on(1, || b.sim.pin());
    b.sim.kick(&only(1));
    let story = b.story(|sim| (0..2_000_000).for_each(|_| sim.relax()));
    assert!(story.contains("waits for ever") && story.contains("[false, true, false]"), "{story}");
}

#[test]
fn frames_are_asked_for_and_given_back_by_pinned_callers_only() {
    let b = bench(machine());
    let want = Want::bookkeeping(Node(0));
    assert!(b.story(|sim| _ = sim.frames().alloc(want)).contains("F3"));
    let frame = b.take();
    // SAFETY: the frame is out.
    assert!(b.story(|sim| unsafe { sim.frames().free(frame, 0) }).contains("F3"));
    // SAFETY: as above.
    assert!(b.story(|sim| unsafe { sim.frames().free_bulk(&[frame]) }).contains("F3"));
    assert!(b.story(|sim| _ = sim.frames().alloc_bulk(want, &mut [Pfn(0)])).contains("F3"));
}

#[test]
fn a_frame_that_is_given_back_twice_or_was_never_there_is_noticed() {
    let b = bench(machine());
    let frame = b.take();
    b.give(frame);
    let story = b.story(|_| b.give(frame));
    assert!(story.contains("given back twice") && story.contains("gave back"), "{story}");
    let b = bench(machine());
    assert!(b.story(|_| b.give(Pfn(1 << 40))).contains("where no memory is"));
}

#[test]
fn frames_that_are_not_given_back_are_leaks_the_root_excepted() {
    let b = bench(machine());
    b.sim.assert_no_leaks();
    let (frame, other) = (b.take(), b.take());
    b.give(other);
    assert_eq!(b.sim.leaked_frames(), 1);
    let story = b.story(|sim| sim.assert_no_leaks());
    assert!(story.contains(&format!("1 frames are out; {frame:?}")) && story.contains("CPU 0 took"), "{story}");
    b.give(frame);
    b.sim.assert_no_leaks();
}

#[test]
fn fresh_frames_are_dirty_and_the_root_is_clear() {
    let b = bench(machine());
    let byte = |frame| {
        // SAFETY: M2, the frame is held.
        unsafe { b.sim.virt(frame).add(PAGE_SIZE - 1).read() }
    };
    assert_eq!((byte(b.sim.root()), byte(b.take())), (0, DIRT));
    let mut bulk = [Pfn(0); 3];
    assert_eq!(b.pinned(|| b.sim.frames().alloc_bulk(Want::bookkeeping(Node(0)), &mut bulk)), 3);
    assert!(bulk.iter().all(|&frame| byte(frame) == DIRT));
}

#[test]
fn a_direct_mapping_is_for_low_memory_that_is_held() {
    let b = bench(machine().node(64 << 20).highmem(Pfn(4096)));
    let want = Want { zone: ZoneKind::HighMem, ..Want::bookkeeping(Node(0)) };
    let high = b.pinned(|| b.sim.frames().alloc(want)).unwrap();
    assert!(high >= Pfn(4096));
    assert!(b.story(|sim| _ = sim.virt(high)).contains("direct mapping does not cover"));
    let low = b.pinned(|| b.sim.frames().alloc(Want::bookkeeping(Node(0)))).unwrap();
    b.sim.virt(low);
    b.give(low);
    assert!(b.story(|sim| _ = sim.virt(low)).contains("nobody holds"));
}

#[test]
fn high_memory_is_cleared_through_the_page_that_it_is_mapped_at() {
    let b = bench(Sim::<X86_32>::builder().node(64 << 20).highmem(Pfn(4096)).rates(Rates::NEVER));
    let at = VirtAddr(0xf840_0000);
    let frame = b.map(at);
    assert!(frame >= Pfn(4096));
    assert_eq!(b.sim.load(0, at), Ok(u64::from_ne_bytes([DIRT; 8])));
    b.sim.zero(frame, at);
    assert_eq!((b.sim.load(0, at), b.sim.load(0, VirtAddr(at.0 + 4088))), (Ok(0), Ok(0)));
    assert!(b.story(|sim| sim.zero(frame, at.add_pages(1))).contains("was to be cleared"));
}

#[test]
fn a_device_can_be_mapped_but_is_no_memory_to_hand_out() {
    let device = Bank { first: Pfn(0xfee00), frames: 2, node: None };
    let b = bench(machine().node(1 << 20).bank(device));
    assert_eq!(b.sim.frames().total(), 256);
    b.bind(AT, Pfn(0xfee01), Prot::RW);
    b.sim.store(0, AT, 5).unwrap();
    assert_eq!(b.sim.load(1, AT), Ok(5));
    assert!(b.story(|sim| _ = sim.virt(Pfn(0xfee01))).contains("direct mapping does not cover"));
    b.bind(AT.add_pages(1), Pfn(0xfee02), Prot::RW);
    assert!(b.story(|sim| _ = sim.load(0, AT.add_pages(1))).contains("where no memory is"));
}

#[test]
fn nodes_have_their_own_memory_and_cpus() {
    let b = bench(Sim::<X86_64>::builder().cpus(4).node(1 << 20).node(1 << 20).rates(Rates::NEVER));
    assert_eq!([0, 1, 2, 3].map(|cpu| b.sim.node_of(cpu)), [Node(0), Node(0), Node(1), Node(1)]);
    assert_eq!(b.sim.frames().nodes(), 2);
    let want = Want { this_node: true, ..Want::bookkeeping(Node(1)) };
    let frame = b.pinned(|| b.sim.frames().alloc(want)).unwrap();
    assert_eq!(b.sim.frames().node_of(frame), Node(1));
}

#[cfg(debug_assertions)]
#[test]
fn the_nth_fallible_step_is_refused() {
    let b = bench(machine());
    b.sim.faults().fail_at(2);
    b.give(b.take());
    let want = Want::bookkeeping(Node(0));
    assert_eq!(b.pinned(|| b.sim.frames().alloc(want)), None);
    assert_eq!(b.sim.faults().refused(), 1);
    assert!(b.pinned(|| b.sim.frames().alloc(want)).is_some());
}

#[test]
fn time_passes_lines_are_kept_and_symbols_printed_as_told() {
    struct Symbol<'a>(&'a Sim<X86_64>);
    impl std::fmt::Display for Symbol<'_> {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            self.0.symbol(0x10, f)
        }
    }
    let b = bench(machine());
    let before = b.sim.clock_ns().unwrap();
    b.sim.advance(5);
    b.sim.step();
    assert!(b.sim.clock_ns().unwrap() > before + 5);
    b.sim.log(Level::Warn, format_args!("line {}", 1));
    assert_eq!(b.sim.take_log(), [(Level::Warn, "line 1".to_string())]);
    assert!(b.sim.take_log().is_empty());
    assert_eq!(Symbol(&b.sim).to_string(), "0x10");
    b.sim.set_symbolizer(|pc, f| write!(f, "init+{pc:#x}"));
    assert_eq!(Symbol(&b.sim).to_string(), "init+0x10");
}

/// A run in which everything happens by chance; its fingerprint.
fn run(seed: u64) -> u64 {
    let b = bench(Sim::<X86_64>::builder().cpus(4).seed(seed).tlb(8));
    let sim = b.sim.clone();
    b.sim.set_interrupt(move |_| {
        let pin = sim.pin();
        // SAFETY: the youngest.
        unsafe { sim.unpin(pin) }
    });
    (0..32).for_each(|n| _ = b.map(AT.add_pages(n)));
    for n in 0..500 {
        let page = AT.add_pages(n * 7 % 40);
        let _ = b.sim.load(n as u32 % 4, page);
        b.pinned(|| b.sim.sync(PageRange::new(page, 1)));
        b.sim.step();
    }
    b.sim.audit();
    b.sim.fingerprint()
}

#[test]
fn a_seed_replays_a_run_and_another_seed_does_not() {
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn cpus_speculate_while_the_library_works() {
    let b = bench(machine().rates(Rates { speculate: 4, ..Rates::NEVER }));
    let frame = b.map(AT);
    b.sim.sync(PageRange::new(AT, 1));
    (0..2000).for_each(|_| b.pinned(|| ()));
    assert_eq!(b.sim.tlb_refs(frame), 3, "nobody has used the page, and every CPU knows it");
    assert_eq!(b.sim.counters().accesses, 0);
}
