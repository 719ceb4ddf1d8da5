//! The mirrored ring, beside a queue of the standard library.

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use vmalloc::{AllocError, Req, Vmalloc};
use vmalloc_hosted::{Hosted, Ring, builder};

fn instance() -> Arc<Vmalloc<Hosted>> {
    Arc::new(builder().memory(32 << 20).region(1 << 30).build().unwrap())
}

fn is_empty(vm: &Vmalloc<Hosted>) {
    vm.purge();
    assert_eq!((vm.areas().count(), vm.stats().pages, vm.check()), (0, 0, Ok(())));
}

#[test]
fn what_passes_the_end_is_one_slice_at_every_place() {
    let vm = instance();
    let mut ring: Ring<u8> = Ring::new(&vm, 8192).unwrap();
    assert_eq!(ring.capacity(), 8192);
    let bytes: Vec<u8> = (0..8192).map(|n| (n % 251) as u8).collect();
    for start in (0..8192).step_by(61).chain([4095, 4096, 8191]) {
        ring.consume(usize::MAX);
        while ring.extend_from_slice(&vec![0; start]) > 0 && ring.len() < start {}
        ring.consume(start);
        assert_eq!(ring.extend_from_slice(&bytes), 8192);
        assert!(ring[..] == bytes[..], "from {start} on");
        assert_eq!((ring.push(1), ring.spare_mut().len()), (Err(1), 0), "it is full");
    }
    drop(ring);
    is_empty(&vm);
}

#[test]
fn elements_of_any_size_lie_in_it_as_a_whole() {
    fn with<T: Copy + PartialEq + std::fmt::Debug>(vm: &Arc<Vmalloc<Hosted>>, make: impl Fn(usize) -> T) {
        let mut ring: Ring<T> = Ring::new(vm, 100).unwrap();
        let bytes = ring.capacity() * size_of::<T>();
        assert!(ring.capacity() >= 100 && bytes.is_multiple_of(4096), "{} bytes", bytes);
        let mut queue = VecDeque::new();
        for n in 0..3 * ring.capacity() {
            if ring.len() > ring.capacity() - 7 {
                assert_eq!(ring.pop(), queue.pop_front());
            }
            ring.push(make(n)).unwrap();
            queue.push_back(make(n));
            assert!(n % 50 > 0 || ring.iter().eq(&queue), "{n}");
        }
        assert!(ring.iter().eq(&queue) && ring.as_ptr().is_aligned());
    }
    let vm = instance();
    with(&vm, |n| n as u8);
    with(&vm, |n| [n as u8; 3]);
    with(&vm, |n| (n as u32, n as u64));
    with(&vm, |n| [n as u64; 5]);
    with(&vm, |n| [n as u8; 1000]);
    is_empty(&vm);
}

#[test]
fn it_does_what_a_queue_does() {
    let vm = instance();
    let mut ring: Ring<u32> = Ring::new(&vm, 1).unwrap();
    let (mut queue, mut random) = (VecDeque::new(), 1u64);
    for step in 0..100_000u32 {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let n = (random >> 33) as usize % 1500;
        match (random >> 60) as usize {
            0..=5 => {
                let new: Vec<u32> = (0..n as u32).map(|n| step ^ n << 12).collect();
                let added = ring.extend_from_slice(&new);
                assert_eq!(added, new.len().min(1024 - queue.len()));
                queue.extend(&new[..added]);
            }
            6..=9 => {
                let taken = ring.consume(n);
                assert_eq!(taken, n.min(queue.len()));
                drop(queue.drain(..taken));
            }
            10..=12 => assert_eq!(ring.pop(), queue.pop_front()),
            _ => {
                let spare = ring.spare_mut();
                let count = spare.len().min(n);
                spare[..count].iter_mut().for_each(|place| _ = place.write(step));
                // SAFETY: they were written just now.
                unsafe { ring.commit(count) };
                queue.extend(std::iter::repeat_n(step, count));
            }
        }
        assert_eq!((ring.len(), ring.first(), ring.last()), (queue.len(), queue.front(), queue.back()));
        assert!(step % 64 > 0 || ring.iter().eq(&queue), "step {step}");
    }
}

#[test]
fn sizes_that_cannot_be_are_refused_and_lose_nothing() {
    let vm = instance();
    let before = vm.stats();
    for least in [usize::MAX, isize::MAX as usize, usize::MAX / 24, 1 << 40] {
        assert!(matches!(Ring::<[u64; 3]>::new(&vm, least), Err(AllocError::TooLarge { .. })), "{least}");
    }
    // It has the frames, but for one.
    let refused = Ring::<u8>::new(&vm, 32 << 20);
    assert!(matches!(refused, Err(AllocError::NoFrames { .. })), "{refused:?}");
    is_empty(&vm);
    let small: Ring<u8> = Ring::new(&vm, 0).unwrap();
    assert_eq!((small.capacity(), small.len(), small.first()), (4096, 0, None));
    drop(small);
    assert_eq!(vm.stats().areas, before.areas);
    assert!(Ring::<u8>::new(&vm, 16 << 20).is_ok(), "all frames were given back");
}

#[test]
#[should_panic(expected = "5000 elements in a room of 4096")]
fn more_than_there_is_room_for_is_not_committed() {
    let mut ring: Ring<u8> = Ring::new(&instance(), 1).unwrap();
    // SAFETY: it is refused.
    unsafe { ring.commit(5000) };
}

