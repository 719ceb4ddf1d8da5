//! A 32-bit machine with PAE: three levels, and memory above 4 GiB, which only entries of 64 bits
//! can name.

use crate::common::{PAGE, number};
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, Ordering::SeqCst};
use vmalloc::area::RegionId;
use vmalloc::machine::format::Entry;
use vmalloc::table::X86Pae;
use vmalloc::units::{Node, Pfn, VirtAddr};
use vmalloc::{Config, Gfp, Placement};
use vmalloc_kernel::kmap::{KmapLocal, LAST_PKMAP_PAE, Pkmap, Place};
use vmalloc_kernel::layout::{self, Layout};
use vmalloc_kernel::{Host, Kern, Kernel, Level, Pgprot};
use vmalloc_sim::{Bank, Booted, Rates, Sim};

/// The first frame above 4 GiB.
const ABOVE: Pfn = Pfn(1 << 20);
const HIGH_FRAMES: u64 = 8 << 20 >> 12;
/// The slots of CPUs begin behind the common ones.
const FIRST: usize = 129;

/// Keeps the lines of the log.
#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl Host for Log {
    fn printk(&self, _: Kern, line: fmt::Arguments<'_>) -> bool {
        self.0.lock().unwrap().push(line.to_string());
        true
    }
}

type Tested<'v> = Kernel<'v, Sim<X86Pae>, Log>;

/// 64 MiB of low memory, 8 MiB above 4 GiB, four CPUs with a root each.
struct Machine {
    sim: Sim<X86Pae>,
    booted: Booted<X86Pae>,
    layout: Layout,
}

fn boot() -> Machine {
    let layout = layout::X86_32 { pae: true, ..layout::X86_32::new(5 << 30) }.layout().expect("a layout");
    let part = |name| layout.part(name).map(|part| part.start as usize..part.end as usize).expect(name);
    let below = |name| part(name).start - PAGE..part(name).end;
    let config = Config::region(part("vmalloc")).add_region(below("pkmap")).add_region(below("fixmap"));
    let low = Bank { first: Pfn(16), frames: 64 << 20 >> 12, node: Some(Node(0)) };
    let high = Bank { first: ABOVE, frames: HIGH_FRAMES, node: Some(Node(0)) };
    let machine = Sim::builder().cpus(4).roots(4).rates(Rates::NEVER).bank(low).bank(high).highmem(ABOVE);
    let sim = machine.build();
    let booted = Booted::new(sim.clone(), config.placement(Placement::Lowest)).expect("memory for the bookkeeping");
    Machine { sim, booted, layout }
}

impl Machine {
    fn kernel(&self) -> Tested<'_> {
        Kernel::new(&self.booted, Log::default())
    }

    fn place(&self, region: u8, at: u64) -> Place {
        Place { region: RegionId(region), at: at as usize, high_from: ABOVE }
    }

    fn frames(&self, n: usize) -> Vec<Pfn> {
        let frame = |_| self.booted.alloc_frame(Gfp::KERNEL | Gfp::HIGHMEM, None).expect("a frame");
        let frames: Vec<_> = (0..n).map(frame).collect();
        assert!(frames.iter().all(|&frame| frame >= ABOVE), "high memory first");
        frames
    }

    fn end(self) {
        assert_eq!(self.booted.check(), Ok(()));
        self.sim.audit();
        drop(self.booted);
        self.sim.assert_no_leaks();
    }
}

