//! What hangs on the events of the machine: quotas of groups, tracepoints.

use crate::common::{GFP, PAGE, REGION, START, at, number};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use vmalloc::error::Shortage;
use vmalloc::machine::event::Event;
use vmalloc::machine::format::Prot;
use vmalloc::machine::{Context, Flush, Level, Machine, Pinned, Run};
use vmalloc::table::X86_64;
use vmalloc::units::{CpuSet, Node, PageRange, Pfn, VirtAddr};
use vmalloc::{AllocError, Config, Gfp, Vmalloc};
use vmalloc_kernel::{
    Charge, Errno, Error, Group, Kernel, OVER_QUOTA, Quotas, Tracepoint, Tracer, VmFlags, WithEvents,
};
use vmalloc_sim::{Rates, Sim};

type Hears = Box<dyn Fn(&Sim<X86_64>, Event) -> Result<(), i32> + Send + Sync>;
type Told = WithEvents<Sim<X86_64>, Hears>;

fn instance(hears: impl Fn(Event) -> Result<(), i32> + Send + Sync + 'static) -> Vmalloc<Told> {
    let sim: Sim<X86_64> = Sim::builder().rates(Rates::NEVER).build();
    let hears: Hears = Box::new(move |_, event| hears(event));
    let vm = Vmalloc::new(WithEvents::new(sim.clone(), hears));
    // SAFETY: N1: the tables are new; N2: nobody knows the instance.
    sim.unbounded(|| unsafe { vm.init(Config::region(REGION)) }).expect("memory for the bookkeeping");
    sim.online_all(|| vm.cpu_online());
    vm
}

/// An instance with quotas: the groups, and the number of the current task's.
fn with_quotas(room: usize) -> (Vmalloc<Told>, &'static [Group], Arc<AtomicUsize>) {
    let groups: &'static [Group] = Box::leak(Box::new([const { Group::unlimited() }; 3]));
    let table: Vec<Charge> = (0..room).map(|_| Charge::none()).collect();
    let quotas = Quotas::new(groups, table.leak());
    let current = Arc::new(AtomicUsize::new(0));
    let asked = current.clone();
    (instance(move |event| quotas.note(asked.load(SeqCst), &event)), groups, current)
}

fn drop_unbounded(vm: Vmalloc<Told>) {
    let sim = vm.machine().inner().clone();
    sim.unbounded(|| drop(vm));
}

#[test]
fn an_allocation_over_its_groups_quota_is_refused_by_name_and_nothing_is_charged() {
    let (vm, groups, current) = with_quotas(64);
    {
        let kernel = Kernel::new(&vm, vmalloc_kernel::Bare);
        // SAFETY: Y1: nobody uses it.
        let vfree = |area| unsafe { kernel.vfree(at(area)) }.unwrap();
        groups[1].set(Some(10));
        current.store(1, SeqCst);
        let first = kernel.vmalloc(6 * PAGE).map(number).unwrap();
        let areas: Vec<_> = vm.areas().collect();
        let refused = kernel.vmalloc(5 * PAGE).unwrap_err();
        assert_eq!(refused, Error::Alloc(AllocError::Refused(OVER_QUOTA)));
        assert_eq!((refused.errno(), Errno::EDQUOT as i32), (Errno::EDQUOT, OVER_QUOTA));
        assert_eq!((vm.areas().collect::<Vec<_>>(), groups[1].used(), groups[1].refused() > 0), (areas, 6, true));
        let second = kernel.vmalloc(4 * PAGE).map(number).unwrap();
        assert_eq!(groups[1].used(), 10);
        // The group of the task that frees does not matter.
        current.store(2, SeqCst);
        vfree(first);
        assert_eq!((groups[1].used(), groups[2].used()), (4, 0));
        vfree(second);
        assert_eq!(groups[1].used(), 0);
        let said = vm.machine().inner().take_log();
        assert!(said.iter().any(|(_, line)| line.contains("vmalloc error: size 20480, over the quota")), "{said:?}");
    }
    drop_unbounded(vm);
}

