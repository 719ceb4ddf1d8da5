//! Eight threads that do everything at once, and what must add up when they have stopped.

mod common;

use common::*;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::time::{Duration, Instant};
use vmalloc::units::PAGE_SIZE;
use vmalloc::{Gfp, Placement, Policy, Req, Vmalloc};
use vmalloc_process::{Meeting, THREADS, frames_in_all, seconds};
use vmalloc_window::{Window, builder};

/// Acts of a thread between two meetings.
const ACTS: usize = 300;
/// Areas that lie in one place at most.
const MOST: usize = 24;

type At = NonNull<u8>;

/// What some thread made, and any other may end; reservations have no pages.
struct Thing {
    at: At,
    pages: usize,
    stamp: u64,
}

// SAFETY: areas are anybody's.
unsafe impl Send for Thing {}

/// One thread's part.
struct Actor<'a> {
    vm: &'a Vmalloc<Window>,
    places: &'a [Mutex<Vec<Thing>>],
    random: u64,
}

fn stamp_all(at: At, pages: usize, stamp: u64) {
    // SAFETY: a live area of the caller's.
    (0..pages).for_each(|page| unsafe { word(at, page).write(stamp ^ page as u64) });
}

fn check_all(thing: &Thing) {
    for page in 0..thing.pages {
        // SAFETY: a live area of the caller's.
        let found = unsafe { word(thing.at, page).read() };
        assert_eq!(found, thing.stamp ^ page as u64, "page {page} of {:?}", thing.at);
    }
}

impl Actor<'_> {
    fn below(&mut self, n: usize) -> usize {
        self.random = self.random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.random >> 33) as usize % n
    }

    fn act(&mut self) {
        match self.below(100) {
            0..44 => {
                let place = self.below(self.places.len());
                let Some(thing) = self.make() else { return };
                let mut things = self.places[place].lock().unwrap();
                things.push(thing);
                let last = (things.len() > MOST).then(|| things.swap_remove(0));
                drop(things);
                last.into_iter().for_each(|thing| self.end(thing));
            }
            44..90 => {
                let place = self.below(self.places.len());
                let mut things = self.places[place].lock().unwrap();
                let n = self.random as usize % things.len().max(1);
                let thing = (!things.is_empty()).then(|| things.swap_remove(n));
                drop(things);
                thing.into_iter().for_each(|thing| self.end(thing));
            }
            90..96 => _ = self.vm.tick(),
            96 => _ = self.vm.work(),
            97 => _ = self.vm.unmap_aliases(),
            98 if self.below(4) == 0 => _ = self.vm.purge(),
            99 if self.below(4) == 0 => {
                self.vm.set_policy([Policy::Unmap, Policy::Park, Policy::Keep, Policy::Strict][self.below(4)])
            }
            _ => _ = self.vm.stats(),
        }
    }

    fn make(&mut self) -> Option<Thing> {
        match self.below(12) {
            0 => Some(Thing { at: self.vm.reserve(Req::pages(1 + self.below(100))).ok()?, pages: 0, stamp: 0 }),
            _ => self.area(),
        }
    }

    fn area(&mut self) -> Option<Thing> {
        let pages = if self.below(20) == 0 { 60 + self.below(90) } else { 1 + self.below(12) };
        let zero = if self.below(4) == 0 { Gfp::ZERO } else { Gfp::NOWARN };
        let at = self.vm.alloc(Req::pages(pages).gfp(Gfp::KERNEL | Gfp::NOWARN | zero)).ok()?;
        if zero == Gfp::ZERO {
            // SAFETY: allocated just now.
            assert!((0..pages).all(|page| unsafe { word(at, page).read() } == 0));
        }
        let stamp = self.random;
        stamp_all(at, pages, stamp);
        Some(Thing { at, pages, stamp })
    }

    fn end(&mut self, thing: Thing) {
        check_all(&thing);
        // SAFETY: V1: who took the thing out of its place has it alone.
        unsafe { self.vm.free(thing.at) }.unwrap();
    }
}

static ODD: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn all_adds_up(placement: Placement, time: Duration) {
    let log = |_, line: std::fmt::Arguments<'_>| ODD.lock().unwrap().push(line.to_string());
    let vm = builder().window(2 << 30).memory(128 << 20).cpus(4).placement(placement).log(log).build().unwrap();
    let frames = frames_in_all(&vm);
    let places: Vec<Mutex<Vec<Thing>>> = (0..THREADS).map(|_| Mutex::default()).collect();
    let (meeting, begin) = (Meeting::default(), Instant::now());
    std::thread::scope(|scope| {
        for me in 0..THREADS {
            let mut actor = Actor { vm: &vm, places: &places, random: 0x9e3779b97f4a7c15 ^ (me as u64) << 7 };
            let (vm, meeting) = (&vm, &meeting);
            scope.spawn(move || {
                while {
                    (0..ACTS).for_each(|_| actor.act());
                    !meeting.meet(vm, actor.area().map(|thing| thing.at), me, || begin.elapsed() > time)
                } {}
            });
        }
    });
    let mut last = Actor { vm: &vm, places: &[], random: 1 };
    places.into_iter().flat_map(|things| things.into_inner().unwrap()).for_each(|thing| last.end(thing));
    assert_nothing_is_left(&vm, frames);
    assert_eq!((maps_in(vm.machine().region()), vm.machine().refusals()), (2, (None, 0)));
    let counts = vm.stats().counts;
    let made = meeting.assert_one_free_won(&vm);
    assert!(counts.purges + counts.reclaimed > 0, "{counts:?}");
    println!("{} areas, {made} freed by all threads at once, {} of them by two", counts.allocs, counts.raced_frees);
}

#[test]
fn when_eight_threads_have_done_everything_at_once_all_adds_up() {
    for placement in [Placement::Classes, Placement::Lowest] {
        all_adds_up(placement, seconds() / 2);
    }
    let odd = ODD.lock().unwrap();
    assert!(odd.iter().all(|line| line.starts_with("double free, by two CPUs at once: double free of 0x")), "{odd:?}");
}

#[test]
fn nobodys_mapping_is_replaced_while_areas_come_and_go() {
    let vm = builder().window(256 << 20).memory(128 << 20).policy(Policy::Strict).build().expect("room");
    let stop = AtomicBool::new(false);
    let map = |mark: u8| {
        let bytes = PAGE_SIZE * (1 + mark as usize % 16);
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a mapping of this thread's own.
        unsafe {
            let at = libc::mmap(std::ptr::null_mut(), bytes, access, flags, -1, 0).cast::<u8>();
            assert_ne!(at.cast(), libc::MAP_FAILED);
            at.write_bytes(mark, bytes);
            std::thread::yield_now();
            assert!(std::slice::from_raw_parts(at, bytes).iter().all(|&byte| byte == mark), "somebody else's bytes");
            libc::munmap(at.cast(), bytes);
        }
    };
    let area = |mark: u8| {
        let mut area = vm.area(Req::pages(1 + mark as usize % 9)).expect("memory enough");
        area.fill(mark);
        std::thread::yield_now();
        assert!(area.iter().all(|&byte| byte == mark), "somebody else's bytes in an area");
    };
    let until_told = |act: &dyn Fn(u8)| (1..=255).cycle().take_while(|_| !stop.load(Relaxed)).for_each(act);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| until_told(&map));
            scope.spawn(|| until_told(&area));
        }
        std::thread::sleep(seconds());
        stop.store(true, Relaxed);
    });
    assert_eq!(vm.check(), Ok(()));
}
