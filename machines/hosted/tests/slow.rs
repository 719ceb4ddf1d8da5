//! A source of frames as small kernels have them: one lock, a list of fragments in any order, and
//! a walk over all of them for every call.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use vmalloc::gfp::Gfp;
use vmalloc::machine::format::Prot;
use vmalloc::machine::frames::{Frames, Want};
use vmalloc::machine::{Context, Flush, Machine, Pinned, Run};
use vmalloc::units::{CpuSet, PageRange, Pfn};
use vmalloc::{Config, Policy, Req, Vmalloc};
use vmalloc_hosted::{Hosted, builder};

const THREADS: usize = 8;
const PAIRS: usize = 100_000;
/// Every second run of so many frames is nobody's, so there are this many fragments and more.
const HOLE: u64 = 8;

/// Fragments, each a first frame and a number of frames, neither sorted nor side by side.
struct Fragments {
    list: Mutex<Vec<(u64, u64)>>,
    end: u64,
    total: usize,
    free: AtomicUsize,
    calls: AtomicUsize,
    counts: AtomicUsize,
}

impl Fragments {
    /// Half of the frames of a machine, in short runs.
    fn of(machine: &Hosted) -> Fragments {
        let source = machine.frames();
        let want = Want { this_node: false, ..Want::bookkeeping(Default::default()) };
        let mut list = Vec::new();
        while let Some(first) = source.alloc(want.order(HOLE.ilog2() as u8 + 1)) {
            list.push((first.0, HOLE));
        }
        let total = list.len() * HOLE as usize;
        let end = list.iter().map(|&(first, frames)| first + frames).max().unwrap_or(0);
        let (free, list) = (AtomicUsize::new(total), Mutex::new(list));
        Fragments { list, end, total, free, calls: AtomicUsize::new(0), counts: AtomicUsize::new(0) }
    }

    fn list(&self) -> std::sync::MutexGuard<'_, Vec<(u64, u64)>> {
        self.calls.fetch_add(1, Relaxed);
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The smallest fragment that has an aligned block: the walk goes over all of them.
    fn take(list: &mut Vec<(u64, u64)>, order: u8) -> Option<Pfn> {
        let (len, aligned) = (1 << order, |first: u64| first.next_multiple_of(1 << order));
        let fits = |&(_, &(first, frames)): &(usize, &(u64, u64))| aligned(first) + len <= first + frames;
        let (at, &(first, frames)) = list.iter().enumerate().filter(fits).min_by_key(|(_, fragment)| fragment.1)?;
        list.swap_remove(at);
        let start = aligned(first);
        list.extend([(first, start - first), (start + len, first + frames - start - len)].iter().filter(|f| f.1 > 0));
        Some(Pfn(start))
    }

    /// Joins it with what lies beside it.
    fn give(list: &mut Vec<(u64, u64)>, mut first: u64, mut frames: u64) {
        list.retain(|&(start, len)| {
            let beside = start + len == first || first + frames == start;
            if beside {
                (first, frames) = (first.min(start), frames + len);
            }
            !beside
        });
        list.push((first, frames));
    }
}

// SAFETY: F1, F4: a frame is in one fragment, or out. F2: `take` aligns. F3: a lock of its own.
// F5: no descriptors. F6: all of it is below what an entry can name, and directly mapped.
unsafe impl Frames for Fragments {
    fn total(&self) -> usize {
        self.total
    }
    fn free_now(&self) -> usize {
        self.counts.fetch_add(1, Relaxed);
        self.free.load(Relaxed)
    }
    fn is_ram(&self, frame: Pfn) -> bool {
        frame.0 < self.end
    }
    fn end(&self) -> Pfn {
        Pfn(self.end)
    }
    fn alloc(&self, want: Want) -> Option<Pfn> {
        let first = Fragments::take(&mut self.list(), want.order)?;
        self.free.fetch_sub(1 << want.order, Relaxed);
        Some(first)
    }
    unsafe fn free(&self, first: Pfn, order: u8) {
        Fragments::give(&mut self.list(), first.0, 1 << order);
        self.free.fetch_add(1 << order, Relaxed);
    }
    fn alloc_bulk(&self, _: Want, into: &mut [Pfn]) -> usize {
        let mut list = self.list();
        let mut got = 0;
        while got < into.len()
            && let Some(frame) = Fragments::take(&mut list, 0)
        {
            into[got] = frame;
            got += 1;
        }
        self.free.fetch_sub(got, Relaxed);
        got
    }
}

/// A process whose frames are these.
struct Slow {
    inner: Hosted,
    frames: Fragments,
}

