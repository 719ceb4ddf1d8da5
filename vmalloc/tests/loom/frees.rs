//! Frees from several CPUs (R1, R4, R6).

use super::{chunk, explore, label, link, make};
use loom::sync::atomic::{AtomicU64, Ordering::*};
use loom::thread;
use std::sync::Arc;
use vmalloc::area::Kind;
use vmalloc::internals::batch::Batch;
use vmalloc::internals::chunk::Chunk;
use vmalloc::internals::deferred::Deferred;
use vmalloc::internals::lookup::SlotRef;
use vmalloc::internals::remote::{Drained, RemoteFrees};
use vmalloc::internals::slot::{Label, slots_of};
use vmalloc::internals::{CpuEpoch, FlushEpochs, Holds};

/// A slot, as somebody looks it up who wants to free it.
fn look_up(chunk: &Chunk, slot: u32) -> SlotRef {
    SlotRef::in_chunk(link(chunk), chunk.sequence(), slot)
}

/// Another CPU frees a slot; false = it was refused.
fn free_remotely(chunk: &Chunk, slot: u32, remote_frees: &RemoteFrees) -> bool {
    let found = look_up(chunk, slot);
    let won = found.claim();
    if won {
        remote_frees.post(link(chunk), slot);
    }
    won
}

/// What the owner of a chunk has for itself.
struct Owner {
    remote_frees: Arc<RemoteFrees>,
    drained: Drained,
    open: Batch,
    /// Slots that came by remote frees, and were live.
    received: u32,
}

impl Owner {
    fn new(remote_frees: &Arc<RemoteFrees>) -> Owner {
        Owner { remote_frees: remote_frees.clone(), drained: Drained::default(), open: Batch::new(0), received: 0 }
    }

    fn drain(&mut self) {
        while let Some((chunk, posted)) = self.remote_frees.next(&mut self.drained) {
            chunk.receive(posted, |live| {
                self.received += live.count_ones();
                self.open.add(chunk, live, 0);
                0
            });
        }
    }

    fn free(&mut self, chunk: &Chunk, slot: u32) -> bool {
        look_up(chunk, slot).retire(&mut self.open, 0)
    }
}

fn picture(chunk: &Chunk) -> String {
    assert!(chunk.masks_agree(), "C2");
    let state = |slot: u32| match () {
        _ if chunk.free_slots() >> slot & 1 != 0 => 'f',
        _ if chunk.stale(0) >> slot & 1 != 0 => 's',
        _ if chunk.stale(1) >> slot & 1 != 0 => 'S',
        _ if chunk.is_claimed(slot) => 'c',
        _ if chunk.live_slots() >> slot & 1 != 0 => 'L',
        _ => '?',
    };
    (0..2).map(state).collect()
}

/// Broken by `make_live` or `retire` that change other slots too, by `receive` that leaves
/// the claims, or tells of what was not posted: a slot is lost, or stale too early.
#[test]
fn a_remote_free_meets_a_local_alloc_and_a_local_free() {
    explore(4, || {
        let (chunk, remote_frees) = (chunk(1), Arc::new(RemoteFrees::default()));
        let remote = thread::spawn({
            let (chunk, remote_frees) = (chunk.clone(), remote_frees.clone());
            move || assert!(free_remotely(&chunk, 0, &remote_frees))
        });
        let mut owner = Owner::new(&remote_frees);
        assert_eq!(make(&chunk, 1), 1);
        owner.drain();
        assert!(owner.free(&chunk, 1));
        remote.join().unwrap();
        owner.drain();
        assert_eq!((owner.received, picture(&chunk).as_str()), (1, "ss"), "stale exactly once");
        assert!(!chunk.is_claimed(0));
    });
}

