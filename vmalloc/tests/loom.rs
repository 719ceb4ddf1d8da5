//! Every interleaving of the races that matter, on the real structures.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test --release -p vmalloc --test loom --target-dir target/loom
//! ```
//!
//! Each model was broken once by hand to see that it can fail; its
//! documentation says how. Headers have two slots here.
#![cfg(loom)]
#![allow(unsafe_code)]

use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use loom::thread;
use std::sync::Arc;
use vmalloc::area::{Caller, Guard, Kind, RegionId};
use vmalloc::flush::{Ear, Generations};
use vmalloc::space::chunk::{Chunk, ChunkRef};
use vmalloc::space::mail::{Letters, Mail};
use vmalloc::space::slot::Label;
use vmalloc::units::{Node, PageRange, Pfn, VirtAddr};

/// Explores `model` with up to `preemptions` of a thread by another.
fn explore(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// A chunk of which these slots live.
fn chunk(live: u32) -> Arc<Chunk> {
    let chunk = Chunk::new(Pfn(0));
    chunk.become_runs(RegionId(0), 0);
    for slot in 0..live {
        assert_eq!(chunk.take(), Some(slot));
        chunk.enliven(slot);
    }
    Arc::new(chunk)
}

fn link(chunk: &Chunk) -> ChunkRef {
    // SAFETY: H2: a model's chunks outlive its threads.
    unsafe { ChunkRef::from_ptr(std::ptr::from_ref(chunk).cast_mut()) }.expect("a reference is not null")
}

/// What a freer on another CPU does (R1); false = it was refused.
fn free_remotely(chunk: &Chunk, slot: u32, mail: &Mail) -> bool {
    let won = chunk.claim(slot);
    if won && chunk.post(slot) {
        mail.push(link(chunk));
    }
    won
}

/// What the owner does with its mail; returns the slots that became stale.
fn drain(mail: &Mail) -> u32 {
    let mut slots = 0;
    let mut letters = Letters::default();
    while let Some((chunk, posted)) = mail.next(&mut letters) {
        let live = posted & chunk.live_slots();
        chunk.retire(live, 0);
        chunk.unclaim(posted);
        slots += live.count_ones();
    }
    slots
}

/// What a freer on the owner's CPU does; false = it was refused.
fn free_locally(chunk: &Chunk, slot: u32) -> bool {
    let lives = chunk.areas() >> slot & 1 != 0;
    if lives {
        chunk.retire(1 << slot, 0);
    }
    lives
}

fn picture(chunk: &Chunk) -> String {
    assert!(chunk.masks_agree(), "C2");
    let state = |slot: u32| match () {
        _ if chunk.free_slots() >> slot & 1 != 0 => 'f',
        _ if chunk.stale(0) >> slot & 1 != 0 => 's',
        _ if chunk.is_claimed(slot) => 'c',
        _ if chunk.live_slots() >> slot & 1 != 0 => 'L',
        _ => '?',
    };
    (0..2).map(state).collect()
}

/// Broken by a load and a store in place of `post`'s `fetch_or`, or without
/// `claim`'s bit: a slot is lost.
#[test]
fn a_remote_free_meets_a_local_alloc_and_a_local_free() {
    explore(4, || {
        let (chunk, mail) = (chunk(1), Arc::new(Mail::default()));
        let remote = thread::spawn({
            let (chunk, mail) = (chunk.clone(), mail.clone());
            move || assert!(free_remotely(&chunk, 0, &mail))
        });
        assert_eq!(chunk.take(), Some(1));
        chunk.enliven(1);
        let mut stale = drain(&mail);
        assert!(free_locally(&chunk, 1));
        remote.join().unwrap();
        stale += drain(&mail);
        assert_eq!((stale, picture(&chunk).as_str()), (1, "ss"), "stale exactly once");
        assert!(!chunk.is_claimed(0));
    });
}

/// Broken by reading the link after `take_posted`: a chunk that is pushed
/// again meanwhile cuts off the rest of the mail.
#[test]
fn mail_of_two_chunks_and_two_freers_arrives_whole() {
    explore(4, || {
        let chunks = [chunk(2), chunk(1)];
        let mail = Arc::new(Mail::default());
        let freers = [[(0, 0), (1, 0)].as_slice(), &[(0, 1)]].map(|frees| {
            let (chunks, mail) = (chunks.clone(), mail.clone());
            thread::spawn(move || frees.iter().for_each(|&(n, slot)| assert!(free_remotely(&chunks[n], slot, &mail))))
        });
        let mut stale = drain(&mail);
        freers.into_iter().for_each(|freer| freer.join().unwrap());
        stale += drain(&mail);
        assert_eq!((stale, picture(&chunks[0]).as_str(), picture(&chunks[1]).as_str()), (3, "ss", "sf"));
    });
}

/// Broken by testing `claimed` before setting it: both win.
#[test]
fn of_two_remote_frees_of_a_slot_one_wins() {
    explore(4, || {
        let (chunk, mail) = (chunk(1), Arc::new(Mail::default()));
        let free = |chunk: &Arc<Chunk>, mail: &Arc<Mail>| {
            let (chunk, mail) = (chunk.clone(), mail.clone());
            move || free_remotely(&chunk, 0, &mail)
        };
        let other = thread::spawn(free(&chunk, &mail));
        let third = thread::spawn(free(&chunk, &mail));
        let mut stale = drain(&mail);
        let wins = other.join().unwrap() as u32 + third.join().unwrap() as u32;
        stale += drain(&mail);
        assert_eq!((wins, stale, picture(&chunk).as_str()), (1, 1, "sf"));
        assert!(!free_remotely(&chunk, 0, &mail) && !chunk.is_claimed(0), "a late claim is void");
    });
}

/// A double free by two CPUs at the same moment: both may win, but the slot is
/// not used again before the later of them is done with it (R4). Broken by
/// giving the slot without a look at its claim.
#[test]
fn a_remote_free_races_with_a_local_free_of_the_same_slot() {
    explore(4, || {
        let (chunk, mail) = (chunk(1), Arc::new(Mail::default()));
        let generations = Arc::new(Generations::default());
        let ears: Arc<[Ear; 2]> = Arc::default();
        // The area's entry: 1 = bound, 0 = cleared, 2 = bound for the next.
        let entry = Arc::new(AtomicU64::new(1));
        ears.iter().for_each(|ear| generations.wake(ear, |_| ()));
        let remote = thread::spawn({
            let (chunk, mail, entry) = (chunk.clone(), mail.clone(), entry.clone());
            let (generations, ears) = (generations.clone(), ears.clone());
            move || {
                let won = chunk.claim(0);
                if won {
                    entry.store(0, Relaxed);
                }
                // Interrupts come in before it posts.
                generations.catch_up(&ears[1], |_| ());
                if won && chunk.post(0) {
                    mail.push(link(&chunk));
                }
            }
        });
        let mut reused = false;
        if free_locally(&chunk, 0) {
            entry.store(0, Relaxed);
            let load = generations.close((), false);
            generations.flush(&ears[0], |_| ());
            let ripe = load.redeem(&generations.grace(ears.iter())).is_ok();
            if ripe && !chunk.is_claimed(0) {
                chunk.give(0, 0);
                assert_eq!(chunk.take(), Some(0));
                entry.store(2, Relaxed);
                chunk.enliven(0);
                reused = true;
            }
        }
        drain(&mail);
        remote.join().unwrap();
        drain(&mail);
        let expected = if reused { ("Lf", 2) } else { ("sf", 0) };
        assert_eq!((picture(&chunk).as_str(), entry.load(Relaxed)), expected);
        assert!(!chunk.is_claimed(0));
    });
}

/// Under Keep a slot is used again without a flush, so its owner has to see who
/// frees it at the same moment (R5). Broken by `keep` or `claim` that look before
/// they say, and without the order between (`between_seqcst`).
#[test]
fn a_slot_that_another_cpu_frees_at_the_same_moment_does_not_become_warm() {
    explore(4, || {
        let chunk = chunk(1);
        let remote = thread::spawn({
            let chunk = chunk.clone();
            move || chunk.claim(0)
        });
        let alone = chunk.areas() & 1 != 0 && chunk.keep(0);
        assert!(!(remote.join().unwrap() && alone), "R5");
    });
}

/// Nor does one whose frames are handed out at the same moment. Broken as above.
#[test]
fn a_slot_whose_frames_are_handed_out_at_the_same_moment_does_not_become_warm() {
    explore(4, || {
        let chunk = chunk(1);
        let holder = thread::spawn({
            let chunk = chunk.clone();
            move || {
                chunk.slot(0).share();
                chunk.areas() & 1 != 0
            }
        });
        let warm = chunk.areas() & 1 != 0 && chunk.keep(0) && !chunk.slot(0).is_shared();
        assert!(!(holder.join().unwrap() && warm), "R5");
    });
}

/// An area of `n` pages, all of whose fields say so.
fn label(n: usize) -> Label {
    Label {
        bytes: n << 12,
        pages: n,
        kind: Kind::Ioremap,
        guard: Guard::After,
        caller: Caller::Return(n),
        node: Node(n as u8),
        phys: Some(n as u64),
    }
}

fn publish(chunk: &Chunk, n: usize) {
    assert_eq!(chunk.take(), Some(0));
    chunk.slot(0).begin(&label(n));
    chunk.enliven(0);
    chunk.slot(0).publish();
}

/// Broken by `begin` without the release fence, and without the last look at
/// the slot's sequence: areas are told that were freed before the question.
#[test]
fn what_a_finder_sees_of_an_area_was_true() {
    explore(2, || {
        let chunk = chunk(0);
        publish(&chunk, 1);
        let freed = Arc::new(AtomicBool::new(false));
        let finder = thread::spawn({
            let (chunk, freed) = (chunk.clone(), freed.clone());
            move || {
                let late = freed.load(Acquire);
                let Some((_, copy)) = chunk.area(0) else { return };
                let info = copy.info(VirtAddr(0), RegionId(0));
                let n = info.pages;
                assert!(n == 2 || (n == 1 && !late), "area 1 was freed before");
                assert_eq!((info.bytes, info.caller, info.freer), (n << 12, Caller::Return(n), None), "R2");
                assert_eq!((info.node, info.phys), (Node(n as u8), Some(n as u64)), "R2");
            }
        });
        chunk.retire(1, 0);
        chunk.slot(0).freed_by(Caller::Return(7));
        freed.store(true, Release);
        chunk.give(0, 0);
        publish(&chunk, 2);
        finder.join().unwrap();
    });
}

/// Broken by a sequence that does not move when the header becomes another
/// chunk: the old base is told with the new area.
#[test]
fn a_finder_does_not_take_a_chunk_for_the_one_that_it_was() {
    explore(2, || {
        let class = vmalloc::space::class::Class::of(16, 1).expect("a small area");
        let chunk = Arc::new(Chunk::new(Pfn(0)));
        let become_at = |base| chunk.become_class(class, 2, VirtAddr(base), RegionId(0), 0);
        become_at(0x1000);
        publish(&chunk, 1);
        let finder = thread::spawn({
            let chunk = chunk.clone();
            move || {
                if let Some((start, copy)) = chunk.area(0) {
                    assert_eq!(start, VirtAddr(copy.pages() * 0x1000), "R2");
                }
            }
        });
        chunk.retire(1, 0);
        chunk.slot(0).freed_by(Caller::Return(7));
        chunk.give(0, 0);
        chunk.retire_header();
        become_at(0x2000);
        publish(&chunk, 2);
        finder.join().unwrap();
    });
}

/// A CPU, a page's entry, and what the CPU remembers of it.
struct Walker {
    generations: Arc<Generations>,
    ears: Arc<[Ear; 2]>,
    /// Whether the entry is there to be walked.
    entry: Arc<AtomicBool>,
    /// Whether the page was given to somebody else.
    reused: Arc<AtomicBool>,
    held: bool,
}

impl Walker {
    /// An access, or a speculative walk.
    fn walk(&mut self) {
        self.held |= self.entry.load(Relaxed);
        assert!(!(self.held && self.reused.load(Relaxed)), "a stale translation of a page that was reused");
    }

    /// `f`, whose flush forgets everything; an awake CPU uses what it holds until
    /// then, and each walks again at once.
    fn served(&mut self, awake: bool, f: impl FnOnce(&Generations, &Ear, &mut dyn FnMut(Option<PageRange>))) {
        let (generations, ears) = (self.generations.clone(), self.ears.clone());
        f(&generations, &ears[1], &mut |what| {
            if awake {
                self.walk();
            }
            self.held &= what.is_some_and(|pages| pages != page(0));
            self.walk();
        });
    }

    fn sleep(&mut self) {
        self.served(true, |generations, ear, flush| generations.sleep(ear, flush));
    }

    fn wake(&mut self) {
        self.served(false, |generations, ear, flush| generations.wake(ear, flush));
    }

    fn leave(&mut self) {
        self.generations.leave(&self.ears[1]);
    }

    fn on_kick(&mut self) {
        self.served(true, |generations, ear, flush| generations.catch_up(ear, flush));
    }
}

/// What the load over the page is like.
#[derive(Clone, Copy, PartialEq)]
enum Closed {
    Plain,
    /// It holds table pages.
    WithTables,
    /// It is the page alone, and everybody is told so.
    Small,
    /// A small load over another page is closed after it.
    BeforeSmall,
    /// Both.
    SmallBeforeSmall,
}

/// A page; 0 is the one that is walked.
fn page(number: usize) -> PageRange {
    PageRange::new(VirtAddr(0x1000 * (1 + number)), 1)
}

/// What is raced with.
struct Case {
    /// What CPU 1 does.
    story: fn(&mut Walker),
    closed: Closed,
    /// CPU 1 has been asked already, for an earlier load.
    asked: bool,
}

/// CPU 0 closes a load over a page that CPU 1 walks: redeemed, the page is
/// somebody else's. What is wrong panics in [`Walker::walk`].
fn close_against(case: Case) {
    let Case { story, closed, asked } = case;
    let preemptions = if closed == Closed::SmallBeforeSmall { 5 } else { 4 };
    explore(preemptions, move || {
        let generations = Arc::new(Generations::default());
        let ears: Arc<[Ear; 2]> = Arc::default();
        let (entry, reused) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
        ears.iter().for_each(|ear| generations.wake(ear, |_| ()));
        let mut walker = Walker {
            generations: generations.clone(),
            ears: ears.clone(),
            entry: entry.clone(),
            reused: reused.clone(),
            held: false,
        };
        if asked {
            generations.ask(&generations.close((), false), ears.iter(), |_| ());
            generations.flush(&ears[0], |_| ());
        }
        let other = thread::spawn(move || story(&mut walker));
        entry.store(false, Relaxed);
        let load = match closed {
            Closed::Small | Closed::SmallBeforeSmall => generations.close_narrow((), page(0)),
            _ => generations.close((), closed == Closed::WithTables),
        };
        let another = matches!(closed, Closed::BeforeSmall | Closed::SmallBeforeSmall);
        let _after = another.then(|| generations.close_narrow((), page(1)));
        generations.flush(&ears[0], |_| ());
        let mut kicks = 0;
        generations.ask(&load, ears.iter(), |_| kicks += 1);
        let load = load.redeem(&generations.grace(ears.iter()));
        reused.store(load.is_ok(), Relaxed);
        other.join().unwrap();
        if let Err(load) = load {
            // K1: whoever was not kicked was flushing already, for this load.
            if kicks > 0 {
                generations.catch_up(&ears[1], |_| ());
            }
            assert!(load.redeem(&generations.grace(ears.iter())).is_ok(), "grace comes");
        }
    });
}

/// Broken by publishing before the flush, by `now` read after the flush, and by
/// `asked` cleared after `now` is read (then nobody kicks, and grace never
/// comes).
#[test]
fn closing_races_with_the_answer_to_a_kick() {
    close_against(Case {
        story: |cpu| {
            cpu.walk();
            cpu.on_kick();
            cpu.walk();
        },
        closed: Closed::Plain,
        asked: true,
    });
}

/// Broken by taking the pages of the youngest load for all that there is to
/// discard, and by pages that are read without a look at their tag after.
#[test]
fn closing_small_loads_races_with_the_answer_to_a_kick() {
    for closed in [Closed::Small, Closed::BeforeSmall, Closed::SmallBeforeSmall] {
        close_against(Case {
            story: |cpu| {
                cpu.walk();
                cpu.on_kick();
                cpu.walk();
            },
            closed,
            asked: false,
        });
    }
}

/// Broken without either fence of G5: the closer skips a CPU that has not seen
/// its tag.
#[test]
fn closing_races_with_idle_entry_and_exit() {
    close_against(Case {
        story: |cpu| {
            cpu.walk();
            cpu.sleep();
            cpu.wake();
            cpu.walk();
        },
        closed: Closed::Plain,
        asked: false,
    });
}

/// Broken by a `wake` that does not flush.
#[test]
fn closing_races_with_a_cpu_that_goes_offline_and_comes_back() {
    close_against(Case {
        story: |cpu| {
            cpu.walk();
            cpu.leave();
            cpu.wake();
            cpu.walk();
        },
        closed: Closed::Plain,
        asked: false,
    });
}

/// An idle CPU still walks, speculatively: a load with table pages waits for
/// it. Broken by closing it as a plain one.
#[test]
fn a_load_with_table_pages_waits_for_idle_cpus() {
    close_against(Case {
        story: |cpu| {
            cpu.walk();
            cpu.sleep();
            cpu.walk();
            cpu.wake();
            cpu.walk();
        },
        closed: Closed::WithTables,
        asked: false,
    });
}

/// CPU 0 unmaps a page that holds nothing, and gives its frame up; CPU 1, which
/// still may reach it, is its last holder, and uses it again if it finds no
/// alias. Broken by an `end` that tells its tag last or in no order, and by asking for the tag
/// before whether a load is open.
#[test]
fn giving_up_a_frame_races_with_closing_the_load_that_knows_of_its_alias() {
    explore(3, || {
        let generations = Arc::new(Generations::default());
        let ears: Arc<[Ear; 2]> = Arc::default();
        let (entry, reused) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
        let given = Arc::new(AtomicBool::new(false));
        ears.iter().for_each(|ear| generations.wake(ear, |_| ()));
        let mut walker =
            Walker { generations: generations.clone(), ears: ears.clone(), entry: entry.clone(), reused, held: false };
        let other = thread::spawn({
            let given = given.clone();
            move || {
                walker.walk();
                walker.on_kick();
                let last = given.load(Acquire);
                walker.generations.grace(walker.ears.iter());
                walker.reused.store(last && walker.generations.has_no_aliases(), Relaxed);
                walker.walk();
            }
        });
        entry.store(false, Relaxed);
        generations.lend();
        given.store(true, Release);
        let load = generations.close((), false);
        generations.lent(&load);
        generations.flush(&ears[0], |_| ());
        other.join().unwrap();
        generations.catch_up(&ears[1], |_| ());
        assert!(load.redeem(&generations.grace(ears.iter())).is_ok());
        assert!(generations.has_no_aliases(), "all have flushed since");
    });
}