#[test]
fn it_goes_into_another_thread_and_outlives_whoever_made_its_instance() {
    let mut ring: Ring<u64> = Ring::new(&instance(), 1000).unwrap();
    (0..700).for_each(|n| ring.push(n).unwrap());
    let sum = std::thread::spawn(move || std::iter::from_fn(|| ring.pop()).sum::<u64>());
    assert_eq!(sum.join().unwrap(), 700 * 699 / 2);
}

// The bugs of other rings of this kind, each with its advisory.

/// RUSTSEC-2018-0008 (slice-deque): a head that was moved on past the end of the first view was not brought back,
/// and the ring read beyond the second one.
#[test]
fn a_start_that_passes_the_end_comes_back_into_the_first_view() {
    let vm = instance();
    let mut ring: Ring<u8> = Ring::new(&vm, 4096).unwrap();
    let views = ring.spare_mut().as_ptr().addr();
    for round in 0..10_000 {
        assert_eq!(ring.extend_from_slice(&[round as u8; 4000]), 4000);
        assert!((views..views + 4096).contains(&ring.as_ptr().addr()), "round {round}");
        assert!(ring.iter().all(|&byte| byte == round as u8));
        assert_eq!(ring.consume(4000), 4000);
    }
}

/// RUSTSEC-2019-0002 (slice-deque): where the size of an element does not divide that of a page, an element at the
/// end of a view was put together from bytes of two.
#[test]
fn an_element_that_does_not_divide_a_page_is_never_put_together_from_two() {
    fn turn<const SIZE: usize>(vm: &Arc<Vmalloc<Hosted>>) {
        let mut ring: Ring<[u8; SIZE]> = Ring::new(vm, 10).unwrap();
        assert_eq!(ring.capacity() * SIZE % 4096, 0);
        for n in 0..4 * ring.capacity() {
            if ring.len() == ring.capacity() {
                ring.consume(1 + n % 5);
            }
            ring.push([n as u8; SIZE]).unwrap();
            assert_eq!(ring.last(), Some(&[n as u8; SIZE]));
        }
        assert!(ring.iter().all(|element| element.iter().all(|byte| byte == &element[0])));
    }
    let vm = instance();
    turn::<3>(&vm);
    turn::<5>(&vm);
    turn::<24>(&vm);
    turn::<1000>(&vm);
    turn::<2049>(&vm);
}

/// RUSTSEC-2021-0047 (slice-deque): an element was dropped twice when a caller's function had panicked in the
/// middle. Here elements have no drop (see `Ring`), and whatever a caller's function has done when it panics, the
/// ring holds what was committed.
#[test]
fn a_panic_of_the_callers_in_the_middle_leaves_the_ring_as_it_was() {
    let vm = instance();
    let mut ring: Ring<u32> = Ring::new(&vm, 1000).unwrap();
    ring.extend_from_slice(&[7; 600]);
    let fills = AssertUnwindSafe(|| {
        let spare = ring.spare_mut();
        spare[0].write(8);
        panic!("a source that fails");
    });
    assert!(catch_unwind(fills).is_err());
    assert!(ring.len() == 600 && ring.iter().all(|&number| number == 7));
    let looks = AssertUnwindSafe(|| ring.iter().filter(|&&number| number / (number - 7) > 0).count());
    assert!(catch_unwind(looks).is_err());
    assert_eq!((ring.consume(600), ring.push(1)), (600, Ok(())));
    drop(ring);
    is_empty(&vm);
}

/// RUSTSEC-2025-0044 (slice-ring-buffer): adding a slice, making it smaller, inserting and iterating by value
/// each gave an element, or the mapping, back twice.
#[test]
fn a_mapping_is_given_back_once_whatever_was_done_with_the_ring() {
    let vm = instance();
    let frames = |vm: &Vmalloc<Hosted>| {
        vm.purge();
        vm.stats().areas + vm.stats().pages
    };
    let before = frames(&vm);
    for round in 0..50 {
        let mut ring: Ring<u64> = Ring::new(&vm, 1 + 100 * round).unwrap();
        ring.extend_from_slice(&[1; 5000]);
        ring.consume(round);
        let copies: Vec<u64> = ring.iter().copied().collect();
        assert!(copies == ring[..]);
        if round % 3 == 0 {
            // Unwound over.
            let panics = AssertUnwindSafe(move || {
                let _ring = ring;
                panic!("in the middle");
            });
            assert!(catch_unwind(panics).is_err());
        }
    }
    assert_eq!((frames(&vm), vm.stats().counts.raced_frees), (before, 0));
    is_empty(&vm);
}

/// GHSA-fp5x-7m4q-449f (direct_ring_buffer): a new ring gave out slices of elements that nobody had written. A `bool`
/// of other bytes is no value.
#[test]
fn what_nobody_has_written_is_in_no_slice() {
    let vm = instance();
    // Frames that somebody has used.
    vm.area(Req::pages(64)).unwrap().fill(0xee);
    let mut ring: Ring<bool> = Ring::new(&vm, 64 << 10).unwrap();
    assert!(ring.is_empty() && ring.pop().is_none());
    ring.push(true).unwrap();
    assert_eq!(ring[..], [true]);
    let room: usize = ring.spare_mut().iter().map(|place: &MaybeUninit<bool>| size_of_val(place)).sum();
    assert_eq!(room, ring.capacity() - 1);
}
