//! A heap whose large blocks are areas: the vectors of this very process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::OnceLock;
use vmalloc::units::PAGE_SIZE;
use vmalloc::{Caller, Heap, Kind, Vmalloc, What};
use vmalloc_hosted::{Hosted, builder};

const FROM: usize = 64 << 10;

#[global_allocator]
static HEAP: Heap<Hosted, System> = Heap::new(System, FROM);

fn instance() -> &'static Vmalloc<Hosted> {
    with_memory(64 << 20)
}

fn with_memory(bytes: usize) -> &'static Vmalloc<Hosted> {
    Box::leak(Box::new(builder().memory(bytes).region(1 << 30).cpus(4).build().unwrap()))
}

/// The instance under the process's own heap.
fn global() -> &'static Vmalloc<Hosted> {
    static VM: OnceLock<&Vmalloc<Hosted>> = OnceLock::new();
    VM.get_or_init(|| {
        // What all tests, and their messages, may have at once.
        let vm = with_memory(256 << 20);
        HEAP.serve(vm);
        vm
    })
}

/// A heap of a test's own, and the instance that it will be given.
fn heap() -> (Heap<Hosted, System>, &'static Vmalloc<Hosted>) {
    (Heap::new(System, FROM), instance())
}

fn bytes(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

fn is_area(vm: &Vmalloc<Hosted>, at: *const u8) -> bool {
    vm.find(at.addr()).is_some_and(|area| area.kind == Kind::Vmalloc && area.start.0 == at.addr())
}

#[track_caller]
fn assert_empty(vm: &Vmalloc<Hosted>) {
    vm.purge();
    vm.check().unwrap();
    assert_eq!((vm.stats().areas, vm.stats().pages, vm.stats().waiting_pages), (0, 0, 0));
}

#[test]
fn a_vector_is_an_area_once_it_is_large() {
    let vm = global();
    let mut numbers = Vec::new();
    (0..1_000_000u64).for_each(|n| numbers.push(n));
    assert!(is_area(vm, numbers.as_ptr().cast()));
    assert!(numbers.iter().copied().eq(0..1_000_000));
    numbers.truncate(20_000);
    numbers.shrink_to_fit();
    assert!(numbers.iter().copied().eq(0..20_000));
    let start = numbers.as_ptr().addr();
    drop(numbers);
    assert!(vm.find(start).is_none());
    let small = vec![1u8; FROM - 1];
    assert!(!is_area(vm, small.as_ptr()));
}

#[test]
fn threads_exchange_vectors_that_are_areas() {
    let vm = global();
    std::thread::scope(|scope| {
        let (sender, receiver) = std::sync::mpsc::sync_channel::<Vec<usize>>(8);
        for thread in 0..3 {
            let sender = sender.clone();
            scope.spawn(move || (0..200).for_each(|n| sender.send(vec![thread * n; 10_000 + 97 * n]).unwrap()));
        }
        drop(sender);
        receiver.into_iter().for_each(|numbers| {
            assert!(is_area(vm, numbers.as_ptr().cast()));
            assert!(numbers.iter().all(|&n| n == numbers[0]));
        });
    });
    vm.check().unwrap();
}

#[test]
fn blocks_from_before_an_instance_serves_come_from_below_and_go_back_there() {
    let (heap, vm) = heap();
    let large = bytes(2 * FROM, 8);
    // SAFETY: each block is given back as it was taken, and used in between.
    unsafe {
        let [early, moved] = [heap.alloc(large), heap.alloc_zeroed(large)];
        assert!(!early.is_null() && !moved.is_null());
        heap.serve(vm);
        heap.serve(instance());
        assert_eq!(vm.stats().areas, 0);
        moved.write_bytes(7, large.size());
        let moved = heap.realloc(moved, large, 3 * FROM);
        assert!(is_area(vm, moved), "the first instance serves");
        assert_eq!((moved.read(), moved.add(large.size() - 1).read()), (7, 7));
        heap.dealloc(early, large);
        heap.dealloc(moved, bytes(3 * FROM, 8));
    }
    assert_empty(vm);
}

#[test]
fn a_block_shrinks_and_grows_where_it_is_and_moves_where_there_is_no_room() {
    let (heap, vm) = heap();
    heap.serve(vm);
    // SAFETY: as above.
    unsafe {
        let block = heap.alloc(bytes(40 * PAGE_SIZE, 8));
        (0..40).for_each(|page| block.add(page * PAGE_SIZE).write(page as u8 + 1));
        assert_eq!(heap.realloc(block, bytes(40 * PAGE_SIZE, 8), 100), block);
        assert_eq!(vm.stats().pages, 1, "39 pages went back");
        assert_eq!(heap.realloc(block, bytes(100, 8), 38 * PAGE_SIZE), block);
        assert_eq!(vm.stats().pages, 38);
        let more = heap.realloc(block, bytes(38 * PAGE_SIZE, 8), 4000 * PAGE_SIZE);
        assert!(is_area(vm, more) && more != block);
        assert_eq!(more.read(), 1);
        assert!(vm.find(block.addr()).is_none());
        heap.dealloc(more, bytes(4000 * PAGE_SIZE, 8));
    }
    assert_empty(vm);
}

#[test]
fn cleared_blocks_are_cleared_and_aligned_ones_aligned() {
    let (heap, vm) = heap();
    heap.serve(vm);
    for align in [1, 64, PAGE_SIZE, 16 * PAGE_SIZE, 512 * PAGE_SIZE] {
        for size in [1, FROM, 3 * FROM + 5] {
            let layout = bytes(size, align);
            // SAFETY: as above.
            unsafe {
                for _ in 0..3 {
                    let block = heap.alloc_zeroed(layout);
                    assert!(block.addr().is_multiple_of(align), "{layout:?}");
                    assert!((0..size).all(|n| block.add(n).read() == 0), "{layout:?}");
                    assert_eq!(is_area(vm, block), size.max(align) >= FROM);
                    block.write_bytes(0xff, size);
                    heap.dealloc(block, layout);
                }
            }
        }
    }
    assert_empty(vm);
}

#[test]
fn a_block_that_is_refused_is_null_and_nothing_is_lost() {
    let (heap, vm) = heap();
    heap.serve(vm);
    // SAFETY: as above.
    unsafe {
        let block = heap.alloc(bytes(FROM, 8));
        block.write_bytes(3, FROM);
        let before = (vm.stats().areas, vm.stats().pages);
        for size in [80 << 20, 1 << 46, isize::MAX as usize - 7] {
            assert!(heap.alloc(bytes(size, 8)).is_null());
            assert!(heap.alloc_zeroed(bytes(size, 8)).is_null());
            assert!(heap.realloc(block, bytes(FROM, 8), size).is_null());
        }
        assert_eq!((vm.stats().areas, vm.stats().pages), before);
        assert!((0..FROM).all(|n| block.add(n).read() == 3));
        heap.dealloc(block, bytes(FROM, 8));
    }
    assert_empty(vm);
    let mut vector = vec![1u8; FROM];
    global();
    assert!(vector.try_reserve_exact(400 << 20).is_err());
    assert_eq!(vector, [1; FROM]);
}

/// A block, and what it holds: byte n is `seed + n`.
struct Block {
    at: *mut u8,
    layout: Layout,
    seed: u8,
}

// SAFETY: it is the only one that names its bytes.
unsafe impl Send for Block {}

impl Block {
    /// The bytes that are looked at: the first ones, and one of each page.
    fn places(size: usize) -> impl Iterator<Item = usize> {
        (0..size.min(2000)).chain((0..size).step_by(PAGE_SIZE - 1))
    }

    fn fill(&self) {
        // SAFETY: the bytes are the block's own.
        Self::places(self.layout.size()).for_each(|n| unsafe { self.at.add(n).write(self.seed.wrapping_add(n as u8)) });
    }

    fn check(&self, size: usize) {
        // SAFETY: as above.
        let is_right = |n| unsafe { self.at.add(n).read() } == self.seed.wrapping_add(n as u8);
        assert!(Self::places(size).all(is_right), "{:?} at {:?}", self.layout, self.at);
        assert!(self.at.addr().is_multiple_of(self.layout.align()));
    }
}

/// Takes, resizes and gives back blocks by chance, and looks at what they hold. Returns the requests
/// that were refused.
fn come_and_go(heap: &Heap<Hosted, System>, mut random: u64, steps: usize) -> usize {
    let (mut blocks, mut refused): (Vec<Block>, _) = (Vec::new(), 0);
    let mut below = |end: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) as usize % end
    };
    for step in 0..steps {
        let size = match below(4) {
            0 => 1 + below(5000),
            1 => FROM - 2 + below(4),
            2 => PAGE_SIZE * (1 + below(100)) - below(2),
            _ => 1 + below(40 * FROM),
        };
        let (choice, seed) = (below(4), step as u8);
        // SAFETY: each block is given back once, as it was taken or resized.
        unsafe {
            if blocks.is_empty() || (choice < 2 && blocks.len() < 30) {
                let layout = bytes(size, 1 << below(15));
                let at = if choice == 0 { heap.alloc(layout) } else { heap.alloc_zeroed(layout) };
                if at.is_null() {
                    refused += 1;
                    continue;
                }
                assert!(choice == 0 || Block::places(size).all(|n| at.add(n).read() == 0), "cleared");
                let block = Block { at, layout, seed };
                block.fill();
                blocks.push(block);
                continue;
            }
            let index = below(blocks.len());
            let mut block = blocks.swap_remove(index);
            block.check(block.layout.size());
            if choice == 3 {
                heap.dealloc(block.at, block.layout);
                continue;
            }
            let moved = heap.realloc(block.at, block.layout, size);
            match moved.is_null() {
                true => refused += 1,
                false => {
                    let kept = size.min(block.layout.size());
                    block = Block { at: moved, layout: bytes(size, block.layout.align()), seed: block.seed };
                    block.check(kept);
                    block.fill();
                }
            }
            block.check(block.layout.size());
            blocks.push(block);
        }
    }
    // SAFETY: as above.
    blocks.into_iter().for_each(|block| unsafe { heap.dealloc(block.at, block.layout) });
    refused
}

