//! Pages at fixed places, on a 32-bit machine whose memory is not all in the direct map.

use crate::common::{PAGE, number};
use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use vmalloc::area::RegionId;
use vmalloc::error::AllocError;
use vmalloc::machine::{Context, Machine};
use vmalloc::table::X86_32;
use vmalloc::units::{Pfn, VirtAddr};
use vmalloc::{Config, Gfp, Placement};
use vmalloc_kernel::kmap::{
    Fixmap, KM_MAX_IDX, KmapLocal, LAST_PKMAP, LAST_PKMAP_PAE, Pkmap, Place, fix_to_virt, virt_to_fix,
};
use vmalloc_kernel::layout::{self, Layout};
use vmalloc_kernel::{Errno, Error, Host, Kern, Kernel, Pgprot};
use vmalloc_sim::{Booted, Rates, Sim};

/// The slots of CPUs begin behind the common ones.
const FIRST: usize = 129;

/// Writes down what it hears.
#[derive(Default)]
pub(crate) struct Task {
    lines: Mutex<Vec<(Kern, String)>>,
    waits: AtomicU32,
    wakes: AtomicU32,
    pinned: AtomicI32,
    on_wait: Mutex<Option<Box<dyn Fn() + Send>>>,
}

impl Host for Task {
    fn printk(&self, level: Kern, line: fmt::Arguments<'_>) -> bool {
        self.lines.lock().unwrap().push((level, line.to_string()));
        true
    }
    fn pkmap_wait(&self) {
        assert!(self.waits.fetch_add(1, SeqCst) < 10, "it sleeps for ever");
        if let Some(act) = &*self.on_wait.lock().unwrap() {
            act();
        }
    }
    fn pkmap_wake(&self) {
        self.wakes.fetch_add(1, SeqCst);
    }
    fn migrate_disable(&self) {
        self.pinned.fetch_add(1, SeqCst);
    }
    fn migrate_enable(&self) {
        self.pinned.fetch_sub(1, SeqCst);
    }
}

pub(crate) type Tested<'v> = Kernel<'v, Sim<X86_32>, Task>;

/// 64 MiB of low memory, 32 MiB of high memory, and the regions of the layout.
pub(crate) struct Rig {
    pub(crate) sim: Sim<X86_32>,
    pub(crate) booted: Booted<X86_32>,
    layout: Layout,
    high_from: Pfn,
}

fn rig(cpus: u32) -> Rig {
    rig_with(cpus, Rates::NEVER)
}

pub(crate) fn rig_with(cpus: u32, rates: Rates) -> Rig {
    let machine = layout::X86_32 { highmem: Some(32 << 20), vmalloc: Some(64 << 20), ..layout::X86_32::new(96 << 20) };
    let layout = machine.layout().expect("a layout");
    let high_from = Pfn(layout.memory.expect("narrow").low >> 12);
    let part = |name| layout.part(name).map(|part| part.start as usize..part.end as usize).expect(name);
    // The vmalloc area is as large as addresses are free; a part of it will do.
    let vmalloc = part("vmalloc").start..part("vmalloc").start + (64 << 20);
    let below = |name| part(name).start - PAGE..part(name).end;
    let config = Config::region(vmalloc).add_region(below("pkmap")).add_region(below("fixmap"));
    let sim = Sim::builder().cpus(cpus).rates(rates).node(96 << 20).highmem(high_from).build();
    let booted = Booted::new(sim.clone(), config.placement(Placement::Lowest)).expect("memory for the bookkeeping");
    Rig { sim, booted, layout, high_from }
}