#[test]
fn a_group_without_a_quota_is_never_refused_and_nothing_is_counted() {
    let (vm, groups, current) = with_quotas(1);
    {
        let kernel = Kernel::new(&vm, vmalloc_kernel::Bare);
        groups[1].set(Some(0));
        for group in [0, 2, 77] {
            current.store(group, SeqCst);
            let areas: Vec<usize> = (0..5).map(|_| kernel.vmalloc(9 * PAGE).map(number).unwrap()).collect();
            // SAFETY: Y1: nobody uses them.
            areas.iter().for_each(|&area| unsafe { kernel.vfree(at(area)) }.unwrap());
        }
        assert!(groups.iter().all(|group| (group.used(), group.refused()) == (0, 0)));
    }
    drop_unbounded(vm);
}

#[test]
fn an_area_that_grows_is_charged_and_one_that_shrinks_gives_back() {
    let (vm, groups, current) = with_quotas(8);
    {
        let kernel = Kernel::new(&vm, vmalloc_kernel::Bare);
        groups[0].set(Some(8));
        current.store(0, SeqCst);
        let area = kernel.vmalloc(6 * PAGE).map(number).unwrap();
        // SAFETY: Y4.
        unsafe { kernel.vrealloc(at(area), 2 * PAGE, GFP) }.unwrap();
        assert_eq!(groups[0].used(), 2);
        // SAFETY: Y4.
        let grown = unsafe { kernel.vrealloc(at(area), 5 * PAGE, GFP) }.unwrap().map(number);
        assert_eq!((grown, groups[0].used()), (Some(area), 5));
        // SAFETY: Y4.
        assert!(unsafe { kernel.vrealloc(at(area), 9 * PAGE, GFP) }.is_err());
        assert_eq!(groups[0].used(), 5);
        // SAFETY: Y1: nobody uses it.
        unsafe { kernel.vfree(at(area)) }.unwrap();
        assert_eq!(groups[0].used(), 0);
    }
    drop_unbounded(vm);
}

#[test]
fn an_area_that_moves_is_charged_at_both_places_until_the_old_one_is_freed() {
    let (vm, groups, _current) = with_quotas(8);
    {
        let kernel = Kernel::new(&vm, vmalloc_kernel::Bare);
        groups[0].set(Some(103));
        let area = kernel.vmalloc(4 * PAGE).map(number).unwrap();
        let areas: Vec<_> = vm.areas().collect();
        // SAFETY: Y4.
        let grow = |pages: usize| unsafe { kernel.vrealloc(at(area), pages * PAGE, GFP) };
        assert_eq!(grow(100), Err(Error::Alloc(AllocError::Refused(OVER_QUOTA))), "104 pages at once");
        assert_eq!((vm.areas().collect::<Vec<_>>(), groups[0].used()), (areas, 4));
        groups[0].set(Some(104));
        let moved = grow(100).unwrap().map(number).unwrap();
        assert_ne!(moved, area);
        assert_eq!(groups[0].used(), 100);
        // SAFETY: Y1: nobody uses it.
        unsafe { kernel.vfree(at(moved)) }.unwrap();
        assert_eq!(groups[0].used(), 0);
    }
    drop_unbounded(vm);
}

#[test]
fn where_the_table_has_no_room_an_area_is_refused_and_frames_of_others_are_not_charged() {
    let (vm, groups, _current) = with_quotas(2);
    {
        let kernel = Kernel::new(&vm, vmalloc_kernel::Bare);
        groups[0].set(Some(1000));
        let areas = [1, 2].map(|pages| kernel.vmalloc(pages * PAGE).map(number).unwrap());
        assert!(kernel.vmalloc(PAGE).is_err());
        assert_eq!(groups[0].used(), 3);
        let reserved = kernel.get_vm_area(50 * PAGE, VmFlags::ALLOC).unwrap();
        assert_eq!(groups[0].used(), 3);
        // SAFETY: Y1: nobody uses them.
        unsafe {
            kernel.free_vm_area(&reserved).unwrap();
            areas.iter().for_each(|&area| kernel.vfree(at(area)).unwrap());
        }
        assert_eq!(groups[0].used(), 0);
    }
    drop_unbounded(vm);
}