/// Broken by reading the link after `take_posted`: a chunk that is pushed
/// again meanwhile cuts off the rest of the remote frees. And by a batch and a store in place
/// of `post`'s `fetch_or`, or by `push` that does the same or releases nothing: a slot
/// is lost.
#[test]
fn mail_of_two_chunks_and_two_freers_arrives_whole() {
    explore(4, || {
        let chunks = [chunk(2), chunk(1)];
        let remote_frees = Arc::new(RemoteFrees::default());
        // The chunk that is posted twice lies before the other one.
        let freers = [[(1, 0), (0, 0)].as_slice(), &[(0, 1)]].map(|frees| {
            let (chunks, remote_frees) = (chunks.clone(), remote_frees.clone());
            thread::spawn(move || {
                frees.iter().for_each(|&(n, slot)| assert!(free_remotely(&chunks[n], slot, &remote_frees)))
            })
        });
        let mut owner = Owner::new(&remote_frees);
        owner.drain();
        freers.into_iter().for_each(|freer| freer.join().unwrap());
        owner.drain();
        assert_eq!((owner.received, picture(&chunks[0]).as_str(), picture(&chunks[1]).as_str()), (3, "ss", "sf"));
    });
}

/// Broken by testing `claimed` before setting it, or by not setting it: both win; by
/// claims that `receive` drops before the slot is dead: the late one wins too; and by
/// a void claim that is not taken back.
#[test]
fn of_two_remote_frees_of_a_slot_one_wins() {
    explore(4, || {
        let (chunk, remote_frees) = (chunk(1), Arc::new(RemoteFrees::default()));
        let free = |chunk: &Arc<Chunk>, remote_frees: &Arc<RemoteFrees>| {
            let (chunk, remote_frees) = (chunk.clone(), remote_frees.clone());
            move || free_remotely(&chunk, 0, &remote_frees)
        };
        let other = thread::spawn(free(&chunk, &remote_frees));
        let third = thread::spawn(free(&chunk, &remote_frees));
        let mut owner = Owner::new(&remote_frees);
        owner.drain();
        let wins = other.join().unwrap() as u32 + third.join().unwrap() as u32;
        owner.drain();
        assert_eq!((wins, owner.received, picture(&chunk).as_str()), (1, 1, "sf"));
        assert!(!free_remotely(&chunk, 0, &remote_frees) && !chunk.is_claimed(0), "a late claim is void");
    });
}

/// How a stale slot is given.
#[derive(Clone, Copy, PartialEq)]
enum Given {
    /// As any.
    Singly,
    /// With others that have nothing but frames of their own.
    WithUsual,
    /// With others in whose entries nothing waits.
    Bare,
}

/// Gives the first slot of an expired batch; false = it has to wait.
fn give(expired: &mut Batch, open: &mut Batch, given: Given) -> bool {
    let (chunk, slot) = expired.first().expect("the slot was retired");
    let clean = match given {
        Given::Singly if open.postpone_claimed(chunk, slot) => 0,
        Given::Singly => 1 << slot,
        Given::WithUsual => chunk.usual_pages(slot, 1).map_or(0, |_| 1 << slot),
        Given::Bare => chunk.take_bare(expired.index),
    };
    chunk.give_all(clean, expired.index);
    clean != 0
}

/// A double free by two CPUs at the same moment: both may win, but the slot is
/// not used again before the later of them is done with it (R4). Broken by
/// `postpone_claimed`, `usual_pages` or `take_bare` without a look at the claim.
#[test]
fn a_remote_free_races_with_a_local_free_of_the_same_slot() {
    for given in [Given::Singly, Given::WithUsual, Given::Bare] {
        explore(4, move || double_free(given));
    }
}