impl Rig {
    pub(crate) fn kernel(&self) -> Tested<'_> {
        Kernel::new(&self.booted, Task::default())
    }

    fn place(&self, region: u8, at: u64) -> Place {
        Place { region: RegionId(region), at: at as usize, high_from: self.high_from }
    }

    pub(crate) fn pkmap<'k>(&self, kernel: &'k Tested<'k>, entries: usize) -> Pkmap<'k, Sim<X86_32>, Task> {
        Pkmap::new(kernel, self.place(1, self.layout.part("pkmap").unwrap().start), entries).expect("a pkmap")
    }

    fn fixmap(&self) -> Place {
        self.place(2, self.layout.part("fixmap").unwrap().end)
    }

    fn local<'k>(&self, kernel: &'k Tested<'k>) -> KmapLocal<'k, Sim<X86_32>, Task> {
        KmapLocal::new(kernel, self.fixmap(), FIRST).expect("slots")
    }

    /// `n` frames without a direct mapping.
    pub(crate) fn high(&self, n: usize) -> Vec<Pfn> {
        let frame = |_| self.booted.alloc_frame(Gfp::KERNEL | Gfp::HIGHMEM, None).expect("a frame");
        let frames: Vec<_> = (0..n).map(frame).collect();
        assert!(frames.iter().all(|&frame| frame >= self.high_from), "high memory first");
        frames
    }

    pub(crate) fn give(&self, frames: &[Pfn]) {
        // SAFETY: P3: tests give up what they hold.
        frames.iter().for_each(|&frame| unsafe { self.booted.free_frame(frame) });
    }

    pub(crate) fn store(&self, at: NonNull<u8>, value: u64) {
        self.sim.store(self.sim.cpu(), VirtAddr(number(at)), value).expect("it is mapped");
    }

    pub(crate) fn load(&self, at: NonNull<u8>) -> u64 {
        self.sim.load(self.sim.cpu(), VirtAddr(number(at))).expect("it is mapped")
    }

    /// Nothing may remain.
    pub(crate) fn end(self) {
        assert_eq!(self.booted.check(), Ok(()));
        self.sim.audit();
        drop(self.booted);
        self.sim.assert_no_leaks();
    }
}

pub(crate) fn kmap(pkmap: &Pkmap<'_, Sim<X86_32>, Task>, frame: Pfn) -> Result<NonNull<u8>, Error> {
    // SAFETY: Y3: tests hold their frames.
    unsafe { pkmap.kmap(frame) }
}

pub(crate) fn kunmap(pkmap: &Pkmap<'_, Sim<X86_32>, Task>, frame: Pfn) -> Result<(), Error> {
    // SAFETY: Y1: simulated memory is used through the simulator, which judges each use.
    unsafe { pkmap.kunmap(frame) }
}

fn push(local: &KmapLocal<'_, Sim<X86_32>, Task>, frame: Pfn) -> Result<NonNull<u8>, Error> {
    // SAFETY: Y3, J13: tests hold their frames, and say which CPU runs.
    unsafe { local.kmap_local_page(frame, Pgprot::KERNEL) }
}

fn pop(local: &KmapLocal<'_, Sim<X86_32>, Task>, at: NonNull<u8>) -> Result<(), Error> {
    // SAFETY: Y1, as above.
    unsafe { local.kunmap_local(at) }
}

pub(crate) fn counts(pkmap: &Pkmap<'_, Sim<X86_32>, Task>, entries: usize) -> Vec<u32> {
    (0..entries).map(|entry| pkmap.count(entry).expect("an entry")).collect()
}

#[test]
fn a_fixmap_slot_lies_so_many_pages_below_fixaddr_top() {
    let rig = rig(2);
    let kernel = rig.kernel();
    let place = rig.fixmap();
    assert_eq!([1, 2, 128].map(|slot| fix_to_virt(place.at, slot)), [0xffff_e000, 0xffff_d000, 0xfff7_f000]);
    assert!((1..=256).all(|slot| virt_to_fix(place.at, fix_to_virt(place.at, slot) + 5) == slot));
    assert_eq!(fix_to_virt(place.at, 128 + 16 * 8) as u64, rig.layout.part("fixmap").unwrap().start);
    let fixmap = Fixmap::new(&kernel, place, 128).unwrap();
    let frames = rig.high(2);
    // SAFETY: Y3: the frames are held.
    let set = |slot, frame| unsafe { fixmap.set(slot, frame, Pgprot::KERNEL) };
    // SAFETY: Y1: nobody uses the slot.
    let clear = |slot| unsafe { fixmap.clear(slot) };
    let at = set(7, frames[0]).unwrap();
    assert_eq!((number(at), fixmap.address(7)), (0xffff_8000, Ok(0xffff_8000)));
    rig.store(at, 77);
    assert_eq!(rig.sim.load(1, VirtAddr(0xffff_8000)), Ok(77), "of all CPUs");
    assert_eq!(set(7, frames[1]), Err(Error::Alloc(AllocError::InUse(VirtAddr(0xffff_8000)))));
    assert_eq!(
        (rig.load(at), set(0, frames[1]), set(129, frames[1])),
        (77, Err(Error::BadArgument(0)), Err(Error::BadArgument(129)))
    );
    assert_eq!((clear(7), clear(7)), (Ok(true), Ok(false)));
    rig.sim.assert_faults(1, VirtAddr(0xffff_8000));
    assert_eq!(number(set(7, frames[1]).unwrap()), 0xffff_8000);
    assert_ne!(rig.load(at), 77, "another frame");
    clear(7).unwrap();
    assert_eq!(set(128, frames[1]).map(number), Ok(0xfff7_f000), "the last slot");
    clear(128).unwrap();
    drop(fixmap);
    drop(kernel);
    rig.give(&frames);
    rig.end();
}