#[test]
fn a_quota_serves_as_many_areas_as_its_table_has_places_again_and_again_until_it_is_taken_off() {
    let (vm, groups, _current) = with_quotas(8);
    {
        let kernel = Kernel::new(&vm, vmalloc_kernel::Bare);
        groups[0].set(Some(1000));
        for round in 0..3 {
            let areas: Vec<usize> = (0..8).map(|_| kernel.vmalloc(PAGE).map(number).unwrap()).collect();
            assert!(kernel.vmalloc(PAGE).is_err(), "round {round}: all places are taken");
            assert_eq!(groups[0].used(), 8);
            // SAFETY: Y1: nobody uses them.
            areas.iter().for_each(|&area| unsafe { kernel.vfree(at(area)) }.unwrap());
            assert_eq!(groups[0].used(), 0);
        }
        groups[0].set(Some(0));
        assert!(kernel.vmalloc(PAGE).is_err());
        groups[0].set(None);
        let areas: Vec<usize> = (0..20).map(|_| kernel.vmalloc(PAGE).map(number).unwrap()).collect();
        assert_eq!(groups[0].used(), 0, "nothing is counted any more");
        // SAFETY: Y1: nobody uses them.
        areas.iter().for_each(|&area| unsafe { kernel.vfree(at(area)) }.unwrap());
    }
    drop_unbounded(vm);
}

#[test]
fn two_claims_of_one_area_give_its_pages_back_once() {
    let groups = [const { Group::unlimited() }; 1];
    let table = [const { Charge::none() }; 4];
    let quotas = Quotas::new(&groups, &table);
    groups[0].set(Some(100));
    let caller = vmalloc::Caller::Return(0);
    let kind = vmalloc::Kind::Vmalloc;
    for (page, pages) in [(1, 10), (20, 7)] {
        quotas.note(0, &Event::Publish { start: VirtAddr(START + page * PAGE), pages, kind, caller }).unwrap();
    }
    for _ in 0..2 {
        quotas.note(0, &Event::Claim { start: VirtAddr(START + PAGE), pages: 10, freer: caller }).unwrap();
        assert_eq!(groups[0].used(), 7);
    }
}

#[test]
fn three_tracepoints_tell_makes_frees_and_purges_with_their_fields() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let (list, tracer) = (told.clone(), Tracer::new(REGION, 1));
    let vm = instance(move |event| {
        list.lock().unwrap().extend(tracer.tracepoint(&event));
        Ok(())
    });
    let since = || std::mem::take(&mut *told.lock().unwrap());
    let (vstart, vend) = (START, REGION.end - 1);
    let area = vm.alloc(vmalloc::Req::pages(3)).map(number).unwrap();
    let size = 4 * PAGE;
    assert_eq!(since(), [Tracepoint::AllocVmapArea { addr: area, size, align: PAGE, vstart, vend, failed: false }]);
    // SAFETY: V1: nobody uses it.
    unsafe { vm.free(std::ptr::NonNull::new(at(area).cast_mut()).unwrap()) }.unwrap();
    let nr_lazy_max = (32 << 20) / PAGE;
    assert_eq!(since(), [Tracepoint::FreeVmapAreaNoflush { va_start: area, nr_lazy: 3, nr_lazy_max }]);
    vm.purge();
    assert_eq!(since(), [Tracepoint::PurgeVmapAreaLazy { start: area, end: area + size, npurged: 1 }]);
    assert!(vm.alloc(vmalloc::Req::pages(1 << 20)).is_err());
    let failed =
        Tracepoint::AllocVmapArea { addr: 0, size: ((1 << 20) + 1) * PAGE, align: PAGE, vstart, vend, failed: true };
    let heard = since();
    assert!(heard.contains(&failed), "{heard:?}");
    // The next purge tells what was freed since the last.
    let areas = [2, 5].map(|pages| vm.alloc(vmalloc::Req::pages(pages)).unwrap());
    // SAFETY: V1: nobody uses them.
    areas.iter().for_each(|&area| unsafe { vm.free(area) }.unwrap());
    let lazy: Vec<usize> = since().iter().filter_map(nr_lazy_of).collect();
    assert_eq!(lazy, [2, 7]);
    vm.purge();
    let [low, high] = areas.map(number);
    let (start, end) = (low.min(high), (low + 3 * PAGE).max(high + 6 * PAGE));
    assert_eq!(since(), [Tracepoint::PurgeVmapAreaLazy { start, end, npurged: 2 }]);
    drop_unbounded(vm);
}