fn double_free(given: Given) {
    let (chunk, remote_frees) = (chunk(0), Arc::new(RemoteFrees::default()));
    chunk.take();
    chunk.begin(0, &Label { kind: Kind::Vmalloc, ..label(1) });
    chunk.slot(0).publish();
    let flush_epochs = Arc::new(FlushEpochs::default());
    let epochs: Arc<[CpuEpoch; 2]> = Arc::default();
    // The area's entry: 1 = mapped, 0 = cleared, 2 = cached for the next.
    let entry = Arc::new(AtomicU64::new(1));
    epochs.iter().for_each(|epoch| flush_epochs.wake(epoch, |_| ()));
    let remote = thread::spawn({
        let (chunk, remote_frees, entry) = (chunk.clone(), remote_frees.clone(), entry.clone());
        let (flush_epochs, epochs) = (flush_epochs.clone(), epochs.clone());
        move || {
            let won = look_up(&chunk, 0).claim();
            if won {
                entry.store(0, Relaxed);
            }
            // Interrupts come in before it posts.
            flush_epochs.catch_up(&epochs[1], |_| ());
            if won {
                remote_frees.post(link(&chunk), 0);
            }
        }
    });
    let mut owner = Owner::new(&remote_frees);
    let mut reused = false;
    let found = look_up(&chunk, 0);
    let freed = match given {
        Given::Bare if found.lives() => {
            owner.open.add_bare(link(&chunk), 0, 1);
            true
        }
        Given::Bare => false,
        _ => found.retire(&mut owner.open, 1),
    };
    if freed {
        entry.store(0, Relaxed);
        let batch = std::mem::replace(&mut owner.open, Batch::new(1));
        let flush = || flush_epochs.flush(&epochs[0], |_| ());
        let batch = flush_epochs.seal_batch(batch, Holds::default());
        flush();
        flush_epochs.ask(&batch, epochs.iter(), |_| ());
        let expired = batch.reclaim(&flush_epochs.grace(epochs.iter()));
        if expired.is_ok_and(|mut expired| give(&mut expired, &mut owner.open, given)) {
            assert_eq!(make(&chunk, 2), 0);
            entry.store(2, Relaxed);
            reused = true;
        }
    }
    owner.drain();
    remote.join().unwrap();
    owner.drain();
    let expected = if reused { (["Lf"; 2], 2) } else { (["sf", "Sf"], 0) };
    assert!(expected.0.contains(&picture(&chunk).as_str()) && entry.load(Relaxed) == expected.1);
    assert!(!chunk.is_claimed(0));
}

/// An NMI frees a slot and leaves its entries to the owner, while another CPU frees
/// another one. Broken by `Deferred::post` that marks the slot after it has posted it, by
/// `Chunk::receive` that drops all claims, and by `take_posted` that acquires nothing.
#[test]
fn a_slot_that_an_nmi_has_freed_is_stale_when_its_owner_has_retired_its_entries() {
    explore(4, || {
        let (chunk, remote_frees) = (chunk(2), Arc::new(RemoteFrees::default()));
        let entries: Arc<[AtomicU64; 2]> = Arc::new(std::array::from_fn(|_| AtomicU64::new(1)));
        let nmi = thread::spawn({
            let (chunk, remote_frees) = (chunk.clone(), remote_frees.clone());
            move || {
                assert!(look_up(&chunk, 0).claim());
                Deferred::post(&remote_frees, link(&chunk), 0);
                assert!(!look_up(&chunk, 0).claim(), "a double free");
            }
        });
        let other = thread::spawn({
            let (chunk, remote_frees, entries) = (chunk.clone(), remote_frees.clone(), entries.clone());
            move || {
                let found = look_up(&chunk, 1);
                assert!(found.claim());
                entries[1].store(0, Relaxed);
                remote_frees.post(link(&chunk), 1);
            }
        });
        let mut owner = Owner::new(&remote_frees);
        drain_deferred(&mut owner, &entries);
        nmi.join().unwrap();
        other.join().unwrap();
        drain_deferred(&mut owner, &entries);
        assert_eq!((owner.received, picture(&chunk).as_str()), (2, "ss"));
        assert!((0..2).all(|slot| !chunk.is_claimed(slot)));
    });
}

/// As [`Owner::drain`]; and retires the entries that are left to the owner.
fn drain_deferred(owner: &mut Owner, entries: &[AtomicU64; 2]) {
    while let Some((chunk, posted)) = owner.remote_frees.next(&mut owner.drained) {
        let (mut deferred, mut received) = (None, 0);
        let mut take_in = |live: u64| {
            let retired = |slot: u32| entries[slot as usize].load(Relaxed) == 0;
            assert!(slots_of(live).all(retired), "R6");
            received += live.count_ones();
            owner.open.add(chunk, live, 0);
        };
        chunk.receive(posted, |live| {
            (deferred, _) = Deferred::of(chunk, posted, live);
            let left = deferred.map_or(0, |deferred| deferred.slots);
            take_in(live & !left);
            left
        });
        while let Some(these) = deferred {
            let slot = these.slots.trailing_zeros();
            assert!(chunk.is_claimed(slot), "R6: its claim lasts");
            assert_eq!(entries[slot as usize].swap(0, Relaxed), 1, "R6: once, and nobody else");
            deferred = these.receive_first(&mut take_in);
        }
        owner.received += received;
    }
}