#[test]
fn kmap_of_a_low_frame_is_its_address_in_the_direct_mapping() {
    let rig = rig(1);
    let kernel = rig.kernel();
    let (pkmap, local) = (rig.pkmap(&kernel, LAST_PKMAP), rig.local(&kernel));
    let low = rig.booted.alloc_frame(Gfp::KERNEL, None).unwrap();
    let direct = rig.sim.virt(low);
    rig.sim.set_context(Context::HardIrq);
    assert_eq!((kmap(&pkmap, low), pkmap.page_address(low), push(&local, low)), (Ok(direct), Some(direct), Ok(direct)));
    assert_eq!((kunmap(&pkmap, low), pop(&local, direct)), (Ok(()), Ok(())));
    rig.sim.set_context(Context::Task);
    assert!(counts(&pkmap, LAST_PKMAP).iter().all(|&count| count == 0), "no entry");
    assert_eq!((local.depth(), kernel.host().pinned.load(SeqCst)), (0, 0));
    drop((pkmap, local));
    drop(kernel);
    rig.give(&[low]);
    rig.end();
}

#[test]
fn a_high_frame_has_one_entry_whose_count_is_its_users_and_one() {
    let rig = rig(2);
    let kernel = rig.kernel();
    let pkmap = rig.pkmap(&kernel, LAST_PKMAP);
    let frames = rig.high(2);
    let at = kmap(&pkmap, frames[0]).unwrap();
    assert_eq!((number(at), pkmap.count(0)), (0xff40_0000, Some(2)));
    rig.store(at, 5);
    assert_eq!((kmap(&pkmap, frames[0]), pkmap.count(0)), (Ok(at), Some(3)));
    let other = kmap(&pkmap, frames[1]).unwrap();
    assert_eq!((number(other), pkmap.count(1)), (0xff40_1000, Some(2)), "another frame, another entry");
    rig.store(other, 6);
    assert_eq!((rig.load(at), rig.sim.load(1, VirtAddr(number(at)))), (5, Ok(5)));
    assert_eq!((pkmap.page_address(frames[0]), pkmap.page_address(Pfn(rig.high_from.0 + 8000))), (Some(at), None));
    for left in [2, 1] {
        assert_eq!((kunmap(&pkmap, frames[0]), pkmap.count(0)), (Ok(()), Some(left)));
    }
    let wakes = kernel.host().wakes.load(SeqCst);
    kunmap(&pkmap, frames[1]).unwrap();
    assert_eq!(kernel.host().wakes.load(SeqCst), wakes + 1, "an entry has no user any more");
    drop(pkmap);
    drop(kernel);
    rig.give(&frames);
    rig.end();
}

#[test]
fn an_unused_entry_stays_mapped_and_serves_its_frame_again_without_a_flush() {
    let rig = rig(1);
    let kernel = rig.kernel();
    let pkmap = rig.pkmap(&kernel, LAST_PKMAP);
    let frames = rig.high(1);
    let at = kmap(&pkmap, frames[0]).unwrap();
    rig.store(at, 9);
    let before = rig.sim.counters().flushes;
    kunmap(&pkmap, frames[0]).unwrap();
    assert_eq!((pkmap.count(0), rig.load(at)), (Some(1), 9), "still mapped");
    assert_eq!((kmap(&pkmap, frames[0]), pkmap.count(0)), (Ok(at), Some(2)));
    assert_eq!(rig.sim.counters().flushes, before);
    kunmap(&pkmap, frames[0]).unwrap();
    pkmap.flush_unused().unwrap();
    assert_eq!((pkmap.count(0), rig.sim.counters().flushes), (Some(0), before + 1));
    rig.sim.assert_faults(0, VirtAddr(number(at)));
    drop(pkmap);
    drop(kernel);
    rig.give(&frames);
    rig.end();
}

