//! The mirrored ring, beside a queue of the standard library.

use std::collections::VecDeque;
use std::sync::Arc;
use vmalloc::{AllocError, Vmalloc};
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
