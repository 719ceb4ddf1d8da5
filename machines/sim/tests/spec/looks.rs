//! Looking at entries of an area that somebody frees at the same moment, where
//! one flush speaks for all CPUs: being pinned holds no grace up there.

use crate::common::{REGION, addr, quiet};
use std::cell::Cell;
use std::ptr::NonNull;
use vmalloc::machine::{Context, Flush, Level, Machine, Pinned};
use vmalloc::table::X86_64;
use vmalloc::units::{CpuSet, Node, PageRange, Pfn, VirtAddr};
use vmalloc::{Config, Placement, Req, Vmalloc};
use vmalloc_sim::Sim;

type Inner = Sim<X86_64>;

/// A machine that does something else when it is next asked for its frames, and that
/// can flush everywhere, or cannot.
struct Busy(Inner, bool);

thread_local! {
    static NEXT: Cell<Option<Box<dyn FnOnce()>>> = const { Cell::new(None) };
}

// SAFETY: M1-M9 are the inner machine's; nothing is cached on this one.
unsafe impl Machine for Busy {
    type Table = <Inner as Machine>::Table;
    type Frames = <Inner as Machine>::Frames;
    type Lock = <Inner as Machine>::Lock;

    fn frames(&self) -> &Self::Frames {
        if let Some(next) = NEXT.take() {
            next();
        }
        self.0.frames()
    }
    fn root(&self) -> Pfn {
        self.0.root()
    }
    fn virt(&self, f: Pfn) -> NonNull<u8> {
        self.0.virt(f)
    }
    fn cpus(&self) -> u32 {
        self.0.cpus()
    }
    fn pin(&self) -> Pinned {
        self.0.pin()
    }
    unsafe fn unpin(&self, was: Pinned) {
        // SAFETY: the caller's promise, handed on.
        unsafe { self.0.unpin(was) }
    }
    fn context(&self) -> Context {
        self.0.context()
    }
    fn flush(&self, what: Flush<'_>) {
        self.0.flush(what)
    }
    fn flush_everywhere(&self, what: Flush<'_>) -> bool {
        if self.1 {
            self.0.flush(what);
        }
        self.1
    }
    fn kick(&self, cpus: &CpuSet) {
        self.0.kick(cpus)
    }
    fn levels(&self) -> u8 {
        self.0.levels()
    }
    fn sync(&self, pages: PageRange) {
        self.0.sync(pages)
    }
    fn unmapped(&self, pages: PageRange) {
        self.0.unmapped(pages)
    }
    fn node_of(&self, cpu: u32) -> Node {
        self.0.node_of(cpu)
    }
    fn zero(&self, f: Pfn, at: VirtAddr) {
        self.0.zero(f, at)
    }
    fn log(&self, level: Level, line: std::fmt::Arguments<'_>) {
        self.0.log(level, line)
    }
}

/// An instance with an area of 600 pages, and its machine.
fn busy(everywhere: bool) -> (Inner, &'static Vmalloc<Busy>, NonNull<u8>) {
    let sim = quiet(2).build();
    let vm: &'static Vmalloc<Busy> = Box::leak(Box::new(Vmalloc::new(Busy(sim.clone(), everywhere))));
    // SAFETY: N1, N2: the machine is new, and nobody else has it.
    sim.unbounded(|| unsafe { vm.init(Config::region(REGION).placement(Placement::Lowest)) }).unwrap();
    sim.online_all(|| vm.cpu_online());
    let area = vm.alloc(Req::pages(600)).unwrap();
    (sim, vm, area)
}

#[test]
fn t1_no_table_becomes_free_memory_while_somebody_looks() {
    let (sim, vm, area) = busy(true);
    let at = addr(area).0;
    let tables = vm.stats().table_frames;
    NEXT.set(Some(Box::new(move || {
        // SAFETY: V1: nobody else uses it.
        unsafe { vm.free(area) }.unwrap();
        vm.purge();
        assert_eq!(vm.stats().table_frames, tables, "T1: somebody looks at what it holds");
        assert_eq!(vm.stats().waiting_pages, 600, "G3: nor has anything had grace");
    })));
    // What comes in between is done in the same section.
    assert_eq!(sim.unbounded(|| vm.hold_frame(at)), None, "it was freed meanwhile");
    assert!(NEXT.take().is_none(), "it was asked for its frames");
    sim.unbounded(|| vm.purge());
    assert!(vm.stats().table_frames < tables, "nobody looks any more");
    assert_eq!(vm.check(), Ok(()));
}

/// An NMI comes to CPU 0 in the middle of a look, and what it does discards there.
fn nothing_has_grace_by(nmi: fn(&'static Vmalloc<Busy>)) {
    let (sim, vm, area) = busy(false);
    let at = addr(area).0;
    let tables = vm.stats().table_frames;
    sim.set_context(Context::Atomic);
    let others = sim.clone();
    NEXT.set(Some(Box::new(move || {
        // SAFETY: V1: nobody else uses it.
        others.on(1, || unsafe { vm.free(area) }).unwrap();
        others.on(1, || vm.purge());
        nmi(vm);
        others.on(1, || vm.purge());
        assert_eq!(vm.stats().table_frames, tables, "T1: somebody looks at what it holds");
        assert_eq!(vm.stats().waiting_pages, 600, "G3: nor has anything had grace");
    })));
    assert_eq!(sim.unbounded(|| vm.hold_frame(at)), None, "it was freed meanwhile");
    assert!(NEXT.take().is_none(), "it was asked for its frames");
    // The kick is answered when the look is over.
    sim.unbounded(|| sim.on(1, || vm.purge()));
    assert_eq!(vm.stats().waiting_pages, 0, "M7: nobody asks again");
    vm.on_kick();
    sim.unbounded(|| sim.on(1, || vm.purge()));
    assert!(vm.stats().table_frames < tables, "nobody looks any more");
    assert_eq!(vm.check(), Ok(()));
}

#[test]
fn t1_a_kick_that_an_nmi_answers_in_the_middle_of_a_look_is_answered_after_it() {
    nothing_has_grace_by(|vm| vm.on_kick());
}

#[test]
fn t1_what_an_nmi_flushes_in_the_middle_of_a_look_has_no_grace_before_its_end() {
    nothing_has_grace_by(|vm| _ = vm.purge());
    nothing_has_grace_by(|vm| _ = vm.unmap_aliases());
    nothing_has_grace_by(|vm| _ = vm.tick());
}