/// Maps one frame after the other, each for a moment, through `entries` entries and three wraps.
fn wraps(entries: usize) {
    let rig = rig(1);
    let kernel = rig.kernel();
    let pkmap = rig.pkmap(&kernel, entries);
    let frames = rig.high(3 * entries + 2);
    let used = kmap(&pkmap, frames[0]).unwrap();
    rig.store(used, 1234);
    let flushes = || rig.sim.counters().flushes;
    let before = flushes();
    let mut wrapped = 0;
    for &frame in &frames[1..] {
        let at = kmap(&pkmap, frame).unwrap();
        rig.store(at, frame.0);
        // The entry in use is left out by each search.
        let slot = (number(at) - 0xff40_0000) / PAGE;
        assert_ne!(slot, 0);
        wrapped += u64::from(slot == 1 && frame != frames[1]);
        assert_eq!(flushes() - before, wrapped, "one flush a wrap, at {frame:?}");
        if slot == 1 && wrapped > 0 {
            let counts = counts(&pkmap, entries);
            assert_eq!((counts[..2].to_vec(), counts[2..].iter().sum::<u32>()), (vec![2, 2], 0), "all unused ones");
            rig.sim.assert_faults(0, VirtAddr(0xff40_2000));
        }
        kunmap(&pkmap, frame).unwrap();
    }
    assert_eq!((wrapped, rig.load(used)), (3, 1234), "what is used stays");
    drop(pkmap);
    drop(kernel);
    rig.give(&frames);
    rig.end();
}

#[test]
fn at_each_wrap_all_unused_entries_become_clean_with_one_flush() {
    wraps(LAST_PKMAP);
}

#[test]
fn with_pae_the_pkmap_wraps_after_512_entries() {
    assert_eq!(LAST_PKMAP_PAE as u32, layout::X86_32 { pae: true, ..layout::X86_32::new(1 << 30) }.pkmap_entries());
    wraps(LAST_PKMAP_PAE);
}

