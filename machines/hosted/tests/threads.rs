//! Eight threads that do everything at once, and what must add up when they have
//! stopped.

mod common;

use common::assert_nothing_is_left;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering::*};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Instant;
use vmalloc::units::{PAGE_SIZE, Pfn};
use vmalloc::{FreeError, Gfp, Policy, Req, Vmalloc};
use vmalloc_hosted::{Hosted, builder, in_interrupt, prefer};
use vmalloc_process::{Meeting, THREADS, frames_in_all, seconds};

/// Acts of a thread between two meetings.
const ACTS: usize = 300;
/// Things that lie in one place at most.
const MOST: usize = 24;

type At = NonNull<u8>;

/// What some thread made, and any other may end.
enum Thing {
    Area {
        at: At,
        pages: usize,
        stamp: u64,
    },
    Owned {
        at: At,
        pages: usize,
        stamp: u64,
    },
    Reserved(At),
    /// Mapped once more; the frames are held, or their area is gone already.
    Mapped {
        at: At,
        frames: Vec<Pfn>,
        stamp: u64,
    },
    Ram {
        at: At,
        frames: Vec<Pfn>,
        stamp: u64,
    },
    Frame(Pfn),
}

// SAFETY: areas are anybody's.
unsafe impl Send for Thing {}

/// One thread's part.
struct Actor<'a> {
    vm: &'a Vmalloc<Hosted>,
    places: &'a [Mutex<Vec<Thing>>],
    random: u64,
}

fn word(at: At, page: usize) -> *mut u64 {
    at.as_ptr().wrapping_add(page * PAGE_SIZE).cast()
}

fn stamp_all(at: At, pages: usize, stamp: u64) {
    // SAFETY: a live area of the caller's.
    (0..pages).for_each(|page| unsafe { word(at, page).write(stamp ^ page as u64) });
}