#[test]
fn with_pae_vmalloc_is_of_memory_above_4_gib_and_every_root_reaches_it() {
    let machine = boot();
    let kernel = machine.kernel();
    // The array of 2.6 lies in the slab.
    let pages = 500;
    let areas: Vec<usize> = [
        kernel.vmalloc(pages * PAGE).map(number),
        kernel.v2_6().vmalloc(pages * PAGE).map(number),
        kernel.v4().vmalloc(pages * PAGE).map(number),
    ]
    .into_iter()
    .map(|at| at.expect("there is room"))
    .collect();
    for &at in &areas[..2] {
        let frames: Vec<Pfn> = (0..pages).map(|n| machine.booted.frame_at(at + n * PAGE).expect("a page")).collect();
        assert!(frames.iter().all(|&frame| frame >= ABOVE), "no low memory while there is high memory");
    }
    for (cpu, &at) in areas.iter().enumerate() {
        for page in (0..pages).map(|n| VirtAddr(at + n * PAGE)) {
            machine.sim.store(cpu as u32, page, page.0 as u64).expect("a live page");
            assert_eq!(machine.sim.load(3, page), Ok(page.0 as u64), "by another root");
        }
    }
    for &at in &areas {
        // SAFETY: Y1: simulated memory is used through the simulator, which judges each use.
        unsafe { kernel.vfree(NonNull::<u8>::with_exposed_provenance(at.try_into().unwrap()).as_ptr()) }.unwrap();
    }
    machine.booted.purge();
    areas.iter().for_each(|&at| machine.sim.assert_faults(2, VirtAddr(at)));
    assert_eq!(*kernel.host().0.lock().unwrap(), Vec::<String>::new());
    drop(kernel);
    machine.end();
}

#[test]
fn with_pae_512_entries_of_pkmap_and_kmap_local_reach_frames_above_4_gib() {
    let machine = boot();
    let kernel = machine.kernel();
    let (pkmap_at, fixmap_at) = (machine.layout.part("pkmap").unwrap(), machine.layout.part("fixmap").unwrap());
    assert_eq!(pkmap_at.bytes() as usize, LAST_PKMAP_PAE * PAGE);
    let pkmap = Pkmap::new(&kernel, machine.place(1, pkmap_at.start), LAST_PKMAP_PAE).expect("a pkmap");
    let local = KmapLocal::new(&kernel, machine.place(2, fixmap_at.end), FIRST).expect("slots");
    let frames = machine.frames(LAST_PKMAP_PAE + 1);
    let (pinned, others) = frames.split_first().unwrap();
    // SAFETY: Y3: the frames are held.
    let first = unsafe { pkmap.kmap(*pinned) }.unwrap();
    machine.sim.store(0, VirtAddr(number(first)), 77).unwrap();
    for (n, &frame) in others.iter().enumerate() {
        // SAFETY: as above, and nobody uses it any more.
        let at = unsafe { pkmap.kmap(frame) }.unwrap();
        machine.sim.store(0, VirtAddr(number(at)), n as u64).unwrap();
        // SAFETY: Y1: nobody uses it any more.
        unsafe { pkmap.kunmap(frame) }.unwrap();
    }
    assert_eq!(machine.sim.load(1, VirtAddr(number(first))), Ok(77), "it was mapped over the wrap");
    // SAFETY: Y3, J13: the frame is held, and CPU 0 runs.
    let at = unsafe { local.kmap_local_page(*pinned, Pgprot::KERNEL) }.unwrap();
    assert_eq!(machine.sim.load(0, VirtAddr(number(at))), Ok(77), "the same frame");
    // SAFETY: Y1.
    unsafe { local.kunmap_local(at) }.unwrap();
    // SAFETY: Y1.
    unsafe { pkmap.kunmap(*pinned) }.unwrap();
    pkmap.flush_unused().unwrap();
    drop((pkmap, local));
    // SAFETY: P3: nothing maps them.
    frames.iter().for_each(|&frame| unsafe { machine.booted.free_frame(frame) });
    drop(kernel);
    machine.end();
}