fn nr_lazy_of(tracepoint: &Tracepoint) -> Option<usize> {
    match *tracepoint {
        Tracepoint::FreeVmapAreaNoflush { nr_lazy, .. } => Some(nr_lazy),
        _ => None,
    }
}

#[test]
fn a_tracer_counts_what_waits_by_what_comes_back_and_its_limit_grows_with_the_bits_of_the_cpus() {
    let tracer = Tracer::new(REGION, 1);
    let caller = vmalloc::Caller::Return(0);
    let free = |page: usize, pages| {
        let start = VirtAddr(START + page * PAGE);
        nr_lazy_of(&tracer.tracepoint(&Event::Claim { start, pages, freer: caller }).unwrap()).unwrap()
    };
    assert_eq!([free(0, 5), free(8, 3)], [5, 8]);
    assert_eq!(tracer.tracepoint(&Event::Retire(0)), None, "a step in which nothing came back");
    let end = START + 12 * PAGE;
    let purge = Tracepoint::PurgeVmapAreaLazy { start: START, end, npurged: 2 };
    assert_eq!(tracer.tracepoint(&Event::Retire(5)), Some(purge));
    assert_eq!(free(20, 2), 5, "three wait still");
    tracer.tracepoint(&Event::Retire(100));
    assert_eq!(free(20, 2), 2, "pages that a resize gave up were never counted");
    let failure = Event::Failure { bytes: 5000, error: AllocError::ZeroSize };
    let said = tracer.tracepoint(&failure).unwrap().to_string();
    let expected =
        "alloc_vmap_area: va_start: 0 size=12288 align=4096 vstart=0xffffc90000000000 vend=0xffffc97fffffffff failed=1";
    assert_eq!(said, expected, "whole pages and a guard");
    let limits = [1, 2, 3, 4, 8, 255].map(|cpus| {
        let freed = Event::Claim { start: VirtAddr(START), pages: 1, freer: caller };
        match Tracer::new(REGION, cpus).tracepoint(&freed) {
            Some(Tracepoint::FreeVmapAreaNoflush { nr_lazy_max, .. }) => nr_lazy_max / ((32 << 20) / PAGE),
            other => panic!("{other:?}"),
        }
    });
    assert_eq!(limits, [1, 2, 2, 3, 4, 8]);
}

#[test]
fn tracepoints_are_printed_as_tools_read_them() {
    let alloc = Tracepoint::AllocVmapArea {
        addr: START,
        size: 20480,
        align: PAGE,
        vstart: START,
        vend: REGION.end - 1,
        failed: false,
    };
    assert_eq!(
        alloc.to_string(),
        "alloc_vmap_area: va_start: 18446683600570023936 size=20480 align=4096 vstart=0xffffc90000000000 vend=0xffffc97fffffffff failed=0"
    );
    let free = Tracepoint::FreeVmapAreaNoflush { va_start: START, nr_lazy: 5, nr_lazy_max: 65536 };
    assert_eq!(free.to_string(), "free_vmap_area_noflush: va_start=0xffffc90000000000 nr_lazy=5 nr_lazy_max=65536");
    let purge = Tracepoint::PurgeVmapAreaLazy { start: START, end: START + 0x5000, npurged: 1 };
    assert_eq!(purge.to_string(), "purge_vmap_area_lazy: start=0xffffc90000000000 end=0xffffc90000005000 num_purged=1");
}

/// A machine that writes down what it is asked beside the necessary, and answers as no other does.
struct Odd {
    sim: Sim<X86_64>,
    asked: Mutex<Vec<&'static str>>,
}

impl Odd {
    fn asked<R>(&self, what: &'static str, answer: R) -> R {
        self.asked.lock().unwrap().push(what);
        answer
    }
}