// SAFETY: M1–M9 are those of the machine inside; its frames are what the source was made of.
unsafe impl Machine for Slow {
    type Table = <Hosted as Machine>::Table;
    type Frames = Fragments;
    type Lock = <Hosted as Machine>::Lock;
    const MIRRORED: bool = Hosted::MIRRORED;
    const THREADS: bool = Hosted::THREADS;

    fn frames(&self) -> &Fragments {
        &self.frames
    }
    fn root(&self) -> Pfn {
        self.inner.root()
    }
    fn virt(&self, f: Pfn) -> NonNull<u8> {
        self.inner.virt(f)
    }
    fn cpus(&self) -> u32 {
        self.inner.cpus()
    }
    fn pin(&self) -> Pinned {
        self.inner.pin()
    }
    unsafe fn unpin(&self, was: Pinned) {
        // SAFETY: the caller's promise, handed on.
        unsafe { self.inner.unpin(was) }
    }
    fn context(&self) -> Context {
        self.inner.context()
    }
    fn flush(&self, what: Flush<'_>) {
        self.inner.flush(what)
    }
    fn kick(&self, cpus: &CpuSet) {
        self.inner.kick(cpus)
    }
    fn is_nested(&self) -> bool {
        self.inner.is_nested()
    }
    fn busy(&self, was: Pinned) -> Pinned {
        self.inner.busy(was)
    }
    fn flush_everywhere(&self, what: Flush<'_>) -> bool {
        self.inner.flush_everywhere(what)
    }
    fn mirror(&self, run: Run) -> Result<(), i32> {
        self.inner.mirror(run)
    }
    fn protect(&self, pages: PageRange, prot: Prot) -> Result<(), i32> {
        self.inner.protect(pages, prot)
    }
    fn unmapped(&self, pages: PageRange) {
        self.inner.unmapped(pages)
    }
    fn relax(&self) {
        self.inner.relax()
    }
    fn clock_ns(&self) -> Option<u64> {
        self.inner.clock_ns()
    }
}

fn instance(policy: Policy) -> Vmalloc<Slow> {
    let inner = builder().memory(256 << 20).region(1 << 30).cpus(THREADS as u32).machine().expect("a machine");
    let region = inner.regions().next().expect("it has one");
    let frames = Fragments::of(&inner);
    let vm = Vmalloc::new(Slow { inner, frames });
    // SAFETY: N1, N2: it is a new machine, and nobody else has it.
    unsafe { vm.init(Config::region(region).policy(policy)) }.expect("a sound configuration");
    vm
}

#[test]
fn a_refill_asks_the_source_at_most_twice_and_never_how_much_is_free() {
    let vm = instance(Policy::Unmap);
    let source = vm.machine().frames();
    let (mut most, mut asked, mut held) = (0, 0, Vec::new());
    source.counts.store(0, Relaxed);
    while let Ok(frame) = {
        source.calls.store(0, Relaxed);
        vm.alloc_frame(Gfp::KERNEL | Gfp::NOWARN | Gfp::NORETRY, None)
    } {
        let calls = source.calls.load(Relaxed);
        (most, asked) = (most.max(calls), asked + calls);
        held.push(frame);
        if held.len() == source.total() / 2 {
            break;
        }
    }
    println!("{} frames, {asked} calls of the source, at most {most} in a refill", held.len());
    assert!((1..=2).contains(&most), "{most} calls in one refill");
    assert_eq!(source.counts.load(Relaxed), 0, "nobody asked how many are free");
    for frame in held {
        // SAFETY: P3: it is ours, and nobody maps it.
        unsafe { vm.free_frame(frame) }
    }
}

#[test]
fn a_source_whose_every_call_is_a_walk_over_all_fragments_serves_eight_threads() {
    for policy in [Policy::Unmap, Policy::Keep] {
        let vm = instance(policy);
        let fragments = vm.machine().frames().list().len();
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let vm = &vm;
                scope.spawn(move || {
                    for n in 0..PAIRS / THREADS {
                        let area = vm.alloc(Req::pages(1 + (n + thread) % 4)).expect("there is memory");
                        // SAFETY: V1: it is ours.
                        unsafe { vm.free(area) }.expect("it lives");
                    }
                });
            }
        });
        let (took, calls) = (begun.elapsed(), vm.machine().frames().calls.load(Relaxed));
        println!("{policy:?}: {PAIRS} pairs on {THREADS} threads, {fragments} fragments: {took:?}, {calls} calls");
        assert!(took < Duration::from_secs(60), "{took:?}");
        assert_eq!(vm.check(), Ok(()));
    }
}