#[test]
fn with_pae_the_walk_has_pgd_pmd_and_pte_and_the_others_are_folded() {
    let machine = boot();
    let kernel = machine.kernel();
    let at = kernel.vmalloc(PAGE).map(number).unwrap();
    let frame = machine.booted.frame_at(at).unwrap();
    // SAFETY: Y7: the area lives.
    let path = unsafe { kernel.walk(at) };
    let tables: Vec<_> = path.down().map(|entry| (entry.level.name(), entry.table)).collect();
    assert_eq!(tables, [("pgd", 3), ("p4d", 3), ("pud", 3), ("pmd", 2), ("pte", 1)]);
    let last = path.entry(Level::Pte).unwrap();
    assert!(matches!(last.says(), Entry::Leaf { frame: found, .. } if found == frame && frame >= ABOVE));
    // SAFETY: Y1.
    unsafe { kernel.vfree(NonNull::<u8>::with_exposed_provenance(at.try_into().unwrap()).as_ptr()) }.unwrap();
    drop((path, kernel));
    machine.end();
}

type Slots<'k> = KmapLocal<'k, Sim<X86Pae>, Shower>;

/// Shows frames by kmap_local, once it has slots.
struct Shower {
    sim: Sim<X86Pae>,
    slots: AtomicPtr<Slots<'static>>,
    /// What is shown, the newest last.
    shown: Mutex<Vec<usize>>,
}

impl Host for Shower {
    fn kmap(&self, frame: Pfn) -> Option<NonNull<u8>> {
        // SAFETY: the test takes them back before they end.
        let slots = unsafe { self.slots.load(SeqCst).as_ref() }?;
        // SAFETY: Y3, J13: the subsystem holds the frame, and CPU 0 runs.
        let at = unsafe { slots.kmap_local_page(frame, Pgprot::KERNEL) }.ok()?;
        self.shown.lock().unwrap().push(number(at));
        if frame < ABOVE { Some(at) } else { self.sim.reach(0, VirtAddr(number(at))).ok() }
    }

    fn kunmap(&self, _: NonNull<u8>) {
        let (at, slots) = (self.shown.lock().unwrap().pop().expect("it is shown"), self.slots.load(SeqCst));
        // SAFETY: as above; Y1: nobody uses it any more.
        unsafe { (*slots).kunmap_local(NonNull::with_exposed_provenance(at.try_into().unwrap())) }.unwrap();
    }
}

#[test]
fn vread_reads_memory_without_a_direct_mapping_by_kmap_local_and_leaves_no_slot_in_use() {
    let machine = boot();
    let (sim, slots, shown) = (machine.sim.clone(), AtomicPtr::new(ptr::null_mut()), Mutex::default());
    let kernel = Kernel::new(&machine.booted, Shower { sim, slots, shown });
    let at = kernel.vmalloc(3 * PAGE).map(number).unwrap();
    assert!(machine.booted.frame_at(at + PAGE).is_some_and(|frame| frame >= ABOVE));
    let text: Vec<u8> = (0..2 * PAGE).map(|n| (n % 251) as u8).collect();
    machine.sim.write_bytes(0, VirtAddr(at + 100), &text).unwrap();
    let mut read = vec![0xff; 2 * PAGE];
    assert!(kernel.vread(&mut read, at + 100).is_err(), "nothing shows the frames");
    let place = machine.place(2, machine.layout.part("fixmap").unwrap().end);
    let local = KmapLocal::new(&kernel, place, FIRST).expect("slots");
    kernel.host().slots.store((&raw const local).cast_mut().cast(), SeqCst);
    // More pages than there are slots.
    for _ in 0..20 {
        read.fill(0xff);
        assert_eq!((kernel.vread(&mut read, at + 100), read == text), (Ok(2 * PAGE), true));
    }
    assert!(kernel.host().shown.lock().unwrap().is_empty());
    kernel.host().slots.store(ptr::null_mut(), SeqCst);
    drop(local);
    // SAFETY: Y1: simulated memory is used through the simulator, which judges each use.
    unsafe { kernel.vfree(NonNull::<u8>::with_exposed_provenance(at.try_into().unwrap()).as_ptr()) }.unwrap();
    drop(kernel);
    machine.end();
}