#[test]
fn blocks_that_come_and_go_by_chance_keep_their_bytes_where_memory_is_scarce() {
    let (heap, vm) = (Heap::new(System, FROM), with_memory(24 << 20));
    heap.serve(vm);
    let refused: usize = std::thread::scope(|scope| {
        let threads = [3, 5, 7].map(|seed| {
            let heap = &heap;
            scope.spawn(move || come_and_go(heap, seed, 4000))
        });
        threads.map(|thread| thread.join().unwrap()).iter().sum()
    });
    println!("{refused} of 12,000 refused");
    assert!(refused > 0, "memory was never scarce");
    assert_empty(vm);
}

/// `GlobalAlloc` hides who called: the heap is told by a function of the kernel's.
#[test]
fn blocks_have_the_callers_that_the_heap_is_told() {
    thread_local! { static PC: std::cell::Cell<usize> = const { std::cell::Cell::new(0) } }
    let vm = instance();
    let heap = Heap::new(System, FROM).with_caller(|| Caller::Return(PC.get()));
    heap.serve(vm);
    let caller = |at: *mut u8| vm.find(at.addr()).unwrap().caller;
    PC.set(0x10);
    // SAFETY: given back below.
    let here = unsafe { heap.alloc(bytes(FROM, 8)) };
    PC.set(0x20);
    // SAFETY: as above.
    let there = unsafe { heap.realloc(here, bytes(FROM, 8), 40 * FROM) };
    assert_eq!((caller(there), there == here), (Caller::Return(0x20), false));
    let What::Freed { was, .. } = vm.whatis(here.addr()) else { panic!("{}", vm.whatis(here.addr())) };
    assert_eq!((was.caller, was.freer), (Caller::Return(0x10), Some(Caller::Return(0x20))));
    // SAFETY: as it was taken.
    unsafe { heap.dealloc(there, bytes(40 * FROM, 8)) }
    assert_empty(vm);
}