fn check_all(at: At, pages: usize, stamp: u64) {
    for page in 0..pages {
        // SAFETY: a live area of the caller's.
        assert_eq!(unsafe { word(at, page).read() }, stamp ^ page as u64, "page {page} of {at:?}");
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
                if let Some(thing) = self.make() {
                    let mut things = self.places[place].lock().unwrap();
                    things.push(thing);
                    let last = if things.len() > MOST { Some(things.swap_remove(0)) } else { None };
                    drop(things);
                    last.into_iter().for_each(|thing| self.end(thing));
                }
            }
            44..90 => {
                let place = self.below(self.places.len());
                let mut things = self.places[place].lock().unwrap();
                let n = self.random as usize % things.len().max(1);
                let thing = if things.is_empty() { None } else { Some(things.swap_remove(n)) };
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

    fn frames(&mut self) -> Option<Vec<Pfn>> {
        let wanted = 1 + self.below(8);
        let frames: Vec<_> = (0..wanted).map_while(|_| self.vm.alloc_frame(Gfp::KERNEL, None).ok()).collect();
        if frames.len() < wanted {
            self.give(&frames);
            return None;
        }
        Some(frames)
    }

    fn give(&self, frames: &[Pfn]) {
        // SAFETY: P3: the caller's holds.
        frames.iter().for_each(|&frame| unsafe { self.vm.free_frame(frame) });
    }

    fn area(&mut self) -> Option<(At, usize, u64)> {
        let pages = if self.below(20) == 0 { 60 + self.below(90) } else { 1 + self.below(12) };
        let zero = if self.below(4) == 0 { Gfp::ZERO } else { Gfp::NOWARN };
        let at = self.vm.alloc(Req::pages(pages).gfp(Gfp::KERNEL | Gfp::NOWARN | zero)).ok()?;
        if zero == Gfp::ZERO {
            // SAFETY: allocated just now.
            assert!((0..pages).all(|page| unsafe { word(at, page).read() } == 0));
        }
        let stamp = self.random;
        stamp_all(at, pages, stamp);
        Some((at, pages, stamp))
    }

    fn make(&mut self) -> Option<Thing> {
        match self.below(12) {
            0 => Some(Thing::Reserved(self.vm.reserve(Req::pages(1 + self.below(100))).ok()?)),
            1 => {
                let (frames, stamp) = (self.frames()?, self.random);
                // SAFETY: P2: they are given away.
                let Ok(at) = (unsafe { self.vm.vmap_owned(&frames, Req::bytes(0)) }) else {
                    self.give(&frames);
                    return None;
                };
                stamp_all(at, frames.len(), stamp);
                Some(Thing::Owned { at, pages: frames.len(), stamp })
            }
            2 | 3 => {
                let (frames, stamp) = (self.frames()?, self.random);
                // SAFETY: P4: held until it is unmapped.
                let Ok(at) = (unsafe { self.vm.map_ram(&frames, None) }) else {
                    self.give(&frames);
                    return None;
                };
                stamp_all(at, frames.len(), stamp);
                Some(Thing::Ram { at, frames, stamp })
            }
            4 => self.map_an_area(),
            5 => Some(Thing::Frame(self.vm.alloc_frame(Gfp::KERNEL, None).ok()?)),
            _ => self.area().map(|(at, pages, stamp)| Thing::Area { at, pages, stamp }),
        }
    }

    /// Maps the frames of an area a second time, and frees the area.
    fn map_an_area(&mut self) -> Option<Thing> {
        let (at, pages, stamp) = self.area()?;
        let frames: Vec<Pfn> = (0..pages).map(|n| self.vm.hold_frame(word(at, n).addr()).expect("it lives")).collect();
        // SAFETY: P1: held just now.
        let mapped = unsafe { self.vm.vmap(&frames, Req::bytes(0)) };
        // SAFETY: V1: the area is used no more.
        unsafe { self.vm.free(at) }.unwrap();
        let Ok(at) = mapped else {
            self.give(&frames);
            return None;
        };
        check_all(at, pages, stamp);
        Some(Thing::Mapped { at, frames, stamp })
    }

    fn end(&mut self, thing: Thing) {
        let vm = self.vm;
        // SAFETY: V1, P3: who took the thing out of its place has it alone.
        unsafe {
            match thing {
                Thing::Area { at, pages, stamp } => {
                    check_all(at, pages, stamp);
                    let held = if self.below(8) == 0 { vm.hold_frame(at.addr().get()) } else { None };
                    match self.below(8) {
                        0 => in_interrupt(|| vm.free(at)).unwrap(),
                        _ => vm.free(at).unwrap(),
                    }
                    self.give(held.as_slice());
                }
                Thing::Owned { at, pages, stamp } => {
                    check_all(at, pages, stamp);
                    vm.free(at).unwrap();
                }
                Thing::Reserved(at) => vm.free(at).unwrap(),
                Thing::Mapped { at, frames, stamp } => {
                    check_all(at, frames.len(), stamp);
                    let first = self.below(2) == 0;
                    self.give(if first { &frames } else { &[] });
                    check_all(at, frames.len(), stamp);
                    vm.vunmap(at).unwrap();
                    self.give(if first { &[] } else { &frames });
                }
                Thing::Ram { at, frames, stamp } => {
                    check_all(at, frames.len(), stamp);
                    assert!(matches!(vm.free(at), Err(FreeError::WrongKind(_))));
                    vm.unmap_ram(at, frames.len()).unwrap();
                    self.give(&frames);
                }
                Thing::Frame(frame) => vm.free_frame(frame),
            }
        }
    }
}

#[test]
fn when_eight_threads_have_done_everything_at_once_all_adds_up() {
    let vm = builder().memory(128 << 20).region(2 << 30).cpus(4).build().unwrap();
    let frames = frames_in_all(&vm);
    let odd = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&odd);
    vm.machine().set_log(Box::new(move |_, line| sink.lock().unwrap().push(line.to_string())));
    let places: Vec<Mutex<Vec<Thing>>> = (0..THREADS).map(|_| Mutex::default()).collect();
    let meeting = Meeting::default();
    let (begin, time) = (Instant::now(), seconds());
    std::thread::scope(|scope| {
        for me in 0..THREADS {
            let mut actor = Actor { vm: &vm, places: &places, random: 0x9e3779b97f4a7c15 ^ (me as u64) << 7 };
            let (vm, meeting) = (&vm, &meeting);
            scope.spawn(move || {
                prefer(me as u32);
                loop {
                    (0..ACTS).for_each(|_| actor.act());
                    if meeting.meet(vm, actor.area().map(|area| area.0), me, || begin.elapsed() > time) {
                        return;
                    }
                }
            });
        }
    });
    let mut last = Actor { vm: &vm, places: &[], random: 1 };
    places.into_iter().flat_map(|things| things.into_inner().unwrap()).for_each(|thing| last.end(thing));
    assert_nothing_is_left(&vm, frames);
    let counts = vm.stats().counts;
    let made = meeting.assert_one_free_won(&vm);
    assert!(counts.remote_frees > 0 && counts.purges + counts.reclaimed > 0, "{counts:?}");
    let odd = odd.lock().unwrap();
    assert!(odd.iter().all(|line| line.starts_with("double free, by two CPUs at once: double free of 0x")), "{odd:?}");
    assert!(odd.iter().all(|line| line.contains(", allocated by ") && line.contains(", freed by ")), "{odd:?}");
    println!("{} areas, {made} freed by all threads at once, {} of them by two", counts.allocs, counts.raced_frees);
}

#[test]
fn threads_that_call_while_every_cpu_is_held_wait_until_it_ends() {
    let vm = builder().memory(16 << 20).cpus(3).build().expect("a process has room");
    let (held, done) = (Barrier::new(5), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                held.wait();
                let area = vm.alloc(Req::pages(3)).expect("memory enough");
                done.fetch_add(1, SeqCst);
                // SAFETY: V1: nobody else has it.
                unsafe { vm.free(area) }.expect("it lives");
            });
        }
        let quiesced = vm.quiesce().expect("nobody is inside");
        held.wait();
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert_eq!((done.load(SeqCst), vm.areas().count()), (0, 0));
        assert!(vm.alloc(Req::pages(1)).is_err(), "this thread is in the middle of a call");
        drop(quiesced);
    });
    assert_eq!((done.load(SeqCst), vm.areas().count(), vm.check()), (4, 0, Ok(())));
}