// SAFETY: nothing is mapped on it.
unsafe impl Machine for Odd {
    type Table = X86_64;
    type Frames = <Sim<X86_64> as Machine>::Frames;
    type Lock = <Sim<X86_64> as Machine>::Lock;
    const MIRRORED: bool = true;
    const THREADS: bool = true;
    const ALIASES: bool = false;

    fn frames(&self) -> &Self::Frames {
        self.asked("frames", self.sim.frames())
    }
    fn root(&self) -> Pfn {
        self.asked("root", Pfn(77))
    }
    fn virt(&self, f: Pfn) -> std::ptr::NonNull<u8> {
        self.asked("virt", std::ptr::NonNull::without_provenance((f.0 as usize + 1).try_into().expect("not 0")))
    }
    fn cpus(&self) -> u32 {
        self.asked("cpus", 5)
    }
    fn pin(&self) -> Pinned {
        self.asked("pin", self.sim.pin())
    }
    unsafe fn unpin(&self, was: Pinned) {
        self.asked("unpin", ());
        // SAFETY: the caller's promise.
        unsafe { self.sim.unpin(was) }
    }
    fn context(&self) -> Context {
        self.asked("context", Context::Softirq)
    }
    fn flush(&self, _what: Flush<'_>) {
        self.asked("flush", ())
    }
    fn kick(&self, _cpus: &CpuSet) {
        self.asked("kick", ())
    }
    fn levels(&self) -> u8 {
        self.asked("levels", 5)
    }
    fn page_limit(&self) -> usize {
        self.asked("page_limit", 1234)
    }
    fn is_nested(&self) -> bool {
        self.asked("is_nested", true)
    }
    fn busy(&self, was: Pinned) -> Pinned {
        self.asked("busy", Pinned { cpu: was.cpu + 3, ..was })
    }
    fn flush_everywhere(&self, _what: Flush<'_>) -> bool {
        self.asked("flush_everywhere", true)
    }
    fn mirror(&self, _run: Run) -> Result<(), i32> {
        self.asked("mirror", Err(6))
    }
    fn protect(&self, _pages: PageRange, _prot: Prot) -> Result<(), i32> {
        self.asked("protect", Err(7))
    }
    fn unmapped(&self, _pages: PageRange) {
        self.asked("unmapped", ())
    }
    fn sync(&self, _pages: PageRange) {
        self.asked("sync", ())
    }
    fn relax(&self) {
        self.asked("relax", ())
    }
    fn node_of(&self, cpu: u32) -> Node {
        self.asked("node_of", Node(cpu as u8 + 1))
    }
    fn zero(&self, _f: Pfn, _at: VirtAddr) {
        self.asked("zero", ())
    }
    fn exhausted(&self, _short: Shortage, context: Context, gfp: Gfp) -> bool {
        self.asked("exhausted", (context, gfp) == (Context::Task, Gfp::KERNEL))
    }
    fn clock_ns(&self) -> Option<u64> {
        self.asked("clock_ns", Some(8))
    }
    fn note(&self, event: Event) -> Result<(), i32> {
        self.asked("note", if event == Event::Retire(9) { Err(9) } else { Ok(()) })
    }
    fn log(&self, _level: Level, _line: std::fmt::Arguments<'_>) {
        self.asked("log", ())
    }
    fn symbol(&self, pc: usize, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.asked("symbol", write!(f, "odd+{pc}"))
    }
}