/// The address of a pkmap, for a hook that outlives no test.
struct Shared(*const Pkmap<'static, Sim<X86_32>, Task>, Pfn);
// SAFETY: the simulator's CPUs are one thread.
unsafe impl Send for Shared {}

impl Shared {
    fn kunmap(&self) {
        // SAFETY: the test takes the hook off before the pkmap goes.
        kunmap(unsafe { &*self.0 }, self.1).expect("it is used");
    }
}

#[test]
fn while_all_entries_are_used_kmap_sleeps_until_one_is_not() {
    let rig = rig(1);
    let kernel = rig.kernel();
    let pkmap = rig.pkmap(&kernel, 8);
    let frames = rig.high(10);
    for &frame in &frames[..8] {
        let at = kmap(&pkmap, frame).unwrap();
        rig.store(at, frame.0);
    }
    assert_eq!(kernel.host().waits.load(SeqCst), 0, "as long as there are clean ones nobody sleeps");
    let shared = Shared((&raw const pkmap).cast(), frames[3]);
    let turns = AtomicU32::new(0);
    *kernel.host().on_wait.lock().unwrap() = Some(Box::new(move || {
        if turns.fetch_add(1, SeqCst) == 2 {
            shared.kunmap();
        }
    }));
    let at = kmap(&pkmap, frames[8]).unwrap();
    assert_eq!((number(at), kernel.host().waits.load(SeqCst)), (0xff40_3000, 3), "the one that was freed");
    rig.store(at, 1);
    assert!((0..8).filter(|&entry| entry != 3).all(|entry| {
        let at = NonNull::without_provenance((0xff40_0000 + entry * PAGE).try_into().unwrap());
        rig.load(at) == frames[entry].0
    }));
    *kernel.host().on_wait.lock().unwrap() = None;
    rig.sim.set_context(Context::Atomic);
    assert_eq!(kmap(&pkmap, frames[9]), Err(Error::WrongContext(Context::Atomic)), "who may not sleep");
    rig.sim.set_context(Context::Task);
    drop(pkmap);
    drop(kernel);
    rig.give(&frames);
    rig.end();
}

#[test]
fn a_frame_that_is_given_up_after_kunmap_is_not_reused_before_its_entry_is_flushed() {
    let rig = rig(2);
    let kernel = rig.kernel();
    let pkmap = rig.pkmap(&kernel, LAST_PKMAP);
    let frames = rig.high(1);
    let at = kmap(&pkmap, frames[0]).unwrap();
    rig.store(at, 9);
    assert_eq!(rig.sim.load(1, VirtAddr(number(at))), Ok(9));
    kunmap(&pkmap, frames[0]).unwrap();
    rig.give(&frames);
    let all = |n| std::iter::from_fn(|| rig.booted.alloc_frame(Gfp::KERNEL | Gfp::HIGHMEM, None).ok()).take(n);
    let taken: Vec<_> = all(8000).collect();
    assert!(!taken.contains(&frames[0]), "its entry is mapped");
    rig.give(&taken);
    pkmap.flush_unused().unwrap();
    rig.booted.purge();
    let taken: Vec<_> = all(8192).collect();
    assert!(taken.contains(&frames[0]), "it came back");
    rig.give(&taken);
    drop(pkmap);
    drop(kernel);
    rig.end();
}

#[test]
fn what_nobody_has_mapped_and_what_no_entry_can_name_is_refused_and_changes_nothing() {
    let rig = rig(1);
    let kernel = rig.kernel();
    let pkmap = rig.pkmap(&kernel, 16);
    let frames = rig.high(2);
    kmap(&pkmap, frames[0]).unwrap();
    kunmap(&pkmap, frames[0]).unwrap();
    let before = counts(&pkmap, 16);
    for frame in frames.iter().copied() {
        assert_eq!(kunmap(&pkmap, frame), Err(Error::NotMapped(frame)), "its users are none");
    }
    let beyond = Pfn(1 << 20);
    assert_eq!(kmap(&pkmap, beyond), Err(Error::Alloc(AllocError::BadFrame(beyond))));
    assert_eq!(Error::NotMapped(beyond).errno(), Errno::EINVAL);
    assert_eq!(counts(&pkmap, 16), before);
    let said = format!("kunmap: {:?} is mapped by nobody", frames[1]);
    assert_eq!(kernel.host().lines.lock().unwrap().last(), Some(&(Kern::Warning, said)));
    assert_eq!(number(kmap(&pkmap, frames[1]).unwrap()), 0xff40_2000, "the next entry, after the one that was tried");
    kunmap(&pkmap, frames[1]).unwrap();
    assert!(Pkmap::new(&kernel, rig.place(1, 0xff40_0000), 0).is_err());
    assert!(Pkmap::new(&kernel, rig.place(1, 0xff40_0000), 8).is_err(), "the addresses are taken");
    drop(pkmap);
    drop(kernel);
    rig.give(&frames);
    rig.end();
}

#[test]
fn kmap_local_has_16_slots_a_cpu_and_the_newest_goes_first() {
    let rig = rig(2);
    let kernel = rig.kernel();
    let local = rig.local(&kernel);
    let frames = rig.high(2 * KM_MAX_IDX + 1);
    for cpu in [0, 1] {
        rig.sim.set_cpu(cpu);
        for (slot, &frame) in frames[cpu as usize * KM_MAX_IDX..][..KM_MAX_IDX].iter().enumerate() {
            let at = push(&local, frame).unwrap();
            let number_of = FIRST + cpu as usize * KM_MAX_IDX + slot;
            assert_eq!(number(at), fix_to_virt(rig.fixmap().at, number_of));
            rig.store(at, frame.0);
        }
        assert_eq!(local.depth(), KM_MAX_IDX);
        assert_eq!(kernel.host().pinned.load(SeqCst) as usize, (cpu as usize + 1) * KM_MAX_IDX, "migration is off");
        let refused = push(&local, frames[2 * KM_MAX_IDX]);
        assert_eq!(refused, Err(Error::TooLarge { bytes: 17 * PAGE, limit: 16 * PAGE }));
        assert_eq!((local.depth(), kernel.host().pinned.load(SeqCst) as usize), (16, (cpu as usize + 1) * KM_MAX_IDX));
    }
    for cpu in [1, 0] {
        rig.sim.set_cpu(cpu);
        for slot in (0..KM_MAX_IDX).rev() {
            let at = fix_to_virt(rig.fixmap().at, FIRST + cpu as usize * KM_MAX_IDX + slot);
            let at = NonNull::without_provenance(at.try_into().unwrap());
            assert_eq!(rig.load(at), frames[cpu as usize * KM_MAX_IDX + slot].0);
            pop(&local, at).unwrap();
            rig.sim.assert_faults(cpu, VirtAddr(number(at)));
        }
        assert_eq!(local.depth(), 0);
    }
    assert_eq!(kernel.host().pinned.load(SeqCst), 0, "migration is on again");
    drop(local);
    drop(kernel);
    rig.give(&frames);
    rig.end();
}

#[test]
fn a_slot_of_kmap_local_serves_the_next_frame_after_a_flush_of_its_own_cpu() {
    let rig = rig(2);
    let kernel = rig.kernel();
    let local = rig.local(&kernel);
    let frames = rig.high(2);
    let first = push(&local, frames[0]).unwrap();
    rig.store(first, 1);
    let before = rig.sim.counters();
    pop(&local, first).unwrap();
    let second = push(&local, frames[1]).unwrap();
    assert_eq!(second, first, "the same slot");
    let after = rig.sim.counters();
    assert_eq!((after.flushes - before.flushes, after.interrupts), (1, before.interrupts), "nobody else is asked");
    rig.store(second, 2);
    pop(&local, second).unwrap();
    let again = push(&local, frames[0]).unwrap();
    assert_eq!(rig.load(again), 1, "each frame has its own bytes");
    pop(&local, again).unwrap();
    drop(local);
    drop(kernel);
    rig.give(&frames);
    rig.end();
}

/// What an interrupt maps for a moment, and how often it did; at most three lie in each other.
struct Interrupt {
    local: *const KmapLocal<'static, Sim<X86_32>, Task>,
    sim: Sim<X86_32>,
    frame: Pfn,
    inside: AtomicU32,
    done: Arc<AtomicU32>,
}
// SAFETY: the simulator's CPUs are one thread.
unsafe impl Send for Interrupt {}
// SAFETY: as above.
unsafe impl Sync for Interrupt {}

impl Interrupt {
    fn serve(&self) {
        if self.inside.fetch_add(1, SeqCst) < 3 {
            // SAFETY: the test takes the handler off before the slots go.
            let local = unsafe { &*self.local };
            let at = push(local, self.frame).expect("there are more slots");
            let value = self.done.fetch_add(1, SeqCst) as u64;
            self.sim.store(0, VirtAddr(number(at)), value).unwrap();
            assert_eq!(self.sim.load(0, VirtAddr(number(at))), Ok(value));
            pop(local, at).expect("the newest");
        }
        self.inside.fetch_sub(1, SeqCst);
    }
}

#[test]
fn interrupts_map_and_unmap_in_the_middle_of_a_tasks_kmap_local() {
    let rig = rig_with(1, Rates { speculate: 8, interrupt: 3, evict: 8, ..Rates::NEVER });
    let kernel = rig.kernel();
    let local = rig.local(&kernel);
    let frames = rig.high(5);
    let done = Arc::new(AtomicU32::new(0));
    let of = ((&raw const local).cast(), rig.sim.clone(), frames[4], done.clone());
    let interrupt = Interrupt { local: of.0, sim: of.1, frame: of.2, inside: AtomicU32::new(0), done: of.3 };
    rig.booted.set_interrupt(move |_, _| interrupt.serve());
    for round in 0..200u64 {
        let mapped: Vec<_> = frames[..4].iter().map(|&frame| push(&local, frame).unwrap()).collect();
        mapped.iter().for_each(|&at| rig.store(at, round + number(at) as u64));
        rig.sim.step();
        for &at in mapped.iter().rev() {
            assert_eq!(rig.load(at), round + number(at) as u64);
            pop(&local, at).unwrap();
        }
        assert_eq!((local.depth(), kernel.host().pinned.load(SeqCst)), (0, 0));
    }
    assert!(done.load(SeqCst) > 200, "{done:?} interrupts");
    rig.booted.set_interrupt(|_, _| ());
    assert_eq!(kernel.host().lines.lock().unwrap().len(), 0);
    drop(local);
    drop(kernel);
    rig.give(&frames);
    rig.end();
}

#[test]
fn unmapping_out_of_order_or_on_another_cpu_is_told_by_name_and_changes_nothing() {
    let rig = rig(2);
    let kernel = rig.kernel();
    let local = rig.local(&kernel);
    let frames = rig.high(2);
    let said = || kernel.host().lines.lock().unwrap().pop().map(|line| line.1);
    let [older, newer] = [frames[0], frames[1]].map(|frame| push(&local, frame).unwrap());
    [(older, 1), (newer, 2)].into_iter().for_each(|(at, value)| rig.store(at, value));
    let (old, new) = (number(older), number(newer));
    assert_eq!(pop(&local, older), Err(Error::NotNewest { at: old, newest: new }));
    assert_eq!(said(), Some(format!("kunmap_local: {old:#x} is not CPU 0's newest, which is {new:#x}")));
    rig.sim.set_cpu(1);
    assert_eq!(pop(&local, newer), Err(Error::NotNewest { at: new, newest: 0 }));
    assert_eq!(said(), Some(format!("kunmap_local: {new:#x} is CPU 0's, and this is CPU 1")));
    rig.sim.set_cpu(0);
    assert_eq!((local.depth(), rig.load(older), rig.load(newer), kernel.host().pinned.load(SeqCst)), (2, 1, 2, 2));
    [newer, older].into_iter().for_each(|at| pop(&local, at).unwrap());
    assert_eq!(said(), None, "the order turned around is right");
    assert_eq!(pop(&local, newer), Err(Error::NotNewest { at: new, newest: 0 }));
    assert_eq!(said(), Some(format!("kunmap_local: {new:#x}, and CPU 0 has nothing mapped")));
    assert_eq!((local.depth(), kernel.host().pinned.load(SeqCst)), (0, 0));
    let beyond = Pfn(1 << 20);
    assert_eq!(push(&local, beyond), Err(Error::Alloc(AllocError::BadFrame(beyond))));
    assert_eq!((local.depth(), kernel.host().pinned.load(SeqCst)), (0, 0));
    drop(local);
    drop(kernel);
    rig.give(&frames);
    rig.end();
}

#[test]
fn numbers_of_slots_that_no_address_space_has_are_refused() {
    let rig = rig(2);
    let kernel = rig.kernel();
    let place = rig.fixmap();
    for first in [0, place.at / PAGE, usize::MAX - 31, usize::MAX - 15, usize::MAX] {
        assert_eq!(KmapLocal::new(&kernel, place, first).err(), Some(Error::BadArgument(first)));
    }
    for slots in [place.at / PAGE + 1, usize::MAX / PAGE, usize::MAX] {
        assert_eq!(Fixmap::new(&kernel, place, slots).err(), Some(Error::BadArgument(slots)));
    }
    for at in [place.at - 1, place.at - PAGE + 8] {
        assert!(Fixmap::new(&kernel, Place { at, ..place }, 4).is_err());
        assert!(KmapLocal::new(&kernel, Place { at, ..place }, FIRST).is_err());
        assert!(Pkmap::new(&kernel, Place { at, ..rig.place(1, 0) }, 4).is_err());
    }
    assert!(Pkmap::new(&kernel, rig.place(9, 0xff40_0000), 8).is_err(), "no such region");
    // Nothing was kept: all addresses are free.
    let all = (Fixmap::new(&kernel, place, 128).is_ok(), KmapLocal::new(&kernel, place, FIRST).is_ok());
    assert_eq!(all, (true, true));
    drop(kernel);
    rig.end();
}

#[test]
fn a_frame_that_no_entry_names_leaves_no_slot_in_use() {
    let rig = rig(1);
    let kernel = rig.kernel();
    let (pkmap, local) = (rig.pkmap(&kernel, 4), rig.local(&kernel));
    for frame in [Pfn(1 << 20), Pfn(1 << 52), Pfn(u64::MAX)] {
        let bad = Err(Error::Alloc(AllocError::BadFrame(frame)));
        assert_eq!((kmap(&pkmap, frame), push(&local, frame)), (bad, bad));
        assert_eq!(kunmap(&pkmap, frame), Err(Error::NotMapped(frame)));
    }
    assert_eq!((local.depth(), kernel.host().pinned.load(SeqCst), counts(&pkmap, 4)), (0, 0, vec![0; 4]));
    drop((pkmap, local));
    drop(kernel);
    rig.end();
}