#[test]
fn a_machine_of_whose_events_somebody_hears_is_asked_everything_and_its_answers_are_handed_on() {
    let odd = Odd { sim: Sim::builder().rates(Rates::NEVER).build(), asked: Mutex::default() };
    let heard = AtomicUsize::new(0);
    let told = WithEvents::new(odd, |_: &Odd, _| {
        heard.fetch_add(1, SeqCst);
        Ok(())
    });
    fn consts<M: Machine>(_: &M) -> [bool; 3] {
        [M::MIRRORED, M::THREADS, M::ALIASES]
    }
    assert_eq!(consts(&told), [true, true, false]);
    let pages = PageRange::new(VirtAddr(START), 2);
    assert!(std::ptr::eq(told.frames(), told.inner().sim.frames()));
    assert_eq!(
        (told.root(), told.virt(Pfn(3)), told.cpus()),
        (Pfn(77), std::ptr::NonNull::without_provenance(4.try_into().unwrap()), 5)
    );
    let was = told.pin();
    assert_eq!(told.busy(Pinned { cpu: was.cpu, saved: was.saved }).cpu, was.cpu + 3);
    // SAFETY: our own pin, the youngest.
    unsafe { told.unpin(was) };
    assert_eq!((told.context(), told.levels(), told.page_limit()), (Context::Softirq, 5, 1234));
    told.flush(Flush::Ranges(&[pages]));
    told.kick(&CpuSet::default());
    assert!(told.is_nested() && told.flush_everywhere(Flush::Ranges(&[pages])));
    let run = Run { pages, first: Pfn(3), prot: Prot::RW };
    assert_eq!((told.mirror(run), told.protect(pages, Prot::RO)), (Err(6), Err(7)));
    told.unmapped(pages);
    told.sync(pages);
    told.relax();
    told.zero(Pfn(3), VirtAddr(START));
    assert_eq!(
        (told.node_of(2), told.exhausted(Shortage::Frames(1), Context::Task, Gfp::KERNEL), told.clock_ns()),
        (Node(3), true, Some(8))
    );
    assert_eq!((told.note(Event::Purge(1)), heard.load(SeqCst)), (Ok(()), 1));
    assert_eq!((told.note(Event::Retire(9)), heard.load(SeqCst)), (Err(9), 1), "what the machine refuses nobody hears");
    told.log(Level::Warn, format_args!("a line"));
    assert_eq!(std::fmt::from_fn(|f| told.symbol(4, f)).to_string(), "odd+4");
    let asked = "frames root virt cpus pin busy unpin context levels page_limit flush kick is_nested flush_everywhere \
                 mirror protect unmapped sync relax zero node_of exhausted clock_ns note note log symbol";
    assert_eq!(told.inner().asked.lock().unwrap().join(" "), asked.split_whitespace().collect::<Vec<_>>().join(" "));
}

#[test]
fn what_a_later_hearer_refuses_an_earlier_one_hears_the_end_of() {
    let groups: &'static [Group] = Box::leak(Box::new([const { Group::unlimited() }; 1]));
    let table: Vec<Charge> = (0..8).map(|_| Charge::none()).collect();
    let quotas = Quotas::new(groups, table.leak());
    groups[0].set(Some(1000));
    let sim: Sim<X86_64> = Sim::builder().rates(Rates::NEVER).build();
    let refuses = Arc::new(AtomicUsize::new(0));
    let asked = refuses.clone();
    let inner = WithEvents::new(sim.clone(), move |_: &Sim<X86_64>, event| quotas.note(0, &event));
    let vm = Vmalloc::new(WithEvents::new(inner, move |_: &_, event| match event {
        Event::Publish { .. } | Event::Resize { .. } if asked.load(SeqCst) != 0 => Err(5),
        _ => Ok(()),
    }));
    // SAFETY: N1: the tables are new; N2: nobody knows the instance.
    sim.unbounded(|| unsafe { vm.init(Config::region(REGION)) }).expect("memory for the bookkeeping");
    sim.online_all(|| vm.cpu_online());
    let area = vm.alloc(vmalloc::Req::pages(300)).unwrap();
    assert_eq!(groups[0].used(), 300);
    refuses.store(1, SeqCst);
    assert_eq!(vm.alloc(vmalloc::Req::pages(3)), Err(AllocError::Refused(5)));
    assert_eq!(groups[0].used(), 300, "an area that was refused");
    // SAFETY: V1: nobody uses it.
    let grown = unsafe { vm.grow(area, vmalloc::Req::pages(303)) };
    assert_eq!(grown, Err(AllocError::Refused(5)));
    assert_eq!(groups[0].used(), 300, "pages that were refused");
    refuses.store(0, SeqCst);
    // SAFETY: V1: nobody uses it.
    unsafe { vm.free(area) }.unwrap();
    assert_eq!(groups[0].used(), 0);
    sim.unbounded(|| drop(vm));
}
